//! What a chain needs that neither its sources nor the store have: known before anything is unpacked.

use std::collections::HashSet;

use super::{Import, Target};
use crate::{
    bundle::{self, BundledSnapshot},
    error::{Error, Result},
    model::{Descriptor, LayerRecord},
    snapshot::is_there,
    storage::Source,
    store::image_cache::is_document,
};

impl Import<'_> {
    /// How many snapshots of the chain, head first, are imported.
    ///
    /// A thin bundle names ancestors whose layers it leaves out. Those beneath an installed ancestor are not needed to
    /// restore anything, so that the chain ends with that one. Snapshots that are newer need every layer.
    ///
    /// # Errors
    /// [`Error::BaseMissing`]: a layer is needed, and is neither in a source nor held by what is installed.
    /// [`Error::MissingBlob`]: the same, of a bundle that does not say that it leaves layers out.
    pub(super) fn within_reach(
        &self,
        source: &dyn Source,
        chain: &[BundledSnapshot],
        targets: &[Target],
    ) -> Result<usize> {
        let (mut installed, mut all_missing) = (None, Vec::new());
        for (position, (snapshot, target)) in chain.iter().zip(targets).enumerate() {
            let is_installed = is_there(&target.path)?;
            let missing = self.missing(source, snapshot, chain.get(position + 1), is_installed)?;
            match (missing.is_empty(), installed) {
                (false, Some(last)) if all_missing.is_empty() => return Ok(last + 1),
                _ => all_missing.extend(missing),
            }
            if is_installed {
                installed = Some(position);
            }
        }
        match all_missing.is_empty() {
            true => Ok(chain.len()),
            false => Err(missing_base(source, chain, all_missing)),
        }
    }

    /// The layers that restoring the snapshot needs and the source does not have.
    fn missing(
        &self,
        source: &dyn Source,
        snapshot: &BundledSnapshot,
        below: Option<&BundledSnapshot>,
        is_installed: bool,
    ) -> Result<Vec<Descriptor>> {
        let stack = snapshot.config.stack_len();
        let first = match below {
            _ if is_installed => stack,
            Some(below) if snapshot.extends(below) => stack - 1,
            _ => 0,
        };
        let cache = self.store.cache();
        let mut missing = Vec::new();
        for (at, (layer, record)) in snapshot.manifest.layers.iter().zip(&snapshot.config.layers).enumerate() {
            let needed = match record {
                LayerRecord::Cache { file, .. } => is_document(&file.path) || !is_there(&cache.join(&file.path))?,
                _ => at >= first,
            };
            if needed && !source.exists(layer)? {
                // One of another size is not missing, but corrupt.
                match source.fetch(layer) {
                    Err(Error::MissingBlob { .. }) => missing.push(layer.clone()),
                    other => drop(other?),
                }
            }
        }
        Ok(missing)
    }
}

/// Says of a blob that could not be fetched that it was left out, if the bundle says so.
pub(super) fn explain(error: Error, source: &dyn Source, chain: &[BundledSnapshot]) -> Error {
    let Error::MissingBlob { digest, .. } = error else { return error };
    match chain.iter().flat_map(|snapshot| &snapshot.manifest.layers).find(|layer| layer.digest == digest) {
        Some(layer) => missing_base(source, chain, vec![layer.clone()]),
        None => error,
    }
}

/// The error for layers that are needed and missing.
fn missing_base(source: &dyn Source, chain: &[BundledSnapshot], mut missing: Vec<Descriptor>) -> Error {
    let mut seen = HashSet::new();
    missing.retain(|layer| seen.insert(layer.digest));
    let owner = |layer: &Descriptor| {
        let names = |snapshot: &&BundledSnapshot| snapshot.manifest.layers.iter().any(|l| l.digest == layer.digest);
        // The oldest that names it is the one that it was made of.
        chain.iter().rev().find(names).map_or_else(String::new, |owner| owner.config.snapshot.name.to_string())
    };
    let left_out = bundle::left_out(source.index());
    match missing.iter().find(|layer| !left_out.contains(&layer.digest)) {
        Some(layer) => {
            let role = format!("a layer of snapshot {}", owner(layer));
            Error::MissingBlob { digest: layer.digest, role }
        }
        None => Error::BaseMissing {
            bundle: source.display(),
            layers: missing.iter().map(|layer| format!("{} of snapshot {}", layer.digest, owner(layer))).collect(),
        },
    }
}

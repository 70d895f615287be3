//! What an import does not read of a bundle, because what it holds is installed: read and verified where that is asked for.

use std::{collections::HashSet, io::Read};

use super::Import;
use crate::{
    bundle::{self, BundledSnapshot},
    error::Result,
    model::Descriptor,
    storage::Source,
    verify::into_error,
};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

impl Import<'_> {
    /// The layers of the chain, each once, that neither come to be restored nor are left out.
    pub(super) fn unread<'c>(
        &self,
        source: &dyn Source,
        chain: &'c [BundledSnapshot],
        coming: &[Descriptor],
    ) -> Result<Vec<&'c Descriptor>> {
        let mut known: HashSet<_> = coming.iter().map(|layer| layer.digest).collect();
        let left_out = bundle::left_out(source.index());
        let mut unread = Vec::new();
        for layer in chain.iter().flat_map(|snapshot| &snapshot.manifest.layers) {
            let may_be_gone = left_out.contains(&layer.digest);
            if known.insert(layer.digest) && (!may_be_gone || source.exists(layer)?) {
                unread.push(layer);
            }
        }
        Ok(unread)
    }

    /// Reads these layers to their end; each is compared with its digest.
    ///
    /// # Errors
    /// [`crate::Error::CorruptBlob`], [`crate::Error::MissingBlob`]; what keeps it from reading.
    pub(super) fn verify_unread(&self, source: &dyn Source, unread: &[&Descriptor]) -> Result<()> {
        let progress = self.options.progress.as_ref();
        let total = unread.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        progress.begin("verifying the source", Some(total));
        let mut buffer = vec![0; BUFFER];
        for layer in unread {
            let mut blob = source.fetch(layer)?;
            loop {
                match blob.read(&mut buffer).map_err(|error| into_error(error, layer.digest))? {
                    0 => break,
                    n => progress.advance(n as u64),
                }
            }
        }
        progress.end();
        Ok(())
    }
}

//! A snapshot that is in the store already, compared with what a bundle has: the same one, file by file.
//!
//! msb migrates snapshots of older generations: it writes another descriptor beside the same files. What it made is the
//! same snapshot. Both descriptors are at hand then, one here and one in the bundle, and the one must be what the other
//! becomes.

use std::collections::HashMap;

use crate::{
    bundle::{BundledSnapshot, encoding_of},
    error::Result,
    layer::{decode::EncodedLayer, pick::pick},
    model::{FileRecord, Generation, SnapshotConfig, SnapshotRecord, TarPath},
    progress::Progress,
    restore::{TAR_SLACK, TableCheck},
    snapshot::{MAX_DESCRIPTOR, Snapshot, SnapshotDescriptor, labels::LABELS_FILE, scan},
    storage::Source,
    verify::into_error,
};

/// How a snapshot that is there is the bundle's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Same {
    /// It has the bundle's descriptor, and so its table.
    Identical,
    /// One is what msb makes of the other: descriptors and labels differ.
    Migrated,
}

/// A snapshot that is there, and is the bundle's.
#[derive(Debug)]
pub struct Existing {
    /// How.
    pub same: Same,
    /// Files of the table that stand at another path there.
    pub moved: HashMap<TarPath, TarPath>,
    /// Files that are there beyond the table's.
    pub more: Vec<TarPath>,
}

/// Reads the descriptor of a snapshot that comes; none where what comes does not hold the one that its record describes.
pub type IncomingDescriptor<'a> = &'a dyn Fn() -> Result<Option<SnapshotDescriptor>>;

/// How `existing` is the snapshot that comes, by their descriptors; none: it is another one.
///
/// # Errors
/// The descriptor that comes cannot be read.
pub fn same(
    existing: &SnapshotDescriptor,
    record: &SnapshotRecord,
    incoming: IncomingDescriptor,
) -> Result<Option<Same>> {
    if existing.digest == record.digest {
        return Ok(Some(Same::Identical));
    }
    let is_migrated = match record.generation {
        Generation::Final => existing.migrated.as_ref().is_some_and(|migrated| migrated.digest == record.digest),
        // Its id says which one it may have been: anybody can choose an id.
        _ if existing.original() == Some(record.digest) => {
            incoming()?.is_some_and(|descriptor| descriptor.is_same_snapshot(existing))
        }
        _ => false,
    };
    Ok(is_migrated.then_some(Same::Migrated))
}

/// Compares every file of `existing`, which is the bundle's by its descriptor, and makes it durable.
///
/// # Errors
/// A file is another one or missing.
pub fn compare(
    existing: &Snapshot,
    same: Same,
    config: &SnapshotConfig,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Existing> {
    let (record, descriptor) = (&config.snapshot, &existing.descriptor);
    let files = scan(existing)?;
    let stands = |path: &TarPath| files.iter().find(|file| file.path == *path).map(|file| &file.at);
    let is_migrated = same == Same::Migrated;
    // The descriptors have been compared, and labels are in the older one of the two.
    let is_local = |path: &TarPath, file: &TarPath| is_migrated && (path == file || path.as_str() == LABELS_FILE);
    let mut rows: Vec<(&FileRecord, &TarPath)> = Vec::new();
    for row in config.files.iter().filter(|row| !is_local(&row.path, &record.descriptor)) {
        let disk = descriptor.disk.as_ref().filter(|_| record.disk.as_ref() == Some(&row.path));
        rows.push((row, disk.and_then(stands).or_else(|| stands(&row.path)).unwrap_or(&row.path)));
    }
    TableCheck { config, directory: &existing.directory, jobs, progress }.compare(&rows, &descriptor.folders)?;
    let is_more = |at: &TarPath| !is_local(at, &descriptor.file) && rows.iter().all(|(_, taken)| *taken != at);
    let more = files.iter().map(|file| &file.at).filter(|at| is_more(at)).cloned().collect();
    let moved = rows.iter().filter(|(row, at)| row.path != **at).map(|(row, at)| (row.path.clone(), (*at).clone()));
    Ok(Existing { moved: moved.collect(), more, same })
}

/// The snapshot's descriptor out of its stack, without the rest.
///
/// # Errors
/// Its layers cannot be decoded that far, or hold another descriptor than the config describes.
pub fn descriptor_in(bundled: &BundledSnapshot, source: &dyn Source) -> Result<Option<SnapshotDescriptor>> {
    let mut path = &bundled.config.snapshot.descriptor;
    let stack = bundled.manifest.layers.iter().zip(&bundled.config.layers).take(bundled.config.stack_len());
    // From the newest down to one that holds it whole.
    let mut lineage = Vec::new();
    for (layer, record) in stack.rev() {
        let Some(file) = record.stack_files().iter().find(|file| file.path == *path) else { continue };
        lineage.push((layer, record, path));
        let Some(base) = &file.base else { break };
        path = base;
    }
    let mut bytes = Vec::new();
    for (layer, record, path) in lineage.into_iter().rev() {
        let digest = layer.digest;
        let (encoding, blob) = (encoding_of(layer, record)?, source.fetch(layer)?);
        let context = format!("layer {digest}");
        // What stands before it in the tar is what the tables say, and headers.
        let most = bundled.config.files.iter().fold(TAR_SLACK, |sum, row| sum.saturating_add(row.size));
        let encoded = EncodedLayer { blob, encoding, context: &context, most };
        match pick(encoded, path, bytes, MAX_DESCRIPTOR, &|error| into_error(error, digest))? {
            Some(found) => bytes = found,
            None => return Ok(None),
        }
    }
    // It is compared with the digest that the config gives it.
    bundled.descriptor_from(bytes).map(Some)
}

//! Repair of what msb has migrated since it was imported.

use std::{fs, path::Path};

use crate::{
    bundle::BundledSnapshot,
    digest::Digest,
    error::{IoContext, Result},
    model::{FileRecord, TarPath},
    snapshot::{MIGRATED_DISK, SNAPSHOT_FILE, Snapshot, V066_FILE, is_there, labels::LABELS_FILE},
    store::record::ImportRecord,
};

/// Whether msb has migrated what had this digest to what is in the directory now.
pub(super) fn is_migrated(directory: &Path, original: Digest) -> Result<bool> {
    Ok(Snapshot::of(directory)?.is_some_and(|snapshot| snapshot.was(original)))
}

/// The name of the layer that a migration left under the disk's old name in a directory.
pub(super) fn migrated_disk(directory: &Path) -> Result<Option<TarPath>> {
    let snapshot = Snapshot::of(directory)?;
    let Some(layer) = snapshot.as_ref().and_then(|s| s.descriptor.only_layer()) else { return Ok(None) };
    let is_left = !is_there(&directory.join(layer))? && is_there(&directory.join(MIGRATED_DISK))?;
    Ok(is_left.then(|| layer.clone()))
}

/// Whether what was imported before a migration is what a bundle has of the migrated snapshot: all but descriptors and
/// labels, the disk under its layer's name.
pub(super) fn is_table_migrated(record: &ImportRecord, same: &BundledSnapshot) -> bool {
    let snapshot = &same.config.snapshot;
    let mut before: Vec<FileRecord> = record.files.clone();
    before.retain(|row| !matches!(row.path.as_str(), V066_FILE | SNAPSHOT_FILE));
    for row in before.iter_mut().filter(|row| row.path.as_str() == MIGRATED_DISK) {
        row.path = snapshot.disk.clone().unwrap_or_else(|| row.path.clone());
    }
    before.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let is_local = |row: &&FileRecord| row.path == snapshot.descriptor || row.path.as_str() == LABELS_FILE;
    before.iter().eq(same.config.files.iter().filter(|row| !is_local(row)))
}

/// Where msb has migrated the bad snapshot since it was imported: gives the restored one the descriptor that is there, for
/// msb knows it by that. Or why that cannot be.
pub(super) fn migrate_again(bad: &Path, directory: &Path, same: &BundledSnapshot) -> Result<Option<String>> {
    let record = &same.config.snapshot;
    let Some(now) = Snapshot::of(bad)?.filter(|now| now.descriptor.digest != record.digest) else { return Ok(None) };
    if now.descriptor.original() != Some(record.digest) {
        return Ok(None);
    }
    if !Snapshot::open(directory)?.descriptor.is_same_snapshot(&now.descriptor) {
        return Ok(Some(format!("its descriptor is not what a migration makes of {}", record.digest)));
    }
    let (old, new) = (directory.join(&record.descriptor), directory.join(&now.descriptor.file));
    fs::remove_file(&old).context("remove", &old)?;
    fs::write(&new, &now.descriptor.bytes).context("write", &new)?;
    Ok(None)
}

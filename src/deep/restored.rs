//! Snapshots of which a deep check needs the files themselves: those are restored, and taken away again.

use std::{fs, path::Path};

use crate::{
    beneath::Folder,
    bundle::BundledSnapshot,
    error::{Error, IoContext, Result},
    progress::Progress,
    restore::Restorer,
    snapshot::{SnapshotDescriptor, closure, damage::Damage},
    storage::Source,
    store::place::Stage,
};

/// What is wrong with the files of a snapshot whose blobs and table are as they should be.
///
/// # Errors
/// What keeps it from looking; [`Error::NoRoom`] where the files have none in `scratch`.
pub fn damages(
    source: &dyn Source,
    snapshot: &BundledSnapshot,
    descriptor: &SnapshotDescriptor,
    scratch: &Path,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<Damage>> {
    if !closure::has_closure(descriptor) {
        return Ok(Vec::new());
    }
    let files = &snapshot.config.files;
    let (needed, free) =
        (files.iter().fold(0u64, |sum, f| sum.saturating_add(f.data_bytes)), Stage::free_bytes(scratch)?);
    if needed > free {
        let what = format!("the data of {} to restore, in bytes,", snapshot.config.snapshot.name);
        let (path, hint) = (scratch.into(), "; $TMPDIR chooses another disk");
        return Err(Error::NoRoom { what, needed, free, path, hint });
    }
    let directory = scratch.join("restored");
    fs::create_dir(&directory).context("create", &directory)?;
    let restorer = Restorer { source, jobs, progress, most: Some(free), writeback: None };
    let restored = restorer.restore(snapshot, &directory, None).map_err(|error| error.on_disk(scratch));
    let found = restored.and_then(|_| {
        let folder = Folder::open(&directory)?;
        closure::verify_in(descriptor, &folder, files.iter().map(|row| (&row.path, &row.path)), jobs, progress)
    });
    fs::remove_dir_all(&directory).context("remove", &directory)?;
    found
}

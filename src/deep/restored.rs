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
/// What keeps it from looking; [`Error::Limit`] where the files have no room in `scratch`.
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
    let (value, limit) =
        (files.iter().fold(0u64, |sum, f| sum.saturating_add(f.data_bytes)), Stage::free_bytes(scratch)?);
    if value > limit {
        let what = format!("the data of {} to restore, in bytes,", snapshot.config.snapshot.name);
        return Err(Error::Limit { what, value, limit, hint: "; $TMPDIR chooses another disk" });
    }
    let directory = scratch.join("restored");
    fs::create_dir(&directory).context("create", &directory)?;
    let restorer = Restorer { source, jobs, progress, most: Some(limit), writeback: None };
    let found = restorer.restore(snapshot, &directory, None).and_then(|_| {
        let folder = Folder::open(&directory)?;
        closure::verify_in(descriptor, &folder, files.iter().map(|row| (&row.path, &row.path)), jobs, progress)
    });
    fs::remove_dir_all(&directory).context("remove", &directory)?;
    found
}

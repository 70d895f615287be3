//! The sizes of a full snapshot: its descriptor says none of them.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustix::fs::OFlags;

use super::{
    SnapshotDescriptor,
    checkpoint::{Checkpoint, MAX_MANIFEST, disk},
    closure::{CHECKPOINT_FILE, object},
};
use crate::{
    beneath::Folder,
    error::{IoContext, Result},
    layer::analyze::{FileView, read_exact_at},
    model::Generation,
};

/// How msb calls the device of the root disk.
const ROOT_DEVICE: &str = "vdb";

/// The sizes of a full snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullSize {
    /// Bytes of the root disk that the guest sees; 0 where there is none, or its documents cannot be read.
    pub root_disk: u64,
    /// Bytes that all files take on disk.
    pub allocated: u64,
}

impl FullSize {
    /// Of the snapshot in `directory`; none if it is no full one. Nothing is verified.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn of(directory: &Path, descriptor: &SnapshotDescriptor) -> Result<Option<Self>> {
        if descriptor.generation != Generation::Final || descriptor.disk.is_some() {
            return Ok(None);
        }
        let root_disk = super::seen(root_disk(directory))?.unwrap_or(0);
        Ok(Some(Self { root_disk, allocated: allocated(directory) }))
    }
}

/// Bytes that a file, or a folder with all that is in it, takes on disk. Blocks that are shared with others count, too; what
/// cannot be looked at takes none.
pub fn allocated(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.blocks() * 512;
    }
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries.flatten().map(|entry| allocated(&entry.path())).sum()
}

fn root_disk(directory: &Path) -> Result<Option<u64>> {
    let folder = Folder::open(directory)?;
    let Some(bytes) = document(&folder, CHECKPOINT_FILE)? else { return Ok(None) };
    let Ok(checkpoint) = Checkpoint::parse(&bytes) else { return Ok(None) };
    for digest in &checkpoint.disks {
        let Some(bytes) = document(&folder, object(digest).as_str())? else { continue };
        if let Ok(disk) = disk(&bytes)
            && disk.device_id == ROOT_DEVICE
        {
            return Ok(disk.layers.last().map(|layer| layer.virtual_size));
        }
    }
    Ok(None)
}

/// A document's bytes; none if it is too large to be one.
fn document(folder: &Folder, path: &str) -> Result<Option<Vec<u8>>> {
    let (file, full) = (folder.file(path, OFlags::RDONLY)?, folder.path().join(path));
    let size = file.metadata().context("look at", &full)?.len();
    if size > MAX_MANIFEST {
        return Ok(None);
    }
    let mut bytes = vec![0; size as usize];
    read_exact_at(FileView { file: &file, path: &full, size }, &mut bytes, 0)?;
    Ok(Some(bytes))
}

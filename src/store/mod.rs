//! Stores: finding snapshots by name, path, digest, id and group; the image cache.

use std::path::{Path, PathBuf};

use crate::{error::Result, snapshot::Snapshot};

/// A directory of snapshots plus an image cache.
#[derive(Clone, Debug)]
pub struct Store {
    /// Its folder (`$MSB_HOME`, else `~/.microsandbox`).
    pub root: PathBuf,
}

impl Store {
    /// At this folder; it need not exist.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `<store>/snapshots`.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// `<store>/cache`.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Every readable snapshot, and every directory that is none with the reason.
    pub fn all(&self) -> Result<(Vec<Snapshot>, Vec<(PathBuf, String)>)> {
        unreachable!("replaced by the store module's owner")
    }

    /// The snapshot that answers to `reference`.
    pub fn find(&self, _reference: &str) -> Result<Snapshot> {
        unreachable!("replaced by the store module's owner")
    }

    /// Head, parent, grandparent, ... of `head`, all from this store.
    pub fn chain(&self, _head: Snapshot) -> Result<Vec<Snapshot>> {
        unreachable!("replaced by the store module's owner")
    }
}

/// Whether a name in a snapshot directory is local bookkeeping that never travels.
pub fn is_bookkeeping(name: &Path) -> bool {
    name.file_name().is_some_and(|name| crate::snapshot::scan::is_bookkeeping(&name.to_string_lossy()))
}

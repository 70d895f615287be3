//! Stores: finding snapshots by name, path, digest, id and group; the image cache.

pub mod deletion;
pub mod group;
pub mod group_repair;
pub mod head;
pub mod image_cache;
pub mod image_metadata;
pub mod image_reference;
pub mod index;
pub mod lease;
pub mod lock;
mod lookup;
pub mod place;
pub mod record;
pub mod root;
pub mod sandboxes;
pub mod vmdk;

use std::path::{Path, PathBuf};

pub use lookup::Readable;

use crate::{
    error::{Error, Result},
    snapshot::Snapshot,
};

/// A directory that is no readable snapshot, with the reason.
pub type Unreadable = (PathBuf, Error);

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

    /// `<store>/db/msb.db`, which is msb's alone to write.
    pub fn msb_database(&self) -> PathBuf {
        self.root.join("db/msb.db")
    }

    /// Every readable snapshot, sorted by name, and every directory that is none with the reason.
    /// A store that does not exist is empty.
    ///
    /// # Errors
    /// [`Error::Io`] where a folder cannot be listed.
    pub fn all(&self) -> Result<(Vec<Snapshot>, Vec<Unreadable>)> {
        Self::all_in(&self.snapshots())
    }

    /// As [`Self::all`], of another folder of snapshots.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn all_in(folder: &Path) -> Result<(Vec<Snapshot>, Vec<Unreadable>)> {
        lookup::all(folder)
    }

    /// Every readable snapshot, sorted by name. What is broken is left out; of what is not ours to read, one error is kept.
    ///
    /// # Errors
    /// [`Error::Io`] where a folder cannot be listed, or a failing disk hides a snapshot.
    pub fn readable(&self) -> Result<Readable> {
        Self::readable_in(&self.snapshots())
    }

    /// As [`Self::readable`], of another folder of snapshots.
    ///
    /// # Errors
    /// As [`Self::readable`].
    pub fn readable_in(folder: &Path) -> Result<Readable> {
        lookup::readable(folder)
    }

    /// The snapshot that answers to `reference`: a path (it has a `/`, or is `.` or `..`), a name, `group:member`, `group`
    /// (its head), a `snap_` id, a digest or at least 12 hex digits of its beginning.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] with all that it can be,
    /// [`Error::SnapshotNotFound`] with some of the names there are,
    /// and those of [`Snapshot::open`].
    pub fn find(&self, reference: &str) -> Result<Snapshot> {
        lookup::find(self, reference)
    }

    /// Head, parent, grandparent, ... of `head`: from this store, else from the folder it stands in, of the same owner.
    ///
    /// # Errors
    /// [`Error::ParentNotFound`]; a snapshot that is its own ancestor is an
    /// [`Error::InvalidSnapshot`].
    pub fn chain(&self, head: Snapshot) -> Result<Vec<Snapshot>> {
        match lookup::ancestors(self, head)? {
            (_, Some(missing)) => Err(missing),
            (chain, None) => Ok(chain),
        }
    }

    /// As [`Self::chain`], but it ends before the first that is missing.
    ///
    /// # Errors
    /// As [`Self::chain`], save for the missing.
    pub fn chain_there(&self, head: Snapshot) -> Result<Vec<Snapshot>> {
        Ok(lookup::ancestors(self, head)?.0)
    }
}

/// Whether a name in a snapshot directory is local bookkeeping that never travels.
pub fn is_bookkeeping(name: &Path) -> bool {
    name.file_name().is_some_and(|name| crate::snapshot::scan::is_bookkeeping(&name.to_string_lossy()))
}

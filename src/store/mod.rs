//! Stores: finding snapshots by name, path, digest, id and group; the image cache.

pub mod image_cache;
pub mod lookup;
pub mod place;
pub mod vmdk;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use crate::{
    error::{Error, Result},
    model::SnapshotIdentity,
    snapshot::Snapshot,
};

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
        lookup::all(self)
    }

    /// The snapshot that answers to `reference`.
    pub fn find(&self, reference: &str) -> Result<Snapshot> {
        lookup::find(self, reference)
    }

    /// Head, parent, grandparent, ... of `head`, all from this store.
    ///
    /// # Errors
    /// [`Error::ParentNotFound`]; a circle is an [`Error::InvalidSnapshot`].
    pub fn chain(&self, head: Snapshot) -> Result<Vec<Snapshot>> {
        let mut by_identity: HashMap<SnapshotIdentity, Snapshot> = HashMap::new();
        if head.descriptor.parent.is_some() {
            for snapshot in self.all()?.0 {
                for identity in snapshot.identities() {
                    by_identity.insert(identity, snapshot.clone());
                }
            }
        }
        let mut visited: HashSet<SnapshotIdentity> = head.identities().into_iter().collect();
        let mut chain = vec![head];
        while let Some(child) = chain.last()
            && let Some(parent) = &child.descriptor.parent
        {
            let Some(found) = by_identity.get(parent) else {
                return Err(Error::ParentNotFound {
                    child: child.name.clone(),
                    parent: parent.to_string(),
                    store: self.snapshots(),
                });
            };
            if !found.identities().into_iter().all(|identity| visited.insert(identity)) {
                return Err(Error::InvalidSnapshot {
                    directory: found.directory.clone(),
                    reason: "it is its own ancestor".into(),
                });
            }
            let found = found.clone();
            chain.push(found);
        }
        Ok(chain)
    }
}

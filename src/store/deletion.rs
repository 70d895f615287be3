//! Records of removals, from which msb learns that its database lists snapshots that are gone.
//!
//! ```text
//! <folder of the snapshot>/.snapshot-deletions/
//!   coordination.lock             held while a record is made or removed
//!   delete-<32 hex digits>/
//!     active.lock                 held while the removal is under way
//!     source.json                 "<name of the snapshot's folder>"
//! ```
//!
//! The next `msb snapshot ls` or `rm` reads them. Where the snapshot is gone it drops the row, and it removes the record. A
//! record of a removal that died before it began changes nothing.
//!
//! Source: `deletion.rs` of microsandbox 0.7.13.

use std::{
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    io::{ErrorKind, Write},
    path::Path,
};

use super::{
    Store,
    lease::{lock_exclusive, open_lock_file},
    place::sync_folder,
};
use crate::{
    error::{Error, IoContext, Result},
    progress::Progress,
    snapshot::is_there,
    temporary::publish,
};

/// The folder of records, in the folder of the snapshots that they name.
pub const DELETIONS: &str = ".snapshot-deletions";

/// A removal that is under way: msb leaves its record alone for as long as this lives.
#[derive(Debug)]
pub struct Deletion {
    _active: File,
}

impl Deletion {
    /// Records, durably, that the snapshot in `directory` is about to go. `None` where msb has no database in the store.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::UnsafePath`] where msb's names lead elsewhere.
    pub fn record(store: &Store, directory: &Path, progress: &dyn Progress) -> Result<Option<Self>> {
        let (Some(name), Some(parent)) = (directory.file_name().and_then(|name| name.to_str()), directory.parent())
        else {
            return Ok(None);
        };
        if !is_there(&store.msb_database())? {
            return Ok(None);
        }
        let root = parent.join(DELETIONS);
        match publish(|| fs::create_dir(&root)) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::io("create", &root, e)),
            _ => {}
        }
        if !fs::symlink_metadata(&root).context("look at", &root)?.is_dir() {
            return Err(Error::UnsafePath {
                path: root,
                reason: "the folder of msb's removals must be a plain folder",
            });
        }
        let (coordination, path) = open_lock_file(root.join("coordination.lock"))?;
        lock_exclusive(&coordination, &path, progress)?;
        let random = || RandomState::new().build_hasher().finish();
        let folder = root.join(format!("delete-{:016x}{:016x}", random(), random()));
        publish(|| fs::create_dir(&folder)).context("create", &folder)?;
        let (active, path) = open_lock_file(folder.join("active.lock"))?;
        lock_exclusive(&active, &path, progress)?;
        let (part, record) = (folder.join("source.json.part"), folder.join("source.json"));
        let mut file = File::create(&part).context("create", &part)?;
        let written = serde_json::to_vec(name).map_err(std::io::Error::from);
        written.and_then(|bytes| file.write_all(&bytes)).context("write", &part)?;
        file.sync_all().context("fsync", &part)?;
        publish(|| fs::rename(&part, &record)).context("rename", &part)?;
        sync_folder(&folder)?;
        sync_folder(&root)?;
        sync_folder(parent)?;
        Ok(Some(Self { _active: active }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn removal_is_recorded_only_where_msb_has_a_database() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(temp.path());
        let directory = temp.path().join("snapshots/web/snap_1");
        fs::create_dir_all(&directory).unwrap();
        assert!(Deletion::record(&store, &directory, &Silent).unwrap().is_none());
        let root = directory.parent().unwrap().join(DELETIONS);
        assert!(!root.exists());
        fs::create_dir(temp.path().join("db")).unwrap();
        fs::write(store.msb_database(), "").unwrap();
        let deletion = Deletion::record(&store, &directory, &Silent).unwrap().unwrap();
        let mut names: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        assert_eq!(names[0], root.join("coordination.lock"));
        assert_eq!(fs::read_to_string(names[1].join("source.json")).unwrap(), "\"snap_1\"");
        let (other, _) = open_lock_file(names[1].join("active.lock")).unwrap();
        let try_lock = || rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        assert!(try_lock().is_err(), "the removal is under way");
        drop(deletion);
        assert!(try_lock().is_ok());
    }
}

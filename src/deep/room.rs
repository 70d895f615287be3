//! The free space of the scratch folder's disk.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    error::{Error, Result},
    store::place::Stage,
};

/// What stays free in the filesystem of the scratch folder.
const RESERVE: u64 = 64 << 20;
/// Its free space is asked for again after so many bytes: others write, too.
const INTERVAL: u64 = 64 << 20;

/// The free space of the scratch folder's disk, for all that is written there.
pub struct Room {
    folder: PathBuf,
    reserve: u64,
    /// Bytes that may be written before it is asked for again.
    granted: Mutex<u64>,
}

impl Room {
    /// Of the disk that this folder is on.
    pub fn new(folder: &Path) -> Self {
        Self::leaving(folder, RESERVE)
    }

    fn leaving(folder: &Path, reserve: u64) -> Self {
        Self { folder: folder.into(), reserve, granted: Mutex::new(0) }
    }

    /// So many bytes are about to be written to `path`.
    pub fn take(&self, bytes: u64, path: &Path) -> Result<()> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if *granted < bytes {
            let free = Stage::free_bytes(&self.folder)?.saturating_sub(self.reserve);
            if free < bytes {
                return Err(Error::NoRoom {
                    what: format!("what is still to be written to {}, in bytes,", path.display()),
                    needed: bytes,
                    free,
                    path: self.folder.clone(),
                    hint: " (some is left to others); choose another $TMPDIR",
                });
            }
            *granted = free.min(INTERVAL.max(bytes));
        }
        *granted -= bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_leaves_the_disk_some_room() {
        let folder = tempfile::tempdir().unwrap();
        let enough = Room::leaving(folder.path(), 0);
        for _ in 0..3 {
            enough.take(1, Path::new("x")).unwrap();
        }
        assert_eq!(*enough.granted.lock().unwrap() % INTERVAL, INTERVAL - 3);
        let error = Room::leaving(folder.path(), u64::MAX).take(5, Path::new("x.deep")).unwrap_err();
        let text = format!(
            "no space left on the disk of {}: what is still to be written to x.deep, in bytes, is 5, and 0 are free (some is \
             left to others); choose another $TMPDIR",
            folder.path().display()
        );
        assert_eq!((error.to_string(), error.exit_code()), (text, 1));
    }
}

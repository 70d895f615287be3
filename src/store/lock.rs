//! Who may use a store at the same time: a lock on its folder that dies with its process.
//!
//! Imports, exports and checks share it: they never harm each other. Removing and repairing take away what these may be
//! reading, so they have it alone. The folder itself is locked, so nothing is left behind and a store that may only be read
//! can be locked, too.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    progress::Progress,
    temporary::has_no_locks,
};

/// Held as long as it lives.
#[derive(Debug)]
pub struct StoreLock {
    /// None where the filesystem has no locks.
    _folder: Option<OwnedFd>,
}

impl StoreLock {
    /// With others who share it. None where there is no such folder. Where its filesystem has no locks, there is nobody who
    /// could have it alone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn shared(folder: &Path, progress: &dyn Progress) -> Result<Option<Self>> {
        match Self::lock(folder, FlockOperation::NonBlockingLockShared, FlockOperation::LockShared, progress) {
            Ok(lock) => Ok(lock),
            Err(("lock", error)) if has_no_locks(error) => Ok(Some(Self { _folder: None })),
            Err((operation, error)) => Err(Error::io(operation, folder, error.into())),
        }
    }

    /// Alone. None where there is no such folder.
    ///
    /// # Errors
    /// [`Error::Io`], also where the filesystem has no locks.
    pub fn exclusive(folder: &Path, progress: &dyn Progress) -> Result<Option<Self>> {
        Self::lock(folder, FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive, progress)
            .map_err(|(operation, error)| Error::io(operation, folder, error.into()))
    }

    fn lock(
        folder: &Path,
        at_once: FlockOperation,
        waiting: FlockOperation,
        progress: &dyn Progress,
    ) -> std::result::Result<Option<Self>, (&'static str, Errno)> {
        loop {
            let Some(handle) = Self::lock_once(folder, at_once, waiting, progress)? else { return Ok(None) };
            // A failed import removes the folder that it made: a lock on what is gone locks nothing.
            let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
            let held = rustix::fs::fstat(&handle).map_err(|e| ("look at", e))?;
            match rustix::fs::stat(folder) {
                Ok(there) if identity(there) == identity(held) => return Ok(Some(Self { _folder: Some(handle) })),
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(("look at", error)),
            }
        }
    }

    fn lock_once(
        folder: &Path,
        at_once: FlockOperation,
        waiting: FlockOperation,
        progress: &dyn Progress,
    ) -> std::result::Result<Option<OwnedFd>, (&'static str, Errno)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = match rustix::fs::open(folder, flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(("open", error)),
        };
        match rustix::io::retry_on_intr(|| flock(&handle, at_once)) {
            Err(Errno::WOULDBLOCK) => {
                progress.begin("waiting for another snapcask that uses the store", None);
                rustix::io::retry_on_intr(|| flock(&handle, waiting)).map_err(|e| ("lock", e))?;
                progress.end();
            }
            other => other.map_err(|e| ("lock", e))?,
        }
        Ok(Some(handle))
    }
}

/// Locks shared what exists of `folders`, in their order.
///
/// # Errors
/// As [`StoreLock::shared`].
pub fn share(folders: &[&Path], progress: &dyn Progress) -> Result<Vec<StoreLock>> {
    folders.iter().filter_map(|folder| StoreLock::shared(folder, progress).transpose()).collect()
}

/// Locks alone what exists of `folders`, in their order.
///
/// # Errors
/// As [`StoreLock::exclusive`].
pub fn take(folders: &[&Path], progress: &dyn Progress) -> Result<Vec<StoreLock>> {
    folders.iter().filter_map(|folder| StoreLock::exclusive(folder, progress).transpose()).collect()
}

/// What `look` sees below `folder` while nobody can take it away, with the locks of `lock` that see to that. Where the
/// folder has come up since the locks were taken, both are done again.
///
/// # Errors
/// Those of `lock` and `look`.
pub fn seen_under<T>(
    folder: &Path,
    lock: impl Fn() -> Result<Vec<StoreLock>>,
    look: impl Fn() -> Result<T>,
) -> Result<(Vec<StoreLock>, T)> {
    loop {
        let there = folder.is_dir();
        let locks = lock()?;
        let seen = look();
        if there || !folder.is_dir() {
            return Ok((locks, seen?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn a_folder_that_comes_up_meanwhile_is_locked() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("snapshots");
        let looks = std::cell::Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            std::fs::create_dir_all(&folder).unwrap();
            Ok(looks.get())
        };
        let (locks, seen) = seen_under(&folder, || share(&[&folder], &Silent), look).unwrap();
        assert_eq!((locks.len(), seen), (1, 2));
        drop(locks);
        let (_, seen) = seen_under(&temp.path().join("none"), || Ok(Vec::new()), || Ok(7)).unwrap();
        assert_eq!(seen, 7);
    }

    #[test]
    fn shared_and_alone() {
        let temp = tempfile::tempdir().unwrap();
        assert!(StoreLock::shared(&temp.path().join("none"), &Silent).unwrap().is_none());
        let one = StoreLock::shared(temp.path(), &Silent).unwrap().unwrap();
        let two = StoreLock::shared(temp.path(), &Silent).unwrap().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let alone = StoreLock::exclusive(temp.path(), &Silent).unwrap().unwrap();
                sender.send(()).unwrap();
                drop(alone);
            });
            std::thread::sleep(std::time::Duration::from_millis(100));
            assert!(receiver.try_recv().is_err(), "it was locked alone while two shared it");
            drop((one, two));
            receiver.recv().unwrap();
        });
    }
}

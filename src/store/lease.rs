//! The locks of msb 0.7: both programs may use one store at the same time.
//!
//! Every lock is an flock(2), which ends with its process. A *lease* protects one directory entry, a
//! snapshot or a file of the image cache: `<parent>/.msb-leases/<SHA-256 of the name>.lock`, shared
//! by those who read or publish the entry, exclusive for the one who removes it. A reader of a
//! snapshot locks its descriptor as well. msb never deletes a lock file, and neither do we, because
//! two processes could then hold locks on two files of one name.
//!
//! Source: `storage_lease.rs` of microsandbox-image 0.7.13, `lease.rs` of microsandbox 0.7.13.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::{Errno, retry_on_intr},
};

use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    progress::Progress,
    snapshot::{SNAPSHOT_FILE, V066_FILE},
    temporary::{has_no_locks, publish},
};

/// Held by whoever makes a group.
pub const GROUPS_LOCK: &str = ".groups.lock";
/// The folder of lock files, in the folder of what they protect.
pub const LEASES: &str = ".msb-leases";

/// Protects one entry for as long as it lives.
#[derive(Debug)]
pub struct Lease {
    _file: File,
}

/// Allows removing one snapshot: nobody reads it, and nobody starts to.
#[derive(Debug)]
pub struct DeletionLease {
    _entry: Lease,
    _descriptor: Option<Lease>,
}

#[derive(Clone, Copy)]
enum Mode {
    Shared,
    Exclusive,
}

impl Lease {
    /// Protects `entry`, which need not exist, against removal by msb. Waits for a removal that is under way.
    ///
    /// # Errors
    /// [`Error::Io`]: the folder of `entry` does not exist or cannot be written to.
    pub fn shared(entry: &Path, progress: &dyn Progress) -> Result<Self> {
        let (file, path) = open_lease(entry)?;
        lock_waiting(&file, &path, Mode::Shared, progress)?;
        Ok(Self { _file: file })
    }

    /// Claims `entry`; `None` while somebody else protects it.
    ///
    /// # Errors
    /// As [`Self::shared`].
    pub fn try_exclusive(entry: &Path) -> Result<Option<Self>> {
        let (file, path) = open_lease(entry)?;
        Ok(try_lock(&file, &path, Mode::Exclusive)?.then_some(Self { _file: file }))
    }

    /// Protects the snapshot in `directory` while it is read. Needs no right to write. `None` where it has no descriptor.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn reader(directory: &Path, progress: &dyn Progress) -> Result<Option<Self>> {
        loop {
            let Some((file, path)) = open_descriptor(directory)? else { return Ok(None) };
            lock_waiting(&file, &path, Mode::Shared, progress)?;
            // Locks the new descriptor where another snapshot was put in place meanwhile.
            if is_at(&file, &path)? {
                return Ok(Some(Self { _file: file }));
            }
        }
    }
}

impl DeletionLease {
    /// Claims the snapshot in `directory`; `None` while msb or an export reads it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn try_claim(directory: &Path) -> Result<Option<Self>> {
        let Some(entry) = Lease::try_exclusive(directory)? else { return Ok(None) };
        let descriptor = match open_descriptor(directory)? {
            None => None,
            Some((file, path)) if try_lock(&file, &path, Mode::Exclusive)? => Some(Lease { _file: file }),
            Some(_) => return Ok(None),
        };
        Ok(Some(Self { _entry: entry, _descriptor: descriptor }))
    }
}

/// Removes the locks from a folder that a failed run has made, if it holds nothing else and nobody has one of them.
pub fn remove_unused(folder: &Path) {
    let Ok(entries) = names_in(folder) else { return };
    let mut held = Vec::new();
    for path in &entries {
        let files = match path.file_name().and_then(|name| name.to_str()) {
            Some(LEASES) => names_in(path).unwrap_or_default(),
            Some(GROUPS_LOCK) => vec![path.clone()],
            _ => return,
        };
        for file in files {
            match open_lock_file(file) {
                Ok((lock, path)) if try_lock(&lock, &path, Mode::Exclusive).is_ok_and(|ours| ours) => {
                    held.push((lock, path))
                }
                _ => return,
            }
        }
    }
    for (_lock, path) in &held {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_dir(folder.join(LEASES));
}

fn names_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// A lock file that msb names, opened and made where it is missing; and its path.
///
/// # Errors
/// [`Error::Io`]; [`Error::UnsafePath`] where it is no regular file.
pub(super) fn open_lock_file(path: PathBuf) -> Result<(File, PathBuf)> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = || {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed()).open(&path)
    };
    let file = publish(open).context("open the lock file", &path)?;
    if file.metadata().context("look at", &path)?.is_file() {
        Ok((file, path))
    } else {
        Err(Error::UnsafePath { path, reason: "a lock file must be a regular file" })
    }
}

/// Locks a file of msb's alone, waiting for others.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn lock_exclusive(file: &File, path: &Path, progress: &dyn Progress) -> Result<()> {
    lock_waiting(file, path, Mode::Exclusive, progress)
}

fn open_lease(entry: &Path) -> Result<(File, PathBuf)> {
    let refuse = || Error::UnsafePath { path: entry.into(), reason: "it has no name that could be locked" };
    let (name, parent) = (entry.file_name().ok_or_else(refuse)?, entry.parent().ok_or_else(refuse)?);
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    // One folder has one set of locks, whichever links lead to it.
    let leases = parent.canonicalize().context("resolve", parent)?.join(LEASES);
    match publish(|| fs::DirBuilder::new().mode(0o755).create(&leases)) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::io("create", &leases, e)),
        _ => {}
    }
    if !fs::symlink_metadata(&leases).context("look at", &leases)?.is_dir() {
        return Err(Error::UnsafePath { path: leases, reason: "the folder of msb's locks must be a plain folder" });
    }
    open_lock_file(leases.join(format!("{}.lock", Digest::of(name.as_encoded_bytes()).hex())))
}

/// The descriptor of a snapshot, by the name that msb locks.
fn open_descriptor(directory: &Path) -> Result<Option<(File, PathBuf)>> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    for name in [SNAPSHOT_FILE, V066_FILE] {
        let path = directory.join(name);
        match retry_on_intr(|| rustix::fs::open(&path, OFlags::RDONLY | flags, rustix::fs::Mode::empty())) {
            Ok(file) => return Ok(Some((file.into(), path))),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(Error::io("open", &path, error.into())),
        }
    }
    Ok(None)
}

fn is_at(file: &File, path: &Path) -> Result<bool> {
    let ours = file.metadata().context("look at", path)?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

fn try_lock(file: &File, path: &Path, mode: Mode) -> Result<bool> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match retry_on_intr(|| flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        // msb cannot lock there either.
        Err(error) if has_no_locks(error) => Ok(true),
        Err(error) => Err(Error::io("lock", path, error.into())),
    }
}

fn lock_waiting(file: &File, path: &Path, mode: Mode, progress: &dyn Progress) -> Result<()> {
    if try_lock(file, path, mode)? {
        return Ok(());
    }
    let operation = match mode {
        Mode::Shared => FlockOperation::LockShared,
        Mode::Exclusive => FlockOperation::LockExclusive,
    };
    progress.begin("waiting for msb or another snapcask that uses the store", None);
    let locked = retry_on_intr(|| flock(file, operation)).context("lock", path);
    progress.end();
    locked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn lease_has_the_name_that_msb_gives_it() {
        let temp = tempfile::tempdir().unwrap();
        let entry = temp.path().join("web");
        let _lease = Lease::shared(&entry, &Silent).unwrap();
        // `printf web | sha256sum`
        let name = "4b5e57f6eb2f42b9039b3d1e13929295f231749c510cbe341cd68036d9af97e2.lock";
        let names: Vec<_> = fs::read_dir(temp.path().join(LEASES)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [name]);
    }

    #[test]
    fn unused_locks_go_and_locks_that_are_held_stay() {
        let temp = tempfile::tempdir().unwrap();
        let lease = Lease::shared(&temp.path().join("x"), &Silent).unwrap();
        fs::write(temp.path().join(GROUPS_LOCK), "").unwrap();
        remove_unused(temp.path());
        assert_eq!(names_in(temp.path()).unwrap().len(), 2);
        drop(lease);
        fs::write(temp.path().join("other"), "").unwrap();
        remove_unused(temp.path());
        assert_eq!(names_in(temp.path()).unwrap().len(), 3);
        fs::remove_file(temp.path().join("other")).unwrap();
        remove_unused(temp.path());
        assert_eq!(names_in(temp.path()).unwrap().len(), 0);
    }

    #[test]
    fn readers_and_publishers_keep_removers_away() {
        let temp = tempfile::tempdir().unwrap();
        let entry = temp.path().join("snap");
        fs::create_dir(&entry).unwrap();
        assert!(Lease::reader(&entry, &Silent).unwrap().is_none(), "there is no descriptor");
        fs::write(entry.join(SNAPSHOT_FILE), "{}").unwrap();
        let (one, two) = (Lease::shared(&entry, &Silent).unwrap(), Lease::shared(&entry, &Silent).unwrap());
        drop(one);
        assert!(DeletionLease::try_claim(&entry).unwrap().is_none());
        drop(two);
        let reader = Lease::reader(&entry, &Silent).unwrap().unwrap();
        assert!(DeletionLease::try_claim(&entry).unwrap().is_none());
        assert!(DeletionLease::try_claim(&temp.path().join("other")).unwrap().is_some());
        drop(reader);
        let claimed = DeletionLease::try_claim(&entry).unwrap().unwrap();
        assert!(DeletionLease::try_claim(&entry).unwrap().is_none());
        drop(claimed);
        assert!(DeletionLease::try_claim(&entry).unwrap().is_some());
    }

    #[test]
    fn lease_folder_or_file_that_is_a_link_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", temp.path().join(LEASES)).unwrap();
        let error = Lease::shared(&temp.path().join("x"), &Silent).unwrap_err();
        assert!(matches!(error, Error::UnsafePath { .. }), "{error}");
        fs::remove_file(temp.path().join(LEASES)).unwrap();
        fs::create_dir(temp.path().join(LEASES)).unwrap();
        let name = format!("{}.lock", Digest::of(b"x").hex());
        std::os::unix::fs::symlink(temp.path().join("target"), temp.path().join(LEASES).join(name)).unwrap();
        assert!(Lease::shared(&temp.path().join("x"), &Silent).is_err());
        assert!(!temp.path().join("target").exists());
    }
}

//! Temporary files and folders beside their destinations: each is locked by its owner as long as that lives, so that
//! any later run can tell what a dead one left, and remove it.
//!
//! What this process has alive is known too ([`abandon`]): one that is told to end removes it, and publishes nothing after.
//!
//! The lock is on the file or folder itself (`flock`, which dies with the process). Between making and locking, a run
//! that reclaims may take it for dead: its maker then finds it locked or gone, and makes another.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{BuildHasher, Hasher},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, MemfdFlags, Mode, OFlags, flock},
    io::{Errno, retry_on_intr},
};

use crate::{
    error::{Error, IoContext, Result},
    immutable,
};

/// Names are 64 random bits: one that is taken is no accident, many are a fault.
const ATTEMPTS: usize = 32;

/// Of a folder in `$TMPDIR`: for a source that cannot be read in place, for what is decoded only to be looked at.
pub const SCRATCH: &str = ".snapcask-scratch-";

/// Those of this process.
static OURS: Living = Living::new();

/// What is alive of a process.
struct Living {
    /// Each with whether it goes with all that is in it, or only if that is nothing.
    paths: Mutex<BTreeMap<PathBuf, bool>>,
    /// Held for reading around whatever gives something a name ([`publish`]), for writing by [`Living::abandon`].
    gate: RwLock<()>,
}

impl Living {
    const fn new() -> Self {
        Self { paths: Mutex::new(BTreeMap::new()), gate: RwLock::new(()) }
    }

    fn paths(&self) -> MutexGuard<'_, BTreeMap<PathBuf, bool>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish<T>(&self, name: impl FnOnce() -> T) -> T {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        name()
    }

    fn abandon(&self) {
        /// In all a second: what a thread still writes into a folder keeps it from being removed.
        const ROUNDS: usize = 100;
        std::mem::forget(self.gate.write().unwrap_or_else(PoisonError::into_inner));
        for _ in 0..ROUNDS {
            let living = self.paths().clone();
            let wholly = living.iter().filter(|(_, wholly)| **wholly);
            if wholly.filter(|(path, _)| !remove(path)).count() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // What is below comes before: paths sort so.
        for (path, _) in self.paths().iter().filter(|(_, wholly)| !**wholly).rev() {
            let _ = fs::remove_dir(path);
        }
    }
}

/// A folder of our own, readable by nobody else, that vanishes with its owner.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: Option<File>,
}

impl Folder {
    /// Makes one in `parent`, and removes those with the same prefix whose owners are dead.
    ///
    /// # Errors
    /// [`Error::Io`]: `parent` cannot be listed or written to.
    pub fn create(parent: &Path, prefix: &str) -> Result<Self> {
        reclaim(parent, prefix.as_ref(), "")?;
        let (path, lock) = make_folder(parent, prefix.as_ref(), "", 0o700)?;
        Ok(Self { path, lock: Some(lock) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if is_ours(&self.path) {
            let _ = remove_tree(&self.path, &mut self.lock);
            forget(&self.path);
        }
    }
}

/// A folder for what cannot be read in place or is decoded only to be looked at.
#[derive(Debug)]
pub struct Scratch {
    /// None: in `$TMPDIR`, made when it is needed, because much needs none.
    at: Option<PathBuf>,
    made: OnceLock<Folder>,
}

impl Scratch {
    /// In `$TMPDIR`.
    pub fn in_temp() -> Self {
        Self { at: None, made: OnceLock::new() }
    }

    /// The folder at this path, which vanishes with its owner.
    pub fn at(folder: &Path) -> Self {
        Self { at: Some(folder.into()), made: OnceLock::new() }
    }

    /// The folder.
    ///
    /// # Errors
    /// [`Error::Io`]: it cannot be made.
    pub fn path(&self) -> Result<&Path> {
        if let Some(path) = self.at.as_deref().or_else(|| self.made.get().map(Folder::path)) {
            return Ok(path);
        }
        let folder = Folder::create(&std::env::temp_dir(), SCRATCH).map_err(in_temp)?;
        Ok(self.made.get_or_init(|| folder).path())
    }
}

/// An error of scratch space in `$TMPDIR`: it says what chooses the folder.
pub fn in_temp(error: Error) -> Error {
    match error {
        Error::Io { source, .. } => {
            let reason = format!("{source}; $TMPDIR names another folder");
            Error::io("make scratch space in", std::env::temp_dir(), io::Error::new(source.kind(), reason))
        }
        other => other,
    }
}

/// An empty file without a name, for a document that is bounded: in memory, because `$TMPDIR` may be missing.
///
/// # Errors
/// [`Error::Io`].
pub fn nameless() -> Result<File> {
    match rustix::fs::memfd_create("snapcask", MemfdFlags::CLOEXEC) {
        Ok(file) => Ok(file.into()),
        Err(_) => tempfile::tempfile().context("create", std::env::temp_dir()).map_err(in_temp),
    }
}

/// Gives something its name: renames something temporary into its place (and what belongs to that: an fsync before the
/// other name may go), makes a folder or an empty file; never, once this process abandons what it has. It does not nest.
pub fn publish<T>(name: impl FnOnce() -> T) -> T {
    OURS.publish(name)
}

/// What is made under its own name is not to be left half-made either.
pub fn claim(path: &Path) {
    OURS.paths().insert(path.into(), true);
}

/// A folder that this process may make goes too, if it is empty then.
pub fn claim_empty(folder: &Path) {
    OURS.paths().insert(folder.into(), false);
}

/// What was temporary is in its place, or gone.
pub fn forget(path: &Path) {
    OURS.paths().remove(path);
}

/// Whether it is temporary still, and goes with its owner.
pub fn is_ours(path: &Path) -> bool {
    OURS.paths().contains_key(path)
}

/// What was exchanged cannot be exchanged back, and its name is not durable: what is under the temporary name `path`, or
/// below, stays, for it may be all that is left, and no later run takes it for a dead one's. Gives the error that says so.
pub fn keep(path: &Path, error: Error) -> Error {
    let Some(ours) = path.ancestors().find(|path| is_ours(path)) else { return error };
    let mut name = OsString::from(".kept");
    name.push(ours.file_name().unwrap_or_default());
    let kept = ours.with_file_name(name);
    let below = path.strip_prefix(ours).unwrap_or(Path::new(""));
    let text = match fs::rename(ours, &kept) {
        Ok(()) if below.as_os_str().is_empty() => format!("what was there before is {} now", kept.display()),
        Ok(()) => format!("what was there before is {} now", kept.join(below).display()),
        Err(_) => format!("what was there before is {} now, and the next run removes it: save it", path.display()),
    };
    forget(ours);
    match error {
        Error::Io { operation, path, source } => {
            Error::io(operation, path, io::Error::other(format!("{source}; {text}")))
        }
        other => other,
    }
}

/// Removes every temporary file and folder of this process, for it is about to end. Whatever other threads still do,
/// nothing gets a name of its own from here on; what they write meanwhile may have to be removed twice.
pub fn abandon() {
    OURS.abandon();
}

/// Removes a folder of ours with all that is in it; its `lock` ends where no other file can be opened any more.
///
/// # Errors
/// Something cannot be removed.
pub fn remove_tree(path: &Path, lock: &mut Option<File>) -> io::Result<()> {
    fs::remove_dir_all(path).or_else(|_| {
        lock.take();
        remove_one_by_one(path)
    })
}

/// As [`fs::remove_dir_all`], which has a file open for every level.
fn remove_one_by_one(folder: &Path) -> io::Result<()> {
    let look = |entry: io::Result<fs::DirEntry>| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
    let entries: Vec<_> = fs::read_dir(folder)?.map(look).collect::<io::Result<_>>()?;
    for (path, kind) in entries {
        if kind.is_dir() { remove_one_by_one(&path) } else { fs::remove_file(&path) }?;
    }
    fs::remove_dir(folder)
}

/// Whether it is gone.
fn remove(path: &Path) -> bool {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    matches!(removed, Err(error) if error.kind() == io::ErrorKind::NotFound) || path.symlink_metadata().is_err()
}

/// Makes an empty folder in `parent`, of the name `prefix`, something random, `suffix`. It is alive as long as the handle.
///
/// # Errors
/// [`Error::Io`]: `parent` cannot be written to.
pub fn make_folder(parent: &Path, prefix: &OsStr, suffix: &str, mode: u32) -> Result<(PathBuf, File)> {
    make(parent, prefix, suffix, |path| {
        DirBuilder::new().mode(mode).create(path)?;
        File::open(path)
    })
}

/// Makes an empty file as [`make_folder`] does, open for reading and writing. Its mode is what the mask of the process
/// leaves of `mode`, from the beginning: whoever could open it before a later change could read what comes after.
///
/// # Errors
/// [`Error::Io`]: `parent` cannot be written to.
pub fn make_file(parent: &Path, prefix: &OsStr, suffix: &str, mode: u32) -> Result<(PathBuf, File)> {
    make(parent, prefix, suffix, |path| {
        OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
    })
}

fn make(
    parent: &Path,
    prefix: &OsStr,
    suffix: &str,
    create: impl Fn(&Path) -> io::Result<File>,
) -> Result<(PathBuf, File)> {
    immutable::refuse_temporary_in(parent)?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut name = prefix.to_owned();
        name.push(format!("{:016x}{suffix}", RandomState::new().build_hasher().finish()));
        let path = parent.join(name);
        let made = publish(|| {
            let file = create(&path)?;
            let held = hold(&file, &path).inspect_err(|_| {
                remove(&path);
            })?;
            if held {
                claim(&path);
            }
            Ok::<_, io::Error>((file, held))
        });
        match made {
            Ok((file, true)) => return Ok((path, file)),
            // Taken for dead, and removed; or not even looked at, for all that may fail.
            Ok((file, false)) => {
                drop(file);
                remove_if_dead(&path);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists) => last = Some(e),
            // The folder is gone if it was taken for dead before it was opened; `parent` may be missing, too.
            Err(e) if e.kind() == io::ErrorKind::NotFound && parent.exists() => last = Some(e),
            Err(e) => {
                let _ = fs::remove_dir(&path);
                return Err(Error::io("create", &path, e));
            }
        }
    }
    let source = last.unwrap_or_else(|| io::ErrorKind::AlreadyExists.into());
    Err(Error::io("create a temporary name in", parent, source))
}

/// Locks what was just made; false if a run that reclaims was faster. A filesystem without locks has none to fear, whereas
/// one that fails to lock now may let others lock later.
fn hold(file: &File, path: &Path) -> io::Result<bool> {
    match retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) if has_no_locks(error) => Ok(true),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(match (file.metadata(), fs::symlink_metadata(path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }),
    }
}

/// Whether an error of flock(2) says that the filesystem knows no locks.
pub fn has_no_locks(error: Errno) -> bool {
    matches!(error, Errno::BADF | Errno::OPNOTSUPP | Errno::NOLCK | Errno::INVAL | Errno::NOSYS)
}

/// Removes what dead owners left in `parent` under names that begin and end so. What cannot be locked or removed stays.
///
/// # Errors
/// [`Error::Io`]: `parent` cannot be listed.
pub fn reclaim(parent: &Path, prefix: &OsStr, suffix: &str) -> Result<()> {
    ours(parent, prefix, suffix)?.iter().for_each(|path| remove_if_dead(path));
    Ok(())
}

/// What dead owners left in `parent` under names that begin so, sorted; nothing is removed.
///
/// # Errors
/// [`Error::Io`]: `parent` cannot be listed, or what is there not looked at.
pub fn dead(parent: &Path, prefix: &OsStr) -> Result<Vec<PathBuf>> {
    let mut dead = Vec::new();
    for path in ours(parent, prefix, "")? {
        if lock_dead(&path, FlockOperation::NonBlockingLockShared).context("lock", &path)?.is_some() {
            dead.push(path);
        }
    }
    dead.sort();
    Ok(dead)
}

/// What dead owners of this user left in `parent` under names that begin so, sorted, each locked: no other run takes it.
///
/// # Errors
/// [`Error::Io`]: `parent` cannot be listed.
pub fn take_over(parent: &Path, prefix: &OsStr) -> Result<Vec<(PathBuf, File)>> {
    let mut taken = Vec::new();
    for path in ours(parent, prefix, "")? {
        let Ok(Some(lock)) = lock_dead(&path, FlockOperation::NonBlockingLockExclusive) else { continue };
        let is_own = lock.metadata().is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw());
        // Whoever had it may have removed it before the lock was taken.
        if is_own && fs::symlink_metadata(&path).is_ok() {
            taken.push((path, lock));
        }
    }
    taken.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(taken)
}

fn ours(parent: &Path, prefix: &OsStr, suffix: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(parent) {
        // A folder may be for writing only.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
        other => other.context("list", parent)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context("list", parent)?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(prefix.as_bytes()) && name.as_bytes().ends_with(suffix.as_bytes()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The file or folder, locked, if its owner is dead. What is gone, or not ours, or a link, is nothing of a dead run's; and
/// where there are no locks, nobody knows.
fn lock_dead(path: &Path, lock: FlockOperation) -> rustix::io::Result<Option<File>> {
    // The folder may be everybody's: neither a symlink nor a FIFO of somebody else may lead us astray.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::PERM | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    match retry_on_intr(|| flock(&file, lock)) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) if has_no_locks(error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_if_dead(path: &Path) {
    let Ok(Some(file)) = lock_dead(path, FlockOperation::NonBlockingLockExclusive) else { return };
    let removed = match file.metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(meta) if meta.is_file() => fs::remove_file(path),
        _ => return,
    };
    if let Err(error) = removed {
        tracing::debug!(path = %path.display(), %error, "cannot remove what a dead run left");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn the_dead_are_removed_and_the_living_are_not() {
        let place = tempfile::tempdir().unwrap();
        let living = Folder::create(place.path(), ".x-").unwrap();
        let (dead_folder, lock) = make_folder(place.path(), ".x-".as_ref(), "", 0o755).unwrap();
        fs::write(dead_folder.join("half"), b"x").unwrap();
        let (dead_file, file) = make_file(place.path(), ".x-".as_ref(), ".partial", 0o666).unwrap();
        let (living_file, held) = make_file(place.path(), ".x-".as_ref(), ".partial", 0o666).unwrap();
        let foreign = place.path().join("x-foreign");
        fs::write(&foreign, b"x").unwrap();
        std::os::unix::fs::symlink(&foreign, place.path().join(".x-link")).unwrap();
        reclaim(place.path(), ".x-".as_ref(), "").unwrap();
        assert!(dead_folder.exists() && dead_file.exists(), "their owners live");
        drop((lock, file));
        reclaim(place.path(), ".x-".as_ref(), ".partial").unwrap();
        assert!(dead_folder.exists() && !dead_file.exists(), "another suffix is no business of ours");
        let next = Folder::create(place.path(), ".x-").unwrap();
        assert!(!dead_folder.exists());
        assert!(living.path().exists() && living_file.exists() && foreign.exists() && next.path().exists());
        drop(held);
        let (path, other) = (living.path().to_owned(), next.path().to_owned());
        drop((living, next));
        assert!(!path.exists() && !other.exists());
    }

    #[test]
    fn what_was_taken_for_dead_is_made_again() {
        let place = tempfile::tempdir().unwrap();
        let (path, file) = make_file(place.path(), ".x-".as_ref(), "", 0o666).unwrap();
        let other = File::open(&path).unwrap();
        assert!(!hold(&other, &path).unwrap(), "somebody else has the lock");
        drop(file);
        fs::remove_file(&path).unwrap();
        assert!(!hold(&other, &path).unwrap(), "it is gone");
    }

    #[test]
    fn what_is_abandoned_is_gone_and_nothing_is_published_after() {
        static LIVING: Living = Living::new();
        static LATE: AtomicBool = AtomicBool::new(false);
        let place = tempfile::tempdir().unwrap();
        let (folder, file) = (place.path().join("folder"), place.path().join("file"));
        fs::create_dir_all(folder.join("below")).unwrap();
        fs::write(folder.join("below/x"), b"x").unwrap();
        fs::write(&file, b"x").unwrap();
        let (empty, used) = (place.path().join("empty"), place.path().join("used"));
        fs::create_dir_all(empty.join("below")).unwrap();
        fs::create_dir_all(used.join("by/others")).unwrap();
        LIVING.paths().extend([&folder, &file, &place.path().join("gone")].map(|path| (path.clone(), true)));
        LIVING.paths().extend([&empty, &empty.join("below"), &used].map(|path| (path.clone(), false)));
        assert!(LIVING.publish(|| true));
        LIVING.abandon();
        assert!(!folder.exists() && !file.exists() && !empty.exists() && used.join("by/others").exists());
        // It waits for good.
        std::thread::spawn(|| LIVING.publish(|| LATE.store(true, Ordering::Relaxed)));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!LATE.load(Ordering::Relaxed));
    }
}

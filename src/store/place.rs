//! Staging and placing: what is placed appears whole, by one rename, after everything in it is on disk.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, OFlags, RenameFlags, linkat, renameat, renameat_with, unlinkat},
    io::Errno,
};

use super::lease::DeletionLease;
use crate::{
    beneath::Folder,
    error::{Error, IoContext, Result},
    fixed_folder,
    rename::{exchange_failed, is_unsupported},
    snapshot::{SNAPSHOT_FILE, V066_FILE, is_there},
    temporary::{self, publish},
};

const PREFIX: &str = ".snapcask-stage-";
/// Without them, a directory is no snapshot. One that was migrated has both, and is what the last one says.
const MARKS: [&str; 2] = [V066_FILE, SNAPSHOT_FILE];

/// What placing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is there now.
    Placed,
    /// The same was there.
    AlreadyThere,
}

/// A folder beside the destination, on its filesystem, that vanishes with its owner; the next import removes what dead
/// ones left.
#[derive(Debug)]
pub struct Stage {
    folder: temporary::Folder,
}

impl Stage {
    /// Creates a stage in `destination`, which is made if missing, reclaims the stages of dead imports, and completes what
    /// dead runs had begun file by file.
    pub fn create(destination: &Path) -> Result<Self> {
        make_folders(destination)?;
        complete_dead(destination)?;
        Ok(Self { folder: temporary::Folder::create(destination, PREFIX)? })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes every file and folder of the stage durable.
    pub fn sync(&self) -> Result<()> {
        sync_tree(self.path())
    }

    /// That `folder` beside it can be replaced, for it is exchanged with another.
    ///
    /// # Errors
    /// [`Error::Io`]: the filesystem cannot exchange names.
    pub fn check_exchange(&self, folder: &Path) -> Result<()> {
        let [one, other] = ["exchange-1", "exchange-2"].map(|name| self.path().join(name));
        for path in [&one, &other] {
            File::create(path).context("create", path)?;
        }
        let exchanged = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).context("exchange with", &other);
        for path in [&one, &other] {
            fs::remove_file(path).context("remove", path)?;
        }
        exchanged.map_err(|error| exchange_failed(error, folder))
    }

    /// Free bytes of the filesystem that `path`, or the nearest folder above it, is on.
    pub fn free_bytes(path: &Path) -> Result<u64> {
        let stat = rustix::fs::statvfs(path).context("find the free space of", path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The folders at and above `path` that do not exist, deepest first.
    pub fn folders_missing(path: &Path) -> Vec<PathBuf> {
        // One that cannot be looked at is not ours to remove.
        let is_missing = |path: &Path| matches!(fs::metadata(path), Err(e) if e.kind() == ErrorKind::NotFound);
        path.ancestors().take_while(|p| !p.as_os_str().is_empty() && is_missing(p)).map(Path::to_path_buf).collect()
    }

    /// Removes those of the folders that are empty: a failed import leaves none behind.
    pub fn remove_empty(folders: &[PathBuf]) {
        let mut folders = folders.to_vec();
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
        for folder in folders {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// What runs left in `destination` that died: their stages, and what they had begun file by file.
///
/// # Errors
/// [`Error::Io`].
pub fn leftovers(destination: &Path) -> Result<Vec<PathBuf>> {
    if !is_there(destination)? {
        return Ok(Vec::new());
    }
    let mut dead = temporary::dead(destination, PREFIX.as_ref())?;
    dead.extend(fixed_folder::dead(destination)?);
    Ok(dead)
}

/// Completes what runs that died had begun file by file with snapshots in `folder`, unless somebody uses them.
///
/// # Errors
/// [`Error::Io`]: `folder` cannot be listed.
pub fn complete_dead(folder: &Path) -> Result<()> {
    if !is_there(folder)? {
        return Ok(());
    }
    fixed_folder::complete_dead(folder, DeletionLease::try_claim)
}

/// Puts a durable directory in the place of a snapshot whose folder cannot be exchanged, because it stands in a lower layer
/// of overlayfs: file by file. Between the old and the new one, no snapshot is there.
///
/// # Errors
/// [`Error::Io`]. What was there is there, unless the error says where it is.
pub fn replace_file_by_file(root: &Path, staged: &Path, target: &Path, _claim: &DeletionLease) -> Result<()> {
    check_way(root, target)?;
    fixed_folder::replace(root, staged, target, &MARKS)
}

/// Takes a snapshot out of its place below `root` by one rename into `aside`, a name in a stage; or file by file, where
/// its folder cannot be renamed.
///
/// # Errors
/// [`Error::Io`]. The snapshot is there, or gone; the error says what is left of one that is gone.
pub fn take_away(root: &Path, snapshot: &Path, aside: &Path) -> Result<()> {
    match publish(|| fs::rename(snapshot, aside)).context("remove", snapshot) {
        Err(error) if fixed_folder::is_fixed(&error) => fixed_folder::take_away(root, snapshot, &MARKS),
        other => other,
    }
}

/// Makes everything in a folder durable.
pub fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).context("read", folder)? {
        let entry = entry.context("read", folder)?;
        let (path, kind) = (entry.path(), entry.file_type().context("stat", entry.path())?);
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            // What came by an exchange may hold anything: a link or a FIFO has nothing to make durable.
            File::open(&path).context("open", &path)?.sync_all().context("fsync", &path)?;
        }
    }
    sync_folder(folder)
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).context("open", folder)?.sync_all().context("fsync", folder)
}

/// Whether `target` can be placed: no link stands on the way from `root` to its folder.
///
/// # Errors
/// [`Error::UnsafePath`].
pub fn check_way(root: &Path, target: &Path) -> Result<()> {
    if let (true, Ok(below)) = (root.exists(), target.strip_prefix(root)) {
        Folder::open(root)?.folder(below.parent().unwrap_or(Path::new("")))?;
    }
    Ok(())
}

/// Renames a durable directory into place below `root`; an existing one is exchanged with `force`, else kept.
///
/// # Errors
/// [`Error::AlreadyExists`] without `force`; [`Error::UnsafePath`] where a link is on the way; one that is
/// `is_fixed` where [`replace_file_by_file`] is the way. After any error what was there is there.
pub fn place_directory(root: &Path, staged: &Path, target: &Path, force: bool) -> Result<Placed> {
    let way = Way::to(root, target)?;
    if way.appears(staged)? {
        return Ok(Placed::Placed);
    }
    if !force {
        return Err(Error::AlreadyExists { path: target.into() });
    }
    way.exchange(staged).map_err(|error| exchange_failed(error, target))?;
    Ok(Placed::Placed)
}

/// Renames a durable file into place below `root`; an equal one is kept, a different one exchanged with `force`.
///
/// # Errors
/// [`Error::DifferentFile`] without `force`; [`Error::UnsafePath`] where a link is on the way. After any error what was
/// there is there.
pub fn place_file(root: &Path, staged: &Path, target: &Path, force: bool) -> Result<Placed> {
    let way = Way::to(root, target)?;
    if way.appears(staged)? {
        return Ok(Placed::Placed);
    }
    if same_contents(staged, target)? {
        return Ok(Placed::AlreadyThere);
    }
    if !force {
        return Err(Error::DifferentFile { path: target.into() });
    }
    match way.exchange(staged) {
        Err(Error::Io { source, .. }) if is_unsupported(&source) => way.replace(staged)?,
        other => other?,
    }
    Ok(Placed::Placed)
}

/// The name of something below a root, by its folder's handle.
struct Way<'a> {
    folder: Folder,
    name: PathBuf,
    target: &'a Path,
}

impl<'a> Way<'a> {
    /// The folder is made if missing. No link below `root` is followed.
    fn to(root: &Path, target: &'a Path) -> Result<Self> {
        let below = target.strip_prefix(root).ok().and_then(|below| Some((below.parent()?, below.file_name()?)));
        let Some((folder, name)) = below else {
            return Err(Error::UnsafePath { path: target.into(), reason: "it is not below its folder" });
        };
        make_folders(root)?;
        Ok(Self { folder: Folder::open(root)?.make(folder)?, name: name.into(), target })
    }

    fn rename(&self, staged: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
        renameat_with(CWD, staged, self.folder.handle(), &self.name, flags)
    }

    /// Durably under a name that is not taken; false if it is.
    fn appears(&self, staged: &Path) -> Result<bool> {
        publish(|| self.appears_now(staged))
    }

    fn appears_now(&self, staged: &Path) -> Result<bool> {
        match self.rename(staged, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            // Without the flags there are no exchanges either, but what appears needs none.
            Err(e) if is_unsupported(&e.into()) => return self.appears_without_flags(staged),
            Err(e) => return Err(Error::io("rename into", self.target, e.into())),
        }
        // A name that may not last is no name: what cannot be made durable does not stay.
        self.folder.sync().inspect_err(|_| {
            let _ = renameat_with(self.folder.handle(), &self.name, CWD, staged, RenameFlags::NOREPLACE);
        })?;
        Ok(true)
    }

    fn appears_without_flags(&self, staged: &Path) -> Result<bool> {
        let is_folder = fs::symlink_metadata(staged).context("stat", staged)?.is_dir();
        let (folder, name) = (self.folder.handle(), &self.name);
        let renamed = match is_folder {
            // rename(2) takes the name of an empty folder and refuses all else that a folder would replace.
            true => renameat(CWD, staged, folder, name),
            false => linkat(CWD, staged, folder, name, AtFlags::empty()),
        };
        match renamed {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => return Ok(false),
            Err(e) => return Err(Error::io("rename into", self.target, e.into())),
        }
        self.folder.sync().inspect_err(|_| {
            let _ = match is_folder {
                true => renameat(folder, name, CWD, staged),
                // What is staged is the same file.
                false => unlinkat(folder, name, AtFlags::empty()),
            };
        })?;
        Ok(true)
    }

    /// Durably over a file, where nothing can be exchanged.
    fn replace(&self, staged: &Path) -> Result<()> {
        publish(|| {
            renameat(CWD, staged, self.folder.handle(), &self.name).context("rename over", self.target)?;
            self.folder.sync()
        })
    }

    /// Durably, with what has the name; that is staged then.
    fn exchange(&self, staged: &Path) -> Result<()> {
        publish(|| {
            self.rename(staged, RenameFlags::EXCHANGE).context("exchange with", self.target)?;
            // What is staged vanishes, with a signal at once: it must not be what is known to be durable.
            self.folder.sync().map_err(|error| match self.rename(staged, RenameFlags::EXCHANGE) {
                Ok(()) => error,
                Err(_) => temporary::keep(staged, error),
            })
        })
    }
}

/// Whether two regular files hold the same bytes; a symlink is no file.
pub fn same_contents(a: &Path, b: &Path) -> Result<bool> {
    use std::io::Read;
    let meta = fs::symlink_metadata(b).context("stat", b)?;
    let size = fs::metadata(a).context("stat", a)?.len();
    if !meta.is_file() || meta.len() != size {
        return Ok(false);
    }
    let (mut left, mut right) = (File::open(a).context("open", a)?, File::open(b).context("open", b)?);
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut rest = size;
    while rest > 0 {
        let n = rest.min(1 << 20) as usize;
        left.read_exact(&mut x[..n]).context("read", a)?;
        right.read_exact(&mut y[..n]).context("read", b)?;
        if x[..n] != y[..n] {
            return Ok(false);
        }
        rest -= n as u64;
    }
    Ok(true)
}

/// Makes the names of `paths` durable, and those of the folders above them up to `root`'s own: what was there already may
/// be of a run that was killed before it came to that.
pub fn sync_names<'p>(paths: impl Iterator<Item = &'p Path>, root: &Path) -> Result<()> {
    let mut folders = BTreeSet::new();
    for path in paths {
        for folder in path.ancestors().skip(1) {
            folders.insert(folder);
            if !folder.starts_with(root) {
                break;
            }
        }
    }
    for folder in folders {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        match File::open(folder) {
            // A folder that is not ours to read is not one that we made.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
            other => other.and_then(|f| f.sync_all()).context("fsync", folder)?,
        }
    }
    Ok(())
}

/// Makes missing folders durable, each with its name in the one above.
pub fn make_folders(folder: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    if let Some(above) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_folders(above)?;
    }
    match publish(|| fs::create_dir(folder)) {
        // Another import was faster; a link that leads nowhere is there for good.
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists || !folder.is_dir() => {
            return Err(Error::io("create", folder, e));
        }
        _ => {}
    }
    match folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(above) => sync_folder(above),
        None => Ok(()),
    }
}

/// Makes a file of ours durable, whoever wrote it. Where something else has its name, or it is not ours to read, there is
/// nothing of ours.
pub fn sync_if_ours(folder: &Path, file: &Path) -> Result<()> {
    let not_ours = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied)
    };
    match Folder::open(folder)?.file(file, OFlags::RDONLY) {
        Ok(handle) => handle.sync_all().context("fsync", folder.join(file)),
        Err(Error::UnsafePath { .. }) => Ok(()),
        Err(Error::Io { source, .. }) if not_ours(&source) => Ok(()),
        Err(error) => Err(error),
    }
}

//! Staging and placing: what is placed appears whole, by one rename, after everything in it is on disk.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::{
    error::{Error, IoContext, Result},
    model::SnapshotName,
};

const PREFIX: &str = ".snapcask-stage-";

/// What placing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is there now.
    Placed,
    /// The same was there.
    AlreadyThere,
}

/// A folder beside the destination, on its filesystem, that vanishes with its owner. A lock says that the owner lives:
/// it dies with the process, and the next import removes what dead ones left.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
    _lock: File,
}

impl Stage {
    /// Creates a stage in `destination`, which is made if missing, and reclaims the stages of dead imports.
    pub fn create(destination: &Path) -> Result<Self> {
        fs::create_dir_all(destination).context("create", destination)?;
        Self::reclaim(destination)?;
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(destination)
            .context("create a folder in", destination)?
            .keep();
        let path = folder.join(".lock");
        let lock = File::create(&path).context("create", &path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).context("lock", &path)?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    fn reclaim(destination: &Path) -> Result<()> {
        for entry in fs::read_dir(destination).context("read", destination)? {
            let path = entry.context("read", destination)?.path();
            let is_stage = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(PREFIX));
            if !is_stage {
                continue;
            }
            // A folder without its lock file may be one that is just being made: it is left to the run after an hour.
            let dead = match File::open(path.join(".lock")) {
                Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
                Err(_) => fs::metadata(&path)
                    .and_then(|m| m.modified())
                    .is_ok_and(|t| t.elapsed().is_ok_and(|age| age.as_secs() > 3600)),
            };
            if dead {
                let _ = fs::remove_dir_all(&path);
            }
        }
        Ok(())
    }

    /// Makes every file and folder of the stage durable.
    pub fn sync(&self) -> Result<()> {
        sync_tree(&self.folder)
    }

    /// Free bytes of the filesystem that `path`, or the nearest folder above it, is on.
    pub fn free_bytes(path: &Path) -> Result<u64> {
        let stat = rustix::fs::statvfs(path).context("find the free space of", path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The folders at and above `path` that do not exist, deepest first.
    pub fn folders_missing(path: &Path) -> Vec<PathBuf> {
        path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_path_buf).collect()
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

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).context("read", folder)? {
        let entry = entry.context("read", folder)?;
        let path = entry.path();
        if entry.file_type().context("stat", &path)?.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).context("open", &path)?.sync_all().context("fsync", &path)?;
        }
    }
    sync_folder(folder)
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).context("open", folder)?.sync_all().context("fsync", folder)
}

/// Renames a durable directory into place; an existing one is exchanged with `force`, else kept.
///
/// # Errors
/// [`Error::AlreadyExists`] without `force`.
pub fn place_directory(staged: &Path, target: &Path, force: bool) -> Result<Placed> {
    let folder = target.parent().unwrap_or(Path::new("."));
    make_folders(folder)?;
    match renameat_with(CWD, staged, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) if force => {
            renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE).context("exchange with", target)?;
        }
        Err(rustix::io::Errno::EXIST) => return Err(Error::AlreadyExists { path: target.into() }),
        Err(e) => return Err(Error::io("rename into", target, e.into())),
    }
    sync_folder(folder)?;
    Ok(Placed::Placed)
}

/// Renames a durable file into place; an equal one is kept, a different one replaced with `force`.
///
/// # Errors
/// [`Error::Different`] without `force`.
pub fn place_file(staged: &Path, target: &Path, force: bool) -> Result<Placed> {
    let folder = target.parent().unwrap_or(Path::new("."));
    make_folders(folder)?;
    match renameat_with(CWD, staged, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {
            if same_contents(staged, target)? {
                return Ok(Placed::AlreadyThere);
            }
            if !force {
                return Err(Error::Different {
                    path: target.into(),
                    existing: "other contents".into(),
                    incoming: "this image-cache file".into(),
                });
            }
            fs::rename(staged, target).context("rename into", target)?;
        }
        Err(e) => return Err(Error::io("rename into", target, e.into())),
    }
    sync_folder(folder)?;
    Ok(Placed::Placed)
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

/// Makes missing folders durable, each with its name in the one above.
fn make_folders(folder: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    if let Some(above) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_folders(above)?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::io("create", folder, e)),
        _ => {}
    }
    match folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(above) => sync_folder(above),
        None => Ok(()),
    }
}

/// Makes the folder of a group with its `group.json`.
pub fn prepare_group(folder: &Path) -> Result<()> {
    make_folders(folder)?;
    let path = folder.join("group.json");
    if path.exists() {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut file = tempfile::NamedTempFile::new_in(folder).context("create a file in", folder)?;
    file.write_all(serde_json::json!({ "name": name }).to_string().as_bytes()).context("write", &path)?;
    file.as_file().sync_all().context("fsync", &path)?;
    match file.persist_noclobber(&path) {
        Err(e) if e.error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("create", &path, e.error)),
        _ => sync_folder(folder),
    }
}

/// Writes a member's alias into its (staged) directory.
pub fn write_member(directory: &Path, alias: &SnapshotName) -> Result<()> {
    let path = directory.join("group-member.json");
    let mut file = File::create(&path).context("create", &path)?;
    file.write_all(serde_json::json!({ "alias": alias }).to_string().as_bytes()).context("write", &path)?;
    file.sync_all().context("fsync", &path)?;
    sync_folder(directory)
}

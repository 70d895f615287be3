//! Publishing: what is written beside its destination appears there whole, by one rename, or not at all.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};

use crate::{
    error::{Error, IoContext, Result},
    fixed_folder, immutable,
    rename::{exchange_failed, is_unsupported},
    temporary,
};

/// A temporary file or tree beside its destination; removed when dropped unpublished.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    destination: PathBuf,
    parent: PathBuf,
    force: bool,
    armed: bool,
    /// Says that we live.
    lock: Option<File>,
}

const SUFFIX: &str = ".partial";

impl Partial {
    /// For `destination`, whose missing parent folders are created. What dead exports to it left is removed.
    fn new(
        destination: &Path,
        force: bool,
        make: impl FnOnce(&Path, &OsStr) -> Result<(PathBuf, File)>,
    ) -> Result<Self> {
        let name = destination
            .file_name()
            .ok_or_else(|| Error::Usage(format!("{} does not name a file", destination.display())))?;
        let parent = match destination.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        create_folders(&parent)?;
        // A name near the limit of 255 bytes must not become unusable by our addition.
        let short: OsString = match name.to_str() {
            Some(text) => text.chars().take(40).collect::<String>().into(),
            None => OsStr::from_bytes(&name.as_bytes()[..name.len().min(160)]).to_owned(),
        };
        let mut prefix = OsString::from(".");
        prefix.push(short);
        prefix.push(".snapcask-");
        temporary::reclaim(&parent, &prefix, SUFFIX)?;
        let (path, lock) = make(&parent, &prefix)?;
        Ok(Self { path, destination: destination.to_path_buf(), parent, force, armed: true, lock: Some(lock) })
    }

    /// A new empty file that will become `destination`.
    pub(super) fn file(destination: &Path, force: bool) -> Result<(Self, File)> {
        refuse_existing_file(destination, force)?;
        let make = |parent: &Path, prefix: &OsStr| temporary::make_file(parent, prefix, SUFFIX, 0o666);
        let partial = Self::new(destination, force, make)?;
        let file = File::options().read(true).write(true).open(&partial.path).context("open", &partial.path)?;
        Ok((partial, file))
    }

    /// A new empty folder that will become `destination`.
    pub(super) fn folder(destination: &Path, force: bool) -> Result<Self> {
        if let Some(above) = destination.parent().filter(|above| above.is_dir()) {
            fixed_folder::complete_dead(above, |_| Ok(Some(())))?;
        }
        refuse_existing_folder(destination, force)?;
        let make = |parent: &Path, prefix: &OsStr| temporary::make_folder(parent, prefix, SUFFIX, 0o777);
        Self::new(destination, force, make)
    }

    /// Where it is now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it will be.
    pub(super) fn destination(&self) -> &Path {
        &self.destination
    }

    /// Renames the file, which the caller has fsynced, to its destination.
    pub(super) fn publish_file(mut self) -> Result<()> {
        refuse_existing_file(&self.destination, self.force)?;
        let (from, to) = (&self.path.clone(), &self.destination.clone());
        match temporary::publish(|| rename_new(from, to)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.force => match self.exchange() {
                // A filesystem without exchanges: the old file is gone with the rename.
                Err(Error::Io { source, .. }) if is_unsupported(&source) => {
                    temporary::publish(|| fs::rename(from, to)).context("rename to", to)?;
                    self.armed = false;
                    return sync_folder(&self.parent);
                }
                other => return other,
            },
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists { path: to.clone() });
            }
            Err(e) => return Err(Error::io("rename to", to, e)),
        }
        self.appeared()
    }

    /// Makes the new name durable. One that may not last is taken back, and what had it goes when `self` is dropped.
    fn appeared(mut self) -> Result<()> {
        let synced = sync_folder(&self.parent);
        self.armed = synced.is_err() && self.take_back().is_ok();
        synced
    }

    /// Gives it its temporary name again, which is nobody else's.
    fn take_back(&self) -> io::Result<()> {
        match rename_new(&self.destination, &self.path) {
            // Of a folder there is no second name.
            Err(_) if self.destination.is_dir() && !self.path.exists() => fs::rename(&self.destination, &self.path),
            other => other,
        }
    }

    /// Exchanges the two names durably: a crash leaves the old or the new, and so does an fsync that fails. What is under
    /// the temporary name then goes when `self` is dropped.
    fn exchange(&self) -> Result<()> {
        let (from, to) = (&self.path, &self.destination);
        let exchange = || rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE);
        temporary::publish(|| {
            exchange().context("exchange with", to)?;
            sync_folder(&self.parent).map_err(|error| match exchange() {
                Ok(()) => error,
                Err(_) => temporary::keep(from, error),
            })
        })
    }

    /// Takes the place of a layout that cannot be exchanged, which is none without its index.
    fn replace_file_by_file(&mut self) -> Result<()> {
        let name = self.destination.file_name().unwrap_or_default();
        let target = self.parent.join(name);
        fixed_folder::replace(&self.parent, &self.path, &target, &["index.json"])?;
        self.armed = false;
        Ok(())
    }

    /// Renames the folder, which the caller has fsynced with all that is in it, to its destination.
    pub(super) fn publish_folder(mut self) -> Result<()> {
        refuse_existing_folder(&self.destination, self.force)?;
        let exists = Error::AlreadyExists { path: self.destination.clone() };
        if self.force && !is_vacant(&self.destination)? {
            return match self.exchange() {
                Err(error) if fixed_folder::is_fixed(&error) => self.replace_file_by_file(),
                exchanged => exchanged.map_err(|error| exchange_failed(error, &self.destination)),
            };
        }
        // rename(2) takes a missing destination or an empty folder, and refuses all else.
        match temporary::publish(|| rustix::fs::rename(&self.path, &self.destination)) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => return Err(exists),
            Err(e) => return Err(Error::io("rename to", &self.destination, e.into())),
        }
        self.appeared()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.armed || !temporary::is_ours(&self.path) {
            return temporary::forget(&self.path);
        }
        let removed = match fs::symlink_metadata(&self.path) {
            Ok(m) if m.is_dir() => temporary::remove_tree(&self.path, &mut self.lock),
            Ok(_) => fs::remove_file(&self.path),
            Err(e) => Err(e),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary file");
        }
        temporary::forget(&self.path);
    }
}

/// rename(2) that never replaces; with link(2) where the filesystem cannot.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(e) if is_unsupported(&e.into()) => {
            fs::hard_link(from, to)?;
            // An error means that `to` is not there.
            fs::remove_file(from).inspect_err(|_| {
                let _ = fs::remove_file(to);
            })
        }
        other => Ok(other?),
    }
}

fn kind_of(path: &Path) -> Result<Option<fs::FileType>> {
    match fs::symlink_metadata(path) {
        Ok(m) => Ok(Some(m.file_type())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

fn refuse_existing_file(path: &Path, force: bool) -> Result<()> {
    match kind_of(path)? {
        None => Ok(()),
        Some(kind) if kind.is_dir() => Err(Error::io("replace", path, Errno::ISDIR.into())),
        Some(kind) if !kind.is_file() && is_special(path)? => {
            let reason = "it is a device, a pipe or a socket, which is not replaced; write to - and redirect it there";
            Err(Error::UnsafePath { path: path.to_path_buf(), reason })
        }
        Some(_) if force => Ok(()),
        Some(_) => Err(Error::AlreadyExists { path: path.to_path_buf() }),
    }
}

/// Whether something is there, or at the end of a link, that is neither a file nor a folder.
fn is_special(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(meta) => Ok(!meta.is_file() && !meta.is_dir()),
        // A link to nowhere.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

/// `--force` deletes a whole tree, so it only takes one that is a layout: a slip of the keyboard is no `rm -r`.
fn refuse_existing_folder(path: &Path, force: bool) -> Result<()> {
    match kind_of(path)? {
        None => Ok(()),
        Some(kind) if kind.is_dir() => {
            if is_vacant(path)? {
                Ok(())
            } else if !force {
                Err(Error::AlreadyExists { path: path.to_path_buf() })
            } else if kind_of(&path.join("oci-layout"))?.is_some() {
                immutable::refuse("replace", path)
            } else {
                Err(Error::Usage(format!("{} is not an OCI layout; it is not replaced, even by force", path.display())))
            }
        }
        Some(_) if force => Err(Error::io("replace", path, Errno::NOTDIR.into())),
        Some(_) => Err(Error::AlreadyExists { path: path.to_path_buf() }),
    }
}

/// Whether there is nothing, or an empty folder.
pub(super) fn is_vacant(path: &Path) -> Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Error::io("list", path, e)),
    }
}

/// Makes a folder's entries durable.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).context("fsync", path)
}

/// Creates the missing ones of `path` and the folders above it, durably.
fn create_folders(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|p| {
            !p.as_os_str().is_empty() && matches!(fs::metadata(p), Err(e) if e.kind() == io::ErrorKind::NotFound)
        })
        .collect();
    for folder in missing.into_iter().rev() {
        match temporary::publish(|| fs::create_dir(folder)) {
            Ok(()) => {}
            // Another process may have been faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", folder, e)),
        }
        let above = match folder.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        sync_folder(above)?;
    }
    Ok(())
}

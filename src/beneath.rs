//! Files below a folder, reached from the folder's handle without following a symbolic link on the way.
//!
//! The folder itself may be reached through links: its owner chose it. What is below it may have been put there by
//! anyone, a link as little as a file.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use crate::error::{Error, IoContext, Result};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens `relative` below `root` by `openat2`, which follows no link; where the kernel or a sandbox lacks it, one component
/// at a time.
///
/// # Errors
/// `LOOP` where a link is on the way, `NOTDIR` where a folder is none.
pub fn open_at(root: impl AsFd, relative: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, relative, flags, Mode::empty(), resolve) {
        // AGAIN says that something was renamed meanwhile.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN | Errno::INVAL) => walk(root.as_fd(), relative, flags),
        other => other,
    }
}

/// What `openat2` does, one component at a time.
fn walk(root: BorrowedFd, relative: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut at = rustix::fs::openat(root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mut components = relative.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        if components.peek().is_none() {
            return rustix::fs::openat(&at, name, flags, Mode::empty());
        }
        let next = rustix::fs::openat(&at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        at = next;
    }
    Err(Errno::NOENT)
}

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder at `path`, wherever links lead.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let handle = rustix::fs::open(path, FOLDER, Mode::empty()).context("open", path)?;
        Ok(Self { handle, path: path.into() })
    }

    /// Its handle, for what is done by name in it.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// How messages name it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path leads to it, as it did when it was opened.
    pub fn is_at_its_path(&self) -> bool {
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let ours = rustix::fs::fstat(&self.handle).map(identity);
        ours.is_ok() && ours == rustix::fs::stat(&self.path).map(identity)
    }

    fn error(&self, operation: &'static str, relative: &Path, errno: Errno) -> Error {
        let path = self.path.join(relative);
        let reason = match errno {
            Errno::LOOP => "a symbolic link is there or on the way, and none is followed below a store",
            Errno::NOTDIR => "what should be a folder is none",
            // Of a file, that its device is gone.
            Errno::NXIO | Errno::NODEV if self.kind_of(relative) != Some(FileType::RegularFile) => {
                "it is not a regular file"
            }
            Errno::XDEV => "it is not below its folder",
            _ => return Error::Io { operation, path, source: errno.into() },
        };
        Error::UnsafePath { path, reason }
    }

    /// Opens a regular file below it.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] for a link on the way or anything that is no regular file; [`Error::Io`].
    pub fn file(&self, relative: impl AsRef<Path>, flags: OFlags) -> Result<File> {
        let relative = relative.as_ref();
        // O_NONBLOCK: a FIFO must be refused, not waited for.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open_at(&self.handle, relative, flags).map_err(|e| self.error("open", relative, e))?;
        let kind = rustix::fs::fstat(&file).map_err(|e| self.error("look at", relative, e))?;
        if FileType::from_raw_mode(kind.st_mode) != FileType::RegularFile {
            return Err(self.error("open", relative, Errno::NXIO));
        }
        Ok(file.into())
    }

    /// The folder `relative` below it; none where it, or one above it, does not exist. Empty: this one.
    ///
    /// # Errors
    /// [`Error::UnsafePath`] for a link on the way.
    pub fn folder(&self, relative: impl AsRef<Path>) -> Result<Option<Self>> {
        let relative = relative.as_ref();
        let path = self.path.join(relative);
        let handle = if relative.as_os_str().is_empty() {
            rustix::fs::openat(&self.handle, ".", FOLDER, Mode::empty())
        } else {
            open_at(&self.handle, relative, FOLDER)
        };
        match handle {
            Ok(handle) => Ok(Some(Self { handle, path })),
            Err(Errno::NOENT) => Ok(None),
            // A link that is asked to be a folder is no folder.
            Err(Errno::NOTDIR) if self.is_link(relative) => Err(self.error("open", relative, Errno::LOOP)),
            Err(e) => Err(self.error("open", relative, e)),
        }
    }

    fn is_link(&self, relative: &Path) -> bool {
        self.kind_of(relative) == Some(FileType::Symlink)
    }

    fn kind_of(&self, relative: &Path) -> Option<FileType> {
        let stat = open_at(&self.handle, relative, OFlags::PATH).and_then(rustix::fs::fstat).ok()?;
        Some(FileType::from_raw_mode(stat.st_mode))
    }

    /// The folder `relative` below it, made where it is missing; each name is durable.
    ///
    /// # Errors
    /// As [`Self::folder`].
    pub fn make(&self, relative: impl AsRef<Path>) -> Result<Self> {
        let mut at = Self {
            handle: rustix::fs::openat(&self.handle, ".", FOLDER, Mode::empty()).context("open", &self.path)?,
            path: self.path.clone(),
        };
        for component in relative.as_ref().components() {
            let name = Path::new(component.as_os_str());
            if let Some(next) = at.folder(name)? {
                at = next;
                continue;
            }
            match rustix::fs::mkdirat(&at.handle, name, Mode::from_raw_mode(0o777)) {
                Ok(()) => at.sync()?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(at.error("create", name, e)),
            }
            at = at.folder(name)?.ok_or_else(|| at.error("open", name, Errno::NOENT))?;
        }
        Ok(at)
    }

    /// What stands in it, in no order, without `.` and `..`: every name with what it is; of a link, the link.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn entries(&self) -> Result<Vec<(OsString, Stat)>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.handle).context("read", &self.path)? {
            let entry = entry.context("read", &self.path)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW);
            found.push((name.to_owned(), stat.context("look at", self.path.join(name))?));
        }
        Ok(found)
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.handle).context("fsync", &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn both_ways_agree() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "x").unwrap();
        fs::write(temp.path().join("secret"), "x").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("a", root.join("link")).unwrap();
        let folder = Folder::open(&root).unwrap();
        for (path, good) in [
            ("a/b/file", true),
            ("out", false),
            ("link/b/file", false),
            ("../secret", false),
            ("a/../../secret", false),
            ("/etc/passwd", false),
            ("a/b/none", false),
            ("a/b/file/x", false),
        ] {
            let path = Path::new(path);
            assert_eq!(open_at(&folder.handle, path, OFlags::RDONLY).is_ok(), good, "{path:?}");
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            assert_eq!(walk(folder.handle(), path, flags).is_ok(), good, "{path:?}");
        }
    }

    #[test]
    fn folders_are_made_but_not_through_links() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("real")).unwrap();
        symlink("real", temp.path().join("link")).unwrap();
        fs::write(temp.path().join("file"), "").unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        assert_eq!(folder.make("x/y/z").unwrap().path(), temp.path().join("x/y/z"));
        assert!(folder.folder("x/none").unwrap().is_none());
        for bad in ["link", "link/x", "file", "file/x", "../x"] {
            let error = folder.make(bad).unwrap_err();
            assert!(matches!(error, Error::UnsafePath { .. } | Error::Io { .. }), "{bad}: {error}");
        }
        assert_eq!(fs::read_dir(temp.path().join("real")).unwrap().count(), 0);
    }
}

//! A layout directory, read. Every file is opened from the directory's handle without following a symlink.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

use super::{BLOBS, check_oci_layout, read_document};
use crate::{
    error::{Error, IoContext, Result},
    model::{Descriptor, Index},
    storage::{Blob, ReadOnlyStorage, Source},
    verify::VerifyReader,
};

pub(super) struct DirLayout {
    root: OwnedFd,
    path: PathBuf,
    index: Index,
}

impl DirLayout {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).context("open", path)?;
        let mut layout = Self { root, path: path.into(), index: Index::new(Vec::new()) };
        check_oci_layout(&layout.document("oci-layout")?)?;
        layout.index = Index::parse(&layout.document("index.json")?, "index.json")?;
        Ok(layout)
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let Some((file, size)) = self.file(name)? else {
            return Err(Error::bundle(
                self.path.display().to_string(),
                format!("it has no {name}; it is no OCI layout"),
            ));
        };
        read_document(file, size, name)
    }

    /// A regular file of the layout and its size; none if it is missing.
    fn file(&self, name: &str) -> Result<Option<(File, u64)>> {
        let full = self.path.join(name);
        let file = match open_beneath(&self.root, name) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(Error::bundle(full.display().to_string(), "a symlink in a layout is refused"));
            }
            Err(e) => return Err(Error::io("open", full, e.into())),
        };
        let meta = file.metadata().context("stat", &full)?;
        if !meta.is_file() {
            return Err(Error::bundle(full.display().to_string(), "it is not a regular file"));
        }
        Ok(Some((file, meta.len())))
    }
}

/// Opens without following symlinks in any component; component by component where the kernel has no `openat2`.
fn open_beneath(root: &OwnedFd, name: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat2(root, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOSYS | Errno::PERM) => {}
        other => return other,
    }
    let mut at: Option<OwnedFd> = None;
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { flags | OFlags::DIRECTORY } else { flags };
        let next = match &at {
            Some(folder) => openat(folder, part, flags, Mode::empty())?,
            None => openat(root, part, flags, Mode::empty())?,
        };
        at = Some(next);
    }
    at.ok_or(Errno::NOENT)
}

impl ReadOnlyStorage for DirLayout {
    fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        let found = self.file(&format!("{BLOBS}{}", descriptor.digest.hex()))?;
        Ok(found.is_some_and(|(_, size)| size == descriptor.size))
    }

    fn fetch<'a>(&'a self, descriptor: &Descriptor) -> Result<Blob<'a>> {
        match self.file(&format!("{BLOBS}{}", descriptor.digest.hex()))? {
            None => Err(Error::MissingBlob { digest: descriptor.digest, role: descriptor.media_type.clone() }),
            Some((_, size)) if size != descriptor.size => Err(Error::CorruptBlob {
                digest: descriptor.digest,
                reason: format!("it has {size} bytes, its descriptor says {}", descriptor.size),
            }),
            Some((file, _)) => Ok(VerifyReader::new(Box::new(file), descriptor)),
        }
    }
}

impl Source for DirLayout {
    fn index(&self) -> &Index {
        &self.index
    }

    fn display(&self) -> String {
        self.path.display().to_string()
    }
}

//! Reading a layout directory.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{UNRECOGNISED, check_layout, wrong_size};
use crate::{
    beneath,
    error::{Error, IoContext, Result},
    model::{Descriptor, Index, json::MAX_DOCUMENT},
    storage::{Blob, ReadOnlyStorage, Source},
    verify::VerifyReader,
};

/// A layout directory. Files in it are opened relative to its handle; no symlink in it is followed.
pub(super) struct DirSource {
    path: PathBuf,
    root: OwnedFd,
    index: Index,
}

impl DirSource {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .context("open", path)?;
        let mut source = Self { path: path.to_path_buf(), root, index: Index::new(Vec::new()) };
        let Some(layout) = source.document("oci-layout")? else {
            return Err(Error::bundle(path.display().to_string(), UNRECOGNISED));
        };
        check_layout(&layout, &source.name_of("oci-layout"))?;
        let Some(index) = source.document("index.json")? else {
            return Err(Error::bundle(source.name_of("index.json"), "it is missing"));
        };
        source.index = Index::parse(&index, &source.name_of("index.json"))?;
        Ok(source)
    }

    fn name_of(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// A regular file in it and its size; `None` if there is none of the name.
    fn file(&self, name: &str) -> Result<Option<(File, u64)>> {
        // O_NONBLOCK: a FIFO must be refused, not waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = beneath::open_at(&self.root, Path::new(name), flags);
        let refuse = |reason| Err(Error::bundle(self.name_of(name), reason));
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return refuse("it is reached through a symbolic link"),
            Err(Errno::NOTDIR) => return refuse("what should be a folder above it is none"),
            Err(Errno::NXIO | Errno::NODEV) => return refuse("it is not a regular file"),
            Err(e) => return Err(Error::io("open", self.path.join(name), e.into())),
        };
        let metadata = file.metadata().context("look at", self.path.join(name))?;
        if !metadata.is_file() {
            return refuse("it is not a regular file");
        }
        Ok(Some((file, metadata.len())))
    }

    /// A small file's bytes.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some((file, size)) = self.file(name)? else { return Ok(None) };
        if size > MAX_DOCUMENT {
            return Err(Error::Limit {
                what: format!("the size of {}", self.name_of(name)),
                value: size,
                limit: MAX_DOCUMENT,
                hint: "",
            });
        }
        let mut bytes = Vec::new();
        // It may grow meanwhile; one byte more makes the parser refuse it.
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).context("read", self.path.join(name))?;
        Ok(Some(bytes))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Option<(File, u64)>> {
        self.file(&format!("blobs/sha256/{}", descriptor.digest.hex()))
    }
}

impl ReadOnlyStorage for DirSource {
    fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.blob(descriptor)?.is_some_and(|(_, size)| size == descriptor.size))
    }

    fn fetch<'a>(&'a self, descriptor: &Descriptor) -> Result<Blob<'a>> {
        match self.blob(descriptor)? {
            None => Err(Error::MissingBlob { digest: descriptor.digest, role: descriptor.media_type.clone() }),
            Some((_, size)) if size != descriptor.size => Err(wrong_size(descriptor, size)),
            Some((file, _)) => Ok(VerifyReader::new(Box::new(file), descriptor)),
        }
    }
}

impl Source for DirSource {
    fn index(&self) -> &Index {
        &self.index
    }

    fn display(&self) -> String {
        self.path.display().to_string()
    }
}

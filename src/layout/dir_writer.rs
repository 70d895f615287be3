//! A layout directory, written beside its place and renamed into it at the end.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::BLOBS;
use crate::{
    digest::{Digest, Hasher},
    error::{Error, IoContext, Result},
    model::{Descriptor, Index, manifest::OCI_LAYOUT},
    storage::{BlobWriter, Target},
};

pub(super) struct DirWriter {
    partial: tempfile::TempDir,
    path: PathBuf,
    force: bool,
    blobs: HashMap<Digest, u64>,
}

/// The folder that a destination is in; missing ones are made.
pub(super) fn folder_of(path: &Path) -> Result<PathBuf> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&folder).context("create", &folder)?;
    Ok(folder)
}

fn occupied(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Ok(meta) if meta.is_dir() => Ok(fs::read_dir(path).context("read", path)?.next().is_some()),
        other => other.context("stat", path).map(|_| true),
    }
}

impl DirWriter {
    pub(super) fn create(path: &Path, force: bool) -> Result<Self> {
        // `DIR/` and `DIR` are one place.
        let path: PathBuf = path.components().collect();
        if !force && occupied(&path)? {
            return Err(Error::AlreadyExists { path });
        }
        let folder = folder_of(&path)?;
        let partial = tempfile::Builder::new()
            .prefix(".snapcask-")
            .suffix(".partial")
            .tempdir_in(&folder)
            .context("create a folder in", &folder)?;
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(partial.path(), mode).context("set the mode of", partial.path())?;
        let blobs = partial.path().join(BLOBS);
        fs::create_dir_all(&blobs).context("create", &blobs)?;
        Ok(Self { partial, path, force, blobs: HashMap::new() })
    }

    fn document(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.path().join(name);
        let mut file = File::create_new(&path).context("create", &path)?;
        file.write_all(bytes).context("write", &path)?;
        file.sync_all().context("fsync", &path)
    }
}

impl Target for DirWriter {
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>> {
        let path = self.partial.path().join(BLOBS).join(".partial");
        let file = File::create(&path).context("create", &path)?;
        Ok(Box::new(DirBlob { writer: self, file, path, hasher: Hasher::new(), size: 0 }))
    }

    fn contains(&self, descriptor: &Descriptor) -> bool {
        self.blobs.get(&descriptor.digest) == Some(&descriptor.size)
    }

    fn finish(self: Box<Self>, index: &Index) -> Result<()> {
        self.document("oci-layout", OCI_LAYOUT)?;
        self.document("index.json", &index.encode())?;
        for folder in ["blobs/sha256", "blobs", ""] {
            sync(&self.partial.path().join(folder))?;
        }
        let (from, to) = (self.partial.path(), &self.path);
        let empty = to.is_dir() && !occupied(to)?;
        let renamed = if empty {
            fs::rename(from, to)
        } else {
            renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from)
        };
        match renamed {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.force => {
                renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).context("exchange with", to)?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists { path: to.clone() });
            }
            Err(e) => return Err(Error::io("rename into", to, e)),
        }
        sync(&folder_of(to)?)
        // What was exchanged now has the temporary name, and goes with it.
    }
}

pub(super) fn sync(folder: &Path) -> Result<()> {
    File::open(folder).context("open", folder)?.sync_all().context("fsync", folder)
}

struct DirBlob<'a> {
    writer: &'a mut DirWriter,
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
}

impl Write for DirBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter for DirBlob<'_> {
    fn commit(self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        let Self { writer, file, path, hasher, size } = *self;
        let digest = hasher.finish();
        if writer.blobs.insert(digest, size).is_some() {
            fs::remove_file(&path).context("remove", &path)?;
        } else {
            file.sync_all().context("fsync", &path)?;
            let place = writer.partial.path().join(BLOBS).join(digest.hex());
            fs::rename(&path, &place).context("rename into", &place)?;
        }
        Ok(Descriptor::new(media_type, digest, size))
    }
}

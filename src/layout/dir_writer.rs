//! Writing a layout directory.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    index_bytes,
    output::Output,
    publish::{Partial, sync_folder},
};
use crate::{
    digest::{Digest, Hasher},
    error::{IoContext, Result},
    model::{Descriptor, Index, manifest::OCI_LAYOUT},
    storage::{BlobWriter, Target},
};

/// A layout directory being written, under a temporary name.
pub(super) struct DirTarget {
    partial: Partial,
    blobs: HashMap<Digest, u64>,
    started: u64,
}

impl DirTarget {
    pub(super) fn create(path: &Path, force: bool) -> Result<Self> {
        let partial = Partial::folder(path, force)?;
        for folder in ["blobs", "blobs/sha256"] {
            let folder = partial.path().join(folder);
            fs::create_dir(&folder).context("create", &folder)?;
        }
        let target = Self { partial, blobs: HashMap::new(), started: 0 };
        target.write_document("oci-layout", OCI_LAYOUT)?;
        Ok(target)
    }

    fn write_document(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.path().join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).context("create", &path)?;
        file.write_all(bytes).context("write", &path)?;
        file.sync_all().context("fsync", &path)
    }
}

impl Target for DirTarget {
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>> {
        self.started += 1;
        let path = self.partial.path().join(format!("blobs/.{}.partial", self.started));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).context("create", &path)?;
        Ok(Box::new(DirBlob {
            target: self,
            path,
            output: Output::new(file),
            hasher: Hasher::new(),
            size: 0,
            kept: false,
        }))
    }

    fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.blobs.get(&descriptor.digest) == Some(&descriptor.size))
    }

    fn sent(&self) -> u64 {
        self.blobs.values().sum()
    }

    fn finish(self: Box<Self>, index: &Index) -> Result<Vec<Option<String>>> {
        let bytes = index_bytes(index, self.partial.destination())?;
        self.write_document("index.json", &bytes)?;
        // Inside out: a name must not be durable before what it names.
        for folder in ["blobs/sha256", "blobs", ""] {
            sync_folder(&self.partial.path().join(folder))?;
        }
        self.partial.publish_folder()?;
        Ok(index.tags())
    }
}

struct DirBlob<'a> {
    target: &'a mut DirTarget,
    path: PathBuf,
    output: Output,
    hasher: Hasher,
    size: u64,
    kept: bool,
}

impl Write for DirBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.append(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl BlobWriter for DirBlob<'_> {
    fn commit(mut self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let descriptor = Descriptor::new(media_type, digest, self.size);
        if !self.target.blobs.contains_key(&digest) {
            self.output.sync().context("fsync", &self.path)?;
            let name = self.target.partial.path().join("blobs/sha256").join(digest.hex());
            fs::rename(&self.path, &name).context("rename to", &name)?;
            self.kept = true;
            self.target.blobs.insert(digest, self.size);
        }
        Ok(descriptor)
    }
}

impl Drop for DirBlob<'_> {
    fn drop(&mut self) {
        // A leftover would be published with the folder.
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary file");
        }
    }
}

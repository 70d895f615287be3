//! Writing a tar or a tar in zstd frames, to a file or to a pipe.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

use tokio_tar::{EntryType, Header};

use super::{
    index_bytes,
    output::Output,
    publish::Partial,
    zstd_frames::{Framer, STORED_HEADER},
};
use crate::{
    digest::{Digest, Hasher},
    error::{Error, IoContext, Result},
    model::{Descriptor, Index, manifest::OCI_LAYOUT},
    storage::{BlobWriter, Target},
    temporary::in_temp,
};

const BLOCK: usize = 512;
const ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
const STDOUT: &str = "standard output";

/// Where an archive's bytes go.
trait Sink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Sink for Output {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        Output::append(self, bytes)
    }
}

impl Sink for BufWriter<File> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }
}

/// A tar's entries, framed or not.
struct Archive<S> {
    sink: S,
    framer: Option<Framer>,
}

impl<S: Sink> Archive<S> {
    fn new(sink: S, zstd_level: Option<Option<i32>>) -> io::Result<Self> {
        Ok(Self { sink, framer: zstd_level.map(Framer::new).transpose()? })
    }

    /// Headers have frames of their own, stored, so that one can be overwritten in place.
    fn header(&mut self, block: &[u8; BLOCK]) -> io::Result<()> {
        match &mut self.framer {
            Some(framer) => framer.stored(block, &mut |b| self.sink.append(b)),
            None => self.sink.append(block),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.framer {
            Some(framer) => framer.data(bytes, &mut |b| self.sink.append(b)),
            None => self.sink.append(bytes),
        }
    }

    /// Pads an entry's data to whole blocks.
    fn end_entry(&mut self, size: u64) -> io::Result<()> {
        let rest = (size % BLOCK as u64) as usize;
        if rest != 0 {
            self.data(&ZEROS[rest..BLOCK])?;
        }
        match &mut self.framer {
            Some(framer) => framer.end_frame(&mut |b| self.sink.append(b)),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(&header(name, bytes.len() as u64)?)?;
        self.data(bytes)?;
        self.end_entry(bytes.len() as u64)
    }

    /// The index, the end marker and the seek table.
    fn end(&mut self, index: &[u8]) -> io::Result<()> {
        self.entry("index.json", index)?;
        match &mut self.framer {
            Some(framer) => {
                framer.stored(&ZEROS, &mut |b| self.sink.append(b))?;
                self.sink.append(&framer.seek_table()?)
            }
            None => self.sink.append(&ZEROS),
        }
    }
}

/// A state of an archive in a file, to come back to.
#[derive(Clone, Copy)]
struct Mark {
    position: u64,
    frames: usize,
}

impl Archive<Output> {
    fn mark(&self) -> Mark {
        Mark { position: self.sink.position(), frames: self.framer.as_ref().map_or(0, Framer::frames) }
    }

    fn rollback(&mut self, mark: Mark) -> io::Result<()> {
        if let Some(framer) = &mut self.framer {
            framer.rollback(mark.frames);
        }
        self.sink.truncate(mark.position)
    }

    /// Overwrites the header that was written at `mark`.
    fn patch_header(&mut self, mark: Mark, block: &[u8; BLOCK]) -> io::Result<()> {
        let inside = if self.framer.is_some() { STORED_HEADER } else { 0 };
        self.sink.patch(block, mark.position + inside)
    }
}

fn header(name: &str, size: u64) -> io::Result<[u8; BLOCK]> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(*header.as_bytes())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An archive being written to a file, under a temporary name.
pub(super) struct TarTarget {
    archive: Archive<Output>,
    partial: Partial,
    blobs: HashMap<Digest, u64>,
    /// A blob could not be taken back: the archive is not to be published.
    broken: bool,
}

impl TarTarget {
    pub(super) fn create(path: &Path, zstd_level: Option<Option<i32>>, force: bool) -> Result<Self> {
        let (partial, file) = Partial::file(path, force)?;
        let mut archive = Archive::new(Output::new(file), zstd_level).context("set up compression for", path)?;
        archive.entry("oci-layout", OCI_LAYOUT).context("write", path)?;
        Ok(Self { archive, partial, blobs: HashMap::new(), broken: false })
    }
}

impl Target for TarTarget {
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>> {
        let mark = self.archive.mark();
        let blob = TarBlob { target: self, mark, hasher: Hasher::new(), size: 0, done: false };
        // Room for the header, which is known at commit.
        blob.target.archive.header(&[0; BLOCK]).map_err(|e| blob.failed(e))?;
        Ok(Box::new(blob))
    }

    fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.blobs.get(&descriptor.digest) == Some(&descriptor.size))
    }

    fn sent(&self) -> u64 {
        self.blobs.values().sum()
    }

    fn finish(mut self: Box<Self>, index: &Index) -> Result<Vec<Option<String>>> {
        let path = self.partial.destination().to_path_buf();
        if self.broken {
            return Err(Error::io("write", path, io::Error::other("an earlier write failed")));
        }
        let bytes = index_bytes(index, &path)?;
        self.archive.end(&bytes).context("write", &path)?;
        self.archive.sink.sync().context("fsync", &path)?;
        self.partial.publish_file()?;
        Ok(index.tags())
    }
}

struct TarBlob<'a> {
    target: &'a mut TarTarget,
    mark: Mark,
    hasher: Hasher,
    size: u64,
    done: bool,
}

impl TarBlob<'_> {
    fn failed(&self, error: io::Error) -> Error {
        Error::io("write", self.target.partial.destination(), error)
    }
}

impl Write for TarBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.target.archive.data(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for TarBlob<'_> {
    fn commit(mut self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let (size, mark) = (self.size, self.mark);
        // Dropping `self` takes a blob that is there already back.
        if !self.target.blobs.contains_key(&digest) {
            let archive = &mut self.target.archive;
            let written =
                archive.end_entry(size).and_then(|()| archive.patch_header(mark, &header(&blob_name(&digest), size)?));
            written.map_err(|e| self.failed(e))?;
            self.target.blobs.insert(digest, size);
            self.done = true;
        }
        Ok(Descriptor::new(media_type, digest, size))
    }
}

impl Drop for TarBlob<'_> {
    fn drop(&mut self) {
        if !self.done && self.target.archive.rollback(self.mark).is_err() {
            self.target.broken = true;
        }
    }
}

/// An archive being written to a pipe: a blob's header stands before it, so it waits in a spool file.
pub(super) struct PipeTarget {
    archive: Archive<BufWriter<File>>,
    spool: PathBuf,
    blobs: HashMap<Digest, u64>,
    broken: bool,
}

impl PipeTarget {
    pub(super) fn create(output: File, zstd_level: Option<Option<i32>>, spool: &Path) -> Result<Self> {
        let sink = BufWriter::with_capacity(1 << 20, output);
        let mut archive = Archive::new(sink, zstd_level).context("set up compression for", STDOUT)?;
        archive.entry("oci-layout", OCI_LAYOUT).context("write", STDOUT)?;
        Ok(Self { archive, spool: spool.to_path_buf(), blobs: HashMap::new(), broken: false })
    }

    fn send(&mut self, digest: &Digest, size: u64, mut file: &File) -> io::Result<()> {
        self.archive.header(&header(&blob_name(digest), size)?)?;
        file.rewind()?;
        let mut buffer = vec![0; 1 << 20];
        let mut left = size;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut buffer[..want])?;
            self.archive.data(&buffer[..want])?;
            left -= want as u64;
        }
        self.archive.end_entry(size)?;
        self.archive.sink.flush()
    }
}

impl PipeTarget {
    fn spool_file(&self) -> Result<File> {
        let file = tempfile::tempfile_in(&self.spool).context("create a spool file in", &self.spool);
        file.map_err(|error| if self.spool == std::env::temp_dir() { in_temp(error) } else { error })
    }
}

impl Target for PipeTarget {
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>> {
        let file = self.spool_file()?;
        Ok(Box::new(PipeBlob { target: self, output: Output::new(file), hasher: Hasher::new(), size: 0 }))
    }

    fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.blobs.get(&descriptor.digest) == Some(&descriptor.size))
    }

    fn sent(&self) -> u64 {
        self.blobs.values().sum()
    }

    fn finish(mut self: Box<Self>, index: &Index) -> Result<Vec<Option<String>>> {
        if self.broken {
            return Err(Error::io("write", STDOUT, io::Error::other("an earlier write failed")));
        }
        let bytes = index_bytes(index, Path::new(STDOUT))?;
        self.archive.end(&bytes).context("write", STDOUT)?;
        self.archive.sink.flush().context("write", STDOUT)?;
        let file = self.archive.sink.get_ref();
        // `> bundle.tar` deserves to be as durable as a path; a pipe cannot be synced.
        if file.metadata().context("look at", STDOUT)?.is_file() {
            file.sync_all().context("fsync", STDOUT)?;
        }
        Ok(index.tags())
    }
}

struct PipeBlob<'a> {
    target: &'a mut PipeTarget,
    output: Output,
    hasher: Hasher,
    size: u64,
}

impl Write for PipeBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.append(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for PipeBlob<'_> {
    fn commit(mut self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        let digest = std::mem::take(&mut self.hasher).finish();
        if !self.target.blobs.contains_key(&digest) {
            self.output.flush().context("write a spool file in", &self.target.spool)?;
            if let Err(error) = self.target.send(&digest, self.size, self.output.file()) {
                self.target.broken = true;
                return Err(Error::io("write", STDOUT, error));
            }
            self.target.blobs.insert(digest, self.size);
        }
        Ok(Descriptor::new(media_type, digest, self.size))
    }
}

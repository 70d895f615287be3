//! The outer tar, written: plain, or in zstd frames. A blob's header is written in place when its size is known; only
//! a pipe needs a spool. Blobs that are compressed already go into stored frames; every header has a frame of its own.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio_tar::{EntryType, Header};

use super::{
    BLOBS,
    dir_writer::{folder_of, sync},
};
use crate::{
    digest::{Digest, Hasher},
    error::{Error, IoContext, Result},
    model::{Descriptor, Index, manifest::OCI_LAYOUT},
    seek_table,
    storage::{BlobWriter, Target},
};

const BLOCK: u64 = 512;
/// Bytes of tar in one frame.
const FRAME: usize = 4 << 20;
/// Largest block of a zstd frame (RFC 8878, section 3.1.1.2.4).
const RAW_BLOCK: usize = 128 << 10;

fn header(name: &str, size: u64) -> [u8; BLOCK as usize] {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    *header.as_bytes()
}

fn padding(size: u64) -> &'static [u8] {
    &[0; BLOCK as usize][..(size.next_multiple_of(BLOCK) - size) as usize]
}

/// A zstd frame that stores `plain` (1 byte to 4 MiB) as it is: single segment, four bytes of content size, raw blocks.
fn stored_frame(plain: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(plain.len() + plain.len() / RAW_BLOCK * 3 + 16);
    frame.extend_from_slice(&0xFD2F_B528u32.to_le_bytes());
    frame.push(0b1010_0000);
    frame.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    let mut blocks = plain.chunks(RAW_BLOCK).peekable();
    while let Some(block) = blocks.next() {
        let word = (block.len() as u32) << 3 | u32::from(blocks.peek().is_none());
        frame.extend_from_slice(&word.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

/// Tar bytes become bytes of the output: as they are, or in frames.
enum Encoding {
    Plain,
    Framed { level: Option<i32>, pending: Vec<u8>, table: Vec<(u32, u32)> },
}

impl Encoding {
    fn new(zstd: Option<Option<i32>>) -> Self {
        match zstd {
            None => Self::Plain,
            Some(level) => Self::Framed { level, pending: Vec::new(), table: Vec::new() },
        }
    }

    /// A header, in a frame of its own.
    fn header(&mut self, block: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.flush(out)?;
        match self {
            Self::Plain => out.write_all(block),
            Self::Framed { table, .. } => {
                let frame = stored_frame(block);
                table.push((frame.len() as u32, block.len() as u32));
                out.write_all(&frame)
            }
        }
    }

    /// Where a header's bytes begin in what [`Self::header`] wrote.
    fn header_offset(&self) -> u64 {
        match self {
            Self::Plain => 0,
            // Magic, descriptor, content size, one block header.
            Self::Framed { .. } => 4 + 1 + 4 + 3,
        }
    }

    fn data(&mut self, mut bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        if matches!(self, Self::Plain) {
            return out.write_all(bytes);
        }
        while !bytes.is_empty() {
            let Self::Framed { pending, .. } = self else { break };
            let n = bytes.len().min(FRAME - pending.len());
            pending.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if pending.len() == FRAME {
                self.flush(out)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if let Self::Framed { level, pending, table } = self
            && !pending.is_empty()
        {
            let frame = match level {
                Some(level) => zstd::bulk::compress(pending, *level)?,
                None => stored_frame(pending),
            };
            table.push((frame.len() as u32, pending.len() as u32));
            pending.clear();
            out.write_all(&frame)?;
        }
        Ok(())
    }

    /// The end marker and the seek table.
    fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.data(&[0; 2 * BLOCK as usize], out)?;
        self.flush(out)?;
        match self {
            Self::Plain => Ok(()),
            Self::Framed { table, .. } => out.write_all(&seek_table::encode(table)),
        }
    }

    fn entry(&mut self, name: &str, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.header(&header(name, bytes.len() as u64), out)?;
        self.data(bytes, out)?;
        self.data(padding(bytes.len() as u64), out)
    }

    fn frames(&self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Framed { table, .. } => table.len(),
        }
    }

    /// Forgets what came after `frames` frames.
    fn rewind(&mut self, frames: usize) {
        if let Self::Framed { table, pending, .. } = self {
            table.truncate(frames);
            pending.clear();
        }
    }
}

/// To a seekable file.
pub(super) struct TarWriter {
    file: tempfile::NamedTempFile,
    path: PathBuf,
    force: bool,
    encoding: Encoding,
    blobs: HashMap<Digest, u64>,
}

impl TarWriter {
    pub(super) fn create(path: &Path, zstd: Option<Option<i32>>, force: bool) -> Result<Self> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::AlreadyExists { path: path.into() });
        }
        if path.is_dir() {
            return Err(Error::Usage(format!("{} is a folder; a tar cannot replace it", path.display())));
        }
        let folder = folder_of(path)?;
        let file = tempfile::Builder::new()
            .prefix(".snapcask-")
            .suffix(".partial")
            .tempfile_in(&folder)
            .context("create a file in", &folder)?;
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(mode).context("set the mode of", file.path())?;
        let mut encoding = Encoding::new(zstd);
        let mut out = file.as_file();
        encoding.entry("oci-layout", OCI_LAYOUT, &mut out).context("write", path)?;
        encoding.flush(&mut out).context("write", path)?;
        Ok(Self { file, path: path.into(), force, encoding, blobs: HashMap::new() })
    }

    fn position(&mut self) -> io::Result<u64> {
        self.file.as_file_mut().stream_position()
    }
}

impl Target for TarWriter {
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>> {
        let path = self.path.clone();
        let mut start = || -> io::Result<(u64, usize)> {
            let mut out = self.file.as_file();
            self.encoding.flush(&mut out)?;
            let start = self.position()?;
            let frames = self.encoding.frames();
            self.encoding.header(&[0; BLOCK as usize], &mut self.file.as_file())?;
            Ok((start, frames))
        };
        let (start, frames) = start().context("write", &path)?;
        Ok(Box::new(TarBlob { writer: self, start, frames, hasher: Hasher::new(), size: 0 }))
    }

    fn contains(&self, descriptor: &Descriptor) -> bool {
        self.blobs.get(&descriptor.digest) == Some(&descriptor.size)
    }

    fn finish(self: Box<Self>, index: &Index) -> Result<()> {
        let Self { file, path, force, mut encoding, .. } = *self;
        let mut out = file.as_file();
        encoding.entry("index.json", &index.encode(), &mut out).context("write", &path)?;
        encoding.end(&mut out).context("write", &path)?;
        file.as_file().sync_all().context("fsync", &path)?;
        let temporary = file.into_temp_path();
        let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match renameat_with(CWD, &*temporary, CWD, &path, flags) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(Error::AlreadyExists { path }),
            Err(e) => return Err(Error::io("rename into", &path, e.into())),
        }
        // The name is taken by nobody else: there is nothing left to remove.
        let _ = temporary.keep();
        sync(&folder_of(&path)?)
    }
}

struct TarBlob<'a> {
    writer: &'a mut TarWriter,
    start: u64,
    frames: usize,
    hasher: Hasher,
    size: u64,
}

impl Write for TarBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.encoding.data(bytes, &mut self.writer.file.as_file())?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for TarBlob<'_> {
    fn commit(self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        let Self { writer, start, frames, hasher, size } = *self;
        let digest = hasher.finish();
        let path = writer.path.clone();
        let mut end = || -> io::Result<()> {
            if writer.blobs.insert(digest, size).is_some() {
                writer.encoding.rewind(frames);
                writer.file.as_file().set_len(start)?;
                writer.file.as_file_mut().seek(SeekFrom::Start(start))?;
                return Ok(());
            }
            let mut out = writer.file.as_file();
            writer.encoding.data(padding(size), &mut out)?;
            writer.encoding.flush(&mut out)?;
            let block = header(&format!("{BLOBS}{}", digest.hex()), size);
            out.write_all_at(&block, start + writer.encoding.header_offset())
        };
        end().context("write", path)?;
        Ok(Descriptor::new(media_type, digest, size))
    }
}

/// To standard output: every blob waits in an unlinked file until its size and digest are known.
pub(super) struct PipeWriter {
    encoding: Encoding,
    spool: PathBuf,
    blobs: HashMap<Digest, u64>,
}

impl PipeWriter {
    pub(super) fn create(zstd: Option<Option<i32>>, spool: &Path) -> Result<Self> {
        let mut encoding = Encoding::new(zstd);
        encoding.entry("oci-layout", OCI_LAYOUT, &mut io::stdout().lock()).context("write", "standard output")?;
        Ok(Self { encoding, spool: spool.into(), blobs: HashMap::new() })
    }
}

impl Target for PipeWriter {
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>> {
        let file = tempfile::tempfile_in(&self.spool).context("create a file in", &self.spool)?;
        Ok(Box::new(PipeBlob { writer: self, file, hasher: Hasher::new(), size: 0 }))
    }

    fn contains(&self, descriptor: &Descriptor) -> bool {
        self.blobs.get(&descriptor.digest) == Some(&descriptor.size)
    }

    fn finish(mut self: Box<Self>, index: &Index) -> Result<()> {
        let mut out = io::stdout().lock();
        self.encoding.entry("index.json", &index.encode(), &mut out).context("write", "standard output")?;
        self.encoding.end(&mut out).context("write", "standard output")?;
        out.flush().context("write", "standard output")
    }
}

struct PipeBlob<'a> {
    writer: &'a mut PipeWriter,
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Write for PipeBlob<'_> {
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

impl BlobWriter for PipeBlob<'_> {
    fn commit(self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        let Self { writer, mut file, hasher, size } = *self;
        let digest = hasher.finish();
        if writer.blobs.insert(digest, size).is_none() {
            file.rewind().context("rewind", &writer.spool)?;
            let mut out = io::stdout().lock();
            let encoding = &mut writer.encoding;
            let block = header(&format!("{BLOBS}{}", digest.hex()), size);
            encoding.header(&block, &mut out).context("write", "standard output")?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = file.read(&mut buffer).context("read", &writer.spool)?;
                if n == 0 {
                    break;
                }
                encoding.data(&buffer[..n], &mut out).context("write", "standard output")?;
            }
            encoding.data(padding(size), &mut out).context("write", "standard output")?;
        }
        Ok(Descriptor::new(media_type, digest, size))
    }
}

//! The bytes of the outer tar, at any offset: a plain file, or zstd frames with a seek table.
//!
//! The seek table is untrusted: its sums must fit the file, and every frame must decompress to the size it promises.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::{
    error::{Error, IoContext, Result},
    seek_table,
};

/// Largest frame that is read in place; a stream with larger ones is spooled.
const MAX_FRAME: u64 = 8 << 20;
const FOOTER: u64 = 9;

pub(super) struct Outer {
    file: File,
    pub(super) path: PathBuf,
    pub(super) length: u64,
    frames: Option<Frames>,
}

struct Frames {
    /// (compressed offset, plain offset) of every frame, and the ends as a last entry.
    starts: Vec<(u64, u64)>,
    cache: Mutex<Cache>,
}

struct Cache {
    index: usize,
    plain: Vec<u8>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Outer {
    pub(super) fn plain(file: File, path: PathBuf) -> Result<Self> {
        let length = file.metadata().context("stat", &path)?.len();
        Ok(Self { file, path, length, frames: None })
    }

    /// None when the stream has no seek table, or frames that are too large: it must be read from the start.
    pub(super) fn seekable(file: &File, path: &Path) -> Result<Option<Self>> {
        let size = file.metadata().context("stat", path)?.len();
        let mut footer = [0; FOOTER as usize];
        if size < FOOTER + 8 {
            return Ok(None);
        }
        file.read_exact_at(&mut footer, size - FOOTER).context("read", path)?;
        if footer[5..] != seek_table::FOOTER_MAGIC.to_le_bytes() {
            return Ok(None);
        }
        let count = u64::from(u32::from_le_bytes([footer[0], footer[1], footer[2], footer[3]]));
        let entry = if footer[4] & 0x80 != 0 { 12 } else { 8 };
        let table = count * entry + FOOTER + 8;
        let fail = |reason: &str| Err(Error::bundle(path.display().to_string(), format!("its seek table {reason}")));
        if footer[4] & 0x7C != 0 || table > size {
            return fail("is malformed");
        }
        let mut bytes = vec![0; table as usize];
        file.read_exact_at(&mut bytes, size - table).context("read", path)?;
        if bytes[..4] != seek_table::FRAME_MAGIC.to_le_bytes() || bytes[4..8] != ((table - 8) as u32).to_le_bytes() {
            return fail("is malformed");
        }
        let mut starts = vec![(0, 0)];
        let (mut compressed, mut plain) = (0u64, 0u64);
        for row in bytes[8..(table - FOOTER) as usize].chunks_exact(entry as usize) {
            let c = u32::from_le_bytes([row[0], row[1], row[2], row[3]]);
            let p = u32::from_le_bytes([row[4], row[5], row[6], row[7]]);
            if u64::from(p) > MAX_FRAME || u64::from(c) > 2 * MAX_FRAME {
                return Ok(None);
            }
            compressed += u64::from(c);
            plain += u64::from(p);
            starts.push((compressed, plain));
        }
        if compressed != size - table {
            return fail("does not fit the file");
        }
        let cache = Cache {
            index: usize::MAX,
            plain: Vec::new(),
            decompressor: zstd::bulk::Decompressor::new().context("start zstd for", path)?,
        };
        let file = file.try_clone().context("duplicate the handle of", path)?;
        Ok(Some(Self {
            file,
            path: path.into(),
            length: plain,
            frames: Some(Frames { starts, cache: Mutex::new(cache) }),
        }))
    }

    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(frames) = &self.frames else { return self.file.read_at(buffer, offset) };
        if offset >= self.length || buffer.is_empty() {
            return Ok(0);
        }
        let index = frames.starts.partition_point(|(_, plain)| *plain <= offset) - 1;
        let mut cache = frames.cache.lock().unwrap_or_else(|e| e.into_inner());
        let ((from, plain_from), (to, plain_to)) = (frames.starts[index], frames.starts[index + 1]);
        if cache.index != index {
            let mut compressed = vec![0; (to - from) as usize];
            self.file.read_exact_at(&mut compressed, from)?;
            cache.index = usize::MAX;
            let plain = cache.decompressor.decompress(&compressed, (plain_to - plain_from) as usize)?;
            if plain.len() as u64 != plain_to - plain_from {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a frame is not as long as the seek table says",
                ));
            }
            cache.plain = plain;
            cache.index = index;
        }
        let start = (offset - plain_from) as usize;
        let n = buffer.len().min(cache.plain.len() - start);
        buffer[..n].copy_from_slice(&cache.plain[start..start + n]);
        Ok(n)
    }

    pub(super) fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        while !buffer.is_empty() {
            let n = self
                .read_at(buffer, offset)
                .map_err(|e| Error::bundle(self.path.display().to_string(), e.to_string()))?;
            if n == 0 {
                return Err(Error::bundle(self.path.display().to_string(), "it is cut short"));
            }
            buffer = &mut buffer[n..];
            offset += n as u64;
        }
        Ok(())
    }
}

//! Reading the outer zstd in place, by its seek table.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use zstd::bulk::Decompressor;

use super::{
    bytes::{Bytes, Cursor},
    zstd_frames::{SEEK_END, SEEK_MAGIC, stored_blocks},
};
use crate::{
    buffers::Buffer,
    error::{Error, IoContext, Result},
};

/// The largest frame that is read in place, decompressed: it is held in memory whole.
const MAX_FRAME: u64 = 8 << 20;
/// A frame of that size, compressed, at most: incompressible data grows a little.
const MAX_COMPRESSED: u64 = MAX_FRAME + (MAX_FRAME >> 7) + 4096;
/// More frames are not read in place (32 MiB of table in memory; 8 TiB in frames of 4 MiB).
const MAX_FRAMES: u64 = 1 << 21;
const FOOTER: u64 = 9;

/// A file of zstd frames with a seek table.
pub(super) struct Frames {
    file: File,
    /// Where each frame begins: in the file, in what it decompresses to. One more for the end.
    starts: Vec<(u64, u64)>,
}

impl Frames {
    /// Reads the seek table; `None` if there is none or its frames do not suit reading in place.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`]: a table that contradicts the file.
    pub(super) fn open(file: &File, length: u64, name: &str) -> Result<Option<Self>> {
        let fail = |reason: &str| Err(Error::bundle(name, format!("its zstd seek table {reason}")));
        if length < 8 + FOOTER {
            return Ok(None);
        }
        let mut footer = [0; FOOTER as usize];
        file.read_exact_at(&mut footer, length - FOOTER).context("read", name)?;
        if word(&footer, 5) != SEEK_END {
            return Ok(None);
        }
        let count = u64::from(word(&footer, 0));
        let descriptor = footer[4];
        if descriptor & 0x7c != 0 {
            return fail("has reserved bits set");
        }
        let entry = if descriptor & 0x80 != 0 { 12 } else { 8 };
        let content = count * entry + FOOTER;
        if content + 8 > length {
            return fail("is longer than the file");
        }
        let mut head = [0; 8];
        file.read_exact_at(&mut head, length - content - 8).context("read", name)?;
        if word(&head, 0) != SEEK_MAGIC || u64::from(word(&head, 4)) != content {
            return fail("does not begin where its number of frames says");
        }
        if count == 0 || count > MAX_FRAMES {
            return Ok(None);
        }
        // At most 24 MiB, and no more than the file holds.
        let mut table = vec![0; (count * entry) as usize];
        file.read_exact_at(&mut table, length - content).context("read", name)?;
        let mut starts = Vec::with_capacity(count as usize + 1);
        let (mut at, mut tar_at) = (0_u64, 0_u64);
        let mut suitable = true;
        for entry in table.chunks_exact(entry as usize) {
            let (compressed, decompressed) = (u64::from(word(entry, 0)), u64::from(word(entry, 4)));
            // An entry without content might hide some: then only reading from the beginning tells the truth.
            suitable &= decompressed != 0 && decompressed <= MAX_FRAME && compressed <= MAX_COMPRESSED;
            starts.push((at, tar_at));
            // 2^21 sizes of 32 bits do not overflow 64.
            at += compressed;
            tar_at += decompressed;
        }
        starts.push((at, tar_at));
        if at != length - content - 8 {
            return fail("does not add up to the file's length");
        }
        Ok(if suitable { Some(Self { file: file.try_clone().context("open", name)?, starts }) } else { None })
    }
}

/// A little-endian number.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

impl Bytes for Frames {
    fn size(&self) -> u64 {
        self.starts.last().map_or(0, |s| s.1)
    }

    fn cursor(&self) -> io::Result<Box<dyn Cursor + Send + '_>> {
        let decompressor = Decompressor::new()?;
        Ok(Box::new(FrameCursor {
            frames: self,
            current: None,
            data: Buffer::default(),
            stored: None,
            compressed: Buffer::default(),
            decompressor,
        }))
    }
}

struct FrameCursor<'a> {
    frames: &'a Frames,
    /// The frame that `data` holds.
    current: Option<usize>,
    data: Buffer,
    /// Of a stored frame, where its content stands in `compressed`: `data` is not filled in then.
    stored: Option<Vec<Range<usize>>>,
    compressed: Buffer,
    decompressor: Decompressor<'static>,
}

impl FrameCursor<'_> {
    fn load(&mut self, frame: usize) -> io::Result<()> {
        if self.current == Some(frame) {
            return Ok(());
        }
        self.current = None;
        let [(from, tar_from), (to, tar_to)] = match self.frames.starts.get(frame..frame + 2) {
            Some(&[a, b]) => [a, b],
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        // Bounded by MAX_COMPRESSED and MAX_FRAME when the table was read.
        if self.compressed.capacity() == 0 {
            (self.compressed, self.data) =
                (Buffer::with_capacity(MAX_FRAME as usize / 2), Buffer::with_capacity(MAX_FRAME as usize / 2));
        }
        self.compressed.resize((to - from) as usize, 0);
        self.frames.file.read_exact_at(&mut self.compressed, from)?;
        self.stored = stored_blocks(&self.compressed, (tar_to - tar_from) as usize);
        if self.stored.is_some() {
            self.current = Some(frame);
            return Ok(());
        }
        self.data.resize((tar_to - tar_from) as usize, 0);
        let corrupt = |reason: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the zstd frame at offset {from} {reason}"))
        };
        let got = self
            .decompressor
            .decompress_to_buffer(&self.compressed, &mut self.data[..])
            .map_err(|e| corrupt(format!("does not decode: {e}")))?;
        if got != self.data.len() {
            return Err(corrupt(format!("decodes to {got} bytes, the seek table says {}", self.data.len())));
        }
        self.current = Some(frame);
        Ok(())
    }
}

/// From byte `inside` of a stored frame's content to the end of its block.
fn rest_of_block(blocks: &[Range<usize>], mut inside: usize) -> Range<usize> {
    for block in blocks {
        if inside < block.len() {
            return block.start + inside..block.end;
        }
        inside -= block.len();
    }
    0..0
}

impl Cursor for FrameCursor<'_> {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.frames.size() || buffer.is_empty() {
            return Ok(0);
        }
        // No frame is empty, so exactly one holds the offset.
        let frame = self.frames.starts.partition_point(|s| s.1 <= offset).saturating_sub(1);
        self.load(frame)?;
        let inside = (offset - self.frames.starts[frame].1) as usize;
        let available = match &self.stored {
            Some(blocks) => &self.compressed[rest_of_block(blocks, inside)],
            None => &self.data[inside..],
        };
        let n = buffer.len().min(available.len());
        buffer[..n].copy_from_slice(&available[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A stored frame with blocks of this size.
    fn stored(content: &[u8], block: usize) -> Vec<u8> {
        let mut frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &(content.len() as u32).to_le_bytes()].concat();
        let blocks = content.len().div_ceil(block);
        for (i, part) in content.chunks(block).enumerate() {
            let header = u32::from(i + 1 == blocks) | (part.len() as u32) << 3;
            frame.extend(&header.to_le_bytes()[..3]);
            frame.extend(part);
        }
        frame
    }

    /// A frame of millions of blocks is decoded once, not looked through at every read.
    #[test]
    fn small_blocks_are_not_read_in_place() {
        let content: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8).collect();
        for (block, in_place) in [(1, false), ((128 << 10) / 2, false), ((128 << 10), true)] {
            let frame = stored(&content, block);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&frame).unwrap();
            file.write_all(&crate::seek_table::encode(&[(frame.len() as u32, content.len() as u32)])).unwrap();
            let length = file.metadata().unwrap().len();
            let frames = Frames::open(&file, length, "x").unwrap().unwrap();
            assert_eq!(stored_blocks(&frame, content.len()).is_some(), in_place, "{block}");
            let mut read = vec![0; content.len()];
            frames.cursor().unwrap().read_exact_at(&mut read, 0).unwrap();
            assert!(read == content, "{block}");
        }
    }
}

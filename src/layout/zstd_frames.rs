//! Writing the outer zstd: independent frames, stored or compressed, and a seek table.

use std::{io, ops::Range};

use zstd::bulk::Compressor;

/// Bytes of tar in a frame, at most.
pub(super) const FRAME: usize = 4 << 20;
/// The largest raw block that the format allows.
const BLOCK: usize = 128 << 10;
/// The magic number of a frame.
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The magic number of the skippable frame that holds a seek table.
pub(super) const SEEK_MAGIC: u32 = 0x184d_2a5e;
/// What a seek table ends with.
pub(super) const SEEK_END: u32 = 0x8f92_eab1;
/// Where the content of a stored frame of one block begins: magic, descriptor, content size, block header.
pub(super) const STORED_HEADER: u64 = 4 + 1 + 4 + 3;
/// Frame header descriptor: a content size of four bytes, single segment, no checksum, no dictionary.
const DESCRIPTOR: u8 = 0b1010_0000;

/// Cuts a stream into frames and remembers their sizes.
pub(super) struct Framer {
    pending: Vec<u8>,
    /// Compressed and decompressed size of each frame.
    table: Vec<[u32; 2]>,
    compressor: Option<Compressor<'static>>,
}

impl Framer {
    /// Frames that are stored or, with a level, compressed.
    pub(super) fn new(level: Option<i32>) -> io::Result<Self> {
        Ok(Self { pending: Vec::new(), table: Vec::new(), compressor: level.map(Compressor::new).transpose()? })
    }

    /// Takes in data; full frames go to `sink`.
    pub(super) fn data(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(FRAME - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = rest;
            if self.pending.len() == FRAME {
                self.end_frame(sink)?;
            }
        }
        Ok(())
    }

    /// Ends the frame that is being gathered, if there is one.
    pub(super) fn end_frame(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let frame = match &mut self.compressor {
            Some(compressor) => compressor.compress(&pending)?,
            None => stored(&pending)?,
        };
        self.note(&frame, &pending)?;
        pending.clear();
        self.pending = pending;
        sink(&frame)
    }

    /// A stored frame of its own, whatever the level.
    pub(super) fn stored(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.end_frame(sink)?;
        let frame = stored(bytes)?;
        self.note(&frame, bytes)?;
        sink(&frame)
    }

    fn note(&mut self, frame: &[u8], content: &[u8]) -> io::Result<()> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        self.table.push([size(frame)?, size(content)?]);
        Ok(())
    }

    /// How many frames there are.
    pub(super) fn frames(&self) -> usize {
        self.table.len()
    }

    /// Forgets what is pending and all frames after the first `frames`.
    pub(super) fn rollback(&mut self, frames: usize) {
        self.pending.clear();
        self.table.truncate(frames);
    }

    /// The skippable frame that ends the file.
    pub(super) fn seek_table(&self) -> io::Result<Vec<u8>> {
        let size = |n: usize| u32::try_from(n).map_err(io::Error::other);
        let mut out = Vec::with_capacity(17 + 8 * self.table.len());
        out.extend(SEEK_MAGIC.to_le_bytes());
        out.extend(size(8 * self.table.len() + 9)?.to_le_bytes());
        for [compressed, decompressed] in &self.table {
            out.extend(compressed.to_le_bytes());
            out.extend(decompressed.to_le_bytes());
        }
        out.extend(size(self.table.len())?.to_le_bytes());
        out.push(0);
        out.extend(SEEK_END.to_le_bytes());
        Ok(out)
    }
}

/// Where the content of a frame stands in it, block by block, if it is one of ours that is stored: nothing needs to be
/// decoded then.
pub(super) fn stored_blocks(frame: &[u8], content: usize) -> Option<Vec<Range<usize>>> {
    let size = frame.strip_prefix(&MAGIC)?.strip_prefix(&[DESCRIPTOR])?.first_chunk()?;
    if u32::from_le_bytes(*size) as usize != content {
        return None;
    }
    let mut at = STORED_HEADER as usize - 3;
    let (mut blocks, mut left) = (Vec::with_capacity(content / BLOCK + 1), content);
    loop {
        let header = frame.get(at..at + 3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let (is_last, is_raw, length) = (header & 1 == 1, header >> 1 & 3 == 0, (header >> 3) as usize);
        let block = at + 3..at + 3 + length;
        if !is_raw || length > BLOCK || length > left || block.end > frame.len() {
            return None;
        }
        (at, left) = (block.end, left - length);
        blocks.push(block);
        if is_last {
            return (left == 0 && at == frame.len()).then_some(blocks);
        }
    }
}

/// A frame of raw blocks.
fn stored(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(content.len() + 12 + 3 * (content.len() / BLOCK));
    out.extend(MAGIC);
    out.push(DESCRIPTOR);
    out.extend(u32::try_from(content.len()).map_err(io::Error::other)?.to_le_bytes());
    let blocks = content.chunks(BLOCK);
    let last = blocks.len().saturating_sub(1);
    for (i, block) in blocks.enumerate() {
        // Bit 0: the last one. Bits 1 and 2: the type, 0 is raw. Then the size.
        let header = u32::from(i == last) | (block.len() as u32) << 3;
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(block);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_frames_are_read_where_they_stand() {
        for length in [1, 512, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, FRAME] {
            let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let frame = stored(&content).unwrap();
            let blocks = stored_blocks(&frame, length).unwrap();
            assert_eq!(blocks.iter().flat_map(|b| frame[b.clone()].to_vec()).collect::<Vec<_>>(), content);
            assert_eq!(zstd::bulk::decompress(&frame, length).unwrap(), content);
            // Anything else is for the decoder to judge.
            assert!(stored_blocks(&frame, length + 1).is_none());
            for cut in [0, 3, 8, 11, frame.len() - 1] {
                assert!(stored_blocks(&frame[..cut], length).is_none(), "{length} {cut}");
            }
            let longer = [frame.as_slice(), &[0]].concat();
            assert!(stored_blocks(&longer, length).is_none());
            let mut compressed = frame.clone();
            compressed[STORED_HEADER as usize - 3] |= 4;
            assert!(stored_blocks(&compressed, length).is_none());
        }
        let compressed = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        assert!(stored_blocks(&compressed, 1000).is_none());
    }
}

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

/// A frame of raw blocks while it is being filled: the bytes are copied once, to where they stand in it.
struct StoredFrame {
    bytes: Vec<u8>,
    /// Bytes of content.
    content: usize,
    /// Where the header of the last block stands, and how full that is.
    block: Range<usize>,
}

impl StoredFrame {
    fn new() -> Self {
        let mut frame = Self { bytes: Vec::new(), content: 0, block: 0..0 };
        frame.clear();
        frame
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.extend(MAGIC);
        self.bytes.push(DESCRIPTOR);
        self.bytes.extend([0; 4]);
        (self.content, self.block) = (0, 0..0);
    }

    fn extend(&mut self, mut content: &[u8]) {
        self.content += content.len();
        while !content.is_empty() {
            let filled = self.block.len().saturating_sub(3);
            if self.block.is_empty() || filled == BLOCK {
                self.end_block(false);
                self.block = self.bytes.len()..self.bytes.len() + 3;
                self.bytes.extend([0; 3]);
                continue;
            }
            let (now, rest) = content.split_at(content.len().min(BLOCK - filled));
            self.bytes.extend_from_slice(now);
            self.block.end += now.len();
            content = rest;
        }
    }

    /// Bit 0: the last one. Bits 1 and 2: the type, 0 is raw. Then the size.
    fn end_block(&mut self, is_last: bool) {
        if let Some(size) = self.block.len().checked_sub(3) {
            let header = (u32::from(is_last) | (size as u32) << 3).to_le_bytes();
            self.bytes[self.block.start..self.block.start + 3].copy_from_slice(&header[..3]);
        }
    }

    /// The whole frame.
    fn end(&mut self) -> io::Result<&[u8]> {
        self.end_block(true);
        let size = u32::try_from(self.content).map_err(io::Error::other)?;
        self.bytes[5..9].copy_from_slice(&size.to_le_bytes());
        Ok(&self.bytes)
    }
}

/// What is gathered for the next frame.
enum Pending {
    Stored(StoredFrame),
    Compressed(Vec<u8>, Compressor<'static>),
}

/// Cuts a stream into frames and remembers their sizes.
pub(super) struct Framer {
    pending: Pending,
    /// Compressed and decompressed size of each frame.
    table: Vec<[u32; 2]>,
}

impl Framer {
    /// Frames that are stored or, with a level, compressed.
    pub(super) fn new(level: Option<i32>) -> io::Result<Self> {
        let pending = match level {
            None => Pending::Stored(StoredFrame::new()),
            Some(level) => Pending::Compressed(Vec::new(), Compressor::new(level)?),
        };
        Ok(Self { pending, table: Vec::new() })
    }

    /// Takes in data; full frames go to `sink`.
    pub(super) fn data(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(FRAME - self.gathered()));
            match &mut self.pending {
                Pending::Stored(frame) => frame.extend(now),
                Pending::Compressed(content, _) => content.extend_from_slice(now),
            }
            bytes = rest;
            if self.gathered() == FRAME {
                self.end_frame(sink)?;
            }
        }
        Ok(())
    }

    fn gathered(&self) -> usize {
        match &self.pending {
            Pending::Stored(frame) => frame.content,
            Pending::Compressed(content, _) => content.len(),
        }
    }

    fn clear(&mut self) {
        match &mut self.pending {
            Pending::Stored(frame) => frame.clear(),
            Pending::Compressed(content, _) => content.clear(),
        }
    }

    /// Ends the frame that is being gathered, if there is one.
    pub(super) fn end_frame(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let gathered = self.gathered();
        if gathered == 0 {
            return Ok(());
        }
        let compressed;
        let frame = match &mut self.pending {
            Pending::Stored(frame) => frame.end()?,
            Pending::Compressed(content, compressor) => {
                compressed = compressor.compress(content)?;
                &compressed
            }
        };
        self.table.push(sizes(frame.len(), gathered)?);
        sink(frame)?;
        self.clear();
        Ok(())
    }

    /// A stored frame of its own, whatever the level.
    pub(super) fn stored(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.end_frame(sink)?;
        let mut frame = StoredFrame::new();
        frame.extend(bytes);
        let frame = frame.end()?;
        self.table.push(sizes(frame.len(), bytes.len())?);
        sink(frame)
    }

    /// How many frames there are.
    pub(super) fn frames(&self) -> usize {
        self.table.len()
    }

    /// Forgets what is pending and all frames after the first `frames`.
    pub(super) fn rollback(&mut self, frames: usize) {
        self.clear();
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
        // Ours are full, all but the last. Each read looks through them and ends with one, so smaller ones, of which a
        // frame has room for millions, are left to the decoder.
        if !is_raw || length != left.min(BLOCK) || block.end > frame.len() {
            return None;
        }
        (at, left) = (block.end, left - length);
        blocks.push(block);
        if is_last {
            return (left == 0 && at == frame.len()).then_some(blocks);
        }
    }
}

/// A frame's sizes as the seek table has them.
fn sizes(frame: usize, content: usize) -> io::Result<[u32; 2]> {
    let size = |n: usize| u32::try_from(n).map_err(io::Error::other);
    Ok([size(frame)?, size(content)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_frames_are_read_where_they_stand() {
        for length in [1, 512, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, FRAME] {
            let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut filling = StoredFrame::new();
            filling.extend(&content[..length / 3]);
            filling.extend(&content[length / 3..]);
            let frame = filling.end().unwrap().to_vec();
            assert_eq!(frame.len(), content.len() + 9 + 3 * length.div_ceil(BLOCK));
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

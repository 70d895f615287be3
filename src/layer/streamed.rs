//! What a file holds, from its data as it passes: hashed in any order, kept nowhere.
//!
//! Memory: the pieces of leaves that are not complete yet (the two ends of every frame in flight, and leaves in several
//! segments), and 48 bytes for each chunk of 4 MiB that has data.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard},
};

use super::{
    BLOCK,
    analyze::{Chunk, Contents, is_zero},
    extents::within,
    merkle::{self, CHUNK, LEAF, Node},
};

/// A file whose data passes once.
pub struct StreamedContents {
    size: u64,
    /// The data that will pass, sorted.
    segments: Vec<Range<u64>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Chunks that lack data.
    open: HashMap<u64, OpenChunk>,
    done: Vec<Chunk>,
}

struct OpenChunk {
    /// Bytes that will still pass.
    left: u64,
    data_bytes: u64,
    leaves: Vec<(u64, Node)>,
    partial: HashMap<u64, Partial>,
}

/// A leaf of which only some bytes have passed; the others are zero.
struct Partial {
    left: u64,
    bytes: Vec<u8>,
}

impl StreamedContents {
    /// Of a file of `size` bytes with data in these sorted segments only.
    pub fn new(size: u64, segments: Vec<Range<u64>>) -> Self {
        Self { size, segments, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn expected(&self, window: Range<u64>) -> u64 {
        within(&self.segments, &window).map(|r| r.end - r.start).sum()
    }

    /// Takes in data that stands at `offset`: part of one segment, never the same twice.
    pub fn take(&self, bytes: &[u8], offset: u64) {
        let leaf_size = LEAF as u64;
        let mut at = 0;
        while at < bytes.len() {
            let start = offset + at as u64;
            let leaf = start / leaf_size;
            let end = (at + (leaf_size - start % leaf_size) as usize).min(bytes.len());
            let part = &bytes[at..end];
            let whole = self.expected(leaf * leaf_size..(leaf + 1) * leaf_size);
            if part.len() as u64 == whole {
                self.leaf_done(leaf, part, (start % leaf_size) as usize);
            } else if let Some(full) = self.add_part(leaf, part, (start % leaf_size) as usize, whole) {
                self.leaf_done(leaf, &full, 0);
            }
            at = end;
        }
    }

    fn open<'s>(&self, state: &'s mut State, chunk: u64) -> &'s mut OpenChunk {
        state.open.entry(chunk).or_insert_with(|| OpenChunk {
            left: self.expected(chunk * CHUNK..(chunk + 1) * CHUNK),
            data_bytes: 0,
            leaves: Vec::new(),
            partial: HashMap::new(),
        })
    }

    /// Adds a part of a leaf; the leaf's bytes when it is complete.
    fn add_part(&self, leaf: u64, part: &[u8], within_leaf: usize, whole: u64) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let chunk = self.open(&mut state, leaf / LEAVES);
        let partial = chunk.partial.entry(leaf).or_insert_with(|| Partial { left: whole, bytes: vec![0; LEAF] });
        partial.bytes[within_leaf..within_leaf + part.len()].copy_from_slice(part);
        partial.left = partial.left.saturating_sub(part.len() as u64);
        if partial.left > 0 {
            return None;
        }
        chunk.partial.remove(&leaf).map(|full| full.bytes)
    }

    /// All data of a leaf is there: `bytes`, which stand at `within_leaf` of it.
    fn leaf_done(&self, leaf: u64, bytes: &[u8], within_leaf: usize) {
        let padded;
        let full = if bytes.len() == LEAF {
            bytes
        } else {
            let mut room = vec![0; LEAF];
            room[within_leaf..within_leaf + bytes.len()].copy_from_slice(bytes);
            padded = room;
            &padded
        };
        let start = leaf * LEAF as u64;
        let data_bytes: u64 = (full.chunks(BLOCK as usize).zip((start..).step_by(BLOCK as usize)))
            .filter(|(block, _)| !is_zero(block))
            .map(|(_, at)| (at + BLOCK).min(self.size) - at)
            .sum();
        let node = (data_bytes > 0).then(|| merkle::leaf(full));
        let mut state = self.lock();
        let index = leaf / LEAVES;
        let chunk = self.open(&mut state, index);
        chunk.data_bytes += data_bytes;
        chunk.leaves.extend(node.map(|node| (leaf % LEAVES, node)));
        chunk.left = chunk.left.saturating_sub(self.expected(start..start + LEAF as u64));
        if chunk.left == 0
            && let Some(mut chunk) = state.open.remove(&index)
            && !chunk.leaves.is_empty()
        {
            chunk.leaves.sort_unstable_by_key(|(at, _)| *at);
            let top = merkle::chunk_top(&chunk.leaves, self.size);
            state.done.push(Chunk { index, top, data_bytes: chunk.data_bytes });
        }
    }

    /// What the file holds, when all has passed. The tar walker has counted the bytes; data that did not pass is zero.
    pub fn finish(&self) -> Contents {
        let mut chunks = std::mem::take(&mut self.lock().done);
        chunks.sort_unstable_by_key(|c| c.index);
        Contents::new(self.size, chunks)
    }
}

/// Leaves of a chunk.
const LEAVES: u64 = CHUNK / LEAF as u64;

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt, path::Path};

    use super::*;
    use crate::{
        layer::analyze::{FileView, contents},
        progress::Silent,
    };

    #[test]
    fn pieces_in_any_order_give_what_the_file_gives() {
        let cases: [(u64, &[Range<u64>]); 5] = [
            (0, &[]),
            (5, &[0..2, 2..5]),
            ((64 << 10) + 7, &[0..4096, 61_440..(64 << 10) + 7]),
            ((9 << 20) + 123, &[4096..8192, 65_536..4_300_800, 8 << 20..(9 << 20) + 123]),
            (40 << 20, &[0..4 << 20, 12_288..12_288, (36 << 20) + 4096..(36 << 20) + 8192]),
        ];
        for (size, segments) in cases {
            let segments: Vec<_> = segments.iter().filter(|s| s.start < s.end).cloned().collect();
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            let streamed = StreamedContents::new(size, segments.clone());
            // Pieces of 512 bytes times a prime, as frames cut them; a block of zeros among them.
            let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
            for segment in segments {
                let mut at = segment.start;
                while at < segment.end {
                    let end = (at + 512 * 331).min(segment.end);
                    let byte = |i: u64| if i / BLOCK % 5 == 3 { 0 } else { (i % 251) as u8 };
                    pieces.push((at, (at..end).map(byte).collect()));
                    at = end;
                }
            }
            pieces.reverse();
            for (at, bytes) in &pieces {
                file.write_all_at(bytes, *at).unwrap();
                streamed.take(bytes, *at);
            }
            let view = FileView { file: &file, path: Path::new("x"), size };
            let (expected, _) = contents(view, None, 2, &Silent).unwrap();
            let found = streamed.finish();
            assert_eq!(
                (found.root, found.data_bytes, &found.chunks),
                (expected.root, expected.data_bytes, &expected.chunks)
            );
        }
    }
}

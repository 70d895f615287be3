//! What a file holds, from its data as it passes: hashed in any order, alone or over a file whose data passed before. Of
//! that only what is needed is kept: the bytes of leaves that a later delta fills in part, and the nodes of leaves in
//! chunks that it writes to.
//!
//! Memory: the pieces of leaves that are not complete yet (the two ends of every frame in flight, and leaves in several
//! segments), 48 bytes for each chunk of 4 MiB that has data, and 3 KiB for each chunk that deltas write to.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    BLOCK,
    analyze::{Chunk, Contents, is_zero},
    extents::within,
    merkle::{self, CHUNK, Domain, LEAF, Node},
};

/// What one delta needs of the file that it goes over. In ranges: a segment costs as much however long it claims to be.
#[derive(Debug)]
pub struct Needs {
    /// Chunks that it writes to: the nodes of their leaves are kept. Sorted.
    chunks: Vec<Range<u64>>,
    /// Leaves that it writes to in part: their bytes are kept. Sorted.
    leaves: Vec<Range<u64>>,
}

impl Needs {
    /// Of a delta with these segments over a file of the same size.
    pub fn of(segments: &[Range<u64>], size: u64) -> Self {
        let (mut chunks, mut leaves) = (Vec::new(), Vec::new());
        for segment in segments.iter().filter(|s| s.start < s.end) {
            chunks.push(segment.start / CHUNK..segment.end.div_ceil(CHUNK));
            let touched = segment.start / LEAF_SIZE..segment.end.div_ceil(LEAF_SIZE);
            let is_filled = |leaf: u64| {
                segment.start <= leaf * LEAF_SIZE && segment.end >= (leaf + 1).saturating_mul(LEAF_SIZE).min(size)
            };
            // Those between the ends are filled.
            let ends = [touched.start, touched.end - 1];
            leaves.extend(ends.into_iter().filter(|leaf| !is_filled(*leaf)).map(|leaf| leaf..leaf + 1));
        }
        Self { chunks: joined(chunks), leaves: joined(leaves) }
    }
}

/// The ranges, sorted, those that touch as one.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let touch = next.start <= range.end;
        if touch {
            range.end = range.end.max(next.end);
        }
        touch
    });
    ranges.shrink_to_fit();
    ranges
}

fn contains(ranges: &[Range<u64>], at: u64) -> bool {
    ranges.get(ranges.partition_point(|range| range.end <= at)).is_some_and(|range| range.start <= at)
}

/// What the deltas above a file will need of it: those of the file above it, too, are the same objects.
#[derive(Clone, Debug, Default)]
pub struct Later(Vec<Arc<Needs>>);

impl Later {
    /// What these deltas need.
    pub fn new(deltas: Vec<Arc<Needs>>) -> Self {
        Self(deltas)
    }

    /// The deltas.
    pub fn deltas(&self) -> &[Arc<Needs>] {
        &self.0
    }

    /// Whether nothing of the file's bytes is needed.
    pub fn needs_no_bytes(&self) -> bool {
        self.0.iter().all(|needs| needs.leaves.is_empty())
    }

    fn needs_nodes(&self, chunk: u64) -> bool {
        self.0.iter().any(|needs| contains(&needs.chunks, chunk))
    }

    fn needs_bytes(&self, leaf: u64) -> bool {
        self.0.iter().any(|needs| contains(&needs.leaves, leaf))
    }
}

/// What is known of a file after its data has passed, for the deltas that go over it.
#[derive(Clone)]
pub struct Passed {
    /// What the file holds.
    pub contents: Contents,
    /// The leaves of the chunks that later deltas write to.
    nodes: HashMap<u64, Vec<Leaf>>,
    /// What was kept.
    later: Arc<Later>,
}

/// A leaf that is not all zero.
#[derive(Clone, Copy)]
struct Leaf {
    /// Its position in the chunk.
    at: u64,
    node: Node,
    data_bytes: u64,
}

/// A file whose data passes once, alone or over one whose data has passed.
pub struct StreamedContents {
    size: u64,
    /// The data that will pass, sorted.
    segments: Vec<Range<u64>>,
    /// What is beneath, of the same size.
    below: Option<Passed>,
    later: Arc<Later>,
    /// Holds the bytes of leaves that were needed of what is beneath, and takes in those that are needed of this file.
    scratch: Option<File>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Chunks that lack data.
    open: HashMap<u64, OpenChunk>,
    done: Vec<Chunk>,
    nodes: HashMap<u64, Vec<Leaf>>,
    /// Bytes in blocks that are not all zero, of all leaves that are complete.
    data_bytes: u64,
}

struct OpenChunk {
    /// Bytes that will still pass.
    left: u64,
    leaves: Vec<Leaf>,
    partial: HashMap<u64, Partial>,
}

/// A leaf of which only some bytes have passed; the others are what is beneath.
struct Partial {
    left: u64,
    bytes: Vec<u8>,
}

/// Why a leaf cannot be completed.
fn not_kept() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the layer is not the one that was looked at before")
}

impl StreamedContents {
    /// Of a file of `size` bytes with data in these sorted segments only.
    pub fn new(size: u64, segments: Vec<Range<u64>>) -> Self {
        let (later, state) = (Arc::default(), Mutex::default());
        Self { size, segments, below: None, later, scratch: None, state }
    }

    /// With what later deltas need of it kept: bytes in `scratch`, each at its offset.
    pub fn keeping(mut self, later: Arc<Later>, scratch: Option<File>) -> Self {
        (self.later, self.scratch) = (later, scratch);
        self
    }

    /// As changes over what has passed, whose kept bytes are in the scratch file. Both have the same size.
    pub fn over(mut self, below: Passed) -> Self {
        self.below = Some(below);
        self
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn expected(&self, window: Range<u64>) -> u64 {
        within(&self.segments, &window).map(|r| r.end - r.start).sum()
    }

    /// Bytes in blocks that are not all zero, as far as data has passed: at the end no more than the file holds.
    pub fn data_bytes(&self) -> u64 {
        self.lock().data_bytes
    }

    /// The most that data which stands at `window` makes the scratch file take in.
    pub fn kept(&self, window: Range<u64>) -> u64 {
        let leaves = window.start / LEAF_SIZE..window.end.div_ceil(LEAF_SIZE);
        leaves.filter(|leaf| self.later.needs_bytes(*leaf)).count() as u64 * LEAF_SIZE
    }

    /// Takes in data that stands at `offset`: part of one segment, never the same twice.
    ///
    /// # Errors
    /// Those of the scratch file; [`io::ErrorKind::InvalidData`] where it lacks what this data goes over.
    pub fn take(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let start = offset + at as u64;
            let leaf = start / LEAF_SIZE;
            let end = (at + (LEAF_SIZE - start % LEAF_SIZE) as usize).min(bytes.len());
            let part = &bytes[at..end];
            let whole = self.expected(leaf * LEAF_SIZE..(leaf + 1) * LEAF_SIZE);
            if part.len() == LEAF {
                self.leaf_done(leaf, part)?;
            } else if let Some(full) = self.add_part(leaf, part, (start % LEAF_SIZE) as usize, whole)? {
                self.leaf_done(leaf, &full)?;
            }
            at = end;
        }
        Ok(())
    }

    /// The chunk, which begins as what is beneath.
    fn open<'s>(&self, state: &'s mut State, chunk: u64) -> io::Result<&'s mut OpenChunk> {
        Ok(match state.open.entry(chunk) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => {
                let leaves = match &self.below {
                    None => Vec::new(),
                    Some(below) => match (below.nodes.get(&chunk), below.contents.chunk(chunk)) {
                        (Some(leaves), _) => leaves.clone(),
                        (None, None) => Vec::new(),
                        (None, Some(_)) => return Err(not_kept()),
                    },
                };
                let left = self.expected(chunk * CHUNK..(chunk + 1) * CHUNK);
                vacant.insert(OpenChunk { left, leaves, partial: HashMap::new() })
            }
        })
    }

    /// The bytes of a leaf beneath.
    fn beneath(&self, leaf: u64, leaves: &[Leaf]) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; LEAF];
        let Some(below) = &self.below else { return Ok(bytes) };
        if !leaves.iter().any(|l| l.at == leaf % LEAVES) {
            return Ok(bytes);
        }
        let start = leaf * LEAF_SIZE;
        // A leaf that is replaced whole, to the file's end, needs nothing.
        if self.expected(start..start + LEAF_SIZE) == (start + LEAF_SIZE).min(self.size) - start {
            return Ok(bytes);
        }
        match &self.scratch {
            Some(scratch) if below.later.needs_bytes(leaf) => {
                let length = (self.size - start).min(LEAF_SIZE) as usize;
                scratch.read_exact_at(&mut bytes[..length], start)?;
                Ok(bytes)
            }
            _ => Err(not_kept()),
        }
    }

    /// Adds a part of a leaf; the leaf's bytes when it is complete.
    fn add_part(&self, leaf: u64, part: &[u8], within_leaf: usize, whole: u64) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.lock();
        let chunk = self.open(&mut state, leaf / LEAVES)?;
        let partial = match chunk.partial.entry(leaf) {
            Entry::Occupied(partial) => partial.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Partial { left: whole, bytes: self.beneath(leaf, &chunk.leaves)? }),
        };
        partial.bytes[within_leaf..within_leaf + part.len()].copy_from_slice(part);
        partial.left = partial.left.saturating_sub(part.len() as u64);
        if partial.left > 0 {
            return Ok(None);
        }
        Ok(chunk.partial.remove(&leaf).map(|full| full.bytes))
    }

    /// All data of a leaf is there: `bytes`, padded with zeros.
    fn leaf_done(&self, leaf: u64, bytes: &[u8]) -> io::Result<()> {
        let start = leaf * LEAF_SIZE;
        let data_bytes: u64 = (bytes.chunks(BLOCK as usize).zip((start..).step_by(BLOCK as usize)))
            .filter(|(block, _)| !is_zero(block))
            .map(|(_, at)| (at + BLOCK).min(self.size) - at)
            .sum();
        let node = (data_bytes > 0).then(|| merkle::leaf(Domain::File, bytes));
        if let Some(scratch) = self.scratch.as_ref().filter(|_| self.later.needs_bytes(leaf)) {
            let length = (self.size - start).min(LEAF_SIZE) as usize;
            scratch.write_all_at(&bytes[..length], start)?;
        }
        let mut state = self.lock();
        state.data_bytes = state.data_bytes.saturating_add(data_bytes);
        let index = leaf / LEAVES;
        let chunk = self.open(&mut state, index)?;
        let at = leaf % LEAVES;
        chunk.leaves.retain(|l| l.at != at);
        chunk.leaves.extend(node.map(|node| Leaf { at, node, data_bytes }));
        chunk.left = chunk.left.saturating_sub(self.expected(start..start + LEAF_SIZE));
        if chunk.left == 0
            && let Some(mut chunk) = state.open.remove(&index)
        {
            chunk.leaves.sort_unstable_by_key(|l| l.at);
            if !chunk.leaves.is_empty() {
                let nodes: Vec<(u64, Node)> = chunk.leaves.iter().map(|l| (l.at, l.node)).collect();
                let data_bytes = chunk.leaves.iter().map(|l| l.data_bytes).sum();
                state.done.push(Chunk { index, top: merkle::chunk_top(Domain::File, &nodes, self.size), data_bytes });
            }
            if self.later.needs_nodes(index) {
                state.nodes.insert(index, chunk.leaves);
            }
        }
        Ok(())
    }

    /// What is known of the file when all has passed. The tar walker has counted the bytes; data that did not pass is what
    /// is beneath.
    pub fn finish(&self) -> Passed {
        let State { done, nodes, .. } = std::mem::take(&mut *self.lock());
        let (mut chunks, mut nodes) = (done, nodes);
        if let Some(below) = &self.below {
            let is_touched = |chunk: u64| self.expected(chunk * CHUNK..(chunk + 1) * CHUNK) > 0;
            chunks.extend(below.contents.chunks.iter().filter(|c| !is_touched(c.index)));
            let kept = below.nodes.iter().filter(|(chunk, _)| !is_touched(**chunk) && self.later.needs_nodes(**chunk));
            nodes.extend(kept.map(|(chunk, leaves)| (*chunk, leaves.clone())));
        }
        chunks.sort_unstable_by_key(|c| c.index);
        Passed { contents: Contents::new(self.size, chunks), nodes, later: self.later.clone() }
    }
}

/// Leaves of a chunk.
const LEAVES: u64 = CHUNK / LEAF_SIZE;
const LEAF_SIZE: u64 = LEAF as u64;

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
                streamed.take(bytes, *at).unwrap();
            }
            let view = FileView { file: &file, path: Path::new("x"), size };
            let (expected, _) = contents(view, None, 2, &Silent).unwrap();
            let found = streamed.finish().contents;
            assert_eq!(
                (found.root, found.data_bytes, &found.chunks),
                (expected.root, expected.data_bytes, &expected.chunks)
            );
        }
    }

    /// Random changes over random changes, each version against what its whole file gives.
    #[test]
    fn deltas_need_no_more_than_what_is_kept() {
        let mut seed = 20_260_501u64;
        let mut below = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % limit
        };
        for size in [5, LEAF_SIZE, 3 * CHUNK + 70_001, 9 * CHUNK] {
            let blocks = size.div_ceil(BLOCK);
            // Each version: its segments, and the bytes that they hold, some of them zeros.
            let mut versions: Vec<Vec<(Range<u64>, Vec<u8>)>> = Vec::new();
            for version in 0..6 {
                let mut segments: Vec<Range<u64>> = Vec::new();
                let mut block = below(40);
                while block < blocks {
                    let run = 1 + below(if version == 0 { 300 } else { 20 });
                    segments.push(block * BLOCK..((block + run) * BLOCK).min(size));
                    block += run + 1 + below(if version == 0 { 60 } else { 900 });
                }
                let fill = |range: Range<u64>, byte: u64| {
                    let bytes = range.clone().map(|i| if (i / BLOCK) % 7 < 2 { 0 } else { (i % 250 + byte) as u8 });
                    (range, bytes.collect::<Vec<u8>>())
                };
                versions.push(segments.into_iter().map(|range| fill(range, version + 1)).collect());
            }
            let segments =
                |version: &[(Range<u64>, Vec<u8>)]| version.iter().map(|(r, _)| r.clone()).collect::<Vec<_>>();
            let mut later = vec![Arc::new(Later::default())];
            for version in versions[1..].iter().rev() {
                let mut deltas = later.last().unwrap().deltas().to_vec();
                deltas.push(Arc::new(Needs::of(&segments(version), size)));
                later.push(Arc::new(Later::new(deltas)));
            }
            later.reverse();
            let (scratch, whole) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            whole.set_len(size).unwrap();
            let mut passed: Option<Passed> = None;
            for (version, later) in versions.iter().zip(later) {
                let mut streamed =
                    StreamedContents::new(size, segments(version)).keeping(later, Some(scratch.try_clone().unwrap()));
                if let Some(below) = passed.take() {
                    streamed = streamed.over(below);
                }
                for (range, bytes) in version {
                    whole.write_all_at(bytes, range.start).unwrap();
                    let cut = bytes.len() / 2 / 512 * 512;
                    streamed.take(&bytes[cut..], range.start + cut as u64).unwrap();
                    streamed.take(&bytes[..cut], range.start).unwrap();
                }
                let view = FileView { file: &whole, path: Path::new("x"), size };
                let (expected, _) = contents(view, None, 2, &Silent).unwrap();
                let found = streamed.finish();
                assert_eq!(found.contents.root, expected.root, "{size}");
                assert_eq!(found.contents.chunks, expected.chunks);
                passed = Some(found);
            }
            let allocated = std::os::unix::fs::MetadataExt::blocks(&scratch.metadata().unwrap()) * 512;
            let all = std::os::unix::fs::MetadataExt::blocks(&whole.metadata().unwrap()) * 512;
            assert!(size < CHUNK || allocated < all, "{allocated} of {all} bytes are kept");
        }
    }

    #[test]
    fn a_claim_costs_as_little_as_it_weighs() {
        let huge = 0..(4u64 << 40) + 5;
        let needs = Needs::of(&[huge.clone(), huge.end + 4096..huge.end + 8192], u64::MAX);
        let last = huge.end / LEAF_SIZE;
        assert_eq!((needs.chunks.len(), &needs.chunks[0]), (1, &(0..huge.end.div_ceil(CHUNK))));
        assert_eq!((needs.leaves.len(), &needs.leaves[0]), (1, &(last..last + 1)));
        let later = Later::new(vec![Arc::new(needs)]);
        assert!(later.needs_nodes(0) && later.needs_nodes(1 << 20) && !later.needs_nodes((1 << 20) + 1));
        assert!(later.needs_bytes(last) && !later.needs_bytes(last - 1) && !later.needs_bytes(last + 1));
    }

    #[test]
    fn what_was_not_kept_is_missed() {
        let size = 2 * CHUNK;
        let segments = |range: Range<u64>| -> Vec<Range<u64>> { std::iter::once(range).collect() };
        // A delta that fills the leaf needs its chunk's nodes, and none of its bytes.
        let later = Later::new(vec![Arc::new(Needs::of(&segments(0..LEAF_SIZE), size))]);
        assert!(later.needs_no_bytes());
        let first = StreamedContents::new(size, segments(0..LEAF_SIZE)).keeping(Arc::new(later), None);
        first.take(&[7; LEAF], 0).unwrap();
        // The scratch file is there, and holds nothing of the leaf.
        let second = StreamedContents::new(size, segments(4096..8192))
            .keeping(Arc::default(), Some(tempfile::tempfile().unwrap()))
            .over(first.finish());
        assert_eq!(second.take(&[8; 4096], 4096).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

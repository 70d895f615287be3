//! Pass 1: what a file holds, at memory speed over its allocated extents, on all cores.
//!
//! For packing ([`analyze`]): which 4 KiB blocks a layer must hold (not zero, or different from the base), and a sum
//! over the sectors that it will hold. Pass 2 sums again: what it packs must be what pass 1 saw. For both directions
//! ([`contents`]): the file's Merkle root. Chunks that are known to be as before are not read again.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    BLOCK,
    extents::{covered, data_extents, union, within},
    merkle::{self, CHUNK, Domain, LEAF, Node},
    shared::shared_extents,
};
use crate::{
    buffers::Buffer,
    error::{Error, IoContext, Result},
    model::config::Root,
    progress::Progress,
    workers,
};

/// Sectors are the sum's grain: tar keeps everything at multiples of 512, so frames never cut one.
pub const SECTOR: usize = 512;

/// A file to analyze or to compare with.
#[derive(Clone, Copy)]
pub struct FileView<'a> {
    /// Open for reading.
    pub file: &'a File,
    /// How messages name it.
    pub path: &'a Path,
    /// Its logical size, in bytes.
    pub size: u64,
}

/// What a file holds, by chunks of [`CHUNK`] bytes: 48 bytes of memory for each that has data.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Logical size, in bytes.
    pub size: u64,
    /// Bytes in blocks that are not all zero.
    pub data_bytes: u64,
    /// Merkle root.
    pub root: Root,
    /// The chunks that are not all zero, sorted.
    pub chunks: Vec<Chunk>,
}

/// A chunk of a file that is not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which one.
    pub index: u64,
    /// The top of its subtree.
    pub top: Node,
    /// Bytes in its blocks that are not all zero.
    pub data_bytes: u64,
}

impl Contents {
    /// Of a file of `size` bytes that holds these chunks, sorted.
    pub fn new(size: u64, chunks: Vec<Chunk>) -> Self {
        let tops: Vec<(u64, Node)> = chunks.iter().map(|c| (c.index, c.top)).collect();
        let data_bytes = chunks.iter().map(|c| c.data_bytes).sum();
        Self { size, data_bytes, root: merkle::root(Domain::File, &tops, size), chunks }
    }

    /// The chunk with this index, unless it is all zero.
    pub fn chunk(&self, index: u64) -> Option<&Chunk> {
        self.chunks.binary_search_by_key(&index, |c| c.index).ok().map(|at| &self.chunks[at])
    }
}

/// What pass 1 found in a file that is to be packed.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// What it holds.
    pub contents: Contents,
    /// What a layer holds: maximal runs of non-zero blocks, or of blocks that differ from the base.
    pub segments: Vec<Range<u64>>,
    /// Sum over the segments' sectors.
    pub sum: u64,
}

/// The sum of `bytes`, which stand at `offset` of a file: the same however the bytes are cut at sectors.
pub fn sector_sum(bytes: &[u8], offset: u64) -> u64 {
    bytes.chunks(SECTOR).zip((offset..).step_by(SECTOR)).fold(0u64, |sum, (sector, at)| {
        // Multiplying after the offset went in by XOR keeps two sectors that change places from cancelling out.
        let mixed = xxh3_64(sector) ^ at.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        sum.wrapping_add((mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93))
    })
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Wide ORs over fixed pieces: the compiler turns them into vector code.
    let (pieces, rest) = bytes.as_chunks::<128>();
    pieces.iter().all(|p| p.iter().fold(0u8, |a, b| a | b) == 0) && rest.iter().all(|b| *b == 0)
}

/// The file beneath the one that is packed.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// The file.
    pub view: FileView<'a>,
    /// What it holds: unchanged chunks are not hashed again.
    pub contents: &'a Contents,
}

/// Analyzes `file`, alone or against `base`, on `jobs` threads.
///
/// # Errors
/// [`Error::Io`]; [`Error::SourceChanged`] when a file ends early.
pub fn analyze(file: FileView, base: Option<Base>, jobs: usize, progress: &dyn Progress) -> Result<Analysis> {
    let own = data_extents(file.file, file.path, file.size)?;
    let (below, shared) = match &base {
        // A base is truncated or extended to the file's size.
        Some(base) => (
            data_extents(base.view.file, base.view.path, base.view.size.min(file.size))?,
            if base.contents.size == file.size { shared_extents(file.file, base.view.file) } else { Vec::new() },
        ),
        None => (Vec::new(), Vec::new()),
    };
    let task = ChunkTask { file, own: &own, base, below: &below, shared: &shared, packing: true, domain: Domain::File };
    let found = task.run_all(&chunks_of(&union(&own, &below)), jobs, progress)?;
    let mut analysis =
        Analysis { contents: Contents::new(file.size, found_chunks(&found).collect()), segments: Vec::new(), sum: 0 };
    for chunk in found {
        analysis.sum = analysis.sum.wrapping_add(chunk.sum);
        chunk.segments.into_iter().for_each(|range| push_run(&mut analysis.segments, range));
    }
    Ok(analysis)
}

/// What a file held before, and where it has been written to since.
#[derive(Clone, Copy)]
pub struct Prior<'a> {
    /// What it held.
    pub contents: &'a Contents,
    /// Sorted ranges that may be different now.
    pub touched: &'a [Range<u64>],
}

/// What `file` holds, and the zero blocks that its filesystem holds as data. With `prior` only touched chunks are read.
///
/// # Errors
/// [`Error::Io`]; [`Error::SourceChanged`] when the file ends early.
pub fn contents(
    file: FileView,
    prior: Option<Prior>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<(Contents, Vec<Range<u64>>)> {
    let own = data_extents(file.file, file.path, file.size)?;
    // Trees of different sizes have different shapes: nothing can be taken over.
    let prior = prior.filter(|prior| prior.contents.size == file.size);
    let wanted = match &prior {
        Some(prior) => chunks_of(prior.touched),
        None => chunks_of(&own),
    };
    let task = ChunkTask { file, own: &own, base: None, below: &[], shared: &[], packing: false, domain: Domain::File };
    let found = task.run_all(&wanted, jobs, progress)?;
    let mut chunks: Vec<Chunk> = found_chunks(&found).collect();
    if let Some(prior) = prior {
        chunks.extend(prior.contents.chunks.iter().filter(|c| wanted.binary_search(&c.index).is_err()));
        chunks.sort_unstable_by_key(|c| c.index);
    }
    let mut stored_zeros = Vec::new();
    for chunk in found {
        chunk.stored_zeros.into_iter().for_each(|range| push_run(&mut stored_zeros, range));
    }
    Ok((Contents::new(file.size, chunks), stored_zeros))
}

/// The root of `file` in the checkpoints' domain.
///
/// # Errors
/// [`Error::Io`]; [`Error::SourceChanged`] when the file ends early.
pub fn checkpoint_root(file: FileView, jobs: usize, progress: &dyn Progress) -> Result<Root> {
    let own = data_extents(file.file, file.path, file.size)?;
    let domain = Domain::Checkpoint;
    let task = ChunkTask { file, own: &own, base: None, below: &[], shared: &[], packing: false, domain };
    let found = task.run_all(&chunks_of(&own), jobs, progress)?;
    let tops: Vec<(u64, Node)> = found_chunks(&found).map(|chunk| (chunk.index, chunk.top)).collect();
    Ok(merkle::root(domain, &tops, file.size))
}

fn found_chunks(found: &[Found]) -> impl Iterator<Item = Chunk> {
    found.iter().filter_map(|f| f.top.map(|top| Chunk { index: f.chunk, top, data_bytes: f.data_bytes }))
}

fn push_run(list: &mut Vec<Range<u64>>, range: Range<u64>) {
    match list.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => list.push(range),
    }
}

/// The chunks that these sorted ranges touch.
fn chunks_of(extents: &[Range<u64>]) -> Vec<u64> {
    let mut chunks: Vec<u64> = Vec::new();
    for extent in extents {
        let first = (extent.start / CHUNK).max(chunks.last().map_or(0, |last| last + 1));
        chunks.extend(first..extent.end.div_ceil(CHUNK));
    }
    chunks
}

/// What was found in one chunk.
struct Found {
    chunk: u64,
    data_bytes: u64,
    top: Option<Node>,
    segments: Vec<Range<u64>>,
    stored_zeros: Vec<Range<u64>>,
    sum: u64,
    read: u64,
}

#[derive(Default)]
struct Buffers {
    own: Buffer,
    below: Buffer,
}

#[derive(Clone, Copy)]
struct ChunkTask<'a> {
    file: FileView<'a>,
    own: &'a [Range<u64>],
    base: Option<Base<'a>>,
    below: &'a [Range<u64>],
    /// Where the filesystem says that file and base are the same blocks on disk.
    shared: &'a [Range<u64>],
    /// Whether segments and sum are wanted.
    packing: bool,
    /// Of the chunks' tops.
    domain: Domain,
}

impl ChunkTask<'_> {
    /// Looks at these chunks (sorted), several at once.
    fn run_all(&self, chunks: &[u64], jobs: usize, progress: &dyn Progress) -> Result<Vec<Found>> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let all = Mutex::new(Ok(Vec::with_capacity(chunks.len())));
        let work = || {
            let mut buffers = Buffers::default();
            while !stop.load(Ordering::Relaxed) {
                let Some(&chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let result = self.run(chunk, &mut buffers);
                progress.advance(result.as_ref().map_or(0, |c| c.read));
                let mut all = all.lock().unwrap_or_else(|e| e.into_inner());
                match (result, &mut *all) {
                    (Ok(found), Ok(all)) => all.push(found),
                    (Err(error), slot @ Ok(_)) => {
                        *slot = Err(error);
                        stop.store(true, Ordering::Relaxed);
                    }
                    (_, Err(_)) => {}
                }
            }
        };
        workers::run(jobs.min(chunks.len()), work);
        let mut all = all.into_inner().unwrap_or_else(|e| e.into_inner())?;
        all.sort_unstable_by_key(|found| found.chunk);
        Ok(all)
    }

    fn run(&self, chunk: u64, buffers: &mut Buffers) -> Result<Found> {
        let start = chunk * CHUNK;
        let window = start..(start + CHUNK).min(self.file.size);
        let own: Vec<_> = within(self.own, &window).collect();
        let below: Vec<_> = within(self.below, &window).collect();
        let mut found = Found {
            chunk,
            data_bytes: 0,
            top: None,
            segments: Vec::new(),
            stored_zeros: Vec::new(),
            sum: 0,
            read: own.iter().map(|r| r.end - r.start).sum(),
        };
        // The chunk's leaves are hashed only when no top is known for them, and that is known only at the end.
        let known = self.known(chunk);
        if let Some(known) = known
            && own.iter().chain(&below).all(|extent| covered(self.shared, extent))
        {
            // The same blocks on disk need not be read to be equal.
            found.top = known.map(|c| c.top);
            found.data_bytes = known.map_or(0, |c| c.data_bytes);
            return Ok(found);
        }
        if buffers.own.is_empty() {
            buffers.own = Buffer::zeroed(LEAF_RUN);
        }
        if buffers.below.is_empty() && self.base.is_some() {
            buffers.below = Buffer::zeroed(LEAF_RUN);
        }
        let touched = leaf_runs(&union(&own, &below));
        let mut leaves = Vec::new();
        for run in &touched {
            let length = (run.end - run.start) as usize;
            let mine = &mut buffers.own[..length];
            load(self.file, &own, run, mine)?;
            let theirs = match &self.base {
                Some(base) => {
                    let theirs = &mut buffers.below[..length];
                    load(base.view, &below, run, theirs)?;
                    Some(&*theirs)
                }
                None => None,
            };
            self.blocks(run.start, mine, theirs, &own, &mut found);
            if known.is_none() {
                hash_leaves(self.domain, start, run.start, mine, &mut leaves);
            }
        }
        found.top = match known {
            Some(known) if found.segments.is_empty() => known.map(|c| c.top),
            Some(_) => {
                for run in &touched {
                    let mine = &mut buffers.own[..(run.end - run.start) as usize];
                    // One run is still in the buffer.
                    if touched.len() > 1 {
                        load(self.file, &own, run, mine)?;
                    }
                    hash_leaves(self.domain, start, run.start, mine, &mut leaves);
                }
                self.top_of(&leaves)
            }
            None => self.top_of(&leaves),
        };
        Ok(found)
    }

    fn top_of(&self, leaves: &[(u64, Node)]) -> Option<Node> {
        (!leaves.is_empty()).then(|| merkle::chunk_top(self.domain, leaves, self.file.size))
    }

    /// The base's chunk (`Some(None)`: it is zero), if both trees have one shape.
    fn known(&self, chunk: u64) -> Option<Option<&Chunk>> {
        let contents = self.base.as_ref()?.contents;
        (contents.size == self.file.size).then(|| contents.chunk(chunk))
    }

    fn blocks(&self, start: u64, mine: &[u8], theirs: Option<&[u8]>, own: &[Range<u64>], found: &mut Found) {
        for (index, block) in mine.chunks(BLOCK as usize).enumerate() {
            let at = start + index as u64 * BLOCK;
            let end = (at + BLOCK).min(self.file.size);
            if at >= end {
                break;
            }
            let block = &block[..(end - at) as usize];
            let zero = is_zero(block);
            if !zero {
                found.data_bytes += end - at;
            }
            if !self.packing {
                if zero && within(own, &(at..end)).next().is_some() {
                    push_run(&mut found.stored_zeros, at..end);
                }
                continue;
            }
            let stored = match theirs {
                Some(theirs) => block != &theirs[index * BLOCK as usize..][..block.len()],
                None => !zero,
            };
            if stored {
                found.sum = found.sum.wrapping_add(sector_sum(block, at));
                push_run(&mut found.segments, at..end);
            }
        }
    }
}

/// The most that is loaded at once: a chunk.
const LEAF_RUN: usize = CHUNK as usize;

/// The extents rounded out to leaves, touching ones merged: what must be loaded.
fn leaf_runs(extents: &[Range<u64>]) -> Vec<Range<u64>> {
    let leaf = LEAF as u64;
    let rounded: Vec<_> = extents.iter().map(|e| e.start / leaf * leaf..e.end.next_multiple_of(leaf)).collect();
    union(&rounded, &[])
}

fn hash_leaves(domain: Domain, chunk_start: u64, run_start: u64, bytes: &[u8], leaves: &mut Vec<(u64, Node)>) {
    for (index, leaf) in bytes.chunks(LEAF).enumerate() {
        if !is_zero(leaf) {
            leaves.push(((run_start - chunk_start) / LEAF as u64 + index as u64, merkle::leaf(domain, leaf)));
        }
    }
}

/// The bytes of `run`: those of the extents are read, all others are zero.
fn load(view: FileView, extents: &[Range<u64>], run: &Range<u64>, buffer: &mut [u8]) -> Result<()> {
    let mut filled = run.start;
    for extent in within(extents, run) {
        buffer[(filled - run.start) as usize..(extent.start - run.start) as usize].fill(0);
        let part = &mut buffer[(extent.start - run.start) as usize..(extent.end - run.start) as usize];
        read_exact_at(view, part, extent.start)?;
        filled = extent.end;
    }
    buffer[(filled - run.start) as usize..].fill(0);
    Ok(())
}

/// Reads exactly these bytes; a file that ends before them has changed.
pub fn read_exact_at(view: FileView, buffer: &mut [u8], offset: u64) -> Result<()> {
    match view.file.read_exact_at(buffer, offset) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::SourceChanged { path: view.path.into() }),
        other => other.context("read", view.path),
    }
}

//! Pass 1: what a file holds, at memory speed over its allocated extents, on all cores.
//!
//! Says which 4 KiB blocks a layer must hold (not zero, or different from the base), the file's Merkle root, and a sum
//! over the sectors that the layer will hold. Pass 2 sums again: what it packs must be what pass 1 saw.

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

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    BLOCK,
    extents::{data_extents, union, within},
    merkle::{self, CHUNK, LEAF, Node},
};
use crate::{
    error::{Error, IoContext, Result},
    model::config::Root,
    progress::Progress,
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

/// What pass 1 found.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// Logical size, in bytes.
    pub size: u64,
    /// Bytes in blocks that are not all zero.
    pub data_bytes: u64,
    /// Merkle root.
    pub root: Root,
    /// What a layer holds: maximal runs of non-zero blocks, or of blocks that differ from the base.
    pub segments: Vec<Range<u64>>,
    /// Sum over the segments' sectors.
    pub sum: u64,
    /// Chunks with data and the tops of their subtrees: a child takes those of unchanged chunks from here.
    pub tops: Vec<(u64, Node)>,
    /// Zero blocks that the filesystem holds as data.
    pub stored_zeros: Vec<Range<u64>>,
}

/// The sum of `bytes`, which stand at `offset` of a file: the same however the bytes are cut at sectors.
pub fn sector_sum(bytes: &[u8], offset: u64) -> u64 {
    bytes
        .chunks(SECTOR)
        .zip((offset..).step_by(SECTOR))
        .fold(0u64, |sum, (sector, at)| sum.wrapping_add(xxh3_64_with_seed(sector, at)))
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Wide ORs over fixed pieces: the compiler turns them into vector code.
    let (pieces, rest) = bytes.as_chunks::<128>();
    pieces.iter().all(|p| p.iter().fold(0u8, |a, b| a | b) == 0) && rest.iter().all(|b| *b == 0)
}

/// What a base knows, so that unchanged chunks are not hashed again.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// The file beneath.
    pub view: FileView<'a>,
    /// Its analysis, where there is one.
    pub analysis: Option<&'a Analysis>,
}

/// Analyzes `file`, alone or against `base`, on `jobs` threads.
///
/// # Errors
/// [`Error::Io`]; [`Error::SourceChanged`] when a file ends early.
pub fn analyze(file: FileView, base: Option<Base>, jobs: usize, progress: &dyn Progress) -> Result<Analysis> {
    let own = data_extents(file.file, file.path, file.size)?;
    let below = match &base {
        // A base is truncated or extended to the file's size.
        Some(base) => data_extents(base.view.file, base.view.path, base.view.size.min(file.size))?,
        None => Vec::new(),
    };
    let chunks = chunks_of(&union(&own, &below));
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let found = Mutex::new(Ok(Vec::with_capacity(chunks.len())));
    let task = ChunkTask { file, own: &own, base, below: &below };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, chunks.len().max(1)) {
            scope.spawn(|| {
                let mut buffers = Buffers::default();
                while !stop.load(Ordering::Relaxed) {
                    let Some(&chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let result = task.run(chunk, &mut buffers);
                    progress.advance(result.as_ref().map_or(0, |c| c.read));
                    let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
                    match (result, &mut *found) {
                        (Ok(chunk), Ok(all)) => all.push(chunk),
                        (Err(error), slot @ Ok(_)) => {
                            *slot = Err(error);
                            stop.store(true, Ordering::Relaxed);
                        }
                        (_, Err(_)) => {}
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner())?;
    found.sort_unstable_by_key(|c| c.chunk);
    Ok(merge(file.size, found))
}

fn merge(size: u64, chunks: Vec<Chunk>) -> Analysis {
    let mut analysis = Analysis {
        size,
        data_bytes: 0,
        root: Root([0; 32]),
        segments: Vec::new(),
        sum: 0,
        tops: Vec::new(),
        stored_zeros: Vec::new(),
    };
    for chunk in chunks {
        analysis.data_bytes += chunk.data_bytes;
        analysis.sum = analysis.sum.wrapping_add(chunk.sum);
        analysis.tops.extend(chunk.top.map(|top| (chunk.chunk, top)));
        for (list, more) in [(&mut analysis.segments, chunk.segments), (&mut analysis.stored_zeros, chunk.stored_zeros)]
        {
            for range in more {
                push_run(list, range);
            }
        }
    }
    analysis.root = merkle::root(&analysis.tops, size);
    analysis
}

fn push_run(list: &mut Vec<Range<u64>>, range: Range<u64>) {
    match list.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => list.push(range),
    }
}

fn chunks_of(extents: &[Range<u64>]) -> Vec<u64> {
    let mut chunks: Vec<u64> = Vec::new();
    for extent in extents {
        let first = (extent.start / CHUNK).max(chunks.last().map_or(0, |last| last + 1));
        chunks.extend(first..extent.end.div_ceil(CHUNK));
    }
    chunks
}

struct Chunk {
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
    own: Vec<u8>,
    below: Vec<u8>,
}

#[derive(Clone, Copy)]
struct ChunkTask<'a> {
    file: FileView<'a>,
    own: &'a [Range<u64>],
    base: Option<Base<'a>>,
    below: &'a [Range<u64>],
}

impl ChunkTask<'_> {
    fn run(&self, chunk: u64, buffers: &mut Buffers) -> Result<Chunk> {
        let start = chunk * CHUNK;
        let window = start..(start + CHUNK).min(self.file.size);
        let own: Vec<_> = within(self.own, &window).collect();
        let below: Vec<_> = within(self.below, &window).collect();
        let mut found = Chunk {
            chunk,
            data_bytes: 0,
            top: None,
            segments: Vec::new(),
            stored_zeros: Vec::new(),
            sum: 0,
            read: own.iter().map(|r| r.end - r.start).sum(),
        };
        buffers.own.resize(LEAF_RUN, 0);
        buffers.below.resize(LEAF_RUN, 0);
        let touched = leaf_runs(&union(&own, &below));
        // The chunk's leaves are hashed only when no top is known for them, and that is known only at the end.
        let known = self.known_top(chunk);
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
                hash_leaves(start, run.start, mine, &mut leaves);
            }
        }
        found.top = match known {
            Some(top) if found.segments.is_empty() => top,
            Some(_) => {
                for run in &touched {
                    let mine = &mut buffers.own[..(run.end - run.start) as usize];
                    load(self.file, &own, run, mine)?;
                    hash_leaves(start, run.start, mine, &mut leaves);
                }
                self.top_of(&leaves)
            }
            None => self.top_of(&leaves),
        };
        Ok(found)
    }

    fn top_of(&self, leaves: &[(u64, Node)]) -> Option<Node> {
        (!leaves.is_empty()).then(|| merkle::chunk_top(leaves, self.file.size))
    }

    /// The base's top of this chunk (`Some(None)`: it is zero), if its analysis is there and the trees have one shape.
    fn known_top(&self, chunk: u64) -> Option<Option<Node>> {
        let analysis = self.base.as_ref()?.analysis?;
        if analysis.size != self.file.size {
            return None;
        }
        let at = analysis.tops.binary_search_by_key(&chunk, |(c, _)| *c);
        Some(at.ok().map(|at| analysis.tops[at].1))
    }

    fn blocks(&self, start: u64, mine: &[u8], theirs: Option<&[u8]>, own: &[Range<u64>], found: &mut Chunk) {
        for (index, block) in mine.chunks(BLOCK as usize).enumerate() {
            let at = start + index as u64 * BLOCK;
            let end = (at + BLOCK).min(self.file.size);
            if at >= end {
                break;
            }
            let block = &block[..(end - at) as usize];
            let zero = is_zero(block);
            if zero {
                if theirs.is_none() && within(own, &(at..end)).next().is_some() {
                    push_run(&mut found.stored_zeros, at..end);
                }
            } else {
                found.data_bytes += end - at;
            }
            let stored = match theirs {
                Some(theirs) => {
                    let below = &theirs[index * BLOCK as usize..][..block.len()];
                    block != below
                }
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

fn hash_leaves(chunk_start: u64, run_start: u64, bytes: &[u8], leaves: &mut Vec<(u64, Node)>) {
    for (index, leaf) in bytes.chunks(LEAF).enumerate() {
        if !is_zero(leaf) {
            leaves.push(((run_start - chunk_start) / LEAF as u64 + index as u64, merkle::leaf(leaf)));
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

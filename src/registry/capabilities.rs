//! What a registry has shown that it takes: blobs in one request, chunks of which size, ranges. Learned by trying, because
//! registries say none of it; kept for the run and, for an hour, for the host.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use serde::{Deserialize, Serialize};

use super::{
    memory::Memory,
    options::{CHUNK, ChunkSize, MODEST_CHUNK},
};

/// Largest blob that goes in one request unless the user says otherwise, in bytes. Larger ones go in chunks, so that a cut
/// upload can go on.
const WHOLE: u64 = 64 << 20;
/// Uploads in chunks that a registry may forget before chunks are given up.
const LOSSES: u32 = 2;

/// How a blob is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In one request.
    Whole,
    /// In chunks of so many bytes.
    Chunks(usize),
}

/// What was refused so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refused {
    /// Chunks of more bytes than this are refused; 0 means all chunks.
    largest_chunk: Option<usize>,
    /// Blobs of so many bytes and more are refused in one request.
    whole_from: Option<u64>,
}

/// What one registry takes.
pub(super) struct Capabilities {
    asked: ChunkSize,
    refused: Mutex<Refused>,
    losses: AtomicU32,
    without_ranges: AtomicBool,
    memory: Memory,
    registry: String,
}

impl Capabilities {
    /// Of the registry with this host and port, as an earlier run has learned them.
    pub fn new(asked: ChunkSize, memory: Memory, registry: String) -> Self {
        // A registry that took nothing at all had other troubles.
        let known =
            memory.refused(&registry).filter(|known| known.largest_chunk != Some(0) || known.whole_from.is_none());
        let refused = Mutex::new(known.unwrap_or_default());
        Self { asked, refused, losses: AtomicU32::new(0), without_ranges: AtomicBool::new(false), memory, registry }
    }

    fn lock(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of chunks that was asked for, in bytes: what is kept in memory before an upload begins.
    pub fn chunk(&self) -> usize {
        match self.asked {
            ChunkSize::Bytes(size) => size.max(1),
            ChunkSize::Automatic | ChunkSize::Whole => CHUNK,
        }
    }

    /// How to send a blob of this size; of unknown size, one that is larger than a chunk. `None` where everything that is
    /// left to try was refused.
    pub fn way(&self, size: Option<u64>) -> Option<Way> {
        let refused = *self.lock();
        // What is of unknown size is more than a chunk, and maybe not much more.
        let least = size.unwrap_or(self.chunk() as u64 + 1);
        let takes_whole = refused.whole_from.is_none_or(|from| least < from);
        let chunk = refused.largest_chunk.map_or(self.chunk(), |largest| largest.min(self.chunk()));
        let prefers_whole = match self.asked {
            ChunkSize::Whole => true,
            ChunkSize::Bytes(chunk) => size.is_some_and(|size| size <= chunk as u64),
            ChunkSize::Automatic => size.is_some_and(|size| size <= WHOLE),
        };
        match (takes_whole, chunk) {
            (true, chunk) if prefers_whole || chunk == 0 => Some(Way::Whole),
            (_, 0) => None,
            (_, chunk) => Some(Way::Chunks(chunk)),
        }
    }

    /// Notes that a chunk of so many bytes was refused, by a registry that takes none of fewer than `least`.
    pub fn refuse_chunk(&self, size: usize, least: usize) {
        self.avoid_chunk(size, least);
        self.remember();
    }

    /// The same for this run only, because the network may be to blame.
    pub fn avoid_chunk(&self, size: usize, least: usize) {
        let smaller = if size > MODEST_CHUNK && least <= MODEST_CHUNK { MODEST_CHUNK } else { 0 };
        let mut refused = self.lock();
        refused.largest_chunk = Some(refused.largest_chunk.map_or(smaller, |largest| largest.min(smaller)));
    }

    /// Notes that chunks were taken one by one and refused as a whole.
    pub fn refuse_chunks(&self) {
        self.lock().largest_chunk = Some(0);
        self.remember();
    }

    /// Notes that a blob of so many bytes was refused in one request.
    pub fn refuse_whole(&self, size: u64) {
        let mut refused = self.lock();
        refused.whole_from = Some(refused.whole_from.map_or(size, |from| from.min(size)));
        drop(refused);
        self.remember();
    }

    /// Notes that an upload in chunks was forgotten. One that is forgotten again and again is a refusal.
    pub fn lose_upload(&self) {
        if self.losses.fetch_add(1, Ordering::Relaxed) >= LOSSES {
            self.refuse_chunks();
        }
    }

    fn remember(&self) {
        let refused = *self.lock();
        tracing::debug!(registry = self.registry, ?refused, "uploads go another way");
        self.memory.remember_refused(&self.registry, &refused);
    }

    /// Whether ranges of a blob can be asked for.
    pub fn has_ranges(&self) -> bool {
        !self.without_ranges.load(Ordering::Relaxed)
    }

    /// Notes that an answer to a range was unusable.
    pub fn refuse_ranges(&self) {
        self.without_ranges.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(asked: ChunkSize) -> Capabilities {
        Capabilities::new(asked, Memory(None), "r.example".into())
    }

    #[test]
    fn blobs_up_to_64_mib_go_whole_and_larger_ones_in_chunks() {
        let automatic = capabilities(ChunkSize::Automatic);
        assert_eq!(automatic.way(Some(64 << 20)), Some(Way::Whole));
        assert_eq!(automatic.way(Some((64 << 20) + 1)), Some(Way::Chunks(CHUNK)));
        assert_eq!(automatic.way(None), Some(Way::Chunks(CHUNK)));
        const { assert!(CHUNK >= 5 << 20, "one large registry refuses smaller ones") };
        assert_eq!(capabilities(ChunkSize::Whole).way(None), Some(Way::Whole));
        assert_eq!(capabilities(ChunkSize::Bytes(9)).way(Some(9)), Some(Way::Whole));
        assert_eq!(capabilities(ChunkSize::Bytes(9)).way(Some(10)), Some(Way::Chunks(9)));
    }

    #[test]
    fn refusals_lead_to_smaller_chunks_and_then_to_one_request() {
        let automatic = capabilities(ChunkSize::Automatic);
        automatic.refuse_chunk(CHUNK, 0);
        assert_eq!(automatic.way(None), Some(Way::Chunks(MODEST_CHUNK)));
        automatic.refuse_chunk(MODEST_CHUNK, 0);
        assert_eq!(automatic.way(None), Some(Way::Whole));
        automatic.refuse_whole(100);
        assert_eq!((automatic.way(None), automatic.way(Some(100))), (None, None));
        assert_eq!(automatic.way(Some(99)), Some(Way::Whole));
    }

    #[test]
    fn refused_blob_goes_in_chunks() {
        let whole = capabilities(ChunkSize::Whole);
        whole.refuse_whole(1000);
        assert_eq!(whole.way(Some(1000)), Some(Way::Chunks(CHUNK)));
        assert_eq!(whole.way(Some(999)), Some(Way::Whole));
    }

    #[test]
    fn chunks_below_the_registrys_minimum_are_not_tried() {
        let automatic = capabilities(ChunkSize::Automatic);
        automatic.refuse_chunk(CHUNK, 5 << 20);
        assert_eq!(automatic.way(None), Some(Way::Whole));
    }

    #[test]
    fn refusals_are_remembered_for_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory(Some(folder.path().join("cache")));
        let new = |registry: &str| Capabilities::new(ChunkSize::Automatic, memory.clone(), registry.into());
        new("r.example").refuse_chunks();
        assert_eq!(new("r.example").way(None), Some(Way::Whole));
        assert_eq!(new("other.example").way(None), Some(Way::Chunks(CHUNK)));
    }
}

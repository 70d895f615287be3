//! A large blob in several ranges at once, for a reader that takes them in order.
//!
//! The first part tells how fast the registry is. If one connection is enough, one more request brings the rest. Else
//! threads of its own fetch the parts; at most [`AHEAD`] are in memory or on their way beside the one that is read.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::source::Stream;
use crate::{
    buffers::Buffer,
    error::{IoContext, Result},
};

/// Parts that are fetched at once.
const AT_ONCE: usize = 3;
/// Parts that may wait for the reader or be on their way. With the one that is read they are 8 MiB: most of a blob that a
/// kill loses.
const AHEAD: u64 = 3;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    part: u64,
    /// Where the first part begins.
    from: u64,
    size: u64,
}

#[derive(Default)]
struct State {
    /// The next part that nobody fetches yet.
    next: u64,
    /// Parts that the reader has taken.
    taken: u64,
    ready: BTreeMap<u64, io::Result<Buffer>>,
    /// The reader is gone.
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(|e| e.into_inner())
    }

    /// Gives a part to fetch, when there is room for it.
    fn claim(&self, blob: &Stream) -> Option<(u64, Stream, usize)> {
        let mut state = self.lock();
        loop {
            let start = self.from + state.next * self.part;
            if state.stopped || start >= self.size {
                return None;
            }
            if state.next < state.taken + AHEAD {
                let end = (start + self.part).min(self.size);
                state.next += 1;
                return Some((state.next - 1, blob.elsewhere(start..end), (end - start) as usize));
            }
            state = self.wait(state);
        }
    }

    /// Fetches parts until there are none, or one fails.
    fn fetch(&self, blob: &Stream) {
        while let Some((number, mut stream, length)) = self.claim(blob) {
            // The length is at most a part's, whatever anybody claims.
            let mut bytes = Buffer::zeroed(length);
            let fetched = stream.read_exact(&mut bytes).map(|()| bytes);
            let mut state = self.lock();
            state.stopped |= fetched.is_err();
            state.ready.insert(number, fetched);
            drop(state);
            self.changed.notify_all();
        }
    }
}

/// How large blobs are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges {
    /// Bytes of a part.
    pub part: u64,
    /// Bytes a second from which on one connection is enough.
    pub fast: u64,
}

/// A large blob.
pub(super) enum LargeBlob {
    /// Its first part, and how long the reader has waited for it.
    First { stream: Box<Stream>, waited: Duration, ranges: Ranges },
    /// All that follows.
    Rest(Box<dyn Read + Send>),
}

impl LargeBlob {
    /// The blob whose first part `stream` is.
    pub fn new(stream: Stream, ranges: Ranges) -> Self {
        Self::First { stream: Box::new(stream), waited: Duration::ZERO, ranges }
    }
}

impl Read for LargeBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self::First { stream, waited, ranges } = self else {
            let Self::Rest(rest) = self else { return Ok(0) };
            return rest.read(buffer);
        };
        let started = Instant::now();
        let read = stream.read(buffer)?;
        *waited += started.elapsed();
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        let is_fast = ranges.part as f64 >= ranges.fast as f64 * waited.as_secs_f64();
        let rest: Box<dyn Read + Send> = match is_fast {
            // A registry that knows no ranges has sent all of it.
            _ if stream.is_whole() => Box::new(io::empty()),
            // One that knows them no more sends it once and not for every part.
            _ if !stream.has_ranges() => Box::new(stream.elsewhere(stream.end()..stream.size())),
            true => Box::new(stream.elsewhere(stream.end()..stream.size())),
            false => Box::new(Parts::start(stream, ranges.part).map_err(io::Error::other)?),
        };
        *self = Self::Rest(rest);
        self.read(buffer)
    }
}

/// The reader of all parts but the first.
struct Parts {
    shared: Arc<Shared>,
    current: Buffer,
    read: usize,
}

impl Parts {
    /// All that follows the range that `stream` is.
    fn start(stream: &Stream, part: u64) -> Result<Self> {
        let (from, size, blob) = (stream.end(), stream.size(), Arc::new(stream.elsewhere(0..0)));
        let parts = Self {
            shared: Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), part, from, size }),
            current: Buffer::default(),
            read: 0,
        };
        for _ in 0..AT_ONCE {
            let (shared, blob) = (parts.shared.clone(), blob.clone());
            std::thread::Builder::new()
                .name("snapcask-download".into())
                .spawn(move || shared.fetch(&blob))
                .context("start a thread for", "a download")?;
        }
        Ok(parts)
    }

    /// Waits for the next part; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        let mut state = self.shared.lock();
        let number = state.taken;
        if self.shared.from + number * self.shared.part >= self.shared.size {
            return Ok(false);
        }
        let part = loop {
            match state.ready.remove(&number) {
                Some(part) => break part?,
                None => state = self.shared.wait(state),
            }
        };
        state.taken += 1;
        drop(state);
        self.shared.changed.notify_all();
        (self.current, self.read) = (part, 0);
        Ok(true)
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.current.len() && (buffer.is_empty() || !self.next()?) {
            return Ok(0);
        }
        let length = buffer.len().min(self.current.len() - self.read);
        buffer[..length].copy_from_slice(&self.current[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // The threads end by themselves; nobody waits for what is on its way.
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
    }
}

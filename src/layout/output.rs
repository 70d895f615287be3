//! [`Output`]: a file that is written in large pieces, whose writeback begins early.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

/// Writes are gathered up to this size.
const BUFFER: usize = 1 << 20;
/// Writes from this size on pass straight through.
const LARGE: usize = 64 << 10;
/// After so many bytes a helper thread starts writing them back, which keeps the closing fsync short.
const WRITEBACK: u64 = 64 << 20;

/// A file being written. All writes go to explicit offsets.
pub(super) struct Output {
    file: File,
    /// What has reached the file.
    written: u64,
    buffer: Vec<u8>,
    unsynced: u64,
    syncer: Option<Syncer>,
}

impl Output {
    /// From the file's beginning.
    pub(super) fn new(file: File) -> Self {
        Self { file, written: 0, buffer: Vec::new(), unsynced: 0, syncer: None }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= LARGE || self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= LARGE {
            self.put(bytes)
        } else {
            self.buffer.extend_from_slice(bytes);
            Ok(())
        }
    }

    /// Hands everything to the system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.put(&buffer);
        buffer.clear();
        self.buffer = buffer;
        result
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= WRITEBACK {
            self.unsynced = 0;
            let syncer = match &self.syncer {
                Some(syncer) => syncer,
                None => self.syncer.insert(Syncer::start(self.file.try_clone()?)?),
            };
            syncer.request()?;
        }
        Ok(())
    }

    /// Overwrites bytes that were appended before.
    pub(super) fn patch(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.flush()?;
        self.file.write_all_at(bytes, offset)
    }

    /// Drops everything from `length` on.
    pub(super) fn truncate(&mut self, length: u64) -> io::Result<()> {
        if length >= self.written {
            // A failed write may have left bytes past what is counted.
            let keep = usize::try_from(length - self.written).unwrap_or(usize::MAX);
            self.buffer.truncate(keep);
            return self.file.set_len(self.written);
        }
        self.buffer.clear();
        self.written = length;
        self.file.set_len(length)
    }

    /// Makes all durable. An earlier failed sync is final: the system reports each failure only once.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        if let Some(syncer) = self.syncer.take() {
            syncer.stop()?;
        }
        self.file.sync_all()
    }

    /// The file, for reading it back.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

type Failure = Arc<Mutex<Option<io::Error>>>;

/// The helper thread that writes back.
struct Syncer {
    requests: SyncSender<()>,
    failure: Failure,
    thread: JoinHandle<()>,
}

impl Syncer {
    fn start(file: File) -> io::Result<Self> {
        let (requests, received) = sync_channel(1);
        let failure = Failure::default();
        let shared = failure.clone();
        let thread = std::thread::Builder::new().name("writeback".into()).spawn(move || {
            while received.recv().is_ok() {
                if let Err(error) = file.sync_data() {
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        })?;
        Ok(Self { requests, failure, thread })
    }

    fn request(&self) -> io::Result<()> {
        match self.requests.try_send(()) {
            // One is waiting already: it will take these bytes along.
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            Err(TrySendError::Disconnected(())) => Err(self.error()),
        }
    }

    fn error(&self) -> io::Error {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error),
            None => io::Error::other("the writeback thread stopped"),
        }
    }

    fn stop(self) -> io::Result<()> {
        let Self { requests, failure, thread } = self;
        drop(requests);
        let joined = thread.join();
        match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => joined.map_err(|_| io::Error::other("the writeback thread panicked")),
        }
    }
}

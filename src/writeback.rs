//! [`Writeback`]: a thread that makes files durable while they are still being written, so that the closing fsync is
//! short. It only runs ahead: whoever needs a file durable syncs it, and asks [`Writeback::finish`] whether all went well.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

/// A file's writers ask after so many bytes. Measured on ext4 with 530 MB: 16 to 64 MiB make no difference.
pub const WRITEBACK_EVERY: u64 = 32 << 20;
/// Files that may wait; what is asked beyond is left to the closing fsync.
const QUEUE: usize = 8;

type Failure = Arc<Mutex<Option<io::Error>>>;

/// The thread and its queue.
#[derive(Debug)]
pub struct Writeback {
    requests: SyncSender<File>,
    failure: Failure,
    thread: JoinHandle<()>,
}

impl Writeback {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (requests, received) = sync_channel::<File>(QUEUE);
        let failure = Failure::default();
        let shared = failure.clone();
        let thread = std::thread::Builder::new().name("writeback".into()).spawn(move || {
            while let Ok(file) = received.recv() {
                if let Err(error) = file.sync_data() {
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        })?;
        Ok(Self { requests, failure, thread })
    }

    /// Asks for what has been written to `file` so far.
    ///
    /// # Errors
    /// An earlier sync failed; that is final, since the system reports each failure only once.
    pub fn request(&self, file: &File) -> io::Result<()> {
        match self.requests.try_send(file.try_clone()?) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(self.error()),
        }
    }

    fn error(&self) -> io::Error {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error),
            None => io::Error::other("the writeback thread stopped"),
        }
    }

    /// Waits for what was asked for.
    ///
    /// # Errors
    /// A sync failed.
    pub fn finish(self) -> io::Result<()> {
        let Self { requests, failure, thread } = self;
        drop(requests);
        let joined = thread.join();
        match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => joined.map_err(|_| io::Error::other("the writeback thread panicked")),
        }
    }
}

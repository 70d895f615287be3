//! Integrity that a descriptor records, checked on export and again on import.
//!
//! The Merkle form is known from a file's contents. The SHA forms cost the logical size, on one core: they run on a
//! thread beside the rest, and nothing is published or placed before [`RecordedChecks::finish`].

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use crate::{
    error::{Error, IoContext, Result},
    layer::analyze::Contents,
    progress::Progress,
    snapshot::{IntegrityAlgorithm, RecordedIntegrity, integrity},
};

/// Files that may wait for the thread; each holds a handle.
const QUEUE: usize = 16;

struct Check {
    recorded: RecordedIntegrity,
    file: File,
    path: PathBuf,
    size: u64,
}

/// What the thread and its owner share.
struct Shared {
    progress: Arc<dyn Progress>,
    /// Bytes asked for and not hashed yet.
    left: AtomicU64,
    /// Whether the owner waits, and the progress is this thread's.
    waiting: AtomicBool,
}

/// The thread that hashes, and its queue.
pub struct RecordedChecks {
    queue: SyncSender<Check>,
    thread: JoinHandle<Result<()>>,
    shared: Arc<Shared>,
}

impl RecordedChecks {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Io`]: there can be no more threads.
    pub fn start(progress: Arc<dyn Progress>) -> Result<Self> {
        let (queue, checks) = sync_channel::<Check>(QUEUE);
        let shared = Arc::new(Shared { progress, left: AtomicU64::new(0), waiting: AtomicBool::new(false) });
        let hashing = shared.clone();
        let thread = std::thread::Builder::new()
            .name("recorded".into())
            .spawn(move || checks.iter().try_for_each(|check| check.run(&hashing)))
            .context("start a thread for", "recorded integrity")?;
        Ok(Self { queue, thread, shared })
    }

    /// Compares a recorded value with the file's contents: the Merkle form now, the SHA forms on the thread.
    ///
    /// # Errors
    /// [`Error::RecordedIntegrity`] with both values; [`Error::Io`].
    pub fn add(&self, recorded: &RecordedIntegrity, file: &File, path: PathBuf, contents: &Contents) -> Result<()> {
        if recorded.algorithm == IntegrityAlgorithm::Merkle {
            return compare(recorded, path, contents.root.to_string());
        }
        let file = file.try_clone().context("duplicate the handle of", &path)?;
        self.shared.left.fetch_add(contents.size, Ordering::Relaxed);
        // After an error the thread takes no more; `finish` returns it.
        let _ = self.queue.send(Check { recorded: recorded.clone(), file, path, size: contents.size });
        Ok(())
    }

    /// Waits for all comparisons.
    ///
    /// # Errors
    /// The first one that failed.
    pub fn finish(self) -> Result<()> {
        let Self { queue, thread, shared } = self;
        drop(queue);
        let left = shared.left.load(Ordering::Relaxed);
        if left > 0 {
            shared.progress.begin("verifying recorded integrity", Some(left));
            shared.waiting.store(true, Ordering::Relaxed);
        }
        let result = thread.join();
        if left > 0 {
            shared.progress.end();
        }
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Check {
    fn run(self, shared: &Shared) -> Result<()> {
        let mut hashed = |bytes| {
            shared.left.fetch_sub(bytes, Ordering::Relaxed);
            if shared.waiting.load(Ordering::Relaxed) {
                shared.progress.advance(bytes);
            }
        };
        let hash = match self.recorded.algorithm {
            IntegrityAlgorithm::Sha256 => integrity::sha256_of_file,
            _ => integrity::sparse_sha256_of_file,
        };
        let actual = hash(&self.file, &self.path, self.size, &mut hashed)?;
        compare(&self.recorded, self.path, actual)
    }
}

fn compare(recorded: &RecordedIntegrity, path: PathBuf, actual: String) -> Result<()> {
    if actual == recorded.value {
        return Ok(());
    }
    let (algorithm, expected) = (recorded.algorithm.as_str(), recorded.value.clone());
    Err(Error::RecordedIntegrity { path, algorithm, expected, actual })
}

//! What a file takes over from the one beneath it: shared blocks where the filesystem has them, else copies of the data
//! that its layer does not hold, made beside the decoding.
//!
//! A copy writes no zero block, whatever the filesystem says of holes: fuse-overlayfs and NFS report a sparse file as
//! data from its beginning to its end.
//!
//! Copies go through memory, a megabyte at a time, and not by `copy_file_range`: where blocks cannot be shared that call
//! moves pages through a pipe of 64 KiB. Measured on ext4 with 540 MB in the page cache and two threads: 0.20 s against
//! 0.30 to 0.45 s.

use std::{
    fs::{File, OpenOptions},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{Builder, Scope, ScopedJoinHandle},
};

use super::{
    analyze::{FileView, read_exact_at},
    extents::{data_extents, without},
    runs::{Held, runs},
};
use crate::{
    buffers::Buffer,
    error::{IoContext, Result},
};

/// Bytes that are read and written at once.
const PIECE: u64 = 1 << 20;
/// A thread's share.
const SHARE: u64 = 8 << 20;

/// A file beneath another one.
#[derive(Debug)]
pub struct Beneath {
    /// Open for reading.
    pub file: File,
    /// How messages name it.
    pub path: PathBuf,
}

impl Beneath {
    /// Opens the file.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { file: File::open(path).context("open", path)?, path: path.into() })
    }

    /// The data below `size` and outside of the sorted ranges `except`, in shares for threads.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn data(&self, size: u64, except: &[Range<u64>]) -> Result<Vec<Range<u64>>> {
        let length = self.file.metadata().context("stat", &self.path)?.len();
        let extents = data_extents(&self.file, &self.path, length.min(size))?;
        let cut = |range: Range<u64>| {
            let end = range.end;
            range.step_by(SHARE as usize).map(move |start| start..(start + SHARE).min(end))
        };
        Ok(without(&extents, except).into_iter().flat_map(cut).collect())
    }

    /// Copies `range` to the same place of `to`, which is a hole there, through `buffer`. Zero blocks stay holes, because a
    /// filesystem may report a file's holes as data. `copied` is told of what was written.
    fn copy(
        &self,
        to: &File,
        to_path: &Path,
        range: Range<u64>,
        buffer: &mut [u8],
        copied: &dyn Fn(u64) -> Result<()>,
    ) -> Result<()> {
        let view = FileView { file: &self.file, path: &self.path, size: range.end };
        let mut at = range.start;
        while at < range.end {
            let part = &mut buffer[..(range.end - at).min(PIECE) as usize];
            read_exact_at(view, part, at)?;
            for (run, _) in runs(part, at).filter(|(_, held)| *held == Held::Data) {
                let bytes = &part[run.clone()];
                to.write_all_at(bytes, at + run.start as u64).context("write", to_path)?;
                copied(bytes.len() as u64)?;
            }
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// Makes the empty file `to` share all blocks of `from`; whether their filesystem can.
pub fn share_blocks(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

/// Makes the empty file `to` equal to the first `size` bytes of `from`; zero blocks become holes. `copied` is told of bytes
/// that were written.
///
/// # Errors
/// [`crate::Error::Io`]; [`crate::Error::SourceChanged`] when `from` ends early; those of `copied`.
pub fn clone_contents(
    from: &Beneath,
    to: &File,
    to_path: &Path,
    size: u64,
    copied: &dyn Fn(u64) -> Result<()>,
) -> Result<()> {
    if share_blocks(&from.file, to) {
        return to.set_len(size).context("set the size of", to_path);
    }
    to.set_len(size).context("set the size of", to_path)?;
    let mut buffer = Buffer::zeroed(PIECE as usize);
    from.data(size, &[])?.into_iter().try_for_each(|range| from.copy(to, to_path, range, &mut buffer, copied))
}

/// Makes `to`, which must not exist, a copy of the file `from`, with its mode.
///
/// # Errors
/// As [`clone_contents`].
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let from = Beneath::open(from)?;
    let meta = from.file.metadata().context("stat", &from.path)?;
    let copy = OpenOptions::new().read(true).write(true).create_new(true).open(to).context("create", to)?;
    clone_contents(&from, &copy, to, meta.len(), &|_| Ok(()))?;
    copy.set_permissions(meta.permissions()).context("set the mode of", to)
}

/// Copies that run beside other work, those of one file at a time.
pub struct Copies<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    threads: usize,
    running: Vec<ScopedJoinHandle<'scope, Result<()>>>,
}

/// A file that takes in copies.
pub trait Receive: Send + Sync {
    /// Open for writing.
    fn file(&self) -> &File;
    /// How messages name it.
    fn path(&self) -> &Path;
    /// That many bytes were written to it.
    ///
    /// # Errors
    /// What makes going on pointless.
    fn written(&self, bytes: u64) -> Result<()>;
}

impl<'scope, 'env> Copies<'scope, 'env> {
    /// None run yet; `threads` will, at least 1.
    pub fn new(scope: &'scope Scope<'scope, 'env>, threads: usize) -> Self {
        Self { scope, threads: threads.max(1), running: Vec::new() }
    }

    /// Begins to copy the data of `from` below `size` and outside of `except` to `to`, which nobody else writes to there.
    ///
    /// # Errors
    /// Those of the file before, and [`crate::Error::Io`].
    pub fn begin<R>(&mut self, from: Arc<Beneath>, to: Arc<R>, size: u64, except: &[Range<u64>]) -> Result<()>
    where
        R: Receive + 'scope,
    {
        self.join()?;
        let ranges: Arc<[Range<u64>]> = from.data(size, except)?.into();
        let next = Arc::new(AtomicUsize::new(0));
        let copy = || {
            let (from, to, ranges, next) = (from.clone(), to.clone(), ranges.clone(), next.clone());
            move || {
                let mut buffer = Buffer::zeroed(PIECE as usize);
                while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                    from.copy(to.file(), to.path(), range.clone(), &mut buffer, &|bytes| to.written(bytes))?;
                }
                Ok(())
            }
        };
        for _ in 0..self.threads.min(ranges.len()) {
            match Builder::new().spawn_scoped(self.scope, copy()) {
                Ok(thread) => self.running.push(thread),
                // Those that run do it all; without one it is done before anything else.
                Err(_) if self.running.is_empty() => return copy()(),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Waits for what runs.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn join(&mut self) -> Result<()> {
        let join = |thread: ScopedJoinHandle<Result<()>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        // All of them, also after an error.
        let results: Vec<Result<()>> = self.running.drain(..).map(join).collect();
        results.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, sync::Mutex};

    use super::*;

    struct Received(File, Mutex<u64>);

    impl Receive for Received {
        fn file(&self) -> &File {
            &self.0
        }

        fn path(&self) -> &Path {
            Path::new("to")
        }

        fn written(&self, bytes: u64) -> Result<()> {
            *self.1.lock().unwrap() += bytes;
            Ok(())
        }
    }

    /// A filesystem without SEEK_HOLE says nothing else of a sparse file than that all of it is data.
    #[test]
    fn zeros_that_are_data_are_not_copied() {
        const SIZE: u64 = 24 << 20;
        let data = [(0, 1), (5 << 20, 4096), ((9 << 20) - 100, 200), (SIZE - 1, 1)];
        let from = Beneath { file: tempfile::tempfile().unwrap(), path: "from".into() };
        from.file.write_all_at(&vec![0; SIZE as usize], 0).unwrap();
        for (at, length) in data {
            from.file.write_all_at(&vec![7; length], at).unwrap();
        }
        assert_eq!(from.data(SIZE, &[]).unwrap().len(), 3, "the filesystem says that all of it is data");
        let read = |file: &File| {
            let mut bytes = vec![0; SIZE as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let (original, blocks) = (read(&from.file), 5 * 4096);

        let copy = tempfile::tempfile().unwrap();
        let written = Mutex::new(0);
        let told = |bytes| {
            *written.lock().unwrap() += bytes;
            Ok(())
        };
        clone_contents(&from, &copy, Path::new("copy"), SIZE, &told).unwrap();
        assert!(read(&copy) == original);
        if written.into_inner().unwrap() != 0 {
            // Else the blocks are shared.
            assert!(copy.metadata().unwrap().blocks() * 512 <= blocks, "{}", copy.metadata().unwrap().blocks());
        }

        let to = Arc::new(Received(tempfile::tempfile().unwrap(), Mutex::new(0)));
        to.0.set_len(SIZE).unwrap();
        let held = 5 << 20..(5 << 20) + 512;
        std::thread::scope(|scope| {
            let mut copies = Copies::new(scope, 2);
            copies.begin(Arc::new(from), to.clone(), SIZE, std::slice::from_ref(&held)).unwrap();
            copies.join().unwrap();
        });
        to.0.write_all_at(&[7; 512], held.start).unwrap();
        assert!(read(&to.0) == original);
        let written = *to.1.lock().unwrap();
        assert!(written > 0 && written <= blocks - 512, "{written}");
        assert!(to.0.metadata().unwrap().blocks() * 512 <= blocks, "{}", to.0.metadata().unwrap().blocks());
    }
}

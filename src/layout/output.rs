//! [`Output`]: a file that is written in large pieces, whose writeback begins early.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::writeback::{WRITEBACK_EVERY, Writeback};

/// Writes are gathered up to this size.
const BUFFER: usize = 1 << 20;
/// Writes from this size on pass straight through.
const LARGE: usize = 64 << 10;

/// A file being written. All writes go to explicit offsets.
pub(super) struct Output {
    file: File,
    /// What has reached the file.
    written: u64,
    buffer: Vec<u8>,
    unsynced: u64,
    writeback: Option<Writeback>,
}

impl Output {
    /// From the file's beginning.
    pub(super) fn new(file: File) -> Self {
        Self { file, written: 0, buffer: Vec::new(), unsynced: 0, writeback: None }
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
        if self.unsynced >= WRITEBACK_EVERY {
            self.unsynced = 0;
            let writeback = match &self.writeback {
                Some(running) => running,
                None => self.writeback.insert(Writeback::start()?),
            };
            writeback.request(&self.file)?;
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
        if let Some(writeback) = self.writeback.take() {
            writeback.finish()?;
        }
        self.file.sync_all()
    }

    /// The file, for reading it back.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

//! Random access to a tar's bytes, whether they lie in a plain file or in zstd frames.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

/// Bytes that any number of readers read at once.
pub(super) trait Bytes: Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;
    /// A reader of its own.
    fn cursor(&self) -> io::Result<Box<dyn Cursor + Send + '_>>;
}

/// One reader; it may cache.
pub(super) trait Cursor {
    /// Some bytes from `offset` on; 0 only at the end.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// All bytes of `buffer`.
    fn read_exact_at(&mut self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    buffer = &mut buffer[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }
}

/// A plain file.
pub(super) struct PlainFile {
    file: File,
    size: u64,
}

impl PlainFile {
    pub(super) fn new(file: File, size: u64) -> Self {
        Self { file, size }
    }
}

impl Bytes for PlainFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn cursor(&self) -> io::Result<Box<dyn Cursor + Send + '_>> {
        Ok(Box::new(&self.file))
    }
}

impl Cursor for &File {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(*self, buffer, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// A part of the bytes, as a stream.
pub(super) struct Window<'a> {
    cursor: Box<dyn Cursor + Send + 'a>,
    at: u64,
    left: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(cursor: Box<dyn Cursor + Send + 'a>, at: u64, size: u64) -> Self {
        Self { cursor, at, left: size }
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.cursor.read_at(&mut buffer[..want], self.at)?;
        self.at += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

//! An archive's bytes, decompressed on a thread of their own, in pieces that other threads can hold on to.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
};

use flate2::read::MultiGzDecoder;

use crate::{
    buffers::Buffer,
    error::{Error, Result},
    layer::tar::TAR_BLOCK,
    zstd_input::{MaxWindow, ZstdReader},
};

/// Bytes of a piece, at most.
const PIECE: usize = 1 << 20;
/// Pieces that wait to be walked.
const QUEUE: usize = 8;
/// How every zstd frame begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// How every gzip member begins. msb writes none, but somebody may compress its plain tar so.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// A block of a tar.
const BLOCK: usize = TAR_BLOCK as usize;

/// An archive that has been opened, and what has been read of it.
pub struct Input {
    /// How messages name it.
    pub name: String,
    /// Its first bytes.
    pub head: Vec<u8>,
    /// What follows them.
    pub rest: File,
    /// The zstd window that it may ask for.
    pub window: MaxWindow,
}

/// The first block of the tar that begins with `head`, compressed or not; none where there is no such block.
pub(super) fn first_block(head: &[u8], window: MaxWindow) -> Option<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    if head.starts_with(&ZSTD_MAGIC) {
        ZstdReader::new(head, "", window, "").ok()?.read_exact(&mut block).ok()?;
    } else if head.starts_with(&GZIP_MAGIC) {
        MultiGzDecoder::new(head).read_exact(&mut block).ok()?;
    } else {
        block.copy_from_slice(head.get(..BLOCK)?);
    }
    Some(block)
}

/// A part of the bytes.
pub(super) struct Piece {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Piece {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

/// The bytes in their order.
pub(super) struct Stream {
    name: String,
    /// Taken away to make the thread end.
    pieces: Option<Receiver<io::Result<Buffer>>>,
    thread: Option<JoinHandle<()>>,
    current: Arc<Buffer>,
    at: usize,
}

impl Stream {
    /// Begins to read and to decompress.
    ///
    /// # Errors
    /// [`Error::Io`]: there can be no more threads.
    pub fn start(input: Input) -> Result<Self> {
        let Input { name, head, rest, window } = input;
        let (sender, pieces) = sync_channel(QUEUE);
        let (is_zstd, is_gzip) = (head.starts_with(&ZSTD_MAGIC), head.starts_with(&GZIP_MAGIC));
        let (bytes, called) = (Cursor::new(head).chain(rest), name.clone());
        let read = move || {
            let mut bytes: Box<dyn Read> = match is_zstd {
                false if is_gzip => Box::new(MultiGzDecoder::new(bytes)),
                false => Box::new(bytes),
                true => match ZstdReader::new(bytes, &called, window, "; --max-window raises it") {
                    Ok(decoder) => Box::new(decoder),
                    Err(error) => return drop(sender.send(Err(error))),
                },
            };
            loop {
                let mut buffer = Buffer::with_capacity(PIECE);
                let got = bytes.by_ref().take(PIECE as u64).read_to_end(&mut buffer);
                // What came before an error is not walked either: nothing of it will be used.
                let piece = match got {
                    Ok(0) => return,
                    Ok(_) => Ok(buffer),
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                if sender.send(piece).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("archive".into())
            .spawn(read)
            .map_err(|error| Error::io("start a thread for", &name, error))?;
        let current = Arc::default();
        Ok(Self { name, pieces: Some(pieces), thread: Some(thread), current, at: 0 })
    }

    /// How messages name the archive.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error about the archive.
    pub fn fail<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::bundle(&self.name, reason))
    }

    /// The next bytes, at most `most` of them; none at the end.
    pub fn piece(&mut self, most: u64) -> Result<Option<Piece>> {
        if self.at == self.current.len() {
            match self.pieces.as_ref().and_then(|pieces| pieces.recv().ok()) {
                None => return Ok(None),
                Some(Ok(buffer)) => (self.current, self.at) = (Arc::new(buffer), 0),
                Some(Err(error)) => return Err(self.read_failed(error)),
            }
        }
        let end = self.at + (self.current.len() - self.at).min(usize::try_from(most).unwrap_or(usize::MAX));
        let piece = Piece { buffer: self.current.clone(), range: self.at..end };
        self.at = end;
        Ok(Some(piece))
    }

    /// Exactly the next `bytes.len()` bytes; false at the end. Only a part of them is an error.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.piece((bytes.len() - filled) as u64)? {
                Some(piece) => {
                    bytes[filled..filled + piece.bytes().len()].copy_from_slice(piece.bytes());
                    filled += piece.bytes().len();
                }
                None if filled == 0 => return Ok(false),
                None => return self.cut_off(),
            }
        }
        Ok(true)
    }

    /// The error of an archive that ends too early.
    pub fn cut_off<T>(&self) -> Result<T> {
        self.fail("it is cut off")
    }

    fn read_failed(&self, error: io::Error) -> Error {
        match (error.raw_os_error(), error.kind()) {
            (Some(_), _) => Error::io("read", &self.name, error),
            (None, io::ErrorKind::UnexpectedEof) => Error::bundle(&self.name, "its compressed data is cut off"),
            (None, _) => match error.downcast::<Error>() {
                Ok(limit) => limit,
                Err(error) => Error::bundle(&self.name, format!("its compressed data does not decode: {error}")),
            },
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The thread ends when it sends next; a read that waits for a pipe must not keep us.
        drop(self.pieces.take());
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

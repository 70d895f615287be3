//! What a request carries, and how it goes out.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;

/// Bytes of a request that are handed to the connection at once.
const SLICE: usize = 128 << 10;

/// What a request carries. Cheap to clone: another attempt sends it again.
#[derive(Clone)]
pub(super) enum Content {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file's bytes from the first on, that many.
    File(Arc<File>, u64),
}

impl Content {
    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }
}

/// A body of known length that tells how it goes.
pub(super) struct Payload {
    content: Content,
    done: u64,
    moved: Arc<AtomicU64>,
}

impl Payload {
    /// From the first byte on; `moved` counts those that went out.
    pub fn new(content: Content, moved: Arc<AtomicU64>) -> Self {
        Self { content, done: 0, moved }
    }

    fn left(&self) -> u64 {
        self.content.len() - self.done
    }

    fn slice(&self, length: usize) -> io::Result<Bytes> {
        match &self.content {
            Content::Bytes(bytes) => {
                let from = self.done as usize;
                Ok(bytes.slice(from..from + length))
            }
            // A short read of a file of our own, in memory as a rule: not worth another thread.
            Content::File(file, _) => {
                let mut slice = vec![0; length];
                file.read_exact_at(&mut slice, self.done)?;
                Ok(slice.into())
            }
        }
    }
}

impl http_body::Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<http_body::Frame<Bytes>>>> {
        let length = usize::try_from(self.left()).unwrap_or(usize::MAX).min(SLICE);
        if length == 0 {
            return Poll::Ready(None);
        }
        let slice = match self.slice(length) {
            Ok(slice) => slice,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        self.done += length as u64;
        self.moved.fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(http_body::Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left())
    }
}

//! What a request carries, and how it goes out.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Bytes of a request that are handed to the connection at once.
const SLICE: usize = 128 << 10;

/// Slices that may wait in a stream.
const WAITING: usize = 4;

/// What a request carries. Cheap to clone: another attempt sends it again, unless it is a stream.
#[derive(Clone)]
pub(super) enum Content {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file's bytes from the first on, that many.
    File(Arc<File>, u64),
    /// That many bytes as they come. Whoever sends first takes them.
    Stream(Arc<Mutex<Option<Receiver<Bytes>>>>, u64),
}

impl Content {
    /// Nothing.
    pub fn none() -> Self {
        Self::Bytes(Bytes::new())
    }

    /// So many bytes, which are handed to the sender.
    pub fn stream(length: u64) -> (Sender<Bytes>, Self) {
        let (sender, receiver) = channel(WAITING);
        (sender, Self::Stream(Arc::new(Mutex::new(Some(receiver))), length))
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, length) | Self::Stream(_, length) => *length,
        }
    }

    /// Whether it can be sent only once.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(..))
    }

    /// So many bytes from `offset` on.
    pub fn piece(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => {
                let from = offset as usize;
                Ok(bytes.slice(from..from + length))
            }
            Self::File(file, _) => {
                let mut piece = vec![0; length];
                file.read_exact_at(&mut piece, offset)?;
                Ok(piece.into())
            }
            Self::Stream(..) => Err(io::Error::other("a stream has no pieces")),
        }
    }
}

/// A body of known length that tells how it goes.
pub(super) struct Payload {
    content: Content,
    /// The bytes of a stream; `None` where an earlier attempt has taken them.
    stream: Option<Receiver<Bytes>>,
    done: u64,
    moved: Arc<AtomicU64>,
}

impl Payload {
    /// From the first byte on; `moved` counts those that went out.
    pub fn new(content: Content, moved: Arc<AtomicU64>) -> Self {
        let stream = match &content {
            Content::Stream(stream, _) => stream.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Content::Bytes(_) | Content::File(..) => None,
        };
        Self { content, stream, done: 0, moved }
    }

    fn left(&self) -> u64 {
        self.content.len() - self.done
    }

    /// The next bytes; `None` where the stream ends.
    fn poll_slice(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        match (&self.content, &mut self.stream) {
            (Content::Stream(..), Some(stream)) => stream.poll_recv(context).map(|next| next.map(Ok)),
            (Content::Stream(..), None) => Poll::Ready(Some(Err(io::Error::other("the bytes were sent already")))),
            // A short read of a file of our own, in memory as a rule: not worth another thread.
            (content, _) => Poll::Ready(Some(content.piece(self.done, left.min(SLICE)))),
        }
    }
}

impl http_body::Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<http_body::Frame<Bytes>>>> {
        if self.left() == 0 {
            return Poll::Ready(None);
        }
        let slice = match self.poll_slice(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Ok(slice))) => slice,
        };
        self.done += slice.len() as u64;
        self.moved.fetch_add(slice.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(http_body::Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left())
    }
}

//! A blob on its way to a registry: hashed here, sent beside by a thread of its own.
//!
//! A blob that fits one chunk waits in memory: it is sent when its digest is known, if the registry lacks it. A larger one
//! goes in chunks, of which at most three are in memory: one that fills, one that waits, one that goes. Where chunks are
//! not the way, a blob of known digest is streamed in one request, and another one waits in a file.

use std::{
    fs::File,
    io::{self, Write},
    mem,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use bytes::Bytes;

use super::{
    capabilities::Way,
    payload::Content,
    repository::is_manifest,
    target::Shared,
    upload::{MAX_CHUNK, Session, begin, layer, send_content, send_whole, to_io},
};
use crate::{
    digest::{Digest, Hasher},
    error::{Error, IoContext, Result},
    model::Descriptor,
    storage::BlobWriter,
    temporary,
};

/// What is known of a blob before its bytes.
pub(super) enum Expected {
    /// Nothing.
    Nothing,
    /// What the bytes follow from: an interrupted upload of the same goes on.
    Key(Digest),
    /// Its digest and size, and how its bytes may be sent.
    Blob(Descriptor, Body),
}

/// How a blob of known digest is sent in one request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// As its bytes come, once.
    Stream,
    /// From a file, as often as it takes.
    File,
}

/// A blob being sent.
pub(super) struct UploadWriter {
    shared: Arc<Shared>,
    hasher: Hasher,
    size: u64,
    /// Bytes that the registry has from an earlier run: hashed, not sent.
    skip: u64,
    /// Bytes that go to the registry.
    taken: u64,
    expected: Expected,
    /// An upload that was begun already.
    session: Option<Session>,
    /// Bytes that wait: less than a chunk, once chunks go.
    buffer: Vec<u8>,
    sink: Sink,
}

/// Where the bytes go.
enum Sink {
    /// Into the buffer, which may have so many bytes.
    Memory(usize),
    /// In chunks of so many bytes to a thread.
    Chunks(usize, Sending<SyncSender<Bytes>, Session>),
    /// To a request that a thread has begun.
    Stream(Sending<tokio::sync::mpsc::Sender<Bytes>, ()>),
    /// Into a file that nobody else sees.
    File(File),
    /// Nowhere, because it failed.
    Failed,
}

/// A thread that sends.
struct Sending<S, T> {
    bytes: S,
    thread: JoinHandle<Result<T>>,
}

impl<S, T> Sending<S, T> {
    /// Waits for what is on its way.
    fn join(self, shared: &Shared) -> Result<T> {
        drop(self.bytes);
        self.thread.join().unwrap_or_else(|_| Err(lost(shared, "the thread that sent it failed")))
    }
}

fn lost(shared: &Shared, reason: &str) -> Error {
    Error::UploadLost { registry: shared.repo.client.registry(), reason: reason.into() }
}

fn spawn<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let thread = std::thread::Builder::new().name("snapcask-upload".into()).spawn(work);
    thread.map_err(|e| Error::io("start a thread for", shared.repo.display(), e))
}

impl UploadWriter {
    /// `session` is an upload that is begun already.
    pub fn new(shared: Arc<Shared>, expected: Expected, session: Option<Session>) -> Self {
        let sink = Sink::Memory(shared.repo.client.capabilities.chunk());
        let mut writer = Self {
            shared,
            hasher: Hasher::new(),
            size: 0,
            skip: 0,
            taken: 0,
            expected,
            session,
            buffer: Vec::new(),
            sink,
        };
        writer.resume();
        writer
    }

    fn key(&self) -> Option<&Digest> {
        match &self.expected {
            Expected::Nothing => None,
            Expected::Key(key) => Some(key),
            Expected::Blob(descriptor, _) => Some(&descriptor.digest),
        }
    }

    fn known_size(&self) -> Option<u64> {
        match &self.expected {
            Expected::Blob(descriptor, _) => Some(descriptor.size),
            Expected::Nothing | Expected::Key(_) => None,
        }
    }

    /// Goes on with what an earlier run has begun.
    fn resume(&mut self) {
        let repo = &self.shared.repo;
        let Some(key) = self.key().filter(|_| self.session.is_none()) else { return };
        if !matches!(repo.client.capabilities.way(self.known_size()), Some(Way::Chunks(_))) {
            return;
        }
        let Some(record) = self.shared.memory.upload(&repo.client.registry(), &repo.name, key) else { return };
        if let Ok(session) = Session::resume(repo, record) {
            self.skip = session.offset();
            self.session = Some(session);
        }
    }

    /// The upload, begun now if it is not yet.
    fn begun(&mut self) -> Result<Session> {
        self.session.take().map_or_else(|| begin(&self.shared.repo), Ok)
    }

    /// Begins to send a blob that is larger than a chunk.
    fn start(&mut self) -> Result<Sink> {
        let capabilities = &self.shared.repo.client.capabilities;
        let is_resumed = self.session.as_ref().is_some_and(|session| session.offset() > 0);
        match capabilities.way(self.known_size()) {
            Some(Way::Chunks(chunk)) => self.start_chunks(chunk),
            _ if is_resumed => self.start_chunks(capabilities.chunk()),
            Some(Way::Whole) | None => match &self.expected {
                Expected::Blob(descriptor, Body::Stream) => {
                    let descriptor = descriptor.clone();
                    self.start_stream(descriptor)
                }
                _ => start_file(),
            },
        }
    }

    fn start_chunks(&mut self, chunk: usize) -> Result<Sink> {
        let mut session = self.begun()?;
        let chunk = chunk.max(session.least);
        if chunk > MAX_CHUNK {
            self.shared.repo.client.capabilities.refuse_chunks();
            self.session = Some(session);
            return self.start();
        }
        if let Some(key) = self.key()
            && session.offset() == 0
        {
            let repo = &self.shared.repo;
            session.remember(self.shared.memory.upload(&repo.client.registry(), &repo.name, key));
        }
        let (bytes, taken) = sync_channel::<Bytes>(1);
        let shared = self.shared.clone();
        let thread = spawn(&self.shared, move || {
            for chunk in taken {
                session.send(&shared.repo, chunk)?;
            }
            Ok(session)
        })?;
        Ok(Sink::Chunks(chunk, Sending { bytes, thread }))
    }

    fn start_stream(&mut self, descriptor: Descriptor) -> Result<Sink> {
        let session = self.session.take();
        let (bytes, content) = Content::stream(descriptor.size);
        let shared = self.shared.clone();
        let thread = spawn(&self.shared, move || send_whole(&shared.repo, session, &descriptor, &content))?;
        Ok(Sink::Stream(Sending { bytes, thread }))
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<()> {
        if let Sink::Memory(most) = self.sink {
            if self.buffer.len() + bytes.len() <= most {
                self.buffer.extend_from_slice(bytes);
                return Ok(());
            }
            self.sink = self.start()?;
            let waiting = mem::take(&mut self.buffer);
            self.pass_on(&waiting)?;
        }
        self.pass_on(bytes)
    }

    /// Gives bytes to what sends them.
    fn pass_on(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.sink {
            Sink::Memory(_) => {
                self.buffer.extend_from_slice(bytes);
                Ok(())
            }
            Sink::File(file) => file.write_all(bytes).context("write a spool file in", std::env::temp_dir()),
            Sink::Stream(sending) => {
                let sent = sending.bytes.blocking_send(Bytes::copy_from_slice(bytes));
                if sent.is_ok() { Ok(()) } else { self.fail() }
            }
            Sink::Chunks(chunk, _) => {
                let chunk = *chunk;
                self.pass_on_chunks(bytes, chunk)
            }
            Sink::Failed => Err(lost(&self.shared, "an earlier chunk failed")),
        }
    }

    fn pass_on_chunks(&mut self, bytes: &[u8], chunk: usize) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.buffer.len() == chunk {
                let full = mem::replace(&mut self.buffer, Vec::with_capacity(chunk));
                self.send_chunk(full)?;
            }
            self.buffer.reserve_exact(chunk - self.buffer.len());
            let length = rest.len().min(chunk - self.buffer.len());
            self.buffer.extend_from_slice(&rest[..length]);
            rest = &rest[length..];
        }
        Ok(())
    }

    fn send_chunk(&mut self, chunk: Vec<u8>) -> Result<()> {
        match &self.sink {
            Sink::Chunks(_, sending) if sending.bytes.send(chunk.into()).is_ok() => Ok(()),
            _ => self.fail(),
        }
    }

    /// The error of the thread that sends. It ends before its time only with one.
    fn fail(&mut self) -> Result<()> {
        match mem::replace(&mut self.sink, Sink::Failed) {
            Sink::Chunks(_, sending) => sending.join(&self.shared).map(drop)?,
            Sink::Stream(sending) => sending.join(&self.shared)?,
            Sink::Memory(_) | Sink::File(_) | Sink::Failed => {}
        }
        Err(lost(&self.shared, "the registry ended it before its time"))
    }

    /// Ends the blob, which must be the expected one where that is known.
    pub fn end(mut self, media_type: &str) -> Result<Descriptor> {
        let digest = mem::take(&mut self.hasher).finish();
        let descriptor = Descriptor::new(media_type, digest, self.size);
        if let Expected::Blob(expected, _) = &self.expected
            && (expected.digest, expected.size) != (digest, self.size)
        {
            let reason = format!("its {} bytes have the digest {digest}", self.size);
            return Err(Error::CorruptBlob { digest: expected.digest, reason });
        }
        let shared = self.shared.clone();
        match mem::replace(&mut self.sink, Sink::Failed) {
            Sink::Memory(_) => self.end_in_memory(&descriptor)?,
            Sink::Chunks(_, sending) => {
                self.check_skipped()?;
                self.sink = Sink::Chunks(0, sending);
                let last = mem::take(&mut self.buffer);
                if !last.is_empty() {
                    self.send_chunk(last)?;
                }
                if let Sink::Chunks(_, sending) = mem::replace(&mut self.sink, Sink::Failed) {
                    sending.join(&shared)?.finish(&shared.repo, &layer(digest, descriptor.size))?;
                }
                shared.sent.fetch_add(self.taken, Ordering::Relaxed);
            }
            Sink::Stream(sending) => {
                sending.join(&shared)?;
                shared.sent.fetch_add(self.taken, Ordering::Relaxed);
            }
            Sink::File(file) => self.send(&descriptor, Content::File(Arc::new(file), self.size))?,
            Sink::Failed => return Err(lost(&shared, "an earlier chunk failed")),
        }
        shared.holds(&descriptor);
        Ok(descriptor)
    }

    fn end_in_memory(&mut self, descriptor: &Descriptor) -> Result<()> {
        self.check_skipped()?;
        let bytes = Bytes::from(mem::take(&mut self.buffer));
        if is_manifest(&descriptor.media_type) {
            return self.shared.put_manifest(descriptor, bytes).map(drop);
        }
        let resumed = self.session.take_if(|session| session.offset() > 0);
        if let Some(mut session) = resumed {
            if !bytes.is_empty() {
                session.send(&self.shared.repo, bytes)?;
            }
            session.finish(&self.shared.repo, &layer(descriptor.digest, descriptor.size))?;
            self.shared.sent.fetch_add(self.taken, Ordering::Relaxed);
            return Ok(());
        }
        if self.session.is_none() && self.shared.repo.has_blob(descriptor)? {
            return Ok(());
        }
        self.send(descriptor, Content::Bytes(bytes))
    }

    fn send(&mut self, descriptor: &Descriptor, content: Content) -> Result<()> {
        let blob = layer(descriptor.digest, descriptor.size);
        send_content(&self.shared.repo, self.session.take(), &blob, &content)?;
        self.shared.sent.fetch_add(self.taken, Ordering::Relaxed);
        Ok(())
    }

    /// A registry that has more than the blob is long has bytes of another one. The next run begins anew.
    fn check_skipped(&mut self) -> Result<()> {
        if self.skip == 0 {
            return Ok(());
        }
        self.session.iter_mut().for_each(Session::forget);
        Err(lost(&self.shared, "it has bytes of another blob"))
    }
}

fn start_file() -> Result<Sink> {
    let folder = std::env::temp_dir();
    let file = tempfile::tempfile_in(&folder).context("create a spool file in", &folder);
    file.map(Sink::File).map_err(temporary::in_temp)
}

impl Write for UploadWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= skipped as u64;
        self.taken += (bytes.len() - skipped) as u64;
        self.take_in(&bytes[skipped..]).map_err(to_io)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for UploadWriter {
    fn commit(self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        self.end(media_type)
    }
}

impl Drop for UploadWriter {
    fn drop(&mut self) {
        // What is remembered of the upload is free for another run when its thread has ended.
        let _ = self.fail();
    }
}

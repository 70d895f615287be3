//! A blob on its way to a registry whose digest is known at its end: hashed here, sent beside by a thread of its own.
//!
//! A blob that fits one chunk waits in memory: it is sent when its digest is known, if the registry lacks it. Of a
//! larger one at most three chunks are in memory: one that fills, one that waits, one that goes.

use std::{
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
    options::MODEST_CHUNK,
    repository::is_manifest,
    target::Shared,
    upload::{Begun, Session, begin, send_whole, to_io},
};
use crate::{
    digest::{Digest, Hasher},
    error::{Error, Result},
    model::Descriptor,
    storage::BlobWriter,
};

/// A blob being sent.
pub(super) struct UploadWriter {
    shared: Arc<Shared>,
    hasher: Hasher,
    size: u64,
    /// Bytes that the registry has from an earlier run: hashed, not sent.
    skip: u64,
    /// Bytes that go to the registry.
    taken: u64,
    chunk: usize,
    buffer: Vec<u8>,
    /// What the bytes follow from, where that is known: an interrupted upload of the same goes on.
    key: Option<Digest>,
    /// An upload that was begun already.
    session: Option<Session>,
    sender: Option<Sender>,
}

struct Sender {
    chunks: SyncSender<Bytes>,
    thread: JoinHandle<Result<Session>>,
}

impl UploadWriter {
    /// `session` is an upload that is begun already; `key` says what the bytes follow from.
    pub fn new(shared: Arc<Shared>, key: Option<Digest>, session: Option<Session>) -> Self {
        let chunk = shared.chunk;
        let mut writer = Self {
            shared,
            hasher: Hasher::new(),
            size: 0,
            skip: 0,
            taken: 0,
            chunk,
            buffer: Vec::new(),
            key,
            session,
            sender: None,
        };
        writer.resume();
        writer
    }

    /// Goes on with what an earlier run has begun.
    fn resume(&mut self) {
        let repo = &self.shared.repo;
        let Some(key) = self.key.as_ref().filter(|_| self.session.is_none()) else { return };
        let Some(record) = self.shared.memory.upload(&repo.client.registry(), &repo.name, key) else { return };
        if let Ok(session) = Session::resume(repo, record, self.chunk) {
            self.skip = session.offset();
            self.session = Some(session);
        }
    }

    /// The upload, begun now if it is not yet.
    fn begun(&mut self) -> Result<Session> {
        if let Some(session) = self.session.take() {
            return Ok(session);
        }
        let repo = &self.shared.repo;
        match begin(repo, None, self.shared.chunk)? {
            Begun::Session(session) => Ok(session),
            Begun::Mounted => Err(Error::Protocol {
                registry: repo.client.registry(),
                reason: "it mounts a blob that nobody named".into(),
            }),
        }
    }

    fn start(&mut self) -> Result<()> {
        let mut session = self.begun()?;
        if let Some(key) = &self.key
            && session.offset() == 0
        {
            let repo = &self.shared.repo;
            session.remember(self.shared.memory.upload(&repo.client.registry(), &repo.name, key));
        }
        self.chunk = session.chunk;
        let (chunks, taken) = sync_channel::<Bytes>(1);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("snapcask-upload".into()).spawn(move || {
            for chunk in taken {
                session.send(&shared.repo, chunk)?;
            }
            Ok(session)
        });
        let thread = thread.map_err(|e| Error::io("start a thread for", self.shared.repo.display(), e))?;
        self.sender = Some(Sender { chunks, thread });
        Ok(())
    }

    fn send(&mut self, chunk: Vec<u8>) -> Result<()> {
        if let Some(sender) = &self.sender
            && sender.chunks.send(chunk.into()).is_ok()
        {
            return Ok(());
        }
        // The thread ends before its time only with an error.
        self.join().map(drop)
    }

    /// Waits for what is on its way.
    fn join(&mut self) -> Result<Session> {
        let lost = || Error::UploadLost {
            registry: self.shared.repo.client.registry(),
            reason: "an earlier chunk failed".into(),
        };
        let Some(Sender { chunks, thread }) = self.sender.take() else { return Err(lost()) };
        drop(chunks);
        thread.join().unwrap_or_else(|_| Err(lost()))
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(bytes.len().max(self.chunk.min(1 << 20)));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = rest.len().min(self.chunk.saturating_sub(self.buffer.len()));
            self.buffer.extend_from_slice(&rest[..length]);
            rest = &rest[length..];
            if self.buffer.len() >= self.chunk && !rest.is_empty() {
                if self.sender.is_none() {
                    self.start()?;
                }
                // The registry may have asked for larger chunks.
                if self.buffer.len() >= self.chunk {
                    let full = mem::replace(&mut self.buffer, Vec::with_capacity(self.chunk));
                    self.send(full)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the blob, which must be `descriptor` where that is given.
    pub fn end(mut self, media_type: &str, expected: Option<&Descriptor>) -> Result<Descriptor> {
        let digest = mem::take(&mut self.hasher).finish();
        let descriptor = Descriptor::new(media_type, digest, self.size);
        if let Some(expected) = expected.filter(|e| (e.digest, e.size) != (digest, self.size)) {
            let reason = format!("its {} bytes have the digest {digest}", self.size);
            return Err(Error::CorruptBlob { digest: expected.digest, reason });
        }
        let shared = self.shared.clone();
        let resumed = self.session.as_ref().is_some_and(|session| session.offset() > 0);
        let in_memory = self.sender.is_none() && !resumed;
        if in_memory && is_manifest(media_type) {
            shared.put_manifest(&descriptor, mem::take(&mut self.buffer).into())?;
        } else if in_memory && self.session.is_none() && shared.repo.has(&descriptor)? {
            self.buffer.clear();
        } else if in_memory && self.buffer.len() <= MODEST_CHUNK {
            let (session, bytes) = (self.begun()?, mem::take(&mut self.buffer).into());
            send_whole(&shared.repo, session, &digest, &bytes)?;
            shared.sent.fetch_add(self.taken, Ordering::Relaxed);
        } else {
            if self.skip > 0 {
                // The registry has more than the blob is long: it was another one. The next run begins anew.
                self.session.iter_mut().for_each(Session::forget);
                let reason = "it has bytes of another blob".into();
                return Err(Error::UploadLost { registry: shared.repo.client.registry(), reason });
            }
            if self.sender.is_none() {
                self.start()?;
            }
            let last = mem::take(&mut self.buffer);
            if !last.is_empty() {
                self.send(last)?;
            }
            self.join()?.finish(&shared.repo, &digest, descriptor.size)?;
            shared.sent.fetch_add(self.taken, Ordering::Relaxed);
        }
        shared.holds(&descriptor);
        Ok(descriptor)
    }
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
        self.end(media_type, None)
    }
}

impl Drop for UploadWriter {
    fn drop(&mut self) {
        // What is remembered of the upload is free for another run when its thread has ended.
        if self.sender.is_some() {
            drop(self.join());
        }
    }
}

//! Where blobs are: the small traits that a layout in any form and a registry share.

use std::io::{self, Read, Write};

use crate::{
    digest::Digest,
    error::Result,
    model::{Descriptor, Index},
    verify::VerifyReader,
};

/// A blob's verified bytes.
pub type Blob<'a> = VerifyReader<Box<dyn Read + Send + 'a>>;

/// Blobs that can be read.
pub trait ReadOnlyStorage: Send + Sync {
    /// Whether a blob of this digest and size is there; says nothing about its bytes.
    fn exists(&self, descriptor: &Descriptor) -> Result<bool>;

    /// The blob, verified while it is read.
    ///
    /// # Errors
    /// [`crate::Error::MissingBlob`]; corrupt bytes show while reading.
    fn fetch<'a>(&'a self, descriptor: &Descriptor) -> Result<Blob<'a>>;
}

/// A bundle that can be read.
pub trait Source: ReadOnlyStorage {
    /// The tagged manifests, head first.
    fn index(&self) -> &Index;

    /// How messages name it.
    fn display(&self) -> String;
}

/// A blob being written: its digest is known at the end. Dropped without commit, it leaves nothing.
pub trait BlobWriter: Write + Send {
    /// Ends the blob. A blob that was there already is kept and these bytes are dropped.
    fn commit(self: Box<Self>, media_type: &str) -> Result<Descriptor>;
}

/// A bundle being written: it appears whole at [`Target::finish`] or, dropped before, not at all.
pub trait Target: Send + Sync {
    /// Starts a blob; one at a time.
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>>;

    /// Starts a blob whose bytes follow from `key` alone: a target that keeps what an interrupted run has sent goes on
    /// with it.
    fn keyed_blob(&mut self, key: &Digest) -> Result<Box<dyn BlobWriter + '_>> {
        let _ = key;
        self.blob()
    }

    /// Whether this target holds the blob already.
    ///
    /// # Errors
    /// One that is far away may not be reached.
    fn contains(&self, descriptor: &Descriptor) -> Result<bool>;

    /// Bytes of blobs that were written or sent so far: less than all where the target had some.
    fn sent(&self) -> u64;

    /// The same target for blobs that are known before they are written, if it takes several at once.
    fn shared(&self) -> Option<&dyn SharedTarget> {
        None
    }

    /// Writes the index last, makes all durable and publishes it.
    fn finish(self: Box<Self>, index: &Index) -> Result<()>;
}

/// What became of a blob that was to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Its bytes were sent or written.
    Sent,
    /// It was there.
    Existed,
    /// The target took it from another place of its own.
    Mounted,
}

/// A target that takes several known blobs at once.
pub trait SharedTarget: Sync {
    /// Puts a blob, unless it is there. `open` gives its bytes, again if they have to be sent again; `advance` is told
    /// how many were taken.
    ///
    /// # Errors
    /// [`crate::Error::CorruptBlob`]: the bytes are not the descriptor's; nothing is kept of them.
    fn put<'a>(
        &self,
        descriptor: &Descriptor,
        open: &dyn Fn() -> Result<Blob<'a>>,
        advance: &dyn Fn(u64),
    ) -> Result<Put>;
}

/// Copies a blob to its end.
///
/// # Errors
/// Those of either side; the library's own errors are inside.
pub fn pour(from: &mut dyn Read, to: &mut dyn Write, advance: &dyn Fn(u64)) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&buffer[..n])?;
                advance(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

//! Where blobs are: the small traits that a layout in any form and a registry share.

use std::io::{self, Read, Write};

use crate::{
    digest::{Digest, Hasher},
    error::{Error, Result},
    model::{Descriptor, Index},
    verify::{VerifyReader, into_error},
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

    /// What may refer to one of these manifests: entries with other subjects may be among them, and snapshots.
    ///
    /// # Errors
    /// A registry may not be reached.
    fn referrers(&self, subjects: &[Digest]) -> Result<Vec<Descriptor>> {
        let _ = subjects;
        Ok(self.index().snapshots().cloned().collect())
    }

    /// Everything that was read is in place: what was kept to go on with after a cut may go.
    fn release(&self) {}
}

/// A blob being written: its digest is known at the end. Dropped without commit, it leaves nothing.
pub trait BlobWriter: Write + Send {
    /// Ends the blob. A blob that was there already is kept and these bytes are dropped.
    fn commit(self: Box<Self>, media_type: &str) -> Result<Descriptor>;
}

/// A blob that is made to learn its digest, and not kept.
#[derive(Default)]
pub struct Unkept {
    hasher: Hasher,
    size: u64,
}

impl Write for Unkept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for Unkept {
    fn commit(self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        Ok(Descriptor::new(media_type, self.hasher.finish(), self.size))
    }
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

    /// Writes the index last, makes all durable and publishes it. Gives the tag that each of its entries has there.
    fn finish(self: Box<Self>, index: &Index) -> Result<Vec<Option<String>>>;
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

/// Copies the blob `digest` to its end; `place` is how messages call what it is written to.
///
/// # Errors
/// What is wrong with the blob; [`Error::Io`] where either side fails: a disk that is full makes no blob corrupt.
pub fn pour(from: &mut dyn Read, digest: Digest, to: &mut dyn Write, place: &str, advance: &dyn Fn(u64)) -> Result<()> {
    let cannot_write = |e: io::Error| e.downcast::<Error>().unwrap_or_else(|e| Error::io("write", place, e));
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&buffer[..n]).map_err(cannot_write)?;
                advance(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(into_error(e, digest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails as the system does, with this number.
    struct Failing(i32);

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(self.0))
        }
    }

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(self.0))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn neither_side_makes_the_blob_corrupt() {
        let digest = Digest::of(b"abc");
        let full = pour(&mut &b"abc"[..], digest, &mut Failing(28), "/a/b.tar", &|_| {}).unwrap_err();
        assert_eq!(full.to_string(), "cannot write /a/b.tar: No space left on device (os error 28)");
        let broken = pour(&mut Failing(5), digest, &mut Vec::new(), "/a/b.tar", &|_| {}).unwrap_err();
        assert_eq!(broken.to_string(), format!("cannot read the blob {digest}: Input/output error (os error 5)"));
        assert_eq!((full.exit_code(), broken.exit_code()), (1, 1));
    }
}

//! Where blobs are: the small traits that a layout in any form and a registry share.

use std::io::{Read, Write};

use crate::{
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
pub trait Target: Send {
    /// Starts a blob; one at a time.
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>>;

    /// Whether this target holds the blob already.
    fn contains(&self, descriptor: &Descriptor) -> bool;

    /// Writes the index last, makes all durable and publishes it.
    fn finish(self: Box<Self>, index: &Index) -> Result<()>;
}

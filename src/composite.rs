//! [`Composite`]: several sources that are read as one. Blobs are asked for in order, so that what one source leaves out
//! is taken from the next.

use crate::{
    digest::Digest,
    error::{Error, Result},
    model::{Descriptor, Index},
    storage::{Blob, ReadOnlyStorage, Source},
};

/// Several sources as one.
///
/// Its index holds the entries of the bundles. Bases only give blobs, because nobody asked for their snapshots.
pub struct Composite {
    /// The bundles first, then the bases.
    sources: Vec<Box<dyn Source>>,
    bundles: usize,
    index: Index,
}

impl Composite {
    /// Of these bundles, completed from these bases. An entry that several bundles list is kept once.
    pub fn new(bundles: Vec<Box<dyn Source>>, bases: impl IntoIterator<Item = Box<dyn Source>>) -> Self {
        let mut entries: Vec<Descriptor> = Vec::new();
        for entry in bundles.iter().flat_map(|bundle| &bundle.index().manifests) {
            let same =
                |known: &Descriptor| known.digest == entry.digest && Index::tag_of(known) == Index::tag_of(entry);
            if !entries.iter().any(same) {
                entries.push(entry.clone());
            }
        }
        let count = bundles.len();
        let sources = bundles.into_iter().chain(bases).collect();
        Self { sources, bundles: count, index: Index::new(entries) }
    }
}

impl ReadOnlyStorage for Composite {
    fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        for source in &self.sources {
            if source.exists(descriptor)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fetch<'a>(&'a self, descriptor: &Descriptor) -> Result<Blob<'a>> {
        for source in &self.sources {
            match source.fetch(descriptor) {
                Err(Error::MissingBlob { .. }) => {}
                // Which of them is to be replaced is the question that follows.
                Ok(blob) => return Ok(blob.from_source(source.display())),
                Err(Error::CorruptBlob { digest, reason }) => {
                    return Err(Error::CorruptBlob { digest, reason: format!("{reason} (in {})", source.display()) });
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::MissingBlob { digest: descriptor.digest, role: descriptor.media_type.clone() })
    }
}

impl Source for Composite {
    fn index(&self) -> &Index {
        &self.index
    }

    fn display(&self) -> String {
        let names: Vec<String> = self.sources[..self.bundles].iter().map(|bundle| bundle.display()).collect();
        names.join(", ")
    }

    fn referrers(&self, subjects: &[Digest]) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for bundle in &self.sources[..self.bundles] {
            found.extend(bundle.referrers(subjects)?);
        }
        Ok(found)
    }

    fn release(&self) {
        self.sources.iter().for_each(|source| source.release());
    }
}

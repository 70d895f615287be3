//! What an export leaves out, because the base that it is made over has it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use crate::{
    bundle::{BundledSnapshot, Documents},
    digest::Digest,
    error::{Error, Result},
    import::BundleLocation,
    model::{Descriptor, LayerRecord, TarPath},
    snapshot::Snapshot,
    storage::Source,
    store::image_cache::{is_document, needed_files},
};

/// What an export is made over: it leaves out the layers that this has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// The exported snapshot or an ancestor of it, in the same store. Its own ancestors count too.
    Snapshot(String),
    /// A bundle.
    Bundle(BundleLocation),
    /// What another store holds.
    Installed(Installed),
}

/// What another store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Snapshot digests.
    pub snapshots: HashSet<Digest>,
    /// Image-cache files, relative to the cache.
    pub cache_files: HashSet<TarPath>,
}

/// Whose layer it is.
#[derive(Clone, Copy)]
pub enum LayerOf<'a> {
    /// The snapshot's own.
    Snapshot(&'a Digest),
    /// An image-cache file's.
    CacheFile(&'a TarPath),
}

/// The layers that a base has.
pub enum BaseLayers {
    /// All of these snapshots and files, however they are packed: what is installed holds the same contents.
    Contents(Installed),
    /// These blobs. The others say whose layers they are, so that others need not be tried.
    Blobs {
        /// Digests and sizes.
        blobs: HashMap<Digest, u64>,
        /// Whose layers they are.
        of: Installed,
    },
}

impl BaseLayers {
    /// Of a snapshot and its ancestors, which are part of `chain`, with the image-cache files that an export has of them.
    ///
    /// # Errors
    /// [`Error::NoAncestor`]: it is neither the head nor an ancestor of it.
    pub fn of_snapshot(base: &Snapshot, chain: &[Snapshot], cache: Option<&Path>) -> Result<Self> {
        let digest = base.descriptor.digest;
        let at = chain.iter().position(|snapshot| snapshot.descriptor.digest == digest);
        let Some(at) = at else {
            let head = chain.first().map_or_else(String::new, |head| head.name.clone());
            return Err(Error::NoAncestor { base: base.name.clone(), head });
        };
        let mut installed = Installed::default();
        for snapshot in &chain[at..] {
            installed.snapshots.insert(snapshot.descriptor.digest);
            if let Some((cache, image)) = cache.zip(snapshot.descriptor.image.as_ref()) {
                let files = needed_files(cache, image, snapshot.descriptor.flat_root)?;
                installed.cache_files.extend(files.into_iter().map(|file| file.path));
            }
        }
        Ok(Self::Contents(installed))
    }

    /// Of a bundle: the layers of all its snapshots, as far as the bundle has them.
    ///
    /// # Errors
    /// A manifest or config that cannot be read, or is invalid.
    pub fn of_bundle(source: &dyn Source) -> Result<Self> {
        let (mut blobs, mut of) = (HashMap::new(), Installed::default());
        let mut queue: Vec<Descriptor> = crate::bundle::listed(source)?;
        let (mut seen, mut documents) = (HashSet::new(), Documents::default());
        while let Some(descriptor) = queue.pop() {
            if !seen.insert(descriptor.digest) {
                continue;
            }
            let Some(snapshot) = BundledSnapshot::load_if_there(source, &descriptor)? else { continue };
            documents.add(&descriptor, &snapshot.manifest.config)?;
            for (layer, record) in snapshot.manifest.layers.iter().zip(&snapshot.config.layers) {
                // A bundle that is thin itself does not have all that it names.
                if blobs.contains_key(&layer.digest) || !source.exists(layer)? {
                    continue;
                }
                blobs.insert(layer.digest, layer.size);
                match record {
                    LayerRecord::Base { snapshot, .. } | LayerRecord::Delta { snapshot, .. } => {
                        of.snapshots.insert(*snapshot);
                    }
                    LayerRecord::Cache { file, .. } => {
                        of.cache_files.insert(file.path.clone());
                    }
                }
            }
            queue.extend(snapshot.manifest.subject.clone());
        }
        Ok(Self::Blobs { blobs, of })
    }

    /// Whether it may have the layer: then the layer is made first to learn its digest, and not kept.
    ///
    /// Image metadata and VMDKs always travel. They are small, and two machines can hold different bytes of the same
    /// meaning.
    pub fn may_have(&self, layer: LayerOf) -> bool {
        let (Self::Contents(of) | Self::Blobs { of, .. }) = self;
        match layer {
            LayerOf::Snapshot(digest) => of.snapshots.contains(digest),
            LayerOf::CacheFile(path) => !is_document(path) && of.cache_files.contains(path),
        }
    }

    /// Whether it has the layer that was made.
    pub fn has(&self, layer: LayerOf, made: &Descriptor) -> bool {
        match self {
            Self::Contents(_) => self.may_have(layer),
            Self::Blobs { blobs, .. } => self.may_have(layer) && blobs.get(&made.digest) == Some(&made.size),
        }
    }
}

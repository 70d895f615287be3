//! A bundle's graph: manifests and configs, fetched, validated and compared with each other before any layer is read.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
};

use crate::{
    digest::Digest,
    error::{Error, Result},
    layer::decode::LayerEncoding,
    media_type,
    model::{
        Artifact, Descriptor, FileRecord, Index, LayerRecord, Manifest, SnapshotConfig, SnapshotRecord,
        json::MAX_DOCUMENT,
    },
    snapshot::{MAX_DESCRIPTOR, SnapshotDescriptor},
    storage::Source,
    store::{image_metadata::MAX_METADATA, vmdk::MAX_VMDK},
};

/// Longest chain that is followed.
pub const MAX_CHAIN: usize = 4096;
/// Most bytes of manifests and configs of a chain: they are held in memory. (Of 4,096 snapshots with ten files each
/// and stacks of 64 layers, these are 90 MiB.)
pub const MAX_DOCUMENTS: u64 = 128 << 20;

/// How many artifacts may refer to each other in a row: a signature of an SBOM of a snapshot is two.
const MAX_REFERENCES: usize = 8;

/// How much the documents of several snapshots are that are held at once.
#[derive(Debug, Default)]
pub struct Documents {
    snapshots: usize,
    bytes: u64,
}

impl Documents {
    /// Counts a snapshot's manifest and config.
    ///
    /// # Errors
    /// [`Error::Limit`]. Many small manifests around one large config cost its size each time.
    pub fn add(&mut self, manifest: &Descriptor, config: &Descriptor) -> Result<()> {
        self.snapshots += 1;
        self.bytes = self.bytes.saturating_add(manifest.size).saturating_add(config.size);
        let limit = |what: &str, value: u64, limit: u64| {
            if value <= limit {
                return Ok(());
            }
            Err(Error::Limit { what: format!("the {what} in the bundle"), value, limit, hint: "" })
        };
        limit("number of snapshots", self.snapshots as u64, MAX_CHAIN as u64)?;
        limit("size of all manifests and configs", self.bytes, MAX_DOCUMENTS)
    }
}

/// One snapshot of a bundle: its documents, which agree with each other.
#[derive(Clone, Debug)]
pub struct BundledSnapshot {
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: SnapshotConfig,
}

/// A snapshot on its way into a store, whatever it came in.
#[derive(Clone, Copy, Debug)]
pub struct Brought<'a> {
    /// What it is, and its files.
    pub config: &'a SnapshotConfig,
    /// The OCI manifest that it came with.
    pub manifest: Option<Digest>,
    /// Image-cache files that came with it in no layer.
    pub cache: &'a [FileRecord],
}

impl Brought<'_> {
    /// The image-cache files that came with it.
    pub fn cache_files(&self) -> impl Iterator<Item = &FileRecord> {
        self.config.layers.iter().filter_map(LayerRecord::cache_file).chain(self.cache)
    }
}

impl BundledSnapshot {
    /// As what it is on its way into a store.
    pub fn brought(&self) -> Brought<'_> {
        Brought { config: &self.config, manifest: Some(self.descriptor.digest), cache: &[] }
    }

    /// Fetches and validates manifest and config.
    pub fn load(source: &dyn Source, descriptor: &Descriptor) -> Result<Self> {
        let context = format!("manifest {}", descriptor.digest);
        let manifest = Manifest::parse(&source.fetch(descriptor)?.read_document(MAX_DOCUMENT)?, &context)?;
        let context = format!("config {}", manifest.config.digest);
        let config = SnapshotConfig::parse(&source.fetch(&manifest.config)?.read_document(MAX_DOCUMENT)?, &context)?;
        let loaded = Self { descriptor: descriptor.clone(), manifest, config };
        loaded.validate()?;
        Ok(loaded)
    }

    /// As [`Self::load`]; none where the index does not list the manifest and it is not there: some tools copy a head
    /// without its ancestors.
    pub fn load_if_there(source: &dyn Source, descriptor: &Descriptor) -> Result<Option<Self>> {
        match Self::load(source, descriptor) {
            Err(Error::MissingBlob { digest, .. })
                if digest == descriptor.digest && source.index().snapshots().all(|listed| listed.digest != digest) =>
            {
                Ok(None)
            }
            loaded => loaded.map(Some),
        }
    }

    /// The snapshot's own descriptor, which must be the one that the config describes.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`], by the file's name in the snapshot: where its bytes were found is of no use to anybody.
    pub fn descriptor_from(&self, bytes: Vec<u8>) -> Result<SnapshotDescriptor> {
        let record = &self.config.snapshot;
        let path = Path::new(record.name.as_str()).join(&record.descriptor);
        let descriptor = SnapshotDescriptor::parse(&path, &record.descriptor, bytes).map_err(|error| match error {
            Error::InvalidDescriptor { reason, .. } => {
                Error::bundle(format!("{} of snapshot {}", record.descriptor, record.name), reason)
            }
            other => other,
        })?;
        let fail = |reason| Err(Error::bundle(format!("config {}", self.manifest.config.digest), reason));
        let same = descriptor.digest == record.digest
            && descriptor.id == record.id
            && descriptor.parent == record.parent
            && descriptor.generation == record.generation
            && descriptor.disk == record.disk
            && descriptor.created_at == record.created_at
            && descriptor.image == record.image
            && descriptor.format == record.format
            && descriptor.virtual_size == record.virtual_size;
        if !same {
            return fail(format!(
                "it describes {}, but the snapshot's descriptor is {}{}",
                record.digest,
                descriptor.digest,
                if descriptor.digest == record.digest { " and says something else" } else { "" }
            ));
        }
        for (payload, size) in &descriptor.payloads {
            let row = self.config.files.iter().find(|f| f.path == *payload);
            if row.is_none_or(|row| size.is_some_and(|size| size != row.size)) {
                return fail(format!("the payload {payload} is missing or has another size than the descriptor says"));
            }
        }
        for folder in &descriptor.folders {
            if let Some(file) = folder.folders().chain([folder.as_str()]).find(|path| self.config.is_file(path)) {
                return fail(format!("{file} is a file, and the descriptor needs a folder there"));
            }
        }
        Ok(descriptor)
    }

    fn validate(&self) -> Result<()> {
        let fail = |reason: String| Err(Error::bundle(format!("manifest {}", self.descriptor.digest), reason));
        if self.manifest.layers.len() != self.config.layers.len() {
            return fail(format!(
                "it has {} layers, its config {}",
                self.manifest.layers.len(),
                self.config.layers.len()
            ));
        }
        for (layer, record) in self.manifest.layers.iter().zip(&self.config.layers) {
            if layer.digest != record.digest() {
                return fail(format!("layer {} is {} in its config", layer.digest, record.digest()));
            }
            encoding_of(layer, record)?;
        }
        self.check_sizes()
    }

    /// Files that are read whole, once they are restored, are refused by what the table says of them: a hole of any size
    /// costs no bytes.
    fn check_sizes(&self) -> Result<()> {
        let config = &self.config;
        let descriptor = config.files.iter().filter(|row| row.path == config.snapshot.descriptor);
        let cache = config.layers.iter().filter_map(LayerRecord::cache_file);
        let limited = descriptor.map(|row| (row, MAX_DESCRIPTOR)).chain(cache.filter_map(|row| {
            match row.path.as_str().split_once('/')?.0 {
                "vmdk" => Some((row, MAX_VMDK as u64)),
                "manifests" => Some((row, MAX_METADATA)),
                _ => None,
            }
        }));
        for (row, limit) in limited {
            if row.size > limit {
                return Err(Error::Limit {
                    what: format!("the size of {}, as config {} says it,", row.path, self.manifest.config.digest),
                    value: row.size,
                    limit,
                    hint: "",
                });
            }
        }
        Ok(())
    }

    /// Whether `parent` is the snapshot that this one names as its parent.
    pub fn is_child_of(&self, parent: &Self) -> bool {
        let named = self.config.snapshot.parent.as_ref();
        named.is_some_and(|named| parent.config.snapshot.identities().contains(named))
    }

    /// Whether this stack is the parent's stack and one layer more.
    pub fn extends(&self, parent: &Self) -> bool {
        let below = parent.config.stack_len();
        self.config.stack_len() == below + 1
            && self.config.layers[..below]
                .iter()
                .map(LayerRecord::digest)
                .eq(parent.config.layers[..below].iter().map(LayerRecord::digest))
    }
}

/// How the layer holds its tar; the media type must fit what the config says the layer is.
pub fn encoding_of(layer: &Descriptor, record: &LayerRecord) -> Result<LayerEncoding> {
    let delta = matches!(record, LayerRecord::Delta { .. });
    match (layer.media_type.as_str(), delta) {
        (media_type::LAYER_ZSTD, false) | (media_type::DELTA_ZSTD, true) => Ok(LayerEncoding::Zstd),
        (media_type::LAYER_TAR, false) | (media_type::DELTA_TAR, true) => Ok(LayerEncoding::Plain),
        (other, _) => Err(Error::bundle(
            format!("layer {}", layer.digest),
            format!("its media type {other:?} does not fit a {} layer", if delta { "delta" } else { "base or cache" }),
        )),
    }
}

/// The entries of the index for snapshots. Other artifacts are told by their manifests, whose digests are verified; what
/// is missing or damaged stays among the snapshots, because one byte of damage must not hide one.
///
/// # Errors
/// [`Error::Io`], and a registry that cannot be reached: what could not be read may be anything.
pub fn listed(source: &dyn Source) -> Result<Vec<Descriptor>> {
    // One that is listed many times is read once.
    let mut others: HashMap<Digest, bool> = HashMap::new();
    let mut snapshots = Vec::new();
    for entry in source.index().snapshots() {
        let is_other = match others.get(&entry.digest) {
            Some(known) => *known,
            None => is_other(source, entry)?,
        };
        others.insert(entry.digest, is_other);
        if !is_other {
            snapshots.push(entry.clone());
        }
    }
    Ok(snapshots)
}

/// Whether an entry is of an artifact that is no snapshot.
fn is_other(source: &dyn Source, entry: &Descriptor) -> Result<bool> {
    match source.fetch(entry).and_then(|blob| blob.read_document(MAX_DOCUMENT)) {
        Ok(bytes) => Ok(Artifact::is_other(&bytes)),
        Err(
            Error::MissingBlob { .. } | Error::CorruptBlob { .. } | Error::InvalidBundle { .. } | Error::Limit { .. },
        ) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The artifacts of a source that refer to one of these manifests and are no snapshots, each after what it refers to. One
/// that refers to another one of them is among them.
///
/// # Errors
/// What the source says; [`Error::Limit`].
pub fn referrers(source: &dyn Source, subjects: &[Digest]) -> Result<Vec<(Descriptor, Artifact)>> {
    let mut known: Vec<(Descriptor, Artifact)> = Vec::new();
    let mut read: HashSet<Digest> = subjects.iter().copied().collect();
    let (mut found, mut latest) = (Vec::new(), subjects.to_vec());
    let mut documents = Documents::default();
    for _ in 0..MAX_REFERENCES {
        if latest.is_empty() {
            break;
        }
        for entry in source.referrers(&latest)? {
            if !read.insert(entry.digest) {
                continue;
            }
            // A list of referrers may name what is gone.
            let bytes = match source.fetch(&entry).and_then(|blob| blob.read_document(MAX_DOCUMENT)) {
                Err(Error::MissingBlob { .. }) => continue,
                bytes => bytes?,
            };
            if Artifact::is_other(&bytes) {
                documents.add(&entry, &entry)?;
                known.push((entry.clone(), Artifact::parse(&bytes, &format!("manifest {}", entry.digest))?));
            }
        }
        let refers = |(_, artifact): &(Descriptor, Artifact)| {
            artifact.subject.as_ref().is_some_and(|subject| latest.contains(&subject.digest))
        };
        let (now, later): (Vec<_>, Vec<_>) = known.into_iter().partition(refers);
        known = later;
        latest = now.iter().map(|(entry, _)| entry.digest).collect();
        found.extend(now);
    }
    Ok(found)
}

/// The head of a bundle: the entry with `tag`, or the only one that is no other's ancestor.
pub fn head(source: &dyn Source, tag: Option<&str>) -> Result<Descriptor> {
    let all = listed(source)?;
    let entries: Vec<&Descriptor> = all.iter().collect();
    let tags = || entries.iter().copied().filter_map(Index::tag_of).map(str::to_owned).collect::<Vec<_>>();
    if let Some(tag) = tag {
        let is_meant = |d: &&Descriptor| Index::tag_of(d) == Some(tag) || d.digest.to_string() == tag;
        let found: Vec<&Descriptor> = source.index().manifests.iter().filter(is_meant).collect();
        let meant: BTreeSet<Digest> = found.iter().map(|entry| entry.digest).collect();
        return match found.first() {
            None => Err(Error::TagNotFound { tag: tag.into(), tags: tags() }),
            // Several sources may use one tag, and their order decides nothing.
            Some(_) if meant.len() > 1 => Err(Error::Ambiguous {
                reference: tag.into(),
                candidates: meant.iter().map(|digest| format!("--tag {digest}")).collect(),
            }),
            Some(head) => Ok((*head).clone()),
        };
    }
    let distinct: HashSet<Digest> = entries.iter().map(|d| d.digest).collect();
    if let (1, Some(only)) = (distinct.len(), entries.first()) {
        return Ok((*only).clone());
    }
    let mut ancestors = HashSet::new();
    // One that is listed many times is read once.
    let mut read = HashSet::new();
    for entry in entries.iter().copied().filter(|entry| read.insert(entry.digest)) {
        let context = format!("manifest {}", entry.digest);
        let manifest = Manifest::parse(&source.fetch(entry)?.read_document(MAX_DOCUMENT)?, &context)?;
        ancestors.extend(manifest.subject.map(|s| s.digest));
    }
    let heads: HashSet<Digest> = distinct.difference(&ancestors).copied().collect();
    match (heads.len(), entries.iter().find(|d| heads.contains(&d.digest))) {
        (1, Some(head)) => Ok((*head).clone()),
        (0, _) => Err(Error::bundle("index.json", "it lists no snapshot")),
        _ => Err(Error::Ambiguous {
            reference: source.display(),
            candidates: tags().into_iter().map(|t| format!("--tag {t}")).collect(),
        }),
    }
}

/// Head, parent, grandparent, ...: by the manifests' subjects, each of which must be the parent that the config names.
pub fn chain(source: &dyn Source, head: &Descriptor, head_only: bool) -> Result<Vec<BundledSnapshot>> {
    let mut chain: Vec<BundledSnapshot> = Vec::new();
    let mut next = Some(head.clone());
    let (mut visited, mut snapshots, mut documents) = (HashSet::new(), HashSet::new(), 0_u64);
    while let Some(descriptor) = next {
        if chain.len() == MAX_CHAIN || !visited.insert(descriptor.digest) {
            return Err(Error::bundle(
                format!("manifest {}", descriptor.digest),
                "the chain of subjects is too long or a circle",
            ));
        }
        let snapshot = BundledSnapshot::load(source, &descriptor).map_err(|error| match error {
            Error::MissingBlob { digest, .. } if digest == descriptor.digest && !chain.is_empty() => {
                Error::ParentManifestMissing { digest }
            }
            other => other,
        })?;
        if let Some(child) = chain.last()
            && !child.is_child_of(&snapshot)
        {
            return Err(Error::bundle(
                format!("manifest {}", child.descriptor.digest),
                format!("its subject {} is not the parent that its config names", descriptor.digest),
            ));
        }
        // Many small manifests around one large config would cost its size each time.
        if !snapshots.insert(snapshot.config.snapshot.digest) {
            return Err(Error::bundle(
                format!("manifest {}", descriptor.digest),
                format!("the snapshot {} is in the chain twice", snapshot.config.snapshot.digest),
            ));
        }
        documents = documents.saturating_add(descriptor.size).saturating_add(snapshot.manifest.config.size);
        if documents > MAX_DOCUMENTS {
            return Err(Error::Limit {
                what: "the size of a chain's manifests and configs".into(),
                value: documents,
                limit: MAX_DOCUMENTS,
                hint: "; use --head-only for parts of the chain",
            });
        }
        next = snapshot.manifest.subject.clone().filter(|_| !head_only);
        chain.push(snapshot);
    }
    Ok(chain)
}

/// The layers that a bundle says it leaves out. Tools may drop what says so: it decides only how a missing layer is reported.
pub fn left_out(index: &Index) -> HashSet<Digest> {
    let listed = index.manifests.iter().filter_map(|entry| entry.annotations.get(media_type::LEFT_OUT));
    listed.flat_map(|digests| digests.split(',')).filter_map(|digest| digest.parse().ok()).collect()
}

/// The entry of `index.json` for a snapshot: its manifest's descriptor, tagged, and what people look for.
pub fn index_entry(mut entry: Descriptor, snapshot: &SnapshotRecord, tag: Option<&str>) -> Descriptor {
    entry.artifact_type = Some(media_type::ARTIFACT.into());
    if let Some(tag) = tag {
        entry = entry.annotated(media_type::REF_NAME, tag);
    }
    entry = entry.annotated(media_type::SNAPSHOT_DIGEST, snapshot.digest.to_string());
    if let Some(parent) = &snapshot.parent {
        entry = entry.annotated(media_type::SNAPSHOT_PARENT, parent.to_string());
    }
    if let Some(created) = &snapshot.created_at {
        entry = entry.annotated(media_type::CREATED, created.clone());
    }
    entry
}

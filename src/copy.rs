//! Copy: bundle -> bundle, between any two forms and places; no digest changes.
//!
//! Blobs first, several at once where the target takes them; then manifests, a parent's before its child's; the index or
//! the tags last. Every byte is verified on its way.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::{
    ahead::Ahead,
    bundle::{self, BundledSnapshot, Documents},
    destination::{Destination, Form, create_target},
    digest::Digest,
    error::{Error, Result},
    import::{BundleLocation, open_all},
    media_type,
    model::{Artifact, Descriptor, Index},
    progress::Progress,
    report::{CopiedSnapshot, CopyReport, LeftOutLayer},
    storage::{Put, ReadOnlyStorage, SharedTarget, Source, Target, pour},
    temporary::Scratch,
    workers,
};

/// Most blobs at once: each on its way to a registry has up to three chunks in memory.
const MAX_AT_ONCE: usize = 4;

/// What to copy, where to, and how.
#[derive(Clone)]
pub struct CopyOptions {
    /// The bundle.
    pub source: BundleLocation,
    /// Bundles that have blobs which it leaves out.
    pub bases: Vec<BundleLocation>,
    /// Which head, when the bundle has several tags; none copies all that are listed.
    pub tag: Option<String>,
    /// Where to.
    pub destination: Destination,
    /// The form there.
    pub form: Form,
    /// Replace an existing destination.
    pub force: bool,
    /// Blobs at once, at least 1.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Runs a copy. Blocking; the CLI runs it on a blocking thread.
///
/// # Errors
/// Whatever it is, a directory or file at the destination is as before, and in a registry no tag has changed.
pub fn copy(options: &CopyOptions) -> Result<CopyReport> {
    let started = Instant::now();
    let scratch = Scratch::in_temp();
    let source = open_all(std::slice::from_ref(&options.source), &options.bases, &scratch, options.progress.as_ref())?;
    let heads = match &options.tag {
        Some(tag) => vec![bundle::head(source.as_ref(), Some(tag))?],
        // An index among them leads to no snapshot.
        None => bundle::listed(source.as_ref())?,
    };
    if heads.is_empty() {
        return Err(Error::bundle("index.json", "it lists no snapshot"));
    }
    let graph = Graph::load(source.as_ref(), &heads)?;
    let plain = graph.blobs().any(|d| matches!(d.media_type.as_str(), media_type::LAYER_TAR | media_type::DELTA_TAR));
    let mut target = create_target(&options.destination, options.form, plain.then_some(3), options.force)?;
    if matches!(options.destination, Destination::Registry(..)) {
        graph.must_be_at(target.as_ref(), source.as_ref())?;
    }
    let place = match &options.destination {
        Destination::Stdout => "standard output".into(),
        other => other.display(),
    };
    let counts = copy_graph(source.as_ref(), target.as_mut(), &place, &graph, options.jobs, options.progress.as_ref())?;
    let index = graph.index(source.as_ref(), &heads);
    let tags = target.finish(&index)?;
    source.release();
    let tag_of = |manifest| {
        let mut named = index.manifests.iter().zip(&tags);
        named.find(|(entry, _)| entry.digest == manifest).and_then(|(_, tag)| tag.clone())
    };
    Ok(CopyReport {
        source: source.display(),
        destination: options.destination.display(),
        form: options.form.as_str().into(),
        snapshots: graph
            .snapshots
            .iter()
            .rev()
            .map(|s| CopiedSnapshot {
                digest: s.config.snapshot.digest,
                name: s.config.snapshot.name.to_string(),
                tag: tag_of(s.descriptor.digest),
                manifest: s.descriptor.digest,
            })
            .collect(),
        blobs: counts.blobs,
        blob_bytes: counts.blob_bytes,
        sent_blobs: counts.sent_blobs,
        sent_bytes: counts.sent_bytes,
        mounted_blobs: counts.mounted_blobs,
        left_out: graph.left_out.into_values().collect(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The snapshots that heads lead to, parents before children, each once.
pub struct Graph {
    snapshots: Vec<BundledSnapshot>,
    /// Layers that the source leaves out: a copy of a thin bundle is as thin.
    left_out: BTreeMap<Digest, LeftOutLayer>,
    /// Artifacts that refer to the snapshots, such as signatures, each after what it refers to.
    referrers: Vec<(Descriptor, Artifact)>,
}

impl Graph {
    /// Loads manifests and configs; a subject that is none of the source's is an error.
    ///
    /// # Errors
    /// The first document that is missing, corrupt or invalid.
    pub fn load(source: &dyn Source, heads: &[Descriptor]) -> Result<Self> {
        let mut snapshots: Vec<BundledSnapshot> = Vec::new();
        let mut seen: HashSet<Digest> = HashSet::new();
        let mut documents = Documents::default();
        for head in heads {
            let mut chain = Vec::new();
            let mut next = Some(head.clone());
            while let Some(descriptor) = next.filter(|d| seen.insert(d.digest)) {
                let bare = Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size);
                let snapshot = BundledSnapshot::load(source, &bare).map_err(|error| match error {
                    Error::MissingBlob { digest, .. } if digest == bare.digest && !chain.is_empty() => {
                        Error::ParentManifestMissing { digest }
                    }
                    other => other,
                })?;
                documents.add(&bare, &snapshot.manifest.config)?;
                next = snapshot.manifest.subject.clone();
                chain.push(snapshot);
            }
            snapshots.extend(chain.into_iter().rev());
        }
        let declared = bundle::left_out(source.index());
        let mut left_out = BTreeMap::new();
        for snapshot in &snapshots {
            for layer in snapshot.manifest.layers.iter().filter(|layer| declared.contains(&layer.digest)) {
                if !left_out.contains_key(&layer.digest) && !source.exists(layer)? {
                    let snapshot = snapshot.config.snapshot.name.to_string();
                    let (digest, size) = (layer.digest, layer.size);
                    left_out.insert(digest, LeftOutLayer { digest, size, snapshot });
                }
            }
        }
        let subjects: Vec<Digest> = snapshots.iter().map(|snapshot| snapshot.descriptor.digest).collect();
        let referrers = bundle::referrers(source, &subjects)?;
        Ok(Self { snapshots, left_out, referrers })
    }

    /// A registry takes no manifest without its layers: those that are left out must be there.
    fn must_be_at(&self, target: &dyn Target, source: &dyn Source) -> Result<()> {
        let mut missing = Vec::new();
        for layer in self.left_out.values() {
            if !target.contains(&Descriptor::new("application/octet-stream", layer.digest, layer.size))? {
                missing.push(format!("{} of snapshot {}", layer.digest, layer.snapshot));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::BaseMissing { bundle: source.display(), layers: missing })
    }

    /// Layers and configs in the order in which a target that takes one at a time gets them, each once.
    fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let mut seen = HashSet::new();
        let of_snapshots = self.snapshots.iter().flat_map(|s| self.blobs_of(s));
        of_snapshots.chain(self.blobs_of_referrers()).filter(move |d| seen.insert(d.digest))
    }

    fn blobs_of_referrers(&self) -> impl Iterator<Item = &Descriptor> {
        self.referrers.iter().flat_map(|(_, artifact)| &artifact.blobs)
    }

    /// Layers that are not left out, and the config.
    fn blobs_of<'a>(&'a self, snapshot: &'a BundledSnapshot) -> impl Iterator<Item = &'a Descriptor> {
        let blobs = snapshot.manifest.layers.iter().chain([&snapshot.manifest.config]);
        blobs.filter(|blob| !self.left_out.contains_key(&blob.digest))
    }

    /// What an entry says of layers that are left out, after the copy.
    fn restate_left_out(&self, entry: &mut Descriptor) {
        let Some(listed) = entry.annotations.remove(media_type::LEFT_OUT) else { return };
        let still = |digest: &&str| digest.parse().is_ok_and(|digest: Digest| self.left_out.contains_key(&digest));
        let kept: Vec<&str> = listed.split(',').filter(still).collect();
        if !kept.is_empty() {
            entry.annotations.insert(media_type::LEFT_OUT.into(), kept.join(","));
        }
    }

    /// The source's entries for what was copied, and one for every ancestor that it does not list. The head stays
    /// first.
    fn index(&self, source: &dyn Source, heads: &[Descriptor]) -> Index {
        let mut copied: HashSet<Digest> = self.snapshots.iter().map(|s| s.descriptor.digest).collect();
        copied.extend(self.referrers.iter().map(|(entry, _)| entry.digest));
        let mut entries: Vec<Descriptor> = heads.to_vec();
        for entry in &source.index().manifests {
            if copied.contains(&entry.digest) && !entries.contains(entry) {
                entries.push(entry.clone());
            }
        }
        for snapshot in self.snapshots.iter().rev() {
            let record = &snapshot.config.snapshot;
            let full = |entry: &Descriptor| {
                let tag = Index::tag_of(entry).map(str::to_owned);
                bundle::index_entry(snapshot.descriptor.clone(), record, tag.as_deref())
            };
            let listed: Vec<usize> =
                (0..entries.len()).filter(|i| entries[*i].digest == snapshot.descriptor.digest).collect();
            if listed.is_empty() {
                let taken = entries.iter().any(|e| Index::tag_of(e) == Some(record.name.as_str()));
                let tag = (!taken).then(|| record.name.as_str());
                entries.push(bundle::index_entry(snapshot.descriptor.clone(), record, tag));
            }
            for at in listed {
                // A registry's manifests come without what an index says for people.
                if entries[at].annotations.len() <= 1 {
                    entries[at] = full(&entries[at]);
                }
            }
        }
        for (entry, artifact) in &self.referrers {
            if entries.iter().all(|known| known.digest != entry.digest) {
                entries.push(Descriptor { artifact_type: artifact.artifact_type.clone(), ..entry.clone() });
            }
        }
        entries.iter_mut().for_each(|entry| self.restate_left_out(entry));
        Index::new(entries)
    }
}

/// What became of the blobs, manifests and configs among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub blobs: usize,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Those that were sent or written.
    pub sent_blobs: usize,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Those that the target took from another place of its own.
    pub mounted_blobs: usize,
}

impl Counts {
    fn count(&mut self, descriptor: &Descriptor, put: Put) {
        self.blobs += 1;
        self.blob_bytes = self.blob_bytes.saturating_add(descriptor.size);
        match put {
            Put::Sent => {
                self.sent_blobs += 1;
                self.sent_bytes = self.sent_bytes.saturating_add(descriptor.size);
            }
            Put::Mounted => self.mounted_blobs += 1,
            Put::Existed => {}
        }
    }
}

/// Copies a graph's blobs and manifests, children before parents in the sense of content: what a manifest names is there
/// before it is. The target, which messages call `place`, is not finished.
///
/// # Errors
/// [`Error::CorruptBlob`], [`Error::MissingBlob`], and whatever the target says.
pub fn copy_graph(
    source: &dyn Source,
    target: &mut dyn Target,
    place: &str,
    graph: &Graph,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Counts> {
    let manifests = graph.snapshots.iter().map(|snapshot| &snapshot.descriptor);
    progress.begin("copying", Some(graph.blobs().chain(manifests).fold(0, |sum, d| sum.saturating_add(d.size))));
    let counts = match target.shared() {
        Some(shared) => at_once(source, shared, graph, jobs, progress)?,
        None => one_by_one(source, target, place, graph, progress)?,
    };
    progress.end();
    Ok(counts)
}

fn one_by_one(
    source: &dyn Source,
    target: &mut dyn Target,
    place: &str,
    graph: &Graph,
    progress: &dyn Progress,
) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut seen = HashSet::new();
    let all = graph.snapshots.iter().flat_map(|s| graph.blobs_of(s).chain([&s.descriptor]));
    let others = graph.referrers.iter().flat_map(|(entry, artifact)| artifact.blobs.iter().chain([entry]));
    let all: Vec<&Descriptor> = all.chain(others).collect();
    let each = all.iter().copied().filter(|d| seen.insert(d.digest));
    let source = Ahead::new(source, each.cloned());
    for descriptor in all {
        if target.contains(descriptor)? {
            continue;
        }
        let mut blob = source.fetch(descriptor)?;
        let mut writer = target.blob()?;
        pour(&mut blob, descriptor.digest, &mut writer, place, &|n| progress.advance(n))?;
        let written = writer.commit(&descriptor.media_type)?;
        if written.digest != descriptor.digest {
            let reason = format!("it was written as {}", written.digest);
            return Err(Error::CorruptBlob { digest: descriptor.digest, reason });
        }
        counts.count(descriptor, Put::Sent);
    }
    Ok(counts)
}

fn at_once(
    source: &dyn Source,
    target: &dyn SharedTarget,
    graph: &Graph,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Counts> {
    let blobs: Vec<&Descriptor> = graph.blobs().collect();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let result = Mutex::new((Counts::default(), None));
    let put = |descriptor: &Descriptor| {
        target.put(descriptor, &|| source.fetch(descriptor), &|bytes| progress.advance(bytes))
    };
    let worker = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(descriptor) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let done = put(descriptor);
            let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
            match done {
                Ok(put) => {
                    result.0.count(descriptor, put);
                    if put != Put::Sent {
                        progress.advance(descriptor.size);
                    }
                }
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    result.1.get_or_insert(error);
                }
            }
        }
    };
    workers::run(jobs.min(MAX_AT_ONCE).min(blobs.len()), worker);
    let (mut counts, error) = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    let others = graph.referrers.iter().map(|(entry, _)| entry);
    for manifest in graph.snapshots.iter().map(|snapshot| &snapshot.descriptor).chain(others) {
        counts.count(manifest, put(manifest)?);
    }
    Ok(counts)
}

//! `verify` and `inspect` of bundles: every finding, not only the first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    io::{self, Read},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::{
    bundle::{self, BundledSnapshot, Documents, encoding_of},
    check_archive::{inspect_archive, verify_archive},
    deep::{DeepCheck, restored},
    digest::Digest,
    error::{Error, IoContext, Result},
    import::{BundleLocation, Opened, Sources},
    media_type,
    model::{Descriptor, Index, LayerRecord, TarPath, json::MAX_DOCUMENT},
    progress::Progress,
    report::{FileReport, Finding, InspectReport, InspectedSnapshot, LayerReport, LeftOutLayer, VerifyReport},
    restore::Restorer,
    storage::Source,
    store::image_cache::check_belongs,
    temporary::Scratch,
    verify::into_error,
    workers,
};

/// The code of a finding that says nothing about the bundle: it could not be read.
pub const READ_FAILED: &str = "read-failed";

/// The code of a finding that says that a layer is left out: what the bundle was made over has it.
pub const BASE_NEEDED: &str = "base-needed";

/// What to verify, and how.
#[derive(Clone)]
pub struct VerifyOptions {
    /// The bundle.
    pub source: BundleLocation,
    /// Bundles that have blobs which it leaves out.
    pub bases: Vec<BundleLocation>,
    /// Decode everything and compare the roots.
    pub deep: bool,
    /// Without the ancestors of what is listed.
    pub head_only: bool,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Verifies a bundle with its ancestors: all blobs, the graph, the tables; with `deep`, decodes everything and compares
/// the roots.
///
/// # Errors
/// Those of [`verify`].
pub fn verify_bundle(
    location: &BundleLocation,
    deep: bool,
    jobs: usize,
    progress: Arc<dyn Progress>,
) -> Result<VerifyReport> {
    verify(&VerifyOptions { source: location.clone(), bases: Vec::new(), deep, head_only: false, jobs, progress })
}

/// Verifies a bundle.
///
/// # Errors
/// Only what keeps it from looking (no such file, no layout at all, I/O); what is wrong inside is in the findings.
pub fn verify(options: &VerifyOptions) -> Result<VerifyReport> {
    let started = Instant::now();
    let (deep, jobs, progress) = (options.deep, options.jobs, options.progress.as_ref());
    let scratch = Scratch::in_temp();
    let source = match Sources::open(&[options.source.afresh()], &options.bases, &scratch, progress)? {
        Sources::Bundles(source) => source,
        Sources::Archives(archives, bases) => {
            return verify_archive(archives, bases, options, scratch.path()?, started);
        }
    };
    let mut check = Check {
        source: source.as_ref(),
        findings: Vec::new(),
        known: HashSet::new(),
        blobs: BTreeMap::new(),
        bad: BTreeSet::new(),
    };
    let mut snapshots = check.graph(options.head_only)?;
    let left_out = check.left_out(&snapshots)?;
    // Without a document it is not known what there is to decode.
    let whole = !snapshots.is_empty() && check.bad.is_empty();
    // What decodes to its end has been hashed on the way.
    let decoded = if deep { check.deep(&mut snapshots, scratch.path()?, jobs, progress) } else { Decoded::default() };
    let mut layers = snapshots.iter().flat_map(|s| &s.manifest.layers);
    let all_decoded = deep && whole && layers.all(|layer| decoded.layers.contains(&layer.digest));
    check.blobs(&decoded.layers, jobs, progress);
    let failed = decoded.failed.len();
    check.decoding(decoded);
    if deep && failed == 0 {
        check.image_cache(&snapshots, scratch.path()?, jobs, progress);
    }
    Ok(VerifyReport {
        source: source.display(),
        deep,
        decoded: all_decoded,
        snapshots: snapshots.len(),
        blobs: check.blobs.len(),
        blob_bytes: sum(check.blobs.values()),
        left_out,
        findings: check.findings,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Declared sizes together: they are claims, and may be any number.
fn sum<'a>(blobs: impl IntoIterator<Item = &'a Descriptor>) -> u64 {
    blobs.into_iter().fold(0, |sum, blob| sum.saturating_add(blob.size))
}

struct Check<'a> {
    source: &'a dyn Source,
    findings: Vec<Finding>,
    /// Subject and message of each of them.
    known: HashSet<(String, String)>,
    blobs: BTreeMap<Digest, Descriptor>,
    bad: BTreeSet<Digest>,
}

/// The stable code of what an error found.
pub(crate) fn code(error: &Error) -> &'static str {
    match error {
        Error::MissingBlob { .. } | Error::ParentManifestMissing { .. } => "blob-missing",
        Error::CorruptBlob { .. } => "blob-corrupt",
        Error::RootMismatch { .. } => "root-mismatch",
        Error::InvalidPath { .. } => "path-invalid",
        Error::InvalidDigest { .. } => "digest-invalid",
        Error::Limit { .. } => "limit-exceeded",
        Error::RecordedIntegrity { .. } => "recorded-integrity",
        Error::DamagedSnapshot { code, .. } => code,
        Error::Io { .. }
        | Error::NoRoom { .. }
        | Error::Unauthorized { .. }
        | Error::Forbidden { .. }
        | Error::Refused { .. }
        | Error::Unreachable { .. }
        | Error::Obstructed { .. }
        | Error::Protocol { .. } => READ_FAILED,
        _ => "document-invalid",
    }
}

impl Check<'_> {
    fn found(&mut self, subject: impl ToString, error: &Error) {
        let finding = Finding { code: code(error), subject: subject.to_string(), message: error.to_string() };
        if self.known.insert((finding.subject.clone(), finding.message.clone())) {
            self.findings.push(finding);
        }
    }

    /// Remembers a blob; whether it is new. Who reads it goes by its own descriptor, so all must say the same.
    fn note(&mut self, blob: &Descriptor) -> bool {
        let Some(known) = self.blobs.get(&blob.digest) else {
            self.blobs.insert(blob.digest, blob.clone());
            return true;
        };
        if known.size != blob.size {
            let reason = format!("one descriptor gives it {} bytes, another one {}", known.size, blob.size);
            self.found(blob.digest, &Error::CorruptBlob { digest: blob.digest, reason });
        }
        false
    }

    /// Every manifest that the index lists, and every subject unless only the heads are asked for; their configs and
    /// layers are noted.
    fn graph(&mut self, head_only: bool) -> Result<Vec<BundledSnapshot>> {
        let source = self.source;
        let mut queue: Vec<Descriptor> = bundle::listed(source)?.into_iter().rev().collect();
        let listed: HashSet<Digest> = queue.iter().map(|entry| entry.digest).collect();
        if queue.is_empty() {
            self.found("index.json", &Error::bundle("index.json", "it lists no snapshot"));
        }
        for other in source.index().manifests.iter().filter(|d| d.media_type == media_type::INDEX) {
            self.note(other);
        }
        let mut loaded: Vec<BundledSnapshot> = Vec::new();
        let mut documents = Documents::default();
        while let Some(descriptor) = queue.pop() {
            if !self.note(&descriptor) {
                continue;
            }
            // The manifest is read first on its own, so that its blobs are checked even where its config is bad.
            let manifest = source
                .fetch(&descriptor)
                .and_then(|blob| blob.read_document(MAX_DOCUMENT))
                .and_then(|bytes| crate::model::Manifest::parse(&bytes, &format!("manifest {}", descriptor.digest)));
            match manifest {
                Ok(manifest) => {
                    if let Err(error) = documents.add(&descriptor, &manifest.config) {
                        self.bad.insert(descriptor.digest);
                        self.found("index.json", &error);
                        break;
                    }
                    for blob in manifest.layers.iter().chain([&manifest.config]) {
                        self.note(blob);
                    }
                    queue.extend(manifest.subject.filter(|_| !head_only));
                }
                Err(error) => {
                    self.bad.insert(descriptor.digest);
                    let error = match error {
                        Error::MissingBlob { digest, .. }
                            if digest == descriptor.digest && !listed.contains(&digest) =>
                        {
                            Error::ParentManifestMissing { digest }
                        }
                        other => other,
                    };
                    self.found(descriptor.digest, &error);
                    continue;
                }
            }
            match BundledSnapshot::load(source, &descriptor) {
                Ok(snapshot) => loaded.push(snapshot),
                Err(error) => {
                    let subject = match &error {
                        Error::CorruptBlob { digest, .. } | Error::MissingBlob { digest, .. } => *digest,
                        _ => descriptor.digest,
                    };
                    self.bad.insert(subject);
                    self.found(subject, &error);
                }
            }
        }
        // A head that is restored alone needs no parent.
        if !head_only {
            self.parents(&loaded);
        }
        Ok(loaded)
    }

    /// Finds the layers that the bundle says it leaves out, and that it does not have: nothing else is asked of them.
    fn left_out(&mut self, snapshots: &[BundledSnapshot]) -> Result<Vec<LeftOutLayer>> {
        let declared = bundle::left_out(self.source.index());
        let mut found: BTreeMap<Digest, LeftOutLayer> = BTreeMap::new();
        // A parent is loaded after its child, and names what is its own.
        for snapshot in snapshots {
            for layer in snapshot.manifest.layers.iter().filter(|layer| declared.contains(&layer.digest)) {
                if found.contains_key(&layer.digest) || !self.source.exists(layer)? {
                    let (digest, size) = (layer.digest, layer.size);
                    let snapshot = snapshot.config.snapshot.name.to_string();
                    found.insert(digest, LeftOutLayer { digest, size, snapshot });
                }
            }
        }
        for layer in found.values() {
            self.blobs.remove(&layer.digest);
            self.bad.insert(layer.digest);
            let message = format!(
                "the bundle leaves out this layer of snapshot {}; --base SOURCE names what has it",
                layer.snapshot
            );
            self.findings.push(Finding { code: BASE_NEEDED, subject: layer.digest.to_string(), message });
        }
        Ok(found.into_values().collect())
    }

    fn parents(&mut self, loaded: &[BundledSnapshot]) {
        let by_digest: HashMap<Digest, &BundledSnapshot> = loaded.iter().map(|s| (s.descriptor.digest, s)).collect();
        for child in loaded {
            if let Some(parent) = child.manifest.subject.as_ref().and_then(|s| by_digest.get(&s.digest))
                && !child.is_child_of(parent)
            {
                let error = Error::bundle(
                    format!("manifest {}", child.descriptor.digest),
                    "its subject is not the parent that its config names",
                );
                let finding = Finding {
                    code: "graph-invalid",
                    subject: child.descriptor.digest.to_string(),
                    message: error.to_string(),
                };
                self.findings.push(finding);
            }
        }
    }

    /// Hashes every blob that has not been, several at once.
    fn blobs(&mut self, hashed: &HashSet<Digest>, jobs: usize, progress: &dyn Progress) {
        let wanted = |d: &&Descriptor| !self.bad.contains(&d.digest) && !hashed.contains(&d.digest);
        let blobs: Vec<Descriptor> = self.blobs.values().filter(wanted).cloned().collect();
        progress.begin("verifying blobs", Some(sum(&blobs)));
        let (next, failed, source) = (AtomicUsize::new(0), Mutex::new(Vec::new()), self.source);
        workers::run(jobs.min(blobs.len()), || {
            while let Some(descriptor) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = hash(source, descriptor, progress) {
                    failed.lock().unwrap_or_else(|e| e.into_inner()).push((descriptor.digest, error));
                }
            }
        });
        progress.end();
        let mut failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
        failed.sort_by_key(|(digest, _)| *digest);
        for (digest, error) in failed {
            self.bad.insert(digest);
            self.found(digest, &error);
        }
    }

    /// Decodes every layer and compares every table.
    fn deep(
        &mut self,
        snapshots: &mut [BundledSnapshot],
        scratch: &Path,
        jobs: usize,
        progress: &dyn Progress,
    ) -> Decoded {
        DeepCheck::order(snapshots);
        let mut deep = DeepCheck::new(self.source, snapshots, scratch, jobs, progress);
        let mut failed = Vec::new();
        for snapshot in snapshots {
            let name = snapshot.config.snapshot.name.as_str();
            let mut result = deep.snapshot(snapshot).and_then(|descriptor| {
                let damages = restored::damages(self.source, snapshot, &descriptor, scratch, jobs, progress)?;
                damages.iter().for_each(|damage| self.found(name, &damage.error(name)));
                Ok(())
            });
            for (descriptor, record) in snapshot.manifest.layers.iter().zip(&snapshot.config.layers) {
                if let LayerRecord::Cache { file, .. } = record {
                    result = result.and_then(|()| deep.cache(descriptor, record, file));
                }
            }
            if let Err(error) = result {
                let layers = snapshot.config.layers.iter().map(LayerRecord::digest).collect();
                failed.push((name.to_string(), layers, error));
            }
        }
        Decoded { layers: deep.decoded().clone(), failed }
    }

    /// The image cache's part of snapshots that decoded.
    fn image_cache(&mut self, snapshots: &[BundledSnapshot], scratch: &Path, jobs: usize, progress: &dyn Progress) {
        let restorer = Restorer { source: self.source, jobs, progress, most: None, writeback: None };
        let mut seen = HashSet::new();
        for snapshot in snapshots {
            // A chain brings one image's files again and again.
            let files: Vec<_> = snapshot.config.layers.iter().filter_map(LayerRecord::cache_file).collect();
            if !seen.insert((&snapshot.config.snapshot.image, files)) {
                continue;
            }
            if let Err(error) = belongs(&restorer, snapshot, scratch) {
                self.found(&snapshot.config.snapshot.name, &error);
            }
        }
    }

    /// What went wrong in decoding, unless a blob that cannot be read is the reason.
    fn decoding(&mut self, decoded: Decoded) {
        for (name, layers, error) in decoded.failed {
            if !layers.iter().any(|layer| self.bad.contains(layer)) {
                self.found(name, &error);
            }
        }
    }
}

/// Whether a snapshot's cache files are its image's, as an import wants them to be.
fn belongs(restorer: &Restorer, snapshot: &BundledSnapshot, scratch: &Path) -> Result<()> {
    let paths = snapshot.config.layers.iter().filter_map(LayerRecord::cache_file).map(|file| &file.path);
    let Some(image) = &snapshot.config.snapshot.image else {
        return match paths.clone().next() {
            None => Ok(()),
            Some(_) => Err(Error::bundle("the image cache", "its files come with a snapshot that has no image")),
        };
    };
    let read = |path: &TarPath| {
        let at = |layer: &LayerRecord| layer.cache_file().is_some_and(|file| file.path == *path);
        let at = snapshot.config.layers.iter().position(at).unwrap_or_default();
        let (descriptor, layer) = (&snapshot.manifest.layers[at], &snapshot.config.layers[at]);
        let Some(file) = layer.cache_file() else { return Ok(Vec::new()) };
        let document = scratch.join("document");
        restorer.restore_cache_file(descriptor, layer, file, &document)?;
        let bytes = fs::read(&document).context("read", &document)?;
        fs::remove_file(&document).context("remove", &document)?;
        Ok(bytes)
    };
    check_belongs(image, paths, read).map(drop)
}

/// What came of decoding.
#[derive(Default)]
struct Decoded {
    /// Layers that decoded to their ends.
    layers: HashSet<Digest>,
    /// Snapshots that did not, with their layers and the reason.
    failed: Vec<(String, Vec<Digest>, Error)>,
}

fn hash(source: &dyn Source, descriptor: &Descriptor, progress: &dyn Progress) -> Result<()> {
    let mut blob = source.fetch(descriptor)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match blob.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => progress.advance(n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(into_error(e, descriptor.digest)),
        }
    }
}

/// Describes a bundle: every tagged snapshot, and its ancestors, as far as they are there. `progress` is told how far a pipe
/// is read.
///
/// # Errors
/// The first document that is missing, corrupt or invalid.
pub fn inspect_bundle(location: &BundleLocation, progress: &dyn Progress) -> Result<InspectReport> {
    let scratch = Scratch::in_temp();
    let source = match location.afresh().open_any(&scratch, progress)? {
        Opened::Bundle(source) => source,
        Opened::Archive(archive) => return inspect_archive(archive),
    };
    let mut snapshots: Vec<BundledSnapshot> = Vec::new();
    let mut queue: Vec<Descriptor> = bundle::listed(source.as_ref())?.into_iter().rev().collect();
    let (mut seen, mut documents) = (HashSet::new(), Documents::default());
    while let Some(descriptor) = queue.pop() {
        if !seen.insert(descriptor.digest) {
            continue;
        }
        let Some(snapshot) = BundledSnapshot::load_if_there(source.as_ref(), &descriptor)? else { continue };
        documents.add(&descriptor, &snapshot.manifest.config)?;
        for (layer, record) in snapshot.manifest.layers.iter().zip(&snapshot.config.layers) {
            encoding_of(layer, record)?;
        }
        queue.extend(snapshot.manifest.subject.clone());
        snapshots.push(snapshot);
    }
    let mut uses: HashMap<Digest, usize> = HashMap::new();
    let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut left_out = bundle::left_out(source.index());
    for snapshot in &snapshots {
        blobs.insert(snapshot.descriptor.digest, snapshot.descriptor.size);
        blobs.insert(snapshot.manifest.config.digest, snapshot.manifest.config.size);
        for layer in &snapshot.manifest.layers {
            *uses.entry(layer.digest).or_default() += 1;
            if left_out.contains(&layer.digest) && !source.exists(layer)? {
                continue;
            }
            left_out.remove(&layer.digest);
            blobs.insert(layer.digest, layer.size);
        }
    }
    Ok(InspectReport {
        source: source.display(),
        snapshots: snapshots.iter().map(|s| inspected(s, &uses, &left_out)).collect(),
        archive: None,
        blob_bytes: Some(blobs.values().fold(0, |sum, size| sum.saturating_add(*size))),
    })
}

fn inspected(
    snapshot: &BundledSnapshot,
    uses: &HashMap<Digest, usize>,
    left_out: &HashSet<Digest>,
) -> InspectedSnapshot {
    let record = &snapshot.config.snapshot;
    let layer = |(descriptor, layer): (&Descriptor, &LayerRecord)| {
        let (kind, files) = match layer {
            LayerRecord::Base { files, .. } => ("base", files.iter().map(|f| f.path.to_string()).collect()),
            LayerRecord::Delta { files, .. } => ("delta", files.iter().map(|f| f.path.to_string()).collect()),
            LayerRecord::Cache { file, .. } => ("cache", vec![file.path.to_string()]),
        };
        let used_by = uses.get(&descriptor.digest).copied().unwrap_or(0);
        let left_out = left_out.contains(&descriptor.digest);
        LayerReport { digest: descriptor.digest, kind, size: descriptor.size, files, used_by, left_out }
    };
    InspectedSnapshot {
        tag: Index::tag_of(&snapshot.descriptor).map(str::to_owned),
        digest: record.digest,
        id: record.id.clone(),
        name: record.name.to_string(),
        parent: record.parent.clone(),
        image: record.image.clone(),
        generation: record.generation,
        format: record.format.clone(),
        created_at: record.created_at.clone(),
        manifest: Some(snapshot.descriptor.digest),
        files: snapshot
            .config
            .files
            .iter()
            .map(|f| FileReport {
                path: f.path.to_string(),
                size: f.size,
                data_bytes: f.data_bytes,
                executable: f.executable,
            })
            .collect(),
        layers: snapshot.manifest.layers.iter().zip(&snapshot.config.layers).map(layer).collect(),
    }
}

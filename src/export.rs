//! Export: store -> bundle.
//!
//! The store finds head and chain. Per snapshot, oldest first: pass 1 over its files (zero blocks, differences from
//! the parent, roots), recorded integrity, pass 2 into the layer's blob, config, manifest. The index comes last, then
//! all is made durable and published.

use std::{
    collections::{BTreeSet, HashMap},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use crate::{
    destination::create_target,
    digest::Digest,
    error::{Error, IoContext, Result},
    import::BundleLocation,
    layer::{
        analyze::{Analysis, Base, FileView, analyze},
        encode::encode,
        tar::{TarPlan, check_segments},
    },
    layer_cache::{KeyBuilder, KnownLayer, LayerCache},
    media_type,
    model::{
        Descriptor, Index, LayerFile, LayerRecord, Manifest, SnapshotConfig, SnapshotName, TarPath, config::MAX_STACK,
    },
    opened::{Opened, OpenedSnapshot, open_all, open_regular, stamp},
    packed::{Packed, PackedFile, base_of},
    progress::Progress,
    recorded::RecordedChecks,
    report::{ExportReport, LeftOutLayer},
    since::{BaseLayers, LayerOf, Since},
    snapshot::{Snapshot, V066_FILE, closure, labels, scan::SourceFile},
    storage::{BlobWriter, Target, Unkept},
    store::{
        Store,
        image_cache::{CacheContent, CacheFile, needed_files},
        lease::Lease,
        lock,
        record::{ImportRecord, RECORD_FILE},
    },
    temporary::{Scratch, nameless},
};

pub use crate::destination::{Compression, Destination, Form};

/// How often a layer is made for a registry that forgets what it was sent.
const MAX_ATTEMPTS: usize = 5;

/// What to export, where to, and how.
#[derive(Clone)]
pub struct ExportOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// The head: a name, path, digest (prefix), id, `group:member` or `group`.
    pub snapshot: String,
    /// Where to.
    pub destination: Destination,
    /// The bundle's form.
    pub form: Form,
    /// Ancestors too.
    pub with_parents: bool,
    /// The pinned images' cache files too.
    pub with_image: bool,
    /// Leaves out the layers that these have; not empty, ancestors travel too.
    pub since: Vec<Since>,
    /// Deltas over parents (`false` for `--no-delta`: every layer is a base).
    pub delta: bool,
    /// Of layers.
    pub compression: Compression,
    /// The head's tag, instead of its name.
    pub tag: Option<String>,
    /// Replace an existing destination.
    pub force: bool,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Runs an export. Blocking; the CLI runs it on a blocking thread.
///
/// # Errors
/// Not found, already there, a source that cannot be packed or changes meanwhile, I/O. Whatever it is, nothing is
/// left at the destination.
pub fn export(options: &ExportOptions) -> Result<ExportReport> {
    // Blobs that are compressed already are stored by the outer stream.
    let outer = match options.compression {
        Compression::Zstd(_) => None,
        Compression::None => Some(3),
    };
    export_to(options, || create_target(&options.destination, options.form, outer, options.force))
}

/// As [`export`], into a target that is ready.
///
/// # Errors
/// Those of [`export`].
pub fn export_into(options: &ExportOptions, target: Box<dyn Target>) -> Result<ExportReport> {
    export_to(options, || Ok(target))
}

fn export_to(options: &ExportOptions, create: impl FnOnce() -> Result<Box<dyn Target>>) -> Result<ExportReport> {
    let started = Instant::now();
    let store = Store::at(&options.store);
    let (snapshots, cache) = (store.snapshots(), store.cache());
    let share = || lock::share(&[&snapshots, &cache], options.progress.as_ref());
    let (_locks, chain) = lock::seen_under(&snapshots, share, || {
        let head = store.find(&options.snapshot)?;
        if options.with_parents || !options.since.is_empty() { store.chain(head) } else { Ok(vec![head]) }
    })?;
    let bases = bases(options, &store, &chain)?;
    pack_chain(options, &chain, bases, create, started)
}

/// Packs a chain, head first, with the image of the cache in the options' store.
///
/// # Errors
/// Those of [`export`].
pub(crate) fn pack_chain(
    options: &ExportOptions,
    chain: &[Snapshot],
    bases: Vec<BaseLayers>,
    create: impl FnOnce() -> Result<Box<dyn Target>>,
    started: Instant,
) -> Result<ExportReport> {
    let tags = tags(chain, options.tag.as_deref())?;
    let mut target = create()?;
    let mut packer = Packer {
        options,
        target: target.as_mut(),
        readers: Vec::new(),
        recorded: RecordedChecks::start(options.progress.clone())?,
        known: match &options.destination {
            Destination::Registry(_, registry) => registry.cache.as_deref().map(LayerCache::at),
            _ => None,
        },
        learned: Vec::new(),
        cache: HashMap::new(),
        bases,
        left_out: Vec::new(),
        blob_bytes: 0,
        cache_files: BTreeSet::new(),
    };
    let mut packed: Vec<Packed> = Vec::new();
    for (snapshot, name) in chain.iter().zip(&tags).rev() {
        let snapshot = packer.pack(snapshot, name, packed.last())?;
        packed.push(snapshot);
    }
    packed.reverse();
    let entries = packed.iter().zip(&tags).map(|(p, tag)| p.index_entry(tag)).collect();
    let Packer { recorded, blob_bytes, cache_files, known, learned, left_out, .. } = packer;
    recorded.finish()?;
    // Only now: a layer that is remembered is not verified again.
    for (key, layer) in learned {
        known.iter().for_each(|known| known.put(&key, &layer));
    }
    let sent_bytes = target.sent();
    target.finish(&Index::new(entries))?;
    Ok(ExportReport {
        destination: options.destination.display(),
        form: options.form.as_str().into(),
        snapshots: packed
            .iter()
            .enumerate()
            .map(|(i, p)| p.report(packed.get(i + 1).map(|parent| parent.config.snapshot.digest)))
            .collect(),
        cache_files: cache_files.into_iter().collect(),
        blob_bytes,
        sent_bytes,
        left_out,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// What the export is made over.
fn bases(options: &ExportOptions, store: &Store, chain: &[Snapshot]) -> Result<Vec<BaseLayers>> {
    if options.since.is_empty() {
        return Ok(Vec::new());
    }
    if matches!(options.destination, Destination::Registry(..)) {
        let text =
            "a registry takes no bundle that leaves layers out; a push sends only what the registry does not have";
        return Err(Error::Usage(text.into()));
    }
    let scratch = Scratch::in_temp();
    let mut bases = Vec::new();
    for since in &options.since {
        bases.push(match since {
            Since::Snapshot(reference) => {
                let cache = options.with_image.then(|| store.cache());
                BaseLayers::of_snapshot(&store.find(reference)?, chain, cache.as_deref())?
            }
            Since::Bundle(location) => {
                refuse_replacing(location, &options.destination)?;
                BaseLayers::of_bundle(location.open(&scratch, options.progress.as_ref())?.as_ref())?
            }
            Since::Installed(installed) => BaseLayers::Contents(installed.clone()),
        });
    }
    Ok(bases)
}

/// A thin bundle in the place of its base would be of no use to anybody.
fn refuse_replacing(base: &BundleLocation, destination: &Destination) -> Result<()> {
    let (BundleLocation::Path(base, _), Destination::Path(path)) = (base, destination) else { return Ok(()) };
    match (base.canonicalize(), path.canonicalize()) {
        (Ok(base), Ok(path)) if base == path => Err(Error::Usage(format!(
            "{} is what the bundle is made over; write the bundle to another place",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// What an import placed leaves as it came: a payload that has changed since is not passed on under the same digest.
fn as_imported(snapshot: &Snapshot, imported: Result<Option<ImportRecord>>, files: &[PackedFile]) -> Result<()> {
    let record = snapshot.directory.join(RECORD_FILE);
    let changed = |path, reason| Err(Error::NotAsImported { path, reason, record: record.clone() });
    let imported = match imported {
        Ok(Some(imported)) => imported,
        Ok(None) => return Ok(()),
        Err(error @ Error::Io { .. }) => return Err(error),
        Err(Error::InvalidRecord { reason, .. }) => {
            return changed(snapshot.directory.clone(), format!("its record cannot be read: {reason}"));
        }
        Err(error) => return changed(snapshot.directory.clone(), format!("its record cannot be read: {error}")),
    };
    let descriptor = &snapshot.descriptor;
    let is_migrated = snapshot.was(imported.snapshot);
    // With another descriptor it is another snapshot, whose digest promises nothing of this one's files.
    if imported.snapshot != descriptor.digest && !is_migrated {
        return Ok(());
    }
    let labels = labels::own(descriptor.generation, &snapshot.directory)?;
    let is_descriptor = |path: &TarPath| *path == descriptor.file || is_migrated && path.as_str() == V066_FILE;
    let may_differ = |path: &TarPath| is_descriptor(path) || Some(path) == labels.as_ref();
    let found: HashMap<&TarPath, &PackedFile> = files.iter().map(|file| (&file.source.at, file)).collect();
    for row in imported.files.iter().filter(|row| !may_differ(&row.path)) {
        let path = snapshot.directory.join(&row.path);
        match found.get(&row.path) {
            None => return changed(path, "it is gone".into()),
            Some(file) if file.source.size != row.size || file.analysis.contents.root != row.root => {
                return changed(path, format!("its root is {}, not {}", file.analysis.contents.root, row.root));
            }
            Some(file) if file.source.executable != row.executable => {
                return changed(path, "its executable bit is another".into());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The tag of every snapshot, head first: its name, or `--tag` for the head.
fn tags(chain: &[Snapshot], head: Option<&str>) -> Result<Vec<SnapshotName>> {
    let mut tags: Vec<SnapshotName> = Vec::new();
    for (position, snapshot) in chain.iter().enumerate() {
        // The config has the name, whatever the tag is.
        let name = &snapshot.name;
        let own: SnapshotName = name.parse().map_err(|error| match error {
            Error::InvalidName { reason, .. } => {
                Error::Usage(format!("a snapshot named {name:?} cannot travel ({reason}); rename it"))
            }
            other => other,
        })?;
        let tag = match head.filter(|_| position == 0) {
            None => own,
            Some(text) => text.parse().map_err(|error| match error {
                Error::InvalidName { reason, .. } => Error::Usage(format!("{text:?} is no valid OCI tag: {reason}")),
                other => other,
            })?,
        };
        if tags.contains(&tag) {
            return Err(Error::Usage(format!(
                "two snapshots of the bundle would have the tag {tag}; choose another for the head with --tag"
            )));
        }
        tags.push(tag);
    }
    Ok(tags)
}

struct Packer<'a> {
    options: &'a ExportOptions,
    target: &'a mut dyn Target,
    recorded: RecordedChecks,
    /// Layers that earlier exports to a registry made.
    known: Option<LayerCache>,
    /// Keep msb from removing what is read.
    readers: Vec<Lease>,
    /// Those that this one made.
    learned: Vec<(Digest, KnownLayer)>,
    /// Cache layers already in the bundle, by path.
    cache: HashMap<TarPath, (Descriptor, LayerRecord)>,
    cache_files: BTreeSet<String>,
    bases: Vec<BaseLayers>,
    /// Layers that are in no bundle of this export, in the order in which they were made.
    left_out: Vec<LeftOutLayer>,
    blob_bytes: u64,
}

impl Packer<'_> {
    fn pack(&mut self, snapshot: &Snapshot, name: &SnapshotName, parent: Option<&Packed>) -> Result<Packed> {
        let left_out_before = self.left_out.len();
        let parent_beneath = parent.filter(|p| self.options.delta && p.stack.len() < MAX_STACK);
        let OpenedSnapshot { files: opened, record: imported, reader } =
            open_all(snapshot, self.options.progress.as_ref())?;
        // Until the end, because a child is a delta over it.
        self.readers.extend(reader);
        let key = self.layer_key(snapshot, &opened, parent_beneath);
        let (files, layer, record) = match self.known_layer(key.as_ref(), opened)? {
            Ok(known) => known,
            Err(opened) => {
                let files = self.analyze(snapshot, opened, parent_beneath)?;
                self.verify_recorded(snapshot, &files)?;
                let members = files.iter().map(|f| (&f.source.path, f.view())).collect();
                let (jobs, progress) = (self.options.jobs, self.options.progress.as_ref());
                progress.begin(&format!("verifying {}", snapshot.name), None);
                closure::require(&snapshot.descriptor, &snapshot.directory, &members, jobs, progress)?;
                progress.end();
                let (layer, record) = self.layer(snapshot, name, &files, parent_beneath, key.as_ref())?;
                self.learn(key, &layer, &record, &files);
                (files, layer, record)
            }
        };
        as_imported(snapshot, imported, &files)?;
        let (mut stack, mut records) = match parent_beneath {
            Some(parent) => (parent.stack.clone(), parent.config.layers[..parent.stack.len()].to_vec()),
            None => (Vec::new(), Vec::new()),
        };
        stack.push(layer);
        records.push(record);
        let mut layers = stack.clone();
        if self.options.with_image {
            for (descriptor, record) in self.cache_layers(snapshot)? {
                layers.push(descriptor);
                records.push(record);
            }
        }
        let config = SnapshotConfig {
            schema_version: 1,
            snapshot: snapshot.descriptor.record(snapshot.name.parse()?),
            files: files.iter().map(PackedFile::record).collect(),
            layers: records,
        };
        let config_blob = self.document(media_type::CONFIG, &config.encode())?;
        let mut manifest = Manifest::new(config_blob, layers, parent.map(|p| p.manifest.clone()));
        if let Some(created) = &config.snapshot.created_at {
            manifest.annotations.insert(media_type::CREATED.into(), created.clone());
        }
        manifest.annotations.insert(media_type::SNAPSHOT_DIGEST.into(), config.snapshot.digest.to_string());
        let mut descriptor = self.document(media_type::MANIFEST, &manifest.encode())?;
        descriptor.artifact_type = Some(media_type::ARTIFACT.into());
        let packed = Packed {
            config,
            manifest: descriptor,
            stack,
            files,
            directory: snapshot.directory.clone(),
            unknown_requires: snapshot.descriptor.unknown_requires.clone(),
            left_out: self.left_out[left_out_before..].iter().map(|layer| layer.digest).collect(),
        };
        packed.unchanged()?;
        if let Some(parent) = parent_beneath {
            parent.unchanged()?;
        }
        Ok(packed)
    }

    /// What the layer's bytes follow from; none if it is not to be remembered.
    fn layer_key(&self, snapshot: &Snapshot, opened: &[Opened], parent: Option<&Packed>) -> Option<Digest> {
        self.known.as_ref()?;
        let mut key = KeyBuilder::new(&format!("{:?} {}", self.options.compression, env!("CARGO_PKG_VERSION")));
        key.text("snapshot", &snapshot.descriptor.digest.to_string());
        for layer in parent.iter().flat_map(|parent| &parent.stack) {
            key.text("beneath", &layer.digest.to_string());
        }
        for Opened { source, stamp, .. } in opened {
            key.file(source.path.as_str(), source.executable, stamp);
        }
        key.finish()
    }

    /// The layer, if an earlier export made it of these files and the target has it; else the files back.
    #[expect(clippy::type_complexity, reason = "a packed snapshot's parts, or what they are to be made of")]
    fn known_layer(
        &mut self,
        key: Option<&Digest>,
        opened: Vec<Opened>,
    ) -> Result<std::result::Result<(Vec<PackedFile>, Descriptor, LayerRecord), Vec<Opened>>> {
        let found = self.known.as_ref().zip(key).and_then(|(known, key)| known.get(key));
        let Some(found) =
            found.filter(|f| f.files.iter().map(|(r, _)| &r.path).eq(opened.iter().map(|o| &o.source.path)))
        else {
            return Ok(Err(opened));
        };
        if !self.target.contains(&found.layer)? {
            return Ok(Err(opened));
        }
        self.blob_bytes += found.layer.size;
        let files = opened.into_iter().zip(found.files).map(|(opened, (_, contents))| {
            // Segments and sum are the layer's, which is there.
            PackedFile::new(opened, Analysis { contents, segments: Vec::new(), sum: 0 })
        });
        Ok(Ok((files.collect(), found.layer, found.record)))
    }

    fn learn(&mut self, key: Option<Digest>, layer: &Descriptor, record: &LayerRecord, files: &[PackedFile]) {
        let Some(key) = key else { return };
        let files = files.iter().map(|f| (f.record(), f.analysis.contents.clone())).collect();
        self.learned.push((key, KnownLayer { layer: layer.clone(), record: record.clone(), files }));
    }

    /// Pass 1 over every file of the snapshot, each against its base in the parent's directory.
    fn analyze(&self, snapshot: &Snapshot, opened: Vec<Opened>, parent: Option<&Packed>) -> Result<Vec<PackedFile>> {
        let progress = self.options.progress.as_ref();
        progress.begin(&format!("reading {}", snapshot.name), None);
        let mut files = Vec::with_capacity(opened.len());
        for opened in opened {
            let source = &opened.source;
            let base = base_of(source, snapshot, parent);
            let view = FileView { file: &opened.file, path: &source.absolute, size: source.size };
            let base = base.map(|b| Base { view: b.view(), contents: &b.analysis.contents });
            let analysis = analyze(view, base, self.options.jobs, progress)?;
            files.push(PackedFile::new(opened, analysis));
        }
        progress.end();
        Ok(files)
    }

    /// Compares what the descriptor records with what the payloads hold.
    fn verify_recorded(&self, snapshot: &Snapshot, files: &[PackedFile]) -> Result<()> {
        for recorded in &snapshot.descriptor.recorded {
            let Ok(at) = files.binary_search_by(|f| f.source.path.cmp(&recorded.path)) else { continue };
            let PackedFile { source, file, analysis, .. } = &files[at];
            self.recorded.add(recorded, file, source.absolute.clone(), &analysis.contents)?;
        }
        Ok(())
    }

    /// Encodes the snapshot's own layer.
    fn layer(
        &mut self,
        snapshot: &Snapshot,
        name: &SnapshotName,
        files: &[PackedFile],
        parent: Option<&Packed>,
        key: Option<&Digest>,
    ) -> Result<(Descriptor, LayerRecord)> {
        let mut planned = Vec::new();
        let mut listed = Vec::new();
        let by_root = parent.map(Packed::by_root).unwrap_or_default();
        for file in files {
            let path = file.source.path.clone();
            let root = file.analysis.contents.root;
            if let Some(parent) = parent
                && parent.file(&path).is_some_and(|p| p.analysis.contents.root == root)
            {
                continue;
            }
            // The same layer stands at another path in a full snapshot than in one of the disk.
            let (base, plan) = match (by_root.get(&root), base_of(&file.source, snapshot, parent)) {
                (Some(same), _) => (Some(*same), file.plan_unchanged()?),
                (None, Some(base)) => (Some(base), file.plan(Some(file.analysis.segments.clone()))?),
                (None, None) => (None, file.plan(file.whole_segments())?),
            };
            planned.push(plan);
            listed.push(LayerFile { path, base: base.map(|b| b.source.path.clone()) });
        }
        check_segments(&planned, name.as_str())?;
        let kind = if parent.is_some() { "delta." } else { "" };
        let digest = snapshot.descriptor.digest;
        let media = match (parent.is_some(), self.options.compression) {
            (false, Compression::Zstd(_)) => media_type::LAYER_ZSTD,
            (false, Compression::None) => media_type::LAYER_TAR,
            (true, Compression::Zstd(_)) => media_type::DELTA_ZSTD,
            (true, Compression::None) => media_type::DELTA_TAR,
        };
        let plan = TarPlan::new(planned);
        let phase = format!("packing {name}");
        let descriptor = match self.in_a_base(&plan, media, name.as_str(), LayerOf::Snapshot(&digest))? {
            Some(descriptor) => descriptor,
            None => self.encode(&plan, media, &phase, key)?,
        };
        let descriptor =
            descriptor.annotated(media_type::TITLE, format!("{}.{kind}{}", digest.short(), self.extension()));
        let record = match parent {
            None => LayerRecord::Base { digest: descriptor.digest, snapshot: digest, files: listed },
            Some(_) => LayerRecord::Delta { digest: descriptor.digest, snapshot: digest, files: listed },
        };
        Ok((descriptor, record))
    }

    fn extension(&self) -> &'static str {
        match self.options.compression {
            Compression::Zstd(_) => "tar.zst",
            Compression::None => "tar",
        }
    }

    /// The layer, if a base has it: it is made to learn its digest, which manifests name, and left out.
    fn in_a_base(&mut self, plan: &TarPlan, media: &str, snapshot: &str, layer: LayerOf) -> Result<Option<Descriptor>> {
        if !self.bases.iter().any(|base| base.may_have(layer)) {
            return Ok(None);
        }
        let options = self.options;
        options.progress.begin(&format!("comparing {snapshot} with the base"), Some(plan.len()));
        let mut made: Box<dyn BlobWriter> = Box::<Unkept>::default();
        let failed = |e| write_failed(e, options);
        encode(plan, self.level(), options.jobs, &mut made, &failed, options.progress.as_ref())?;
        options.progress.end();
        let made = made.commit(media)?;
        if !self.bases.iter().any(|base| base.has(layer, &made)) {
            return Ok(None);
        }
        let (digest, size) = (made.digest, made.size);
        if self.left_out.iter().all(|known| known.digest != digest) {
            self.left_out.push(LeftOutLayer { digest, size, snapshot: snapshot.into() });
        }
        Ok(Some(made))
    }

    fn level(&self) -> Option<i32> {
        match self.options.compression {
            Compression::Zstd(level) => Some(level),
            Compression::None => None,
        }
    }

    fn encode(&mut self, plan: &TarPlan, media: &str, phase: &str, key: Option<&Digest>) -> Result<Descriptor> {
        let (options, level) = (self.options, self.level());
        let mut attempt = 1;
        let descriptor = loop {
            options.progress.begin(phase, Some(plan.len()));
            let mut blob = match key {
                Some(key) => self.target.keyed_blob(key)?,
                None => self.target.blob()?,
            };
            let failed = |e| write_failed(e, options);
            let encoded = encode(plan, level, options.jobs, &mut blob, &failed, options.progress.as_ref());
            match encoded.and_then(|()| blob.commit(media)) {
                // The registry forgot what was sent: the layer is made again.
                Err(Error::UploadLost { .. }) if attempt < MAX_ATTEMPTS => attempt += 1,
                other => break other?,
            }
        };
        options.progress.end();
        self.blob_bytes += descriptor.size;
        Ok(descriptor)
    }

    fn document(&mut self, media: &str, bytes: &[u8]) -> Result<Descriptor> {
        let mut blob = self.target.blob()?;
        blob.write_all(bytes).map_err(|e| write_failed(e, self.options))?;
        let descriptor = blob.commit(media)?;
        self.blob_bytes += descriptor.size;
        Ok(descriptor)
    }

    /// One layer for every cache file that the snapshot's image needs.
    fn cache_layers(&mut self, snapshot: &Snapshot) -> Result<Vec<(Descriptor, LayerRecord)>> {
        let Some(image) = &snapshot.descriptor.image else { return Ok(Vec::new()) };
        let cache = Store::at(&self.options.store).cache();
        let mut layers = Vec::new();
        for file in needed_files(&cache, image, snapshot.descriptor.flat_root)? {
            if let Some(done) = self.cache.get(&file.path) {
                layers.push(done.clone());
                continue;
            }
            let layer = self.cache_layer(snapshot, &file, &cache)?;
            self.cache_files.insert(file.path.to_string());
            self.cache.insert(file.path.clone(), layer.clone());
            layers.push(layer);
        }
        Ok(layers)
    }

    fn cache_layer(
        &mut self,
        snapshot: &Snapshot,
        file: &CacheFile,
        cache: &Path,
    ) -> Result<(Descriptor, LayerRecord)> {
        let (open, absolute) = match &file.content {
            CacheContent::File(path) => (open_regular(path)?, path.clone()),
            CacheContent::Bytes(bytes) => {
                let mut open = nameless()?;
                let absolute = cache.join(&file.path);
                open.write_all(bytes).context("write", &absolute)?;
                (open, absolute)
            }
        };
        let size = open.metadata().context("stat", &absolute)?.len();
        // A file of ours is as old as this run: it is known by what it holds.
        let key = match (&file.content, &self.known) {
            (_, None) => None,
            (content, Some(_)) => {
                let mut key = KeyBuilder::new(&format!("{:?} {}", self.options.compression, env!("CARGO_PKG_VERSION")));
                match content {
                    CacheContent::File(_) => key.file(file.path.as_str(), false, &stamp(&open, &absolute)?),
                    CacheContent::Bytes(bytes) => key.text(file.path.as_str(), &Digest::of(bytes).to_string()),
                }
                key.finish()
            }
        };
        if let Some(known) = self.known.as_ref().zip(key.as_ref()).and_then(|(known, key)| known.get(key))
            && self.target.contains(&known.layer)?
        {
            self.blob_bytes += known.layer.size;
            return Ok((known.layer, known.record));
        }
        let (path, at) = (file.path.clone(), file.path.clone());
        let source = SourceFile { path, at, absolute, size, executable: false };
        let stamp = stamp(&open, &source.absolute)?;
        let view = FileView { file: &open, path: &source.absolute, size };
        let analysis = analyze(view, None, self.options.jobs, self.options.progress.as_ref())?;
        let packed = PackedFile { source, file: open, stamp, analysis };
        let media = match self.options.compression {
            Compression::Zstd(_) => media_type::LAYER_ZSTD,
            Compression::None => media_type::LAYER_TAR,
        };
        let plan = TarPlan::new(vec![packed.plan(packed.whole_segments())?]);
        let descriptor = match self.in_a_base(&plan, media, &snapshot.name, LayerOf::CacheFile(&file.path))? {
            Some(descriptor) => descriptor,
            None => self.encode(&plan, media, &format!("packing {}", file.path), key.as_ref())?,
        };
        let title = format!("{}.{}", file.path.as_str().replace('/', "_"), self.extension());
        let descriptor = descriptor.annotated(media_type::TITLE, title);
        let record = LayerRecord::Cache { digest: descriptor.digest, file: packed.record() };
        self.learn(key, &descriptor, &record, &[packed]);
        Ok((descriptor, record))
    }
}

fn write_failed(error: std::io::Error, options: &ExportOptions) -> Error {
    let path = match &options.destination {
        Destination::Stdout => "standard output".into(),
        other => PathBuf::from(other.display()),
    };
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::io("write", path, error),
    }
}

//! Export: store -> bundle.
//!
//! The store finds head and chain. Per snapshot, oldest first: pass 1 over its files (zero blocks, differences from
//! the parent, roots), recorded integrity, pass 2 into the layer's blob, config, manifest. The index comes last, then
//! all is made durable and published.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::Write,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rustix::fs::{Mode, OFlags};

use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    layer::{
        DELTA_MIN,
        analyze::{Analysis, Base, FileView, analyze},
        encode::encode,
        tar::{PlannedFile, TarPlan},
    },
    layout, media_type,
    model::{
        Descriptor, FileRecord, Index, LayerFile, LayerRecord, Manifest, SnapshotConfig, SnapshotName, SnapshotRecord,
        TarPath, config::MAX_STACK,
    },
    progress::Progress,
    recorded::check_recorded,
    report::{ExportReport, SnapshotReport},
    snapshot::{
        Snapshot,
        scan::{SourceFile, scan},
    },
    storage::Target,
    store::{
        Store,
        image_cache::{CacheContent, CacheFile, files_for},
    },
};

/// The form of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An OCI layout directory.
    Dir,
    /// A plain tar of it.
    Tar,
    /// A tar of it in zstd frames.
    TarZst,
}

impl Form {
    /// The word on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Tar => "tar",
            Self::TarZst => "tar.zst",
        }
    }
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar layers.
    None,
    /// zstd at this level, 1 to 19.
    Zstd(i32),
}

/// Where a bundle is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file or folder.
    Path(PathBuf),
}

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
    let started = Instant::now();
    let store = Store::at(&options.store);
    let head = store.find(&options.snapshot)?;
    let chain = if options.with_parents { store.chain(head)? } else { vec![head] };
    let tags = tags(&chain, options.tag.as_deref())?;
    let mut target = create_target(options)?;
    let mut packer =
        Packer { options, target: target.as_mut(), cache: HashMap::new(), blob_bytes: 0, cache_files: BTreeSet::new() };
    let mut packed: Vec<Packed> = Vec::new();
    for (snapshot, name) in chain.iter().zip(&tags).rev() {
        let snapshot = packer.pack(snapshot, name, packed.last())?;
        packed.push(snapshot);
    }
    packed.reverse();
    let entries = packed.iter().zip(&tags).map(|(p, tag)| p.index_entry(tag)).collect();
    let (blob_bytes, cache_files) = (packer.blob_bytes, packer.cache_files.into_iter().collect());
    target.finish(&Index::new(entries))?;
    Ok(ExportReport {
        destination: match &options.destination {
            Destination::Stdout => "-".into(),
            Destination::Path(path) => path.display().to_string(),
        },
        form: options.form.as_str().into(),
        snapshots: packed
            .iter()
            .enumerate()
            .map(|(i, p)| p.report(packed.get(i + 1).map(|parent| parent.config.snapshot.digest)))
            .collect(),
        cache_files,
        blob_bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The tag of every snapshot, head first: its name, or `--tag` for the head.
fn tags(chain: &[Snapshot], head: Option<&str>) -> Result<Vec<SnapshotName>> {
    let mut tags: Vec<SnapshotName> = Vec::new();
    for (position, snapshot) in chain.iter().enumerate() {
        let asked = head.filter(|_| position == 0);
        let text = asked.unwrap_or(&snapshot.name);
        let tag: SnapshotName = text.parse().map_err(|error| match error {
            Error::InvalidName { reason, .. } if asked.is_none() && position == 0 => {
                Error::Usage(format!("the name {text:?} is no valid OCI tag ({reason}); choose one with --tag"))
            }
            Error::InvalidName { reason, .. } => Error::Usage(format!("{text:?} is no valid OCI tag: {reason}")),
            other => other,
        })?;
        if tags.contains(&tag) {
            return Err(Error::Usage(format!(
                "two snapshots of the bundle would have the tag {tag:?}; choose another for the head with --tag"
            )));
        }
        tags.push(tag);
    }
    Ok(tags)
}

fn create_target(options: &ExportOptions) -> Result<Box<dyn Target>> {
    // Blobs that are compressed already are stored by the outer stream.
    let outer = match options.compression {
        Compression::Zstd(_) => None,
        Compression::None => Some(3),
    };
    match (&options.destination, options.form) {
        (Destination::Stdout, Form::Dir) => {
            Err(Error::Usage("a layout directory cannot be written to a pipe; use --format tar or tar.zst".into()))
        }
        (Destination::Stdout, Form::Tar) => layout::create_pipe(None, &std::env::temp_dir()),
        (Destination::Stdout, Form::TarZst) => layout::create_pipe(Some(outer), &std::env::temp_dir()),
        (Destination::Path(path), Form::Dir) => layout::create_dir(path, options.force),
        (Destination::Path(path), Form::Tar) => layout::create_tar(path, None, options.force),
        (Destination::Path(path), Form::TarZst) => layout::create_tar(path, Some(outer), options.force),
    }
}

/// A file of a snapshot with what pass 1 found in it.
struct PackedFile {
    source: SourceFile,
    file: File,
    stamp: Stamp,
    analysis: Analysis,
}

/// What changes when a file is written to.
#[derive(PartialEq, Eq)]
struct Stamp(u64, i64, i64, i64, i64);

fn stamp(file: &File, path: &Path) -> Result<Stamp> {
    let meta = file.metadata().context("stat", path)?;
    Ok(Stamp(meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()))
}

/// A snapshot that is in the bundle.
struct Packed {
    config: SnapshotConfig,
    manifest: Descriptor,
    stack: Vec<Descriptor>,
    files: Vec<PackedFile>,
    directory: PathBuf,
    unknown_requires: Vec<String>,
}

impl Packed {
    fn index_entry(&self, tag: &SnapshotName) -> Descriptor {
        let snapshot = &self.config.snapshot;
        let mut entry = self
            .manifest
            .clone()
            .annotated(media_type::REF_NAME, tag.as_str())
            .annotated(media_type::SNAPSHOT_DIGEST, snapshot.digest.to_string());
        if let Some(parent) = &snapshot.parent {
            entry = entry.annotated(media_type::SNAPSHOT_PARENT, parent.to_string());
        }
        if let Some(created) = &snapshot.created_at {
            entry = entry.annotated(media_type::CREATED, created.clone());
        }
        entry
    }

    fn report(&self, parent_digest: Option<Digest>) -> SnapshotReport {
        let mut report = SnapshotReport::of(&self.config, self.manifest.digest, parent_digest);
        report.path = Some(self.directory.clone());
        report.unknown_requires = self.unknown_requires.clone();
        report
    }

    fn file(&self, path: &TarPath) -> Option<&PackedFile> {
        self.files.binary_search_by(|f| f.source.path.cmp(path)).ok().map(|at| &self.files[at])
    }

    fn unchanged(&self) -> Result<()> {
        for file in &self.files {
            if stamp(&file.file, &file.source.absolute)? != file.stamp {
                return Err(Error::SourceChanged { path: file.source.absolute.clone() });
            }
        }
        Ok(())
    }
}

struct Packer<'a> {
    options: &'a ExportOptions,
    target: &'a mut dyn Target,
    /// Cache layers already in the bundle, by path.
    cache: HashMap<TarPath, (Descriptor, LayerRecord)>,
    cache_files: BTreeSet<String>,
    blob_bytes: u64,
}

impl Packer<'_> {
    fn pack(&mut self, snapshot: &Snapshot, name: &SnapshotName, parent: Option<&Packed>) -> Result<Packed> {
        let progress = self.options.progress.as_ref();
        let parent_beneath = parent.filter(|p| self.options.delta && p.stack.len() < MAX_STACK);
        let files = self.analyze(snapshot, parent_beneath)?;
        verify_recorded(snapshot, &files, progress)?;
        let (layer, record) = self.layer(snapshot, name, &files, parent_beneath)?;
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
            snapshot: record_of(snapshot)?,
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
        };
        packed.unchanged()?;
        if let Some(parent) = parent_beneath {
            parent.unchanged()?;
        }
        Ok(packed)
    }

    /// Pass 1 over every file of the snapshot, each against its base in the parent's directory.
    fn analyze(&self, snapshot: &Snapshot, parent: Option<&Packed>) -> Result<Vec<PackedFile>> {
        let progress = self.options.progress.as_ref();
        let sources = scan(snapshot)?;
        progress.begin(&format!("reading {}", snapshot.name), None);
        let mut files = Vec::with_capacity(sources.len());
        for source in sources {
            let file = open_source(&source)?;
            let stamp = stamp(&file, &source.absolute)?;
            let base = base_of(&source, snapshot, parent);
            let view = FileView { file: &file, path: &source.absolute, size: source.size };
            let base = base.map(|b| Base { view: b.view(), analysis: Some(&b.analysis) });
            let analysis = analyze(view, base, self.options.jobs, progress)?;
            files.push(PackedFile { source, file, stamp, analysis });
        }
        progress.end();
        Ok(files)
    }

    /// Encodes the snapshot's own layer.
    fn layer(
        &mut self,
        snapshot: &Snapshot,
        name: &SnapshotName,
        files: &[PackedFile],
        parent: Option<&Packed>,
    ) -> Result<(Descriptor, LayerRecord)> {
        let mut planned = Vec::new();
        let mut listed = Vec::new();
        for file in files {
            let path = file.source.path.clone();
            let base = base_of(&file.source, snapshot, parent);
            if let Some(parent) = parent
                && parent.file(&path).is_some_and(|p| p.analysis.root == file.analysis.root)
            {
                continue;
            }
            let segments = match base {
                Some(_) => Some(file.analysis.segments.clone()),
                None => whole_segments(&file.analysis),
            };
            planned.push(file.plan(segments)?);
            listed.push(LayerFile { path, base: base.map(|b| b.source.path.clone()) });
        }
        let kind = if parent.is_some() { "delta." } else { "" };
        let (digest, snapshot) = (snapshot.descriptor.digest, &snapshot.name);
        let media = match (parent.is_some(), self.options.compression) {
            (false, Compression::Zstd(_)) => media_type::LAYER_ZSTD,
            (false, Compression::None) => media_type::LAYER_TAR,
            (true, Compression::Zstd(_)) => media_type::DELTA_ZSTD,
            (true, Compression::None) => media_type::DELTA_TAR,
        };
        let _ = snapshot;
        let descriptor = self.encode(planned, media, &format!("packing {name}"))?;
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

    fn encode(&mut self, planned: Vec<PlannedFile>, media: &str, phase: &str) -> Result<Descriptor> {
        let options = self.options;
        let plan = TarPlan::new(planned);
        options.progress.begin(phase, Some(plan.len()));
        let level = match options.compression {
            Compression::Zstd(level) => Some(level),
            Compression::None => None,
        };
        let mut blob = self.target.blob()?;
        let failed = |e| write_failed(e, options);
        encode(&plan, level, options.jobs, &mut blob, &failed, options.progress.as_ref())?;
        let descriptor = blob.commit(media)?;
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
        for file in files_for(&cache, image)? {
            if let Some(done) = self.cache.get(&file.path) {
                layers.push(done.clone());
                continue;
            }
            let layer = self.cache_layer(&file, &cache)?;
            self.cache_files.insert(file.path.to_string());
            self.cache.insert(file.path.clone(), layer.clone());
            layers.push(layer);
        }
        Ok(layers)
    }

    fn cache_layer(&mut self, file: &CacheFile, cache: &Path) -> Result<(Descriptor, LayerRecord)> {
        let (open, absolute) = match &file.content {
            CacheContent::File(path) => (open_regular(path)?, path.clone()),
            CacheContent::Bytes(bytes) => {
                let mut open = tempfile::tempfile().context("create", std::env::temp_dir())?;
                let absolute = cache.join(&file.path);
                open.write_all(bytes).context("write", &absolute)?;
                (open, absolute)
            }
        };
        let size = open.metadata().context("stat", &absolute)?.len();
        let source = SourceFile { path: file.path.clone(), absolute, size, executable: false };
        let stamp = stamp(&open, &source.absolute)?;
        let view = FileView { file: &open, path: &source.absolute, size };
        let analysis = analyze(view, None, self.options.jobs, self.options.progress.as_ref())?;
        let packed = PackedFile { source, file: open, stamp, analysis };
        let media = match self.options.compression {
            Compression::Zstd(_) => media_type::LAYER_ZSTD,
            Compression::None => media_type::LAYER_TAR,
        };
        let planned = packed.plan(whole_segments(&packed.analysis))?;
        let descriptor = self.encode(vec![planned], media, &format!("packing {}", file.path))?;
        let title = format!("{}.{}", file.path.as_str().replace('/', "_"), self.extension());
        let descriptor = descriptor.annotated(media_type::TITLE, title);
        let record = LayerRecord::Cache { digest: descriptor.digest, file: packed.record() };
        Ok((descriptor, record))
    }
}

impl PackedFile {
    fn view(&self) -> FileView<'_> {
        FileView { file: &self.file, path: &self.source.absolute, size: self.source.size }
    }

    fn record(&self) -> FileRecord {
        FileRecord {
            path: self.source.path.clone(),
            executable: self.source.executable,
            size: self.source.size,
            data_bytes: self.analysis.data_bytes,
            root: self.analysis.root,
        }
    }

    fn plan(&self, segments: Option<Vec<Range<u64>>>) -> Result<PlannedFile> {
        Ok(PlannedFile {
            path: self.source.path.clone(),
            executable: self.source.executable,
            size: self.source.size,
            segments,
            sum: self.analysis.sum,
            file: self.file.try_clone().context("duplicate the handle of", &self.source.absolute)?,
            source: self.source.absolute.clone(),
        })
    }
}

/// The file of the parent's directory that this one goes over: the one at the same path, else, for the head disk, the
/// parent's head disk. Small files are stored whole.
fn base_of<'p>(source: &SourceFile, snapshot: &Snapshot, parent: Option<&'p Packed>) -> Option<&'p PackedFile> {
    let parent = parent?;
    if source.size < DELTA_MIN {
        return None;
    }
    parent.file(&source.path).or_else(|| {
        let disk = snapshot.descriptor.disk.as_ref().filter(|disk| **disk == source.path)?;
        let raw = |path: &TarPath| path.as_str().ends_with(".qcow2");
        let base = parent.config.snapshot.disk.as_ref()?;
        if raw(disk) == raw(base) { parent.file(base) } else { None }
    })
}

/// What a whole file's entry holds: everything as a plain entry when no block is zero, else its data.
fn whole_segments(analysis: &Analysis) -> Option<Vec<Range<u64>>> {
    (analysis.data_bytes < analysis.size).then(|| analysis.segments.clone())
}

fn open_source(source: &SourceFile) -> Result<File> {
    let file = open_regular(&source.absolute)?;
    let size = file.metadata().context("stat", &source.absolute)?.len();
    if size != source.size {
        return Err(Error::SourceChanged { path: source.absolute.clone() });
    }
    Ok(file)
}

fn open_regular(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).context("open", path)?);
    if !file.metadata().context("stat", path)?.is_file() {
        return Err(Error::io("open", path, std::io::Error::other("it is not a regular file")));
    }
    Ok(file)
}

fn write_failed(error: std::io::Error, options: &ExportOptions) -> Error {
    let path = match &options.destination {
        Destination::Stdout => Path::new("standard output"),
        Destination::Path(path) => path,
    };
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::io("write", path, error),
    }
}

fn record_of(snapshot: &Snapshot) -> Result<SnapshotRecord> {
    let d = &snapshot.descriptor;
    Ok(SnapshotRecord {
        generation: d.generation,
        digest: d.digest,
        id: d.id.clone(),
        name: snapshot.name.parse()?,
        parent: d.parent.clone(),
        created_at: d.created_at.clone(),
        image: d.image.clone(),
        format: d.format.clone(),
        virtual_size: d.virtual_size,
        descriptor: d.file.clone(),
        disk: d.disk.clone(),
    })
}

/// Compares what the descriptor records with what the payloads hold.
fn verify_recorded(snapshot: &Snapshot, files: &[PackedFile], progress: &dyn Progress) -> Result<()> {
    for recorded in &snapshot.descriptor.recorded {
        let Ok(at) = files.binary_search_by(|f| f.source.path.cmp(&recorded.path)) else { continue };
        let file = &files[at];
        check_recorded(recorded, &file.file, &file.source.absolute, &file.analysis, progress)?;
    }
    Ok(())
}

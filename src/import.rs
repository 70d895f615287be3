//! Import: bundle -> store.
//!
//! Documents first, then limits, then what is there already. Per snapshot, oldest first: files from the parent, the
//! layer's over them, every root compared with the table, recorded integrity, fsync. When everything has passed:
//! rename into place, cache files first, parents before children. Before the renames nothing is visible in the store.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use crate::{
    bundle::{self, BundledSnapshot},
    error::{Error, IoContext, Result},
    layout,
    model::{FileRecord, LayerRecord, SnapshotIdentity, SnapshotName, TarPath},
    progress::Progress,
    recorded::check_recorded,
    report::{ImportReport, Outcome, SnapshotReport},
    restore::{Restorer, compare_table, restore_cache_file},
    snapshot::{Snapshot, SnapshotDescriptor},
    storage::Source,
    store::{
        Store,
        place::{Placed, Stage, place_directory, place_file},
        vmdk,
    },
};

/// Where a bundle is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleLocation {
    /// Standard input.
    Stdin,
    /// A layout directory, a tar or a tar.zst.
    Path(PathBuf),
}

impl BundleLocation {
    /// Opens the bundle; what cannot be read in place is spooled into `spool`.
    pub fn open(&self, spool: &Path) -> Result<Box<dyn Source>> {
        match self {
            Self::Stdin => layout::open_stdin(spool),
            Self::Path(path) => layout::open(path, spool),
        }
    }
}

/// What to import, where to, and how.
#[derive(Clone)]
pub struct ImportOptions {
    /// The bundle.
    pub source: BundleLocation,
    /// The store's folder.
    pub store: PathBuf,
    /// Snapshots directory other than the store's.
    pub dest: Option<PathBuf>,
    /// Which head, when the bundle has several tags.
    pub tag: Option<String>,
    /// Name for the head.
    pub name: Option<String>,
    /// Without its ancestors.
    pub head_only: bool,
    /// Group for `final` snapshots.
    pub group: Option<String>,
    /// Replace what is there and different.
    pub force: bool,
    /// Without verifying the integrity that descriptors record in SHA forms.
    pub skip_recorded: bool,
    /// Most bytes of data that may be restored; none: the free space of the disk.
    pub max_bytes: Option<u64>,
    /// Most files that may be restored.
    pub max_files: u64,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Runs an import. Blocking; the CLI runs it on a blocking thread.
///
/// # Errors
/// Whatever it is, the store is as before.
pub fn import(options: &ImportOptions) -> Result<ImportReport> {
    let started = Instant::now();
    let store = Store::at(&options.store);
    let destination = options.dest.clone().unwrap_or_else(|| store.snapshots());
    let mut missing = Stage::folders_missing(&store.cache());
    missing.extend(Stage::folders_missing(&destination));
    let result = Import { options, store, destination }.run(started);
    if result.is_err() {
        Stage::remove_empty(&missing);
    }
    result
}

struct Import<'a> {
    options: &'a ImportOptions,
    store: Store,
    destination: PathBuf,
}

/// Where a snapshot goes, and for a `final` one its group's folder and its alias there.
type Place = (PathBuf, Option<(PathBuf, SnapshotName)>);

/// A snapshot on its way.
struct Incoming<'a> {
    bundled: &'a BundledSnapshot,
    target: PathBuf,
    /// The alias of a `final` snapshot in a group.
    member: Option<(PathBuf, SnapshotName)>,
    /// Where its verified files are: staged, or already in the store.
    directory: PathBuf,
    outcome: Outcome,
}

impl Import<'_> {
    fn run(&self, started: Instant) -> Result<ImportReport> {
        let options = self.options;
        let stage = Stage::create(&self.destination)?;
        let source = options.source.open(stage.path())?;
        let head = bundle::head(source.as_ref(), options.tag.as_deref())?;
        let chain = bundle::chain(source.as_ref(), &head, options.head_only)?;
        self.check_limits(&chain)?;
        let targets = self.targets(&chain)?;
        let mut incoming: Vec<Incoming> = Vec::new();
        for (position, (bundled, (target, member))) in chain.iter().zip(targets).enumerate().rev() {
            let below = incoming.last();
            let ready = self.prepare(source.as_ref(), &stage, position, bundled, target, member, below)?;
            incoming.push(ready);
        }
        let cache = self.stage_cache(source.as_ref(), &chain)?;
        stage.sync()?;
        let mut cache_files = Vec::new();
        if let Some((cache_stage, files)) = &cache {
            cache_stage.sync()?;
            for (staged, path) in files {
                place_file(staged, path, options.force)?;
                cache_files.push(path.clone());
            }
        }
        // Oldest first: a child is never there without its parent.
        for snapshot in &mut incoming {
            if snapshot.outcome == Outcome::Placed && self.place(snapshot)? == Placed::AlreadyThere {
                snapshot.outcome = Outcome::AlreadyThere;
            }
        }
        incoming.reverse();
        Ok(ImportReport {
            source: source.display(),
            destination: self.destination.clone(),
            snapshots: incoming.iter().enumerate().map(|(i, s)| s.report(incoming.get(i + 1))).collect(),
            cache_files,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn place(&self, snapshot: &Incoming) -> Result<Placed> {
        if let Some((group, alias)) = &snapshot.member {
            crate::store::place::prepare_group(group)?;
            crate::store::place::write_member(&snapshot.directory, alias)?;
        }
        match place_directory(&snapshot.directory, &snapshot.target, self.options.force) {
            // Another import was faster: identical is as good as placed by us.
            Err(Error::AlreadyExists { .. }) => {
                self.compare_existing(snapshot.bundled, &snapshot.target)?;
                Ok(Placed::AlreadyThere)
            }
            other => other,
        }
    }

    fn check_limits(&self, chain: &[BundledSnapshot]) -> Result<()> {
        let (mut files, mut data) = (0u64, 0u64);
        for snapshot in chain {
            files += snapshot.config.files.len() as u64;
            data = snapshot.config.files.iter().fold(data, |sum, f| sum.saturating_add(f.data_bytes));
        }
        if let Some(first) = chain.first() {
            for layer in &first.config.layers {
                if let LayerRecord::Cache { file, .. } = layer {
                    files += 1;
                    data = data.saturating_add(file.data_bytes);
                }
            }
        }
        if files > self.options.max_files {
            return Err(Error::Limit {
                what: "the number of files in the bundle".into(),
                value: files,
                limit: self.options.max_files,
                hint: "; --max-files raises it",
            });
        }
        let limit = match self.options.max_bytes {
            Some(limit) => limit,
            None => Stage::free_bytes(&self.destination)?,
        };
        // Blocks shared with parents are counted each time: a filesystem without reflinks stores them each time.
        if data > limit {
            return Err(Error::Limit {
                what: "the data to restore, in bytes,".into(),
                value: data,
                limit,
                hint: "; free some space, use --head-only, or raise --max-bytes",
            });
        }
        Ok(())
    }

    /// Where every snapshot of the chain goes.
    fn targets(&self, chain: &[BundledSnapshot]) -> Result<Vec<Place>> {
        let mut all: Vec<Place> = Vec::new();
        let oldest = chain.last().map(|s| s.config.snapshot.name.clone());
        let group = match &self.options.group {
            Some(name) => Some(name.parse::<SnapshotName>()?),
            None => self.parents_group(chain)?.or(oldest),
        };
        for (position, snapshot) in chain.iter().enumerate() {
            let record = &snapshot.config.snapshot;
            let name = match (&self.options.name, position) {
                (Some(name), 0) => name.parse()?,
                _ => record.name.clone(),
            };
            let place = match (&record.id, &group) {
                (Some(id), Some(group)) => {
                    let group = self.destination.join(group.as_str());
                    (group.join(id), Some((group, name)))
                }
                _ => (self.destination.join(name.as_str()), None),
            };
            if all.iter().any(|(path, _)| *path == place.0) {
                return Err(Error::Usage(format!(
                    "two snapshots of the bundle would be placed at {}; choose a name for the head with --name",
                    place.0.display()
                )));
            }
            all.push(place);
        }
        Ok(all)
    }

    /// The group of the installed parent of the chain's oldest snapshot.
    fn parents_group(&self, chain: &[BundledSnapshot]) -> Result<Option<SnapshotName>> {
        let Some(SnapshotIdentity::Id(id)) = chain.last().and_then(|s| s.config.snapshot.parent.as_ref()) else {
            return Ok(None);
        };
        let Ok(entries) = fs::read_dir(&self.destination) else { return Ok(None) };
        for entry in entries {
            let entry = entry.context("read", &self.destination)?;
            if entry.path().join(id).is_dir() {
                return Ok(entry.file_name().to_str().and_then(|n| n.parse().ok()));
            }
        }
        Ok(None)
    }

    #[expect(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
    fn prepare<'b>(
        &self,
        source: &dyn Source,
        stage: &Stage,
        position: usize,
        bundled: &'b BundledSnapshot,
        target: PathBuf,
        member: Option<(PathBuf, SnapshotName)>,
        below: Option<&Incoming>,
    ) -> Result<Incoming<'b>> {
        if fs::symlink_metadata(&target).is_ok() {
            match self.compare_existing(bundled, &target) {
                Ok(()) => {
                    let directory = target.clone();
                    return Ok(Incoming { bundled, target, member, directory, outcome: Outcome::AlreadyThere });
                }
                Err(_) if self.options.force => {}
                Err(error) => return Err(error),
            }
        }
        let directory = stage.path().join(position.to_string());
        fs::create_dir(&directory).context("create", &directory)?;
        let restorer = Restorer {
            source,
            jobs: self.options.jobs,
            progress: self.options.progress.as_ref(),
            most: self.options.max_bytes,
        };
        let parent = below.filter(|below| bundled.extends(below.bundled));
        restorer.restore(bundled, &directory, parent.map(|p| (p.bundled, p.directory.as_path())))?;
        self.verify_restored(bundled, &directory)?;
        Ok(Incoming { bundled, target, member, directory, outcome: Outcome::Placed })
    }

    /// Everything that must hold of a restored directory before it may be placed.
    fn verify_restored(&self, bundled: &BundledSnapshot, directory: &Path) -> Result<()> {
        let progress = self.options.progress.as_ref();
        let name = &bundled.config.snapshot.name;
        progress.begin(&format!("verifying {name}"), None);
        let analyses = compare_table(bundled, directory, self.options.jobs, progress, true)?;
        progress.end();
        let descriptor = self.descriptor_of(bundled, directory)?;
        for recorded in &descriptor.recorded {
            let Some((file, analysis)) = analyses.get(&recorded.path) else { continue };
            let sha = recorded.algorithm != crate::snapshot::IntegrityAlgorithm::Merkle;
            if !(sha && self.options.skip_recorded) {
                check_recorded(recorded, file, &directory.join(&recorded.path), analysis, progress)?;
            }
        }
        Ok(())
    }

    /// The restored descriptor, which must be the one that the config describes.
    fn descriptor_of(&self, bundled: &BundledSnapshot, directory: &Path) -> Result<SnapshotDescriptor> {
        let record = &bundled.config.snapshot;
        let path = directory.join(&record.descriptor);
        let bytes = fs::read(&path).context("read", &path)?;
        let descriptor = SnapshotDescriptor::parse(&path, &record.descriptor, bytes)?;
        let same = descriptor.digest == record.digest
            && descriptor.id == record.id
            && descriptor.parent == record.parent
            && descriptor.generation == record.generation
            && descriptor.disk == record.disk;
        if !same {
            return Err(Error::bundle(
                format!("config {}", bundled.manifest.config.digest),
                format!("it describes {}, but the snapshot's descriptor is {}", record.digest, descriptor.digest),
            ));
        }
        for (payload, size) in &descriptor.payloads {
            let row = bundled.config.files.iter().find(|f| f.path == *payload);
            if row.is_none_or(|row| size.is_some_and(|size| size != row.size)) {
                return Err(Error::bundle(
                    format!("config {}", bundled.manifest.config.digest),
                    format!("the payload {payload} is missing or has another size than the descriptor says"),
                ));
            }
        }
        Ok(descriptor)
    }

    /// What is there must be the snapshot, file by file.
    fn compare_existing(&self, bundled: &BundledSnapshot, target: &Path) -> Result<()> {
        let record = &bundled.config.snapshot;
        let different =
            |existing: String| Error::Different { path: target.into(), existing, incoming: record.digest.to_string() };
        let existing = Snapshot::open(target).map_err(|e| different(format!("no readable snapshot ({e})")))?;
        if existing.descriptor.digest != record.digest {
            return Err(different(existing.descriptor.digest.to_string()));
        }
        compare_table(bundled, target, self.options.jobs, self.options.progress.as_ref(), false)
            .map(drop)
            .map_err(|e| different(format!("the same descriptor with other contents ({e})")))
    }

    /// Restores the image-cache files beside the cache; those that are there and identical are left alone.
    #[expect(clippy::type_complexity, reason = "a stage and what it holds")]
    fn stage_cache(
        &self,
        source: &dyn Source,
        chain: &[BundledSnapshot],
    ) -> Result<Option<(Stage, Vec<(PathBuf, PathBuf)>)>> {
        let mut wanted: HashMap<&TarPath, (&FileRecord, usize, usize)> = HashMap::new();
        let mut order: Vec<&TarPath> = Vec::new();
        for (s, snapshot) in chain.iter().enumerate() {
            for (l, layer) in snapshot.config.layers.iter().enumerate() {
                if let LayerRecord::Cache { file, .. } = layer
                    && wanted.insert(&file.path, (file, s, l)).is_none()
                {
                    order.push(&file.path);
                }
            }
        }
        if order.is_empty() {
            return Ok(None);
        }
        // What others refer to comes first, the VMDK that names all of them last.
        order.sort_by_key(|path| (path.as_str().starts_with("vmdk/"), path.as_str().starts_with("manifests/"), *path));
        let cache = self.store.cache();
        let stage = Stage::create(&cache)?;
        let mut files = Vec::new();
        for path in order {
            let (record, s, l) = wanted[path];
            let kind = ["layers/", "fsmeta/", "vmdk/", "manifests/"].iter().find(|k| path.as_str().starts_with(**k));
            if kind.is_none() || path.as_str().matches('/').count() != 1 {
                return Err(Error::bundle("the image cache", format!("{path} is no image-cache file")));
            }
            let staged = stage.path().join(path.as_str().replace('/', "_"));
            let snapshot = &chain[s];
            restore_cache_file(
                source,
                &snapshot.manifest.layers[l],
                &snapshot.config.layers[l],
                record,
                &staged,
                self.options.jobs,
                self.options.progress.as_ref(),
            )?;
            if path.as_str().starts_with("vmdk/") {
                let reduced = fs::read(&staged).context("read", &staged)?;
                let expanded = vmdk::expand(&reduced, &absolute(&cache)?)?;
                fs::write(&staged, expanded).context("write", &staged)?;
            }
            File::open(&staged).context("open", &staged)?.sync_all().context("fsync", &staged)?;
            files.push((staged, cache.join(path)));
        }
        Ok(Some((stage, files)))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context("find the absolute path of", path)
}

impl Incoming<'_> {
    fn report(&self, parent: Option<&Incoming>) -> SnapshotReport {
        let parent = parent.map(|p| p.bundled.config.snapshot.digest);
        let mut report = SnapshotReport::of(&self.bundled.config, self.bundled.descriptor.digest, parent);
        if let Some(name) = match &self.member {
            Some((_, alias)) => Some(alias.to_string()),
            None => self.target.file_name().map(|n| n.to_string_lossy().into_owned()),
        } {
            report.name = name;
        }
        report.path = Some(self.target.clone());
        report.outcome = Some(self.outcome);
        report
    }
}

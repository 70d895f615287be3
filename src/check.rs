//! `check`: the store itself against what was imported, what its descriptors record and what its image cache claims;
//! every finding, not only the first. Repair is in `repair.rs`.

mod closure;
mod groups;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rustix::fs::OFlags;

use crate::{
    beneath,
    cached::CachedFile,
    digest::Digest,
    error::{Error, IoContext, Result},
    import::BundleLocation,
    layer::analyze::{Contents, FileView, contents},
    model::{FileRecord, ImageRecord, SnapshotIdentity, TarPath},
    progress::Progress,
    recorded::RecordedChecks,
    repair::Repair,
    report::{CheckReport, Finding},
    snapshot::{SNAPSHOT_FILE, Snapshot, V066_FILE, is_there, labels, scan::scan},
    store::{
        Store, group, group_repair,
        image_cache::{CachedImage, cached_images, needed_files},
        image_metadata::Metadata,
        image_reference::{pinned_file, reference_file},
        index::{Change, Index},
        lock,
        place::dead_stages,
        record::{ImportRecord, RECORD_FILE},
    },
    temporary::{Folder, SCRATCH},
};

/// What a check repairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repairs {
    /// Nothing.
    Nothing,
    /// What needs no bundle: the files of groups.
    Groups,
    /// That, and what this bundle holds.
    From(BundleLocation),
}

impl Repairs {
    fn bundle(&self) -> Option<&BundleLocation> {
        match self {
            Self::From(location) => Some(location),
            Self::Nothing | Self::Groups => None,
        }
    }
}

/// What to check, and how.
#[derive(Clone)]
pub struct CheckOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// What is repaired.
    pub repair: Repairs,
    /// How msb's database learns of what was repaired.
    pub index: Index,
    /// Worker threads.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// A snapshot directory that is not as it was imported.
#[derive(Clone, Debug)]
pub(crate) struct BadSnapshot {
    pub directory: PathBuf,
    pub record: Option<ImportRecord>,
    /// Where there is no record: what its descriptor says it is.
    pub digest: Option<Digest>,
}

impl BadSnapshot {
    /// Whether nobody misses its parent.
    pub fn without_parent(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.without_parent)
    }
}

/// What was found, and what can be repaired.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub findings: Vec<Finding>,
    pub snapshots: Vec<BadSnapshot>,
    /// Rows of the records: what stands in the cache is not that.
    pub cache: Vec<FileRecord>,
    /// Parents that are not there, each with a child's directory.
    pub missing: Vec<(SnapshotIdentity, PathBuf)>,
    /// By what name a child can know its parent, of every snapshot that is there.
    pub known: HashSet<SnapshotIdentity>,
    /// Snapshots that are as they should be, by digest.
    pub good: HashMap<Digest, PathBuf>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    snapshots: usize,
    recorded: usize,
    files: usize,
    data_bytes: u64,
}

/// Checks a store; with a source, repairs what it can and checks again.
///
/// # Errors
/// Only what keeps it from looking (I/O, a source that cannot be read or that holds another snapshot); what is wrong in
/// the store is in the findings.
pub fn check(options: &CheckOptions) -> Result<CheckReport> {
    let started = Instant::now();
    let store = Store::at(&options.store);
    let progress = options.progress.as_ref();
    let (snapshots, cache) = (store.snapshots(), store.cache());
    let missing = |path: &Path| match fs::metadata(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(true),
        other => other.context("look at", path).map(|meta| !meta.is_dir()),
    };
    if missing(&snapshots)? && missing(&cache)? {
        let hint = ", or it has neither snapshots nor cache; --store or $MSB_HOME says where it is".into();
        return Err(Error::NotFound { what: "store", path: options.store.clone(), hint });
    }
    let folders = [snapshots.as_path(), cache.as_path()];
    let locks = match options.repair {
        Repairs::Nothing => lock::share(&folders, progress)?,
        Repairs::Groups | Repairs::From(_) => lock::take(&folders, progress)?,
    };
    // Before the long look at the store: a source that is none says so at once.
    let bundle = options.repair.bundle();
    let scratch = bundle.map(|_| Folder::create(&std::env::temp_dir(), SCRATCH)).transpose()?;
    let source = bundle.zip(scratch.as_ref());
    let source = source.map(|(location, scratch)| location.open(scratch.path())).transpose()?;
    let mut found = look(&store, options.jobs, &options.progress)?;
    let before = found.findings.clone();
    if options.repair != Repairs::Nothing && found.findings.iter().any(|finding| is_of_group(finding.code)) {
        for name in group::all(&snapshots)? {
            group_repair::repair(&snapshots, &name, progress)?;
        }
        found = look(&store, options.jobs, &options.progress)?;
    }
    let mut refused = Vec::new();
    if let Some(source) = source.filter(|_| !found.findings.is_empty()) {
        let repair = Repair { store: &store, jobs: options.jobs, progress: &options.progress };
        refused = repair.run(source.as_ref(), &found)?;
        found = look(&store, options.jobs, &options.progress)?;
    }
    let repaired: Vec<Finding> = before.into_iter().filter(|f| !found.findings.contains(f)).collect();
    found.findings.extend(refused);
    drop(locks);
    let tell = || options.index.update(&store.root, Change::Placed, progress);
    let index = (!repaired.is_empty()).then(tell);
    Ok(CheckReport {
        store: options.store.clone(),
        snapshots: found.counts.snapshots,
        recorded: found.counts.recorded,
        files: found.counts.files,
        data_bytes: found.counts.data_bytes,
        findings: found.findings,
        repaired,
        index,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn look(store: &Store, jobs: usize, progress: &Arc<dyn Progress>) -> Result<Found> {
    let mut look =
        Look { store, jobs, progress, found: Found::default(), cache: BTreeMap::new(), brought: HashMap::new() };
    look.leftovers()?;
    look.groups()?;
    let (snapshots, unreadable) = store.all()?;
    look.found.counts.snapshots = snapshots.len() + unreadable.len();
    for (directory, reason) in unreadable {
        look.unreadable(directory, reason);
    }
    for snapshot in &snapshots {
        look.snapshot(snapshot)?;
    }
    look.parents(&snapshots);
    let cached = look.images(&snapshots)?;
    look.cache_rows(&cached)?;
    Ok(look.found)
}

/// Whether a repair without a bundle mends it.
fn is_of_group(code: &str) -> bool {
    matches!(code, "group-outdated" | "group-lock-missing" | "head-missing")
}

struct Look<'a> {
    store: &'a Store,
    jobs: usize,
    progress: &'a Arc<dyn Progress>,
    found: Found,
    /// Every image-cache file that a record names, with what it was; records may differ.
    cache: BTreeMap<TarPath, Vec<FileRecord>>,
    /// Of the metadata among them, the images of the snapshots that it came with.
    brought: HashMap<TarPath, HashSet<ImageRecord>>,
}

impl Look<'_> {
    fn subject(&self, path: &Path) -> String {
        path.strip_prefix(&self.store.root).unwrap_or(path).display().to_string()
    }

    fn report(&mut self, code: &'static str, path: &Path, message: impl ToString) {
        let subject = self.subject(path);
        let finding = Finding { code, subject, message: message.to_string() };
        if !self.found.findings.contains(&finding) {
            self.found.findings.push(finding);
        }
    }

    /// What dead runs left; the next import or removal takes it away, and so does a repair.
    fn leftovers(&mut self) -> Result<()> {
        for folder in [self.store.snapshots(), self.store.cache()] {
            for path in dead_stages(&folder)? {
                self.report(
                    "leftover",
                    &path,
                    "a run that died left it; the next import, removal or repair removes it",
                );
            }
        }
        Ok(())
    }

    fn record(&mut self, directory: &Path) -> Option<ImportRecord> {
        match ImportRecord::read(directory) {
            Ok(Some(record)) => {
                self.found.counts.recorded += 1;
                for row in &record.cache {
                    let rows = self.cache.entry(row.path.clone()).or_default();
                    if !rows.contains(row) {
                        rows.push(row.clone());
                    }
                }
                Some(record)
            }
            Ok(None) => None,
            Err(reason) => {
                let path = directory.join(RECORD_FILE);
                self.report("record-invalid", &path, reason);
                None
            }
        }
    }

    fn unreadable(&mut self, directory: PathBuf, reason: String) {
        self.report("descriptor-invalid", &directory, reason);
        let record = self.record(&directory);
        self.found.snapshots.push(BadSnapshot { directory, record, digest: None });
    }

    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let before = self.found.findings.len();
        let directory = &snapshot.directory;
        self.progress.begin(&format!("checking {}", snapshot.name), None);
        let record = self.record(directory);
        if let (Some(record), Some(image)) = (&record, &snapshot.descriptor.image) {
            for row in record.cache.iter().filter(|row| is_metadata(&row.path)) {
                self.brought.entry(row.path.clone()).or_default().insert(image.clone());
            }
        }
        let digest = snapshot.descriptor.digest;
        // msb has migrated it since: there is another descriptor, of the same snapshot.
        let is_migrated = record.as_ref().is_some_and(|record| snapshot.was(record.snapshot));
        if let Some(record) = record.as_ref().filter(|record| record.snapshot != digest && !is_migrated) {
            let text = format!("its descriptor's digest is {digest}; {} was imported", record.snapshot);
            self.report("descriptor-changed", directory, text);
        }
        let present = match scan(snapshot) {
            Ok(files) => files,
            Err(error) => {
                self.report("directory-invalid", directory, error);
                Vec::new()
            }
        };
        let places: HashMap<&TarPath, &TarPath> = present.iter().map(|file| (&file.path, &file.at)).collect();
        let place = |path| places.get(path).copied().unwrap_or(path);
        let is_descriptor = |path: &TarPath| matches!(path.as_str(), V066_FILE | SNAPSHOT_FILE);
        let imported = record.iter().flat_map(|record| &record.files);
        let imported = imported.filter(|row| !(is_migrated && is_descriptor(&row.path)));
        let rows: HashMap<&TarPath, &FileRecord> = imported.map(|row| (place(&row.path), row)).collect();
        let mut analyses = HashMap::new();
        let paths: HashSet<&TarPath> =
            present.iter().map(|file| &file.at).filter(|path| !(is_migrated && is_descriptor(path))).collect();
        let labels = labels::own(snapshot.descriptor.generation, directory).unwrap_or_else(|error| {
            self.report("file-unreadable", directory, error);
            None
        });
        let is_labels = |path: &TarPath| Some(path) == labels.as_ref();
        for path in paths.iter().chain(rows.keys()).copied().filter(|path| !is_labels(path)).collect::<HashSet<_>>() {
            let needed = snapshot.descriptor.recorded.iter().any(|recorded| place(&recorded.path) == path);
            if rows.contains_key(path) || needed {
                self.file(directory, path, rows.get(path).copied(), &mut analyses);
            }
        }
        for recorded in &snapshot.descriptor.recorded {
            if let Some((file, analysis)) = analyses.get(place(&recorded.path)) {
                let path = directory.join(place(&recorded.path));
                let checks = RecordedChecks::start(self.progress.clone())?;
                let added = checks.add(recorded, file, path.clone(), analysis);
                if let Err(error) = added.and(checks.finish()) {
                    self.report("recorded-integrity", &path, error);
                }
            }
        }
        self.folders(snapshot);
        let unreferenced = self.closure(snapshot, &present, before);
        self.progress.end();
        let is_bad = self.found.findings.len() > before;
        unreferenced.iter().for_each(|damage| self.damage(directory, damage));
        // Beside what was imported: there is nothing to repair.
        for path in paths.iter().filter(|path| record.is_some() && !rows.contains_key(**path) && !is_labels(path)) {
            let text = "it was not imported; a repair leaves it, move it away if it is not meant to travel";
            self.report("file-unexpected", &directory.join(path), text);
        }
        if !is_bad {
            self.found.good.insert(digest, directory.clone());
        } else {
            let bad = BadSnapshot { directory: directory.clone(), record, digest: Some(digest) };
            self.found.snapshots.push(bad);
        }
        Ok(())
    }

    fn file(
        &mut self,
        directory: &Path,
        relative: &TarPath,
        row: Option<&FileRecord>,
        analyses: &mut HashMap<TarPath, (fs::File, Contents)>,
    ) {
        let path = directory.join(relative);
        let opened = beneath::Folder::open(directory).and_then(|folder| folder.file(relative, OFlags::RDONLY));
        let file = match opened {
            Ok(file) => file,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return self.report("file-missing", &path, "it was imported and is not there");
            }
            Err(error) => return self.report("file-unreadable", &path, error),
        };
        let looked = file.metadata().context("look at", &path).and_then(|meta| {
            let view = FileView { file: &file, path: &path, size: meta.len() };
            Ok((meta, contents(view, None, self.jobs, self.progress.as_ref())?.0))
        });
        let (meta, analysis) = match looked {
            Ok(looked) => looked,
            Err(error) => return self.report("file-unreadable", &path, error),
        };
        self.found.counts.files += 1;
        self.found.counts.data_bytes += analysis.data_bytes;
        if let Some(row) = row {
            if meta.len() != row.size || analysis.root != row.root {
                let text = format!(
                    "it has {} bytes and the root {}; {} bytes with the root {} were imported",
                    meta.len(),
                    analysis.root,
                    row.size,
                    row.root
                );
                self.report("file-corrupt", &path, text);
            }
            if (meta.permissions().mode() & 0o100 != 0) != row.executable {
                let now = if row.executable { "not executable" } else { "executable" };
                self.report("file-mode", &path, format!("it is {now}, and was not when it was imported"));
            }
        }
        analyses.insert(relative.clone(), (file, analysis));
    }

    fn parents(&mut self, snapshots: &[Snapshot]) {
        let mut known: HashMap<SnapshotIdentity, &Snapshot> = HashMap::new();
        for snapshot in snapshots {
            for identity in snapshot.identities() {
                self.found.known.insert(identity.clone());
                known.entry(identity).or_insert(snapshot);
            }
        }
        for snapshot in snapshots {
            let Some(parent) = &snapshot.descriptor.parent else { continue };
            let alone = || ImportRecord::read(&snapshot.directory).is_ok_and(|r| r.is_some_and(|r| r.without_parent));
            if !known.contains_key(parent) && !alone() {
                let text =
                    format!("its parent {parent} is not in the store; import it, or export without --with-parents");
                self.report("parent-missing", &snapshot.directory, text);
                self.found.missing.push((parent.clone(), snapshot.directory.clone()));
            }
            let mut seen = HashSet::from([snapshot.descriptor.digest]);
            let mut at = snapshot;
            while let Some(above) = at.descriptor.parent.as_ref().and_then(|parent| known.get(parent)) {
                if !seen.insert(above.descriptor.digest) {
                    self.report("parent-cycle", &snapshot.directory, "its chain of parents is a circle");
                    break;
                }
                at = above;
            }
        }
    }

    /// What the cache says of itself: raw documents against their digests, and the files of every image that is there.
    fn images(&mut self, snapshots: &[Snapshot]) -> Result<Vec<CachedImage>> {
        let cache = self.store.cache();
        let (cached, unreadable) = cached_images(&cache)?;
        for (path, error) in unreadable {
            self.report("cache-unreadable", &cache.join(&path), error);
        }
        let pins = |image: &CachedImage, flat_root: bool| {
            let pinned =
                |s: &&Snapshot| s.descriptor.image.as_ref().is_some_and(|i| i.manifest_digest == image.manifest_digest);
            snapshots.iter().filter(pinned).any(|s| s.descriptor.flat_root == flat_root)
        };
        for image in &cached {
            for problem in &image.problems {
                self.report("image-document", &cache.join(&image.path), problem);
            }
            // Of an image that only flat root disks pin, the metadata is enough.
            if pins(image, true) && !pins(image, false) {
                continue;
            }
            for layer in &image.layers {
                if is_there(&cache.join(layer))? {
                    continue;
                }
                let text = format!("{} needs it and it is not there; pull the image again", image.path);
                self.report("image-layer-missing", &cache.join(layer), text);
            }
        }
        let mut seen = HashSet::new();
        for snapshot in snapshots {
            let (Some(image), flat_root) = (&snapshot.descriptor.image, snapshot.descriptor.flat_root) else {
                continue;
            };
            let vmdk = cache.join(format!("vmdk/sha256_{}.vmdk", image.manifest_digest.hex()));
            // A snapshot may be in a store without its image.
            let there = is_there(&vmdk)? || cached.iter().any(|c| c.manifest_digest == image.manifest_digest);
            if seen.insert((image.manifest_digest, flat_root))
                && there
                && let Err(error) = needed_files(&cache, image, flat_root)
            {
                self.report("image-invalid", &vmdk, error);
            }
        }
        Ok(cached)
    }

    /// Image-cache files against what came with the snapshots.
    fn cache_rows(&mut self, cached: &[CachedImage]) -> Result<()> {
        let cache = self.store.cache();
        for (path, rows) in std::mem::take(&mut self.cache) {
            if is_metadata(&path) {
                // Whose it is, a descriptor says. One that cannot be read is a finding, and is repaired first.
                let images = self.brought.remove(&path).unwrap_or_default();
                self.metadata(cached, &images, &rows)?;
                continue;
            }
            let (code, text) = match CachedFile::look(&cache, &path, self.jobs, self.progress.as_ref()) {
                Ok(Some(file)) => {
                    self.found.counts.files += 1;
                    self.found.counts.data_bytes += file.contents.data_bytes;
                    match rows.iter().any(|row| file.is(row)) {
                        true if !file.elsewhere => continue,
                        true => ("cache-corrupt", format!("it names files outside of {}", cache.display())),
                        false => {
                            let expected: Vec<String> = rows.iter().map(|row| row.root.to_string()).collect();
                            let (root, expected) = (file.contents.root, expected.join(" or "));
                            ("cache-corrupt", format!("its root is {root}; {expected} came with a snapshot"))
                        }
                    }
                }
                Ok(None) => ("cache-missing", "it came with a snapshot and is not there".into()),
                // A VMDK that is none.
                Err(error @ Error::ImageCache { .. }) => ("cache-corrupt", error.to_string()),
                Err(error) => ("cache-unreadable", error.to_string()),
            };
            self.report(code, &cache.join(&path), text);
            self.found.cache.extend(rows);
        }
        Ok(())
    }

    /// Metadata that came with snapshots of these images. It need not stand where it stood in the bundle, nor byte by byte:
    /// whatever key whole metadata of the image has, msb finds it by the manifest's digest.
    fn metadata(&mut self, cached: &[CachedImage], images: &HashSet<ImageRecord>, rows: &[FileRecord]) -> Result<()> {
        let cache = self.store.cache();
        for image in images {
            let is_whole = |c: &&CachedImage| c.manifest_digest == image.manifest_digest && c.problems.is_empty();
            if let Some(whole) = cached.iter().find(is_whole) {
                match CachedFile::look(&cache, &whole.path, self.jobs, self.progress.as_ref()) {
                    Ok(file) => {
                        self.found.counts.files += 1;
                        self.found.counts.data_bytes += file.map_or(0, |file| file.contents.data_bytes);
                    }
                    Err(error) => self.report("cache-unreadable", &cache.join(&whole.path), error),
                }
                continue;
            }
            let (pinned, tag) = (pinned_file(image)?, reference_file(image)?);
            let mut finding = ("cache-missing", pinned.clone(), "it came with a snapshot and is not there".to_owned());
            // What another image's tag means now is nobody's damage.
            for path in [tag, pinned] {
                match Metadata::at(&cache.join(&path)) {
                    Ok(Some(metadata)) if metadata.manifest_digest != image.manifest_digest && metadata.is_whole() => {}
                    Ok(None) if !is_there(&cache.join(&path))? => {}
                    Ok(_) => {
                        let text =
                            format!("it is not the metadata of {}, which came with a snapshot", image.manifest_digest);
                        finding = ("cache-corrupt", path, text);
                    }
                    Err(error) => finding = ("cache-unreadable", path, error.to_string()),
                }
            }
            let (code, path, text) = finding;
            self.report(code, &cache.join(&path), text);
            self.found.cache.extend(rows.iter().cloned());
        }
        Ok(())
    }
}

fn is_metadata(path: &TarPath) -> bool {
    path.as_str().starts_with("manifests/")
}

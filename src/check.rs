//! `check`: the store itself against what was imported, what its descriptors record and what its image cache claims;
//! every finding, not only the first. Repair is in `repair.rs`.

mod closure;
mod groups;
mod images;
mod parents;
mod vouched;

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
    bundle::BundledSnapshot,
    digest::Digest,
    error::{Error, IoContext, Result},
    import::BundleLocation,
    layer::analyze::{Contents, FileView, contents},
    model::{FileRecord, ImageRecord, SnapshotIdentity, TarPath},
    progress::Progress,
    recorded::RecordedChecks,
    repair::{Repair, bundled_snapshots},
    report::{CheckReport, Finding},
    snapshot::{
        SNAPSHOT_FILE, Snapshot, V066_FILE,
        closure::binds,
        hides, is_folder, labels,
        scan::{SourceFile, scan},
    },
    store::{
        Store, group, group_repair,
        index::{Change, Index},
        lock,
        place::{complete_dead, leftovers},
        record::{ImportRecord, RECORD_FILE},
        root,
    },
    temporary::Scratch,
};
use vouched::Unvouched;

/// The codes of findings that say nothing about the store, because something in it could not be read.
pub const UNREADABLE: [&str; 3] = [FILE_UNREADABLE, CACHE_UNREADABLE, PARENT_UNREADABLE];
/// The code of a note about a parent that is missed by nobody.
pub const PARENT_LEFT_OUT: &str = "parent-left-out";
/// The code of a finding that says why something was not repaired.
pub const REPAIR_REFUSED: &str = "repair-refused";
const FILE_UNREADABLE: &str = "file-unreadable";
const CACHE_UNREADABLE: &str = "cache-unreadable";
const PARENT_UNREADABLE: &str = "parent-unreadable";

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
    /// What nothing vouches for, and what is missed by nobody: no damage, as far as anybody knows.
    pub notes: Vec<Finding>,
    /// Snapshots with files that only a bundle can vouch for.
    unvouched: Vec<Unvouched>,
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
    root::existing(&store.root)?;
    if !is_folder(&snapshots)? && !is_folder(&cache)? {
        let reason = "it has neither snapshots/ nor cache/; --store or $MSB_HOME says where it is".into();
        return Err(Error::NotAStore { path: options.store.clone(), reason });
    }
    let folders = [snapshots.as_path(), cache.as_path()];
    let locks = match options.repair {
        Repairs::Nothing => lock::share(&folders, progress)?,
        Repairs::Groups | Repairs::From(_) => lock::take(&folders, progress)?,
    };
    if options.repair != Repairs::Nothing {
        complete_dead(&snapshots)?;
    }
    // Before the long look at the store: a source that is none says so at once.
    let bundle = options.repair.bundle();
    let scratch = Scratch::in_temp();
    let source = bundle.map(|location| location.open(&scratch, progress)).transpose()?;
    // Of a bundle that cannot be read it is enough to know where something is to be compared or repaired.
    let bundled = source.as_deref().map(bundled_snapshots).transpose().map(Option::unwrap_or_default);
    let look = |bundled: &[BundledSnapshot]| look(&store, options.jobs, &options.progress, bundled);
    let mut found = look(bundled.as_deref().unwrap_or_default())?;
    let bundled = match bundled {
        Err(error) if !found.findings.is_empty() || found.notes.iter().any(is_not_compared) => return Err(error),
        bundled => bundled.unwrap_or_default(),
    };
    let before = found.findings.clone();
    if options.repair != Repairs::Nothing && found.findings.iter().any(|finding| is_of_group(finding.code)) {
        for name in group::all(&snapshots)? {
            group_repair::repair(&snapshots, &name, progress)?;
        }
        found = look(&bundled)?;
    }
    let mut refused = Vec::new();
    if let Some(source) = source.filter(|_| !found.findings.is_empty()) {
        let repair = Repair { store: &store, jobs: options.jobs, progress: &options.progress };
        refused = repair.run(source.as_ref(), &bundled, &found)?;
        found = look(&bundled)?;
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
        notes: found.notes,
        repaired,
        index,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Looks at everything; what nothing else vouches for is compared with what the bundle has.
fn look(store: &Store, jobs: usize, progress: &Arc<dyn Progress>, bundled: &[BundledSnapshot]) -> Result<Found> {
    let mut look =
        Look { store, jobs, progress, found: Found::default(), cache: BTreeMap::new(), brought: HashMap::new() };
    look.leftovers()?;
    look.groups()?;
    let (snapshots, unreadable) = store.all()?;
    look.found.counts.snapshots = snapshots.len() + unreadable.len();
    let hidden = unreadable.iter().find(|(_, error)| hides(error)).map(|(directory, _)| directory.clone());
    for (directory, error) in unreadable {
        look.unreadable(directory, error);
    }
    for snapshot in &snapshots {
        look.snapshot(snapshot)?;
    }
    look.vouched(bundled);
    look.parents(&snapshots, hidden.as_deref());
    let cached = look.images(&snapshots)?;
    look.cache_rows(&cached, bundled)?;
    Ok(look.found)
}

/// Whether only a bundle could vouch for what a note says.
fn is_not_compared(note: &Finding) -> bool {
    matches!(note.code, vouched::NOT_COMPARED | images::NOT_COMPARED)
}

/// The code of what an error says; what could not be read may be as it should.
fn unreadable_or(error: &Error, code: &'static str) -> &'static str {
    if matches!(error, Error::Io { .. }) { FILE_UNREADABLE } else { code }
}

/// Whether a repair without a bundle mends it.
fn is_of_group(code: &str) -> bool {
    matches!(code, "group-outdated" | "group-lock-missing" | "head-missing")
}

/// Why there is no record of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unrecorded {
    /// Nobody imported it.
    Never,
    /// It says nothing, or could not be read.
    Hidden,
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

    /// Notes what is no damage.
    fn note(&mut self, code: &'static str, path: &Path, message: impl ToString) {
        let subject = self.subject(path);
        self.found.notes.push(Finding { code, subject, message: message.to_string() });
    }

    /// What dead runs left; the next import or removal takes it away, and so does a repair.
    fn leftovers(&mut self) -> Result<()> {
        for folder in [self.store.snapshots(), self.store.cache()] {
            for path in leftovers(&folder)? {
                self.report(
                    "leftover",
                    &path,
                    "a run that died left it; the next import, removal or repair clears it away",
                );
            }
        }
        Ok(())
    }

    /// The record of an import, or whether there is none.
    fn record(&mut self, directory: &Path) -> std::result::Result<ImportRecord, Unrecorded> {
        match ImportRecord::read(directory) {
            Ok(Some(record)) => {
                self.found.counts.recorded += 1;
                for row in &record.cache {
                    let rows = self.cache.entry(row.path.clone()).or_default();
                    if !rows.contains(row) {
                        rows.push(row.clone());
                    }
                }
                Ok(record)
            }
            Ok(None) => Err(Unrecorded::Never),
            Err(error) => {
                let code = unreadable_or(&error, "record-invalid");
                let message = match error {
                    Error::InvalidRecord { reason, .. } => reason,
                    error => error.to_string(),
                };
                self.report(code, &directory.join(RECORD_FILE), message);
                Err(Unrecorded::Hidden)
            }
        }
    }

    fn unreadable(&mut self, directory: PathBuf, error: Error) {
        self.report(unreadable_or(&error, "descriptor-invalid"), &directory, &error);
        // Where the folder cannot be read at all, once is enough.
        let is_closed = error.is_denied() && ImportRecord::read(&directory).is_err();
        let record = if is_closed { None } else { self.record(&directory).ok() };
        self.found.snapshots.push(BadSnapshot { directory, record, digest: None });
    }

    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let before = self.found.findings.len();
        let directory = &snapshot.directory;
        self.progress.begin(&format!("checking {}", snapshot.name), None);
        let (record, is_never_imported) = match self.record(directory) {
            Ok(record) => (Some(record), false),
            Err(unrecorded) => (None, unrecorded == Unrecorded::Never),
        };
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
                self.report(unreadable_or(&error, "directory-invalid"), directory, error);
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
            self.report(FILE_UNREADABLE, directory, error);
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
                    self.report(unreadable_or(&error, "recorded-integrity"), &path, error);
                }
            }
        }
        self.folders(snapshot);
        let unreferenced = self.closure(snapshot, &present, before);
        self.progress.end();
        let is_bad = self.found.findings.len() > before;
        unreferenced.iter().for_each(|damage| self.damage(directory, damage));
        if is_never_imported {
            let is_vouched = |file: &SourceFile| {
                analyses.contains_key(&file.at)
                    || is_descriptor(&file.at)
                    || is_labels(&file.at)
                    || binds(&snapshot.descriptor, &file.path)
            };
            let files: Vec<_> = present.iter().filter(|file| !is_vouched(file)).cloned().collect();
            self.found.unvouched.push(Unvouched {
                directory: directory.clone(),
                digest,
                present: present.clone(),
                files,
            });
        }
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
            Err(error) => return self.report(FILE_UNREADABLE, &path, error),
        };
        let looked = file.metadata().context("look at", &path).and_then(|meta| {
            let view = FileView { file: &file, path: &path, size: meta.len() };
            Ok((meta, contents(view, None, self.jobs, self.progress.as_ref())?.0))
        });
        let (meta, analysis) = match looked {
            Ok(looked) => looked,
            Err(error) => return self.report(FILE_UNREADABLE, &path, error),
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
}

fn is_metadata(path: &TarPath) -> bool {
    path.as_str().starts_with("manifests/")
}

//! `verify --deep`: every layer is decoded and every file's root compared, without a directory being restored.
//!
//! Files are hashed as their data passes. A look at the deltas' sparse maps tells beforehand what they go over: of a file
//! only the leaves that a later delta fills in part are kept, in a scratch file. Where that cannot be told, or a file's
//! size changes, all of it is kept and written over, and hashed again.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use crate::{
    bundle::{BundledSnapshot, encoding_of},
    digest::Digest,
    error::{Error, IoContext, Result},
    layer::{
        analyze::{Contents, FileView, Prior, contents},
        clone::{Beneath, clone_contents},
        decode::{Budget, EncodedLayer, OutputFile, Place, SparseMaps, sparse_maps},
        streamed::{Later, Needs, Passed, StreamedContents},
        walk::Sink,
    },
    model::{Descriptor, FileRecord, LayerFile, LayerRecord, TarPath, config::MAX_STACK},
    progress::Progress,
    restore::{EntryRule, decode_blob},
    snapshot::{IntegrityAlgorithm, MAX_DESCRIPTOR},
    storage::Source,
    store::place::Stage,
    verify::into_error,
};

/// A file of some layer: which one, and its path.
type Version = (Digest, TarPath);

/// What files need that go over others.
type Maps = HashMap<Version, Map>;
/// What later deltas need of files, as far as it is known.
type FoundLater = HashMap<Version, Option<Arc<Later>>>;

/// The most data of a delta's file whose map is kept in mind; of a larger one all is kept on disk.
const MAX_MAPPED: u64 = 4 << 40;
/// The most that is read of a layer for its maps, in bytes unpacked: they stand before the data that they tell of.
const MAX_LOOKED_AT: u64 = 256 << 20;
/// The most segments of all maps together: 48 MiB. Files of the others are kept whole.
const MAX_SEGMENTS: usize = 1 << 20;
/// The most deltas over one file, directly or not: all of them are asked for each leaf. Of a chain these are 63.
const MAX_DELTAS: usize = 256;
/// The most of those of all files together: 8 MiB.
const MAX_ALL_DELTAS: usize = 1 << 20;
/// What stays free in the filesystem of the scratch folder.
const RESERVE: u64 = 64 << 20;
/// Its free space is asked for again after so many bytes: others write, too.
const INTERVAL: u64 = 64 << 20;

/// The decoder of a bundle's snapshots, one after the other.
pub struct DeepCheck<'a> {
    source: &'a dyn Source,
    scratch: &'a Path,
    room: Arc<Room>,
    jobs: usize,
    progress: &'a dyn Progress,
    /// What the tables declare.
    declared: HashMap<Version, Declared>,
    /// How many files of other layers go over a file.
    uses: HashMap<Version, usize>,
    /// What those need of it, all of them; none where that is not known.
    later: FoundLater,
    /// The layers that are applied.
    stack: Vec<Digest>,
    files: HashMap<TarPath, Held>,
    /// Layers that decoded without error, hence verified.
    decoded: HashSet<Digest>,
    names: u64,
}

/// What a file table says of a file.
#[derive(Clone, Copy)]
struct Declared {
    size: u64,
    /// The most of all tables: over another stack a delta can make another file.
    data_bytes: u64,
}

/// What is kept in mind of the map of a file that goes over another one.
struct Map {
    size: u64,
    /// Bytes in its segments.
    data: u64,
    needs: Arc<Needs>,
}

/// The free space of the scratch folder's disk, for all that is written there.
struct Room {
    folder: PathBuf,
    reserve: u64,
    /// Bytes that may be written before it is asked for again.
    granted: Mutex<u64>,
}

impl Room {
    fn new(folder: &Path, reserve: u64) -> Self {
        Self { folder: folder.into(), reserve, granted: Mutex::new(0) }
    }

    /// So many bytes are about to be written to `path`.
    fn take(&self, bytes: u64, path: &Path) -> Result<()> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if *granted < bytes {
            let free = Stage::free_bytes(&self.folder)?.saturating_sub(self.reserve);
            if free < bytes {
                let reason = format!(
                    "{bytes} more bytes are over the limit of {free}, the free space less {}; choose another $TMPDIR",
                    self.reserve
                );
                return Err(Error::io("write", path, io::Error::other(reason)));
            }
            *granted = free.min(INTERVAL.max(bytes));
        }
        *granted -= bytes;
        Ok(())
    }
}

/// A file after the layers that are applied.
struct Held {
    known: Known,
    version: Version,
    /// Its bytes, as far as a delta needs them.
    bytes: Option<Arc<Beneath>>,
}

/// What is known of a file.
#[derive(Clone)]
enum Known {
    /// What passed, and what was kept of it.
    Passed(Passed),
    /// What it holds; all of its bytes are kept.
    Whole(Contents),
}

impl Known {
    fn contents(&self) -> &Contents {
        match self {
            Self::Passed(passed) => &passed.contents,
            Self::Whole(contents) => contents,
        }
    }
}

impl<'a> DeepCheck<'a> {
    /// Of these snapshots, in the order in which [`DeepCheck::snapshot`] will be asked for them or any other.
    pub fn new(
        source: &'a dyn Source,
        snapshots: &[BundledSnapshot],
        scratch: &'a Path,
        jobs: usize,
        progress: &'a dyn Progress,
    ) -> Self {
        let (consumers, declared) = (consumers(snapshots), declared(snapshots));
        let maps = maps(source, snapshots);
        let mut plan =
            Plan { maps, declared: &declared, consumers: &consumers, found: HashMap::new(), room: MAX_ALL_DELTAS };
        for version in consumers.keys() {
            plan.later(version, 0);
        }
        let mut later = plan.found;
        let mut uses: HashMap<Version, usize> =
            consumers.iter().map(|(version, users)| (version.clone(), users.len())).collect();
        for lineage in snapshots.iter().map(descriptor_lineage) {
            // The bytes are read before what goes over them may change them in place.
            if let Some(version) = lineage.first() {
                *uses.entry(version.clone()).or_default() += 1;
            }
            later.extend(lineage.into_iter().map(|version| (version, None)));
        }
        let room = Arc::new(Room::new(scratch, RESERVE));
        let (stack, files, decoded) = (Vec::new(), HashMap::new(), HashSet::new());
        Self { source, scratch, room, jobs, progress, declared, uses, later, stack, files, decoded, names: 0 }
    }

    /// The order that decodes the least: a parent directly before its child.
    pub fn order(snapshots: &mut [BundledSnapshot]) {
        snapshots.sort_by_cached_key(|s| {
            s.config.layers[..s.config.stack_len()].iter().map(LayerRecord::digest).collect::<Vec<_>>()
        });
    }

    /// Layers whose blobs have been read to their ends and verified.
    pub fn decoded(&self) -> &HashSet<Digest> {
        &self.decoded
    }

    /// Decodes what has not been decoded of the snapshot's stack, and compares its table.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn snapshot(&mut self, snapshot: &BundledSnapshot) -> Result<()> {
        let result = self.stack(snapshot).and_then(|()| self.compare(snapshot));
        if result.is_err() {
            self.forget();
        }
        result
    }

    /// One more than there are cores to use: a worker may wait for its turn to walk the tar.
    fn workers(&self) -> usize {
        self.jobs + usize::from(self.jobs > 1)
    }

    /// Decodes a cache layer and compares its file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn cache(&mut self, descriptor: &Descriptor, record: &LayerRecord, file: &FileRecord) -> Result<()> {
        if self.decoded.contains(&descriptor.digest) {
            return Ok(());
        }
        let context = format!("layer {}", descriptor.digest);
        let rule = EntryRule { expected: Some(file.size), limit: None, over_base: false };
        let mut sink = self.sink(&context);
        let planned = Planned { rule, most: file.data_bytes, target: Target::nothing_kept() };
        sink.planned.insert(file.path.clone(), planned);
        self.decode(descriptor, record, &mut sink, file.size)?;
        let Some(Begun { file: found, .. }) = sink.begun.get(&file.path) else {
            return Err(Error::bundle(context, format!("{} is not in it", file.path)));
        };
        if let How::Passing(streamed, ..) = &found.how {
            compare_row("the image cache", file, &streamed.finish().contents)?;
        }
        self.decoded.insert(descriptor.digest);
        Ok(())
    }

    fn sink(&self, context: &str) -> DeepSink {
        let (planned, begun) = (HashMap::new(), HashMap::new());
        DeepSink { context: context.into(), room: self.room.clone(), planned, begun }
    }

    /// Decodes a layer whose files may have `most` bytes together.
    fn decode(&self, descriptor: &Descriptor, record: &LayerRecord, sink: &mut DeepSink, most: u64) -> Result<()> {
        decode_blob(self.source, descriptor, record, sink, self.workers(), Some(most), self.progress).map_err(|error| {
            match error {
                // There is no flag that raises it here.
                Error::Limit { what, value, limit, .. } => Error::Limit { what, value, limit, hint: "" },
                other => other,
            }
        })
    }

    /// The most bytes that a layer's files may have: what tables say of them. Of a layer that is on top of no snapshot here
    /// they say nothing; then it is what the snapshot may have, or what the disk could take as an import would have it.
    fn most(&self, snapshot: &BundledSnapshot, record: &LayerRecord) -> Result<u64> {
        let size = |file: &LayerFile| self.declared.get(&(record.digest(), file.path.clone())).map(|d| d.size);
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
        match record.stack_files().iter().map(size).collect::<Option<Vec<u64>>>() {
            Some(sizes) => Ok(sum(&mut sizes.into_iter())),
            None => {
                let whole = sum(&mut snapshot.config.files.iter().map(|row| row.size));
                Ok(whole.max(Stage::free_bytes(self.scratch)?))
            }
        }
    }

    fn forget(&mut self) {
        self.stack.clear();
        for (_, held) in self.files.drain() {
            remove(held.bytes);
        }
    }

    fn stack(&mut self, snapshot: &BundledSnapshot) -> Result<()> {
        let layers = &snapshot.config.layers[..snapshot.config.stack_len()];
        if !layers.iter().map(LayerRecord::digest).take(self.stack.len()).eq(self.stack.iter().copied()) {
            self.forget();
        }
        for index in self.stack.len()..layers.len() {
            self.layer(snapshot, index)?;
        }
        Ok(())
    }

    fn layer(&mut self, snapshot: &BundledSnapshot, index: usize) -> Result<()> {
        let (descriptor, record) = (&snapshot.manifest.layers[index], &snapshot.config.layers[index]);
        let context = format!("layer {}", descriptor.digest);
        let top = index + 1 == snapshot.config.stack_len();
        let mut sink = self.sink(&context);
        let files = record.stack_files();
        // All copies first: what one file changes in place may be what another one goes over.
        for file in files {
            let expected = snapshot.config.row(&file.path).map(|row| row.size);
            let rule = EntryRule { expected: expected.filter(|_| top), limit: None, over_base: file.base.is_some() };
            let version = (descriptor.digest, file.path.clone());
            let target = match &file.base {
                None => self.fresh(&version)?,
                Some(base) => self.over(base, &version, &context)?,
            };
            let most = self.declared.get(&version).map_or(u64::MAX, |declared| declared.data_bytes);
            sink.planned.insert(file.path.clone(), Planned { rule, most, target });
        }
        self.progress.begin(&format!("decoding {}", snapshot.config.snapshot.name), None);
        let most = self.most(snapshot, record)?;
        self.decode(descriptor, record, &mut sink, most)?;
        self.progress.end();
        for file in files {
            let Some(begun) = sink.begun.remove(&file.path) else {
                return Err(Error::bundle(context, format!("{} is not in it", file.path)));
            };
            let version = (descriptor.digest, file.path.clone());
            let held = self.hold(version, begun)?;
            if let Some(old) = self.files.insert(file.path.clone(), held) {
                remove(old.bytes);
            }
        }
        self.stack.push(descriptor.digest);
        self.decoded.insert(descriptor.digest);
        Ok(())
    }

    /// Where a file's data goes that goes over nothing.
    fn fresh(&mut self, version: &Version) -> Result<Target> {
        match self.later.get(version).cloned() {
            None => Ok(Target::nothing_kept()),
            Some(None) => Ok(Target::Whole(self.new_output(true)?)),
            Some(Some(later)) => {
                let scratch = if later.needs_no_bytes() { None } else { Some(Arc::new(self.new_scratch()?)) };
                Ok(Target::Selected { later, scratch, below: None })
            }
        }
    }

    /// Where a delta's data goes: over the bytes beneath, in place if nothing else needs them.
    fn over(&mut self, base: &TarPath, version: &Version, context: &str) -> Result<Target> {
        let missing = || Error::bundle(context, format!("the base {base} is not beneath it"));
        let held = self.files.get_mut(base).ok_or_else(missing)?;
        let below = held.known.clone();
        let last = self.uses.get(&held.version).is_none_or(|uses| *uses <= 1);
        let (taken, bytes) = if last { (true, held.bytes.take()) } else { (false, held.bytes.clone()) };
        let size = below.contents().size;
        match below {
            Known::Passed(passed) => {
                let later = self.later.get(version).cloned().flatten().unwrap_or_default();
                let scratch = match bytes {
                    Some(bytes) if !taken => {
                        let copy = self.new_scratch()?;
                        clone_contents(&bytes, &copy.file, &copy.path, size, &|n| self.room.take(n, &copy.path))?;
                        Some(Arc::new(copy))
                    }
                    other => other,
                };
                Ok(Target::Selected { later, scratch, below: Some(passed) })
            }
            Known::Whole(contents) => {
                let bytes = bytes.ok_or_else(missing)?;
                let output = if taken {
                    let file = bytes.file.try_clone().context("duplicate the handle of", &bytes.path)?;
                    output(file, bytes.path.clone(), false)
                } else {
                    let output = self.new_output(false)?;
                    clone_contents(&bytes, &output.file, &output.path, size, &|n| self.room.take(n, &output.path))?;
                    output
                };
                Ok(Target::Patched(contents, output))
            }
        }
    }

    /// What a file is after its layer.
    fn hold(&self, version: Version, Begun { file, size, touched }: Begun) -> Result<Held> {
        let keep = |output: &OutputFile| {
            let file = output.file.try_clone().context("duplicate the handle of", &output.path)?;
            Ok(Some(Arc::new(Beneath { file, path: output.path.clone() })))
        };
        let (known, bytes) = match &file.how {
            How::Passing(streamed, scratch) => (Known::Passed(streamed.finish()), scratch.clone()),
            How::Whole(streamed, output) => (Known::Whole(streamed.finish().contents), keep(output)?),
            How::Patched(below, output) => {
                let view = FileView { file: &output.file, path: &output.path, size };
                let prior = Prior { contents: below, touched: &touched };
                (Known::Whole(contents(view, Some(prior), self.jobs, self.progress)?.0), keep(output)?)
            }
        };
        Ok(Held { known, version, bytes })
    }

    fn new_scratch(&mut self) -> Result<Beneath> {
        self.names += 1;
        let path = self.scratch.join(format!("{}.deep", self.names));
        let file = File::options().read(true).write(true).create_new(true).open(&path).context("create", &path)?;
        Ok(Beneath { file, path })
    }

    fn new_output(&mut self, fresh: bool) -> Result<OutputFile> {
        let Beneath { file, path } = self.new_scratch()?;
        Ok(output(file, path, fresh))
    }

    fn compare(&self, snapshot: &BundledSnapshot) -> Result<()> {
        for row in &snapshot.config.files {
            let Some(held) = self.files.get(&row.path) else {
                let context = format!("manifest {}", snapshot.descriptor.digest);
                return Err(Error::bundle(context, format!("no layer holds {}", row.path)));
            };
            compare_row(snapshot.config.snapshot.name.as_str(), row, held.known.contents())?;
        }
        self.compare_descriptor(snapshot)
    }

    /// Whether the snapshot's own descriptor is the one that its config describes, as an import wants it to be.
    fn compare_descriptor(&self, snapshot: &BundledSnapshot) -> Result<()> {
        let record = &snapshot.config.snapshot;
        let fail =
            |reason: String| Err(Error::bundle(format!("{} of snapshot {}", record.descriptor, record.name), reason));
        let held = self.files.get(&record.descriptor);
        if held.is_some_and(|held| held.known.contents().size > MAX_DESCRIPTOR) {
            return fail(format!("it is larger than {MAX_DESCRIPTOR} bytes"));
        }
        let whole = held.filter(|held| matches!(held.known, Known::Whole(_)));
        let Some((held, kept)) = whole.and_then(|held| Some((held, held.bytes.as_ref()?))) else {
            return fail("no layer holds it".into());
        };
        let mut bytes = vec![0; held.known.contents().size as usize];
        kept.file.read_exact_at(&mut bytes, 0).context("read", &kept.path)?;
        let descriptor = snapshot.descriptor_from(bytes)?;
        // Recorded integrity of other kinds wants a file's bytes, which are not here.
        for recorded in descriptor.recorded.iter().filter(|r| r.algorithm == IntegrityAlgorithm::Merkle) {
            let Some(held) = self.files.get(&recorded.path) else { continue };
            let actual = held.known.contents().root.to_string();
            if actual != recorded.value {
                return Err(Error::RecordedIntegrity {
                    path: Path::new(record.name.as_str()).join(&recorded.path),
                    algorithm: recorded.algorithm.as_str(),
                    expected: recorded.value.clone(),
                    actual,
                });
            }
        }
        Ok(())
    }
}

/// The snapshot's descriptor, and all that it goes over: they are small, and kept whole.
fn descriptor_lineage(snapshot: &BundledSnapshot) -> Vec<Version> {
    let mut path = &snapshot.config.snapshot.descriptor;
    let mut lineage = Vec::new();
    if snapshot.config.files.iter().any(|row| row.path == *path && row.size > MAX_DESCRIPTOR) {
        return lineage;
    }
    for layer in snapshot.config.layers[..snapshot.config.stack_len()].iter().rev() {
        let Some(file) = layer.stack_files().iter().find(|file| file.path == *path) else { continue };
        lineage.push((layer.digest(), path.clone()));
        let Some(base) = &file.base else { break };
        path = base;
    }
    lineage
}

/// For every file the files of other layers that go over it.
fn consumers(snapshots: &[BundledSnapshot]) -> HashMap<Version, HashSet<Version>> {
    let mut consumers: HashMap<Version, HashSet<Version>> = HashMap::new();
    for snapshot in snapshots {
        let mut latest: HashMap<&TarPath, Digest> = HashMap::new();
        for layer in &snapshot.config.layers[..snapshot.config.stack_len()] {
            for file in layer.stack_files() {
                if let Some(base) = &file.base
                    && let Some(below) = latest.get(base)
                {
                    let user = (layer.digest(), file.path.clone());
                    consumers.entry((*below, base.clone())).or_default().insert(user);
                }
            }
            latest.extend(layer.stack_files().iter().map(|file| (&file.path, layer.digest())));
        }
    }
    consumers
}

/// What the tables tell of files of the layers that are on top.
fn declared(snapshots: &[BundledSnapshot]) -> HashMap<Version, Declared> {
    let mut all: HashMap<Version, Declared> = HashMap::new();
    for snapshot in snapshots {
        let Some(top) = snapshot.config.layers[..snapshot.config.stack_len()].last() else { continue };
        let rows: HashMap<&TarPath, &FileRecord> = snapshot.config.files.iter().map(|row| (&row.path, row)).collect();
        for row in top.stack_files().iter().filter_map(|file| rows.get(&file.path)) {
            let version = (top.digest(), row.path.clone());
            let data_bytes = all.get(&version).map_or(0, |known| known.data_bytes).max(row.data_bytes);
            all.insert(version, Declared { size: row.size, data_bytes });
        }
    }
    all
}

/// What the files need that go over others. A layer that cannot be looked at has none: decoding tells why.
fn maps(source: &dyn Source, snapshots: &[BundledSnapshot]) -> Maps {
    let mut maps = HashMap::new();
    let mut seen = HashSet::new();
    let mut room = MAX_SEGMENTS;
    for snapshot in snapshots {
        let stack = snapshot.manifest.layers.iter().zip(&snapshot.config.layers).take(snapshot.config.stack_len());
        for (descriptor, record) in stack.filter(|(descriptor, _)| seen.insert(descriptor.digest)) {
            let over: HashSet<TarPath> =
                record.stack_files().iter().filter(|f| f.base.is_some()).map(|f| f.path.clone()).collect();
            if over.is_empty() {
                continue;
            }
            for (path, (size, segments)) in look(source, descriptor, record, &over).unwrap_or_default() {
                if segments.len() <= room {
                    room -= segments.len();
                    let data = segments.iter().fold(0u64, |sum, s| sum.saturating_add(s.end - s.start));
                    let needs = Arc::new(Needs::of(&segments, size));
                    maps.insert((descriptor.digest, path), Map { size, data, needs });
                }
            }
        }
    }
    maps
}

fn look(
    source: &dyn Source,
    descriptor: &Descriptor,
    record: &LayerRecord,
    wanted: &HashSet<TarPath>,
) -> Result<SparseMaps> {
    let (encoding, blob) = (encoding_of(descriptor, record)?, source.fetch(descriptor)?);
    let corrupt = |e: std::io::Error| into_error(e, descriptor.digest);
    let context = format!("layer {}", descriptor.digest);
    sparse_maps(EncodedLayer { blob, encoding, context: &context, most: MAX_LOOKED_AT }, wanted, &corrupt)
}

/// What is known before anything is decoded.
struct Plan<'a> {
    maps: Maps,
    declared: &'a HashMap<Version, Declared>,
    consumers: &'a HashMap<Version, HashSet<Version>>,
    found: FoundLater,
    /// How many deltas may still be kept in mind.
    room: usize,
}

impl Plan<'_> {
    /// What all that goes over `version`, directly or not, needs of it; none where that is not known.
    fn later(&mut self, version: &Version, depth: usize) -> Option<Arc<Later>> {
        if let Some(later) = self.found.get(version) {
            return later.clone();
        }
        // Stacks that contradict each other can name layers in circles, and make more of them than any one stack has.
        self.found.insert(version.clone(), None);
        let later = if depth < MAX_STACK { self.needs(version, depth).map(Arc::new) } else { None };
        self.found.insert(version.clone(), later.clone());
        later
    }

    fn needs(&mut self, version: &Version, depth: usize) -> Option<Later> {
        let size = self.declared.get(version)?.size;
        let mut deltas = Vec::new();
        let consumers = self.consumers;
        for user in consumers.get(version).into_iter().flatten() {
            let map = self.maps.get(user)?;
            if map.size != size || map.data > MAX_MAPPED {
                return None;
            }
            deltas.push(map.needs.clone());
            if consumers.contains_key(user) {
                deltas.extend_from_slice(self.later(user, depth + 1)?.deltas());
            }
            if deltas.len() > MAX_DELTAS {
                return None;
            }
        }
        self.room = self.room.checked_sub(deltas.len())?;
        Some(Later::new(deltas))
    }
}

/// What it may take in is the business of its [`DeepFile`].
fn output(file: File, path: PathBuf, fresh: bool) -> OutputFile {
    OutputFile { file, path, fresh, writeback: None, unsynced: AtomicU64::new(0), budget: Budget::new(u64::MAX) }
}

fn remove(bytes: Option<Arc<Beneath>>) {
    if let Some(bytes) = bytes {
        // The scratch folder goes with all that is in it.
        let _ = std::fs::remove_file(&bytes.path);
    }
}

fn compare_row(snapshot: &str, row: &FileRecord, found: &Contents) -> Result<()> {
    if found.root == row.root && found.size == row.size && found.data_bytes == row.data_bytes {
        return Ok(());
    }
    Err(Error::RootMismatch {
        snapshot: snapshot.into(),
        path: row.path.to_string(),
        expected: row.root.to_string(),
        actual: found.root.to_string(),
    })
}

/// Where a file's data goes.
enum Target {
    /// Hashed as it passes, over what passed before it, if anything; what later deltas need is kept.
    Selected { later: Arc<Later>, scratch: Option<Arc<Beneath>>, below: Option<Passed> },
    /// Hashed as it passes, and kept.
    Whole(OutputFile),
    /// Written over these contents.
    Patched(Contents, OutputFile),
}

impl Target {
    fn nothing_kept() -> Self {
        Self::Selected { later: Arc::default(), scratch: None, below: None }
    }
}

struct Planned {
    rule: EntryRule,
    /// The most data that it may hold.
    most: u64,
    target: Target,
}

struct Begun {
    file: Arc<DeepFile>,
    size: u64,
    touched: Vec<Range<u64>>,
}

/// A file being decoded.
struct DeepFile {
    path: TarPath,
    /// The most data that it may hold.
    most: u64,
    room: Arc<Room>,
    how: How,
}

enum How {
    Passing(StreamedContents, Option<Arc<Beneath>>),
    Whole(StreamedContents, OutputFile),
    Patched(Contents, OutputFile),
}

impl DeepFile {
    /// More than the table declares is refused while it arrives.
    fn check(&self, streamed: &StreamedContents) -> Result<()> {
        match streamed.data_bytes() {
            value if value > self.most => Err(Error::Limit {
                what: format!("the data of {}, as the file table declares it,", self.path),
                value,
                limit: self.most,
                hint: "",
            }),
            _ => Ok(()),
        }
    }
}

impl Place for DeepFile {
    fn place(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let length = bytes.len() as u64;
        match &self.how {
            How::Passing(streamed, scratch) => {
                let path = scratch.as_ref().map_or(Path::new("a scratch file"), |scratch| scratch.path.as_path());
                if scratch.is_some() {
                    self.room.take(streamed.kept(offset..offset.saturating_add(length)), path)?;
                }
                streamed.take(bytes, offset).context("read or write", path)?;
                self.check(streamed)
            }
            How::Whole(streamed, output) => {
                streamed.take(bytes, offset).context("write", &output.path)?;
                self.check(streamed)?;
                self.room.take(length, &output.path)?;
                output.place(bytes, offset)
            }
            How::Patched(_, output) => {
                self.room.take(length, &output.path)?;
                output.place(bytes, offset)
            }
        }
    }
}

struct DeepSink {
    context: String,
    room: Arc<Room>,
    planned: HashMap<TarPath, Planned>,
    begun: HashMap<TarPath, Begun>,
}

impl Sink for DeepSink {
    type File = DeepFile;

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<DeepFile>> {
        let Some(Planned { rule, most, target }) = self.planned.remove(path) else {
            return Err(Error::bundle(&self.context, format!("it holds {path}, which its config does not name")));
        };
        rule.check(&self.context, path, size, segments)?;
        let whole = 0..size;
        let touched = segments.map_or_else(|| vec![whole], <[_]>::to_vec);
        let sized = |output: &OutputFile| output.file.set_len(size).context("set the size of", &output.path);
        let streamed = || StreamedContents::new(size, touched.clone());
        let how = match target {
            Target::Selected { later, scratch, below } => {
                let mut streamed = streamed();
                if let Some(below) = below {
                    if below.contents.size != size {
                        let reason = format!("{path} has {size} bytes, {} were expected", below.contents.size);
                        return Err(Error::bundle(&self.context, reason));
                    }
                    streamed = streamed.over(below);
                }
                let file = match &scratch {
                    Some(scratch) => Some(scratch.file.try_clone().context("duplicate the handle of", &scratch.path)?),
                    None => None,
                };
                How::Passing(streamed.keeping(later, file), scratch)
            }
            Target::Whole(output) => {
                sized(&output)?;
                How::Whole(streamed(), output)
            }
            Target::Patched(below, output) => {
                sized(&output)?;
                How::Patched(below, output)
            }
        };
        let file = Arc::new(DeepFile { path: path.clone(), most, room: self.room.clone(), how });
        self.begun.insert(path.clone(), Begun { file: file.clone(), size, touched });
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_leaves_the_disk_some_room() {
        let folder = tempfile::tempdir().unwrap();
        let enough = Room::new(folder.path(), 0);
        for _ in 0..3 {
            enough.take(1, Path::new("x")).unwrap();
        }
        assert_eq!(*enough.granted.lock().unwrap() % INTERVAL, INTERVAL - 3);
        let error = Room::new(folder.path(), u64::MAX).take(5, Path::new("x.deep")).unwrap_err();
        let text = format!(
            "cannot write x.deep: 5 more bytes are over the limit of 0, the free space less {}; choose another $TMPDIR",
            u64::MAX
        );
        assert_eq!((error.to_string(), error.exit_code()), (text, 1));
    }
}

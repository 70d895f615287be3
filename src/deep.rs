//! `verify --deep`: every layer is decoded and every file's root compared, without a directory being restored.
//!
//! Files are hashed as their data passes. A look at the deltas' sparse maps tells beforehand what they go over: of a file
//! only the leaves that a later delta fills in part are kept, in a scratch file. Where that cannot be told, or a file's
//! size changes, all of it is kept and written over, and hashed again.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use crate::{
    bundle::{BundledSnapshot, encoding_of},
    digest::Digest,
    error::{Error, IoContext, Result},
    layer::{
        analyze::{Contents, FileView, Prior, contents},
        clone::{Beneath, clone_contents},
        decode::{Budget, EncodedLayer, OutputFile, Place, SparseMaps, sparse_maps},
        streamed::{Later, Passed, StreamedContents},
        walk::Sink,
    },
    model::{Descriptor, FileRecord, LayerRecord, TarPath, config::MAX_STACK},
    progress::Progress,
    restore::{EntryRule, decode_blob},
    storage::Source,
    verify::into_error,
};

/// A file of some layer: which one, and its path.
type Version = (Digest, TarPath);

/// The sizes and segments of files that go over others.
type Maps = HashMap<Version, (u64, Vec<Range<u64>>)>;
/// What later deltas need of files, as far as it is known.
type FoundLater = HashMap<Version, Option<Arc<Later>>>;

/// The most data of a delta's file whose map is kept in mind; of a larger one all is kept on disk.
const MAX_MAPPED: u64 = 4 << 40;
/// The most that is read of a layer for its maps, in bytes unpacked: they stand before the data that they tell of.
const MAX_LOOKED_AT: u64 = 256 << 20;
/// The most segments of all maps together: 16 MiB. Files of the others are kept whole.
const MAX_SEGMENTS: usize = 1 << 20;

/// The decoder of a bundle's snapshots, one after the other.
pub struct DeepCheck<'a> {
    source: &'a dyn Source,
    scratch: &'a Path,
    jobs: usize,
    progress: &'a dyn Progress,
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
        let consumers = consumers(snapshots);
        let plan = Plan { maps: maps(source, snapshots), sizes: sizes(snapshots), consumers: &consumers };
        let mut later = HashMap::new();
        for version in consumers.keys() {
            plan.later(version, 0, &mut later);
        }
        let uses = consumers.iter().map(|(version, users)| (version.clone(), users.len())).collect();
        let (stack, files, decoded) = (Vec::new(), HashMap::new(), HashSet::new());
        Self { source, scratch, jobs, progress, uses, later, stack, files, decoded, names: 0 }
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
        let mut sink = DeepSink { context: context.clone(), planned: HashMap::new(), begun: HashMap::new() };
        sink.planned.insert(file.path.clone(), Planned { rule, target: Target::nothing_kept() });
        decode_blob(self.source, descriptor, record, &mut sink, self.workers(), None, self.progress)?;
        let Some(Begun { file: found, .. }) = sink.begun.get(&file.path) else {
            return Err(Error::bundle(context, format!("{} is not in it", file.path)));
        };
        if let DeepFile::Passing(streamed, ..) = &**found {
            compare_row("the image cache", file, &streamed.finish().contents)?;
        }
        self.decoded.insert(descriptor.digest);
        Ok(())
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
        let mut sink = DeepSink { context: context.clone(), planned: HashMap::new(), begun: HashMap::new() };
        let files = record.stack_files();
        // All copies first: what one file changes in place may be what another one goes over.
        for file in files {
            let expected = snapshot.config.files.iter().find(|f| f.path == file.path).map(|f| f.size);
            let rule = EntryRule { expected: expected.filter(|_| top), limit: None, over_base: file.base.is_some() };
            let version = (descriptor.digest, file.path.clone());
            let target = match &file.base {
                None => self.fresh(&version)?,
                Some(base) => self.over(base, &version, &context)?,
            };
            sink.planned.insert(file.path.clone(), Planned { rule, target });
        }
        self.progress.begin(&format!("decoding {}", snapshot.config.snapshot.name), None);
        decode_blob(self.source, descriptor, record, &mut sink, self.workers(), None, self.progress)?;
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
                        clone_contents(&bytes, &copy.file, &copy.path, size, &|_| Ok(()))?;
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
                    clone_contents(&bytes, &output.file, &output.path, size, &|_| Ok(()))?;
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
        let (known, bytes) = match &*file {
            DeepFile::Passing(streamed, scratch) => (Known::Passed(streamed.finish()), scratch.clone()),
            DeepFile::Whole(streamed, output) => (Known::Whole(streamed.finish().contents), keep(output)?),
            DeepFile::Patched(below, output) => {
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
        Ok(())
    }
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

/// The sizes of files as the tables tell them of the layers that are on top.
fn sizes(snapshots: &[BundledSnapshot]) -> HashMap<Version, u64> {
    let mut sizes = HashMap::new();
    for snapshot in snapshots {
        let Some(top) = snapshot.config.layers[..snapshot.config.stack_len()].last() else { continue };
        for file in top.stack_files() {
            if let Some(row) = snapshot.config.files.iter().find(|row| row.path == file.path) {
                sizes.insert((top.digest(), file.path.clone()), row.size);
            }
        }
    }
    sizes
}

/// The sizes and maps of the files that go over others. A layer that cannot be looked at has none: decoding tells why.
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
            for (path, map) in look(source, descriptor, record, &over).unwrap_or_default() {
                if map.1.len() <= room {
                    room -= map.1.len();
                    maps.insert((descriptor.digest, path), map);
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
    sizes: HashMap<Version, u64>,
    consumers: &'a HashMap<Version, HashSet<Version>>,
}

impl Plan<'_> {
    /// What all that goes over `version`, directly or not, needs of it; none where that is not known.
    fn later(&self, version: &Version, depth: usize, found: &mut FoundLater) -> Option<Arc<Later>> {
        if let Some(later) = found.get(version) {
            return later.clone();
        }
        // Stacks that contradict each other can name layers in circles, and make more of them than any one stack has.
        found.insert(version.clone(), None);
        let later = if depth < MAX_STACK { self.needs(version, depth, found).map(Arc::new) } else { None };
        found.insert(version.clone(), later.clone());
        later
    }

    fn needs(&self, version: &Version, depth: usize, found: &mut FoundLater) -> Option<Later> {
        let size = *self.sizes.get(version)?;
        let mut needs = Later::default();
        for user in self.consumers.get(version).into_iter().flatten() {
            let (users_size, segments) = self.maps.get(user)?;
            let data = segments.iter().fold(0u64, |sum, s| sum.saturating_add(s.end - s.start));
            if *users_size != size || data > MAX_MAPPED {
                return None;
            }
            needs.add(segments, size);
            if self.consumers.contains_key(user) {
                needs.merge(&*self.later(user, depth + 1, found)?);
            }
        }
        Some(needs)
    }
}

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
    target: Target,
}

struct Begun {
    file: Arc<DeepFile>,
    size: u64,
    touched: Vec<Range<u64>>,
}

/// A file being decoded.
enum DeepFile {
    Passing(StreamedContents, Option<Arc<Beneath>>),
    Whole(StreamedContents, OutputFile),
    Patched(Contents, OutputFile),
}

impl Place for DeepFile {
    fn place(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match self {
            Self::Passing(streamed, scratch) => {
                let path = scratch.as_ref().map_or(Path::new("a scratch file"), |scratch| scratch.path.as_path());
                streamed.take(bytes, offset).context("read or write", path)
            }
            Self::Whole(streamed, output) => {
                streamed.take(bytes, offset).context("write", &output.path)?;
                output.place(bytes, offset)
            }
            Self::Patched(_, output) => output.place(bytes, offset),
        }
    }
}

struct DeepSink {
    context: String,
    planned: HashMap<TarPath, Planned>,
    begun: HashMap<TarPath, Begun>,
}

impl Sink for DeepSink {
    type File = DeepFile;

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<DeepFile>> {
        let Some(Planned { rule, target }) = self.planned.remove(path) else {
            return Err(Error::bundle(&self.context, format!("it holds {path}, which its config does not name")));
        };
        rule.check(&self.context, path, size, segments)?;
        let whole = 0..size;
        let touched = segments.map_or_else(|| vec![whole], <[_]>::to_vec);
        let sized = |output: &OutputFile| output.file.set_len(size).context("set the size of", &output.path);
        let streamed = || StreamedContents::new(size, touched.clone());
        let file = match target {
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
                DeepFile::Passing(streamed.keeping(later, file), scratch)
            }
            Target::Whole(output) => {
                sized(&output)?;
                DeepFile::Whole(streamed(), output)
            }
            Target::Patched(below, output) => {
                sized(&output)?;
                DeepFile::Patched(below, output)
            }
        };
        let file = Arc::new(file);
        self.begun.insert(path.clone(), Begun { file: file.clone(), size, touched });
        Ok(file)
    }
}

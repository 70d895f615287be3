//! `verify --deep`: every layer is decoded and every file's root compared, without a directory being restored.
//!
//! Files are hashed as their data passes. A look at the deltas' sparse maps tells beforehand what they go over: of a file
//! only the leaves that a later delta fills in part are kept, in a scratch file. Where that cannot be told, or a file's
//! size changes, all of it is kept and written over, and hashed again.

mod files;
mod plan;
pub mod restored;
mod room;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use crate::{
    bundle::BundledSnapshot,
    digest::Digest,
    error::{Error, IoContext, Result},
    layer::{
        analyze::{Contents, FileView, Prior, contents},
        clone::{Beneath, clone_contents},
        decode::OutputFile,
        streamed::Passed,
    },
    model::{Descriptor, FileRecord, LayerFile, LayerRecord, TarPath},
    progress::Progress,
    restore::{EntryRule, decode_blob},
    snapshot::{IntegrityAlgorithm, MAX_DESCRIPTOR, SnapshotDescriptor},
    storage::Source,
    store::place::Stage,
};

use files::{Begun, DeepSink, How, Planned, Target, output};
use plan::{Plan, Version};
use room::Room;

/// The decoder of a bundle's snapshots, one after the other.
pub struct DeepCheck<'a> {
    source: &'a dyn Source,
    scratch: &'a Path,
    room: Arc<Room>,
    jobs: usize,
    progress: &'a dyn Progress,
    plan: Plan,
    /// The layers that are applied.
    stack: Vec<Digest>,
    files: HashMap<TarPath, Held>,
    /// Layers that decoded without error, hence verified.
    decoded: HashSet<Digest>,
    /// Cache layers among them, with their file.
    cached: HashMap<Digest, FileRecord>,
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
        let plan = Plan::of(source, snapshots);
        let room = Arc::new(Room::new(scratch));
        let (stack, files) = (Vec::new(), HashMap::new());
        let (decoded, cached) = (HashSet::new(), HashMap::new());
        Self { source, scratch, room, jobs, progress, plan, stack, files, decoded, cached, names: 0 }
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

    /// Decodes what has not been decoded of the snapshot's stack, and compares its table. Gives its descriptor.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn snapshot(&mut self, snapshot: &BundledSnapshot) -> Result<SnapshotDescriptor> {
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
        let context = format!("layer {}", descriptor.digest);
        match self.cached.get(&descriptor.digest) {
            Some(known) if known == file => return Ok(()),
            Some(known) => {
                let reason = format!("one config says that its file is {}, another says something else", known.path);
                return Err(Error::bundle(context, reason));
            }
            None => {}
        }
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
        self.cached.insert(descriptor.digest, file.clone());
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
        let size = |file: &LayerFile| self.plan.declared.get(&(record.digest(), file.path.clone())).map(|d| d.size);
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
            let most = self.plan.declared.get(&version).map_or(u64::MAX, |declared| declared.data_bytes);
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
        match self.plan.later.get(version).cloned() {
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
        let last = self.plan.uses.get(&held.version).is_none_or(|uses| *uses <= 1);
        let (taken, bytes) = if last { (true, held.bytes.take()) } else { (false, held.bytes.clone()) };
        let size = below.contents().size;
        match below {
            Known::Passed(passed) => {
                let later = self.plan.later.get(version).cloned().flatten().unwrap_or_default();
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

    fn compare(&self, snapshot: &BundledSnapshot) -> Result<SnapshotDescriptor> {
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
    fn compare_descriptor(&self, snapshot: &BundledSnapshot) -> Result<SnapshotDescriptor> {
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
        Ok(descriptor)
    }
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
    if found.root == row.root && found.size == row.size {
        let reason = format!("it has {} bytes of data, its record says {}", found.data_bytes, row.data_bytes);
        return Err(Error::bundle(format!("{} of {snapshot}", row.path), reason));
    }
    Err(Error::RootMismatch {
        snapshot: snapshot.into(),
        path: row.path.to_string(),
        expected: row.root.to_string(),
        actual: found.root.to_string(),
    })
}

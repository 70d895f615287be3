//! `verify --deep`: every layer is decoded and every file's root compared, without a directory being restored.
//!
//! Files are hashed as their data passes. Only what a delta goes over is kept, in a scratch file that every delta
//! changes in place; of it, only the chunks that the delta wrote are hashed again.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use crate::{
    bundle::BundledSnapshot,
    digest::Digest,
    error::{Error, IoContext, Result},
    layer::{
        analyze::{Contents, FileView, Prior, contents},
        clone::{Beneath, clone_contents},
        decode::{Budget, OutputFile, Place},
        streamed::StreamedContents,
        walk::Sink,
    },
    model::{Descriptor, FileRecord, LayerRecord, TarPath},
    progress::Progress,
    restore::{EntryRule, decode_blob},
    storage::Source,
};

/// A file of some layer: which one, and its path.
type Version = (Digest, TarPath);

/// The decoder of a bundle's snapshots, one after the other.
pub struct DeepCheck<'a> {
    source: &'a dyn Source,
    scratch: &'a Path,
    jobs: usize,
    progress: &'a dyn Progress,
    /// How many files of other layers go over a file.
    uses: HashMap<Version, usize>,
    /// The layers that are applied.
    stack: Vec<Digest>,
    files: HashMap<TarPath, Held>,
    /// Layers that decoded without error, hence verified.
    decoded: HashSet<Digest>,
    names: u64,
}

/// A file after the layers that are applied.
struct Held {
    contents: Contents,
    version: Version,
    /// Its bytes, where a delta needs them.
    bytes: Option<Arc<Beneath>>,
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
        let uses = consumers.into_iter().map(|(version, users)| (version, users.len())).collect();
        let (stack, files, decoded) = (Vec::new(), HashMap::new(), HashSet::new());
        Self { source, scratch, jobs, progress, uses, stack, files, decoded, names: 0 }
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
        sink.planned.insert(file.path.clone(), Planned { rule, target: Target::Streamed(None) });
        decode_blob(self.source, descriptor, record, &mut sink, self.jobs, None, self.progress)?;
        let Some(Begun { file: found, .. }) = sink.begun.get(&file.path) else {
            return Err(Error::bundle(context, format!("{} is not in it", file.path)));
        };
        if let DeepFile::Streamed(streamed, _) = &**found {
            compare_row("the image cache", file, &streamed.finish())?;
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
                None if self.uses.contains_key(&version) => Target::Streamed(Some(self.new_output(true)?)),
                None => Target::Streamed(None),
                Some(base) => self.over(base, &context)?,
            };
            sink.planned.insert(file.path.clone(), Planned { rule, target });
        }
        self.progress.begin(&format!("decoding {}", snapshot.config.snapshot.name), None);
        decode_blob(self.source, descriptor, record, &mut sink, self.jobs, None, self.progress)?;
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

    /// The bytes beneath a delta's file: changed in place if nothing else needs them.
    fn over(&mut self, base: &TarPath, context: &str) -> Result<Target> {
        let missing = || Error::bundle(context, format!("the base {base} is not beneath it"));
        let held = self.files.get_mut(base).ok_or_else(missing)?;
        let below = held.contents.clone();
        let last = self.uses.get(&held.version).is_none_or(|uses| *uses <= 1);
        let taken = if last { held.bytes.take() } else { None };
        let output = match taken {
            Some(bytes) => {
                let file = bytes.file.try_clone().context("duplicate the handle of", &bytes.path)?;
                output(file, bytes.path.clone(), false)
            }
            None => {
                let from = held.bytes.clone().ok_or_else(missing)?;
                let output = self.new_output(false)?;
                clone_contents(&from, &output.file, &output.path, below.size, &|_| Ok(()))?;
                output
            }
        };
        Ok(Target::Patched(below, output))
    }

    /// What a file is after its layer.
    fn hold(&self, version: Version, Begun { file, size, touched }: Begun) -> Result<Held> {
        let (contents, output) = match &*file {
            DeepFile::Streamed(streamed, output) => (streamed.finish(), output.as_ref()),
            DeepFile::Patched(below, output) => {
                let view = FileView { file: &output.file, path: &output.path, size };
                let prior = Prior { contents: below, touched: &touched };
                (contents(view, Some(prior), self.jobs, self.progress)?.0, Some(output))
            }
        };
        let bytes = match output {
            Some(output) => {
                let file = output.file.try_clone().context("duplicate the handle of", &output.path)?;
                Some(Arc::new(Beneath { file, path: output.path.clone() }))
            }
            None => None,
        };
        Ok(Held { contents, version, bytes })
    }

    fn new_output(&mut self, fresh: bool) -> Result<OutputFile> {
        self.names += 1;
        let path = self.scratch.join(format!("{}.deep", self.names));
        let file = File::options().read(true).write(true).create_new(true).open(&path).context("create", &path)?;
        Ok(output(file, path, fresh))
    }

    fn compare(&self, snapshot: &BundledSnapshot) -> Result<()> {
        for row in &snapshot.config.files {
            let Some(held) = self.files.get(&row.path) else {
                let context = format!("manifest {}", snapshot.descriptor.digest);
                return Err(Error::bundle(context, format!("no layer holds {}", row.path)));
            };
            compare_row(snapshot.config.snapshot.name.as_str(), row, &held.contents)?;
        }
        Ok(())
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
    /// Hashed as it passes, and kept if something goes over it.
    Streamed(Option<OutputFile>),
    /// Written over these contents.
    Patched(Contents, OutputFile),
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
    Streamed(StreamedContents, Option<OutputFile>),
    Patched(Contents, OutputFile),
}

impl Place for DeepFile {
    fn place(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match self {
            Self::Streamed(streamed, output) => {
                streamed.take(bytes, offset);
                output.as_ref().map_or(Ok(()), |output| output.place(bytes, offset))
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
        let file = match target {
            Target::Streamed(output) => {
                output.as_ref().map_or(Ok(()), sized)?;
                DeepFile::Streamed(StreamedContents::new(size, touched.clone()), output)
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

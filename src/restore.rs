//! A snapshot's directory from its layers: files of the parent first, then each layer over what is beneath it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::{self, File, OpenOptions},
    ops::Range,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use crate::{
    beneath::Folder,
    bundle::{BundledSnapshot, encoding_of},
    error::{Error, IoContext, MAX_BYTES_HINT, Result},
    layer::{
        analyze::{Contents, FileView, Prior, contents},
        clone::{Beneath, Copies, Receive, clone_contents, share_blocks},
        decode::{Budget, EncodedLayer, OutputFile, Place, decode},
        walk::Sink,
    },
    model::{Descriptor, FileRecord, LayerRecord, SnapshotConfig, TarPath},
    progress::Progress,
    storage::Source,
    store::place::sync_folder,
    verify::into_error,
    writeback::Writeback,
};

/// Room for headers, sparse maps and padding beside the data of a layer's files.
pub const TAR_SLACK: u64 = 1 << 30;

/// Restores snapshots of one source.
pub struct Restorer<'a> {
    /// The bundle.
    pub source: &'a dyn Source,
    /// Worker threads.
    pub jobs: usize,
    /// Told about progress.
    pub progress: &'a dyn Progress,
    /// Most bytes that a layer may unpack to; none: what its files' tables allow.
    pub most: Option<u64>,
    /// Makes files durable while they are written.
    pub writeback: Option<Arc<Writeback>>,
}

/// A snapshot's restored directory beneath another one.
#[derive(Clone, Copy)]
pub struct Below<'a> {
    /// The snapshot.
    pub bundled: &'a BundledSnapshot,
    /// Where its files are.
    pub directory: &'a Path,
    /// Those that stand at another path there than the file table gives them.
    pub moved: &'a HashMap<TarPath, TarPath>,
}

/// Which files of a restored directory came from the one beneath it, and where they were written to since. Files that
/// are not here are new.
pub type Inherited = HashMap<TarPath, Origin>;

/// Where a file came from.
#[derive(Debug)]
pub struct Origin {
    /// The file beneath.
    pub base: TarPath,
    /// The ranges that the layer holds of it, sorted.
    pub touched: Vec<Range<u64>>,
}

impl Restorer<'_> {
    /// Makes `directory` (empty) the snapshot's, from the parent's restored directory and the top layer, or from the
    /// whole stack. Verifies every blob it reads; the file table is compared by [`TableCheck`].
    pub fn restore(&self, bundled: &BundledSnapshot, directory: &Path, parent: Option<Below>) -> Result<Inherited> {
        let stack = bundled.config.stack_len();
        let mut first = 0;
        let mut present: BTreeMap<TarPath, PathBuf> = BTreeMap::new();
        let mut inherited = Inherited::new();
        let uses: Vec<_> = bundled.config.layers[..stack].iter().map(uses_of_bases).collect();
        if let Some(Below { bundled: below, directory, moved }) = parent {
            first = stack - 1;
            for file in &below.config.files {
                present.insert(file.path.clone(), directory.join(moved.get(&file.path).unwrap_or(&file.path)));
                inherited.insert(file.path.clone(), Origin { base: file.path.clone(), touched: Vec::new() });
            }
        }
        for index in first..stack {
            let (LayerRecord::Base { files, .. } | LayerRecord::Delta { files, .. }) = &bundled.config.layers[index]
            else {
                break;
            };
            let mut touched = self.layer(bundled, index, &uses[index..], directory, &mut present)?;
            for file in files {
                // Over several layers nothing is known of what is beneath: those files are looked at whole.
                let base = file.base.clone().filter(|_| parent.is_some());
                match base.zip(touched.remove(&file.path)) {
                    Some((base, touched)) => inherited.insert(file.path.clone(), Origin { base, touched }),
                    None => inherited.remove(&file.path),
                };
            }
        }
        self.settle(bundled, directory, present)?;
        Ok(inherited)
    }

    /// Applies one layer, and gives its files, with the ranges that it changes of those over a base. `present` says where the file of each path
    /// beneath is: still the parent's, or here.
    fn layer(
        &self,
        bundled: &BundledSnapshot,
        index: usize,
        uses: &[HashMap<&TarPath, usize>],
        directory: &Path,
        present: &mut BTreeMap<TarPath, PathBuf>,
    ) -> Result<HashMap<TarPath, Vec<Range<u64>>>> {
        let (descriptor, files) = (&bundled.manifest.layers[index], bundled.config.layers[index].stack_files());
        let context = format!("layer {}", descriptor.digest);
        let (mut opened, mut beneath) = (HashMap::new(), HashMap::new());
        let rows: HashMap<&TarPath, &FileRecord> = bundled.config.files.iter().map(|row| (&row.path, row)).collect();
        let top = index + 1 == bundled.config.stack_len();
        // A layer is decoded beside what is beneath it, so that a file may be another's base and be replaced at once.
        let beside = directory.join(format!(".layer{index}"));
        fs::create_dir(&beside).context("create", &beside)?;
        for file in files {
            let path = beside.join(&file.path);
            create_folders(&beside, &file.path)?;
            let Some(base) = &file.base else {
                // Only the top layer's files are those of the table.
                let row = rows.get(&file.path).filter(|_| top);
                let budget = Budget::new(row.map_or(u64::MAX, |row| row.data_bytes));
                opened.insert(file.path.clone(), Arc::new(self.output(path, true, budget)?));
                continue;
            };
            let from = present.get(base).ok_or_else(|| {
                Error::bundle(&context, format!("the base {base} of {} is not beneath it", file.path))
            })?;
            let budget = Budget::new(u64::MAX);
            let output = if from.starts_with(directory) && is_last_use(bundled, index, uses, base) {
                // What nothing else needs is written to where it is.
                fs::rename(from, &path).context("rename", from)?;
                present.remove(base);
                self.writing(open_again(&path)?, path, false, budget)
            } else {
                let from = Beneath::open(from)?;
                let mut output = self.output(path, true, budget)?;
                if share_blocks(&from.file, &output.file) {
                    output.fresh = false;
                } else {
                    beneath.insert(file.path.clone(), Arc::new(from));
                }
                output
            };
            opened.insert(file.path.clone(), Arc::new(output));
        }
        let size = |path: &TarPath| rows.get(path).map(|row| row.size);
        let sizes = if top { files.iter().map(|f| (f.path.clone(), size(&f.path))).collect() } else { HashMap::new() };
        let over_base = files.iter().filter(|f| f.base.is_some()).map(|f| f.path.clone()).collect();
        self.progress.begin(&format!("unpacking {}", bundled.config.snapshot.name), None);
        let begun = std::thread::scope(|scope| {
            let mut sink = LayerSink {
                files: &opened,
                sizes,
                over_base,
                beneath,
                copies: Copies::new(scope, self.jobs),
                begun: HashMap::new(),
                context: context.clone(),
                limit: self.most,
            };
            let record = &bundled.config.layers[index];
            decode_blob(self.source, descriptor, record, &mut sink, self.jobs, self.most, self.progress)?;
            sink.copies.join()?;
            Ok(sink.begun)
        })?;
        self.progress.end();
        if let Some(missing) = files.iter().find(|f| !begun.contains_key(&f.path)) {
            return Err(Error::bundle(&context, format!("{} is not in it", missing.path)));
        }
        for file in files {
            // What stood here before is replaced; a parent's own file is only forgotten.
            if let Some(old) = present.insert(file.path.clone(), beside.join(&file.path))
                && old.starts_with(directory)
            {
                fs::remove_file(&old).context("remove", &old)?;
            }
        }
        Ok(begun)
    }

    fn output(&self, path: PathBuf, fresh: bool, budget: Budget) -> Result<OutputFile> {
        Ok(self.writing(create(&path)?, path, fresh, budget))
    }

    fn writing(&self, file: File, path: PathBuf, fresh: bool, budget: Budget) -> OutputFile {
        let (writeback, unsynced) = (self.writeback.clone(), AtomicU64::new(0));
        OutputFile { file, path, fresh, writeback, unsynced, budget }
    }

    /// Moves or clones every file of the table to its place, with its mode; everything else goes.
    fn settle(&self, bundled: &BundledSnapshot, directory: &Path, present: BTreeMap<TarPath, PathBuf>) -> Result<()> {
        let context = || format!("manifest {}", bundled.descriptor.digest);
        for row in &bundled.config.files {
            let from = present
                .get(&row.path)
                .ok_or_else(|| Error::bundle(context(), format!("no layer holds {}", row.path)))?;
            let to = directory.join(&row.path);
            create_folders(directory, &row.path)?;
            if from.starts_with(directory) {
                fs::rename(from, &to).context("rename", from)?;
            } else {
                let output = self.output(to.clone(), true, Budget::new(u64::MAX))?;
                clone_contents(&Beneath::open(from)?, &output.file, &to, row.size, &|bytes| output.written(bytes))?;
            }
            let mode = if row.executable { 0o755 } else { 0o644 };
            fs::set_permissions(&to, fs::Permissions::from_mode(mode)).context("set the mode of", &to)?;
        }
        for index in 0..bundled.config.stack_len() {
            let beside = directory.join(format!(".layer{index}"));
            match fs::remove_dir_all(&beside) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &beside, e)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Restorer<'_> {
    /// Restores one image-cache file to `path` and compares its root.
    pub fn restore_cache_file(
        &self,
        descriptor: &Descriptor,
        record: &LayerRecord,
        file: &FileRecord,
        path: &Path,
    ) -> Result<()> {
        let files = HashMap::from([(
            file.path.clone(),
            Arc::new(self.output(path.into(), true, Budget::new(file.data_bytes))?),
        )]);
        let context = format!("layer {}", descriptor.digest);
        let sizes = HashMap::from([(file.path.clone(), Some(file.size))]);
        let most = Some(file.size.saturating_add(TAR_SLACK));
        let begun = std::thread::scope(|scope| {
            let mut sink = LayerSink {
                files: &files,
                sizes,
                over_base: HashSet::new(),
                beneath: HashMap::new(),
                copies: Copies::new(scope, self.jobs),
                begun: HashMap::new(),
                context: context.clone(),
                limit: None,
            };
            decode_blob(self.source, descriptor, record, &mut sink, self.jobs, most, self.progress)?;
            Ok(sink.begun)
        })?;
        if begun.is_empty() {
            return Err(Error::bundle(context, format!("{} is not in it", file.path)));
        }
        let open = File::open(path).context("open", path)?;
        let (found, _) = contents(FileView { file: &open, path, size: file.size }, None, self.jobs, self.progress)?;
        if found.root != file.root {
            return Err(Error::RootMismatch {
                snapshot: "the image cache".into(),
                path: file.path.to_string(),
                expected: file.root.to_string(),
                actual: found.root.to_string(),
            });
        }
        if found.data_bytes != file.data_bytes {
            return Err(Error::bundle(
                context,
                format!("{} has {} bytes of data, its record says {}", file.path, found.data_bytes, file.data_bytes),
            ));
        }
        Ok(())
    }
}

/// Decodes a layer's blob into `sink`; it may unpack to `most` bytes of files.
///
/// # Errors
/// Everything that makes the layer unacceptable.
pub fn decode_blob<S: Sink<File: Place> + Send>(
    source: &dyn Source,
    descriptor: &Descriptor,
    record: &LayerRecord,
    sink: &mut S,
    jobs: usize,
    most: Option<u64>,
    progress: &dyn Progress,
) -> Result<()> {
    let encoding = encoding_of(descriptor, record)?;
    let digest = descriptor.digest;
    let blob = source.fetch(descriptor)?;
    let corrupt = |e: std::io::Error| into_error(e, digest);
    let most = most.map_or(u64::MAX, |most| most.saturating_add(TAR_SLACK));
    let context = format!("layer {digest}");
    // Compressed, a tar is not larger than this either: what is, holds frames of nothing.
    if descriptor.size > most {
        let what = format!("the size of {context}");
        return Err(Error::Limit { what, value: descriptor.size, limit: most, hint: MAX_BYTES_HINT });
    }
    let layer = EncodedLayer { blob, encoding, context: &context, most };
    decode(layer, sink, jobs, &corrupt, progress)
}

/// What an entry of a layer must keep to.
pub struct EntryRule {
    /// Its logical size, where the file table says it.
    pub expected: Option<u64>,
    /// Most bytes that it may hold.
    pub limit: Option<u64>,
    /// Whether it goes over a base.
    pub over_base: bool,
}

impl EntryRule {
    /// Checks an entry of the layer that messages call `context`.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`], [`Error::Limit`].
    pub fn check(&self, context: &str, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<()> {
        if let Some(expected) = self.expected.filter(|expected| *expected != size) {
            return Err(Error::bundle(context, format!("{path} has {size} bytes, the file table says {expected}")));
        }
        let stored = segments.map_or(size, |s| s.iter().map(|r| r.end - r.start).sum());
        if let Some(limit) = self.limit.filter(|limit| stored > *limit) {
            return Err(Error::Limit {
                what: format!("the data of {path}"),
                value: stored,
                limit,
                hint: MAX_BYTES_HINT,
            });
        }
        if segments.is_none() && self.over_base {
            return Err(Error::bundle(context, format!("{path} has a base but is stored whole")));
        }
        Ok(())
    }
}

/// Accepts the entries that the config names, at the sizes that the file table gives.
struct LayerSink<'a, 'scope, 'env> {
    files: &'a HashMap<TarPath, Arc<OutputFile>>,
    sizes: HashMap<TarPath, Option<u64>>,
    /// Those of the files that the layer holds only changes of.
    over_base: HashSet<TarPath>,
    /// What is beneath those that do not share its blocks.
    beneath: HashMap<TarPath, Arc<Beneath>>,
    copies: Copies<'scope, 'env>,
    /// The files that have begun, with the ranges that the layer changes of those over a base.
    begun: HashMap<TarPath, Vec<Range<u64>>>,
    context: String,
    limit: Option<u64>,
}

impl Sink for LayerSink<'_, '_, '_> {
    type File = OutputFile;

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<OutputFile>> {
        let Some(file) = self.files.get(path) else {
            return Err(Error::bundle(&self.context, format!("it holds {path}, which its config does not name")));
        };
        let rule = EntryRule {
            expected: self.sizes.get(path).copied().flatten(),
            limit: self.limit,
            over_base: self.over_base.contains(path),
        };
        rule.check(&self.context, path, size, segments)?;
        file.file.set_len(size).context("set the size of", &file.path)?;
        let whole = 0..size;
        let held = segments.unwrap_or(std::slice::from_ref(&whole));
        if let Some(from) = self.beneath.remove(path) {
            self.copies.begin(from, file.clone(), size, held)?;
        }
        let changed = if self.over_base.contains(path) { held.to_vec() } else { Vec::new() };
        self.begun.insert(path.clone(), changed);
        Ok(file.clone())
    }
}

/// A file of a directory that has been compared.
pub struct Compared {
    /// Open for reading.
    pub file: File,
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub contents: Contents,
}

impl Compared {
    /// Its bytes, to be read.
    pub fn view(&self) -> FileView<'_> {
        FileView { file: &self.file, path: &self.path, size: self.contents.size }
    }
}

/// Compares a directory with the file table of its snapshot.
pub struct TableCheck<'a> {
    /// The snapshot.
    pub config: &'a SnapshotConfig,
    /// The directory.
    pub directory: &'a Path,
    /// Worker threads.
    pub jobs: usize,
    /// Told about progress.
    pub progress: &'a dyn Progress,
}

impl TableCheck<'_> {
    /// Compares these rows, each with the file at the path beside it, whole: root, size and mode; and makes them durable,
    /// and their folders, and the empty `folders`.
    ///
    /// # Errors
    /// [`Error::RootMismatch`], [`Error::InvalidBundle`], I/O.
    pub fn compare(&self, rows: &[(&FileRecord, &TarPath)], folders: &[TarPath]) -> Result<()> {
        let mut above = BTreeSet::from([self.directory.to_path_buf()]);
        for (row, at) in rows {
            self.row(row, at, None, false)?.file.sync_all().context("fsync", self.directory.join(at))?;
            above.extend(at.folders().map(|folder| self.directory.join(folder)));
        }
        for folder in folders {
            above.extend(folder.folders().chain([folder.as_str()]).map(|folder| self.directory.join(folder)));
        }
        above.iter().rev().try_for_each(|folder| sync_folder(folder))
    }

    /// As [`Self::compare`], for a directory that only this process writes to. Of files that were `inherited` from a
    /// directory with these contents only what was written since is read. Zero blocks that the filesystem holds as
    /// data become holes.
    pub fn settle(
        &self,
        inherited: &Inherited,
        below: &HashMap<TarPath, Contents>,
    ) -> Result<HashMap<TarPath, Compared>> {
        let prior = |path: &TarPath| {
            let origin = inherited.get(path)?;
            Some(Prior { contents: below.get(&origin.base)?, touched: &origin.touched })
        };
        let rows = self.config.files.iter();
        rows.map(|row| Ok((row.path.clone(), self.row(row, &row.path, prior(&row.path), true)?))).collect()
    }

    fn row(&self, row: &FileRecord, at: &TarPath, prior: Option<Prior>, punch: bool) -> Result<Compared> {
        let path = self.directory.join(at);
        let flags = if punch { OFlags::RDWR } else { OFlags::RDONLY };
        let file = Folder::open(self.directory)?.file(at, flags)?;
        let meta = file.metadata().context("stat", &path)?;
        let size = meta.len();
        let view = FileView { file: &file, path: &path, size };
        let (found, stored_zeros) = contents(view, prior, self.jobs, self.progress)?;
        if found.root != row.root || size != row.size {
            return Err(Error::RootMismatch {
                snapshot: self.config.snapshot.name.to_string(),
                path: row.path.to_string(),
                expected: row.root.to_string(),
                actual: found.root.to_string(),
            });
        }
        if found.data_bytes != row.data_bytes || (meta.permissions().mode() & 0o100 != 0) != row.executable {
            return Err(Error::bundle(
                format!("snapshot {}", self.config.snapshot.name),
                format!("data bytes or mode of {} are not those of the file table", row.path),
            ));
        }
        if punch {
            for zeros in &stored_zeros {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // A filesystem that cannot punch keeps the zeros: the contents are the same.
                let _ = fallocate(&file, flags, zeros.start, zeros.end - zeros.start);
            }
        }
        Ok(Compared { file, path, contents: found })
    }
}

/// How often a layer's files go over each base.
fn uses_of_bases(layer: &LayerRecord) -> HashMap<&TarPath, usize> {
    let mut uses = HashMap::new();
    for base in layer.stack_files().iter().filter_map(|file| file.base.as_ref()) {
        *uses.entry(base).or_default() += 1;
    }
    uses
}

/// Whether the layer `index` of the snapshot's stack is the last that needs what is beneath it at `base`, and needs it once.
/// `uses` are those of this layer and all above it.
fn is_last_use(bundled: &BundledSnapshot, index: usize, uses: &[HashMap<&TarPath, usize>], base: &TarPath) -> bool {
    let layers = &bundled.config.layers[index..bundled.config.stack_len()];
    for (position, (layer, uses)) in layers.iter().zip(uses).enumerate() {
        if uses.get(base).is_some_and(|count| *count > usize::from(position == 0)) {
            return false;
        }
        if layer.stack_files().binary_search_by(|file| file.path.cmp(base)).is_ok() {
            // Another file from here on.
            return true;
        }
    }
    bundled.config.row(base).is_none()
}

fn open_again(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).context("open", path)
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(path).context("create", path)
}

fn create_folders(root: &Path, path: &TarPath) -> Result<()> {
    for folder in path.folders() {
        let folder = root.join(folder);
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::io("create", &folder, e)),
            _ => {}
        }
    }
    Ok(())
}

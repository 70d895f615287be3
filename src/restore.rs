//! A snapshot's directory from its layers: files of the parent first, then each layer over what is beneath it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File, OpenOptions},
    ops::Range,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{
    bundle::{BundledSnapshot, encoding_of},
    error::{Error, IoContext, Result},
    layer::{
        analyze::{Analysis, FileView, analyze},
        clone::clone_contents,
        decode::{EncodedLayer, OutputFile, decode},
        walk::Sink,
    },
    model::{Descriptor, FileRecord, LayerFile, LayerRecord, TarPath},
    progress::Progress,
    storage::Source,
    verify::into_error,
};

/// Room for headers, sparse maps and padding beside the data of a layer's files.
const TAR_SLACK: u64 = 1 << 30;

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
}

impl Restorer<'_> {
    /// Makes `directory` (empty) the snapshot's, from the parent's restored directory and the top layer, or from the
    /// whole stack. Verifies every blob it reads; the file table is compared by [`compare_table`].
    pub fn restore(
        &self,
        bundled: &BundledSnapshot,
        directory: &Path,
        parent: Option<(&BundledSnapshot, &Path)>,
    ) -> Result<()> {
        let stack = bundled.config.stack_len();
        let mut first = 0;
        let mut present: BTreeMap<TarPath, PathBuf> = BTreeMap::new();
        if let Some((below, below_directory)) = parent {
            first = stack - 1;
            present = below.config.files.iter().map(|f| (f.path.clone(), below_directory.join(&f.path))).collect();
        }
        for index in first..stack {
            let (LayerRecord::Base { files, .. } | LayerRecord::Delta { files, .. }) = &bundled.config.layers[index]
            else {
                break;
            };
            self.layer(bundled, index, files, directory, &mut present)?;
        }
        self.settle(bundled, directory, present)
    }

    /// Applies one layer. `present` says where the file of each path beneath is: still the parent's, or here.
    fn layer(
        &self,
        bundled: &BundledSnapshot,
        index: usize,
        files: &[LayerFile],
        directory: &Path,
        present: &mut BTreeMap<TarPath, PathBuf>,
    ) -> Result<()> {
        let descriptor = &bundled.manifest.layers[index];
        let context = format!("layer {}", descriptor.digest);
        let mut opened = HashMap::new();
        // A layer is decoded beside what is beneath it, so that a file may be another's base and be replaced at once.
        let beside = directory.join(format!(".layer{index}"));
        fs::create_dir(&beside).context("create", &beside)?;
        for file in files {
            let path = beside.join(&file.path);
            create_folders(&beside, &file.path)?;
            let output = create(&path)?;
            if let Some(base) = &file.base {
                let from_path = present.get(base).ok_or_else(|| {
                    Error::bundle(&context, format!("the base {base} of {} is not beneath it", file.path))
                })?;
                let from = File::open(from_path).context("open", from_path)?;
                let size = from.metadata().context("stat", from_path)?.len();
                clone_contents(&from, from_path, &output, &path, size)?;
            }
            let fresh = file.base.is_none();
            opened.insert(file.path.clone(), Arc::new(OutputFile { file: output, path, fresh }));
        }
        let size = |path: &TarPath| bundled.config.files.iter().find(|f| f.path == *path).map(|f| f.size);
        let top = index + 1 == bundled.config.stack_len();
        let sizes = if top { files.iter().map(|f| (f.path.clone(), size(&f.path))).collect() } else { HashMap::new() };
        let mut sink =
            LayerSink { files: &opened, sizes, begun: HashSet::new(), context: context.clone(), limit: self.most };
        self.progress.begin(&format!("unpacking {}", bundled.config.snapshot.name), None);
        decode_blob(
            self.source,
            descriptor,
            &bundled.config.layers[index],
            &mut sink,
            self.jobs,
            self.most,
            self.progress,
        )?;
        self.progress.end();
        if let Some(missing) = files.iter().find(|f| !sink.begun.contains(&f.path)) {
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
        Ok(())
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
                let output = create(&to)?;
                let input = File::open(from).context("open", from)?;
                clone_contents(&input, from, &output, &to, row.size)?;
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

/// Restores one image-cache file to `path` and compares its root.
pub fn restore_cache_file(
    source: &dyn Source,
    descriptor: &Descriptor,
    record: &LayerRecord,
    file: &FileRecord,
    path: &Path,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let output = OutputFile { file: create(path)?, path: path.into(), fresh: true };
    let files = HashMap::from([(file.path.clone(), Arc::new(output))]);
    let context = format!("layer {}", descriptor.digest);
    let sizes = HashMap::from([(file.path.clone(), Some(file.size))]);
    let mut sink = LayerSink { files: &files, sizes, begun: HashSet::new(), context: context.clone(), limit: None };
    decode_blob(source, descriptor, record, &mut sink, jobs, Some(file.size.saturating_add(TAR_SLACK)), progress)?;
    if sink.begun.is_empty() {
        return Err(Error::bundle(context, format!("{} is not in it", file.path)));
    }
    let open = File::open(path).context("open", path)?;
    let analysis = analyze(FileView { file: &open, path, size: file.size }, None, jobs, progress)?;
    if analysis.root != file.root {
        return Err(Error::RootMismatch {
            snapshot: "the image cache".into(),
            path: file.path.to_string(),
            expected: file.root.to_string(),
            actual: analysis.root.to_string(),
        });
    }
    Ok(())
}

fn decode_blob(
    source: &dyn Source,
    descriptor: &Descriptor,
    record: &LayerRecord,
    sink: &mut LayerSink,
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
    let layer = EncodedLayer { blob, encoding, context: &context, most };
    decode(layer, sink, jobs, &corrupt, progress)
}

/// Accepts the entries that the config names, at the sizes that the file table gives.
struct LayerSink<'a> {
    files: &'a HashMap<TarPath, Arc<OutputFile>>,
    sizes: HashMap<TarPath, Option<u64>>,
    begun: HashSet<TarPath>,
    context: String,
    limit: Option<u64>,
}

impl Sink for LayerSink<'_> {
    type File = OutputFile;

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<OutputFile>> {
        let Some(file) = self.files.get(path) else {
            return Err(Error::bundle(&self.context, format!("it holds {path}, which its config does not name")));
        };
        if let Some(Some(expected)) = self.sizes.get(path)
            && *expected != size
        {
            return Err(Error::bundle(
                &self.context,
                format!("{path} has {size} bytes, the file table says {expected}"),
            ));
        }
        let stored = segments.map_or(size, |s| s.iter().map(|r| r.end - r.start).sum());
        if let Some(limit) = self.limit.filter(|limit| stored > *limit) {
            return Err(Error::Limit {
                what: format!("the data of {path}"),
                value: stored,
                limit,
                hint: "; --max-bytes raises it",
            });
        }
        if segments.is_none() && !file.fresh {
            return Err(Error::bundle(&self.context, format!("{path} has a base but is stored whole")));
        }
        file.file.set_len(size).context("set the size of", &file.path)?;
        self.begun.insert(path.clone());
        Ok(file.clone())
    }
}

/// Compares every file of the table with the directory: root, size and mode, and nothing beside them. With `punch`,
/// zero blocks that the filesystem holds as data become holes.
pub fn compare_table(
    bundled: &BundledSnapshot,
    directory: &Path,
    jobs: usize,
    progress: &dyn Progress,
    punch: bool,
) -> Result<HashMap<TarPath, (File, Analysis)>> {
    let name = bundled.config.snapshot.name.to_string();
    let mut all = HashMap::new();
    for row in &bundled.config.files {
        let path = directory.join(&row.path);
        let file = OpenOptions::new()
            .read(true)
            .write(punch)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .context("open", &path)?;
        let meta = file.metadata().context("stat", &path)?;
        let size = meta.len();
        let analysis = analyze(FileView { file: &file, path: &path, size }, None, jobs, progress)?;
        if analysis.root != row.root || size != row.size {
            return Err(Error::RootMismatch {
                snapshot: name,
                path: row.path.to_string(),
                expected: row.root.to_string(),
                actual: analysis.root.to_string(),
            });
        }
        if analysis.data_bytes != row.data_bytes || (meta.permissions().mode() & 0o100 != 0) != row.executable {
            return Err(Error::bundle(
                format!("manifest {}", bundled.descriptor.digest),
                format!("data bytes or mode of {} are not those of the file table", row.path),
            ));
        }
        if punch {
            for zeros in &analysis.stored_zeros {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // A filesystem that cannot punch keeps the zeros: the contents are the same.
                let _ = fallocate(&file, flags, zeros.start, zeros.end - zeros.start);
            }
        }
        all.insert(row.path.clone(), (file, analysis));
    }
    Ok(all)
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

//! Convert: an archive that msb wrote -> bundle, without a store. It is unpacked in a scratch folder, verified as an import
//! verifies it, and packed from there as an export packs a store.

use std::{fs, path::PathBuf, sync::Arc, time::Instant};

use crate::{
    destination::create_target,
    error::{Error, IoContext, Result},
    export::{Compression, Destination, ExportOptions, Form, pack_chain},
    import::{BundleLocation, Sources},
    msb_archive::{Staged, StagedSnapshot, UnpackOptions, stage_all},
    progress::Progress,
    report::ExportReport,
    snapshot::Snapshot,
    store::{Store, place::Stage, vmdk},
    temporary::{Folder, SCRATCH, Scratch, in_temp},
};

/// What to convert, where to, and how.
#[derive(Clone)]
pub struct ConvertOptions {
    /// The archives, at least one: their snapshots are one chain.
    pub sources: Vec<BundleLocation>,
    /// Archives that have what the others leave out.
    pub bases: Vec<BundleLocation>,
    /// Where to.
    pub destination: Destination,
    /// The bundle's form.
    pub form: Form,
    /// Without the ancestors.
    pub head_only: bool,
    /// Deltas over parents.
    pub delta: bool,
    /// Of layers.
    pub compression: Compression,
    /// The head's tag, instead of its name.
    pub tag: Option<String>,
    /// Replace an existing destination.
    pub force: bool,
    /// Most bytes of data that may be unpacked; none: the free space of the scratch folder's disk.
    pub max_bytes: Option<u64>,
    /// Most files.
    pub max_files: u64,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Runs a conversion. Blocking; the CLI runs it on a blocking thread.
///
/// # Errors
/// Whatever it is, nothing is left at the destination.
pub fn convert(options: &ConvertOptions) -> Result<ExportReport> {
    let started = Instant::now();
    let scratch = match scratch_folder(&options.destination) {
        Some(folder) => Folder::create(&folder, SCRATCH)?,
        None => Folder::create(&std::env::temp_dir(), SCRATCH).map_err(in_temp)?,
    };
    let spool = Scratch::at(scratch.path());
    let (archives, bases) = match Sources::open(&options.sources, &options.bases, &spool, options.progress.as_ref())? {
        Sources::Archives(archives, bases) => (archives, bases),
        Sources::Bundles(bundle) => {
            return Err(Error::Usage(format!("{} is a bundle; `snapcask copy` copies it", bundle.display())));
        }
    };
    let unpacking = UnpackOptions {
        folder: scratch.path(),
        max_bytes: match options.max_bytes {
            Some(limit) => limit,
            None => Stage::free_bytes(scratch.path())?,
        },
        max_files: options.max_files,
        jobs: options.jobs,
        writeback: None,
        progress: options.progress.as_ref(),
    };
    let staged = stage_all(archives, bases, || Ok(Vec::new()), &unpacking);
    let mut staged = staged.map_err(|error| match options.max_bytes {
        None => error.on_disk(scratch.path()),
        Some(_) => error,
    })?;
    if options.head_only {
        staged.snapshots.truncate(1);
    }
    staged.verify(false, options.jobs, &options.progress)?;
    let store = Store::at(scratch.path());
    let with_image = image(&staged, &store)?;
    let export = ExportOptions {
        store: store.root,
        snapshot: String::new(),
        destination: options.destination.clone(),
        form: options.form,
        with_parents: true,
        with_image,
        since: Vec::new(),
        delta: options.delta,
        compression: options.compression,
        tag: options.tag.clone(),
        force: options.force,
        jobs: options.jobs,
        progress: options.progress.clone(),
    };
    let chain: Vec<Snapshot> = staged.snapshots.into_iter().map(snapshot).collect();
    // Blobs that are compressed already are stored by the outer stream.
    let outer = match options.compression {
        Compression::Zstd(_) => None,
        Compression::None => Some(3),
    };
    let create = || create_target(&options.destination, options.form, outer, options.force);
    pack_chain(&export, &chain, Vec::new(), create, started)
}

/// Beside the destination, where there is room for a bundle; none, hence `$TMPDIR`, for everything else.
fn scratch_folder(destination: &Destination) -> Option<PathBuf> {
    let beside = match destination {
        Destination::Path(path) | Destination::Onto(path) => path.parent(),
        _ => None,
    };
    match beside {
        Some(folder) if folder.as_os_str().is_empty() => Some(".".into()),
        Some(folder) if folder.is_dir() => Some(folder.into()),
        _ => None,
    }
}

/// As a snapshot of a store.
fn snapshot(staged: StagedSnapshot) -> Snapshot {
    let StagedSnapshot { config, directory, descriptor, .. } = staged;
    Snapshot { directory, name: config.snapshot.name.to_string(), group: None, descriptor }
}

/// Puts the image's files into the scratch store's cache, VMDKs with their paths there. Whether there are any.
fn image(staged: &Staged, store: &Store) -> Result<bool> {
    let mut with = staged.snapshots.iter().filter(|snapshot| !snapshot.cache.is_empty()).peekable();
    if with.peek().is_none() {
        return Ok(false);
    }
    let mut images = staged.snapshots.iter().map(|snapshot| snapshot.config.snapshot.image.as_ref());
    let first = images.next();
    if images.any(|image| Some(image) != first) {
        let text = "its snapshots boot from several images, and the archive has one; use --head-only";
        return Err(Error::Usage(text.into()));
    }
    let cache = store.cache();
    for snapshot in with {
        for file in &snapshot.cache {
            let (from, to) = (snapshot.cache_folder.join(&file.path), cache.join(&file.path));
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).context("create", folder)?;
            }
            fs::rename(&from, &to).context("rename", &from)?;
            if file.path.as_str().starts_with("vmdk/") {
                vmdk::expand_file(&to, &cache)?;
            }
        }
    }
    Ok(true)
}

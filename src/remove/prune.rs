//! The image-cache files that nothing needs any more when snapshots go.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{
    error::{Error, IoContext, Result},
    model::{ImageRecord, TarPath},
    snapshot::{Snapshot, is_there},
    store::{
        Store, Unreadable,
        image_cache::{cached_images, files_for, named_files, needed_files},
        lease::Lease,
        place::{Stage, sync_folder},
        record::{ImportRecord, RECORD_FILE},
        sandboxes::sandboxes,
    },
};

/// What can be pruned.
#[derive(Debug, Default)]
pub(super) struct Prunable {
    /// The files, in the order in which they go.
    pub files: Vec<TarPath>,
    /// Why others stay, a line each.
    pub kept: Vec<String>,
}

impl Prunable {
    /// The files of the images that only `doomed` snapshots need: no snapshot that stays, and no sandbox of msb.
    pub fn find(store: &Store, doomed: &[Snapshot], staying: &[&Snapshot], unreadable: &[Unreadable]) -> Result<Self> {
        if let Some((path, error)) = unreadable.first() {
            return Err(Error::NotPruned {
                reason: format!(
                    "{} cannot be read ({error}), so which images it needs is not known; see `snapcask check`, or leave out \
                     --prune-image",
                    path.display()
                ),
            });
        }
        let images = |snapshots: &mut dyn Iterator<Item = &Snapshot>| -> Vec<ImageRecord> {
            snapshots.filter_map(|s| s.descriptor.image.clone()).collect()
        };
        let staying_images = images(&mut staying.iter().copied());
        let mut pruned = images(&mut doomed.iter());
        pruned.retain(|image| !staying_images.iter().any(|other| other.manifest_digest == image.manifest_digest));
        let mut kept = Vec::new();
        for sandbox in sandboxes(&store.msb_database())? {
            let needs = |image: &ImageRecord| sandbox.needs(image.manifest_digest);
            if let Some(image) = pruned.iter().find(|image| needs(image)) {
                kept.push(format!("the image {} stays: the sandbox {:?} needs it", image.reference, sandbox.name));
            }
            pruned.retain(|image| !needs(image));
        }
        Ok(Self { files: prunable(&store.cache(), staying, &pruned)?, kept })
    }
}

/// Files that nobody else uses, for as long as this lives.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    _leases: Vec<Lease>,
}

impl Pruning {
    /// Claims `files`. Where msb uses one, all stay, because what stays may name the others.
    pub fn claim(cache: &Path, files: &mut Vec<TarPath>, kept: &mut Vec<String>) -> Result<Self> {
        let mut leases = Vec::new();
        for file in files.iter() {
            let path = cache.join(file);
            match Lease::try_exclusive(&path)? {
                Some(lease) => leases.push(lease),
                None => {
                    kept.push(format!("image-cache files stay: msb uses {}", path.display()));
                    files.clear();
                    return Ok(Self::default());
                }
            }
        }
        Ok(Self { _leases: leases })
    }

    /// Removes the files.
    pub fn run(&self, cache: &Path, files: &[TarPath]) -> Result<()> {
        prune(cache, files)
    }
}

/// The image-cache files that only removed snapshots need, in the order in which they go: what names others first.
fn prunable(cache: &Path, staying: &[&Snapshot], pruned: &[ImageRecord]) -> Result<Vec<TarPath>> {
    if pruned.is_empty() {
        return Ok(Vec::new());
    }
    let (cached, unreadable) = cached_images(cache)?;
    if let Some((_, error)) = unreadable.into_iter().next() {
        return Err(error);
    }
    let mut candidates = BTreeSet::new();
    for image in pruned {
        // An image that is not whole was not pulled, or partly removed already: what is there of it goes.
        match files_for(cache, image) {
            // Its metadata may be under another name there than it travels by, which is another image's here.
            Ok(files) => candidates.extend(
                files.into_iter().map(|file| file.path).filter(|path| !path.as_str().starts_with("manifests/")),
            ),
            Err(Error::ImageCache { .. }) => {}
            Err(error) => return Err(error),
        }
        let hex = image.manifest_digest.hex();
        for own in [format!("vmdk/sha256_{hex}.vmdk"), format!("fsmeta/sha256_{hex}.erofs")] {
            candidates.insert(own.parse::<TarPath>()?);
        }
        for other in cached.iter().filter(|c| c.manifest_digest == image.manifest_digest) {
            candidates.insert(other.path.clone());
            candidates.extend(other.layers.iter().cloned());
        }
    }
    let mut needed = BTreeSet::new();
    // Images without a snapshot are somebody's, too: by their metadata, or by their VMDK alone.
    for (path, named) in named_files(cache)?.into_iter().filter(|(path, _)| !candidates.contains(path)) {
        let files = named.map_err(|reason| Error::NotPruned { reason: format!(
                "{} cannot be read ({reason}), so which files it needs is not known; pull that image again, or leave out \
                 --prune-image",
                cache.join(&path).display()
            ),
        })?;
        needed.extend(files);
    }
    // What came with a snapshot that stays.
    for snapshot in staying {
        let record = ImportRecord::read(&snapshot.directory).map_err(|reason| Error::NotPruned { reason: format!(
                "{} cannot be read ({reason}), so which files came with that snapshot is not known; see `snapcask check`, \
                 or leave out --prune-image",
                snapshot.directory.join(RECORD_FILE).display()
            ),
        })?;
        needed.extend(record.into_iter().flat_map(|record| record.cache).map(|row| row.path));
    }
    for snapshot in staying {
        let Some(image) = &snapshot.descriptor.image else { continue };
        let there = cached.iter().any(|c| c.manifest_digest == image.manifest_digest)
            || is_there(&cache.join(format!("vmdk/sha256_{}.vmdk", image.manifest_digest.hex())))?;
        if there {
            let files = needed_files(cache, image, snapshot.descriptor.flat_root)?;
            needed.extend(files.into_iter().map(|file| file.path));
        }
    }
    // Metadata that goes is a removed image's, by whatever key others know theirs.
    needed.retain(|path| !path.as_str().starts_with("manifests/"));
    let mut files = Vec::new();
    for path in candidates.difference(&needed) {
        if is_there(&cache.join(path))? {
            files.push(path.clone());
        }
    }
    let rank = |path: &TarPath| match path.as_str().split('/').next() {
        Some("vmdk") => 0,
        Some("manifests") => 1,
        _ => 2,
    };
    files.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    Ok(files)
}

fn prune(cache: &Path, files: &[TarPath]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let stage = Stage::create(cache)?;
    for (number, file) in files.iter().enumerate() {
        let from = cache.join(file);
        fs::rename(&from, stage.path().join(number.to_string())).context("remove", &from)?;
        // In this order on disk too: an image's metadata never outlives its layers.
        sync_folder(from.parent().unwrap_or(cache))?;
    }
    Ok(())
}

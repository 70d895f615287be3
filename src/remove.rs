//! Removing snapshots from a store, with the chain in mind: a child is never left without its parent unless that is
//! asked for, and a crash leaves every snapshot whole or gone.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use crate::{
    error::{Error, IoContext, Result},
    model::{ImageRecord, SnapshotIdentity, TarPath},
    progress::Progress,
    report::{RemoveReport, RemovedSnapshot},
    snapshot::{GROUP_FILE, SNAPSHOT_FILE, Snapshot, V066_FILE, is_there, scan, seen, size::allocated},
    store::{
        Store, Unreadable,
        image_cache::{cached_images, files_for, named_files, needed_files},
        lock,
        place::{Stage, sync_folder},
        record::{ImportRecord, RECORD_FILE},
    },
};

/// What to remove, and how.
#[derive(Clone)]
pub struct RemoveOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// The snapshots, by any reference.
    pub snapshots: Vec<String>,
    /// Say only what would be done.
    pub dry_run: bool,
    /// Leave children without their parents.
    pub orphan_children: bool,
    /// Remove the image-cache files that nothing needs any more.
    pub prune_image: bool,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Removes snapshots.
///
/// # Errors
/// Those of [`Store::find`]; [`Error::HasChildren`]; [`Error::UnsafePath`] for what is not a folder of this store;
/// [`Error::ImageCache`] where it cannot be told which image-cache files are needed. Then nothing was removed.
pub fn remove(options: &RemoveOptions) -> Result<RemoveReport> {
    let started = Instant::now();
    let store = Store::at(&options.store);
    let (snapshots, cache) = (store.snapshots(), store.cache());
    let progress = options.progress.as_ref();
    let folders = [snapshots.as_path(), cache.as_path()];
    let lock = || if options.dry_run { lock::share(&folders, progress) } else { lock::take(&folders, progress) };
    let (_locks, doomed) = lock::seen_under(&snapshots, lock, || doomed(&store, &options.snapshots))?;
    let (all, unreadable) = store.all()?;
    let staying = staying(&all, &doomed)?;
    if !options.orphan_children {
        no_child_is_hidden(&unreadable)?;
    }
    let orphans = orphans(&doomed, &staying);
    if let (false, Some((parent, _))) = (options.orphan_children, orphans.first()) {
        let children = orphans.iter().map(|(_, child)| display(child)).collect();
        return Err(Error::HasChildren { snapshot: display(parent), children });
    }
    let cache_files = match options.prune_image {
        true if unreadable.is_empty() => prunable(&cache, &doomed, &staying)?,
        true => {
            return Err(Error::ImageCache {
                image: "of a removed snapshot".into(),
                reason: format!(
                    "{} cannot be read, so which images it needs is not known; see `snapcask check`, or leave out --prune-image",
                    unreadable[0].0.display()
                ),
            });
        }
        false => Vec::new(),
    };
    let mut report = RemoveReport {
        store: options.store.clone(),
        dry_run: options.dry_run,
        removed: doomed.iter().map(removed).collect(),
        orphaned: orphans.iter().map(|(_, child)| display(child)).collect(),
        cache_files: cache_files.iter().map(|path| cache.join(path)).collect(),
        allocated_bytes: 0,
        seconds: 0.0,
    };
    report.allocated_bytes =
        report.removed.iter().map(|r| &r.path).chain(&report.cache_files).map(|p| allocated(p)).sum();
    if !options.dry_run {
        take_away(&snapshots, &doomed)?;
        prune(&cache, &cache_files)?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

pub(crate) fn display(snapshot: &Snapshot) -> String {
    match &snapshot.group {
        Some(group) => format!("{group}:{}", snapshot.name),
        None => snapshot.name.clone(),
    }
}

fn removed(snapshot: &Snapshot) -> RemovedSnapshot {
    RemovedSnapshot {
        name: display(snapshot),
        digest: snapshot.descriptor.digest,
        id: snapshot.descriptor.id.clone(),
        path: snapshot.directory.clone(),
    }
}

/// The snapshots that are asked for, each once, children before their parents.
fn doomed(store: &Store, references: &[String]) -> Result<Vec<Snapshot>> {
    let mut found: Vec<Snapshot> = Vec::new();
    for reference in references {
        let snapshot = within(store, store.find(reference)?)?;
        if !found.iter().any(|other| other.directory == snapshot.directory) {
            found.push(snapshot);
        }
    }
    let mut ordered = Vec::new();
    while !found.is_empty() {
        let parents: HashSet<SnapshotIdentity> = found.iter().filter_map(|s| s.descriptor.parent.clone()).collect();
        let leaf = found.iter().position(|s| !s.identities().iter().any(|identity| parents.contains(identity)));
        // In a circle there is no leaf; it is broken anyway.
        ordered.push(found.remove(leaf.unwrap_or(0)));
    }
    Ok(ordered)
}

/// The snapshot by its place below the store's snapshots, which it must have, as a folder of its own.
fn within(store: &Store, mut snapshot: Snapshot) -> Result<Snapshot> {
    let snapshots = store.snapshots();
    let refuse = |reason| Error::UnsafePath { path: snapshot.directory.clone(), reason };
    let root = snapshots.canonicalize().context("resolve", &snapshots)?;
    let plain = fs::symlink_metadata(&snapshot.directory).context("look at", &snapshot.directory)?;
    if !plain.is_dir() {
        return Err(refuse("it is a symbolic link; remove the link and what it leads to by hand"));
    }
    let real = snapshot.directory.canonicalize().context("resolve", &snapshot.directory)?;
    let below = real.strip_prefix(&root).map_err(|_| refuse("it is not in the store"))?;
    if !matches!(below.components().count(), 1 | 2) {
        return Err(refuse("it is not a snapshot's place in the store"));
    }
    snapshot.directory = snapshots.join(below);
    Ok(snapshot)
}

/// That no unreadable directory may be a child: whose it is, its descriptor would say.
pub(crate) fn no_child_is_hidden(unreadable: &[Unreadable]) -> Result<()> {
    let is_snapshot = |directory: &Path| {
        let there = |file: &&str| seen(is_there(&directory.join(file))).unwrap_or(true);
        [SNAPSHOT_FILE, V066_FILE, RECORD_FILE, GROUP_FILE].iter().any(there)
    };
    match unreadable.iter().find(|(directory, _)| is_snapshot(directory)) {
        Some((path, reason)) => Err(Error::UnreadableSnapshot { path: path.clone(), reason: reason.clone() }),
        None => Ok(()),
    }
}

/// Those that are still there afterwards. What is reached through a link to one that goes, goes with it.
pub(crate) fn staying<'a>(all: &'a [Snapshot], doomed: &[Snapshot]) -> Result<Vec<&'a Snapshot>> {
    let real = |snapshot: &Snapshot| snapshot.directory.canonicalize().context("resolve", &snapshot.directory);
    let gone = doomed.iter().map(real).collect::<Result<HashSet<_>>>()?;
    let mut staying = Vec::new();
    for snapshot in all {
        if !gone.contains(&real(snapshot)?) {
            staying.push(snapshot);
        }
    }
    Ok(staying)
}

/// Those that stay and lose their parent, with it. A copy of a parent under another name is as good, if it is whole.
pub(crate) fn orphans<'a>(doomed: &'a [Snapshot], staying: &[&'a Snapshot]) -> Vec<(&'a Snapshot, &'a Snapshot)> {
    let gone: HashMap<SnapshotIdentity, &Snapshot> = doomed
        .iter()
        .flat_map(|snapshot| snapshot.identities().into_iter().map(move |identity| (identity, snapshot)))
        .collect();
    let copied = |parent: &SnapshotIdentity| staying.iter().any(|s| s.identities().contains(parent) && scan(s).is_ok());
    let lost = |child: &&'a Snapshot| {
        let parent = child.descriptor.parent.as_ref()?;
        gone.get(parent).filter(|_| !copied(parent)).map(|gone| (*gone, *child))
    };
    staying.iter().filter_map(lost).collect()
}

/// The image-cache files that only removed snapshots need, in the order in which they go: what names others first.
fn prunable(cache: &Path, doomed: &[Snapshot], staying: &[&Snapshot]) -> Result<Vec<TarPath>> {
    let images = |snapshots: &mut dyn Iterator<Item = &Snapshot>| -> Vec<ImageRecord> {
        snapshots.filter_map(|s| s.descriptor.image.clone()).collect()
    };
    let kept = images(&mut staying.iter().copied());
    let mut pruned = images(&mut doomed.iter());
    pruned.retain(|image| !kept.iter().any(|other| other.manifest_digest == image.manifest_digest));
    if pruned.is_empty() {
        return Ok(Vec::new());
    }
    let (cached, unreadable) = cached_images(cache)?;
    if let Some((_, error)) = unreadable.into_iter().next() {
        return Err(error);
    }
    let mut candidates = BTreeSet::new();
    for image in &pruned {
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
        let files = named.map_err(|reason| Error::ImageCache {
            image: "of a removed snapshot".into(),
            reason: format!(
                "{} cannot be read ({reason}), so which files it needs is not known; pull that image again, or leave out \
                 --prune-image",
                cache.join(&path).display()
            ),
        })?;
        needed.extend(files);
    }
    // What came with a snapshot that stays.
    for snapshot in staying {
        let record = ImportRecord::read(&snapshot.directory).map_err(|reason| Error::ImageCache {
            image: "of a removed snapshot".into(),
            reason: format!(
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

/// Each snapshot leaves its place by one rename into a folder that the next run would remove; then that is removed.
fn take_away(snapshots: &Path, doomed: &[Snapshot]) -> Result<()> {
    if doomed.is_empty() {
        return Ok(());
    }
    let stage = Stage::create(snapshots)?;
    for (number, snapshot) in doomed.iter().enumerate() {
        let (from, to) = (&snapshot.directory, stage.path().join(number.to_string()));
        let above = from.parent().unwrap_or(snapshots);
        fs::rename(from, &to).context("remove", from)?;
        sync_folder(above)?;
        // A group goes with its last member.
        if above != snapshots && is_empty_group(above)? {
            let to = stage.path().join(format!("{number}-group"));
            fs::rename(above, &to).context("remove", above)?;
            sync_folder(snapshots)?;
        }
    }
    Ok(())
}

fn is_empty_group(folder: &Path) -> Result<bool> {
    for entry in fs::read_dir(folder).context("read", folder)? {
        if entry.context("read", folder)?.file_name() != GROUP_FILE {
            return Ok(false);
        }
    }
    Ok(true)
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

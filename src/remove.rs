//! Removing snapshots from a store, with the chain in mind: a child is never left without its parent unless that is
//! asked for, and a crash leaves every snapshot whole or gone. A group's head never goes while it is the head.

mod groups;
mod prune;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use crate::{
    error::{Error, IoContext, Result},
    immutable,
    model::SnapshotIdentity,
    progress::Progress,
    report::{RemoveReport, RemovedSnapshot},
    snapshot::{GROUP_FILE, SNAPSHOT_FILE, Snapshot, V066_FILE, is_there, scan, seen, size::allocated},
    store::{
        Store, Unreadable,
        deletion::Deletion,
        index::{Change, Index},
        lease::DeletionLease,
        lock,
        place::{Stage, complete_dead, sync_folder, take_away},
        record::RECORD_FILE,
        root,
    },
};

use groups::Groups;
use prune::{Prunable, Pruning};

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
    /// The member that becomes the head of a group whose head is removed.
    pub set_head: Option<String>,
    /// How msb's database learns of the removal.
    pub index: Index,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Removes snapshots.
///
/// # Errors
/// Those of [`Store::find`]; [`Error::HasChildren`]; [`Error::HeadStays`]; [`Error::InUse`]; [`Error::InvalidGroup`];
/// [`Error::UnsafePath`] for what is not a folder of this store; [`Error::NotPruned`] and [`Error::MsbDatabase`] where it
/// cannot be told which image-cache files are needed. Then nothing was removed.
pub fn remove(options: &RemoveOptions) -> Result<RemoveReport> {
    let started = Instant::now();
    let store = Store::at(&options.store);
    let (snapshots, cache) = (store.snapshots(), store.cache());
    let progress = options.progress.as_ref();
    root::existing(&store.root)?;
    let folders = [snapshots.as_path(), cache.as_path()];
    let lock = || if options.dry_run { lock::share(&folders, progress) } else { lock::take(&folders, progress) };
    let look = || {
        if !options.dry_run {
            complete_dead(&snapshots)?;
        }
        doomed(&store, &options.snapshots)
    };
    let (locks, doomed) = lock::seen_under(&snapshots, lock, look)?;
    let (mut orphaned, mut cache_files, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let mut check = || -> Result<()> {
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
        orphaned = orphans.iter().map(|(_, child)| display(child)).collect();
        if options.prune_image {
            Prunable { files: cache_files, kept } = Prunable::find(&store, &doomed, &staying, &unreadable)?;
        }
        let pruned = cache_files.iter().map(|path| cache.join(path));
        doomed.iter().map(|s| s.directory.clone()).chain(pruned).try_for_each(|path| immutable::refuse("remove", &path))
    };
    check()?;
    let claims = if options.dry_run { Vec::new() } else { claim(&doomed)? };
    let mut groups = Groups::of(&snapshots, &doomed, options.dry_run, progress)?;
    groups.decide(options.set_head.as_deref())?;
    if !options.dry_run {
        // msb may have placed a child or started a sandbox before all was claimed.
        check()?;
    }
    let pruning = match options.dry_run {
        true => Pruning::default(),
        false => Pruning::claim(&cache, &mut cache_files, &mut kept)?,
    };
    let mut report = RemoveReport {
        store: options.store.clone(),
        dry_run: options.dry_run,
        removed: doomed.iter().map(removed).collect(),
        orphaned,
        heads: groups.updates(),
        cache_files: cache_files.iter().map(|path| cache.join(path)).collect(),
        kept,
        mended: groups.mended(),
        index: None,
        allocated_bytes: 0,
        seconds: 0.0,
    };
    report.allocated_bytes =
        report.removed.iter().map(|r| &r.path).chain(&report.cache_files).map(|p| allocated(p)).sum();
    if !options.dry_run {
        groups.apply()?;
        take_all_away(&store, &doomed, &claims, progress)?;
        pruning.run(&cache, &cache_files)?;
        drop((pruning, groups, claims, locks));
        // Where msb has no database, it knows of none of them.
        if is_there(&store.msb_database())? {
            report.index = Some(options.index.update(&store.root, Change::Removed, progress));
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Claims all snapshots, as msb does before it removes one: nobody reads them, and nobody starts to.
fn claim(doomed: &[Snapshot]) -> Result<Vec<DeletionLease>> {
    let mut directories: Vec<&Snapshot> = doomed.iter().collect();
    directories.sort_by(|a, b| a.directory.cmp(&b.directory));
    let mut claims = Vec::new();
    for snapshot in directories {
        let path = &snapshot.directory;
        let in_use = || Error::InUse { path: path.clone() };
        claims.push(DeletionLease::try_claim(path)?.ok_or_else(in_use)?);
        // msb may have removed or replaced it before that.
        let now = Snapshot::of(path)?.ok_or_else(in_use)?;
        if now.descriptor.digest != snapshot.descriptor.digest {
            return Err(in_use());
        }
    }
    Ok(claims)
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
        Some((path, error)) => Err(Error::UnreadableSnapshot { path: path.clone(), reason: error.to_string() }),
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

/// Each snapshot leaves its place by one rename into a folder that the next run would remove; then that is removed. One
/// in a lower layer of overlayfs leaves it by a rename of its descriptor.
///
/// A group's folder stays when its last member has gone, as msb leaves it, because msb may be about to place a member there.
fn take_all_away(store: &Store, doomed: &[Snapshot], _claims: &[DeletionLease], progress: &dyn Progress) -> Result<()> {
    if doomed.is_empty() {
        return Ok(());
    }
    let snapshots = store.snapshots();
    let stage = Stage::create(&snapshots)?;
    for (number, snapshot) in doomed.iter().enumerate() {
        let (from, to) = (&snapshot.directory, stage.path().join(number.to_string()));
        let _deletion = Deletion::record(store, from, progress)?;
        take_away(&snapshots, from, &to)?;
        sync_folder(from.parent().unwrap_or(&snapshots))?;
    }
    Ok(())
}

//! Repair: what a check found bad is taken from a bundle that holds the very same, staged, verified and exchanged.

mod migrated;

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
};

use migrated::{is_migrated, is_table_migrated, migrate_again, migrated_disk};
use rustix::fs::OFlags;

use crate::{
    beneath::Folder,
    bundle::{Brought, BundledSnapshot, Documents, MAX_CHAIN},
    check::{BadSnapshot, Found, REPAIR_REFUSED},
    digest::Digest,
    error::{Error, IoContext, Result},
    fixed_folder::is_fixed,
    image_tags::{Destination, Put, TagTrust, destination},
    immutable,
    layer::{
        analyze::{FileView, contents},
        clone::copy_file,
    },
    model::{Descriptor, FileRecord, GroupName, MemberName, SnapshotConfig, SnapshotIdentity},
    progress::Progress,
    report::Finding,
    restore::{Below, Restorer},
    settle::{Restored, Settler},
    snapshot::{
        MIGRATED_DISK, SNAPSHOT_FILE, Snapshot, V066_FILE, closure, is_there, labels,
        scan::{MAX_DEPTH, is_bookkeeping},
    },
    storage::Source,
    store::{
        Store,
        group::{self, LockedGroup},
        image_metadata::Metadata,
        lease::DeletionLease,
        place::{Stage, place_directory, place_file, replace_file_by_file, sync_tree},
        record::ImportRecord,
        vmdk,
    },
};

/// Repairs one store.
pub(crate) struct Repair<'a> {
    pub store: &'a Store,
    pub jobs: usize,
    pub progress: &'a Arc<dyn Progress>,
}

impl Repair<'_> {
    /// Repairs what the source holds of what is bad; the rest stays, and the next look finds it again. Gives why.
    pub fn run(&self, source: &dyn Source, bundled: &[BundledSnapshot], found: &Found) -> Result<Vec<Finding>> {
        // Leftovers go with the first stage, so there is one even where nothing else is bad.
        let snapshots = self.store.snapshots();
        let stage = Stage::create(&snapshots)?;
        let mut known = found.known.clone();
        let mut refused = Vec::new();
        let mut refuse = |path: &Path, reason: String| {
            let subject = path.strip_prefix(&self.store.root).unwrap_or(path).display().to_string();
            refused.push(Finding { code: REPAIR_REFUSED, subject, message: reason });
        };
        for (number, bad) in found.snapshots.iter().enumerate() {
            let directory = stage.path().join(number.to_string());
            let done = self.replaced(source, bundled, found, bad, &stage, &directory);
            match done.or_else(|error| Ok::<_, Error>(Err(told(error)?)))? {
                Ok(same) => known.extend(identities(same)),
                Err(reason) => refuse(&bad.directory, reason),
            }
        }
        for (identity, child) in &found.missing {
            if known.contains(identity) {
                // It was there, and could not be read; or another child has brought it.
                continue;
            }
            match self.missing(source, bundled, found, (identity, child), &stage, &mut known) {
                Ok(true) => {}
                Ok(false) => refuse(child, format!("the bundle does not hold its parent {identity}")),
                Err(error) if error.exit_code() == 3 => refuse(child, error.to_string()),
                Err(error) => return Err(error),
            }
        }
        let cache = self.store.cache();
        if cache.is_dir() || !found.cache.is_empty() {
            let cache_stage = Stage::create(&cache)?;
            for row in &found.cache {
                // Snapshots may record different files under one name: one of them is enough.
                let others = found.cache.iter().filter(|other| other.path == row.path);
                match self.cache_file(source, bundled, row, &cache_stage) {
                    Ok(Ok(false)) if others.count() == 1 => {
                        refuse(&cache.join(&row.path), "the bundle does not hold it".into());
                    }
                    Ok(Err(reason)) => refuse(&cache.join(&row.path), reason),
                    Err(error) if error.exit_code() == 3 => refuse(&cache.join(&row.path), error.to_string()),
                    other => drop(other?),
                }
            }
        }
        Ok(refused)
    }

    /// Puts the very same snapshot in the bad one's place, with what stands beside its files; or why not.
    fn replaced<'b>(
        &self,
        source: &dyn Source,
        bundled: &'b [BundledSnapshot],
        found: &Found,
        bad: &BadSnapshot,
        stage: &Stage,
        directory: &Path,
    ) -> Result<std::result::Result<&'b BundledSnapshot, String>> {
        let same = match self.same(bad, bundled)? {
            Ok(same) => same,
            Err(reason) => return Ok(Err(reason)),
        };
        if let Err(error) = immutable::refuse("replace", &bad.directory) {
            return Ok(Err(error.to_string()));
        }
        if let Err(error) = stage.check_exchange(&bad.directory) {
            return Ok(Err(error.to_string()));
        }
        self.snapshot(source, same, bundled, found, directory, bad.without_parent())?;
        if let Some(reason) = migrate_again(&bad.directory, directory, same)? {
            return Ok(Err(reason));
        }
        if let Some(reason) = keep_own_files(&bad.directory, directory, same)? {
            return Ok(Err(reason));
        }
        sync_tree(directory)?;
        let snapshots = self.store.snapshots();
        match place_directory(&snapshots, directory, &bad.directory, true) {
            Err(error) if is_fixed(&error) => match DeletionLease::try_claim(&bad.directory)? {
                Some(claim) => replace_file_by_file(&snapshots, directory, &bad.directory, &claim)?,
                None => return Ok(Err(Error::InUse { path: bad.directory.clone() }.to_string())),
            },
            placed => drop(placed?),
        }
        Ok(Ok(same))
    }

    /// Places a parent that is not in the store, and what it descends from of what is missing too; false if the bundle
    /// does not hold it. A final one goes into its child's group.
    fn missing(
        &self,
        source: &dyn Source,
        bundled: &[BundledSnapshot],
        found: &Found,
        (identity, child): (&SnapshotIdentity, &Path),
        stage: &Stage,
        known: &mut HashSet<SnapshotIdentity>,
    ) -> Result<bool> {
        let snapshots = self.store.snapshots();
        let holds = |identity: &SnapshotIdentity| bundled.iter().find(|b| identities(b).contains(identity));
        let Some(first) = holds(identity) else { return Ok(false) };
        let (mut chain, mut next) = (Vec::new(), Some(first));
        while let Some(snapshot) = next.filter(|_| chain.len() < MAX_CHAIN) {
            chain.push(snapshot);
            let parent = snapshot.config.snapshot.parent.as_ref();
            next = parent.filter(|parent| !known.contains(*parent)).and_then(holds);
        }
        // The oldest first: a child is never there without its parent.
        for snapshot in chain.into_iter().rev() {
            let record = &snapshot.config.snapshot;
            let group = child.parent().filter(|folder| *folder != snapshots);
            let target = match (&record.id, group) {
                (Some(id), Some(group)) => group.join(id),
                _ => snapshots.join(record.name.as_str()),
            };
            if is_there(&target)? {
                // Another one that was missing it has brought it, or something else has its name.
                continue;
            }
            let directory = stage.path().join(format!("parent-{}", record.digest.hex()));
            let without_parent = record.parent.as_ref().is_some_and(|parent| !known.contains(parent));
            self.snapshot(source, snapshot, bundled, found, &directory, without_parent)?;
            sync_tree(&directory)?;
            let locked = match group {
                Some(group) if record.id.is_some() => self.lock_group(&snapshots, group)?,
                _ => None,
            };
            if let Some(locked) = &locked
                && let Ok(name) = record.name.as_str().parse::<MemberName>()
                && locked.members().values().all(|member| member.name.as_ref() != Some(&name))
            {
                group::write_staged_name(&directory, &name)?;
            }
            place_directory(&snapshots, &directory, &target, false)?;
            known.extend(identities(snapshot));
        }
        Ok(true)
    }

    /// The group at `folder`, locked as msb locks it; `None` for one whose files nobody but their owner can mend.
    fn lock_group(&self, snapshots: &Path, folder: &Path) -> Result<Option<LockedGroup>> {
        let name = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<GroupName>().ok());
        let Some(name) = name else { return Ok(None) };
        match LockedGroup::lock(snapshots, &name, self.progress.as_ref()) {
            Err(Error::InvalidGroup { .. }) => Ok(None),
            locked => locked,
        }
    }

    /// The snapshot from the bundle, into a new folder, with every check of an import.
    fn snapshot(
        &self,
        source: &dyn Source,
        same: &BundledSnapshot,
        bundled: &[BundledSnapshot],
        found: &Found,
        directory: &Path,
        without_parent: bool,
    ) -> Result<()> {
        fs::create_dir(directory).context("create", directory)?;
        let unmoved = HashMap::new();
        // A parent that is good saves fetching what is beneath the snapshot's own layer.
        let parent = bundled
            .iter()
            .find(|parent| same.extends(parent) && same.is_child_of(parent))
            .and_then(|parent| {
                let directory = found.good.get(&parent.config.snapshot.digest)?;
                Some(Below { bundled: parent, directory, moved: &unmoved })
            })
            .filter(|below| {
                let record = ImportRecord::read(below.directory);
                matches!(record, Ok(Some(record)) if record.files == below.bundled.config.files)
            });
        let most = Some(Stage::free_bytes(directory)?);
        let restored = self.restorer(source, most).restore(same, directory, parent);
        let inherited = restored.map_err(|error| error.on_disk(&self.store.root))?;
        // The parent may be changed by others meanwhile: nothing is known of it, every file is looked at whole.
        let restored = Restored { bundled: same, directory: directory.into(), inherited, over_previous: false };
        let (sender, receiver) = sync_channel(1);
        let settler = Settler::new(self.jobs, false, self.progress.clone())?;
        // The receiver is here.
        let _ = sender.send(restored);
        drop(sender);
        settler.run(receiver)?;
        ImportRecord { without_parent, ..record_of(same.brought()) }.write(directory)
    }

    fn restorer<'s>(&'s self, source: &'s dyn Source, most: Option<u64>) -> Restorer<'s> {
        Restorer { source, jobs: self.jobs, progress: self.progress.as_ref(), most, writeback: None }
    }

    /// False if the bundle does not hold it; or why what is there stays.
    fn cache_file(
        &self,
        source: &dyn Source,
        bundled: &[BundledSnapshot],
        row: &FileRecord,
        stage: &Stage,
    ) -> Result<std::result::Result<bool, String>> {
        let layers = bundled.iter().flat_map(|b| b.manifest.layers.iter().zip(&b.config.layers).map(move |l| (b, l)));
        let mut matching = layers.filter(|(_, (_, layer))| layer.cache_file() == Some(row));
        let Some((snapshot, (descriptor, layer))) = matching.next() else { return Ok(Ok(false)) };
        let cache = self.store.cache();
        let staged = stage.path().join(row.path.as_str().replace('/', "_"));
        self.restorer(source, None).restore_cache_file(descriptor, layer, row, &staged)?;
        if row.path.as_str().starts_with("vmdk/") {
            vmdk::expand_file(&staged, &cache)?;
        }
        stage.sync()?;
        if !row.path.as_str().starts_with("manifests/") {
            place_file(&cache, &staged, &cache.join(&row.path), true)?;
            return Ok(Ok(true));
        }
        // Where it goes, an import's rule says; a repair gives no tag a meaning.
        let (Some(image), Some(metadata)) = (&snapshot.config.snapshot.image, Metadata::at(&staged)?) else {
            return Ok(Err("what the bundle holds is no image's metadata".into()));
        };
        if metadata.manifest_digest != image.manifest_digest || !metadata.is_whole() {
            return Ok(Err("what the bundle holds is not the metadata of its snapshot's image".into()));
        }
        let Destination { path, put, .. } = match destination(&cache, image, &metadata, TagTrust::None, true) {
            Ok(destination) => destination,
            Err(error) => return Ok(Err(format!("{error}; move it away and repair again"))),
        };
        if put != Put::Kept {
            let target = cache.join(&path);
            // Whatever was seen before: whole metadata is nobody's damage.
            if Metadata::at(&target)?.is_some_and(|there| there.is_whole()) {
                let reason =
                    "it is whole, and of another image than the bundle's; move it away, or pull that image again";
                return Ok(Err(format!("{}: {reason}", target.display())));
            }
            place_file(&cache, &staged, &target, put == Put::Replaced)?;
        }
        Ok(Ok(true))
    }

    /// The same snapshot of the source, or why it may not take the bad one's place: what is not known to be bad is not
    /// replaced by something else, whatever its descriptor says.
    fn same<'b>(
        &self,
        bad: &BadSnapshot,
        bundled: &'b [BundledSnapshot],
    ) -> Result<std::result::Result<&'b BundledSnapshot, String>> {
        let Some(digest) = bad.record.as_ref().map(|record| record.snapshot).or(bad.digest) else {
            return Ok(Err(
                "which snapshot it was cannot be told: neither its record nor its descriptor is readable".into()
            ));
        };
        let holds = |digest: Digest| bundled.iter().find(|b| b.config.snapshot.digest == digest);
        let Some(same) = holds(digest) else {
            // It was imported before msb migrated it, and the bundle was made after.
            let migrated = bad.digest.and_then(holds).zip(bad.record.as_ref());
            return Ok(match migrated {
                Some((same, record)) if is_migrated(&bad.directory, digest)? && is_table_migrated(record, same) => {
                    Ok(same)
                }
                _ => Err(format!("the bundle does not hold {digest}")),
            });
        };
        // Labels of today stay, whatever they were in the bundle.
        let labels = labels::own(same.config.snapshot.generation, &bad.directory)?;
        let but_labels = |row: &&FileRecord| Some(&row.path) != labels.as_ref();
        let brought = || same.config.files.iter().filter(but_labels);
        match &bad.record {
            Some(record) if record.files.iter().filter(but_labels).eq(brought()) => Ok(Ok(same)),
            Some(record) => Ok(Err(format!(
                "it was imported from {}; the bundle has {digest} with other files (manifest {})",
                record.origin(),
                same.descriptor.digest
            ))),
            None => Ok(self.unlike(bad, same)?.map_or(Ok(same), Err)),
        }
    }

    /// Without a record: what of the directory would be lost, for nothing says that it is bad.
    fn unlike(&self, bad: &BadSnapshot, same: &BundledSnapshot) -> Result<Option<String>> {
        let descriptor = match Snapshot::open(&bad.directory) {
            Ok(snapshot) => snapshot.descriptor,
            Err(error) => return Ok(Some(format!("without a record of its import nothing is replaced ({error})"))),
        };
        let labels = labels::own(descriptor.generation, &bad.directory)?;
        let disk = migrated_disk(&bad.directory)?;
        for path in files_below(&bad.directory, Path::new(""), 0)? {
            // The bundle has it under another name.
            let is_disk = path == Path::new(MIGRATED_DISK);
            let name = disk.as_ref().filter(|_| is_disk).map_or(path.as_path(), |disk| Path::new(disk.as_str()));
            if labels.as_ref().is_some_and(|labels| Path::new(labels.as_str()) == path) {
                continue;
            }
            let Some(row) = same.config.files.iter().find(|row| Path::new(row.path.as_str()) == name) else {
                return Ok(Some(format!("the bundle does not have its {}", path.display())));
            };
            // What the descriptor binds is compared with what it says, and the bundle's file with the same.
            let is_recorded = descriptor.recorded.iter().any(|recorded| recorded.path == row.path);
            if row.path == descriptor.file || is_recorded || closure::binds(&descriptor, &row.path) {
                continue;
            }
            let absolute = bad.directory.join(&path);
            let file = Folder::open(&bad.directory)?.file(&path, OFlags::RDONLY)?;
            let size = file.metadata().context("look at", &absolute)?.len();
            let view = FileView { file: &file, path: &absolute, size };
            if size != row.size || contents(view, None, self.jobs, self.progress.as_ref())?.0.root != row.root {
                return Ok(Some(format!(
                    "its {} is not the bundle's, and neither a record of an import nor its descriptor says which is right",
                    path.display()
                )));
            }
        }
        Ok(None)
    }
}

/// The plain files of a directory whose names do not begin with a dot; links and other things hold nothing.
fn files_below(directory: &Path, below: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let folder = directory.join(below);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).context("read", &folder)? {
        let entry = entry.context("read", &folder)?;
        let (path, kind) = (below.join(entry.file_name()), entry.file_type().context("stat", entry.path())?);
        if is_own(&entry.file_name()) {
            continue;
        }
        if kind.is_dir() && depth < MAX_DEPTH {
            found.extend(files_below(directory, &path, depth + 1)?);
        } else if kind.is_file() || kind.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// What keeps one snapshot from being repaired and the others not: the bundle is bad itself, there at least, or a file is
/// somebody else's.
fn told(error: Error) -> Result<String> {
    match &error {
        Error::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => Ok(error.to_string()),
        _ if error.exit_code() == 3 => Ok(error.to_string()),
        _ => Err(error),
    }
}

/// By what names a child can know it.
fn identities(bundled: &BundledSnapshot) -> Vec<SnapshotIdentity> {
    bundled.config.snapshot.identities()
}

/// What no bundle holds and no check looks at: an alias, a lock, names that begin with a dot.
fn is_own(name: &OsStr) -> bool {
    name.to_str().is_some_and(is_bookkeeping)
}

/// Carries over every file that the bundle does not bring in its place: local bookkeeping, labels of today, whatever
/// somebody put there. (Links and other things hold nothing.) Gives what keeps it from that.
fn keep_own_files(bad: &Path, directory: &Path, same: &BundledSnapshot) -> Result<Option<String>> {
    if let Some(labels) = labels::own(same.config.snapshot.generation, bad)? {
        let brought = directory.join(&labels);
        if is_there(&brought)? {
            fs::remove_file(&brought).context("remove", &brought)?;
        }
    }
    keep_below(bad, directory, &same.config)
}

/// As [`keep_own_files`], of everything that `directory` does not have.
pub(crate) fn keep_below(bad: &Path, directory: &Path, same: &SnapshotConfig) -> Result<Option<String>> {
    // It would be taken for another snapshot.
    for descriptor in [SNAPSHOT_FILE, V066_FILE].map(|name| bad.join(name)) {
        let is_brought = is_there(&directory.join(descriptor.file_name().unwrap_or_default()))?;
        if !is_brought && is_there(&descriptor)? {
            return Ok(Some(format!("{} is not its descriptor; move it away", descriptor.display())));
        }
    }
    // The disk came under its layer's name: the same file, wherever a migration left the other one.
    let disk = migrated_disk(bad)?.filter(|disk| same.row(disk).is_some());
    if let Some(reason) = keep_in(bad, directory, disk.map(|_| MIGRATED_DISK), 0)? {
        return Ok(Some(reason));
    }
    let meta = fs::metadata(bad).context("look at", bad)?;
    fs::set_permissions(directory, meta.permissions()).context("set the mode of", directory)?;
    Ok(None)
}

fn keep_in(bad: &Path, directory: &Path, but: Option<&str>, depth: usize) -> Result<Option<String>> {
    for entry in fs::read_dir(bad).context("read", bad)? {
        let entry = entry.context("read", bad)?;
        if but.is_some_and(|but| entry.file_name() == but) {
            continue;
        }
        let (from, to) = (entry.path(), directory.join(entry.file_name()));
        let kind = entry.file_type().context("stat", &from)?;
        let there = match fs::symlink_metadata(&to) {
            Ok(metadata) => Some(metadata.is_dir()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("stat", &to, error)),
        };
        match (kind.is_dir(), there) {
            (true, _) if depth == MAX_DEPTH || there == Some(false) => {
                // A folder that is empty is nobody's loss.
                if fs::read_dir(&from).context("read", &from)?.next().is_some() {
                    return Ok(Some(format!("{} holds something and would be lost; move it away", from.display())));
                }
            }
            (true, _) => {
                if there.is_none() {
                    fs::create_dir(&to).context("create", &to)?;
                }
                if let Some(reason) = keep_in(&from, &to, None, depth + 1)? {
                    return Ok(Some(reason));
                }
                if there.is_none() {
                    let meta = entry.metadata().context("look at", &from)?;
                    fs::set_permissions(&to, meta.permissions()).context("set the mode of", &to)?;
                }
            }
            (false, None) if kind.is_file() => {
                // The same file, whatever its size; a filesystem without links copies it.
                fs::hard_link(&from, &to).or_else(|_| copy_file(&from, &to))?;
            }
            (false, Some(true)) if kind.is_file() => {
                return Ok(Some(format!("{} would be lost for a folder; move it away", from.display())));
            }
            (false, _) => {}
        }
    }
    Ok(None)
}

/// What an import of this snapshot leaves behind.
pub(crate) fn record_of(brought: Brought) -> ImportRecord {
    ImportRecord {
        version: 1,
        manifest: brought.manifest,
        snapshot: brought.config.snapshot.digest,
        files: brought.config.files.clone(),
        cache: brought.cache_files().cloned().collect(),
        without_parent: false,
    }
}

/// Every snapshot of the source.
///
/// # Errors
/// A document of it is missing, corrupt or invalid.
pub(crate) fn bundled_snapshots(source: &dyn Source) -> Result<Vec<BundledSnapshot>> {
    let mut queue: Vec<Descriptor> = crate::bundle::listed(source)?;
    let (mut seen, mut loaded) = (HashSet::new(), HashMap::<Digest, BundledSnapshot>::new());
    let mut documents = Documents::default();
    while let Some(descriptor) = queue.pop() {
        if seen.insert(descriptor.digest) {
            let Some(snapshot) = BundledSnapshot::load_if_there(source, &descriptor)? else { continue };
            documents.add(&descriptor, &snapshot.manifest.config)?;
            queue.extend(snapshot.manifest.subject.clone());
            loaded.entry(snapshot.config.snapshot.digest).or_insert(snapshot);
        }
    }
    Ok(loaded.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_a_repair_and_what_does_not() {
        let io = |kind: ErrorKind| told(Error::io("open", "/s/x", kind.into()));
        assert!(io(ErrorKind::PermissionDenied).unwrap().starts_with("cannot open /s/x: "));
        assert!(told(Error::bundle("layer", "bad")).is_ok());
        assert!(io(ErrorKind::StorageFull).is_err() && io(ErrorKind::NotFound).is_err());
    }
}

//! Import: bundle -> store.
//!
//! Documents first, then limits, then what is there already. Per snapshot, oldest first: files from the parent, the
//! layer's over them, every root compared with the table, recorded integrity, fsync. When everything has passed:
//! rename into place, cache files first, parents before children. Before the renames nothing is visible in the store.

mod archive;
mod cache;
mod existing;
mod needed;
mod place;
mod targets;
mod unread;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
    time::Instant,
};

use cache::{StagedCache, possible_places};
use existing::is_or_was;
use needed::explain;
use place::Placing;
use targets::{Place, Target, TargetGroup, Targets};

use crate::{
    ahead::Ahead,
    bundle::{self, Brought, BundledSnapshot},
    composite::Composite,
    error::{Error, IoContext, MAX_BYTES_HINT, Result},
    immutable,
    layout::{self, Peeked},
    model::{Descriptor, LayerRecord, SnapshotConfig},
    msb_archive::{self, Input},
    progress::Progress,
    reference::RegistryReference,
    registry,
    repair::{keep_below, record_of},
    report::{HeadUpdate, ImportReport, IndexReport, Outcome, SnapshotReport},
    restore::{Below, Restorer},
    same::{self, Existing, IncomingDescriptor, Same},
    settle::{Restored, Settler},
    snapshot::{MEMBER_FILE, is_folder, is_there, visible},
    storage::Source,
    store::{
        Readable, Store,
        group::{MemberFile, write_staged_name},
        head::HeadRule,
        index::{Change, Index},
        lease::{self, Lease},
        lock::{self, StoreLock},
        place::{Stage, check_way, make_folders, place_file, sync_names},
        record::{ImportRecord, RECORD_FILE},
        root,
    },
    temporary::{self, Scratch},
    writeback::Writeback,
    zstd_input::MaxWindow,
};

/// Where a bundle is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleLocation {
    /// Standard input, which may ask for such a zstd window.
    Stdin(MaxWindow),
    /// A layout directory, a tar or a tar.zst, which may ask for such a zstd window.
    Path(PathBuf, MaxWindow),
    /// A repository of a registry.
    Registry(RegistryReference, Box<registry::Options>),
}

/// What is at a location, told by its content.
pub enum Opened {
    /// A bundle.
    Bundle(Box<dyn Source>),
    /// An archive that msb wrote.
    Archive(Input),
}

impl BundleLocation {
    /// At this path, with the usual zstd window.
    pub fn path(path: PathBuf) -> Self {
        Self::Path(path, MaxWindow::USUAL)
    }

    /// Opens the bundle; what cannot be read in place is spooled into `scratch`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an archive of msb.
    pub fn open(&self, scratch: &Scratch, progress: &dyn Progress) -> Result<Box<dyn Source>> {
        match self.open_any(scratch, progress)? {
            Opened::Bundle(source) => Ok(source),
            Opened::Archive(Input { name, .. }) => Err(Error::Usage(format!(
                "{name} is an archive of msb and no bundle; `snapcask convert` makes one of it"
            ))),
        }
    }

    /// The same, of which every byte is read where it is: what an earlier run has fetched proves nothing about a registry.
    pub fn afresh(&self) -> Self {
        match self {
            Self::Registry(reference, options) => {
                let options = registry::Options { cache_max: 0, ..options.as_ref().clone() };
                Self::Registry(reference.clone(), Box::new(options))
            }
            Self::Stdin(_) | Self::Path(..) => self.clone(),
        }
    }

    /// Opens the bundle or the archive.
    pub fn open_any(&self, scratch: &Scratch, progress: &dyn Progress) -> Result<Opened> {
        let (peeked, window) = match self {
            Self::Stdin(window) => (Peeked::stdin(progress)?, *window),
            Self::Path(path, window) if is_folder(path)? || !is_there(path)? => {
                return layout::open(path, scratch, *window).map(Opened::Bundle);
            }
            Self::Path(path, window) => (Peeked::file(path)?, *window),
            Self::Registry(reference, options) => return registry::open(reference, options).map(Opened::Bundle),
        };
        if !msb_archive::is_archive(peeked.head(), window) {
            return peeked.open(scratch, window, progress).map(Opened::Bundle);
        }
        let (name, head, rest) = peeked.into_parts()?;
        Ok(Opened::Archive(Input { name, head, rest, window }))
    }
}

/// Opens bundles as one source, completed from `bases`; what cannot be read in place is spooled into `scratch`.
///
/// # Errors
/// [`Error::Usage`] without a bundle, and those of [`BundleLocation::open`].
pub fn open_all(
    bundles: &[BundleLocation],
    bases: &[BundleLocation],
    scratch: &Scratch,
    progress: &dyn Progress,
) -> Result<Box<dyn Source>> {
    let open = |locations: &[BundleLocation]| -> Result<Vec<Box<dyn Source>>> {
        locations.iter().map(|location| location.open(scratch, progress)).collect()
    };
    one_source(open(bundles)?, open(bases)?)
}

fn one_source(mut bundles: Vec<Box<dyn Source>>, bases: Vec<Box<dyn Source>>) -> Result<Box<dyn Source>> {
    match (bundles.pop(), bundles.is_empty() && bases.is_empty()) {
        (None, _) => Err(Error::Usage("no bundle is named".into())),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            bundles.push(last);
            Ok(Box::new(Composite::new(bundles, bases)))
        }
    }
}

/// What an import reads, or a verification.
pub enum Sources {
    /// Bundles, as one.
    Bundles(Box<dyn Source>),
    /// Archives of msb, and those that complete them.
    Archives(Vec<Input>, Vec<Input>),
}

impl Sources {
    /// Opens all, each once: a pipe cannot be opened again.
    ///
    /// # Errors
    /// [`Error::Usage`]: they are of two kinds; those of [`BundleLocation::open_any`].
    pub fn open(
        sources: &[BundleLocation],
        bases: &[BundleLocation],
        scratch: &Scratch,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let (mut bundles, mut archives) = (Vec::new(), Vec::new());
        let (mut base_bundles, mut base_archives) = (Vec::new(), Vec::new());
        for (number, location) in sources.iter().chain(bases).enumerate() {
            let is_base = number >= sources.len();
            match location.open_any(scratch, progress)? {
                Opened::Bundle(bundle) if is_base => base_bundles.push(bundle),
                Opened::Bundle(bundle) => bundles.push(bundle),
                Opened::Archive(archive) if is_base => base_archives.push(archive),
                Opened::Archive(archive) => archives.push(archive),
            }
        }
        match (archives.is_empty() && base_archives.is_empty(), bundles.is_empty() && base_bundles.is_empty()) {
            (true, _) => one_source(bundles, base_bundles).map(Self::Bundles),
            (false, true) => Ok(Self::Archives(archives, base_archives)),
            (false, false) => Err(Error::Usage(
                "bundles and archives of msb do not complete each other; name those of one kind".into(),
            )),
        }
    }
}

/// What to import, where to, and how.
#[derive(Clone)]
pub struct ImportOptions {
    /// The bundles, at least one: their snapshots are one chain.
    pub sources: Vec<BundleLocation>,
    /// Bundles that have blobs which the others leave out.
    pub bases: Vec<BundleLocation>,
    /// The store's folder.
    pub store: PathBuf,
    /// Snapshots directory other than the store's.
    pub dest: Option<PathBuf>,
    /// Which head, when the bundle has several tags.
    pub tag: Option<String>,
    /// Name for the head.
    pub name: Option<String>,
    /// Without its ancestors.
    pub head_only: bool,
    /// Group for `final` snapshots, joined or made; without it, they go into a new group.
    pub group: Option<String>,
    /// How the group's head changes.
    pub head: HeadRule,
    /// Replace what is there and different.
    pub force: bool,
    /// With `force`: leave children without the parents that are replaced.
    pub orphan_children: bool,
    /// Let the bundle give a meaning to image tags that have none here; with `force`, another one to those that have.
    pub trust_image_tags: bool,
    /// Without verifying the integrity that descriptors record in SHA forms.
    pub skip_recorded: bool,
    /// Read and verify the layers too whose contents are installed.
    pub verify_source: bool,
    /// Most bytes of data that may be restored; none: the free space of the disk.
    pub max_bytes: Option<u64>,
    /// Most files that may be restored.
    pub max_files: u64,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// How msb's database learns of the snapshots.
    pub index: Index,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Runs an import. Blocking; the CLI runs it on a blocking thread.
///
/// # Errors
/// What is wrong with the bundle, the group or the names, and a full disk, is found before anything is placed: the store is
/// as before, up to lock files and mended files of a group. After an error while placing, what is placed is whole and
/// verified, and a second run completes it.
pub fn import(options: &ImportOptions) -> Result<ImportReport> {
    let started = Instant::now();
    let store = Store::at(&options.store);
    let destination = options.dest.clone().unwrap_or_else(|| store.snapshots());
    root::new_or_existing(&store.root)?;
    let mut missing = Stage::folders_missing(&store.cache());
    missing.extend(Stage::folders_missing(&destination));
    missing.iter().for_each(|folder| temporary::claim_empty(folder));
    let result = Import { options, store, destination: destination.clone() }.run(started, &mut missing);
    let result = match options.max_bytes {
        None => result.map_err(|error| error.on_disk(&destination)),
        Some(_) => result,
    };
    missing.iter().for_each(|folder| temporary::forget(folder));
    if result.is_err() {
        missing.iter().for_each(|folder| lease::remove_unused(folder));
        Stage::remove_empty(&missing);
    }
    result
}

struct Import<'a> {
    options: &'a ImportOptions,
    store: Store,
    destination: PathBuf,
}

/// A snapshot on its way.
struct Incoming<'a> {
    brought: Brought<'a>,
    /// Whether it is the one that was asked for.
    is_head: bool,
    target: Target,
    /// Where its verified files are: staged, or already in the store.
    directory: PathBuf,
    outcome: Outcome,
    /// What is installed already, where that is the outcome.
    existing: Option<Existing>,
    /// Its name, where it is installed.
    installed_name: Option<String>,
    /// Keeps msb from removing one that is installed while the next one is made from it.
    reader: Option<Lease>,
}

/// What placing did.
struct Published {
    /// Image-cache files, placed or found.
    cache_files: Vec<PathBuf>,
    /// Head first.
    snapshots: Vec<SnapshotReport>,
    head: Option<HeadUpdate>,
    mended: Vec<String>,
    index: Option<IndexReport>,
}

impl Import<'_> {
    /// `missing`: the folders that are not there before; what is made of them goes if this fails.
    fn run(&self, started: Instant, missing: &mut Vec<PathBuf>) -> Result<ImportReport> {
        let options = self.options;
        // A removal meanwhile could take away the parent that a delta goes over.
        let _locks = self.lock()?;
        let stage = Stage::create(&self.destination)?;
        let (scratch, progress) = (Scratch::at(stage.path()), options.progress.as_ref());
        let source = match Sources::open(&options.sources, &options.bases, &scratch, progress)? {
            Sources::Bundles(source) => source,
            Sources::Archives(archives, bases) => return self.archives(archives, bases, &stage, started, missing),
        };
        let head = bundle::head(source.as_ref(), options.tag.as_deref())?;
        let chain = bundle::chain(source.as_ref(), &head, options.head_only)?;
        let brought: Vec<Brought> = chain.iter().map(BundledSnapshot::brought).collect();
        let Targets { group, all: mut targets, suggested_group, denied } = self.targets(&brought)?;
        let reach = match (options.sources.as_slice(), options.bases.as_slice()) {
            // Each question would be a request; a registry takes no manifest without its layers.
            ([BundleLocation::Registry(..)], []) => Ok(chain.len()),
            _ => self.within_reach(source.as_ref(), &chain, &targets),
        };
        let reach = reach.map_err(|error| match (error, denied) {
            (Error::BaseMissing { bundle, .. }, Some(denied)) => {
                Error::MayBeHidden { what: format!("what {bundle} leaves out"), reason: denied.to_string() }
            }
            (error, _) => error,
        })?;
        targets.truncate(reach);
        let (chain, beyond) = chain.split_at(reach);
        let brought = &brought[..reach];
        let most = self.check_limits(brought, &targets)?;
        self.check_targets(brought, &targets)?;
        let coming = layers_to_come(chain, &targets)?;
        let unread = self.unread(source.as_ref(), chain, &coming)?;
        if options.verify_source {
            self.verify_unread(source.as_ref(), &unread)?;
        }
        let is_unread = coming.is_empty() && !options.verify_source;
        let ahead = Ahead::new(source.as_ref(), coming);
        let writeback = Arc::new(Writeback::start().context("start a thread for", stage.path())?);
        let restorer = Restorer {
            source: &ahead,
            jobs: options.jobs,
            progress: options.progress.as_ref(),
            most: Some(most),
            writeback: Some(writeback.clone()),
        };
        let staged = self.stage(&restorer, &stage, chain, targets);
        let (incoming, cache) = staged.map_err(|error| explain(error, source.as_ref(), chain))?;
        drop(restorer);
        finish_writeback(writeback, &stage)?;
        let image_tags = cache.as_ref().map(|cache| cache.tags.clone()).unwrap_or_default();
        let is_unread = is_unread && cache.as_ref().is_none_or(|cache| cache.files.is_empty());
        let published = self.publish(&stage, incoming, group, cache, missing)?;
        source.release();
        let Published { cache_files, mut snapshots, head, mended, index } = published;
        snapshots.extend(beyond.iter().map(left_out));
        Ok(ImportReport {
            source: source.display(),
            destination: self.destination.clone(),
            snapshots,
            cache_files,
            image_tags,
            head,
            suggested_group,
            mended,
            index,
            source_verified: options.verify_source,
            source_unread: is_unread,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// That the snapshots may go where they are to go.
    fn check_targets(&self, chain: &[Brought], targets: &[Target]) -> Result<()> {
        targets.iter().try_for_each(|target| check_way(&self.destination, &target.path))?;
        if self.options.force { self.check_replaced(chain, targets) } else { Ok(()) }
    }

    /// Places what is staged and verified, oldest first.
    fn publish(
        &self,
        stage: &Stage,
        mut incoming: Vec<Incoming>,
        group: Option<TargetGroup>,
        cache: Option<StagedCache>,
        missing: &mut Vec<PathBuf>,
    ) -> Result<Published> {
        let options = self.options;
        stage.sync()?;
        self.make_room(&incoming, cache.as_ref().map_or(&[], |cache| &cache.files), missing)?;
        if options.force {
            for snapshot in incoming.iter().filter(|snapshot| snapshot.outcome == Outcome::Placed) {
                if is_there(&snapshot.target.path)? {
                    immutable::refuse("replace", &snapshot.target.path)?;
                    stage.check_exchange(&snapshot.target.path)?;
                }
            }
        }
        cache.iter().try_for_each(StagedCache::sync)?;
        // Until msb knows of the snapshots, its `image prune` would take what only they need.
        let leases = cache.as_ref().map(|cache| cache.lease(options.progress.as_ref())).transpose()?;
        let placing = self.prepare_places(stage, &mut incoming, group.as_ref())?;
        let placed_cache = cache.as_ref().map(|cache| cache.place(&self.store.cache())).transpose()?;
        let cache_files = placed_cache.unwrap_or_default();
        let placing = self.place_all(stage, &mut incoming, group, placing)?;
        for child in incoming.iter().skip(1).filter(|s| s.outcome == Outcome::AlreadyThere) {
            self.has_parent_now(stage, child)?;
        }
        let placed = incoming.iter().map(|s| s.target.path.as_path()).chain(cache_files.iter().map(PathBuf::as_path));
        sync_names(placed, &self.store.root)?;
        incoming.reverse();
        let mut snapshots: Vec<_> = incoming.iter().enumerate().map(|(i, s)| s.report(incoming.get(i + 1))).collect();
        if let (Some(head), Some(name)) = (snapshots.first_mut(), &options.name) {
            head.name.clone_from(name);
        }
        let index = self.tell_msb(&incoming, &placing);
        drop((leases, placing.leases));
        Ok(Published { cache_files, snapshots, head: placing.head, mended: placing.mended, index })
    }

    /// Makes msb's database know what was placed in the store's own folder.
    fn tell_msb(&self, incoming: &[Incoming], placing: &Placing) -> Option<IndexReport> {
        let changed = incoming.iter().any(|s| s.outcome == Outcome::Placed) || !placing.mended.is_empty();
        let is_own = self.options.dest.as_ref().is_none_or(|dest| {
            let real = |path: &Path| path.canonicalize().ok();
            real(dest).is_some_and(|dest| real(&self.store.snapshots()) == Some(dest))
        });
        let tell = || self.options.index.update(&self.store.root, Change::Placed, self.options.progress.as_ref());
        (changed && is_own).then(tell)
    }

    /// The destination, made where it is missing, and the cache, locked. An import that fails at the same time may remove
    /// the folder that both have made.
    fn lock(&self) -> Result<(StoreLock, Vec<StoreLock>)> {
        let progress = self.options.progress.as_ref();
        loop {
            make_folders(&self.destination)?;
            if let Some(lock) = StoreLock::shared(&self.destination, progress)? {
                return Ok((lock, lock::share(&[&self.store.cache()], progress)?));
            }
        }
    }

    /// Unpacks everything, and verifies it beside that.
    fn stage<'b>(
        &self,
        restorer: &Restorer,
        stage: &Stage,
        chain: &'b [BundledSnapshot],
        targets: Vec<Target>,
    ) -> Result<(Vec<Incoming<'b>>, Option<StagedCache>)> {
        let options = self.options;
        let settler = Settler::new(options.jobs, options.skip_recorded, options.progress.clone())?;
        std::thread::scope(|scope| {
            let (sender, restored) = sync_channel(1);
            let settle = move || settler.run(restored);
            let settling = std::thread::Builder::new().spawn_scoped(scope, settle);
            let settling = settling.context("start a thread for", stage.path())?;
            let unpack = move || {
                let mut incoming: Vec<Incoming> = Vec::new();
                for (position, (bundled, target)) in chain.iter().zip(targets).enumerate().rev() {
                    let directory = stage.path().join(position.to_string());
                    let below = chain.get(position + 1).zip(incoming.last());
                    let is_head = position == 0;
                    let (ready, restored) = self.prepare(restorer, directory, bundled, target, is_head, below)?;
                    if let Some(parent) = incoming.last_mut() {
                        parent.reader = None;
                    }
                    incoming.push(ready);
                    if restored.is_some_and(|restored| sender.send(restored).is_err()) {
                        // The settler has found something wrong, which is what counts.
                        break;
                    }
                }
                Ok((incoming, self.stage_cache(restorer, chain)?))
            };
            let unpacked = unpack();
            options.progress.begin("verifying", None);
            let settled = settling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            options.progress.end();
            settled.and(unpacked)
        })
    }

    /// Makes and writes all that placing needs beside what is staged, so that nothing is left to do but to rename: a disk
    /// that is full says so before anything is visible.
    fn make_room(&self, incoming: &[Incoming], cache: &[cache::StagedFile], missing: &mut Vec<PathBuf>) -> Result<()> {
        let placed = incoming.iter().filter(|s| s.outcome == Outcome::Placed);
        // A group's folder appears with its members.
        let folders = placed.clone().filter(|s| s.target.place == Place::Folder).map(|s| &s.target.path);
        for path in cache.iter().map(|file| &file.target).chain(folders) {
            let folder = path.parent().unwrap_or(path);
            let new = Stage::folders_missing(folder);
            new.iter().for_each(|folder| temporary::claim_empty(folder));
            missing.extend(new);
            make_folders(folder)?;
        }
        for snapshot in placed {
            if let Place::Member { name: Some(name), .. } = &snapshot.target.place {
                write_staged_name(&snapshot.directory, name)?;
            }
        }
        Ok(())
    }

    /// Gives the most bytes that may be restored.
    fn check_limits(&self, chain: &[Brought], targets: &[Target]) -> Result<u64> {
        // What is there already is compared, or an error: it takes no room.
        let takes_room = |target: &Path| Ok::<_, Error>(self.options.force || !is_there(target)?);
        let (mut files, mut data) = (0u64, 0u64);
        for (snapshot, target) in chain.iter().zip(targets) {
            files += snapshot.config.files.len() as u64;
            if takes_room(&target.path)? {
                data = snapshot.config.files.iter().fold(data, |sum, f| sum.saturating_add(f.data_bytes));
            }
        }
        let mut cache = HashSet::new();
        for snapshot in chain {
            for file in snapshot.config.layers.iter().filter_map(LayerRecord::cache_file) {
                if !cache.insert(&file.path) {
                    continue;
                }
                files += 1;
                let places = possible_places(file, snapshot.config.snapshot.image.as_ref())?;
                let mut is_new = true;
                for path in &places {
                    is_new &= takes_room(&self.store.cache().join(path))?;
                }
                if is_new {
                    data = data.saturating_add(file.data_bytes);
                }
            }
        }
        if files > self.options.max_files {
            return Err(Error::Limit {
                what: "the number of files in the bundle".into(),
                value: files,
                limit: self.options.max_files,
                hint: "; --max-files raises it",
            });
        }
        let limit = match self.options.max_bytes {
            Some(limit) => limit,
            None => Stage::free_bytes(&self.destination)?,
        };
        // Blocks shared with parents are counted each time: a filesystem without reflinks stores them each time.
        if data > limit {
            return Err(Error::Limit {
                what: "the data to restore, in bytes,".into(),
                value: data,
                limit,
                hint: MAX_BYTES_HINT,
            });
        }
        Ok(limit)
    }

    fn prepare<'b>(
        &self,
        restorer: &Restorer,
        directory: PathBuf,
        bundled: &'b BundledSnapshot,
        target: Target,
        is_head: bool,
        below: Option<(&BundledSnapshot, &Incoming)>,
    ) -> Result<(Incoming<'b>, Option<Restored<'b>>)> {
        let brought = bundled.brought();
        let descriptor = || same::descriptor_in(bundled, restorer.source);
        if let Some((existing, reader)) = self.already_there(brought.config, &target.path, &descriptor)? {
            let (directory, outcome, existing) = (target.path.clone(), Outcome::AlreadyThere, Some(existing));
            let installed_name = Some(local_name(&target.path)?);
            return Ok((
                Incoming { brought, is_head, target, directory, outcome, existing, installed_name, reader },
                None,
            ));
        }
        fs::create_dir(&directory).context("create", &directory)?;
        // The oldest of a chain may be a child of what neither travelled nor is here.
        let without_parent = below.is_none() && self.misses_parent(brought.config)?;
        // One that was migrated has not all files of the parent's table: the whole stack is unpacked.
        let is_migrated = |below: &Incoming| below.existing.as_ref().is_some_and(|e| e.same == Same::Migrated);
        let below = below.filter(|(below, incoming)| bundled.extends(below) && !is_migrated(incoming));
        let unmoved = HashMap::new();
        let parent = below.map(|(bundled, incoming)| Below {
            bundled,
            directory: &incoming.directory,
            moved: incoming.existing.as_ref().map_or(&unmoved, |existing| &existing.moved),
        });
        let inherited = restorer.restore(bundled, &directory, parent)?;
        self.complete(brought, &directory, &target, without_parent)?;
        let over_previous = below.is_some_and(|(_, below)| below.outcome == Outcome::Placed);
        let restored = Restored { bundled, directory: directory.clone(), inherited, over_previous };
        let outcome = Outcome::Placed;
        let (existing, installed_name, reader) = (None, None, None);
        let incoming = Incoming { brought, is_head, target, directory, outcome, existing, installed_name, reader };
        Ok((incoming, Some(restored)))
    }

    /// The snapshot, if it is at its target.
    fn already_there(
        &self,
        config: &SnapshotConfig,
        target: &Path,
        descriptor: IncomingDescriptor,
    ) -> Result<Option<(Existing, Option<Lease>)>> {
        if !is_there(target)? {
            return Ok(None);
        }
        let reader = Lease::reader(target, self.options.progress.as_ref());
        match self.compare_existing(config, target, descriptor) {
            Ok(existing) => {
                // It may have to be changed when all is placed: that it can be read is known before.
                ImportRecord::of(target)?;
                Ok(Some((existing, reader?)))
            }
            Err(Error::Different { .. }) if self.options.force => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a staged directory the record of its import, and what stays of the one that it replaces.
    fn complete(&self, brought: Brought, directory: &Path, target: &Target, without_parent: bool) -> Result<()> {
        ImportRecord { without_parent, ..record_of(brought) }.write(directory)?;
        // What somebody keeps beside this very snapshot is not the bundle's to take away.
        if is_or_was(&target.path, brought.config)? {
            if let Some(reason) = keep_below(&target.path, directory, brought.config)? {
                return Err(Error::Kept { reason });
            }
            // A new member's name is written anew, and not into the file that is kept.
            if matches!(target.place, Place::Member { .. }) {
                match fs::remove_file(directory.join(MEMBER_FILE)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(Error::io("remove", directory.join(MEMBER_FILE), error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the snapshot has a parent that is neither where it goes to nor in the store.
    fn misses_parent(&self, config: &SnapshotConfig) -> Result<bool> {
        let Some(parent) = &config.snapshot.parent else { return Ok(false) };
        for folder in BTreeSet::from([&self.destination, &self.store.snapshots()]) {
            let Readable { snapshots, denied } = Store::readable_in(folder)?;
            // What is not ours to read may be the parent: then it is missed if it is not.
            if denied.is_some() || snapshots.iter().any(|snapshot| snapshot.identities().contains(parent)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of what was imported without its parent, which has come now: it is missed from here on.
    fn has_parent_now(&self, stage: &Stage, child: &Incoming) -> Result<()> {
        // One that is broken keeps nothing from being placed; `check` reports it.
        let Some(record) = ImportRecord::of(&child.target.path)? else { return Ok(()) };
        if !record.without_parent {
            return Ok(());
        }
        let staged = stage.path().join("record");
        fs::create_dir(&staged).context("create", &staged)?;
        ImportRecord { without_parent: false, ..record }.write(&staged)?;
        place_file(&self.destination, &staged.join(RECORD_FILE), &child.target.path.join(RECORD_FILE), true)?;
        fs::remove_dir_all(&staged).context("remove", &staged)
    }
}

/// A sync that failed ahead of time is not reported again by the next one.
fn finish_writeback(writeback: Arc<Writeback>, stage: &Stage) -> Result<()> {
    let in_use = || std::io::Error::other("the writeback thread is still in use");
    let finished = Arc::into_inner(writeback).ok_or_else(in_use).and_then(Writeback::finish);
    finished.context("fsync files in", stage.path())
}

/// The layers that will be asked for, in their order, as far as that can be told now.
fn layers_to_come(chain: &[BundledSnapshot], targets: &[Target]) -> Result<Vec<Descriptor>> {
    let mut layers: Vec<Descriptor> = Vec::new();
    let mut below: Option<&BundledSnapshot> = None;
    for (snapshot, target) in chain.iter().zip(targets).rev() {
        if !is_there(&target.path)? {
            let first = below.filter(|below| snapshot.extends(below)).map_or(0, |_| snapshot.config.stack_len() - 1);
            layers.extend(snapshot.manifest.layers[first..snapshot.config.stack_len()].iter().cloned());
        }
        below = Some(snapshot);
    }
    Ok(layers)
}

/// What the report says of an ancestor that was not imported, because the bundle leaves its layer out.
fn left_out(bundled: &BundledSnapshot) -> SnapshotReport {
    let mut report = SnapshotReport::of(&bundled.config, Some(bundled.descriptor.digest), None);
    report.outcome = Some(Outcome::Skipped);
    report
}

impl Incoming<'_> {
    fn report(&self, parent: Option<&Incoming>) -> SnapshotReport {
        let parent = parent.map(|p| p.brought.config.snapshot.digest);
        let mut report = SnapshotReport::of(self.brought.config, self.brought.manifest, parent);
        report.name = match (&self.target.place, &self.installed_name) {
            (Place::Member { name: Some(name), .. }, _) => name.to_string(),
            (Place::Member { id, name: None }, _) => id.clone(),
            (Place::Installed, Some(name)) => name.clone(),
            (Place::Folder | Place::Installed, _) => folder_name(&self.target.path),
        };
        report.path = Some(self.target.path.clone());
        report.outcome = Some(self.outcome);
        report.more_files = self.existing.iter().flat_map(|e| &e.more).map(ToString::to_string).collect();
        report
    }
}

/// What an installed snapshot is called: a member's local name, else its folder's.
fn local_name(directory: &Path) -> Result<String> {
    match visible(MemberFile::read(directory).map(Some))? {
        Some(MemberFile::Named(name)) => Ok(name.into()),
        _ => Ok(folder_name(directory)),
    }
}

fn folder_name(directory: &Path) -> String {
    directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

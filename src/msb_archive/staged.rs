//! What was unpacked becomes snapshot directories: each with its own copy of shared layers, exactly the files that its
//! descriptor names, and a file table, as an import or an export wants them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File, OpenOptions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use microsandbox_types::snapshot::{Manifest, OwnedVolumeData, SnapshotState, layer_path};

use super::{
    inventory::Problem,
    member::{Form, LABELS_FILE, Owner, Place},
    unpack::{Observed, Read, UnpackOptions},
};
use crate::{
    beneath::Folder,
    error::{Error, IoContext, Result},
    layer::{
        analyze::{Contents, FileView, contents},
        clone::{Beneath, clone_contents},
    },
    model::{FileRecord, LayerRecord, SnapshotConfig, SnapshotName, TarPath},
    progress::Progress,
    recorded::RecordedChecks,
    snapshot::{
        IntegrityAlgorithm, SNAPSHOT_FILE, Snapshot, SnapshotDescriptor, V066_FILE, closure, damage::Damage, scan,
    },
    store::vmdk,
};

/// A snapshot that came in an archive.
pub struct StagedSnapshot {
    /// What it is, and its files; without layers, for no blob holds them.
    pub config: SnapshotConfig,
    /// Its directory in the stage.
    pub directory: PathBuf,
    /// Its descriptor.
    pub descriptor: SnapshotDescriptor,
    /// Files of the image cache that came for it; VMDKs have their paths reduced.
    pub cache: Vec<FileRecord>,
    /// Where those are.
    pub cache_folder: PathBuf,
    /// What its files hold.
    contents: HashMap<TarPath, Contents>,
}

impl StagedSnapshot {
    /// What of it is not as its descriptor, or its checkpoint, says.
    ///
    /// # Errors
    /// What keeps it from looking.
    pub fn damages(&self, jobs: usize, progress: &dyn Progress) -> Result<Vec<Damage>> {
        let paths = self.config.files.iter().map(|row| (&row.path, &row.path));
        closure::verify_in(&self.descriptor, &Folder::open(&self.directory)?, paths, jobs, progress)
    }

    /// Whether `parent` is the snapshot that this one names as its parent.
    pub fn is_child_of(&self, parent: &Self) -> bool {
        let named = self.config.snapshot.parent.as_ref();
        named.is_some_and(|named| parent.config.snapshot.identities().contains(named))
    }
}

/// An archive, or several, as directories in a stage.
pub struct Staged {
    /// How messages name them.
    pub name: String,
    /// Head first, each before its parent.
    pub snapshots: Vec<StagedSnapshot>,
}

impl Staged {
    /// Several archives as one: a snapshot that is in two of them must be the same in both, and all are one chain.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`]; [`Error::Usage`] where they are several chains.
    pub fn merge(archives: Vec<Self>) -> Result<Self> {
        let names: Vec<String> = archives.iter().map(|archive| archive.name.clone()).collect();
        let mut left: Vec<StagedSnapshot> = Vec::new();
        for snapshot in archives.into_iter().flat_map(|archive| archive.snapshots) {
            let digest = snapshot.config.snapshot.digest;
            let Some(other) = left.iter_mut().find(|other| other.config.snapshot.digest == digest) else {
                left.push(snapshot);
                continue;
            };
            if other.config.files != snapshot.config.files {
                return Err(Error::bundle(names.join(", "), format!("they have different files for {digest}")));
            }
            if other.cache.is_empty() {
                (other.cache, other.cache_folder) = (snapshot.cache, snapshot.cache_folder);
            }
        }
        let mut snapshots = Vec::new();
        while !left.is_empty() {
            let Some(next) = left.iter().position(|one| !left.iter().any(|other| other.is_child_of(one))) else {
                return Err(Error::bundle(names.join(", "), "its snapshots are each other's parents"));
            };
            snapshots.push(left.remove(next));
        }
        if snapshots.windows(2).any(|pair| !pair[0].is_child_of(&pair[1])) {
            let text =
                format!("{} do not hold one chain of snapshots; name them one after the other", names.join(", "));
            return Err(Error::Usage(text));
        }
        Ok(Self { name: names.join(", "), snapshots })
    }

    /// That all files hold what descriptors and checkpoints say of them; without what descriptors record in the SHA forms
    /// if `skip_sha`.
    ///
    /// # Errors
    /// [`Error::RecordedIntegrity`]; [`Error::DamagedSnapshot`]; I/O.
    pub fn verify(&self, skip_sha: bool, jobs: usize, progress: &Arc<dyn Progress>) -> Result<()> {
        let checks = RecordedChecks::start(progress.clone())?;
        for snapshot in &self.snapshots {
            for recorded in &snapshot.descriptor.recorded {
                let path = snapshot.directory.join(&recorded.path);
                let Some(contents) = snapshot.contents.get(&recorded.path) else { continue };
                if !(skip_sha && recorded.algorithm != IntegrityAlgorithm::Merkle) {
                    let file = File::open(&path).context("open", &path)?;
                    // Where it is unpacked is of no use to anybody.
                    let shown = format!("{}: {}/{}", self.name, snapshot.config.snapshot.name, recorded.path);
                    checks.add(recorded, &file, shown.into(), contents)?;
                }
            }
        }
        for snapshot in &self.snapshots {
            if let Some(damage) = snapshot.damages(jobs, progress.as_ref())?.first() {
                return Err(damage.error(format!("{}: snapshot {}", self.name, snapshot.config.snapshot.name)));
            }
        }
        checks.finish()
    }
}

/// Makes directories of what was unpacked, whose problems have been looked at.
///
/// # Errors
/// [`Error::InvalidBundle`]: the descriptors and the files do not belong together.
pub(super) fn stage(mut read: Read, options: &UnpackOptions) -> Result<Staged> {
    let descriptors = std::mem::take(&mut read.descriptors);
    let mut parsed = BTreeMap::new();
    for (owner, bytes) in descriptors {
        let descriptor = describe(&read, &owner, bytes)?;
        parsed.insert(owner, descriptor);
    }
    let mut layers = Layers::of(&read, &parsed, options)?;
    let mut owned: BTreeMap<&Owner, Vec<(&TarPath, &Observed)>> = BTreeMap::new();
    for (name, member) in &read.members {
        let is_bound = match &member.place {
            Place::Snapshot(owner, path) => {
                owned.entry(owner).or_default().push((path, member));
                parsed.contains_key(owner)
            }
            Place::Layer(path) => layers.uses.contains_key(path),
            Place::Cache(_) | Place::Inventory => true,
        };
        if !is_bound {
            return Err(Error::bundle(&read.name, format!("{name} belongs to no snapshot of it")));
        }
    }
    let mut snapshots = Vec::new();
    for (owner, described) in parsed {
        let own = owned.remove(&owner).unwrap_or_default();
        let snapshot = directory(&read, &owner, described, &own, &mut layers, options)?;
        snapshots.push((owner, snapshot));
    }
    layers.finish()?;
    let mut snapshots = in_order(&read, snapshots)?;
    // The image is the head's.
    if let Some(head) = snapshots.first_mut() {
        head.cache = cache(&read, options)?;
    }
    Ok(Staged { name: read.name, snapshots })
}

/// A descriptor, and of a `final` one what the contract says beside.
pub(super) struct Described {
    pub descriptor: SnapshotDescriptor,
    pub manifest: Option<Manifest>,
    pub name: SnapshotName,
}

pub(super) fn describe(read: &Read, owner: &Owner, bytes: Vec<u8>) -> Result<Described> {
    let fail = |reason: String| Err(Error::bundle(format!("{}: snapshot {}", read.name, owner.as_str()), reason));
    let file = if read.form == Form::Early { V066_FILE } else { SNAPSHOT_FILE };
    let parsed = SnapshotDescriptor::parse(Path::new(file), &file.parse()?, bytes);
    let descriptor = match parsed {
        Ok(descriptor) => descriptor,
        Err(Error::InvalidDescriptor { reason, .. }) => return fail(format!("{file}: {reason}")),
        Err(error) => return Err(error),
    };
    let is_final = descriptor.id.is_some();
    if (read.form == Form::Current) != is_final {
        return fail(format!("its descriptor is of generation {}", descriptor.generation.as_str()));
    }
    if let Some(inventory) = &read.inventory {
        match inventory.members.get(owner.as_str()) {
            None => return fail("it is not listed".into()),
            Some(listed) if *listed != descriptor.digest => {
                return fail(format!("its descriptor is {}, listed is {listed}", descriptor.digest));
            }
            Some(_) => {}
        }
    }
    if descriptor.id.as_ref().is_some_and(|id| id != owner.as_str()) {
        return fail("its descriptor is another snapshot's".into());
    }
    let manifest = match is_final {
        false => None,
        true => match Manifest::from_bytes(&descriptor.bytes) {
            Ok(manifest) => Some(manifest),
            Err(error) => return fail(format!("{file}: {error}")),
        },
    };
    let name = name_of(read, owner, &descriptor)?;
    Ok(Described { descriptor, manifest, name })
}

/// What a snapshot is called: as the archive says, else by its identity.
fn name_of(read: &Read, owner: &Owner, descriptor: &SnapshotDescriptor) -> Result<SnapshotName> {
    let own = match read.form {
        Form::Released => format!("sha256-{}", &descriptor.digest.hex()[..16]),
        Form::Early | Form::Current => owner.as_str().into(),
    };
    let suggested = read.inventory.as_ref().and_then(|inventory| {
        let head = inventory.suggested_name.as_ref().filter(|_| inventory.head == owner.as_str());
        inventory.names.get(owner.as_str()).or(head)
    });
    match suggested.and_then(|name| name.parse().ok()) {
        Some(name) => Ok(name),
        None => own.parse(),
    }
}

/// Disk layers that wait to become files of the snapshots that name them.
struct Layers<'a> {
    read: &'a Read,
    folder: &'a Path,
    /// How many snapshots still need each.
    uses: BTreeMap<TarPath, usize>,
    options: &'a UnpackOptions<'a>,
}

impl<'a> Layers<'a> {
    fn of(read: &'a Read, parsed: &BTreeMap<Owner, Described>, options: &'a UnpackOptions<'a>) -> Result<Self> {
        let mut uses = BTreeMap::new();
        for described in parsed.values() {
            for path in layers_of(described)? {
                *uses.entry(path).or_default() += 1;
            }
        }
        Ok(Self { read, folder: options.folder, uses, options })
    }

    /// Gives a snapshot its own.
    fn take(&mut self, path: &TarPath, directory: &Path) -> Result<&'a Observed> {
        // It is called in the archive as in a snapshot's directory.
        let Some(observed) = self.read.members.get(path.as_str()) else {
            return Err(Error::bundle(&self.read.name, format!("{path} is missing")));
        };
        let (from, to) = (self.folder.join(observed.place.staged()), directory.join(path));
        create_folder_of(&to)?;
        let uses = self.uses.get_mut(path);
        match uses {
            Some(left) if *left > 1 => {
                *left -= 1;
                let mode = if observed.executable { 0o755 } else { 0o644 };
                let copy = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&to);
                let copy = copy.context("create", &to)?;
                let progress = self.options.progress;
                clone_contents(&Beneath::open(&from)?, &copy, &to, observed.size, &|bytes| {
                    progress.advance(bytes);
                    Ok(())
                })?;
            }
            _ => fs::rename(&from, &to).context("rename", &from)?,
        }
        Ok(observed)
    }

    fn finish(self) -> Result<()> {
        let shared = self.folder.join("shared");
        match fs::remove_dir_all(&shared) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &shared, error)),
            _ => Ok(()),
        }
    }
}

/// The layers of its root disk, which an archive holds once for all snapshots.
pub(super) fn layers_of(described: &Described) -> Result<Vec<TarPath>> {
    let Some(Manifest { state: SnapshotState::File(state), .. }) = &described.manifest else { return Ok(Vec::new()) };
    state.layers.iter().map(|layer| layer_path(&layer.layer_id, layer.format).to_string_lossy().parse()).collect()
}

fn create_folder_of(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).context("create", folder),
        None => Ok(()),
    }
}

/// Completes a snapshot's directory, and reads it as any other.
fn directory(
    read: &Read,
    owner: &Owner,
    described: Described,
    own: &[(&TarPath, &Observed)],
    layers: &mut Layers,
    options: &UnpackOptions,
) -> Result<StagedSnapshot> {
    let error = |reason: String| Error::bundle(format!("{}: snapshot {}", read.name, owner.as_str()), reason);
    let fail = |reason| Err(error(reason));
    let directory = options.folder.join("snapshots").join(owner.as_str());
    let mut found: HashMap<TarPath, (Contents, bool)> = HashMap::new();
    for (path, member) in own {
        if let Some(contents) = &member.contents {
            found.insert((*path).clone(), (contents.clone(), member.executable));
        }
    }
    for path in layers_of(&described)? {
        let observed = layers.take(&path, &directory)?;
        if let Some(contents) = &observed.contents
            && found.insert(path.clone(), (contents.clone(), observed.executable)).is_some()
        {
            return fail(format!("{path} is there twice"));
        }
    }
    if let Some(manifest) = &described.manifest {
        let named = named(manifest, &described.descriptor).map_err(error)?;
        let of_checkpoint = |path: &TarPath| {
            matches!(manifest.state, SnapshotState::Checkpoint(_)) && path.as_str().starts_with("checkpoint/")
        };
        if let Some(path) = found.keys().find(|path| !named.contains(path.as_str()) && !of_checkpoint(path)) {
            return fail(format!("its descriptor does not name {path}"));
        }
    }
    let Described { descriptor, name, .. } = described;
    // They are in no archive: the descriptor names those that must be there.
    for folder in descriptor.folders.iter().map(|folder| directory.join(folder)) {
        fs::create_dir_all(&folder).context("create", &folder)?;
    }
    let opened = Snapshot::open(&directory)?;
    if opened.descriptor.digest != descriptor.digest {
        return fail("its descriptor has changed while it was read".into());
    }
    let mut files = Vec::new();
    let mut contents = HashMap::new();
    for file in scan(&opened).map_err(|found| match found {
        Error::InvalidSnapshot { reason, .. } => error(reason),
        other => other,
    })? {
        let Some((held, executable)) = found.remove(&file.path) else {
            return fail(format!("{} came from nowhere", file.path));
        };
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(&file.absolute, fs::Permissions::from_mode(mode))
            .context("set the mode of", &file.absolute)?;
        files.push(FileRecord {
            path: file.path.clone(),
            executable,
            size: held.size,
            data_bytes: held.data_bytes,
            root: held.root,
        });
        contents.insert(file.path, held);
    }
    if let Some(path) = found.keys().next() {
        return fail(format!("{path} cannot be a file of a snapshot"));
    }
    let config = SnapshotConfig {
        schema_version: 1,
        snapshot: descriptor.record(name),
        files,
        layers: Vec::<LayerRecord>::new(),
    };
    let cache_folder = options.folder.join("cache");
    Ok(StagedSnapshot { config, directory, descriptor, cache: Vec::new(), cache_folder, contents })
}

/// The files that a descriptor names. Those of a full snapshot are named by its checkpoint, too.
fn named(manifest: &Manifest, descriptor: &SnapshotDescriptor) -> std::result::Result<HashSet<String>, String> {
    let mut named = HashSet::from([SNAPSHOT_FILE.to_owned(), LABELS_FILE.to_owned()]);
    named.extend(descriptor.payloads.iter().map(|(path, _)| path.to_string()));
    for volume in manifest.owned_volumes().map_err(|error| error.to_string())? {
        named.extend(volume.directory_payloads().iter().map(|(path, _)| path.to_string_lossy().into_owned()));
        match &volume.data {
            OwnedVolumeData::Disk { generation } => {
                named.extend(generation.layers.iter().map(|l| format!("layers/{}.{}", l.layer_id, l.format)));
            }
            OwnedVolumeData::Directory { files, .. } => {
                let folder = format!("owned/{}", volume.mount_id);
                named.extend(files.iter().map(|file| format!("{folder}/files/{}", file.digest)));
                named.insert(format!("{folder}/directory.bin"));
            }
        }
    }
    Ok(named)
}

/// Head first, each before its parent.
fn in_order(read: &Read, snapshots: Vec<(Owner, StagedSnapshot)>) -> Result<Vec<StagedSnapshot>> {
    let fail = |reason: &str| Err(Error::bundle(&read.name, reason));
    let mut left: Vec<(Owner, StagedSnapshot)> = snapshots;
    let heads: Vec<usize> =
        (0..left.len()).filter(|at| !left.iter().any(|(_, other)| other.is_child_of(&left[*at].1))).collect();
    let listed = read.inventory.as_ref().map(|inventory| &inventory.head);
    let head = match (listed, heads.as_slice()) {
        (None, [only]) => *only,
        (Some(head), _) => match left.iter().position(|(owner, _)| owner.as_str() == head) {
            Some(at) => at,
            None => return fail("its head is not in it"),
        },
        (None, []) => return fail("its snapshots are each other's parents"),
        (None, _) => return fail("it has several heads"),
    };
    let mut ordered = vec![left.swap_remove(head).1];
    // Oldest last: whatever is nobody's parent among those that are left comes next.
    while !left.is_empty() {
        let Some(last) = ordered.last() else { break };
        let next = left.iter().position(|(_, parent)| last.is_child_of(parent));
        match next {
            Some(at) => ordered.push(left.swap_remove(at).1),
            None => return fail("its snapshots are not one chain"),
        }
    }
    Ok(ordered)
}

/// The files of the image cache, VMDKs with their paths reduced.
fn cache(read: &Read, options: &UnpackOptions) -> Result<Vec<FileRecord>> {
    let mut files = Vec::new();
    for member in read.members.values() {
        let (Place::Cache(path), Some(held)) = (&member.place, &member.contents) else { continue };
        let staged = options.folder.join(member.place.staged());
        let mut record = FileRecord {
            path: path.clone(),
            executable: false,
            size: held.size,
            data_bytes: held.data_bytes,
            root: held.root,
        };
        if path.as_str().starts_with("vmdk/") {
            if record.size > vmdk::MAX_VMDK as u64 {
                return Err(Error::bundle(&read.name, format!("{path} is larger than {} bytes", vmdk::MAX_VMDK)));
            }
            let reduced = vmdk::reduce(&fs::read(&staged).context("read", &staged)?).map_err(|error| match error {
                Error::ImageCache { reason, .. } => Error::bundle(format!("{}: {path}", read.name), reason),
                other => other,
            })?;
            fs::write(&staged, &reduced).context("write", &staged)?;
            let file = File::open(&staged).context("open", &staged)?;
            let view = FileView { file: &file, path: &staged, size: reduced.len() as u64 };
            let (held, _) = contents(view, None, options.jobs, options.progress)?;
            record = FileRecord { size: held.size, data_bytes: held.data_bytes, root: held.root, ..record };
        }
        files.push(record);
    }
    Ok(files)
}

/// The first of several problems as an error.
pub(super) fn first(name: &str, problems: Vec<Problem>) -> Result<()> {
    match problems.into_iter().next() {
        None => Ok(()),
        Some(Problem { subject, reason }) => Err(Error::bundle(format!("{name}: {subject}"), reason)),
    }
}

//! Everything that a `final` snapshot consists of, verified as `msb snapshot verify` does: a checkpoint with its objects,
//! memory and disks; owned volumes; what qcow2 layers go over.
//!
//! Integrity that descriptors record for their own layers is not here: it is verified with the file table's roots.

mod disks;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::fs::OFlags;
use serde_json::Value;

use microsandbox_types::snapshot::{
    CheckpointSnapshotState, Manifest, SnapshotFormat, SnapshotState,
    owned::{OwnedVolumeCapture, OwnedVolumeData},
};

use super::{
    SnapshotDescriptor,
    checkpoint::{Checkpoint, MAX_EXECUTION_STATE, MAX_MANIFEST},
    damage::{Damage, DamageKind},
    device_state::{self, MAX_FRAME},
    integrity::sha256_of_file,
    qcow2::Header,
};
use crate::{
    beneath::Folder,
    digest::Digest,
    error::{IoContext, Result},
    layer::analyze::FileView,
    model::{Generation, TarPath},
    progress::Progress,
    workers,
};

/// The folder of a checkpoint, with what follows it.
pub const CHECKPOINT: &str = "checkpoint/";
/// The document that a checkpoint begins with.
pub const CHECKPOINT_FILE: &str = "checkpoint/checkpoint.json";
/// Folders whose every file is named by the descriptor or the checkpoint, where there is a checkpoint or an owned volume.
const CLOSED: [&str; 3] = [CHECKPOINT, "owned/", "layers/"];

/// A snapshot's files, open, by path.
pub type Members<'a> = BTreeMap<&'a TarPath, FileView<'a>>;

/// Whether there is more to verify of a snapshot than its file table and its recorded integrity.
pub fn has_closure(descriptor: &SnapshotDescriptor) -> bool {
    manifest(descriptor).is_some_and(|manifest| match &manifest.state {
        SnapshotState::Checkpoint(_) => true,
        SnapshotState::File(state) => {
            state.layers.iter().any(|layer| layer.format == SnapshotFormat::Qcow2) || !owned(&manifest).is_empty()
        }
    })
}

/// Verifies a snapshot's files, on `jobs` threads. Gives everything that is wrong.
///
/// # Errors
/// Only what keeps it from looking: [`crate::Error::Io`], [`crate::Error::SourceChanged`].
pub fn verify(
    descriptor: &SnapshotDescriptor,
    members: &Members,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<Damage>> {
    let Some(manifest) = manifest(descriptor) else { return Ok(Vec::new()) };
    let owned = owned(&manifest);
    let mut look = Look::new(members, jobs, progress);
    let closed = match &manifest.state {
        SnapshotState::File(state) => {
            look.stack(state)?;
            look.owned("", &owned)?;
            !owned.is_empty()
        }
        SnapshotState::Checkpoint(state) => look.checkpoint(state, &owned)?,
    };
    look.hash_all()?;
    look.check_frames()?;
    if closed {
        look.unreferenced()?;
    }
    Ok(look.damages)
}

/// As [`verify`], of the snapshot that messages call `snapshot`: the first thing that is wrong is an error.
///
/// # Errors
/// [`crate::Error::DamagedSnapshot`], and those of [`verify`].
pub fn require(
    descriptor: &SnapshotDescriptor,
    snapshot: &Path,
    members: &Members,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let damages = verify(descriptor, members, jobs, progress)?;
    damages.first().map_or(Ok(()), |damage| Err(damage.error(snapshot)))
}

/// As [`verify`], of files below a folder: their paths in the table, and in the folder.
///
/// # Errors
/// As [`verify`]; [`crate::Error::UnsafePath`] for what is no regular file.
pub fn verify_in<'a>(
    descriptor: &SnapshotDescriptor,
    folder: &Folder,
    paths: impl Iterator<Item = (&'a TarPath, &'a TarPath)>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<Damage>> {
    if !has_closure(descriptor) {
        return Ok(Vec::new());
    }
    let mut open = Vec::new();
    for (path, at) in paths.filter(|(path, _)| is_closed(path)) {
        let (file, full) = (folder.file(at, OFlags::RDONLY)?, folder.path().join(at));
        let size = file.metadata().context("look at", &full)?.len();
        open.push((path, file, full, size));
    }
    let view = |file, path, size| FileView { file, path, size };
    let members = open.iter().map(|(path, file, full, size)| (*path, view(file, full, *size))).collect();
    verify(descriptor, &members, jobs, progress)
}

/// Whether the descriptor says, through other documents or not, what this file holds.
pub fn binds(descriptor: &SnapshotDescriptor, path: &TarPath) -> bool {
    let bound = |text: &str| match text.strip_prefix(CHECKPOINT) {
        Some(inner) => !inner.starts_with("layers/"),
        None => text.starts_with("owned/"),
    };
    bound(path.as_str()) && has_closure(descriptor)
}

/// Whether a file's folder is one whose every file is named.
fn is_closed(path: &TarPath) -> bool {
    CLOSED.iter().any(|folder| path.as_str().starts_with(folder))
}

/// The descriptor's document; none if its generation has nothing to verify here.
fn manifest(descriptor: &SnapshotDescriptor) -> Option<Manifest> {
    // It has been parsed once, without error.
    (descriptor.generation == Generation::Final).then(|| serde_json::from_slice(&descriptor.bytes).ok()).flatten()
}

fn owned(manifest: &Manifest) -> Vec<OwnedVolumeCapture> {
    manifest.owned_volumes().unwrap_or_default()
}

/// A file that must have a digest.
struct Hash {
    path: TarPath,
    expected: Digest,
    kind: DamageKind,
}

struct Look<'a> {
    members: &'a Members<'a>,
    jobs: usize,
    progress: &'a dyn Progress,
    damages: Vec<Damage>,
    /// What is to be hashed, by path: the digest follows from it.
    hashes: BTreeMap<TarPath, Hash>,
    /// Roots and headers of disk layers, for a checkpoint may name one layer many times.
    roots: BTreeMap<TarPath, String>,
    headers: BTreeMap<TarPath, std::result::Result<Header, String>>,
    /// States of shared folders.
    frames: BTreeSet<TarPath>,
    /// What the descriptor or the checkpoint names.
    named: BTreeSet<TarPath>,
}

impl<'a> Look<'a> {
    fn new(members: &'a Members<'a>, jobs: usize, progress: &'a dyn Progress) -> Self {
        let (damages, hashes, roots, headers) = Default::default();
        let (frames, named) = Default::default();
        Self { members, jobs, progress, damages, hashes, roots, headers, frames, named }
    }

    fn damage(&mut self, kind: DamageKind, path: &TarPath, reason: impl Into<String>) {
        self.damages.push(Damage { kind, path: path.clone(), reason: reason.into() });
    }

    /// The file at `path`, which is named from here on; if it is not there, that is damage of this kind.
    fn member(&mut self, path: &TarPath, missing: DamageKind, by: &str) -> Option<FileView<'a>> {
        self.named.insert(path.clone());
        let found = self.members.get(path).copied();
        if found.is_none() {
            self.damage(missing, path, format!("it is not there, and {by} names it"));
        }
        found
    }

    /// The checkpoint, with all that it names. Whether all of that is known.
    fn checkpoint(&mut self, state: &CheckpointSnapshotState, owned: &[OwnedVolumeCapture]) -> Result<bool> {
        let path: TarPath = CHECKPOINT_FILE.parse()?;
        let Some(file) = self.member(&path, DamageKind::ObjectMissing, "the descriptor") else { return Ok(false) };
        let Some(bytes) = self.document(&path, file)? else { return Ok(false) };
        let digest = Digest::of(&bytes);
        if digest.to_string() != state.checkpoint_root {
            let reason = format!("its digest is {digest}, the descriptor says {}", state.checkpoint_root);
            self.damage(DamageKind::CheckpointRoot, &path, reason);
            return Ok(false);
        }
        // msb keeps the document among its objects too.
        self.named.insert(object(&digest));
        let checkpoint = match Checkpoint::parse(&bytes) {
            Ok(checkpoint) => checkpoint,
            Err(reason) => {
                self.damage(DamageKind::CheckpointInvalid, &path, reason);
                return Ok(false);
            }
        };
        if checkpoint.owned_volumes != owned {
            let reason = format!("its owned_volumes{}", difference(&checkpoint.owned_volumes, owned));
            self.damage(DamageKind::OwnedInventory, &path, reason);
        }
        self.owned(CHECKPOINT, &checkpoint.owned_volumes)?;
        self.object(&checkpoint.execution_state, Some(MAX_EXECUTION_STATE));
        for device in &checkpoint.devices {
            self.object(&device.state, device.limit());
            if device.is_shared_folder() {
                self.frames.insert(object(&device.state));
            }
        }
        let memory = self.memory(&checkpoint)?;
        let disks = self.disks(&checkpoint)?;
        Ok(memory && disks)
    }

    /// Whether the memory's objects are known.
    fn memory(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        let path = object(&checkpoint.memory);
        let Some(bytes) = self.object_document(&checkpoint.memory)? else { return Ok(false) };
        let memory = match checkpoint.parse_memory(&bytes) {
            Ok(memory) => memory,
            Err(reason) => {
                self.damage(DamageKind::CheckpointInvalid, &path, reason);
                return Ok(false);
            }
        };
        for (digest, least) in memory.objects() {
            let Some(file) = self.object(&digest, None) else { continue };
            if file.size < least {
                let reason = format!("it has {} bytes, the memory says at least {least}", file.size);
                // One finding is enough.
                self.hashes.remove(&object(&digest));
                self.damage(DamageKind::ObjectCorrupt, &object(&digest), reason);
            }
        }
        Ok(true)
    }

    /// Whether the disks' layers are known.
    fn disks(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        let (mut known, mut volumes) = (true, BTreeMap::new());
        for digest in &checkpoint.disks {
            let path = object(digest);
            let Some(bytes) = self.object_document(digest)? else {
                known = false;
                continue;
            };
            let disk = match checkpoint.parse_disk(&bytes) {
                Ok(disk) if volumes.contains_key(&disk.volume_id) => {
                    Err(format!("the checkpoint has the volume {} twice", disk.volume_id))
                }
                other => other,
            };
            match disk {
                Ok(disk) => {
                    self.generation(CHECKPOINT, &disk)?;
                    volumes.insert(disk.volume_id.clone(), disk);
                }
                Err(reason) => {
                    self.damage(DamageKind::CheckpointInvalid, &path, reason);
                    return Ok(false);
                }
            }
        }
        for volume in &checkpoint.owned_volumes {
            if let OwnedVolumeData::Disk { generation } = &volume.data
                && known
                && !volumes.values().any(|disk| disk == generation)
            {
                let reason = format!("the owned disk {} is none of its disks", volume.mount_id);
                self.damage(DamageKind::OwnedInventory, &CHECKPOINT_FILE.parse()?, reason);
            }
        }
        Ok(known)
    }

    /// An object, which will be hashed.
    fn object(&mut self, digest: &Digest, limit: Option<u64>) -> Option<FileView<'a>> {
        let path = object(digest);
        let file = self.member(&path, DamageKind::ObjectMissing, "the checkpoint")?;
        if let Some(limit) = limit.filter(|limit| file.size > *limit) {
            let reason = format!("it has {} bytes, over the limit of {limit}", file.size);
            self.damage(DamageKind::CheckpointInvalid, &path, reason);
        }
        let kind = DamageKind::ObjectCorrupt;
        self.hashes.insert(path.clone(), Hash { path, expected: *digest, kind });
        Some(file)
    }

    /// An object that is a document, if its bytes are those of its digest.
    fn object_document(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = object(digest);
        let Some(file) = self.member(&path, DamageKind::ObjectMissing, "the checkpoint") else { return Ok(None) };
        let Some(bytes) = self.document(&path, file)? else { return Ok(None) };
        let actual = Digest::of(&bytes);
        if actual != *digest {
            self.damage(DamageKind::ObjectCorrupt, &path, format!("its digest is {actual}, its name says {digest}"));
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    fn document(&mut self, path: &TarPath, file: FileView) -> Result<Option<Vec<u8>>> {
        if file.size > MAX_MANIFEST {
            let reason = format!("it has {} bytes, over the limit of {MAX_MANIFEST}", file.size);
            self.damage(DamageKind::CheckpointInvalid, path, reason);
            return Ok(None);
        }
        beginning(file, MAX_MANIFEST).map(Some)
    }

    /// Owned volumes, their files below `root`.
    fn owned(&mut self, root: &str, volumes: &[OwnedVolumeCapture]) -> Result<()> {
        for volume in volumes {
            if let OwnedVolumeData::Disk { generation } = &volume.data
                && root.is_empty()
            {
                // A checkpoint's are among its disks.
                self.generation(root, generation)?;
            }
            for (path, payload) in volume.directory_payloads() {
                let path: TarPath = format!("{root}{}", path.display()).parse()?;
                let Some(file) = self.member(&path, DamageKind::OwnedMissing, "the owned volume") else { continue };
                if file.size != payload.bytes {
                    let reason = format!("it has {} bytes, the owned volume says {}", file.size, payload.bytes);
                    self.damage(DamageKind::OwnedCorrupt, &path, reason);
                    continue;
                }
                let Ok(expected) = format!("sha256:{}", payload.digest).parse() else { continue };
                let kind = DamageKind::OwnedCorrupt;
                self.hashes.insert(path.clone(), Hash { path, expected, kind });
            }
        }
        Ok(())
    }

    /// Hashes everything that must have a digest, several files at once.
    fn hash_all(&mut self) -> Result<()> {
        let hashes: Vec<Hash> = std::mem::take(&mut self.hashes).into_values().collect();
        let files: Vec<(Hash, FileView)> = hashes
            .into_iter()
            .filter_map(|hash| {
                let file = *self.members.get(&hash.path)?;
                Some((hash, file))
            })
            .collect();
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Ok(Vec::new())));
        let (progress, members) = (self.progress, &files);
        let work = || {
            while let Some((hash, file)) = members.get(next.fetch_add(1, Ordering::Relaxed)) {
                let actual = sha256_of_file(file.file, file.path, file.size, &mut |bytes| progress.advance(bytes));
                let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
                match (actual, &mut *found) {
                    (Ok(actual), Ok(found)) if actual != hash.expected.hex() => {
                        let reason = format!("its digest is sha256:{actual}, it should be {}", hash.expected);
                        found.push(Damage { kind: hash.kind, path: hash.path.clone(), reason });
                    }
                    (Err(error), Ok(_)) => *found = Err(error),
                    (_, Err(_)) => return,
                    _ => {}
                }
            }
        };
        workers::run(self.jobs.min(files.len()), work);
        let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner())?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        self.damages.extend(found);
        Ok(())
    }

    /// States of shared folders that are what they are called must also be what msb decodes.
    fn check_frames(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.frames) {
            let Some(file) = self.members.get(&path).copied() else { continue };
            if self.damages.iter().all(|damage| damage.path != path)
                && let Err(reason) = device_state::check(&beginning(file, MAX_FRAME)?, file.size)
            {
                self.damage(DamageKind::CheckpointInvalid, &path, reason);
            }
        }
        Ok(())
    }

    /// Files that nothing names. An object that nothing names is one that msb has left behind, if it is what it is called.
    fn unreferenced(&mut self) -> Result<()> {
        let members = self.members;
        let named = std::mem::take(&mut self.named);
        for path in members.keys().filter(|path| is_closed(path) && !named.contains(**path)) {
            match digest_of_object(path) {
                Some(expected) => {
                    let (path, kind) = (TarPath::clone(path), DamageKind::ObjectCorrupt);
                    self.hashes.insert(path.clone(), Hash { path, expected, kind });
                }
                None => {
                    let reason = "neither the descriptor nor the checkpoint names it; move it away";
                    self.damage(DamageKind::Unreferenced, path, reason);
                }
            }
        }
        self.hash_all()
    }
}

/// The first bytes of a file, at most `most`.
fn beginning(file: FileView, most: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; file.size.min(most) as usize];
    file.file.read_exact_at(&mut bytes, 0).context("read", file.path)?;
    Ok(bytes)
}

/// Where an object is.
pub(super) fn object(digest: &Digest) -> TarPath {
    let hex = digest.hex();
    format!("checkpoint/objects/sha256/{}/{hex}", &hex[..2]).parse().expect("hex digits make a path")
}

/// The digest that an object is named by.
fn digest_of_object(path: &TarPath) -> Option<Digest> {
    let (_, name) = path.as_str().rsplit_once('/')?;
    let digest: Digest = format!("sha256:{name}").parse().ok()?;
    (object(&digest) == *path).then_some(digest)
}

/// Where two inventories of owned volumes differ, with both values.
fn difference(own: &[OwnedVolumeCapture], descriptor: &[OwnedVolumeCapture]) -> String {
    let value = |volumes| serde_json::to_value::<&[OwnedVolumeCapture]>(volumes).unwrap_or_default();
    let (mut own, mut descriptor, mut at) = (&value(own), &value(descriptor), String::new());
    loop {
        let next = match (own, descriptor) {
            (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
                a.iter().find(|(key, value)| b[*key] != **value).map(|(key, value)| (key.clone(), value, &b[key]))
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).enumerate().find(|(_, (a, b))| a != b).map(|(i, (a, b))| (i.to_string(), a, b))
            }
            _ => None,
        };
        let Some((key, a, b)) = next else { break };
        at += &format!("/{key}");
        (own, descriptor) = (a, b);
    }
    let short = |value: &Value| match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        other => other.to_string().chars().take(200).collect(),
    };
    format!("{at} is {}, the descriptor says {}", short(own), short(descriptor))
}

//! What an archive leaves out is taken from other archives of the same command, and from snapshots of the store: by its
//! identity, as msb has it, and never without the checks that everything else in the archive passes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use microsandbox_types::snapshot::{
    Manifest, SnapshotState,
    disk::{DiskGenerationManifest, ObjectId},
    layer_path,
};
use rustix::fs::OFlags;
use serde::Deserialize;

use super::{
    dependencies::{Missing, checkpoint_layer_identity, layer_identity, memory_identity, owned_identities},
    member::{CHECKPOINT, Form, Member, Place},
    unpack::{Observed, Read, UnpackOptions},
};
use crate::{
    beneath::Folder,
    error::{Error, IoContext, Result},
    layer::{
        analyze::{FileView, contents},
        clone::{Beneath, clone_contents},
    },
    snapshot::{SNAPSHOT_FILE, Snapshot},
};

/// Largest object that is read for what it says of disks.
const MAX_DOCUMENT: u64 = 8 << 20;

/// Files by their identity: folder and path below it.
#[derive(Default)]
pub(super) struct Offers {
    by_identity: HashMap<String, Vec<(PathBuf, PathBuf)>>,
    /// Folders of objects, which are looked for by name.
    objects: Vec<PathBuf>,
    /// Why something that is offered could not be looked at.
    denied: Option<String>,
}

impl Offers {
    /// Adds what an archive holds.
    pub fn add_archive(&mut self, read: &Read, folder: &Path) {
        if read.form != Form::Current {
            return;
        }
        for (owner, bytes) in &read.descriptors {
            // What is no descriptor is refused elsewhere.
            let Ok(manifest) = Manifest::from_bytes(bytes) else { continue };
            let directory = folder.join("snapshots").join(owner.as_str());
            self.add(&manifest, &directory, &folder.join("shared"));
        }
    }

    /// Adds what a snapshot of a store holds.
    pub fn add_snapshot(&mut self, snapshot: &Snapshot) {
        if snapshot.descriptor.file.as_str() == SNAPSHOT_FILE
            && let Ok(manifest) = Manifest::from_bytes(&snapshot.descriptor.bytes)
        {
            self.add(&manifest, &snapshot.directory, &snapshot.directory);
        }
    }

    fn offer(&mut self, identity: String, folder: &Path, path: impl Into<PathBuf>) {
        self.by_identity.entry(identity).or_default().push((folder.to_path_buf(), path.into()));
    }

    /// `layers` is the folder with the layers of root disks.
    fn add(&mut self, manifest: &Manifest, directory: &Path, layers: &Path) {
        let root = match &manifest.state {
            SnapshotState::File(state) => {
                for layer in &state.layers {
                    self.offer(layer_identity(layer), layers, layer_path(&layer.layer_id, layer.format));
                }
                directory.to_path_buf()
            }
            SnapshotState::Checkpoint(_) => {
                let root = directory.join(CHECKPOINT);
                self.objects.push(root.join("objects/sha256"));
                for generation in disks(&root, &mut self.denied) {
                    for layer in &generation.layers {
                        let path = format!("layers/{}.{}", layer.layer_id, layer.format);
                        self.offer(checkpoint_layer_identity(layer), &root, path);
                    }
                }
                root
            }
        };
        for volume in manifest.owned_volumes().unwrap_or_default() {
            for (identity, path) in owned_identities(&volume) {
                self.offer(identity, &root, path);
            }
        }
    }

    /// The file that is missing, open, if any of them has it.
    fn find(&self, missing: &Missing) -> Result<Option<Beneath>> {
        // An archive may name what it leaves out itself.
        for (folder, path) in self.by_identity.get(&missing.identity).into_iter().flatten() {
            if let Some(found) = open_if_there(folder, path)? {
                return Ok(Some(found));
            }
        }
        let name = missing.path.rsplit('/').next().unwrap_or_default();
        if missing.identity != memory_identity(name) || name.len() < 2 {
            return Ok(None);
        }
        let path = Path::new(&name[..2]).join(name);
        for folder in &self.objects {
            if let Some(found) = open_if_there(folder, &path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn open_if_there(folder: &Path, path: &Path) -> Result<Option<Beneath>> {
    let opened = match Folder::open(folder).and_then(|folder| folder.file(path, OFlags::RDONLY)) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Beneath { file: opened, path: folder.join(path) }))
}

/// The disks of a checkpoint, as far as they can be read: what is offered is checked where it is used.
fn disks(root: &Path, denied: &mut Option<String>) -> Vec<DiskGenerationManifest> {
    #[derive(Deserialize)]
    struct Checkpoint {
        disks: Vec<ObjectId>,
    }
    let mut read = |path: &str| -> Option<Vec<u8>> {
        let file = match Folder::open(root).and_then(|folder| folder.file(path, OFlags::RDONLY)) {
            Ok(file) => file,
            Err(error) if error.is_denied() => {
                denied.get_or_insert_with(|| error.to_string());
                return None;
            }
            Err(_) => return None,
        };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= MAX_DOCUMENT).then_some(bytes)
    };
    let Some(checkpoint) = read("checkpoint.json").and_then(|bytes| serde_json::from_slice::<Checkpoint>(&bytes).ok())
    else {
        return Vec::new();
    };
    let mut object = |id: &ObjectId| {
        let bytes = read(&format!("objects/sha256/{}/{}", &id.hex()[..2], id.hex()))?;
        DiskGenerationManifest::from_bytes(&bytes).ok()
    };
    checkpoint.disks.iter().filter_map(&mut object).collect()
}

/// Takes in everything that the archive leaves out.
///
/// # Errors
/// [`Error::DependenciesMissing`]: nobody has it. [`Error::InvalidBundle`]: what was found is not of the size that is
/// listed.
pub(super) fn complete(read: &mut Read, offers: &Offers, options: &UnpackOptions) -> Result<()> {
    let Some(inventory) = &read.inventory else { return Ok(()) };
    let Some(dependencies) = &inventory.dependencies else { return Ok(()) };
    let sizes: BTreeMap<&str, u64> =
        inventory.entries.iter().map(|entry| (entry.path.as_str(), entry.apparent_size)).collect();
    let (mut found, mut lacking) = (Vec::new(), Vec::new());
    for missing in dependencies.missing(&inventory.head) {
        match offers.find(&missing)? {
            Some(from) => found.push((missing, from)),
            None => lacking.push(missing.path),
        }
    }
    if let (false, Some(reason)) = (lacking.is_empty(), &offers.denied) {
        let what = format!("what {} leaves out ({})", read.name, lacking.join(", "));
        return Err(Error::MayBeHidden { what, reason: reason.clone() });
    }
    if !lacking.is_empty() {
        return Err(Error::DependenciesMissing { archive: read.name.clone(), missing: lacking });
    }
    for (missing, from) in found {
        let expected = sizes.get(missing.path.as_str()).copied().unwrap_or_default();
        let member = take(&missing, &from, expected, options).map_err(|reason| match reason {
            Taken::Unfit(reason) => Error::bundle(format!("{}: {}", read.name, missing.path), reason),
            Taken::Failed(error) => error,
        })?;
        read.members.insert(missing.path, member);
    }
    Ok(())
}

/// Why a file was not taken in.
enum Taken {
    Unfit(String),
    Failed(Error),
}

impl From<Error> for Taken {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn take(
    missing: &Missing,
    from: &Beneath,
    expected: u64,
    options: &UnpackOptions,
) -> std::result::Result<Observed, Taken> {
    let Member { kind, place, .. } = Member::parse(&missing.path).map_err(Taken::Unfit)?;
    if matches!(place, Place::Inventory | Place::Cache(_)) {
        return Err(Taken::Unfit("it is nothing that an archive may leave out".into()));
    }
    let size = from.file.metadata().context("stat", &from.path)?.len();
    // Of a qcow2 layer, msb lists the size of the disk that it holds.
    let is_listed = kind != "file-payload" || !missing.path.ends_with(".qcow2");
    if is_listed && size != expected {
        return Err(Taken::Unfit(format!("{} has {size} bytes, listed are {expected}", from.path.display())));
    }
    let path = options.folder.join(place.staged());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context("create", folder)?;
    }
    let to =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&path).context("create", &path)?;
    let copied = |bytes| {
        options.progress.advance(bytes);
        Ok(())
    };
    clone_contents(from, &to, &path, size, &copied)?;
    let held = held(&to, &path, size, options)?;
    Ok(Observed { kind, place, size, executable: false, sha256: None, copies: Vec::new(), contents: Some(held) })
}

fn held(file: &File, path: &Path, size: u64, options: &UnpackOptions) -> Result<crate::layer::analyze::Contents> {
    Ok(contents(FileView { file, path, size }, None, options.jobs, options.progress)?.0)
}

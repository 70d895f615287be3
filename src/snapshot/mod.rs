//! Snapshot directories: their descriptors in three generations, the integrity that these record, their files.

mod checkpoint;
pub mod closure;
pub mod damage;
mod device_state;
mod field;
mod final_;
mod flat;
pub mod integrity;
pub mod labels;
pub mod migrated;
mod qcow2;
pub mod scan;
pub mod size;
#[cfg(test)]
mod tests;
mod v066;

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, retry_on_intr},
};

use migrated::Migrated;
pub use scan::{SourceFile, scan};

use crate::{
    digest::{Digest, parse_hex32},
    error::{Error, IoContext, Result},
    model::{
        Generation, ImageRecord, SnapshotIdentity, SnapshotName, SnapshotRecord, TarPath, json::reject_duplicate_keys,
    },
};

/// The descriptor of a `v066` snapshot.
pub const V066_FILE: &str = "manifest.json";
/// The descriptor of every later snapshot.
pub const SNAPSHOT_FILE: &str = "snapshot.json";
/// Where a migration leaves the descriptor of a `v066` snapshot.
const RETIRED_FILE: &str = ".manifest.json.legacy";
/// Where a migration leaves the disk of a snapshot with one layer.
pub const MIGRATED_DISK: &str = "upper.ext4";
/// A group's mark: the directory that holds it holds members.
pub const GROUP_FILE: &str = "group.json";
/// Holds a member's local alias.
pub const MEMBER_FILE: &str = "group-member.json";
/// Largest descriptor that is read: the limit of the published contract.
pub const MAX_DESCRIPTOR: u64 = 1 << 20;

/// An integrity value that a descriptor records for one of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedIntegrity {
    /// The file.
    pub path: TarPath,
    /// How it is computed.
    pub algorithm: IntegrityAlgorithm,
    /// The value as the descriptor spells it, without an algorithm prefix: 64 lowercase hex digits.
    pub value: String,
}

/// The algorithms in use (DESIGN section 3 of the format's notes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegrityAlgorithm {
    /// Plain SHA-256 of the file's bytes.
    Sha256,
    /// `msb-sparse-sha256-v1`.
    SparseSha256,
    /// `msb-file-merkle-blake3-v1`.
    Merkle,
}

impl IntegrityAlgorithm {
    /// Its name in descriptors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::SparseSha256 => "msb-sparse-sha256-v1",
            Self::Merkle => "msb-file-merkle-blake3-v1",
        }
    }
}

/// What a descriptor says, whatever its generation.
#[derive(Clone, Debug)]
pub struct SnapshotDescriptor {
    /// The contract it follows.
    pub generation: Generation,
    /// `manifest.json` or `snapshot.json`.
    pub file: TarPath,
    /// The bytes as found on disk.
    pub bytes: Vec<u8>,
    /// SHA-256 of the canonical bytes.
    pub digest: Digest,
    /// The `snapshot_id` of a `final` snapshot.
    pub id: Option<String>,
    /// The parent.
    pub parent: Option<SnapshotIdentity>,
    /// The pinned image.
    pub image: Option<ImageRecord>,
    /// When it was captured.
    pub created_at: Option<String>,
    /// `raw` or `qcow2`.
    pub format: String,
    /// The head disk's logical size.
    pub virtual_size: u64,
    /// The head disk's file; none for a snapshot without a file state.
    pub disk: Option<TarPath>,
    /// Every payload file that must be there, with its size where the descriptor states the file's size (raw disks).
    pub payloads: Vec<(TarPath, Option<u64>)>,
    /// Integrity that it records.
    pub recorded: Vec<RecordedIntegrity>,
    /// `requires` that we do not know: carried and said.
    pub unknown_requires: Vec<String>,
    /// How many layers the disk has; none for a snapshot without a file state.
    pub layers: usize,
    /// What it becomes when msb 0.7 migrates it; none in `final`.
    pub migrated: Option<Migrated>,
    /// Folders that must be there even where they are empty.
    pub folders: Vec<TarPath>,
    /// Whether the root disk is the whole filesystem: of the image only its metadata is needed then.
    pub flat_root: bool,
}

/// A snapshot directory on disk.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it is.
    pub directory: PathBuf,
    /// The name it goes by: the directory's name, or for a `final` member its alias (else its id).
    pub name: String,
    /// The group's name, for a `final` snapshot in a group.
    pub group: Option<String>,
    /// Its descriptor.
    pub descriptor: SnapshotDescriptor,
}

impl Snapshot {
    /// How another snapshot names this one as its parent.
    pub fn identities(&self) -> Vec<SnapshotIdentity> {
        let SnapshotDescriptor { digest, id, disk, .. } = &self.descriptor;
        SnapshotIdentity::all_of(digest, id.as_deref(), disk.as_ref())
    }

    /// Whether it is what `original` became, as far as that can be told: its id says so, and the older descriptor that a
    /// migration leaves, if it can be read.
    pub fn was(&self, original: Digest) -> bool {
        if self.descriptor.original() != Some(original) {
            return false;
        }
        let left = [V066_FILE, RETIRED_FILE].iter().find_map(|file| {
            let path = self.directory.join(file);
            let Ok(Small::Bytes(bytes)) = read_small(&path) else { return None };
            SnapshotDescriptor::parse(&path, &V066_FILE.parse().ok()?, bytes).ok()
        });
        left.is_none_or(|old| old.digest == original && old.is_same_snapshot(&self.descriptor))
    }

    /// Whether `directory` holds a descriptor, or may hold one: what cannot be looked at counts.
    pub fn is_at(directory: &Path) -> bool {
        [V066_FILE, SNAPSHOT_FILE].iter().any(|file| is_there(&directory.join(file)).unwrap_or(true))
    }

    /// The snapshot at `directory`, if there is one and it is not broken.
    ///
    /// # Errors
    /// [`Error::Io`]: a failing disk or the want of a right hides it.
    pub fn of(directory: &Path) -> Result<Option<Self>> {
        seen(Self::open(directory).map(Some))
    }

    /// Reads the snapshot directory at `directory`.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no directory; [`Error::NoSnapshot`] where it has no descriptor;
    /// [`Error::InvalidSnapshot`] where it has two, or one that is no regular file; [`Error::InvalidDescriptor`].
    pub fn open(directory: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidSnapshot { directory: directory.into(), reason };
        match std::fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(Error::io("read", directory, e));
            }
            _ => {
                let hint = String::new();
                return Err(Error::NotFound { what: "snapshot directory", path: directory.into(), hint });
            }
        }
        let there = |name: &str| is_there(&directory.join(name));
        let descriptor = match (there(V066_FILE)?, there(SNAPSHOT_FILE)?) {
            (true, false) => SnapshotDescriptor::read(directory, V066_FILE)?,
            (false, true) => SnapshotDescriptor::read(directory, SNAPSHOT_FILE)?,
            (true, true) => {
                let descriptor = SnapshotDescriptor::read(directory, SNAPSHOT_FILE)?;
                let migrated = SnapshotDescriptor::read(directory, V066_FILE)?.migrated;
                // A migration publishes the new descriptor before it takes the old one away.
                if migrated.is_none_or(|migrated| migrated.digest != descriptor.digest) {
                    let reason = "it has both manifest.json and snapshot.json, and one is not the other one migrated";
                    return Err(invalid(reason.into()));
                }
                descriptor
            }
            (false, false) => return Err(Error::NoSnapshot { directory: directory.into() }),
        };

        // `.` and `x/..` have no name of their own.
        let mut named = std::path::absolute(directory).context("resolve", directory)?;
        if named.file_name().is_none() {
            named = directory.canonicalize().context("resolve", directory)?;
        }
        let name_of = |path: Option<&Path>| path.and_then(Path::file_name).and_then(|n| n.to_str()).map(str::to_owned);
        let mut name = name_of(Some(&named)).ok_or_else(|| invalid("its name is not UTF-8".into()))?;
        let mut group = None;
        if let Some(id) = &descriptor.id {
            group = match named.parent() {
                Some(parent) if visible(is_regular(&parent.join(GROUP_FILE)))? => name_of(Some(parent)),
                _ => None,
            };
            match visible(alias(directory))? {
                Some(alias) => name = alias,
                None if group.is_some() => name.clone_from(id),
                None => {}
            }
        }
        Ok(Self { directory: directory.into(), name, group, descriptor })
    }
}

impl SnapshotDescriptor {
    /// As a config records it, with the name that the snapshot goes by.
    pub fn record(&self, name: SnapshotName) -> SnapshotRecord {
        SnapshotRecord {
            generation: self.generation,
            digest: self.digest,
            id: self.id.clone(),
            name,
            parent: self.parent.clone(),
            created_at: self.created_at.clone(),
            image: self.image.clone(),
            format: self.format.clone(),
            virtual_size: self.virtual_size,
            descriptor: self.file.clone(),
            disk: self.disk.clone(),
        }
    }

    /// Whether both describe one snapshot: they have one digest, or one is what msb makes of the other.
    pub fn is_same_snapshot(&self, other: &Self) -> bool {
        let becomes = |one: &Self, two: &Self| one.migrated.as_ref().is_some_and(|one| one.digest == two.digest);
        self.digest == other.digest || becomes(self, other) || becomes(other, self)
    }

    /// Whether it can be the snapshot of a bundle's record, which a comparison then has to show: by its digest, or by what
    /// it was or will be on the other side of a migration.
    pub fn may_be(&self, record: &SnapshotRecord) -> bool {
        let digest = Some(record.digest);
        Some(self.digest) == digest || self.migrated.as_ref().map(|m| m.digest) == digest || self.original() == digest
    }

    /// The digest that it had before it was migrated, if it was.
    pub fn original(&self) -> Option<Digest> {
        SnapshotIdentity::original(self.id.as_deref(), self.disk.as_ref())
    }

    /// The file of the only layer of a `final` snapshot's disk.
    pub fn only_layer(&self) -> Option<&TarPath> {
        self.disk.as_ref().filter(|_| self.generation == Generation::Final && self.layers == 1)
    }

    /// Reads the descriptor `file` of `directory`.
    fn read(directory: &Path, file: &str) -> Result<Self> {
        let path = directory.join(file);
        let bytes = match read_small(&path)? {
            Small::Bytes(bytes) => bytes,
            Small::Irregular => {
                let reason = format!("its {file} is not a regular file");
                return Err(Error::InvalidSnapshot { directory: directory.into(), reason });
            }
            Small::TooLarge => {
                let reason = format!("it is larger than {MAX_DESCRIPTOR} bytes");
                return Err(Error::InvalidDescriptor { path, reason });
            }
        };
        Self::parse(&path, &file.parse()?, bytes)
    }

    /// Parses the descriptor `bytes` of the file `file`, found at `file_path`, strictly: an unknown or duplicate key or a
    /// wrong type is an error; a `requires` that we do not know is not, it is carried.
    ///
    /// # Errors
    /// [`Error::InvalidDescriptor`] that names the file and the field.
    pub fn parse(file_path: &Path, file: &TarPath, bytes: Vec<u8>) -> Result<Self> {
        Self::parse_inner(file, bytes).map_err(|reason| Error::InvalidDescriptor { path: file_path.into(), reason })
    }

    fn parse_inner(file: &TarPath, bytes: Vec<u8>) -> std::result::Result<Self, String> {
        if bytes.len() as u64 > MAX_DESCRIPTOR {
            return Err(format!("it is larger than {MAX_DESCRIPTOR} bytes"));
        }
        reject_duplicate_keys(&bytes)?;
        match file.as_str() {
            V066_FILE => v066::parse(file, bytes),
            SNAPSHOT_FILE => {
                /// Only what tells the generations apart.
                #[derive(serde::Deserialize)]
                struct Probe {
                    schema: serde_json::Value,
                }
                let Probe { schema } = field::decode(&bytes)?;
                if schema.as_u64() == Some(1) {
                    flat::parse(file, bytes)
                } else if schema == microsandbox_types::snapshot::SCHEMA {
                    final_::parse(file, bytes)
                } else {
                    Err(format!("schema: {schema} is neither 1 nor \"{}\"", microsandbox_types::snapshot::SCHEMA))
                }
            }
            other => Err(format!("no snapshot descriptor is named {other}")),
        }
    }
}

/// The local alias of a group's member; none where there is none or it is no name, for it is only a convenience.
///
/// # Errors
/// [`Error::Io`]: it cannot be told, and the snapshot would go by another name.
pub(crate) fn alias(directory: &Path) -> Result<Option<String>> {
    let path = directory.join(MEMBER_FILE);
    let bytes = match read_small(&path) {
        Ok(Small::Bytes(bytes)) => bytes,
        Ok(Small::Irregular | Small::TooLarge) => return Ok(None),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let alias = |value: serde_json::Value| {
        let alias = value.get("alias").or_else(|| value.get("name"))?.as_str()?;
        alias.parse::<crate::model::SnapshotName>().ok().map(String::from)
    };
    Ok(serde_json::from_slice(&bytes).ok().and_then(alias))
}

/// Whether a regular file is at `path`, or at the end of a link.
///
/// # Errors
/// As [`is_there`].
pub fn is_regular(path: &Path) -> Result<bool> {
    Ok(kind_of(path)?.is_some_and(|kind| kind.is_file()))
}

/// Whether a folder is at `path`, or at the end of a link.
///
/// # Errors
/// As [`is_there`].
pub fn is_folder(path: &Path) -> Result<bool> {
    Ok(kind_of(path)?.is_some_and(|kind| kind.is_dir()))
}

/// What is at `path`, or at the end of a link.
fn kind_of(path: &Path) -> Result<Option<std::fs::FileType>> {
    match path.metadata() {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        // What is too long for a name is none.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename) => {
            Ok(None)
        }
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

/// Whether there is something at `path`, be it a symlink.
///
/// # Errors
/// [`Error::Io`]: it cannot be told, for want of a right or because of a failing disk.
pub fn is_there(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

/// What is seen; nothing where there is nothing. What is gone or a link to itself counts as absent, whereas a failing disk
/// may hide anything, and so may a folder that is not ours to read.
///
/// # Errors
/// The look's, if it hides something.
pub(crate) fn seen<T: Default>(look: Result<T>) -> Result<T> {
    look.or_else(|error| if hides(&error) { Err(error) } else { Ok(T::default()) })
}

/// As [`seen`], where what is not ours to read is nothing to us: a name for people, a folder of somebody else.
///
/// # Errors
/// The look's, if a failing disk hides something.
pub(crate) fn visible<T: Default>(look: Result<T>) -> Result<T> {
    seen(look).or_else(|error| if error.is_denied() { Ok(T::default()) } else { Err(error) })
}

/// Whether something may be there that could not be seen.
pub(crate) fn hides(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. }
        if !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
            && source.raw_os_error() != Some(Errno::LOOP.raw_os_error()))
}

enum Small {
    Bytes(Vec<u8>),
    Irregular,
    TooLarge,
}

/// Reads a file of at most [`MAX_DESCRIPTOR`] bytes; a symlink is not followed, a fifo is not waited for.
fn read_small(path: &Path) -> Result<Small> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP | Errno::NXIO) => return Ok(Small::Irregular),
        Err(error) => return Err(Error::io("open", path, error.into())),
    };
    if !file.metadata().context("read", path)?.is_file() {
        return Ok(Small::Irregular);
    }
    let mut bytes = Vec::new();
    file.take(MAX_DESCRIPTOR + 1).read_to_end(&mut bytes).context("read", path)?;
    Ok(if bytes.len() as u64 > MAX_DESCRIPTOR { Small::TooLarge } else { Small::Bytes(bytes) })
}

/// A contract's error without the words that our own message has.
fn plain(error: &microsandbox_types::SnapshotManifestError) -> String {
    let microsandbox_types::SnapshotManifestError::ManifestParse(text) = error;
    text.strip_prefix("snapshot descriptor: ").unwrap_or(text).to_owned()
}

/// The hex digits of a qualified digest such as `sha256:...` or `blake3:...`.
fn unqualified(value: &str) -> Option<String> {
    let (_, hex) = value.split_once(':')?;
    parse_hex32(hex).map(hex::encode)
}

//! Snapshot directories: their descriptors in three generations, the integrity that these record, their files.

use std::path::{Path, PathBuf};

use crate::{
    digest::Digest,
    error::Result,
    model::{Generation, ImageRecord, SnapshotIdentity, TarPath},
};

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
        let mut all = vec![SnapshotIdentity::Digest(self.descriptor.digest)];
        all.extend(self.descriptor.id.clone().map(SnapshotIdentity::Id));
        all
    }

    /// Reads the snapshot directory at `directory`.
    pub fn open(_directory: &Path) -> Result<Self> {
        unreachable!("replaced by the snapshot module's owner")
    }
}

//! What is wrong with a snapshot's files beyond the integrity that its descriptor records.

use std::path::Path;

use crate::{error::Error, model::TarPath};

/// A kind of damage; each has a stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamageKind {
    /// `checkpoint.json` is not the document that the descriptor names.
    CheckpointRoot,
    /// A document of a checkpoint breaks its contract.
    CheckpointInvalid,
    /// An object that the checkpoint names is not there.
    ObjectMissing,
    /// An object has not the digest that it is named by.
    ObjectCorrupt,
    /// A disk layer is not there.
    DiskMissing,
    /// A disk layer has another size.
    DiskSize,
    /// A disk layer has another root.
    DiskIntegrity,
    /// A file of an owned directory is not there.
    OwnedMissing,
    /// A file of an owned directory has another size or digest.
    OwnedCorrupt,
    /// Descriptor and checkpoint name different owned volumes.
    OwnedInventory,
    /// A qcow2 layer has no usable header.
    Qcow2Header,
    /// A qcow2 layer's disk has another size.
    Qcow2Size,
    /// A qcow2 layer goes over something else.
    Qcow2Backing,
    /// A file that nothing names.
    Unreferenced,
}

impl DamageKind {
    /// Its code in findings.
    pub fn code(self) -> &'static str {
        match self {
            Self::CheckpointRoot => "checkpoint-root",
            Self::CheckpointInvalid => "checkpoint-invalid",
            Self::ObjectMissing => "object-missing",
            Self::ObjectCorrupt => "object-corrupt",
            Self::DiskMissing => "disk-missing",
            Self::DiskSize => "disk-size",
            Self::DiskIntegrity => "disk-integrity",
            Self::OwnedMissing => "owned-missing",
            Self::OwnedCorrupt => "owned-corrupt",
            Self::OwnedInventory => "owned-inventory",
            Self::Qcow2Header => "qcow2-header",
            Self::Qcow2Size => "qcow2-size",
            Self::Qcow2Backing => "qcow2-backing",
            Self::Unreferenced => "file-unreferenced",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What kind of thing.
    pub kind: DamageKind,
    /// The file, in the snapshot's directory.
    pub path: TarPath,
    /// What it is and what it should be.
    pub reason: String,
}

impl Damage {
    /// As an error about the snapshot that messages call `snapshot`.
    pub fn error(&self, snapshot: impl AsRef<Path>) -> Error {
        Error::DamagedSnapshot {
            code: self.kind.code(),
            path: snapshot.as_ref().join(&self.path),
            reason: self.reason.clone(),
        }
    }
}

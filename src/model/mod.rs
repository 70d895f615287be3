//! The documents of a bundle: parsed, validated, encoded; no I/O.

pub mod artifact;
pub mod config;
pub mod json;
pub mod manifest;
pub mod name;
pub mod path;

pub use artifact::Artifact;
pub use config::{
    FileRecord, Generation, ImageRecord, LayerFile, LayerRecord, SnapshotConfig, SnapshotIdentity, SnapshotRecord,
};
pub use manifest::{Descriptor, Index, Manifest};
pub use name::{GroupName, MemberName, SnapshotName, Tag};
pub use path::TarPath;

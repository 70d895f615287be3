//! Generation `v066`: `manifest.json` of 0.6.6 and before. No published contract holds it; this is ours.
//!
//! Its parts have the shape that the next generation kept, so those types and rules are the published ones.

use std::collections::BTreeMap;

use microsandbox_types::snapshot::cloud_manifest::{self as flat, ImageRef, SnapshotFormat, UpperLayer};
use serde::{Deserialize, Deserializer, Serialize};

use super::{SnapshotDescriptor, field, plain};
use crate::{
    digest::Digest,
    model::{Generation, TarPath},
};

/// The fields; their order is that of the canonical form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: u32,
    format: SnapshotFormat,
    fstype: String,
    image: ImageRef,
    #[serde(deserialize_with = "required")]
    parent: Option<String>,
    created_at: String,
    labels: BTreeMap<String, String>,
    upper: UpperLayer,
    #[serde(deserialize_with = "required")]
    source_sandbox: Option<String>,
}

/// May be null, may not be absent.
fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

/// Parses a descriptor whose keys are known to be unique; the error names the field.
pub(super) fn parse(file: &TarPath, bytes: Vec<u8>) -> Result<SnapshotDescriptor, String> {
    let manifest: Manifest = field::decode(&bytes)?;
    if manifest.schema != 1 {
        return Err(format!("schema: {} is not 1", manifest.schema));
    }
    let digest = Digest::of(&serde_json::to_vec(&manifest).map_err(|e| e.to_string())?);
    let manifest = flat::Manifest {
        schema: flat::SCHEMA_VERSION,
        artifact: flat::SNAPSHOT_ARTIFACT_KIND.into(),
        scope: flat::SnapshotScope::Disk,
        created_at: manifest.created_at,
        parent: manifest.parent,
        image: manifest.image,
        source_sandbox: manifest.source_sandbox,
        state: flat::SnapshotState::File(flat::FileSnapshotState {
            format: manifest.format,
            fstype: manifest.fstype,
            upper: manifest.upper,
        }),
        labels: manifest.labels,
        extensions: BTreeMap::new(),
        requires: Vec::new(),
    };
    manifest.validate().map_err(|e| plain(&e).replace("state.", ""))?;
    super::flat::describe(Generation::V066, file, bytes, digest, manifest).map_err(|e| e.replace("state.", ""))
}

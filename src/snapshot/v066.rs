//! Generation `v066`: `manifest.json` of 0.6.6 and before. No published contract exists for it; this is ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Fields, parse_upper_integrity};
use crate::{
    digest::Digest,
    model::{Generation, SnapshotIdentity, TarPath},
};

/// The fields in the order of the canonical form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: u32,
    format: String,
    fstype: String,
    image: Image,
    parent: Option<Digest>,
    created_at: String,
    labels: BTreeMap<String, String>,
    upper: Upper,
    source_sandbox: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "ref")]
    reference: String,
    manifest_digest: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upper {
    file: String,
    size_bytes: u64,
    integrity: Option<serde_json::Value>,
}

/// Parses the descriptor; the error says which field is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<Fields, String> {
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if manifest.schema != 1 {
        return Err(format!("schema is {}, not 1", manifest.schema));
    }
    if !matches!(manifest.format.as_str(), "raw" | "qcow2") {
        return Err(format!("format is {:?}, neither raw nor qcow2", manifest.format));
    }
    let disk: TarPath = manifest.upper.file.parse().map_err(|e| format!("upper.file: {e}"))?;
    if disk.folders().next().is_some() {
        return Err(format!("upper.file {disk} is in a folder"));
    }
    let canonical = serde_json::to_vec(&manifest).map_err(|e| e.to_string())?;
    let raw = manifest.format == "raw";
    let recorded = match &manifest.upper.integrity {
        Some(value) => vec![parse_upper_integrity(value, &disk, manifest.upper.size_bytes)?],
        None => Vec::new(),
    };
    Ok(Fields {
        generation: Generation::V066,
        digest: Digest::of(&canonical),
        id: None,
        parent: manifest.parent.map(SnapshotIdentity::Digest),
        image: Some((manifest.image.reference, manifest.image.manifest_digest.to_string())),
        created_at: Some(manifest.created_at),
        format: manifest.format,
        virtual_size: manifest.upper.size_bytes,
        payloads: vec![(disk.clone(), raw.then_some(manifest.upper.size_bytes))],
        disk: Some(disk),
        recorded,
        unknown_requires: Vec::new(),
    })
}

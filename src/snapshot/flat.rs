//! Generation `flat`: `snapshot.json` of 0.6.7 to 0.6.16, by the contract published in `microsandbox-types`.

use microsandbox_types::snapshot::cloud_manifest::{Manifest, SnapshotFormat, SnapshotState};

use super::{Fields, parse_upper_integrity};
use crate::model::{Generation, SnapshotIdentity, TarPath};

/// Parses the descriptor; the error says which field is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<Fields, String> {
    let manifest = Manifest::from_bytes(bytes).map_err(|e| e.to_string())?;
    let text = |e: crate::Error| e.to_string();
    let mut fields = Fields {
        generation: Generation::Flat,
        digest: manifest.digest().map_err(|e| e.to_string())?.parse().map_err(text)?,
        id: None,
        parent: manifest
            .parent
            .as_deref()
            .map(|p| p.parse().map(SnapshotIdentity::Digest))
            .transpose()
            .map_err(text)?,
        image: Some((manifest.image.reference.clone(), manifest.image.manifest_digest.clone())),
        created_at: Some(manifest.created_at.clone()),
        format: "raw".into(),
        virtual_size: 0,
        disk: None,
        payloads: Vec::new(),
        recorded: Vec::new(),
        unknown_requires: manifest.unsupported_requires().into_iter().map(str::to_owned).collect(),
    };
    if let SnapshotState::File(state) = &manifest.state {
        let disk: TarPath = state.upper.file.parse().map_err(|e| format!("state.upper.file: {e}"))?;
        let raw = matches!(state.format, SnapshotFormat::Raw);
        fields.format = if raw { "raw" } else { "qcow2" }.into();
        fields.virtual_size = state.upper.size_bytes;
        if let Some(integrity) = &state.upper.integrity {
            let value = serde_json::to_value(integrity).map_err(|e| e.to_string())?;
            fields.recorded.push(parse_upper_integrity(&value, &disk, state.upper.size_bytes)?);
        }
        fields.payloads.push((disk.clone(), raw.then_some(state.upper.size_bytes)));
        fields.disk = Some(disk);
    }
    Ok(fields)
}

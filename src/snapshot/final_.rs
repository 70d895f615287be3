//! Generation `final`: `snapshot.json` of 0.7, by the contract published in `microsandbox-types`.

use microsandbox_types::snapshot::{Manifest, SnapshotFormat, SnapshotState, layer_path};

use super::{Fields, parse_upper_integrity};
use crate::model::{Generation, SnapshotIdentity, TarPath};

/// Parses the descriptor; the error says which field is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<Fields, String> {
    let manifest = Manifest::from_bytes(bytes).map_err(|e| e.to_string())?;
    let text = |e: crate::Error| e.to_string();
    let mut fields = Fields {
        generation: Generation::Final,
        digest: manifest.digest().map_err(|e| e.to_string())?.parse().map_err(text)?,
        id: Some(manifest.snapshot_id.as_str().to_owned()),
        parent: manifest.parent.as_ref().map(|p| SnapshotIdentity::Id(p.as_str().to_owned())),
        image: Some((manifest.image.reference.clone(), manifest.image.manifest_digest.clone())),
        created_at: Some(manifest.capture.created_at.clone()),
        format: "raw".into(),
        virtual_size: 0,
        disk: None,
        payloads: Vec::new(),
        recorded: Vec::new(),
        unknown_requires: manifest.unsupported_requires().into_iter().map(str::to_owned).collect(),
    };
    if let SnapshotState::File(state) = &manifest.state {
        for layer in &state.layers {
            let path = layer_path(&layer.layer_id, layer.format);
            let path: TarPath = path.to_str().ok_or("a layer's path is not UTF-8")?.parse().map_err(text)?;
            let raw = layer.format == SnapshotFormat::Raw;
            if let Some(integrity) = &layer.payload.integrity {
                let value = serde_json::to_value(integrity).map_err(|e| e.to_string())?;
                fields.recorded.push(parse_upper_integrity(&value, &path, layer.virtual_size)?);
            }
            if layer.layer_id == state.head {
                fields.disk = Some(path.clone());
                fields.format = if raw { "raw" } else { "qcow2" }.into();
            }
            fields.payloads.push((path, raw.then_some(layer.virtual_size)));
        }
        fields.virtual_size = state.virtual_size;
    }
    Ok(fields)
}

//! Generation `final`: `snapshot.json` of 0.7, by the published contract.

use microsandbox_types::snapshot::{
    DiskLayer, Manifest, OwnedVolumeData, SnapshotFormat, SnapshotRootDisk, SnapshotState, UpperIntegrity, layer_path,
};

use super::{IntegrityAlgorithm, RecordedIntegrity, SnapshotDescriptor, field, plain, unqualified};
use crate::model::{Generation, ImageRecord, SnapshotIdentity, TarPath};

/// Parses a descriptor whose keys are known to be unique; the error names the field.
pub(super) fn parse(file: &TarPath, bytes: Vec<u8>) -> Result<SnapshotDescriptor, String> {
    let manifest: Manifest = field::decode(&bytes)?;
    let digest = manifest.digest().map_err(|e| plain(&e))?.parse().map_err(|e| format!("digest: {e}"))?;
    let unknown_requires = manifest.unsupported_requires().into_iter().map(str::to_owned).collect();
    let owned = manifest.owned_volumes().map_err(|e| plain(&e))?;
    let manifest_digest = manifest.image.manifest_digest.parse().map_err(|e| format!("image.manifest_digest: {e}"))?;
    let mut descriptor = SnapshotDescriptor {
        generation: Generation::Final,
        file: file.clone(),
        bytes,
        digest,
        id: Some(manifest.snapshot_id.to_string()),
        parent: manifest.parent.map(|id| SnapshotIdentity::Id(id.to_string())),
        image: Some(ImageRecord { reference: manifest.image.reference, manifest_digest }),
        created_at: Some(manifest.capture.created_at),
        format: "raw".into(),
        virtual_size: 0,
        disk: None,
        payloads: Vec::new(),
        recorded: Vec::new(),
        unknown_requires,
        layers: manifest.state.as_file().map_or(0, |state| state.layers.len()),
        migrated: None,
        folders: Vec::new(),
        flat_root: manifest.root_disk == SnapshotRootDisk::Flat,
    };
    if let SnapshotState::File(state) = &manifest.state {
        descriptor.virtual_size = state.virtual_size;
        descriptor.format = if state.disk_format == SnapshotFormat::Raw { "raw" } else { "qcow2" }.into();
        for layer in &state.layers {
            // Oldest first, and the contract holds that the last one is the head.
            descriptor.disk = Some(add_layer(&mut descriptor, layer)?);
        }
    }
    // The files of a full snapshot, its owned volumes too, stand below its checkpoint.
    let root = if matches!(manifest.state, SnapshotState::Checkpoint(_)) { "checkpoint/" } else { "" };
    for volume in owned.iter().filter(|volume| matches!(volume.data, OwnedVolumeData::Directory { .. })) {
        // msb wants it even where the directory has no files.
        let files = format!("{root}{}/files", volume.directory_path().to_string_lossy());
        descriptor.folders.push(path_of(&files)?);
    }
    // The files of owned volumes are neither payloads nor recorded here: `closure` verifies them, wherever they are.
    Ok(descriptor)
}

fn path_of(text: &str) -> Result<TarPath, String> {
    text.parse().map_err(|e| format!("a payload's path: {e}"))
}

/// Takes in a layer's file; gives its path.
fn add_layer(descriptor: &mut SnapshotDescriptor, layer: &DiskLayer) -> Result<TarPath, String> {
    let path = path_of(&layer_path(&layer.layer_id, layer.format).to_string_lossy())?;
    let mut size = (layer.format == SnapshotFormat::Raw).then_some(layer.virtual_size);
    if let Some(integrity) = &layer.payload.integrity {
        let (algorithm, value) = match integrity {
            UpperIntegrity::Sha256 { digest } => (IntegrityAlgorithm::Sha256, digest),
            UpperIntegrity::SparseSha256V1 { digest } => (IntegrityAlgorithm::SparseSha256, digest),
            UpperIntegrity::FileMerkleBlake3V1 { root, logical_size, .. } => {
                // Of a qcow2 layer this is the container's size, not the disk's.
                if size.is_some_and(|size| size != *logical_size) {
                    return Err(format!(
                        "state.layers: logical_size {logical_size} of the raw layer {} is not its virtual_size {}",
                        layer.layer_id, layer.virtual_size
                    ));
                }
                size = Some(*logical_size);
                (IntegrityAlgorithm::Merkle, root)
            }
        };
        let value = unqualified(value).ok_or("state.layers: integrity is not a digest")?;
        descriptor.recorded.push(RecordedIntegrity { path: path.clone(), algorithm, value });
    }
    descriptor.payloads.push((path.clone(), size));
    Ok(path)
}

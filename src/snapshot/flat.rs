//! Generation `flat`: `snapshot.json` of 0.6.7 to 0.6.16, by the published contract (`cloud_manifest`).

use microsandbox_types::snapshot::cloud_manifest::{Manifest, SnapshotFormat, SnapshotState, UpperIntegrity};

use super::{IntegrityAlgorithm, RecordedIntegrity, SnapshotDescriptor, field, migrated::migrate, plain, unqualified};
use crate::{
    digest::Digest,
    model::{Generation, ImageRecord, SnapshotIdentity, TarPath},
};

/// Parses a descriptor whose keys are known to be unique; the error names the field.
pub(super) fn parse(file: &TarPath, bytes: Vec<u8>) -> Result<SnapshotDescriptor, String> {
    let manifest: Manifest = field::decode(&bytes)?;
    let digest = manifest.digest().map_err(|e| plain(&e))?.parse().map_err(|e| format!("digest: {e}"))?;
    describe(Generation::Flat, file, bytes, digest, manifest)
}

/// What a validated manifest says.
pub(super) fn describe(
    generation: Generation,
    file: &TarPath,
    bytes: Vec<u8>,
    digest: Digest,
    manifest: Manifest,
) -> Result<SnapshotDescriptor, String> {
    let unknown_requires = manifest.unsupported_requires().into_iter().map(str::to_owned).collect();
    let parent = match &manifest.parent {
        Some(parent) => Some(SnapshotIdentity::Digest(parent.parse().map_err(|e| format!("parent: {e}"))?)),
        None => None,
    };
    let migrated = migrate(&manifest, &digest);
    let manifest_digest = manifest.image.manifest_digest.parse().map_err(|e| format!("image.manifest_digest: {e}"))?;
    let mut descriptor = SnapshotDescriptor {
        generation,
        file: file.clone(),
        bytes,
        digest,
        id: None,
        parent,
        image: Some(ImageRecord { reference: manifest.image.reference, manifest_digest }),
        created_at: Some(manifest.created_at),
        format: "raw".into(),
        virtual_size: 0,
        disk: None,
        payloads: Vec::new(),
        recorded: Vec::new(),
        unknown_requires,
        layers: 1,
        migrated,
        folders: Vec::new(),
        flat_root: false,
    };
    let SnapshotState::File(state) = manifest.state else { return Ok(descriptor) };
    let disk: TarPath = state.upper.file.parse().map_err(|e| format!("state.upper.file: {e}"))?;
    // `a/.` is one normal component to the contract, and `a/` too; neither is a path here.
    if disk.folders().next().is_some() {
        return Err(format!("state.upper.file: {disk} is not a plain file name"));
    }
    let size = state.upper.size_bytes;
    let raw = matches!(state.format, SnapshotFormat::Raw);
    descriptor.format = if raw { "raw" } else { "qcow2" }.into();
    descriptor.virtual_size = size;
    let mut file_size = raw.then_some(size);
    if let Some(integrity) = &state.upper.integrity {
        let (algorithm, value) = match integrity {
            UpperIntegrity::Sha256 { digest } => (IntegrityAlgorithm::Sha256, digest),
            UpperIntegrity::SparseSha256V1 { digest } => (IntegrityAlgorithm::SparseSha256, digest),
            UpperIntegrity::FileMerkleBlake3V1 { root, logical_size, .. } => {
                file_size = Some(*logical_size);
                (IntegrityAlgorithm::Merkle, root)
            }
        };
        let value = unqualified(value).ok_or("state.upper.integrity: not a digest")?;
        descriptor.recorded.push(RecordedIntegrity { path: disk.clone(), algorithm, value });
    }
    descriptor.payloads.push((disk.clone(), file_size));
    descriptor.disk = Some(disk);
    Ok(descriptor)
}

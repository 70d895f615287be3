//! What msb 0.7 makes of the descriptors of older generations: a `final` one, in the same directory, beside the same disk.
//!
//! The translation follows from the descriptor alone, so two stores that are migrated on their own end with the same
//! snapshot. The `snapshot_id` is the first half of the old digest, the id of the only layer the other half.

use microsandbox_types::snapshot::{
    self as final_, DiskLayer, FileSnapshotState, ImageRef, LayerFileKind, LayerPayload, Manifest, SnapshotCapture,
    SnapshotConsistency, SnapshotFormat, SnapshotRootDisk, SnapshotScope, SnapshotState, UpperIntegrity,
    cloud_manifest as flat, legacy,
};

use crate::digest::Digest;

/// A migrated descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// SHA-256 of its canonical bytes: the digest of the migrated snapshot.
    pub digest: Digest,
    /// Its canonical bytes.
    pub bytes: Vec<u8>,
}

/// The migrated form of an older descriptor with this digest; none where msb has none: it takes no extensions over, and
/// here only disks count.
pub(super) fn migrate(source: &flat::Manifest, digest: &Digest) -> Option<Migrated> {
    let flat::SnapshotState::File(state) = &source.state else { return None };
    if !source.requires.is_empty() || !source.extensions.is_empty() {
        return None;
    }
    let digest = digest.to_string();
    let layer_id = legacy::layer_id(&digest).ok()?;
    let format = match state.format {
        flat::SnapshotFormat::Raw => SnapshotFormat::Raw,
        flat::SnapshotFormat::Qcow2 => SnapshotFormat::Qcow2,
    };
    let virtual_size = state.upper.size_bytes;
    let integrity = state.upper.integrity.as_ref().map(integrity);
    let payload = LayerPayload { file_kind: LayerFileKind::Regular, integrity };
    let target = Manifest {
        schema: final_::SCHEMA.into(),
        snapshot_id: legacy::snapshot_id(&digest).ok()?,
        scope: SnapshotScope::Disk,
        state: SnapshotState::File(FileSnapshotState {
            disk_format: format,
            filesystem: state.fstype.clone(),
            virtual_size,
            head: layer_id.clone(),
            layers: vec![DiskLayer { layer_id, format, virtual_size, backing: None, payload }],
        }),
        capture: SnapshotCapture {
            created_at: source.created_at.clone(),
            source_lineage: source.source_sandbox.clone(),
            source_checkpoint: None,
            consistency: SnapshotConsistency::CrashConsistent,
        },
        image: ImageRef {
            reference: source.image.reference.clone(),
            manifest_digest: source.image.manifest_digest.clone(),
        },
        root_disk: SnapshotRootDisk::Managed,
        parent: source.parent.as_deref().map(legacy::snapshot_id).transpose().ok()?,
        requires: Vec::new(),
        extensions: std::collections::BTreeMap::new(),
    };
    let bytes = target.to_canonical_bytes().ok()?;
    Some(Migrated { digest: Digest::of(&bytes), bytes })
}

fn integrity(recorded: &flat::UpperIntegrity) -> UpperIntegrity {
    match recorded {
        flat::UpperIntegrity::Sha256 { digest } => UpperIntegrity::Sha256 { digest: digest.clone() },
        flat::UpperIntegrity::SparseSha256V1 { digest } => UpperIntegrity::SparseSha256V1 { digest: digest.clone() },
        flat::UpperIntegrity::FileMerkleBlake3V1 { root, logical_size, leaf_size } => {
            UpperIntegrity::FileMerkleBlake3V1 {
                root: root.clone(),
                logical_size: *logical_size,
                leaf_size: *leaf_size,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: &str = r#"{"schema":1,"artifact":"snapshot","scope":"disk","created_at":"2026-05-01T12:00:00Z","parent":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","image":{"ref":"docker.io/library/alpine:3.20","manifest_digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},"source_sandbox":"box","state":{"kind":"file","format":"raw","fstype":"ext4","upper":{"file":"upper.ext4","size_bytes":4096,"integrity":null}},"labels":{"a":"b"},"extensions":{},"requires":[]}"#;

    /// The crate has the same projection, of the flat generation alone.
    #[test]
    fn migrated_flat_descriptor_is_the_published_projection() {
        for integrity in [
            "null".to_owned(),
            format!(r#"{{"algorithm":"sha256","digest":"sha256:{}"}}"#, "b".repeat(64)),
            format!(r#"{{"algorithm":"msb-sparse-sha256-v1","digest":"sha256:{}"}}"#, "c".repeat(64)),
            format!(
                r#"{{"algorithm":"msb-file-merkle-blake3-v1","root":"blake3:{}","logical_size":4096,"leaf_size":65536}}"#,
                "d".repeat(64)
            ),
        ] {
            let text = FLAT.replace(r#""integrity":null"#, &format!(r#""integrity":{integrity}"#));
            let source = flat::Manifest::from_bytes(text.as_bytes()).unwrap();
            let digest = source.digest().unwrap();
            let published = legacy::project_cloud_descriptor(&source, &digest).unwrap();
            let ours = migrate(&source, &digest.parse().unwrap()).unwrap();
            assert_eq!(ours.bytes, published.to_canonical_bytes().unwrap(), "{integrity}");
            assert_eq!(ours.digest.to_string(), published.digest().unwrap());
        }
    }

    #[test]
    fn descriptor_with_extensions_has_no_migrated_form() {
        let text = FLAT.replace(r#""extensions":{}"#, r#""extensions":{"x.y":1}"#);
        let source = flat::Manifest::from_bytes(text.as_bytes()).unwrap();
        let digest = source.digest().unwrap().parse().unwrap();
        assert_eq!(migrate(&source, &digest), None);
    }
}

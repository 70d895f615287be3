//! What an archive leaves out because another snapshot has it (`--since`, `--last-layers`).

use std::collections::{BTreeMap, BTreeSet};

use microsandbox_types::snapshot::{
    DiskLayer, OwnedVolumeCapture, OwnedVolumeData,
    disk::{DiskLayerRef, ObjectId},
};
use serde::{Deserialize, Serialize};

use super::inventory::ListedEntry;

/// The extension that lists it, and the requirement to know that.
pub(super) const REQUIREMENT: &str = "msb-snapshot-dependencies-v1";
/// Most disk layers.
const MAX_DISKS: usize = 256;

/// The extension.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dependencies {
    disks: Vec<RequiredLayer>,
    memory: Vec<ObjectId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owned: Vec<RequiredOwned>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequiredLayer {
    path: String,
    identity: LayerIdentity,
}

/// A disk layer as the descriptor, or the checkpoint, describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "layer", rename_all = "kebab-case", deny_unknown_fields)]
enum LayerIdentity {
    File(DiskLayer),
    Checkpoint(DiskLayerRef),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequiredOwned {
    path: String,
    identity: OwnedIdentity,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum OwnedIdentity {
    Directory { digest: String, bytes: u64 },
    Disk { integrity_root: String, bytes: u64 },
}

/// A file that an archive leaves out.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    /// Its member's name.
    pub path: String,
    /// How it is found: files of one identity hold the same, as msb has it.
    pub identity: String,
}

/// The identity of a layer of a disk snapshot.
pub(super) fn layer_identity(layer: &DiskLayer) -> String {
    text(&LayerIdentity::File(layer.clone()))
}

/// That of a disk layer of a checkpoint.
pub(super) fn checkpoint_layer_identity(layer: &DiskLayerRef) -> String {
    text(&LayerIdentity::Checkpoint(layer.clone()))
}

/// Those of an owned volume's files, each with its path in the directory of a snapshot, or of a checkpoint.
pub(super) fn owned_identities(volume: &OwnedVolumeCapture) -> Vec<(String, String)> {
    match &volume.data {
        OwnedVolumeData::Directory { files, .. } => files
            .iter()
            .map(|file| {
                let identity = OwnedIdentity::Directory { digest: file.digest.clone(), bytes: file.bytes };
                (text(&identity), format!("owned/{}/files/{}", volume.mount_id, file.digest))
            })
            .collect(),
        OwnedVolumeData::Disk { generation } => generation
            .layers
            .iter()
            .filter_map(|layer| {
                let integrity_root = layer.integrity_root.clone()?;
                let identity = OwnedIdentity::Disk { integrity_root, bytes: layer.virtual_size };
                Some((text(&identity), format!("layers/{}.{}", layer.layer_id, layer.format)))
            })
            .collect(),
    }
}

/// That of an object of guest memory.
pub(super) fn memory_identity(hex: &str) -> String {
    format!("memory {hex}")
}

impl Dependencies {
    /// What the extension lists; none of an archive that is complete. All of it is left out, and nothing else.
    ///
    /// # Errors
    /// What does not fit.
    pub fn of(
        extension: Option<&serde_json::Value>,
        required: bool,
        dependent: bool,
        head: &str,
        entries: &[ListedEntry],
    ) -> Result<Option<Self>, String> {
        let fail = |reason: &str| Err(format!("{REQUIREMENT}: {reason}"));
        let left_out: BTreeMap<&str, &ListedEntry> =
            entries.iter().filter(|entry| !entry.included).map(|entry| (entry.path.as_str(), entry)).collect();
        let extension = match (extension, required, dependent) {
            (None, false, false) if left_out.is_empty() => return Ok(None),
            (None, false, false) => return Err("entries: a complete archive leaves something out".into()),
            (Some(extension), true, true) => extension,
            _ => return fail("it is there, required and the archive dependent, or none of these"),
        };
        let all: Self = serde_json::from_value(extension.clone()).map_err(|e| format!("{REQUIREMENT}: {e}"))?;
        let sorted = all.memory.windows(2).all(|pair| pair[0] < pair[1])
            && all.owned.windows(2).all(|pair| pair[0].path < pair[1].path);
        if all.disks.len() > MAX_DISKS || !sorted {
            return fail("it is too long or not sorted");
        }
        let missing = all.missing(head);
        let paths: BTreeSet<&str> = missing.iter().map(|missing| missing.path.as_str()).collect();
        if missing.is_empty() || paths.len() != missing.len() || !paths.iter().eq(left_out.keys()) {
            return fail("it lists not exactly what is left out");
        }
        let memory: BTreeSet<String> = all.memory.iter().map(|id| object_path(head, id)).collect();
        for (path, entry) in left_out {
            let owned = all.owned.iter().any(|owned| owned.path == path);
            let kind = entry.kind.as_str();
            let fits = match (owned, memory.contains(path)) {
                (true, _) => matches!(kind, "owned-directory-payload" | "owned-disk-layer" | "checkpoint-disk-layer"),
                (_, true) => kind == "checkpoint-object",
                _ => matches!(kind, "file-payload" | "checkpoint-disk-layer"),
            };
            let empty = entry.encoded_size == 0
                && entry.sparse_ranges.is_empty()
                && entry.transport_integrity.is_none()
                && entry.owner_snapshot.as_deref() == Some(head);
            if !fits || !empty {
                return fail(&format!("{path} is not listed as something that is left out"));
            }
        }
        Ok(Some(all))
    }

    /// Everything that is left out of the archive with this head.
    pub fn missing(&self, head: &str) -> Vec<Missing> {
        let missing = |path: String, identity: String| Missing { path, identity };
        let disks = self.disks.iter().map(|layer| missing(layer.path.clone(), text(&layer.identity)));
        let memory = self.memory.iter().map(|id| missing(object_path(head, id), memory_identity(id.hex())));
        let owned = self.owned.iter().map(|owned| missing(owned.path.clone(), text(&owned.identity)));
        disks.chain(memory).chain(owned).collect()
    }
}

fn text(identity: &impl Serialize) -> String {
    serde_json::to_string(identity).unwrap_or_default()
}

fn object_path(head: &str, id: &ObjectId) -> String {
    format!("checkpoints/{head}/objects/sha256/{}/{}", &id.hex()[..2], id.hex())
}

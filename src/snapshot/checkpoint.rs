//! The documents of a checkpoint, as msb 0.7 reads them: bounded, without unknown or duplicate keys, and canonical.

use std::collections::{BTreeMap, BTreeSet};

use microsandbox_types::snapshot::{
    disk::DiskGenerationManifest,
    manifest::write_canonical_json,
    owned::{OwnedVolumeCapture, OwnedVolumeData, validate_owned_volumes},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::plain;
use crate::{digest::Digest, model::json::reject_duplicate_keys};

/// Largest document.
pub const MAX_MANIFEST: u64 = 8 << 20;
/// Largest object that holds the state of the processors.
pub const MAX_EXECUTION_STATE: u64 = 512 << 20;
/// Largest object that holds a device's state; those of shared folders have a limit that msb's owner chooses.
pub const MAX_DEVICE_STATE: u64 = 1 << 20;
/// Most disks, devices, resources.
const MAX_COMPONENTS: usize = 4096;
/// The virtio type of shared folders.
const VIRTIO_FS: u32 = 26;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Intent {
    FullSnapshot,
    Park,
    TransparentTransfer,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CaptureMode {
    Full,
    Incremental,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Treatment {
    Serialize,
    Reconnect,
    Reset,
    Reject,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Geometry {
    vcpus: u8,
    max_vcpus: u8,
    memory_mib: u32,
    max_memory_mib: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    id: String,
    kind: String,
    treatment: Treatment,
    binding: BTreeMap<String, String>,
}

/// A device and the object that holds its state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    device_type: u32,
    device_id: String,
    /// The object.
    pub state: Digest,
}

impl Device {
    /// Whether it is a shared folder's.
    pub fn is_shared_folder(&self) -> bool {
        self.device_type == VIRTIO_FS
    }

    /// The most bytes that its state has; none: msb's owner chooses.
    pub fn limit(&self) -> Option<u64> {
        (!self.is_shared_folder()).then_some(MAX_DEVICE_STATE)
    }
}

/// `checkpoint.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    schema: String,
    checkpoint_id: String,
    capture_intent: Intent,
    architecture: String,
    geometry: Geometry,
    pause_generation: u64,
    /// The object with the processors' state.
    pub execution_state: Digest,
    /// The object that is the [`Memory`].
    pub memory: Digest,
    /// The objects that are disk generations.
    pub disks: Vec<Digest>,
    /// Volumes whose life is the sandbox's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owned_volumes: Vec<OwnedVolumeCapture>,
    /// The devices.
    pub devices: Vec<Device>,
    resources: Vec<Resource>,
    requires: Vec<String>,
}

/// The guest's memory: ranges of objects, or of zeros.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    schema: String,
    architecture: String,
    guest_page_size: u64,
    topology_generation: u64,
    generation: u64,
    capture_mode: CaptureMode,
    pause_generation: u64,
    extents: Vec<Extent>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extent {
    start: u64,
    length: u64,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Content {
    Object(Slice),
    Zero,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slice {
    object: Digest,
    object_offset: u64,
}

impl Checkpoint {
    /// Parses `checkpoint.json`.
    ///
    /// # Errors
    /// What breaks the contract.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let checkpoint: Self = document(bytes, "microsandbox.checkpoint/1", |c: &Self| &c.schema)?;
        checkpoint.validate()?;
        Ok(checkpoint)
    }

    fn validate(&self) -> Result<(), String> {
        if self.checkpoint_id.is_empty() || self.architecture.is_empty() {
            return Err("checkpoint_id or architecture is empty".into());
        }
        let Geometry { vcpus, max_vcpus, memory_mib, max_memory_mib } = self.geometry;
        if vcpus == 0 || vcpus > max_vcpus || memory_mib == 0 || memory_mib > max_memory_mib {
            return Err("geometry: there must be at least one and at most the greatest number".into());
        }
        for (field, count) in
            [("disks", self.disks.len()), ("devices", self.devices.len()), ("resources", self.resources.len())]
        {
            if count > MAX_COMPONENTS {
                return Err(format!("{field}: there are {count}, over the limit of {MAX_COMPONENTS}"));
            }
        }
        let mut devices = BTreeSet::new();
        if let Some(twice) = self.devices.iter().find(|d| !devices.insert((d.device_type, d.device_id.as_str()))) {
            return Err(format!("devices: {:?} is there twice", twice.device_id));
        }
        let mut resources = BTreeSet::new();
        for resource in &self.resources {
            if resource.id.is_empty() || resource.kind.is_empty() || !resources.insert(&resource.id) {
                return Err(format!("resources: {:?} is empty or there twice", resource.id));
            }
            if resource.treatment == Treatment::Reject {
                return Err(format!("resources: {:?} is one that cannot be captured", resource.id));
            }
        }
        if self.requires.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("requires: not sorted, or with one twice".into());
        }
        validate_owned_volumes(&self.owned_volumes).map_err(|error| format!("owned_volumes: {}", plain(&error)))?;
        self.validate_bindings()?;
        for volume in &self.owned_volumes {
            if let OwnedVolumeData::Disk { generation } = &volume.data {
                self.same_pause(&format!("owned_volumes: {}", volume.mount_id), generation.pause_generation)?;
            }
        }
        Ok(())
    }

    /// Each owned volume belongs to one resource, and each resource that is owned has its volume.
    fn validate_bindings(&self) -> Result<(), String> {
        let mut bound = BTreeSet::new();
        for Resource { id, binding, .. } in &self.resources {
            let is = |key: &str, value: &str| binding.get(key).is_some_and(|found| found == value);
            let (directory, disk) = (is("role", "owned_directory"), is("lifecycle_owned", "true"));
            if !directory && !disk {
                continue;
            }
            let tag = binding.get(if directory { "guest_tag" } else { "device_id" });
            let volume = tag.and_then(|tag| self.owned_volumes.iter().find(|volume| volume.mount_id == *tag));
            let volume = volume.ok_or_else(|| format!("resources: {id:?} is owned, and no owned volume is its"))?;
            let is_directory = matches!(volume.data, OwnedVolumeData::Directory { .. });
            if (directory && disk)
                || directory != is_directory
                || !bound.insert(&volume.mount_id)
                || (disk && !is("guest_path", &volume.mount.guest))
            {
                return Err(format!("resources: {id:?} does not fit the owned volume {}", volume.mount_id));
            }
        }
        match self.owned_volumes.iter().find(|volume| !bound.contains(&volume.mount_id)) {
            Some(volume) => Err(format!("owned_volumes: {} belongs to no resource", volume.mount_id)),
            None => Ok(()),
        }
    }

    /// A part of the checkpoint was captured in the same pause.
    fn same_pause(&self, part: &str, pause: u64) -> Result<(), String> {
        if pause == self.pause_generation {
            return Ok(());
        }
        Err(format!("{part} is of the pause {pause}, the checkpoint of {}", self.pause_generation))
    }

    /// Parses the checkpoint's memory.
    ///
    /// # Errors
    /// What breaks the contract.
    pub fn parse_memory(&self, bytes: &[u8]) -> Result<Memory, String> {
        let memory: Memory = document(bytes, "microsandbox.memory/1", |m: &Memory| &m.schema)?;
        if memory.architecture != self.architecture {
            let (own, other) = (&self.architecture, &memory.architecture);
            return Err(format!("the memory is of the architecture {other:?}, the checkpoint of {own:?}"));
        }
        self.same_pause("the memory", memory.pause_generation)?;
        memory.validate()?;
        Ok(memory)
    }

    /// Parses one of the checkpoint's disks.
    ///
    /// # Errors
    /// What breaks the contract.
    pub fn parse_disk(&self, bytes: &[u8]) -> Result<DiskGenerationManifest, String> {
        let disk = disk(bytes)?;
        self.same_pause("the disk", disk.pause_generation)?;
        Ok(disk)
    }
}

/// Parses a disk generation.
///
/// # Errors
/// What breaks the contract.
pub fn disk(bytes: &[u8]) -> Result<DiskGenerationManifest, String> {
    DiskGenerationManifest::from_bytes(bytes).map_err(|error| plain(&error))
}

impl Memory {
    fn validate(&self) -> Result<(), String> {
        if self.guest_page_size == 0 || self.generation == 0 {
            return Err("guest_page_size and generation must not be 0".into());
        }
        let mut end = 0;
        for Extent { start, length, content } in &self.extents {
            let wrong = |reason| format!("extents: {length} bytes at {start} {reason}");
            if *length == 0 || *start < end {
                return Err(wrong("are empty, unsorted, or overlap those before"));
            }
            end = start.checked_add(*length).ok_or_else(|| wrong("are too many"))?;
            if let Content::Object(slice) = content {
                slice.object_offset.checked_add(*length).ok_or_else(|| wrong("are not in an object"))?;
            }
        }
        Ok(())
    }

    /// Every object that holds memory, with the fewest bytes that it must have.
    pub fn objects(&self) -> BTreeMap<Digest, u64> {
        let mut objects = BTreeMap::new();
        for Extent { length, content, .. } in &self.extents {
            if let Content::Object(slice) = content {
                let end = objects.entry(slice.object).or_default();
                *end = slice.object_offset.saturating_add(*length).max(*end);
            }
        }
        objects
    }
}

/// A document in canonical form, with this schema.
fn document<T: DeserializeOwned + Serialize>(bytes: &[u8], schema: &str, of: impl Fn(&T) -> &str) -> Result<T, String> {
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(format!("it has {} bytes, over the limit of {MAX_MANIFEST}", bytes.len()));
    }
    reject_duplicate_keys(bytes)?;
    let document: T = super::field::decode(bytes)?;
    if of(&document) != schema {
        return Err(format!("schema: {:?} is not {schema:?}", of(&document)));
    }
    let value = serde_json::to_value(&document).map_err(|error| error.to_string())?;
    let mut canonical = Vec::with_capacity(bytes.len());
    write_canonical_json(&value, &mut canonical).map_err(|error| plain(&error))?;
    if canonical != bytes {
        return Err("its bytes are not its canonical form".into());
    }
    Ok(document)
}

//! Snapshots of msb 0.7 with a checkpoint, owned volumes or qcow2 layers, written by hand, so that each part of them can
//! be damaged: alone, or with everything above it made to fit again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use microsandbox_types::owned_volume_mount_id;
use serde_json::{Value, json};
use snapcask::Digest;
use tempfile::TempDir;

use crate::{
    fixture::{IMAGE_MANIFEST, IMAGE_REFERENCE, random, tree, write},
    hardening::{craft::Craft, tar},
};

/// The group of the snapshot.
pub const GROUP: &str = "full";
/// Its name.
pub const NAME: &str = "sample";
/// Its id.
pub const ID: &str = "snap_00000000000000000000000000000101";
/// Bytes of the disk that the guest sees.
pub const DISK: u64 = 4 * LEAF as u64;
/// A folder and a disk of the sandbox's.
pub const CACHE: &str = "/cache";
pub const DATA: &str = "/data";
const OWNED_DISK: u64 = 1 << 20;
const LEAF: usize = 64 << 10;
const ROOT_BASE: &str = "layer_00000000000000000000000000000001";
const ROOT_HEAD: &str = "layer_00000000000000000000000000000002";
const OWNED_BASE: &str = "layer_00000000000000000000000000000011";

/// A store with one snapshot.
pub struct Sample {
    pub temp: TempDir,
    pub store: PathBuf,
    pub directory: PathBuf,
}

/// Bytes as msb writes documents: keys sorted, nothing between them.
fn canonical(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// The definition of a Merkle root, without any shortcut.
pub fn merkle(domain: &str, bytes: &[u8]) -> String {
    let hash = |kind: &str, parts: &[&[u8]]| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{domain}\0{kind}\0").as_bytes());
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    };
    let leaf = |leaf: &[u8]| hash("leaf", &[&[leaf, &vec![0; LEAF - leaf.len()]].concat()]);
    let mut level: Vec<[u8; 32]> = bytes.chunks(LEAF).map(leaf).collect();
    level.resize(level.len().max(1).next_power_of_two(), leaf(&[]));
    let mut height = 0u32;
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| hash("parent", &[&pair[0], &pair[1]])).collect();
        height += 1;
    }
    let root = hash(
        "root",
        &[&(bytes.len() as u64).to_le_bytes(), &(LEAF as u32).to_le_bytes(), &height.to_le_bytes(), &level[0]],
    );
    format!("blake3:{}", hex::encode(root))
}

/// A qcow2 file: a header of version 3, the backing file's format and name, and clusters that no test looks into.
pub fn qcow2(virtual_size: u64, backing: Option<(&str, &str)>, seed: u64) -> Vec<u8> {
    let mut bytes = random(3 * LEAF, seed);
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, &[0; 256]);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &virtual_size.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    if let Some((name, format)) = backing {
        put(104, &0xE279_2ACA_u32.to_be_bytes());
        put(108, &(format.len() as u32).to_be_bytes());
        put(112, format.as_bytes());
        put(8, &128u64.to_be_bytes());
        put(16, &(name.len() as u32).to_be_bytes());
        put(128, name.as_bytes());
    }
    bytes
}

/// A layer of a disk generation.
fn layer(root: &Path, id: &str, format: &str, virtual_size: u64, beneath: Option<&str>, bytes: &[u8]) -> Value {
    write(root.join(format!("layers/{id}.{format}")), bytes);
    json!({ "layer_id": id, "format": format, "virtual_size": virtual_size, "file_size": bytes.len(),
        "predecessor": beneath, "integrity_root": merkle("microsandbox.checkpoint-file/1", bytes) })
}

fn generation(volume: &str, device: Option<&str>, layers: &[Value]) -> Value {
    let mut disk = json!({ "schema": "microsandbox.disk-generation/1", "volume_id": volume, "generation": 1,
        "layers": layers, "head": layers.last().unwrap()["layer_id"], "pause_generation": 1 });
    if let Some(device) = device {
        disk["device_id"] = device.into();
    }
    disk
}

/// Writes an owned folder and an owned disk below `root`; gives their inventory.
fn owned(root: &Path) -> Value {
    let (cache, data) = (owned_volume_mount_id(CACHE), owned_volume_mount_id(DATA));
    let folder = root.join("owned").join(&cache);
    let payload = |bytes: &[u8]| json!({ "digest": Digest::of(bytes).hex(), "bytes": bytes.len() });
    let namespace = random(100, 30);
    write(folder.join("directory.bin"), &namespace);
    let mut files = Vec::new();
    for bytes in [random(500, 31), random(70_000, 32)] {
        write(folder.join("files").join(Digest::of(&bytes).hex()), &bytes);
        files.push(payload(&bytes));
    }
    files.sort_by_key(|file| file["digest"].to_string());
    let disk = layer(root, OWNED_BASE, "raw", OWNED_DISK, None, &random(OWNED_DISK as usize, 33));
    let mount = |guest: &str, storage: Value| {
        json!({ "guest": guest, "storage": storage, "stat_virtualization": "strict", "host_permissions": "private",
            "options": { "readonly": false, "noexec": false, "nosuid": false, "nodev": false } })
    };
    json!([
        { "mount_id": cache, "mount": mount(CACHE, json!({ "kind": "directory", "quota_mib": 32 })),
            "data": { "kind": "directory", "descriptor": payload(&namespace), "files": files } },
        { "mount_id": data, "mount": mount(DATA, json!({ "kind": "disk", "capacity_mib": 1 })),
            "data": { "kind": "disk", "generation": generation("vol_owned", Some(&data), &[disk]) } },
    ])
}

/// The resources that the owned volumes belong to.
fn resources() -> Value {
    let (cache, data) = (owned_volume_mount_id(CACHE), owned_volume_mount_id(DATA));
    json!([
        { "id": cache, "kind": "virtio", "treatment": "serialize",
            "binding": { "role": "owned_directory", "guest_tag": cache } },
        { "id": data, "kind": "virtio", "treatment": "serialize",
            "binding": { "lifecycle_owned": "true", "device_id": data, "guest_path": DATA } },
    ])
}

impl Sample {
    fn new() -> Self {
        let temp = TempDir::new().unwrap();
        let store = temp.path().join("store");
        let group = store.join("snapshots").join(GROUP);
        let directory = group.join(ID);
        write(group.join(".group.lock"), b"");
        write(
            group.join("group.json"),
            json!({ "schema": "microsandbox.snapshot-group/1", "head": ID }).to_string().as_bytes(),
        );
        write(
            directory.join("group-member.json"),
            json!({ "schema": "microsandbox.snapshot-group-member/1", "name": NAME }).to_string().as_bytes(),
        );
        Self { temp, store, directory }
    }

    /// A snapshot with memory, a device and a disk of two layers.
    pub fn full() -> Self {
        Self::with_checkpoint(false)
    }

    /// The same with owned volumes.
    pub fn full_owned() -> Self {
        Self::with_checkpoint(true)
    }

    fn with_checkpoint(with_owned: bool) -> Self {
        let sample = Self::new();
        let root = sample.directory.join("checkpoint");
        let (a, b) = (sample.put(&random(8192, 1)), sample.put(&random(8192, 2)));
        let slice = |start: u64, object: &str| {
            json!({ "start": start, "length": 4096,
                "content": { "kind": "object", "object": object, "object_offset": 4096 } })
        };
        let memory = json!({ "schema": "microsandbox.memory/1", "architecture": "x86_64", "guest_page_size": 4096,
            "topology_generation": 1, "generation": 1, "capture_mode": "full", "pause_generation": 1,
            "extents": [slice(0, &a), slice(4096, &b), { "start": 8192, "length": 4096, "content": { "kind": "zero" } }] });
        let base = format!("{ROOT_BASE}.raw");
        let layers = [
            layer(&root, ROOT_BASE, "raw", DISK, None, &random(DISK as usize, 3)),
            layer(&root, ROOT_HEAD, "qcow2", DISK, Some(ROOT_BASE), &qcow2(DISK, Some((&base, "raw")), 4)),
        ];
        let mut disks = vec![sample.put(&canonical(&generation("vol_root", None, &layers)))];
        let mut checkpoint = json!({ "schema": "microsandbox.checkpoint/1", "checkpoint_id": "checkpoint_1",
            "capture_intent": "full-snapshot", "architecture": "x86_64", "pause_generation": 1,
            "geometry": { "vcpus": 1, "max_vcpus": 1, "memory_mib": 128, "max_memory_mib": 128 },
            "execution_state": sample.put(&random(300, 5)), "memory": sample.put(&canonical(&memory)),
            "devices": [{ "device_type": 4, "device_id": "rng", "state": sample.put(&random(200, 6)) }],
            "resources": [], "requires": [] });
        let mut volumes = json!([]);
        if with_owned {
            volumes = owned(&root);
            disks.push(sample.put(&canonical(&volumes[1]["data"]["generation"])));
            checkpoint["owned_volumes"] = volumes.clone();
            checkpoint["resources"] = resources();
        }
        checkpoint["disks"] = json!(disks);
        let bytes = canonical(&checkpoint);
        write(root.join("checkpoint.json"), &bytes);
        // As a capture leaves it.
        sample.put(&bytes);
        let state = json!({ "kind": "checkpoint", "checkpoint_id": "checkpoint_1",
            "checkpoint_root": Digest::of(&bytes).to_string(), "restore_intents": ["clone", "resume"],
            "requirements_summary": {} });
        sample.describe("checkpoint", &state, &volumes);
        sample
    }

    /// A disk of two layers, without recorded integrity.
    pub fn stack() -> Self {
        Self::with_disk(false)
    }

    /// The same with owned volumes.
    pub fn owned() -> Self {
        Self::with_disk(true)
    }

    fn with_disk(with_owned: bool) -> Self {
        let sample = Self::new();
        let base = format!("{ROOT_BASE}.raw");
        sample.write(&format!("layers/{base}"), &random(DISK as usize, 3));
        sample.write(&format!("layers/{ROOT_HEAD}.qcow2"), &qcow2(DISK, Some((&base, "raw")), 4));
        let layer = |id: &str, format: &str, backing: Option<&str>| {
            json!({ "layer_id": id, "format": format, "virtual_size": DISK, "backing": backing,
                "payload": { "file_kind": "regular", "integrity": null } })
        };
        let layers = [layer(ROOT_BASE, "raw", None), layer(ROOT_HEAD, "qcow2", Some(ROOT_BASE))];
        let state = json!({ "kind": "file", "disk_format": "qcow2", "filesystem": "ext4", "virtual_size": DISK,
            "head": ROOT_HEAD, "layers": layers });
        let volumes = if with_owned { owned(&sample.directory) } else { json!([]) };
        sample.describe("file", &state, &volumes);
        sample
    }

    fn describe(&self, scope: &str, state: &Value, volumes: &Value) {
        let (extensions, requires) = match volumes.as_array().unwrap().len() {
            0 => (json!({}), json!([])),
            _ => (json!({ "microsandbox.owned-volumes": volumes }), json!(["microsandbox.owned-volumes"])),
        };
        let descriptor = json!({ "schema": "microsandbox.snapshot/1", "snapshot_id": ID, "scope": scope, "state": state,
            "capture": { "created_at": "2026-09-01T10:00:00.000000000Z", "source_lineage": "app",
                "source_checkpoint": null, "consistency": "crash-consistent" },
            "image": { "reference": IMAGE_REFERENCE,
                "manifest_digest": Digest::of(IMAGE_MANIFEST.as_bytes()).to_string() },
            "root_disk": { "layout": "managed" }, "parent": null, "requires": requires, "extensions": extensions });
        self.write("snapshot.json", &canonical(&descriptor));
    }

    /// Stores an object; gives its digest.
    pub fn put(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        self.write(&object(&digest.to_string()), bytes);
        digest.to_string()
    }

    pub fn write(&self, path: &str, bytes: &[u8]) {
        write(self.directory.join(path), bytes);
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.directory.join(path)).unwrap()
    }

    pub fn document(&self, path: &str) -> Value {
        serde_json::from_slice(&self.read(path)).unwrap()
    }

    /// Changes the first byte of a file.
    pub fn flip(&self, path: &str) {
        let mut bytes = self.read(path);
        bytes[0] ^= 1;
        self.write(path, &bytes);
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.directory.join(path)).unwrap();
    }

    /// The path of the object that the checkpoint names in this field.
    pub fn object_of(&self, field: &str) -> String {
        let checkpoint = self.document("checkpoint/checkpoint.json");
        object(checkpoint.pointer(field).unwrap().as_str().unwrap())
    }

    /// The path of the first object that holds memory.
    pub fn memory_object(&self) -> String {
        let memory = self.document(&self.object_of("/memory"));
        object(memory["extents"][0]["content"]["object"].as_str().unwrap())
    }

    /// The first file of the owned folder, below `root`.
    pub fn owned_file(&self, root: &str) -> String {
        let descriptor = self.document("snapshot.json");
        let volume = &descriptor["extensions"]["microsandbox.owned-volumes"][0];
        format!("{}/files/{}", cache_folder(root), volume["data"]["files"][0]["digest"].as_str().unwrap())
    }

    /// Changes the descriptor.
    pub fn change_descriptor(&self, change: impl FnOnce(&mut Value)) {
        let mut descriptor = self.document("snapshot.json");
        change(&mut descriptor);
        self.write("snapshot.json", &canonical(&descriptor));
    }

    /// Replaces `checkpoint.json`, and makes the descriptor fit.
    pub fn replace_checkpoint(&self, bytes: &[u8]) {
        self.write("checkpoint/checkpoint.json", bytes);
        self.change_descriptor(|d| d["state"]["checkpoint_root"] = Digest::of(bytes).to_string().into());
    }

    /// Changes the checkpoint, and makes the descriptor fit.
    pub fn change_checkpoint(&self, change: impl FnOnce(&mut Value)) {
        let mut checkpoint = self.document("checkpoint/checkpoint.json");
        change(&mut checkpoint);
        self.replace_checkpoint(&canonical(&checkpoint));
    }

    /// Changes an object that is a document, and makes all above it fit.
    pub fn change_object(&self, field: &str, change: impl FnOnce(&mut Value)) {
        let path = self.object_of(field);
        let mut document = self.document(&path);
        change(&mut document);
        self.remove(&path);
        let digest = self.put(&canonical(&document));
        self.change_checkpoint(|checkpoint| *checkpoint.pointer_mut(field).unwrap() = digest.into());
    }

    /// Replaces the head layer of the checkpoint's root disk, and makes all above it fit.
    pub fn replace_head(&self, bytes: &[u8]) {
        self.write(&head(true), bytes);
        self.change_object("/disks/0", |disk| {
            disk["layers"][1]["file_size"] = bytes.len().into();
            disk["layers"][1]["integrity_root"] = merkle("microsandbox.checkpoint-file/1", bytes).into();
        });
    }

    /// A bundle of it as it is, good or bad: its table and its digests fit.
    pub fn bundle(&self) -> PathBuf {
        let path = self.temp.path().join("crafted");
        let paths: Vec<String> = tree(&self.directory).into_keys().collect();
        let files: Vec<(String, Vec<u8>)> = paths.into_iter().map(|path| (path.clone(), self.read(&path))).collect();
        let long = |path: &str| if path.len() > 100 { tar::long_name(format!("{path}\0").as_bytes()) } else { vec![] };
        let mut layer: Vec<u8> =
            files.iter().flat_map(|(path, bytes)| [long(path), tar::file(path, bytes)].concat()).collect();
        layer.extend(tar::END);
        let bytes = self.read("snapshot.json");
        let descriptor: Value = serde_json::from_slice(&bytes).unwrap();
        let digest = Digest::of(&bytes).to_string();
        let state = &descriptor["state"];
        let mut snapshot = json!({ "generation": "final", "digest": digest, "id": ID, "name": NAME,
            "createdAt": descriptor["capture"]["created_at"],
            "image": { "reference": IMAGE_REFERENCE, "manifestDigest": descriptor["image"]["manifest_digest"] },
            "format": state.get("disk_format").unwrap_or(&json!("raw")),
            "virtualSize": state.get("virtual_size").unwrap_or(&json!(0)), "descriptor": "snapshot.json" });
        if state["kind"] == "file" {
            snapshot["disk"] = format!("layers/{}.qcow2", state["head"].as_str().unwrap()).into();
        }
        let config = move |config: &mut Value| {
            config["snapshot"] = snapshot.clone();
            config["layers"][0]["snapshot"] = digest.clone().into();
        };
        Craft { files, tar: Some(layer), config: Box::new(config), ..Craft::default() }.make().write_dir(&path);
        path
    }
}

/// Where an object is.
pub fn object(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap();
    format!("checkpoint/objects/sha256/{}/{hex}", &hex[..2])
}

/// The head layer of the root disk, in a checkpoint or not.
pub fn head(in_checkpoint: bool) -> String {
    format!("{}layers/{ROOT_HEAD}.qcow2", if in_checkpoint { "checkpoint/" } else { "" })
}

/// The base layer of the root disk of a checkpoint.
pub fn base() -> String {
    format!("checkpoint/layers/{ROOT_BASE}.raw")
}

/// The owned disk, below `root`.
pub fn owned_disk(root: &str) -> String {
    format!("{root}layers/{OWNED_BASE}.raw")
}

/// The owned folder, below `root`.
pub fn cache_folder(root: &str) -> String {
    format!("{root}owned/{}", owned_volume_mount_id(CACHE))
}

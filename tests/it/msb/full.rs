//! Full snapshots: memory, execution state and disks below `checkpoint/`, without or with owned volumes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use snapcask::Digest;

use super::{
    captured::mount_id,
    image::Image,
    merkle::Domain,
    program::Msb,
    source::{Subject, canonical, copy_sparse, descriptor, group, id, member},
    stack::{SIZE, overlay},
};
use crate::fixture::*;

/// Whether a full snapshot has owned volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owned {
    /// None.
    None,
    /// A directory, an empty directory, and a disk.
    Volumes,
}

/// The folder of one checkpoint.
struct Checkpoint {
    root: PathBuf,
}

impl Checkpoint {
    /// Writes an object; its digest.
    fn put(&self, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let hex = digest.hex();
        write(self.root.join("objects/sha256").join(&hex[..2]).join(&hex), bytes);
        json!(digest)
    }

    fn layer(&self, name: &str, format: &str) -> PathBuf {
        self.root.join("layers").join(format!("{name}.{format}"))
    }
}

fn disk_layer(path: &Path, virtual_size: u64, predecessor: Option<&Value>) -> Value {
    json!({"layer_id": path.file_stem().unwrap().to_str().unwrap(),
        "format": path.extension().unwrap().to_str().unwrap(), "virtual_size": virtual_size,
        "file_size": path.metadata().unwrap().len(), "predecessor": predecessor.map(|p| p["layer_id"].clone()),
        "integrity_root": Domain::Checkpoint.root(path)})
}

/// One disk at one moment. The root disk names no device that it could be found by.
fn generation(volume: &str, device: Option<&str>, number: u32, layers: &[Value]) -> Value {
    let mut disk = json!({"schema": "microsandbox.disk-generation/1", "volume_id": volume, "generation": number,
        "layers": layers, "head": layers.last().unwrap()["layer_id"], "pause_generation": number});
    if let Some(device) = device {
        disk["device_id"] = device.into();
    }
    disk
}

/// Group `name`: three full snapshots, the second's and third's disks are overlays; the third has two more disks.
pub fn make(msb: &Msb, image: &Image, name: &str, owned: Owned) -> Vec<Subject> {
    let series = if owned == Owned::None { 100 } else { 200 };
    let ids: Vec<String> = (1..=3).map(|k| id("snap", series + k)).collect();
    let directory = group(msb, name, &ids[2]);
    let mut subjects = Vec::new();
    let mut root_layers: Vec<Value> = Vec::new();
    for (k, member_name) in ["ram1", "ram2", "disks"].into_iter().enumerate() {
        let number = u32::try_from(k + 1).unwrap();
        let checkpoint = Checkpoint { root: directory.join(&ids[k]).join("checkpoint") };
        fs::create_dir_all(checkpoint.root.join("layers")).unwrap();
        if k > 0 {
            let before = directory.join(&ids[k - 1]).join("checkpoint/layers");
            for layer in &root_layers {
                let file = format!("{}.{}", layer["layer_id"].as_str().unwrap(), layer["format"].as_str().unwrap());
                copy_sparse(&before.join(&file), &checkpoint.root.join("layers").join(&file));
            }
        }
        root_layers.push(root_layer(&checkpoint, series + number, root_layers.last()));
        let mut disks = Vec::new();
        for extra in 1..=(if k == 2 { 2 } else { 0 }) {
            let path = checkpoint.layer(&id("layer", 9000 + series + extra), "raw");
            write(path.clone(), &[extra as u8; 65_536]);
            let device = format!("data_{extra}");
            let disk = generation(&format!("vol_{device}"), Some(&device), number, &[disk_layer(&path, 65_536, None)]);
            disks.push(checkpoint.put(canonical(&disk).as_bytes()));
        }
        disks.push(checkpoint.put(canonical(&generation("vol_root", None, number, &root_layers)).as_bytes()));
        let volumes = match owned {
            Owned::None => Vec::new(),
            Owned::Volumes => volumes(&checkpoint, number, &mut disks),
        };
        let root = write_checkpoint(&checkpoint, number, &disks, &volumes);
        let (extensions, requires) = match volumes.is_empty() {
            true => (json!({}), json!([])),
            false => (json!({"microsandbox.owned-volumes": volumes}), json!(["microsandbox.owned-volumes"])),
        };
        let created = format!("2026-09-0{number}T10:00:00.000000000Z");
        let parent = k.checked_sub(1).map(|before| ids[before].as_str());
        let own = json!({
            "scope": "checkpoint", "extensions": extensions, "requires": requires,
            "capture": {"created_at": created, "source_lineage": "app", "source_checkpoint": null,
                "consistency": "application-consistent"},
            "state": {"kind": "checkpoint", "checkpoint_id": format!("checkpoint_{number}"), "checkpoint_root": root,
                "restore_intents": ["clone", "resume"], "requirements_summary": geometry()},
        });
        let document = descriptor(&ids[k], parent, &created, image, own);
        subjects.push(member(&directory, &ids[k], member_name, &document));
    }
    subjects
}

fn geometry() -> Value {
    json!({"vcpus": 1, "max_vcpus": 1, "memory_mib": 128, "max_memory_mib": 128})
}

/// The root disk's newest layer: raw, then overlays.
fn root_layer(checkpoint: &Checkpoint, number: u32, below: Option<&Value>) -> Value {
    let name = id("layer", 1000 + number);
    match below {
        None => {
            let path = checkpoint.layer(&name, "raw");
            write_disk(&path, SIZE, &[(1 << 20, random(200_000, u64::from(number))), (SIZE - 5, vec![1; 5])]);
            disk_layer(&path, SIZE, None)
        }
        Some(below) => {
            let backing = checkpoint.layer(below["layer_id"].as_str().unwrap(), below["format"].as_str().unwrap());
            let path = checkpoint.layer(&name, "qcow2");
            overlay(&path, &backing, &[(1 << 20, 64 << 10)], number % 100);
            disk_layer(&path, SIZE, Some(below))
        }
    }
}

/// An owned directory with two files, an empty one, and an owned disk, which is one of the checkpoint's disks.
fn volumes(checkpoint: &Checkpoint, number: u32, disks: &mut Vec<Value>) -> Vec<Value> {
    let mount = |guest: &str, storage: Value| {
        json!({"guest": guest, "storage": storage,
            "options": {"readonly": false, "noexec": false, "nosuid": false, "nodev": false},
            "stat_virtualization": "strict", "host_permissions": "private"})
    };
    let directory = |guest: &str, files: &[&[u8]]| {
        let mount_id = mount_id(guest);
        let folder = checkpoint.root.join("owned").join(&mount_id);
        fs::create_dir_all(folder.join("files")).unwrap();
        let mut rows: Vec<(String, usize)> = Vec::new();
        for bytes in files {
            let hex = Digest::of(bytes).hex();
            write(folder.join("files").join(&hex), bytes);
            rows.push((hex, bytes.len()));
        }
        rows.sort();
        let rows: Vec<Value> = rows.iter().map(|(hex, len)| json!({"digest": hex, "bytes": len})).collect();
        let table = format!("MSBDIR by hand {number} {guest}");
        write(folder.join("directory.bin"), table.as_bytes());
        json!({"mount_id": mount_id, "mount": mount(guest, json!({"kind": "directory", "quota_mib": 32})),
            "data": {"kind": "directory", "files": rows,
                "descriptor": {"digest": Digest::of(table.as_bytes()).hex(), "bytes": table.len()}}})
    };
    let path = checkpoint.layer(&id("layer", 5000 + number), "raw");
    write(path.clone(), &vec![0x25; 1 << 20]);
    let data = mount_id("/data");
    let disk = generation("vol_owned", Some(&data), number, &[disk_layer(&path, 1 << 20, None)]);
    disks.push(checkpoint.put(canonical(&disk).as_bytes()));
    vec![
        directory("/cache", &[b"unchanged bytes", format!("of {number}").as_bytes()]),
        json!({"mount_id": data, "mount": mount("/data", json!({"kind": "disk", "capacity_mib": 1})),
            "data": {"kind": "disk", "generation": disk}}),
        directory("/empty", &[]),
    ]
}

/// Writes `checkpoint.json` and the objects that it names; its digest.
fn write_checkpoint(checkpoint: &Checkpoint, number: u32, disks: &[Value], volumes: &[Value]) -> Value {
    let old = checkpoint.put(&[0xa5; 8192]);
    let new = checkpoint.put(&[u8::try_from(number).unwrap(); 8192]);
    let extent = |start: u32, content: Value| json!({"start": start, "length": 4096, "content": content});
    let object = |object: &Value| json!({"kind": "object", "object": object, "object_offset": 4096});
    let architecture = std::env::consts::ARCH;
    let memory = json!({
        "schema": "microsandbox.memory/1", "architecture": architecture, "guest_page_size": 4096,
        "topology_generation": 1, "generation": number,
        "capture_mode": if number == 1 { "full" } else { "incremental" }, "pause_generation": number,
        "extents": [extent(0, object(&old)), extent(4096, object(&new)), extent(8192, json!({"kind": "zero"}))],
    });
    let resources: Vec<Value> = volumes
        .iter()
        .map(|volume| {
            let id = &volume["mount_id"];
            let binding = match volume["data"]["kind"].as_str() {
                Some("directory") => json!({"role": "owned_directory", "guest_tag": id}),
                _ => json!({"lifecycle_owned": "true", "device_id": id, "guest_path": volume["mount"]["guest"]}),
            };
            json!({"id": id, "kind": "virtio", "treatment": "serialize", "binding": binding})
        })
        .collect();
    let mut document = json!({
        "schema": "microsandbox.checkpoint/1", "checkpoint_id": format!("checkpoint_{number}"),
        "capture_intent": "full-snapshot", "architecture": architecture, "geometry": geometry(),
        "pause_generation": number, "execution_state": checkpoint.put(format!("execution-{number}").as_bytes()),
        "memory": checkpoint.put(canonical(&memory).as_bytes()), "disks": disks,
        "devices": [{"device_type": 4, "device_id": "rng", "state": checkpoint.put(b"unchanged-device-state")}],
        "resources": resources, "requires": [],
    });
    if !volumes.is_empty() {
        document["owned_volumes"] = json!(volumes);
    }
    let bytes = canonical(&document);
    write(checkpoint.root.join("checkpoint.json"), bytes.as_bytes());
    json!(Digest::of(bytes.as_bytes()))
}

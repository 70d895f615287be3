//! Disk snapshots that are stacks of qcow2 layers over a raw one, each a complete closure of layers.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::{
    image::Image,
    merkle::Domain,
    program::Msb,
    source::{Subject, copy_sparse, descriptor, group, id, member},
};
use crate::fixture::*;

/// Size of the disk that the guest sees.
pub const SIZE: u64 = 64 << 20;

/// A new overlay in the folder of its backing file, with data of its own at these offsets.
pub fn overlay(path: &Path, backing: &Path, writes: &[(u64, u64)], pattern: u32) {
    let format = backing.extension().unwrap().to_str().unwrap();
    let below = backing.file_name().unwrap().to_str().unwrap();
    let size = SIZE.to_string();
    let path = path.to_str().unwrap();
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", format, "-b", below, path, &size]);
    let writes: Vec<String> = writes.iter().map(|(at, length)| format!("write -P {pattern} {at} {length}")).collect();
    let mut arguments = vec!["-f", "qcow2"];
    for write in &writes {
        arguments.extend(["-c", write]);
    }
    arguments.push(path);
    tool("qemu-io", &arguments);
}

#[track_caller]
fn tool(program: &str, arguments: &[&str]) {
    let program = crate::interop::tools::find(program).unwrap();
    succeeds(&Command::new(program).args(arguments).output().unwrap());
}

fn layer(path: &Path, name: &str, backing: Option<&str>, recorded: bool) -> Value {
    let integrity = recorded.then(|| {
        json!({"algorithm": "msb-file-merkle-blake3-v1", "root": Domain::File.root(path),
            "logical_size": path.metadata().unwrap().len(), "leaf_size": 65_536})
    });
    json!({"layer_id": name, "format": path.extension().unwrap().to_str().unwrap(), "virtual_size": SIZE,
        "backing": backing, "payload": {"file_kind": "regular", "integrity": integrity}})
}

/// Group `stack`: base (raw), mid (one overlay), top (two overlays, the last without integrity).
pub fn make(msb: &Msb, image: &Image) -> Vec<Subject> {
    let ids: Vec<String> = (1..=3).map(|n| id("snap", n)).collect();
    let layers: Vec<String> = (1..=3).map(|n| id("layer", n)).collect();
    let directory = group(msb, "stack", &ids[2]);
    let file = |k: usize| format!("{}.{}", layers[k], if k == 0 { "raw" } else { "qcow2" });
    let mut subjects: Vec<Subject> = Vec::new();
    for (k, name) in ["base", "mid", "top"].into_iter().enumerate() {
        let folder = directory.join(&ids[k]).join("layers");
        fs::create_dir_all(&folder).unwrap();
        for j in 0..k {
            copy_sparse(&subjects[k - 1].directory.join("layers").join(file(j)), &folder.join(file(j)));
        }
        match k {
            0 => write_disk(&folder.join(file(0)), SIZE, &[(1 << 20, random(300_000, 21)), (SIZE - 9, vec![7; 9])]),
            _ => {
                let writes = [(8 << 20, 512 << 10), (40 << 20, 64 << 10)];
                overlay(&folder.join(file(k)), &folder.join(file(k - 1)), &writes, 0x10 * k as u32 + 1);
            }
        }
        let described: Vec<Value> = (0..=k)
            .map(|j| {
                let backing = j.checked_sub(1).map(|below| layers[below].as_str());
                layer(&folder.join(file(j)), &layers[j], backing, j < 2)
            })
            .collect();
        let (extensions, requires) = match k {
            2 => (
                json!({"microsandbox.restore-defaults": {"user": "1000:1000"},
                    "microsandbox.external-mounts": {"guest_paths": ["/data"]}}),
                json!(["microsandbox.restore-defaults"]),
            ),
            _ => (json!({}), json!([])),
        };
        let format = described[k]["format"].clone();
        let own = json!({"scope": "file", "extensions": extensions, "requires": requires,
            "state": {"kind": "file", "disk_format": format, "filesystem": "ext4", "virtual_size": SIZE,
                "head": layers[k], "layers": described}});
        let created = format!("2026-08-0{}T10:00:00.000000000Z", k + 1);
        let parent = k.checked_sub(1).map(|before| ids[before].as_str());
        let made = member(&directory, &ids[k], name, &descriptor(&ids[k], parent, &created, image, own));
        if k == 1 {
            let labels = r#"{"schema":"microsandbox.snapshot-metadata/1","labels":{"team":"a b"}}"#;
            write(made.directory.join("metadata.json"), labels.as_bytes());
        }
        subjects.push(made);
    }
    subjects
}

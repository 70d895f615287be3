//! Stores of every kind that `msb` users have.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use snapcask::Digest;
use tempfile::TempDir;

use super::{
    captured, full,
    image::{Image, REFERENCE},
    program::Msb,
    stack,
};
use crate::fixture::*;

/// What kind of snapshots a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `manifest.json` of 0.6.6 and before, no group.
    V066,
    /// `snapshot.json` of 0.6.7 to 0.6.16, no group.
    Flat,
    /// Captured by `msb` 0.7.
    Final,
    /// Of 0.6.6, after `msb` 0.7 has migrated it in place.
    Migrated,
    /// qcow2 layers over a raw one.
    Stack,
    /// With memory and execution state.
    Full,
    /// Disk snapshots with owned directories, one of them empty, and an owned disk; captured by `msb` 0.7.
    Owned,
    /// Full snapshots with owned volumes.
    FullOwned,
}

impl Kind {
    /// All kinds, in the order of the table.
    pub const ALL: [Self; 8] =
        [Self::V066, Self::Flat, Self::Final, Self::Migrated, Self::Stack, Self::Full, Self::Owned, Self::FullOwned];

    /// The row's title.
    pub fn title(self) -> &'static str {
        match self {
            Self::V066 => "v066",
            Self::Flat => "flat",
            Self::Final => "final",
            Self::Migrated => "migrated",
            Self::Stack => "qcow2 stack",
            Self::Full => "full",
            Self::Owned => "owned",
            Self::FullOwned => "full with owned",
        }
    }

    /// Programs that make it.
    pub fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Stack | Self::Full | Self::FullOwned => &["qemu-img", "qemu-io"],
            _ => &[],
        }
    }
}

/// One snapshot of a store.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its group, unless it is of a generation without groups.
    pub group: Option<String>,
    /// Its name.
    pub name: String,
    /// The id that it has in `msb` 0.7.
    pub id: String,
    /// Where it stands.
    pub directory: PathBuf,
}

/// A store and its snapshots, each the parent of the next.
pub struct Source {
    /// Holds the store.
    pub dir: TempDir,
    /// `msb` on it.
    pub msb: Msb,
    /// Oldest first.
    pub subjects: Vec<Subject>,
}

impl Source {
    /// A new store of a kind, with its image.
    pub fn new(kind: Kind) -> Self {
        let dir = TempDir::new().unwrap();
        let msb = Msb::new(&dir.path().join("source"));
        let image = Image::load(&msb, REFERENCE, "first");
        let subjects = match kind {
            Kind::V066 | Kind::Flat => old(&msb, &image, kind),
            Kind::Migrated => {
                let subjects = old(&msb, &image, Kind::V066);
                msb.ok(&["snapshot", "ls"]);
                assert!(subjects.iter().all(|s| s.directory.join("snapshot.json").is_file()), "msb has migrated them");
                subjects
            }
            Kind::Final => captured::chain(&msb, &image),
            Kind::Owned => captured::owned(&msb, &image),
            Kind::Stack => stack::make(&msb, &image),
            Kind::Full => full::make(&msb, &image, "full", full::Owned::None),
            Kind::FullOwned => full::make(&msb, &image, "fullowned", full::Owned::Volumes),
        };
        Self { dir, msb, subjects }
    }

    /// The youngest.
    pub fn head(&self) -> &Subject {
        self.subjects.last().unwrap()
    }

    /// A path beside the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }
}

/// A chain of three of an old generation.
fn old(msb: &Msb, image: &Image, kind: Kind) -> Vec<Subject> {
    let size: u64 = 8 << 20;
    let mut parent: Option<String> = None;
    let mut extents: Vec<Extent> = vec![(0, random(70_000, 1)), (size - 777, random(777, 4))];
    let image = json!({ "ref": image.reference, "manifest_digest": image.manifest_digest });
    let mut subjects = Vec::new();
    for (i, name) in NAMES.iter().enumerate() {
        extents.push(((i as u64 + 1) << 20, random(9000, 10 + i as u64)));
        let created = format!("2026-05-{:02}T12:00:00Z", i + 1);
        let parent_json = serde_json::to_string(&parent).unwrap();
        let (file, text) = match kind {
            Kind::Flat => (
                "snapshot.json",
                format!(
                    r#"{{"schema":1,"artifact":"snapshot","scope":"disk","created_at":"{created}","parent":{parent_json},"image":{},"source_sandbox":"app","state":{{"kind":"file","format":"raw","fstype":"ext4","upper":{{"file":"upper.ext4","size_bytes":{size},"integrity":null}}}},"labels":{{"team":"a"}},"extensions":{{}},"requires":[]}}"#,
                    ordered(&image)
                ),
            ),
            _ => (
                "manifest.json",
                format!(
                    r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{},"parent":{parent_json},"created_at":"{created}","labels":{{"team":"a"}},"upper":{{"file":"upper.ext4","size_bytes":{size},"integrity":null}},"source_sandbox":"app"}}"#,
                    ordered(&image)
                ),
            ),
        };
        let directory = msb.snapshots().join(name);
        write(directory.join(file), text.as_bytes());
        write_disk(&directory.join("upper.ext4"), size, &extents);
        let digest = Digest::of(text.as_bytes());
        subjects.push(Subject {
            group: None,
            name: (*name).into(),
            id: format!("snap_{}", &digest.hex()[..32]),
            directory,
        });
        parent = Some(digest.to_string());
    }
    subjects
}

/// The image of an old descriptor, its reference first: a snapshot's digest is of its fields in the order that 0.6 wrote.
fn ordered(image: &Value) -> String {
    format!(r#"{{"ref":{},"manifest_digest":{}}}"#, image["ref"], image["manifest_digest"])
}

/// Writes a group's files; its members are written by [`member`].
pub fn group(msb: &Msb, name: &str, head: &str) -> PathBuf {
    let directory = msb.snapshots().join(name);
    let state = json!({ "schema": "microsandbox.snapshot-group/1", "head": head });
    write(directory.join("group.json"), ordered_json(&state, &["schema", "head"]).as_bytes());
    write(directory.join(".group.lock"), b"");
    directory
}

/// Writes a member's descriptor and name.
pub fn member(group: &Path, id: &str, name: &str, descriptor: &Value) -> Subject {
    let directory = group.join(id);
    write(directory.join("snapshot.json"), canonical(descriptor).as_bytes());
    let member = json!({ "schema": "microsandbox.snapshot-group-member/1", "name": name });
    write(directory.join("group-member.json"), ordered_json(&member, &["schema", "name"]).as_bytes());
    let group = group.file_name().unwrap().to_str().unwrap().to_owned();
    Subject { group: Some(group), name: name.into(), id: id.into(), directory }
}

fn ordered_json(value: &Value, keys: &[&str]) -> String {
    let fields: Vec<String> = keys.iter().map(|key| format!("{}:{}", Value::from(*key), value[*key])).collect();
    format!("{{{}}}", fields.join(","))
}

/// Compact JSON with sorted keys, whatever order `serde_json` keeps.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let fields: Vec<String> =
                sorted.iter().map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// What every descriptor of 0.7 holds, with its own fields over it.
pub fn descriptor(id: &str, parent: Option<&str>, created: &str, image: &Image, own: Value) -> Value {
    let mut document = json!({
        "schema": "microsandbox.snapshot/1", "snapshot_id": id,
        "capture": {"created_at": created, "source_lineage": "app", "source_checkpoint": null,
            "consistency": "crash-consistent"},
        "image": image.json(), "root_disk": {"layout": "managed"}, "parent": parent, "requires": [], "extensions": {},
    });
    for (key, value) in own.as_object().unwrap() {
        document[key] = value.clone();
    }
    document
}

/// An id of 0.7.
pub fn id(prefix: &str, number: u32) -> String {
    format!("{prefix}_{number:032x}")
}

/// A copy of a file with its holes.
pub fn copy_sparse(from: &Path, to: &Path) {
    let file = fs::File::open(from).unwrap();
    let size = file.metadata().unwrap().len();
    let extents: Vec<Extent> = data_extents(&file)
        .into_iter()
        .map(|(start, end)| {
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, start).unwrap();
            (start, bytes)
        })
        .collect();
    write_disk(to, size, &extents);
}

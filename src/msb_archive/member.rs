//! Which files an archive may hold, and where each belongs: a closed grammar, so that no name of an archive becomes a path
//! before it is one of these.

use microsandbox_types::snapshot::{DiskLayerId, SnapshotId};

use crate::{
    digest::parse_hex32,
    model::{SnapshotName, TarPath, path::is_bookkeeping},
    snapshot::{SNAPSHOT_FILE, V066_FILE},
};

/// The folder of a full snapshot's closure.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The labels of a snapshot.
pub(super) const LABELS_FILE: &str = "metadata.json";
/// The payload of a `v066` snapshot.
const V066_PAYLOAD: &str = "upper.ext4";
/// The member that lists all others.
pub(super) const INVENTORY: &str = "archive.json";

/// The forms of archives, of which one archive has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `microsandbox.snapshot-archive/1`, of 0.7.
    Current,
    /// Schema 1, of 0.6.7 to 0.6.16.
    Released,
    /// Without an inventory, of 0.6.6 and before.
    Early,
}

impl Form {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "microsandbox.snapshot-archive/1",
            Self::Released => "schema 1",
            Self::Early => "0.6.6",
        }
    }
}

/// Whose a file is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Owner(String);

impl Owner {
    /// The snapshot's id, the hex digits of its digest, or its name, by the form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a file belongs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The inventory, which is not placed.
    Inventory,
    /// A file of a snapshot's directory.
    Snapshot(Owner, TarPath),
    /// A disk layer of all snapshots that name it.
    Layer(TarPath),
    /// A file of the image cache.
    Cache(TarPath),
}

impl Place {
    /// Its path in the folder that the archive is unpacked into.
    pub fn staged(&self) -> String {
        match self {
            Self::Inventory => INVENTORY.into(),
            Self::Snapshot(owner, path) => format!("snapshots/{}/{path}", owner.as_str()),
            Self::Layer(path) => format!("shared/{path}"),
            Self::Cache(path) => format!("cache/{path}"),
        }
    }
}

/// A file that an archive may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its kind, as the transport hash and the inventory name it.
    pub kind: &'static str,
    /// Where it belongs.
    pub place: Place,
    /// The form that has such files; none of those that all have.
    pub form: Option<Form>,
}

impl Member {
    /// The member that a name stands for.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn parse(name: &str) -> Result<Self, String> {
        let unknown = || "no archive of msb holds such a file".to_owned();
        name.parse::<TarPath>().map_err(|error| error.to_string())?;
        let parts: Vec<&str> = name.split('/').collect();
        let path = |text: String| text.parse::<TarPath>().map_err(|error| error.to_string());
        let of = |owner: &str, kind, form, text: String| {
            Ok(Self { kind, place: Place::Snapshot(Owner(owner.into()), path(text)?), form: Some(form) })
        };
        let current = Form::Current;
        match parts.as_slice() {
            [INVENTORY] => Ok(Self { kind: "archive-inventory", place: Place::Inventory, form: None }),
            ["snapshots", id, SNAPSHOT_FILE] if is_id(id) => {
                of(id, "snapshot-descriptor", current, SNAPSHOT_FILE.into())
            }
            ["snapshots", id, LABELS_FILE] if is_id(id) => of(id, "snapshot-metadata", current, LABELS_FILE.into()),
            ["snapshots", id, "layers", file] if is_id(id) && is_checkpoint_layer(file) => {
                of(id, "owned-disk-layer", current, format!("layers/{file}"))
            }
            ["layers", file] if is_layer(file) => {
                let place = Place::Layer(path(format!("layers/{file}"))?);
                Ok(Self { kind: "file-payload", place, form: Some(current) })
            }
            [space @ ("snapshots" | "checkpoints"), id, "owned", tag, rest @ ..]
                if is_id(id) && is_tag(tag) && is_owned(rest) =>
            {
                let folder = if *space == "checkpoints" { "checkpoint/" } else { "" };
                of(id, "owned-directory-payload", current, format!("{folder}owned/{tag}/{}", rest.join("/")))
            }
            ["checkpoints", id, "checkpoint.json"] if is_id(id) => {
                of(id, "checkpoint-root", current, format!("{CHECKPOINT}/checkpoint.json"))
            }
            ["checkpoints", id, "objects", "sha256", shard, object]
                if is_id(id) && is_hex(object) && object.starts_with(shard) && shard.len() == 2 =>
            {
                of(id, "checkpoint-object", current, format!("{CHECKPOINT}/objects/sha256/{shard}/{object}"))
            }
            ["checkpoints", id, "layers", file] if is_id(id) && is_checkpoint_layer(file) => {
                of(id, "checkpoint-disk-layer", current, format!("{CHECKPOINT}/layers/{file}"))
            }
            ["snapshots", hex, SNAPSHOT_FILE] if is_hex(hex) => {
                of(hex, "snapshot-descriptor", Form::Released, SNAPSHOT_FILE.into())
            }
            ["files", hex, file] if is_hex(hex) && !is_bookkeeping(file) && *file != SNAPSHOT_FILE => {
                of(hex, "file-payload", Form::Released, (*file).into())
            }
            ["images" | "cache", folder, file] => {
                let kind = cache_kind(folder, file).ok_or_else(unknown)?;
                Ok(Self { kind, place: Place::Cache(path(format!("{folder}/{file}"))?), form: None })
            }
            [name, V066_FILE] if is_early(name) => {
                of(name, "legacy-snapshot-descriptor", Form::Early, V066_FILE.into())
            }
            [name, V066_PAYLOAD] if is_early(name) => of(name, "legacy-file-payload", Form::Early, V066_PAYLOAD.into()),
            _ => Err(unknown()),
        }
    }

    /// Whether an archive may have a folder of this name.
    pub fn is_folder(name: &str) -> bool {
        let Ok(path) = name.strip_suffix('/').unwrap_or(name).parse::<TarPath>() else { return false };
        let parts: Vec<&str> = path.as_str().split('/').collect();
        match parts.as_slice() {
            ["snapshots" | "layers" | "files" | "images" | "cache" | "checkpoints"] => true,
            ["snapshots", owner] => is_id(owner) || is_hex(owner),
            ["files", owner] => is_hex(owner),
            ["checkpoints", id] | ["snapshots" | "checkpoints", id, "owned" | "layers"] => is_id(id),
            ["snapshots" | "checkpoints", id, "owned", tag]
            | ["snapshots" | "checkpoints", id, "owned", tag, "files"] => is_id(id) && is_tag(tag),
            ["checkpoints", id, "objects"] | ["checkpoints", id, "objects", "sha256"] => is_id(id),
            ["checkpoints", id, "objects", "sha256", shard] => {
                is_id(id) && shard.len() == 2 && shard.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }
            ["images" | "cache", "manifests" | "layers" | "fsmeta" | "vmdk"] => true,
            [name] => is_early(name),
            _ => false,
        }
    }
}

fn is_id(text: &str) -> bool {
    SnapshotId::new(text).is_ok()
}

fn is_hex(text: &str) -> bool {
    parse_hex32(text).is_some()
}

/// The snapshot's name, which is not that of a folder of the other forms.
fn is_early(text: &str) -> bool {
    let others = ["snapshots", "layers", "files", "images", "cache", "checkpoints", "blobs"];
    text.parse::<SnapshotName>().is_ok() && !others.contains(&text) && !is_bookkeeping(text)
}

fn is_layer(file: &str) -> bool {
    file.rsplit_once('.').is_some_and(|(id, format)| DiskLayerId::new(id).is_ok() && matches!(format, "raw" | "qcow2"))
}

fn is_checkpoint_layer(file: &str) -> bool {
    file.rsplit_once('.').is_some_and(|(id, format)| is_tag(id) && matches!(format, "raw" | "qcow2"))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn is_owned(rest: &[&str]) -> bool {
    match rest {
        ["directory.bin"] => true,
        ["files", digest] => is_hex(digest),
        _ => false,
    }
}

fn cache_kind(folder: &str, file: &str) -> Option<&'static str> {
    let ending = match folder {
        "manifests" => ".json",
        "layers" | "fsmeta" => ".erofs",
        "vmdk" => ".vmdk",
        _ => return None,
    };
    let known = file.ends_with(ending) && !is_bookkeeping(file);
    known.then_some(if folder == "manifests" { "image-metadata" } else { "image-object" })
}

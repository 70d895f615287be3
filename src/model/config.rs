//! The snapshot config: what a snapshot is, the complete table of its files, and what each layer is.

use std::{collections::HashSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    SnapshotName, TarPath, json,
    path::{fold, is_bookkeeping},
};
use crate::{
    digest::{Digest, parse_hex32},
    error::{Error, Result},
};

/// A stack holds at most this many snapshot layers; then a new base starts
/// (some registries stop at 127 layers a manifest, and cache layers come on top).
pub const MAX_STACK: usize = 64;
/// A path has at most this many folders above it (a file in `a/b/` has 2): each costs work and memory, and a path has room for 512.
pub const MAX_DEPTH: usize = 32;

/// Which contract a snapshot's descriptor follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Generation {
    /// 0.6.6 and before: `manifest.json`.
    V066,
    /// 0.6.7 to 0.6.16: `snapshot.json` with the number 1 as `schema`.
    Flat,
    /// 0.7: `snapshot.json` with `schema` "microsandbox.snapshot/1".
    Final,
}

impl Generation {
    /// The word in documents and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V066 => "v066",
            Self::Flat => "flat",
            Self::Final => "final",
        }
    }
}

/// How a descriptor names a snapshot: by its digest or by its `snapshot_id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SnapshotIdentity {
    /// `sha256:` of the descriptor's canonical bytes.
    Digest(Digest),
    /// `snap_` and 32 lowercase hex digits.
    Id(String),
}

impl SnapshotIdentity {
    /// The `snapshot_id` that a snapshot of an older generation has once it is migrated to `final`: `snap_` and the first
    /// 32 hex digits of its digest. Its children may be migrated before it.
    pub fn migrated(digest: &Digest) -> Self {
        Self::Id(format!("snap_{}", &digest.hex()[..32]))
    }

    /// The digest that a `final` snapshot had before it was migrated, if it was: its `snapshot_id` holds the first half,
    /// the name of its one layer the other.
    pub fn original(id: Option<&str>, disk: Option<&TarPath>) -> Option<Digest> {
        let layer = disk?.as_str().strip_prefix("layers/layer_")?;
        let (last, _) = layer.split_once('.')?;
        format!("sha256:{}{last}", id?.strip_prefix("snap_")?).parse().ok()
    }

    /// All that a snapshot of this digest, `snapshot_id` and head disk may be called by its children: by what it is, and
    /// by what it is or was on the other side of a migration, for parent and child are migrated one after the other.
    pub fn all_of(digest: &Digest, id: Option<&str>, disk: Option<&TarPath>) -> Vec<Self> {
        let id_or_migrated = id.map_or_else(|| Self::migrated(digest), |id| Self::Id(id.to_owned()));
        let original = Self::original(id, disk).map(Self::Digest);
        [Self::Digest(*digest), id_or_migrated].into_iter().chain(original).collect()
    }
}

impl FromStr for SnapshotIdentity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("snap_") {
            Some(hex) if hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Self::Id(text.to_owned()))
            }
            _ => Ok(Self::Digest(text.parse()?)),
        }
    }
}

impl fmt::Display for SnapshotIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Id(id) => f.write_str(id),
        }
    }
}

impl Serialize for SnapshotIdentity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SnapshotIdentity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A Merkle root by `msb-file-merkle-blake3-v1`, written as 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Root {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_hex32(&text).map(Self).ok_or_else(|| serde::de::Error::custom("a root is 64 lowercase hex digits"))
    }
}

/// The image that a snapshot boots from, as its descriptor pins it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageRecord {
    /// The reference, as the descriptor spells it.
    pub reference: String,
    /// The image manifest's digest.
    pub manifest_digest: Digest,
}

/// What the snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotRecord {
    /// The contract of the descriptor.
    pub generation: Generation,
    /// SHA-256 of the descriptor's canonical bytes.
    pub digest: Digest,
    /// The `snapshot_id`, where the generation has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name it had in the store it was exported from.
    pub name: SnapshotName,
    /// The parent as the descriptor names it; absent for a first snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<SnapshotIdentity>,
    /// When it was captured, RFC 3339, as the descriptor spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// The pinned image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRecord>,
    /// Disk format of the head disk: `raw` or `qcow2`.
    pub format: String,
    /// Logical size of the head disk, in bytes.
    pub virtual_size: u64,
    /// The descriptor's file.
    pub descriptor: TarPath,
    /// The head disk's file; absent where the snapshot has no file state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<TarPath>,
}

impl SnapshotRecord {
    /// All that its children may call it.
    pub fn identities(&self) -> Vec<SnapshotIdentity> {
        SnapshotIdentity::all_of(&self.digest, self.id.as_deref(), self.disk.as_ref())
    }
}

/// One row of the file table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileRecord {
    /// Where it stands in the snapshot directory.
    pub path: TarPath,
    /// Whether it is executable (mode 0755, else 0644).
    pub executable: bool,
    /// Logical size, in bytes.
    pub size: u64,
    /// Bytes in 4 KiB blocks that are not all zero, the last one cut at the size.
    pub data_bytes: u64,
    /// Merkle root of the contents by `msb-file-merkle-blake3-v1`.
    pub root: Root,
}

/// One file that a snapshot layer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LayerFile {
    /// Its path, and the name of the tar entry.
    pub path: TarPath,
    /// The file beneath that its changed blocks go over; absent where it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<TarPath>,
}

/// What one of the manifest's layers is; same order, same digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum LayerRecord {
    /// A whole snapshot directory.
    Base {
        /// The layer's digest.
        digest: Digest,
        /// The snapshot whose directory it is.
        snapshot: Digest,
        /// Its files, in the tar's order.
        files: Vec<LayerFile>,
    },
    /// A snapshot directory over the one beneath it in the stack.
    Delta {
        /// The layer's digest.
        digest: Digest,
        /// The snapshot whose directory results.
        snapshot: Digest,
        /// The files that it holds, in the tar's order.
        files: Vec<LayerFile>,
    },
    /// One file of the image cache.
    Cache {
        /// The layer's digest.
        digest: Digest,
        /// The file; its path is relative to the cache.
        file: FileRecord,
    },
}

impl LayerRecord {
    /// The layer's digest.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Base { digest, .. } | Self::Delta { digest, .. } | Self::Cache { digest, .. } => *digest,
        }
    }

    /// The image-cache file that it holds.
    pub fn cache_file(&self) -> Option<&FileRecord> {
        match self {
            Self::Cache { file, .. } => Some(file),
            _ => None,
        }
    }

    /// The files that it holds of a snapshot's directory.
    pub fn stack_files(&self) -> &[LayerFile] {
        match self {
            Self::Base { files, .. } | Self::Delta { files, .. } => files,
            Self::Cache { .. } => &[],
        }
    }
}

/// The config blob of a snapshot's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotConfig {
    /// 1.
    pub schema_version: u32,
    /// What the snapshot is.
    pub snapshot: SnapshotRecord,
    /// Every file of the directory, sorted by path.
    pub files: Vec<FileRecord>,
    /// What each layer of the manifest is: the stack, oldest first, then the image cache's files.
    pub layers: Vec<LayerRecord>,
}

impl SnapshotConfig {
    /// Canonical bytes: compact JSON, keys in the order of this type.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a config has only string keys")
    }

    /// Parses and validates.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`] that names `context` and the rule that is broken.
    pub fn parse(bytes: &[u8], context: &str) -> Result<Self> {
        let config: Self = json::parse(bytes, context)?;
        config.validate().map_err(|reason| Error::bundle(context, reason))?;
        Ok(config)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        if self.schema_version != 1 {
            return Err(format!("schemaVersion {} is not 1; a newer snapcask may read it", self.schema_version));
        }
        let id = self.snapshot.id.as_deref();
        if id.is_some_and(|id| !matches!(id.parse(), Ok(SnapshotIdentity::Id(_)))) {
            return Err("snapshot.id is no snapshot_id: \"snap_\" and 32 lowercase hex digits".into());
        }
        if id.is_some() != (self.snapshot.generation == Generation::Final) {
            return Err("snapshot.id is there in generation final, and only there".into());
        }
        if !matches!(self.snapshot.format.as_str(), "raw" | "qcow2") {
            return Err(format!("snapshot.format {:?} is neither raw nor qcow2", self.snapshot.format));
        }
        check_table(&self.files)?;
        let paths: HashSet<&TarPath> = self.files.iter().map(|f| &f.path).collect();
        if !paths.contains(&self.snapshot.descriptor) {
            return Err(format!("the file table lacks the descriptor {}", self.snapshot.descriptor));
        }
        if let Some(disk) = &self.snapshot.disk
            && !paths.contains(disk)
        {
            return Err(format!("the file table lacks the head disk {disk}"));
        }
        let mut stack = 0;
        let mut cache = Vec::new();
        for (position, layer) in self.layers.iter().enumerate() {
            match layer {
                LayerRecord::Base { files, .. } if position == 0 => {
                    stack = 1;
                    if files.iter().any(|f| f.base.is_some()) {
                        return Err("a base layer's file names a base".into());
                    }
                    check_layer_files(files)?;
                }
                LayerRecord::Base { .. } => return Err(format!("layer {position} is a base; only the first may be")),
                LayerRecord::Delta { files, .. } if position > 0 && cache.is_empty() => {
                    stack += 1;
                    check_layer_files(files)?;
                }
                LayerRecord::Delta { .. } => {
                    return Err(format!("layer {position} is a delta with nothing beneath it"));
                }
                LayerRecord::Cache { file, .. } if position > 0 => {
                    check_row(file)?;
                    if !is_cache_path(&file.path) {
                        return Err(format!("{} is no image-cache file", file.path));
                    }
                    cache.push(file.path.clone());
                }
                LayerRecord::Cache { .. } => return Err("the first layer is not a base".into()),
            }
        }
        if stack == 0 || stack > MAX_STACK {
            return Err(format!("the stack has {stack} layers, not 1 to {MAX_STACK}"));
        }
        if let Some(LayerRecord::Base { snapshot, .. } | LayerRecord::Delta { snapshot, .. }) =
            self.layers.get(stack - 1)
            && *snapshot != self.snapshot.digest
        {
            return Err("the top of the stack is another snapshot's layer".into());
        }
        let distinct: HashSet<&TarPath> = cache.iter().collect();
        if distinct.len() != cache.len() {
            return Err("two layers hold the same image-cache file".into());
        }
        Ok(())
    }

    /// The row of a file.
    pub fn row(&self, path: &TarPath) -> Option<&FileRecord> {
        self.files.binary_search_by(|row| row.path.cmp(path)).ok().map(|at| &self.files[at])
    }

    /// Whether the table has a file at this path.
    pub fn is_file(&self, path: &str) -> bool {
        self.files.binary_search_by(|row| row.path.as_str().cmp(path)).is_ok()
    }

    /// The stack: how many of the layers are the snapshot's, not the image cache's.
    pub fn stack_len(&self) -> usize {
        self.layers.iter().take_while(|l| !matches!(l, LayerRecord::Cache { .. })).count()
    }
}

/// A layer is unpacked into a folder of its own: its names must be able to stand beside each other, as those of a table.
fn check_layer_files(files: &[LayerFile]) -> std::result::Result<(), String> {
    check_sorted("layer files", files, |file| &file.path)?;
    check_names(files.iter().map(|file| &file.path))
}

/// A table is sorted, without duplicates, names that differ only in case, or a file that is also a folder.
fn check_table(files: &[FileRecord]) -> std::result::Result<(), String> {
    check_sorted("files", files, |file| &file.path)?;
    for file in files {
        check_row(file)?;
        if let Some(name) = file.path.as_str().split('/').find(|name| is_bookkeeping(name)) {
            return Err(format!("{} cannot travel: {name} is a name of local bookkeeping", file.path));
        }
    }
    check_names(files.iter().map(|file| &file.path))
}

fn check_sorted<T>(what: &str, files: &[T], path: impl Fn(&T) -> &TarPath) -> std::result::Result<(), String> {
    match files.windows(2).find(|pair| path(&pair[0]) >= path(&pair[1])) {
        Some(pair) => Err(format!("{what} are not sorted: {} before {}", path(&pair[0]), path(&pair[1]))),
        None => Ok(()),
    }
}

/// No two names of a folder differ only in case or Unicode form, and no file is a folder too. Every path is folded once
/// and nothing is kept of its folders: they can make gigabytes of a config of 4 MiB.
fn check_names<'a>(paths: impl Iterator<Item = &'a TarPath>) -> std::result::Result<(), String> {
    let mut folded = Vec::new();
    for path in paths {
        let depth = path.folders().count();
        if depth > MAX_DEPTH {
            return Err(format!("{path} is {depth} folders deep, over the limit of {MAX_DEPTH}"));
        }
        // A NUL sorts before all that a name may hold: what is in one folder, folded, stands together, a file of that
        // name in front.
        folded.push((fold(path.as_str()).replace('/', "\0"), path.as_str()));
    }
    folded.sort_unstable();
    for pair in folded.windows(2) {
        let ((above, above_path), (below, path)) = (&pair[0], &pair[1]);
        if above == below {
            return Err(format!("{path} differs from another file only in case or Unicode form"));
        }
        let same = above.split('\0').zip(below.split('\0')).take_while(|(a, b)| a == b).count();
        let (depth_above, depth) = (above.matches('\0').count(), below.matches('\0').count());
        let names = above_path.split('/').zip(path.split('/'));
        for (level, (name_above, name)) in names.take(same).enumerate() {
            let folder = || path.split('/').take(level + 1).collect::<Vec<_>>().join("/");
            if level == depth_above || level == depth {
                return Err(format!("{} is both a file and a folder", folder()));
            }
            if name_above != name {
                return Err(format!("the folder {} differs from another only in case or Unicode form", folder()));
            }
        }
    }
    Ok(())
}

fn check_row(file: &FileRecord) -> std::result::Result<(), String> {
    if file.data_bytes > file.size {
        return Err(format!("{} has more data bytes than its size", file.path));
    }
    if file.size > i64::MAX as u64 {
        return Err(format!("{} has an impossible size", file.path));
    }
    Ok(())
}

/// A name of the image cache: one of its four folders, and a file of the kind that the folder holds.
fn is_cache_path(path: &TarPath) -> bool {
    let Some((folder, name)) = path.as_str().split_once('/') else { return false };
    let ending = match folder {
        "layers" | "fsmeta" => ".erofs",
        "vmdk" => ".vmdk",
        "manifests" => ".json",
        _ => return false,
    };
    name.ends_with(ending) && !name.contains('/') && !is_bookkeeping(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[&str]) -> std::result::Result<(), String> {
        let paths: Vec<TarPath> = paths.iter().map(|path| path.parse().unwrap()).collect();
        check_names(paths.iter())
    }

    #[test]
    fn names_that_can_and_cannot_stand_beside_each_other() {
        names(&["a/b/c", "a/b/d", "a/c", "a!", "a0/a", "b/a", "b/b/c", "c", "x/A", "y/a"]).unwrap();
        for (bad, text) in [
            (&["a", "a!", "a/b"][..], "a is both a file and a folder"),
            (&["A", "A0", "a/b"], "a is both a file and a folder"),
            (&["A/b", "a"], "A is both a file and a folder"),
            (&["x/A/b", "x/B", "x/a"], "x/A is both a file and a folder"),
            (&["x/a", "x/a/b/c"], "x/a is both a file and a folder"),
            (&["A/x", "a/y"], "the folder a differs from another only in case or Unicode form"),
            (&["A/y", "a/x"], "the folder A differs from another only in case or Unicode form"),
            (&["x/A/x", "x/a/y/z"], "the folder x/a differs from another only in case or Unicode form"),
            (&["x/A", "x/a"], "x/a differs from another file only in case or Unicode form"),
            (&["e\u{301}/x", "\u{e9}/y"], "only in case or Unicode form"),
        ] {
            assert!(names(bad).unwrap_err().contains(text), "{bad:?}: {:?}", names(bad));
        }
        let deep = "a/".repeat(MAX_DEPTH);
        names(&[&format!("{deep}x")]).unwrap();
        let text = names(&[&format!("{deep}a/x")]).unwrap_err();
        assert!(text.ends_with("is 33 folders deep, over the limit of 32"), "{text}");
    }
}

//! Snapshot directories: their descriptors in three generations, the integrity that these record, their files.

mod final_;
mod flat;
pub mod integrity;
pub mod scan;
mod v066;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    model::{Generation, ImageRecord, SnapshotIdentity, TarPath, json::reject_duplicate_keys},
};

/// Largest descriptor that is read: the limit of the published contract.
pub const MAX_DESCRIPTOR: u64 = 1 << 20;
/// The descriptor's file of a `v066` snapshot.
pub const V066_FILE: &str = "manifest.json";
/// The descriptor's file of all others.
pub const SNAPSHOT_FILE: &str = "snapshot.json";

/// An integrity value that a descriptor records for one of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedIntegrity {
    /// The file.
    pub path: TarPath,
    /// How it is computed.
    pub algorithm: IntegrityAlgorithm,
    /// The value as the descriptor spells it, without an algorithm prefix: 64 lowercase hex digits.
    pub value: String,
}

/// The algorithms in use (DESIGN section 3 of the format's notes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegrityAlgorithm {
    /// Plain SHA-256 of the file's bytes.
    Sha256,
    /// `msb-sparse-sha256-v1`.
    SparseSha256,
    /// `msb-file-merkle-blake3-v1`.
    Merkle,
}

impl IntegrityAlgorithm {
    /// Its name in descriptors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::SparseSha256 => "msb-sparse-sha256-v1",
            Self::Merkle => "msb-file-merkle-blake3-v1",
        }
    }
}

/// What a descriptor says, whatever its generation.
#[derive(Clone, Debug)]
pub struct SnapshotDescriptor {
    /// The contract it follows.
    pub generation: Generation,
    /// `manifest.json` or `snapshot.json`.
    pub file: TarPath,
    /// The bytes as found on disk.
    pub bytes: Vec<u8>,
    /// SHA-256 of the canonical bytes.
    pub digest: Digest,
    /// The `snapshot_id` of a `final` snapshot.
    pub id: Option<String>,
    /// The parent.
    pub parent: Option<SnapshotIdentity>,
    /// The pinned image.
    pub image: Option<ImageRecord>,
    /// When it was captured.
    pub created_at: Option<String>,
    /// `raw` or `qcow2`.
    pub format: String,
    /// The head disk's logical size.
    pub virtual_size: u64,
    /// The head disk's file; none for a snapshot without a file state.
    pub disk: Option<TarPath>,
    /// Every payload file that must be there, with its size where the descriptor states the file's size (raw disks).
    pub payloads: Vec<(TarPath, Option<u64>)>,
    /// Integrity that it records.
    pub recorded: Vec<RecordedIntegrity>,
    /// `requires` that we do not know: carried and said.
    pub unknown_requires: Vec<String>,
}

/// A snapshot directory on disk.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it is.
    pub directory: PathBuf,
    /// The name it goes by: the directory's name, or for a `final` member its alias (else its id).
    pub name: String,
    /// The group's name, for a `final` snapshot in a group.
    pub group: Option<String>,
    /// Its descriptor.
    pub descriptor: SnapshotDescriptor,
}

impl Snapshot {
    /// How another snapshot names this one as its parent.
    pub fn identities(&self) -> Vec<SnapshotIdentity> {
        let mut all = vec![SnapshotIdentity::Digest(self.descriptor.digest)];
        all.extend(self.descriptor.id.clone().map(SnapshotIdentity::Id));
        all
    }

    /// Reads the snapshot directory at `directory`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InvalidSnapshot`] without a descriptor or with two; [`Error::InvalidDescriptor`].
    pub fn open(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::NotFound { what: "snapshot directory", path: directory.into(), hint: String::new() });
        }
        let fail = |reason: &str| Err(Error::InvalidSnapshot { directory: directory.into(), reason: reason.into() });
        let there = |name: &str| directory.join(name).symlink_metadata().is_ok();
        let file = match (there(V066_FILE), there(SNAPSHOT_FILE)) {
            (true, false) => V066_FILE,
            (false, true) => SNAPSHOT_FILE,
            (false, false) => return fail("it has neither manifest.json nor snapshot.json"),
            (true, true) => return fail("it has both manifest.json and snapshot.json"),
        };
        let path = directory.join(file);
        let descriptor = SnapshotDescriptor::parse(&path, &file.parse()?, read_small(&path)?)?;
        let folder = directory.file_name().map_or_else(
            || directory.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned())),
            |n| Some(n.to_string_lossy().into_owned()),
        );
        let group = directory.parent().filter(|p| p.join("group.json").is_file());
        Ok(Self {
            name: alias(directory).or(folder).unwrap_or_default(),
            group: group.and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned()),
            directory: directory.into(),
            descriptor,
        })
    }
}

/// The local alias of a group's member.
fn alias(directory: &Path) -> Option<String> {
    let bytes = read_small(&directory.join("group-member.json")).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let name = value.get("alias").or_else(|| value.get("name"))?.as_str()?;
    name.parse::<crate::model::SnapshotName>().ok().map(String::from)
}

fn read_small(path: &Path) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).context("open", path)?);
    let mut bytes = Vec::new();
    file.take(MAX_DESCRIPTOR + 1).read_to_end(&mut bytes).context("read", path)?;
    if bytes.len() as u64 > MAX_DESCRIPTOR {
        return Err(Error::Limit {
            what: format!("the size of {}", path.display()),
            value: bytes.len() as u64,
            limit: MAX_DESCRIPTOR,
            hint: "",
        });
    }
    Ok(bytes)
}

/// What the parsers of all generations give.
struct Fields {
    generation: Generation,
    digest: Digest,
    id: Option<String>,
    parent: Option<SnapshotIdentity>,
    image: Option<(String, String)>,
    created_at: Option<String>,
    format: String,
    virtual_size: u64,
    disk: Option<TarPath>,
    payloads: Vec<(TarPath, Option<u64>)>,
    recorded: Vec<RecordedIntegrity>,
    unknown_requires: Vec<String>,
}

impl SnapshotDescriptor {
    /// Parses the descriptor `file`, strictly; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::InvalidDescriptor`] that names the field.
    pub fn parse(path: &Path, file: &TarPath, bytes: Vec<u8>) -> Result<Self> {
        let fail = |reason: String| Error::InvalidDescriptor { path: path.into(), reason };
        reject_duplicate_keys(&bytes).map_err(fail)?;
        let fields = if file.as_str() == V066_FILE {
            v066::parse(&bytes)
        } else {
            let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
            match value.get("schema") {
                Some(serde_json::Value::Number(_)) => flat::parse(&bytes),
                Some(serde_json::Value::String(_)) => final_::parse(&bytes),
                _ => Err("schema is neither a number nor a string".into()),
            }
        }
        .map_err(fail)?;
        let image = match fields.image {
            Some((reference, digest)) => Some(ImageRecord {
                reference,
                manifest_digest: digest.parse().map_err(|e| fail(format!("image.manifest_digest: {e}")))?,
            }),
            None => None,
        };
        Ok(Self {
            generation: fields.generation,
            file: file.clone(),
            bytes,
            digest: fields.digest,
            id: fields.id,
            parent: fields.parent,
            image,
            created_at: fields.created_at,
            format: fields.format,
            virtual_size: fields.virtual_size,
            disk: fields.disk,
            payloads: fields.payloads,
            recorded: fields.recorded,
            unknown_requires: fields.unknown_requires,
        })
    }
}

/// An `integrity` member: the same shape in all generations.
fn parse_upper_integrity(
    value: &serde_json::Value,
    path: &TarPath,
    size: u64,
) -> std::result::Result<RecordedIntegrity, String> {
    use microsandbox_types::snapshot::UpperIntegrity;
    let integrity: UpperIntegrity = serde_json::from_value(value.clone()).map_err(|e| format!("integrity: {e}"))?;
    let (algorithm, text, prefix) = match &integrity {
        UpperIntegrity::Sha256 { digest } => (IntegrityAlgorithm::Sha256, digest, "sha256:"),
        UpperIntegrity::SparseSha256V1 { digest } => (IntegrityAlgorithm::SparseSha256, digest, "sha256:"),
        UpperIntegrity::FileMerkleBlake3V1 { root, logical_size, leaf_size } => {
            if *logical_size != size || *leaf_size != 65_536 {
                return Err("integrity: logical_size or leaf_size is not the payload's".into());
            }
            (IntegrityAlgorithm::Merkle, root, "blake3:")
        }
    };
    let hex = text.strip_prefix(prefix).filter(|hex| crate::digest::parse_hex32(hex).is_some());
    match hex {
        Some(hex) => Ok(RecordedIntegrity { path: path.clone(), algorithm, value: hex.to_owned() }),
        None => Err(format!("integrity: {text:?} is not {prefix} and 64 lowercase hex digits")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn parse(file: &str, text: &str) -> Result<SnapshotDescriptor> {
        SnapshotDescriptor::parse(Path::new(file), &file.parse().unwrap(), text.as_bytes().to_vec())
    }

    fn v066() -> String {
        format!(
            r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"alpine","manifest_digest":"{DIGEST}"}},"parent":null,"created_at":"2026-05-01T12:00:00Z","labels":{{}},"upper":{{"file":"upper.ext4","size_bytes":4096,"integrity":null}},"source_sandbox":"a"}}"#
        )
    }

    fn flat() -> String {
        format!(
            r#"{{"schema":1,"artifact":"snapshot","scope":"disk","created_at":"2026-05-01T12:00:00Z","parent":"{DIGEST}","image":{{"ref":"alpine","manifest_digest":"{DIGEST}"}},"source_sandbox":"a","state":{{"kind":"file","format":"raw","fstype":"ext4","upper":{{"file":"upper.ext4","size_bytes":4096,"integrity":null}}}},"labels":{{}},"extensions":{{"x.unknown":1}},"requires":["x.unknown"]}}"#
        )
    }

    #[test]
    fn v066_is_read_strictly() {
        let text = v066();
        let parsed = parse(V066_FILE, &text).unwrap();
        assert_eq!(parsed.digest, Digest::of(text.as_bytes()));
        assert_eq!(parsed.payloads, vec![("upper.ext4".parse().unwrap(), Some(4096))]);
        for (from, to, say) in [
            (r#""fstype""#, r#""extra":1,"fstype""#, "unknown field `extra`"),
            (r#""fstype""#, r#""schema":1,"fstype""#, "duplicate key \"schema\""),
            (r#""size_bytes":4096"#, r#""size_bytes":"4096""#, "invalid type"),
            (r#""schema":1"#, r#""schema":2"#, "schema is 2"),
            ("upper.ext4", "../x", "upper.file"),
            ("sha256:9f", "sha256:9F", "64 lowercase hex digits"),
        ] {
            let error = parse(V066_FILE, &text.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(say), "{error}");
            assert!(error.contains("manifest.json"), "{error}");
        }
    }

    #[test]
    fn flat_follows_the_published_contract_and_carries_unknown_requires() {
        let parsed = parse(SNAPSHOT_FILE, &flat()).unwrap();
        assert_eq!(parsed.generation, Generation::Flat);
        assert_eq!(parsed.unknown_requires, ["x.unknown"]);
        assert!(matches!(parsed.parent, Some(SnapshotIdentity::Digest(_))));
        assert!(parse(SNAPSHOT_FILE, &flat().replace(r#""labels":{}"#, r#""labels":{},"more":0"#)).is_err());
    }
}

//! `archive.json`, which comes last and lists every member: its two forms, and what must hold between it and the members
//! that were read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use microsandbox_types::snapshot::{GUEST_CLOCK_EXTENSION, SnapshotId, UpperIntegrity};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    dependencies::{self, Dependencies},
    member::{Form, INVENTORY},
    transport,
    unpack::Observed,
};
use crate::{
    digest::{Digest, parse_hex32},
    error::{Error, Result},
    model::json::reject_duplicate_keys,
    snapshot::SNAPSHOT_FILE,
};

/// Largest inventory that is read.
pub(super) const MAX_INVENTORY: u64 = 4 << 20;
/// Names of members.
const MEMBER_NAMES: &str = "msb-snapshot-member-names";
/// The completeness of an archive that needs others.
const DEPENDENT: &str = "dependent";
/// That of all others.
const COMPLETE: &str = "boot-complete";

/// What an inventory says, whatever its form.
#[derive(Debug)]
pub(super) struct Inventory {
    /// The form.
    pub form: Form,
    /// The head, as its owner is called in the archive.
    pub head: String,
    /// A name for the head.
    pub suggested_name: Option<String>,
    /// The names of snapshots, by owner.
    pub names: BTreeMap<String, String>,
    /// The snapshots with the digests of their descriptors, by owner.
    pub members: BTreeMap<String, Digest>,
    /// Every file.
    pub entries: Vec<ListedEntry>,
    /// What it needs of others.
    pub dependencies: Option<Dependencies>,
    /// Whether every entry has a transport hash.
    requires_transport: bool,
}

/// A file, as the inventory of the current form lists it; the older form has no sparse ranges.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListedEntry {
    pub path: String,
    pub owner_snapshot: Option<String>,
    pub kind: String,
    pub included: bool,
    pub encoded_size: u64,
    pub apparent_size: u64,
    pub sparse_ranges: Vec<[u64; 2]>,
    #[serde(deserialize_with = "may_be_null")]
    pub integrity: Option<UpperIntegrity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_integrity: Option<Transport>,
}

/// A transport hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Transport {
    algorithm: String,
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    entry_count: u64,
    encoded_bytes: u64,
    apparent_bytes: u64,
}

/// The current form; the order of the fields is that of its bytes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Current {
    schema: String,
    head: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suggested_name: Option<String>,
    completeness: String,
    members: Vec<CurrentMember>,
    entries: Vec<ListedEntry>,
    limits: Limits,
    extensions: BTreeMap<String, serde_json::Value>,
    requires: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CurrentMember {
    snapshot_id: String,
    descriptor_path: String,
    descriptor_digest: String,
}

/// Schema 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Released {
    schema: u32,
    artifact: String,
    head: String,
    suggested_name: Option<String>,
    completeness: String,
    with_parents: bool,
    with_image: bool,
    snapshots: Vec<ReleasedMember>,
    entries: Vec<ReleasedEntry>,
    protection_requirements: Vec<serde_json::Value>,
    extensions: BTreeMap<String, serde_json::Value>,
    requires: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleasedMember {
    snapshot_id: String,
    descriptor: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleasedEntry {
    path: String,
    owner_snapshot: Option<String>,
    kind: String,
    included: bool,
    encoded_size: u64,
    apparent_size: u64,
    #[serde(deserialize_with = "may_be_null")]
    integrity: Option<UpperIntegrity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transport_integrity: Option<Transport>,
}

/// May be null, may not be absent.
fn may_be_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// Something in an archive that is not as it must be.
#[derive(Debug)]
pub(super) struct Problem {
    /// The member, or the inventory.
    pub subject: String,
    /// What is wrong.
    pub reason: String,
}

impl Problem {
    pub fn new(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { subject: subject.into(), reason: reason.into() }
    }
}

impl Inventory {
    /// Parses the inventory of the archive that messages call `name`.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`] that names the rule that is broken.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        Self::parse_inner(bytes).map_err(|reason| Error::bundle(format!("{name}: {INVENTORY}"), reason))
    }

    fn parse_inner(bytes: &[u8]) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Probe {
            schema: serde_json::Value,
        }
        reject_duplicate_keys(bytes)?;
        let Probe { schema } = decode(bytes)?;
        if schema.as_u64() == Some(1) {
            canonical::<Released>(bytes)?.inventory()
        } else if schema == Form::Current.as_str() {
            canonical::<Current>(bytes)?.inventory()
        } else {
            Err(format!("schema: {schema} is neither 1 nor {:?}", Form::Current.as_str()))
        }
    }

    /// What of the members that were read is not as listed.
    pub fn problems(&self, observed: &BTreeMap<String, Observed>) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut listed: BTreeMap<&str, Vec<&ListedEntry>> = BTreeMap::new();
        for entry in &self.entries {
            listed.entry(&entry.path).or_default().push(entry);
        }
        for (path, entries) in &listed {
            let result = match observed.get(*path) {
                None if entries.iter().all(|entry| !entry.included) => Ok(()),
                None => Err("it is listed, and not in the archive".into()),
                Some(_) if entries.iter().any(|entry| !entry.included) => {
                    Err("it is listed as left out, and is in the archive".into())
                }
                Some(observed) => self.check_member(entries, observed),
            };
            found.extend(result.err().map(|reason| Problem::new(*path, reason)));
        }
        for path in observed.keys().filter(|path| !listed.contains_key(path.as_str())) {
            found.push(Problem::new(path, "it is in the archive, and not listed"));
        }
        for owner in self.members.keys() {
            let path = format!("snapshots/{owner}/{SNAPSHOT_FILE}");
            if !listed.contains_key(path.as_str()) {
                found.push(Problem::new(path, "the descriptor of a listed snapshot is not listed itself"));
            }
        }
        found
    }

    /// Whether a member is what its entries say: of one that several snapshots share, msb lists each, and hashes the last.
    fn check_member(&self, entries: &[&ListedEntry], observed: &Observed) -> std::result::Result<(), String> {
        if entries.len() > 1 && entries.len() != observed.copies.len() {
            return Err(format!(
                "it is listed {} times, and {} times in the archive",
                entries.len(),
                observed.copies.len()
            ));
        }
        for entry in entries {
            if entry.kind != observed.kind {
                return Err(format!("its kind is listed as {:?}, and is {:?}", entry.kind, observed.kind));
            }
            let hashed = match &entry.transport_integrity {
                Some(transport) => Some(transport.hash()?),
                None if self.requires_transport && entries.len() == 1 => {
                    return Err("it has no transport hash, which the archive requires".into());
                }
                None => None,
            };
            // Of a copy that is not hashed, msb lists what it guessed before it wrote it. It holds the same as those that
            // are hashed: that has been compared.
            if hashed.is_none() && entries.len() > 1 {
                continue;
            }
            if entry.apparent_size != observed.size {
                return Err(format!("its size is listed as {}, and is {}", entry.apparent_size, observed.size));
            }
            let fits = |copy: &&super::unpack::Copy| {
                copy.stored == entry.encoded_size && (self.form == Form::Released || copy.map == entry.sparse_ranges)
            };
            if !observed.copies.iter().any(|copy| fits(&copy)) {
                return Err("its stored size or its sparse ranges are not those that are listed".into());
            }
            if let Some(hash) = hashed
                && !observed.copies.iter().any(|copy| fits(&copy) && copy.transport == hash)
            {
                return Err("its transport hash is not the one that is listed".into());
            }
            // What a payload holds is the descriptor's to say.
            if let (Some(UpperIntegrity::Sha256 { digest }), true) = (&entry.integrity, entry.kind != "file-payload")
                && observed.sha256.is_none_or(|actual| actual.to_string() != *digest)
            {
                return Err("its SHA-256 is not the one that is listed".into());
            }
        }
        // (No msb writes an archive in which none of several copies is hashed.)
        if entries.len() > 1 && entries.iter().all(|entry| entry.transport_integrity.is_none()) {
            return Err("none of its copies has a transport hash".into());
        }
        Ok(())
    }
}

impl Transport {
    fn hash(&self) -> std::result::Result<&str, String> {
        let known = self.algorithm == transport::ALGORITHM
            && self.digest.strip_prefix("blake3:").is_some_and(|hex| parse_hex32(hex).is_some());
        if known { Ok(&self.digest) } else { Err("its transport hash is of an unknown form".into()) }
    }
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Parses bytes that must be the ones that the value is written as.
fn canonical<T: for<'de> Deserialize<'de> + Serialize>(bytes: &[u8]) -> std::result::Result<T, String> {
    let value: T = decode(bytes)?;
    match serde_json::to_vec(&value) {
        Ok(again) if again == bytes => Ok(value),
        _ => Err("it is not in its canonical form".into()),
    }
}

impl Current {
    fn inventory(self) -> std::result::Result<Inventory, String> {
        if !matches!(self.completeness.as_str(), COMPLETE | DEPENDENT) {
            return Err(format!("completeness: {:?} is neither {COMPLETE} nor {DEPENDENT}", self.completeness));
        }
        if self.requires.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("requires: it is not sorted".into());
        }
        let known = [transport::ALGORITHM, dependencies::REQUIREMENT, GUEST_CLOCK_EXTENSION];
        if let Some(unknown) = self.requires.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(format!("requires: {unknown:?} is not known; a newer snapcask may read it"));
        }
        let suggested_name = checked_name(self.suggested_name)?;
        let mut members = BTreeMap::new();
        let mut last = None;
        for member in &self.members {
            let id = &member.snapshot_id;
            SnapshotId::new(id).map_err(|_| format!("members: {id:?} is no snapshot_id"))?;
            if last.replace(id).is_some_and(|last| last >= id) {
                return Err("members: they are not sorted".into());
            }
            if member.descriptor_path != format!("snapshots/{id}/{SNAPSHOT_FILE}") {
                return Err(format!("members: the descriptor of {id} is not where it belongs"));
            }
            members.insert(id.clone(), digest("members", &member.descriptor_digest)?);
        }
        if !members.contains_key(&self.head) {
            return Err(format!("head: {:?} is no member", self.head));
        }
        let names: BTreeMap<String, String> = match self.extensions.get(MEMBER_NAMES) {
            None => BTreeMap::new(),
            Some(names) => serde_json::from_value(names.clone()).map_err(|e| format!("{MEMBER_NAMES}: {e}"))?,
        };
        if let Some(other) = names.keys().find(|id| !members.contains_key(*id)) {
            return Err(format!("{MEMBER_NAMES}: {other:?} is no member"));
        }
        check_entries(&self.entries, &members)?;
        let has = |name: &str| self.requires.iter().any(|other| other == name);
        let dependencies = Dependencies::of(
            self.extensions.get(dependencies::REQUIREMENT),
            has(dependencies::REQUIREMENT),
            self.completeness == DEPENDENT,
            &self.head,
            &self.entries,
        )?;
        Ok(Inventory {
            form: Form::Current,
            suggested_name,
            names,
            members,
            requires_transport: has(transport::ALGORITHM),
            head: self.head,
            entries: self.entries,
            dependencies,
        })
    }
}

impl Released {
    fn inventory(self) -> std::result::Result<Inventory, String> {
        if self.artifact != "snapshot-archive" {
            return Err(format!("artifact: {:?} is not \"snapshot-archive\"", self.artifact));
        }
        if self.completeness != COMPLETE {
            return Err(format!("completeness: {:?} is not {COMPLETE}", self.completeness));
        }
        if !self.protection_requirements.is_empty() {
            return Err("protection_requirements: they are not known".into());
        }
        let requires_transport = match self.requires.as_slice() {
            [] => false,
            [only] if only == transport::ALGORITHM => true,
            _ => return Err("requires: it names what is not known".into()),
        };
        let suggested_name = checked_name(self.suggested_name)?;
        let mut members = BTreeMap::new();
        let mut last = None;
        for member in &self.snapshots {
            let digest = digest("snapshots", &member.snapshot_id)?;
            if last.replace(digest).is_some_and(|last| last >= digest) {
                return Err("snapshots: they are not sorted".into());
            }
            if member.descriptor != format!("snapshots/{}/{SNAPSHOT_FILE}", digest.hex()) {
                return Err(format!("snapshots: the descriptor of {digest} is not where it belongs"));
            }
            members.insert(digest.hex(), digest);
        }
        let head = digest("head", &self.head)?.hex();
        if !members.contains_key(&head) {
            return Err(format!("head: {:?} is no member", self.head));
        }
        let mut entries = Vec::new();
        for ReleasedEntry {
            path,
            owner_snapshot,
            kind,
            included,
            encoded_size,
            apparent_size,
            integrity,
            transport_integrity,
        } in self.entries
        {
            let owner_snapshot = owner_snapshot.map(|owner| digest("entries", &owner)).transpose()?.map(|d| d.hex());
            if !included {
                return Err(format!("entries: {path} is left out of an archive that is to be complete"));
            }
            let sparse_ranges = Vec::new();
            entries.push(ListedEntry {
                path,
                owner_snapshot,
                kind,
                included,
                encoded_size,
                apparent_size,
                sparse_ranges,
                integrity,
                transport_integrity,
            });
        }
        check_entries(&entries, &members)?;
        Ok(Inventory {
            form: Form::Released,
            head,
            suggested_name,
            names: BTreeMap::new(),
            members,
            entries,
            dependencies: None,
            requires_transport,
        })
    }
}

fn checked_name(name: Option<String>) -> std::result::Result<Option<String>, String> {
    match name {
        Some(name) if name.is_empty() || name.len() > 255 || name.contains(['/', '\\']) => {
            Err("suggested_name: it is no name".into())
        }
        name => Ok(name),
    }
}

fn digest(field: &str, text: &str) -> std::result::Result<Digest, String> {
    text.parse().map_err(|error| format!("{field}: {error}"))
}

/// Entries are sorted, and each is its owner's. Only a layer that several snapshots share may be there more than once.
fn check_entries(entries: &[ListedEntry], members: &BTreeMap<String, Digest>) -> std::result::Result<(), String> {
    for pair in entries.windows(2) {
        let shared = pair[0].kind == "file-payload"
            && pair[1].kind == "file-payload"
            && pair[0].owner_snapshot != pair[1].owner_snapshot
            && pair[0].path.starts_with("layers/");
        if pair[0].path.as_bytes() > pair[1].path.as_bytes() || pair[0].path == pair[1].path && !shared {
            return Err(format!("entries: they are not sorted: {} before {}", pair[0].path, pair[1].path));
        }
    }
    let mut owners: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for entry in entries {
        let is_image = matches!(entry.kind.as_str(), "image-metadata" | "image-object");
        match &entry.owner_snapshot {
            None if is_image && matches!(entry.integrity, Some(UpperIntegrity::Sha256 { .. })) => {}
            Some(owner) if !is_image && members.contains_key(owner) => {
                if !owners.entry(&entry.path).or_default().insert(owner) {
                    return Err(format!("entries: {} is its owner's twice", entry.path));
                }
                if entry.kind == "snapshot-descriptor"
                    && !matches!(&entry.integrity, Some(UpperIntegrity::Sha256 { digest })
                        if *digest == members[owner].to_string())
                {
                    return Err(format!("entries: {} is not the descriptor of its owner", entry.path));
                }
            }
            _ => return Err(format!("entries: {} is nobody's", entry.path)),
        }
    }
    Ok(())
}

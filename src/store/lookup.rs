//! Which snapshot a reference means: a path, a name, a digest or a unique prefix of it, an id, `group:member`, `group`.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use super::Store;
use crate::{
    error::{Error, IoContext, Result},
    model::SnapshotIdentity,
    snapshot::{SNAPSHOT_FILE, Snapshot, V066_FILE},
};

/// Shortest digest prefix that is looked up, in hex digits.
const MIN_PREFIX: usize = 12;

/// Every snapshot directory of the store, and every folder that is none with the reason, sorted.
pub fn all(store: &Store) -> Result<(Vec<Snapshot>, Vec<(PathBuf, String)>)> {
    let (mut snapshots, mut unreadable) = (Vec::new(), Vec::new());
    for folder in folders(&store.snapshots())? {
        let members = if is_group(&folder) { folders(&folder)? } else { vec![folder] };
        for member in members {
            match Snapshot::open(&member) {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) => unreadable.push((member, error.to_string())),
            }
        }
    }
    snapshots.sort_by(|a, b| (&a.group, &a.name).cmp(&(&b.group, &b.name)));
    Ok((snapshots, unreadable))
}

fn is_group(folder: &Path) -> bool {
    folder.join("group.json").is_file() && !folder.join(V066_FILE).exists() && !folder.join(SNAPSHOT_FILE).exists()
}

/// Folders whose names do not begin with a dot, sorted; none where `path` does not exist.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context("read", path)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context("read", path)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.file_type().context("stat", entry.path())?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The snapshot that `reference` means.
///
/// # Errors
/// [`Error::Ambiguous`] with all candidates; [`Error::SnapshotNotFound`] with some of the names there are.
pub fn find(store: &Store, reference: &str) -> Result<Snapshot> {
    if reference.contains('/') || matches!(reference, "." | "..") {
        return Snapshot::open(Path::new(reference));
    }
    let folder = store.snapshots().join(reference);
    if reference.parse::<crate::model::SnapshotName>().is_ok()
        && folder.is_dir()
        && !is_group(&folder)
        && !looks_like_digest(reference)
    {
        let named = Snapshot::open(&folder)?;
        // A folder's name is unique; only a member's alias could be the same word, and `group:member` reaches that.
        return Ok(named);
    }
    let (all, unreadable) = all(store)?;
    let mut found: Vec<&Snapshot> = all.iter().filter(|s| answers(s, reference)).collect();
    if found.is_empty() {
        found = group_heads(&all, reference);
    }
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Error::SnapshotNotFound {
            reference: reference.into(),
            store: store.snapshots(),
            hint: hint(&all, &unreadable),
        }),
        several => Err(Error::Ambiguous {
            reference: reference.into(),
            candidates: several.iter().map(|s| describe(s)).collect(),
        }),
    }
}

fn looks_like_digest(reference: &str) -> bool {
    reference.len() >= MIN_PREFIX && reference.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn answers(snapshot: &Snapshot, reference: &str) -> bool {
    let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
    let by_digest = hex.len() <= 64 && looks_like_digest(hex) && snapshot.descriptor.digest.hex().starts_with(hex);
    let folder = snapshot.directory.file_name().is_some_and(|n| n == reference);
    let member = reference.split_once(':').is_some_and(|(group, name)| {
        snapshot.group.as_deref() == Some(group)
            && (snapshot.name == name || snapshot.descriptor.id.as_deref() == Some(name))
    });
    by_digest || member || folder || snapshot.name == reference || snapshot.descriptor.id.as_deref() == Some(reference)
}

/// The members of a group that are no other member's parent.
fn group_heads<'a>(all: &'a [Snapshot], group: &str) -> Vec<&'a Snapshot> {
    let members: Vec<&Snapshot> = all.iter().filter(|s| s.group.as_deref() == Some(group)).collect();
    let parents: HashSet<&SnapshotIdentity> = members.iter().filter_map(|s| s.descriptor.parent.as_ref()).collect();
    members.iter().filter(|s| !s.identities().iter().any(|i| parents.contains(i))).copied().collect()
}

fn describe(snapshot: &Snapshot) -> String {
    let group = snapshot.group.as_ref().map(|g| format!("{g}:")).unwrap_or_default();
    format!(
        "{group}{} (sha256:{}, {})",
        snapshot.name,
        snapshot.descriptor.digest.short(),
        snapshot.directory.display()
    )
}

fn hint(all: &[Snapshot], unreadable: &[(PathBuf, String)]) -> String {
    let names: Vec<&str> = all.iter().take(8).map(|s| s.name.as_str()).collect();
    let more = if all.len() > 8 { ", ..." } else { "" };
    match (names.is_empty(), unreadable.first()) {
        (false, _) => format!("; it has {}{more}", names.join(", ")),
        (true, Some((_, reason))) => format!("; {reason}"),
        (true, None) => "; it has no snapshots (--store or $MSB_HOME names another store)".into(),
    }
}

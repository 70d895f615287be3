//! What an archive says of itself, without unpacking it.

use std::collections::BTreeMap;

use super::{
    Form, Input,
    member::Place,
    staged::{describe, layers_of},
    unpack::{Read, look_through},
};
use crate::{
    error::{Error, Result},
    model::{SnapshotRecord, TarPath},
};

/// An archive that was looked through.
pub struct Looked {
    /// How messages name it.
    pub name: String,
    /// Its form.
    pub form: Form,
    /// Head first.
    pub snapshots: Vec<LookedSnapshot>,
    /// Members.
    pub files: usize,
    /// Their bytes in the archive.
    pub bytes: u64,
    /// Members that are left out, because another archive or a store has them.
    pub left_out: Vec<String>,
    /// Files of the image cache.
    pub cache: Vec<TarPath>,
}

/// A snapshot of it.
pub struct LookedSnapshot {
    /// What its descriptor says.
    pub record: SnapshotRecord,
    /// Its files, sorted by path; those that are left out too.
    pub files: Vec<LookedFile>,
}

/// A file of a snapshot.
pub struct LookedFile {
    /// Its path in the snapshot's directory.
    pub path: TarPath,
    /// Logical size.
    pub size: u64,
    /// Bytes in the archive.
    pub stored: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// Looks through an archive: its tar, its inventory and its descriptors. Nothing else of it is verified.
///
/// # Errors
/// [`Error::InvalidBundle`]; I/O.
pub fn look(input: Input, max_files: u64) -> Result<Looked> {
    let mut read = look_through(input, max_files)?;
    let descriptors = std::mem::take(&mut read.descriptors);
    let left_out = match &read.inventory {
        Some(inventory) => match &inventory.dependencies {
            Some(all) => all.missing(&inventory.head).into_iter().map(|missing| missing.path).collect(),
            None => Vec::new(),
        },
        None => Vec::new(),
    };
    let mut snapshots = Vec::new();
    for (owner, bytes) in descriptors {
        let described = describe(&read, &owner, bytes)?;
        let mut files: BTreeMap<TarPath, LookedFile> = BTreeMap::new();
        let mut add = |path: &TarPath, size, stored, executable| {
            files.insert(path.clone(), LookedFile { path: path.clone(), size, stored, executable });
        };
        for member in read.members.values() {
            if let Place::Snapshot(of, path) = &member.place
                && *of == owner
            {
                add(path, member.size, member.copies.iter().map(|copy| copy.stored).sum(), member.executable);
            }
        }
        for path in layers_of(&described)? {
            match read.members.get(path.as_str()) {
                Some(member) => add(&path, member.size, member.copies[0].stored, member.executable),
                None => add(&path, listed_size(&read, path.as_str()), 0, false),
            }
        }
        let is_head = read.inventory.as_ref().is_some_and(|inventory| inventory.head == owner.as_str());
        let record = described.descriptor.record(described.name);
        snapshots.push((is_head, LookedSnapshot { record, files: files.into_values().collect() }));
    }
    let bytes = read.members.values().flat_map(|member| &member.copies).map(|copy| copy.stored).sum();
    let files = read.members.values().map(|member| member.copies.len()).sum();
    let cache = read.members.values().filter_map(|member| match &member.place {
        Place::Cache(path) => Some(path.clone()),
        _ => None,
    });
    let cache = cache.collect();
    Ok(Looked {
        snapshots: head_first(&read.name, snapshots)?,
        name: read.name,
        form: read.form,
        files,
        bytes,
        left_out,
        cache,
    })
}

fn listed_size(read: &Read, path: &str) -> u64 {
    let entries = read.inventory.iter().flat_map(|inventory| &inventory.entries);
    entries.filter(|entry| entry.path == path).map(|entry| entry.apparent_size).next().unwrap_or(0)
}

/// The head, then whatever is the parent of the one before, then the rest.
fn head_first(name: &str, mut left: Vec<(bool, LookedSnapshot)>) -> Result<Vec<LookedSnapshot>> {
    let is_parent_of = |parent: &LookedSnapshot, child: &LookedSnapshot| {
        let named = child.record.parent.as_ref();
        named.is_some_and(|named| parent.record.identities().contains(named))
    };
    let listed = left.iter().position(|(is_head, _)| *is_head);
    let unparented = (0..left.len()).find(|at| !left.iter().any(|(_, other)| is_parent_of(&left[*at].1, other)));
    let Some(head) = listed.or(unparented) else {
        return Err(Error::bundle(name, "it holds no snapshot that is a head"));
    };
    let mut ordered = vec![left.remove(head).1];
    while !left.is_empty() {
        let next = ordered.last().and_then(|last| left.iter().position(|(_, other)| is_parent_of(other, last)));
        ordered.push(left.remove(next.unwrap_or(0)).1);
    }
    Ok(ordered)
}

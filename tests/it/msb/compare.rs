//! Directories file by file: contents and folders, not modes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use snapcask::Digest;

use super::program::Msb;
use crate::fixture::*;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder with nothing in it: one with files shows by these.
    EmptyFolder,
    /// A file's size and the digest of its contents.
    File(u64, Digest),
}

/// Whether the file that holds a member's name is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As any other.
    Compared,
    /// It is left out.
    Left,
}

/// Every file and empty folder below a directory, but what is ignored.
pub fn contents(root: &Path, ignored: &dyn Fn(&str) -> bool) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let mut empty = true;
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let entry = entry.unwrap();
            empty = false;
            let path = entry.path();
            let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if ignored(&relative) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                let (_, size, digest) = identity(&path);
                found.insert(relative, Entry::File(size, digest));
            }
        }
        if empty && folder != root {
            found.insert(folder.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), Entry::EmptyFolder);
        }
    }
    found
}

/// What one of two directories has and the other has not, or has otherwise.
pub fn same(what: &str, ours: &Path, theirs: &Path, names: Names) -> Result<(), String> {
    // The record of an import is ours alone; msb leaves the lock of a migration where it migrated.
    let ignored = |path: &str| {
        matches!(path, ".snapcask.json" | ".snapshot-migration.lock")
            || path == "group-member.json" && names == Names::Left
    };
    let (ours, theirs) = (contents(ours, &ignored), contents(theirs, &ignored));
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut differences = Vec::new();
    for path in paths {
        match (ours.get(path), theirs.get(path)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => differences.push(format!("{path}: {a:?} here, {b:?} as msb places it")),
            (Some(_), None) => differences.push(format!("{path}: msb does not place it")),
            (None, _) => differences.push(format!("{path}: is missing")),
        }
    }
    match differences.is_empty() {
        true => Ok(()),
        false => Err(format!("{what}: {}", differences.join("; "))),
    }
}

/// The image cache of two homes: the same files under digests, and metadata that means the same for each manifest.
pub fn same_images(ours: &Msb, theirs: &Msb) -> Result<(), String> {
    for folder in ["fsmeta", "layers", "vmdk"] {
        let files = |msb: &Msb| -> BTreeMap<String, Vec<u8>> {
            let Ok(entries) = fs::read_dir(msb.home.join("cache").join(folder)) else { return BTreeMap::new() };
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file() && path.extension().is_some_and(|e| e != "lock"))
                .map(|path| {
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    let bytes = fs::read(&path).unwrap();
                    // A VMDK names files of its own store.
                    let home = msb.home.to_str().unwrap();
                    match folder == "vmdk" {
                        true => (name, String::from_utf8(bytes).unwrap().replace(home, "HOME").into_bytes()),
                        false => (name, bytes),
                    }
                })
                .collect()
        };
        let (a, b) = (files(ours), files(theirs));
        if let Some(name) = a.keys().chain(b.keys()).find(|name| a.get(*name) != b.get(*name)) {
            return Err(format!("the image cache: {folder}/{name} is not as msb places it"));
        }
    }
    let metadata = |msb: &Msb| -> BTreeMap<String, Value> {
        let Ok(entries) = fs::read_dir(msb.home.join("cache/manifests")) else { return BTreeMap::new() };
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .map(|path| json_file(&path))
            .map(|document| (document["manifest_digest"].as_str().unwrap().to_owned(), document))
            .collect()
    };
    match metadata(ours) == metadata(theirs) {
        true => Ok(()),
        false => Err("the image cache: the metadata does not mean what msb places".into()),
    }
}

//! Which snapshots stand in a store, found by their files alone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use snapcask::Digest;

use super::program::Msb;
use crate::fixture::*;

/// A snapshot that stands in a store.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The group's folder name.
    pub group: Option<String>,
    /// The member's name, or the folder's where there is no group.
    pub name: Option<String>,
    /// Its directory.
    pub directory: PathBuf,
}

impl Placed {
    /// How `msb` is told which one is meant: by name, by id where a member has none, by path where there is no group.
    pub fn selector(&self) -> String {
        let id = self.directory.file_name().unwrap().to_str().unwrap();
        match &self.group {
            Some(group) => format!("{group}:{}", self.name.as_deref().unwrap_or(id)),
            None => self.path().to_owned(),
        }
    }

    /// Its path as text.
    pub fn path(&self) -> &str {
        self.directory.to_str().unwrap()
    }
}

/// All snapshots of a store by their id.
pub fn all(msb: &Msb) -> BTreeMap<String, Placed> {
    let mut found = BTreeMap::new();
    for folder in folders(&msb.snapshots()) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        if folder.join("group.json").is_file() {
            for member in folders(&folder) {
                if let Some(id) = id(&member) {
                    let file = member.join("group-member.json");
                    let name = file.is_file().then(|| json_file(&file)["name"].as_str().map(str::to_owned)).flatten();
                    let group = Some(folder.file_name().unwrap().to_str().unwrap().to_owned());
                    found.insert(id, Placed { group, name, directory: member });
                }
            }
        } else if let Some(id) = id(&folder) {
            found.insert(id, Placed { group: None, name: Some(name), directory: folder });
        }
    }
    found
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let visible = |path: &PathBuf| !path.file_name().unwrap().to_str().unwrap().starts_with('.');
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir() && visible(path)).collect()
}

/// The id that `msb` 0.7 knows a snapshot by.
fn id(directory: &Path) -> Option<String> {
    let (current, old) = (directory.join("snapshot.json"), directory.join("manifest.json"));
    let path = if current.is_file() { current } else { old };
    let bytes = fs::read(path).ok()?;
    let document: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    Some(match document["snapshot_id"].as_str() {
        Some(id) => id.to_owned(),
        None => format!("snap_{}", &Digest::of(&bytes).hex()[..32]),
    })
}

//! The files of a snapshot directory that travel.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use rustix::fs::FileType;

use super::{MIGRATED_DISK, Snapshot, V066_FILE};
pub use crate::model::{config::MAX_DEPTH, path::is_bookkeeping};
use crate::{
    beneath::Folder,
    error::{Error, Result},
    model::{TarPath, path::fold},
};

/// Most files of one snapshot.
pub const MAX_FILES: usize = 100_000;

/// A regular file that travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path in the file table.
    pub path: TarPath,
    /// Its path in the snapshot directory: the same, but for the disk of a migrated snapshot.
    pub at: TarPath,
    /// Where it is.
    pub absolute: PathBuf,
    /// Logical size, in bytes.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// Every file of `snapshot` that travels, sorted by path.
///
/// # Errors
/// [`Error::InvalidSnapshot`]: something that is neither a regular file nor a folder, a name that cannot travel, two names
/// that differ only in case, a payload that is missing or has not the size that the descriptor states, too many files.
pub fn scan(snapshot: &Snapshot) -> Result<Vec<SourceFile>> {
    scan_in(&Folder::open(&snapshot.directory)?, snapshot)
}

/// As [`scan`], of a directory that is open: it stays this one, whatever is put at its path meanwhile.
///
/// # Errors
/// As [`scan`].
pub fn scan_in(directory: &Folder, snapshot: &Snapshot) -> Result<Vec<SourceFile>> {
    let invalid = |reason: String| Error::InvalidSnapshot { directory: snapshot.directory.clone(), reason };
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((prefix, depth)) = folders.pop() {
        let Some(folder) = directory.folder(&prefix)? else {
            return Err(Error::SourceChanged { path: snapshot.directory.join(prefix) });
        };
        let mut folded: HashMap<String, String> = HashMap::new();
        for (name, stat) in folder.entries()? {
            let absolute = folder.path().join(&name);
            // A hidden name need not be UTF-8: it stays here.
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let name = name.to_str().ok_or_else(|| {
                invalid(format!("the name {:?} is not UTF-8", relative(&snapshot.directory, &absolute)))
            })?;
            if is_bookkeeping(name) {
                continue;
            }
            // Of a migration that is not at its end; `Snapshot::open` has compared it.
            if prefix.is_empty() && name == V066_FILE && snapshot.descriptor.file.as_str() != V066_FILE {
                continue;
            }
            let text = format!("{prefix}{name}");
            if let Some(other) = folded.insert(fold(name), text.clone()) {
                return Err(invalid(format!("{other} and {text} differ only in case or Unicode form")));
            }
            let path: TarPath = text.parse().map_err(|error| match error {
                Error::InvalidPath { reason, .. } => invalid(format!("the path {text:?} cannot travel: {reason}")),
                other => other,
            })?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                if depth == MAX_DEPTH {
                    return Err(invalid(format!("{text} is more than {MAX_DEPTH} folders deep")));
                }
                folders.push((format!("{text}/"), depth + 1));
                continue;
            }
            if kind != FileType::RegularFile {
                let what = if kind == FileType::Symlink { "a symbolic link" } else { "a device, socket or fifo" };
                return Err(invalid(format!("{text} is {what}; only regular files can be packed")));
            }
            if files.len() == MAX_FILES {
                return Err(invalid(format!("it has more than {MAX_FILES} files")));
            }
            let executable = stat.st_mode & 0o100 != 0;
            let size = u64::try_from(stat.st_size).map_err(|_| invalid(format!("{text} has a negative size")))?;
            files.push(SourceFile { at: path.clone(), path, absolute, size, executable });
        }
    }
    if let Some(layer) = snapshot.descriptor.only_layer() {
        name_migrated_disk(&mut files, layer);
    }
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));

    for folder in &snapshot.descriptor.folders {
        let is_file = |path: &str| files.binary_search_by(|file| file.path.as_str().cmp(path)).is_ok();
        if let Some(file) = folder.folders().chain([folder.as_str()]).find(|path| is_file(path)) {
            return Err(invalid(format!("{file} is a file, and its descriptor needs a folder there")));
        }
    }
    for (payload, size) in &snapshot.descriptor.payloads {
        let Ok(found) = files.binary_search_by(|file| file.path.cmp(payload)) else {
            let reason = match payload.as_str().split('/').find(|name| is_bookkeeping(name)) {
                Some(name) => format!("its payload {payload} can never travel: {name} is a name of local bookkeeping"),
                None => format!("its payload {payload} is missing"),
            };
            return Err(invalid(reason));
        };
        let actual = files[found].size;
        if let Some(expected) = *size
            && expected != actual
        {
            return Err(invalid(format!("{payload} has {actual} bytes, its descriptor says {expected}")));
        }
    }
    Ok(files)
}

/// A migration leaves the disk under its old name. It travels under the layer's: a reader finds it there, and the bundle
/// is the same wherever the disk stands.
fn name_migrated_disk(files: &mut [SourceFile], layer: &TarPath) {
    if files.iter().all(|file| file.path != *layer)
        && let Some(upper) = files.iter_mut().find(|file| file.path.as_str() == MIGRATED_DISK)
    {
        upper.path = layer.clone();
    }
}

fn relative<'a>(directory: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(directory).unwrap_or(path)
}

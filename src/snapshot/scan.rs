//! The files of a snapshot directory that travel.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{GROUP_FILE, MEMBER_FILE, Snapshot};
use crate::{
    error::{Error, IoContext, Result},
    model::TarPath,
};

/// Most files of one snapshot.
pub const MAX_FILES: usize = 100_000;
/// Deepest folder: a file in `a/b/` is at depth 2.
pub const MAX_DEPTH: usize = 32;

/// A regular file that travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path in the snapshot directory.
    pub path: TarPath,
    /// Where it is.
    pub absolute: PathBuf,
    /// Logical size, in bytes.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// Whether a name, at any level, is local bookkeeping that never travels: it begins with a dot, ends with `.lock`, or is
/// `group.json` or `group-member.json`.
pub fn is_bookkeeping(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".lock") || matches!(name, GROUP_FILE | MEMBER_FILE)
}

/// Every file of `snapshot` that travels, sorted by path.
///
/// # Errors
/// [`Error::InvalidSnapshot`]: something that is neither a regular file nor a folder, a name that cannot travel, two names
/// that differ only in case, a payload that is missing or has not the size that the descriptor states, too many files.
pub fn scan(snapshot: &Snapshot) -> Result<Vec<SourceFile>> {
    let invalid = |reason: String| Error::InvalidSnapshot { directory: snapshot.directory.clone(), reason };
    let mut files = Vec::new();
    let mut folders = vec![(snapshot.directory.clone(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        let mut folded: HashMap<String, String> = HashMap::new();
        for entry in fs::read_dir(&folder).context("read", &folder)? {
            let entry = entry.context("read", &folder)?;
            let absolute = entry.path();
            let name = entry.file_name();
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
            let text = format!("{prefix}{name}");
            if let Some(other) = folded.insert(name.to_lowercase(), text.clone()) {
                return Err(invalid(format!("{other} and {text} differ only in case")));
            }
            let path: TarPath = text.parse().map_err(|error| match error {
                Error::InvalidPath { reason, .. } => invalid(format!("the path {text:?} cannot travel: {reason}")),
                other => other,
            })?;
            let metadata = entry.metadata().context("read", &absolute)?;
            if metadata.is_dir() {
                if depth == MAX_DEPTH {
                    return Err(invalid(format!("{text} is more than {MAX_DEPTH} folders deep")));
                }
                folders.push((absolute, format!("{text}/"), depth + 1));
                continue;
            }
            if !metadata.is_file() {
                let what = if metadata.is_symlink() { "a symbolic link" } else { "a device, socket or fifo" };
                return Err(invalid(format!("{text} is {what}; only regular files can be packed")));
            }
            if files.len() == MAX_FILES {
                return Err(invalid(format!("it has more than {MAX_FILES} files")));
            }
            let executable = metadata.mode() & 0o100 != 0;
            files.push(SourceFile { path, absolute, size: metadata.len(), executable });
        }
    }
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));

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

fn relative<'a>(directory: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(directory).unwrap_or(path)
}

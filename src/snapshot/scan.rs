//! The files of a snapshot directory that travel.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::Snapshot;
use crate::{
    error::{Error, IoContext, Result},
    model::TarPath,
};

/// Most files of one snapshot.
pub const MAX_FILES: usize = 100_000;
/// Deepest folder.
const MAX_DEPTH: usize = 32;

/// A regular file of a snapshot directory.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Its path in the directory.
    pub path: TarPath,
    /// Where it is.
    pub absolute: PathBuf,
    /// Logical size, in bytes.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// Local bookkeeping never travels: names that begin with a dot, `*.lock`, `group.json`, `group-member.json`.
pub fn is_bookkeeping(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".lock") || matches!(name, "group.json" | "group-member.json")
}

/// Every file that travels, sorted by path.
///
/// # Errors
/// [`Error::InvalidSnapshot`]: a symlink, device or socket, a name that is not UTF-8, a payload that is missing or has
/// another size than the descriptor says.
pub fn scan(snapshot: &Snapshot) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    walk(&snapshot.directory, &snapshot.directory, "", 0, &mut files)?;
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let fail = |reason| Err(Error::InvalidSnapshot { directory: snapshot.directory.clone(), reason });
    let mut folded = HashSet::new();
    for file in &files {
        if !folded.insert(file.path.as_str().to_lowercase()) {
            return fail(format!("{} differs from another file only in case", file.path));
        }
    }
    for (payload, size) in &snapshot.descriptor.payloads {
        match (files.binary_search_by(|f| f.path.cmp(payload)), size) {
            (Err(_), _) => return fail(format!("its payload {payload} is missing")),
            (Ok(at), Some(size)) if files[at].size != *size => {
                return fail(format!("{payload} has {} bytes, its descriptor says {size}", files[at].size));
            }
            _ => {}
        }
    }
    Ok(files)
}

fn walk(root: &Path, folder: &Path, prefix: &str, depth: usize, files: &mut Vec<SourceFile>) -> Result<()> {
    let fail = |reason| Err(Error::InvalidSnapshot { directory: root.into(), reason });
    if depth > MAX_DEPTH {
        return fail(format!("{prefix} is over {MAX_DEPTH} folders deep"));
    }
    for entry in fs::read_dir(folder).context("read", folder)? {
        let entry = entry.context("read", folder)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return fail(format!("the name {:?} is not UTF-8", entry.path()));
        };
        if is_bookkeeping(name) {
            continue;
        }
        let text = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let meta = entry.path().symlink_metadata().context("stat", entry.path())?;
        if meta.is_dir() {
            walk(root, &entry.path(), &text, depth + 1, files)?;
            continue;
        }
        if !meta.is_file() {
            let kind = if meta.is_symlink() { "a symlink" } else { "neither a file nor a folder" };
            return fail(format!("{text} is {kind}; only regular files can be packed"));
        }
        if files.len() == MAX_FILES {
            return fail(format!("it holds over {MAX_FILES} files"));
        }
        let path = match text.parse() {
            Ok(path) => path,
            Err(Error::InvalidPath { reason, .. }) => {
                return fail(format!("the path {text:?} cannot travel: {reason}"));
            }
            Err(other) => return Err(other),
        };
        files.push(SourceFile {
            path,
            absolute: entry.path(),
            size: meta.len(),
            executable: meta.permissions().mode() & 0o100 != 0,
        });
    }
    Ok(())
}

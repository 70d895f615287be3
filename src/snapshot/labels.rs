//! Labels of a `final` snapshot: `metadata.json` beside the descriptor. They travel, no digest of the descriptor binds
//! them, and their owner changes them at any time; what is there now is no damage as long as it can be read.

use std::{
    io::{ErrorKind, Read},
    path::Path,
};

use rustix::fs::OFlags;

use crate::{
    beneath::Folder,
    error::{Error, IoContext, Result},
    model::{Generation, TarPath},
};

/// The labels of a `final` snapshot.
pub const LABELS_FILE: &str = "metadata.json";
/// Largest that is taken for labels, in bytes.
const MAX_LABELS: u64 = 1 << 20;

/// The labels' file, if the snapshot has labels now: one JSON object in a regular file.
///
/// # Errors
/// [`Error::Io`]: they are there and cannot be read.
pub fn own(generation: Generation, directory: &Path) -> Result<Option<TarPath>> {
    if generation != Generation::Final {
        return Ok(None);
    }
    let file = match Folder::open(directory)?.file(LABELS_FILE, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        // A link, or no file.
        Err(Error::UnsafePath { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LABELS + 1).read_to_end(&mut bytes).context("read", directory.join(LABELS_FILE))?;
    let whole = bytes.len() as u64 <= MAX_LABELS
        && serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes).is_ok();
    if whole { LABELS_FILE.parse().map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_one_object_of_a_final_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let (path, labels) = (folder.path().join(LABELS_FILE), |generation| own(generation, folder.path()).unwrap());
        assert_eq!(labels(Generation::Final), None);
        for (bytes, are) in [("{}", true), (r#"{"labels":{"a":"b"}}"#, true), ("[]", false), ("{", false), ("", false)]
        {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(labels(Generation::Final).is_some(), are, "{bytes}");
            assert_eq!(labels(Generation::Flat), None);
        }
        std::fs::write(&path, format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20))).unwrap();
        assert_eq!(labels(Generation::Final), None);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert_eq!(labels(Generation::Final), None);
    }
}

//! What pushes remember between runs, under the user's cache folder: unfinished uploads, which repositories hold a blob,
//! and what a registry refuses. All of it may be deleted at any time, and none of it is believed: the registry is asked.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use super::capabilities::Refused;
use crate::{digest::Digest, reference::Repository};

/// Longest record, in bytes.
const MAX_RECORD: u64 = 64 << 10;
/// Repositories that are remembered for a blob.
const MAX_REPOSITORIES: usize = 8;
/// How long a refusal is remembered: a registry may be changed.
const REFUSED: Duration = Duration::from_secs(3600);

/// The folder; none remembers nothing.
#[derive(Clone, Debug)]
pub(super) struct Memory(pub Option<PathBuf>);

impl Memory {
    fn folder(&self, name: &str) -> Option<PathBuf> {
        let folder = self.0.as_ref()?.join(name);
        match DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
            Ok(()) => Some(folder),
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "nothing is remembered");
                None
            }
        }
    }

    /// The record of an unfinished upload; none while another process is at the same one.
    pub fn upload(&self, registry: &str, repository: &Repository, key: &Digest) -> Option<UploadRecord> {
        let name = Digest::of(format!("{registry}\n{repository}\n{key}").as_bytes()).hex();
        let path = self.folder("uploads")?.join(name);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(UploadRecord { file, path })
    }

    fn known_path(&self, registry: &str, digest: &Digest) -> Option<PathBuf> {
        Some(self.folder("blobs")?.join(Digest::of(format!("{registry}\n{digest}").as_bytes()).hex()))
    }

    /// Repositories of the registry that have held the blob, the latest first.
    pub fn repositories(&self, registry: &str, digest: &Digest) -> Vec<Repository> {
        let Some(path) = self.known_path(registry, digest) else { return Vec::new() };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_RECORD).read_to_string(&mut text));
        if read.is_err() {
            return Vec::new();
        }
        text.lines().filter_map(|line| line.parse().ok()).take(MAX_REPOSITORIES).collect()
    }

    /// Remembers that a repository holds a blob.
    pub fn holds(&self, registry: &str, digest: &Digest, repository: &Repository) {
        let Some(path) = self.known_path(registry, digest) else { return };
        let before = self.repositories(registry, digest);
        if before.first() == Some(repository) {
            return;
        }
        let all = [repository].into_iter().chain(before.iter().filter(|known| *known != repository));
        let text: String = all.take(MAX_REPOSITORIES).map(|name| format!("{name}\n")).collect();
        if let Err(error) = replace(&path, text.as_bytes()) {
            tracing::debug!(path = %path.display(), %error, "nothing is remembered");
        }
    }
}

impl Memory {
    fn refused_path(&self, registry: &str) -> Option<PathBuf> {
        Some(self.folder("registries")?.join(Digest::of(registry.as_bytes()).hex()))
    }

    /// What the registry has refused within the last hour.
    pub fn refused(&self, registry: &str) -> Option<Refused> {
        let file = File::open(self.refused_path(registry)?).ok()?;
        let age = file.metadata().ok()?.modified().ok()?.elapsed().ok()?;
        let mut text = String::new();
        file.take(MAX_RECORD).read_to_string(&mut text).ok()?;
        (age < REFUSED).then(|| serde_json::from_str(&text).ok()).flatten()
    }

    /// Remembers what the registry refuses.
    pub fn remember_refused(&self, registry: &str, refused: &Refused) {
        let Some(path) = self.refused_path(registry) else { return };
        let bytes = serde_json::to_vec(refused).map_err(std::io::Error::from);
        if let Err(error) = bytes.and_then(|bytes| replace(&path, &bytes)) {
            tracing::debug!(path = %path.display(), %error, "nothing is remembered");
        }
    }
}

/// Replaces a small file atomically. Not durably: it may be lost.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// An unfinished upload: where it goes on. Locked as long as this is alive, so that two processes never share one.
pub(super) struct UploadRecord {
    file: File,
    path: PathBuf,
}

impl UploadRecord {
    /// The upload's address, where there is one.
    pub fn location(&self) -> Option<String> {
        let mut bytes = vec![0; MAX_RECORD as usize];
        let length = self.file.read_at(&mut bytes, 0).ok()?;
        // What follows the first line is the rest of a longer record before.
        let end = bytes[..length].iter().position(|b| *b == b'\n')?;
        String::from_utf8(bytes[..end].to_vec()).ok().filter(|text| !text.is_empty())
    }

    /// The upload goes on there. One write: a kill leaves the record before or this one.
    pub fn set(&self, location: &str) {
        if let Err(error) = self.file.write_all_at(format!("{location}\n").as_bytes(), 0) {
            tracing::debug!(path = %self.path.display(), %error, "an upload is not remembered");
        }
    }

    /// The upload is over.
    pub fn clear(&self) {
        let _ = self.file.set_len(0);
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for UploadRecord {
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_remembered_and_locked() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory(Some(folder.path().join("cache")));
        let (repository, key) = ("a/b".parse().unwrap(), Digest::of(b"x"));
        let record = memory.upload("r", &repository, &key).unwrap();
        assert_eq!(record.location(), None);
        record.set("http://r/a-long-one");
        record.set("http://r/short");
        assert!(memory.upload("r", &repository, &key).is_none());
        drop(record);
        let record = memory.upload("r", &repository, &key).unwrap();
        assert_eq!(record.location().as_deref(), Some("http://r/short"));
        record.clear();
        drop(record);
        assert_eq!(memory.upload("r", &repository, &key).unwrap().location(), None);
        assert_eq!(fs::read_dir(folder.path().join("cache/uploads")).unwrap().count(), 0);
    }

    #[test]
    fn refusals_are_forgotten_after_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory(Some(folder.path().into()));
        memory.remember_refused("r", &Refused::default());
        assert_eq!(memory.refused("r"), Some(Refused::default()));
        let file = File::open(memory.refused_path("r").unwrap()).unwrap();
        file.set_modified(std::time::SystemTime::now() - REFUSED).unwrap();
        assert_eq!(memory.refused("r"), None);
    }

    #[test]
    fn repositories_are_remembered_latest_first() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory(Some(folder.path().into()));
        let digest = Digest::of(b"x");
        for name in ["a", "b", "a"] {
            memory.holds("r", &digest, &name.parse().unwrap());
        }
        let names: Vec<String> = memory.repositories("r", &digest).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(memory.repositories("other", &digest).is_empty());
        assert!(Memory(None).upload("r", &"a".parse().unwrap(), &digest).is_none());
    }
}

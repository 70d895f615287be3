//! Adding to a layout directory that is there: blobs first, then `index.json` is merged and replaced by one rename.
//!
//! Everything is written into a temporary folder inside the layout. The last step holds a lock on the layout's folder, so
//! that two that add at the same time lose nothing.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock},
    io::retry_on_intr,
};
use serde_json::Value;

use super::{dir::DirSource, index_bytes, output::Output, publish::sync_folder};
use crate::{
    digest::{Digest, Hasher},
    error::{Error, IoContext, Result},
    media_type,
    model::{
        Descriptor, Index,
        json::{self, MAX_DOCUMENT},
    },
    rename::is_unsupported,
    storage::{BlobWriter, ReadOnlyStorage, Target},
    temporary,
    verify::into_error,
};

/// Of the temporary folder.
const PREFIX: &str = ".snapcask-onto-";

/// A layout directory that is being added to.
pub(super) struct OntoTarget {
    path: PathBuf,
    layout: DirSource,
    stage: temporary::Folder,
    force: bool,
    blobs: HashMap<Digest, Added>,
    started: u64,
}

/// A blob of what is added.
struct Added {
    size: u64,
    /// Its bytes are in the stage. The layout has no blob of this name, or a corrupt one.
    staged: bool,
}

impl OntoTarget {
    /// Onto the layout at `path`. By force, tags move to what is added.
    pub(super) fn open(path: &Path, force: bool) -> Result<Self> {
        let layout = DirSource::open(path)?;
        let stage = temporary::Folder::create(path, PREFIX)?;
        Ok(Self { path: path.into(), layout, stage, force, blobs: HashMap::new(), started: 0 })
    }

    /// Whether the layout has the blob, with all its bytes. A blob is not trusted by its name, because nothing else would
    /// look at it before the one that needs it.
    fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let mut blob = match self.layout.fetch(descriptor) {
            Ok(blob) => blob,
            Err(Error::MissingBlob { .. } | Error::CorruptBlob { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut buffer = vec![0; 1 << 20];
        loop {
            match blob.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match into_error(error, descriptor.digest) {
                    Error::CorruptBlob { .. } => return Ok(false),
                    error => return Err(error),
                },
            }
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Puts the staged blobs in their places and merges the index, while nobody else does. Gives the blobs that are new,
    /// which go if this fails.
    fn publish(&self, index: &Index, placed: &mut Vec<PathBuf>) -> Result<()> {
        let merged = self.merged(index)?;
        let staged_index = self.stage.path().join("index.json");
        write_synced(&staged_index, &merged)?;
        for folder in ["blobs", "blobs/sha256"] {
            let folder = self.path.join(folder);
            match temporary::publish(|| fs::create_dir(&folder)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", folder, error));
                }
                _ => {}
            }
        }
        for (digest, added) in &self.blobs {
            let target = self.blob_path(digest);
            let descriptor = Descriptor::new("application/octet-stream", *digest, added.size);
            if !added.staged {
                // Verified before; it can only have been taken away since.
                if !self.layout.exists(&descriptor)? {
                    return Err(Error::MissingBlob { digest: *digest, role: "it was there a moment ago".into() });
                }
                continue;
            }
            let is_new = fs::symlink_metadata(&target).is_err();
            let from = self.stage.path().join(digest.hex());
            temporary::publish(|| fs::rename(&from, &target)).context("rename to", &target)?;
            if is_new {
                placed.push(target);
            }
        }
        // Inside out: a name must not be durable before what it names.
        for folder in ["blobs/sha256", "blobs", ""] {
            sync_folder(&self.path.join(folder))?;
        }
        self.publish_index(&staged_index, placed)
    }

    /// Exchanges the index durably. One that may not last is exchanged back.
    fn publish_index(&self, staged: &Path, placed: &mut Vec<PathBuf>) -> Result<()> {
        let index = self.path.join("index.json");
        let exchange = || rustix::fs::renameat_with(CWD, staged, CWD, &index, RenameFlags::EXCHANGE);
        temporary::publish(|| match exchange() {
            Ok(()) => sync_folder(&self.path).inspect_err(|_| {
                if exchange().is_err() {
                    // The index that names the blobs stays, and so do they.
                    placed.clear();
                }
            }),
            // A filesystem without exchanges: the old index is gone with the rename.
            Err(error) if is_unsupported(&error.into()) => {
                fs::rename(staged, &index).context("rename to", &index)?;
                placed.clear();
                sync_folder(&self.path)
            }
            Err(error) => Err(Error::io("exchange with", &index, error.into())),
        })
    }

    /// The layout's index of now, with what is added.
    fn merged(&self, index: &Index) -> Result<Vec<u8>> {
        // Not the one that was read at the beginning: another may have added to it since.
        let now = DirSource::open(&self.path)?;
        let context = self.path.join("index.json").display().to_string();
        let bytes = now.document("index.json")?.unwrap_or_default();
        let mut document: Value = json::parse(&bytes, &context)?;
        merge(&mut document, index, self.force, &self.path)?;
        let bytes = json::canonical(&document);
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::Limit {
                what: format!("the size of {context}"),
                value: bytes.len() as u64,
                limit: MAX_DOCUMENT,
                hint: "",
            });
        }
        // What our own reader would refuse is not written.
        Index::parse(&bytes, &context)?;
        Ok(bytes)
    }
}

impl Target for OntoTarget {
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>> {
        self.started += 1;
        let path = self.stage.path().join(format!("{}.partial", self.started));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).context("create", &path)?;
        Ok(Box::new(OntoBlob { target: self, path, output: Output::new(file), hasher: Hasher::new(), size: 0 }))
    }

    fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.blobs.get(&descriptor.digest).is_some_and(|added| added.size == descriptor.size))
    }

    fn sent(&self) -> u64 {
        self.blobs.values().filter(|added| added.staged).map(|added| added.size).sum()
    }

    fn finish(self: Box<Self>, index: &Index) -> Result<Vec<Option<String>>> {
        index_bytes(index, &self.path)?;
        let _alone = lock(&self.path)?;
        let mut placed = Vec::new();
        if let Err(error) = self.publish(index, &mut placed) {
            for blob in placed {
                if let Err(error) = fs::remove_file(&blob) {
                    tracing::warn!(path = %blob.display(), %error, "cannot remove a blob that nothing names");
                }
            }
            return Err(error);
        }
        Ok(index.tags())
    }
}

struct OntoBlob<'a> {
    target: &'a mut OntoTarget,
    path: PathBuf,
    output: Output,
    hasher: Hasher,
    size: u64,
}

impl Write for OntoBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.append(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl BlobWriter for OntoBlob<'_> {
    fn commit(mut self: Box<Self>, media_type: &str) -> Result<Descriptor> {
        let descriptor = Descriptor::new(media_type, std::mem::take(&mut self.hasher).finish(), self.size);
        if self.target.contains(&descriptor)? {
            return Ok(descriptor);
        }
        let staged = !self.target.has(&descriptor)?;
        if staged {
            self.output.sync().context("fsync", &self.path)?;
            // Readable as the layout's other blobs are: the folder is what keeps others out until then.
            let name = self.target.stage.path().join(descriptor.digest.hex());
            fs::rename(&self.path, &name).context("rename to", &name)?;
        }
        self.target.blobs.insert(descriptor.digest, Added { size: self.size, staged });
        Ok(descriptor)
    }
}

impl Drop for OntoBlob<'_> {
    fn drop(&mut self) {
        // A blob that was committed has another name; what stays goes with the stage.
        let _ = fs::remove_file(&self.path);
    }
}

/// Adds entries to an index, and leaves everything else of it as it is.
fn merge(document: &mut Value, index: &Index, force: bool, layout: &Path) -> Result<()> {
    let context = || layout.join("index.json").display().to_string();
    let entries = document.get_mut("manifests").and_then(Value::as_array_mut);
    let entries = entries.ok_or_else(|| Error::bundle(context(), "it has no `manifests`"))?;
    for added in &index.manifests {
        let tag = Index::tag_of(added);
        if let Some(tag) = tag {
            let others: Vec<usize> = (0..entries.len())
                .filter(|at| tag_of(&entries[*at]) == Some(tag) && digest_of(&entries[*at]) != Some(added.digest))
                .collect();
            if let Some(first) = others.first().filter(|_| !force) {
                return Err(Error::TagTaken {
                    path: layout.into(),
                    tag: tag.into(),
                    manifest: digest_of(&entries[*first]).map_or_else(String::new, |digest| digest.to_string()),
                });
            }
            others.into_iter().rev().for_each(|at| untag(entries, at));
        }
        let same = |entry: &Value| digest_of(entry) == Some(added.digest) && (tag.is_none() || tag_of(entry) == tag);
        if !entries.iter().any(same) {
            let value = serde_json::to_value(added).map_err(|error| Error::bundle(context(), error.to_string()))?;
            entries.push(value);
        }
    }
    Ok(())
}

/// Takes an entry's tag away. The entry stays, for its manifest's sake, unless another entry lists that.
fn untag(entries: &mut Vec<Value>, at: usize) {
    let digest = digest_of(&entries[at]);
    if (0..entries.len()).any(|other| other != at && digest_of(&entries[other]) == digest) {
        entries.remove(at);
    } else if let Some(annotations) = entries[at].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(media_type::REF_NAME);
    }
}

fn tag_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(media_type::REF_NAME)?.as_str()
}

fn digest_of(entry: &Value) -> Option<Digest> {
    entry.get("digest")?.as_str()?.parse().ok()
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).context("create", path)?;
    file.write_all(bytes).context("write", path)?;
    file.sync_all().context("fsync", path)
}

/// Locks the layout's folder, which must still be the one at `path` then: an export by force may have replaced it.
fn lock(path: &Path) -> Result<OwnedFd> {
    loop {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).context("open", path)?;
        retry_on_intr(|| flock(&folder, FlockOperation::LockExclusive)).context("lock", path)?;
        let held = rustix::fs::fstat(&folder).context("look at", path)?;
        let there = rustix::fs::stat(path).context("look at", path)?;
        if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino) {
            return Ok(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(bytes: &[u8], tag: Option<&str>) -> Descriptor {
        let entry = Descriptor::of(media_type::MANIFEST, bytes);
        match tag {
            Some(tag) => entry.annotated(media_type::REF_NAME, tag),
            None => entry,
        }
    }

    #[test]
    fn merge_keeps_unknown_entries_and_members() {
        let foreign =
            json!({ "mediaType": "application/x", "digest": "sha512:00", "size": 1, "odd": [1, { "a": null }] });
        let kept = json!({ "schemaVersion": 2, "annotations": { "a": "b" }, "manifests": [foreign], "more": 1.5 });
        let mut document = kept.clone();
        merge(&mut document, &Index::new(vec![entry(b"a", Some("a"))]), false, Path::new("l")).unwrap();
        assert_eq!(document["manifests"][0], foreign);
        assert_eq!(document["manifests"].as_array().unwrap().len(), 2);
        document["manifests"].as_array_mut().unwrap().pop();
        assert_eq!(document, kept);
    }

    #[test]
    fn merge_moves_a_tag_only_by_force_and_keeps_the_manifest_that_had_it() {
        let listed = |entries: Vec<Descriptor>| serde_json::to_value(Index::new(entries)).unwrap();
        let before = listed(vec![entry(b"old", Some("t")), entry(b"other", Some("u"))]);
        let added = Index::new(vec![entry(b"new", Some("t"))]);
        let mut document = before.clone();
        let error = merge(&mut document, &added, false, Path::new("l")).unwrap_err();
        assert_eq!((error.exit_code(), document == before), (5, true));
        merge(&mut document, &added, true, Path::new("l")).unwrap();
        let entries = document["manifests"].as_array().unwrap();
        let seen: Vec<_> = entries.iter().map(|e| (digest_of(e).unwrap(), tag_of(e))).collect();
        let of = Digest::of;
        assert_eq!(seen, [(of(b"old"), None), (of(b"other"), Some("u")), (of(b"new"), Some("t"))]);
    }

    #[test]
    fn merge_of_what_is_listed_changes_nothing() {
        let index = Index::new(vec![entry(b"a", Some("a")), entry(b"b", Some("b"))]);
        let before = serde_json::to_value(&index).unwrap();
        let mut document = before.clone();
        merge(&mut document, &index, false, Path::new("l")).unwrap();
        assert_eq!(document, before);
    }
}

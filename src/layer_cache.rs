//! What an export that goes to a registry remembers of a layer: its digest, and what pass 1 found in its files. The next
//! push of the same snapshot, or of a child, then reads and compresses nothing that the registry has already.
//!
//! A record is found by everything that the layer's bytes follow from: the stamps of its files (device, inode, size,
//! times), the stack beneath, the options. It may be deleted at any time. A file that was written to in the last second
//! before it was read is not remembered: its stamp could stay the same over another write.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    layer::analyze::{Chunk, Contents},
    model::{Descriptor, FileRecord, LayerRecord, config::Root},
    temporary,
};

/// Part of every key: records of another version are not found.
const VERSION: &str = "snapcask layer record 1";
/// Largest record that is read, in bytes: 1 TiB of data has 25 MB of tops.
const MAX_RECORD: u64 = 256 << 20;
/// A stamp that is younger says nothing: clocks of filesystems tick slowly.
const SETTLED: Duration = Duration::from_secs(1);

/// What changes when a file is written to or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of an open file's metadata.
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a write from now on would change it.
    fn is_settled(&self) -> bool {
        let seconds = self.modified.max(self.changed).0;
        let at = u64::try_from(seconds).ok().and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s)));
        // The second that has begun is not over yet.
        at.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age > SETTLED * 2)
    }
}

/// Takes in everything that a layer's bytes follow from.
#[derive(Clone, Debug)]
pub struct KeyBuilder {
    text: String,
    settled: bool,
}

impl KeyBuilder {
    /// Of a layer made with these options.
    pub fn new(options: &str) -> Self {
        Self { text: format!("{VERSION}\n{options}\n"), settled: true }
    }

    /// Something that is said by text.
    pub fn text(&mut self, what: &str, text: &str) {
        // Lengths keep one text from looking like two.
        self.text += &format!("{what} {} {text}\n", text.len());
    }

    /// A file of the layer.
    pub fn file(&mut self, path: &str, executable: bool, stamp: &Stamp) {
        self.settled &= stamp.is_settled();
        self.text("file", path);
        self.text += &format!("{executable} {stamp:?}\n");
    }

    /// The key, if the layer may be remembered.
    pub fn finish(self) -> Option<Digest> {
        self.settled.then(|| Digest::of(self.text.as_bytes()))
    }
}

/// A layer that was made before.
#[derive(Clone, Debug)]
pub struct KnownLayer {
    /// The blob.
    pub layer: Descriptor,
    /// What the config says of it.
    pub record: LayerRecord,
    /// The contents of every file of the directory (of a cache layer: its file), in the table's order.
    pub files: Vec<(FileRecord, Contents)>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    layer: Descriptor,
    record: LayerRecord,
    files: Vec<StoredFile>,
}

#[derive(Serialize, Deserialize)]
struct StoredFile {
    row: FileRecord,
    /// Index, top, data bytes of every chunk.
    chunks: Vec<(u64, Root, u64)>,
}

/// The folder of the records.
#[derive(Clone, Debug)]
pub struct LayerCache(PathBuf);

impl LayerCache {
    /// In this cache folder.
    pub fn at(cache: &Path) -> Self {
        Self(cache.join("layers"))
    }

    /// The layer of this key, if it is remembered whole.
    pub fn get(&self, key: &Digest) -> Option<KnownLayer> {
        let mut bytes = Vec::new();
        fs::File::open(self.0.join(key.hex())).ok()?.take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
        let newline = bytes.iter().position(|b| *b == b'\n')?;
        let (sum, rest) = (std::str::from_utf8(&bytes[..newline]).ok()?, &bytes[newline + 1..]);
        if sum != Digest::of(rest).to_string() {
            return None;
        }
        let stored: Stored = serde_json::from_slice(rest).ok()?;
        let files = stored.files.into_iter().map(|file| {
            let chunks =
                file.chunks.into_iter().map(|(index, top, data_bytes)| Chunk { index, top: top.0, data_bytes });
            let contents = Contents::new(file.row.size, chunks.collect());
            // What does not hold together is no memory.
            let whole = contents.root == file.row.root && contents.data_bytes == file.row.data_bytes;
            whole.then_some((file.row, contents))
        });
        Some(KnownLayer { layer: stored.layer, record: stored.record, files: files.collect::<Option<_>>()? })
    }

    /// Remembers a layer. Failing to is no failure.
    pub fn put(&self, key: &Digest, known: &KnownLayer) {
        let file = |(row, contents): &(FileRecord, Contents)| StoredFile {
            row: row.clone(),
            chunks: contents.chunks.iter().map(|c| (c.index, Root(c.top), c.data_bytes)).collect(),
        };
        let stored = Stored {
            layer: known.layer.clone(),
            record: known.record.clone(),
            files: known.files.iter().map(file).collect(),
        };
        if let Err(error) = self.write(key, &stored) {
            tracing::debug!(folder = %self.0.display(), %error, "a layer is not remembered");
        }
    }

    fn write(&self, key: &Digest, stored: &Stored) -> Result<()> {
        let folder = &self.0;
        DirBuilder::new().recursive(true).mode(0o700).create(folder).context("create", folder)?;
        let rest = serde_json::to_vec(stored).map_err(|e| Error::io("write a record in", folder, e.into()))?;
        let prefix = OsStr::new(".snapcask-record-");
        temporary::reclaim(folder, prefix, "")?;
        let (path, mut file) = temporary::make_file(folder, prefix, "", 0o600)?;
        let sum = format!("{}\n", Digest::of(&rest));
        let written = file
            .write_all(sum.as_bytes())
            .and_then(|()| file.write_all(&rest))
            .and_then(|()| temporary::publish(|| fs::rename(&path, folder.join(key.hex()))));
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        temporary::forget(&path);
        written.context("write", &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let cache = LayerCache::at(folder.path());
        let key = Digest::of(b"key");
        assert!(cache.get(&key).is_none());
        let contents = Contents::new(10 << 20, vec![Chunk { index: 1, top: [7; 32], data_bytes: 4096 }]);
        let row = FileRecord {
            path: "disk".parse().unwrap(),
            executable: false,
            size: contents.size,
            data_bytes: contents.data_bytes,
            root: contents.root,
        };
        let layer = Descriptor::of("x", b"layer");
        let record = LayerRecord::Base { digest: layer.digest, snapshot: key, files: Vec::new() };
        cache.put(&key, &KnownLayer { layer: layer.clone(), record, files: vec![(row, contents)] });
        let back = cache.get(&key).unwrap();
        assert_eq!((back.layer, back.files[0].1.chunks[0].top), (layer, [7; 32]));
        let path = folder.path().join("layers").join(key.hex());
        let bytes = fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(cache.get(&key).is_none(), "byte {at}");
        }
    }

    #[test]
    fn young_files_are_not_remembered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&file.as_file().metadata().unwrap());
        let mut key = KeyBuilder::new("o");
        key.file("a", false, &stamp);
        assert_eq!(key.finish(), None);
        let old = Stamp { modified: (1_000_000, 0), changed: (1_000_000, 0), ..stamp };
        let mut key = KeyBuilder::new("o");
        key.file("a", false, &old);
        assert!(key.finish().is_some());
    }
}

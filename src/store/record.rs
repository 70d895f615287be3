//! What an import leaves beside the files that it placed: which manifest they came from and what they were, so that
//! `check` can compare. Its name begins with a dot, so it never travels.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    path::Path,
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::{
    beneath::Folder,
    digest::Digest,
    error::{Error, IoContext, Result},
    model::FileRecord,
    snapshot::seen,
};

/// The file's name in a snapshot directory.
pub const RECORD_FILE: &str = ".snapcask.json";
/// Largest record that is read, in bytes.
const MAX_RECORD: u64 = 64 << 20;

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportRecord {
    /// 1.
    pub version: u32,
    /// Digest of the OCI manifest; none of what came in an archive of another kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Snapshot digest.
    pub snapshot: Digest,
    /// Every file of the directory.
    pub files: Vec<FileRecord>,
    /// The image-cache files that came with it, as they travelled (a VMDK with its paths reduced).
    pub cache: Vec<FileRecord>,
    /// It was imported without its parent, which nobody misses then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_parent: bool,
}

impl ImportRecord {
    /// What it came in, for messages.
    pub fn origin(&self) -> String {
        match &self.manifest {
            Some(manifest) => format!("the manifest {manifest}"),
            None => "an archive of msb".into(),
        }
    }

    /// Writes it into a directory that is not yet in place, durably.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(RECORD_FILE);
        let bytes = serde_json::to_vec(self).map_err(|e| Error::io("encode", &path, e.into()))?;
        let mut file: File = OpenOptions::new().write(true).create_new(true).open(&path).context("create", &path)?;
        file.write_all(&bytes).context("write", &path)?;
        file.sync_all().context("fsync", &path)
    }

    /// Reads it; none where there is none.
    ///
    /// # Errors
    /// [`Error::InvalidRecord`]: it says nothing. [`Error::Io`] and [`Error::UnsafePath`]: it cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        Self::read_in(&Folder::open(directory)?)
    }

    /// Reads that of the directory of which this is the handle.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_in(folder: &Folder) -> Result<Option<Self>> {
        let invalid = |reason| Error::InvalidRecord { path: folder.path().join(RECORD_FILE), reason };
        bytes_in(folder)?.map(|bytes| Self::parse(&bytes).map_err(invalid)).transpose()
    }

    /// The record as far as it is one: none where there is none, or where what is there says nothing.
    ///
    /// # Errors
    /// [`Error::Io`]: a failing disk or the want of a right hides it.
    pub fn of(directory: &Path) -> Result<Option<Self>> {
        let bytes = seen(Folder::open(directory).and_then(|folder| bytes_in(&folder)))?;
        Ok(bytes.and_then(|bytes| Self::parse(&bytes).ok()))
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        if bytes.len() as u64 > MAX_RECORD {
            return Err(format!("it is larger than {MAX_RECORD} bytes"));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        match record.version {
            1 => Ok(record),
            other => Err(format!("its version {other} is not 1")),
        }
    }
}

/// The record's bytes, at most one more than a record has.
fn bytes_in(folder: &Folder) -> Result<Option<Vec<u8>>> {
    let file = match folder.file(RECORD_FILE, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD + 1).read_to_end(&mut bytes).context("read", folder.path().join(RECORD_FILE))?;
    Ok(Some(bytes))
}

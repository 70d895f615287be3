//! A snapshot's files, opened without following symlinks, and stamped so that a change is noticed.

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

use crate::{
    beneath::Folder,
    error::{Error, IoContext, Result},
    layer_cache::Stamp,
    progress::Progress,
    snapshot::{
        Snapshot,
        scan::{SourceFile, scan_in},
    },
    store::{lease::Lease, record::ImportRecord},
};

/// A file of a snapshot.
pub struct Opened {
    /// Where it is.
    pub source: SourceFile,
    /// Open for reading; no symlink was followed.
    pub file: File,
    /// What it was when it was opened.
    pub stamp: Stamp,
}

/// A snapshot's directory.
pub struct OpenedSnapshot {
    /// Every file, in the order of their paths.
    pub files: Vec<Opened>,
    /// What an import says that they were, or what is wrong with that.
    pub record: Result<Option<ImportRecord>>,
    /// Keeps msb from removing the snapshot.
    pub reader: Option<Lease>,
}

/// Opens the snapshot, all from one directory and the one whose descriptor was read: an import may put another snapshot
/// at its path meanwhile.
///
/// # Errors
/// [`Error::SourceChanged`]; [`Error::Io`]; [`Error::UnsafePath`] for what is no regular file.
pub fn open_all(snapshot: &Snapshot, progress: &dyn Progress) -> Result<OpenedSnapshot> {
    let folder = Folder::open(&snapshot.directory)?;
    let record = ImportRecord::read_in(&folder);
    let scanned = scan_in(&folder, snapshot).map_err(|error| match error {
        // Half of what was put away: it says nothing about what is there now.
        Error::InvalidSnapshot { .. } if !folder.is_at_its_path() => {
            Error::SourceChanged { path: snapshot.directory.clone() }
        }
        error => error,
    })?;
    let files: Vec<Opened> = scanned.into_iter().map(|source| open_source(&folder, source)).collect::<Result<_>>()?;
    let reader = Lease::reader(&snapshot.directory, progress)?;
    let read = &snapshot.descriptor;
    let Some(found) = files.iter().find(|opened| opened.source.path == read.file) else {
        return Err(Error::SourceChanged { path: snapshot.directory.join(&read.file) });
    };
    let changed = || Error::SourceChanged { path: found.source.absolute.clone() };
    let mut bytes = vec![0; read.bytes.len()];
    if found.source.size != read.bytes.len() as u64 {
        return Err(changed());
    }
    found.file.read_exact_at(&mut bytes, 0).context("read", &found.source.absolute)?;
    if bytes == read.bytes { Ok(OpenedSnapshot { files, record, reader }) } else { Err(changed()) }
}

fn open_source(folder: &Folder, source: SourceFile) -> Result<Opened> {
    let file = folder.file(&source.at, OFlags::RDONLY)?;
    let meta = file.metadata().context("stat", &source.absolute)?;
    if meta.len() != source.size || (meta.mode() & 0o100 != 0) != source.executable {
        return Err(Error::SourceChanged { path: source.absolute });
    }
    Ok(Opened { source, file, stamp: Stamp::of(&meta) })
}

/// The stamp of an open file.
///
/// # Errors
/// [`Error::Io`].
pub fn stamp(file: &File, path: &Path) -> Result<Stamp> {
    Ok(Stamp::of(&file.metadata().context("stat", path)?))
}

/// Opens a regular file; `path` is no symlink.
///
/// # Errors
/// [`Error::Io`].
pub fn open_regular(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).context("open", path)?);
    if !file.metadata().context("stat", path)?.is_file() {
        return Err(Error::io("open", path, std::io::Error::other("it is not a regular file")));
    }
    Ok(file)
}

//! Directory and tar forms of an OCI layout, read and written.

mod dir;
mod dir_writer;
mod outer;
mod spool;
mod tar;
mod tar_writer;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, IoContext, Result},
    storage::{Source, Target},
};

/// Blobs stand here, named by the hex of their digests.
const BLOBS: &str = "blobs/sha256/";

/// Opens the layout at `path`: a directory, a `.tar` or a `.tar.zst`, told by content. A source that cannot be
/// read in place is spooled into `spool` (unlinked, so that it leaves nothing).
///
/// # Errors
/// [`Error::NotFound`]; [`Error::InvalidBundle`] for what is no layout.
pub fn open(path: &Path, spool: &Path) -> Result<Box<dyn Source>> {
    let meta = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound { what: "bundle", path: path.into(), hint: String::new() });
        }
        other => other.context("stat", path)?,
    };
    if meta.is_dir() {
        return Ok(Box::new(dir::DirLayout::open(path)?));
    }
    let file = File::open(path).context("open", path)?;
    if !meta.is_file() {
        return spool::open_stream(file, path.into(), spool);
    }
    let outer = match kind_of(&file, path)? {
        Kind::Tar => outer::Outer::plain(file, path.into())?,
        Kind::Zstd => match outer::Outer::seekable(&file, path)? {
            Some(outer) => outer,
            None => return spool::open_stream(file, path.into(), spool),
        },
        Kind::Gzip => return spool::open_stream(file, path.into(), spool),
    };
    Ok(Box::new(tar::TarLayout::open(outer)?))
}

/// Opens a layout from standard input, spooled into `spool`.
pub fn open_stdin(spool: &Path) -> Result<Box<dyn Source>> {
    use std::os::fd::AsFd;
    let handle = std::io::stdin().as_fd().try_clone_to_owned().context("open", "standard input")?;
    spool::open_stream(File::from(handle), PathBuf::from("standard input"), spool)
}

/// Creates a layout directory at `path` (appears at finish).
pub fn create_dir(path: &Path, force: bool) -> Result<Box<dyn Target>> {
    Ok(Box::new(dir_writer::DirWriter::create(path, force)?))
}

/// Creates a plain tar (`zstd_level` none), or a tar in zstd frames: stored frames when `zstd_level` is `Some(None)`
/// (blobs are compressed already), compressed ones for `Some(Some(level))`.
pub fn create_tar(path: &Path, zstd_level: Option<Option<i32>>, force: bool) -> Result<Box<dyn Target>> {
    Ok(Box::new(tar_writer::TarWriter::create(path, zstd_level, force)?))
}

/// The same to standard output; `spool` takes each blob until its size and digest are known.
pub fn create_pipe(zstd_level: Option<Option<i32>>, spool: &Path) -> Result<Box<dyn Target>> {
    Ok(Box::new(tar_writer::PipeWriter::create(zstd_level, spool)?))
}

/// What a file begins like.
enum Kind {
    Tar,
    Zstd,
    Gzip,
}

fn kind_of(file: &File, path: &Path) -> Result<Kind> {
    use std::os::unix::fs::FileExt;
    let mut head = [0; 512];
    let mut got = 0;
    while got < head.len() {
        match file.read_at(&mut head[got..], got as u64).context("read", path)? {
            0 => break,
            n => got += n,
        }
    }
    kind_of_head(&head[..got]).ok_or_else(|| {
        Error::bundle(path.display().to_string(), "it is neither a layout directory, a tar nor a tar.zst")
    })
}

fn kind_of_head(head: &[u8]) -> Option<Kind> {
    match head {
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Kind::Zstd),
        [0x1F, 0x8B, ..] => Some(Kind::Gzip),
        _ if head.len() == 512 && &head[257..262] == b"ustar" => Some(Kind::Tar),
        _ => None,
    }
}

/// Reads a document of at most the allowed size.
fn read_document(reader: impl Read, size: u64, context: &str) -> Result<Vec<u8>> {
    let limit = crate::model::json::MAX_DOCUMENT;
    if size > limit {
        return Err(Error::Limit { what: format!("the size of {context}"), value: size, limit, hint: "" });
    }
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).context("read", context)?;
    Ok(bytes)
}

/// `oci-layout` must be there and say version 1.0.0.
fn check_oci_layout(bytes: &[u8]) -> Result<()> {
    let value: serde_json::Value = crate::model::json::parse(bytes, "oci-layout")?;
    match value.get("imageLayoutVersion").and_then(|v| v.as_str()) {
        Some("1.0.0") => Ok(()),
        other => Err(Error::bundle("oci-layout", format!("imageLayoutVersion is {other:?}, not \"1.0.0\""))),
    }
}

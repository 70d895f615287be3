//! Directory and tar forms of an OCI layout, read and written.
//!
//! ```text
//! dir          a layout directory, opened without following symlinks
//! tar          a walker of a closed grammar; blobs in place, through bytes (a plain file) or zstd_stream (frames)
//! spool        what cannot be read in place, decompressed first
//! dir_writer   onto   tar_writer   through output (early writeback), zstd_frames, publish (one rename at the end)
//! ```

mod bytes;
mod dir;
mod dir_writer;
mod onto;
mod output;
mod publish;
mod spool;
mod tar;
mod tar_writer;
#[cfg(test)]
mod tests;
mod zstd_frames;
mod zstd_stream;

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
};

use crate::{
    error::{Error, IoContext, Result},
    model::{
        Descriptor, Index,
        json::{self, MAX_DOCUMENT},
    },
    progress::{Progress, Silent},
    storage::{Source, Target},
    temporary::Scratch,
    zstd_input::MaxWindow,
};
use spool::Compression;

/// What is said of a file that is none of the forms.
const UNRECOGNISED: &str = "it is neither a layout directory, a tar nor a tar.zst";

/// Opens the layout at `path`: a directory, a `.tar` or a `.tar.zst`, told by content. A source that cannot be
/// read in place is spooled into `scratch` (unlinked, so that it leaves nothing); a zstd stream may ask for `window`.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::InvalidBundle`]: not a layout in any form; [`Error::NoRoom`]: to spool it.
pub fn open(path: &Path, scratch: &Scratch, window: MaxWindow) -> Result<Box<dyn Source>> {
    match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => return Ok(Box::new(dir::DirSource::open(path)?)),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotFound { what: "bundle", path: path.to_path_buf(), hint: String::new() });
        }
        Err(e) => return Err(Error::io("look at", path, e)),
    }
    Peeked::file(path)?.open(scratch, window, &Silent)
}

/// Bytes of a file's beginning that tell what it is: of a zstd stream, a whole block.
const HEAD: usize = 256 << 10;

/// A file of which the beginning has been read, to tell what it is.
pub struct Peeked {
    file: File,
    name: String,
    head: Vec<u8>,
    /// The length, where the file's bytes can be read in place and its position is at the beginning.
    in_place: Option<u64>,
}

impl Peeked {
    /// Of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn file(path: &Path) -> Result<Self> {
        Self::new(File::open(path).context("open", path)?, path.display().to_string(), &Silent)
    }

    /// Of standard input. A pipe may be slow from its first byte on, so that is where its progress begins.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stdin(progress: &dyn Progress) -> Result<Self> {
        let name = "standard input";
        let stdin = io::stdin().as_fd().try_clone_to_owned().context("open", name)?;
        Self::new(File::from(stdin), name.into(), progress)
    }

    fn new(mut file: File, name: String, progress: &dyn Progress) -> Result<Self> {
        let metadata = file.metadata().context("look at", &name)?;
        let length = metadata.len();
        // A file that standard input has been read from already is a stream like any other.
        let in_place = metadata.is_file() && file.stream_position().context("seek in", &name)? == 0;
        if !in_place {
            progress.begin(&format!("reading {name}"), None);
        }
        let mut head = vec![0; HEAD];
        let mut filled = 0;
        while filled < head.len() {
            let got = if in_place {
                file.read_at(&mut head[filled..], filled as u64)
            } else {
                file.read(&mut head[filled..])
            };
            match got {
                Ok(0) => break,
                Ok(n) => {
                    filled += n;
                    if !in_place {
                        progress.advance(n as u64);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &name, e)),
            }
        }
        head.truncate(filled);
        Ok(Self { file, name, head, in_place: in_place.then_some(length) })
    }

    /// The file's first bytes.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Its name in messages, its first bytes, and the file, which stands behind them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn into_parts(mut self) -> Result<(String, Vec<u8>, File)> {
        if self.in_place.is_some() {
            self.file.seek(io::SeekFrom::Start(self.head.len() as u64)).context("seek in", &self.name)?;
        }
        Ok((self.name, self.head, self.file))
    }

    /// Opens it as a layout; what cannot be read in place is spooled into `scratch`.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(self, scratch: &Scratch, window: MaxWindow, progress: &dyn Progress) -> Result<Box<dyn Source>> {
        let Self { file, name, mut head, in_place } = self;
        let compression = match *head.as_slice() {
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd(window),
            [0x1f, 0x8b, ..] => Compression::Gzip,
            _ if tar::is_tar(&head) => Compression::None,
            [] => return Err(Error::bundle(name, "it is empty; what was to write it may have failed")),
            _ => return Err(Error::bundle(name, UNRECOGNISED)),
        };
        if let Some(length) = in_place {
            let bytes: Option<Box<dyn bytes::Bytes>> = match compression {
                Compression::None => {
                    Some(Box::new(bytes::PlainFile::new(file.try_clone().context("open", &name)?, length)))
                }
                Compression::Zstd(_) => match zstd_stream::Frames::open(&file, length, &name)? {
                    Some(frames) => Some(Box::new(frames)),
                    None => None,
                },
                Compression::Gzip => None,
            };
            if let Some(bytes) = bytes {
                return Ok(Box::new(tar::Walker::new(&name).finish(bytes)?));
            }
            // The head was read without moving the file's position.
            head.clear();
            progress.begin(&format!("reading {name}"), Some(length));
        }
        let source = spool::spool(head, file, compression, &name, scratch.path()?, progress)?;
        progress.end();
        Ok(Box::new(source))
    }
}

/// Creates a layout directory at `path` (appears at finish). By force, a layout that is there is replaced; anything
/// else never is.
///
/// # Errors
/// [`Error::AlreadyExists`]: there is something at `path`, other than an empty directory.
pub fn create_dir(path: &Path, force: bool) -> Result<Box<dyn Target>> {
    Ok(Box::new(dir_writer::DirTarget::create(path, force)?))
}

/// Adds to the layout directory at `path`, which appears at finish where there is nothing yet. By force, tags move to what
/// is added; nothing else is ever replaced.
///
/// # Errors
/// [`Error::InvalidBundle`]: there is something else at `path`. At finish, [`Error::TagTaken`].
pub fn add_to_dir(path: &Path, force: bool) -> Result<Box<dyn Target>> {
    if publish::is_vacant(path)? {
        return create_dir(path, false);
    }
    Ok(Box::new(onto::OntoTarget::open(path, force)?))
}

/// Creates a plain tar (`zstd_level` none), or a tar in zstd frames: stored frames when `zstd_level` is `Some(None)`
/// (blobs are compressed already), compressed ones for `Some(Some(level))`.
///
/// # Errors
/// [`Error::AlreadyExists`]: there is something at `path`, and no force.
pub fn create_tar(path: &Path, zstd_level: Option<Option<i32>>, force: bool) -> Result<Box<dyn Target>> {
    Ok(Box::new(tar_writer::TarTarget::create(path, zstd_level, force)?))
}

/// The same to standard output; `spool` takes each blob until its size and digest are known.
///
/// # Errors
/// [`Error::Io`] on `standard output`.
pub fn create_pipe(zstd_level: Option<Option<i32>>, spool: &Path) -> Result<Box<dyn Target>> {
    let stdout = io::stdout().as_fd().try_clone_to_owned().context("open", "standard output")?;
    Ok(Box::new(tar_writer::PipeTarget::create(File::from(stdout), zstd_level, spool)?))
}

/// A plain tar to a pipe that another program reads; `spool` as for [`create_pipe`].
///
/// # Errors
/// [`Error::Io`].
pub fn create_piped(pipe: File, spool: &Path) -> Result<Box<dyn Target>> {
    Ok(Box::new(tar_writer::PipeTarget::create(pipe, None, spool)?))
}

/// Refuses an `oci-layout` of another version.
fn check_layout(bytes: &[u8], context: &str) -> Result<()> {
    let value: serde_json::Value = json::parse(bytes, context)?;
    match value.get("imageLayoutVersion").and_then(|v| v.as_str()) {
        Some("1.0.0") => Ok(()),
        Some(other) => Err(Error::bundle(context, format!("imageLayoutVersion is {other:?}, not 1.0.0"))),
        None => Err(Error::bundle(context, "it has no imageLayoutVersion")),
    }
}

/// An index that our own reader would refuse is not written.
fn index_bytes(index: &Index, destination: &Path) -> Result<Vec<u8>> {
    let bytes = index.encode();
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Error::Limit {
            what: format!("the size of index.json in {}", destination.display()),
            value: bytes.len() as u64,
            limit: MAX_DOCUMENT,
            hint: "",
        });
    }
    Ok(bytes)
}

fn wrong_size(descriptor: &Descriptor, actual: u64) -> Error {
    let reason = format!("it has {actual} bytes, its descriptor says {}", descriptor.size);
    Error::CorruptBlob { digest: descriptor.digest, reason }
}

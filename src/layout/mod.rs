//! Directory and tar forms of an OCI layout, read and written.

use std::path::Path;

use crate::{
    error::Result,
    storage::{Source, Target},
};

/// Opens the layout at `path`: a directory, a `.tar` or a `.tar.zst`, told by content. A source that cannot be
/// read in place is spooled into `spool` (unlinked, so that it leaves nothing).
pub fn open(_path: &Path, _spool: &Path) -> Result<Box<dyn Source>> {
    unreachable!("replaced by the layout module's owner")
}

/// Opens a layout from standard input, spooled into `spool`.
pub fn open_stdin(_spool: &Path) -> Result<Box<dyn Source>> {
    unreachable!("replaced by the layout module's owner")
}

/// Creates a layout directory at `path` (appears at finish).
pub fn create_dir(_path: &Path, _force: bool) -> Result<Box<dyn Target>> {
    unreachable!("replaced by the layout module's owner")
}

/// Creates a plain tar (`zstd_level` none), or a tar in zstd frames: stored frames when `zstd_level` is `Some(None)`
/// (blobs are compressed already), compressed ones for `Some(Some(level))`.
pub fn create_tar(_path: &Path, _zstd_level: Option<Option<i32>>, _force: bool) -> Result<Box<dyn Target>> {
    unreachable!("replaced by the layout module's owner")
}

/// The same to standard output; `spool` takes each blob until its size and digest are known.
pub fn create_pipe(_zstd_level: Option<Option<i32>>, _spool: &Path) -> Result<Box<dyn Target>> {
    unreachable!("replaced by the layout module's owner")
}

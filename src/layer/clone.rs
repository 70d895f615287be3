//! A copy of a file that costs nothing where the filesystem can share blocks, and its data extents elsewhere.

use std::{fs::File, path::Path};

use rustix::{fs::copy_file_range, io::Errno};

use super::extents::data_extents;
use crate::error::{Error, IoContext, Result};

/// Most bytes that are copied in one call.
const PIECE: u64 = 32 << 20;

/// Makes the empty file `to` equal to `from` (of `size` bytes), holes kept. `copied` is told of bytes that were written.
///
/// # Errors
/// [`Error::Io`]; [`Error::SourceChanged`] when `from` ends early; those of `copied`.
pub fn clone_contents(
    from: &File,
    from_path: &Path,
    to: &File,
    to_path: &Path,
    size: u64,
    copied: &dyn Fn(u64) -> Result<()>,
) -> Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(size).context("set the size of", to_path)?;
    for extent in data_extents(from, from_path, size)? {
        let (mut read_at, mut write_at) = (extent.start, extent.start);
        while read_at < extent.end {
            let want = (extent.end - read_at).min(PIECE) as usize;
            match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
                Ok(0) => return Err(Error::SourceChanged { path: from_path.into() }),
                Ok(bytes) => copied(bytes as u64)?,
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                    copy_by_hand(from, from_path, to, to_path, read_at..extent.end)?;
                    read_at = extent.end;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("copy into", to_path, e.into())),
            }
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, from_path: &Path, to: &File, to_path: &Path, range: std::ops::Range<u64>) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let part = &mut buffer[..(range.end - at).min(1 << 20) as usize];
        from.read_exact_at(part, at).context("read", from_path)?;
        to.write_all_at(part, at).context("write", to_path)?;
        at += part.len() as u64;
    }
    Ok(())
}

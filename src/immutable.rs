//! Files that nobody may remove or rename (`chattr +i`, `chattr +a`): said before anything is taken away, because a folder
//! with one in it can be renamed, but not be removed.

use std::{fs, io, path::Path};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use crate::error::{Error, Result};

/// Refuses to do `operation` to what is at `path` where that, anything in it, or its folder is immutable or append-only.
/// What cannot be looked at is not refused.
///
/// # Errors
/// [`Error::Io`], with the file.
pub fn refuse(operation: &'static str, path: &Path) -> Result<()> {
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        one(operation, above)?;
    }
    all(operation, path)
}

/// Refuses to make something in a folder that would have to stay there.
///
/// # Errors
/// [`Error::Io`].
pub fn refuse_temporary_in(folder: &Path) -> Result<()> {
    one("make something temporary in", if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

fn all(operation: &'static str, path: &Path) -> Result<()> {
    one(operation, path)?;
    let is_folder = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let entries = is_folder.then(|| fs::read_dir(path).ok()).flatten();
    entries.into_iter().flatten().flatten().try_for_each(|entry| all(operation, &entry.path()))
}

fn one(operation: &'static str, path: &Path) -> Result<()> {
    let attributes = match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(found) => found.stx_attributes,
        Err(_) => return Ok(()),
    };
    let is = |attribute| attributes.contains(attribute);
    let reason = match (is(StatxAttributes::IMMUTABLE), is(StatxAttributes::APPEND)) {
        (true, _) => "it is immutable; `chattr -i` ends that",
        (_, true) => "it is append-only; `chattr -a` ends that",
        _ => return Ok(()),
    };
    Err(Error::io(operation, path, io::Error::new(io::ErrorKind::PermissionDenied, reason)))
}

//! Repairs of a group that need no bundle and lose nothing.

use std::path::Path;

use super::group::{GROUP_LOCK, GroupFile, is_file_at, is_group_at, mend, write_head};
use super::lease::{lock_exclusive, open_lock_file};
use crate::{
    error::{Error, Result},
    model::GroupName,
    progress::Progress,
    snapshot::is_there,
};

/// Under the lock of the group `name`, which is made where it is missing: writes anew what an earlier snapcask wrote in
/// another form, and clears a head whose folder is gone. What msb refuses and nobody can mend stays.
///
/// # Errors
/// [`Error::Io`].
pub fn repair(snapshots: &Path, name: &GroupName, progress: &dyn Progress) -> Result<()> {
    let folder = snapshots.join(name.as_str());
    while is_group_at(&folder)? {
        let (lock, path) = open_lock_file(folder.join(GROUP_LOCK))?;
        lock_exclusive(&lock, &path, progress)?;
        if !is_file_at(&lock, &path)? {
            continue;
        }
        match mend(&folder) {
            // A member that cannot be read.
            Ok(_) | Err(Error::InvalidGroup { .. }) => {}
            Err(error) => return Err(error),
        }
        if let GroupFile::Head(head) = GroupFile::read(&folder)?
            && !is_there(&folder.join(head))?
        {
            write_head(&folder, None)?;
        }
        return Ok(());
    }
    Ok(())
}

//! Where a filesystem knows no flags of renameat2(2): NFS and 9p refuse both, CIFS, exFAT and ext2 the exchange.

use std::{io, path::Path};

use rustix::io::Errno;

use crate::error::Error;

/// Whether an error says that the filesystem, or the kernel, knows no such rename.
pub fn is_unsupported(error: &io::Error) -> bool {
    let numbers = [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// What a folder's failed exchange is: there is no other way to replace it that leaves the old or the new at any time.
pub fn exchange_failed(error: Error, folder: &Path) -> Error {
    match error {
        Error::Io { source, .. } if is_unsupported(&source) => {
            let reason =
                "its filesystem cannot exchange two names, so one of them would be lost meanwhile; remove it first";
            Error::io("replace", folder, io::Error::new(io::ErrorKind::Unsupported, reason))
        }
        other => other,
    }
}

//! Blobs that were fetched in part, kept in the user's cache folder under their digest, so that the next run goes on where
//! this one was cut.
//!
//! ```text
//! partial/                     0700
//!   <64 hex digits>            0600; the blob's first bytes; locked by whoever appends to it
//! ```
//!
//! Nothing here is believed: what is read is hashed with the rest of the blob, and a blob that turns out wrong takes its
//! part with it. All of it may be deleted at any time. No file is synced, because a lost part is only fetched again.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::model::Descriptor;

/// Smallest blob that is kept, in bytes: a smaller one is fetched again.
const SMALLEST: u64 = 4 << 20;
/// So many times its size must be free on the disk, because what is imported needs room first.
const ROOM: u64 = 3;

/// The folder of parts.
pub(super) struct Partials {
    folder: Option<PathBuf>,
    /// Most bytes of all parts.
    most: u64,
    /// The parts that this run has used.
    used: Mutex<BTreeSet<PathBuf>>,
}

impl Partials {
    /// In this cache folder; without one, nothing is kept.
    pub fn new(cache: Option<&Path>, most: u64) -> Self {
        Self { folder: cache.map(|cache| cache.join("partial")), most, used: Mutex::default() }
    }

    /// The part of a blob that is here, which may have no bytes yet; locked. `None` where it is not worth it, is not safe, or
    /// is in use.
    pub fn open(&self, descriptor: &Descriptor) -> Option<Partial> {
        let folder = self.folder.as_ref().filter(|_| (SMALLEST..=self.most).contains(&descriptor.size))?;
        match self.open_in(folder, descriptor) {
            Ok(partial) => partial,
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "nothing is kept of a blob");
                None
            }
        }
    }

    fn open_in(&self, folder: &Path, descriptor: &Descriptor) -> io::Result<Option<Partial>> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if !is_ours(&fs::symlink_metadata(folder)?) {
            return Err(io::Error::other("the folder is not ours alone"));
        }
        let path = folder.join(descriptor.digest.hex());
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = options.open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_ours(&metadata) {
            return Err(io::Error::other("the file is not ours alone"));
        }
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let mut length = metadata.len();
        if length > descriptor.size {
            file.set_len(0)?;
            length = 0;
        }
        let missing = descriptor.size - length;
        let is_room = free_bytes(folder).is_ok_and(|free| free / ROOM >= missing);
        if !is_room || !self.make_room(folder, &path, missing)? {
            fs::remove_file(&path)?;
            return Ok(None);
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        Ok(Some(Partial { kept: Arc::new(Kept { file, path }), length }))
    }

    /// Removes the oldest parts until `more` bytes fit beside the others. Whether they do.
    fn make_room(&self, folder: &Path, except: &Path, more: u64) -> io::Result<bool> {
        let mut total = more;
        let mut others: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            total = total.saturating_add(metadata.len());
            if entry.path() != except {
                others.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        others.sort_unstable();
        for (_, length, path) in others {
            if total <= self.most {
                break;
            }
            // One that somebody appends to stays.
            let is_free = File::open(&path).is_ok_and(|f| flock(&f, FlockOperation::NonBlockingLockExclusive).is_ok());
            if is_free && fs::remove_file(&path).is_ok() {
                total -= length;
            }
        }
        Ok(total <= self.most)
    }

    /// Removes the parts that this run has used, because everything is in place.
    pub fn release(&self) {
        for path in std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Bytes that this user may still write to the disk of `folder`.
fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether a file or folder is this user's, and nobody else may read or write it.
fn is_ours(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0
}

/// The part of one blob.
pub(super) struct Partial {
    kept: Arc<Kept>,
    /// Bytes that are here.
    length: u64,
}

/// A file of parts; it can be discarded by whoever finds that it is wrong.
pub(super) struct Kept {
    file: File,
    path: PathBuf,
}

impl Kept {
    /// Removes the part.
    pub fn discard(&self) {
        let _ = self.file.set_len(0);
        let _ = fs::remove_file(&self.path);
    }
}

impl Partial {
    /// Bytes that are here.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn kept(&self) -> Arc<Kept> {
        self.kept.clone()
    }

    /// The whole blob: the part, then what `rest` brings, which is added to it.
    pub fn followed_by(self, rest: Box<dyn Read + Send>) -> PartialReader {
        PartialReader { kept: Some(self.kept), here: self.length, position: 0, rest }
    }
}

/// A blob, of which the first bytes are here.
pub(super) struct PartialReader {
    /// `None` once nothing can be added any more.
    kept: Option<Arc<Kept>>,
    here: u64,
    position: u64,
    rest: Box<dyn Read + Send>,
}

impl PartialReader {
    fn append(&mut self, bytes: &[u8]) {
        let Some(kept) = &self.kept else { return };
        if let Err(error) = kept.file.write_all_at(bytes, self.position) {
            // A full disk is better used by what is imported.
            tracing::debug!(path = %kept.path.display(), %error, "nothing more is kept of a blob");
            kept.discard();
            self.kept = None;
        }
    }
}

impl Read for PartialReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(kept) = self.kept.as_ref().filter(|_| self.position < self.here) {
            let length = usize::try_from(self.here - self.position).unwrap_or(usize::MAX).min(buffer.len());
            let read = kept.file.read_at(&mut buffer[..length], self.position)?;
            if read == 0 && length > 0 {
                return Err(io::Error::other(format!("{} was truncated while it was read", kept.path.display())));
            }
            self.position += read as u64;
            return Ok(read);
        }
        let read = self.rest.read(buffer)?;
        self.append(&buffer[..read]);
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn blob(first: u8) -> (Descriptor, Vec<u8>) {
        let bytes = vec![first; SMALLEST as usize];
        (Descriptor::of("x", &bytes), bytes)
    }

    fn file_of(folder: &Path, descriptor: &Descriptor) -> PathBuf {
        folder.join("partial").join(descriptor.digest.hex())
    }

    #[test]
    fn cut_blob_goes_on_where_it_stopped() {
        let cache = tempfile::tempdir().unwrap();
        let partials = Partials::new(Some(cache.path()), u64::MAX);
        let (descriptor, bytes) = blob(1);
        let partial = partials.open(&descriptor).unwrap();
        assert_eq!(partial.length(), 0);
        assert!(partials.open(&descriptor).is_none(), "it is locked");
        let mut first = vec![0; 1000];
        partial.followed_by(Box::new(io::Cursor::new(bytes.clone()))).read_exact(&mut first).unwrap();
        let partial = partials.open(&descriptor).unwrap();
        assert_eq!(partial.length(), 1000);
        let mut whole = Vec::new();
        partial.followed_by(Box::new(io::Cursor::new(bytes[1000..].to_vec()))).read_to_end(&mut whole).unwrap();
        assert!(whole == bytes);
        assert_eq!(fs::metadata(file_of(cache.path(), &descriptor)).unwrap().len(), descriptor.size);
        partials.release();
        assert!(!file_of(cache.path(), &descriptor).exists());
    }

    #[test]
    fn oldest_parts_go_when_the_limit_is_reached() {
        let cache = tempfile::tempdir().unwrap();
        let partials = Partials::new(Some(cache.path()), 2 * SMALLEST);
        for number in 1..=3 {
            let (descriptor, bytes) = blob(number);
            let partial = partials.open(&descriptor).unwrap();
            let path = file_of(cache.path(), &descriptor);
            io::copy(&mut partial.followed_by(Box::new(io::Cursor::new(bytes))), &mut io::sink()).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number.into());
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
        let is_here = |number| file_of(cache.path(), &blob(number).0).exists();
        assert_eq!([is_here(1), is_here(2), is_here(3)], [false, true, true]);
        assert!(Partials::new(Some(cache.path()), SMALLEST - 1).open(&blob(4).0).is_none());
    }

    #[test]
    fn parts_that_others_can_reach_are_not_used() {
        let cache = tempfile::tempdir().unwrap();
        let partials = Partials::new(Some(cache.path()), u64::MAX);
        let (descriptor, _) = blob(1);
        drop(partials.open(&descriptor).unwrap());
        let (folder, path) = (cache.path().join("partial"), file_of(cache.path(), &descriptor));
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for (target, open, closed) in [(&path, 0o640, 0o600), (&folder, 0o711, 0o700)] {
            fs::set_permissions(target, fs::Permissions::from_mode(open)).unwrap();
            assert!(partials.open(&descriptor).is_none(), "{}", target.display());
            fs::set_permissions(target, fs::Permissions::from_mode(closed)).unwrap();
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(partials.open(&descriptor).is_none());
    }

    #[test]
    fn part_that_is_longer_than_the_blob_is_dropped() {
        let cache = tempfile::tempdir().unwrap();
        let partials = Partials::new(Some(cache.path()), u64::MAX);
        let (descriptor, _) = blob(1);
        drop(partials.open(&descriptor).unwrap());
        File::options().write(true).open(file_of(cache.path(), &descriptor)).unwrap().set_len(SMALLEST + 1).unwrap();
        assert_eq!(partials.open(&descriptor).unwrap().length(), 0);
    }
}

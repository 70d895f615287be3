//! What stands in an image cache, beside what a file table says of it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::fs::OFlags;

use crate::{
    beneath::Folder,
    error::{Error, IoContext, Result},
    layer::analyze::{Contents, FileView, contents},
    model::{FileRecord, TarPath},
    progress::Progress,
    store::vmdk,
    temporary::nameless,
};

/// A file of an image cache.
pub(crate) struct CachedFile {
    /// Bytes, of a VMDK with its paths reduced.
    pub size: u64,
    /// What is in it, of a VMDK with its paths reduced.
    pub contents: Contents,
    /// A VMDK that names files of another folder: the cache was moved, or copied.
    pub elsewhere: bool,
}

impl CachedFile {
    /// The file at `path` of `cache`; none where there is none.
    ///
    /// # Errors
    /// [`Error::ImageCache`]: a VMDK that is none of ours; [`Error::UnsafePath`]; [`Error::Io`].
    pub fn look(cache: &Path, path: &TarPath, jobs: usize, progress: &dyn Progress) -> Result<Option<Self>> {
        let absolute = cache.join(path);
        let opened = Folder::open(cache).and_then(|folder| folder.file(path, OFlags::RDONLY));
        let file = match opened {
            Ok(file) => file,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if path.as_str().starts_with("vmdk/") {
            return Self::vmdk(cache, file, &absolute, progress).map(Some);
        }
        let size = file.metadata().context("look at", &absolute)?.len();
        let view = FileView { file: &file, path: &absolute, size };
        let (contents, _) = contents(view, None, jobs, progress)?;
        Ok(Some(Self { size, contents, elsewhere: false }))
    }

    /// It was rebuilt with this machine's paths: reduced again it must be what came, and expanded what is there.
    fn vmdk(cache: &Path, mut file: File, absolute: &Path, progress: &dyn Progress) -> Result<Self> {
        let mut bytes = Vec::new();
        (&mut file).take(vmdk::MAX_VMDK as u64 + 1).read_to_end(&mut bytes).context("read", absolute)?;
        let here = std::path::absolute(cache).context("resolve", cache)?;
        let reduced = vmdk::reduce(&bytes)?;
        let elsewhere = vmdk::expand(&reduced, &here)? != bytes && !leads_here(&bytes, cache)?;
        let mut file = nameless()?;
        file.write_all(&reduced).context("write", absolute)?;
        let size = reduced.len() as u64;
        let (contents, _) = contents(FileView { file: &file, path: absolute, size }, None, 1, progress)?;
        Ok(Self { size, contents, elsewhere })
    }

    /// Whether it is what the row says.
    pub fn is(&self, row: &FileRecord) -> bool {
        self.size == row.size && self.contents.root == row.root
    }
}

/// Whether the files that a VMDK names are those of the cache, by another path to it.
fn leads_here(vmdk: &[u8], cache: &Path) -> Result<bool> {
    let same = |named: &Path, ours: &Path| match (fs::metadata(named), fs::metadata(ours)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    Ok(vmdk::extents_named(vmdk)?.iter().all(|(named, file)| same(named, &cache.join(file))))
}

//! Files of snapshots that nobody imported, and that no descriptor binds: only a bundle says what they were.

use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{BadSnapshot, FILE_UNREADABLE, Look};
use crate::{
    beneath::Folder,
    bundle::BundledSnapshot,
    digest::Digest,
    error::Result,
    layer::analyze::{FileView, contents},
    model::FileRecord,
    snapshot::{labels::LABELS_FILE, scan::SourceFile},
};

/// The code of a note about a file that nothing vouches for.
pub(super) const NOT_COMPARED: &str = "file-not-compared";
/// What is said of a file that nothing vouches for.
pub(super) const NOT_IMPORTED: &str = "not imported by snapcask: nothing to compare with";

/// A snapshot that nobody imported.
#[derive(Debug)]
pub(super) struct Unvouched {
    pub directory: PathBuf,
    pub digest: Digest,
    /// Every file of it.
    pub present: Vec<SourceFile>,
    /// Those that nothing vouches for.
    pub files: Vec<SourceFile>,
}

impl Look<'_> {
    /// Compares such snapshots with the bundle's, where it has them, and notes what nothing vouches for.
    pub(super) fn vouched(&mut self, bundled: &[BundledSnapshot]) {
        for unvouched in std::mem::take(&mut self.found.unvouched) {
            let Unvouched { directory, digest, files, .. } = &unvouched;
            let Some(same) = bundled.iter().find(|snapshot| snapshot.config.snapshot.digest == *digest) else {
                for file in files {
                    self.note(NOT_COMPARED, &file.absolute, NOT_IMPORTED);
                }
                continue;
            };
            let before = self.found.findings.len();
            self.compare(&unvouched, same);
            if self.found.findings.len() > before {
                self.found.good.remove(digest);
                if self.found.snapshots.iter().all(|bad| bad.directory != *directory) {
                    let bad = BadSnapshot { directory: directory.clone(), record: None, digest: Some(*digest) };
                    self.found.snapshots.push(bad);
                }
            }
        }
    }

    fn compare(&mut self, unvouched: &Unvouched, same: &BundledSnapshot) {
        for file in &unvouched.files {
            let Some(row) = same.config.row(&file.path) else {
                let text = format!("{NOT_IMPORTED}, and the bundle does not have it");
                self.note(NOT_COMPARED, &file.absolute, text);
                continue;
            };
            match self.root(&unvouched.directory, file) {
                Err(error) => self.report(FILE_UNREADABLE, &file.absolute, error),
                Ok(root) if root == row.root.to_string() && file.size == row.size => {}
                Ok(root) => {
                    let text = format!(
                        "it has {} bytes and the root {root}, in the bundle {} bytes and the root {}; nothing says which is right",
                        file.size, row.size, row.root
                    );
                    self.report("file-differs", &file.absolute, text);
                }
            }
        }
        let is_there = |row: &FileRecord| unvouched.present.iter().any(|file| file.path == row.path);
        // Labels are their owner's to take away.
        let is_labels = |row: &FileRecord| row.path.as_str() == LABELS_FILE;
        let gone = same.config.files.iter().filter(|row| !is_there(row) && !is_labels(row));
        // What could not be listed has its own finding.
        for row in gone.filter(|_| !unvouched.present.is_empty()) {
            self.report("file-missing", &unvouched.directory.join(&row.path), "the bundle has it and it is not there");
        }
    }

    /// The root of a file, which is counted as one that was read.
    fn root(&mut self, directory: &Path, source: &SourceFile) -> Result<String> {
        let file = Folder::open(directory)?.file(&source.at, OFlags::RDONLY)?;
        let view = FileView { file: &file, path: &source.absolute, size: source.size };
        let held = contents(view, None, self.jobs, self.progress.as_ref())?.0;
        self.found.counts.files += 1;
        self.found.counts.data_bytes += held.data_bytes;
        Ok(held.root.to_string())
    }
}

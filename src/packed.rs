//! A snapshot that an export has packed, which the next one may be a delta over.

use std::{collections::HashMap, fs::File, ops::Range, path::PathBuf};

use crate::{
    bundle,
    digest::Digest,
    error::{Error, IoContext, Result},
    layer::{
        DELTA_MIN,
        analyze::{Analysis, FileView},
        tar::PlannedFile,
    },
    layer_cache::Stamp,
    media_type,
    model::{Descriptor, FileRecord, SnapshotConfig, SnapshotName, TarPath, config::Root},
    opened::{Opened, stamp},
    report::SnapshotReport,
    snapshot::{Snapshot, scan::SourceFile},
};

/// A file of a snapshot with what pass 1 found in it.
pub struct PackedFile {
    pub source: SourceFile,
    pub file: File,
    pub stamp: Stamp,
    pub analysis: Analysis,
}

impl PackedFile {
    /// What pass 1 found in an opened file.
    pub fn new(opened: Opened, analysis: Analysis) -> Self {
        let Opened { source, file, stamp } = opened;
        Self { source, file, stamp, analysis }
    }

    /// Its bytes, to be read.
    pub fn view(&self) -> FileView<'_> {
        FileView { file: &self.file, path: &self.source.absolute, size: self.source.size }
    }

    /// Its row of the file table.
    pub fn record(&self) -> FileRecord {
        FileRecord {
            path: self.source.path.clone(),
            executable: self.source.executable,
            size: self.source.size,
            data_bytes: self.analysis.contents.data_bytes,
            root: self.analysis.contents.root,
        }
    }

    /// Its entry of a delta over a file that has the same bytes: it holds nothing.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn plan_unchanged(&self) -> Result<PlannedFile> {
        Ok(PlannedFile { sum: 0, ..self.plan(Some(Vec::new()))? })
    }

    /// Its entry of a layer, which holds these segments, or all of it.
    ///
    /// # Errors
    /// Its handle cannot be duplicated.
    pub fn plan(&self, segments: Option<Vec<Range<u64>>>) -> Result<PlannedFile> {
        Ok(PlannedFile {
            path: self.source.path.clone(),
            executable: self.source.executable,
            size: self.source.size,
            segments,
            sum: self.analysis.sum,
            file: self.file.try_clone().context("duplicate the handle of", &self.source.absolute)?,
            source: self.source.absolute.clone(),
        })
    }

    /// What its entry holds where it goes over nothing: everything as a plain entry when no block is zero, else its data.
    pub fn whole_segments(&self) -> Option<Vec<Range<u64>>> {
        let contents = &self.analysis.contents;
        (contents.data_bytes < contents.size).then(|| self.analysis.segments.clone())
    }
}

/// A snapshot that is in the bundle.
pub struct Packed {
    pub config: SnapshotConfig,
    pub manifest: Descriptor,
    pub stack: Vec<Descriptor>,
    pub files: Vec<PackedFile>,
    pub directory: PathBuf,
    pub unknown_requires: Vec<String>,
    /// Layers that the bundle leaves out, and that no older snapshot of it names.
    pub left_out: Vec<Digest>,
}

impl Packed {
    /// Its entry of the bundle's index.
    pub fn index_entry(&self, tag: &SnapshotName) -> Descriptor {
        let entry = bundle::index_entry(self.manifest.clone(), &self.config.snapshot, Some(tag.as_str()));
        if self.left_out.is_empty() {
            return entry;
        }
        let digests: Vec<String> = self.left_out.iter().map(Digest::to_string).collect();
        entry.annotated(media_type::LEFT_OUT, digests.join(","))
    }

    /// What the report says of it.
    pub fn report(&self, parent_digest: Option<Digest>) -> SnapshotReport {
        let mut report = SnapshotReport::of(&self.config, Some(self.manifest.digest), parent_digest);
        report.path = Some(self.directory.clone());
        report.unknown_requires = self.unknown_requires.clone();
        report
    }

    /// The file at this path.
    pub fn file(&self, path: &TarPath) -> Option<&PackedFile> {
        self.files.binary_search_by(|f| f.source.path.cmp(path)).ok().map(|at| &self.files[at])
    }

    /// Its files by what they hold, those that a delta goes over; of several the first by path.
    pub fn by_root(&self) -> HashMap<Root, &PackedFile> {
        let files = self.files.iter().rev().filter(|file| file.source.size >= DELTA_MIN);
        files.map(|file| (file.analysis.contents.root, file)).collect()
    }

    /// That its files are still those that were read.
    ///
    /// # Errors
    /// [`Error::SourceChanged`] of the first that is not.
    pub fn unchanged(&self) -> Result<()> {
        for file in &self.files {
            if stamp(&file.file, &file.source.absolute)? != file.stamp {
                return Err(Error::SourceChanged { path: file.source.absolute.clone() });
            }
        }
        Ok(())
    }
}

/// The file of the parent's directory that this one goes over: the one at the same path, else, for the head disk, the
/// parent's head disk. Small files are stored whole.
pub fn base_of<'p>(source: &SourceFile, snapshot: &Snapshot, parent: Option<&'p Packed>) -> Option<&'p PackedFile> {
    let parent = parent?;
    if source.size < DELTA_MIN {
        return None;
    }
    parent.file(&source.path).or_else(|| {
        let disk = snapshot.descriptor.disk.as_ref().filter(|disk| **disk == source.path)?;
        let raw = |path: &TarPath| path.as_str().ends_with(".qcow2");
        let base = parent.config.snapshot.disk.as_ref()?;
        if raw(disk) == raw(base) { parent.file(base) } else { None }
    })
}

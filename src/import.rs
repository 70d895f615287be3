//! Import: bundle -> store.

use std::{path::PathBuf, sync::Arc};

use crate::{
    error::{Error, Result},
    progress::Progress,
    report::ImportReport,
};

/// Where a bundle is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleLocation {
    /// Standard input.
    Stdin,
    /// A layout directory, a tar or a tar.zst.
    Path(PathBuf),
}

/// What to import, where to, and how.
#[derive(Clone)]
pub struct ImportOptions {
    /// The bundle.
    pub source: BundleLocation,
    /// The store's folder.
    pub store: PathBuf,
    /// Snapshots directory other than the store's.
    pub dest: Option<PathBuf>,
    /// Which head, when the bundle has several tags.
    pub tag: Option<String>,
    /// Name for the head.
    pub name: Option<String>,
    /// Without its ancestors.
    pub head_only: bool,
    /// Group for `final` snapshots.
    pub group: Option<String>,
    /// Replace what is there and different.
    pub force: bool,
    /// Without verifying the integrity that descriptors record in SHA forms.
    pub skip_recorded: bool,
    /// Most bytes of data that may be restored; none: the free space of the disk.
    pub max_bytes: Option<u64>,
    /// Most files that may be restored.
    pub max_files: u64,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Runs an import. Blocking; the CLI runs it on a blocking thread.
pub fn import(_options: &ImportOptions) -> Result<ImportReport> {
    Err(Error::Usage("import is being built".into()))
}

//! Export: store -> bundle.

use std::{path::PathBuf, sync::Arc};

use crate::{
    error::{Error, Result},
    progress::Progress,
    report::ExportReport,
};

/// The form of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An OCI layout directory.
    Dir,
    /// A plain tar of it.
    Tar,
    /// A tar of it in zstd frames.
    TarZst,
}

impl Form {
    /// The word on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Tar => "tar",
            Self::TarZst => "tar.zst",
        }
    }
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar layers.
    None,
    /// zstd at this level, 1 to 19.
    Zstd(i32),
}

/// Where a bundle is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file or folder.
    Path(PathBuf),
}

/// What to export, where to, and how.
#[derive(Clone)]
pub struct ExportOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// The head: a name, path, digest (prefix), id, `group:member` or `group`.
    pub snapshot: String,
    /// Where to.
    pub destination: Destination,
    /// The bundle's form.
    pub form: Form,
    /// Ancestors too.
    pub with_parents: bool,
    /// The pinned images' cache files too.
    pub with_image: bool,
    /// Deltas over parents (`false` for `--no-delta`: every layer is a base).
    pub delta: bool,
    /// Of layers.
    pub compression: Compression,
    /// The head's tag, instead of its name.
    pub tag: Option<String>,
    /// Replace an existing destination.
    pub force: bool,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Runs an export. Blocking; the CLI runs it on a blocking thread.
pub fn export(_options: &ExportOptions) -> Result<ExportReport> {
    Err(Error::Usage("export is being built".into()))
}

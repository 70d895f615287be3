//! Where a bundle is written, and in which form.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, IoContext, Result},
    layout,
    reference::RegistryReference,
    registry,
    snapshot::{is_regular, visible},
    storage::Target,
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
    /// A repository of a registry.
    Registry,
}

impl Form {
    /// The word on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Tar => "tar",
            Self::TarZst => "tar.zst",
            Self::Registry => "registry",
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
    /// A layout directory that is added to.
    Onto(PathBuf),
    /// A repository of a registry; a tag in it becomes the head's. The form is the registry's, whatever is asked.
    Registry(RegistryReference, Box<registry::Options>),
}

impl Destination {
    /// How reports and messages call it.
    pub fn display(&self) -> String {
        match self {
            Self::Stdout => "-".into(),
            Self::Path(path) | Self::Onto(path) => path.display().to_string(),
            Self::Registry(reference, _) => reference.to_string(),
        }
    }
}

/// Begins the bundle; `outer` is the zstd level of a `.tar.zst`, none to store what is compressed already.
///
/// # Errors
/// [`Error::AlreadyExists`]; [`Error::Usage`]: a form that the destination cannot have, or a place inside of a bundle.
pub fn create_target(
    destination: &Destination,
    form: Form,
    outer: Option<i32>,
    force: bool,
) -> Result<Box<dyn Target>> {
    if let Destination::Path(path) | Destination::Onto(path) = destination {
        refuse_inside_bundle(path)?;
    }
    match (destination, form) {
        (Destination::Registry(reference, options), _) => registry::create(reference, options, force),
        (_, Form::Registry) => Err(Error::Usage("a registry is named by oci://HOST/REPOSITORY".into())),
        (Destination::Stdout, Form::Dir) => {
            Err(Error::Usage("a layout directory cannot be written to a pipe; use --format tar or tar.zst".into()))
        }
        (Destination::Stdout, Form::Tar) => layout::create_pipe(None, &std::env::temp_dir()),
        (Destination::Stdout, Form::TarZst) => layout::create_pipe(Some(outer), &std::env::temp_dir()),
        (Destination::Onto(path), Form::Dir) => layout::add_to_dir(path, force),
        (Destination::Onto(_), _) => Err(Error::Usage("only a layout directory is added to".into())),
        (Destination::Path(path), Form::Dir) => layout::create_dir(path, force),
        (Destination::Path(path), Form::Tar) => layout::create_tar(path, None, force),
        (Destination::Path(path), Form::TarZst) => layout::create_tar(path, Some(outer), force),
    }
}

/// A layout directory holds its own blobs only, which a file of somebody else's among them would spoil.
fn refuse_inside_bundle(path: &Path) -> Result<()> {
    let absolute = std::path::absolute(path).context("resolve", path)?;
    for folder in absolute.ancestors().skip(1) {
        // Where links and `..` lead; folders that are missing yet are in those that are there.
        let folder = match folder.canonicalize() {
            Ok(folder) => folder,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(Error::io("resolve", folder, e)),
        };
        let mut bundle = None;
        for above in folder.ancestors() {
            if bundle.is_none() && visible(is_regular(&above.join("oci-layout")))? {
                bundle = Some(above);
            }
        }
        return match bundle {
            Some(bundle) => Err(Error::Usage(format!(
                "{} is inside of the bundle {}; name a place outside of it",
                path.display(),
                bundle.display()
            ))),
            None => Ok(()),
        };
    }
    Ok(())
}

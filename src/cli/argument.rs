//! What an argument means, where it may be a bundle or a snapshot of the store.
//!
//! A name means a snapshot, whatever stands beside it: a folder that somebody puts there must not change what is sent. A
//! path has a `/`, and a name that ends like an archive is a file's.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use snapcask::{
    Error, Result,
    error::IoContext,
    snapshot::{Snapshot, is_folder, is_regular},
    store::Store,
};

use super::{args::StoreArg, registry};

/// How the names of archives end that are read. Not all of them are written.
const ARCHIVES: [&str; 5] = [".tar", ".tar.zst", ".tzst", ".tar.gz", ".msb"];

/// What an argument means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// A bundle, or an archive of msb.
    Bundle,
    /// A snapshot, by this reference.
    Snapshot(String),
}

/// What an argument can mean besides a snapshot of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A bundle too.
    Source,
    /// Only the path of another snapshot.
    Snapshot,
}

/// What the argument means. Of a path, what is there decides.
///
/// # Errors
/// [`Error::NotFound`]: at the path is nothing of these; [`Error::Io`]; [`Error::Usage`] for a name that is not UTF-8.
pub fn meant(argument: &OsStr) -> Result<Meant> {
    if matches!(registry::reference(argument), Ok(Some(_)) | Err(_)) || argument == "-" {
        return Ok(Meant::Bundle);
    }
    if !is_path(argument) {
        if is_archive(argument) {
            return Ok(Meant::Bundle);
        }
        let name = argument.to_str().map(str::to_owned);
        let no_name =
            || Error::Usage(format!("{argument:?} is not the name of a snapshot; a path is written with a `/`"));
        return name.map(Meant::Snapshot).ok_or_else(no_name);
    }
    let path = Path::new(argument);
    let not_found = |hint: &str| Error::NotFound { what: "bundle or snapshot", path: path.into(), hint: hint.into() };
    match path.metadata() {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Err(not_found(""))
        }
        Err(error) => Err(error).context("look at", path),
        Ok(metadata) if !metadata.is_dir() => Ok(Meant::Bundle),
        Ok(_) if is_regular(&path.join("oci-layout"))? => Ok(Meant::Bundle),
        Ok(_) if Snapshot::is_at(path) => match argument.to_str() {
            Some(path) => Ok(Meant::Snapshot(path.into())),
            None => Err(Error::Usage(format!("{argument:?} is not UTF-8; name the snapshot by its digest"))),
        },
        Ok(_) => Err(not_found("; the folder has neither oci-layout nor manifest.json nor snapshot.json")),
    }
}

/// A path, as the store has it: everything else is a name.
fn is_path(argument: &OsStr) -> bool {
    argument.as_encoded_bytes().contains(&b'/') || argument == "." || argument == ".."
}

/// Whether a name is that of a file. The ends of names are ASCII, so one that is not UTF-8 is judged rightly as well.
fn is_archive(argument: &OsStr) -> bool {
    let name = argument.to_string_lossy();
    ARCHIVES.iter().any(|end| name.len() > end.len() && name.ends_with(end))
}

/// Says of a name that nothing in the store answers to what stands beside it.
pub fn beside(error: Error, argument: &OsStr, takes: Takes) -> Error {
    let (name, takes) = match &error {
        // Another argument of the command, which can be a bundle.
        Error::SnapshotNotFound { reference, .. } if OsStr::new(reference) != argument => {
            (OsStr::new(reference).to_owned(), Takes::Source)
        }
        Error::SnapshotNotFound { .. } | Error::NotFound { what: "store", .. } | Error::NotAStore { .. } => {
            (argument.to_owned(), takes)
        }
        _ => return error,
    };
    let path = Path::new(&name);
    let is_plain = !is_path(&name) && !name.is_empty();
    let kind = match path.metadata() {
        Ok(metadata) if is_plain && metadata.is_dir() && (takes == Takes::Source || Snapshot::is_at(path)) => "folder",
        Ok(metadata) if is_plain && !metadata.is_dir() && takes == Takes::Source => "file",
        _ => return error,
    };
    let shown = path.display();
    let more = format!("; there is a {kind} ./{shown}: write ./{shown}");
    match error {
        Error::SnapshotNotFound { reference, store, hint } => {
            Error::SnapshotNotFound { reference, store, hint: hint + &more }
        }
        Error::NotFound { what, path, hint } => Error::NotFound { what, path, hint: hint + &more },
        Error::NotAStore { path, reason } => Error::NotAStore { path, reason: reason + &more },
        other => other,
    }
}

/// Says of a bundle that is not there that a snapshot of the store has its name.
pub fn in_store(error: Error, store: &StoreArg) -> Error {
    let Error::NotFound { what: what @ "bundle", path, hint } = error else { return error };
    let is_snapshot = |root: PathBuf| is_folder(&Store::at(root).snapshots().join(&path)).unwrap_or(false);
    let more = match !is_path(path.as_os_str()) && store.resolve().is_ok_and(is_snapshot) {
        true => "; the store has a snapshot of that name, which `export` packs and `push` sends",
        false => "",
    };
    Error::NotFound { what, path, hint: hint + more }
}

/// Refuses a place in a registry where a snapshot of a store is meant.
///
/// # Errors
/// [`Error::Usage`] with the verb that does it there.
pub fn local(reference: &str, instead: &str) -> Result<()> {
    match snapcask::reference::RegistryReference::is_meant_by(reference) {
        true => {
            Err(Error::Usage(format!("{reference} is in a registry, and a snapshot of a store is needed; {instead}")))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_snapshots_and_archives_are_files() {
        for (argument, bundle) in [
            ("-", true),
            ("oci://h/r", true),
            ("oci://", true),
            ("a.tar", true),
            ("a.tar.zst", true),
            ("a.tzst", true),
            ("a.tar.gz", true),
            ("a.msb", true),
            ("a", false),
            (".tar", false),
            ("a.tgz", false),
            ("tar", false),
            ("sha256:00", false),
            ("group:member", false),
        ] {
            let expected = if bundle { Meant::Bundle } else { Meant::Snapshot(argument.into()) };
            assert_eq!(meant(OsStr::new(argument)).unwrap(), expected, "{argument}");
        }
        // This crate's folder holds a folder of that name, which changes nothing.
        assert!(Path::new("src").is_dir());
        assert_eq!(meant(OsStr::new("src")).unwrap(), Meant::Snapshot("src".into()));
        assert!(matches!(meant(OsStr::new("./src")), Err(Error::NotFound { .. })));
        assert_eq!(meant(OsStr::new("./Cargo.toml")).unwrap(), Meant::Bundle);
        assert!(matches!(meant(OsStr::new("./nothing.tar")), Err(Error::NotFound { .. })));
    }
}

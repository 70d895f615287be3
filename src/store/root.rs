//! Whether a folder is a store: a mistyped one is not an empty one.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, IoContext, Result},
    snapshot::{GROUP_FILE, SNAPSHOT_FILE, V066_FILE, is_folder, is_regular, is_there, visible},
};

/// What only a store of msb holds.
const PARTS: [&str; 4] = ["snapshots", "cache", "db", "sandboxes"];

/// That the store at `root` is there to be read. An empty folder is a store in which nothing is yet.
///
/// # Errors
/// [`Error::NotFound`]: there is no folder; [`Error::NotAStore`] with what it is; [`Error::Io`].
pub fn existing(root: &Path) -> Result<()> {
    if !is_folder(root)? {
        let hint = "; --store or $MSB_HOME says where it is".into();
        return Err(Error::NotFound { what: "store", path: root.into(), hint });
    }
    if has_parts(root)? {
        return Ok(());
    }
    of_another_kind(root)?;
    match fs::read_dir(root).context("list", root)?.next() {
        None => Ok(()),
        Some(_) => {
            Err(no_store(root, "it has neither snapshots/ nor cache/; --store or $MSB_HOME says where it is".into()))
        }
    }
}

/// That a store may be made at `root`, or added to.
///
/// # Errors
/// [`Error::NotAStore`]: it is a part of a store, a snapshot or a bundle; [`Error::Io`].
pub fn new_or_existing(root: &Path) -> Result<()> {
    match is_folder(root)? && !has_parts(root)? {
        true => of_another_kind(root),
        false => Ok(()),
    }
}

fn has_parts(root: &Path) -> Result<bool> {
    for part in PARTS {
        if is_folder(&root.join(part))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses what is known to be something else.
fn of_another_kind(root: &Path) -> Result<()> {
    let is_snapshot = |folder: &Path| -> Result<bool> {
        Ok(is_there(&folder.join(V066_FILE))? || is_there(&folder.join(SNAPSHOT_FILE))?)
    };
    if is_regular(&root.join("oci-layout"))? {
        return Err(no_store(root, "it is a bundle".into()));
    }
    if is_snapshot(root)? {
        return Err(no_store(root, "it is a snapshot; the store is the folder that holds snapshots/".into()));
    }
    let is_group = |folder: &Path| is_there(&folder.join(GROUP_FILE));
    if is_group(root)? {
        return Err(no_store(root, "it is a group of snapshots; the store is the folder that holds snapshots/".into()));
    }
    let entries = match fs::read_dir(root) {
        // It is for writing only, or gone.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) => return Ok(()),
        entries => entries.context("list", root)?,
    };
    for entry in entries {
        let folder = entry.context("list", root)?.path();
        let holds_one = || Ok(is_folder(&folder)? && (is_snapshot(&folder)? || is_group(&folder)?));
        if visible(holds_one())? {
            let whole = above(root);
            let reason = format!("it is the snapshots folder of a store; the store is {}", whole.display());
            return Err(no_store(root, reason));
        }
    }
    Ok(())
}

/// The folder that holds this one.
fn above(root: &Path) -> PathBuf {
    match (root.parent(), root.file_name()) {
        (Some(above), Some(_)) if above.as_os_str().is_empty() => ".".into(),
        (Some(above), Some(_)) => above.into(),
        _ => root.join(".."),
    }
}

fn no_store(path: &Path, reason: String) -> Error {
    Error::NotAStore { path: path.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_folders_are_no_stores_and_say_what_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let made = |name: &str| {
            fs::create_dir_all(path(name)).unwrap();
            path(name)
        };
        let reads = |name: &str| existing(&path(name)).err().map(|error| error.to_string());
        let writes = |name: &str| new_or_existing(&path(name)).err().map(|error| error.to_string());
        assert!(reads("none").unwrap().starts_with("store not found: ") && writes("none").is_none());
        made("empty");
        assert!(reads("empty").is_none() && writes("empty").is_none());
        for part in PARTS {
            made(&format!("with-{part}/{part}"));
            assert!(reads(&format!("with-{part}")).is_none());
        }
        made("other/things");
        assert!(reads("other").unwrap().contains("neither snapshots/ nor cache/") && writes("other").is_none());
        fs::write(path("file"), "").unwrap();
        assert!(reads("file").unwrap().starts_with("store not found: "));
        fs::write(made("store/snapshots/base").join(V066_FILE), "{}").unwrap();
        fs::write(made("store/snapshots/web").join(GROUP_FILE), "{}").unwrap();
        fs::write(made("bundle").join("oci-layout"), "{}").unwrap();
        for (name, says) in [
            ("store/snapshots", format!("the snapshots folder of a store; the store is {}", path("store").display())),
            ("store/snapshots/base", "it is a snapshot; ".into()),
            ("store/snapshots/web", "it is a group of snapshots; ".into()),
            ("bundle", "it is a bundle".into()),
        ] {
            assert!(reads(name).unwrap().contains(&says), "{:?}", reads(name));
            assert_eq!(reads(name), writes(name));
            assert_eq!(existing(&path(name)).unwrap_err().exit_code(), 4);
        }
    }
}

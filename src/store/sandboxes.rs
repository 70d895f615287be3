//! The sandboxes in msb's database, and the images that they need.
//!
//! The database is only read. SQLite would make files beside a database in WAL mode that has none, and they would stay; so a
//! database that nobody has open is read as one that does not change, and what was read counts only if it did not.

use std::{fs, io::ErrorKind, os::unix::fs::MetadataExt, path::Path};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
};

/// How often a database that changes is read again.
const ATTEMPTS: usize = 20;

/// A sandbox, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// The manifests of its images: of its configuration, and of the one that it was started with.
    images: Vec<Digest>,
}

impl Sandbox {
    /// Whether it needs the image.
    pub fn needs(&self, manifest: Digest) -> bool {
        self.images.contains(&manifest)
    }
}

/// Every sandbox; none where there is no database.
///
/// # Errors
/// [`Error::MsbDatabase`]: it cannot be read, or not what a sandbox needs.
pub fn sandboxes(database: &Path) -> Result<Vec<Sandbox>> {
    let fail = |reason: String| Error::MsbDatabase { path: database.into(), reason };
    for _ in 0..ATTEMPTS {
        let Some(before) = State::of(database)? else { return Ok(Vec::new()) };
        let rows = rows(database, before.is_open);
        if before.is_open || State::of(database)?.as_ref() == Some(&before) {
            return rows.map_err(|error| fail(error.to_string()))?.into_iter().map(|row| row.parse(&fail)).collect();
        }
    }
    Err(fail("it changes all the time".into()))
}

/// What changes when somebody opens or writes a database.
#[derive(PartialEq, Eq)]
struct State {
    /// Whether somebody has it open, or died while they had.
    is_open: bool,
    identity: (u64, u64, u64, i64, i64),
}

impl State {
    fn of(database: &Path) -> Result<Option<Self>> {
        let metadata = match fs::metadata(database) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            metadata => metadata.context("look at", database)?,
        };
        // SQLite says of whatever keeps it from opening a file that it is unable to.
        fs::File::open(database).context("open", database)?;
        let beside = |suffix: &str| {
            let mut path = database.as_os_str().to_owned();
            path.push(suffix);
            fs::symlink_metadata(path).is_ok()
        };
        let is_open = beside("-wal") || beside("-journal");
        let m = &metadata;
        Ok(Some(Self { is_open, identity: (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec()) }))
    }
}

struct Row {
    name: String,
    configs: Vec<String>,
}

fn rows(database: &Path, is_open: bool) -> rusqlite::Result<Vec<Row>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let path = database.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(database.into()))?;
    let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let uri = format!("file:{path}?{}", if is_open { "mode=ro" } else { "mode=ro&immutable=1" });
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    let mut statement = connection.prepare("SELECT name, config, active_config FROM sandbox")?;
    let rows = statement.query_map([], |row| {
        let (name, config, active): (String, String, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Row { name, configs: [config].into_iter().chain(active).collect() })
    })?;
    rows.collect()
}

impl Row {
    fn parse(self, fail: &impl Fn(String) -> Error) -> Result<Sandbox> {
        let mut images = Vec::new();
        for config in &self.configs {
            let invalid = |why: String| fail(format!("the sandbox {:?} cannot be read: {why}", self.name));
            let config: Value = serde_json::from_str(config).map_err(|error| invalid(error.to_string()))?;
            match config.get("manifest_digest") {
                Some(Value::String(digest)) => images.push(digest.parse().map_err(|e: Error| invalid(e.to_string()))?),
                None | Some(Value::Null) if config.pointer("/image/Oci").is_none() => {}
                _ => return Err(invalid("it does not say which manifest its image has".into())),
            }
        }
        Ok(Sandbox { name: self.name, images })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(config: &str, mode: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("msb.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        connection.execute_batch("CREATE TABLE sandbox (name TEXT, config TEXT, active_config TEXT)").unwrap();
        connection.execute("INSERT INTO sandbox VALUES ('web', ?1, NULL)", [config]).unwrap();
        drop(connection);
        (temp, path)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn reading_writes_nothing_to_a_database_that_nobody_has_open() {
        let digest = Digest::of(b"image");
        let config = serde_json::json!({"image": {"Oci": {"reference": "a"}}, "manifest_digest": digest}).to_string();
        for mode in ["wal", "delete"] {
            let (temp, path) = database(&config, mode);
            assert_eq!(names(temp.path()), ["msb.db"]);
            let before = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
            let found = sandboxes(&path).unwrap();
            assert_eq!(found.len(), 1);
            assert!(found[0].needs(digest) && !found[0].needs(Digest::of(b"other")));
            assert_eq!(names(temp.path()), ["msb.db"]);
            assert_eq!((fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap()), before);
        }
    }

    #[test]
    fn row_that_only_the_wal_has_is_read() {
        let (temp, path) = database(r#"{"image":{"Bind":"/x"}}"#, "wal");
        let writer = Connection::open(&path).unwrap();
        writer.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        let digest = Digest::of(b"image").to_string();
        let active = format!(r#"{{"manifest_digest":"{digest}"}}"#);
        writer.execute("INSERT INTO sandbox VALUES ('new', '{}', ?1)", [active]).unwrap();
        let before = fs::read(&path).unwrap();
        let found = sandboxes(&path).unwrap();
        assert!(found.iter().any(|sandbox| sandbox.name == "new" && sandbox.needs(Digest::of(b"image"))));
        assert_eq!(fs::read(&path).unwrap(), before);
        drop((writer, temp));
    }

    #[test]
    fn database_that_cannot_be_read_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(sandboxes(&temp.path().join("none.db")).unwrap(), []);
        let junk = temp.path().join("junk.db");
        fs::write(&junk, "no database at all, but long enough to be looked at as one").unwrap();
        assert!(matches!(sandboxes(&junk), Err(Error::MsbDatabase { .. })));
        for config in ["junk", r#"{"image":{"Oci":{"reference":"a"}}}"#, r#"{"manifest_digest":"sha256:7"}"#] {
            let (_temp, path) = database(config, "wal");
            let error = sandboxes(&path).unwrap_err();
            assert!(matches!(&error, Error::MsbDatabase { .. }) && error.to_string().contains("web"), "{error}");
        }
    }
}

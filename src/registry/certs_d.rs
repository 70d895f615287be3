//! Certificates of one registry, where Docker and Podman look for them: `certs.d/HOST[:PORT]/`, in which `*.crt` are
//! authorities, and `NAME.cert` with `NAME.key` is what proves to the registry who we are.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{crypto::CryptoProvider, pki_types::CertificateDer, sign::CertifiedKey};

use super::pem;
use crate::{
    error::{Error, Result},
    reference::Host,
};

/// The folders that have a folder of certificates for each registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFolders {
    /// The user's own first.
    paths: Vec<PathBuf>,
}

/// What the folders have for one registry.
#[derive(Debug, Default)]
pub(super) struct OfHost {
    pub authorities: Vec<CertificateDer<'static>>,
    pub keys: Vec<Arc<CertifiedKey>>,
    /// What this user may not read, with the reason: it may be what is missing.
    pub unreadable: Vec<String>,
    /// Whether there are files for this registry, readable or not. A folder above that is for root alone says nothing.
    pub is_named: bool,
}

impl CertificateFolders {
    /// As the environment says: the user's folders, then the machine's.
    pub fn of_environment() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let (config, home) = (absolute("XDG_CONFIG_HOME"), absolute("HOME").map(|home| home.join(".config")));
        let mut paths = Vec::new();
        for folder in config.into_iter().chain(home).chain([PathBuf::from("/etc")]) {
            for tool in ["containers", "docker"] {
                let path = folder.join(tool).join("certs.d");
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        Self { paths }
    }

    /// This folder alone.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { paths: vec![path.into()] }
    }

    /// Everything that the folders have for a registry.
    ///
    /// # Errors
    /// [`Error::Io`]: a file that holds no certificate, or a certificate without its key.
    pub(super) fn read(&self, host: &Host, provider: &CryptoProvider) -> Result<OfHost> {
        let mut found = OfHost::default();
        for folder in self.paths.iter().flat_map(|path| names_of(host).map(|name| path.join(name))) {
            read_folder(&folder, provider, &mut found)?;
        }
        Ok(found)
    }
}

/// The names of a registry's folder: 443 is what a registry without a port means.
fn names_of(host: &Host) -> impl Iterator<Item = String> {
    let other = match host.port() {
        None => Some(format!("{}:443", host.name())),
        Some(443) => Some(host.name().to_owned()),
        Some(_) => None,
    };
    std::iter::once(host.to_string()).chain(other)
}

fn read_folder(folder: &Path, provider: &CryptoProvider, found: &mut OfHost) -> Result<()> {
    let Some(paths) = readable(list(folder), found)? else { return Ok(()) };
    for path in &paths {
        let sibling = |extension: &str| path.with_extension(extension);
        let extension = path.extension().and_then(OsStr::to_str);
        found.is_named |= matches!(extension, Some("crt" | "cert" | "key"));
        match extension {
            Some("crt") => {
                let read = readable(pem::certificates(path), found)?;
                found.authorities.extend(read.into_iter().flatten());
            }
            Some("cert") if paths.contains(&sibling("key")) => {
                let read = readable(pem::certified_key(path, &sibling("key"), provider), found)?;
                found.keys.extend(read);
            }
            Some("cert") => return Err(alone(path, &sibling("key"), "a certificate authority's is named *.crt")),
            Some("key") if !paths.contains(&sibling("cert")) => {
                return Err(alone(path, &sibling("cert"), "the certificate of a key is named *.cert"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn alone(path: &Path, missing: &Path, more: &str) -> Error {
    let missing = missing.file_name().unwrap_or_default().display();
    Error::io("use", path, io::Error::other(format!("{missing} is not beside it; {more}")))
}

/// The files in a folder, sorted; none where there is no such folder.
fn list(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let failed = |error| Error::io("list", folder, error);
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(BTreeSet::new()),
        Err(error) => Err(failed(error)),
    }
}

/// What another user keeps for himself is passed over, and noted.
fn readable<T>(result: Result<T>, found: &mut OfHost) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_kept_from_us(&error) => {
            found.unreadable.push(error.to_string());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_kept_from_us(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_user_come_before_those_of_the_machine() {
        let of = |variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            CertificateFolders::of(get).paths
        };
        let under = |folders: &[&str]| -> Vec<PathBuf> {
            let tools = |folder| ["containers", "docker"].map(|tool| format!("{folder}/{tool}/certs.d").into());
            folders.iter().flat_map(tools).collect()
        };
        assert_eq!(of(&[]), under(&["/etc"]));
        assert_eq!(of(&[("HOME", "/h")]), under(&["/h/.config", "/etc"]));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), under(&["/c", "/h/.config", "/etc"]));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/h/.config")]), under(&["/h/.config", "/etc"]));
        assert_eq!(of(&[("HOME", "h"), ("XDG_CONFIG_HOME", "")]), under(&["/etc"]));
    }

    #[test]
    fn folder_of_a_registry_is_named_with_the_port_that_it_has() {
        for (host, names) in [
            ("r.example:5000", &["r.example:5000"][..]),
            ("r.example", &["r.example", "r.example:443"]),
            ("r.example:443", &["r.example:443", "r.example"]),
            ("[::1]:5000", &["[::1]:5000"]),
        ] {
            assert_eq!(names_of(&host.parse().unwrap()).collect::<Vec<_>>(), names, "{host}");
        }
    }
}

//! Credentials where other container tools keep theirs: `$REGISTRY_AUTH_FILE`, Docker's `config.json`, Podman's `auth.json`,
//! and the credential helpers that these name.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    credential_helper::{CredentialHelper, Said},
    credential_keys::Place,
    credentials::{Credentials, Secret},
};
use crate::{
    error::{Error, IoContext, Result},
    model::json::{self, MAX_DOCUMENT},
    reference::{Host, Repository},
    temporary,
};

/// How the name of what is being written ends.
const PARTIAL: &str = ".partial";

/// The files, and the environment that says where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Searched in this order.
    paths: Vec<PathBuf>,
    /// The one that login writes.
    written: Option<PathBuf>,
}

/// What was found for a repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub credentials: Option<Credentials>,
    /// What may know more, and cannot be asked: helpers that cannot be run, files of others.
    pub not_asked: Vec<String>,
}

/// Where credentials are kept now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The file, or the one that names the helper.
    pub file: PathBuf,
    /// The helper that the file names, where it cannot be run: then they are in the file itself.
    pub missing_helper: Option<String>,
}

impl CredentialFiles {
    /// As the environment says.
    pub fn of_environment() -> Self {
        Self::of(|name| std::env::var_os(name), rustix::process::getuid().as_raw())
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>, user: u32) -> Self {
        let from = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = from("HOME");
        let docker = from("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        // Where Podman puts them where there is no such folder of a session.
        let runtime = from("XDG_RUNTIME_DIR").map(|folder| folder.join("containers"));
        let runtime = runtime.unwrap_or_else(|| format!("/run/containers/{user}").into());
        let config = from("XDG_CONFIG_HOME").or_else(|| home.map(|home| home.join(".config")));
        let mut paths: Vec<PathBuf> = from("REGISTRY_AUTH_FILE").into_iter().collect();
        paths.extend(docker.map(|folder| folder.join("config.json")));
        // Podman's first one goes with the session.
        let written = paths.first().cloned();
        paths.push(runtime.join("auth.json"));
        paths.extend(config.map(|folder| folder.join("containers/auth.json")));
        Self { paths, written }
    }

    /// This file alone.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { paths: vec![path.clone()], written: Some(path) }
    }

    /// The credentials for a repository, or a whole registry, if there are any: of the longest key that means it. A
    /// helper that is missing has none.
    ///
    /// # Errors
    /// A file that is no JSON, or a helper that fails.
    pub(super) fn find(&self, host: &Host, repository: Option<&Repository>) -> Result<Found> {
        let mut not_asked = Vec::new();
        for path in &self.paths {
            let file = match AuthFile::read(path) {
                Err(error) if self.is_kept_from_us(path, &error) => {
                    not_asked.push(error.to_string());
                    continue;
                }
                file => file?,
            };
            for place in Place::around(host, repository) {
                if let Some(helper) = file.helper(place) {
                    match helper.get(&place.key())? {
                        Said::Done(None) => {}
                        Said::Done(credentials) => return Ok(Found { credentials, not_asked }),
                        Said::Missing(reason) => not_asked.push(file.missing(&helper, &reason)),
                    }
                }
                if let Some(found) = file.stored(place)? {
                    return Ok(Found { credentials: Some(found), not_asked });
                }
            }
        }
        Ok(Found { credentials: None, not_asked })
    }

    /// Whether a file is another user's. `login` writes the first one, so that has to be ours; where Podman may have
    /// one, only a registry that refuses makes it matter.
    fn is_kept_from_us(&self, path: &PathBuf, error: &Error) -> bool {
        let is_denied = matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied);
        is_denied && self.written.as_ref() != Some(path)
    }

    /// Keeps credentials for a registry: in the helper that the file names, else in the file.
    ///
    /// # Errors
    /// No folder for the file, I/O, or a helper that fails.
    pub(super) fn store(&self, host: &Host, username: &str, password: &Secret) -> Result<Kept> {
        let path = self.written.as_ref().ok_or_else(no_file)?;
        let mut file = AuthFile::read(path)?;
        let place = Place::whole(host);
        let mut missing_helper = None;
        if let Some(helper) = file.helper(place) {
            match helper.store(&place.key(), username, password)? {
                Said::Done(()) => return Ok(Kept { file: path.clone(), missing_helper }),
                Said::Missing(reason) => missing_helper = Some(file.missing(&helper, &reason)),
            }
        }
        let auth = STANDARD.encode(format!("{username}:{}", password.expose()));
        file.auths().insert(place.key(), json!({ "auth": auth }));
        file.write()?;
        Ok(Kept { file: path.clone(), missing_helper })
    }

    /// Forgets the credentials of a registry, not those of its parts. Whether there were any.
    ///
    /// # Errors
    /// I/O, or a helper that fails.
    pub(super) fn erase(&self, host: &Host) -> Result<bool> {
        let (place, mut any) = (Place::whole(host), false);
        for path in &self.paths {
            let mut file = match AuthFile::read(path) {
                Err(error) if self.is_kept_from_us(path, &error) => continue,
                file => file?,
            };
            if let Some(helper) = file.helper(place) {
                any |= matches!(helper.get(&place.key())?, Said::Done(Some(_)));
                helper.erase(&place.key())?;
            }
            let before = file.auths().len();
            file.auths().retain(|key, _| !place.is_meant_by(key));
            if file.auths().len() != before {
                any = true;
                file.write()?;
            }
        }
        Ok(any)
    }
}

fn no_file() -> Error {
    Error::Usage("neither $REGISTRY_AUTH_FILE, $DOCKER_CONFIG nor $HOME says where credentials are kept".into())
}

/// One such file; members that we do not know stay as they are.
struct AuthFile {
    path: PathBuf,
    members: Map<String, Value>,
}

impl AuthFile {
    fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        match fs::File::open(path) {
            Ok(file) => file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).context("read", path)?,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => 0,
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let members = match bytes.iter().all(u8::is_ascii_whitespace) {
            true => Map::new(),
            // What the parser says may hold a piece of a secret.
            false => json::parse(&bytes, "credentials")
                .map_err(|_| Error::io("read credentials from", path, io::Error::other("it is no JSON object")))?,
        };
        Ok(Self { path: path.into(), members })
    }

    fn auths(&mut self) -> &mut Map<String, Value> {
        let auths = self.members.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        auths.as_object_mut().expect("it was made an object")
    }

    /// The value of the key that means this place, the exact one before older spellings of it.
    fn entry(&self, member: &str, place: Place<'_>) -> Option<&Value> {
        let entries = self.members.get(member)?.as_object()?;
        let spelled = || entries.iter().find(|(key, _)| place.is_meant_by(key)).map(|(_, value)| value);
        entries.get(&place.key()).or_else(spelled)
    }

    /// The helper for this place; that for everything is one for whole registries.
    fn helper(&self, place: Place<'_>) -> Option<CredentialHelper> {
        let for_all = || self.members.get("credsStore").filter(|_| place.namespace.is_none());
        let name = self.entry("credHelpers", place).or_else(for_all)?;
        CredentialHelper::named(name.as_str()?)
    }

    /// How a helper is told that cannot be run.
    fn missing(&self, helper: &CredentialHelper, reason: &str) -> String {
        format!("the credential helper {} of {} cannot be run ({reason})", helper.program(), self.path.display())
    }

    fn stored(&self, place: Place<'_>) -> Result<Option<Credentials>> {
        let Some(entry) = self.entry("auths", place) else { return Ok(None) };
        let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = text("auth") {
            let broken = || {
                let reason = io::Error::other(format!("`auth` of {} is not base64 of NAME:PASSWORD", place.key()));
                Error::io("read credentials from", &self.path, reason)
            };
            let bytes = STANDARD.decode(auth).map_err(|_| broken())?;
            let decoded = String::from_utf8(bytes).map_err(|_| broken())?;
            let (username, password) = decoded.trim_end_matches('\0').split_once(':').ok_or_else(broken)?;
            return Credentials::basic(username, password).map(Some);
        }
        match (text("username"), text("password")) {
            (Some(username), Some(password)) => Credentials::basic(username, password).map(Some),
            _ => Ok(None),
        }
    }

    /// Replaces the file atomically. It is for its owner alone before anything is in it: who opens it before that changes
    /// may read what is written after. So is its folder, where there was none.
    fn write(&self) -> Result<()> {
        // A link that somebody made to their file stays one.
        let path = match fs::canonicalize(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.path.clone(),
            found => found.context("look at", &self.path)?,
        };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).context("create", folder)?;
        // A dead login's would keep what it was told for ever.
        let prefix = OsStr::new(".snapcask-credentials-");
        temporary::reclaim(folder, prefix, PARTIAL)?;
        let (partial, mut file) = temporary::make_file(folder, prefix, PARTIAL, 0o600)?;
        let result = (|| {
            // A mask may have taken bits away.
            file.set_permissions(fs::Permissions::from_mode(0o600)).context("set the permissions of", &partial)?;
            let mut text = serde_json::to_vec_pretty(&self.members)
                .map_err(|e| Error::io("write credentials to", &path, e.into()))?;
            text.push(b'\n');
            file.write_all(&text).context("write", &partial)?;
            file.sync_all().context("fsync", &partial)?;
            temporary::publish(|| fs::rename(&partial, &path)).context("rename to", &path)?;
            fs::File::open(folder).and_then(|f| f.sync_all()).context("fsync", folder)
        })();
        if result.is_err() {
            let _ = fs::remove_file(&partial);
        }
        temporary::forget(&partial);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    fn found(files: &CredentialFiles, name: &str) -> Option<Credentials> {
        files.find(&host(name), None).unwrap().credentials
    }

    fn basic(username: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::basic(username, password).unwrap())
    }

    #[test]
    fn what_is_stored_is_found_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.json");
        let files = CredentialFiles::at(&path);
        assert_eq!(found(&files, "a.example"), None);
        files.store(&host("a.example"), "ann", &Secret::new("p:w")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        value["proxies"] = json!({ "x": 1 });
        value["auths"]["https://b.example:5000/v2/"] = json!({ "auth": STANDARD.encode("bob:secret") });
        value["auths"]["c.example"] = json!({ "identitytoken": "t" });
        fs::write(&path, value.to_string()).unwrap();
        assert_eq!(found(&files, "a.example"), basic("ann", "p:w"));
        assert_eq!(found(&files, "b.example:5000"), basic("bob", "secret"));
        assert_eq!(found(&files, "b.example"), None);
        assert_eq!(found(&files, "c.example"), Some(Credentials::IdentityToken(Secret::new("t"))));
        assert!(files.erase(&host("a.example")).unwrap());
        assert!(!files.erase(&host("a.example")).unwrap());
        let left: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(left["proxies"], json!({ "x": 1 }));
        assert_eq!(left["auths"].as_object().unwrap().len(), 2);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn longest_key_wins_in_each_file_and_the_first_file_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("config.json"), folder.path().join("auth.json"));
        let entry = |name: &str| json!({ "auth": STANDARD.encode(format!("{name}:p")) });
        let document = json!({ "auths": {
            "r.example": entry("whole"),
            "r.example/team": entry("team"),
            "r.example/team/vm": entry("vm"),
            "r.example/v2": entry("v2"),
        }});
        fs::write(&first, document.to_string()).unwrap();
        let document = json!({ "auths": { "r.example/team/vm/deep": entry("deep"), "s.example/a": entry("second") } });
        fs::write(&second, document.to_string()).unwrap();
        let files = CredentialFiles { paths: vec![first, second], written: None };
        for (name, repository, expected) in [
            ("r.example", "team/vm", Some("vm")),
            ("r.example", "team/vm/deep", Some("vm")),
            ("r.example", "team/vmx", Some("team")),
            ("r.example", "team", Some("team")),
            ("r.example", "teams/vm", Some("whole")),
            ("r.example", "v2/x", Some("v2")),
            ("s.example", "a/b", Some("second")),
            ("s.example", "b/a", None),
            ("r.example:5000", "team/vm", None),
        ] {
            let found = files.find(&host(name), Some(&repository.parse().unwrap())).unwrap();
            assert_eq!(found.credentials, expected.and_then(|user| basic(user, "p")), "{name}/{repository}");
        }
        assert_eq!(files.find(&host("r.example"), None).unwrap().credentials, basic("whole", "p"));
    }

    #[test]
    fn missing_helper_leaves_what_the_files_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let stored = json!({ "b.example": { "auth": STANDARD.encode("bob:p") } });
        for named in [
            json!({ "credsStore": "that-is-not-there", "auths": stored }),
            json!({ "credHelpers": { "a.example": "that-is-not-there", "b.example": "that-is-not-there" }, "auths": stored }),
        ] {
            fs::write(&path, named.to_string()).unwrap();
            let files = CredentialFiles::at(&path);
            let reason = format!(
                "the credential helper docker-credential-that-is-not-there of {} cannot be run (No such file or directory \
                 (os error 2))",
                path.display()
            );
            let found = files.find(&host("a.example"), Some(&"x".parse().unwrap())).unwrap();
            assert_eq!(found, Found { credentials: None, not_asked: vec![reason.clone()] });
            assert_eq!(files.find(&host("b.example"), None).unwrap().credentials, basic("bob", "p"));
            let kept = files.store(&host("a.example"), "ann", &Secret::new("p")).unwrap();
            assert_eq!(kept, Kept { file: path.clone(), missing_helper: Some(reason) });
            assert_eq!(files.find(&host("a.example"), None).unwrap().credentials, basic("ann", "p"));
            assert!(files.erase(&host("a.example")).unwrap());
        }
    }

    #[test]
    fn files_of_docker_and_podman_are_searched() {
        let of = |variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            CredentialFiles::of(get, 7)
        };
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7")]).paths,
            paths(&["/h/.docker/config.json", "/run/user/7/containers/auth.json", "/h/.config/containers/auth.json"])
        );
        let all = [
            ("REGISTRY_AUTH_FILE", "/a.json"),
            ("DOCKER_CONFIG", "/d"),
            ("XDG_CONFIG_HOME", "/c"),
            ("HOME", "/h"),
            ("XDG_RUNTIME_DIR", ""),
        ];
        let expected = ["/a.json", "/d/config.json", "/run/containers/7/auth.json", "/c/containers/auth.json"];
        assert_eq!(of(&all).paths, paths(&expected));
        assert_eq!(
            of(&[("XDG_RUNTIME_DIR", "/run/user/7")])
                .store(&host("a.example"), "ann", &Secret::new("p"))
                .unwrap_err()
                .exit_code(),
            2
        );
    }

    #[test]
    fn secrets_are_in_no_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let error = || CredentialFiles::at(&path).find(&host("a.example"), None).unwrap_err().to_string();
        fs::write(&path, r#"{"auths":{"a.example":{"auth":"c2VjcmV0"}}}"#).unwrap();
        let text = error();
        assert!(text.contains("a.example") && !text.contains("secret") && !text.contains("c2VjcmV0"), "{text}");
        fs::write(&path, "c2VjcmV0").unwrap();
        assert!(!error().contains("c2VjcmV0"));
    }
}

//! Credentials where other container tools keep theirs: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or
//! `~/.docker/config.json`, and the credential helpers that it names.

use std::{
    ffi::OsStr,
    fmt, fs,
    io::{ErrorKind, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    error::{Error, IoContext, Result},
    model::json::{self, MAX_DOCUMENT},
    reference::Host,
    temporary,
};

/// How long a credential helper may take; some ask a person.
const HELPER_TIME: Duration = Duration::from_secs(120);
/// How long it may take to read what a helper has said that has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// Most that a helper may say, in bytes.
const HELPER_OUTPUT: u64 = 64 << 10;
/// How the name of what is being written ends.
const PARTIAL: &str = ".partial";
/// The key of Docker Hub's credentials.
const HUB: &str = "https://index.docker.io/v1/";

/// A password or token: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What proves who we are to one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password.
    Basic {
        /// The user's name; it has no colon.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that the registry's token service changes for others.
    IdentityToken(Secret),
}

impl Credentials {
    /// A user and a password.
    ///
    /// # Errors
    /// [`Error::Usage`]: a name that is empty or has a colon, which basic authentication cannot carry.
    pub fn basic(username: &str, password: &str) -> Result<Self> {
        if username.is_empty() || username.contains([':', '\n', '\r']) {
            return Err(Error::Usage(format!("{username:?} is no user name for a registry")));
        }
        Ok(Self::Basic { username: username.into(), password: Secret::new(password) })
    }
}

/// The files, and the environment that says where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Searched in this order; the first is the one that login writes.
    paths: Vec<PathBuf>,
}

impl CredentialFiles {
    /// As the environment says.
    pub fn of_environment() -> Self {
        let from = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker = from("DOCKER_CONFIG").or_else(|| from("HOME").map(|home| home.join(".docker")));
        let mut paths: Vec<PathBuf> = from("REGISTRY_AUTH_FILE").into_iter().collect();
        paths.extend(docker.map(|folder| folder.join("config.json")));
        Self { paths }
    }

    /// This file alone.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { paths: vec![path.into()] }
    }

    /// The credentials of a registry, if there are any.
    ///
    /// # Errors
    /// A file that is no JSON, or a helper that fails.
    pub fn find(&self, host: &Host) -> Result<Option<Credentials>> {
        for path in &self.paths {
            let file = AuthFile::read(path)?;
            if let Some(helper) = file.helper(host)
                && let Some(found) = helper.get(host)?
            {
                return Ok(Some(found));
            }
            if let Some(found) = file.stored(host)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Keeps credentials for a registry: in the helper that the file names, else in the file.
    ///
    /// # Errors
    /// No folder for the file, I/O, or a helper that fails.
    pub fn store(&self, host: &Host, username: &str, password: &Secret) -> Result<PathBuf> {
        let path = self.paths.first().ok_or_else(no_file)?;
        let mut file = AuthFile::read(path)?;
        if let Some(helper) = file.helper(host) {
            helper.store(host, username, password)?;
            return Ok(path.clone());
        }
        let auth = STANDARD.encode(format!("{username}:{}", password.expose()));
        file.auths().insert(key_of(host), json!({ "auth": auth }));
        file.write()?;
        Ok(path.clone())
    }

    /// Forgets the credentials of a registry. Whether there were any.
    ///
    /// # Errors
    /// I/O, or a helper that fails.
    pub fn erase(&self, host: &Host) -> Result<bool> {
        let mut any = false;
        for path in &self.paths {
            let mut file = AuthFile::read(path)?;
            if let Some(helper) = file.helper(host) {
                any |= helper.get(host)?.is_some();
                helper.erase(host)?;
            }
            let before = file.auths().len();
            file.auths().retain(|key, _| !is_key_of(key, host));
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

fn key_of(host: &Host) -> String {
    if is_hub(host) { HUB.into() } else { host.to_string() }
}

fn is_hub(host: &Host) -> bool {
    matches!(host.name(), "docker.io" | "index.docker.io" | "registry-1.docker.io") && host.port().is_none()
}

/// Old versions of docker wrote the registry's URL.
fn is_key_of(key: &str, host: &Host) -> bool {
    if key == key_of(host) {
        return true;
    }
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let bare = bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    bare.eq_ignore_ascii_case(&host.to_string())
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
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let members = match bytes.iter().all(u8::is_ascii_whitespace) {
            true => Map::new(),
            // What the parser says may hold a piece of a secret.
            false => json::parse(&bytes, "credentials")
                .map_err(|_| Error::io("read credentials from", path, std::io::Error::other("it is no JSON object")))?,
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

    fn helper(&self, host: &Host) -> Option<CredentialProgram> {
        let of_host = self.members.get("credHelpers").and_then(Value::as_object).and_then(|helpers| {
            helpers.iter().find(|(key, _)| is_key_of(key, host)).and_then(|(_, helper)| helper.as_str())
        });
        let name = of_host.or_else(|| self.members.get("credsStore").and_then(Value::as_str))?;
        let safe =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        safe.then(|| CredentialProgram(format!("docker-credential-{name}")))
    }

    fn stored(&self, host: &Host) -> Result<Option<Credentials>> {
        let auths = self.members.get("auths").and_then(Value::as_object);
        // The exact key before older spellings of it.
        let entry = auths.and_then(|auths| {
            auths.get(&key_of(host)).or_else(|| auths.iter().find(|(key, _)| is_key_of(key, host)).map(|(_, v)| v))
        });
        let Some(entry) = entry else { return Ok(None) };
        let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = text("auth") {
            let broken = || {
                let reason = std::io::Error::other(format!("`auth` of {host} is not base64 of NAME:PASSWORD"));
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

    /// Replaces the file atomically; only its owner may read it.
    fn write(&self) -> Result<()> {
        // A link that somebody made to their file stays one.
        let path = match fs::canonicalize(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.path.clone(),
            found => found.context("look at", &self.path)?,
        };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).context("create", folder)?;
        // A dead login's would keep what it was told for ever.
        let prefix = OsStr::new(".snapcask-credentials-");
        temporary::reclaim(folder, prefix, PARTIAL)?;
        let (partial, mut file) = temporary::make_file(folder, prefix, PARTIAL)?;
        let result = (|| {
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

/// A program `docker-credential-NAME`, which speaks JSON on its standard input and output.
struct CredentialProgram(String);

impl CredentialProgram {
    fn get(&self, host: &Host) -> Result<Option<Credentials>> {
        let (good, output) = self.run("get", key_of(host).as_bytes())?;
        if !good {
            // What every helper says when it has none.
            return match output.to_ascii_lowercase().contains("not found") {
                true => Ok(None),
                false => Err(self.failed("get")),
            };
        }
        let answer: Value = serde_json::from_str(&output).map_err(|_| self.failed("get"))?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        match (text("Username"), text("Secret")) {
            (_, "") => Ok(None),
            ("<token>", token) => Ok(Some(Credentials::IdentityToken(Secret::new(token)))),
            (username, password) => Credentials::basic(username, password).map(Some),
        }
    }

    fn store(&self, host: &Host, username: &str, password: &Secret) -> Result<()> {
        let input = json!({ "ServerURL": key_of(host), "Username": username, "Secret": password.expose() });
        match self.run("store", input.to_string().as_bytes())? {
            (true, _) => Ok(()),
            (false, _) => Err(self.failed("store")),
        }
    }

    fn erase(&self, host: &Host) -> Result<()> {
        match self.run("erase", key_of(host).as_bytes())? {
            (false, output) if !output.to_ascii_lowercase().contains("not found") => Err(self.failed("erase")),
            _ => Ok(()),
        }
    }

    /// Its output is not repeated: it may hold what must not be seen.
    fn failed(&self, action: &'static str) -> Error {
        Error::io("run", &self.0, std::io::Error::other(format!("the credential helper failed to {action}")))
    }

    fn run(&self, action: &str, input: &[u8]) -> Result<(bool, String)> {
        let mut child = Command::new(&self.0)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("run", &self.0)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that has heard enough closes its input.
            let _ = stdin.write_all(input);
        }
        let stdout = child.stdout.take();
        let (sender, read) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut output = Vec::new();
            let all = match stdout {
                Some(stdout) => stdout.take(HELPER_OUTPUT).read_to_end(&mut output).map(|_| output),
                None => Ok(output),
            };
            // Nobody waits for ever.
            let _ = sender.send(all);
        });
        let status = wait(&mut child, HELPER_TIME).context("run", &self.0)?;
        // What it has left behind may hold its output open.
        let late =
            |_| Err(std::io::Error::new(ErrorKind::TimedOut, "something keeps the credential helper's output open"));
        let output = read.recv_timeout(LAST_OUTPUT).unwrap_or_else(late).context("read from", &self.0)?;
        Ok((status, String::from_utf8_lossy(&output).into_owned()))
    }
}

fn wait(child: &mut Child, most: Duration) -> std::io::Result<bool> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if began.elapsed() > most {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::new(ErrorKind::TimedOut, "the credential helper does not answer"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_stored_is_found_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.json");
        let files = CredentialFiles::at(&path);
        assert_eq!(files.find(&host("a.example")).unwrap(), None);
        files.store(&host("a.example"), "ann", &Secret::new("p:w")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        value["proxies"] = json!({ "x": 1 });
        value["auths"]["https://b.example:5000/v2/"] = json!({ "auth": STANDARD.encode("bob:secret") });
        value["auths"]["c.example"] = json!({ "identitytoken": "t" });
        fs::write(&path, value.to_string()).unwrap();
        assert_eq!(files.find(&host("a.example")).unwrap(), Some(Credentials::basic("ann", "p:w").unwrap()));
        assert_eq!(files.find(&host("b.example:5000")).unwrap(), Some(Credentials::basic("bob", "secret").unwrap()));
        assert_eq!(files.find(&host("b.example")).unwrap(), None);
        let token = Some(Credentials::IdentityToken(Secret::new("t")));
        assert_eq!(files.find(&host("c.example")).unwrap(), token);
        assert!(files.erase(&host("a.example")).unwrap());
        assert!(!files.erase(&host("a.example")).unwrap());
        let left: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(left["proxies"], json!({ "x": 1 }));
        assert_eq!(left["auths"].as_object().unwrap().len(), 2);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn secrets_are_in_no_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, r#"{"auths":{"a.example":{"auth":"c2VjcmV0"}}}"#).unwrap();
        let error = CredentialFiles::at(&path).find(&host("a.example")).unwrap_err().to_string();
        assert!(error.contains("a.example") && !error.contains("secret") && !error.contains("c2VjcmV0"), "{error}");
        fs::write(&path, "c2VjcmV0").unwrap();
        let error = CredentialFiles::at(&path).find(&host("a.example")).unwrap_err().to_string();
        assert!(!error.contains("c2VjcmV0"), "{error}");
        assert!(!format!("{:?}", Credentials::basic("ann", "secret").unwrap()).contains("secret"));
        assert!(Credentials::basic("a:b", "x").is_err());
    }

    /// What a helper leaves behind may keep its output open, for longer than anybody waits.
    #[test]
    fn a_helper_that_leaves_something_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper");
        let helper = |script: &str| {
            // Written by another process: none that another test starts meanwhile has it open for writing.
            let mut made = Command::new("sh");
            made.args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 700 \"$0\""]);
            assert!(made.arg(&path).arg(format!("#!/bin/sh\ncat >/dev/null\n{script}")).status().unwrap().success());
            CredentialProgram(path.display().to_string()).get(&host("a.example"))
        };
        let answer = r#"echo '{"Username":"ann","Secret":"p"}'"#;
        let ann = Some(Credentials::basic("ann", "p").unwrap());
        assert_eq!(helper(&format!("sleep 30 >/dev/null & {answer}")).unwrap(), ann);
        let began = Instant::now();
        let error = helper(&format!("sleep 30 & {answer}")).unwrap_err().to_string();
        assert!(error.contains("something keeps the credential helper's output open"), "{error}");
        assert!(!error.contains("Secret") && began.elapsed() < HELPER_TIME, "{error}");
    }
}

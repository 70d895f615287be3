//! Credential helpers: programs `docker-credential-NAME`, which speak JSON on their standard input and output.

use std::{
    io::{Error as IoError, ErrorKind, Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use serde_json::{Value, json};

use super::credentials::{Credentials, Secret};
use crate::error::{Error, IoContext, Result};

/// How long a credential helper may take; some ask a person.
const HELPER_TIME: Duration = Duration::from_secs(120);
/// How long it may take to read what a helper has said that has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// Most that a helper may say, in bytes.
const HELPER_OUTPUT: u64 = 64 << 10;

/// What a helper says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<T> {
    /// It has done it.
    Done(T),
    /// There is no such program, or none that this machine can run, and why.
    Missing(String),
}

/// A helper.
pub(super) struct CredentialHelper(String);

impl CredentialHelper {
    /// The one that a file names so; none where that is no part of a program's name.
    pub fn named(name: &str) -> Option<Self> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (!name.is_empty() && name.bytes().all(safe)).then(|| Self(format!("docker-credential-{name}")))
    }

    /// The program.
    pub fn program(&self) -> &str {
        &self.0
    }

    /// The credentials that it has under a key.
    ///
    /// # Errors
    /// [`Error::Io`]: it fails.
    pub fn get(&self, key: &str) -> Result<Said<Option<Credentials>>> {
        let (good, output) = match self.run("get", key.as_bytes())? {
            Said::Done(said) => said,
            Said::Missing(reason) => return Ok(Said::Missing(reason)),
        };
        if !good {
            return match is_not_found(&output) {
                true => Ok(Said::Done(None)),
                false => Err(self.failed("get")),
            };
        }
        let answer: Value = serde_json::from_str(&output).map_err(|_| self.failed("get"))?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        Ok(Said::Done(match (text("Username"), text("Secret")) {
            (_, "") => None,
            ("<token>", token) => Some(Credentials::IdentityToken(Secret::new(token))),
            (username, password) => Some(Credentials::basic(username, password)?),
        }))
    }

    /// Keeps credentials under a key.
    ///
    /// # Errors
    /// [`Error::Io`]: it fails.
    pub fn store(&self, key: &str, username: &str, password: &Secret) -> Result<Said<()>> {
        let input = json!({ "ServerURL": key, "Username": username, "Secret": password.expose() });
        match self.run("store", input.to_string().as_bytes())? {
            Said::Done((true, _)) => Ok(Said::Done(())),
            Said::Done((false, _)) => Err(self.failed("store")),
            Said::Missing(reason) => Ok(Said::Missing(reason)),
        }
    }

    /// Forgets what it has under a key.
    ///
    /// # Errors
    /// [`Error::Io`]: it fails.
    pub fn erase(&self, key: &str) -> Result<()> {
        match self.run("erase", key.as_bytes())? {
            Said::Done((false, output)) if !is_not_found(&output) => Err(self.failed("erase")),
            _ => Ok(()),
        }
    }

    /// Its output is not repeated: it may hold what must not be seen.
    fn failed(&self, action: &'static str) -> Error {
        Error::io("run", &self.0, IoError::other(format!("the credential helper failed to {action}")))
    }

    /// Whether it succeeded, and what it said.
    fn run(&self, action: &str, input: &[u8]) -> Result<Said<(bool, String)>> {
        let child = Command::new(&self.0)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match child {
            Err(error) if is_no_program(&error) => return Ok(Said::Missing(error.to_string())),
            other => other.context("run", &self.0)?,
        };
        if let Some(mut stdin) = child.stdin.take() {
            // One that has heard enough closes its input.
            let _ = stdin.write_all(input);
        }
        let stdout = child.stdout.take();
        let (sender, read) = mpsc::sync_channel(1);
        let reading = std::thread::Builder::new().spawn(move || {
            let mut output = Vec::new();
            let all = match stdout {
                Some(stdout) => stdout.take(HELPER_OUTPUT).read_to_end(&mut output).map(|_| output),
                None => Ok(output),
            };
            // Nobody waits for ever.
            let _ = sender.send(all);
        });
        if let Err(error) = reading {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::io("start a thread for", &self.0, error));
        }
        let code = wait(&mut child, HELPER_TIME).context("run", &self.0)?;
        // What a shell says of a program that is missing, or that it may not run.
        if let Some(code @ (126 | 127)) = code {
            return Ok(Said::Missing(format!("it ended with {code}, as a shell does that cannot run a program")));
        }
        // What it has left behind may hold its output open.
        let late = |_| Err(IoError::new(ErrorKind::TimedOut, "something keeps the credential helper's output open"));
        let output = read.recv_timeout(LAST_OUTPUT).unwrap_or_else(late).context("read from", &self.0)?;
        Ok(Said::Done((code == Some(0), String::from_utf8_lossy(&output).into_owned())))
    }
}

/// What every helper says when it has none.
fn is_not_found(output: &str) -> bool {
    output.to_ascii_lowercase().contains("not found")
}

/// Whether a program could not be started for a reason that lies in itself: it, or what runs it, is not there, is for
/// another kind of machine, or is no program.
fn is_no_program(error: &IoError) -> bool {
    let errors = [Errno::NOENT, Errno::ACCESS, Errno::NOEXEC, Errno::NOTDIR, Errno::LOOP, Errno::ISDIR, Errno::LIBBAD];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// The code that it ends with; none after a signal.
fn wait(child: &mut Child, most: Duration) -> std::io::Result<Option<i32>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if began.elapsed() > most {
            child.kill()?;
            child.wait()?;
            return Err(IoError::new(ErrorKind::TimedOut, "the credential helper does not answer"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::*;

    const ANSWER: &str = r#"echo '{"Username":"ann","Secret":"p"}'"#;

    /// Written by another process: none that another test starts meanwhile has it open for writing.
    fn helper(path: &Path, script: &str) -> CredentialHelper {
        let mut made = Command::new("sh");
        made.args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 700 \"$0\""]);
        assert!(made.arg(path).arg(script).status().unwrap().success());
        CredentialHelper(path.display().to_string())
    }

    /// What a helper leaves behind may keep its output open, for longer than anybody waits.
    #[test]
    fn a_helper_that_leaves_something_behind() {
        let folder = tempfile::tempdir().unwrap();
        let get = |script: &str| {
            helper(&folder.path().join("helper"), &format!("#!/bin/sh\ncat >/dev/null\n{script}")).get("a.example")
        };
        let ann = Said::Done(Some(Credentials::basic("ann", "p").unwrap()));
        assert_eq!(get(&format!("sleep 30 >/dev/null & {ANSWER}")).unwrap(), ann);
        let began = Instant::now();
        let error = get(&format!("sleep 30 & {ANSWER}")).unwrap_err().to_string();
        assert!(error.contains("something keeps the credential helper's output open"), "{error}");
        assert!(!error.contains("Secret") && began.elapsed() < HELPER_TIME, "{error}");
    }

    #[test]
    fn programs_that_are_missing_are_told_from_those_that_fail() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("not-executable"), "#!/bin/sh\n").unwrap();
        fs::write(path("no-format"), "MZ").unwrap();
        fs::set_permissions(path("no-format"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let wrapper = helper(&path("wrapper"), "#!/bin/sh\nexec docker-credential-that-is-not-there \"$@\"\n");
        let interpreter = helper(&path("interpreter"), "#!/nowhere/python\n");
        let named = ["missing", "not-executable", "no-format", "dangling", "folder", "dangling/below", "wrapper/below"];
        let missing = named.map(|name| CredentialHelper(path(name).display().to_string()));
        for helper in missing.into_iter().chain([wrapper, interpreter]) {
            assert!(matches!(helper.get("a.example").unwrap(), Said::Missing(_)), "{}", helper.program());
            let stored = helper.store("a.example", "ann", &Secret::new("p")).unwrap();
            assert!(matches!(stored, Said::Missing(_)), "{}", helper.program());
            helper.erase("a.example").unwrap();
        }
        let fails = helper(&path("fails"), "#!/bin/sh\necho locked: p >&2; exit 1\n");
        let error = fails.get("a.example").unwrap_err().to_string();
        assert!(error.ends_with("fails: the credential helper failed to get"), "{error}");
        let none = helper(&path("none"), "#!/bin/sh\necho credentials not found in native keychain; exit 1\n");
        assert_eq!(none.get("a.example").unwrap(), Said::Done(None));
    }

    #[test]
    fn names_that_are_paths_are_none() {
        for bad in ["", "../x", "a/b", "a b", "x;y"] {
            assert!(CredentialHelper::named(bad).is_none(), "{bad}");
        }
        assert_eq!(CredentialHelper::named("ecr-login").unwrap().program(), "docker-credential-ecr-login");
    }
}

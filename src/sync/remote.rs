//! The other side of a sync: `snapcask` on a host that is reached over ssh, or on this machine with another store.
//!
//! What comes from there was written by others: it is limited in size, parsed, and stripped of control characters.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    thread::{Builder, JoinHandle},
};

use serde::Deserialize;

use crate::error::{Error, IoContext, Result};

/// The most that is read of an answer: a list of a hundred thousand snapshots is 64 MiB.
const MAX_ANSWER: u64 = 64 << 20;
/// The most that is kept of what the other side says to people: the end of it.
const MAX_SAID: usize = 16 << 10;
/// The most characters of it in an error.
const MAX_MESSAGE: usize = 2000;

/// Where a snapshot is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// How it is reached.
    pub way: Way,
    /// The store there; none for the one that `snapcask` there takes by itself.
    pub store: Option<String>,
    /// How messages name it.
    pub display: String,
}

/// How the other side is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A program on this machine.
    Here(PathBuf),
    /// Over ssh.
    Ssh {
        /// The command and its first arguments.
        command: Vec<OsString>,
        /// `[user@]host`.
        host: String,
        /// The port, if it is not ssh's own choice.
        port: Option<u16>,
        /// The program there.
        program: String,
    },
}

impl Remote {
    /// Of `ssh://[user@]host[:port][/store/path]`, over `command`, with the program `program` there.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn ssh(url: &str, command: Vec<OsString>, program: &str) -> Result<Self> {
        let fail = |reason: &str| {
            let text = format!("{url:?} is no destination: {reason}; it is written ssh://[USER@]HOST[:PORT][/STORE]");
            Err(Error::Usage(text))
        };
        let Some(rest) = url.strip_prefix("ssh://") else { return fail("it does not begin with ssh://") };
        let (place, store) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, ""),
        };
        let (user, address) = match place.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, place),
        };
        let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return fail("something stands behind the address"),
            },
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        // What begins with a dash is an option to ssh.
        let is_plain = |text: &str, more: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty() && !text.starts_with('-') && text.chars().all(allowed)
        };
        if !is_plain(host, "._-:%") {
            return fail("its host is no name and no address");
        }
        if user.is_some_and(|user| !is_plain(user, "._-+\\$")) {
            return fail("its user is no plain name");
        }
        let port = match port.map(str::parse::<u16>) {
            Some(Err(_) | Ok(0)) => return fail("its port is no number from 1 to 65535"),
            Some(Ok(port)) => Some(port),
            None => None,
        };
        if command.is_empty() {
            return Err(Error::Usage("the ssh command is empty".into()));
        }
        if program.starts_with('-') {
            return Err(Error::Usage(format!("{program:?} is no path of a program")));
        }
        let host = user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
        let store = (!store.trim_matches('/').is_empty()).then(|| store.to_owned());
        Ok(Self { way: Way::Ssh { command, host, port, program: program.into() }, store, display: url.into() })
    }

    /// Of another store on this machine, with the program at `program`.
    ///
    /// # Errors
    /// [`Error::Usage`]: the path is not UTF-8.
    pub fn here(store: &OsStr, program: PathBuf) -> Result<Self> {
        let Some(store) = store.to_str().filter(|store| !store.is_empty()) else {
            return Err(Error::Usage(format!("{store:?} is no path of a store that can be told to another program")));
        };
        Ok(Self { way: Way::Here(program), store: Some(store.into()), display: store.into() })
    }

    /// Starts `snapcask` there with these arguments.
    ///
    /// # Errors
    /// [`Error::Usage`]: an argument cannot be told to a shell. [`Error::Io`]: the command does not start.
    pub fn start(&self, arguments: &[&str], input: Input) -> Result<Running> {
        let mut arguments = arguments.to_vec();
        if let Some(store) = &self.store {
            arguments.extend(["--store", store]);
        }
        let mut command = match &self.way {
            Way::Here(program) => {
                let mut command = Command::new(program);
                command.args(&arguments);
                command
            }
            Way::Ssh { command, host, port, program } => {
                let mut ssh = Command::new(&command[0]);
                ssh.args(&command[1..]);
                if let Some(port) = port {
                    ssh.arg("-p").arg(port.to_string());
                }
                ssh.arg(host).arg(command_line(program, &arguments)?);
                ssh
            }
        };
        let stdin = match input {
            Input::None => Stdio::null(),
            Input::Pipe => Stdio::piped(),
        };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("run", command.get_program())?;
        let refused = |error| Error::io("start a thread for", &self.display, error);
        let answer = child.stdout.take().map(|from| Builder::new().spawn(|| read_answer(from))).transpose();
        let said = child.stderr.take().map(|from| Builder::new().spawn(|| read_end(from))).transpose();
        match (answer, said) {
            (Ok(answer), Ok(said)) => Ok(Running { child, answer, said, display: self.display.clone() }),
            (Err(error), _) | (_, Err(error)) => {
                // It has not been told anything yet.
                let _ = child.kill();
                let _ = child.wait();
                Err(refused(error))
            }
        }
    }
}

/// What the program there reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    None,
    /// What is written to [`Running::input`].
    Pipe,
}

/// `snapcask`, running on the other side.
pub struct Running {
    child: Child,
    answer: Option<JoinHandle<io::Result<Vec<u8>>>>,
    said: Option<JoinHandle<String>>,
    display: String,
}

/// The error object that `--json` prints.
#[derive(Deserialize)]
struct Told {
    error: ToldError,
}

#[derive(Deserialize)]
struct ToldError {
    message: String,
}

impl Running {
    /// Where its input is written to, once.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits for its end, and gives what it answered.
    ///
    /// # Errors
    /// [`Error::Remote`] with what it said, if it did not succeed; its exit code becomes ours, if it is one of ours.
    pub fn finish(self) -> Result<Vec<u8>> {
        let (answer, failed) = self.answer()?;
        failed.map_or(Ok(answer), Err)
    }

    /// Waits for its end, and gives what it answered with the [`Error::Remote`] that says why it did not succeed.
    ///
    /// # Errors
    /// [`Error::Io`]: the answer cannot be read.
    pub fn answer(mut self) -> Result<(Vec<u8>, Option<Error>)> {
        drop(self.child.stdin.take());
        let joined = |thread: Option<JoinHandle<_>>| thread.and_then(|thread| thread.join().ok());
        let answer = joined(self.answer.take());
        let said = self.said.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let status = self.child.wait().context("wait for", &self.display)?;
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Err(Error::io("read the answer of", &self.display, error)),
            None => Vec::new(),
        };
        if status.success() {
            return Ok((answer, None));
        }
        let told = serde_json::from_slice::<Told>(&answer).map(|told| told.error.message);
        let is_ours = told.is_ok();
        let mut message = plain(&told.unwrap_or(said));
        if message.is_empty() {
            message = "it said nothing".into();
        }
        let hint = match (status.code(), is_ours) {
            (Some(127), false) => "; --remote-snapcask names the program there",
            (_, true) => "",
            _ => "; nothing is in place there unless it was placed whole. Run the same command again",
        };
        // A shell and ssh have exit codes of their own.
        let code = match status.code() {
            Some(code @ 1..=5) if is_ours => code as u8,
            _ => 1,
        };
        Ok((answer, Some(Error::Remote { destination: self.display, message, hint, code })))
    }
}

/// The text in one line, without what a terminal could take for a command.
pub fn plain(text: &str) -> String {
    let mut safe = String::new();
    for c in text.trim().chars().take(MAX_MESSAGE) {
        match c {
            '\n' => safe.push_str("; "),
            c if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                safe.extend(c.escape_default());
            }
            c => safe.push(c),
        }
    }
    safe
}

fn read_answer(from: impl Read) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    from.take(MAX_ANSWER + 1).read_to_end(&mut answer)?;
    if answer.len() as u64 > MAX_ANSWER {
        return Err(io::Error::other(format!("it is longer than {MAX_ANSWER} bytes")));
    }
    Ok(answer)
}

/// Reads to the end, so that nobody waits for us, and gives the last of it.
fn read_end(mut from: impl Read) -> String {
    let (mut end, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        end.extend_from_slice(&buffer[..n]);
        if end.len() > 2 * MAX_SAID {
            end.drain(..end.len() - MAX_SAID);
        }
    }
    let from = end.len().saturating_sub(MAX_SAID);
    String::from_utf8_lossy(&end[from..]).into_owned()
}

/// The command line for the shell of the other side, whichever it is.
fn command_line(program: &str, arguments: &[&str]) -> Result<String> {
    let words: Result<Vec<String>> = std::iter::once(&program).chain(arguments).map(|word| quoted(word)).collect();
    Ok(words?.join(" "))
}

/// One word for a shell: between single quotes, where `sh`, `csh` and `fish` change nothing but quotes and
/// backslashes; these stand outside of them.
fn quoted(word: &str) -> Result<String> {
    if word.chars().any(char::is_control) {
        return Err(Error::Usage(format!("{word:?} holds a control character, which is not sent to another shell")));
    }
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./:@,+".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        return Ok(word.into());
    }
    let mut text = String::from("'");
    for c in word.chars() {
        match c {
            // `!` is history to csh, between quotes too.
            '\'' | '\\' | '!' => text.extend(["'\\", c.encode_utf8(&mut [0; 4]), "'"]),
            c => text.push(c),
        }
    }
    text.push('\'');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(url: &str) -> Result<Remote> {
        Remote::ssh(url, vec!["ssh".into()], "snapcask")
    }

    #[test]
    fn ssh_urls_parse_to_host_port_and_store() {
        for (url, host, port, store) in [
            ("ssh://h", "h", None, None),
            ("ssh://h/", "h", None, None),
            ("ssh://u@h:22", "u@h", Some(22), None),
            ("ssh://h/a/b c", "h", None, Some("/a/b c")),
            ("ssh://[::1]:2222/s", "::1", Some(2222), Some("/s")),
            ("ssh://u@[fe80::1%eth0]", "u@fe80::1%eth0", None, None),
        ] {
            let remote = ssh(url).unwrap();
            let Way::Ssh { host: found, port: at, .. } = &remote.way else { panic!("{url}") };
            assert_eq!((found.as_str(), *at, remote.store.as_deref()), (host, port, store), "{url}");
        }
    }

    #[test]
    fn ssh_urls_that_could_be_options_or_commands_are_refused() {
        for url in [
            "ssh://",
            "ssh:///store",
            "ssh://-oProxyCommand=x/s",
            "ssh://-u@h",
            "ssh://@h",
            "ssh://h:0",
            "ssh://h:x",
            "ssh://h:70000",
            "ssh://[::1]x",
            "ssh://a b",
            "ssh://a;b",
            "ssh://$(x)",
            "http://h",
        ] {
            assert_eq!(ssh(url).unwrap_err().exit_code(), 2, "{url}");
        }
        assert!(Remote::ssh("ssh://h", Vec::new(), "snapcask").is_err());
        assert!(Remote::ssh("ssh://h", vec!["ssh".into()], "-x").is_err());
    }

    #[test]
    fn quoted_words_reach_the_other_side_as_they_are() {
        for word in
            ["", "a", "a b", "$(touch x)", "`x`", "a'b", "a\\", "\\'", "~", "*", "a\"b", "!!", ";", "ü", "-x", "#"]
        {
            let line = format!("printf %s {}", quoted(word).unwrap());
            let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        for word in ["a\nb", "\x1b[2J", "\0"] {
            assert!(quoted(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn plain_text_has_no_control_characters_and_an_end() {
        assert_eq!(plain("a\x1b[2J\nb\r\n"), "a\\u{1b}[2J; b");
        assert_eq!(plain(&"x".repeat(10_000)).len(), MAX_MESSAGE);
    }
}

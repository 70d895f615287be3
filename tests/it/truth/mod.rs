//! What is said: every message blames what is to blame, with its exit code, as people read it.

mod names;
mod permissions;
mod progress;
mod stores;
mod unread;
mod verbs;

use std::{
    ffi::OsStr,
    fmt::Write,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::fixture::{chmod, stderr, stdout};

/// Most lines of what is said once: of a long one the beginning tells which it is.
const LINES: usize = 8;
/// The user and the group of somebody without rights.
const NOBODY: u32 = 65534;

/// A folder in which an ordinary user runs the command, and what was said there.
struct Talk {
    temp: TempDir,
    program: PathBuf,
    said: String,
}

impl Talk {
    fn new() -> Self {
        let temp = TempDir::new().unwrap();
        chmod(temp.path(), 0o755);
        let (program, built) = (temp.path().join("snapcask"), env!("CARGO_BIN_EXE_snapcask"));
        // Where it was built may be nobody else's to enter.
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
        let talk = Self { temp, program, said: String::new() };
        talk.give("");
        talk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Gives everything below a path to the ordinary user.
    fn give(&self, name: &str) {
        if rustix::process::geteuid().is_root() {
            let owner = format!("{NOBODY}:{NOBODY}");
            let path = self.path(name);
            assert!(Command::new("chown").args(["-R", &owner]).arg(&path).status().unwrap().success());
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(line.split_whitespace()).current_dir(self.temp.path()).stdin(Stdio::null());
        command.env_remove("MSB_HOME").env("MSB", "").env("HOME", self.temp.path());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Runs the line, and writes down what was said.
    fn run(&mut self, line: &str) -> Output {
        let output = self.command(line).output().unwrap();
        self.note(line, &output);
        output
    }

    fn note(&mut self, line: &str, output: &Output) {
        let here = self.temp.path().to_str().unwrap().to_owned();
        let text = (stdout(output) + &stderr(output)).replace(&here, "FOLDER");
        let code = output.status.code().map_or("a signal".into(), |code| code.to_string());
        let lines: Vec<&str> = text.lines().collect();
        writeln!(self.said, "$ snapcask {line}").unwrap();
        lines.iter().take(LINES).for_each(|line| writeln!(self.said, "{line}").unwrap());
        if lines.len() > LINES {
            writeln!(self.said, "({} more lines)", lines.len() - LINES).unwrap();
        }
        write!(self.said, "[{code}]\n\n").unwrap();
    }
}

/// Copies a tree, holes and all.
fn copy(from: &Path, to: &Path) {
    let arguments = ["-a", "--sparse=always"].map(OsStr::new);
    assert!(Command::new("cp").args(arguments).args([from, to]).status().unwrap().success());
}

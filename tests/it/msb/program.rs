//! The real `msb`: where it is, and how it runs on a home of its own.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::fixture::*;

/// The binary: `$MSB`, else what `scripts/install-msb.sh` builds.
pub fn find() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    set("MSB").or_else(|| Some(cache?.join("snapcask-tools/bin/msb"))).filter(|path| path.is_file())
}

/// Whether the binary and these tools are there. In CI a missing one is a failure.
pub fn have(test: &str, tools: &[&str]) -> bool {
    if find().is_none() {
        assert!(env::var("CI").as_deref() != Ok("true"), "{test} needs msb: run scripts/install-msb.sh");
        eprintln!("SKIPPED {test}: msb is not installed; scripts/install-msb.sh builds it");
        return false;
    }
    crate::interop::tools::have(test, tools)
}

/// `msb` on one home, which is a store.
#[derive(Clone, Debug)]
pub struct Msb {
    /// The store: `$MSB_HOME`.
    pub home: PathBuf,
    program: PathBuf,
}

impl Msb {
    /// On this home, which is made.
    pub fn new(home: &Path) -> Self {
        std::fs::create_dir_all(home).unwrap();
        // msb keeps absolute paths: the one that it sees must be the one that tests compare with.
        Self { home: home.canonicalize().unwrap(), program: find().unwrap() }
    }

    /// A command of `msb`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("MSB_HOME", &self.home).env("HOME", &self.home).env("NO_COLOR", "1");
        command.env_remove("MSB_PROFILE").env_remove("MSB_BACKEND").current_dir(&self.home).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output, or what it says when it fails.
    pub fn tried(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.run(arguments);
        match output.status.success() {
            true => Ok(stdout(&output)),
            false => Err(format!("msb {}: {}", arguments.join(" "), said(&output))),
        }
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.tried(arguments).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Standard output that is JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.tried(arguments)?;
        serde_json::from_str(&text).map_err(|error| format!("msb {}: {error}: {text}", arguments.join(" ")))
    }

    /// `snapcask` on the same store, which finds this `msb`.
    pub fn snapcask(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.snapcask_command(arguments).output().unwrap();
        match output.status.success() {
            true => Ok(stdout(&output)),
            false => Err(format!("snapcask {}: {}", arguments.join(" "), said(&output))),
        }
    }

    /// The command of [`Self::snapcask`].
    pub fn snapcask_command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("MSB_HOME", &self.home).env("HOME", &self.home).env("MSB", &self.program).current_dir(&self.home);
        command
    }

    /// The folder of all snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.home.join("snapshots")
    }
}

/// What a program says on standard error, in one line.
fn said(output: &Output) -> String {
    let text = stderr(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.is_empty() {
        true => format!("{} without a word", output.status),
        false => lines.join("; "),
    }
}

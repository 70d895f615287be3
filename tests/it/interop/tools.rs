//! The tools: where they are, and how they run without anything of the caller's configuration.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::fixture::*;

/// Tools that `scripts/install-interop-tools.sh` builds; the others are packages of the system.
const BUILT_WITH_GO: [&str; 5] = ["oras", "crane", "regctl", "distribution", "zot"];

/// The program, in the project's folder of tools, in `PATH`, or where Debian keeps programs of the administrator.
pub fn find(tool: &str) -> Option<PathBuf> {
    let own = env::var_os("SNAPCASK_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop-tools/bin"), PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    [own]
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(["/usr/sbin".into()])
        .map(|d| d.join(tool))
        .find(|p| p.is_file())
}

/// Whether every tool is there. In CI a missing one is a failure, unless there is no Go toolchain to build it with.
pub fn have(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        if find(tool).is_none() {
            let excused = BUILT_WITH_GO.contains(tool) && find("go").is_none();
            assert!(excused || env::var("CI").as_deref() != Ok("true"), "{test} needs {tool}");
            eprintln!("SKIPPED {test}: {tool} is not installed");
            return false;
        }
    }
    true
}

/// A command of a tool that is there, with a home of its own in `home`.
pub fn tool_command(tool: &str, home: &Path) -> Command {
    let mut command = Command::new(find(tool).unwrap_or_else(|| panic!("{tool} is not installed")));
    command.stdin(Stdio::null()).env("HOME", home).env("XDG_RUNTIME_DIR", home).env("DOCKER_CONFIG", home);
    command.env_remove("REGISTRY_AUTH_FILE").current_dir(home);
    command
}

/// Runs a tool that must succeed; what it prints.
#[track_caller]
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(find(program).unwrap()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// What a tool that fails says: the last line of standard error that is not its usage.
pub fn message(output: &Output) -> String {
    let text = stderr(output);
    let said = |line: &&str| !line.trim().is_empty() && !line.starts_with("Usage:") && !line.starts_with("Please ");
    let mut lines = text.lines().filter(said);
    let first_error = text.lines().find(|line| line.starts_with("Error"));
    first_error.or_else(|| lines.next_back()).unwrap_or("it fails and says nothing").trim().to_owned()
}

/// The version that a tool gives itself.
pub fn version(tool: &str, home: &Path) -> String {
    let flag = if matches!(tool, "oras" | "crane" | "regctl") { "version" } else { "--version" };
    let output = tool_command(tool, home).arg(flag).output().unwrap();
    let text = stdout(&output);
    let word = |w: &&str| w.trim_start_matches('v').split('.').count() >= 3 && w.contains(|c: char| c.is_ascii_digit());
    let version = text.split_whitespace().find(|w| word(w) && !w.contains('/')).unwrap_or("of unknown version");
    version.trim_start_matches('v').split('+').next().unwrap_or(version).to_owned()
}

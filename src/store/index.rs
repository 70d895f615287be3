//! msb's database, which lists snapshots by its rows: how it learns of what an import or a removal has changed.
//!
//! Nobody but msb writes into it. `msb snapshot reindex` adds rows for what is in the store, and without a row
//! `msb image prune` takes the image of a snapshot. `msb snapshot ls` drops the rows of snapshots whose removal is recorded
//! ([`super::deletion`]); `reindex` drops none.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{progress::Progress, report::IndexReport};

/// How msb's database learns of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Index {
    /// This `msb` is run.
    Run(PathBuf),
    /// The report says what to run, because there is no `msb`.
    Tell,
    /// Nobody cares (`--no-reindex`).
    Off,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Snapshots were placed.
    Placed,
    /// Snapshots were removed.
    Removed,
}

impl Change {
    fn arguments(self) -> [&'static str; 2] {
        match self {
            Self::Placed => ["snapshot", "reindex"],
            Self::Removed => ["snapshot", "ls"],
        }
    }
}

impl Index {
    /// By the `msb` that `named` (`$MSB`) names, else by the first one in `path` (`$PATH`).
    pub fn find(named: Option<&OsStr>, path: Option<&OsStr>) -> Self {
        let named = named.filter(|name| !name.is_empty()).map(Path::new);
        match named {
            Some(program) if program.components().count() > 1 => Self::Run(program.into()),
            other => {
                let name = other.unwrap_or(Path::new("msb"));
                // A relative entry of PATH is the current directory's, which may be a stranger's.
                let mut folders = path.map(std::env::split_paths).into_iter().flatten().filter(|f| f.is_absolute());
                folders.find_map(|folder| program_at(folder.join(name))).map_or(Self::Tell, Self::Run)
            }
        }
    }

    /// Tells msb's database of a change in the store at `root`.
    pub fn update(&self, root: &Path, change: Change, progress: &dyn Progress) -> IndexReport {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.into());
        let arguments = change.arguments();
        let command = |program: &Path| {
            let shown = [Path::new(arguments[0]), Path::new(arguments[1])].map(quoted).join(" ");
            format!("MSB_HOME={} {} {shown}", quoted(&root), quoted(program))
        };
        match self {
            Self::Off => IndexReport::Off,
            Self::Tell => IndexReport::Command { command: command(Path::new("msb")) },
            Self::Run(program) => {
                progress.begin("telling msb", None);
                let ran = run(program, &arguments, &root);
                progress.end();
                match ran {
                    Ok(()) => IndexReport::Done,
                    Err(reason) => IndexReport::Failed { command: command(program), reason },
                }
            }
        }
    }
}

fn run(program: &Path, arguments: &[&str], root: &Path) -> Result<(), String> {
    let mut command = Command::new(program);
    // These could lead msb to snapshots that are not in this store.
    command.env_remove("MSB_PROFILE").env_remove("MSB_BACKEND");
    command.args(arguments).env("MSB_HOME", root).stdin(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => Err(line.chars().take(500).collect()),
        None => Err(output.status.to_string()),
    }
}

fn program_at(path: PathBuf) -> Option<PathBuf> {
    let metadata = fs::metadata(&path).ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(path)
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msb_in_a_relative_entry_of_path_is_not_found() {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("msb");
        fs::write(&program, "").unwrap();
        let path = std::env::join_paths([Path::new(""), Path::new("."), temp.path()]).unwrap();
        assert_eq!(Index::find(None, Some(&path)), Index::Tell, "it is not executable");
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(Index::find(None, Some(&path)), Index::Run(program.clone()));
        assert_eq!(Index::find(Some(OsStr::new("")), Some(&path)), Index::Run(program));
        assert_eq!(Index::find(Some(OsStr::new("other")), Some(&path)), Index::Tell);
        assert_eq!(Index::find(Some(OsStr::new("/x/msb")), None), Index::Run("/x/msb".into()));
        assert_eq!(Index::find(None, Some(OsStr::new(".:relative:"))), Index::Tell);
    }

    #[test]
    fn command_is_quoted_for_a_shell() {
        let report = Index::Tell.update(Path::new("/a b/it's"), Change::Placed, &crate::progress::Silent);
        let command = r"MSB_HOME='/a b/it'\''s' msb snapshot reindex".into();
        assert_eq!(report, IndexReport::Command { command });
    }
}

//! Row 6: a disk that is really full, at every percent of what is needed.

use std::{fs, path::Path, process::Command};

use snapcask::{export::Form, model::Generation};
use tempfile::TempDir;

use crate::{
    score::{Effort, Row},
    subject::{Origin, Subject},
};

const PAGE: u64 = 4096;

pub fn run(effort: Effort, row: &mut Row) {
    row.title("A full disk, at 0 to 100 % of what is needed");
    if !rustix::process::geteuid().is_root() {
        return row.lacks("it mounts a tmpfs of a given size, which takes root");
    }
    let origin = Origin::new(Generation::Final);
    for form in effort.pick(vec![Form::TarZst], vec![Form::TarZst, Form::Dir]) {
        for make in [Subject::import, Subject::export] {
            if let Err(error) = measure(&origin, form, make, effort, row) {
                return row.lacks(format!("no tmpfs of a given size: {error}"));
            }
        }
    }
    row.note(
        "N of each is the number of sizes; 100 % is the smallest tmpfs on which the command succeeds. Below that: exit 1, \
         nothing published, nothing left over; at it: all is placed. Imports run with --max-bytes, so that the disk \
         says no and not the check before.",
    );
}

fn measure(
    origin: &Origin,
    form: Form,
    make: fn(&Origin, Form, &Path) -> Subject,
    effort: Effort,
    row: &mut Row,
) -> Result<(), String> {
    let folder = TempDir::new().unwrap();
    let mut subject = make(origin, form, folder.path());
    if subject.name.starts_with("import") {
        subject.arguments.extend(["--max-bytes".into(), "1TiB".into()]);
    }
    let name = subject.name.clone();
    let run = |pages: u64| -> Result<Option<Result<(), String>>, String> {
        let disk = Disk::mount(folder.path(), pages)?;
        if name.starts_with("export") {
            fs::create_dir(folder.path().join("out")).unwrap();
        }
        let code = subject.command().status().unwrap().code();
        let verdict = match code {
            Some(0) => Some(subject.oracle.check_complete()),
            Some(1) if !subject.said().contains("No space left") => Some(Err(subject.said())),
            Some(1) if subject.oracle.check_untouched().is_err() => {
                Some(subject.oracle.check_untouched().map_err(|e| format!("{}: {e}", subject.said())))
            }
            Some(1) => None,
            other => Some(Err(format!("exit {other:?}: {}", subject.said()))),
        };
        drop(disk);
        Ok(verdict)
    };
    // The least that is enough.
    let (mut short, mut enough) = (1, 16_384);
    while enough - short > 1 {
        let middle = u64::midpoint(short, enough);
        match run(middle)? {
            Some(_) => enough = middle,
            None => short = middle,
        }
    }
    let line = row.line(format!("{name}: {} KiB needed", enough * PAGE / 1024), Path::new("/dev/shm"));
    for percent in (0..=100).step_by(effort.pick(4, 1)) {
        let result = match run((enough * percent / 100).max(1))? {
            Some(result) => result,
            None if percent == 100 => Err("what was enough before is not".into()),
            None => Ok(()),
        };
        line.case(format!("{percent} %"), result);
    }
    Ok(())
}

/// A tmpfs of a given size.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(at: &'a Path, pages: u64) -> Result<Self, String> {
        let size = format!("size={}", pages * PAGE);
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Ok(Self(at)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.0).status();
        assert!(done.is_ok_and(|s| s.success()), "cannot unmount {}", self.0.display());
    }
}

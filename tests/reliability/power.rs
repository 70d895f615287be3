//! Row 4: a power cut at every fsync, rename and link.
//!
//! The destination is on a filesystem in a file. The process is frozen before and after every such call and the file is
//! copied: what the filesystem had not yet written to its device is lost in the copy, as in a power cut. Each copy is
//! mounted (its journal is replayed), looked at, and the same command is run again on it. Once more with a neighbour that
//! fsyncs a file of its own before each copy: that makes the journal durable, names and all, but nobody else's data,
//! which is what a rename without an fsync before it does not survive.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use snapcask::{Digest, export::Form, model::Generation};
use tempfile::TempDir;

use crate::{
    fixture::data_extents,
    score::{Effort, Row},
    subject::{Origin, Subject, in_memory},
    trace::{Call, Ended, Kind, Verdict, trace},
};

/// A filesystem to cut the power of: its name, its size, how it is made and mounted.
struct Kindof {
    name: &'static str,
    size: u64,
    make: &'static [&'static str],
    options: &'static str,
}

const FILESYSTEMS: [Kindof; 2] = [
    // Commits of the journal by time would only make the experiment kinder.
    Kindof { name: "ext4", size: 64 << 20, make: &["mkfs.ext4", "-q", "-F"], options: "loop,commit=600" },
    Kindof { name: "XFS", size: 320 << 20, make: &["mkfs.xfs", "-q", "-f"], options: "loop" },
];

/// Whether the process's fsyncs do anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fsync {
    Works,
    /// The control: they claim to, and do nothing.
    DoesNothing,
}

/// Whether another process makes the journal durable before each cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Neighbour {
    Silent,
    Fsyncs,
}

pub fn run(effort: Effort, row: &mut Row) {
    row.title("Power cut at every fsync, rename and link");
    if !rustix::process::geteuid().is_root() {
        return row.lacks("it mounts filesystems, which takes root");
    }
    for filesystem in &FILESYSTEMS {
        let mut generations = vec![Generation::Final];
        if effort == Effort::Full {
            generations.push(Generation::V066);
        }
        for generation in generations {
            let origin = Origin::new(generation);
            let exports = effort.pick(vec![Form::Dir], vec![Form::TarZst, Form::Tar, Form::Dir]);
            let mut runs: Vec<(fn(&Origin, Form, &Path) -> Subject, Form)> = vec![(Subject::import, Form::TarZst)];
            runs.extend(exports.into_iter().map(|form| (Subject::export as _, form)));
            for (make, form) in runs {
                let bench = match Bench::new(filesystem) {
                    Ok(bench) => bench,
                    Err(error) => return row.lacks(format!("no {} on a loop device: {error}", filesystem.name)),
                };
                bench.measure(effort, row, |area| make(&origin, form, area));
            }
        }
    }
    row.note(
        "At each cut: nothing visible is wrong or partial, and the same command run again on what is left succeeds and \
         reclaims the leftovers; after exit 0 nothing is lost. In short: cuts at what makes something visible. N counts cuts; cuts that left the same bytes on the device \
         are looked at once.",
    );
}

/// A filesystem in a file, and where it is mounted.
struct Bench {
    folder: TempDir,
    filesystem: &'static Kindof,
}

impl Bench {
    fn new(filesystem: &'static Kindof) -> Result<Self, String> {
        let bench = Self { folder: in_memory(), filesystem };
        fs::create_dir(bench.area()).unwrap();
        bench.format()?;
        bench.mount(&bench.device())?;
        bench.unmount();
        Ok(bench)
    }

    fn device(&self) -> PathBuf {
        self.folder.path().join("device")
    }

    fn area(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn format(&self) -> Result<(), String> {
        let device = self.device();
        File::create(&device).and_then(|f| f.set_len(self.filesystem.size)).unwrap();
        run_tool(Command::new(self.filesystem.make[0]).args(&self.filesystem.make[1..]).arg(device))
    }

    fn mount(&self, device: &Path) -> Result<(), String> {
        run_tool(Command::new("mount").args(["-o", self.filesystem.options]).arg(device).arg(self.area()))
    }

    fn unmount(&self) {
        run_tool(Command::new("umount").arg(self.area())).unwrap();
    }

    fn measure(&self, effort: Effort, row: &mut Row, make: impl Fn(&Path) -> Subject) {
        let mut control = (0, 0, 0);
        let mut name = String::new();
        // A control may be foiled by a kernel that writes back just now: it has three attempts.
        for fsync in [Fsync::Works, Fsync::DoesNothing, Fsync::DoesNothing, Fsync::DoesNothing] {
            if control.1 > 0 && control.2 > 0 {
                break;
            }
            control = (0, 0, 0);
            for neighbour in [Neighbour::Silent, Neighbour::Fsyncs] {
                self.format().unwrap();
                self.mount(&self.device()).unwrap();
                let subject = make(&self.area());
                name.clone_from(&subject.name);
                subject.oracle.clear();
                // What was there before is durable.
                rustix::fs::syncfs(File::open(self.area()).unwrap()).unwrap();
                let cuts = self.cuts(&subject, effort, fsync, neighbour);
                let beside = if neighbour == Neighbour::Fsyncs { ", a neighbour fsyncs" } else { "" };
                let line = match fsync {
                    Fsync::Works => Some(row.line(format!("{}{beside}", subject.name), &self.area())),
                    Fsync::DoesNothing => None,
                };
                self.unmount();
                let results = self.look(&subject, &cuts, fsync);
                match line {
                    Some(line) => results.into_iter().for_each(|(name, _, result)| line.case(name, result)),
                    None => {
                        control.0 += results.len();
                        control.1 += results.iter().filter(|(_, ended, r)| !ended && r.is_err()).count();
                        control.2 += results.iter().filter(|(_, ended, r)| *ended && r.is_err()).count();
                    }
                }
            }
        }
        let (cuts, wrong, lost) = control;
        row.control(
            format!(
                "the same {name} on {} with fsyncs that do nothing: {wrong} of {cuts} cuts leave something wrong visible, \
                 {lost} of 2 lose it after exit 0",
                self.filesystem.name
            ),
            lost > 0 && wrong > 0,
        );
    }

    /// Runs the command; every cut is a name, whether the command had ended, and the copy of the device.
    fn cuts(
        &self,
        subject: &Subject,
        effort: Effort,
        fsync: Fsync,
        neighbour: Neighbour,
    ) -> Vec<(String, bool, PathBuf)> {
        let mut cuts: Vec<(String, bool, PathBuf)> = Vec::new();
        let mut last = None;
        let mut cut = |name: String, ended: bool| {
            if neighbour == Neighbour::Fsyncs {
                let mut file = File::options().create(true).append(true).open(self.area().join("neighbour")).unwrap();
                file.write_all(b"x").unwrap();
                file.sync_all().unwrap();
            }
            let copy = self.folder.path().join(format!("cut-{}", cuts.len()));
            let digest = copy_sparse(&self.device(), &copy);
            match (&last, cuts.last()) {
                (Some(before), Some((_, _, same))) if *before == digest => {
                    fs::remove_file(&copy).unwrap();
                    cuts.push((name, ended, same.clone()));
                }
                _ => cuts.push((name, ended, copy)),
            }
            last = Some(digest);
        };
        let ended = trace(&mut subject.command(), &[&self.area()], |call, phase| {
            if !matches!(call.kind, Kind::Syncs | Kind::Names) {
                return Verdict::Run;
            }
            if effort == Effort::Full || publishes(call) {
                cut(format!("{phase:?} {call}"), false);
            }
            if call.kind == Kind::Syncs && fsync == Fsync::DoesNothing { Verdict::Skip } else { Verdict::Run }
        });
        assert_eq!(ended.unwrap(), Ended::Code(0), "{}", subject.said());
        cut("after exit 0".into(), true);
        cuts
    }

    fn look(
        &self,
        subject: &Subject,
        cuts: &[(String, bool, PathBuf)],
        fsync: Fsync,
    ) -> Vec<(String, bool, Result<(), String>)> {
        let mut results: Vec<(String, bool, Result<(), String>)> = Vec::new();
        let mut at = 0;
        while at < cuts.len() {
            let copy = &cuts[at].2;
            let same = cuts[at..].iter().take_while(|c| c.2 == *copy).count();
            let (visible, complete, again) = self.look_at(subject, copy, fsync);
            for (name, after_exit, _) in &cuts[at..at + same] {
                let result = visible.clone().and_then(|()| if *after_exit { complete.clone() } else { Ok(()) });
                results.push((name.clone(), *after_exit, result.and_then(|()| again.clone())));
            }
            fs::remove_file(copy).unwrap();
            at += same;
        }
        results
    }

    /// What is visible on the copy, whether it is complete, and what a run of the same command makes of it.
    fn look_at(
        &self,
        subject: &Subject,
        copy: &Path,
        fsync: Fsync,
    ) -> (Result<(), String>, Result<(), String>, Result<(), String>) {
        if let Err(error) = self.mount(copy) {
            let broken = Err(format!("the filesystem does not mount: {error}"));
            return (broken.clone(), broken.clone(), broken);
        }
        let visible = subject.oracle.check_visible();
        let complete = subject.oracle.check_placed();
        // The control shall be blamed only for what is visible and lost.
        let again = if fsync == Fsync::Works { subject.recover() } else { Ok(()) };
        self.unmount();
        (visible, complete, again)
    }
}

/// Whether the call makes something visible.
fn publishes(call: &Call) -> bool {
    let temporary = |part: std::path::Component| part.as_os_str().to_string_lossy().starts_with(".snapcask-");
    call.to.as_ref().is_some_and(|to| !to.components().any(temporary) && !to.to_string_lossy().contains(".partial"))
}

/// Copies what is allocated; the digest is of just that.
fn copy_sparse(from: &Path, to: &Path) -> Digest {
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    to.set_len(from.metadata().unwrap().len()).unwrap();
    let mut hasher = snapcask::digest::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    for (mut at, end) in data_extents(&from) {
        while at < end {
            let length = buffer.len().min(usize::try_from(end - at).unwrap());
            from.read_exact_at(&mut buffer[..length], at).unwrap();
            to.write_all_at(&buffer[..length], at).unwrap();
            hasher.update(&at.to_le_bytes());
            hasher.update(&buffer[..length]);
            at += length as u64;
        }
    }
    hasher.finish()
}

fn run_tool(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

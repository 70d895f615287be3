//! Runs commands one after the other, each in turn with its rivals, and keeps what the system says they took.

use std::{
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// What one run took.
#[derive(Clone, Copy)]
struct Run {
    wall: f64,
    cpu: f64,
    peak: u64,
}

/// What all runs of one contestant took.
#[derive(Clone)]
pub struct Sample {
    runs: Vec<Run>,
    /// Size of its output, where it has one.
    pub bytes: Option<u64>,
}

impl Sample {
    /// Median of the wall times, in seconds.
    pub fn wall(&self) -> f64 {
        median(self.runs.iter().map(|r| r.wall))
    }

    /// Median of user and system time together, of all its processes, in seconds.
    pub fn cpu(&self) -> f64 {
        median(self.runs.iter().map(|r| r.cpu))
    }

    /// Most memory that one of its processes had at once, in bytes.
    pub fn peak(&self) -> u64 {
        self.runs.iter().map(|r| r.peak).max().unwrap_or(0)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// One command that is timed.
pub struct Contestant<'a> {
    label: &'static str,
    prepare: Box<dyn Fn() + 'a>,
    command: Box<dyn Fn() -> Command + 'a>,
    output: Option<PathBuf>,
}

impl<'a> Contestant<'a> {
    /// Runs `command`, after `prepare` has cleared the way outside the measurement.
    pub fn new(label: &'static str, prepare: impl Fn() + 'a, command: impl Fn() -> Command + 'a) -> Self {
        Self { label, prepare: Box::new(prepare), command: Box::new(command), output: None }
    }

    /// The file that it writes, whose size is reported.
    pub fn writing(mut self, output: impl Into<PathBuf>) -> Self {
        self.output = Some(output.into());
        self
    }
}

/// Runs all contestants `rounds` times, alternating: what else the machine does falls on all alike. Everything dirty is
/// on disk before each run, so that nobody pays for another's writes.
pub fn alternate(rounds: usize, contestants: &[Contestant]) -> Vec<Sample> {
    let mut samples = vec![Sample { runs: Vec::new(), bytes: None }; contestants.len()];
    for _ in 0..rounds {
        for (contestant, sample) in contestants.iter().zip(&mut samples) {
            (contestant.prepare)();
            rustix::fs::sync();
            let run = run(contestant.label, (contestant.command)());
            eprintln!(
                "  {:<34} {:>8.3} s  {:>7.3} s cpu  {:>5} MiB",
                contestant.label,
                run.wall,
                run.cpu,
                run.peak >> 20
            );
            sample.runs.push(run);
            sample.bytes = contestant
                .output
                .as_ref()
                .map(|path| std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).len());
        }
    }
    samples
}

#[expect(clippy::zombie_processes, reason = "`wait` waits for it")]
fn run(label: &str, mut command: Command) -> Run {
    let started = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.spawn().unwrap_or_else(|e| panic!("{label}: {e}"));
    let (status, cpu, peak) = wait(child.id());
    let wall = started.elapsed().as_secs_f64();
    assert!(status.success(), "{label}: {command:?}: {status}");
    Run { wall, cpu: cpu.as_secs_f64(), peak }
}

/// Waits for a child and gives what it, and every process that it waited for, took.
fn wait(pid: u32) -> (ExitStatus, Duration, u64) {
    let mut status = 0;
    // SAFETY: zeros are a valid `rusage`, wait4(2) writes to the two places that it is given and to no others, and nobody
    // else waits for this child: its `Child` is only dropped.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid as i32, &mut status, 0, &mut usage), pid as i32, "wait4");
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    (ExitStatus::from_raw(status), time(usage.ru_utime) + time(usage.ru_stime), usage.ru_maxrss as u64 * 1024)
}

/// A command for the shell; a pipeline fails with any of its parts. `$1`, `$2`, ... are the arguments.
pub fn shell(script: &str, arguments: &[&std::path::Path]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "bench"]).args(arguments);
    command
}

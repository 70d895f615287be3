//! Row 5: every call fails once, with each of the errors that disks, quotas, signals and limits give.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use snapcask::{export::Form, model::Generation};
use tempfile::TempDir;

use crate::{
    score::{Effort, Row},
    subject::{Origin, Subject, place},
    trace::{Call, Ended, Phase, Verdict, trace},
};

const ERRORS: [(&str, i32); 5] = [
    ("EIO", libc::EIO),
    ("ENOSPC", libc::ENOSPC),
    ("EDQUOT", libc::EDQUOT),
    ("EINTR", libc::EINTR),
    ("EMFILE", libc::EMFILE),
];

/// Calls whose failure another way makes good, or that only clear away.
const MAY_FAIL: [&str; 16] = [
    // Clones and copies inside the kernel, holes: where they fail, there is a slower way or none is needed.
    "ioctl",
    "copy_file_range",
    "fallocate",
    "fcntl",
    "lseek",
    "sync_file_range",
    // Looking: what cannot be seen is not there, or is found out by the call that follows.
    "openat",
    "stat",
    "lstat",
    "statx",
    "newfstatat",
    "getdents64",
    // Clearing away: what stays has a temporary name, and the next run reclaims it.
    "unlink",
    "unlinkat",
    "rmdir",
    "readlink",
];

/// Cases that are tried at once: most of a case is a disk that is waited for.
const AT_ONCE: usize = 4;

pub fn run(effort: Effort, row: &mut Row) {
    row.title("EIO, ENOSPC, EDQUOT, EINTR and EMFILE at every call");
    let generations = effort.pick(vec![Generation::Final], vec![Generation::V066, Generation::Final]);
    let mut survived = BTreeMap::new();
    for generation in generations {
        let origin = Origin::new(generation);
        for form in effort.pick(vec![Form::TarZst], vec![Form::TarZst, Form::Dir]) {
            for make in [Subject::import, Subject::export] {
                let areas: Vec<TempDir> = (0..AT_ONCE).map(|_| place(effort)).collect();
                // One after the other: the first makes the bundle that all read.
                let subjects: Vec<Subject> = areas.iter().map(|area| make(&origin, form, area.path())).collect();
                spoil(&subjects, effort, row, &mut survived);
            }
        }
    }
    row.note(
        "Each case: one call fails; the exit code is 1 to 5 and nothing is published that was not before the call, or the \
         code is 0 and all is placed; nothing wrong is visible; then the same command run again succeeds and reclaims.",
    );
    row.note("EIO at every call of check, verify, copy, remove and list: `cargo test --test it failing_disk`.");
    let survived: Vec<String> = survived.iter().map(|(name, n)| format!("{name} ({n})")).collect();
    row.note(format!("Exit 0 in spite of an error other than EINTR: {}.", survived.join(", ")));
}

/// Fails the calls of one command, which there is once for each of the cases that are tried at once.
fn spoil(subjects: &[Subject], effort: Effort, row: &mut Row, survived: &mut BTreeMap<&'static str, u64>) {
    let all = calls(&subjects[0]);
    let stride = all.len().div_ceil(effort.pick(24, all.len()));
    for (position, (error, errno)) in ERRORS.iter().enumerate() {
        let line = row.line(format!("{}: {error} at {} calls", subjects[0].name, all.len()), &subjects[0].area);
        // In short, another sample for each error.
        let chosen: Vec<&Call> = all.iter().skip(position % stride).step_by(stride).collect();
        let next = AtomicUsize::new(0);
        let (next, chosen) = (&next, &chosen);
        let tried: Vec<Tried> = thread::scope(|scope| {
            let workers: Vec<_> =
                subjects.iter().map(|subject| scope.spawn(move || try_some(subject, chosen, next, *errno))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        for Tried { call, result, zero } in tried {
            let Some(result) = result else { continue };
            if let (Ok(()), Some(name)) = (&result, zero)
                && *errno != libc::EINTR
            {
                *survived.entry(name).or_default() += 1;
            }
            line.case(call, result);
        }
    }
}

/// What became of one case.
struct Tried<'a> {
    call: &'a Call,
    /// None if the run was over, complete, before it came to the call.
    result: Option<Result<(), String>>,
    /// The call's name if the command ended with 0.
    zero: Option<&'static str>,
}

/// Takes cases until none is left.
fn try_some<'a>(subject: &Subject, chosen: &[&'a Call], next: &AtomicUsize, errno: i32) -> Vec<Tried<'a>> {
    let mut tried = Vec::new();
    while let Some(call) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
        // Any thread may do a file's last reads first: the count decides, not the name.
        let (result, zero) = fail_at(subject, call.number, errno);
        tried.push(Tried { call, result, zero });
        subject.oracle.clear();
    }
    tried
}

/// The calls of an undisturbed run.
fn calls(subject: &Subject) -> Vec<Call> {
    let mut all: Vec<Call> = Vec::new();
    let watched = [subject.area.as_path(), &subject.origin];
    let ended = trace(&mut subject.command(), &watched, |call, phase| {
        if phase == Phase::Before {
            all.push(call.clone());
        }
        Verdict::Run
    });
    assert_eq!(ended.unwrap(), Ended::Code(0), "{}", subject.said());
    subject.oracle.clear();
    all
}

/// The verdict, and the call's name if the command ended with 0.
fn fail_at(subject: &Subject, number: u64, errno: i32) -> (Option<Result<(), String>>, Option<&'static str>) {
    let mut injected: Option<(Call, bool)> = None;
    let watched = [subject.area.as_path(), &subject.origin];
    let ended = trace(&mut subject.command(), &watched, |call, phase| {
        if phase == Phase::Before && call.number == number {
            injected = Some((call.clone(), subject.oracle.is_unpublished()));
            return Verdict::FailLast(errno);
        }
        Verdict::Run
    })
    .unwrap();
    let Some((call, unpublished)) = injected else {
        let complete = (ended == Ended::Code(0)).then(|| subject.oracle.check_complete());
        let wrong = complete.unwrap_or_else(|| Err(format!("{ended:?} without a call {number}"))).err();
        return (wrong.map(Err), None);
    };
    let zero = (ended == Ended::Code(0)).then_some(call.name);
    let judged = match ended {
        Ended::Code(0) if errno != libc::EINTR && !MAY_FAIL.contains(&call.name) => {
            Err(format!("exit 0 although {call} failed"))
        }
        Ended::Code(0) => subject.oracle.check_placed(),
        Ended::Code(1..=5) if unpublished && !subject.oracle.is_unpublished() => {
            Err(format!("published although {call} failed before"))
        }
        Ended::Code(1..=5) => Ok(()),
        other => Err(format!("{call} failed: {other:?}: {}", subject.said())),
    };
    (Some(judged.and_then(|()| subject.oracle.check_visible()).and_then(|()| subject.recover())), zero)
}

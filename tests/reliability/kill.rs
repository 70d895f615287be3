//! Row 3: SIGKILL at every call that changes something.

use snapcask::{export::Form, model::Generation};

use crate::{
    score::{Effort, Row},
    subject::{Origin, Subject, place},
    trace::{Call, Ended, Kind, Phase, Verdict, trace},
};

pub fn run(effort: Effort, row: &mut Row) {
    row.title("SIGKILL at every call that changes something");
    let generations = effort.pick(vec![Generation::Final], vec![Generation::V066, Generation::Flat, Generation::Final]);
    for generation in generations {
        let origin = Origin::new(generation);
        for form in effort.pick(vec![Form::TarZst, Form::Dir], vec![Form::TarZst, Form::Tar, Form::Dir]) {
            for make in [Subject::import, Subject::export, Subject::pull] {
                let area = place(effort);
                subject(&make(&origin, form, area.path()), effort, row);
            }
        }
    }
    row.note(
        "After each kill: nothing partial is visible (snapshots whole, parents before children, cache files before what \
         names them; a bundle whole or absent), the same command run again succeeds, and the tree is then exactly that \
         of an undisturbed run: leftovers are reclaimed.",
    );
    row.note("A case counts only if the process was seen to die by the signal at the call that was chosen.");
}

fn changes(call: &Call) -> bool {
    call.kind != Kind::Looks
}

fn subject(subject: &Subject, effort: Effort, row: &mut Row) {
    let mut all: Vec<Call> = Vec::new();
    let ended = trace(&mut subject.command(), &[&subject.area], |call, phase| {
        if phase == Phase::Before && changes(call) {
            all.push(call.clone());
        }
        Verdict::Run
    });
    assert_eq!(ended.unwrap(), Ended::Code(0), "{}", subject.said());
    let names = all.iter().filter(|c| c.kind == Kind::Names).count();
    let line =
        row.line(format!("{}: {} calls, {names} of them rename or link", subject.name, all.len()), &subject.area);
    line.case("an undisturbed run", subject.oracle.check_complete());
    // In short: every rename, the first calls (temporary names and locks come to be), and some of the rest.
    let stride = all.len().div_ceil(effort.pick(40, all.len()));
    for (index, expected) in all.iter().enumerate() {
        if expected.kind != Kind::Names && index > 8 && !index.is_multiple_of(stride) {
            continue;
        }
        subject.oracle.clear();
        match kill_at(subject, index + 1) {
            Ok(Killed::Yes) => line.case(expected, Ok(())),
            // Over a network the same bytes come in other pieces, and threads may do with fewer calls.
            Ok(Killed::FewerCalls) => {}
            Err(error) => line.case(expected, Err(error)),
        }
    }
    subject.oracle.clear();
}

/// Whether a run was killed.
enum Killed {
    Yes,
    /// It came to its end before, complete.
    FewerCalls,
}

fn kill_at(subject: &Subject, number: usize) -> Result<Killed, String> {
    let mut seen = 0;
    let ended = trace(&mut subject.command(), &[&subject.area], |call, phase| {
        if phase == Phase::Before && changes(call) {
            seen += 1;
            if seen == number {
                return Verdict::Kill;
            }
        }
        Verdict::Run
    })
    .unwrap();
    if ended == Ended::Code(0) && seen < number {
        return subject.oracle.check_complete().map(|()| Killed::FewerCalls);
    }
    if ended != Ended::Signal(libc::SIGKILL) || seen < number {
        return Err(format!("the kill did not happen: {ended:?} after {seen} calls"));
    }
    subject.oracle.check_visible()?;
    subject.recover().map(|()| Killed::Yes)
}

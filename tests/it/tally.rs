//! What the scoreboard wants to know of the tests that are rows of it: how many cases there were, and what they cost.
//!
//! Lines go to the file that `SNAPCASK_TALLY` names (`tests/reliability/counted.rs` reads them): the row, what was tried,
//! how often, and for a whole process its peak memory in bytes and its time in milliseconds. Without it nothing is written.

use std::{fmt::Display, fs::OpenOptions, io::Write, time::Duration};

/// Cases that went as they should: what did not has failed its test before.
pub fn cases(row: u8, what: impl Display, count: usize) {
    line(&format!("{row}\t{what}\t{count}\n"));
}

/// A case that was a process of its own.
pub fn process(row: u8, what: impl Display, memory: u64, time: Duration) {
    line(&format!("{row}\t{what}\t1\t{memory}\t{}\n", time.as_millis()));
}

fn line(text: &str) {
    let Some(path) = std::env::var_os("SNAPCASK_TALLY") else { return };
    // One write of a short line at the end of a file: tests that run at once do not mix theirs.
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

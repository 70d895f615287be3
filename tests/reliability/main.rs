//! The scoreboard: experiments that try to make snapcask place something wrong, or lose something.
//!
//! ```text
//! cargo test --test reliability                      every row in its short form, but for 7 to 11 and 13: these are
//!                                                    integration tests (`cargo test --test it`), which run whole
//! cargo test --test reliability -- --full            every row in full
//! cargo test --test reliability -- --full 3 4        rows 3 and 4 in full
//! cargo test --test reliability -- --seeds DIR       no row: seeds for the fuzz targets
//! ```
//!
//! Every row writes what it counted to `target/reliability/row-NN.md`; `make reliability` puts these pages together as
//! `docs/reliability.md`. A row that cannot run here says why; with `CI=true` that is a failure.
#![allow(clippy::type_complexity, reason = "tables of functions")]

#[path = "../it/fixture.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod fixture;

mod bytes;
mod counted;
mod extents;
mod faults;
mod full_disk;
mod kill;
mod oracle;
mod power;
mod score;
mod seeds;
#[path = "../it/registry/server.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod server;
mod subject;
mod together;
#[cfg(target_arch = "x86_64")]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod trace;

use std::process::ExitCode;

use score::{Effort, Row};

/// The rows that are made here, with what makes them.
const ROWS: &[(u8, fn(Effort, &mut Row))] = &[
    (1, bytes::sweep),
    (2, bytes::prefixes),
    (3, kill::run),
    (4, power::run),
    (5, faults::run),
    (6, full_disk::run),
    (12, together::run),
    (14, extents::run),
];

fn main() -> ExitCode {
    let mut effort = Effort::Short;
    let mut wanted: Vec<u8> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seeds" => {
                seeds::write(arguments.next().expect("--seeds DIR").as_ref());
                return ExitCode::SUCCESS;
            }
            "--full" => effort = Effort::Full,
            other => match other.parse() {
                Ok(number) => wanted.push(number),
                // What cargo hands to every test binary.
                Err(_) if other.starts_with('-') => {}
                // A filter that means tests of other binaries.
                Err(_) => return ExitCode::SUCCESS,
            },
        }
    }
    let mut failed = false;
    for (number, run) in ROWS.iter().filter(|(number, _)| wanted.is_empty() || wanted.contains(number)) {
        failed |= !score::measure(*number, effort, *run);
    }
    let all = wanted.is_empty() && effort == Effort::Full;
    for number in counted::numbers().filter(|number| all || wanted.contains(number)) {
        failed |= !score::measure(number, Effort::Full, |_, row| counted::run(number, row));
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

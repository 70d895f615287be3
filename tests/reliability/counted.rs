//! Rows 7 to 11 and 13, and a part of row 12: integration tests, which run with every build. Here they run once more,
//! optimized, and what they count (`tests/it/tally.rs`) becomes the row's page.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::score::Row;

/// A row, and where its tests are.
struct Counted {
    number: u8,
    title: &'static str,
    /// Filters of `cargo test --test it`.
    tests: &'static [&'static str],
    note: &'static str,
    /// One test at a time: a process is timed.
    alone: bool,
}

const ROWS: [Counted; 6] = [
    Counted {
        number: 7,
        title: "The hostile corpus",
        tests: &["hardening::"],
        note: "Each case: a crafted bundle gives its exact error, or is accepted where it is harmless; the store and a \
               canary tree beside it are the same before and after, to the contents, modes, links and times of all files.",
        alone: false,
    },
    Counted {
        number: 8,
        title: "What is placed is what GNU tar and Python see",
        tests: &["hardening::other_readers"],
        note: "Names, sizes and contents of every file, by GNU tar and by Python's tarfile.",
        alone: false,
    },
    Counted {
        number: 9,
        title: "Bombs: at most 128 MiB of memory and 2 s each, and no more disk than declared",
        tests: &["hardening::bombs"],
        note: "Peak resident memory as the kernel marked it, and wall time, of the whole process; its disk is looked at \
               while it runs.",
        alone: true,
    },
    Counted {
        number: 10,
        title: "Digest grammar",
        tests: &["hardening::oci::strings_that_are_no_digest", "hardening::oci::a_digest_that_leads_out_of_the_layout"],
        note: "Strings that are no digest, in each place of a bundle that holds one: refused before any is looked for.",
        alone: false,
    },
    Counted {
        number: 11,
        title: "A store poisoned at equal size and time, then the same import again",
        tests: &["hardening::poisoned"],
        note: "Each file of the store in turn: the import refuses to go on from it and changes nothing; with --force it \
               is repaired.",
        alone: false,
    },
    Counted {
        number: 13,
        title: "A registry cut at every 1 % of push and pull, and every fault",
        tests: &["registry::"],
        note: "After each cut the final digest is right and at most one chunk went twice; faults of `tests/it/registry/`: \
               pagination without end, redirects, realms, wrong bytes, ranges and answers; no credentials to a second \
               host. By the server in the tests and by docker-registry.",
        alone: false,
    },
];

/// The numbers of these rows.
pub fn numbers() -> impl Iterator<Item = u8> {
    ROWS.iter().map(|row| row.number)
}

/// The part of row 12 that needs the real `msb`.
const BESIDE_MSB: Counted = Counted {
    number: 12,
    title: "",
    tests: &["msb::together"],
    note: "Beside msb: it imports and removes one chain while snapcask imports, exports and removes another, in one group; \
           and both import the same snapshots into one new group. No command of either fails, the store holds exactly \
           what should be left, msb lists and verifies it, and nothing is left over.",
    alone: false,
};

/// Adds to row 12 what is tried beside `msb`.
pub fn beside_msb(row: &mut Row) {
    add(&BESIDE_MSB, row);
}

/// Runs the tests of a row.
pub fn run(number: u8, row: &mut Row) {
    let counted = ROWS.iter().find(|row| row.number == number).expect("one of these rows");
    row.title(counted.title);
    add(counted, row);
}

fn add(counted: &Counted, row: &mut Row) {
    let folder = TempDir::new().unwrap();
    let tally = folder.path().join("tally");
    let output = tests(counted, &tally);
    let said = String::from_utf8_lossy(&output.stdout);
    let tally = fs::read_to_string(&tally).unwrap_or_default();
    let mut cases: BTreeMap<&str, Seen> = BTreeMap::new();
    for line in tally.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[0] == counted.number.to_string() {
            cases.entry(fields[1]).or_default().add(&fields[2..]);
        }
    }
    for (what, seen) in &cases {
        let line = row.line(format!("{what}{}", seen.cost()), &std::env::temp_dir());
        (0..seen.count).for_each(|n| line.case(n, Ok(())));
    }
    let line = row.line("tests that do so", &std::env::temp_dir());
    for test in said.lines().filter_map(|line| line.strip_prefix("test ")) {
        if let Some((name, verdict)) = test.split_once(" ... ") {
            let failed = verdict.starts_with("FAILED").then(|| said.clone().into_owned());
            line.case(name, failed.map_or(Ok(()), Err));
        }
    }
    if !output.status.success() || cases.is_empty() {
        line.case("cargo test", Err(format!("{}{said}", String::from_utf8_lossy(&output.stderr))));
    }
    row.note(counted.note);
}

fn tests(counted: &Counted, tally: &Path) -> Output {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--locked", "--release", "--test", "it", "--"]).args(counted.tests);
    if counted.alone {
        command.arg("--test-threads=1").env("SNAPCASK_ALONE", "1");
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("SNAPCASK_TALLY", tally).env("SNAPCASK_EVERY_CUT", "1");
    command.env("SNAPCASK_ROUNDS", "200");
    command.output().unwrap()
}

/// Cases of one kind.
#[derive(Default)]
struct Seen {
    count: u64,
    /// The most that any needed, in bytes and milliseconds.
    memory: u64,
    time: u64,
}

impl Seen {
    fn add(&mut self, fields: &[&str]) {
        let number = |at: usize| fields.get(at).map_or(0, |text| text.parse().unwrap());
        self.count += number(0);
        self.memory = self.memory.max(number(1));
        self.time = self.time.max(number(2));
    }

    fn cost(&self) -> String {
        if self.memory == 0 {
            return String::new();
        }
        format!(": at most {} MiB and {:.2} s", self.memory.div_ceil(1 << 20), self.time as f64 / 1000.0)
    }
}

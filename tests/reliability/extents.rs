//! Row 14: random extent maps and random pairs of parent and child, by the property tests of `tests/it/property.rs`.

use std::{path::Path, process::Command};

use crate::score::{Effort, Row, SEED};

pub fn run(effort: Effort, row: &mut Row) {
    row.title("Random extent maps and pairs of parent and child");
    let cases = 1000;
    for (test, what) in [("one_disk", "random extent maps"), ("parent_and_child", "random pairs of parent and child")] {
        let line = row.line(what, &std::env::temp_dir());
        if effort == Effort::Short {
            continue;
        }
        let output = Command::new(env!("CARGO"))
            .args(["test", "--locked", "--quiet", "--test", "it", "--", "--exact"])
            .arg(format!("property::{test}"))
            .env("PROPTEST_CASES", cases.to_string())
            .env("PROPTEST_RNG_SEED", SEED.to_string())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let ran = text.contains("1 passed");
        let result = if output.status.success() && ran { Ok(()) } else { Err(text) };
        // proptest stops at the first failure.
        for case in 1..cases {
            line.case(case, Ok(()));
        }
        line.case("the run", result);
    }
    row.note(
        "Sizes of 0, 1 byte, a block more or less, 16 MiB and 8 GiB, data, zeros and holes; contents equal after export and \
         import, allocation no more than the source's plus a block an extent, a second export byte-identical.",
    );
    if effort == Effort::Short {
        row.note("In short, these are 64 cases each in tests/it/property.rs.");
    }
}

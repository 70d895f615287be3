//! Every kind both ways. `cargo test` asserts every cell; `make microsandbox` writes `docs/microsandbox.md` from its run.

use std::{fmt::Write, fs, path::Path};

use super::{
    journey::{Ended, Journey, Outcome, Packer, Step},
    program::{Msb, have},
    source::Kind,
};

/// One cell of a kind's row.
struct Cell {
    packer: Packer,
    step: Step,
    ended: Ended,
}

/// All cells of one kind, in the order of the table.
fn run(kind: Kind) -> Vec<Cell> {
    let journey = Journey::new(kind);
    let mut cells = Vec::new();
    for packer in Packer::ALL {
        let leg = journey.leg(packer);
        for step in Step::ALL {
            let ended = leg.run(step);
            println!("{}, {packer:?}, {}: {ended:?}", kind.title(), step.title());
            cells.push(Cell { packer, step, ended });
        }
    }
    cells
}

fn every_cell_passes(test: &str, kind: Kind) {
    if !have(test, kind.tools()) {
        return;
    }
    let mut wrong = Vec::new();
    for Cell { packer, step, ended } in run(kind) {
        if let Err(said) = ended {
            wrong.push(format!("{packer:?} {step:?}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{kind:?}:\n{}", wrong.join("\n"));
}

macro_rules! kinds {
    ($($test:ident: $kind:ident;)*) => {
        $(#[test]
        fn $test() {
            every_cell_passes(stringify!($test), Kind::$kind);
        })*
    };
}

kinds! {
    v066_travels_both_ways: V066;
    flat_travels_both_ways: Flat;
    final_travels_both_ways: Final;
    migrated_travels_both_ways: Migrated;
    qcow2_stack_travels_both_ways: Stack;
    full_travels_both_ways: Full;
    owned_travels_both_ways: Owned;
    full_with_owned_travels_both_ways: FullOwned;
}

#[test]
#[ignore = "writes docs/microsandbox.md: make microsandbox"]
fn every_kind_both_ways() {
    let rows: Vec<(Kind, Vec<Cell>)> = Kind::ALL
        .into_iter()
        .map(|kind| {
            assert!(have("docs/microsandbox.md", kind.tools()), "{kind:?} cannot be made here");
            (kind, run(kind))
        })
        .collect();
    let mut document = introduction();
    let mut messages: Vec<String> = Vec::new();
    for packer in Packer::ALL {
        let titles: Vec<&str> = Step::ALL.iter().map(|step| step.title()).collect();
        write!(
            document,
            "\n## {}\n\n| | {} |\n|---|{}\n",
            packer.title(),
            titles.join(" | "),
            "---|".repeat(titles.len())
        )
        .unwrap();
        for (kind, cells) in &rows {
            let cells: Vec<String> = cells
                .iter()
                .filter(|cell| cell.packer == packer)
                .map(|cell| match &cell.ended {
                    Ok(Outcome::Works) => "yes".to_owned(),
                    Ok(Outcome::DoesNotApply) => "–".to_owned(),
                    Err(said) => {
                        let number = messages.iter().position(|m| m == said).unwrap_or_else(|| {
                            messages.push(said.clone());
                            messages.len() - 1
                        });
                        format!("no ({})", number + 1)
                    }
                })
                .collect();
            writeln!(document, "| {} | {} |", kind.title(), cells.join(" | ")).unwrap();
        }
    }
    for (i, message) in messages.iter().enumerate() {
        write!(document, "\n{}. `{message}`\n", i + 1).unwrap();
    }
    document.push_str(include_str!("notes.md"));
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/microsandbox.md"), document).unwrap();
    assert!(messages.is_empty(), "{} kinds of failure; docs/microsandbox.md names them", messages.len());
}

fn introduction() -> String {
    let scratch = tempfile::TempDir::new().unwrap();
    let version = Msb::new(scratch.path()).ok(&["--version"]);
    format!(
        "# Snapshots between snapcask and msb\n\n\
         <!-- Written by `make microsandbox` from its own run. Do not edit. -->\n\n\
         Each cell was tried by `make microsandbox` against the real {}, on a chain of two or three snapshots with their image. \"yes\" means that it did what\n\
         the column says, \"–\" that there is nothing to do. `make test` asserts the same on every change, once `scripts/install-msb.sh` has built `msb`.\n",
        version.trim()
    )
}

//! Row 12: many at once.

use std::{
    fs,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::Value;
use snapcask::{
    Error,
    export::{ExportOptions, Form, export},
    import::{ImportOptions, import},
    model::Generation,
    report::Outcome,
};

use crate::{
    fixture::{Fixture, export_options, import_options, random, whole_tree},
    oracle::StoreOracle,
    score::{Effort, Row},
    subject::{Origin, in_memory},
};

const AT_ONCE: usize = 16;

pub fn run(effort: Effort, row: &mut Row) {
    row.title("Many at once");
    imports(effort.pick(8, 1000), row);
    import_against_export(effort.pick(8, 1000), row);
    row.note(
        "Imports at once: all succeed, each snapshot is placed by exactly one, the store is that of a single import, \
         nothing is left over. Import against export: snapshots are replaced by force while they are exported; every \
         bundle is wholly of one of the two, or the export fails and leaves nothing.",
    );
}

fn imports(rounds: u64, row: &mut Row) {
    let origin = Origin::new(Generation::Final);
    let bundle = origin.bundle(Form::TarZst);
    let place = in_memory();
    let store = place.path().join("store");
    let oracle = StoreOracle::new(&bundle, &store);
    let line = row.line(format!("rounds of {AT_ONCE} imports of one bundle at once"), place.path());
    for round in 0..rounds {
        let start = Barrier::new(AT_ONCE);
        let reports: Vec<_> = thread::scope(|scope| {
            let one = || {
                start.wait();
                import(&ImportOptions { jobs: 1, ..import_options(&bundle, &store) })
            };
            let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let mut placed = 0;
        let mut result = Ok(());
        for report in reports {
            match report {
                Ok(report) => placed += report.snapshots.iter().filter(|s| s.outcome == Some(Outcome::Placed)).count(),
                Err(error) => result = Err(format!("an import fails: {error}")),
            }
        }
        if placed != 3 && result.is_ok() {
            result = Err(format!("{placed} snapshots were placed, not 3"));
        }
        line.case(format!("round {round}"), result.and_then(|()| oracle.check_complete()));
        oracle.clear();
    }
}

fn import_against_export(rounds: u64, row: &mut Row) {
    let place = in_memory();
    // Two snapshots of the same name.
    let versions: Vec<_> = [11, 12]
        .into_iter()
        .map(|seed| {
            let mut fixture = Fixture::empty(Generation::V066);
            fixture.add("head", seed as usize, 4 << 20, &[(0, random(3 << 20, seed))], Value::Null);
            let bundle = place.path().join(format!("{seed}.tar"));
            export(&export_options(&fixture.store, "head", Form::Tar, &bundle)).unwrap();
            bundle
        })
        .collect();
    let good: Vec<Vec<u8>> = versions.iter().map(|v| fs::read(v).unwrap()).collect();
    let store = place.path().join("store");
    import(&import_options(&versions[0], &store)).unwrap();
    let done = AtomicBool::new(false);
    let line = row.line("exports while imports replace what they read", place.path());
    let (mut exported, mut refused, mut replacements) = (0u64, 0u64, 0u64);
    thread::scope(|scope| {
        let importer = scope.spawn(|| {
            let mut replaced = 0u64;
            while !done.load(Ordering::Relaxed) {
                let source = &versions[replaced as usize % 2];
                import(&ImportOptions { force: true, jobs: 1, ..import_options(source, &store) }).unwrap();
                replaced += 1;
            }
            replaced
        });
        for round in 0..rounds {
            let out = place.path().join("out");
            fs::create_dir_all(&out).unwrap();
            let bundle = out.join("x.tar");
            let result = export(&ExportOptions { jobs: 1, ..export_options(&store, "head", Form::Tar, &bundle) });
            let verdict = match result {
                Ok(_) if good.contains(&fs::read(&bundle).unwrap()) => {
                    exported += 1;
                    Ok(())
                }
                Ok(_) => Err("the bundle is of neither".to_owned()),
                Err(Error::SourceChanged { .. } | Error::Io { .. } | Error::SnapshotNotFound { .. }) => {
                    refused += 1;
                    if whole_tree(&out).is_empty() { Ok(()) } else { Err("a failed export leaves something".into()) }
                }
                Err(error) => Err(format!("an export fails: {error}")),
            };
            line.case(format!("round {round}"), verdict);
            fs::remove_dir_all(out).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        replacements = importer.join().unwrap();
    });
    row.note(format!("Against {replacements} replacements, {exported} exports succeeded and {refused} were refused."));
}

//! Row 12: many at once; in full also beside the real `msb`, whose tests are integration tests with fewer rounds.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::Value;
use snapcask::{
    Error, Result,
    export::{ExportOptions, Form, export},
    import::{ImportOptions, import},
    model::Generation,
    progress::Silent,
    remove::{RemoveOptions, remove},
    report::{ExportReport, Outcome},
};

use crate::{
    counted,
    fixture::{Fixture, export_options, import_options, random, whole_tree},
    oracle::{BundleOracle, StoreOracle},
    score::{Effort, Row},
    subject::{Origin, in_memory},
};

const AT_ONCE: usize = 16;

pub fn run(effort: Effort, row: &mut Row) {
    row.title("Many at once");
    imports(effort.pick(8, 1000), row);
    import_against_export(effort.pick(8, 1000), row);
    against_removal(effort.pick(8, 1000), row);
    if effort == Effort::Full {
        counted::beside_msb(row);
    }
    row.note(
        "Imports at once: all succeed, each snapshot is placed by exactly one, the store is that of a single import, \
         nothing is left over. Import against export: snapshots are replaced by force between exports, and refused as \
         in use during one; every bundle is wholly of one of the two, or the export fails and leaves nothing. Against \
         removal: a chain is imported, exported and removed at once; each run sees all of it or none, and none fails \
         for another reason than that it is not there or in use.",
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
                match import(&ImportOptions { force: true, jobs: 1, ..import_options(source, &store) }) {
                    // An export reads it just now.
                    Err(Error::InUse { .. }) => {}
                    other => {
                        other.unwrap();
                        replaced += 1;
                    }
                }
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

/// An import, an export and a removal of one chain at once.
fn against_removal(rounds: u64, row: &mut Row) {
    let origin = Origin::new(Generation::V066);
    let bundle = origin.bundle(Form::Tar);
    let place = in_memory();
    let (store, out) = (place.path().join("store"), place.path().join("out"));
    let oracle = StoreOracle::new(&bundle, &store);
    let exported = BundleOracle::new(&out, || {
        fs::create_dir_all(&out).unwrap();
        chain(&origin.fixture.store, &out).unwrap();
    });
    let line = row.line("rounds of an import, an export and a removal of one chain at once", place.path());
    let (mut exports, mut removals) = (0, 0);
    for round in 0..rounds {
        // Every second round begins with the whole chain in place.
        if round % 2 == 1 {
            import(&import_options(&bundle, &store)).unwrap();
        }
        let start = Barrier::new(3);
        let (import, export, removal) = thread::scope(|scope| {
            let import = scope.spawn(|| {
                start.wait();
                import(&import_options(&bundle, &store))
            });
            let export = scope.spawn(|| {
                start.wait();
                chain(&store, &out)
            });
            let removal = scope.spawn(|| {
                start.wait();
                remove(&removal_of_all(&store))
            });
            (import.join().unwrap(), export.join().unwrap(), removal.join().unwrap())
        });
        let result = import
            .map(|_| ())
            .map_err(|error| format!("the import fails: {error}"))
            .and_then(|()| seen(export, "export", &mut exports))
            .and_then(|()| seen(removal, "removal", &mut removals))
            .and_then(|()| exported.check_visible())
            .and_then(|()| oracle.check_visible());
        line.case(format!("round {round}"), result);
        exported.clear();
        oracle.clear();
    }
    row.note(format!(
        "Against removal, {exports} exports and {removals} removals found the chain; the others found none of it."
    ));
}

/// Exports the chain of the head into a folder.
fn chain(store: &Path, out: &Path) -> Result<ExportReport> {
    let options = export_options(store, "head", Form::Tar, &out.join("x.tar"));
    export(&ExportOptions { with_parents: true, with_image: true, jobs: 1, ..options })
}

fn removal_of_all(store: &Path) -> RemoveOptions {
    RemoveOptions {
        store: store.into(),
        snapshots: ["head", "middle", "base"].map(str::to_owned).into(),
        dry_run: false,
        orphan_children: false,
        prune_image: false,
        set_head: None,
        index: snapcask::store::index::Index::Off,
        progress: Arc::new(Silent),
    }
}

/// Counts a run that found the chain; one that found none of it, or found it in use, is as good.
fn seen<T>(result: Result<T>, what: &str, count: &mut u64) -> std::result::Result<(), String> {
    match result {
        Ok(_) => *count += 1,
        // Before the first import there is no store either.
        Err(Error::SnapshotNotFound { .. } | Error::NotFound { what: "store", .. } | Error::InUse { .. }) => {}
        Err(error) => return Err(format!("the {what} fails: {error}")),
    }
    Ok(())
}

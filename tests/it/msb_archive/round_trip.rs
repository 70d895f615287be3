//! What is in an archive comes out of it, in every form.

use std::{collections::BTreeMap, fs, path::Path};

use snapcask::{model::Generation, report::Outcome};

use super::writer::{ALL, ALONE, Archive, With};
use crate::{
    fixture::{Fixture, GENERATIONS, Identity, fails, import_ok, run, succeeds, tree, whole_tree},
    limits::with_window,
};

const SMALL: u64 = 16 << 20;

/// Of a fixture's snapshot, what an archive holds.
fn in_archive(fixture: &Fixture, at: usize) -> BTreeMap<String, Identity> {
    let made = &fixture.snapshots[at];
    let mut files = tree(&made.directory);
    let labels = (fixture.generation == Generation::Final).then_some("metadata.json");
    files.retain(|path, _| path == made.descriptor || *path == made.disk || Some(path.as_str()) == labels);
    files
}

#[test]
fn import_restores_every_form_of_archive() {
    for generation in GENERATIONS {
        for with in [ALONE, With { parents: true, image: false }, ALL] {
            for plain in [false, true] {
                let fixture = Fixture::sized(generation, SMALL);
                let archive = Archive::of(&fixture, with);
                let path = fixture.path("a.msb");
                if plain {
                    archive.write_plain(&path)
                } else {
                    archive.write(&path)
                };
                let store = fixture.path("target");
                let report = import_ok(&path, &store);
                let expected = if with.parents { 3 } else { 1 };
                assert_eq!(report.snapshots.len(), expected);
                for (position, snapshot) in report.snapshots.iter().enumerate() {
                    assert_eq!(snapshot.outcome, Some(Outcome::Placed));
                    // Schema 1 names the head only.
                    let named = position == 0 || generation != Generation::Flat;
                    assert_eq!(snapshot.name == fixture.snapshots[2 - position].name, named, "{}", snapshot.name);
                    assert_eq!(snapshot.manifest, None);
                    assert_eq!(tree(snapshot.path.as_ref().unwrap()), in_archive(&fixture, 2 - position));
                }
                assert_eq!(report.cache_files.len(), if with.image { 5 } else { 0 });
                assert_eq!(stages_left(&store), 0);
            }
        }
    }
}

fn stages_left(store: &Path) -> usize {
    let left = |folder: &str| {
        let entries = fs::read_dir(store.join(folder)).into_iter().flatten();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(".snapcask-")).count()
    };
    left("snapshots") + left("cache")
}

#[test]
fn import_of_the_same_archive_again_finds_it_there() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (path, store) = (Archive::of(&fixture, ALL).write(&fixture.path("a.msb")), fixture.path("target"));
        import_ok(&path, &store);
        let before = whole_tree(&store);
        let report = import_ok(&path, &store);
        assert!(report.snapshots.iter().all(|snapshot| snapshot.outcome == Some(Outcome::AlreadyThere)));
        assert_eq!(whole_tree(&store), before);
    }
}

#[test]
fn archive_with_a_window_over_128_mib_needs_the_option() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let tar = Archive::of(&fixture, ALONE).tar();
    let at = |name: &str| fixture.path(name).to_str().unwrap().to_owned();
    let (long, longer) = (at("long.msb"), at("longer.msb"));
    with_window(&tar, 27, Path::new(&long));
    with_window(&tar, 29, Path::new(&longer));
    succeeds(&run(["import", &long, "--store", &at("store")]));
    succeeds(&run(["convert", &long, "-o", &at("long.tar")]));
    let why = format!(
        "the zstd window of {longer}, in bytes, is 536870912, over the limit of 134217728; --max-window raises it"
    );
    for verb in [
        vec!["import", &longer, "--store", &at("store2")],
        vec!["convert", &longer, "-o", &at("longer.tar")],
        vec!["verify", &longer],
        vec!["inspect", &longer],
    ] {
        let said = fails(&run(&verb), 1);
        assert!(said.contains(&why), "{said}");
        succeeds(&run(verb.iter().chain(&["--max-window", "512MiB"])));
    }
}

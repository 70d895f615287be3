//! Stores of older generations before and after msb 0.7 has migrated them.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use snapcask::{
    Digest, Error,
    export::{ExportOptions, Form, export},
    import::{ImportOptions, import},
    model::Generation,
    report::Outcome,
};

use super::*;

/// What a migration leaves of the old descriptor.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    Nothing,
    Hidden,
    /// It was interrupted.
    Both,
}

const OLD: [Generation; 2] = [Generation::V066, Generation::Flat];
const SIZE: u64 = 16 << 20;

/// The digest's halves, as a migration uses them.
fn halves(digest: &str) -> (String, String) {
    let hex = digest.strip_prefix("sha256:").unwrap();
    (format!("snap_{}", &hex[..32]), format!("layer_{}", &hex[32..]))
}

/// Does to a snapshot what msb 0.7 does: a `final` descriptor beside the disk, labels in a file of their own.
fn migrate(made: &Made, left: Left) {
    let old = made.directory.join(made.descriptor);
    let text = fs::read(&old).unwrap();
    let before: Value = serde_json::from_slice(&text).unwrap();
    let upper = before.get("upper").unwrap_or(&before["state"]["upper"]);
    let (id, layer) = halves(&made.identity);
    let parent = before["parent"].as_str().map(|parent| halves(parent).0);
    let after = json!({"schema": "microsandbox.snapshot/1", "snapshot_id": id, "scope": "file",
        "state": {"kind": "file", "disk_format": "raw", "filesystem": "ext4", "virtual_size": upper["size_bytes"],
            "head": layer, "layers": [{"layer_id": layer, "format": "raw", "virtual_size": upper["size_bytes"],
                "backing": null, "payload": {"file_kind": "regular", "integrity": upper["integrity"]}}]},
        "capture": {"created_at": before["created_at"].as_str().unwrap().replace('Z', ".000000000Z"),
            "source_lineage": before["source_sandbox"], "source_checkpoint": null, "consistency": "crash-consistent"},
        "image": {"reference": before["image"]["ref"], "manifest_digest": before["image"]["manifest_digest"]},
        "root_disk": {"layout": "managed"}, "parent": parent, "requires": [], "extensions": {}});
    fs::write(made.directory.join("snapshot.json"), after.to_string()).unwrap();
    write(made.directory.join("metadata.json"), br#"{"schema":"microsandbox.snapshot-metadata/1","labels":{"a":"b"}}"#);
    match (made.descriptor, left) {
        ("manifest.json", Left::Hidden) => fs::rename(&old, made.directory.join(".manifest.json.legacy")).unwrap(),
        ("manifest.json", Left::Nothing) => fs::remove_file(&old).unwrap(),
        _ => {}
    }
}

/// A chain of an older generation; those of `migrated` have been migrated.
fn store(generation: Generation, migrated: &[usize], left: Left) -> Fixture {
    let fixture = Fixture::sized(generation, SIZE);
    migrated.iter().for_each(|at| migrate(&fixture.snapshots[*at], left));
    fixture
}

/// The states of old descriptors that a generation can have.
fn left_by(generation: Generation) -> Vec<Left> {
    match generation {
        Generation::V066 => vec![Left::Nothing, Left::Hidden, Left::Both],
        _ => vec![Left::Nothing],
    }
}

#[test]
fn migrated_chain_is_restored_with_its_disks_where_msb_finds_them() {
    for generation in OLD {
        let mut first: Option<Vec<Digest>> = None;
        for left in left_by(generation) {
            let fixture = store(generation, &[0, 1, 2], left);
            for form in FORMS {
                let path = fixture.path(form_name(form));
                let report = bundle(&fixture.store, "head", form, &path);
                // Whatever a migration leaves, and wherever the disk stands, the bundle is the same.
                assert_eq!(&manifests(&report), first.get_or_insert_with(|| manifests(&report)), "{left:?} {form:?}");
                let target = fixture.path(&format!("store-{}", form.as_str()));
                for (copy, made) in paths(&import_ok(&path, &target)).iter().zip(fixture.snapshots.iter().rev()) {
                    let (_, layer) = halves(&made.identity);
                    assert_eq!(
                        identity(&copy.join(format!("layers/{layer}.raw"))),
                        identity(&made.directory.join("upper.ext4")),
                        "{generation:?} {left:?} {form:?}"
                    );
                    assert!(!copy.join("upper.ext4").exists() && !copy.join("manifest.json").exists());
                    let descriptor = |d: &Path| fs::read(d.join("snapshot.json")).unwrap();
                    assert_eq!(descriptor(copy), descriptor(&made.directory));
                }
                succeeds(&run(["check", "--store", target.to_str().unwrap()]));
                succeeds(&run(["verify", "--deep", path.to_str().unwrap()]));
                let head = paths(&import_ok(&path, &target))[0].display().to_string();
                let again = bundle(&target, &head, Form::Dir, &fixture.path(&format!("again-{}", form.as_str())));
                assert_eq!(manifests(&again), manifests(&report));
            }
        }
    }
}

#[test]
fn original_and_migrated_are_one_snapshot_to_an_import() {
    for generation in OLD {
        for left in left_by(generation) {
            let original = store(generation, &[], left);
            let migrated = store(generation, &[0, 1, 2], left);
            for (from, onto) in [(&original, &migrated), (&migrated, &original)] {
                let path = from.path("bundle.tar");
                bundle(&from.store, "head", Form::Tar, &path);
                let before = whole_tree(&onto.store.join("snapshots"));
                let report = import_ok(&path, &onto.store);
                for (snapshot, made) in report.snapshots.iter().zip(onto.snapshots.iter().rev()) {
                    assert_eq!(snapshot.outcome, Some(Outcome::AlreadyThere), "{generation:?} {left:?}");
                    assert_eq!(snapshot.path.as_deref(), Some(&*made.directory));
                    assert!(snapshot.more_files.is_empty(), "{:?}", snapshot.more_files);
                }
                let mut after = whole_tree(&onto.store.join("snapshots"));
                after.retain(|path, _| !path.starts_with('.'));
                assert_eq!(before, after, "an import of what is there changes nothing");
            }
        }
    }
}

#[test]
fn original_onto_a_migrated_snapshot_with_another_disk_is_refused() {
    for generation in OLD {
        let original = store(generation, &[], Left::Nothing);
        let path = original.path("bundle.tar");
        export(&original.export_options(Form::Tar, &path)).unwrap();
        let head = |fixture: &Fixture| fixture.head().directory.clone();
        // One byte of the disk.
        let migrated = store(generation, &[0, 1, 2], Left::Nothing);
        damage(&head(&migrated).join("upper.ext4"));
        let error = import(&import_options(&path, &migrated.store)).unwrap_err();
        assert!(matches!(error, Error::Different { .. }), "{error}");
        // A descriptor that only claims to be the original's.
        let migrated = store(generation, &[0, 1, 2], Left::Nothing);
        let descriptor = head(&migrated).join("snapshot.json");
        let text = fs::read_to_string(&descriptor).unwrap().replace("crash-consistent", "filesystem-consistent");
        fs::write(&descriptor, text).unwrap();
        let error = import(&import_options(&path, &migrated.store)).unwrap_err();
        assert!(matches!(error, Error::Different { .. }), "{error}");
    }
}

#[test]
fn children_find_parents_on_the_other_side_of_a_migration() {
    for generation in OLD {
        for migrated in [&[0][..], &[1], &[2], &[0, 1], &[0, 2], &[1, 2]] {
            let fixture = store(generation, migrated, Left::Nothing);
            let path = fixture.path("bundle.tar");
            let report = bundle(&fixture.store, "head", Form::Tar, &path);
            assert_eq!(report.snapshots.len(), 3, "{generation:?} {migrated:?}");
            succeeds(&run(["verify", "--deep", path.to_str().unwrap()]));
            let target = fixture.path("target");
            let placed = paths(&import_ok(&path, &target));
            for (at, copy) in placed.iter().rev().enumerate() {
                let (_, layer) = halves(&fixture.snapshots[at].identity);
                let disk = if migrated.contains(&at) { format!("layers/{layer}.raw") } else { "upper.ext4".into() };
                assert_eq!(identity(&copy.join(disk)), identity(&fixture.snapshots[at].directory.join("upper.ext4")));
            }
            succeeds(&run(["check", "--store", target.to_str().unwrap()]));
            // A child of the other state goes over a parent that is there.
            let original = store(generation, &[], Left::Nothing);
            let child = original.path("child.tar");
            bundle(&original.store, "head", Form::Tar, &child);
            let parents = original.path("parents");
            fs::create_dir_all(parents.join("snapshots")).unwrap();
            for made in &fixture.snapshots[..2] {
                let to = parents.join("snapshots").join(&made.name);
                succeeds(&std::process::Command::new("cp").arg("-a").args([&made.directory, &to]).output().unwrap());
            }
            let report = import_ok(&child, &parents);
            let outcomes: Vec<_> = report.snapshots.iter().map(|s| s.outcome.unwrap()).collect();
            assert_eq!(outcomes, [Outcome::Placed, Outcome::AlreadyThere, Outcome::AlreadyThere]);
            assert_same_snapshot(original.head(), &paths(&report)[0]);
        }
    }
}

#[test]
fn migrated_snapshot_answers_to_the_digest_that_it_had() {
    for generation in OLD {
        let fixture = store(generation, &[0, 1, 2], Left::Nothing);
        let found = snapcask::store::Store::at(&fixture.store).find(&fixture.snapshots[1].identity).unwrap();
        assert_eq!(found.name, "middle");
    }
}

#[test]
fn two_descriptors_of_different_snapshots_are_refused() {
    let fixture = store(Generation::V066, &[0, 1, 2], Left::Both);
    let head = &fixture.head().directory;
    fs::copy(fixture.snapshots[0].directory.join("manifest.json"), head.join("manifest.json")).unwrap();
    let error = export(&fixture.export_options(Form::Dir, &fixture.path("bundle"))).unwrap_err();
    assert!(error.to_string().contains("both manifest.json and snapshot.json"), "{error}");
}

/// A store that an import made, and that msb has migrated since.
fn migrated_since(generation: Generation, left: Left) -> (Fixture, PathBuf, Vec<Made>) {
    let fixture = store(generation, &[], left);
    let (path, target) = (fixture.path("bundle.tar"), fixture.path("target"));
    bundle(&fixture.store, "head", Form::Tar, &path);
    let report = import_ok(&path, &target);
    let mut placed = fixture.snapshots.clone();
    for (made, directory) in placed.iter_mut().rev().zip(paths(&report)) {
        made.directory = directory;
        migrate(made, left);
    }
    (fixture, target, placed)
}

#[test]
fn migration_after_an_import_is_no_damage() {
    for generation in OLD {
        for left in left_by(generation) {
            let (fixture, target, placed) = migrated_since(generation, left);
            let store = target.to_str().unwrap();
            succeeds(&run(["check", "--store", store]));
            let report = bundle(&target, "head", Form::Tar, &fixture.path("migrated.tar"));
            assert_eq!(report.snapshots.len(), 3);

            // What was imported is still bound to what it was.
            let disk = placed[2].directory.join("upper.ext4");
            damage(&disk);
            let text = stdout(&run(["check", "--store", store]));
            assert!(text.contains("file-corrupt") && text.contains("upper.ext4"), "{text}");
            let error = export(&ExportOptions {
                force: true,
                ..export_options(&target, "head", Form::Tar, &fixture.path("again.tar"))
            });
            assert!(matches!(error.unwrap_err(), Error::NotAsImported { .. }));
            let options = import_options(&fixture.path("bundle.tar"), &target);
            assert!(matches!(import(&ImportOptions { ..options }).unwrap_err(), Error::Different { .. }));
        }
    }
}

/// Changes one byte of a disk.
fn damage(disk: &Path) {
    let disk = fs::OpenOptions::new().write(true).open(disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, b"x", 5 << 20).unwrap();
}

#[test]
fn snapshot_that_was_migrated_since_its_import_is_repaired_from_either_bundle() {
    for generation in OLD {
        for left in left_by(generation).into_iter().filter(|left| *left != Left::Both) {
            let (fixture, target, placed) = migrated_since(generation, left);
            let migrated = store(generation, &[0, 1, 2], Left::Nothing);
            bundle(&migrated.store, "head", Form::Tar, &fixture.path("migrated.tar"));
            for from in ["bundle.tar", "migrated.tar"] {
                let head = &placed[2].directory;
                let before = fs::read(head.join("snapshot.json")).unwrap();
                let disk = snapcask::snapshot::scan(&snapcask::snapshot::Snapshot::open(head).unwrap()).unwrap();
                let disk = disk.iter().find(|file| file.path.as_str().ends_with(".raw")).unwrap().absolute.clone();
                let good = identity(&disk);
                damage(&disk);
                let from = fixture.path(from);
                let arguments = [Path::new("check"), Path::new("--store"), &target, Path::new("--repair-from"), &from];
                succeeds(&run(arguments));
                succeeds(&run(["check", "--store", target.to_str().unwrap()]));
                // msb knows it by this descriptor.
                assert_eq!(fs::read(head.join("snapshot.json")).unwrap(), before);
                assert!(!head.join("manifest.json").exists());
                let files = snapcask::snapshot::scan(&snapcask::snapshot::Snapshot::open(head).unwrap()).unwrap();
                let disks: Vec<_> = files.iter().filter(|file| file.size == SIZE).collect();
                assert_eq!(disks.len(), 1, "{disks:?}");
                assert_eq!(identity(&disks[0].absolute), good);
                assert_eq!(head.join(".manifest.json.legacy").exists(), left == Left::Hidden);
            }
        }
    }
}

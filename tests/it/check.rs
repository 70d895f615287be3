//! `check`: every kind of damage has its code, and repair makes it as it was.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use snapcask::{
    check::{CheckOptions, check},
    export::{ExportOptions, Form},
    import::{BundleLocation, ImportOptions, import},
    model::Generation,
    progress::Silent,
    report::CheckReport,
};

use crate::{fixture::*, layout_checks::validate};

const SMALL: u64 = 16 << 20;

fn options(store: &Path, repair_from: Option<&Path>) -> CheckOptions {
    let repair_from = repair_from.map(|path| BundleLocation::path(path.into()));
    CheckOptions {
        store: store.into(),
        repair: repair_from.map_or(snapcask::check::Repairs::Nothing, snapcask::check::Repairs::From),
        index: snapcask::store::index::Index::Off,
        jobs: 2,
        progress: Arc::new(Silent),
    }
}

fn checked(store: &Path) -> CheckReport {
    check(&options(store, None)).unwrap()
}

fn codes(report: &CheckReport) -> Vec<(&'static str, &str)> {
    report.findings.iter().map(|f| (f.code, f.subject.as_str())).collect()
}

/// A chain with its image, imported: fixture, bundle, store, the head's directory.
fn imported(generation: Generation, form: Form) -> (Fixture, PathBuf, PathBuf, PathBuf) {
    let fixture = Fixture::sized(generation, SMALL);
    let (bundle, store) = (fixture.path(form_name(form)), fixture.path("target"));
    fixture.export_chain(form, &bundle);
    let head = import_ok(&bundle, &store).snapshots[0].path.clone().unwrap();
    (fixture, bundle, store, head)
}

/// Another byte at the same size, and the same time.
fn poison(path: &Path, at: u64) {
    let times = fs::metadata(path).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(times).unwrap();
}

#[test]
fn a_fresh_import_is_good() {
    for generation in GENERATIONS {
        let (_fixture, _, store, _) = imported(generation, Form::TarZst);
        let report = checked(&store);
        assert_eq!(codes(&report), []);
        assert_eq!((report.snapshots, report.recorded), (3, 3));
        assert!(report.files > 3 * 6 && report.data_bytes > 100_000, "{report:?}");
    }
}

#[test]
fn a_store_that_nobody_imported_into_is_good() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let report = checked(&fixture.store);
        assert_eq!(codes(&report), []);
        assert_eq!((report.snapshots, report.recorded), (3, 0));
    }
}

#[test]
fn every_kind_of_damage_is_found_and_repaired() {
    type Damage = fn(&Fixture, &Path);
    let cases: &[(&str, &str, Damage)] = &[
        ("file-corrupt", "DISK", |f, head| poison(&head.join(&f.head().disk), 4096)),
        ("file-corrupt", "state.bin", |_, head| poison(&head.join("state.bin"), 0)),
        ("file-corrupt", "empty", |_, head| fs::write(head.join("empty"), "x").unwrap()),
        ("file-missing", "notes.txt", |_, head| fs::remove_file(head.join("notes.txt")).unwrap()),
        ("file-mode", "bin/run.sh", |_, head| chmod(&head.join("bin/run.sh"), 0o644)),
        ("directory-invalid", "", |_, head| std::os::unix::fs::symlink("/etc/passwd", head.join("evil")).unwrap()),
        ("descriptor-invalid", "", |f, head| fs::write(head.join(f.head().descriptor), "{").unwrap()),
        ("descriptor-changed", "", |f, head| {
            let path = head.join(f.head().descriptor);
            let text = fs::read_to_string(&path).unwrap().replace("2026-05-03", "2026-05-04");
            fs::write(path, text).unwrap();
        }),
    ];
    for generation in GENERATIONS {
        let (fixture, bundle, store, head) = imported(generation, Form::TarZst);
        let before = whole_tree(&store);
        for (code, file, damage) in cases {
            damage(&fixture, &head);
            let file = if *file == "DISK" { fixture.head().disk.as_str() } else { file };
            let subject =
                head.join(file).strip_prefix(&store).unwrap().to_str().unwrap().trim_end_matches('/').to_owned();
            let report = checked(&store);
            assert!(codes(&report).contains(&(*code, subject.as_str())), "{code} {subject}: {report:?}");
            assert!(report.findings.iter().all(|f| f.subject.starts_with(&*subject_of(&store, &head))), "{report:?}");
            let report = check(&options(&store, Some(&bundle))).unwrap();
            assert_eq!(codes(&report), [], "{code}");
            assert!(report.repaired.iter().any(|f| f.code == *code), "{report:?}");
            assert_eq!(whole_tree(&store), before, "{code} {generation:?}");
        }
    }
}

/// What somebody put beside an import is theirs, whatever is wrong with the rest.
#[test]
fn a_repair_leaves_what_the_bundle_does_not_bring() {
    for generation in GENERATIONS {
        let (fixture, bundle, store, head) = imported(generation, Form::Tar);
        let own = ["new", "bin/own.txt", "more/below/x", ".keep/y", "own.lock"].map(|name| head.join(name));
        own.iter().for_each(|path| write(path.clone(), b"mine"));
        chmod(&head.join(".keep"), 0o700);
        chmod(&head, 0o750);
        let alone = whole_tree(&store);
        let unexpected = |report: &CheckReport| {
            let found: Vec<_> = codes(report).iter().map(|(code, subject)| (*code, store.join(subject))).collect();
            assert!(found.iter().all(|(code, _)| *code == "file-unexpected"), "{report:?}");
            assert!(own[..3].iter().all(|path| found.iter().any(|(_, subject)| subject == path)), "{report:?}");
            assert_eq!(found.len(), 3);
        };
        let report = check(&options(&store, Some(&bundle))).unwrap();
        unexpected(&report);
        assert_eq!(report.repaired, []);
        assert_eq!(whole_tree(&store), alone, "there was nothing to repair");
        poison(&head.join(&fixture.head().disk), 4096);
        let report = check(&options(&store, Some(&bundle))).unwrap();
        unexpected(&report);
        assert_eq!(report.repaired.len(), 1);
        assert_eq!(whole_tree(&store), alone);

        // A folder in the place of a file that is brought back has no other place.
        fs::remove_file(head.join("notes.txt")).unwrap();
        write(head.join("notes.txt/inside"), b"mine");
        let before = whole_tree(&store);
        let report = check(&options(&store, Some(&bundle))).unwrap();
        validate("check-report", &serde_json::to_value(&report).unwrap());
        let refused = report.findings.iter().find(|finding| finding.code == "repair-refused").unwrap();
        assert!(refused.message.ends_with("notes.txt holds something and would be lost; move it away"), "{refused:?}");
        assert_eq!(whole_tree(&store), before);
        fs::remove_dir_all(head.join("notes.txt")).unwrap();
        fs::rename(head.join("bin"), fixture.path("bin")).unwrap();
        write(head.join("bin"), b"mine");
        let before = whole_tree(&store);
        let report = check(&options(&store, Some(&bundle))).unwrap();
        let refused = report.findings.iter().find(|finding| finding.code == "repair-refused").unwrap();
        assert!(refused.message.ends_with("bin would be lost for a folder; move it away"), "{refused:?}");
        assert_eq!(whole_tree(&store), before);
        fs::remove_file(head.join("bin")).unwrap();
        fs::rename(fixture.path("bin"), head.join("bin")).unwrap();

        // Nor may another descriptor be carried over.
        let other = if fixture.head().descriptor == "manifest.json" { "snapshot.json" } else { "manifest.json" };
        write(head.join(other), b"{}");
        let report = check(&options(&store, Some(&bundle))).unwrap();
        assert!(
            report.findings.iter().any(|f| f.message.contains("is not its descriptor; move it away")),
            "{report:?}"
        );
        fs::remove_file(head.join(other)).unwrap();
        unexpected(&check(&options(&store, Some(&bundle))).unwrap());
    }
}

/// Labels are their owner's to change: `metadata.json` of a `final` snapshot, which no descriptor binds.
#[test]
fn labels_that_changed_are_no_damage() {
    let (fixture, bundle, store, head) = imported(Generation::Final, Form::Tar);
    let labels = head.join("metadata.json");
    write(labels.clone(), br#"{"labels":{"name":"mine"}}"#);
    assert_eq!(codes(&checked(&store)), []);
    poison(&head.join(&fixture.head().disk), 4096);
    let report = check(&options(&store, Some(&bundle))).unwrap();
    assert_eq!((codes(&report), report.repaired.len()), (vec![], 1));
    assert_eq!(fs::read(&labels).unwrap(), br#"{"labels":{"name":"mine"}}"#);
    // They travel as they are now. What the bundle has is something else, and an import says so.
    let id = fixture.head().identity.as_str();
    snapcask::export::export(&export_options(&store, id, Form::Tar, &fixture.path("again.tar"))).unwrap();
    let error = import(&import_options(&bundle, &store)).unwrap_err();
    assert!(matches!(error, snapcask::Error::Different { .. }), "{error}");
    // A bundle with other labels repairs the rest.
    poison(&head.join(&fixture.head().disk), 4096);
    let report = check(&options(&store, Some(&fixture.path("again.tar")))).unwrap();
    assert_eq!((codes(&report), report.repaired.len()), (vec![], 1));
    write(labels.clone(), br#"{"labels":{}}"#);
    poison(&head.join(&fixture.head().disk), 4096);
    assert_eq!(codes(&check(&options(&store, Some(&bundle))).unwrap()), []);
    assert_eq!(fs::read(&labels).unwrap(), br#"{"labels":{}}"#);
    // What is no labels is damage.
    write(labels.clone(), b"{\"labels\":");
    assert!(codes(&checked(&store)).iter().any(|(code, _)| *code == "file-corrupt"));
    assert_eq!(codes(&check(&options(&store, Some(&bundle))).unwrap()), []);
    fs::remove_file(&labels).unwrap();
    assert!(codes(&checked(&store)).iter().any(|(code, _)| *code == "file-missing"));
}

fn subject_of(store: &Path, path: &Path) -> String {
    path.strip_prefix(store).unwrap().to_str().unwrap().into()
}

/// skopeo copies a head without its ancestors. What it restored, it repairs.
#[test]
fn repair_from_a_copy_without_the_parents_manifest() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle"), fixture.path("target"));
    let manifests: Vec<_> =
        fixture.export_chain(Form::Dir, &bundle).snapshots.iter().map(|s| s.manifest.unwrap()).collect();
    let mut index = json_file(&bundle.join("index.json"));
    index["manifests"].as_array_mut().unwrap().truncate(1);
    fs::write(bundle.join("index.json"), index.to_string()).unwrap();
    manifests[1..].iter().for_each(|gone| fs::remove_file(bundle.join("blobs/sha256").join(gone.hex())).unwrap());
    import(&ImportOptions { head_only: true, ..import_options(&bundle, &store) }).unwrap();
    let before = whole_tree(&store);
    poison(&store.join("snapshots/head/upper.ext4"), 4096);
    let report = check(&options(&store, Some(&bundle))).unwrap();
    assert_eq!((codes(&report), report.repaired.len()), (vec![], 1));
    assert_eq!(whole_tree(&store), before);
    let bundle = bundle.to_str().unwrap();
    let shown: Value = serde_json::from_str(&succeeds(&run(["inspect", bundle, "--json"]))).unwrap();
    assert_eq!(shown["snapshots"].as_array().unwrap().len(), 1);
    // A copy would lack them, too.
    let text = fails(&run(["copy", bundle, fixture.path("copy.tar").to_str().unwrap()]), 3);
    assert!(text.contains("`import` and `verify` take --head-only"), "{text}");
    // The head itself is no parent.
    fs::remove_file(fixture.path("bundle/blobs/sha256").join(manifests[0].hex())).unwrap();
    assert!(check(&options(&store, Some(&fixture.path("bundle")))).is_ok(), "nothing is bad");
    poison(&store.join("snapshots/head/upper.ext4"), 4096);
    assert!(check(&options(&store, Some(&fixture.path("bundle")))).is_err());
}

#[test]
fn repair_works_from_every_form_and_without_the_parents() {
    for form in [Form::Dir, Form::Tar, Form::TarZst] {
        let (fixture, bundle, store, head) = imported(Generation::Flat, form);
        let before = whole_tree(&store);
        for snapshot in ["base", "middle", "head"] {
            poison(&store.join("snapshots").join(snapshot).join("upper.ext4"), 4096);
        }
        let report = check(&options(&store, Some(&bundle))).unwrap();
        assert_eq!((codes(&report), report.repaired.len()), (vec![], 3));
        assert_eq!(whole_tree(&store), before);
        assert_same_snapshot(fixture.head(), &head);
    }
}

#[test]
fn the_image_cache() {
    let (_fixture, bundle, store, _) = imported(Generation::V066, Form::TarZst);
    let before = whole_tree(&store);
    let files: Vec<String> = before.keys().filter(|p| p.starts_with("cache/") && !p.ends_with('/')).cloned().collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in &files {
        let path = store.join(file);
        // A digit of a VMDK's comment or number, a letter of an image's config, a byte of a filesystem.
        let config = fs::read(&path).unwrap().windows(5).position(|bytes| bytes == b"amd64");
        poison(
            &path,
            match config {
                Some(at) => at as u64,
                None if file.contains("vmdk") => 2,
                None => fs::metadata(&path).unwrap().len() / 2,
            },
        );
        let report = checked(&store);
        assert!(codes(&report).contains(&("cache-corrupt", file)), "{file}: {report:?}");
        assert_eq!(codes(&check(&options(&store, Some(&bundle))).unwrap()), []);
        assert_eq!(whole_tree(&store), before);
        fs::remove_file(&path).unwrap();
        assert!(codes(&checked(&store)).contains(&("cache-missing", file)), "{file}");
        assert_eq!(codes(&check(&options(&store, Some(&bundle))).unwrap()), []);
        assert_eq!(whole_tree(&store), before);
    }
    // A VMDK that leads elsewhere.
    let vmdk = store.join(files.iter().find(|f| f.contains("vmdk/")).unwrap());
    let text = fs::read_to_string(&vmdk).unwrap().replace(store.to_str().unwrap(), "/elsewhere");
    fs::write(&vmdk, text).unwrap();
    assert!(checked(&store).findings.iter().any(|f| f.message.contains("outside of")));
}

#[test]
fn raw_documents_without_a_record() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let folder = fixture.store.join("cache/manifests");
    let path = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&path).unwrap().replace("amd64", "arm64");
    fs::write(&path, text).unwrap();
    let report = checked(&fixture.store);
    assert!(report.findings.iter().any(|f| f.code == "image-document"), "{report:?}");
    let layers = fixture.store.join("cache/layers");
    fs::remove_dir_all(&layers).unwrap();
    let report = checked(&fixture.store);
    assert!(report.findings.iter().any(|f| f.code == "image-layer-missing"), "{report:?}");
    assert!(report.findings.iter().any(|f| f.code == "image-invalid"), "{report:?}");
}

/// A tag has moved on, perhaps because a snapshot of the newer image was made here.
#[test]
fn the_metadata_of_a_newer_image_is_no_damage() {
    let (_fixture, bundle, store, _head) = imported(Generation::V066, Form::Tar);
    let path = metadata_of_a_newer_image(&store);
    assert_eq!(codes(&checked(&store)), []);
    let newer = json_file(&path)["manifest_digest"].as_str().unwrap().to_owned();
    let (older, directory) = (snapcask::Digest::of(IMAGE_MANIFEST.as_bytes()).to_string(), store.join("snapshots/own"));
    let base = fs::read_to_string(store.join("snapshots/base/manifest.json")).unwrap();
    fs::create_dir(&directory).unwrap();
    fs::copy(store.join("snapshots/base/upper.ext4"), directory.join("upper.ext4")).unwrap();
    let before = |store: &Path| whole_tree(&store.join("cache"));
    let cache = before(&store);
    let pins = |reference: &str| {
        let own = base.replace(&older, &newer).replace(IMAGE_REFERENCE, reference);
        write(directory.join("manifest.json"), own.as_bytes());
        let report = check(&options(&store, Some(&bundle))).unwrap();
        assert_eq!(before(&store), cache);
        report.findings.iter().filter(|f| f.subject.contains("/manifests/")).map(|f| f.code).collect::<Vec<_>>()
    };
    assert!(pins(IMAGE_REFERENCE).is_empty());
    // So does one that came without its image.
    let own = store.with_file_name("own.tar");
    snapcask::export::export(&export_options(&store, "own", Form::Tar, &own)).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    let placed = import_ok(&own, &store).snapshots[0].path.clone().unwrap();
    assert_eq!((placed.as_path(), codes(&checked(&store))), (directory.as_path(), vec![]));
    assert_eq!(before(&store), cache);
    fs::remove_file(directory.join(".snapcask.json")).unwrap();
    // Whatever its reference is, the older image's metadata is there under its own key.
    assert!(pins("docker.io/library/other:1").is_empty());
}

#[test]
fn parents_leftovers_and_records() {
    let (_fixture, bundle, store, head) = imported(Generation::Flat, Form::Tar);
    fs::remove_dir_all(store.join("snapshots/base")).unwrap();
    assert_eq!(codes(&checked(&store)), [("parent-missing", "snapshots/middle")]);
    import_ok(&bundle, &store);
    assert_eq!(codes(&checked(&store)), []);

    // A dead stage is a finding, a live one is not.
    for folder in ["snapshots", "cache"] {
        let dead = store.join(folder).join(".snapcask-stage-dead");
        write(dead.join(".lock"), b"");
        write(dead.join("0/upper.ext4"), b"half");
        let live = snapcask::store::place::Stage::create(&store.join("other")).unwrap();
        let moved = store.join(folder).join(".snapcask-stage-live");
        fs::rename(live.path(), &moved).unwrap();
        assert_eq!(codes(&checked(&store)), [("leftover", &*format!("{folder}/.snapcask-stage-dead"))]);
        let report = check(&options(&store, Some(&bundle))).unwrap();
        assert_eq!((codes(&report), report.repaired.len()), (vec![], 1));
        assert!(!dead.exists() && moved.exists());
        drop(live);
        fs::remove_dir_all(moved).unwrap();
    }
    fs::write(head.join(".snapcask.json"), "{}").unwrap();
    assert_eq!(codes(&checked(&store)), [("record-invalid", "snapshots/head/.snapcask.json")]);
    assert_eq!(codes(&check(&options(&store, Some(&bundle))).unwrap()), []);
    assert_eq!(checked(&store).recorded, 3);
}

#[test]
fn recorded_integrity_without_a_record_of_an_import() {
    let mut fixture = Fixture::empty(Generation::Flat);
    let sha = snapcask::Digest::of(&vec![0; 1 << 20]).to_string();
    let integrity = serde_json::json!({ "algorithm": "sha256", "digest": sha });
    fixture.add("a", 0, 1 << 20, &[], integrity);
    assert_eq!(codes(&checked(&fixture.store)), []);
    fixture.head();
    let disk = fixture.head().directory.join("upper.ext4");
    fs::OpenOptions::new().write(true).open(disk).unwrap().write_all_at(b"x", 5).unwrap();
    assert_eq!(codes(&checked(&fixture.store)), [("recorded-integrity", "snapshots/a/upper.ext4")]);
}

#[test]
fn repair_refuses_another_snapshot() {
    let (fixture, _, store, head) = imported(Generation::Flat, Form::TarZst);
    poison(&head.join("state.bin"), 7);
    // The same descriptor over other files: the same digest, not the same snapshot.
    write(fixture.head().directory.join("notes.txt"), b"other notes");
    let other = fixture.path("other.tar");
    fixture.export_chain(Form::Tar, &other);
    let before = whole_tree(&store);
    let report = check(&options(&store, Some(&other))).unwrap();
    assert_eq!(codes(&report), [("file-corrupt", "snapshots/head/state.bin"), ("repair-refused", "snapshots/head")]);
    assert!(report.findings[1].message.contains("with other files"), "{report:?}");
    assert_eq!(whole_tree(&store), before);
    // A bundle that does not have it: the finding stays.
    let unrelated = Fixture::sized(Generation::V066, SMALL);
    let bundle = unrelated.path("b.tar");
    unrelated.export_chain(Form::Tar, &bundle);
    let report = check(&options(&store, Some(&bundle))).unwrap();
    assert_eq!(codes(&report), [("file-corrupt", "snapshots/head/state.bin"), ("repair-refused", "snapshots/head")]);
    assert!(report.findings[1].message.contains("the bundle does not hold"), "{report:?}");
    assert_eq!(whole_tree(&store), before);
    // A corrupt bundle repairs nothing.
    write(fixture.head().directory.join("notes.txt"), b"notes of head\n");
    let broken = fixture.path("broken");
    fixture.export_chain(Form::Dir, &broken);
    for hex in blobs(&broken) {
        let path = broken.join("blobs/sha256").join(hex);
        // Layers; documents are text.
        let bytes = fs::read(&path).unwrap();
        if bytes[0] != b'{' {
            poison(&path, bytes.len() as u64 / 2);
        }
    }
    let report = check(&options(&store, Some(&broken))).unwrap();
    assert_eq!(codes(&report)[1], ("repair-refused", "snapshots/head"));
    assert!(report.findings[1].message.contains("is corrupt"), "{report:?}");
    assert_eq!(whole_tree(&store), before);
}

#[test]
fn the_command() {
    let (_fixture, bundle, store, head) = imported(Generation::Final, Form::TarZst);
    let (store, bundle) = (store.to_str().unwrap(), bundle.to_str().unwrap());
    let text = succeeds(&run(["check", "--store", store]));
    assert!(text.contains("good; 3 snapshots"), "{text}");
    poison(&head.join("state.bin"), 7);
    let output = run(["check", "--store", store, "--quiet"]);
    assert!(fails(&output, 3).contains("1 finding"));
    let text = stdout(&output);
    assert!(text.starts_with("file-corrupt  snapshots/msb-") && text.lines().count() == 1, "{text}");
    let output = run(["check", "--store", store, "--json"]);
    fails(&output, 3);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    validate("check-report", &report);
    assert_eq!(report["findings"][0]["code"], "file-corrupt");
    let output = run(["check", "--store", store, "--repair-from", bundle, "--json"]);
    let report: Value = serde_json::from_str(&succeeds(&output)).unwrap();
    validate("check-report", &report);
    assert_eq!(report["repaired"][0]["code"], "file-corrupt");
    assert!(succeeds(&run(["check", "--store", store])).contains("good"));
    fails(&run(["check", "--store", "/nonexistent/store"]), 4);
    // A store's folder that is none.
    fails(&run(["check", "--store", "/etc"]), 4);
    // Before the long look at the store, which is good.
    fails(&run(["check", "--store", store, "--repair-from", "/nonexistent.tar"]), 4);
    fails(&run(["check", "stray", "--store", store]), 2);
}

#[test]
fn missing_parents_and_a_missing_cache_come_back() {
    for generation in GENERATIONS {
        let (fixture, bundle, store, head) = imported(generation, Form::TarZst);
        let before = whole_tree(&store);
        fs::remove_dir_all(store.join("cache")).unwrap();
        for made in &fixture.snapshots[..2] {
            let place = if generation == Generation::Final { &made.identity } else { &made.name };
            fs::remove_dir_all(head.parent().unwrap().join(place)).unwrap();
        }
        let report = checked(&store);
        assert!(report.findings.iter().any(|f| f.code == "parent-missing"), "{report:?}");
        assert!(report.findings.iter().filter(|f| f.code == "cache-missing").count() >= 5, "{report:?}");
        let report = check(&options(&store, Some(&bundle))).unwrap();
        assert_eq!(codes(&report), []);
        assert_eq!(whole_tree(&store), before);
    }
}

#[test]
fn what_was_imported_without_its_parent_misses_none() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, alone) = (fixture.path("chain.tar"), fixture.path("alone.tar"));
        fixture.export_chain(Form::Tar, &bundle);
        snapcask::export::export(&fixture.export_options(Form::Tar, &alone)).unwrap();
        for (source, head_only) in [(&bundle, true), (&alone, false)] {
            let store = fixture.path("target");
            import(&ImportOptions { head_only, ..import_options(source, &store) }).unwrap();
            assert_eq!(codes(&checked(&store)), []);
            // A repair keeps that in mind.
            let report = import_ok(source, &store);
            let head = report.snapshots[0].path.clone().unwrap();
            poison(&head.join("state.bin"), 9);
            assert_eq!(codes(&check(&options(&store, Some(source))).unwrap()), []);
            assert_eq!(codes(&checked(&store)), []);
            fs::remove_dir_all(&store).unwrap();
        }
    }
}

/// What came by an exchange may be anything: the next repair must not open it.
#[test]
fn several_snapshots_with_strange_things_in_them() {
    let (_fixture, bundle, store, _) = imported(Generation::Flat, Form::TarZst);
    let before = whole_tree(&store);
    for name in ["base", "middle", "head"] {
        let folder = store.join("snapshots").join(name);
        std::os::unix::fs::symlink("/nonexistent/target", folder.join("dangling")).unwrap();
        let pipe = folder.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        write(folder.join(".mine"), b"a file that no check looks at");
    }
    let report = check(&options(&store, Some(&bundle))).unwrap();
    assert_eq!((codes(&report), report.repaired.len()), (vec![], 3));
    for name in ["base", "middle", "head"] {
        let mine = store.join("snapshots").join(name).join(".mine");
        assert_eq!(fs::read(&mine).unwrap(), b"a file that no check looks at");
        fs::remove_file(mine).unwrap();
    }
    assert_eq!(whole_tree(&store), before);
}

/// A descriptor that records no integrity says nothing of the disk: another bundle's disk does not replace it.
#[test]
fn without_a_record_nothing_is_replaced_that_may_be_good() {
    let (fixture, bundle, store, head) = imported(Generation::Flat, Form::TarZst);
    // The record is lost, and the disk is newer than the bundle.
    fs::write(head.join(".snapcask.json"), "").unwrap();
    poison(&head.join("upper.ext4"), 4096);
    let before = whole_tree(&store);
    let report = check(&options(&store, Some(&bundle))).unwrap();
    assert_eq!(
        codes(&report),
        [("record-invalid", "snapshots/head/.snapcask.json"), ("repair-refused", "snapshots/head")]
    );
    assert!(report.findings[1].message.contains("its upper.ext4 is not the bundle's"), "{report:?}");
    assert_eq!(whole_tree(&store), before);
    // A snapshot that was never imported, with a link in it and a file that the bundle lacks.
    let native = &fixture.head().directory;
    write(native.join("new.txt"), b"mine");
    let before = whole_tree(&fixture.store);
    std::os::unix::fs::symlink("/etc/passwd", native.join("evil")).unwrap();
    let report = check(&options(&fixture.store, Some(&bundle))).unwrap();
    assert_eq!(codes(&report), [("directory-invalid", "snapshots/head"), ("repair-refused", "snapshots/head")]);
    assert!(report.findings[1].message.contains("does not have its new.txt"), "{report:?}");
    fs::remove_file(native.join("evil")).unwrap();
    assert_eq!(whole_tree(&fixture.store), before);
}

/// A base that stands on nothing has a parent all the same; and what was imported alone may get its parent later.
#[test]
fn a_parent_that_was_there_is_missed() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (chain, plain, store) = (fixture.path("chain.tar"), fixture.path("plain.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &chain);
    let no_delta = fixture.export_options(Form::Tar, &plain);
    snapcask::export::export(&ExportOptions { with_parents: true, delta: false, ..no_delta }).unwrap();
    for first in [None, Some(ImportOptions { head_only: true, ..import_options(&plain, &store) })] {
        if let Some(alone) = first {
            import(&alone).unwrap();
            assert_eq!(codes(&checked(&store)), []);
        }
        import_ok(&plain, &store);
        let before = whole_tree(&store);
        assert_eq!(codes(&checked(&store)), []);
        fs::remove_dir_all(store.join("snapshots/middle")).unwrap();
        assert_eq!(codes(&checked(&store)), [("parent-missing", "snapshots/head")]);
        assert_eq!(codes(&check(&options(&store, Some(&plain))).unwrap()), []);
        assert_eq!(whole_tree(&store), before);
        fs::remove_dir_all(&store).unwrap();
    }
}

/// It is not missing, only not readable: there is no second copy of it afterwards.
#[test]
fn a_parent_under_another_name_is_repaired_where_it_is() {
    let (_fixture, bundle, store, _) = imported(Generation::Flat, Form::Tar);
    let renamed = store.join("snapshots/renamed");
    fs::rename(store.join("snapshots/middle"), &renamed).unwrap();
    let before = whole_tree(&store);
    fs::write(renamed.join("snapshot.json"), "{").unwrap();
    assert_eq!(codes(&check(&options(&store, Some(&bundle))).unwrap()), []);
    assert_eq!(whole_tree(&store), before);
}

/// One layer of the bundle is bad: what the others hold is repaired all the same.
#[test]
fn a_bad_layer_does_not_keep_the_rest_from_repair() {
    let (fixture, bundle, store, _) = imported(Generation::Flat, Form::Dir);
    let base = json_file(&bundle.join("index.json"))["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "base")
        .unwrap()["digest"]
        .clone();
    let blob = |digest: &Value| bundle.join("blobs/sha256").join(&digest.as_str().unwrap()[7..]);
    let layer = blob(&json_file(&blob(&base))["layers"][0]["digest"]);
    let length = fs::metadata(&layer).unwrap().len();
    poison(&layer, length / 2);
    fs::remove_dir_all(store.join("snapshots/base")).unwrap();
    fs::remove_dir_all(store.join("cache/fsmeta")).unwrap();
    poison(&store.join("snapshots/head/state.bin"), 9);
    let report = check(&options(&store, Some(&bundle))).unwrap();
    assert_eq!(codes(&report), [("parent-missing", "snapshots/middle"), ("repair-refused", "snapshots/middle")]);
    assert!(report.findings[1].message.contains("is corrupt"), "{report:?}");
    assert_same_snapshot(fixture.head(), &store.join("snapshots/head"));
}

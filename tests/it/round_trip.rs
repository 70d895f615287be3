//! What is exported and imported is what was there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use snapcask::{
    Digest,
    export::{Compression, ExportOptions, Form, export},
    import::{ImportOptions, import},
    layer::analyze::{FileView, contents},
    model::Generation,
    report::{ExportReport, Outcome},
};

use crate::fixture::*;

/// What is done to a copy of a snapshot.
type Change = fn(&Path, &Made);

/// Small disks: 96 round trips are made.
const SMALL: u64 = 16 << 20;

/// How a bundle travels.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    File(Form),
    Pipe,
}

fn every_option(generation: Generation, way: Way) {
    let fixture = Fixture::sized(generation, SMALL);
    for bits in 0..8 {
        let (parents, image, delta) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let options = ExportOptions {
            with_parents: parents,
            with_image: image,
            delta,
            ..fixture.export_options(Form::Dir, &fixture.path("unused"))
        };
        once(&fixture, &options, way, &format!("{bits}"));
    }
}

/// One round trip, and the export of what was imported.
fn once(fixture: &Fixture, options: &ExportOptions, way: Way, label: &str) {
    let target = fixture.path(&format!("target{label}"));
    let manifests = match way {
        Way::File(form) => {
            let bundle = fixture.path(&format!("{label}-{}", form_name(form)));
            let destination = snapcask::export::Destination::Path(bundle.clone());
            let report = export(&ExportOptions { destination, form, ..options.clone() }).unwrap();
            import_ok(&bundle, &target);
            manifests_of(&report)
        }
        Way::Pipe => pipe(fixture, options, &target),
    };
    let expected = if options.with_parents { &fixture.snapshots[..] } else { &fixture.snapshots[2..] };
    for made in expected {
        let copy = match fixture.generation {
            Generation::Final => only_group(&target).join(&made.identity),
            _ => target.join("snapshots").join(&made.name),
        };
        assert_same_snapshot(made, &copy);
        for never in [".hidden", "disk.lock"] {
            assert!(!copy.join(never).exists(), "{never} travelled");
        }
    }
    let placed = tree(&target.join("snapshots"));
    let files: usize = expected.iter().map(|m| tree(&m.directory).len()).sum();
    assert_eq!(placed.len(), files, "nothing but the snapshots is placed");
    check_cache(fixture, &target, options.with_image);

    let again = export_options(&target, "head", Form::Dir, &fixture.path(&format!("again{label}")));
    let again = ExportOptions {
        with_parents: options.with_parents,
        with_image: options.with_image,
        delta: options.delta,
        ..again
    };
    assert_eq!(manifests_of(&export(&again).unwrap()), manifests, "the second export differs");
}

fn manifests_of(report: &ExportReport) -> Vec<String> {
    report.snapshots.iter().map(|s| s.manifest.unwrap().to_string()).collect()
}

/// `export -o - | import -`; returns the manifests, head first, as a second import reports them.
fn pipe(fixture: &Fixture, options: &ExportOptions, target: &Path) -> Vec<String> {
    let mut arguments = vec!["export", "head", "-o", "-", "--store", fixture.store.to_str().unwrap()];
    for (on, flag) in
        [(options.with_parents, "--with-parents"), (options.with_image, "--with-image"), (!options.delta, "--no-delta")]
    {
        if on {
            arguments.push(flag);
        }
    }
    let exported = run(&arguments);
    succeeds(&exported);
    let imported = run_with_input(["import", "-", "--json", "--store", target.to_str().unwrap()], &exported.stdout);
    let report: serde_json::Value = serde_json::from_str(&succeeds(&imported)).unwrap();
    let snapshots = report["snapshots"].as_array().unwrap();
    snapshots.iter().map(|s| s["manifest"].as_str().unwrap().to_owned()).collect()
}

/// The image's files and no others, the VMDK with the destination's paths.
fn check_cache(fixture: &Fixture, target: &Path, with_image: bool) {
    let cache = target.join("cache");
    let placed = whole_tree(&cache);
    if !with_image {
        assert!(placed.is_empty(), "cache files without --with-image: {placed:?}");
        return;
    }
    let source = whole_tree(&fixture.store.join("cache"));
    let files: Vec<&String> = placed.keys().filter(|p| !p.ends_with('/')).collect();
    assert_eq!(files.len(), 5, "metadata, fsmeta, two layers, VMDK: {files:?}");
    let mut extents = 0;
    for path in files {
        if path.starts_with("vmdk/") {
            let text = fs::read_to_string(cache.join(path)).unwrap();
            let there = fs::canonicalize(&cache).unwrap();
            for line in text.lines().filter(|l| l.starts_with("RW ")) {
                let file = PathBuf::from(line.split('"').nth(1).unwrap());
                assert!(file.is_absolute() && file.is_file(), "{line}");
                assert!(fs::canonicalize(&file).unwrap().starts_with(&there), "{line}");
                extents += 1;
            }
            let before = fs::read_to_string(fixture.store.join("cache").join(path)).unwrap();
            let names = |text: &str| text.lines().map(|l| l.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>();
            assert_eq!(names(&before), names(&text), "only the folders differ");
        } else if path.starts_with("manifests/") {
            // Without trust in its tag it goes under the pinned reference's key, as it is.
            let tags = source.keys().find(|other| other.starts_with("manifests/") && !other.ends_with('/')).unwrap();
            assert_eq!(placed[path], source[tags], "{path}");
        } else {
            assert_eq!(placed[path], source[path], "{path}");
        }
    }
    assert_eq!(extents, 3);
}

macro_rules! round_trips {
    ($($name:ident: $generation:ident, $way:expr;)*) => {
        $(#[test]
        fn $name() {
            every_option(Generation::$generation, $way);
        })*
    };
}

round_trips! {
    v066_dir: V066, Way::File(Form::Dir);
    v066_tar: V066, Way::File(Form::Tar);
    v066_tar_zst: V066, Way::File(Form::TarZst);
    v066_pipe: V066, Way::Pipe;
    flat_dir: Flat, Way::File(Form::Dir);
    flat_tar: Flat, Way::File(Form::Tar);
    flat_tar_zst: Flat, Way::File(Form::TarZst);
    flat_pipe: Flat, Way::Pipe;
    final_dir: Final, Way::File(Form::Dir);
    final_tar: Final, Way::File(Form::Tar);
    final_tar_zst: Final, Way::File(Form::TarZst);
    final_pipe: Final, Way::Pipe;
}

#[test]
fn uncompressed_layers() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        for (i, form) in [Form::Dir, Form::Tar, Form::TarZst].into_iter().enumerate() {
            let bundle = fixture.path(&format!("{i}-{}", form_name(form)));
            let target = fixture.path(&format!("target{i}"));
            let options = ExportOptions {
                with_parents: true,
                compression: Compression::None,
                ..fixture.export_options(form, &bundle)
            };
            export(&options).unwrap();
            let report = import_ok(&bundle, &target);
            for (snapshot, made) in report.snapshots.iter().zip(fixture.snapshots.iter().rev()) {
                assert_eq!(snapshot.outcome, Some(Outcome::Placed));
                assert_same_snapshot(made, snapshot.path.as_ref().unwrap());
            }
        }
    }
}

#[test]
fn the_full_size_chain() {
    let fixture = Fixture::new(Generation::Flat);
    let bundle = fixture.path("bundle.tar.zst");
    let exported = fixture.export_chain(Form::TarZst, &bundle);
    let names: Vec<&str> = exported.snapshots.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["head", "middle", "base"]);
    assert_eq!(exported.cache_files.len(), 5);
    let imported = import_ok(&bundle, &fixture.path("target"));
    for ((a, b), made) in exported.snapshots.iter().zip(&imported.snapshots).zip(fixture.snapshots.iter().rev()) {
        assert_eq!((a.digest, a.manifest, a.size, a.data_bytes), (b.digest, b.manifest, b.size, b.data_bytes));
        assert_eq!(a.digest.to_string(), made.identity);
        assert_same_snapshot(made, b.path.as_ref().unwrap());
    }
    let parents: Vec<_> = imported.snapshots.iter().map(|s| s.parent_digest).collect();
    assert_eq!(parents, [Some(imported.snapshots[1].digest), Some(imported.snapshots[2].digest), None]);
}

/// Content alone decides: allocation, fragmentation and mode (but for the owner's executable bit) do not.
#[test]
fn the_same_content_gives_the_same_digests() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let first = manifests_of(&fixture.export_chain(Form::Dir, &fixture.path("first")));
        let changes: [(&str, Change); 4] = [
            ("dense", |copy, made| {
                let (disk, dense) = (copy.join(&made.disk), copy.join("dense.tmp"));
                sh(&["cp", "--sparse=never", disk.to_str().unwrap(), dense.to_str().unwrap()]);
                fs::rename(dense, disk).unwrap();
            }),
            ("sparse", |copy, made| {
                let (disk, sparse) = (copy.join(&made.disk), copy.join("sparse.tmp"));
                sh(&["cp", "--sparse=always", disk.to_str().unwrap(), sparse.to_str().unwrap()]);
                fs::rename(sparse, disk).unwrap();
            }),
            ("fallocate", |copy, made| {
                sh(&["fallocate", "-o", "5MiB", "-l", "2MiB", copy.join(&made.disk).to_str().unwrap()]);
            }),
            ("chmod", |copy, made| {
                chmod(&copy.join(&made.disk), 0o600);
                chmod(&copy.join("notes.txt"), 0o666);
                chmod(&copy.join("bin/run.sh"), 0o700);
            }),
        ];
        for (label, change) in changes {
            let store = fixture.path(label);
            sh(&["cp", "-a", fixture.store.to_str().unwrap(), store.to_str().unwrap()]);
            for made in &fixture.snapshots {
                let copy = store.join(made.directory.strip_prefix(&fixture.store).unwrap());
                change(&copy, made);
            }
            let options = export_options(&store, "head", Form::Dir, &fixture.path(&format!("{label}-bundle")));
            let options = ExportOptions { with_parents: true, with_image: true, ..options };
            assert_eq!(manifests_of(&export(&options).unwrap()), first, "{label}, {generation:?}");
        }
        // The dense copy's zero blocks become holes.
        let target = fixture.path("target");
        import_ok(&fixture.path("dense-bundle"), &target);
        for made in &fixture.snapshots {
            let above = if generation == Generation::Final { only_group(&target) } else { target.join("snapshots") };
            assert_same_snapshot(made, &above.join(made.directory.file_name().unwrap()));
        }
    }
}

fn sh(arguments: &[&str]) {
    let output = Command::new(arguments[0]).args(&arguments[1..]).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
}

#[test]
fn output_does_not_depend_on_jobs() {
    let fixture = Fixture::sized(Generation::V066, SMALL);
    // Incompressible data over several frames.
    let disk = fixture.head().directory.join("upper.ext4");
    write_disk(&disk, SMALL, &[(0, random(13 << 20, 99))]);
    for (form, compression) in [
        (Form::Tar, Compression::Zstd(3)),
        (Form::TarZst, Compression::Zstd(3)),
        (Form::TarZst, Compression::None),
        (Form::Tar, Compression::None),
    ] {
        let mut seen: Option<Vec<u8>> = None;
        for jobs in [1, 2, 5] {
            let bundle = fixture.path("jobs");
            let options = ExportOptions {
                with_parents: true,
                with_image: true,
                force: true,
                compression,
                jobs,
                ..fixture.export_options(form, &bundle)
            };
            export(&options).unwrap();
            let bytes = fs::read(&bundle).unwrap();
            match &seen {
                None => seen = Some(bytes),
                Some(first) => assert!(*first == bytes, "{form:?} with {compression:?} differs with {jobs} jobs"),
            }
        }
        let target = tempfile::TempDir::new().unwrap();
        for jobs in [1, 5] {
            let store = target.path().join(jobs.to_string());
            import(&ImportOptions { jobs, ..import_options(&fixture.path("jobs"), &store) }).unwrap();
            assert_same_snapshot(fixture.head(), &store.join("snapshots/head"));
        }
    }
}

#[test]
fn recorded_integrity_travels() {
    let size: u64 = 300_000;
    let bytes = random(usize::try_from(size).unwrap(), 31);
    let mut sparse = b"msb-sparse-sha256-v1\0".to_vec();
    sparse.extend_from_slice(&size.to_le_bytes());
    sparse.extend_from_slice(&bytes);
    let plain = Digest::of(&bytes);
    let sparse = Digest::of(&sparse);
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    let view = FileView { file: &file, path: Path::new("disk"), size };
    let (contents, _) = contents(view, None, 1, &snapcask::progress::Silent).unwrap();
    let merkle = serde_json::json!({ "algorithm": "msb-file-merkle-blake3-v1",
        "root": format!("blake3:{}", contents.root), "logical_size": size, "leaf_size": 65_536 });
    let of = |algorithm: &str, digest: Digest| serde_json::json!({ "algorithm": algorithm, "digest": digest });
    for generation in GENERATIONS {
        for integrity in [of("sha256", plain), of("msb-sparse-sha256-v1", sparse), merkle.clone()] {
            // The oldest generation is older than the Merkle form.
            if generation == Generation::V066 && integrity == merkle {
                continue;
            }
            let mut fixture = Fixture::empty(generation);
            let made = fixture.add("head", 0, size, &[(0, bytes.clone())], integrity);
            let bundle = fixture.path("bundle.tar");
            export(&fixture.export_options(Form::Tar, &bundle)).unwrap();
            let report = import_ok(&bundle, &fixture.path("target"));
            assert_same_snapshot(&made, report.snapshots[0].path.as_ref().unwrap());
            // One byte off: the export refuses and writes nothing.
            write_disk(&made.directory.join(&made.disk), size, &[(0, bytes.clone()), (17, vec![bytes[17] ^ 1])]);
            let other = fixture.path("other.tar");
            let error = export(&fixture.export_options(Form::Tar, &other)).unwrap_err();
            assert!(matches!(error, snapcask::Error::RecordedIntegrity { .. }), "{error}");
            assert!(!other.exists());
        }
    }
}

/// A child may be migrated to `final` before its parent is: it names the id that the parent will have.
#[test]
fn a_final_child_finds_its_parent_of_an_older_generation() {
    for older in [Generation::V066, Generation::Flat] {
        let mut fixture = Fixture::empty(older);
        let size = 1 << 20;
        let parent = fixture.add("base", 0, size, &[(0, random(300_000, 1))], serde_json::Value::Null);
        let migrated = format!("snap_{}", &parent.identity["sha256:".len()..][..32]);
        fixture.generation = Generation::Final;
        fixture.snapshots[0].identity = migrated.clone();
        let child =
            fixture.add("child", 1, size, &[(0, random(300_000, 1)), (8192, vec![7; 4096])], serde_json::Value::Null);
        let bundle = fixture.path("bundle.tar");
        let options = export_options(&fixture.store, "child", Form::Tar, &bundle);
        let report = export(&ExportOptions { with_parents: true, ..options }).unwrap();
        assert_eq!(report.snapshots.len(), 2);
        assert_eq!(report.snapshots[0].parent_digest, Some(report.snapshots[1].digest));
        let target = fixture.path("target");
        let group = Some("base".to_owned());
        let error = import(&ImportOptions { group, ..import_options(&bundle, &target) }).unwrap_err();
        assert!(error.to_string().ends_with("choose another group with --group"), "{error}");
        assert!(!target.exists());
        let report = import_ok(&bundle, &target);
        assert_same_snapshot(&child, report.snapshots[0].path.as_ref().unwrap());
        assert_same_snapshot(&parent, report.snapshots[1].path.as_ref().unwrap());
        let found = snapcask::store::Store::at(&fixture.store).find(&migrated).unwrap();
        assert_eq!(found.name, "base");
    }
}

/// Some tools copy a head without its subject (INTEROP: skopeo). The head is whole in it.
#[test]
fn a_copy_without_the_parents_manifest_restores_its_head() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let bundle = fixture.path("bundle");
    let report = fixture.export_chain(Form::Dir, &bundle);
    let manifests: Vec<Digest> = report.snapshots.iter().map(|s| s.manifest.unwrap()).collect();
    let index = bundle.join("index.json");
    let mut document = json_file(&index);
    document["manifests"].as_array_mut().unwrap().truncate(1);
    fs::write(&index, document.to_string()).unwrap();
    for gone in &manifests[1..] {
        fs::remove_file(bundle.join("blobs/sha256").join(gone.hex())).unwrap();
    }
    let target = fixture.path("target");
    let error = import(&import_options(&bundle, &target)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the parent's manifest {} is not in the bundle; `import` and `verify` take --head-only, for the head without its ancestors",
            manifests[1]
        )
    );
    assert_eq!(error.exit_code(), 3);
    assert!(!target.exists());
    let report = import(&ImportOptions { head_only: true, ..import_options(&bundle, &target) }).unwrap();
    assert_same_snapshot(fixture.head(), report.snapshots[0].path.as_ref().unwrap());
}

/// What `--dest` placed has its parents beside it, not in the store.
#[test]
fn a_chain_that_was_placed_elsewhere_travels_on() {
    for generation in [Generation::V066, Generation::Flat, Generation::Final] {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store, elsewhere) = (fixture.path("a.tar"), fixture.path("target"), fixture.path("elsewhere"));
        let first = fixture.export_chain(Form::Tar, &bundle);
        let dest = Some(elsewhere.clone());
        let placed = import(&ImportOptions { dest: dest.clone(), ..import_options(&bundle, &store) }).unwrap();
        assert!(!store.join("snapshots").exists());
        let mut head = placed.snapshots[0].path.as_ref().unwrap().to_str().unwrap().to_owned();
        let options = export_options(&store, &head, Form::Tar, &fixture.path("b.tar"));
        let second = export(&ExportOptions { with_parents: true, with_image: true, ..options }).unwrap();
        assert_eq!(manifests_of(&second), manifests_of(&first));
        let text = succeeds(&run(["inspect", &head, "--store", store.to_str().unwrap(), "--json"]));
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(shown["snapshots"].as_array().unwrap().len(), 3);

        // A child that comes alone to where its parent is has it, and one that comes to nowhere misses it.
        fs::remove_dir_all(&head).unwrap();
        for (dest, misses) in [(dest, false), (Some(fixture.path("nowhere")), true)] {
            let alone = ImportOptions { head_only: true, dest, ..import_options(&bundle, &store) };
            let placed = import(&alone).unwrap().snapshots[0].path.clone().unwrap();
            if !misses {
                head = placed.to_str().unwrap().to_owned();
            }
            let record = json_file(&placed.join(snapcask::store::record::RECORD_FILE));
            assert_eq!(record.get("withoutParent").is_some_and(|yes| yes == true), misses, "{record}");
        }
        // The middle one is a parent that is gone: the message names both places.
        fs::remove_dir_all(placed.snapshots[1].path.as_ref().unwrap()).unwrap();
        let again = fixture.path("c.tar");
        let options = export_options(&store, &head, Form::Tar, &again);
        let error = export(&ExportOptions { with_parents: true, ..options }).unwrap_err().to_string();
        let [beside, stores] = [elsewhere.canonicalize().unwrap(), store.join("snapshots")];
        assert!(error.contains(&format!("not in {} or {};", stores.display(), beside.display())), "{error}");
    }
}

/// The store knows its snapshots. Beside a head that stands elsewhere is what is missing there, if it is the same owner's.
#[test]
fn a_parent_beside_its_child_is_the_second_choice() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let elsewhere = fixture.path("elsewhere");
    let copy = |from: &Path, to: &str| {
        let to = elsewhere.join(to);
        for file in tree(from).keys() {
            write(to.join(file), &fs::read(from.join(file)).unwrap());
        }
        to
    };
    let (parent, head) = (&fixture.snapshots[0], &fixture.snapshots[1]);
    let head_there = copy(&head.directory, "head");
    let other = copy(&parent.directory, "aaa");
    // The same descriptor, which binds nothing of the disk.
    write(other.join("state.bin"), b"another's");
    let export = |out: &str| {
        let options = export_options(&fixture.store, head_there.to_str().unwrap(), Form::Dir, &fixture.path(out));
        export(&ExportOptions { with_parents: true, ..options })
    };
    let place = |out: &str| {
        let target = fixture.path(&format!("{out}-target"));
        import_ok(&fixture.path(out), &target).snapshots[1].path.clone().unwrap()
    };
    export("first").unwrap();
    assert_same_snapshot(parent, &place("first"));
    // Gone from the store, the one beside is taken.
    fs::rename(&parent.directory, fixture.path("aside")).unwrap();
    export("second").unwrap();
    assert_eq!(fs::read(place("second").join("state.bin")).unwrap(), b"another's");
    // Nobody else's, and what cannot be looked at there is not there.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&other, Some(1234), None).unwrap();
        assert!(matches!(export("third").unwrap_err(), snapcask::Error::ParentNotFound { .. }));
    }
}

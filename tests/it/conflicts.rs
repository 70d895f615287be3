//! What is there already, and imports beside each other.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use snapcask::{
    Error,
    export::{ExportOptions, Form, export},
    import::{ImportOptions, import},
    model::Generation,
    report::Outcome,
};

use crate::{
    fixture::*,
    trace::{Ended, Phase, Verdict, trace},
};

const SMALL: u64 = 16 << 20;

#[test]
fn the_second_import_changes_nothing() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store) = (fixture.path("bundle.tar.zst"), fixture.path("target"));
        fixture.export_chain(Form::TarZst, &bundle);
        import_ok(&bundle, &store);
        let before = whole_tree(&store);
        let again = import_ok(&bundle, &store);
        assert!(again.snapshots.iter().all(|s| s.outcome == Some(Outcome::AlreadyThere)));
        assert_eq!(whole_tree(&store), before);
    }
}

#[test]
fn a_different_snapshot_is_kept_without_force() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
        fixture.export_chain(Form::Tar, &bundle);
        let placed = import_ok(&bundle, &store).snapshots[0].path.clone().unwrap();
        write(placed.join("notes.txt"), b"another content");
        let before = whole_tree(&store);
        let error = import(&import_options(&bundle, &store)).unwrap_err();
        assert!(matches!(error, Error::Different { .. }), "{error}");
        assert_eq!(error.exit_code(), 5);
        assert_eq!(whole_tree(&store), before);
        let report = import(&ImportOptions { force: true, ..import_options(&bundle, &store) }).unwrap();
        assert_eq!(report.snapshots[0].outcome, Some(Outcome::Placed));
        assert_same_snapshot(fixture.head(), &placed);
    }
}

/// `--force` replaces snapshots. It is no `rm -r` of whatever has a name that the bundle chose.
#[test]
fn force_replaces_nothing_but_snapshots() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    let members = Fixture::sized(Generation::Final, SMALL);
    let grouped = members.path("bundle.tar");
    members.export_chain(Form::Tar, &grouped);
    let place = store.join("snapshots/base");
    let make: [&dyn Fn(); 4] = [
        &|| drop(import(&ImportOptions { group: Some("base".into()), ..import_options(&grouped, &store) }).unwrap()),
        &|| write(place.join("thesis.txt"), b"the only copy"),
        &|| write(place.clone(), b"a file"),
        &|| fs::create_dir_all(&place).unwrap(),
    ];
    for make in make {
        make();
        let before = whole_tree(&store);
        let error = import(&ImportOptions { force: true, ..import_options(&bundle, &store) }).unwrap_err();
        assert!(matches!(&error, Error::NotReplaced { path } if *path == place), "{error}");
        assert_eq!(whole_tree(&store), before);
        fs::remove_dir_all(&store).unwrap();
    }
    // What was a snapshot is one to replace, whatever is left of it.
    import_ok(&bundle, &store);
    for damage in
        [&|| write(place.join("snapshot.json"), b"{") as _, &|| fs::remove_file(place.join("snapshot.json")).unwrap()]
            as [&dyn Fn(); 2]
    {
        damage();
        import(&ImportOptions { force: true, ..import_options(&bundle, &store) }).unwrap();
        assert_same_snapshot(&fixture.snapshots[0], &place);
    }
}

#[test]
fn force_takes_no_parent_from_under_its_children() {
    let (fixture, other) = (Fixture::sized(Generation::Flat, SMALL), Fixture::sized(Generation::V066, SMALL));
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    import_ok(&bundle, &store);
    let before = whole_tree(&store);
    let (base, chain) = (fixture.path("base.tar"), fixture.path("chain.tar"));
    export(&export_options(&other.store, "base", Form::Tar, &base)).unwrap();
    other.export_chain(Form::Tar, &chain);
    let error = import(&ImportOptions { force: true, ..import_options(&base, &store) }).unwrap_err();
    assert!(matches!(&error, Error::ReplacesParent { children, .. } if children == &["middle"]), "{error}");
    assert_eq!(whole_tree(&store), before);
    // A link is no copy of the parent, and who cannot be read may be a child.
    let snapshots = store.join("snapshots");
    std::os::unix::fs::symlink("base", snapshots.join("alias")).unwrap();
    let error = import(&ImportOptions { force: true, ..import_options(&base, &store) }).unwrap_err();
    assert!(matches!(&error, Error::ReplacesParent { .. }), "{error}");
    fs::remove_file(snapshots.join("alias")).unwrap();
    let (hidden, good) = (snapshots.join("middle/snapshot.json"), fixture.path("good"));
    fs::rename(&hidden, &good).unwrap();
    write(hidden.clone(), b"{");
    let error = import(&ImportOptions { force: true, ..import_options(&base, &store) }).unwrap_err();
    assert!(matches!(&error, Error::UnreadableSnapshot { .. }), "{error}");
    fs::rename(&good, &hidden).unwrap();
    assert_eq!(whole_tree(&store), before);
    let told = ImportOptions { force: true, orphan_children: true, ..import_options(&base, &store) };
    import(&told).unwrap();
    assert_same_snapshot(&other.snapshots[0], &snapshots.join("base"));
    // The whole chain comes, and nobody is left without a parent.
    import(&ImportOptions { force: true, ..import_options(&chain, &store) }).unwrap();
    for made in &other.snapshots {
        assert_same_snapshot(made, &store.join("snapshots").join(&made.name));
    }
}

/// "Already there, identical" is not all that is said where there is more.
#[test]
fn a_file_more_is_told_and_stays() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
        fixture.export_chain(Form::Tar, &bundle);
        let placed = import_ok(&bundle, &store).snapshots[0].path.clone().unwrap();
        write(placed.join("bin/more"), b"it would travel with the next export");
        write(placed.join(".own"), b"it would not");
        let before = whole_tree(&store);
        for force in [false, true] {
            let report = import(&ImportOptions { force, ..import_options(&bundle, &store) }).unwrap();
            assert_eq!(report.snapshots[0].outcome, Some(Outcome::AlreadyThere));
            assert_eq!(report.snapshots[0].more_files, ["bin/more"]);
            assert_eq!(whole_tree(&store), before);
        }
        let text = succeeds(&run(["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap()]));
        assert!(text.contains("already there, identical; 1 more file than the bundle has: bin/more"), "{text}");
        // Where the snapshot itself is bad, force replaces what the bundle brings, and nothing else.
        write(placed.join("notes.txt"), b"another content");
        chmod(&placed, 0o700);
        let report = import(&ImportOptions { force: true, ..import_options(&bundle, &store) }).unwrap();
        assert_eq!(report.snapshots[0].outcome, Some(Outcome::Placed));
        chmod(&placed, 0o755);
        assert_eq!(whole_tree(&store), before);
        write(placed.join(fixture.head().descriptor), b"{");
        import(&ImportOptions { force: true, ..import_options(&bundle, &store) }).unwrap();
        assert_eq!(whole_tree(&store), before);
        // What cannot stay keeps it from that.
        let other = if fixture.head().descriptor == "manifest.json" { "snapshot.json" } else { "manifest.json" };
        write(placed.join(other), b"{}");
        let error = import(&ImportOptions { force: true, ..import_options(&bundle, &store) }).unwrap_err();
        assert!(matches!(&error, Error::Kept { reason } if reason.contains("is not its descriptor")), "{error}");
        fs::remove_file(placed.join(other)).unwrap();
        fs::remove_file(placed.join("notes.txt")).unwrap();
        write(placed.join("notes.txt/inside"), b"mine");
        let before = whole_tree(&store);
        let error = import(&ImportOptions { force: true, ..import_options(&bundle, &store) }).unwrap_err();
        assert!(matches!(&error, Error::Kept { reason } if reason.contains("notes.txt holds something")), "{error}");
        assert_eq!(whole_tree(&store), before);
    }
}

/// Nobody writes into it: an import that opened it would wait for ever.
#[test]
fn a_fifo_in_the_place_of_our_own_files() {
    for generation in [Generation::Flat, Generation::Final] {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
        fixture.export_chain(Form::Tar, &bundle);
        let placed = import_ok(&bundle, &store).snapshots[0].path.clone().unwrap();
        let (record, alias) = (placed.join(".snapcask.json"), placed.join("group-member.json"));
        for own in [record, alias, placed.parent().unwrap().join("group.json")] {
            let aside = fixture.path("aside");
            let was_there = own.exists();
            if was_there {
                fs::rename(&own, &aside).unwrap();
            }
            assert!(std::process::Command::new("mkfifo").arg(&own).status().unwrap().success());
            let mut import = std::process::Command::new("timeout");
            import.args(["60", env!("CARGO_BIN_EXE_snapcask"), "import", "--store"]).args([&store, &bundle]);
            let code = import.output().unwrap().status.code();
            assert!(code.is_some_and(|code| code < 6), "{}: {code:?}", own.display());
            fs::remove_file(&own).unwrap();
            if was_there {
                fs::rename(&aside, &own).unwrap();
            }
        }
    }
}

/// A link that leads nowhere is no folder to make.
#[test]
fn a_destination_that_is_not_mounted() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    fs::create_dir_all(&store).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", store.join("snapshots")).unwrap();
    let error = import(&import_options(&bundle, &store)).unwrap_err();
    assert!(error.to_string().starts_with("cannot create "), "{error}");
}

#[test]
fn two_imports_at_once() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store) = (fixture.path("bundle.tar.zst"), fixture.path("target"));
        fixture.export_chain(Form::TarZst, &bundle);
        for _ in 0..3 {
            let options = import_options(&bundle, &store);
            let reports = std::thread::scope(|scope| {
                let both = [scope.spawn(|| import(&options)), scope.spawn(|| import(&options))];
                both.map(|one| one.join().unwrap().unwrap())
            });
            if generation == Generation::Final {
                only_group(&store);
            }
            for made in &fixture.snapshots {
                let report = reports[0].snapshots.iter().find(|s| s.name == made.name).unwrap();
                assert_same_snapshot(made, report.path.as_ref().unwrap());
            }
            let left = whole_tree(&store);
            assert!(!left.keys().any(|p| p.contains("snapcask-stage")), "a stage is left: {left:?}");
            fs::remove_dir_all(&store).unwrap();
        }
    }
}

#[test]
fn the_head_alone() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store) = (fixture.path("bundle.tar.zst"), fixture.path("target"));
        fixture.export_chain(Form::TarZst, &bundle);
        let report = import(&ImportOptions { head_only: true, ..import_options(&bundle, &store) }).unwrap();
        let placed: Vec<_> = report.snapshots.iter().filter(|s| s.outcome == Some(Outcome::Placed)).collect();
        assert_eq!(placed.len(), 1);
        assert_same_snapshot(fixture.head(), placed[0].path.as_ref().unwrap());
        assert_eq!(tree(&store.join("snapshots")).len(), tree(&fixture.head().directory).len());
    }
}

#[test]
fn names_and_groups() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    let named = ImportOptions { name: Some("other".into()), ..import_options(&bundle, &store) };
    import(&named).unwrap();
    assert_same_snapshot(fixture.head(), &store.join("snapshots/other"));
    assert!(!store.join("snapshots/head").exists() && store.join("snapshots/middle").is_dir());

    let fixture = Fixture::sized(Generation::Final, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    let grouped =
        ImportOptions { group: Some("team".into()), name: Some("other".into()), ..import_options(&bundle, &store) };
    import(&grouped).unwrap();
    let copy = store.join("snapshots/team").join(&fixture.head().identity);
    assert_same_snapshot(fixture.head(), &copy);
    let member = r#"{"schema":"microsandbox.snapshot-group-member/1","name":"other"}"#;
    assert_eq!(fs::read_to_string(copy.join("group-member.json")).unwrap(), member);
    let group = format!(r#"{{"schema":"microsandbox.snapshot-group/1","head":"{}"}}"#, fixture.head().identity);
    assert_eq!(fs::read_to_string(store.join("snapshots/team/group.json")).unwrap(), group);
    assert!(store.join("snapshots/team/.group.lock").is_file());
    // The alias is local: the export under the first name is the same snapshot.
    let options = export_options(&store, "team:other", Form::Dir, &fixture.path("again"));
    let again = export(&ExportOptions { with_parents: true, ..options }).unwrap();
    assert_eq!(again.snapshots[0].id.as_deref(), Some(fixture.head().identity.as_str()));
}

/// An import with `--force` may put another snapshot at the path between reading the descriptor and opening the files.
#[test]
fn a_directory_that_is_exchanged_is_not_mixed() {
    for generation in GENERATIONS {
        let mut fixture = Fixture::empty(generation);
        let made = fixture.add("one", 0, 1 << 20, &[(0, random(1 << 20, 1))], serde_json::Value::Null);
        let other = fixture.path("other");
        std::fs::create_dir(&other).unwrap();
        for entry in std::fs::read_dir(&made.directory).unwrap() {
            let name = entry.unwrap().file_name();
            if name == "layers" {
                std::fs::create_dir(other.join("layers")).unwrap();
                continue;
            }
            std::fs::copy(made.directory.join(&name), other.join(&name)).unwrap();
        }
        // The same names and sizes: only the descriptor's bytes tell.
        std::fs::copy(made.directory.join(&made.disk), other.join(&made.disk)).unwrap();
        let descriptor = other.join(made.descriptor);
        let text = std::fs::read_to_string(&descriptor).unwrap();
        std::fs::write(&descriptor, text.replace("2026-05-01", "2026-05-02")).unwrap();
        let snapshot = snapcask::snapshot::Snapshot::open(&made.directory).unwrap();
        assert!(snapcask::opened::open_all(&snapshot, &snapcask::progress::Silent).is_ok());
        std::fs::rename(&made.directory, fixture.path("aside")).unwrap();
        std::fs::rename(&other, &made.directory).unwrap();
        let error = snapcask::opened::open_all(&snapshot, &snapcask::progress::Silent).err().unwrap();
        assert!(matches!(error, snapcask::Error::SourceChanged { .. }), "{error}");
    }
}

/// The files of a store's image cache that were imported, by folder.
fn cache_file(store: &Path, folder: &str) -> PathBuf {
    let mut found: Vec<_> = files_in(&store.join("cache").join(folder));
    found.sort();
    found.remove(0)
}

/// It is found before anything is placed, not between two files.
#[test]
fn a_conflict_in_the_image_cache_places_nothing() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store) = (fixture.path("bundle.tar.zst"), fixture.path("target"));
        fixture.export_chain(Form::TarZst, &bundle);
        let options = || ImportOptions { group: group_for(generation), ..import_options(&bundle, &store) };
        import(&options()).unwrap();
        let good = whole_tree(&store);
        for folder in ["layers", "fsmeta", "vmdk"] {
            let path = cache_file(&store, folder);
            let bytes = fs::read(&path).unwrap();
            let other = String::from_utf8_lossy(&bytes).replacen("version=1", "version=2", 1).into_bytes();
            fs::write(&path, if folder == "vmdk" { other } else { vec![7; bytes.len()] }).unwrap();
            let kept = fs::read(&path).unwrap();
            fs::remove_dir_all(store.join("snapshots")).unwrap();
            for other in ["layers", "fsmeta", "vmdk", "manifests"].into_iter().filter(|other| *other != folder) {
                fs::remove_dir_all(store.join("cache").join(other)).unwrap();
            }
            let before = whole_tree(&store.join("cache"));
            let error = import(&options()).unwrap_err();
            assert!(matches!(error, Error::DifferentFile { .. }), "{error}");
            assert_eq!(error.exit_code(), 5);
            assert_eq!(whole_tree(&store.join("cache")), before, "{folder}");
            assert_eq!(fs::read(&path).unwrap(), kept);
            import(&ImportOptions { force: true, ..options() }).unwrap();
            assert_eq!(whole_tree(&store), good, "{folder}");
        }
    }
}

/// The machine has pulled the tag since: its metadata is not taken away, and the snapshot does not need it.
#[test]
fn a_tag_that_has_moved_on_is_kept() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    import_ok(&bundle, &store);
    let path = metadata_of_a_newer_image(&store);
    let newer = json_file(&path);
    fs::remove_dir_all(&store).unwrap();
    write(path.clone(), newer.to_string().as_bytes());
    import_ok(&bundle, &store);
    assert_eq!(json_file(&path), newer);
    assert!(check(&store).is_empty());
}

/// Its VMDK names files that are not there: perhaps on this machine only, so it is not replaced unasked.
#[test]
fn a_store_that_was_moved_takes_the_same_image_by_force() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store, moved) = (fixture.path("bundle.tar"), fixture.path("target"), fixture.path("moved"));
    fixture.export_chain(Form::Tar, &bundle);
    import_ok(&bundle, &store);
    // By another path it is the same cache.
    let link = fixture.path("link");
    std::os::unix::fs::symlink(&store, &link).unwrap();
    let before = whole_tree(&store);
    import_ok(&bundle, &link);
    assert_eq!(whole_tree(&store), before);
    assert!(check(&link).is_empty() && check(&store).is_empty());
    fs::rename(&store, &moved).unwrap();
    let error = import(&import_options(&bundle, &moved)).unwrap_err();
    assert!(matches!(error, Error::DifferentFile { .. }), "{error}");
    import(&ImportOptions { force: true, ..import_options(&bundle, &moved) }).unwrap();
    let text = fs::read_to_string(cache_file(&moved, "vmdk")).unwrap();
    assert!(text.contains(moved.to_str().unwrap()) && !text.contains(store.to_str().unwrap()), "{text}");
    assert!(check(&moved).is_empty());
}

/// The codes of what `check` finds.
fn check(store: &Path) -> Vec<&'static str> {
    let progress = std::sync::Arc::new(snapcask::progress::Silent);
    let options = snapcask::check::CheckOptions {
        store: store.into(),
        repair: snapcask::check::Repairs::Nothing,
        index: snapcask::store::index::Index::Off,
        jobs: 1,
        progress,
    };
    snapcask::check::check(&options).unwrap().findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn what_is_there_takes_no_room() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    import_ok(&bundle, &store);
    let none = ImportOptions { max_bytes: Some(0), ..import_options(&bundle, &store) };
    import(&none).unwrap();
    assert!(matches!(import(&ImportOptions { force: true, ..none }).unwrap_err(), Error::Limit { .. }));
}

/// Without `--group`, what is installed stays where it is.
#[test]
fn import_leaves_installed_snapshots_in_their_group() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    import(&ImportOptions { group: Some("team".into()), ..import_options(&bundle, &store) }).unwrap();
    let before = whole_tree(&store);
    let again = import_ok(&bundle, &store);
    assert!(again.snapshots.iter().all(|s| s.outcome == Some(Outcome::AlreadyThere)));
    assert_eq!(whole_tree(&store), before);
}

/// What an import placed is passed on only as it came.
#[test]
fn a_payload_that_changed_since_its_import_is_not_exported() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
        fixture.export_chain(Form::Tar, &bundle);
        let head = import_ok(&bundle, &store).snapshots[0].path.clone().unwrap();
        let out = fixture.path("again.tar");
        let options = export_options(&store, "head", Form::Tar, &out);
        export(&options).unwrap();
        fs::remove_file(&out).unwrap();
        chmod(&head.join("bin/run.sh"), 0o644);
        assert!(export(&options).unwrap_err().to_string().contains("its executable bit is another"));
        chmod(&head.join("bin/run.sh"), 0o755);
        let whole = fs::read(head.join("state.bin")).unwrap();
        let mut other = whole.clone();
        other[9] ^= 1;
        fs::write(head.join("state.bin"), &other).unwrap();
        let error = export(&options).unwrap_err();
        assert!(matches!(error, Error::NotAsImported { .. }), "{error}");
        assert_eq!((error.exit_code(), out.exists()), (3, false));
        fs::remove_file(head.join("state.bin")).unwrap();
        assert!(export(&options).unwrap_err().to_string().contains("it is gone"));
        // A change that is meant: the snapshot is the owner's then.
        fs::write(head.join("state.bin"), &other).unwrap();
        fs::remove_file(head.join(".snapcask.json")).unwrap();
        export(&options).unwrap();
    }
}

/// An import puts another snapshot in the place of the one that is being read, and deletes that: what is left of it is no
/// broken snapshot, but one that has changed.
#[test]
fn what_is_put_away_while_it_is_read_is_not_said_to_be_broken() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (place, out) = (fixture.store.join("snapshots"), fixture.path("out.tar"));
    let (base, away) = (place.join("base"), fixture.path("away"));
    let said = fixture.path("said");
    let mut export = command(["export", "base", "--store"]);
    export.arg(&fixture.store).arg("-o").arg(&out).stderr(fs::File::create(&said).unwrap());
    let (mut opened, mut exchanged) = (false, false);
    let ended = trace(export.stdout(Stdio::null()), &[&base], |call, phase| {
        // The directory as a whole is opened, then listed.
        opened |= phase == Phase::After && call.name.starts_with("open") && call.path == base && call.result >= 0;
        if phase == Phase::Before && opened && !exchanged && call.name == "getdents64" {
            fs::rename(&base, &away).unwrap();
            fs::rename(place.join("middle"), &base).unwrap();
            fs::remove_file(away.join("upper.ext4")).unwrap();
            exchanged = true;
        }
        Verdict::Run
    });
    assert!(exchanged);
    assert_eq!(ended.unwrap(), Ended::Code(1));
    let said = fs::read_to_string(said).unwrap();
    assert!(said.contains(&format!("{} changed while it was read", base.display())), "{said}");
    assert!(!out.exists());
}

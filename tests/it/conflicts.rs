//! What is there already: kept when identical, never replaced unasked, atomically with `--force`.

use std::{fs, os::unix::fs::FileExt};

use snapcask::{
    Error,
    export::{Form, export},
    import::import,
    model::Generation,
    report::Outcome,
};

use crate::fixture::{ALL, Fixture, import_options, travelling, tree};

#[test]
fn twice_changes_nothing() {
    for generation in ALL {
        let fixture = Fixture::new(generation);
        let bundle = fixture.path("b.tar.zst");
        export(&fixture.export_options(&bundle, Form::TarZst)).unwrap();
        let store = fixture.path("restored");
        import(&import_options(&bundle, &store)).unwrap();
        let before = tree(&store);
        let report = import(&import_options(&bundle, &store)).unwrap();
        assert!(report.snapshots.iter().all(|s| s.outcome == Some(Outcome::AlreadyThere)));
        assert_eq!(before, tree(&store));
    }
}

#[test]
fn different_contents_are_an_error_and_force_replaces_them() {
    let fixture = Fixture::new(Generation::V066);
    let bundle = fixture.path("b.tar.zst");
    export(&fixture.export_options(&bundle, Form::TarZst)).unwrap();
    let store = fixture.path("restored");
    import(&import_options(&bundle, &store)).unwrap();
    // Poisoned at equal size: the name and the descriptor say nothing of it.
    let disk = store.join("snapshots/middle/upper.ext4");
    fs::File::options().write(true).open(&disk).unwrap().write_all_at(b"poison", 8192).unwrap();
    let before = tree(&store);
    let error = import(&import_options(&bundle, &store)).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Different { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert_eq!(before, tree(&store));
    let mut options = import_options(&bundle, &store);
    options.force = true;
    let report = import(&options).unwrap();
    assert_eq!(report.snapshots[1].outcome, Some(Outcome::Placed));
    assert_eq!(travelling(&fixture.snapshots[1]), travelling(&store.join("snapshots/middle")));
}

#[test]
fn many_imports_at_once() {
    let fixture = Fixture::new(Generation::Final);
    let bundle = fixture.path("b.tar.zst");
    export(&fixture.export_options(&bundle, Form::TarZst)).unwrap();
    let store = fixture.path("restored");
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| import(&import_options(&bundle, &store)))).collect();
        for one in all {
            one.join().unwrap().unwrap();
        }
    });
    for source in &fixture.snapshots {
        let placed = store.join("snapshots/base").join(source.file_name().unwrap());
        assert_eq!(travelling(source), travelling(&placed));
    }
    assert!(!tree(&store).keys().any(|name| name.contains("stage")), "{:?}", tree(&store).keys());
}

#[test]
fn the_head_gets_the_name_that_is_asked_for() {
    let fixture = Fixture::new(Generation::Flat);
    let bundle = fixture.path("b.tar");
    export(&fixture.export_options(&bundle, Form::Tar)).unwrap();
    let mut options = import_options(&bundle, &fixture.path("restored"));
    options.name = Some("renamed".into());
    let report = import(&options).unwrap();
    assert_eq!(report.snapshots[0].name, "renamed");
    assert!(fixture.path("restored/snapshots/renamed/upper.ext4").exists());
}

#[test]
fn limits_are_named_with_their_values() {
    let fixture = Fixture::new(Generation::Flat);
    let bundle = fixture.path("b.tar");
    export(&fixture.export_options(&bundle, Form::Tar)).unwrap();
    let store = fixture.path("restored");
    let mut options = import_options(&bundle, &store);
    options.max_files = 3;
    let error = import(&options).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the number of files in the bundle is 16, over the limit of 3; --max-files raises it"
    );
    let mut options = import_options(&bundle, &store);
    options.max_bytes = Some(4096);
    assert!(matches!(import(&options), Err(Error::Limit { limit: 4096, .. })));
    assert!(tree(&store).is_empty());
}

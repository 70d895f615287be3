//! `convert`: archive -> bundle, without a store.

use std::{fs, path::Path, sync::Arc};

use snapcask::{
    check_bundle::verify_bundle,
    convert::{ConvertOptions, convert},
    export::{Compression, Destination, Form},
    import::{BundleLocation, ImportOptions, import},
    progress::Silent,
};

use super::writer::{ALL, ALONE, Archive};
use crate::fixture::{Fixture, GENERATIONS, import_ok, import_options, run, succeeds, tree};

const SMALL: u64 = 16 << 20;

fn options(archive: &Path, form: Form, to: &Path) -> ConvertOptions {
    ConvertOptions {
        sources: vec![BundleLocation::path(archive.into())],
        bases: Vec::new(),
        destination: Destination::Path(to.into()),
        form,
        head_only: false,
        delta: true,
        compression: Compression::Zstd(3),
        tag: None,
        force: false,
        max_bytes: None,
        max_files: 100_000,
        jobs: 2,
        progress: Arc::new(Silent),
    }
}

#[test]
fn bundle_of_an_archive_restores_what_the_archive_restores() {
    for generation in GENERATIONS {
        for (form, name) in [(Form::TarZst, "b.tar.zst"), (Form::Dir, "b")] {
            let fixture = Fixture::sized(generation, SMALL);
            let archive = Archive::of(&fixture, ALL).write(&fixture.path("a.msb"));
            let bundle = fixture.path(name);
            let report = convert(&options(&archive, form, &bundle)).unwrap();
            assert_eq!((report.snapshots.len(), report.cache_files.len()), (3, 5));
            let verified = verify_bundle(&BundleLocation::path(bundle.clone()), true, 2, Arc::new(Silent)).unwrap();
            assert!(verified.findings.is_empty(), "{:?}", verified.findings);
            let (one, two) = (fixture.path("one"), fixture.path("two"));
            let (direct, through) = (import_ok(&archive, &one), import_ok(&bundle, &two));
            for (direct, through) in direct.snapshots.iter().zip(&through.snapshots) {
                assert_eq!((direct.digest, &direct.name), (through.digest, &through.name));
                assert_eq!(tree(direct.path.as_ref().unwrap()), tree(through.path.as_ref().unwrap()));
            }
            assert_eq!(direct.cache_files.len(), through.cache_files.len());
        }
    }
}

#[test]
fn failed_conversion_leaves_nothing() {
    let fixture = Fixture::sized(GENERATIONS[2], SMALL);
    let archive = Archive::of(&fixture, ALONE).write(&fixture.path("a.msb"));
    let whole = fs::read(&archive).unwrap();
    fs::write(&archive, &whole[..whole.len() - 700]).unwrap();
    let before: Vec<_> = fs::read_dir(fixture.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let error = convert(&options(&archive, Form::Tar, &fixture.path("b.tar"))).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    let after: Vec<_> = fs::read_dir(fixture.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(before, after);
    // An existing destination stays, unless it is to be replaced.
    fs::write(&archive, &whole).unwrap();
    fs::write(fixture.path("b.tar"), "mine").unwrap();
    let error = convert(&options(&archive, Form::Tar, &fixture.path("b.tar"))).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert_eq!(fs::read(fixture.path("b.tar")).unwrap(), b"mine");
    convert(&ConvertOptions { force: true, ..options(&archive, Form::Tar, &fixture.path("b.tar")) }).unwrap();
}

#[test]
fn command_converts_and_says_what_is_no_archive() {
    let fixture = Fixture::sized(GENERATIONS[2], SMALL);
    let archive = Archive::of(&fixture, ALL).write(&fixture.path("a.msb"));
    let (archive, bundle) = (archive.to_str().unwrap().to_owned(), fixture.path("b.tar.zst"));
    let bundle = bundle.to_str().unwrap();
    assert!(succeeds(&run(["convert", &archive, "-o", bundle])).contains("wrote"));
    let again = run(["convert", bundle, "-o", fixture.path("c.tar").to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(2));
    let copied = run(["copy", &archive, fixture.path("c.tar").to_str().unwrap()]);
    assert_eq!(copied.status.code(), Some(2));
    let shown = succeeds(&run(["inspect", &archive]));
    assert!(shown.contains("archive of msb (microsandbox.snapshot-archive/1)"), "{shown}");
}

#[test]
fn archives_of_several_chains_are_refused() {
    let (one, two) = (Fixture::sized(GENERATIONS[2], SMALL), Fixture::sized(GENERATIONS[1], SMALL));
    let archives =
        [Archive::of(&one, ALONE).write(&one.path("a.msb")), Archive::of(&two, ALONE).write(&one.path("b.msb"))];
    let sources: Vec<_> = archives.iter().map(|path| BundleLocation::path(path.clone())).collect();
    let bundle = one.path("c.tar");
    let error = convert(&ConvertOptions { sources: sources.clone(), ..options(&archives[0], Form::Tar, &bundle) });
    assert_eq!(error.unwrap_err().exit_code(), 2);
    assert!(!bundle.exists());
    let store = one.path("target");
    let error = import(&ImportOptions { sources, ..import_options(&archives[0], &store) }).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(!store.exists());
}

//! A bundle with any one blob flipped, truncated, extended, swapped or missing places nothing.

use std::{fs, path::Path, sync::Arc};

use snapcask::{
    check_bundle::verify_bundle,
    export::{Form, export},
    import::{BundleLocation, import},
    model::Generation,
    progress::Silent,
};

use crate::fixture::{Fixture, import_options, tree};

fn expect_refusal(bundle: &Path, store: &Path, blob: &str, code: &str, what: &str) {
    let before = tree(store);
    let error = import(&import_options(bundle, store)).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{what} {blob}: {error}");
    assert_eq!(before, tree(store), "{what} {blob}");
    let report = verify_bundle(&BundleLocation::Path(bundle.into()), true, 2, Arc::new(Silent)).unwrap();
    let found = report.findings.iter().any(|f| f.code == code && f.subject == format!("sha256:{blob}"));
    assert!(found, "{what} {blob}: {:?}", report.findings);
}

#[test]
fn every_blob_in_every_way() {
    let fixture = Fixture::new(Generation::V066);
    let bundle = fixture.path("bundle");
    export(&fixture.export_options(&bundle, Form::Dir)).unwrap();
    let store = fixture.path("restored");
    fs::create_dir_all(store.join("snapshots/other")).unwrap();
    fs::write(store.join("snapshots/other/file"), "kept").unwrap();
    let folder = bundle.join("blobs/sha256");
    let names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.len() >= 12, "{names:?}");
    for (i, name) in names.iter().enumerate() {
        let path = folder.join(name);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 0x10;
        let swapped = fs::read(folder.join(&names[(i + 1) % names.len()])).unwrap();
        for (what, bytes, code) in [
            ("flipped", Some(flipped), "blob-corrupt"),
            ("truncated", Some(good[..good.len() - 1].to_vec()), "blob-corrupt"),
            ("extended", Some([good.as_slice(), b"x"].concat()), "blob-corrupt"),
            ("swapped", Some(swapped), "blob-corrupt"),
            ("missing", None, "blob-missing"),
        ] {
            match bytes {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            expect_refusal(&bundle, &store, name, code, what);
        }
        fs::write(&path, good).unwrap();
    }
    import(&import_options(&bundle, &store)).unwrap();
}

#[test]
fn a_cut_archive_places_nothing() {
    let fixture = Fixture::new(Generation::Flat);
    for (form, name) in [(Form::Tar, "b.tar"), (Form::TarZst, "b.tar.zst")] {
        let bundle = fixture.path(name);
        export(&fixture.export_options(&bundle, form)).unwrap();
        let good = fs::read(&bundle).unwrap();
        let store = fixture.path("restored");
        for part in 0..40 {
            fs::write(&bundle, &good[..good.len() * part / 40]).unwrap();
            assert!(import(&import_options(&bundle, &store)).is_err(), "{part}/40");
            assert!(tree(&store).is_empty(), "{part}/40: {:?}", tree(&store));
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_places_nothing_wrong() {
    let fixture = Fixture::new(Generation::Final);
    for (form, name) in [(Form::Tar, "b.tar"), (Form::TarZst, "b.tar.zst")] {
        let bundle = fixture.path(name);
        export(&fixture.export_options(&bundle, form)).unwrap();
        let good = fs::read(&bundle).unwrap();
        let reference = fixture.path(&format!("reference-{name}"));
        import(&import_options(&bundle, &reference)).unwrap();
        let expected = tree(&reference.join("snapshots"));
        for i in 0..60u64 {
            let at = (i * 7_919_993 % good.len() as u64) as usize;
            let mut bad = good.clone();
            bad[at] ^= 1 << (i % 8);
            fs::write(&bundle, &bad).unwrap();
            let store = fixture.path("restored");
            match import(&import_options(&bundle, &store)) {
                Ok(_) => assert_eq!(tree(&store.join("snapshots")), expected, "byte {at}"),
                Err(_) => assert!(tree(&store).is_empty(), "byte {at}"),
            }
            let _ = fs::remove_dir_all(&store);
        }
    }
}

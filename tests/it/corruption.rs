//! Any one blob that is wrong: exit code 3, the exact finding, and a destination that is untouched.

use std::{fs, path::Path, sync::Arc};

use snapcask::{
    check_bundle::verify_bundle,
    export::Form,
    import::{BundleLocation, import},
    model::Generation,
    progress::Silent,
};

use crate::fixture::*;

#[track_caller]
fn refused(bundle: &Path, store: &Path, hex: &str, code: &str, what: &str) {
    let before = whole_tree(store);
    let error = import(&import_options(bundle, store)).expect_err(what);
    assert_eq!(error.exit_code(), 3, "{what}: {error}");
    assert_eq!(whole_tree(store), before, "{what}: the destination changed");
    let report = verify_bundle(&BundleLocation::path(bundle.into()), false, 2, Arc::new(Silent)).unwrap();
    let found = report.findings.iter().any(|f| f.code == code && f.subject == format!("sha256:{hex}"));
    assert!(found, "{what}: no {code} for {hex} in {:?}", report.findings);
}

#[test]
fn every_blob_of_a_directory() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let bundle = fixture.path("bundle");
    fixture.export_chain(Form::Dir, &bundle);
    let store = Fixture::sized(Generation::V066, 16 << 20).store;
    fs::create_dir_all(store.join("snapshots")).unwrap();
    write(store.join("snapshots/other/canary"), b"stays");
    let names = blobs(&bundle);
    assert!(names.len() >= 3 * 3 + 5, "{names:?}");
    for (i, hex) in names.iter().enumerate() {
        let path = bundle.join("blobs/sha256").join(hex);
        let other = bundle.join("blobs/sha256").join(&names[(i + 1) % names.len()]);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        let longer = [good.as_slice(), b"x"].concat();
        let swapped = fs::read(other).unwrap();
        for (what, bytes) in [
            ("flipped", flipped.as_slice()),
            ("truncated", &good[..good.len() - 1]),
            ("extended", &longer),
            ("swapped", &swapped),
        ] {
            fs::write(&path, bytes).unwrap();
            refused(&bundle, &store, hex, "blob-corrupt", what);
        }
        fs::remove_file(&path).unwrap();
        refused(&bundle, &store, hex, "blob-missing", "removed");
        fs::write(&path, good).unwrap();
    }
    import_ok(&bundle, &store);
    let _ = fs::remove_dir_all(store);
}

#[test]
fn every_blob_of_a_tar() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    let bundle = fixture.path("bundle.tar");
    fixture.export_chain(Form::Tar, &bundle);
    let store = fixture.path("target");
    let good = fs::read(&bundle).unwrap();
    let entries = tar_entries(&good);
    let blobs: Vec<_> = entries.iter().filter(|(name, ..)| name.starts_with("blobs/sha256/")).collect();
    assert!(blobs.len() >= 14);
    for (name, at, size) in blobs {
        let mut bytes = good.clone();
        bytes[at + size / 2] ^= 1;
        fs::write(&bundle, bytes).unwrap();
        refused(&bundle, &store, &name["blobs/sha256/".len()..], "blob-corrupt", name);
    }
    fs::write(&bundle, good).unwrap();
    import_ok(&bundle, &store);
}

/// Name, offset of the data and size of every entry that has data.
fn tar_entries(tar: &[u8]) -> Vec<(String, usize, usize)> {
    let text = |field: &[u8]| String::from_utf8(field.iter().copied().take_while(|b| *b != 0).collect()).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while tar[at..].len() >= 512 && tar[at] != 0 {
        let size = usize::from_str_radix(text(&tar[at + 124..at + 136]).trim(), 8).unwrap();
        found.push((text(&tar[at..at + 100]), at + 512, size));
        at += 512 + size.div_ceil(512) * 512;
    }
    found.retain(|(_, _, size)| *size > 0);
    found
}

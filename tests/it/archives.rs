//! Archives that are cut, damaged or repacked by other tools.

use std::{fs, path::Path, process::Command};

use snapcask::{
    export::Form,
    import::{ImportOptions, import},
    model::Generation,
};

use crate::fixture::*;

const FORMS: [(Form, &str); 2] = [(Form::Tar, "b.tar"), (Form::TarZst, "b.tar.zst")];

#[test]
fn a_cut_archive_places_nothing() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    for (form, name) in FORMS {
        let bundle = fixture.path(name);
        fixture.export_chain(form, &bundle);
        let good = fs::read(&bundle).unwrap();
        let store = fixture.path("restored");
        for part in 0..40 {
            fs::write(&bundle, &good[..good.len() * part / 40]).unwrap();
            assert!(import(&import_options(&bundle, &store)).is_err(), "{part}/40");
            assert!(!store.exists(), "{part}/40: {:?}", whole_tree(&store));
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_places_nothing_wrong() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    for (form, name) in FORMS {
        let bundle = fixture.path(name);
        fixture.export_chain(form, &bundle);
        let good = fs::read(&bundle).unwrap();
        let reference = fixture.path(&format!("reference-{name}"));
        let options = |store: &Path| ImportOptions { group: Some(GROUP.into()), ..import_options(&bundle, store) };
        import(&options(&reference)).unwrap();
        let expected = tree(&reference.join("snapshots"));
        for i in 0..60u64 {
            let at = (i * 7_919_993 % good.len() as u64) as usize;
            let mut bad = good.clone();
            bad[at] ^= 1 << (i % 8);
            fs::write(&bundle, &bad).unwrap();
            let store = fixture.path("restored");
            match import(&options(&store)) {
                Ok(_) => assert_eq!(tree(&store.join("snapshots")), expected, "byte {at}"),
                Err(_) => assert!(!store.exists(), "byte {at}"),
            }
            let _ = fs::remove_dir_all(&store);
        }
    }
}

/// One big frame, gzip, a `./` prefix, other orders.
#[test]
fn archives_repacked_by_other_tools_are_read() {
    for tool in ["tar", "zstd", "gzip"] {
        if !["/usr/bin", "/bin"].iter().any(|d| Path::new(d).join(tool).exists()) {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{tool} is missing in CI");
            eprintln!("SKIPPED: {tool} is not installed");
            return;
        }
    }
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let folder = fixture.path("bundle");
    fixture.export_chain(Form::Dir, &folder);
    for (name, pack) in [
        ("one-frame.tar.zst", "tar -C $FROM -c index.json blobs oci-layout | zstd -q -5 -o $TO"),
        ("gzip.tar.gz", "tar -C $FROM -cz -f $TO ./oci-layout ./blobs ./index.json"),
        ("dot.tar", "tar -C $FROM -cf $TO ."),
    ] {
        let to = fixture.path(name);
        let done = Command::new("bash").args(["-ec", pack]).env("FROM", &folder).env("TO", &to).status().unwrap();
        assert!(done.success(), "{pack}");
        let report = import_ok(&to, &fixture.path(&format!("restored-{name}")));
        assert_same_snapshot(fixture.head(), report.snapshots[0].path.as_ref().unwrap());
    }
}

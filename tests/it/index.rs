//! msb's database after an import: a script in msb's place tells when it ran, and with what.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use snapcask::{export::Form, model::Generation};

use crate::{fixture::*, layout_checks::validate};

const SMALL: u64 = 16 << 20;

/// An `msb` in a folder of its own, which logs its arguments and its home.
fn msb(fixture: &Fixture, ends: &str) -> (PathBuf, PathBuf) {
    let (folder, log) = (fixture.path("bin"), fixture.path("log"));
    fs::create_dir_all(&folder).unwrap();
    let script = format!("#!/bin/sh\necho \"$* in $MSB_HOME\" >> '{}'\n{ends}\n", log.display());
    let program = folder.join("msb");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (folder, log)
}

fn bundle() -> (Fixture, PathBuf) {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let bundle = fixture.path("chain.tar");
    fixture.export_chain(Form::Tar, &bundle);
    (fixture, bundle)
}

fn imported(bundle: &Path, store: &Path, path: &Path, more: &[&str]) -> Value {
    let mut import = command(["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap(), "--json"]);
    let output = import.args(more).env("PATH", path).output().unwrap();
    let report = serde_json::from_str(&succeeds(&output)).unwrap();
    validate("import-report", &report);
    report
}

#[test]
fn import_runs_msb_once_for_what_it_placed() {
    let (fixture, bundle) = bundle();
    let (folder, log) = msb(&fixture, "");
    let store = fixture.path("target");
    assert_eq!(imported(&bundle, &store, &folder, &[])["index"], json!({"outcome": "done"}));
    let said = format!("snapshot reindex in {}\n", store.display());
    assert_eq!(fs::read_to_string(&log).unwrap(), said);
    // Nothing changes, or it goes where msb does not look.
    assert_eq!(imported(&bundle, &store, &folder, &[])["index"], Value::Null);
    let elsewhere = fixture.path("elsewhere");
    let elsewhere = ["--dest", elsewhere.to_str().unwrap()];
    assert_eq!(imported(&bundle, &fixture.path("second"), &folder, &elsewhere)["index"], Value::Null);
    assert_eq!(
        imported(&bundle, &fixture.path("third"), &folder, &["--no-reindex"])["index"],
        json!({"outcome": "off"})
    );
    assert_eq!(fs::read_to_string(&log).unwrap(), said);
}

#[test]
fn import_without_msb_says_the_command() {
    let (fixture, bundle) = bundle();
    let store = fixture.path("target");
    let index = imported(&bundle, &store, Path::new("."), &[])["index"].clone();
    assert_eq!(index["outcome"], "command");
    assert!(index["command"].as_str().unwrap().ends_with(" msb snapshot reindex"), "{index}");
}

#[test]
fn msb_that_fails_is_a_warning() {
    let (fixture, bundle) = bundle();
    let (folder, _) = msb(&fixture, "echo first >&2; echo 'no luck' >&2; exit 1");
    let store = fixture.path("target");
    let index = imported(&bundle, &store, &folder, &[])["index"].clone();
    assert_eq!((&index["outcome"], &index["reason"]), (&json!("failed"), &json!("no luck")));
    assert_eq!(snapcask::store::Store::at(&store).all().unwrap().0.len(), 3);
}

/// `msb image prune` meanwhile would take the image, which no row needs yet.
#[test]
fn image_is_protected_until_msb_knows_the_snapshots() {
    let (fixture, bundle) = bundle();
    let locked = fixture.path("locked");
    let ends = format!(
        "for f in \"$MSB_HOME\"/cache/layers/.msb-leases/*.lock; do /usr/bin/flock -xn \"$f\" /usr/bin/true || echo \"$f\" >> '{}'; done",
        locked.display()
    );
    let (folder, _) = msb(&fixture, &ends);
    let store = fixture.path("target");
    imported(&bundle, &store, &folder, &[]);
    let layers =
        fs::read_dir(store.join("cache/layers")).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count();
    let locked = fs::read_to_string(&locked).unwrap_or_default();
    assert!(layers > 0);
    assert_eq!(locked.lines().count(), layers, "{locked}");
    // Later nobody keeps msb from pruning.
    for line in locked.lines() {
        assert!(std::process::Command::new("/usr/bin/flock").args(["-xn", line, "true"]).status().unwrap().success());
    }
}

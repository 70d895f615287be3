//! What is not ours to read is neither missing nor corrupt.

use std::fs;

use snapcask::{export::Form, model::Generation};

use super::{Talk, copy};
use crate::fixture::{Fixture, chmod, import_ok, only_group, stderr, stdout};

const SMALL: u64 = 16 << 20;

/// A store of an ordinary user with a chain of three, and a bundle of it.
fn talk(generation: Generation) -> Talk {
    let (fixture, talk) = (Fixture::sized(generation, SMALL), Talk::new());
    copy(&fixture.store, &talk.path("store"));
    fixture.export_chain(Form::Dir, &talk.path("bundle"));
    import_ok(&talk.path("bundle"), &talk.path("placed"));
    talk.give("");
    talk
}

/// Every verb that reads or writes the store, or the bundle. What is by force is last: it replaces what it may.
const ALL: [&str; 9] = [
    "list --store placed",
    "check --store placed --no-reindex -q",
    "export head --store placed -o out.tar --with-parents -q",
    "inspect head --store placed",
    "remove middle --store placed --no-reindex -q",
    "import ./bundle --store placed --no-reindex -q",
    "sync head other --store placed -q",
    "check --store placed --no-reindex -q --repair-from ./bundle",
    "import ./bundle --store placed --no-reindex -q --force",
];

/// Those that read payloads.
const PAYLOADS: [&str; 4] = [
    "check --store placed --no-reindex -q",
    "export head --store placed -o out.tar --with-parents -q",
    "import ./bundle --store placed --no-reindex -q",
    "sync head other --store placed -q",
];

/// Those that read the bundle.
const BUNDLE: [&str; 5] = [
    "import ./bundle --store placed --no-reindex -q",
    "verify ./bundle -q",
    "inspect ./bundle",
    "copy ./bundle out.tar -q",
    "check --store placed --no-reindex -q --repair-from ./bundle",
];

/// Takes the rights away, lets everything be tried, and gives them back.
fn denied(talk: &mut Talk, what: &str, lines: &[&str]) {
    let path = talk.path(what);
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    chmod(&path, 0);
    talk.said += &format!("# no rights to {what}\n\n");
    let mut lies = Vec::new();
    for line in lines {
        let output = talk.run(line);
        let said = stdout(&output) + &stderr(&output);
        if output.status.code() != Some(1) || !said.contains("permission denied") {
            lies.push(format!("{what}: {line}: {:?}: {said}", output.status.code()));
        }
        for wrong in ["missing", "corrupt", "not found", "is not there", "not in the store", "in use"] {
            if said.contains(wrong) {
                lies.push(format!("{what}: {line} says {wrong}: {said}"));
            }
        }
        let _ = fs::remove_file(talk.path("out.tar"));
        let _ = fs::remove_dir_all(talk.path("other"));
    }
    chmod(&path, mode);
    assert!(lies.is_empty(), "{}", lies.join("\n"));
}

#[test]
fn what_is_denied_is_said_to_be_denied_by_every_verb() {
    let mut talk = talk(Generation::V066);
    for what in ["placed", "placed/snapshots", "placed/snapshots/middle", "placed/snapshots/middle/manifest.json"] {
        denied(&mut talk, what, &ALL);
    }
    denied(&mut talk, "placed/snapshots/middle/upper.ext4", &PAYLOADS);
    denied(&mut talk, "placed/snapshots/middle/.snapcask.json", &PAYLOADS);
    denied(&mut talk, "bundle", &BUNDLE);
    denied(&mut talk, "bundle/index.json", &BUNDLE);
    insta::assert_snapshot!(talk.said);
}

/// SQLite has other words for it.
#[test]
fn a_database_that_is_denied_is_said_to_be_denied() {
    let mut talk = talk(Generation::V066);
    fs::create_dir(talk.path("placed/db")).unwrap();
    fs::write(talk.path("placed/db/msb.db"), "").unwrap();
    talk.give("placed/db");
    denied(&mut talk, "placed/db/msb.db", &["remove head --store placed --prune-image --no-reindex -q"]);
    denied(&mut talk, "placed/db", &["remove head --store placed --prune-image --no-reindex -q"]);
    assert!(talk.path("placed/snapshots/head").exists());
}

/// Of a group, whose members go by their names.
#[test]
fn what_is_denied_in_a_group_is_said_to_be_denied() {
    let mut talk = talk(Generation::Final);
    let group = only_group(&talk.path("placed"));
    let group = group.strip_prefix(talk.path("placed")).unwrap().to_str().unwrap().to_owned();
    let members = fs::read_dir(talk.path("placed").join(&group)).unwrap().map(|entry| entry.unwrap().path());
    let member = members.into_iter().find(|path| path.join("snapshot.json").exists()).unwrap();
    let member = member.file_name().unwrap().to_str().unwrap().to_owned();
    let lines = [
        "list --store placed",
        "check --store placed --no-reindex -q",
        "export nobody --store placed -o out.tar -q",
        "export snap_00000000000000000000000000000000 --store placed -o out.tar -q",
        "remove nobody --store placed --no-reindex -q",
    ];
    denied(&mut talk, &format!("placed/{group}"), &lines);
    denied(&mut talk, &format!("placed/{group}/{member}"), &lines);
}

/// What is there is found all the same, whatever else is not ours to read.
#[test]
fn what_is_denied_elsewhere_keeps_nobody_from_what_is_there() {
    let mut talk = talk(Generation::Final);
    fs::create_dir(talk.path("placed/snapshots/secret")).unwrap();
    chmod(&talk.path("placed/snapshots/secret"), 0);
    for line in [
        "export head --store placed -o out.tar --with-parents -q",
        "inspect middle --store placed",
        "import ./bundle --store placed --no-reindex -q",
        "sync head placed --store store -q",
    ] {
        let output = talk.run(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", stderr(&output));
    }
    // All but that is listed, and the list is not said to be whole.
    let output = talk.run("list --store placed --json");
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["snapshots"].as_array().unwrap().len(), 3);
    assert_eq!(report["unreadable"].as_array().unwrap().len(), 1);
    chmod(&talk.path("placed/snapshots/secret"), 0o755);
}

//! What was not read or not compared is said to be so.

use std::fs;

use snapcask::{
    export::{ExportOptions, Form, export},
    model::Generation,
};

use super::{Talk, copy};
use crate::fixture::{Fixture, blobs, stdout};

const SMALL: u64 = 16 << 20;

fn talk(generation: Generation) -> (Talk, Fixture) {
    let (fixture, talk) = (Fixture::sized(generation, SMALL), Talk::new());
    copy(&fixture.store, &talk.path("store"));
    fixture.export_chain(Form::Dir, &talk.path("bundle"));
    talk.give("");
    (talk, fixture)
}

/// Flips a bit in the largest layer of a layout directory.
fn spoil(talk: &Talk, bundle: &str) {
    let path = |blob: &String| talk.path(bundle).join("blobs/sha256").join(blob);
    let largest = blobs(&talk.path(bundle)).into_iter().max_by_key(|blob| fs::metadata(path(blob)).unwrap().len());
    let path = path(&largest.unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
}

#[test]
fn an_import_that_read_nothing_says_so_and_verifies_on_demand() {
    for generation in [Generation::V066, Generation::Final] {
        let (mut talk, _fixture) = talk(generation);
        let import = "import ./bundle --store placed --no-reindex";
        let unread = "note   everything is installed already, so the bundle was not read beyond its descriptions; \
                      --verify-source reads and verifies all of it\n";
        assert!(!stdout(&talk.run(import)).contains(unread));
        assert!(stdout(&talk.run(import)).contains(unread));
        let verified = stdout(&talk.run(&format!("{import} --verify-source")));
        assert!(!verified.contains(unread) && verified.starts_with("source every layer was read and is good\n"));
        let json: serde_json::Value = serde_json::from_str(&stdout(&talk.run(&format!("{import} --json")))).unwrap();
        assert_eq!((&json["sourceUnread"], &json["sourceVerified"]), (&true.into(), &false.into()));
        crate::layout_checks::validate("import-report", &json);
        let json = stdout(&talk.run(&format!("{import} --json --verify-source")));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["sourceUnread"], &json["sourceVerified"]), (&false.into(), &true.into()));
        spoil(&talk, "bundle");
        assert_eq!(talk.run(import).status.code(), Some(0), "nothing of it is read");
        let output = talk.run(&format!("{import} --verify-source"));
        assert_eq!(output.status.code(), Some(3));
        assert!(crate::fixture::stderr(&output).contains("is corrupt"));
    }
}

#[test]
fn a_check_says_what_nothing_vouches_for_and_compares_it_with_a_bundle() {
    let (mut talk, fixture) = talk(Generation::V066);
    let file = |talk: &Talk, name: &str| talk.path("store/snapshots/head").join(name);
    let check = |talk: &mut Talk, more: &str| {
        let line = format!("check --store store --no-reindex --json {more}");
        let report: serde_json::Value = serde_json::from_str(&stdout(&talk.run(&line))).unwrap();
        crate::layout_checks::validate("check-report", &report);
        let of = |list: &str| -> Vec<(String, String)> {
            let found = report[list].as_array().unwrap().iter();
            found.map(|f| (f["code"].as_str().unwrap().into(), f["subject"].as_str().unwrap().into())).collect()
        };
        (of("findings"), of("notes"))
    };
    let (findings, notes) = check(&mut talk, "");
    assert_eq!(findings, []);
    for name in ["upper.ext4", "notes.txt"] {
        let note = ("file-not-compared".to_owned(), format!("snapshots/head/{name}"));
        assert!(notes.contains(&note), "{notes:?}");
    }
    assert!(notes.iter().any(|(code, _)| code == "cache-not-compared"), "{notes:?}");
    let text = stdout(&talk.run("check --store store --no-reindex"));
    assert!(text.contains("snapshots/head/upper.ext4  not imported by snapcask: nothing to compare with\n"), "{text}");
    assert_eq!(stdout(&talk.run("check --store store --no-reindex -q")), "");
    // A bundle vouches for all of it; another image that is in the cache is in none.
    let (findings, others) = check(&mut talk, "--repair-from ./bundle");
    assert_eq!(findings, []);
    assert!(!others.is_empty() && others.iter().all(|(code, _)| code == "cache-not-compared"), "{others:?}");
    assert!(others.len() < notes.iter().filter(|(code, _)| code == "cache-not-compared").count(), "{others:?}");
    // What differs is found, and nothing is replaced, because nothing says which is right.
    let own = b"another's notes";
    fs::write(file(&talk, "notes.txt"), own).unwrap();
    let (findings, notes) = check(&mut talk, "--repair-from ./bundle");
    let expected = [("file-differs", "snapshots/head/notes.txt"), ("repair-refused", "snapshots/head")];
    assert_eq!(findings, expected.map(|(code, subject)| (code.to_owned(), subject.to_owned())));
    assert_eq!((notes, fs::read(file(&talk, "notes.txt")).unwrap().as_slice()), (others, own.as_slice()));
    let output = talk.run("check --store store --no-reindex --repair-from ./bundle -q");
    assert_eq!(output.status.code(), Some(3));
    // What is gone comes back, for there is nothing to lose. (The image stays out of it: its VMDK names the store that the
    // sample was copied from.)
    let plain = ExportOptions { with_parents: true, ..fixture.export_options(Form::Tar, &talk.path("plain.tar")) };
    export(&plain).unwrap();
    talk.give("plain.tar");
    fs::remove_file(file(&talk, "notes.txt")).unwrap();
    assert_eq!(check(&mut talk, "--repair-from plain.tar").0, []);
    let original = fs::read(fixture.head().directory.join("notes.txt")).unwrap();
    assert_eq!(fs::read(file(&talk, "notes.txt")).unwrap(), original);
}

#[test]
fn a_parent_that_an_import_left_out_is_noted() {
    let (mut talk, _fixture) = talk(Generation::Flat);
    talk.run("import ./bundle --head-only --store placed --no-reindex -q");
    let output = talk.run("check --store placed --no-reindex");
    assert_eq!(output.status.code(), Some(0));
    let said = stdout(&output);
    assert!(said.contains("parent-left-out") && said.contains("and was not when it was imported"), "{said}");
    // Where it was there, it is missed.
    talk.run("import ./bundle --store whole --no-reindex -q");
    talk.run("remove base --orphan-children --store whole --no-reindex -q");
    let output = talk.run("check --store whole --no-reindex -q");
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).starts_with("parent-missing  snapshots/middle  its parent "), "{}", stdout(&output));
}

/// A disk that is full is nobody's limit.
#[test]
fn a_disk_without_room_says_so() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (talk, _fixture) = talk(Generation::V066);
    let disk = talk.path("disk");
    fs::create_dir(&disk).unwrap();
    let script = "mount -t tmpfs -o size=256k tmpfs \"$1\" && exec \"$0\" import \"$2\" --store \"$1/store\" -q";
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .args([&talk.program, &disk, &talk.path("bundle")])
        .output()
        .unwrap();
    let said = crate::fixture::stderr(&output);
    if said.contains("mount:") || said.contains("unshare:") {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no space left on the disk of ") && said.contains(" are free; free some space"), "{said}");
    assert!(!said.contains("limit"), "{said}");
}

//! The command line as a stranger uses it: exit codes and exact words.

use std::{fs, os::unix::fs::symlink, process::Command};

use snapcask::model::Generation;

use crate::fixture::Fixture;

/// Exit code, standard output, standard error.
fn snapcask(fixture: &Fixture, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_snapcask"))
        .args(args)
        .env("MSB_HOME", &fixture.store)
        .current_dir(fixture.folder.path())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn exit_codes_and_messages() {
    let fixture = Fixture::new(Generation::V066);
    let run = |args: &[&str]| snapcask(&fixture, args);
    let (code, out, err) = run(&["export", "head", "--with-parents", "-o", "b.tar.zst"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("head   head  sha256:"), "{out}");
    for (args, code, message) in [
        (&["export", "head", "-o", "b.bin"][..], 2, "says no form; it can be NAME.tar.zst"),
        (&["export", "nope", "-o", "c.tar"], 4, "no snapshot \"nope\" in"),
        (&["export", "nope", "-o", "c.tar"], 4, "; the store has base, head, middle"),
        (&["export", "head", "-o", "b.tar.zst"], 5, "b.tar.zst already exists; use --force to replace it"),
        (&["export", "head", "--tag", "a b", "-o", "c.tar"], 2, "is no valid OCI tag"),
        (&["export", "head", "--with-parents", "--tag", "base", "-o", "c.tar"], 2, "two snapshots of the bundle"),
        (&["import", "missing.tar"], 4, "bundle not found: missing.tar"),
        (&["import", "store/snapshots/head/upper.ext4"], 3, "neither a layout directory, a tar nor a tar.zst"),
        (&["import", "b.tar.zst", "--tag", "x"], 4, "no tag \"x\" in the bundle; it has head, middle, base"),
        (&["export"], 2, "Usage"),
    ] {
        let (got, _, err) = run(args);
        assert_eq!(got, code, "{args:?}: {err}");
        assert!(err.contains(message), "{args:?}: {err}");
    }
    assert!(!fixture.path("c.tar").exists());
    assert_eq!(run(&["export", "head", "-o", "b.tar.zst", "--force"]).0, 0);
    let (code, out, _) = run(&["verify", "b.tar.zst", "--json"]);
    assert_eq!(code, 0);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["findings"], serde_json::json!([]));
    let (code, out, _) = run(&["list"]);
    assert_eq!(code, 0);
    let names: Vec<&str> =
        out.lines().skip(1).map(|l| l.trim_start_matches(['└', '─', ' ']).split(' ').next().unwrap()).collect();
    assert_eq!(names, ["base", "middle", "head"]);
    assert_eq!(run(&["inspect", "b.tar.zst"]).0, 0);
    assert_eq!(run(&["inspect", "head", "--json"]).0, 0);
    let left: Vec<_> = fs::read_dir(fixture.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().contains("partial")), "{left:?}");
}

#[test]
fn a_digest_prefix_finds_its_snapshot_and_parents_must_be_there() {
    let fixture = Fixture::new(Generation::Flat);
    let head = snapcask::snapshot::Snapshot::open(&fixture.snapshots[2]).unwrap().descriptor.digest;
    for reference in [head.to_string(), head.hex(), head.short(), "store/snapshots/head".into()] {
        let (code, _, err) = snapcask(&fixture, &["export", &reference, "-o", "x.tar", "--force"]);
        assert_eq!(code, 0, "{reference}: {err}");
    }
    fs::remove_dir_all(&fixture.snapshots[1]).unwrap();
    let (code, _, err) = snapcask(&fixture, &["export", "head", "--with-parents", "-o", "y.tar"]);
    assert_eq!(code, 4);
    assert!(err.contains("snapshot head names the parent sha256:"), "{err}");
    assert!(err.contains("import the parent first, or export without --with-parents"), "{err}");
}

#[test]
fn ambiguity_lists_the_candidates() {
    let fixture = Fixture::new(Generation::Final);
    let groups = fixture.store.join("snapshots");
    crate::fixture::run(Command::new("cp").args(["-r"]).args([groups.join("group"), groups.join("copy")]));
    let (code, _, err) = snapcask(&fixture, &["export", "head", "-o", "x.tar"]);
    assert_eq!(code, 2);
    assert!(err.contains("\"head\" is ambiguous; it can be member copy:head (sha256:"), "{err}");
    assert_eq!(snapcask(&fixture, &["export", "copy:head", "-o", "x.tar"]).0, 0);
    assert_eq!(snapcask(&fixture, &["export", "copy", "-o", "y.tar"]).0, 0);
}

#[test]
fn what_cannot_travel_is_refused() {
    let fixture = Fixture::new(Generation::V066);
    let disk = fixture.snapshots[2].join("upper.ext4");
    symlink("/etc/passwd", fixture.snapshots[2].join("link")).unwrap();
    let (code, _, err) = snapcask(&fixture, &["export", "head", "-o", "x.tar"]);
    assert_eq!(code, 1);
    assert!(err.contains("link is a symbolic link; only regular files can be packed"), "{err}");
    fs::remove_file(fixture.snapshots[2].join("link")).unwrap();
    fs::File::options().write(true).open(&disk).unwrap().set_len(4096).unwrap();
    let (code, _, err) = snapcask(&fixture, &["export", "head", "-o", "x.tar"]);
    assert_eq!(code, 1);
    assert!(err.contains("upper.ext4 has 4096 bytes, its descriptor says 67108864"), "{err}");
    assert!(!fixture.path("x.tar").exists());
}

#[test]
fn recorded_integrity_is_verified() {
    let fixture = Fixture::new(Generation::V066);
    let path = fixture.snapshots[2].join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let record = |value: &str| {
        text.replace(
            "\"integrity\":null",
            &format!(r#""integrity":{{"algorithm":"sha256","digest":"sha256:{value}"}}"#),
        )
    };
    let disk = snapcask::Digest::of(&fs::read(fixture.snapshots[2].join("upper.ext4")).unwrap());
    fs::write(&path, record(&disk.hex())).unwrap();
    assert_eq!(snapcask(&fixture, &["export", "head", "-o", "x.tar"]).0, 0);
    assert_eq!(snapcask(&fixture, &["import", "x.tar", "--store", "r"]).0, 0);
    fs::write(&path, record(&"0".repeat(64))).unwrap();
    let (code, _, err) = snapcask(&fixture, &["export", "head", "-o", "y.tar"]);
    assert_eq!(code, 3);
    assert!(err.contains("recorded integrity of"), "{err}");
}

#[test]
fn the_demo_runs() {
    let fixture = Fixture::new(Generation::V066);
    let (code, out, err) = snapcask(&fixture, &["demo", "d"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("6 files are identical, byte for byte"), "{out}");
    assert_eq!(snapcask(&fixture, &["demo", "d"]).0, 5);
}

//! A name means a snapshot of the store, whatever stands beside it; what is wrong with a reference is said.

use std::{fs, process::Command};

use snapcask::{export::Form, model::Generation};

use super::{Talk, copy};
use crate::{
    fixture::{Fixture, stderr},
    msb_archive::writer::{ALL, Archive},
};

const SMALL: u64 = 16 << 20;

/// A store with a chain of three; beside it bundles of another store, one under the name of a snapshot.
fn talk() -> Talk {
    let (fixture, other) = (Fixture::sized(Generation::V066, SMALL), Fixture::sized(Generation::Flat, SMALL));
    let talk = Talk::new();
    copy(&fixture.store, &talk.path("store"));
    for (name, form) in
        [("head", Form::Dir), ("configured", Form::Dir), ("b.tar", Form::Tar), ("c.tar.zst", Form::TarZst)]
    {
        other.export_chain(form, &talk.path(name));
    }
    fs::copy(talk.path("b.tar"), talk.path("notes")).unwrap();
    assert!(Command::new("gzip").arg("-k").arg(talk.path("b.tar")).status().unwrap().success());
    fs::create_dir(talk.path("empty")).unwrap();
    talk.give("");
    talk
}

#[test]
fn a_name_is_a_snapshot_whatever_stands_beside_it() {
    let mut talk = talk();
    for line in [
        // A folder of that name is a bundle of another snapshot.
        "inspect head --store store",
        "inspect ./head --store store",
        "export middle --since head -o out.tar --store store -q",
        "export head --since ./head -o out.tar --store store -q",
        // A name that is only a path.
        "inspect configured --store store",
        "inspect notes --store store",
        "export head --since configured -o none.tar --store store -q",
        "push configured oci://127.0.0.1:1/vm --store store",
        "push notes oci://127.0.0.1:1/vm --store nowhere",
        // Only a snapshot is of use there.
        "export configured -o none.tar --store store",
        "sync configured other --store store",
        // A snapshot where a bundle is needed.
        "import base --store store",
        "import nothing --store store",
        // Archives are files.
        "inspect nothing.tar --store store",
        "inspect b.tar.gz --store store",
        "inspect c.tar.zst --store store",
        // Paths.
        "inspect ./nothing --store store",
        "inspect ./empty --store store",
        "inspect store/snapshots/base --store store",
    ] {
        talk.run(line);
    }
    insta::assert_snapshot!(talk.said);
}

#[test]
fn gzip_is_read_everywhere_and_written_nowhere() {
    let mut talk = talk();
    for line in [
        "verify b.tar.gz -q",
        "import b.tar.gz --store placed --no-reindex -q",
        "check --store placed --repair-from b.tar.gz --no-reindex -q",
        "copy b.tar.gz copied.tar -q",
        "export head --since b.tar.gz -o none.tar --store placed -q",
        "import copied.tar --base b.tar.gz --store placed --no-reindex -q",
        "export head -o x.tar.gz --store placed",
        "export head -o x.tgz --format tar --store placed",
        "copy b.tar x.tar.gz",
    ] {
        talk.run(line);
    }
    insta::assert_snapshot!(talk.said);
}

/// An archive of msb that somebody has compressed so.
#[test]
fn gzip_of_an_archive_of_msb_is_read() {
    let (fixture, mut talk) = (Fixture::sized(Generation::Final, SMALL), Talk::new());
    Archive::of(&fixture, ALL).write_plain(&talk.path("a.tar"));
    assert!(Command::new("gzip").arg(talk.path("a.tar")).status().unwrap().success());
    talk.give("");
    for line in [
        "verify a.tar.gz -q",
        "inspect a.tar.gz",
        "import a.tar.gz --store placed --no-reindex -q",
        "convert a.tar.gz -o b.tar.zst -q",
        "import b.tar.zst --store placed --no-reindex -q",
    ] {
        let output = talk.run(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", stderr(&output));
    }
    // Cut off, it is damaged and nothing is placed.
    let bytes = fs::read(talk.path("a.tar.gz")).unwrap();
    fs::write(talk.path("a.tar.gz"), &bytes[..bytes.len() / 2]).unwrap();
    let output = talk.run("import a.tar.gz --store other --no-reindex -q");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(!talk.path("other/snapshots").exists());
}

#[test]
fn what_is_wrong_with_a_reference_is_said() {
    let mut talk = talk();
    for line in [
        "export sha256: -o none.tar --store store",
        "export sha256:abcdef -o none.tar --store store",
        "remove sha256:ABCDEF012345 --store store",
        "export sha256:00000000000000000000000000000000000000000000000000000000000000000 -o none.tar --store store",
        "remove oci://registry.example/vm:head --store store",
        "export oci://registry.example/vm:head -o none.tar --store store",
        "sync oci://registry.example/vm:head other --store store",
        "head oci://registry.example/vm --store store",
        "inspect oci://registry.example/vm@sha256:abcdef --store store",
        "import b.tar --tag nobody --store placed",
        "copy b.tar copied.tar --tag nobody",
    ] {
        talk.run(line);
    }
    insta::assert_snapshot!(talk.said);
}

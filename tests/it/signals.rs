//! Ctrl-C: the command ends at once, says how to go on, and leaves nothing that anybody could take for finished.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use snapcask::{export::Form, model::Generation};

use crate::fixture::*;

/// Far more than it takes: a command that waits for what it was doing would never come to its end here.
const PATIENCE: Duration = Duration::from_secs(20);

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Interrupts a command that is stuck in the middle of its work.
fn interrupted(mut child: Child) -> Output {
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    until("the end after Ctrl-C", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

fn assert_says_how_to_go_on(output: &Output) {
    assert!(fails(output, 130).contains("Run the same command again"));
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_import_leaves_the_store_as_it_was() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let (bundle, store) = (fixture.path("bundle.tar.zst"), fixture.path("target"));
    fixture.export_chain(Form::TarZst, &bundle);
    let bytes = fs::read(&bundle).unwrap();
    let mut import = command(["import", "-", "--store", store.to_str().unwrap()]);
    let mut child = import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&bytes[..bytes.len() / 2]).unwrap();
    let snapshots = store.join("snapshots");
    until("the stage", || snapshots.is_dir() && !names(&snapshots).is_empty());
    assert_says_how_to_go_on(&interrupted(child));
    drop(stdin);
    let left = names(&snapshots);
    assert!(left.iter().all(|name| name.starts_with('.')), "{left:?}");
    succeeds(&run(["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap()]));
    let mut there = names(&snapshots);
    there.sort();
    assert_eq!(there, ["base", "head", "middle"], "what the interrupted one left is gone");
}

#[test]
fn an_export_whose_reader_stopped() {
    let mut fixture = Fixture::empty(Generation::Flat);
    fixture.add("big", 0, 16 << 20, &[(0, random(8 << 20, 5))], serde_json::Value::Null);
    let mut export = command(["export", "big", "-o", "-", "--store", fixture.store.to_str().unwrap()]);
    // Nobody reads the pipe.
    let child = export.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_says_how_to_go_on(&interrupted(child));
}

#[test]
fn a_pull_from_a_silent_registry() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("oci://{}/team/vm:head", listener.local_addr().unwrap());
    let output = folder.path().join("pulled.tar");
    let mut pull = command(["pull", &reference, "-o", output.to_str().unwrap()]);
    pull.env("DOCKER_CONFIG", folder.path());
    let child = pull.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let held = listener.accept().unwrap();
    assert_says_how_to_go_on(&interrupted(child));
    drop(held);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

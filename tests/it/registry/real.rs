//! A registry that nobody here wrote.

use std::time::Duration;

use snapcask::{export::Form, model::Generation};

use super::*;
use crate::interop::{
    registry::{Kind, Registry},
    tools::{find, have},
};

const SMALL: u64 = 16 << 20;

#[test]
fn push_pull_and_import_with_docker_registry() {
    if !have("push_pull_and_import_with_docker_registry", &["docker-registry"]) {
        return;
    }
    for generation in GENERATIONS {
        push_pull_and_import(Kind::DockerRegistry, generation);
    }
}

/// Those that are built with Go are there where somebody has built them.
#[test]
fn push_pull_and_import_with_others() {
    for kind in [Kind::Distribution, Kind::Zot, Kind::Crane] {
        match find(kind.program()) {
            Some(_) => push_pull_and_import(kind, Generation::Flat),
            None => eprintln!("SKIPPED: {} is not installed", kind.program()),
        }
    }
}

fn push_pull_and_import(kind: Kind, generation: Generation) {
    let fixture = Fixture::sized(generation, SMALL);
    let registry = Registry::start(kind, fixture.dir.path());
    let place = |rest: &str| format!("oci://127.0.0.1:{}/{rest}", registry.port);
    let options = options(Some(&fixture.path("cache")));
    std::thread::sleep(Duration::from_millis(3100));
    push_snapshot(&fixture, "middle", &place("team/vm"), &options).unwrap();
    let again = push_snapshot(&fixture, "middle", &place("team/vm"), &options).unwrap();
    assert_eq!(again.sent_bytes, 0);
    let head = push_snapshot(&fixture, "head", &place("team/vm"), &options).unwrap();
    let (bundle, plain) = chain_in_a_folder(&fixture);
    assert_eq!(head.snapshots[0].manifest, plain.snapshots[0].manifest);
    let again = push(&bundle, &place("team/vm"), &options).unwrap();
    assert_eq!((again.sent_blobs, again.sent_bytes), (0, 0));
    let mounted = push(&bundle, &place("team/copy"), &options).unwrap();
    // crane's registry mounts nothing.
    assert!(mounted.sent_blobs == 3 || kind == Kind::Crane, "{mounted:?}: only manifests travel");
    let pulled = fixture.path("pulled");
    pull(&place("team/copy:head"), &options, &pulled, Form::Dir).unwrap();
    assert_eq!(blobs(&pulled), blobs(&bundle));
    let target = fixture.path("target");
    let imported = import_from(&place("team/vm:head"), &options, &target).unwrap();
    for (made, placed) in fixture.snapshots.iter().rev().zip(&imported.snapshots) {
        assert_same_snapshot(made, placed.path.as_ref().unwrap());
    }
    let tags = snapcask::registry::tags(&place("team/vm").parse().unwrap(), &options).unwrap();
    for name in NAMES {
        assert!(tags.iter().any(|tag| tag == name), "{tags:?}");
    }
}

#[test]
fn eight_stores_import_at_once() {
    if !have("eight_stores_import_at_once", &["docker-registry"]) {
        return;
    }
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let registry = Registry::start(Kind::DockerRegistry, fixture.dir.path());
    let place = format!("oci://127.0.0.1:{}/fleet/vm", registry.port);
    push_snapshot(&fixture, "head", &place, &options(None)).unwrap();
    std::thread::scope(|scope| {
        for machine in 0..8 {
            let (fixture, place) = (&fixture, &place);
            scope.spawn(move || {
                let target = fixture.path(&format!("machine-{machine}"));
                let imported = import_from(&format!("{place}:head"), &options(None), &target).unwrap();
                for (made, placed) in fixture.snapshots.iter().rev().zip(&imported.snapshots) {
                    assert_same_snapshot(made, placed.path.as_ref().unwrap());
                }
            });
        }
    });
}

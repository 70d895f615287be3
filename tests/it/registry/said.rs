//! What is said of a transfer: what was refused, and how far it is.

use serde_json::Value;
use snapcask::model::Generation;

use super::{
    chain_in_a_folder,
    server::{Behaviour, Server},
};
use crate::fixture::*;

const SMALL: u64 = 16 << 20;

fn run_with(fixture: &Fixture, line: &[&str]) -> std::process::Output {
    let mut command = command(line);
    command.env("XDG_CACHE_HOME", fixture.path("cache")).env("HOME", fixture.path("home"));
    command
        .env("DOCKER_CONFIG", fixture.path("no-docker"))
        .env_remove("REGISTRY_AUTH_FILE")
        .env_remove("XDG_RUNTIME_DIR");
    command.output().unwrap()
}

/// A push asks what is there first, and is no failure to read for that.
#[test]
fn a_push_that_is_refused_is_called_a_push() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, _) = chain_in_a_folder(&fixture);
    let (bundle, store) = (bundle.to_str().unwrap(), fixture.store.to_str().unwrap());
    for behaviour in [
        Behaviour { always: Some(401), ..Default::default() },
        Behaviour { always: Some(403), ..Default::default() },
        Behaviour { basic: Some("ann:secret"), ..Default::default() },
    ] {
        let server = Server::start();
        server.behave(behaviour);
        let (place, tagged) = (server.reference("vm"), server.reference("vm:head"));
        for line in [vec!["push", "head", &place, "--store", store], vec!["push", bundle, &place]] {
            let text = fails(&run_with(&fixture, &line), 1);
            assert!(text.starts_with("snapcask: error: cannot push "), "{line:?}: {text}");
            assert!(!text.contains("cannot read"), "{line:?}: {text}");
        }
        let text =
            fails(&run_with(&fixture, &["import", &tagged, "--store", fixture.path("new").to_str().unwrap()]), 1);
        assert!(text.starts_with("snapcask: error: cannot read "), "{text}");
    }
}

/// Manifests are sent as well, and what was lost is sent again.
#[test]
fn a_total_is_never_below_what_was_done() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, _) = chain_in_a_folder(&fixture);
    let server = Server::start();
    server.behave(Behaviour { cut_received: vec![300_000], forgets_cut: true, ..Default::default() });
    let place = server.reference("vm");
    let output = run_with(&fixture, &["push", bundle.to_str().unwrap(), &place, "--progress", "json", "-q"]);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    let mut totals = 0;
    for line in said.lines().filter(|line| line.starts_with('{')) {
        let event: Value = serde_json::from_str(line).unwrap();
        if let Some(total) = event["totalBytes"].as_u64() {
            assert!(event["doneBytes"].as_u64().unwrap() <= total, "{event}");
            totals += 1;
        }
    }
    assert!(totals > 1, "{said}");
}

//! The verbs for registries, and that their JSON is what the schemas say.

use std::process::Output;

use serde_json::Value;
use snapcask::model::Generation;

use super::server::{Behaviour, Heads, Server};
use crate::fixture::*;

const SMALL: u64 = 16 << 20;

fn program(fixture: &Fixture, arguments: &[&str]) -> Output {
    command(arguments)
        .env("XDG_CACHE_HOME", fixture.path("cache"))
        .env("DOCKER_CONFIG", fixture.path("no-docker"))
        .env_remove("REGISTRY_AUTH_FILE")
        .output()
        .unwrap()
}

pub fn checked(name: &str, text: &str) -> Value {
    let schema = format!("{}/schemas/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
    let schema: Value = serde_json::from_slice(&std::fs::read(schema).unwrap()).unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{text}");
    value
}

#[test]
fn every_verb_takes_a_registry() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let server = Server::start();
    let store = fixture.store.to_str().unwrap();
    let go = |arguments: &[&str]| succeeds(&program(&fixture, arguments));
    let place = server.reference("team/vm");
    let report = go(&["push", "head", &place, "--with-parents", "--store", store, "--json"]);
    let report = checked("export-report", &report);
    assert_eq!((report["form"].as_str(), report["destination"].as_str()), (Some("registry"), Some(place.as_str())));
    let head = report["snapshots"][0]["manifest"].as_str().unwrap().to_owned();
    assert_eq!(server.tag("team/vm", "head").unwrap().to_string(), head);
    go(&["export", "head", "-o", &format!("{place}:other"), "--with-parents", "--store", store]);
    assert_eq!(server.tag("team/vm", "other").unwrap().to_string(), head);

    let tags = checked("tags-report", &go(&["tags", &place, "--json"]));
    assert_eq!(tags["tags"].as_array().unwrap().len(), 4);
    assert!(go(&["tags", &place]).lines().any(|line| line == "middle"));

    let tagged = format!("{place}:head");
    let inspected = checked("inspect-report", &go(&["inspect", &tagged, "--json"]));
    assert_eq!(inspected["snapshots"].as_array().unwrap().len(), 3);
    checked("verify-report", &go(&["verify", &tagged, "--deep", "--json"]));
    checked("verify-report", &go(&["verify", &format!("{place}@{head}"), "--json"]));

    let bundle = fixture.path("pulled.tar.zst");
    let bundle = bundle.to_str().unwrap();
    let pulled = checked("copy-report", &go(&["pull", &tagged, "-o", bundle, "--json"]));
    assert_eq!(pulled["snapshots"][0]["manifest"], head.as_str());
    let copied = go(&["copy", bundle, &server.reference("copy/of:it"), "--json"]);
    assert!(checked("copy-report", &copied)["sentBytes"].as_u64().unwrap() > 0);
    let again = go(&["push", bundle, &server.reference("copy/of:it"), "--json"]);
    assert_eq!(checked("copy-report", &again)["sentBytes"], 0);

    let target = fixture.path("target");
    let imported = go(&["import", &tagged, "--store", target.to_str().unwrap(), "--json"]);
    checked("import-report", &imported);
    let placed = whole_tree(&target.join("snapshots"));
    assert!(placed.keys().any(|path| path.contains(&fixture.head().identity)), "{placed:#?}");

    // A pipe is one of the forms.
    let piped = program(&fixture, &["copy", &tagged, "-", "--quiet"]);
    assert!(piped.status.success(), "{}", stderr(&piped));
    let read = run_with_input(["verify", "-"], &piped.stdout);
    succeeds(&read);
}

#[test]
fn progress_is_a_json_object_a_line() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    let store = fixture.store.to_str().unwrap();
    let place = server.reference("vm");
    let output = program(&fixture, &["push", "head", &place, "--store", store, "--progress", "json", "--json"]);
    checked("export-report", &succeeds(&output));
    let (mut begun, mut ended) = (0, 0);
    for line in stderr(&output).lines() {
        match checked("progress-event", line)["event"].as_str().unwrap() {
            "begin" => begun += 1,
            "end" => ended += 1,
            _ => {}
        }
    }
    assert!(begun > 0 && begun == ended, "{}", stderr(&output));
}

#[test]
fn mistakes_are_usage_errors() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let store = fixture.store.to_str().unwrap();
    let digest = format!("oci://127.0.0.1:1/vm@sha256:{}", "0".repeat(64));
    for arguments in [
        vec!["push", "head", "somewhere.tar", "--store", store],
        vec!["push", "head", "oci://127.0.0.1:1/VM", "--store", store],
        vec!["push", "head", &digest, "--store", store],
        vec!["export", "head", "-o", "oci://127.0.0.1:1/vm", "--format", "tar", "--store", store],
        vec!["pull", "bundle.tar", "-o", "x.tar"],
        vec!["pull", "oci://127.0.0.1:1/vm:a", "-o", "x.bin"],
        vec!["tags", "oci://127.0.0.1:1/vm:a"],
        vec!["tags", "vm"],
        vec!["login", "127.0.0.1:1"],
        vec!["login", "a b", "--username", "x", "--password-stdin"],
        vec!["inspect", "oci://127.0.0.1:1"],
        vec!["import", "oci://127.0.0.1:1/vm:a", "--username", "x"],
    ] {
        fails(&program(&fixture, &arguments), 2);
    }
}

/// Two snapshots of two stores can have the same name, and one repository.
#[test]
fn a_push_leaves_the_tags_of_other_snapshots_alone() {
    let (ours, theirs) = (Fixture::sized(Generation::Flat, SMALL), Fixture::sized(Generation::Final, SMALL));
    let server = Server::start();
    let place = server.reference("vm");
    let push = |fixture: &Fixture, name: &str, more: &[&str]| {
        let store = fixture.store.to_str().unwrap();
        succeeds(&program(fixture, &[&["push", name, &place, "--with-parents", "--store", store], more].concat()))
    };
    let first = checked("export-report", &push(&theirs, "middle", &["--json"]));
    assert_eq!(first["tagChanges"], serde_json::json!([]));
    let [middle, base] = ["middle", "base"].map(|tag| server.tag("vm", tag).unwrap());

    let second = checked("export-report", &push(&ours, "middle", &["--json"]));
    let manifest = |n: usize| second["snapshots"][n]["manifest"].as_str().unwrap().to_owned();
    let own = format!("base-{}", &manifest(1)["sha256:".len()..][..12]);
    assert_eq!(
        second["tagChanges"],
        serde_json::json!([
            { "tag": "base", "outcome": "kept", "before": base.to_string(), "manifest": manifest(1), "instead": own },
            { "tag": "middle", "outcome": "moved", "before": middle.to_string(), "manifest": manifest(0) },
        ])
    );
    assert_eq!(server.tag("vm", "base"), Some(base));
    assert_eq!(server.tag("vm", "middle").unwrap().to_string(), manifest(0));
    // No sweeper of untagged manifests takes the parent away.
    assert_eq!(server.tag("vm", &own).unwrap().to_string(), manifest(1));

    let text = push(&ours, "middle", &[]);
    assert!(text.contains(&format!("kept   the tag base, which names another manifest, {base}")), "{text}");
    assert!(text.contains(&own) && text.contains("--force") && !text.contains("moved"), "{text}");
    let text = push(&ours, "middle", &["--force"]);
    assert!(text.contains(&format!("moved  the tag base from {base} to {}", manifest(1))), "{text}");
    assert_eq!(server.tag("vm", "base").unwrap().to_string(), manifest(1));

    // The same for a bundle.
    let bundle = theirs.path("bundle");
    theirs.export_chain(snapcask::export::Form::Dir, &bundle);
    let copied = program(&theirs, &["push", bundle.to_str().unwrap(), &place, "--json"]);
    let copied = checked("copy-report", &succeeds(&copied));
    let outcomes: Vec<_> =
        copied["tagChanges"].as_array().unwrap().iter().map(|c| (&c["tag"], &c["outcome"])).collect();
    // A report tells the tags that are there now.
    for row in copied["snapshots"].as_array().unwrap() {
        let (tag, manifest) = (row["tag"].as_str().unwrap(), row["manifest"].as_str().unwrap());
        assert_eq!(server.tag("vm", tag).unwrap().to_string(), manifest, "{copied:#}");
    }
    let tagged = format!("{place}:v4");
    let copied = program(&theirs, &["push", bundle.to_str().unwrap(), &tagged, "--tag", "middle", "--json"]);
    assert_eq!(checked("copy-report", &succeeds(&copied))["snapshots"][0]["tag"], "v4");
    let expected = [("base", "kept"), ("middle", "kept")].map(|(t, o)| (t.into(), o.into()));
    assert_eq!(outcomes, expected.iter().map(|(t, o): &(Value, Value)| (t, o)).collect::<Vec<_>>());
}

/// Some registries, and proxies before them, know no HEAD of a manifest, or leave out the digest, which is optional.
#[test]
fn what_a_tag_names_is_known_without_the_help_of_head() {
    let (ours, theirs) = (Fixture::sized(Generation::Flat, SMALL), Fixture::sized(Generation::Final, SMALL));
    for heads in [Heads::Refused(405), Heads::Refused(400), Heads::WithoutDigest, Heads::OddDigest] {
        let server = Server::start();
        server.behave(Behaviour { heads, ..Default::default() });
        let place = server.reference("vm");
        let push = |fixture: &Fixture| {
            let store = fixture.store.to_str().unwrap();
            let pushed = program(fixture, &["push", "middle", &place, "--with-parents", "--store", store, "--json"]);
            checked("export-report", &succeeds(&pushed))["tagChanges"].clone()
        };
        assert_eq!(push(&theirs), serde_json::json!([]), "{heads:?}");
        let base = server.tag("vm", "base").unwrap();
        let changes = push(&ours);
        assert_eq!((&changes[0]["outcome"], &changes[1]["outcome"]), (&"kept".into(), &"moved".into()), "{heads:?}");
        assert_eq!(changes[0]["before"], base.to_string(), "{heads:?}");
        assert_eq!(server.tag("vm", "base"), Some(base), "{heads:?}");
        // What names it already is not written again.
        let before = server.log().len();
        push(&ours);
        let tagged = |target: &str| target.ends_with("/manifests/middle");
        assert!(!server.log()[before..].iter().any(|seen| seen.method == "PUT" && tagged(&seen.target)), "{heads:?}");
    }
}

#[test]
fn a_tag_says_which_head_of_a_repository() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    server.behave(Behaviour { no_referrers: true, ..Default::default() });
    let (store, place) = (fixture.store.to_str().unwrap(), server.reference("vm"));
    let go = |arguments: &[&str]| succeeds(&program(&fixture, arguments));
    go(&["push", "head", &place, "--with-parents", "--store", store]);
    let middle = server.tag("vm", "middle").unwrap().to_string();
    assert!(server.log().iter().any(|seen| seen.target.contains("/manifests/sha256-")), "there are lists of referrers");

    // They are no snapshots, and nobody is asked to choose one.
    assert_eq!(go(&["tags", &place]), "base\nhead\nmiddle\n");
    let bundle = fixture.path("b.tar");
    let pull = |more: &[&str]| program(&fixture, &[&["pull", &place, "-o", bundle.to_str().unwrap()], more].concat());
    let pulled = checked("copy-report", &succeeds(&pull(&["--json"])));
    assert_eq!(pulled["snapshots"][0]["manifest"], server.tag("vm", "head").unwrap().to_string());

    for tag in ["middle", &middle] {
        let pulled = checked("copy-report", &succeeds(&pull(&["--tag", tag, "--force", "--json"])));
        assert_eq!(pulled["snapshots"][0]["manifest"], middle.as_str());
    }
    let target = fixture.path("target");
    let imported = go(&["import", &place, "--tag", "middle", "--store", target.to_str().unwrap(), "--json"]);
    assert_eq!(checked("import-report", &imported)["snapshots"][0]["manifest"], middle.as_str());
    // From one registry to another.
    let other = Server::start();
    go(&["pull", &place, "--tag", "middle", "-o", &other.reference("copy")]);
    assert_eq!(other.tag("copy", "middle").unwrap().to_string(), middle);
    fails(&pull(&["--tag", "nobody"]), 4);
}

#[test]
fn two_tags_for_one_head_are_refused() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let store = fixture.store.to_str().unwrap();
    let tagged = "oci://127.0.0.1:1/vm:tt";
    for arguments in [
        vec!["export", "head", "-o", tagged, "--tag", "uu", "--store", store],
        vec!["push", "head", tagged, "--tag", "uu", "--store", store],
    ] {
        let text = fails(&program(&fixture, &arguments), 2);
        assert!(text.contains("--tag uu contradicts the tag tt"), "{text}");
    }
    let text = fails(&program(&fixture, &["copy", "x.tar", tagged, "--format", "tar"]), 2);
    assert!(text.contains("a registry has one form"), "{text}");
}

#[test]
fn only_transfers_are_advised_to_go_on() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    server.behave(Behaviour { always: Some(501), ..Default::default() });
    let (store, place) = (fixture.store.to_str().unwrap(), server.reference("vm:a"));
    let (again, goes_on) = ("Run the same command again", "it goes on where it stopped");
    for (arguments, advised, resumed) in [
        (vec!["push", "head", &place, "--store", store], true, true),
        (vec!["pull", &place, "-o", "x.tar"], true, true),
        (vec!["import", &place, "--store", store], true, true),
        (vec!["tags", place.strip_suffix(":a").unwrap()], false, false),
        (vec!["verify", &place], false, false),
    ] {
        let text = fails(&program(&fixture, &arguments), 1);
        assert_eq!((text.contains(again), text.contains(goes_on)), (advised, resumed), "{arguments:?}: {text}");
    }
}

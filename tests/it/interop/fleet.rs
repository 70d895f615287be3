//! What `docs/fleet.md` says, tried with the configurations that it shows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    case::{Case, Content, Expect, Run},
    registry::Registry,
    tools::{have, tool_command},
};
use crate::fixture::*;

/// A configuration as the document shows it, with its folder and port replaced.
fn shown(name: &str, data: &Path, port: u16) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fleet.md")).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- tried: {name} -->\n```yaml\n")).expect("the document shows it");
    let (config, _) = rest.split_once("\n```").unwrap();
    assert!(config.contains("/srv/snapshots") && config.contains("addr: :5000"), "{config}");
    config.replace("/srv/snapshots", data.to_str().unwrap()).replace("addr: :5000", &format!("addr: 127.0.0.1:{port}"))
}

fn origin(case: &Case) -> (Registry, PathBuf) {
    let data = case.fixture.path("origin");
    (Registry::distribution(case.fixture.dir.path(), |port| shown("origin.yml", &data, port)), data)
}

/// Pushes the head, and with it the chain, as the document does.
fn push(case: &Case, registry: &Registry) {
    let run = Run::new(case, registry, "snapshots");
    let from = format!("{}:head", case.directory.display());
    run.tool("oras", &["cp", "--no-tty", "--from-oci-layout", &from, "--to-plain-http", &run.remote("head")]).unwrap();
}

/// Copies the head out of a registry into the layout of one machine, and imports it there.
fn restore(case: &Case, registry: &Registry, machine: &str, expect: Expect) -> Result<(), String> {
    let mut run = Run::new(case, registry, &format!("machine-{machine}"));
    run.repository = format!("{}/snapshots", registry.host());
    let (back, remote) = (run.local("back"), run.remote("head"));
    if expect == Expect::HeadOnly {
        let to = format!("oci:{}:head", back.display());
        let from = format!("docker://{remote}");
        run.tool("skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &from, &to])?;
    } else {
        let to = format!("{}:head", back.display());
        run.tool("oras", &["cp", "--no-tty", "--from-plain-http", &remote, "--to-oci-layout", &to])?;
    }
    run.imports(&back, expect)
}

#[test]
fn eight_machines_restore_from_a_mirror_at_once_and_without_the_origin() {
    if !have("eight_machines_restore_from_a_mirror", &["oras", "distribution"]) {
        return;
    }
    let case = Case::new(Content::ChainWithImage);
    let (origin, _) = origin(&case);
    push(&case, &origin);
    let data = case.fixture.path("mirror");
    let mirror = Registry::distribution(case.fixture.dir.path(), |port| {
        let upstream = format!("http://{}", origin.host());
        let text = shown("mirror.yml", &data, port);
        assert!(text.contains("http://registry.example:5000"));
        text.replace("http://registry.example:5000", &upstream)
    });
    let all_restore = |round: &str| {
        std::thread::scope(|scope| {
            for machine in 0..8 {
                let (case, mirror) = (&case, &mirror);
                scope.spawn(move || restore(case, mirror, &format!("{round}-{machine}"), Expect::Everything).unwrap());
            }
        });
    };
    all_restore("first");
    drop(origin);
    all_restore("alone");
}

#[test]
fn sweeping_a_registry_spares_a_chain_unless_untagged_manifests_go_too() {
    let name = "sweeping_a_registry_spares_a_chain";
    if !have(name, &["oras", "skopeo", "distribution"]) {
        return;
    }
    for tag_parents in [true, false] {
        let case = Case::new(Content::Chain);
        let (registry, data) = origin(&case);
        push(&case, &registry);
        if tag_parents {
            let run = Run::new(&case, &registry, "snapshots");
            for (tag, digest) in &case.snapshots {
                run.tool("oras", &["tag", "--plain-http", &format!("{}@{digest}", run.repository), tag]).unwrap();
            }
        }
        drop(registry);
        let config = case.fixture.path("sweep.yml");
        write(config.clone(), shown("origin.yml", &data, 5000).as_bytes());
        let sweep = |more: &[&str]| {
            let mut command = tool_command("distribution", case.fixture.dir.path());
            let output = command.arg("garbage-collect").args(more).arg(&config).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
        };
        let serve = || Registry::distribution(case.fixture.dir.path(), |port| shown("origin.yml", &data, port));
        sweep(&[]);
        restore(&case, &serve(), "swept", Expect::Everything).unwrap();
        sweep(&["--delete-untagged"]);
        let chain = restore(&case, &serve(), "untagged-chain", Expect::Everything);
        assert_eq!(chain.is_ok(), tag_parents, "{chain:?}");
        // The head's own manifest lists every layer that the head needs.
        restore(&case, &serve(), "untagged-head", Expect::HeadOnly).unwrap();
    }
}

//! Every tool against every registry. `cargo test` runs the part that the installed tools allow; `make interop` runs all of
//! it and writes `docs/interop.md` from what happened.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use tempfile::TempDir;

use super::{
    case::{Case, Content, Run},
    operation::{OPERATIONS, Operation, Verdict},
    registry::{Kind, Registry},
    tools::{find, have, version},
};

/// Runs one operation and asserts that it ends as it should; the message, where it cannot.
#[track_caller]
fn outcome(operation: &Operation, case: &Case, registry: &Registry, repository: &str) -> Option<String> {
    let happened = (operation.run)(&Run::new(case, registry, repository));
    let what = format!("{} of {}", operation.name, case.content.title());
    match ((operation.expected)(case.content), happened) {
        (Verdict::Works, Ok(())) => None,
        (Verdict::Refuses(expected), Err(said)) if said.starts_with(expected) => Some(said),
        (Verdict::DoesNotApply, _) => unreachable!("{what} is not run"),
        (expected, happened) => panic!("{what}: {happened:?}, expected {expected:?}"),
    }
}

fn runs(operation: &Operation, content: Content) -> bool {
    let there = operation.tool == "snapcask" || find(operation.tool).is_some();
    there && (operation.expected)(content) != Verdict::DoesNotApply
}

fn repository(operation: &Operation, content: Content) -> String {
    let words = format!("{} {content:?}", operation.name).to_lowercase();
    words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-")
}

/// All operations of a tool on all contents against one registry.
fn tool_against(test: &str, tool: &str, kind: Kind) {
    // Our own command is built with the test.
    let needed: Vec<&str> = [tool, kind.program()].into_iter().filter(|t| *t != "snapcask").collect();
    if !have(test, &needed) {
        return;
    }
    let home = TempDir::new().unwrap();
    let registry = Registry::start(kind, home.path());
    let mut ran = 0;
    for content in Content::ALL {
        let case = Case::new(content);
        for operation in OPERATIONS.iter().filter(|o| o.tool == tool && runs(o, content)) {
            outcome(operation, &case, &registry, &repository(operation, content));
            ran += 1;
        }
    }
    assert!(ran >= Content::ALL.len(), "only {ran} operations of {tool}");
}

macro_rules! tool_tests {
    ($($test:ident: $tool:literal, $kind:ident;)*) => {
        $(#[test]
        fn $test() {
            tool_against(stringify!($test), $tool, Kind::$kind);
        })*
    };
}

tool_tests! {
    oras_and_docker_registry: "oras", DockerRegistry;
    oras_and_distribution: "oras", Distribution;
    skopeo_and_docker_registry: "skopeo", DockerRegistry;
    skopeo_and_distribution: "skopeo", Distribution;
    crane_and_docker_registry: "crane", DockerRegistry;
    crane_and_distribution: "crane", Distribution;
    regctl_and_docker_registry: "regctl", DockerRegistry;
    regctl_and_distribution: "regctl", Distribution;
    snapcask_and_docker_registry: "snapcask", DockerRegistry;
    snapcask_and_distribution: "snapcask", Distribution;
}

#[test]
#[ignore = "writes docs/interop.md: make interop"]
fn every_tool_against_every_registry() {
    let home = TempDir::new().unwrap();
    let cases: Vec<Case> = Content::ALL.into_iter().map(Case::new).collect();
    let mut document = introduction(home.path());
    let mut messages: Vec<String> = Vec::new();
    for kind in Kind::ALL {
        if find(kind.program()).is_none() {
            println!("{}: not installed", kind.program());
            write!(
                document,
                "\n## {}\n\nNot installed where this page was made: none of the operations ran against it. `scripts/install-interop-tools.sh --zot` tries to build it\nfrom its Go module; or put a `zot` into `$SNAPCASK_TOOLS` or `PATH`; `make interop` then fills in its table.\n",
                kind.program()
            )
            .unwrap();
            continue;
        }
        let registry = Registry::start(kind, home.path());
        let title = kind.title(home.path());
        let titles: Vec<&str> = Content::ALL.iter().map(|c| c.title()).collect();
        write!(document, "\n## {title}\n\n| | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()))
            .unwrap();
        for operation in &OPERATIONS {
            let mut cells = Vec::new();
            for case in &cases {
                let cell = if runs(operation, case.content) {
                    match outcome(operation, case, &registry, &repository(operation, case.content)) {
                        None => "yes".to_owned(),
                        Some(said) => {
                            let number = messages.iter().position(|m| *m == said).unwrap_or_else(|| {
                                messages.push(said);
                                messages.len() - 1
                            });
                            format!("no ({})", number + 1)
                        }
                    }
                } else {
                    "–".to_owned()
                };
                println!("{title}: {}, {}: {cell}", operation.name, case.content.title());
                cells.push(cell);
            }
            writeln!(document, "| {} | {} |", operation.name, cells.join(" | ")).unwrap();
        }
    }
    document.push_str(&closing(&messages));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/interop.md");
    fs::write(path, document).unwrap();
}

fn introduction(home: &Path) -> String {
    let tools: BTreeSet<&str> = OPERATIONS.iter().map(|o| o.tool).collect();
    let tools: Vec<String> = tools
        .into_iter()
        .filter(|tool| *tool != "snapcask" && find(tool).is_some())
        .map(|tool| format!("{tool} {}", version(tool, home)))
        .collect();
    format!(
        "# Bundles and the tools of the OCI world\n\n\
         <!-- Written by `make interop` from its own run. Do not edit. -->\n\n\
         Each operation below was run by `make interop` with {}, on real bundles, against real registries on loopback. \"yes\" means: it did what it\n\
         should, every manifest in the registry has the digest and the bytes that the export gave it, and `snapcask import` of what the tool copied back out\n\
         places the same trees and the same image-cache files as the source has. (\"oras pull\" writes loose files: \"yes\" means that every layer of the head became\n\
         a file with its title, byte for byte. \"oras discover\": each parent shows exactly its child.) \"–\" means that there is nothing to do or that the tool is not\n\
         there. The tests of the project assert the same against docker-registry and distribution on every change.\n",
        tools.join(", ")
    )
}

fn closing(messages: &[String]) -> String {
    let mut text = String::new();
    if !messages.is_empty() {
        text.push_str("\n## What a tool cannot do, in its words\n\n");
        for (i, message) in messages.iter().enumerate() {
            writeln!(text, "{}. `{message}`", i + 1).unwrap();
        }
    }
    text.push_str("\n## The commands\n\n`bundle` and `bundle.tar` hold the chain base, middle, head. HTTPS registries need none of the options about plain HTTP and TLS.\n");
    text.push_str("regctl takes `--host reg=REGISTRY,tls=disabled` for plain HTTP.\n");
    for operation in &OPERATIONS {
        write!(text, "\n{}:\n\n```sh\n{}\n```\n", operation.name, operation.commands).unwrap();
    }
    text.push_str(include_str!("notes.md"));
    text
}

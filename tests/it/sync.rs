//! `sync`, over a local command in ssh's place: a script that hands its last argument to a shell, as sshd does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;
use snapcask::{
    export::{ExportOptions, Form, export},
    model::Generation,
};

use crate::{fixture::*, layout_checks::validate, since::parent_and_child};

const SMALL: u64 = 16 << 20;

/// What reaches "the host": its arguments are the host and a command line.
struct Host {
    script: PathBuf,
    /// All bytes that were sent to the last command that read some.
    received: PathBuf,
    /// A line for every command line.
    lines: PathBuf,
}

impl Host {
    fn new(fixture: &Fixture) -> Self {
        Self::running(fixture, r#"tee "$received" | sh -c "$2""#)
    }

    /// Runs `body` instead, where `$2` is the command line.
    fn running(fixture: &Fixture, body: &str) -> Self {
        let [script, received, lines] = ["fake-ssh", "received", "lines"].map(|name| fixture.path(name));
        let (at, to) = (received.display(), lines.display());
        let text = format!("#!/bin/sh\nreceived='{at}'\nprintf '%s\\n' \"$1 $2\" >> '{to}'\n{body}\n");
        write(script.clone(), text.as_bytes());
        chmod(&script, 0o755);
        Self { script, received, lines }
    }

    fn sync(&self, fixture: &Fixture, snapshot: &str, store: &Path, more: &[&str]) -> Output {
        let dest = format!("ssh://me@host{}", store.display());
        let own = fixture.store.to_str().unwrap();
        let ssh = self.script.to_str().unwrap();
        let program = env!("CARGO_BIN_EXE_snapcask");
        let arguments = ["sync", snapshot, &dest, "--store", own, "--ssh", ssh, "--remote-snapcask", program];
        run(arguments.iter().chain(more))
    }

    fn received(&self) -> u64 {
        fs::metadata(&self.received).unwrap().len()
    }
}

/// The bytes of the head's own layer.
fn delta_of(fixture: &Fixture, snapshot: &str) -> u64 {
    let whole = fixture.path("whole-for-its-delta");
    let options = export_options(&fixture.store, snapshot, Form::Dir, &whole);
    export(&ExportOptions { with_parents: true, ..options }).unwrap();
    let head = json_file(&whole.join("index.json"))["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let manifest = json_file(&whole.join("blobs/sha256").join(head.trim_start_matches("sha256:")));
    manifest["layers"].as_array().unwrap().last().unwrap()["size"].as_u64().unwrap()
}

#[test]
fn sync_of_a_child_sends_at_most_ten_percent_over_its_delta() {
    for generation in GENERATIONS {
        let fixture = parent_and_child(generation);
        let (host, store) = (Host::new(&fixture), fixture.path("there"));
        succeeds(&host.sync(&fixture, "parent", &store, &[]));
        assert!(host.received() > 8 << 20);
        let report = succeeds(&host.sync(&fixture, "child", &store, &["--json"]));
        let report: Value = serde_json::from_str(&report).unwrap();
        validate("sync-report", &report);
        let (sent, delta) = (host.received(), delta_of(&fixture, "child"));
        assert!(sent * 100 <= delta * 110, "{generation:?}: {sent} bytes for a delta of {delta}");
        let outcomes: Vec<_> = report["snapshots"].as_array().unwrap().iter().map(|s| s["outcome"].clone()).collect();
        assert_eq!(outcomes, ["placed", "already-there"]);
        let path = report["snapshots"][0]["path"].as_str().unwrap();
        assert_same_snapshot(fixture.head(), Path::new(path));
        // Nothing but descriptions is sent of what is there.
        succeeds(&host.sync(&fixture, "child", &store, &[]));
        assert!(host.received() < 64 << 10, "{} bytes", host.received());
    }
}

#[test]
fn sync_to_another_store_of_this_machine_brings_chain_and_image() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let there = fixture.path("there");
        let sync = |snapshot: &str| {
            run(["sync", snapshot, there.to_str().unwrap(), "--with-image", "--store", fixture.store.to_str().unwrap()])
        };
        succeeds(&sync("base"));
        let text = succeeds(&sync("head"));
        assert!(text.contains("already there, identical") && text.contains("were there"), "{text}");
        assert!(there.join("cache/layers").is_dir());
        let store = there.to_str().unwrap();
        succeeds(&run(["check", "--store", store]));
        let listed: Value = serde_json::from_str(&succeeds(&run(["list", "--store", store, "--json"]))).unwrap();
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn sync_sends_image_files_once() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (host, store) = (Host::new(&fixture), fixture.path("there"));
    succeeds(&host.sync(&fixture, "middle", &store, &["--with-image"]));
    let report = succeeds(&host.sync(&fixture, "head", &store, &["--with-image", "--json"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    // Two stacks' layers and three EROFS files.
    assert_eq!(report["leftOut"].as_array().unwrap().len(), 5, "{report:#}");
    let listed = succeeds(&run(["list", "--json", "--image-files", "--store", store.to_str().unwrap()]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    validate("list-report", &listed);
    assert_eq!(listed["cacheFiles"].as_array().unwrap().len(), 3);
}

#[test]
fn sync_passes_the_options_of_an_import_on() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let (host, store) = (Host::new(&fixture), fixture.path("there"));
    let tags = || files_in(&store.join("cache/manifests")).len();
    succeeds(&host.sync(&fixture, "base", &store, &["--with-image", "--group", "team"]));
    let without = tags();
    let all = ["--with-image", "--group", "team", "--force", "--trust-image-tags"];
    succeeds(&host.sync(&fixture, "base", &store, &all));
    assert!(tags() > without, "a tag that is trusted gets a meaning");
    let lines = fs::read_to_string(&host.lines).unwrap();
    let last = lines.lines().last().unwrap();
    assert!(last.contains("import - --json --group team --force --trust-image-tags"), "{last}");
}

#[test]
fn sync_quotes_what_it_tells_the_other_shell() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let host = Host::new(&fixture);
    let store = fixture.path("a b'c $(touch hacked) `id` \\ ! \"x\" ; ü*");
    succeeds(&host.sync(&fixture, "base", &store, &["--group", "my.group"]));
    let placed = store.join("snapshots/my.group").join(&fixture.snapshots[0].identity);
    assert_same_snapshot(&fixture.snapshots[0], &placed);
    let lines = fs::read_to_string(&host.lines).unwrap();
    assert!(lines.lines().all(|line| line.starts_with("me@host ")), "{lines}");
    let error = fails(&host.sync(&fixture, "base", &fixture.path("line\nbreak"), &[]), 2);
    assert!(error.contains("control character"), "{error}");
}

#[test]
fn sync_refuses_hosts_that_are_options_and_paths_that_are_hosts() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let host = Host::new(&fixture);
    let (own, ssh) = (fixture.store.to_str().unwrap(), host.script.to_str().unwrap());
    for dest in
        ["ssh://-oProxyCommand=x/s", "ssh://-x@h/s", "ssh://h:port/s", "ssh:///s", "host:/store", "ftp://h/s", ""]
    {
        fails(&run(["sync", "head", dest, "--store", own, "--ssh", ssh]), 2);
    }
    fails(&run(["sync", "nobody", "ssh://h", "--store", own, "--ssh", ssh]), 4);
    assert!(!host.lines.exists(), "something was run");
    let error = fails(&run(["sync", "head", "ssh://h", "--store", own, "--ssh", "/no/such/ssh"]), 1);
    assert!(error.contains("cannot run /no/such/ssh"), "{error}");
}

#[test]
fn sync_brings_back_what_the_other_side_refuses() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (host, store) = (Host::new(&fixture), fixture.path("there"));
    succeeds(&host.sync(&fixture, "middle", &store, &[]));
    let disk = store.join("snapshots/middle/upper.ext4");
    let mut bytes = fs::read(&disk).unwrap();
    bytes[9000] ^= 1;
    fs::write(&disk, bytes).unwrap();
    let before = whole_tree(&store);
    let error = fails(&host.sync(&fixture, "head", &store, &[]), 5);
    assert!(error.contains("says: ") && error.contains("the same descriptor with other contents"), "{error}");
    assert_eq!(whole_tree(&store), before);
    // By force all is sent, so that it can be replaced.
    succeeds(&host.sync(&fixture, "head", &store, &["--force"]));
    for made in &fixture.snapshots {
        assert_same_snapshot(made, &store.join("snapshots").join(&made.name));
    }
}

#[test]
fn sync_over_a_connection_that_breaks_places_nothing() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    // The list arrives; then the connection breaks before, or while the bundle is on its way.
    for (name, body) in [
        ("at once", "exit 255"),
        (
            "in the middle",
            r#"head -c 50000 | sh -c "$2" > /dev/null 2>&1; echo 'Connection reset by peer' >&2; exit 255"#,
        ),
    ] {
        let script = format!("case \"$2\" in *import*) {body} ;; *) exec sh -c \"$2\" ;; esac");
        let (host, store) = (Host::running(&fixture, &script), fixture.path("there"));
        fs::create_dir_all(store.join("snapshots")).unwrap();
        let before = whole_tree(&store);
        let error = fails(&host.sync(&fixture, "head", &store, &[]), 1);
        assert!(error.contains("Run the same command again"), "{name}: {error}");
        assert_eq!(whole_tree(&store), before, "{name}");
    }
}

#[test]
fn sync_with_another_program_there_says_so() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (own, store) = (fixture.store.to_str().unwrap(), fixture.path("there"));
    let host = Host::new(&fixture);
    let dest = format!("ssh://host{}", store.display());
    let ssh = host.script.to_str().unwrap();
    let with = |program: &str| run(["sync", "head", &dest, "--store", own, "--ssh", ssh, "--remote-snapcask", program]);
    let error = fails(&with("/no/such/snapcask"), 1);
    assert!(error.contains("--remote-snapcask"), "{error}");
    let error = fails(&with("true"), 1);
    assert!(error.contains("not what snapcask says"), "{error}");
    fails(&with("false"), 1);
    assert!(!store.exists());
}

#[test]
fn sync_prints_nothing_of_the_other_side_raw() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let digest = format!("sha256:{}", "a".repeat(64));
    let answer = format!(
        r#"{{"snapshots":[{{"digest":"{digest}","name":"n","outcome":"placed","path":"/a\\u001b[2J\\nhead forged"}}]}}"#
    );
    for (code, body) in [
        (1, r#"printf 'bad \033[2J\nsnapcask: error: forged\n' >&2; exit 9"#.to_owned()),
        (5, r#"printf '{"error":{"message":"bad \\u001b[2J\\nforged","exitCode":5}}'; exit 5"#.to_owned()),
        (0, format!("cat > /dev/null; printf '%s' '{}'", answer.replace("\\\\", "\\"))),
    ] {
        let script = format!("case \"$2\" in *import*) {body} ;; *) exec sh -c \"$2\" ;; esac");
        let (host, store) = (Host::running(&fixture, &script), fixture.path("there"));
        for more in [&[][..], &["--json"]] {
            let output = host.sync(&fixture, "base", &store, more);
            assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
            let all = stdout(&output) + &stderr(&output);
            assert!(!all.contains('\x1b'), "{all:?}");
            assert!(
                all.lines()
                    .all(|line| !line.starts_with("snapcask: error: forged") && !line.starts_with("head forged"))
            );
        }
    }
}

//! Credentials as people have them: files of Docker and Podman, helpers that are gone, two registries at once.

use std::{
    io::Write,
    path::Path,
    process::{Output, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use snapcask::model::Generation;

use super::{
    home::*,
    server::{Behaviour, Server},
    *,
};

const ANN: &str = "ann:secret-of-ann";
const BOB: &str = "bob:secret-of-bob";

fn basic(of: &'static str) -> Behaviour {
    Behaviour { basic: Some(of), ..Default::default() }
}

fn entry(of: &str) -> Value {
    json!({ "auth": STANDARD.encode(of) })
}

/// A registry with `base`, `head` and `middle` in `team/vm`.
fn filled() -> (Fixture, Server) {
    let (fixture, server) = (Fixture::sized(Generation::Flat, 16 << 20), Server::start());
    push_snapshot(&fixture, "head", &server.reference("team/vm"), &options(None)).unwrap();
    (fixture, server)
}

fn host(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port)
}

fn tags(home: &Path, server: &Server) -> Output {
    command_at(home, &["tags", &server.reference("team/vm")]).output().unwrap()
}

/// Runs it with this standard input.
fn with_input(home: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = command_at(home, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn files_of_podman_and_docker_are_read_and_the_longest_key_wins() {
    let (_fixture, server) = filled();
    server.behave(basic(ANN));
    let host = host(&server);
    for file in [".docker/config.json", "run/containers/auth.json", ".config/containers/auth.json"] {
        for key in [host.clone(), format!("{host}/team"), format!("{host}/team/vm")] {
            let home = home();
            // Other keys, shorter ones and those of neighbours, name somebody else.
            let mut auths = json!({ format!("{host}/te"): entry(BOB), format!("{host}/team/vm/deep"): entry(BOB) });
            if key != host {
                auths[&host] = entry(BOB);
            }
            auths[&key] = entry(ANN);
            write(home.path().join(file), json!({ "auths": auths }).to_string().as_bytes());
            assert_eq!(succeeds(&tags(home.path(), &server)).lines().count(), 3, "{file} {key}");
            write(
                home.path().join(file),
                json!({ "auths": { format!("{host}/other"): entry(ANN) } }).to_string().as_bytes(),
            );
            fails(&tags(home.path(), &server), 1);
        }
    }
}

#[test]
fn helper_that_is_missing_is_named_only_by_a_refusal() {
    let (_fixture, server) = filled();
    let (home, host) = (home(), host(&server));
    let file = home.path().join(".docker/config.json");
    for config in [
        json!({ "auths": {}, "credsStore": "desktop-that-is-gone" }),
        json!({ "credHelpers": { &host: "desktop-that-is-gone" } }),
    ] {
        write(file.clone(), config.to_string().as_bytes());
        server.behave(Behaviour::default());
        let anonymous = tags(home.path(), &server);
        assert_eq!((succeeds(&anonymous).lines().count(), stderr(&anonymous)), (3, String::new()));
        let missing = format!(
            "the credential helper docker-credential-desktop-that-is-gone of {} cannot be run (No such file or directory (os \
             error 2))",
            file.display()
        );
        let operation = format!("list the tags of {}", server.reference("team/vm"));
        server.behave(basic(ANN));
        let text = format!(
            "cannot {operation}: {host} refuses the credentials, or wants some (UNAUTHORIZED: so it is); run `snapcask login \
             {host}`; {missing}"
        );
        says(&tags(home.path(), &server), 1, &text);
        server.behave(Behaviour { always: Some(403), ..Default::default() });
        let text = format!(
            "cannot {operation}: {host} does not allow it (DENIED: so it is); the credentials lack the right, or a quota \
             is used up; {missing}"
        );
        says(&tags(home.path(), &server), 1, &text);

        // What it says to do helps.
        server.behave(basic(ANN));
        let login = ["login", &host, "-u", "ann", "--password-stdin"];
        let text = succeeds(&with_input(home.path(), &login, "secret-of-ann\n"));
        let told = format!(
            "logged in to {host}; {} knows it now\nnote: {missing}; the password is in the file itself\n",
            file.display()
        );
        assert_eq!(text, told);
        assert_eq!(succeeds(&tags(home.path(), &server)).lines().count(), 3);
        succeeds(&command_at(home.path(), &["logout", &host]).output().unwrap());
        fails(&tags(home.path(), &server), 1);
    }
}

#[test]
fn helper_that_fails_is_an_error() {
    let (_fixture, server) = filled();
    let home = home();
    write(home.path().join(".docker/config.json"), json!({ "credsStore": "locked" }).to_string().as_bytes());
    let helper = home.path().join("docker-credential-locked");
    write(helper.clone(), b"#!/bin/sh\nexit 1\n");
    chmod(&helper, 0o755);
    let path = std::env::join_paths([home.path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    let output = command_at(home.path(), &["tags", &server.reference("team/vm")]).env("PATH", path).output().unwrap();
    says(&output, 1, "cannot run docker-credential-locked: the credential helper failed to get");
}

#[test]
fn copy_between_registries_shows_each_its_own_user() {
    let (_fixture, from) = filled();
    let (home, to) = (home(), Server::start());
    let (source, destination) = (from.reference("team/vm:head"), to.reference("copy"));
    let copy = ["copy", &source, &destination];
    let run = |more: &[&str], input: &str| {
        from.behave(basic(ANN));
        to.behave(basic(BOB));
        let output = with_input(home.path(), &[&copy[..], more].concat(), input);
        for (server, other) in [(&from, BOB), (&to, ANN)] {
            let others = format!("Basic {}", STANDARD.encode(other));
            assert!(server.log().iter().all(|seen| seen.authorization.as_ref() != Some(&others)), "{:?}", server.log());
        }
        output
    };
    let (ann, bob) = (["--from-username", "ann"], ["--to-username", "bob"]);
    let both = [&ann[..], &["--from-password-stdin"], &bob, &["--to-password-stdin"]].concat();
    succeeds(&run(&both, "secret-of-ann\nsecret-of-bob\n"));
    assert!(to.tag("copy", "head").is_some());
    let lines = |n: usize| format!("standard input has {n} lines, and not 2 passwords, one a line");
    says(&run(&both, "secret-of-ann\n"), 2, &lines(1));
    says(&run(&both, "secret-of-ann\nsecret-of-bob\nmore\n"), 2, &lines(3));
    says(&run(&both, "secret-of-ann\n\n"), 2, &lines(1));
    says(&run(&both, "\nsecret-of-bob\n"), 2, "the password on standard input is empty");

    // One of them here, the other one in a file.
    for (file, more, password) in [
        (
            json!({ "auths": { host(&to): entry(BOB) } }),
            [&ann[..], &["--from-password-stdin"]].concat(),
            "secret-of-ann",
        ),
        (
            json!({ "auths": { host(&from): entry(ANN) } }),
            [&bob[..], &["--to-password-stdin"]].concat(),
            "secret-of-bob",
        ),
    ] {
        write(home.path().join(".docker/config.json"), file.to_string().as_bytes());
        to.forget();
        succeeds(&run(&more, password));
        assert!(to.tag("copy", "head").is_some());
    }
    let text = format!(
        "--username could mean {} or {}; use --from-username and --to-username, or `snapcask login` for both",
        host(&from),
        host(&to)
    );
    says(&run(&["-u", "ann", "--password-stdin"], "secret-of-ann\n"), 2, &text);
    let text = "nobody can be asked for the password of \"ann\": standard input is no terminal; give it with \
                --from-password-stdin";
    says(&run(&ann, ""), 2, text);
    let file = with_input(home.path(), &["copy", &source, "x.tar", "--to-username", "bob", "--to-password-stdin"], "x");
    says(&file, 2, "--to-username names a user of a registry, and DEST is none");
    let piped =
        with_input(home.path(), &["copy", "-", &destination, "--to-username", "bob", "--to-password-stdin"], "x");
    says(&piped, 2, "standard input cannot be both the bundle (-) and the password; use `snapcask login`");
    for (one, other) in
        [("--from-password-stdin", "--from-username <NAME>"), ("--to-password-stdin", "--to-username <NAME>")]
    {
        assert!(fails(&run(&[one], ""), 2).contains(other));
    }
    assert!(fails(&run(&["--username", "ann", "--to-username", "bob"], ""), 2).contains("cannot be used with"));
}

/// A password of the command line is for one registry.
#[test]
fn username_for_two_registries_is_refused_before_either_is_asked() {
    let (fixture, one) = filled();
    let (home, other) = (home(), Server::start());
    one.behave(basic(ANN));
    other.behave(Behaviour::default());
    let (first, second) = (one.reference("team/vm:head"), other.reference("vm:head"));
    let store = fixture.store.to_str().unwrap();
    let text = format!("--username could mean {} or {}; use `snapcask login` for both", host(&one), host(&other));
    for arguments in [
        vec!["import", &first, &second, "--store", store],
        vec!["import", &first, "--base", &second, "--store", store],
        vec!["verify", &first, "--base", &second],
        vec!["export", "head", "-o", &first, "--since", &second, "--store", store],
    ] {
        let more = ["--username", "ann", "--password-stdin"];
        says(&with_input(home.path(), &[&arguments[..], &more].concat(), "secret-of-ann\n"), 2, &text);
        assert!(other.log().is_empty());
    }
    // Twice the same registry is one.
    let target = home.path().join("target");
    let import = ["import", &first, "--base", &first, "--store", target.to_str().unwrap()];
    let more = ["--username", "ann", "--password-stdin"];
    succeeds(&with_input(home.path(), &[&import[..], &more].concat(), "secret-of-ann\n"));
}

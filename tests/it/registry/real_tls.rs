//! A registry that nobody here wrote, as its documentation says to run one: with a certificate of its own and a password.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use snapcask::model::Generation;

use super::home::*;
use crate::{
    fixture::*,
    interop::{
        registry::{Kind, Registry},
        tools::{find, have},
    },
};

/// bcrypt of `secret-of-ann`.
const HTPASSWD: &str = "ann:$2y$05$abcdefghijklmnopqrstuu2IQKBjLaH48D/32j2ZV8pOQYlZG3roe\n";

#[test]
fn push_and_import_over_tls_with_a_password_with_docker_registry() {
    if have("push_and_import_over_tls_with_a_password_with_docker_registry", &["docker-registry", "openssl"]) {
        over_tls_with_a_password(Kind::DockerRegistry);
    }
}

#[test]
fn push_and_import_over_tls_with_a_password_with_distribution() {
    match find("distribution").and(find("openssl")) {
        Some(_) => over_tls_with_a_password(Kind::Distribution),
        None => eprintln!("SKIPPED: distribution or openssl is not installed"),
    }
}

fn over_tls_with_a_password(kind: Kind) {
    let (home, fixture) = (home(), Fixture::sized(Generation::Final, 16 << 20));
    let path = |name: &str| home.path().join(name);
    let made = Command::new("openssl")
        .args(["req", "-newkey", "rsa:4096", "-nodes", "-sha256", "-keyout", "domain.key"])
        .args(["-addext", "subjectAltName = IP:127.0.0.1", "-x509", "-days", "365", "-out", "domain.crt"])
        .args(["-subj", "/CN=registry"])
        .current_dir(home.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    write(path("htpasswd"), HTPASSWD.as_bytes());
    let registry = Registry::configured(kind, home.path(), |port| {
        let folder = home.path().display();
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n\
             auth: {{htpasswd: {{realm: ours, path: {folder}/htpasswd}}}}\n\
             http: {{addr: '127.0.0.1:{port}', tls: {{certificate: {folder}/domain.crt, key: {folder}/domain.key}}}}\n"
        )
    });
    let host = registry.host();
    let (place, tagged) = (format!("oci://{host}/team/vm"), format!("oci://{host}/team/vm:head"));
    let run = |arguments: &[&str], input: &[u8]| -> Output {
        let mut command = command_at(home.path(), arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    let login = ["login", &host, "-u", "ann", "--password-stdin"];
    // As a stranger goes on: each error says the next step.
    let text = fails(&run(&login, b"secret-of-ann"), 1);
    assert!(text.contains("speaks TLS") && text.contains("use --tls"), "{text}");
    let text = fails(&run(&[&login[..], &["--tls"]].concat(), b"secret-of-ann"), 1);
    assert!(text.contains("--ca-file"), "{text}");
    let text = fails(&run(&[&login[..], &["--ca-file", "domain.crt"]].concat(), b"guess"), 1);
    assert!(text.contains("refuses the credentials"), "{text}");
    succeeds(&run(&[&login[..], &["--ca-file", "domain.crt"]].concat(), b"secret-of-ann"));
    // Once for all.
    let folder = path(&format!(".config/containers/certs.d/{host}"));
    write(folder.join("ca.crt"), &std::fs::read(path("domain.crt")).unwrap());
    let store = fixture.store.to_str().unwrap();
    succeeds(&run(&["push", "head", &place, "--with-parents", "--store", store], b""));
    assert_eq!(succeeds(&run(&["tags", &place], b"")).lines().count(), 3);
    let target = path("target");
    let target = target.to_str().unwrap();
    succeeds(&run(&["import", &tagged, "--store", target, "--group", GROUP, "--no-reindex"], b""));
    for made in &fixture.snapshots {
        assert_same_snapshot(made, &path("target/snapshots").join(GROUP).join(&made.identity));
    }
    succeeds(&run(&["logout", &host], b""));
    let text = fails(&run(&["tags", &place], b""), 1);
    assert!(text.contains(&format!("run `snapcask login {host}`")), "{text}");
}

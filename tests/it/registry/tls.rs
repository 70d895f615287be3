//! TLS as people have it: certificates of their own, none at all, and registries that ask who comes.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Output},
};

use snapcask::model::Generation;

use super::{
    home::*,
    server::{Behaviour, Server},
    tls_front::*,
    *,
};
use crate::interop::tools::have;

const YEARS: (i32, i32) = (2020, 2100);
/// A machine without certificates, credentials and proxies, and a registry with the tags `base`, `head` and `middle` in `vm`.
struct Machine {
    folder: tempfile::TempDir,
    server: Server,
}

impl Machine {
    fn new() -> Self {
        let (fixture, server) = (Fixture::sized(Generation::Flat, 16 << 20), Server::start());
        push_snapshot(&fixture, "head", &server.reference("vm"), &options(None)).unwrap();
        server.behave(Behaviour::default());
        Self { folder: home(), server }
    }

    fn front(&self, identity: &Identified, clients: &Clients<'_>) -> TlsFront {
        TlsFront::start(self.server.port, identity, clients)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file with these contents.
    fn file(&self, name: &str, text: &str) -> String {
        write(self.path(name), text.as_bytes());
        self.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command_at(self.folder.path(), arguments)
    }

    fn tags(&self, place: &str, more: &[&str]) -> Output {
        self.command(&[&["tags", place], more].concat()).output().unwrap()
    }

    /// It lists the tags.
    #[track_caller]
    fn lists(&self, place: &str, more: &[&str]) {
        assert_eq!(succeeds(&self.tags(place, more)).lines().count(), 3);
    }
}

#[test]
fn certificate_that_is_named_itself_is_trusted() {
    let machine = Machine::new();
    let identity = self_signed(&["localhost", "127.0.0.1"], YEARS);
    let front = machine.front(&identity, &Clients::Unknown);
    let place = front.reference("vm");
    let ca = machine.file("ca.pem", &identity.pem);
    machine.lists(&place, &["--ca-file", &ca]);
    // The address is a name of it, too, and a machine that trusts it everywhere needs no option.
    machine.lists(&place.replace("localhost", "127.0.0.1"), &["--ca-file", &ca]);
    let trusted = machine.command(&["tags", &place, "--tls"]).env("SSL_CERT_FILE", &ca).output().unwrap();
    assert_eq!(succeeds(&trusted).lines().count(), 3);
    // Among others, and behind what is no certificate.
    let others = [Authority::new("one").pem(), "# a note\n".into(), identity.pem.clone(), identity.key.serialize_pem()];
    machine.lists(&place, &["--ca-file", &machine.file("several.pem", &others.concat())]);
    // As other systems and editors leave it.
    for text in [identity.pem.replace('\n', "\r\n"), format!("\u{feff}{}", identity.pem), identity.pem.trim().into()] {
        machine.lists(&place, &["--ca-file", &machine.file("edited.pem", &text)]);
    }

    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let store = fixture.store.to_str().unwrap();
    let more = ["--with-parents", "--store", store, "--ca-file", &ca];
    succeeds(&machine.command(&[&["push", "head", &front.reference("own")], &more[..]].concat()).output().unwrap());
    let target = machine.path("target");
    let import = ["import", &front.reference("own:head"), "--ca-file", &ca, "--store", target.to_str().unwrap()];
    succeeds(&machine.command(&import).output().unwrap());
    assert_same_snapshot(fixture.head(), &target.join("snapshots/head"));
}

/// The command is the one of the documentation of `distribution`.
#[test]
fn certificate_that_the_documentation_of_registries_makes_is_trusted() {
    if !have("certificate_that_the_documentation_of_registries_makes_is_trusted", &["openssl"]) {
        return;
    }
    let machine = Machine::new();
    let made = Command::new("openssl")
        .args(["req", "-newkey", "rsa:4096", "-nodes", "-sha256", "-keyout", "domain.key"])
        .args(["-addext", "subjectAltName = DNS:localhost", "-x509", "-days", "365", "-out", "domain.crt"])
        .args(["-subj", "/CN=localhost"])
        .current_dir(machine.folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let read = |name: &str| fs::read_to_string(machine.path(name)).unwrap();
    let pem = read("domain.crt");
    let identity = Identified {
        certificate: rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap(),
        pem,
        key: rcgen::KeyPair::from_pem(&read("domain.key")).unwrap(),
    };
    let front = machine.front(&identity, &Clients::Unknown);
    machine.lists(&front.reference("vm"), &["--ca-file", "domain.crt"]);
}

#[test]
fn authority_or_certificate_that_is_named_is_trusted() {
    let machine = Machine::new();
    let authority = Authority::new("ours");
    let identity = authority.sign(&["localhost"]);
    let front = machine.front(&identity, &Clients::Unknown);
    machine.lists(&front.reference("vm"), &["--ca-file", &machine.file("ca.pem", &authority.pem())]);
    // It alone, of an authority that nobody trusts.
    machine.lists(&front.reference("vm"), &["--ca-file", &machine.file("own.pem", &identity.pem)]);
    machine.lists(&front.reference("vm"), &["--insecure"]);
}

#[test]
fn folders_of_docker_and_podman_are_looked_at() {
    let machine = Machine::new();
    let identity = self_signed(&["localhost"], YEARS);
    for folder in [".config/containers/certs.d", ".config/docker/certs.d"] {
        let front = machine.front(&identity, &Clients::Unknown);
        let name = format!("{folder}/localhost:{}/any.crt", front.port);
        // Neither option nor scheme: who has certificates for a host means TLS.
        machine.file(&name, &(Authority::new("one").pem() + &identity.pem));
        machine.lists(&front.reference("vm"), &[]);
        fs::remove_file(machine.path(&name)).unwrap();
        fails(&machine.tags(&front.reference("vm"), &[]), 1);
    }
    let front = machine.front(&identity, &Clients::Unknown);
    let moved = machine.path("elsewhere");
    let name = format!("elsewhere/containers/certs.d/localhost:{}/ca.crt", front.port);
    machine.file(&name, &identity.pem);
    let output = machine.command(&["tags", &front.reference("vm")]).env("XDG_CONFIG_HOME", &moved).output().unwrap();
    assert_eq!(succeeds(&output).lines().count(), 3);
}

#[test]
fn certificate_that_nobody_vouches_for_is_refused_with_the_reason() {
    let machine = Machine::new();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let ca = machine.file("ca.pem", &ours.pem());
    let looked = "looked for with $SSL_CERT_DIR";
    let advice = "--ca-file FILE trusts another certificate, --insecure takes any";
    let named = |identity: &Identified| machine.file("named.pem", &identity.pem);
    let old = self_signed(&["localhost"], (2020, 2021));
    let early = self_signed(&["localhost"], (2099, 2100));
    let elsewhere = self_signed(&["r.example", "10.0.0.7"], YEARS);
    let nameless = self_signed(&[], YEARS);
    for (identity, ca, reason) in [
        (
            &self_signed(&["localhost"], YEARS),
            ca.clone(),
            format!("its certificate is self-signed, and not itself one that is trusted ({looked}); {advice}"),
        ),
        (
            &theirs.sign(&["localhost"]),
            ca.clone(),
            format!("its certificate is signed by CN=theirs, who is not trusted ({looked}); {advice}"),
        ),
        // The very certificate is trusted, but not for ever and not for every host.
        (
            &old,
            named(&old),
            "its certificate has expired, at 2021-01-01T00:00:00Z; the registry needs a new one".into(),
        ),
        (
            &elsewhere,
            machine.file("elsewhere.pem", &elsewhere.pem),
            "its certificate is for r.example, 10.0.0.7, and not for localhost".into(),
        ),
        (
            &nameless,
            machine.file("nameless.pem", &nameless.pem),
            "its certificate names no host; a name belongs into subjectAltName, a common name is not looked at".into(),
        ),
        (
            &early,
            machine.file("early.pem", &early.pem),
            "its certificate is valid from 2099-01-01T00:00:00Z on; check the clock of this machine".into(),
        ),
        (&ours.sign(&["r.example"]), ca.clone(), "its certificate is for r.example, and not for localhost".into()),
    ] {
        let front = machine.front(identity, &Clients::Unknown);
        let text = format!(
            "cannot list the tags of {0}: localhost:{1} is not trusted: {reason}",
            front.reference("vm"),
            front.port
        );
        says(&machine.tags(&front.reference("vm"), &["--ca-file", &ca]), 1, &text);
    }
}

#[test]
fn server_that_has_not_the_key_of_its_certificate_is_refused() {
    let machine = Machine::new();
    let authority = Authority::new("ours");
    let (named, signed) = (self_signed(&["localhost"], YEARS), authority.sign(&["localhost"]));
    let ca = machine.file("ca.pem", &(authority.pem() + &named.pem));
    for identity in [&named, &signed] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let front = TlsFront::impostor(machine.server.port, identity, version);
            for more in [&["--ca-file", &ca][..], &["--insecure"]] {
                let text = format!(
                    "cannot list the tags of {}: localhost:{} is not trusted: it does not prove that its certificate is its own \
                     (BadSignature)",
                    front.reference("vm"),
                    front.port
                );
                says(&machine.tags(&front.reference("vm"), more), 1, &text);
            }
        }
    }
    assert!(machine.server.log().is_empty());
}

#[test]
fn file_without_certificates_is_an_error_that_says_why() {
    let machine = Machine::new();
    let identity = self_signed(&["localhost"], YEARS);
    let damaged = identity.pem.replacen("MII", "MIJ", 1);
    fs::write(machine.path("der.pem"), &identity.certificate).unwrap();
    fs::create_dir(machine.path("folder.pem")).unwrap();
    machine.file("empty.pem", " \n");
    machine.file("key.pem", &identity.key.serialize_pem());
    machine.file("text.pem", "-----BEGIN CERTIFICATE-----\n");
    machine.file("second.pem", &(identity.pem.clone() + &damaged));
    machine.file("base64.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
    for (name, reason) in [
        ("empty.pem", "it is empty"),
        ("key.pem", "it holds no certificate in PEM form"),
        ("text.pem", "its certificate 1 is damaged"),
        ("second.pem", "its certificate 2 is damaged"),
        ("base64.pem", "its certificate 1 is damaged"),
        ("der.pem", "it is in DER form; `openssl x509 -inform DER -in FILE -out PEM` makes PEM of it"),
        ("folder.pem", "Is a directory (os error 21)"),
        ("missing.pem", "No such file or directory (os error 2)"),
    ] {
        // Also where it is not needed.
        for place in ["oci://r.example/vm".to_owned(), machine.server.reference("vm")] {
            let more = ["--ca-file", name, "--plain-http"];
            let text = format!("cannot read certificates from {name}: {reason}");
            says(&machine.tags(&place, &more), 1, &text);
        }
    }
    let front = machine.front(&identity, &Clients::Unknown);
    let name = format!(".config/docker/certs.d/localhost:{}/ca.crt", front.port);
    let path = machine.file(&name, "");
    let text = format!("cannot read certificates from {path}: it is empty");
    says(&machine.tags(&front.reference("vm"), &[]), 1, &text);
}

#[test]
fn registry_that_asks_who_comes_is_shown_the_certificate() {
    let machine = Machine::new();
    let (authority, other) = (Authority::new("clients"), Authority::new("others"));
    let server = self_signed(&["localhost"], YEARS);
    let front = machine.front(&server, &Clients::Known(&authority));
    let (place, ca) = (front.reference("vm"), machine.file("ca.pem", &server.pem));
    let (cert, key) = authority.sign(&["client"]).write(machine.folder.path(), "client");
    let pair = ["--ca-file", &ca, "--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    machine.lists(&place, &pair);
    assert!(front.shown() > 0);

    let says_that = |more: &[&str], reason: &str| {
        let text = format!("cannot list the tags of {place}: localhost:{} {reason}", front.port);
        says(&machine.tags(&place, more), 1, &text);
    };
    says_that(
        &["--ca-file", &ca],
        "wants to be shown a certificate, and there is none; --cert FILE and --key FILE name one",
    );
    let (wrong, wrong_key) = other.sign(&["client"]).write(machine.folder.path(), "wrong");
    let wrong = ["--ca-file", &ca, "--cert", wrong.to_str().unwrap(), "--key", wrong_key.to_str().unwrap()];
    says_that(&wrong, "refuses the certificate that it was shown (UnknownCA)");

    // Some ask, and refuse in HTTP.
    let polite = machine.front(&server, &Clients::Asked(&authority));
    machine.server.behave(Behaviour { always: Some(400), ..Default::default() });
    let text = format!(
        "cannot list the tags of {}: localhost:{} answered 400 (DENIED: so it is); it wants to be shown a certificate: \
         --cert FILE and --key FILE name one",
        polite.reference("vm"),
        polite.port
    );
    says(&machine.tags(&polite.reference("vm"), &["--ca-file", &ca]), 1, &text);
    machine.server.behave(Behaviour::default());

    // In a folder of Docker or Podman.
    let folder = machine.path(&format!(".config/containers/certs.d/localhost:{}", front.port));
    machine.file(&format!(".config/containers/certs.d/localhost:{}/ca.crt", front.port), &server.pem);
    let (in_folder, key_in_folder) = authority.sign(&["client"]).write(&folder, "client");
    machine.lists(&place, &[]);
    fs::remove_file(&key_in_folder).unwrap();
    let text = format!(
        "cannot use {}: client.key is not beside it; a certificate authority's is named *.crt",
        in_folder.display()
    );
    says(&machine.tags(&place, &[]), 1, &text);
    fs::rename(&in_folder, &key_in_folder).unwrap();
    let text = format!(
        "cannot use {}: client.cert is not beside it; the certificate of a key is named *.cert",
        key_in_folder.display()
    );
    says(&machine.tags(&place, &[]), 1, &text);
}

#[test]
fn certificate_and_key_that_do_not_fit_are_refused() {
    let machine = Machine::new();
    let authority = Authority::new("clients");
    authority.sign(&["client"]).write(machine.folder.path(), "one");
    authority.sign(&["client"]).write(machine.folder.path(), "other");
    machine.file("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n");
    machine.file("empty.key", "");
    for (cert, key, text) in [
        (
            "one.cert",
            "other.key",
            "cannot use the private key other.key: it does not belong to the certificate one.cert",
        ),
        (
            "one.cert",
            "locked.key",
            "cannot read a private key from locked.key: it is encrypted; `openssl pkey -in FILE -out PLAIN` decrypts it",
        ),
        ("one.cert", "empty.key", "cannot read a private key from empty.key: it is empty"),
        ("one.cert", "one.cert", "cannot read a private key from one.cert: it holds no private key in PEM form"),
        ("one.key", "one.key", "cannot read certificates from one.key: it holds no certificate in PEM form"),
        (
            "one.cert",
            "missing.key",
            "cannot read a private key from missing.key: No such file or directory (os error 2)",
        ),
    ] {
        says(&machine.tags("oci://r.example/vm", &["--cert", cert, "--key", key]), 1, text);
    }
    for (one, other) in [("--cert", "--key <FILE>"), ("--key", "--cert <FILE>")] {
        let text = fails(&machine.tags("oci://r.example/vm", &[one, "one.cert"]), 2);
        assert!(text.contains("the following required arguments were not provided") && text.contains(other), "{text}");
    }
}

/// Keys of `/etc/docker/certs.d` are often for root alone.
#[test]
fn files_that_this_user_may_not_read_are_passed_over_and_told() {
    let machine = Machine::new();
    if fs::read_to_string("/proc/self/status").unwrap().lines().any(|l| l.starts_with("Uid:") && !l.contains("\t0\t")) {
        eprintln!("SKIPPED files_that_this_user_may_not_read_are_passed_over_and_told: needs root");
        return;
    }
    let authority = Authority::new("clients");
    let server = self_signed(&["localhost"], YEARS);
    let front = machine.front(&server, &Clients::Asked(&authority));
    let folder = machine.path(&format!(".config/docker/certs.d/localhost:{}", front.port));
    let ca = machine.file(&format!(".config/docker/certs.d/localhost:{}/ca.crt", front.port), &server.pem);
    let (_, key) = authority.sign(&["client"]).write(&folder, "client");
    chmod(&key, 0o600);
    let place = front.reference("vm");
    let as_nobody = || {
        let mut command = machine.command(&["tags", &place]);
        command.uid(65534).gid(65534).output().unwrap()
    };
    assert_eq!(succeeds(&as_nobody()).lines().count(), 3);
    assert_eq!(front.shown(), 0);
    // Nor does a folder above that is for root alone mean anything: a registry on this machine is asked in plain HTTP.
    let above = machine.path(".config/containers");
    machine.file(".config/containers/auth.json", "{}");
    chmod(&above, 0o700);
    let plain = machine.server.reference("vm");
    let plainly = || machine.command(&["tags", &plain]).uid(65534).gid(65534).output().unwrap();
    assert_eq!(succeeds(&plainly()).lines().count(), 3);
    machine.server.behave(Behaviour { basic: Some("ann:secret"), ..Default::default() });
    let text = format!(
        "cannot list the tags of {plain}: 127.0.0.1:{0} refuses the credentials, or wants some (UNAUTHORIZED: so it is); run \
         `snapcask login 127.0.0.1:{0}`; cannot open {1}/auth.json: permission denied (os error 13)",
        machine.server.port,
        above.display()
    );
    says(&plainly(), 1, &text);
    machine.server.behave(Behaviour::default());
    fs::remove_dir_all(&above).unwrap();
    // The error for what is missing names what could not be read.
    fs::set_permissions(&ca, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "cannot list the tags of {place}: localhost:{} is not trusted: there are no CA certificates to check its own with \
         (looked for with $SSL_CERT_DIR); cannot read certificates from {ca}: permission denied (os error 13); cannot read \
         a private key from {}: permission denied (os error 13); install the system's (the package is called \
         ca-certificates), or name a file of them with $SSL_CERT_FILE or --ca-file",
        front.port,
        key.display()
    );
    says(&as_nobody(), 1, &text);
    let named = machine.command(&["tags", &place, "--ca-file", &ca]).uid(65534).gid(65534).output().unwrap();
    says(&named, 1, &format!("cannot read certificates from {ca}: permission denied (os error 13)"));
}

#[test]
fn without_certificates_of_the_system_plain_http_works_and_tls_says_what_is_missing() {
    let machine = Machine::new();
    machine.lists(&machine.server.reference("vm"), &[]);
    machine.lists(&machine.server.reference("vm"), &["--plain-http"]);
    let identity = Authority::new("ours").sign(&["localhost"]);
    let front = machine.front(&identity, &Clients::Unknown);
    let place = front.reference("vm");
    let missing = |more: &str| {
        format!(
            "cannot list the tags of {place}: localhost:{} is not trusted: there are no CA certificates to check its own \
             with ({more}); install the system's (the package is called ca-certificates), or name a file of them with \
             $SSL_CERT_FILE or --ca-file",
            front.port
        )
    };
    says(&machine.tags(&place, &["--tls"]), 1, &missing("looked for with $SSL_CERT_DIR"));
    let output = machine.command(&["tags", &place, "--tls"]).env("SSL_CERT_FILE", "/none").output().unwrap();
    let text = "looked for with $SSL_CERT_FILE and $SSL_CERT_DIR: failed to read PEM from file: No such file or directory \
                (os error 2) at '/none'";
    says(&output, 1, &missing(text));
    // Every way out is one.
    let own = machine.file("own.pem", &identity.pem);
    machine.lists(&place, &["--ca-file", &own]);
    machine.lists(&place, &["--insecure"]);
    fs::write(machine.path("none/own.pem"), &identity.pem).unwrap();
    machine.lists(&place, &["--tls"]);
}

#[test]
fn tls_and_plain_http_that_meet_are_told_apart() {
    let machine = Machine::new();
    let identity = self_signed(&["localhost"], YEARS);
    let ca = machine.file("ca.pem", &identity.pem);
    let front = machine.front(&identity, &Clients::Unknown);
    let plain = machine.server.reference("vm").replace("127.0.0.1", "localhost");
    let go = answers(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    let silent = answers(b"");
    let ssh = answers(b"SSH-2.0-OpenSSH_9.9\r\n");
    for (place, more, reason) in [
        (
            front.reference("vm"),
            vec![],
            "speaks TLS, and was asked in plain HTTP, as every registry on this machine is; use --tls",
        ),
        (
            front.reference("vm"),
            vec!["--plain-http"],
            "speaks TLS, and was asked in plain HTTP; leave --plain-http out",
        ),
        (plain.clone(), vec!["--tls"], "speaks plain HTTP, and not TLS; use --plain-http instead of --tls"),
        (
            plain.clone(),
            vec!["--plain-http=false"],
            "speaks plain HTTP, and not TLS; use --plain-http instead of --tls",
        ),
        (plain.clone(), vec!["--ca-file", &ca], "speaks plain HTTP, and not TLS; --plain-http allows that"),
        (plain.clone(), vec!["--insecure"], "speaks plain HTTP, and not TLS; --plain-http allows that"),
        (format!("oci://localhost:{ssh}/vm"), vec!["--tls"], "does not speak TLS"),
    ] {
        let host = place.strip_prefix("oci://").unwrap().split('/').next().unwrap();
        let text = format!("cannot list the tags of {place}: {host} {reason}");
        says(&machine.tags(&place, &more), 1, &text);
    }
    machine.lists(&plain, &["--plain-http=true"]);
    machine.lists(&plain, &["--ca-file", &ca, "--plain-http"]);
    let both = machine.tags(&plain, &["--tls", "--plain-http"]);
    says(&both, 2, "--tls contradicts --plain-http; leave one of them out");
    // A registry that answers 400, or nothing at all, speaks no TLS for that.
    let text = fails(&machine.tags(&format!("oci://localhost:{go}/vm"), &[]), 1);
    assert!(text.contains("answered 400") && !text.contains("TLS"), "{text}");
    let text = fails(&machine.tags(&format!("oci://localhost:{silent}/vm"), &[]), 1);
    assert!(text.contains("no luck with") && !text.contains("TLS"), "{text}");
}

#[test]
fn server_of_old_tls_is_told_what_is_spoken() {
    // An alert of TLS: fatal, with this number.
    for (answer, name) in [
        (&b"\x15\x03\x01\x00\x02\x02\x28"[..], "HandshakeFailure"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "ProtocolVersion"),
    ] {
        let place = format!("oci://localhost:{}/vm", answers(answer));
        let output = command_at(home().path(), &["tags", &place, "--tls"]).output().unwrap();
        let text = format!(
            "cannot list the tags of {place}: {} has no version or cipher of TLS in common with us ({name}): we speak TLS 1.2 \
             with ECDHE and AES-GCM or ChaCha20, and TLS 1.3",
            &place["oci://".len()..place.len() - "/vm".len()]
        );
        says(&output, 1, &text);
    }
}

/// It is the registry that knows who we are, and not where it keeps its blobs.
#[test]
fn certificate_is_shown_to_the_registry_alone() {
    let machine = Machine::new();
    let authority = Authority::new("clients");
    let identity = self_signed(&["localhost"], YEARS);
    let (front, elsewhere) =
        (machine.front(&identity, &Clients::Known(&authority)), machine.front(&identity, &Clients::Asked(&authority)));
    let (cert, key) = authority.sign(&["client"]).write(machine.folder.path(), "client");
    let ca = machine.file("ca.pem", &identity.pem);
    // Blobs are where the registry says, at another port; they are there, for it is the same registry.
    machine.server.behave(Behaviour { blobs_at: Some(elsewhere.base()), ..Default::default() });
    let more = ["--ca-file", &ca, "--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let bundle = machine.path("b.tar");
    let pull = ["pull", &front.reference("vm:head"), "-o", bundle.to_str().unwrap()];
    let output = machine.command(&[&pull[..], &more].concat()).output().unwrap();
    let text = fails(&output, 1);
    assert!(text.contains("it redirects more than 5 times"), "{text}");
    assert!(front.shown() > 0 && elsewhere.shown() == 0);
    assert!(machine.server.log().iter().any(|seen| seen.target.contains("/blobs/")));
}

#[test]
fn proxy_that_does_not_parse_is_an_error_and_socks_is_spoken() {
    let machine = Machine::new();
    let place = "oci://registry.example:5000/vm";
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let output = machine.command(&["tags", place]).env(name, "http://user:sec/ret@proxy:3128").output().unwrap();
        let text = format!(
            "${name} is no address of a proxy: invalid port number; it is written http://[USER:PASSWORD@]HOST[:PORT], or \
             with https, socks5 or socks5h, and other characters than letters and digits in USER and PASSWORD as %XX"
        );
        says(&output, 2, &text);
    }
    let (proxy, asked) = socks(machine.server.port);
    let output = machine
        .command(&["tags", place, "--plain-http"])
        .env("ALL_PROXY", format!("socks5h://ann:secret@127.0.0.1:{proxy}"))
        .output()
        .unwrap();
    assert_eq!(succeeds(&output).lines().count(), 3);
    assert_eq!(asked.recv().unwrap(), "ann:secret registry.example:5000");
    // This machine is reached without.
    let output = machine
        .command(&["tags", &machine.server.reference("vm")])
        .env("ALL_PROXY", "socks5h://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(succeeds(&output).lines().count(), 3);
    // What goes wrong there is not the registry's fault.
    let output = machine.command(&["tags", place]).env("HTTPS_PROXY", "127.0.0.1:1").output().unwrap();
    let text = fails(&output, 1);
    assert!(text.contains("(through the proxy that $HTTPS_PROXY names)"), "{text}");
}

/// A SOCKS5 proxy that leads every connection to `to`; whoever asked it for what.
fn socks(to: u16) -> (u16, std::sync::mpsc::Receiver<String>) {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let read = |stream: &mut TcpStream, length: usize| {
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes).unwrap();
                bytes
            };
            let word = |stream: &mut TcpStream| {
                let length = read(stream, 1)[0].into();
                String::from_utf8(read(stream, length)).unwrap()
            };
            assert_eq!(read(&mut stream, 1), [5]);
            let methods = read(&mut stream, 1)[0].into();
            assert!(read(&mut stream, methods).contains(&2));
            stream.write_all(&[5, 2]).unwrap();
            assert_eq!(read(&mut stream, 1), [1]);
            let (user, password) = (word(&mut stream), word(&mut stream));
            stream.write_all(&[1, 0]).unwrap();
            // A name and not an address: the proxy resolves it.
            assert_eq!(read(&mut stream, 4), [5, 1, 0, 3]);
            let host = word(&mut stream);
            let port = read(&mut stream, 2);
            let port = u16::from_be_bytes([port[0], port[1]]);
            sender.send(format!("{user}:{password} {host}:{port}")).unwrap();
            stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).unwrap();
            let mut behind = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut back, mut forth) = (behind.try_clone().unwrap(), stream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
            std::thread::spawn(move || std::io::copy(&mut stream, &mut behind));
        }
    });
    (port, asked)
}

//! Credentials reach their registry and its token service, and nobody else.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
};

use snapcask::{Error, export::Form, model::Generation, registry::Credentials};

use super::{
    server::{Behaviour, Seen, Server, TOKEN},
    *,
};

const SMALL: u64 = 16 << 20;
const USER: &str = "ann:secret-of-ann";

fn known(options: Options) -> Options {
    Options { credentials: Some(Credentials::basic("ann", "secret-of-ann").unwrap()), ..options }
}

/// Nothing of a request gives away who we are.
fn assert_innocent(log: &[Seen]) {
    for seen in log {
        assert_eq!(seen.authorization, None, "{seen:?}");
        for secret in ["secret-of-ann", "YW5uOnNlY3JldC1vZi1hbm4", TOKEN] {
            assert!(!seen.head.contains(secret), "{seen:?}");
        }
    }
}

#[test]
fn basic_and_bearer() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, report) = chain_in_a_folder(&fixture);
    let bearer = Behaviour { basic: Some(USER), realm: Some(String::new()), ..Default::default() };
    for behaviour in [Behaviour { basic: Some(USER), ..Default::default() }, bearer] {
        let server = Server::start();
        server.behave(behaviour);
        let error = push(&bundle, &server.reference("vm"), &options(None)).unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
        push(&bundle, &server.reference("vm"), &known(options(None))).unwrap();
        assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest);
        let wrong = Options { credentials: Some(Credentials::basic("ann", "guess").unwrap()), ..options(None) };
        let error = push(&bundle, &server.reference("vm"), &wrong).unwrap_err().to_string();
        assert!(error.contains("snapcask login") && !error.contains("guess"), "{error}");
        import_from(&server.reference("vm:head"), &known(options(None)), &fixture.path("target")).unwrap();
    }
}

#[test]
fn uploads_and_blobs_elsewhere_get_no_credentials() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, _) = chain_in_a_folder(&fixture);
    let (server, other) = (Server::start(), Server::start());
    let bearer = Behaviour { basic: Some(USER), realm: Some(String::new()), ..Default::default() };
    for behaviour in [Behaviour { basic: Some(USER), ..Default::default() }, bearer] {
        server.forget();
        other.forget();
        server.behave(Behaviour { uploads_at: Some(other.base()), ..behaviour.clone() });
        assert!(push(&bundle, &server.reference("vm"), &known(options(None))).is_err());
        assert!(!other.log().is_empty());
        assert_innocent(&other.log());
        // One that asks for them gets none either.
        other.behave(Behaviour { basic: Some(USER), ..Default::default() });
        assert!(push(&bundle, &server.reference("vm"), &known(options(None))).is_err());
        assert!(!other.log().is_empty());
        assert_innocent(&other.log());

        other.behave(Default::default());
        server.behave(behaviour.clone());
        push(&bundle, &server.reference("vm"), &known(options(None))).unwrap();
        push(&bundle, &other.reference("vm"), &options(None)).unwrap();
        other.behave(Default::default());
        server.behave(Behaviour { blobs_at: Some(other.base()), ..behaviour });
        pull(&server.reference("vm:head"), &known(options(None)), &fixture.path("a.tar"), Form::Tar).unwrap();
        assert!(!other.log().is_empty());
        assert_innocent(&other.log());
    }
}

/// `reqwest` would make a header of it, for whoever the URL leads to.
#[test]
fn user_information_in_a_redirect_is_never_sent() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, _) = chain_in_a_folder(&fixture);
    let (server, other) = (Server::start(), Server::start());
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    push(&bundle, &other.reference("vm"), &options(None)).unwrap();
    let named = |server: &Server| server.base().replace("http://", "http://eve:guess@");
    for (known, place) in [(known(options(None)), &other), (options(None), &other), (options(None), &server)] {
        other.behave(Default::default());
        server.behave(Behaviour { uploads_at: Some(named(place)), ..Default::default() });
        let _ = push(&bundle, &server.reference("new"), &known);
        let _ = pull(&place.reference("vm:head"), &known, &fixture.path("a.tar"), Form::Tar);
        server.behave(Behaviour { blobs_at: Some(named(&other)), ..Default::default() });
        pull(&server.reference("vm:head"), &known, &fixture.path("a.tar"), Form::Tar).unwrap();
        assert!(!other.log().is_empty() && !server.log().is_empty());
        for seen in server.log().iter().chain(&other.log()) {
            assert_eq!(seen.authorization, None, "{seen:?}");
            assert!(!seen.head.contains("guess") && !seen.head.contains("ZXZlOmd1ZXNz"), "{seen:?}");
        }
    }
}

#[test]
fn a_realm_elsewhere_is_refused() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, _) = chain_in_a_folder(&fixture);
    let (server, other) = (Server::start(), Server::start());
    server.behave(Behaviour { realm: Some(format!("{}/token", other.base())), ..Default::default() });
    for options in [options(None), known(options(None))] {
        let error = push(&bundle, &server.reference("vm"), &options).unwrap_err();
        assert!(matches!(&error, Error::Protocol { reason, .. } if reason.contains("token service")), "{error}");
    }
    assert!(other.log().is_empty());
}

/// A registry that refuses with 403 where its token, the n-th, is not good after so many uses; how many it has given.
fn forgetful(is_good: fn(usize, usize) -> bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let given = Arc::new(AtomicUsize::new(0));
    let counted = given.clone();
    std::thread::spawn(move || {
        let mut used = 0;
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|read| read > 0) {}
            let page: usize = head.split("page=").nth(1).map_or(0, |rest| rest[..1].parse().unwrap());
            let known = head
                .to_ascii_lowercase()
                .contains(&format!("authorization: bearer t{}\r\n", counted.load(Ordering::Relaxed)));
            let answer = if head.starts_with("GET /token") {
                used = 0;
                let token = format!("{{\"token\":\"t{}\"}}", counted.fetch_add(1, Ordering::Relaxed) + 1);
                format!("200 OK\r\nContent-Length: {}\r\n\r\n{token}", token.len())
            } else if !head.contains("uthorization:") {
                format!(
                    "401 No\r\nWWW-Authenticate: Bearer realm=\"http://{place}/token\"\r\nContent-Length: 0\r\n\r\n"
                )
            } else if !known || !is_good(counted.load(Ordering::Relaxed), used) {
                "403 No\r\nContent-Length: 0\r\n\r\n".into()
            } else {
                used += 1;
                let next = if page < 3 {
                    format!("Link: </v2/vm/tags/list?page={}>; rel=next\r\n", page + 1)
                } else {
                    String::new()
                };
                let body = format!("{{\"tags\":[\"tag-{page}\"]}}");
                format!("200 OK\r\n{next}Content-Length: {}\r\n\r\n{body}", body.len())
            };
            let _ = reader
                .get_mut()
                .write_all(format!("HTTP/1.1 {answer}").replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes());
        }
    });
    (format!("oci://{place}/vm"), given)
}

#[test]
fn token_that_expires_with_403_is_renewed_and_a_lasting_403_believed() {
    let never = |_, _| false;
    let tags = |place: &str| snapcask::registry::tags(&place.parse().unwrap(), &options(None));
    let (place, given) = forgetful(|_, used| used < 1);
    assert_eq!(tags(&place).unwrap(), ["tag-0", "tag-1", "tag-2", "tag-3"]);
    assert_eq!(given.load(Ordering::Relaxed), 4);
    // The first one is refused at once; or the second one, which is new.
    for (is_good, tokens) in [(never as fn(usize, usize) -> bool, 1), (|token, used| (token, used) == (1, 0), 2)] {
        let (place, given) = forgetful(is_good);
        assert!(matches!(tags(&place).unwrap_err(), Error::Forbidden { .. }));
        assert_eq!(given.load(Ordering::Relaxed), tokens);
    }
}

#[test]
fn login_checks_before_it_keeps() {
    let fixture = Fixture::empty(Generation::Flat);
    let server = Server::start();
    server.behave(Behaviour { basic: Some(USER), ..Default::default() });
    let host = format!("127.0.0.1:{}", server.port);
    let config = fixture.path("docker");
    let program = |arguments: &[&str], input: &[u8]| {
        let mut child = command(arguments)
            .env("DOCKER_CONFIG", &config)
            .env_remove("REGISTRY_AUTH_FILE")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let login = ["login", &host, "--username", "ann", "--password-stdin"];
    let text = fails(&program(&login, b"guess\n"), 1);
    assert!(text.contains("refuses the credentials") && !text.contains("guess"), "{text}");
    assert!(text.contains("check the user's name") && !text.contains("run `snapcask login"), "{text}");
    assert!(!config.join("config.json").exists());
    // A secret that is not set.
    assert!(fails(&program(&login, b"\n"), 2).contains("the password on standard input is empty"));
    succeeds(&program(&login, b"secret-of-ann\n"));
    assert!(json_file(&config.join("config.json"))["auths"][&host]["auth"].is_string());
    let text = fails(&program(&["tags", &server.reference("vm")], b""), 4);
    assert!(text.contains("no such repository"), "{text}");
    succeeds(&program(&["logout", &host], b""));
    fails(&program(&["tags", &server.reference("vm")], b""), 1);
    assert!(json_file(&config.join("config.json"))["auths"].as_object().unwrap().is_empty());
}

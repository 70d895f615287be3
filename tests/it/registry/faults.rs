//! A registry that lies or fails: the answer is right or there is none, and nothing is placed.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    result::Result,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use snapcask::{Error, export::Form, model::Generation, registry::ChunkSize};

use super::{
    server::{Behaviour, Server},
    *,
};

const SMALL: u64 = 16 << 20;

fn pushed() -> (Fixture, Server) {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    let (bundle, _) = chain_in_a_folder(&fixture);
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    (fixture, server)
}

#[test]
fn wrong_bytes_are_never_placed() {
    let (fixture, server) = pushed();
    let lies = [
        Behaviour { wrong_bytes: true, ..Default::default() },
        Behaviour { short_bytes: true, ..Default::default() },
        Behaviour { short_bytes: true, wrong_range: true, ..Default::default() },
        Behaviour { long_bytes: true, ..Default::default() },
    ];
    for behaviour in lies {
        server.behave(behaviour.clone());
        let target = fixture.path("target");
        let error = import_from(&server.reference("vm:head"), &options(None), &target).unwrap_err();
        assert!(
            matches!(error, Error::CorruptBlob { .. } | Error::Unreachable { .. } | Error::Protocol { .. }),
            "{behaviour:?}: {error}"
        );
        assert!(whole_tree(&target).is_empty());
        let file = fixture.path("pulled.tar");
        assert!(pull(&server.reference("vm:head"), &options(None), &file, Form::Tar).is_err());
        assert!(!file.exists());
    }
}

#[test]
fn a_range_of_a_blob_of_another_size_is_refused() {
    let (fixture, server) = pushed();
    server.behave(Behaviour { longer_by: 1, cut_sent: vec![100_000], ..Default::default() });
    let error = import_from(&server.reference("vm:head"), &options(None), &fixture.path("target")).unwrap_err();
    assert!(matches!(error, Error::CorruptBlob { .. }), "{error}");
    assert!(error.to_string().contains("bytes of it, not"), "{error}");
}

/// By its digest, whoever asked: the user, or a child for its parent.
#[test]
fn another_manifest_than_the_digest_says_is_refused() {
    let (fixture, server) = pushed();
    let head = server.tag("vm", "head").unwrap();
    server.behave(Behaviour { wrong_manifests: true, ..Default::default() });
    let (asked, found) = ("the registry sent a manifest with the digest", "its bytes have the digest");
    for (reference, text) in [(server.reference(&format!("vm@{head}")), asked), (server.reference("vm:head"), found)] {
        let target = fixture.path("target");
        let error = import_from(&reference, &options(None), &target).unwrap_err();
        assert!(matches!(error, Error::CorruptBlob { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(!target.exists() || whole_tree(&target).is_empty());
    }
}

#[test]
fn wrong_range_and_no_ranges_are_a_detour() {
    let (fixture, server) = pushed();
    let cut = vec![100_000];
    for (name, behaviour) in [
        ("wrong", Behaviour { wrong_range: true, cut_sent: cut.clone(), ..Default::default() }),
        ("none", Behaviour { no_ranges: true, cut_sent: cut, ..Default::default() }),
    ] {
        server.behave(behaviour);
        let imported = import_from(&server.reference("vm:head"), &options(None), &fixture.path(name)).unwrap();
        assert_same_snapshot(fixture.head(), imported.snapshots[0].path.as_ref().unwrap());
    }
}

/// Each large blob in small parts: several ranges at once, whatever the speed.
fn in_parts() -> Options {
    Options { part: 16 << 10, fast: u64::MAX, ..options(None) }
}

/// What a registry sends that has forgotten ranges is the blob, and there is no rest of it.
#[test]
fn ranges_that_are_forgotten_before_the_first_byte() {
    let (fixture, server) = pushed();
    server.behave(Behaviour { forgets_ranges: true, ..Default::default() });
    let imported = import_from(&server.reference("vm:head"), &in_parts(), &fixture.path("target")).unwrap();
    assert_same_snapshot(fixture.head(), imported.snapshots[0].path.as_ref().unwrap());
}

/// docker-registry doubts the digest of a manifest now and then that another push is writing too.
#[test]
fn a_digest_that_is_doubted_for_a_while() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, _) = chain_in_a_folder(&fixture);
    for (doubts, good) in [(3, true), (100, false)] {
        let server = Server::start();
        server.behave(Behaviour { doubts, ..Default::default() });
        let pushed = push(&bundle, &server.reference("vm"), &options(None));
        match good {
            true => drop(pushed.unwrap()),
            false => assert!(matches!(pushed.unwrap_err(), Error::Refused { status: 400, .. })),
        }
    }
}

/// A registry that says of any blob that it is there, and not how large it is, says nothing.
#[test]
fn a_blob_without_a_size_is_sent() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, _) = chain_in_a_folder(&fixture);
    let (server, another) = (Server::start(), Server::start());
    push(&bundle, &another.reference("vm"), &options(None)).unwrap();
    server.behave(Behaviour { sizeless: true, ..Default::default() });
    for _ in 0..2 {
        push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    }
    assert_eq!(server.check_blobs(), another.check_blobs());
}

#[test]
fn large_blobs_come_in_several_ranges_unless_one_is_enough() {
    let (fixture, server) = pushed();
    let reference = server.reference("vm:head");
    let ranges = |options: &Options, name: &str| {
        server.behave(Behaviour::default());
        let imported = import_from(&reference, options, &fixture.path(name)).unwrap();
        assert_same_snapshot(fixture.head(), imported.snapshots[0].path.as_ref().unwrap());
        server.log().iter().filter_map(|seen| seen.range.clone()).collect::<Vec<_>>()
    };
    let several = ranges(&in_parts(), "several");
    assert!(several.len() > 20, "{several:?}");
    // The first part tells that one connection is enough: one more range for the rest.
    let fast = ranges(&Options { fast: 0, ..in_parts() }, "fast");
    let (first, rest): (Vec<_>, Vec<_>) = fast.iter().partition(|range| range.starts_with("bytes=0-"));
    assert!(!rest.is_empty() && rest.len() == first.len(), "{fast:?}");
    assert!(ranges(&options(None), "small").is_empty());

    // Lies, cuts and failures in parts.
    for behaviour in [
        Behaviour { wrong_bytes: true, ..Default::default() },
        Behaviour { short_bytes: true, ..Default::default() },
        Behaviour { long_bytes: true, ..Default::default() },
    ] {
        server.behave(behaviour.clone());
        let error = import_from(&reference, &in_parts(), &fixture.path("target")).unwrap_err();
        assert!(
            matches!(error, Error::CorruptBlob { .. } | Error::Unreachable { .. } | Error::Protocol { .. }),
            "{behaviour:?}: {error}"
        );
        assert!(whole_tree(&fixture.path("target")).is_empty());
    }
    for (name, behaviour) in [
        ("no-ranges", Behaviour { no_ranges: true, ..Default::default() }),
        ("wrong-range", Behaviour { wrong_range: true, ..Default::default() }),
        ("cut", Behaviour { cut_sent: (1..20).map(|n| n * 30_000).collect(), ..Default::default() }),
        ("failing", Behaviour { fail_every: Some(5), ..Default::default() }),
    ] {
        server.behave(behaviour);
        let imported = import_from(&reference, &in_parts(), &fixture.path(name)).unwrap();
        assert_same_snapshot(fixture.head(), imported.snapshots[0].path.as_ref().unwrap());
    }
}

#[test]
fn a_registry_that_takes_small_requests_gets_them() {
    const MIB: u64 = 1 << 20;
    let mut fixture = Fixture::empty(Generation::Flat);
    fixture.add("big", 0, 32 * MIB, &[(0, random(21 << 20, 5))], serde_json::Value::Null);
    fixture.add("small", 1, 32 * MIB, &[(0, random(6 << 20, 6))], serde_json::Value::Null);
    let bundle = fixture.path("bundle");
    let report =
        export(&ExportOptions { with_parents: true, ..export_options(&fixture.store, "small", Form::Dir, &bundle) })
            .unwrap();
    let options = Options { chunk: ChunkSize::Automatic, ..options(None) };
    for most in [None, Some(4 * MIB)] {
        let server = Server::start();
        server.behave(Behaviour { max_request: most.map(|most| (most, 416)), ..Default::default() });
        push(&bundle, &server.reference("vm"), &options).unwrap();
        assert_eq!(server.tag("vm", "small"), report.snapshots[0].manifest);
        server.check_blobs();
        let largest = |method: &str| server.log().iter().filter(|s| s.method == method).map(|s| s.received).max();
        assert!(most.is_some() || largest("PUT").unwrap() > 20 * MIB, "one request is enough");
        let chunks = largest("PATCH");
        assert_eq!(chunks.is_some(), most.is_some(), "then chunks");
        assert!(chunks.is_none_or(|size| (4 * MIB..=8 * MIB).contains(&size)), "{chunks:?}");
        let most_received = report.blob_bytes + most.map_or(0, |_| report.blob_bytes + 3 * 8 * MIB);
        assert!(server.received() <= most_received, "{} of {}", server.received(), report.blob_bytes);
    }
}

#[test]
fn passing_failures_pass() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, report) = chain_in_a_folder(&fixture);
    for n in [3, 4, 5, 7] {
        let server = Server::start();
        server.behave(Behaviour { fail_every: Some(n), ..Default::default() });
        push(&bundle, &server.reference("vm"), &options(None)).unwrap();
        assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest);
        let target = fixture.path(&format!("target-{n}"));
        let imported = import_from(&server.reference("vm:head"), &options(None), &target).unwrap();
        assert_same_snapshot(fixture.head(), imported.snapshots[0].path.as_ref().unwrap());
    }
}

#[test]
fn retry_after_is_honoured_and_bounded() {
    let (fixture, server) = pushed();
    server.behave(Behaviour { too_many: 2, retry_after: "1", ..Default::default() });
    let began = std::time::Instant::now();
    pull(&server.reference("vm:head"), &options(None), &fixture.path("a.tar"), Form::Tar).unwrap();
    assert!(began.elapsed().as_secs_f64() >= 2.0, "{:?}", began.elapsed());
    // Nobody is made to wait for a day.
    server.behave(Behaviour { too_many: 1, retry_after: "86400", ..Default::default() });
    let began = std::time::Instant::now();
    pull(&server.reference("vm:head"), &options(None), &fixture.path("b.tar"), Form::Tar).unwrap();
    assert!(began.elapsed().as_secs_f64() < 3600.0, "{:?}", began.elapsed());
    server.behave(Behaviour { too_many: 1000, retry_after: "0", ..Default::default() });
    let error = pull(&server.reference("vm:head"), &options(None), &fixture.path("c.tar"), Form::Tar).unwrap_err();
    assert!(matches!(error, Error::Refused { status: 429, .. }), "{error}");
    assert_eq!(server.log().iter().map(|seen| seen.status).collect::<Vec<_>>(), [429; 5]);
}

#[test]
fn lasting_failures_are_said_clearly_and_leave_nothing() {
    let (fixture, server) = pushed();
    let (bundle, _) = (fixture.path("bundle"), ());
    for (status, words) in [
        (401, "snapcask login"),
        (403, "quota"),
        (404, "no such"),
        (413, "limits the size"),
        (429, "wait"),
        (500, "500"),
        (507, "no room"),
    ] {
        server.behave(Behaviour { always: Some(status), ..Default::default() });
        let file = fixture.path("pulled.tar");
        let error = pull(&server.reference("vm:head"), &options(None), &file, Form::Tar).unwrap_err();
        assert!(error.to_string().contains(words), "{status}: {error}");
        assert!(!file.exists());
        let error = push(&bundle, &server.reference("fresh"), &options(None)).unwrap_err();
        assert!(error.to_string().contains(words) || status == 404, "{status}: {error}");
        // Five attempts of one request, or one of each blob at once: nothing goes on and on.
        assert!(server.log().len() <= 30, "{status}: {} requests", server.log().len());
    }
    let gone = options(None);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = pull(&format!("oci://127.0.0.1:{closed}/vm:a"), &gone, &fixture.path("x.tar"), Form::Tar).unwrap_err();
    assert!(matches!(error, Error::Unreachable { attempts: 2.., .. }), "{error}");
}

/// A tag that is not shown could be somebody's: the push stops, unless it is forced.
#[test]
fn push_stops_where_the_registry_does_not_show_what_a_tag_names() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, report) = chain_in_a_folder(&fixture);
    let server = Server::start();
    server.behave(Behaviour { absent_manifest: Some(403), ..Default::default() });
    let push_as = |force: bool| {
        snapcask::copy::copy(&snapcask::copy::CopyOptions {
            source: snapcask::import::BundleLocation::path(bundle.clone()),
            bases: Vec::new(),
            tag: None,
            destination: super::registry(&server.reference("vm"), &options(None)),
            form: Form::Registry,
            force,
            jobs: 1,
            progress: Arc::new(snapcask::progress::Silent),
        })
    };
    let error = push_as(false).unwrap_err();
    let text = format!(
        "cannot push to oci://127.0.0.1:{port}/vm: 127.0.0.1:{port} does not let us see what is there (MANIFEST_UNKNOWN: so \
         it is), so that a tag could be overwritten unseen; --force goes on",
        port = server.port
    );
    assert_eq!((error.to_string(), error.exit_code()), (text, 1));
    push_as(true).unwrap();
    assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest);
}

/// A limit of the registry is said with the value that is over it, and with what to do.
#[test]
fn limits_of_a_registry_are_said_with_value_and_option() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, _) = chain_in_a_folder(&fixture);
    let server = Server::start();
    server.behave(Behaviour { max_layers: Some(2), ..Default::default() });
    let error = push(&bundle, &server.reference("vm"), &options(None)).unwrap_err().to_string();
    assert!(error.contains("answered 405 (UNSUPPORTED: Limit on number of layers per image exceeded)"), "{error}");
    assert!(error.ends_with(" layers: --no-delta packs each snapshot into one"), "{error}");
    let server = Server::start();
    server.behave(Behaviour { max_blob: Some(100_000), ..Default::default() });
    let error = push(&bundle, &server.reference("vm"), &options(None)).unwrap_err().to_string();
    let hint = |size: u64| {
        format!(
            "answered 413 (SIZE_INVALID: so it is); the blob has {size} bytes, and the registry, or a proxy before it, \
             limits the size of a blob or of a request: --chunk-size SIZE sends smaller requests"
        )
    };
    let sizes = blobs(&bundle).into_iter().map(|name| bundle.join("blobs/sha256").join(name).metadata().unwrap().len());
    assert!(sizes.filter(|size| *size > 100_000).any(|size| error.ends_with(&hint(size))), "{error}");
}

/// A registry that takes a request and says nothing: what is waited for is told, and that it is tried again.
#[test]
fn silent_registry_is_told_and_given_up() {
    let fixture = Fixture::empty(Generation::Flat);
    let (notices, told) = std::sync::mpsc::channel();
    let notices = std::sync::Mutex::new(notices);
    let silent = answering(|stream| std::mem::forget(stream.try_clone().unwrap()));
    let slow = Options {
        timeout: Duration::from_secs(4),
        retry: Retry { attempts: 2, ..options(None).retry },
        notices: snapcask::registry::Notices::to(move |notice| notices.lock().unwrap().send(notice.clone()).unwrap()),
        ..options(None)
    };
    let error = pull(&silent, &slow, &fixture.path("x.tar"), Form::Tar).unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable { attempts: 2, reason, .. } if reason == "nothing moved for 4 seconds")
    );
    let told: Vec<_> = told.try_iter().collect();
    let host = silent.strip_prefix("oci://").unwrap().split('/').next().unwrap();
    let what = format!("{host} to answer (read a of oci://{host}/vm)");
    assert!(
        matches!(&told[0], snapcask::registry::Notice::Waiting { what: told, since }
            if *told == what && since.as_secs() == 3),
        "{told:?}"
    );
    assert!(matches!(&told[1], snapcask::registry::Notice::Retry { attempt: 1, .. }), "{told:?}");
    // A body that stops after its head.
    let (part, rest) = (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", ());
    let stops = answering(move |stream| {
        assert!(std::io::Read::read(stream, &mut [0; 4096]).unwrap() > 0);
        stream.write_all(part).unwrap();
        std::mem::forget((stream.try_clone().unwrap(), rest));
    });
    let error = pull(&stops, &slow, &fixture.path("x.tar"), Form::Tar).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason == "nothing came for 4 seconds"), "{error}");
}

#[test]
fn an_unknown_tag_lists_those_that_are() {
    let (fixture, server) = pushed();
    let file = fixture.path("x.tar");
    let error = pull(&server.reference("vm:nobody"), &options(None), &file, Form::Tar).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let text = error.to_string();
    for name in NAMES {
        assert!(text.contains(name), "{text}");
    }
    let error = pull(&server.reference("nothing:here"), &options(None), &file, Form::Tar).unwrap_err();
    assert!(matches!(error, Error::RemoteNotFound { what: "repository", .. }), "{error}");
    // Without a tag it is the only head.
    pull(&server.reference("vm"), &options(None), &file, Form::Tar).unwrap();
    let mut other = Fixture::empty(Generation::Flat);
    other.add("another", 9, SMALL, &[(0, random(4096, 3))], serde_json::Value::Null);
    push_snapshot_alone(&other, "another", &server.reference("vm"));
    let error = pull(&server.reference("vm"), &options(None), &file, Form::Tar).unwrap_err();
    assert!(matches!(&error, Error::Ambiguous { candidates, .. } if candidates.len() == 2), "{error}");
}

fn push_snapshot_alone(fixture: &Fixture, name: &str, reference: &str) {
    let destination = super::registry(reference, &options(None));
    let alone = export_options(&fixture.store, name, Form::Registry, std::path::Path::new("unused"));
    export(&ExportOptions { destination, ..alone }).unwrap();
}

#[test]
fn lists_and_redirects_end() {
    let (fixture, server) = pushed();
    let tags = |server: &Server| {
        snapcask::registry::tags(&server.reference("vm").parse().unwrap(), &options(None)).map(|tags| tags.len())
    };
    assert_eq!(tags(&server).unwrap(), 3);
    server.behave(Behaviour { endless_tags: true, ..Default::default() });
    let error = tags(&server).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
    assert!(server.log().len() <= 1001);
    let other = Server::start();
    server.behave(Behaviour { tags_at: Some(other.base()), ..Default::default() });
    assert!(matches!(tags(&server), Err(Error::Protocol { .. })));
    assert!(other.log().is_empty());
    server.behave(Behaviour { redirects: true, ..Default::default() });
    let error = pull(&server.reference("vm:head"), &options(None), &fixture.path("x.tar"), Form::Tar).unwrap_err();
    assert!(matches!(&error, Error::Protocol { reason, .. } if reason.contains("redirects")), "{error}");
    assert!(server.log().len() <= 6);
}

#[test]
fn a_registry_that_refuses_chunks_gets_blobs_in_one_piece() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, report) = chain_in_a_folder(&fixture);
    for status in [400, 405, 501] {
        let server = Server::start();
        server.behave(Behaviour { refuse_chunks: Some(status), ..Default::default() });
        push(&bundle, &server.reference("vm"), &options(None)).unwrap();
        assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest);
        server.check_blobs();
        let exported = push_snapshot(&fixture, "head", &server.reference("straight"), &options(None)).unwrap();
        assert_eq!(exported.snapshots[0].manifest, report.snapshots[0].manifest);
    }
    for min in [200_000, 1 << 40] {
        let server = Server::start();
        server.behave(Behaviour { min_chunk: Some(min), ..Default::default() });
        push(&bundle, &server.reference("vm"), &options(None)).unwrap();
        assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest);
        let chunks: Vec<u64> = server.log().iter().filter(|s| s.method == "PATCH").map(|s| s.received).collect();
        assert_eq!(chunks.is_empty(), min > 1 << 30);
        // All but the last of a blob are as large as was asked for.
        let full = chunks.iter().filter(|size| **size >= 200_000).count();
        assert!(chunks.is_empty() || full > 0, "{chunks:?}");
    }
}

/// A certificate for other.example, and its key.
const OTHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/registry/other.pem");

/// A reference to what answers every connection so, until the tests end.
fn answering(answer: impl Fn(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("oci://{}/vm:a", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().for_each(|stream| answer(&mut stream.unwrap())));
    reference
}

fn with_the_certificate_of_another(stream: &mut TcpStream) {
    let certificates = CertificateDer::pem_file_iter(OTHER).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(OTHER).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
    let mut connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    // The client hangs up.
    let _ = connection.complete_io(stream);
}

/// What stays as it is is said at once; only a registry that may be starting is asked again, and not often.
#[test]
fn what_does_not_heal_is_not_tried_again() {
    let fixture = Fixture::empty(Generation::Flat);
    let timed = |reference: &str, options: &Options| {
        let began = std::time::Instant::now();
        let error = pull(reference, options, &fixture.path("x.tar"), Form::Tar).unwrap_err();
        (error, began.elapsed().as_secs_f64())
    };
    let slow = Retry { first: Duration::from_secs(60), longest: Duration::from_secs(60), ..options(None).retry };
    let slow = Options { retry: slow, ..options(None) };
    // Plain HTTP where TLS is asked for, and a certificate for another name.
    for (lasting, reason) in [
        (answering(|stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"))), "--plain-http allows that"),
        (answering(with_the_certificate_of_another), "and not for 127.0.0.1"),
    ] {
        let (error, seconds) = timed(&lasting, &Options { ca_file: Some(OTHER.into()), ..slow.clone() });
        assert!(matches!(&error, Error::Obstructed { .. }), "{error}");
        assert!(error.to_string().ends_with(reason) && seconds < 60.0, "{error} after {seconds} s");
    }
    // Without a resolver the name may be a passing failure: a few attempts.
    let (error, _) = timed("oci://nobody.invalid/vm:a", &options(None));
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    if matches!(error, Error::Unreachable { attempts: 1, .. }) {
        assert!(error.to_string().contains("check the name of the registry"), "{error}");
    }
}

//! The connection is cut at every few per cent of a push and of a pull: the digests are right in the end, and of every
//! cut at most one chunk travels again. `SNAPCASK_EVERY_CUT=1` takes every single per cent.

use std::{io::Write, process::Stdio, time::Duration};

use snapcask::{export::Form, model::Generation, registry::ChunkSize};

use super::{
    server::{Behaviour, Server},
    *,
};
use crate::tally;

const SMALL: u64 = 16 << 20;
/// Of these pushes.
const CHUNK: u64 = 16 << 10;

fn options(cache: Option<&std::path::Path>) -> Options {
    Options { chunk: ChunkSize::Bytes(CHUNK as usize), ..super::options(cache) }
}

fn percents() -> Vec<u64> {
    let step = if std::env::var("SNAPCASK_EVERY_CUT").is_ok_and(|v| v == "1") { 1 } else { 14 };
    (1..100).step_by(step).collect()
}

#[test]
fn a_push_that_is_cut() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, report) = chain_in_a_folder(&fixture);
    let server = Server::start();
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    let whole = server.received();
    for percent in percents() {
        for straight in [false, true] {
            server.forget();
            server.behave(Behaviour { cut_received: vec![whole * percent / 100], ..Default::default() });
            if straight {
                push_snapshot(&fixture, "head", &server.reference("vm"), &options(None)).unwrap();
            } else {
                push(&bundle, &server.reference("vm"), &options(None)).unwrap();
            }
            assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest, "{percent} %");
            let again = server.received() - whole;
            assert!(again <= CHUNK, "{again} bytes twice after a cut at {percent} %");
            server.check_blobs();
            tally::cases(13, "pushes cut at a per cent, of a bundle and straight from the store", 1);
        }
    }
    // Many cuts in one push, as far apart as a blob that goes in one piece needs.
    server.forget();
    let cuts: Vec<u64> = (1..whole / CHUNK / 3).map(|n| n * 3 * CHUNK).collect();
    assert!(cuts.len() > 3, "{whole} bytes are few");
    server.behave(Behaviour { cut_received: cuts.clone(), ..Default::default() });
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest);
    assert!(server.received() - whole <= CHUNK * cuts.len() as u64);
}

#[test]
fn a_pull_that_is_cut() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, report) = chain_in_a_folder(&fixture);
    let server = Server::start();
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    let file = fixture.path("pulled.tar");
    pull(&server.reference("vm:head"), &options(None), &file, Form::Tar).unwrap();
    let (whole, expected) = (server.sent(), identity(&file));
    for percent in percents() {
        server.behave(Behaviour { cut_sent: vec![whole * percent / 100], ..Default::default() });
        pull(&server.reference("vm:head"), &options(None), &file, Form::Tar).unwrap();
        assert_eq!(identity(&file), expected, "{percent} %");
        let resumed = server.log().iter().filter(|seen| seen.range.is_some()).count();
        assert!(resumed <= 1, "{resumed} ranges for one cut");
        // What was on its way at the cut is what the server's last write held.
        let again = server.sent() - whole;
        assert!(again <= CHUNK, "{again} bytes twice after a cut at {percent} %");
        tally::cases(13, "pulls cut at a per cent", 1);
    }
    let cuts: Vec<u64> = percents().iter().map(|percent| whole * percent / 100).collect();
    server.behave(Behaviour { cut_sent: cuts.clone(), ..Default::default() });
    let imported = import_from(&server.reference("vm:head"), &options(None), &fixture.path("target")).unwrap();
    assert_eq!(imported.snapshots[0].manifest, report.snapshots[0].manifest);
    assert_same_snapshot(fixture.head(), imported.snapshots[0].path.as_ref().unwrap());
}

#[test]
fn a_registry_that_forgets_what_was_cut_gets_it_again() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, report) = chain_in_a_folder(&fixture);
    let server = Server::start();
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    let whole = server.received();
    for straight in [false, true] {
        server.forget();
        let cut_received = vec![whole / 3];
        server.behave(Behaviour { cut_received, forgets_cut: true, ..Default::default() });
        if straight {
            push_snapshot(&fixture, "head", &server.reference("vm"), &options(None)).unwrap();
        } else {
            push(&bundle, &server.reference("vm"), &options(None)).unwrap();
        }
        assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest);
        server.check_blobs();
    }
}

/// A remembered upload may be of other bytes: of more than the blob has, or of fewer. It is begun anew, and not asked
/// for again.
#[test]
fn an_upload_of_other_bytes_is_begun_anew() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, report) = chain_in_a_folder(&fixture);
    let size = |name: &String| std::fs::metadata(bundle.join("blobs/sha256").join(name)).unwrap().len();
    let largest = blobs(&bundle).into_iter().max_by_key(size).unwrap();
    for more in [1, 0] {
        let (server, cache) = (Server::start(), fixture.path(&format!("cache-{more}")));
        let there = size(&largest) - 1 + 2 * more;
        let other = server.begin_upload("vm", &random(there as usize, 3));
        let key = format!("127.0.0.1:{}\nvm\nsha256:{largest}", server.port);
        let record = cache.join("uploads").join(snapcask::Digest::of(key.as_bytes()).hex());
        write(record.clone(), format!("{other}\n").as_bytes());
        push(&bundle, &server.reference("vm"), &options(Some(&cache))).unwrap();
        assert_eq!(server.tag("vm", "head"), report.snapshots[0].manifest);
        server.check_blobs();
        let asked = server.log().iter().filter(|s| s.method == "GET" && other.ends_with(&s.target)).count();
        assert_eq!((asked, record.exists()), (1, false), "{there} bytes");
    }
}

/// A run that fails at a cut keeps what came, for a pull and for an import.
#[test]
fn pull_that_failed_goes_on_in_the_next_run() {
    const LARGEST_LOSS: u64 = 8 << 20;
    let mut fixture = Fixture::empty(Generation::Flat);
    let big = (0, random(24 << 20, 5));
    fixture.add("base", 0, 64 << 20, std::slice::from_ref(&big), serde_json::Value::Null);
    fixture.add("head", 1, 64 << 20, &[big, (40 << 20, random(9 << 20, 6))], serde_json::Value::Null);
    let bundle = fixture.path("bundle");
    let chain = snapcask::export::ExportOptions {
        with_parents: true,
        ..export_options(&fixture.store, "head", Form::Dir, &bundle)
    };
    snapcask::export::export(&chain).unwrap();
    let (server, file, store) = (Server::start(), fixture.path("pulled.tar"), fixture.path("target"));
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    pull(&server.reference("vm:head"), &options(None), &file, Form::Tar).unwrap();
    let (whole, expected, cache) = (server.sent(), identity(&file), fixture.path("cache"));
    let parts = || std::fs::read_dir(cache.join("partial")).map_or(0, |entries| entries.count());
    for percent in percents() {
        for is_import in [false, true] {
            // In several ranges at once, and in one.
            let fast = if percent % 2 == 0 { 0 } else { u64::MAX };
            let kept = snapcask::registry::Options { fast, part: 2 << 20, ..options(Some(&cache)) };
            let once = snapcask::registry::Retry { attempts: 1, ..kept.retry };
            let once = snapcask::registry::Options { retry: once, ..kept.clone() };
            server.behave(Behaviour { cut_sent: vec![whole * percent / 100], ..Default::default() });
            let run = |options: &snapcask::registry::Options| match is_import {
                true => import_from(&server.reference("vm:head"), options, &store).map(drop),
                false => pull(&server.reference("vm:head"), options, &file, Form::Tar).map(drop),
            };
            assert!(run(&once).is_err(), "{percent} %");
            run(&kept).unwrap();
            if is_import {
                for made in &fixture.snapshots {
                    assert_same_snapshot(made, &store.join("snapshots").join(&made.name));
                }
                std::fs::remove_dir_all(&store).unwrap();
            } else {
                assert_eq!(identity(&file), expected, "{percent} %");
                std::fs::remove_file(&file).unwrap();
            }
            let again = server.sent() - whole;
            assert!(again <= LARGEST_LOSS, "{again} bytes twice after a cut at {percent} %");
            assert_eq!(parts(), 0, "what is in place is not kept");
            tally::cases(13, "pulls and imports that failed at a per cent and went on in the next run", 1);
        }
    }
}

/// What an earlier run kept is not believed: the run that finds it wrong drops it, and the next one is whole.
#[test]
fn kept_part_with_wrong_bytes_is_found_and_dropped() {
    let mut fixture = Fixture::empty(Generation::Flat);
    fixture.add("head", 0, 64 << 20, &[(0, random(9 << 20, 5))], serde_json::Value::Null);
    let bundle = fixture.path("bundle");
    snapcask::export::export(&export_options(&fixture.store, "head", Form::Dir, &bundle)).unwrap();
    let (server, cache, store) = (Server::start(), fixture.path("cache"), fixture.path("target"));
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    let kept = options(Some(&cache));
    let once = snapcask::registry::Retry { attempts: 1, ..kept.retry };
    let once = snapcask::registry::Options { retry: once, ..kept.clone() };
    server.behave(Behaviour { cut_sent: vec![6 << 20], ..Default::default() });
    import_from(&server.reference("vm:head"), &once, &store).unwrap_err();
    let part = std::fs::read_dir(cache.join("partial")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&part).unwrap();
    assert!(bytes.len() > 1 << 20, "{} bytes are kept", bytes.len());
    bytes[1 << 20] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let error = import_from(&server.reference("vm:head"), &kept, &store).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(whole_tree(&store).is_empty() && !part.exists());
    // A verification reads the registry and not what was kept.
    let verified = snapcask::check_bundle::verify_bundle(
        &super::at(&server.reference("vm:head"), &kept),
        false,
        2,
        std::sync::Arc::new(snapcask::progress::Silent),
    );
    assert!(verified.unwrap().findings.is_empty());
    assert!(!part.exists());
    import_from(&server.reference("vm:head"), &kept, &store).unwrap();
    assert_same_snapshot(fixture.head(), &store.join("snapshots/head"));
}

/// Chunks of the program are larger: its disk is, too.
#[test]
fn a_killed_push_goes_on() {
    const MIB: u64 = 1 << 20;
    let mut fixture = Fixture::empty(Generation::Flat);
    fixture.add("big", 0, 64 * MIB, &[(0, random(40 << 20, 5))], serde_json::Value::Null);
    let bundle = fixture.path("bundle");
    let report = snapcask::export::export(&export_options(&fixture.store, "big", Form::Dir, &bundle)).unwrap();
    std::thread::sleep(Duration::from_millis(3100));
    for what in [bundle.to_str().unwrap(), "big"] {
        let server = Server::start();
        let push = || {
            let mut push = command(["push", what, &server.reference("vm"), "--store", fixture.store.to_str().unwrap()]);
            push.args(["--chunk-size", "8M"]);
            push.env("XDG_CACHE_HOME", fixture.path(&format!("cache-{}", what.len())));
            push.env("DOCKER_CONFIG", fixture.path("no-docker"));
            push
        };
        for kill_at in [10 * MIB, 22 * MIB] {
            let mut child = push().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            while server.received() < kill_at {
                assert!(child.try_wait().unwrap().is_none(), "the push ended before it was killed");
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(server.tag("vm", "big"), None);
        succeeds(&push().output().unwrap());
        assert_eq!(server.tag("vm", "big"), report.snapshots[0].manifest);
        server.check_blobs();
        let again = server.received().saturating_sub(report.blob_bytes);
        assert!(again <= 2 * snapcask::registry::CHUNK as u64, "{again} bytes twice after two kills");
    }
    std::io::stderr().flush().unwrap();
}

//! Bundles move between every two forms and no digest changes; what is there already does not travel again.

use std::{fs, time::Duration};

use snapcask::{export::Form, import::BundleLocation, media_type, model::Generation};

use super::{server::Server, *};

const SMALL: u64 = 16 << 20;

#[test]
fn every_form_to_every_form() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let server = Server::start();
        let (bundle, report) = chain_in_a_folder(&fixture);
        let before = blobs(&bundle);
        let options = options(None);
        let pushed = push(&bundle, &server.reference("team/vm"), &options).unwrap();
        assert_eq!((pushed.blobs, pushed.sent_blobs), (before.len(), before.len()));
        assert_eq!(pushed.blob_bytes, report.blob_bytes);
        for snapshot in &report.snapshots {
            assert_eq!(server.tag("team/vm", &snapshot.name), snapshot.manifest);
        }
        for form in [Form::Dir, Form::Tar, Form::TarZst] {
            let pulled = fixture.path(&format!("pulled.{}", form.as_str()));
            let copied = pull(&server.reference("team/vm:head"), &options, &pulled, form).unwrap();
            assert_eq!(copied.sent_blobs, before.len());
            let unpacked = fixture.path(&format!("unpacked-{}", form.as_str()));
            let to = snapcask::export::Destination::Path(unpacked.clone());
            transfer(BundleLocation::path(pulled.clone()), to, Form::Dir).unwrap();
            // The same folder, down to what its index says for people.
            assert_eq!(whole_tree(&unpacked), whole_tree(&bundle));
            let target = fixture.path(&format!("target-{}", form.as_str()));
            import_ok(&pulled, &target);
        }
        let elsewhere = server.reference("other/place:it");
        let copied =
            transfer(at(&server.reference("team/vm:head"), &options), registry(&elsewhere, &options), Form::Registry);
        assert_eq!(copied.unwrap().sent_blobs, before.len());
        assert_eq!(server.tag("other/place", "it"), report.snapshots[0].manifest);
        let target = fixture.path("imported");
        let imported = import_from(&elsewhere, &options, &target).unwrap();
        for (made, placed) in fixture.snapshots.iter().rev().zip(&imported.snapshots) {
            assert_same_snapshot(made, placed.path.as_ref().unwrap());
        }
    }
}

#[test]
fn a_second_push_sends_nothing_and_a_child_its_delta() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let server = Server::start();
        let cache = fixture.path("cache");
        let options = options(Some(&cache));
        let place = server.reference("vm");
        // Stamps settle: what was written just now is not remembered.
        std::thread::sleep(Duration::from_millis(3100));
        let first = push_snapshot(&fixture, "middle", &place, &options).unwrap();
        assert!(server.received() > 0);
        server.behave(Default::default());
        let again = push_snapshot(&fixture, "middle", &place, &options).unwrap();
        assert_eq!((server.received(), again.blob_bytes, again.sent_bytes), (0, first.blob_bytes, 0));
        assert_eq!(again.snapshots[0].manifest, first.snapshots[0].manifest);
        let puts = server.log().iter().filter(|seen| seen.method == "PUT" || seen.method == "PATCH").count();
        assert_eq!(puts, 0, "{:#?}", server.log());

        let child = push_snapshot(&fixture, "head", &place, &options).unwrap();
        let new = server.received();
        let (folder, plain) = chain_in_a_folder(&fixture);
        assert_eq!(child.snapshots[0].manifest, plain.snapshots[0].manifest);
        let manifest = json_file(&folder.join("blobs/sha256").join(plain.snapshots[0].manifest.unwrap().hex()));
        let config = manifest["config"]["size"].as_u64().unwrap();
        let delta = manifest["layers"].as_array().unwrap()[2]["size"].as_u64().unwrap();
        assert!(new <= (delta + config) * 105 / 100, "{new} bytes for a delta of {delta} and a config of {config}");

        // Without memory the layers are made again, and still nothing travels that is in one piece.
        fs::remove_dir_all(&cache).unwrap();
        server.behave(Default::default());
        let again = push_snapshot(&fixture, "head", &place, &options).unwrap();
        assert_eq!(again.snapshots[0].manifest, plain.snapshots[0].manifest);
        server.check_blobs();
    }
}

#[test]
fn a_remembered_layer_that_the_registry_lost_is_made_again() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    let options = options(Some(&fixture.path("cache")));
    let place = server.reference("vm");
    std::thread::sleep(Duration::from_millis(3100));
    let first = push_snapshot(&fixture, "head", &place, &options).unwrap();
    server.forget();
    let again = push_snapshot(&fixture, "head", &place, &options).unwrap();
    assert_eq!(again.snapshots[0].manifest, first.snapshots[0].manifest);
    import_from(&server.reference("vm:head"), &options, &fixture.path("target")).unwrap();
    // A file that is written to is not the one that is remembered.
    fs::write(fixture.head().directory.join("notes.txt"), b"other notes").unwrap();
    let other = push_snapshot(&fixture, "head", &place, &options).unwrap();
    assert_ne!(other.snapshots[0].manifest, first.snapshots[0].manifest);
}

#[test]
fn blobs_are_mounted_from_where_they_are_known_to_be() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    let (bundle, _) = chain_in_a_folder(&fixture);
    let remembering = options(Some(&fixture.path("cache")));
    push(&bundle, &server.reference("one"), &remembering).unwrap();
    server.behave(Default::default());
    let mounted = push(&bundle, &server.reference("two"), &remembering).unwrap();
    assert_eq!(server.received(), 0);
    assert_eq!((mounted.mounted_blobs, mounted.sent_blobs), (mounted.blobs - 3, 3));
    let told = Options { mount_from: Some("two".parse().unwrap()), ..options(None) };
    let mounted = push(&bundle, &server.reference("three"), &told).unwrap();
    assert_eq!((server.received(), mounted.sent_blobs), (0, 3));
    // From where it is not, it is sent.
    let wrong = Options { mount_from: Some("nothing/here".parse().unwrap()), ..options(None) };
    assert_eq!(push(&bundle, &server.reference("four"), &wrong).unwrap().mounted_blobs, 0);
}

#[test]
fn a_registry_without_the_referrers_api_gets_fallback_tags() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    server.behave(server::Behaviour { no_referrers: true, ..Default::default() });
    let (bundle, report) = chain_in_a_folder(&fixture);
    for _ in 0..2 {
        push(&bundle, &server.reference("vm"), &options(None)).unwrap();
        for pair in report.snapshots.windows(2) {
            let (child, parent) = (&pair[0], &pair[1]);
            let index = server.manifest("vm", &format!("sha256-{}", parent.manifest.unwrap().hex())).unwrap();
            let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
            let entries = index["manifests"].as_array().unwrap();
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0]["digest"], child.manifest.unwrap().to_string());
            assert_eq!(entries[0]["artifactType"], media_type::ARTIFACT);
        }
    }
    let plain = Server::start();
    push(&bundle, &plain.reference("vm"), &options(None)).unwrap();
    assert!(plain.manifest("vm", &format!("sha256-{}", report.snapshots[1].manifest.unwrap().hex())).is_none());
}

#[test]
fn manifests_come_last_and_the_heads_tag_last_of_all() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    let (bundle, _) = chain_in_a_folder(&fixture);
    push(&bundle, &server.reference("vm:newest"), &options(None)).unwrap();
    let puts: Vec<String> = server.log().into_iter().filter(|s| s.method == "PUT").map(|s| s.target).collect();
    let first = puts.iter().position(|target| target.contains("/manifests/")).unwrap();
    assert!(puts[first..].iter().all(|target| target.contains("/manifests/")), "{puts:#?}");
    let tags: Vec<&str> = puts.iter().filter_map(|t| t.strip_prefix("/v2/vm/manifests/")).collect();
    assert_eq!(tags[3..], ["base", "middle", "newest"]);
    assert!(tags[..3].iter().all(|version| version.starts_with("sha256:")));
}

#[test]
fn what_the_store_has_is_not_downloaded() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let server = Server::start();
    let (bundle, _) = chain_in_a_folder(&fixture);
    push(&bundle, &server.reference("vm"), &options(None)).unwrap();
    let target = fixture.path("target");
    import_from(&server.reference("vm:middle"), &options(None), &target).unwrap();
    server.behave(Default::default());
    import_from(&server.reference("vm:head"), &options(None), &target).unwrap();
    let manifest = server.manifest("vm", "middle").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for layer in &manifest["layers"].as_array().unwrap()[..2] {
        let digest = layer["digest"].as_str().unwrap();
        let read = server.log().iter().any(|seen| seen.method == "GET" && seen.target.ends_with(digest));
        assert!(!read, "the parent's layer {digest} was read");
    }
}

//! What is done to a repository itself: listing, choosing the head, deleting; and references by tag and digest.

use std::process::Output;

use serde_json::{Value, json};
use snapcask::model::Generation;

use super::{
    server::{Behaviour, Server},
    *,
};

const SMALL: u64 = 16 << 20;

struct Remote {
    fixture: Fixture,
    server: Server,
    place: String,
}

impl Remote {
    /// A chain of three in a repository, beside an image and a signature of the head.
    fn new(behaviour: Behaviour) -> Self {
        let (fixture, server) = (Fixture::sized(Generation::Flat, SMALL), Server::start());
        server.behave(behaviour);
        let place = server.reference("vm");
        let remote = Self { fixture, server, place };
        let store = remote.fixture.store.to_str().unwrap().to_owned();
        succeeds(&remote.run(&["push", "head", &remote.place, "--with-parents", "--store", &store]));
        let empty = json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": remote.server.put("vm", b"{}"), "size": 2 });
        let image = json!({
            "schemaVersion": 2, "mediaType": snapcask::media_type::MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": empty["digest"], "size": 2 },
            "layers": [],
        });
        remote.server.put_manifest("vm", "image", &image);
        let head = remote.digest("head");
        let signature = json!({
            "schemaVersion": 2, "mediaType": snapcask::media_type::MANIFEST, "artifactType": "application/vnd.x.signature",
            "config": empty, "layers": [empty],
            "subject": { "mediaType": snapcask::media_type::MANIFEST, "digest": head, "size": 1 },
        });
        remote.server.put_manifest("vm", "signed", &signature);
        remote
    }

    fn run(&self, arguments: &[&str]) -> Output {
        command(arguments)
            .env("XDG_CACHE_HOME", self.fixture.path("cache"))
            .env("DOCKER_CONFIG", self.fixture.path("no-docker"))
            .env_remove("REGISTRY_AUTH_FILE")
            .output()
            .unwrap()
    }

    fn digest(&self, tag: &str) -> String {
        self.server.tag("vm", tag).unwrap().to_string()
    }

    fn tagged(&self, tag: &str) -> String {
        format!("{}:{tag}", self.place)
    }
}

#[test]
fn tags_are_sorted_and_long_ones_tell_of_snapshots_alone() {
    let remote = Remote::new(Behaviour::default());
    assert_eq!(succeeds(&remote.run(&["tags", &remote.place])), "base\nhead\nimage\nmiddle\nsigned\n");
    let long: Value =
        serde_json::from_str(&succeeds(&remote.run(&["tags", &remote.place, "--long", "--json"]))).unwrap();
    super::cli::checked("tags-report", &long.to_string());
    assert_eq!(long["tags"], json!(["base", "head", "middle"]));
    let [base, head, middle] = [0, 1, 2].map(|n| long["snapshots"][n].clone());
    assert_eq!(head["manifest"], remote.digest("head"));
    assert_eq!(
        (&base["children"], &middle["children"], &head["children"]),
        (&json!(["middle"]), &json!(["head"]), &json!([]))
    );
    assert_eq!((&head["parentManifest"], &head["parent"]), (&middle["manifest"], &middle["digest"]));
    assert!(base.get("parent").is_none() && base["size"].as_u64().unwrap() > 0);
    let text = succeeds(&remote.run(&["tags", &remote.place, "--long"]));
    assert!(text.starts_with("TAGS    CREATED "), "{text}");
    assert_eq!(text.lines().count(), 4, "{text}");
}

/// The image and the signature are nobody's head.
#[test]
fn repository_without_tag_means_its_only_head() {
    let remote = Remote::new(Behaviour::default());
    let store = remote.fixture.path("target");
    let report = succeeds(&remote.run(&["import", &remote.place, "--store", store.to_str().unwrap(), "--json"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["snapshots"][0]["manifest"], remote.digest("head"));
    succeeds(&remote.run(&["verify", &remote.place]));
}

#[test]
fn push_prints_the_reference_by_digest_that_import_takes() {
    let remote = Remote::new(Behaviour::default());
    let store = remote.fixture.store.to_str().unwrap();
    let pushed = succeeds(&remote.run(&["push", "head", &remote.place, "--with-parents", "--store", store]));
    let reference = pushed.lines().last().unwrap();
    assert_eq!(reference, format!("{}@{}", remote.place, remote.digest("head")));
    succeeds(&remote.run(&["import", reference, "--store", remote.fixture.path("target").to_str().unwrap()]));
}

#[test]
fn tag_with_digest_is_checked() {
    let remote = Remote::new(Behaviour::default());
    let [head, middle] = ["head", "middle"].map(|tag| remote.digest(tag));
    succeeds(&remote.run(&["inspect", &format!("{}@{head}", remote.tagged("head"))]));
    let text = fails(&remote.run(&["inspect", &format!("{}@{middle}", remote.tagged("head"))]), 3);
    let expected = format!("the tag head names {head} now, not {middle}; leave the tag out to read {middle}");
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn delete_keeps_parents_until_their_children_are_gone() {
    for no_referrers in [false, true] {
        let remote = Remote::new(Behaviour { no_referrers, ..Default::default() });
        let text = fails(&remote.run(&["delete", &remote.tagged("base")]), 1);
        let expected = format!(
            "{} is the parent of middle; delete it first, or leave it without the parent with --orphan-children. Space is \
             freed when the registry collects garbage",
            remote.tagged("base")
        );
        assert!(text.contains(&expected), "{text}");
        // Only one of two tags.
        let head = remote.digest("head");
        remote.server.alias("vm", "head", "also");
        let text = succeeds(&remote.run(&["delete", &remote.tagged("also")]));
        assert_eq!(text, format!("deleted the tag of {}; the snapshot stays, as head\n", remote.tagged("also")));
        assert_eq!((remote.server.tag("vm", "also"), remote.digest("head")), (None, head.clone()));

        let report = succeeds(&remote.run(&["delete", &remote.tagged("head"), "--json"]));
        let report = super::cli::checked("delete-report", &report);
        assert_eq!((&report["manifest"], &report["tags"]), (&json!(head), &json!(["head"])));
        assert_eq!((remote.server.tag("vm", "head"), remote.server.manifest("vm", &head)), (None, None));
        // A child without a tag is known to its parent all the same.
        remote.server.untag("vm", "middle");
        let text = fails(&remote.run(&["delete", &remote.tagged("base")]), 1);
        assert!(text.contains("is the parent of sha256:"), "{text}");
        let text = succeeds(&remote.run(&["delete", &remote.tagged("base"), "--orphan-children"]));
        assert!(text.contains("its layers take space until the registry collects garbage"), "{text}");
        let text = fails(&remote.run(&["delete", &remote.tagged("image")]), 2);
        assert!(text.contains("is no snapshot; delete it with the tool that made it"), "{text}");
        fails(&remote.run(&["delete", &remote.tagged("nobody")]), 4);
        fails(&remote.run(&["delete", &remote.place]), 2);
    }
}

#[test]
fn delete_says_that_a_registry_does_not_allow_it() {
    let remote = Remote::new(Behaviour { no_deletes: true, ..Default::default() });
    let text = fails(&remote.run(&["delete", &remote.tagged("head")]), 1);
    assert!(text.contains("answered 405 (UNSUPPORTED: so it is); the registry does not allow deletes"), "{text}");
    assert!(remote.server.tag("vm", "head").is_some());
}

/// An artifact that is no snapshot is passed over by what reads snapshots, and travels with the one that it refers to.
#[test]
fn signature_travels_with_its_snapshot_and_is_no_snapshot() {
    for no_referrers in [false, true] {
        let remote = Remote::new(Behaviour { no_referrers, ..Default::default() });
        let signature = remote.digest("signed");
        if no_referrers {
            // Who signs in a registry without the API keeps the list.
            let entry = json!({
                "mediaType": snapcask::media_type::MANIFEST, "digest": signature,
                "size": remote.server.manifest("vm", "signed").unwrap().len(), "artifactType": "application/vnd.x.signature",
            });
            let index = json!({ "schemaVersion": 2, "mediaType": snapcask::media_type::INDEX, "manifests": [entry] });
            remote.server.put_manifest("vm", &remote.digest("head").replace(':', "-"), &index);
        }
        let (layout, store) = (remote.fixture.path("layout"), remote.fixture.path("target"));
        let [layout, store] = [&layout, &store].map(|path| path.to_str().unwrap());
        succeeds(&remote.run(&["pull", &remote.tagged("head"), "-o", &format!("{layout}/")]));
        assert!(blobs(Path::new(layout)).contains(&signature.replace("sha256:", "")));
        let index = json_file(&Path::new(layout).join("index.json"));
        let listed = index["manifests"].as_array().unwrap().iter().filter(|entry| entry["digest"] == signature);
        assert_eq!(listed.map(|entry| &entry["artifactType"]).collect::<Vec<_>>(), ["application/vnd.x.signature"]);

        succeeds(&remote.run(&["verify", layout, "--deep"]));
        let inspected: Value = serde_json::from_str(&succeeds(&remote.run(&["inspect", layout, "--json"]))).unwrap();
        assert_eq!(inspected["snapshots"].as_array().unwrap().len(), 3);
        succeeds(&remote.run(&["import", layout, "--store", store]));

        let other = Server::start();
        other.behave(Behaviour { no_referrers, ..Default::default() });
        succeeds(&remote.run(&["copy", layout, &other.reference("copy")]));
        assert_eq!(other.manifest("copy", &signature), remote.server.manifest("vm", &signature));
        if no_referrers {
            let list = other.manifest("copy", &remote.digest("head").replace(':', "-")).unwrap();
            assert!(String::from_utf8(list).unwrap().contains("application/vnd.x.signature"));
        }
        // The snapshot's digests are the same, with and without the signature.
        assert_eq!(other.tag("copy", "head").unwrap().to_string(), remote.digest("head"));
    }
}

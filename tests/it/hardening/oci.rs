//! Documents of a layout: digests, sizes and names that lie.

use std::{fs, os::unix::fs::symlink};

use serde_json::{Value, json};
use snapcask::{
    Digest,
    export::{Compression, ExportOptions, Form, export},
    import::{ImportOptions, import},
    media_type,
    model::Generation,
};

use super::{
    craft::{Arena, Craft, DISK, craft_refused, describes, disk, frame, kind, snapshot_descriptor},
    tar,
};
use crate::{
    fixture::{Fixture, GENERATIONS, import_options, write},
    tally,
};

/// Strings that are no digest of ours (row 10).
fn no_digests() -> Vec<String> {
    let good = Digest::of(b"x").hex();
    let mut all: Vec<String> = [
        "",
        ":",
        "sha256",
        "sha256:",
        ":sha256",
        "sha256:.",
        "sha256:..",
        "sha256:/",
        "sha256:-",
        "latest",
        "..",
        "/etc/passwd",
        "sha256:../../../../../../etc/passwd",
        "sha256:..%2f..%2fetc",
        "sha256:/etc/passwd",
        "../sha256:x",
        "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
    ]
    .map(String::from)
    .into();
    all.extend([
        good.clone(),
        format!("sha256:{}", good.to_uppercase()),
        format!("SHA256:{good}"),
        format!("Sha256:{good}"),
        format!("sha256:{}", &good[1..]),
        format!("sha256:{good}0"),
        format!("sha256:{good}{good}"),
        format!("sha256: {}", &good[1..]),
        format!(" sha256:{good}"),
        format!("sha256:{good} "),
        format!("sha256:{good}\n"),
        format!("sha256:{good}\0"),
        format!("sha256:{}\0", &good[1..]),
        format!("sha256:{good}/"),
        format!("sha256:./{}", &good[2..]),
        format!("sha256:../{}", &good[3..]),
        format!("sha256:{}/..", &good[3..]),
        format!("sha256:{}g", &good[1..]),
        format!("sha256:0x{}", &good[2..]),
        format!("sha256:-{}", &good[1..]),
        format!("sha256::{}", &good[1..]),
        format!("sha256:sha256:{good}"),
        format!("sha512:{good}"),
        format!("sha512:{good}{good}"),
        format!("sha384:{good}{}", &good[..32]),
        format!("md5:{}", &good[..32]),
        format!("blake3:{good}"),
        format!("sha256-{good}"),
        format!("sha256/{good}"),
        format!("sha256:{}é", &good[2..]),
        format!("sha256:{}\u{ff11}", &good[3..]),
    ]);
    all
}

/// CVE-2024-37032: a digest used as a path before it is parsed. In every place that a digest has.
#[test]
fn strings_that_are_no_digest() {
    let all = no_digests();
    assert!(all.len() >= 40, "{}", all.len());
    type Place = fn(String) -> Craft;
    let places: [(&str, Place); 6] = [
        ("index", |d| Craft::index(move |v| v["manifests"][0]["digest"] = json!(d))),
        ("config of a manifest", |d| Craft::manifest(move |v| v["config"]["digest"] = json!(d))),
        ("layer of a manifest", |d| Craft::manifest(move |v| v["layers"][0]["digest"] = json!(d))),
        ("subject", |d| {
            Craft::manifest(move |v| {
                v["subject"] = describes(media_type::MANIFEST, b"parent");
                v["subject"]["digest"] = json!(d);
            })
        }),
        ("layer of a config", |d| Craft::config(move |v| v["layers"][0]["digest"] = json!(d))),
        ("snapshot of a config", |d| Craft::config(move |v| v["snapshot"]["digest"] = json!(d))),
    ];
    let arena = Arena::new();
    let bundle = arena.bundle("dir");
    let before = arena.watched();
    for (place, craft) in places {
        for text in &all {
            craft(text.clone()).make().write_dir(&bundle);
            let error = import(&import_options(&bundle, &arena.store)).expect_err(text);
            assert!(matches!(kind(&error), "InvalidDigest" | "InvalidBundle"), "{place}, {text:?}: {error}");
            assert!(!error.to_string().contains("is missing"), "{place}, {text:?} was looked for: {error}");
            assert_eq!(error.exit_code(), 3);
            fs::remove_dir_all(&bundle).unwrap();
            tally::cases(10, format!("{} strings in a bundle's {place}", all.len()), 1);
        }
    }
    assert_eq!(arena.watched(), before);
}

/// A layout that has the file to which a hostile digest would lead.
#[test]
fn a_digest_that_leads_out_of_the_layout() {
    let arena = Arena::new();
    let bundle = arena.bundle("dir");
    let craft = Craft::manifest(|v| v["layers"][0]["digest"] = json!("sha256:../../../../outside/canary/secret"));
    craft.make().write_dir(&bundle);
    assert!(bundle.join("blobs/sha256/../../../../outside/canary/secret").exists());
    arena.refuses(&bundle, "InvalidBundle", "Invalid encoded value");
}

/// CVE-2025-62725: an annotation used as a file name. Annotations decide nothing.
#[test]
fn annotations_that_are_paths() {
    for evil in ["../../../outside/canary/new", "/tmp/snapcask-evil", "a\0b", ""] {
        let (title, reference) = (evil.to_owned(), evil.to_owned());
        let craft = Craft {
            index: Box::new(move |v| v["manifests"][0]["annotations"][media_type::REF_NAME] = json!(reference)),
            manifest: Box::new(move |v| {
                let notes = json!({ media_type::TITLE: title, "io.deis.oras.content.unpack": "true" });
                v["layers"][0]["annotations"] = notes.clone();
                v["config"]["annotations"] = notes.clone();
                v["annotations"] = notes;
            }),
            ..Craft::default()
        };
        let arena = Arena::new();
        let bundle = arena.bundle("b.tar");
        write(bundle.clone(), &craft.make().tar());
        assert!(arena.accepts(&bundle).join(DISK).is_file());
    }
}

#[test]
fn names_that_are_paths() {
    for evil in ["../evil", "/evil", "..", ".", "", ".evil", "a/b", "a\\b", "a\0b", "-rf", "é", &"x".repeat(129)] {
        let evil = evil.to_owned();
        craft_refused(
            &Craft::config(move |v| v["snapshot"]["name"] = json!(evil)),
            "InvalidBundle",
            "invalid snapshot name",
        );
    }
}

/// An id is a folder's name below the group's.
#[test]
fn ids_that_are_paths() {
    for evil in
        ["../../../outside/canary", "/tmp", "snap_", "snap_../../x", "snap_ABCDEF00000000000000000000000000", ""]
    {
        let evil = evil.to_owned();
        craft_refused(&Craft::config(move |v| v["snapshot"]["id"] = json!(evil)), "InvalidBundle", "snapshot_id");
    }
}

/// CVE-2021-41190: a document that is manifest and index at once.
#[test]
fn manifest_and_index_at_once() {
    let both = Craft::manifest(|v| v["manifests"] = json!([]));
    craft_refused(&both, "InvalidBundle", "it has both the members of a manifest and `manifests` of an index");
    let both = Craft::index(|v| v["layers"] = json!([]));
    craft_refused(&both, "InvalidBundle", "it has both `manifests` and `layers` of a manifest");
    let typed = Craft::manifest(|v| v["mediaType"] = json!(media_type::INDEX));
    craft_refused(&typed, "InvalidBundle", "mediaType is");
}

#[test]
fn an_index_in_an_index() {
    let inner = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [] }).to_string().into_bytes();
    let entry = describes(media_type::INDEX, &inner);
    let craft = Craft { more: vec![inner], ..Craft::index(move |v| v["manifests"] = json!([entry])) };
    craft_refused(&craft, "InvalidBundle", "it lists no snapshot");
}

/// A descriptor's size is a promise: nothing is allocated for it.
#[test]
fn sizes_that_would_allocate() {
    let huge = 1_u64 << 60;
    craft_refused(
        &Craft::manifest(move |v| v["layers"][0]["size"] = json!(huge)),
        "CorruptBlob",
        "its descriptor says",
    );
    // The size of a document is looked at before its bytes.
    craft_refused(&Craft::manifest(move |v| v["config"]["size"] = json!(huge)), "CorruptBlob", "its descriptor says");
    craft_refused(
        &Craft::index(move |v| v["manifests"][0]["size"] = json!(huge)),
        "CorruptBlob",
        "its descriptor says",
    );
    for bad in [json!(-1), json!(u64::MAX), json!(1.5), json!("7"), Value::Null] {
        let craft = Craft::index(move |v| v["manifests"][0]["size"] = bad.clone());
        craft_refused(&craft, "InvalidBundle", "index.json");
    }
}

#[test]
fn size_mismatch() {
    for by in [-1_i64, 1] {
        let change = move |v: &mut Value| v["layers"][0]["size"] = json!(v["layers"][0]["size"].as_i64().unwrap() + by);
        craft_refused(&Craft::manifest(change), "CorruptBlob", "its descriptor says");
    }
}

/// The table is right about its bytes, and they are no descriptor.
#[test]
fn a_descriptor_that_does_not_parse() {
    for bytes in [&br#"{"schema":1}"#[..], b"x", b"", br#"{"schema":1,"schema":1}"#] {
        let mut craft = Craft::default();
        let (name, _) = snapshot_descriptor();
        craft.files.iter_mut().find(|file| file.0 == name).unwrap().1 = bytes.to_vec();
        let arena = Arena::new();
        write(arena.bundle("b.tar"), &craft.make().tar());
        let want = "invalid bundle: snapshot.json of snapshot victim: ";
        let error = arena.refuses(&arena.bundle("b.tar"), "InvalidBundle", want);
        assert_eq!(error.exit_code(), 3);
        assert!(!error.to_string().contains("stage"), "{error}");
    }
}

#[test]
fn trailing_bytes_of_a_document() {
    let made = Craft::default().make();
    for more in [&b" {}"[..], b"x", b"\0"] {
        let arena = Arena::new();
        let bundle = arena.bundle("dir");
        made.write_dir(&bundle);
        write(bundle.join("index.json"), &[made.index.as_slice(), more].concat());
        arena.refuses(&bundle, "InvalidBundle", "trailing characters");
    }
}

#[test]
fn trailing_bytes_of_a_layer() {
    let tar = [Craft::default().entries().concat(), tar::END.to_vec()].concat();
    let layer = [frame(&tar), b"junk".to_vec()].concat();
    craft_refused(&Craft { layer: Some(layer), ..Craft::default() }, "CorruptBlob", "no frame begins here");
    let layer = [frame(&tar), frame(b"junk")].concat();
    craft_refused(&Craft { layer: Some(layer), ..Craft::default() }, "InvalidBundle", "data after the end marker");
}

#[test]
fn keys_that_stand_twice() {
    let made = Craft::default().make();
    let arena = Arena::new();
    let bundle = arena.bundle("dir");
    made.write_dir(&bundle);
    let text = String::from_utf8(made.index).unwrap().replacen(
        "\"schemaVersion\":2",
        "\"schemaVersion\":2,\"manifests\":[]",
        1,
    );
    write(bundle.join("index.json"), text.as_bytes());
    arena.refuses(&bundle, "InvalidBundle", "duplicate key");
}

#[test]
fn documents_nested_too_deep() {
    let arena = Arena::new();
    let bundle = arena.bundle("dir");
    Craft::default().make().write_dir(&bundle);
    write(bundle.join("index.json"), format!("{}{}", "[".repeat(200), "]".repeat(200)).as_bytes());
    arena.refuses(&bundle, "InvalidBundle", "recursion limit");
}

#[test]
fn huge_annotations() {
    let big = "x".repeat(5 << 20);
    let text = big.clone();
    let craft = Craft::manifest(move |v| v["annotations"] = json!({ "a": text }));
    craft_refused(&craft, "Limit", "over the limit of 4194304");
    let craft = Craft::index(move |v| v["manifests"][0]["annotations"]["a"] = json!(big));
    craft_refused(&craft, "Limit", "over the limit of 4194304");
}

/// `urls` is never followed: a listener sees nobody, and a blob that is elsewhere is missing.
#[test]
fn urls_are_never_followed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/blob", listener.local_addr().unwrap());
    let craft = Craft::manifest(move |v| {
        v["layers"][0]["urls"] = json!([url]);
        v["config"]["urls"] = json!([url]);
    });
    let mut made = craft.make();
    let arena = Arena::new();
    write(arena.bundle("good.tar"), &made.tar());
    arena.accepts(&arena.bundle("good.tar"));
    let arena = Arena::new();
    made.blobs.remove(&Digest::of(&made.layer).hex());
    write(arena.bundle("b.tar"), &made.tar());
    arena.refuses(&arena.bundle("b.tar"), "MissingBlob", "is missing");
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// `data` is ignored: the blob is what its digest says.
#[test]
fn data_is_ignored() {
    let craft = Craft::manifest(|v| {
        v["layers"][0]["data"] = json!("ZXZpbA==");
        v["config"]["data"] = json!("e30=");
    });
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &craft.make().tar());
    assert_eq!(fs::read(arena.accepts(&bundle).join(DISK)).unwrap(), disk());
}

#[test]
fn missing_blobs() {
    let made = Craft::default().make();
    for blob in [&made.layer, &made.config, &made.manifest] {
        let mut less = Craft::default().make();
        less.blobs.remove(&Digest::of(blob).hex()).unwrap();
        let arena = Arena::new();
        write(arena.bundle("b.tar"), &less.tar());
        arena.refuses(&arena.bundle("b.tar"), "MissingBlob", &Digest::of(blob).to_string());
    }
}

#[test]
fn a_blob_whose_name_lies() {
    let made = Craft::default().make();
    for blob in [&made.layer, &made.config, &made.manifest] {
        let mut other = Craft::default().make();
        let bytes = other.blobs.get_mut(&Digest::of(blob).hex()).unwrap();
        bytes[0] ^= 1;
        let arena = Arena::new();
        write(arena.bundle("b.tar"), &other.tar());
        arena.refuses(&arena.bundle("b.tar"), "CorruptBlob", "its bytes have the digest");
    }
}

#[test]
fn media_types_that_lie() {
    let as_delta = Craft::manifest(|v| v["layers"][0]["mediaType"] = json!(media_type::DELTA_ZSTD));
    craft_refused(&as_delta, "InvalidBundle", "does not fit a base or cache layer");
    let as_plain = Craft::manifest(|v| v["layers"][0]["mediaType"] = json!(media_type::LAYER_TAR));
    craft_refused(&as_plain, "InvalidBundle", "layer sha256:");
    let gzip = Craft::manifest(|v| v["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip"));
    craft_refused(&gzip, "InvalidBundle", "does not fit");
    let config = Craft::manifest(|v| v["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json"));
    craft_refused(&config, "InvalidBundle", "it is no snapshot");
}

#[test]
fn layers_that_config_and_manifest_tell_differently() {
    let more = Craft::manifest(|v| {
        let layer = v["layers"][0].clone();
        v["layers"].as_array_mut().unwrap().push(layer);
    });
    craft_refused(&more, "InvalidBundle", "it has 2 layers, its config 1");
    let other = Craft::config(|v| v["layers"][0]["digest"] = json!(Digest::of(b"other").to_string()));
    craft_refused(&other, "InvalidBundle", "in its config");
}

#[test]
fn a_config_that_describes_another_snapshot() {
    let other = Digest::of(b"other").to_string();
    let craft = Craft::config(move |v| {
        v["snapshot"]["digest"] = json!(other);
        v["layers"][0]["snapshot"] = json!(other);
    });
    craft_refused(&craft, "InvalidBundle", "but the snapshot's descriptor is");
    let craft = Craft::config(|v| v["snapshot"]["generation"] = json!("v066"));
    craft_refused(&craft, "InvalidBundle", "");
    let craft = Craft::config(|v| v["snapshot"]["parent"] = json!(Digest::of(b"p").to_string()));
    craft_refused(&craft, "InvalidBundle", "");
}

/// A bundle whose subjects go round is impossible by hash; one that claims to does not verify.
#[test]
fn cycles_of_subjects() {
    let lie = describes(media_type::MANIFEST, b"me");
    let mut made = Craft::manifest(move |v| v["subject"] = lie.clone()).make();
    // The blob under the subject's name is the manifest itself.
    made.blobs.insert(Digest::of(b"me").hex(), made.manifest.clone());
    let arena = Arena::new();
    write(arena.bundle("b.tar"), &made.tar());
    arena.refuses(&arena.bundle("b.tar"), "CorruptBlob", "");
}

/// Many manifests around one config: each is small, the config is not. A snapshot stands in a chain once.
#[test]
fn amplification_by_subjects() {
    let digest = Digest::of(&snapshot_descriptor().1).to_string();
    let own = digest.clone();
    let craft = Craft::config(move |v| v["snapshot"]["parent"] = json!(own));
    let mut made = craft.make();
    let mut below = made.manifest.clone();
    for _ in 0..3000 {
        let mut manifest: Value = serde_json::from_slice(&made.manifest).unwrap();
        manifest["subject"] = describes(media_type::MANIFEST, &below);
        below = manifest.to_string().into_bytes();
        made.blobs.insert(Digest::of(&below).hex(), below.clone());
    }
    made.index =
        json!({ "schemaVersion": 2, "manifests": [describes(media_type::MANIFEST, &below)] }).to_string().into();
    let arena = Arena::new();
    write(arena.bundle("b.tar"), &made.tar());
    arena.refuses(&arena.bundle("b.tar"), "InvalidBundle", &format!("the snapshot {digest} is in the chain twice"));
}

/// An index that lists one large manifest many times: it is read once.
#[test]
fn amplification_by_an_index() {
    let filler = "x".repeat(3 << 20);
    let craft = Craft::manifest(move |v| v["annotations"] = json!({ "a": filler }));
    let made = craft.make();
    let other = Craft::manifest(|v| v["annotations"] = json!({ "b": "" })).make();
    let mut entries = vec![describes(media_type::MANIFEST, &made.manifest); 20_000];
    entries.push(describes(media_type::MANIFEST, &other.manifest));
    let mut both = craft.make();
    both.blobs.extend(other.blobs);
    both.index = json!({ "schemaVersion": 2, "manifests": entries }).to_string().into_bytes();
    let arena = Arena::new();
    write(arena.bundle("b.tar"), &both.tar());
    let started = std::time::Instant::now();
    arena.refuses(&arena.bundle("b.tar"), "Ambiguous", "");
    // Each entry by itself would be 60 GB to read.
    assert!(started.elapsed().as_secs() < 60, "it took {:?}", started.elapsed());
}

/// A delta whose base is not the one that it was made over.
#[test]
fn a_delta_over_another_base() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, 16 << 20);
        let bundle = fixture.path("bundle");
        export(&ExportOptions {
            with_parents: true,
            compression: Compression::None,
            ..fixture.export_options(Form::Dir, &bundle)
        })
        .unwrap();
        let read = |digest: &Value| -> Value {
            let hex = &digest.as_str().unwrap()[7..];
            serde_json::from_slice(&fs::read(bundle.join("blobs/sha256").join(hex)).unwrap()).unwrap()
        };
        let put = |bytes: &[u8]| write(bundle.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes);
        let index = crate::fixture::json_file(&bundle.join("index.json"));
        // The head's stack, its middle layer left out: every blob verifies, the head's own layer has another base.
        let mut manifest = read(&index["manifests"][0]["digest"]);
        let mut config = read(&manifest["config"]["digest"]);
        manifest["layers"].as_array_mut().unwrap().remove(1);
        config["layers"].as_array_mut().unwrap().remove(1);
        let config = config.to_string().into_bytes();
        put(&config);
        manifest["config"] = describes(media_type::CONFIG, &config);
        manifest.as_object_mut().unwrap().remove("subject");
        let manifest = manifest.to_string().into_bytes();
        put(&manifest);
        let mut entry = describes(media_type::MANIFEST, &manifest);
        entry["annotations"] = json!({ media_type::REF_NAME: "head" });
        write(bundle.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().as_bytes());
        let arena = Arena::new();
        // The disks of `final` snapshots have names of their own, so the base is not even there.
        match generation {
            Generation::Final => arena.refuses(&bundle, "InvalidBundle", "is not beneath it"),
            _ => arena.refuses(&bundle, "RootMismatch", "is not what the file table says"),
        };
    }
}

/// The subject is another snapshot than the parent that the config names.
#[test]
fn a_subject_that_is_not_the_parent() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let bundle = fixture.path("bundle");
    fixture.export_chain(Form::Dir, &bundle);
    let index = crate::fixture::json_file(&bundle.join("index.json"));
    let hex = |v: &Value| v.as_str().unwrap()[7..].to_owned();
    let path = |v: &Value| bundle.join("blobs/sha256").join(hex(v));
    let mut manifest = crate::fixture::json_file(&path(&index["manifests"][0]["digest"]));
    // The grandparent instead.
    let base = fs::read(path(&index["manifests"][2]["digest"])).unwrap();
    manifest["subject"] = describes(media_type::MANIFEST, &base);
    let manifest = manifest.to_string().into_bytes();
    write(bundle.join("blobs/sha256").join(Digest::of(&manifest).hex()), &manifest);
    let entries = json!([describes(media_type::MANIFEST, &manifest)]);
    write(bundle.join("index.json"), json!({ "schemaVersion": 2, "manifests": entries }).to_string().as_bytes());
    let arena = Arena::new();
    arena.refuses(&bundle, "InvalidBundle", "is not the parent that its config names");
    // The head alone needs no subject.
    import(&ImportOptions { head_only: true, ..import_options(&bundle, &arena.store) }).unwrap();
}

#[test]
fn symlinks_in_a_layout_directory() {
    let made = Craft::default().make();
    let hex = Digest::of(&made.layer).hex();
    for link in ["oci-layout", "index.json", "blobs", "blobs/sha256", &format!("blobs/sha256/{hex}")] {
        let arena = Arena::new();
        let bundle = arena.bundle("dir");
        made.write_dir(&bundle);
        let elsewhere = arena.bundle("elsewhere");
        fs::rename(bundle.join(link), &elsewhere).unwrap();
        symlink(&elsewhere, bundle.join(link)).unwrap();
        arena.refuses(&bundle, "InvalidBundle", "symbolic link");
    }
}

#[test]
fn other_things_in_a_layout_directory() {
    let made = Craft::default().make();
    let hex = Digest::of(&made.layer).hex();
    for name in ["index.json", &format!("blobs/sha256/{hex}")] {
        for fifo in [false, true] {
            let arena = Arena::new();
            let bundle = arena.bundle("dir");
            made.write_dir(&bundle);
            fs::remove_file(bundle.join(name)).unwrap();
            if fifo {
                rustix::fs::mkfifoat(rustix::fs::CWD, bundle.join(name), rustix::fs::Mode::from_raw_mode(0o644))
                    .unwrap();
            } else {
                fs::create_dir(bundle.join(name)).unwrap();
            }
            arena.refuses(&bundle, "InvalidBundle", "not a regular file");
        }
    }
}

#[test]
fn versions_that_we_do_not_know() {
    craft_refused(&Craft::config(|v| v["schemaVersion"] = json!(2)), "InvalidBundle", "a newer snapcask may read it");
    craft_refused(&Craft::manifest(|v| v["schemaVersion"] = json!(1)), "InvalidBundle", "schemaVersion is 1, not 2");
    craft_refused(&Craft::index(|v| v["schemaVersion"] = json!(1)), "InvalidBundle", "schemaVersion is 1, not 2");
    craft_refused(&Craft::config(|v| v["more"] = json!(1)), "InvalidBundle", "unknown field");
}

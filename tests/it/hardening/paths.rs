//! Paths of a file table, and what stands in a destination before an import.

use std::{fs, os::unix::fs::symlink};

use serde_json::{Value, json};
use snapcask::{
    export::Form,
    import::{ImportOptions, import},
    model::Generation,
};

use super::craft::{Arena, Craft, DISK, NAME, SIZE, craft_refused, disk, snapshot_descriptor};
use crate::fixture::{
    Fixture, GROUP, IMAGE_CONFIG, IMAGE_MANIFEST, IMAGE_REFERENCE, files_in, import_ok, import_options, write,
};

/// A bundle whose table and layer hold these files too.
fn with(paths: &[&str]) -> Craft {
    let mut craft = Craft::default();
    craft.files.extend(paths.iter().map(|path| ((*path).to_owned(), b"x".to_vec())));
    craft.files.sort();
    craft
}

#[test]
fn a_good_table_is_accepted() {
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &with(&["a/b/c", "a/d", "e\u{301}"]).make().tar());
    let placed = arena.accepts(&bundle);
    assert_eq!(fs::read(placed.join("a/b/c")).unwrap(), b"x");
}

#[test]
fn paths_that_leave_the_directory() {
    let long = "x".repeat(256);
    let deep = format!("{}x", "a/".repeat(512));
    for (path, reason) in [
        ("/etc/passwd", "it is absolute"),
        ("..", ". or .. component"),
        ("../victim/x", ". or .. component"),
        ("a/../../x", ". or .. component"),
        ("./x", ". or .. component"),
        ("a/./x", ". or .. component"),
        ("a//x", "an empty component"),
        ("x/", "an empty component"),
        ("", "it is empty"),
        ("a\\x", "a backslash"),
        ("C:x", "a colon"),
        ("a\u{0}b", "control character"),
        ("a\nb", "control character"),
        ("a\u{9b}b", "control character"),
        (&long, "longer than 255 bytes"),
        (&deep, "longer than 1024 bytes"),
    ] {
        // In the table, in the layer's list, as a base, as the descriptor, as the disk.
        for place in ["/files/0/path", "/layers/0/files/0/path", "/snapshot/descriptor", "/snapshot/disk"] {
            let path = path.to_owned();
            let craft = Craft::config(move |v| *v.pointer_mut(place).unwrap() = json!(path));
            craft_refused(&craft, "InvalidBundle", reason);
        }
    }
}

#[test]
fn names_that_differ_only_in_case() {
    craft_refused(&with(&["Readme", "README"]), "InvalidBundle", "differs from another file only in case");
    craft_refused(&with(&["a/x", "A/x"]), "InvalidBundle", "differs from another file only in case");
    craft_refused(&with(&["a/x", "A/y"]), "InvalidBundle", "only in case");
}

#[test]
fn names_that_differ_only_in_unicode_form() {
    craft_refused(&with(&["\u{e9}", "e\u{301}"]), "InvalidBundle", "Unicode form");
    craft_refused(&with(&["\u{212b}", "\u{c5}"]), "InvalidBundle", "Unicode form");
    craft_refused(&with(&["\u{e9}/x", "e\u{301}/y"]), "InvalidBundle", "Unicode form");
}

#[test]
fn a_file_that_is_a_folder_too() {
    craft_refused(&with(&["a", "a/b"]), "InvalidBundle", "a is both a file and a folder");
    craft_refused(&with(&["A", "a/b"]), "InvalidBundle", "both a file and a folder");
}

/// Layers are unpacked each into a folder of its own, where only its own names meet.
#[test]
fn names_of_a_layer_that_cannot_stand_beside_each_other() {
    for (paths, text) in [
        (&["a", "a/b"][..], "a is both a file and a folder"),
        (&["A", "a"], "differs from another file only in case"),
        (&["b/A/x", "b/a/y"], "only in case or Unicode form"),
    ] {
        let craft = Craft::config(move |v| {
            let files = v["layers"][0]["files"].as_array_mut().unwrap();
            files.extend(paths.iter().map(|path| json!({ "path": path })));
            files.sort_by_key(|file| file["path"].as_str().unwrap().to_owned());
        });
        craft_refused(&craft, "InvalidBundle", text);
    }
}

#[test]
fn folders_that_are_too_deep() {
    let deep = "a/".repeat(32);
    let arena = Arena::new();
    write(arena.bundle("b.tar"), &with(&[&format!("{deep}x")]).make().tar());
    arena.accepts(&arena.bundle("b.tar"));
    craft_refused(&with(&[&format!("{deep}a/x")]), "InvalidBundle", "is 33 folders deep, over the limit of 32");
    let craft = Craft::config(move |v| v["layers"][0]["files"][0]["path"] = json!(format!("{deep}a/x")));
    craft_refused(&craft, "InvalidBundle", "is 33 folders deep, over the limit of 32");
}

#[test]
fn a_table_with_one_path_twice_or_unsorted() {
    let twice = Craft::config(|v| {
        let row = v["files"][1].clone();
        v["files"].as_array_mut().unwrap().push(row);
    });
    craft_refused(&twice, "InvalidBundle", "files are not sorted");
    let unsorted = Craft::config(|v| v["files"].as_array_mut().unwrap().reverse());
    craft_refused(&unsorted, "InvalidBundle", "files are not sorted");
}

/// CVE-2022-36113: names that the tool itself uses.
#[test]
fn names_that_are_reserved() {
    for name in [
        ".snapcask.json",
        ".lock",
        ".layer0/x",
        ".snapcask-stage-x/.lock",
        "a/.hidden",
        "group.json",
        "group-member.json",
        "x/group-member.json",
        "a.lock",
        "a.lock/x",
    ] {
        craft_refused(&with(&[name]), "InvalidBundle", "a name of local bookkeeping");
    }
}

/// CVE-2022-36113: links where an import keeps its own marks. The stage is new and its folder is ours alone.
#[test]
fn links_where_the_tool_keeps_its_marks() {
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &Craft::default().make().tar());
    let snapshots = arena.store.join("snapshots");
    let canary = arena.canary();
    symlink(canary.join("secret"), snapshots.join(".snapcask.json")).unwrap();
    // What looks like a dead stage is a link to what is not ours.
    symlink(&canary, snapshots.join(".snapcask-stage-evil")).unwrap();
    fs::create_dir(snapshots.join(".snapcask-stage-lock")).unwrap();
    symlink(canary.join("secret"), snapshots.join(".snapcask-stage-lock/.lock")).unwrap();
    import(&import_options(&bundle, &arena.store)).unwrap();
    assert_eq!(fs::read(canary.join("secret")).unwrap(), b"sings");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 2);
    assert_eq!(fs::read(snapshots.join(NAME).join(DISK)).unwrap(), disk());
}

/// CVE-2026-46703: a link at the very place.
#[test]
fn a_link_at_the_destination() {
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &Craft::default().make().tar());
    symlink(arena.canary(), arena.store.join("snapshots").join(NAME)).unwrap();
    arena.refuses(&bundle, "Different", "no readable snapshot");
    // By force the link is replaced, not what it leads to.
    let before = fs::read_dir(arena.canary()).unwrap().count();
    import(&ImportOptions { force: true, ..import_options(&bundle, &arena.store) }).unwrap();
    assert!(fs::symlink_metadata(arena.store.join("snapshots").join(NAME)).unwrap().is_dir());
    assert_eq!(fs::read_dir(arena.canary()).unwrap().count(), before);
    // A link that leads nowhere.
    let arena = Arena::new();
    symlink("nowhere", arena.store.join("snapshots").join(NAME)).unwrap();
    write(arena.bundle("b.tar"), &Craft::default().make().tar());
    arena.refuses(&arena.bundle("b.tar"), "Different", "no readable snapshot");
}

/// A snapshot in the store with a link in it is not the same snapshot.
#[test]
fn a_link_inside_a_snapshot_that_is_there() {
    for name in [DISK.to_owned(), snapshot_descriptor().0] {
        let arena = Arena::new();
        let bundle = arena.bundle("b.tar");
        write(bundle.clone(), &Craft::default().make().tar());
        let placed = arena.accepts(&bundle);
        let elsewhere = arena.temp.path().join("outside").join(&name);
        fs::rename(placed.join(&name), &elsewhere).unwrap();
        symlink(&elsewhere, placed.join(&name)).unwrap();
        arena.refuses(&bundle, "Different", "");
    }
    // A folder of it is a link.
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &with(&["a/b"]).make().tar());
    let placed = arena.accepts(&bundle);
    fs::rename(placed.join("a"), arena.temp.path().join("outside/a")).unwrap();
    symlink(arena.temp.path().join("outside/a"), placed.join("a")).unwrap();
    arena.refuses(&bundle, "Different", "symbolic link");
}

/// CVE-2026-46703: links on the way to the place: a group's folder, the image cache's folders.
#[test]
fn links_on_the_way_to_the_destination() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    let bundle = fixture.path("bundle.tar");
    fixture.export_chain(Form::Tar, &bundle);
    for (place, cache) in
        [(format!("snapshots/{GROUP}"), false), ("cache/layers".into(), true), ("cache/vmdk".into(), true)]
    {
        let arena = Arena::new();
        if cache {
            fs::remove_dir_all(arena.store.join("cache")).unwrap();
            fs::create_dir(arena.store.join("cache")).unwrap();
        }
        symlink(arena.canary(), arena.store.join(&place)).unwrap();
        let options = ImportOptions { group: Some(GROUP.into()), ..import_options(&bundle, &arena.store) };
        arena.refuses_with(&options, "UnsafePath", "symbolic link");
    }
}

/// The store itself, and its two folders, may be links: their owner put them there.
#[test]
fn the_store_may_be_reached_through_a_link() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let bundle = fixture.path("bundle.tar");
    fixture.export_chain(Form::Tar, &bundle);
    let real = fixture.path("real");
    fs::create_dir_all(real.join("disk/snapshots")).unwrap();
    fs::create_dir_all(real.join("store")).unwrap();
    symlink(real.join("disk/snapshots"), real.join("store/snapshots")).unwrap();
    symlink(real.join("store"), fixture.path("link")).unwrap();
    import_ok(&bundle, &fixture.path("link"));
    assert!(real.join("disk/snapshots/head").is_dir());
}

/// Image-cache files are four kinds of names and nothing else.
#[test]
fn image_cache_paths() {
    let hex = "0".repeat(64);
    for (path, text) in [
        ("../snapshots/x", ". or .. component"),
        ("layers/../../x", ". or .. component"),
        ("tmp/x", "is no image-cache file"),
        ("layers", "is no image-cache file"),
        ("layers/a/b", "is no image-cache file"),
        ("layers/evil.so", "is no image-cache file"),
        ("manifests/.hidden.json", "is no image-cache file"),
        ("layers/x.lock", "is no image-cache file"),
        (&format!("vmdk/sha256_{hex}.erofs"), "is no image-cache file"),
    ] {
        let arena = Arena::new();
        let craft = with_cache(vec![(path.to_owned(), b"x".to_vec())]);
        write(arena.bundle("b.tar"), &craft.make().tar());
        arena.refuses(&arena.bundle("b.tar"), "InvalidBundle", text);
    }
}

/// A snapshot with these image-cache files.
fn with_cache(files: Vec<(String, Vec<u8>)>) -> Craft {
    let made: Vec<_> = files
        .into_iter()
        .map(|(path, bytes)| {
            let layer = super::craft::frame(&[super::tar::file(&path, &bytes), super::tar::END.to_vec()].concat());
            let mut row = super::craft::row("x", &bytes);
            row["path"] = json!(path);
            (row, layer)
        })
        .collect();
    let more: Vec<Vec<u8>> = made.iter().map(|(_, layer)| layer.clone()).collect();
    let blobs = more.clone();
    Craft {
        config: Box::new(move |v: &mut Value| {
            for (row, layer) in &made {
                let record = json!({ "kind": "cache", "digest": snapcask::Digest::of(layer), "file": row });
                v["layers"].as_array_mut().unwrap().push(record);
            }
        }),
        manifest: Box::new(move |v| {
            for layer in &blobs {
                let layer = super::craft::describes(snapcask::media_type::LAYER_ZSTD, layer);
                v["layers"].as_array_mut().unwrap().push(layer);
            }
        }),
        more,
        ..Craft::default()
    }
}

/// The image cache belongs to all images: a bundle brings the files of its own snapshot's image and no others.
#[test]
fn cache_files_of_another_image() {
    let hex = |text: &str| snapcask::Digest::of(text.as_bytes()).hex();
    let metadata = |manifest: &str, diff: &str| {
        json!({
            "manifest_digest": snapcask::Digest::of(manifest.as_bytes()),
            "config_digest": snapcask::Digest::of(IMAGE_CONFIG.as_bytes()),
            "raw_manifest_json": manifest,
            "raw_config_json": IMAGE_CONFIG,
            "layers": [{ "diff_id": snapcask::Digest::of(diff.as_bytes()) }],
        })
        .to_string()
        .into_bytes()
    };
    let own = |reference: &str| format!("manifests/{}.json", hex(reference));
    let layer = |diff: &str| format!("layers/sha256_{}.erofs", hex(diff));
    let (good, erofs) = (metadata(IMAGE_MANIFEST, "1"), b"erofs".to_vec());
    let other_documents = String::from_utf8(good.clone()).unwrap().replace("schemaVersion", "schema").into_bytes();
    // msb takes its defaults from what stands beside the documents.
    let evil =
        String::from_utf8(good.clone()).unwrap().replacen('{', r#"{"config":{"cmd":["/bin/evil"]},"#, 1).into_bytes();
    let twice = String::from_utf8(good.clone()).unwrap().replacen('{', r#"{"layers":[],"#, 1).into_bytes();
    for (files, text) in [
        (vec![(layer("1"), erofs.clone())], "is no file of this image"),
        (vec![(own(IMAGE_REFERENCE), good.clone()), (layer("2"), erofs.clone())], "is no file of this image"),
        (vec![(format!("fsmeta/sha256_{}.erofs", hex("other")), erofs.clone())], "is no file of this image"),
        (vec![(format!("vmdk/sha256_{}.vmdk", hex("other")), erofs.clone())], "is no file of this image"),
        (vec![(own(IMAGE_REFERENCE), metadata("{}", "1"))], "is of the manifest"),
        (vec![(own(IMAGE_REFERENCE), other_documents)], "raw_manifest_json has the digest"),
        (vec![(own(IMAGE_REFERENCE), b"{}".to_vec())], "missing field"),
        (vec![(own(IMAGE_REFERENCE), evil)], "its cmd is not that of the image's config"),
        (vec![(own(IMAGE_REFERENCE), twice)], "duplicate key"),
        (vec![(own("a"), good.clone()), (own("b"), metadata(IMAGE_MANIFEST, "2"))], "says something else than"),
    ] {
        let arena = Arena::new();
        write(arena.bundle("b.tar"), &with_cache(files).make().tar());
        arena.refuses(&arena.bundle("b.tar"), "InvalidBundle", text);
        let bundle = snapcask::import::BundleLocation::path(arena.bundle("b.tar"));
        let silent = std::sync::Arc::new(snapcask::progress::Silent);
        let report = snapcask::check_bundle::verify_bundle(&bundle, true, 1, silent).unwrap();
        assert!(report.findings.iter().any(|finding| finding.message.contains(text)), "{text}: {:?}", report.findings);
    }
    // The VMDK names the image's layers, all of them and no others: nobody else says what it may name.
    let vmdk = |layers: &[&str]| {
        let line = |path: String| format!("RW 1 FLAT \"{path}\" 0\n");
        let fsmeta = line(format!("fsmeta/sha256_{}.erofs", hex(IMAGE_MANIFEST)));
        let lines: String = layers.iter().map(|diff| line(layer(diff))).chain([fsmeta]).collect();
        format!("# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\n{lines}").into_bytes()
    };
    let vmdk_path = format!("vmdk/sha256_{}.vmdk", hex(IMAGE_MANIFEST));
    let all = |metadata: bool, named: &[&str], layers: &[&str]| {
        let mut files = vec![(vmdk_path.clone(), vmdk(named))];
        files.extend(metadata.then(|| (own(IMAGE_REFERENCE), good.clone())));
        files.extend(layers.iter().map(|diff| (layer(diff), erofs.clone())));
        files.sort();
        with_cache(files).make().tar()
    };
    let both = &["1", "2"][..];
    for (with_metadata, named, layers, text) in [
        (true, both, both, "is no file of this image"),
        (true, both, &["1"], "is no file of this image"),
        (true, &[], &[], "it lacks the image's layer"),
        // What did not come may be there, as a file of another image: neither metadata nor VMDK lays claim to it.
        (true, &["1"], &[], "which did not come with the image"),
        (false, both, &["1"], "which did not come with the image"),
        (false, &["1"], &[], "which did not come with the image"),
        (false, &["1"], both, "is no file of this image"),
    ] {
        let arena = Arena::new();
        for diff in both {
            write(arena.store.join("cache").join(layer(diff)), b"another image's");
        }
        write(arena.bundle("b.tar"), &all(with_metadata, named, layers));
        for force in [false, true] {
            let options = import_options(&arena.bundle("b.tar"), &arena.store);
            arena.refuses_with(&snapcask::import::ImportOptions { force, ..options }, "InvalidBundle", text);
        }
    }
    // Another image's fsmeta is no file of this one either.
    let arena = Arena::new();
    let foreign = format!("fsmeta/sha256_{}.erofs", hex("another image"));
    write(arena.store.join("cache").join(&foreign), b"another image's");
    let text = format!("version=1\nRW 8 FLAT \"{foreign}\" 0\n");
    write(arena.bundle("b.tar"), &with_cache(vec![(vmdk_path.clone(), text.into_bytes())]).make().tar());
    arena.refuses(&arena.bundle("b.tar"), "InvalidBundle", "which did not come with the image");
    // Without the metadata its word is taken, but not over what is there already: that may be another image's.
    let arena = Arena::new();
    write(arena.bundle("b.tar"), &all(false, both, both));
    let (one, two) = (arena.store.join("cache").join(layer("1")), arena.store.join("cache").join(layer("2")));
    write(two.clone(), b"another image's");
    for force in [false, true] {
        let options = snapcask::import::ImportOptions { force, ..import_options(&arena.bundle("b.tar"), &arena.store) };
        arena.refuses_with(&options, "OfNoImage", "nothing there proves that it is its image's");
    }
    fs::remove_file(&two).unwrap();
    snapcask::import::import(&import_options(&arena.bundle("b.tar"), &arena.store)).unwrap();
    assert!(one.exists() && two.exists());
    // Under whatever name the metadata comes, it can set no tag but that of the snapshot's reference, if at all.
    let pinned = format!("docker.io/library/alpine@{}", snapcask::Digest::of(IMAGE_MANIFEST.as_bytes()));
    for name in ["alpine:3.20", "docker.io/library/ubuntu:latest"] {
        for (trust_image_tags, key) in [(false, pinned.as_str()), (true, IMAGE_REFERENCE)] {
            let arena = Arena::new();
            let files = vec![(own(name), good.clone()), (layer("1"), erofs.clone())];
            write(arena.bundle("b.tar"), &with_cache(files).make().tar());
            let options = import_options(&arena.bundle("b.tar"), &arena.store);
            snapcask::import::import(&snapcask::import::ImportOptions { trust_image_tags, ..options }).unwrap();
            assert!(arena.store.join("cache").join(layer("1")).exists());
            let placed = files_in(&arena.store.join("cache/manifests"));
            assert_eq!(placed, [arena.store.join("cache").join(own(key))], "{name}");
        }
    }
}

/// The bundle of a repair says that the metadata is another image's, whose key it would get.
#[test]
fn metadata_that_a_repair_would_misplace() {
    let hex = |text: &str| snapcask::Digest::of(text.as_bytes()).hex();
    let metadata = json!({
        "manifest_digest": snapcask::Digest::of(IMAGE_MANIFEST.as_bytes()),
        "config_digest": snapcask::Digest::of(IMAGE_CONFIG.as_bytes()),
        "raw_manifest_json": IMAGE_MANIFEST, "raw_config_json": IMAGE_CONFIG, "layers": [],
    });
    let file = (format!("manifests/{}.json", hex(IMAGE_REFERENCE)), metadata.to_string().into_bytes());
    let arena = Arena::new();
    write(arena.bundle("good.tar"), &with_cache(vec![file.clone()]).make().tar());
    import_ok(&arena.bundle("good.tar"), &arena.store);
    let pinned = hex(&format!("docker.io/library/alpine@{}", snapcask::Digest::of(IMAGE_MANIFEST.as_bytes())));
    fs::remove_file(arena.store.join(format!("cache/manifests/{pinned}.json"))).unwrap();
    let mut evil = with_cache(vec![file]);
    let inner = std::mem::replace(&mut evil.config, Box::new(|_| {}));
    evil.config = Box::new(move |v| {
        inner(v);
        v["snapshot"]["image"]["manifestDigest"] = json!(snapcask::Digest::of(b"another image"));
    });
    write(arena.bundle("evil.tar"), &evil.make().tar());
    let repair_from = Some(snapcask::import::BundleLocation::path(arena.bundle("evil.tar")));
    let progress = std::sync::Arc::new(snapcask::progress::Silent);
    let options = snapcask::check::CheckOptions {
        store: arena.store.clone(),
        repair: repair_from.map_or(snapcask::check::Repairs::Nothing, snapcask::check::Repairs::From),
        index: snapcask::store::index::Index::Off,
        jobs: 1,
        progress,
    };
    let findings = snapcask::check::check(&options).unwrap().findings;
    let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["cache-missing", "repair-refused"], "{findings:?}");
    assert!(findings[1].message.contains("is not the metadata of its snapshot's image"), "{findings:?}");
    assert_eq!(files_in(&arena.store.join("cache/manifests")).len(), 0);
}

/// The config says of the snapshot what its descriptor says; otherwise the cache of any image could be written to.
#[test]
fn a_config_that_says_something_else_than_the_descriptor() {
    let reference = "docker.io/library/other:1";
    let changes: [(&str, serde_json::Value); 4] = [
        ("image", json!({ "reference": reference, "manifestDigest": snapcask::Digest::of(b"other") })),
        ("createdAt", json!("1999-01-01T00:00:00Z")),
        ("virtualSize", json!(42)),
        ("format", json!("qcow2")),
    ];
    for (member, value) in changes {
        let craft = Craft::config(move |config| config["snapshot"][member] = value.clone());
        let arena = Arena::new();
        write(arena.bundle("b.tar"), &craft.make().tar());
        let text = "and says something else";
        arena.refuses(&arena.bundle("b.tar"), "InvalidBundle", text);
        let bundle = snapcask::import::BundleLocation::path(arena.bundle("b.tar"));
        let silent = std::sync::Arc::new(snapcask::progress::Silent);
        let report = snapcask::check_bundle::verify_bundle(&bundle, true, 1, silent).unwrap();
        assert!(report.findings.iter().any(|f| f.message.contains(text)), "{member}: {:?}", report.findings);
    }
}

/// The descriptor names folders that are in no table: they must not meet a file of it.
#[test]
fn a_file_where_the_descriptor_needs_a_folder() {
    let guest = "/cache";
    let tag = microsandbox_types::owned_volume_mount_id(guest);
    let namespace = b"namespace".to_vec();
    let owned = json!([{"mount_id": tag, "mount": {"guest": guest, "storage": {"kind": "directory", "quota_mib": 1},
            "options": {"readonly": false, "noexec": false, "nosuid": false, "nodev": false},
            "stat_virtualization": "strict", "host_permissions": "private"},
        "data": {"kind": "directory", "files": [],
            "descriptor": {"digest": snapcask::Digest::of(&namespace).hex(), "bytes": namespace.len()}}}]);
    let (_, bytes, id, disk) =
        crate::fixture::descriptor(snapcask::model::Generation::Final, NAME, None, SIZE, 0, serde_json::Value::Null);
    let mut descriptor: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    descriptor["extensions"]["microsandbox.owned-volumes"] = owned;
    descriptor["requires"] = json!(["microsandbox.owned-volumes"]);
    let descriptor = descriptor.to_string().into_bytes();
    let path: snapcask::model::TarPath = "snapshot.json".parse().unwrap();
    let parsed = snapcask::snapshot::SnapshotDescriptor::parse(std::path::Path::new("x"), &path, descriptor.clone());
    let digest = parsed.unwrap().digest;
    let directory = format!("owned/{tag}/directory.bin");
    for (files, text) in [(None, None), (Some(format!("owned/{tag}/files")), Some("the descriptor needs a folder"))] {
        let disk = disk.clone();
        let id = id.clone();
        let mut craft = Craft {
            files: vec![
                ("snapshot.json".into(), descriptor.clone()),
                (disk.clone(), super::craft::disk()),
                (directory.clone(), namespace.clone()),
            ],
            config: Box::new(move |config| {
                let snapshot = &mut config["snapshot"];
                snapshot["generation"] = json!("final");
                snapshot["digest"] = json!(digest);
                snapshot["id"] = json!(id);
                snapshot["descriptor"] = json!("snapshot.json");
                snapshot["disk"] = json!(disk);
                config["layers"][0]["snapshot"] = json!(digest);
            }),
            ..Craft::default()
        };
        craft.files.extend(files.map(|path| (path, b"a file".to_vec())));
        craft.files.sort();
        let arena = Arena::new();
        write(arena.bundle("b.tar"), &craft.make().tar());
        match text {
            Some(text) => drop(arena.refuses(&arena.bundle("b.tar"), "InvalidBundle", text)),
            None => drop(crate::fixture::import_ok(&arena.bundle("b.tar"), &arena.bundle("target"))),
        }
    }
}

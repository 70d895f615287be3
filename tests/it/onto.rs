//! `export --onto`: a snapshot is added to a layout directory, and everything that was there stays.

use std::{fs, path::Path, process::Stdio};

use serde_json::{Value, json};
use snapcask::{
    export::{Destination, ExportOptions, Form, export},
    import::{ImportOptions, import},
    media_type,
    model::Generation,
};

use crate::fixture::*;

const SMALL: u64 = 16 << 20;

fn onto(fixture: &Fixture, snapshot: &str, layout: &Path) -> ExportOptions {
    let options = export_options(&fixture.store, snapshot, Form::Dir, layout);
    ExportOptions { destination: Destination::Onto(layout.into()), ..options }
}

fn entries(layout: &Path) -> Vec<Value> {
    json_file(&layout.join("index.json"))["manifests"].as_array().unwrap().clone()
}

fn tags(layout: &Path) -> Vec<String> {
    let tag = |entry: &Value| entry["annotations"][media_type::REF_NAME].as_str().map(str::to_owned);
    entries(layout).iter().filter_map(tag).collect()
}

#[test]
fn export_onto_a_layout_adds_to_it_and_keeps_all_that_was_there() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let layout = fixture.path("layout");
    export(&export_options(&fixture.store, "base", Form::Dir, &layout)).unwrap();
    let before = whole_tree(&layout);
    let (entries_before, blobs_before) = (entries(&layout), blobs(&layout));
    let report = export(&ExportOptions { with_parents: true, ..onto(&fixture, "head", &layout) }).unwrap();
    let after = whole_tree(&layout);
    let kept = before.iter().filter(|(path, _)| path.as_str() != "index.json");
    kept.for_each(|(path, identity)| assert_eq!(after.get(path), Some(identity), "{path}"));
    assert_eq!(entries(&layout)[..1], entries_before);
    // The base's entry is the same, and not listed twice.
    assert_eq!(tags(&layout), ["base", "head", "middle"]);
    let new = blobs(&layout).len() - blobs_before.len();
    assert_eq!(new, 6, "two layers, two configs and two manifests are new");
    assert!(report.sent_bytes < report.blob_bytes);
    succeeds(&run(["verify", layout.to_str().unwrap(), "--deep"]));
    for made in &fixture.snapshots {
        let store = fixture.path(&format!("target-{}", made.name));
        let options = ImportOptions { tag: Some(made.name.clone()), ..import_options(&layout, &store) };
        assert_same_snapshot(made, import(&options).unwrap().snapshots[0].path.as_ref().unwrap());
    }
    // Once more changes nothing.
    let again = export(&ExportOptions { with_parents: true, ..onto(&fixture, "head", &layout) }).unwrap();
    assert_eq!((again.sent_bytes, whole_tree(&layout)), (0, after));
}

#[test]
fn export_onto_nothing_makes_a_layout() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (new, empty, plain) = (fixture.path("new"), fixture.path("empty"), fixture.path("plain"));
    fs::create_dir(&empty).unwrap();
    export(&export_options(&fixture.store, "base", Form::Dir, &plain)).unwrap();
    for layout in [&new, &empty] {
        export(&onto(&fixture, "base", layout)).unwrap();
        assert_eq!(whole_tree(layout), whole_tree(&plain));
    }
}

#[test]
fn export_onto_a_tag_of_another_manifest_needs_force_which_moves_it() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let layout = fixture.path("layout");
    let options = export_options(&fixture.store, "base", Form::Dir, &layout);
    export(&ExportOptions { tag: Some("head".into()), ..options }).unwrap();
    let before = whole_tree(&layout);
    let path = layout.to_str().unwrap();
    let store = fixture.store.to_str().unwrap();
    let error = fails(&run(["export", "head", "--onto", path, "--store", store]), 5);
    assert!(error.contains("has the tag head for the manifest sha256:") && error.contains("--force"), "{error}");
    assert_eq!(whole_tree(&layout), before, "something changed or was left");
    let old = entries(&layout)[0].clone();
    succeeds(&run(["export", "head", "--onto", path, "--store", store, "--force"]));
    assert_eq!(tags(&layout), ["head"]);
    let now = entries(&layout);
    assert_eq!((now.len(), &now[0]["digest"]), (2, &old["digest"]), "the manifest that had the tag stays listed");
    assert!(now[1]["digest"] != old["digest"]);
    succeeds(&run(["verify", path]));
}

#[test]
fn export_onto_keeps_entries_and_members_that_it_does_not_know() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let layout = fixture.path("layout");
    export(&export_options(&fixture.store, "base", Form::Dir, &layout)).unwrap();
    let path = layout.join("index.json");
    let mut index = json_file(&path);
    let foreign = json!({
        "mediaType": media_type::INDEX,
        "digest": format!("sha256:{}", "5".repeat(64)),
        "size": 4711,
        "platform": { "architecture": "arm64", "os": "linux", "os.features": ["a"] },
        "annotations": { "org.opencontainers.image.ref.name": "collection", "who": "ü" },
        "odd": [null, 1.5, { "b": 1, "a": 2 }],
    });
    index["manifests"].as_array_mut().unwrap().insert(0, foreign.clone());
    index["annotations"] = json!({ "made.by": "somebody" });
    fs::write(&path, index.to_string()).unwrap();
    export(&onto(&fixture, "middle", &layout)).unwrap();
    let mut after = json_file(&path);
    let list = after["manifests"].as_array_mut().unwrap();
    assert_eq!(list.len(), 3);
    assert_eq!(list[0], foreign);
    list.pop();
    assert_eq!(after, index);
}

#[test]
fn export_onto_replaces_a_blob_that_is_corrupt() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let layout = fixture.path("layout");
    export(&export_options(&fixture.store, "base", Form::Dir, &layout)).unwrap();
    let good = whole_tree(&layout);
    for hex in blobs(&layout) {
        let path = layout.join("blobs/sha256").join(&hex);
        let bytes = fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        for bad in [flipped.as_slice(), &bytes[..bytes.len() - 1]] {
            fs::write(&path, bad).unwrap();
            export(&onto(&fixture, "base", &layout)).unwrap();
            assert_eq!(whole_tree(&layout), good, "{hex}");
        }
    }
}

#[test]
fn two_exports_onto_one_layout_at_once_lose_nothing() {
    const AT_ONCE: usize = 6;
    let mut fixture = Fixture::empty(Generation::Flat);
    for i in 0..AT_ONCE {
        fixture.add(&format!("s{i}"), i, 1 << 20, &[(0, random(50_000, i as u64 + 1))], Value::Null);
    }
    let layout = fixture.path("layout");
    export(&export_options(&fixture.store, "s0", Form::Dir, &layout)).unwrap();
    let (path, store) = (layout.to_str().unwrap(), fixture.store.to_str().unwrap());
    let children: Vec<_> = (1..AT_ONCE)
        .map(|i| {
            let name = format!("s{i}");
            let arguments = ["export", &name, "--onto", path, "--store", store];
            command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        succeeds(&child.wait_with_output().unwrap());
    }
    let mut found = tags(&layout);
    found.sort();
    assert_eq!(found, (0..AT_ONCE).map(|i| format!("s{i}")).collect::<Vec<_>>());
    succeeds(&run(["verify", path, "--deep"]));
    let left: Vec<_> = fs::read_dir(&layout).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn export_onto_follows_no_link_and_takes_no_other_folder() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (layout, outside) = (fixture.path("layout"), fixture.path("outside"));
    let (path, store) = (layout.to_str().unwrap(), fixture.store.to_str().unwrap());
    export(&export_options(&fixture.store, "base", Form::Dir, &layout)).unwrap();
    fs::rename(layout.join("blobs"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, layout.join("blobs")).unwrap();
    let before = whole_tree(&outside);
    let error = fails(&run(["export", "head", "--onto", path, "--store", store]), 3);
    assert!(error.contains("symbolic link"), "{error}");
    assert_eq!(whole_tree(&outside), before);
    let folder = fixture.path("folder");
    write(folder.join("precious"), b"stays");
    let error = fails(&run(["export", "head", "--onto", folder.to_str().unwrap(), "--store", store]), 3);
    assert!(error.contains("neither a layout directory"), "{error}");
    assert_eq!(whole_tree(&folder).len(), 1);
    let file = fixture.path("file");
    write(file.clone(), b"stays");
    fails(&run(["export", "head", "--onto", file.to_str().unwrap(), "--store", store]), 1);
    assert_eq!(fs::read(&file).unwrap(), b"stays");
    fails(&run(["export", "head", "--onto", path, "-o", "x.tar", "--store", store]), 2);
    fails(&run(["export", "head", "--store", store]), 2);
}

#[test]
fn export_onto_an_index_that_is_invalid_changes_nothing() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let layout = fixture.path("layout");
    export(&export_options(&fixture.store, "base", Form::Dir, &layout)).unwrap();
    for bad in ["{", r#"{"schemaVersion":2}"#, r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#] {
        fs::write(layout.join("index.json"), bad).unwrap();
        let before = whole_tree(&layout);
        assert_eq!(export(&onto(&fixture, "head", &layout)).unwrap_err().exit_code(), 3, "{bad}");
        assert_eq!(whole_tree(&layout), before);
    }
}

//! `remove`: the chain in mind, the image cache too, and nothing half gone.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use snapcask::{
    Error, Result,
    export::{ExportOptions, Form, export},
    import::import,
    model::Generation,
    progress::Silent,
    remove::{RemoveOptions, remove},
    report::RemoveReport,
};

use crate::{fixture::*, layout_checks::validate};

const SMALL: u64 = 16 << 20;

fn options(store: &Path, names: &[&str]) -> RemoveOptions {
    RemoveOptions {
        store: store.into(),
        snapshots: names.iter().map(|name| (*name).to_owned()).collect(),
        dry_run: false,
        orphan_children: false,
        prune_image: false,
        set_head: None,
        index: snapcask::store::index::Index::Off,
        progress: Arc::new(Silent),
    }
}

fn removed(store: &Path, names: &[&str]) -> Result<RemoveReport> {
    remove(&options(store, names))
}

/// Of the head alone, in whose place its parent becomes the group's head.
fn without_head(fixture: &Fixture) -> RemoveOptions {
    let set_head = (fixture.generation == Generation::Final).then(|| "middle".into());
    RemoveOptions { set_head, ..options(&fixture.store, &["head"]) }
}

#[test]
fn a_parent_stays_under_its_children() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let before = whole_tree(&fixture.store);
        for names in [&["base"][..], &["middle"], &["base", "head"], &["base", "middle"]] {
            let error = removed(&fixture.store, names).unwrap_err();
            assert!(matches!(&error, Error::HasChildren { .. }), "{error}");
            assert_eq!(whole_tree(&fixture.store), before);
        }
        let error = removed(&fixture.store, &["base"]).unwrap_err().to_string();
        assert!(error.contains("middle") && error.contains("--orphan-children"), "{error}");
        let report = remove(&without_head(&fixture)).unwrap();
        assert_eq!(report.removed.len(), 1);
        assert!(!fixture.head().directory.exists() && fixture.snapshots[1].directory.exists());
        assert!(snapcask::store::Store::at(&fixture.store).find("head").is_err());
    }
}

#[test]
fn a_whole_chain_in_any_order() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let report = removed(&fixture.store, &["base", "head", "middle", "head"]).unwrap();
        let names: Vec<_> = report.removed.iter().map(|r| r.name.rsplit(':').next().unwrap()).collect();
        assert_eq!(names, ["head", "middle", "base"], "children first");
        // The group stays, without a head: msb may be about to place a member in it.
        let left = fs::read_dir(fixture.store.join("snapshots"))
            .unwrap()
            .filter(|entry| !entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
        assert_eq!(left.count(), usize::from(generation == Generation::Final));
        assert!(report.allocated_bytes > 100_000);
        assert!(fixture.store.join("cache/layers").is_dir());
    }
}

#[test]
fn children_are_orphaned_when_told() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let report = remove(&RemoveOptions { orphan_children: true, ..options(&fixture.store, &["base"]) }).unwrap();
    assert_eq!(report.orphaned, ["middle"]);
    let head = fixture.path("head.tar");
    export(&fixture.export_options(Form::Tar, &head)).unwrap();
    let error =
        export(&ExportOptions { with_parents: true, ..fixture.export_options(Form::Tar, &fixture.path("b.tar")) });
    assert!(matches!(error, Err(Error::ParentNotFound { .. })));
}

#[test]
fn a_copy_of_the_parent_is_as_good() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let copy = fixture.store.join("snapshots/copy");
    for file in tree(&fixture.snapshots[0].directory).keys() {
        write(copy.join(file), &fs::read(fixture.snapshots[0].directory.join(file)).unwrap());
    }
    assert_eq!(removed(&fixture.store, &["base"]).unwrap().orphaned, Vec::<String>::new());
}

/// A link is no copy, and half a copy is none.
#[test]
fn what_is_no_copy_of_the_parent() {
    for generation in [Generation::V066, Generation::Flat] {
        let fixture = Fixture::sized(generation, SMALL);
        let (snapshots, base) = (fixture.store.join("snapshots"), &fixture.snapshots[0]);
        std::os::unix::fs::symlink("base", snapshots.join("alias")).unwrap();
        let half = snapshots.join("half");
        write(half.join(base.descriptor), &fs::read(base.directory.join(base.descriptor)).unwrap());
        let before = whole_tree(&base.directory);
        let error = removed(&fixture.store, &["base"]).unwrap_err();
        assert!(matches!(&error, Error::HasChildren { children, .. } if children == &["middle"]), "{error}");
        assert_eq!(whole_tree(&base.directory), before);
        // A link to a child is no other child.
        std::os::unix::fs::symlink("head", snapshots.join("again")).unwrap();
        removed(&fixture.store, &["head"]).unwrap();
        removed(&fixture.store, &["middle", "base"]).unwrap();
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let before = whole_tree(&fixture.store);
        let all =
            RemoveOptions { dry_run: true, prune_image: true, ..options(&fixture.store, &["base", "middle", "head"]) };
        let report = remove(&all).unwrap();
        assert_eq!((report.removed.len(), report.cache_files.len()), (3, 5));
        assert_eq!(whole_tree(&fixture.store), before);
        let real = remove(&RemoveOptions { dry_run: false, ..all }).unwrap();
        assert_eq!(real.cache_files, report.cache_files);
    }
}

#[test]
fn image_files_go_when_nothing_needs_them() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let cache = fixture.store.join("cache");
        let before = tree(&cache);
        // The others boot from it.
        let report = remove(&RemoveOptions { prune_image: true, ..without_head(&fixture) }).unwrap();
        assert_eq!(report.cache_files.len(), 0);
        assert_eq!(tree(&cache), before);
        // Another image shares a layer.
        let manifest = fs::read_dir(cache.join("manifests")).unwrap().next().unwrap().unwrap().path();
        let mut other = json_file(&manifest);
        let raw = r#"{"schemaVersion":2,"layers":[],"other":1}"#;
        other["raw_manifest_json"] = raw.into();
        other["manifest_digest"] = snapcask::Digest::of(raw.as_bytes()).to_string().into();
        let shared = other["layers"][0]["diff_id"].as_str().unwrap()[7..].to_owned();
        other["layers"].as_array_mut().unwrap().truncate(1);
        let hex = snapcask::Digest::of(b"other reference").hex();
        write(cache.join(format!("manifests/{hex}.json")), other.to_string().as_bytes());
        let report =
            remove(&RemoveOptions { prune_image: true, ..options(&fixture.store, &["middle", "base"]) }).unwrap();
        assert_eq!(report.cache_files.len(), 4, "{report:?}");
        assert!(cache.join(format!("layers/sha256_{shared}.erofs")).exists());
        assert!(cache.join(format!("manifests/{hex}.json")).exists() && !manifest.exists());
        // What is not an image's stays: nobody asked for it.
        let left: Vec<_> = tree(&cache).into_keys().collect();
        assert!(left.iter().any(|p| p.contains(&snapcask::Digest::of(b"foreign").hex())), "{left:?}");
    }
}

#[test]
fn an_unreadable_snapshot_keeps_the_image() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    write(fixture.store.join("snapshots/odd/snapshot.json"), b"{");
    let before = whole_tree(&fixture.store);
    let all = RemoveOptions { prune_image: true, orphan_children: true, ..options(&fixture.store, &["head"]) };
    let error = remove(&all).unwrap_err();
    assert!(matches!(error, Error::NotPruned { .. }), "{error}");
    assert_eq!(whole_tree(&fixture.store), before);
    remove(&RemoveOptions { prune_image: false, ..all }).unwrap();
}

/// A tag has moved: the metadata that is found by the removed image's reference is another image's, which nobody removes.
#[test]
fn another_images_metadata_stays_under_the_removed_ones_reference() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let cache = fixture.store.join("cache");
    let moved = fs::read_dir(cache.join("manifests")).unwrap().next().unwrap().unwrap().path();
    let older = cache.join(format!("manifests/{}.json", snapcask::Digest::of(b"an older tag").hex()));
    fs::rename(&moved, &older).unwrap();
    let mut other = json_file(&older);
    let raw = r#"{"schemaVersion":2,"layers":[],"other":1}"#;
    other["raw_manifest_json"] = raw.into();
    other["manifest_digest"] = snapcask::Digest::of(raw.as_bytes()).to_string().into();
    other["layers"].as_array_mut().unwrap().truncate(1);
    let shared = other["layers"][0]["diff_id"].as_str().unwrap()[7..].to_owned();
    write(moved.clone(), other.to_string().as_bytes());
    let all = RemoveOptions { prune_image: true, ..options(&fixture.store, &["head", "middle", "base"]) };
    let report = remove(&all).unwrap();
    assert!(moved.exists() && !older.exists(), "{report:?}");
    assert!(cache.join(format!("layers/sha256_{shared}.erofs")).exists(), "{report:?}");
    assert_eq!(report.cache_files.len(), 4, "{report:?}");
}

/// A record says which cache files came with a snapshot that stays.
#[test]
fn an_unreadable_record_keeps_the_image() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (store, snapshots) = (&fixture.store, fixture.store.join("snapshots"));
    // It has another image.
    let text = fs::read_to_string(snapshots.join("base/snapshot.json")).unwrap();
    let image =
        json_file(&snapshots.join("base/snapshot.json"))["image"]["manifest_digest"].as_str().unwrap().to_owned();
    let other = text.replace(&image, &snapcask::Digest::of(b"another image").to_string());
    write(snapshots.join("other/snapshot.json"), other.as_bytes());
    let record = snapshots.join("other/.snapcask.json");
    write(record.clone(), b"{");
    let before = whole_tree(store);
    let all = RemoveOptions { prune_image: true, ..options(store, &["head", "middle", "base"]) };
    let error = remove(&all).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(record.to_str().unwrap()) && text.contains("which files came with that snapshot"), "{text}");
    assert_eq!(whole_tree(store), before);
    fs::remove_file(&record).unwrap();
    assert_eq!(remove(&all).unwrap().cache_files.len(), 5);
}

#[test]
fn only_what_is_in_the_store() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let other = Fixture::sized(Generation::Flat, SMALL);
    let outside = other.head().directory.to_str().unwrap().to_owned();
    let error = removed(&fixture.store, &[&outside]).unwrap_err();
    assert!(matches!(error, Error::UnsafePath { .. }), "{error}");
    assert!(other.head().directory.join("upper.ext4").exists());
    // Not through a link either.
    fs::remove_dir_all(&fixture.head().directory).unwrap();
    std::os::unix::fs::symlink(&outside, &fixture.head().directory).unwrap();
    let error = removed(&fixture.store, &["head"]).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert!(other.head().directory.join("upper.ext4").exists());
    assert!(matches!(removed(&fixture.store, &["base", "nobody"]).unwrap_err(), Error::SnapshotNotFound { .. }));
    assert!(fixture.snapshots[0].directory.exists());
}

/// Imports and exports beside removals: each sees whole snapshots or none.
#[test]
fn beside_imports_and_exports() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    let whole = tree(&fixture.head().directory);
    for round in 0..20 {
        std::thread::scope(|scope| {
            let import = scope.spawn(|| import(&import_options(&bundle, &store)));
            let remove = scope.spawn(|| removed(&store, &["head", "middle", "base"]));
            let out = fixture.path(&format!("out{round}"));
            let options = ExportOptions { with_parents: true, ..export_options(&store, "head", Form::Dir, &out) };
            let export = scope.spawn(move || export(&options));
            import.join().unwrap().unwrap();
            match remove.join().unwrap() {
                Ok(_) | Err(Error::SnapshotNotFound { .. } | Error::NotFound { what: "store", .. }) => {}
                Err(other) => panic!("{other}"),
            }
            match export.join().unwrap() {
                Ok(_) | Err(Error::SnapshotNotFound { .. } | Error::NotFound { what: "store", .. }) => {}
                Err(other) => panic!("{other}"),
            }
        });
        let head = store.join("snapshots/head");
        assert!(!head.exists() || tree(&head) == whole);
        assert_eq!(head.exists(), store.join("snapshots/base").exists());
    }
}

#[test]
fn the_command() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let store = fixture.store.to_str().unwrap();
    fails(&run(["remove", "--store", store]), 2);
    fails(&run(["remove", "nobody", "--store", store]), 4);
    let text = fails(&run(["remove", "base", "--store", store]), 1);
    assert!(text.contains("web:base is the parent of web:middle"), "{text}");
    let text = succeeds(&run(["remove", "head", "--set-head", "base", "--dry-run", "--store", store]));
    assert!(text.contains("would remove") && fixture.head().directory.exists(), "{text}");
    let output =
        run(["remove", "head", "web:middle", "--set-head", "base", "--prune-image", "--store", store, "--json"]);
    let report: Value = serde_json::from_str(&succeeds(&output)).unwrap();
    validate("remove-report", &report);
    assert_eq!(report["removed"].as_array().unwrap().len(), 2);
    assert!(succeeds(&run(["remove", "base", "--store", store])).contains("removed  sha256:"));
    let text = succeeds(&run(["list", "--store", store]));
    assert!(!text.contains("base"), "{text}");
}

/// Whose child it is, its descriptor would say.
#[test]
fn an_unreadable_child_keeps_its_parent() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        remove(&without_head(&fixture)).unwrap();
        let middle = &fixture.snapshots[1];
        fs::write(middle.directory.join(middle.descriptor), "{").unwrap();
        let before = whole_tree(&fixture.store);
        let error = removed(&fixture.store, &["base"]).unwrap_err();
        assert!(matches!(error, Error::UnreadableSnapshot { .. }), "{error}");
        assert_eq!(whole_tree(&fixture.store), before);
        // A folder that never was a snapshot is nobody's child.
        fs::remove_file(middle.directory.join(middle.descriptor)).unwrap();
        match generation {
            // msb takes it for a member of the group, and refuses all of it.
            Generation::Final => {
                let error = removed(&fixture.store, &["base"]).unwrap_err();
                assert!(matches!(error, Error::InvalidGroup { .. }), "{error}");
            }
            _ => drop(removed(&fixture.store, &["base"]).unwrap()),
        }
    }
}

/// An image that is not whole was not pulled to its end, or is partly removed already.
#[test]
fn what_is_there_of_an_image_that_is_not_whole_goes() {
    for generation in GENERATIONS {
        for lost in ["layers", "vmdk", "fsmeta", "manifests"] {
            let fixture = Fixture::sized(generation, SMALL);
            let cache = fixture.store.join("cache");
            let all = RemoveOptions { prune_image: true, ..options(&fixture.store, &["head", "middle", "base"]) };
            let whole = remove(&RemoveOptions { dry_run: true, ..all.clone() }).unwrap().cache_files;
            let gone: Vec<&PathBuf> = whole.iter().filter(|path| path.starts_with(cache.join(lost))).collect();
            let gone = gone.first().unwrap_or_else(|| panic!("nothing in {lost}: {whole:?}"));
            fs::remove_file(gone).unwrap();
            let report = remove(&all).unwrap();
            assert!(report.cache_files.iter().all(|path| !path.exists()), "{report:?}");
            // Without its metadata nothing but its own VMDK tells of its layers; both together are never lost by a crash.
            assert_eq!(report.cache_files.len(), whole.len() - 1, "{lost}: {report:?}, of {whole:?}");
        }
    }
}

/// A tag has moved: of the older image only the VMDK is left, which names its layers.
#[test]
fn a_vmdk_alone_needs_its_layers() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let cache = fixture.store.join("cache");
    let vmdk = fs::read_dir(cache.join("vmdk"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "vmdk"));
    let vmdk = vmdk.unwrap();
    let text = fs::read_to_string(&vmdk).unwrap();
    let extents: Vec<&str> = text.lines().filter(|line| line.starts_with("RW")).collect();
    let shared = extents[1].split('"').nth(1).unwrap().to_owned();
    let other = cache.join(format!("vmdk/sha256_{}.vmdk", snapcask::Digest::of(b"older").hex()));
    write(other.clone(), format!("{}\n", extents[1]).as_bytes());
    let all = RemoveOptions { prune_image: true, ..options(&fixture.store, &["head", "middle", "base"]) };
    let report = remove(&RemoveOptions { dry_run: true, ..all.clone() }).unwrap();
    assert!(!report.cache_files.contains(&shared.clone().into()), "{report:?}");
    // One that cannot be read may need anything.
    write(other.clone(), b"RW x");
    let error = remove(&RemoveOptions { dry_run: true, ..all.clone() }).unwrap_err();
    assert!(error.to_string().contains("which files it needs is not known"), "{error}");
    write(other.clone(), format!("{}\n", extents[1]).as_bytes());
    remove(&all).unwrap();
    assert!(Path::new(&shared).exists() && other.exists() && !vmdk.exists());
}

//! Bundles whose every digest holds and whose tables lie; sources that change while they are exported.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::Stdio,
};

use serde_json::{Value, json};
use snapcask::{
    Digest, Error,
    export::{ExportOptions, Form, export},
    import::import,
    layer::{
        encode::encode,
        tar::{PlannedFile, TarPlan},
    },
    model::Generation,
    progress::Silent,
};

use crate::{
    fixture::*,
    trace::{Ended, Phase, Verdict, trace},
};

/// Changes the head's config in a layout directory; every document around it is made to fit.
fn edit_config(bundle: &Path, edit: impl FnOnce(&mut Value)) {
    let blob = |digest: &Value| bundle.join("blobs/sha256").join(&digest.as_str().unwrap()["sha256:".len()..]);
    let store = |document: &Value| {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        fs::write(bundle.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
        (json!(digest), json!(bytes.len()))
    };
    let mut index = json_file(&bundle.join("index.json"));
    let entry = &mut index["manifests"][0];
    let mut manifest = json_file(&blob(&entry["digest"]));
    let mut config = json_file(&blob(&manifest["config"]["digest"]));
    edit(&mut config);
    (manifest["config"]["digest"], manifest["config"]["size"]) = store(&config);
    (entry["digest"], entry["size"]) = store(&manifest);
    fs::write(bundle.join("index.json"), index.to_string()).unwrap();
}

/// Another value of the same form.
fn other_root(root: &mut Value) {
    let text = root.as_str().unwrap();
    let last = if text.ends_with('0') { '1' } else { '0' };
    *root = json!(format!("{}{last}", &text[..text.len() - 1]));
}

#[track_caller]
fn refused(edit: impl FnOnce(&mut Value)) -> Error {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let bundle = fixture.path("bundle");
    fixture.export_chain(Form::Dir, &bundle);
    edit_config(&bundle, |_| {});
    let store = fixture.path("target");
    import_ok(&bundle, &store);
    fs::remove_dir_all(&store).unwrap();
    edit_config(&bundle, edit);
    let error = import(&import_options(&bundle, &store)).expect_err("the table lies");
    assert!(!store.exists(), "{error}: something is left");
    error
}

#[test]
fn a_root_that_is_not_the_files() {
    let error = refused(|config| {
        let files = config["files"].as_array_mut().unwrap();
        let disk = files.iter_mut().find(|f| f["path"] == "upper.ext4").unwrap();
        other_root(&mut disk["root"]);
    });
    assert!(matches!(&error, Error::RootMismatch { path, .. } if path == "upper.ext4"), "{error}");
}

#[test]
fn a_root_that_is_not_the_cache_files() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let bundle = fixture.path("bundle");
    let options = export_options(&fixture.store, "head", Form::Dir, &bundle);
    export(&ExportOptions { with_image: true, ..options }).unwrap();
    edit_config(&bundle, other_cache_root);
    let store = fixture.path("target");
    let error = import(&import_options(&bundle, &store)).expect_err("the table lies");
    assert!(matches!(&error, Error::RootMismatch { snapshot, .. } if snapshot == "the image cache"), "{error}");
    assert!(!store.exists());
}

#[test]
fn snapshots_that_tell_a_cache_file_differently() {
    let error = refused(other_cache_root);
    assert!(error.to_string().contains("its snapshots have different files for"), "{error}");
}

fn other_cache_root(config: &mut Value) {
    let layers = config["layers"].as_array_mut().unwrap();
    let cache = layers.iter_mut().find(|layer| layer["kind"] == "cache").unwrap();
    other_root(&mut cache["file"]["root"]);
}

#[test]
fn data_bytes_that_are_not_the_files() {
    let error = refused(|config| {
        let files = config["files"].as_array_mut().unwrap();
        let disk = files.iter_mut().find(|f| f["path"] == "upper.ext4").unwrap();
        disk["dataBytes"] = json!(4096);
    });
    assert!(error.to_string().contains("data bytes or mode of upper.ext4"), "{error}");
}

/// What pass 2 packs must be what pass 1 saw.
#[test]
fn other_bytes_in_the_second_pass() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("disk");
    fs::write(&source, random(10_000, 1)).unwrap();
    let planned = PlannedFile {
        path: "disk".parse().unwrap(),
        executable: false,
        size: 10_000,
        segments: None,
        sum: 1,
        file: File::open(&source).unwrap(),
        source: source.clone(),
    };
    let failed = |e| Error::io("write", "the blob", e);
    let error = encode(&TarPlan::new(vec![planned]), None, 1, &mut Vec::new(), &failed, &Silent).unwrap_err();
    assert!(matches!(&error, Error::SourceChanged { path } if *path == source), "{error}");
}

/// A guest writes two blocks while its disk is exported, whenever that is: the bundle has both or none, or there is none.
#[test]
fn a_source_that_changes_meanwhile() {
    const SIZE: u64 = 24 << 20;
    let mut fixture = Fixture::empty(Generation::V066);
    let data = vec![(8 << 20, random(64 << 10, 1)), (SIZE - 100_000, random(50_000, 2))];
    let made = fixture.add("head", 0, SIZE, &data, Value::Null);
    let disk = made.directory.join(&made.disk);
    let changes = [(4u64 << 20, random(4096, 8)), (SIZE - 80_000, random(4096, 9))];
    let bundle_of = |name: &str| {
        let path = fixture.path(name);
        export(&export_options(&fixture.store, "head", Form::Tar, &path)).unwrap();
        fs::read(path).unwrap()
    };
    let change = || {
        let file = File::options().write(true).open(&disk).unwrap();
        changes.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
    };
    let before = bundle_of("before.tar");
    change();
    let after = bundle_of("after.tar");
    assert_ne!(before, after);
    let (mut refused, mut torn) = (0, Vec::new());
    for at in 1.. {
        write_disk(&disk, SIZE, &data);
        let out = fixture.path("out.tar");
        let _ = fs::remove_file(&out);
        let (from, to) = (fixture.store.to_str().unwrap(), out.to_str().unwrap());
        let mut command = command(["export", "head", "--store", from, "-o", to, "--jobs", "1"]);
        let mut seen = 0;
        let ended = trace(command.stdout(Stdio::null()).stderr(Stdio::null()), &[&disk], |_, phase| {
            if phase == Phase::After {
                seen += 1;
                if seen == at {
                    change();
                }
            }
            Verdict::Run
        })
        .unwrap();
        match ended {
            Ended::Code(0) => {
                let bundle = fs::read(&out).unwrap();
                if bundle != before && bundle != after {
                    torn.push(at);
                }
            }
            Ended::Code(1) if !out.exists() => refused += 1,
            other => panic!("{other:?} when it changes after call {at}"),
        }
        if seen < at {
            break;
        }
    }
    assert!(refused > 0 && torn.is_empty(), "{refused} refused, torn after the calls {torn:?}");
}

//! Each kind of damage that msb finds in its snapshots is found on every way: an export of it, an import of a bundle of
//! it, a deep look at that bundle, a check of its store.

use std::{fs, path::Path, sync::Arc};

use serde_json::{Value, json};
use snapcask::{
    Digest, Error,
    check::{CheckOptions, check},
    check_bundle::verify_bundle,
    export::{Form, export},
    import::{BundleLocation, import},
    progress::Silent,
    report::Finding,
};

use crate::{
    fixture::{export_options, import_options, random, tree},
    full_snapshot::{DISK, NAME, Sample, base, cache_folder, head, owned_disk, qcow2},
};

/// What is found of a damaged sample: the code, the file and words of each finding.
type Found<'a> = &'a [(&'a str, &'a str, &'a [&'a str])];

fn check_store(store: &Path) -> Vec<Finding> {
    let options = CheckOptions {
        store: store.into(),
        repair: snapcask::check::Repairs::Nothing,
        index: snapcask::store::index::Index::Off,
        jobs: 2,
        progress: Arc::new(Silent),
    };
    check(&options).unwrap().findings
}

fn code_of(error: &Error) -> &'static str {
    match error {
        Error::DamagedSnapshot { code, .. } => code,
        other => panic!("another error: {other}"),
    }
}

/// Damages a good sample and looks at it on every way.
#[track_caller]
fn is_found(sample: &Sample, damage: impl FnOnce(&Sample), expected: Found) {
    assert_eq!(check_store(&sample.store), [], "the sample is good before");
    damage(sample);
    let (code, file, words) = expected[0];
    let says = |text: &str, file: &str, words: &[&str]| {
        assert!(text.contains(file), "{text}\nlacks {file}");
        words.iter().for_each(|word| assert!(text.contains(word), "{text}\nlacks {word}"));
    };

    let findings = check_store(&sample.store);
    assert_eq!(findings.iter().map(|f| f.code).collect::<Vec<_>>(), expected.iter().map(|e| e.0).collect::<Vec<_>>());
    for (finding, (_, file, words)) in findings.iter().zip(expected) {
        says(&format!("{} {}", finding.subject, finding.message), file, words);
    }

    let destination = sample.temp.path().join("exported");
    let error = export(&export_options(&sample.store, NAME, Form::Dir, &destination)).unwrap_err();
    assert_eq!((code_of(&error), error.exit_code()), (code, 3), "{error}");
    says(&error.to_string(), file, words);
    assert!(!destination.exists(), "{error}");

    let bundle = sample.bundle();
    let store = sample.temp.path().join("other");
    fs::create_dir(&store).unwrap();
    let error = import(&import_options(&bundle, &store)).unwrap_err();
    assert_eq!((code_of(&error), error.exit_code()), (code, 3), "{error}");
    says(&error.to_string(), file, words);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0, "something is left in the store");

    let report = verify_bundle(&BundleLocation::path(bundle), true, 2, Arc::new(Silent)).unwrap();
    let codes = report.findings.iter().map(|f| f.code).collect::<Vec<_>>();
    assert_eq!(codes, expected.iter().map(|e| e.0).collect::<Vec<_>>(), "{:?}", report.findings);
    for (finding, (_, file, words)) in report.findings.iter().zip(expected) {
        says(&finding.message, file, words);
    }
}

/// An export and an import of it place the same files, and nothing is found.
#[track_caller]
fn is_good(sample: &Sample) {
    assert_eq!(check_store(&sample.store), []);
    let (destination, store) = (sample.temp.path().join("exported"), sample.temp.path().join("other"));
    export(&export_options(&sample.store, NAME, Form::Dir, &destination)).unwrap();
    for bundle in [destination, sample.bundle()] {
        let report = verify_bundle(&BundleLocation::path(bundle.clone()), true, 2, Arc::new(Silent)).unwrap();
        assert_eq!(report.findings, []);
        let placed = import(&import_options(&bundle, &store)).unwrap().snapshots[0].path.clone().unwrap();
        assert_eq!(tree(&placed), tree(&sample.directory));
        assert_eq!(check_store(&store), []);
        fs::remove_dir_all(&store).unwrap();
    }
}

#[test]
fn undamaged_snapshots_pass_on_every_way() {
    [Sample::full(), Sample::full_owned(), Sample::stack(), Sample::owned()].iter().for_each(is_good);
}

#[test]
fn checkpoint_root_of_another_document_is_found() {
    let wrong = Digest::of(b"another").to_string();
    is_found(
        &Sample::full(),
        |s| s.change_descriptor(|d| d["state"]["checkpoint_root"] = wrong.clone().into()),
        &[("checkpoint-root", "checkpoint/checkpoint.json", &["sha256:", &wrong])],
    );
}

#[test]
fn changed_checkpoint_document_is_found() {
    is_found(
        &Sample::full(),
        |s| {
            let text = String::from_utf8(s.read("checkpoint/checkpoint.json")).unwrap();
            s.write("checkpoint/checkpoint.json", text.replace("\"vcpus\":1", "\"vcpus\":2").as_bytes());
        },
        &[("checkpoint-root", "checkpoint/checkpoint.json", &["sha256:"])],
    );
}

#[test]
fn checkpoint_that_breaks_its_contract_is_found() {
    type Case = (&'static str, fn(&Sample), &'static str);
    let cases: [Case; 9] = [
        ("space", |s| s.replace_checkpoint(&[&s.read("checkpoint/checkpoint.json")[..], b" "].concat()), "canonical"),
        ("field", |s| s.change_checkpoint(|c| c["more"] = 1.into()), "more"),
        ("schema", |s| s.change_checkpoint(|c| c["schema"] = "x/2".into()), "x/2"),
        ("geometry", |s| s.change_checkpoint(|c| c["geometry"]["vcpus"] = 2.into()), "geometry"),
        ("requires", |s| s.change_checkpoint(|c| c["requires"] = json!(["b", "a"])), "requires"),
        ("resource", |s| s.change_checkpoint(|c| c["resources"] = json!([resource("a"), resource("a")])), "\"a\""),
        (
            "rejected",
            |s| {
                s.change_checkpoint(|c| {
                    c["resources"] = json!([resource("a")]);
                    c["resources"][0]["treatment"] = "reject".into();
                });
            },
            "cannot be captured",
        ),
        (
            "count",
            |s| {
                let resources: Vec<_> = (0..4097).map(|i| resource(&i.to_string())).collect();
                s.change_checkpoint(|c| c["resources"] = json!(resources));
            },
            "4097",
        ),
        ("device", |s| s.change_checkpoint(|c| c["devices"] = json!([c["devices"][0], c["devices"][0]])), "rng"),
    ];
    for (name, damage, word) in cases {
        println!("{name}");
        is_found(&Sample::full(), damage, &[("checkpoint-invalid", "checkpoint/checkpoint.json", &[word])]);
    }
}

fn resource(id: &str) -> Value {
    json!({ "id": id, "kind": "rng", "treatment": "reset", "binding": {} })
}

#[test]
fn missing_objects_are_found() {
    for field in ["/execution_state", "/memory", "/disks/0", "/devices/0/state"] {
        let sample = Sample::full();
        let path = sample.object_of(field);
        is_found(&sample, |s| s.remove(&path), &[("object-missing", &path, &["not there"])]);
    }
    let sample = Sample::full();
    let path = sample.memory_object();
    is_found(&sample, |s| s.remove(&path), &[("object-missing", &path, &["not there"])]);
}

#[test]
fn changed_objects_are_found() {
    let found = |sample: &Sample, path: &str| {
        let name = path.rsplit_once('/').unwrap().1.to_owned();
        is_found(sample, |s| s.flip(path), &[("object-corrupt", path, &["sha256:", &name])]);
    };
    for field in ["/execution_state", "/memory", "/disks/0", "/devices/0/state"] {
        let sample = Sample::full();
        found(&sample, &sample.object_of(field));
    }
    let sample = Sample::full();
    found(&sample, &sample.memory_object());
}

#[test]
fn renamed_object_is_found_under_both_names() {
    let sample = Sample::full();
    let path = sample.memory_object();
    let other = path.replace(&path[path.len() - 4..], "0000");
    is_found(
        &sample,
        |s| {
            s.write(&other, &s.read(&path));
            s.remove(&path);
        },
        &[("object-missing", &path, &["not there"]), ("object-corrupt", &other, &["sha256:"])],
    );
}

#[test]
fn memory_that_does_not_fit_its_objects_is_found() {
    let sample = Sample::full();
    let path = sample.memory_object();
    is_found(
        &sample,
        |s| s.change_object("/memory", |m| m["extents"][0]["content"]["object_offset"] = 8000.into()),
        &[("object-corrupt", &path, &["8192", "12096"])],
    );
    is_found(
        &Sample::full(),
        |s| s.change_object("/memory", |m| m["pause_generation"] = 7.into()),
        &[("checkpoint-invalid", "objects", &["7", "1"])],
    );
    is_found(
        &Sample::full(),
        |s| s.change_object("/memory", |m| m["extents"][1]["start"] = 1.into()),
        &[("checkpoint-invalid", "objects", &["extents"])],
    );
}

#[test]
fn changed_disk_layer_of_a_checkpoint_is_found() {
    is_found(
        &Sample::full(),
        |s| s.flip(&base()),
        &[("disk-integrity", &base(), &["blake3:", "the disk says blake3:"])],
    );
}

#[test]
fn disk_layer_of_another_size_is_found() {
    let longer = (DISK + 1).to_string();
    is_found(
        &Sample::full(),
        |s| s.write(&base(), &[s.read(&base()), vec![1]].concat()),
        &[("disk-size", &base(), &[&longer, &DISK.to_string()])],
    );
}

#[test]
fn missing_disk_layer_of_a_checkpoint_is_found() {
    is_found(&Sample::full(), |s| s.remove(&base()), &[("disk-missing", &base(), &["vol_root"])]);
}

#[test]
fn disk_generation_that_is_no_chain_is_found() {
    is_found(
        &Sample::full(),
        |s| s.change_object("/disks/0", |d| d["layers"][1]["predecessor"] = "layer_x".into()),
        &[("checkpoint-invalid", "objects", &["chain"])],
    );
    is_found(
        &Sample::full(),
        |s| s.change_object("/disks/0", |d| d["head"] = d["layers"][0]["layer_id"].clone()),
        &[("checkpoint-invalid", "objects", &["head"])],
    );
}

#[test]
fn unnamed_file_in_a_checkpoint_is_found() {
    is_found(
        &Sample::full(),
        |s| s.write("checkpoint/layers/more.raw", &random(10, 1)),
        &[("file-unreferenced", "checkpoint/layers/more.raw", &["names it"])],
    );
}

#[test]
fn unnamed_object_with_its_own_digest_is_no_damage() {
    let sample = Sample::full();
    sample.put(&random(5000, 99));
    is_good(&sample);
}

#[test]
fn damaged_qcow2_headers_are_found() {
    for (name, damage, code, words) in [
        ("magic", qcow2_without_magic as fn() -> Vec<u8>, "qcow2-header", &["qcow2"][..]),
        (
            "size",
            || qcow2(2 * DISK, Some(("layer_00000000000000000000000000000001.raw", "raw")), 4),
            "qcow2-size",
            &["524288", "262144"],
        ),
        ("none", || qcow2(DISK, None, 4), "qcow2-backing", &["nothing", "layer_00000000000000000000000000000001.raw"]),
        (
            "path",
            || qcow2(DISK, Some(("/etc/shadow", "raw")), 4),
            "qcow2-backing",
            &["/etc/shadow", "layer_00000000000000000000000000000001.raw"],
        ),
        (
            "self",
            || qcow2(DISK, Some(("layer_00000000000000000000000000000002.qcow2", "raw")), 4),
            "qcow2-backing",
            &["2.qcow2", "1.raw"],
        ),
        (
            "format",
            || qcow2(DISK, Some(("layer_00000000000000000000000000000001.raw", "qcow2")), 4),
            "qcow2-backing",
            &["qcow2", "raw"],
        ),
    ] {
        println!("{name}");
        is_found(&Sample::stack(), |s| s.write(&head(false), &damage()), &[(code, &head(false), words)]);
        is_found(&Sample::full(), |s| s.replace_head(&damage()), &[(code, &head(true), words)]);
    }
}

fn qcow2_without_magic() -> Vec<u8> {
    random(70_000, 8)
}

/// msb hands over the layers itself and reads any name that stays in the folder.
#[test]
fn qcow2_backing_of_another_confined_name_is_no_damage() {
    let sample = Sample::stack();
    sample.write(&head(false), &qcow2(DISK, Some(("upper-sealed-000.raw", "raw")), 4));
    is_good(&sample);
}

/// A disk snapshot and a full one with owned volumes, each with the folder that these are in.
fn both() -> [(Sample, &'static str); 2] {
    [(Sample::owned(), ""), (Sample::full_owned(), "checkpoint/")]
}

#[test]
fn changed_files_of_an_owned_folder_are_found() {
    for (sample, root) in both() {
        let path = sample.owned_file(root);
        let name = path.rsplit_once('/').unwrap().1.to_owned();
        is_found(&sample, |s| s.flip(&path), &[("owned-corrupt", &path, &["sha256:", &name])]);
    }
    for (sample, root) in both() {
        let path = format!("{}/directory.bin", cache_folder(root));
        is_found(&sample, |s| s.flip(&path), &[("owned-corrupt", &path, &["it should be sha256:"])]);
    }
}

#[test]
fn files_of_an_owned_folder_of_another_size_are_found() {
    for (sample, root) in both() {
        let path = format!("{}/directory.bin", cache_folder(root));
        is_found(&sample, |s| s.write(&path, b"short"), &[("owned-corrupt", &path, &["5 bytes", "100"])]);
    }
}

#[test]
fn missing_files_of_an_owned_folder_are_found() {
    for (sample, root) in both() {
        let path = sample.owned_file(root);
        is_found(&sample, |s| s.remove(&path), &[("owned-missing", &path, &["not there"])]);
    }
    for (sample, root) in both() {
        let path = format!("{}/directory.bin", cache_folder(root));
        is_found(&sample, |s| s.remove(&path), &[("owned-missing", &path, &["not there"])]);
    }
}

#[test]
fn unnamed_files_of_an_owned_folder_are_found() {
    for (sample, root) in both() {
        let path = format!("{}/files/more", cache_folder(root));
        is_found(&sample, |s| s.write(&path, b"more"), &[("file-unreferenced", &path, &["names it"])]);
    }
}

#[test]
fn changed_missing_or_longer_owned_disks_are_found() {
    for (sample, root) in both() {
        let path = owned_disk(root);
        is_found(&sample, |s| s.flip(&path), &[("disk-integrity", &path, &["is blake3:", "says blake3:"])]);
    }
    for (sample, root) in both() {
        let path = owned_disk(root);
        is_found(&sample, |s| s.write(&path, b"short"), &[("disk-size", &path, &["5 bytes", "1048576"])]);
    }
    for (sample, root) in both() {
        let path = owned_disk(root);
        is_found(&sample, |s| s.remove(&path), &[("disk-missing", &path, &["vol_owned"])]);
    }
}

#[test]
fn owned_volumes_that_descriptor_and_checkpoint_tell_differently_are_found() {
    is_found(
        &Sample::full_owned(),
        |s| {
            s.change_descriptor(|d| {
                d["extensions"]["microsandbox.owned-volumes"][0]["mount"]["storage"]["quota_mib"] = 33.into();
            })
        },
        &[("owned-inventory", "checkpoint/checkpoint.json", &["quota_mib", "32", "33"])],
    );
    is_found(
        &Sample::full_owned(),
        |s| {
            s.change_descriptor(|d| {
                d["extensions"] = json!({});
                d["requires"] = json!([]);
            })
        },
        &[("owned-inventory", "checkpoint/checkpoint.json", &["a list of 2", "a list of 0"])],
    );
}

#[test]
fn owned_volume_without_its_resource_or_disk_is_found() {
    is_found(
        &Sample::full_owned(),
        |s| s.change_checkpoint(|c| c["resources"] = json!([])),
        &[("checkpoint-invalid", "checkpoint/checkpoint.json", &["belongs to no resource"])],
    );
    is_found(
        &Sample::full_owned(),
        |s| s.change_checkpoint(|c| drop(c["disks"].as_array_mut().unwrap().pop())),
        &[
            ("owned-inventory", "checkpoint/checkpoint.json", &["none of its disks"]),
            ("file-unreferenced", "checkpoint/layers", &["names it"]),
        ],
    );
}

#[test]
fn documents_and_states_over_their_limits_are_found() {
    is_found(
        &Sample::full(),
        |s| s.replace_checkpoint(&random((8 << 20) + 1, 7)),
        &[("checkpoint-invalid", "checkpoint/checkpoint.json", &["8388609", "8388608"])],
    );
    is_found(
        &Sample::full(),
        |s| {
            let state = s.put(&random((1 << 20) + 1, 7));
            s.change_checkpoint(|c| c["devices"][0]["state"] = state.into());
        },
        &[("checkpoint-invalid", "checkpoint/objects", &["1048577", "1048576"])],
    );
}

#[test]
fn shared_folder_whose_state_has_no_frame_is_found() {
    let sample = Sample::full();
    let path = sample.object_of("/devices/0/state");
    is_found(
        &sample,
        |s| s.change_checkpoint(|c| c["devices"][0]["device_type"] = 26.into()),
        &[("checkpoint-invalid", &path, &["state of a device"])],
    );
}

#[test]
fn volume_that_is_there_twice_is_found() {
    is_found(
        &Sample::full(),
        |s| {
            let mut disk = s.document(&s.object_of("/disks/0"));
            disk["generation"] = 2.into();
            let disk = s.put(disk.to_string().as_bytes());
            s.change_checkpoint(|c| c["disks"].as_array_mut().unwrap().push(disk.into()));
        },
        &[("checkpoint-invalid", "checkpoint/objects", &["vol_root", "twice"])],
    );
}

#[test]
fn memory_of_another_architecture_is_found() {
    is_found(
        &Sample::full(),
        |s| s.change_object("/memory", |m| m["architecture"] = "aarch64".into()),
        &[("checkpoint-invalid", "checkpoint/objects", &["aarch64", "x86_64"])],
    );
}

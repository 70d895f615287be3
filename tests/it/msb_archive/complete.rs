//! Every kind of snapshot, and archives that leave out what others have.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};
use snapcask::{
    Digest, Error,
    import::{BundleLocation, ImportOptions, import},
};

use super::writer::{Archive, Member, TRANSPORT};
use crate::{
    fixture::{Identity, import_ok, import_options, run, run_with_input, stdout, succeeds, tree},
    full_snapshot::{ID, Sample},
};

/// The archive of a sample's snapshot.
fn archive(sample: &Sample) -> Archive {
    let descriptor = sample.read("snapshot.json");
    let described: Value = serde_json::from_slice(&descriptor).unwrap();
    let root: Vec<String> = described["state"]["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|layer| format!("layers/{}.{}", layer["layer_id"].as_str().unwrap(), layer["format"].as_str().unwrap()))
        .collect();
    let mut members = Vec::new();
    for path in tree(&sample.directory).keys() {
        let (name, kind) = match path.strip_prefix("checkpoint/") {
            Some("checkpoint.json") => (format!("checkpoints/{ID}/checkpoint.json"), "checkpoint-root"),
            Some(rest) if rest.starts_with("objects/") => (format!("checkpoints/{ID}/{rest}"), "checkpoint-object"),
            Some(rest) if rest.starts_with("layers/") => (format!("checkpoints/{ID}/{rest}"), "checkpoint-disk-layer"),
            Some(rest) => (format!("checkpoints/{ID}/{rest}"), "owned-directory-payload"),
            None if path == "snapshot.json" => (format!("snapshots/{ID}/{path}"), "snapshot-descriptor"),
            None if root.contains(path) => (path.clone(), "file-payload"),
            None if path.starts_with("layers/") => (format!("snapshots/{ID}/{path}"), "owned-disk-layer"),
            None => (format!("snapshots/{ID}/{path}"), "owned-directory-payload"),
        };
        // An object that a capture leaves behind and nothing names does not travel.
        if kind == "checkpoint-object"
            && Digest::of(&sample.read(path)) == Digest::of(&sample.read("checkpoint/checkpoint.json"))
        {
            continue;
        }
        let mut member = Member::file(&name, kind, Some(ID), &sample.directory.join(path));
        if kind == "snapshot-descriptor" {
            member.integrity = json!({ "algorithm": "sha256", "digest": Digest::of(&descriptor) });
        }
        members.push(member);
    }
    let inventory = json!({
        "head": ID, "suggested_name": "sample", "completeness": "boot-complete", "requires": [TRANSPORT],
        "names": {}, "members": [ID], "digests": { ID: Digest::of(&descriptor) },
    });
    Archive { members, inventory: Some(inventory), trailing: Vec::new(), inventory_at: None }
}

impl Archive {
    /// Leaves out these members.
    fn without(mut self, paths: &[&str], dependencies: Value) -> Self {
        for member in self.members.iter_mut().filter(|member| paths.contains(&member.path.as_str())) {
            member.included = false;
        }
        let about = self.inventory.as_mut().unwrap();
        about["completeness"] = "dependent".into();
        about["requires"] = json!([TRANSPORT, "msb-snapshot-dependencies-v1"]);
        about["dependencies"] = dependencies;
        self
    }
}

/// What an archive brings of a sample.
fn brought(sample: &Sample) -> BTreeMap<String, Identity> {
    let mut files = tree(&sample.directory);
    let checkpoint = sample.directory.join("checkpoint/checkpoint.json");
    if let Ok(bytes) = fs::read(checkpoint) {
        let hex = Digest::of(&bytes).hex();
        files.remove(&format!("checkpoint/objects/sha256/{}/{hex}", &hex[..2]));
    }
    files
}

fn installed(report: &snapcask::report::ImportReport) -> BTreeMap<String, Identity> {
    tree(report.snapshots[0].path.as_ref().unwrap())
}

#[test]
fn import_restores_full_snapshots_stacks_and_owned_volumes_of_archives() {
    for sample in [Sample::full(), Sample::full_owned(), Sample::stack(), Sample::owned()] {
        let path = archive(&sample).write(&sample.temp.path().join("a.msb"));
        let report = import_ok(&path, &sample.temp.path().join("target"));
        assert_eq!(installed(&report), brought(&sample));
    }
}

#[test]
fn import_and_verify_refuse_archive_whose_checkpoint_does_not_fit() {
    let sample = Sample::full();
    sample.flip(&sample.memory_object());
    let path = archive(&sample).write(&sample.temp.path().join("a.msb"));
    let store = sample.temp.path().join("target");
    let error = import(&import_options(&path, &store)).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(!store.exists());
    let output = run(["verify", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
}

/// The layer of the disk that is beneath the other one, and what it is called in the archive.
fn base_layer(sample: &Sample) -> (String, Value) {
    let layer = sample.document("snapshot.json")["state"]["layers"][0].clone();
    (format!("layers/{}.raw", layer["layer_id"].as_str().unwrap()), layer)
}

/// msb writes a layer's fields in this order.
fn file_identity(path: &str, layer: &Value) -> Value {
    json!({ "disks": [{ "path": path, "identity": { "kind": "file", "layer": layer } }], "memory": [] })
}

#[test]
fn dependent_archive_is_completed_from_archives_bases_and_the_store() {
    let sample = Sample::stack();
    let folder = sample.temp.path();
    let (path, layer) = base_layer(&sample);
    let whole = archive(&sample);
    let whole_path = whole.clone().write(&folder.join("whole.msb"));
    let thin = whole.without(&[&path], file_identity(&path, &layer)).write(&folder.join("thin.msb"));
    // Nobody has it: that is said, and nothing is left.
    let store = folder.join("target");
    let error = import(&import_options(&thin, &store)).unwrap_err();
    assert!(matches!(&error, Error::DependenciesMissing { missing, .. } if *missing == [path.clone()]), "{error}");
    assert!(!store.exists());
    let locations = |paths: &[&Path]| paths.iter().map(|path| BundleLocation::path((*path).into())).collect::<Vec<_>>();
    for (sources, bases) in [
        (locations(&[&thin, &whole_path]), Vec::new()),
        (locations(&[&whole_path, &thin]), Vec::new()),
        (locations(&[&thin]), locations(&[&whole_path])),
    ] {
        let options = ImportOptions { sources, bases, ..import_options(&thin, &store) };
        let report = import(&options).unwrap();
        assert_eq!(report.snapshots.len(), 1);
        assert_eq!(installed(&report), brought(&sample));
        fs::remove_dir_all(&store).unwrap();
    }
    // The store has it under another path.
    let placed = ImportOptions { dest: Some(folder.join("dest")), ..import_options(&thin, &sample.store) };
    assert_eq!(installed(&import(&placed).unwrap()), brought(&sample));
    // What is borrowed has another size than it is listed with.
    sample.write(&path, b"short");
    let placed = ImportOptions { dest: Some(folder.join("other")), ..import_options(&thin, &sample.store) };
    let error = import(&placed).unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("listed are"), "{error}");
    assert!(!folder.join("other").exists());
    let shown = succeeds(&run(["inspect", thin.to_str().unwrap()]));
    assert!(shown.contains(&format!("left out  {path}")), "{shown}");
    let (thin, whole) = (thin.to_str().unwrap(), whole_path.to_str().unwrap());
    let output = run(["verify", thin]);
    assert!(!output.status.success() && stdout(&output).contains("base-needed"), "{}", stdout(&output));
    assert!(succeeds(&run(["verify", thin, "--base", whole])).contains("good"));
}

#[test]
fn import_refuses_dependencies_that_do_not_fit_what_is_left_out() {
    let sample = Sample::stack();
    let (path, layer) = base_layer(&sample);
    let archive_path = sample.temp.path().join("a.msb");
    let store = sample.temp.path().join("target");
    let second = sample.document("snapshot.json")["state"]["layers"][1].clone();
    let other = format!("layers/{}.qcow2", second["layer_id"].as_str().unwrap());
    for (left_out, dependencies) in [
        (vec![path.as_str()], json!({ "disks": [], "memory": [] })),
        (vec![], file_identity(&path, &layer)),
        (vec![path.as_str()], file_identity(&other, &second)),
        (vec![path.as_str(), other.as_str()], file_identity(&path, &layer)),
        (vec![path.as_str()], json!({ "disks": [], "memory": [], "more": [] })),
    ] {
        archive(&sample).without(&left_out, dependencies).write(&archive_path);
        let error = import(&import_options(&archive_path, &store)).unwrap_err();
        assert!(matches!(error, Error::InvalidBundle { .. }), "{error}");
    }
}

#[test]
fn import_reads_archive_from_a_pipe() {
    let sample = Sample::owned();
    let store = sample.temp.path().join("target");
    let bytes = fs::read(archive(&sample).write(&sample.temp.path().join("a.msb"))).unwrap();
    let output = run_with_input(["import", "-", "--store", store.to_str().unwrap(), "--json"], &bytes);
    let report: Value = serde_json::from_str(&succeeds(&output)).unwrap();
    let placed = report["snapshots"][0]["path"].as_str().unwrap();
    assert_eq!(tree(Path::new(placed)), brought(&sample));
}

/// msb repeats a layer for every snapshot that shares it, in an archive that its own import refuses.
#[test]
fn layer_that_an_archive_repeats_must_hold_the_same() {
    let sample = Sample::stack();
    let (path, _) = base_layer(&sample);
    let mut other = archive(&sample);
    let id = format!("snap_{}", "7".repeat(32));
    let mut described = sample.document("snapshot.json");
    described["snapshot_id"] = id.clone().into();
    let descriptor = serde_json::to_vec(&described).unwrap();
    let digest = Digest::of(&descriptor);
    let mut copies = other.members.clone();
    for copy in &mut copies {
        copy.owner = Some(id.clone());
        if copy.kind == "snapshot-descriptor" {
            copy.path = format!("snapshots/{id}/snapshot.json");
            (copy.stored, copy.size) = (descriptor.clone(), descriptor.len() as u64);
            copy.integrity = json!({ "algorithm": "sha256", "digest": digest });
        }
    }
    let parent = described["snapshot_id"].clone();
    // The sample's snapshot is its child.
    sample.change_descriptor(|d| d["parent"] = parent);
    other = archive(&sample);
    other.members.splice(0..0, copies);
    let about = other.inventory.as_mut().unwrap();
    about["members"] = json!([ID, id]);
    about["digests"][&id] = digest.to_string().into();
    let target = sample.temp.path().join("a.msb");
    let report = import_ok(&other.clone().write(&target), &sample.temp.path().join("target"));
    assert_eq!(report.snapshots.len(), 2);
    assert_eq!(installed(&report), brought(&sample));
    // One of them holds something else.
    let copy = other.members.iter_mut().find(|member| member.path == path).unwrap();
    copy.stored[1000] ^= 1;
    let store = sample.temp.path().join("second");
    let error = import(&import_options(&other.write(&target), &store)).unwrap_err();
    assert!(error.to_string().contains("twice, with other contents"), "{error}");
    assert!(!store.exists());
}

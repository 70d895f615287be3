//! Every layout of a snapshot directory that msb has made, through bundles of every form.

mod migrated;
mod shapes;
mod shared;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use snapcask::{
    Digest,
    export::{ExportOptions, Form, export},
    report::{ExportReport, ImportReport},
};

use crate::fixture::*;

/// The forms of a bundle.
const FORMS: [Form; 3] = [Form::Dir, Form::Tar, Form::TarZst];

fn snapshot_id(n: u32) -> String {
    format!("snap_{n:032x}")
}

fn layer_id(n: u32) -> String {
    format!("layer_{n:032x}")
}

/// A layer of a disk in a `final` descriptor.
fn layer(n: u32, format: &str, size: u64, below: Option<u32>) -> Value {
    json!({"layer_id": layer_id(n), "format": format, "virtual_size": size, "backing": below.map(layer_id),
        "payload": {"file_kind": "regular", "integrity": null}})
}

/// The state of a disk.
fn disk(layers: &[Value]) -> Value {
    let head = layers.last().unwrap();
    json!({"kind": "file", "disk_format": head["format"], "filesystem": "ext4", "virtual_size": head["virtual_size"],
        "head": head["layer_id"], "layers": layers})
}

/// A `final` descriptor with a root disk of this layout.
fn descriptor_of(n: u32, parent: Option<u32>, state: &Value, root_disk: &str, owned: &Value) -> Value {
    let full = state["kind"] == "checkpoint";
    let (extensions, requires) = match owned.as_array() {
        Some(_) => (json!({"microsandbox.owned-volumes": owned}), json!(["microsandbox.owned-volumes"])),
        None => (json!({}), json!([])),
    };
    json!({"schema": "microsandbox.snapshot/1", "snapshot_id": snapshot_id(n),
        "scope": if full { "checkpoint" } else { "file" }, "state": state,
        "capture": {"created_at": format!("2026-08-01T10:00:{n:02}.000000000Z"), "source_lineage": "app",
            "source_checkpoint": null, "consistency": "crash-consistent"},
        "image": {"reference": IMAGE_REFERENCE, "manifest_digest": Digest::of(IMAGE_MANIFEST.as_bytes())},
        "root_disk": {"layout": root_disk}, "parent": parent.map(snapshot_id), "requires": requires,
        "extensions": extensions})
}

/// Writes a snapshot's descriptor into a new directory of the store.
fn place(store: &Path, name: &str, descriptor: &Value) -> PathBuf {
    let directory = store.join("snapshots").join(name);
    write(directory.join("snapshot.json"), descriptor.to_string().as_bytes());
    directory
}

fn bundle(store: &Path, name: &str, form: Form, path: &Path) -> ExportReport {
    let options = export_options(store, name, form, path);
    export(&ExportOptions { with_parents: true, ..options }).unwrap()
}

fn manifests(report: &ExportReport) -> Vec<Digest> {
    report.snapshots.iter().map(|snapshot| snapshot.manifest.unwrap()).collect()
}

/// Where an import has the snapshots, head first.
fn paths(report: &ImportReport) -> Vec<PathBuf> {
    report.snapshots.iter().map(|snapshot| snapshot.path.clone().unwrap()).collect()
}

/// Everything in a directory but local bookkeeping; folders end with a slash.
fn contents(directory: &Path) -> Vec<(String, Identity)> {
    let local = |path: &str| path.split('/').any(|name| name.starts_with('.') || name == "group-member.json");
    whole_tree(directory).into_iter().filter(|(path, _)| !local(path)).collect()
}

/// Through a bundle of each form: the restored directories are as the `sources`, head first, with their empty folders, and
/// are packed to the same manifests again.
fn round_trip(store: &Path, head: &str, sources: &[PathBuf]) {
    let folder = tempfile::TempDir::new().unwrap();
    for form in FORMS {
        let path = folder.path().join(form_name(form));
        let report = bundle(store, head, form, &path);
        let target = folder.path().join(format!("store-{}", form.as_str()));
        let imported = paths(&import_ok(&path, &target));
        assert_eq!(imported.len(), sources.len());
        for (source, copy) in sources.iter().zip(&imported) {
            assert_eq!(contents(source), contents(copy), "{form:?} {}", source.display());
        }
        let again = folder.path().join("again");
        let name = imported[0].to_str().unwrap();
        assert_eq!(manifests(&bundle(&target, name, Form::Dir, &again)), manifests(&report), "{form:?}");
        fs::remove_dir_all(again).unwrap();
        for verb in ["check", "verify"] {
            let arguments: Vec<&Path> = match verb {
                "check" => vec![Path::new("check"), Path::new("--store"), &target],
                _ => vec![Path::new("verify"), Path::new("--deep"), &path],
            };
            succeeds(&run(arguments));
        }
    }
}

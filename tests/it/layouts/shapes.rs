//! Stacks, owned volumes, full snapshots and flat root disks.

use super::*;

const SIZE: u64 = 8 << 20;

fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}

/// The tag of an owned volume, as the contract derives it from the guest's path.
fn tag(guest: &str) -> String {
    microsandbox_types::owned_volume_mount_id(guest)
}

/// One owned directory with these files at `/cache`, below `root`; its inventory.
fn owned_directory(root: &Path, guest: &str, files: &[&[u8]]) -> Value {
    let directory = root.join("owned").join(tag(guest));
    fs::create_dir_all(directory.join("files")).unwrap();
    let namespace = format!("namespace of {guest}");
    write(directory.join("directory.bin"), namespace.as_bytes());
    let mut listed: Vec<Value> = Vec::new();
    for file in files {
        write(directory.join("files").join(sha256(file)), file);
        listed.push(json!({"digest": sha256(file), "bytes": file.len()}));
    }
    listed.sort_by_key(|file| file["digest"].to_string());
    json!({"mount_id": tag(guest), "mount": {"guest": guest, "storage": {"kind": "directory", "quota_mib": 32},
            "options": {"readonly": false, "noexec": false, "nosuid": false, "nodev": false},
            "stat_virtualization": "strict", "host_permissions": "private"},
        "data": {"kind": "directory", "descriptor": {"digest": sha256(namespace.as_bytes()), "bytes": namespace.len()},
            "files": listed}})
}

/// One owned disk of 1 MiB in one layer at `/data`, below `root`; its inventory.
fn owned_disk(root: &Path, n: u32) -> Value {
    let file = format!("layers/{}.raw", layer_id(n));
    write(root.join(file), &random(1 << 20, u64::from(n)));
    json!({"mount_id": tag("/data"), "mount": {"guest": "/data", "storage": {"kind": "disk", "capacity_mib": 1},
            "options": {"readonly": false, "noexec": false, "nosuid": false, "nodev": false},
            "stat_virtualization": "strict", "host_permissions": "private"},
        "data": {"kind": "disk", "generation": {"schema": "microsandbox.disk-generation/1", "volume_id": "vol_owned",
            "device_id": tag("/data"), "generation": 1, "head": layer_id(n), "pause_generation": 1,
            "layers": [{"layer_id": layer_id(n), "format": "raw", "virtual_size": 1 << 20, "file_size": 1 << 20,
                "predecessor": null, "integrity_root": null}]}}})
}

/// A raw disk of [`SIZE`] in a snapshot directory.
fn raw_disk(directory: &Path, n: u32) {
    let path = directory.join(format!("layers/{}.raw", layer_id(n)));
    write_disk(&path, SIZE, &[(1 << 20, random(50_000, u64::from(n)))]);
}

/// A snapshot with an owned directory of some files, an empty one and an owned disk.
fn with_owned(store: &Path, name: &str, n: u32) -> PathBuf {
    let directory = store.join("snapshots").join(name);
    let owned = json!([
        owned_directory(&directory, "/cache", &[b"kept", b"kept, too"]),
        owned_disk(&directory, n + 50),
        owned_directory(&directory, "/empty", &[]),
    ]);
    raw_disk(&directory, n);
    let state = disk(&[layer(n, "raw", SIZE, None)]);
    place(store, name, &descriptor_of(n, None, &state, "managed", &owned))
}

/// The folder that msb needs though it is empty, in a snapshot directory.
fn empty_folder(directory: &Path) -> PathBuf {
    directory.join("owned").join(tag("/empty")).join("files")
}

/// A full snapshot, with an owned volume of no files.
fn full(store: &Path, name: &str, n: u32, parent: Option<u32>) -> PathBuf {
    let directory = store.join("snapshots").join(name);
    let root = directory.join("checkpoint");
    let object = |bytes: &[u8]| {
        let hex = sha256(bytes);
        write(root.join(format!("objects/sha256/{}/{hex}", &hex[..2])), bytes);
        format!("sha256:{hex}")
    };
    let owned = json!([owned_directory(&root, "/empty", &[])]);
    let file = format!("layers/{}.raw", layer_id(n));
    write_disk(&root.join(file), SIZE, &[(2 << 20, random(70_000, u64::from(n)))]);
    let generation = json!({"schema": "microsandbox.disk-generation/1", "volume_id": "vol_root", "generation": 1,
        "head": layer_id(n), "pause_generation": 1,
        "layers": [{"layer_id": layer_id(n), "format": "raw", "virtual_size": SIZE, "file_size": SIZE,
            "predecessor": null, "integrity_root": null}]});
    let memory = object(&random(128 << 10, u64::from(n) + 7));
    let table = json!({"schema": "microsandbox.memory/1", "architecture": "x86_64", "guest_page_size": 4096,
        "topology_generation": 1, "generation": 1, "capture_mode": "full", "pause_generation": 1,
        "extents": [{"start": 0, "length": 4096,
            "content": {"kind": "object", "object": memory, "object_offset": 4096}}]});
    let checkpoint = json!({"schema": "microsandbox.checkpoint/1", "checkpoint_id": format!("checkpoint_{n}"),
        "capture_intent": "full-snapshot", "architecture": "x86_64",
        "geometry": {"vcpus": 1, "max_vcpus": 1, "memory_mib": 128, "max_memory_mib": 128}, "pause_generation": 1,
        "execution_state": object(b"execution"), "memory": object(table.to_string().as_bytes()),
        "disks": [object(generation.to_string().as_bytes())], "owned_volumes": owned,
        "devices": [{"device_type": 4, "device_id": "rng", "state": object(b"device")}],
        "resources": [{"id": tag("/empty"), "kind": "virtio", "treatment": "serialize",
            "binding": {"role": "owned_directory", "guest_tag": tag("/empty")}}], "requires": []});
    let checkpoint = checkpoint.to_string();
    write(root.join("checkpoint.json"), checkpoint.as_bytes());
    let state = json!({"kind": "checkpoint", "checkpoint_id": format!("checkpoint_{n}"),
        "checkpoint_root": format!("sha256:{}", sha256(checkpoint.as_bytes())), "restore_intents": ["clone", "resume"],
        "requirements_summary": {}});
    place(store, name, &descriptor_of(n, parent, &state, "managed", &owned))
}

#[test]
fn owned_volumes_are_restored_with_their_empty_folder() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    let source = with_owned(&fixture.store, "box", 1);
    assert_eq!(fs::read_dir(empty_folder(&source)).unwrap().count(), 0);
    round_trip(&fixture.store, "box", &[source]);
}

#[test]
fn full_snapshots_are_restored_with_their_owned_volumes() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    let first = full(&fixture.store, "one", 1, None);
    let second = full(&fixture.store, "two", 2, Some(1));
    assert!(empty_folder(&second.join("checkpoint")).is_dir());
    round_trip(&fixture.store, "two", &[second, first]);
}

#[test]
fn folder_that_was_lost_is_found_and_restored() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    with_owned(&fixture.store, "box", 1);
    let (path, target) = (fixture.path("bundle.tar"), fixture.path("target"));
    bundle(&fixture.store, "box", Form::Tar, &path);
    let copy = paths(&import_ok(&path, &target)).remove(0);
    let store = target.to_str().unwrap();
    fs::remove_dir(empty_folder(&copy)).unwrap();

    let text = stdout(&run(["check", "--store", store]));
    assert!(text.contains("folder-missing"), "{text}");
    let error = fails(&run(["import", path.to_str().unwrap(), "--store", store]), 5);
    assert!(error.contains("files"), "{error}");
    succeeds(&run(["check", "--store", store, "--repair-from", path.to_str().unwrap()]));
    assert!(empty_folder(&copy).is_dir());
    succeeds(&run(["check", "--store", store]));
}

#[test]
fn export_without_the_empty_folder_restores_it_all_the_same() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    let source = with_owned(&fixture.store, "box", 1);
    let whole = manifests(&bundle(&fixture.store, "box", Form::Dir, &fixture.path("whole")));
    fs::remove_dir(empty_folder(&source)).unwrap();
    let path = fixture.path("bundle.tar");
    assert_eq!(manifests(&bundle(&fixture.store, "box", Form::Tar, &path)), whole);
    let copy = paths(&import_ok(&path, &fixture.path("target"))).remove(0);
    assert!(empty_folder(&copy).is_dir());
}

#[test]
fn file_where_a_folder_must_be_is_refused() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    let source = with_owned(&fixture.store, "box", 1);
    fs::remove_dir(empty_folder(&source)).unwrap();
    fs::write(empty_folder(&source), "a file").unwrap();
    let path = fixture.path("bundle.tar");
    let error =
        fails(&run(["export", "box", "-o", path.to_str().unwrap(), "--store", fixture.store.to_str().unwrap()]), 1);
    assert!(error.contains("is a file"), "{error}");
    assert!(!path.exists());
}

/// The image's cache without anything but its metadata.
fn metadata_alone(store: &Path) {
    for folder in ["fsmeta", "layers", "vmdk"] {
        fs::remove_dir_all(store.join("cache").join(folder)).unwrap();
    }
}

#[test]
fn flat_root_disk_travels_with_its_images_metadata_alone() {
    for whole in [true, false] {
        // The cache of an image, and a snapshot of our own.
        let fixture = Fixture::new(snapcask::model::Generation::Flat);
        let directory = fixture.store.join("snapshots/flat");
        raw_disk(&directory, 1);
        let state = disk(&[layer(1, "raw", SIZE, None)]);
        place(&fixture.store, "flat", &descriptor_of(1, None, &state, "flat", &Value::Null));
        if !whole {
            metadata_alone(&fixture.store);
            fs::remove_dir_all(fixture.store.join("cache/tmp")).unwrap();
            for name in NAMES {
                fs::remove_dir_all(fixture.store.join("snapshots").join(name)).unwrap();
            }
        }
        for form in FORMS {
            let path = fixture.path(form_name(form));
            let options = export_options(&fixture.store, "flat", form, &path);
            let report = export(&ExportOptions { with_image: true, ..options }).unwrap();
            assert_eq!(report.cache_files.len(), 1, "{:?}", report.cache_files);
            assert!(report.cache_files[0].starts_with("manifests/"));
            let target = fixture.path(&format!("target-{}", form.as_str()));
            let copy = paths(&import_ok(&path, &target)).remove(0);
            assert_eq!(contents(&copy), contents(&directory), "{form:?}");
            succeeds(&run(["check", "--store", target.to_str().unwrap()]));
            succeeds(&run(["verify", "--deep", path.to_str().unwrap()]));
            let again = export_options(&target, copy.to_str().unwrap(), Form::Dir, &target.join("again"));
            let again = export(&ExportOptions { with_image: true, ..again }).unwrap();
            assert_eq!(manifests(&again), manifests(&report));
        }
        succeeds(&run(["check", "--store", fixture.store.to_str().unwrap()]));
    }
}

#[test]
fn flat_root_disk_without_its_images_metadata_is_refused() {
    let fixture = Fixture::new(snapcask::model::Generation::Flat);
    raw_disk(&fixture.store.join("snapshots/flat"), 1);
    let state = disk(&[layer(1, "raw", SIZE, None)]);
    place(&fixture.store, "flat", &descriptor_of(1, None, &state, "flat", &Value::Null));
    fs::remove_dir_all(fixture.store.join("cache/manifests")).unwrap();
    let options = export_options(&fixture.store, "flat", Form::Dir, &fixture.path("bundle"));
    let error = export(&ExportOptions { with_image: true, ..options }).unwrap_err();
    assert!(error.to_string().contains("no metadata"), "{error}");
}

#[test]
fn managed_root_disk_still_misses_its_images_layers() {
    let fixture = Fixture::new(snapcask::model::Generation::Flat);
    raw_disk(&fixture.store.join("snapshots/flat"), 1);
    let state = disk(&[layer(1, "raw", SIZE, None)]);
    place(&fixture.store, "flat", &descriptor_of(1, None, &state, "flat", &Value::Null));
    metadata_alone(&fixture.store);
    // The flat generation's snapshots boot from the same image, over its layers.
    let text = stdout(&run(["check", "--store", fixture.store.to_str().unwrap()]));
    assert!(text.contains("image-layer-missing"), "{text}");
}

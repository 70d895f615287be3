//! Layers that several snapshots of a chain have: a bundle holds them once.

use super::*;

/// What each layer holds.
const DATA: usize = 2 << 20;
const SIZE: u64 = 64 << 20;

/// A layer's file: of a raw one the disk, of a qcow2 one a container over the layer `n - 1`.
fn write_layer(directory: &Path, folder: &str, n: u32, format: &str) {
    let path = directory.join(format!("{folder}/{}.{format}", layer_id(n)));
    match format {
        "raw" => write_disk(&path, SIZE, &[(1 << 20, random(DATA, u64::from(n)))]),
        _ => write(path, &[qcow2_header(n - 1), random(DATA, u64::from(n))].concat()),
    }
}

/// The first cluster of a qcow2 container of version 3: its header, the extension that names the format of what is
/// beneath, and that file's name.
fn qcow2_header(below: u32) -> Vec<u8> {
    let (name, format) = (format!("{}.{}", layer_id(below), format(below)), format(below));
    let mut header = vec![0; 64 << 10];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(8, &256u64.to_be_bytes());
    put(16, &(name.len() as u32).to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &SIZE.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(104, &0xe279_2acau32.to_be_bytes());
    put(108, &(format.len() as u32).to_be_bytes());
    put(112, format.as_bytes());
    put(256, name.as_bytes());
    header
}

fn format(n: u32) -> &'static str {
    if n == 1 { "raw" } else { "qcow2" }
}

/// Snapshot `n` of a chain: a complete closure of the layers 1 to `n`.
fn stacked(store: &Path, n: u32) -> PathBuf {
    let directory = store.join(format!("snapshots/s{n}"));
    let below = |i: u32| (i > 1).then(|| i - 1);
    let layers: Vec<Value> = (1..=n).map(|i| layer(i, format(i), SIZE, below(i))).collect();
    (1..=n).for_each(|i| write_layer(&directory, "layers", i, format(i)));
    place(store, &format!("s{n}"), &descriptor_of(n, below(n), &disk(&layers), "managed", &Value::Null))
}

fn bytes_of(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn stack_of_qcow2_over_raw_is_restored_whole() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    let sources: Vec<PathBuf> = (1..=3).map(|n| stacked(&fixture.store, n)).rev().collect();
    round_trip(&fixture.store, "s3", &sources);
}

#[test]
fn chain_of_ten_stacked_layers_costs_the_layers_once() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    (1..=10).for_each(|n| drop(stacked(&fixture.store, n)));
    for form in [Form::Tar, Form::TarZst] {
        let path = fixture.path(form_name(form));
        let report = bundle(&fixture.store, "s10", form, &path);
        assert_eq!(report.snapshots.len(), 10);
        let once = 10 * DATA as u64;
        let bytes = bytes_of(&path);
        assert!(bytes <= once + once / 10, "{form:?}: {bytes} bytes for ten layers of {once} together");
    }
}

/// A disk snapshot, or the files of a full one, which stand below `checkpoint/`; both have these layers.
fn alternating(store: &Path, n: u32, folder: &str, layers: &[u32]) -> PathBuf {
    let directory = store.join(format!("snapshots/s{n}"));
    // The root disk of the descriptor is one of its own, so that only the path decides what is shared.
    write_disk(&directory.join(format!("layers/{}.raw", layer_id(100 + n))), 4096, &[]);
    layers.iter().for_each(|i| write_layer(&directory, folder, *i, format(*i)));
    let state = disk(&[layer(100 + n, "raw", 4096, None)]);
    let parent = (n > 1).then(|| n - 1);
    place(store, &format!("s{n}"), &descriptor_of(n, parent, &state, "managed", &Value::Null))
}

#[test]
fn layer_at_another_path_is_stored_once() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    let folders = ["layers", "checkpoint/layers", "layers", "elsewhere/deep"];
    let mut sources = Vec::new();
    for (n, folder) in (1..).zip(folders) {
        sources.insert(0, alternating(&fixture.store, n, folder, &[1, 2, 3]));
    }
    let path = fixture.path("bundle.tar");
    bundle(&fixture.store, "s4", Form::Tar, &path);
    let once = 3 * DATA as u64;
    let bytes = bytes_of(&path);
    assert!(bytes <= once + once / 10, "{bytes} bytes for three layers of {once} together");
    round_trip(&fixture.store, "s4", &sources);
}

#[test]
fn two_files_of_one_content_go_over_one_file_of_the_parent() {
    let fixture = Fixture::empty(snapcask::model::Generation::Final);
    let first = alternating(&fixture.store, 1, "layers", &[1]);
    let second = alternating(&fixture.store, 2, "copy-a", &[1]);
    write_layer(&second, "copy-b", 1, "raw");
    // The file that both are the same as is replaced in the same layer.
    write_disk(&second.join(format!("layers/{}.raw", layer_id(1))), SIZE, &[(1 << 20, random(DATA, 77))]);
    let path = fixture.path("bundle.tar");
    bundle(&fixture.store, "s2", Form::Tar, &path);
    let once = 2 * DATA as u64;
    assert!(bytes_of(&path) <= once + once / 10, "{} bytes", bytes_of(&path));
    round_trip(&fixture.store, "s2", &[second, first]);
}

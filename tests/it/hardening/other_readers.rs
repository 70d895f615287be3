//! For every tar that we accept: GNU tar and Python's tarfile see the same names, sizes and contents (row 8).

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use snapcask::{
    Digest,
    export::{Compression, ExportOptions, Form, export},
};

use super::{
    craft::{Arena, Craft, DISK, SIZE as DISK_SIZE, disk, snapshot_descriptor},
    tar::*,
};
use crate::{fixture::*, interop::tools::have, tally};

fn unpack(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", stderr(&output));
}

/// Names, sizes and contents as the two readers see them.
fn readers(tar: &Path) -> [BTreeMap<String, Identity>; 2] {
    let temp = tempfile::tempdir().unwrap();
    let (gnu, python) = (temp.path().join("gnu"), temp.path().join("python"));
    fs::create_dir(&gnu).unwrap();
    fs::create_dir(&python).unwrap();
    unpack("tar", &["-xf", tar.to_str().unwrap(), "-C", gnu.to_str().unwrap()]);
    let program = "import sys, tarfile; tarfile.open(sys.argv[1], 'r:').extractall(sys.argv[2])";
    unpack("python3", &["-c", program, tar.to_str().unwrap(), python.to_str().unwrap()]);
    [&gnu, &python].map(|folder| {
        let mut files = whole_tree(folder);
        files.retain(|path, _| !path.ends_with('/'));
        files
    })
}

fn tools() -> bool {
    have("what_we_place_is_what_others_see", &["tar", "python3"])
}

/// Layer tars in every way that we accept.
fn accepted() -> Vec<(&'static str, Vec<u8>)> {
    let (name, bytes) = snapshot_descriptor();
    let first = file(&name, &bytes);
    let of = |disk: Vec<u8>| [first.clone(), disk, END.to_vec()].concat();
    let pieces = [(octal(0), octal(512)), (octal(512), octal(DISK_SIZE - 512)), (octal(DISK_SIZE), octal(0))];
    let many: Vec<_> = (0..16).map(|i| (octal(i * 512), octal(512))).collect();
    let wide = [(base256(0), base256(DISK_SIZE))];
    vec![
        ("plain", of(file(DISK, &disk()))),
        ("dotted", of(file(&format!("./{DISK}"), &disk()))),
        ("NUL type", of(entry(DISK, 0, &disk(), |_| {}))),
        ("ustar", of(entry(DISK, b'0', &disk(), |h| h[257..265].copy_from_slice(b"ustar\x0000")))),
        ("long name", of([long_name(format!("{DISK}\0").as_bytes()), file("short", &disk())].concat())),
        ("base-256", of(entry(DISK, b'0', &disk(), |h| h[SIZE].copy_from_slice(&base256(DISK_SIZE))))),
        ("short octal", of(entry(DISK, b'0', &disk(), |h| h[SIZE].copy_from_slice(&cut(b"20000"))))),
        ("blanks before", of(entry(DISK, b'0', &disk(), |h| h[SIZE].copy_from_slice(b"      20000 ")))),
        ("folders", of([entry("./", b'5', b"", |_| {}), file(DISK, &disk())].concat())),
        ("sparse", of(sparse(DISK, &pieces, octal(DISK_SIZE), &disk()))),
        ("sparse, extension blocks", of(sparse(DISK, &many, octal(DISK_SIZE), &disk()))),
        ("sparse, base-256", of(sparse(DISK, &wide, base256(DISK_SIZE), &disk()))),
        ("zeros behind", [of(file(DISK, &disk())), vec![0; 8192]].concat()),
    ]
}

#[test]
fn what_we_place_is_what_others_see() {
    if !tools() {
        return;
    }
    for (what, tar) in accepted() {
        let arena = Arena::new();
        let bundle = arena.bundle("b.tar");
        write(bundle.clone(), &Craft::layer_tar(tar.clone()).make().tar());
        let placed = tree(&arena.accepts(&bundle));
        let path = arena.bundle("layer.tar");
        write(path.clone(), &tar);
        let [gnu, python] = readers(&path);
        let plain = |files: &BTreeMap<String, Identity>| -> BTreeMap<String, (u64, Digest)> {
            files.iter().map(|(path, (_, size, digest))| (path.clone(), (*size, *digest))).collect()
        };
        assert_eq!(plain(&gnu), plain(&placed), "GNU tar: {what}");
        assert_eq!(plain(&python), plain(&placed), "tarfile: {what}");
        tally::cases(8, "layer tars, in every form that is accepted", 1);
    }
}

/// Base layers and archives that we write ourselves.
#[test]
fn what_we_write_is_what_others_see() {
    if !tools() {
        return;
    }
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, 16 << 20);
        let (bundle, folder) = (fixture.path("b.tar"), fixture.path("b"));
        for (form, path) in [(Form::Tar, &bundle), (Form::Dir, &folder)] {
            let options = fixture.export_options(form, path);
            export(&ExportOptions { compression: Compression::None, ..options }).unwrap();
        }
        let [gnu, python] = readers(&bundle);
        let mut layout = whole_tree(&folder);
        layout.retain(|path, _| !path.ends_with('/'));
        assert_eq!(gnu, layout);
        assert_eq!(python, layout);
        let index = json_file(&folder.join("index.json"));
        let blob = |digest: &serde_json::Value| folder.join("blobs/sha256").join(&digest.as_str().unwrap()[7..]);
        let manifest = json_file(&blob(&index["manifests"][0]["digest"]));
        let [gnu, python] = readers(&blob(&manifest["layers"][0]["digest"]));
        let store = fixture.path("target");
        import_ok(&bundle, &store);
        let placed = match generation {
            snapcask::model::Generation::Final => only_group(&store).join(&fixture.head().identity),
            _ => store.join("snapshots/head"),
        };
        let placed = tree(&placed);
        assert_eq!(gnu, placed);
        assert_eq!(python, placed);
        tally::cases(8, "archives and base layers that we write, of every generation", 2);
    }
}

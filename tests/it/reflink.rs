//! On a filesystem that shares blocks (XFS on a loop device): what parent and child share is not read, what is restored
//! shares again, and neither changes a byte. Needs root; CI has it.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use snapcask::{
    export::{ExportOptions, Form, export},
    layer::clone::{Beneath, clone_contents},
    model::Generation,
};

use crate::fixture::*;

/// XFS refuses to be smaller.
const IMAGE: u64 = 512 << 20;

/// A mounted filesystem, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn xfs(folder: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI runs as root");
            eprintln!("skipped: a loop mount needs root");
            return None;
        }
        let (image, mount) = (folder.join("xfs.img"), folder.join("xfs"));
        File::create(&image).unwrap().set_len(IMAGE).unwrap();
        fs::create_dir(&mount).unwrap();
        sh(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image));
        sh(Command::new("mount").args(["-o", "loop"]).args([&image, &mount]));
        Some(Self(mount))
    }

    fn used(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn sh(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
}

#[test]
fn shared_blocks_change_no_byte_and_stay_shared() {
    let folder = tempfile::TempDir::new().unwrap();
    let Some(xfs) = Mounted::xfs(folder.path()) else { return };
    let size = 64 << 20;
    let base: Vec<Extent> = vec![(0, random(20 << 20, 1)), (40 << 20, random(4 << 20, 2))];
    let change = |i: usize| -> Extent { (((i as u64 * 9) << 20) + 4096, random(5000, 10 + i as u64)) };
    let mut fixture = Fixture::empty(Generation::Flat);
    for i in 0..4 {
        let extents: Vec<Extent> = base.iter().cloned().chain((1..=i).map(change)).collect();
        fixture.add(&format!("s{i}"), i, size, &extents, Value::Null);
    }
    // The same store, each disk a clone of its parent's with the change written into it.
    let store = xfs.0.join("store");
    sh(Command::new("cp").args(["-r", "--sparse=always"]).args([&fixture.store, &store]));
    let disk = |i: usize| store.join(format!("snapshots/s{i}/upper.ext4"));
    for i in 1..4 {
        fs::remove_file(disk(i)).unwrap();
        let (from, to) = (File::open(disk(i - 1)).unwrap(), File::create_new(disk(i)).unwrap());
        rustix::fs::ioctl_ficlone(&to, &from).unwrap();
        let (at, bytes) = change(i);
        // Not synced: what the filesystem says of its blocks must not be taken for what is still in memory.
        to.write_all_at(&bytes, at).unwrap();
    }
    let options = |store: &Path, name: &str| {
        let options = export_options(store, "s3", Form::Tar, &fixture.path(name));
        ExportOptions { with_parents: true, ..options }
    };
    export(&options(&fixture.store, "plain.tar")).unwrap();
    export(&options(&store, "shared.tar")).unwrap();
    assert!(fs::read(fixture.path("plain.tar")).unwrap() == fs::read(fixture.path("shared.tar")).unwrap());

    let before = xfs.used();
    let report = import_ok(&fixture.path("plain.tar"), &xfs.0.join("target"));
    for (made, placed) in fixture.snapshots.iter().rev().zip(&report.snapshots) {
        // Not its holes: XFS reserves more than a block around what is written into a clone.
        assert_eq!(tree(placed.path.as_ref().unwrap()), tree(&made.directory));
    }
    sh(Command::new("sync").arg("-f").arg(&xfs.0));
    let used = xfs.used() - before;
    assert!(used < 40 << 20, "four disks of 24 MiB that share their blocks take {used} bytes");

    // What a clone reads is what was written, also where nothing is shared.
    let copy = File::create_new(fixture.path("copy")).unwrap();
    clone_contents(&Beneath::open(&disk(3)).unwrap(), &copy, Path::new("copy"), size, &|_| Ok(())).unwrap();
    assert_eq!(identity(&fixture.path("copy")), identity(&disk(3)));
}

/// A full snapshot has the layers of the disk snapshot before it in another folder.
#[test]
fn layer_at_another_path_shares_its_blocks() {
    let folder = tempfile::TempDir::new().unwrap();
    let Some(xfs) = Mounted::xfs(folder.path()) else { return };
    let mut fixture = Fixture::empty(Generation::Final);
    let layer = |directory: &Path, path: &str| {
        let path = directory.join(path).join("layer_0123456789abcdef0123456789abcdef.raw");
        write_disk(&path, 64 << 20, &[(1 << 20, random(24 << 20, 5))]);
    };
    for (i, path) in ["layers", "checkpoint/layers", "layers"].into_iter().enumerate() {
        let made = fixture.add(&format!("s{i}"), i, 4096, &[], Value::Null);
        layer(&made.directory, path);
    }
    let bundle = fixture.path("bundle.tar");
    let options = export_options(&fixture.store, "s2", Form::Tar, &bundle);
    export(&ExportOptions { with_parents: true, ..options }).unwrap();
    let before = xfs.used();
    let report = import_ok(&bundle, &xfs.0.join("target"));
    for (made, placed) in fixture.snapshots.iter().rev().zip(&report.snapshots) {
        assert_eq!(tree(placed.path.as_ref().unwrap()), tree(&made.directory));
    }
    sh(Command::new("sync").arg("-f").arg(&xfs.0));
    let used = xfs.used() - before;
    assert!(used < 36 << 20, "three snapshots with one layer of 24 MiB take {used} bytes");
}

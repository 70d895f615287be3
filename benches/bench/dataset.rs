//! A realistic chain of snapshots: ext4 made by the kernel through a loop mount, real files of this machine in it, and in
//! each link the changes that a sandbox makes: packages installed and removed, logs that grow, a database whose pages are
//! touched here and there.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use snapcask::Digest;

const IMAGE_MANIFEST: &[u8] = br#"{"schemaVersion":2,"layers":[]}"#;
/// Pages of the database.
const PAGES: u64 = 5_000;
const PAGE: usize = 4096;

/// A small generator (SplitMix64): the same choices in every run.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(length).collect()
    }
}

/// The chain's shape.
pub struct Shape {
    pub links: usize,
    /// Logical size of a disk, in bytes.
    pub size: u64,
    /// Real files in the first link, in bytes.
    pub base: u64,
    /// Real files added by each later link, in bytes.
    pub added: u64,
}

/// The chain of which the targets speak.
pub const CHAIN: Shape = Shape { links: 10, size: 8 << 30, base: 400 << 20, added: 25 << 20 };

/// The name of a link.
pub fn link(number: usize) -> String {
    format!("link{number:02}")
}

/// Makes the chain in `store`, as `v066` snapshots. Takes root, for loop mounts.
pub fn make_chain(store: &Path, shape: &Shape) {
    let mut random = Random(7);
    let (work, mount) = (store.join("work.img"), store.join("mount"));
    fs::create_dir_all(&mount).unwrap();
    File::create(&work).unwrap().set_len(shape.size).unwrap();
    must(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "nodiscard,lazy_itable_init=1"]).arg(&work));
    let mut parent = None;
    for number in 0..shape.links {
        must(Command::new("mount").args(["-o", "loop,discard"]).arg(&work).arg(&mount));
        let root = mount.join("upper");
        fs::create_dir_all(&root).unwrap();
        if number == 0 {
            copy_files(Path::new("/usr/lib"), &root.join("usr/lib"), shape.base, 40 << 20, &mut random);
        } else {
            copy_files(
                Path::new("/usr/share"),
                &root.join(format!("srv/app{number}")),
                shape.added,
                8 << 20,
                &mut random,
            );
            if number > 3 {
                fs::remove_dir_all(root.join(format!("srv/app{}", number - 3))).unwrap();
            }
            touch(&root, number, &mut random);
        }
        must(&mut Command::new("sync"));
        must(Command::new("fstrim").arg(&mount));
        must(Command::new("umount").arg(&mount));
        let directory = store.join("snapshots").join(link(number));
        fs::create_dir_all(&directory).unwrap();
        must(Command::new("cp").arg("--sparse=always").arg(&work).arg(directory.join("upper.ext4")));
        parent = Some(describe(&directory, &link(number), parent, shape.size, number));
        eprintln!("  made {}", link(number));
    }
    fs::remove_file(&work).unwrap();
    fs::remove_dir(&mount).unwrap();
}

/// A snapshot of `size` logical bytes with `data` bytes of real files, evenly spread in runs of 256 KiB.
pub fn make_spread(store: &Path, name: &str, size: u64, data: u64) {
    const RUN: u64 = 256 << 10;
    let mut random = Random(11);
    let directory = store.join("snapshots").join(name);
    fs::create_dir_all(&directory).unwrap();
    let disk = File::create(directory.join("upper.ext4")).unwrap();
    disk.set_len(size).unwrap();
    let runs = data / RUN;
    // Not all in memory: a child's peak begins with its parent's.
    let mut run = Vec::new();
    let mut number = 0;
    for file in files_below(Path::new("/usr/lib"), 40 << 20, &mut random) {
        let Ok(mut file) = File::open(file) else { continue };
        while number < runs
            && Read::by_ref(&mut file).take(RUN - run.len() as u64).read_to_end(&mut run).is_ok_and(|n| n > 0)
        {
            if run.len() as u64 == RUN {
                disk.write_all_at(&run, (size / runs * number).next_multiple_of(RUN).min(size - RUN)).unwrap();
                run.clear();
                number += 1;
            }
        }
    }
    describe(&directory, name, None, size, 0);
}

/// `count` snapshots that hold next to nothing, in chains of ten.
pub fn make_many(store: &Path, count: usize) -> Digest {
    let mut parent: Option<Digest> = None;
    for number in 0..count {
        let directory = store.join("snapshots").join(format!("s{number:05}"));
        fs::create_dir_all(&directory).unwrap();
        File::create(directory.join("upper.ext4")).unwrap().set_len(1 << 20).unwrap();
        let beneath = parent.filter(|_| number % 10 != 0);
        parent = Some(describe(&directory, &format!("s{number:05}"), beneath, 1 << 20, number));
    }
    parent.unwrap()
}

fn describe(directory: &Path, name: &str, parent: Option<Digest>, size: u64, number: usize) -> Digest {
    let parent = json!(parent);
    let image = Digest::of(IMAGE_MANIFEST);
    // The order of fields is part of the form.
    let text = format!(
        r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"docker.io/library/alpine:3.20","manifest_digest":"{image}"}},"parent":{parent},"created_at":"2026-05-{:02}T12:00:00Z","labels":{{}},"upper":{{"file":"upper.ext4","size_bytes":{size},"integrity":null}},"source_sandbox":"{name}"}}"#,
        number % 28 + 1
    );
    fs::write(directory.join("manifest.json"), &text).unwrap();
    Digest::of(text.as_bytes())
}

fn files_below(folder: &Path, largest: u64, random: &mut Random) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.metadata().is_ok_and(|m| m.len() <= largest) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    random.shuffle(&mut found);
    found
}

fn copy_files(from: &Path, to: &Path, total: u64, largest: u64, random: &mut Random) {
    let mut copied = 0;
    for file in files_below(from, largest, random) {
        if copied > total {
            return;
        }
        let place = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        copied += fs::copy(&file, &place).unwrap_or(0);
    }
}

/// A log that grows and a database whose pages change.
fn touch(root: &Path, number: usize, random: &mut Random) {
    let mut log = OpenOptions::new().create(true).append(true).open(root.join("var.log")).unwrap();
    let mut lines = String::new();
    for line in 0..20_000 {
        lines += &format!("{number} {line} GET /api/{} 200\n", random.below(1 << 40));
    }
    log.write_all(lines.as_bytes()).unwrap();
    let database = root.join("state.db");
    let fresh = !database.exists();
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&database).unwrap();
    for page in 0..if fresh { PAGES } else { 0 } {
        file.write_all_at(&random.bytes(PAGE), page * PAGE as u64).unwrap();
    }
    for _ in 0..500 {
        let page = random.below(PAGES);
        file.write_all_at(&random.bytes(900), page * PAGE as u64 + 512).unwrap();
    }
}

/// Runs a command that must succeed.
pub fn must(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
}

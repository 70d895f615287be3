//! Stores to test with, and what the tests measure of them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use rustix::fs::SeekFrom;
use serde_json::{Value, json};
use snapcask::{
    Digest,
    export::{Compression, Destination, ExportOptions, Form, export},
    import::{BundleLocation, ImportOptions, import},
    model::Generation,
    progress::Silent,
    report::{ExportReport, ImportReport},
    store::{head::HeadRule, index::Index},
};
use tempfile::TempDir;

/// Every generation.
pub const GENERATIONS: [Generation; 3] = [Generation::V066, Generation::Flat, Generation::Final];
/// The chain's names, oldest first.
pub const NAMES: [&str; 3] = ["base", "middle", "head"];
/// The group of `final` snapshots.
pub const GROUP: &str = "web";
/// Logical size of a disk.
pub const DISK: u64 = 64 << 20;
/// Content that is written to a disk at an offset.
pub type Extent = (u64, Vec<u8>);

pub const IMAGE_MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;
pub const IMAGE_CONFIG: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
pub const IMAGE_REFERENCE: &str = "docker.io/library/alpine:3.20";

/// One snapshot of a fixture.
#[derive(Clone, Debug)]
pub struct Made {
    pub name: String,
    pub directory: PathBuf,
    /// The descriptor's file name.
    pub descriptor: &'static str,
    /// How a child names it.
    pub identity: String,
    /// The head disk, in the directory.
    pub disk: String,
}

/// A store in a temporary folder, with a chain of three snapshots and an image cache.
pub struct Fixture {
    pub dir: TempDir,
    pub store: PathBuf,
    pub generation: Generation,
    /// Oldest first.
    pub snapshots: Vec<Made>,
}

impl Fixture {
    pub fn new(generation: Generation) -> Self {
        Self::sized(generation, DISK)
    }

    pub fn sized(generation: Generation, size: u64) -> Self {
        let mut fixture = Self::empty(generation);
        let chain = disks(size);
        for (i, name) in NAMES.iter().enumerate() {
            let extents: Vec<Extent> = chain[..=i].concat();
            let made = fixture.add(name, i, size, &extents, Value::Null);
            let dir = &made.directory;
            write(dir.join("notes.txt"), format!("notes of {name}\n").as_bytes());
            write(dir.join("bin/run.sh"), b"#!/bin/sh\necho run\n");
            chmod(&dir.join("bin/run.sh"), 0o755);
            write(dir.join("empty"), b"");
            let mut state = random(200_000, 77);
            state[150_000] = u8::try_from(i).unwrap();
            write(dir.join("state.bin"), &state);
            if i < 2 {
                write(dir.join("gone-in-head.txt"), b"the head does not have me");
            }
            write(dir.join(".hidden"), b"never travels");
            write(dir.join("disk.lock"), b"never travels");
            if generation == Generation::Final {
                write(dir.join("metadata.json"), format!(r#"{{"labels":{{"name":"{name}"}}}}"#).as_bytes());
            }
        }
        fixture.image_cache();
        fixture
    }

    /// A store without snapshots.
    pub fn empty(generation: Generation) -> Self {
        let dir = TempDir::new().unwrap();
        let store = dir.path().join("store");
        fs::create_dir_all(store.join("snapshots")).unwrap();
        Self { dir, store, generation, snapshots: Vec::new() }
    }

    /// Adds a snapshot whose parent is the last one.
    pub fn add(&mut self, name: &str, i: usize, size: u64, extents: &[Extent], integrity: Value) -> Made {
        let parent = self.snapshots.last().map(|s| s.identity.clone());
        let (file, bytes, identity, disk) = descriptor(self.generation, name, parent.as_deref(), size, i, integrity);
        let snapshots = self.store.join("snapshots");
        let directory = match self.generation {
            Generation::Final => {
                write_group(&snapshots.join(GROUP), Some(&identity));
                let directory = snapshots.join(GROUP).join(&identity);
                write_member(&directory, name);
                directory
            }
            _ => snapshots.join(name),
        };
        write(directory.join(file), &bytes);
        write_disk(&directory.join(&disk), size, extents);
        let made = Made { name: name.into(), directory, descriptor: file, identity, disk };
        self.snapshots.push(made.clone());
        made
    }

    pub fn head(&self) -> &Made {
        self.snapshots.last().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The cache of one image, and what must not travel.
    fn image_cache(&self) {
        let cache = self.store.join("cache");
        let manifest = Digest::of(IMAGE_MANIFEST.as_bytes());
        let hex = manifest.hex();
        let mut layers = Vec::new();
        let mut vmdk = String::from(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n",
        );
        let mut extent = |path: &Path, bytes: &[u8]| {
            write(path.to_path_buf(), bytes);
            vmdk.push_str(&format!("RW {} FLAT \"{}\" 0\n", bytes.len() / 512, path.display()));
        };
        extent(&cache.join(format!("fsmeta/sha256_{hex}.erofs")), &random(16 << 10, 501));
        for i in 0..2u64 {
            let diff = Digest::of(format!("diff {i}").as_bytes());
            let mut bytes = random(96 << 10, 510 + i);
            bytes[20_480..53_248].fill(0);
            extent(&cache.join(format!("layers/sha256_{}.erofs", diff.hex())), &bytes);
            layers.push(json!({
                "digest": Digest::of(format!("layer {i}").as_bytes()),
                "media_type": "application/vnd.oci.image.layer.v1.tar+gzip",
                "size_bytes": 1234,
                "diff_id": diff,
            }));
        }
        write(cache.join(format!("vmdk/sha256_{hex}.vmdk")), vmdk.as_bytes());
        let metadata = json!({
            "manifest_digest": manifest,
            "config_digest": Digest::of(IMAGE_CONFIG.as_bytes()),
            "raw_manifest_json": IMAGE_MANIFEST,
            "raw_config_json": IMAGE_CONFIG,
            "config": {},
            "layers": layers,
        });
        let name = Digest::of(IMAGE_REFERENCE.as_bytes()).hex();
        write(cache.join(format!("manifests/{name}.json")), metadata.to_string().as_bytes());
        for foreign in [
            format!("layers/sha256_{}.erofs", Digest::of(b"foreign").hex()),
            format!("layers/sha256_{}.lock", Digest::of(b"foreign").hex()),
            format!("vmdk/sha256_{hex}.lock"),
            "tmp/half.erofs".into(),
            format!("fsmeta/sha256_{}.erofs", Digest::of(b"foreign").hex()),
        ] {
            write(cache.join(foreign), b"foreign");
        }
    }

    /// Export of the head as a directory, without parents and image.
    pub fn export_options(&self, form: Form, destination: &Path) -> ExportOptions {
        export_options(&self.store, "head", form, destination)
    }

    /// The chain with the image, exported.
    pub fn export_chain(&self, form: Form, destination: &Path) -> ExportReport {
        let options = ExportOptions { with_parents: true, with_image: true, ..self.export_options(form, destination) };
        export(&options).unwrap()
    }
}

/// The files of a group as msb 0.7 writes them.
pub fn write_group(folder: &Path, head: Option<&str>) {
    let state = json!({ "schema": "microsandbox.snapshot-group/1", "head": head });
    write(folder.join("group.json"), state.to_string().as_bytes());
    write(folder.join(".group.lock"), b"");
}

/// The files in a folder, without the folder of msb's locks; none where it is missing.
pub fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

/// A member's name as msb 0.7 writes it.
pub fn write_member(directory: &Path, name: &str) {
    let state = json!({ "schema": "microsandbox.snapshot-group-member/1", "name": name });
    write(directory.join("group-member.json"), state.to_string().as_bytes());
}

/// A group's name for imports of this generation.
pub fn group_for(generation: Generation) -> Option<String> {
    (generation == Generation::Final).then(|| GROUP.into())
}

/// Whether a name is that of a file that msb locks, or of their folder: they hold nothing, and stay for ever.
pub fn is_lock_of_msb(name: &OsStr) -> bool {
    matches!(name.to_str(), Some(".msb-leases" | ".groups.lock" | ".group.lock"))
}

/// The only group in the snapshots folder of a store.
pub fn only_group(store: &Path) -> PathBuf {
    let is_group = |path: &PathBuf| path.join("group.json").is_file();
    let folders = fs::read_dir(store.join("snapshots")).unwrap().map(|entry| entry.unwrap().path());
    let groups: Vec<PathBuf> = folders.filter(is_group).collect();
    assert_eq!(groups.len(), 1, "{groups:?}");
    groups[0].clone()
}

/// Makes the image's tag mean a newer image in a store's cache, which has the metadata of the fixture's under any key; the
/// tag's path.
pub fn metadata_of_a_newer_image(store: &Path) -> PathBuf {
    let folder = store.join("cache/manifests");
    let mut newer = json_file(&files_in(&folder)[0]);
    let path = folder.join(format!("{}.json", Digest::of(IMAGE_REFERENCE.as_bytes()).hex()));
    let raw = r#"{"schemaVersion":2,"layers":[],"newer":true}"#;
    newer["raw_manifest_json"] = raw.into();
    newer["manifest_digest"] = Digest::of(raw.as_bytes()).to_string().into();
    fs::write(&path, newer.to_string()).unwrap();
    path
}

pub fn export_options(store: &Path, snapshot: &str, form: Form, destination: &Path) -> ExportOptions {
    ExportOptions {
        store: store.into(),
        snapshot: snapshot.into(),
        destination: Destination::Path(destination.into()),
        form,
        with_parents: false,
        with_image: false,
        since: Vec::new(),
        delta: true,
        compression: Compression::Zstd(3),
        tag: None,
        force: false,
        jobs: 2,
        progress: Arc::new(Silent),
    }
}

pub fn import_options(source: &Path, store: &Path) -> ImportOptions {
    ImportOptions {
        sources: vec![BundleLocation::path(source.into())],
        bases: Vec::new(),
        store: store.into(),
        dest: None,
        tag: None,
        name: None,
        head_only: false,
        group: None,
        head: HeadRule::Automatic,
        force: false,
        orphan_children: false,
        trust_image_tags: false,
        skip_recorded: false,
        verify_source: false,
        max_bytes: None,
        max_files: 100_000,
        jobs: 2,
        index: Index::Off,
        progress: Arc::new(Silent),
    }
}

pub fn import_ok(source: &Path, store: &Path) -> ImportReport {
    import(&import_options(source, store)).unwrap()
}

/// What each snapshot of the chain writes over its parent's disk.
fn disks(size: u64) -> Vec<Vec<Extent>> {
    let mut mixed = random(56 << 10, 3);
    mixed[32 << 10..40 << 10].fill(0);
    let base = vec![
        (0, random(70_000, 1)),
        (1 << 20, b"all work and no play makes a dull block. ".repeat(3000)),
        ((3 << 20) + 1234, random(50_000, 2)),
        (8 << 20, mixed),
        (size - 777, random(777, 4)),
    ];
    let middle = vec![(8192, random(10_000, 5)), (1 << 20, vec![0; 64 << 10]), ((10 << 20) + 4095, random(40_002, 6))];
    let head = vec![(4096, random(4096, 7)), (8 << 20, vec![0; 56 << 10]), (12 << 20, random(1, 8))];
    vec![base, middle, head]
}

/// A descriptor: file name, bytes, the identity that children use, and the payload's path.
pub fn descriptor(
    generation: Generation,
    name: &str,
    parent: Option<&str>,
    size: u64,
    i: usize,
    integrity: Value,
) -> (&'static str, Vec<u8>, String, String) {
    let created = format!("2026-05-{:02}T12:00:00Z", i + 1);
    let image = Digest::of(IMAGE_MANIFEST.as_bytes());
    let parent = serde_json::to_string(&parent).unwrap();
    match generation {
        Generation::V066 => {
            let text = format!(
                r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"{IMAGE_REFERENCE}","manifest_digest":"{image}"}},"parent":{parent},"created_at":"{created}","labels":{{}},"upper":{{"file":"upper.ext4","size_bytes":{size},"integrity":{integrity}}},"source_sandbox":"{name}"}}"#
            );
            let digest = Digest::of(text.as_bytes()).to_string();
            ("manifest.json", text.into_bytes(), digest, "upper.ext4".into())
        }
        Generation::Flat => {
            let text = format!(
                r#"{{"schema":1,"artifact":"snapshot","scope":"disk","created_at":"{created}","parent":{parent},"image":{{"ref":"{IMAGE_REFERENCE}","manifest_digest":"{image}"}},"source_sandbox":"{name}","state":{{"kind":"file","format":"raw","fstype":"ext4","upper":{{"file":"upper.ext4","size_bytes":{size},"integrity":{integrity}}}}},"labels":{{}},"extensions":{{}},"requires":[]}}"#
            );
            let digest = Digest::of(text.as_bytes()).to_string();
            ("snapshot.json", text.into_bytes(), digest, "upper.ext4".into())
        }
        Generation::Final => {
            let id = format!("snap_{}", &Digest::of(format!("s{name}").as_bytes()).hex()[..32]);
            let layer = format!("layer_{}", &Digest::of(format!("l{name}").as_bytes()).hex()[..32]);
            let document = json!({
                "schema": "microsandbox.snapshot/1", "snapshot_id": id, "scope": "file",
                "state": {"kind": "file", "disk_format": "raw", "filesystem": "ext4", "virtual_size": size, "head": layer,
                    "layers": [{"layer_id": layer, "format": "raw", "virtual_size": size, "backing": null,
                        "payload": {"file_kind": "regular", "integrity": integrity}}]},
                "capture": {"created_at": created, "source_lineage": name, "source_checkpoint": null,
                    "consistency": "crash-consistent"},
                "image": {"reference": IMAGE_REFERENCE, "manifest_digest": image},
                "root_disk": {"layout": "managed"},
                "parent": serde_json::from_str::<Value>(&parent).unwrap(), "requires": [], "extensions": {},
            });
            ("snapshot.json", document.to_string().into_bytes(), id, format!("layers/{layer}.raw"))
        }
    }
}

/// Writes a file and the folders above it.
pub fn write(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A sparse file with these extents, later ones over earlier ones.
pub fn write_disk(path: &Path, size: u64, extents: &[Extent]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in extents {
        assert!(at + bytes.len() as u64 <= size, "the extent at {at} is outside of the disk");
        file.write_all_at(bytes, *at).unwrap();
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// What a file is: executable, size, and the SHA-256 of its blocks that are not zero with their offsets.
pub type Identity = (bool, u64, Digest);

/// Every file that travels.
pub fn tree(root: &Path) -> BTreeMap<String, Identity> {
    walk(root, false)
}

/// Everything, folders and bookkeeping too.
pub fn whole_tree(root: &Path) -> BTreeMap<String, Identity> {
    walk(root, true)
}

fn walk(root: &Path, whole: bool) -> BTreeMap<String, Identity> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if is_lock_of_msb(name.as_ref()) {
                continue;
            }
            let bookkeeping = name.starts_with('.')
                || name.ends_with(".lock")
                || matches!(name.as_str(), "group.json" | "group-member.json");
            if bookkeeping && !whole {
                continue;
            }
            let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                if whole {
                    found.insert(format!("{relative}/"), (false, 0, Digest::of(b"folder")));
                }
                folders.push(path);
            } else {
                found.insert(relative, identity(&path));
            }
        }
    }
    found
}

pub fn identity(path: &Path) -> Identity {
    let meta = fs::symlink_metadata(path).unwrap();
    assert!(meta.is_file(), "{} is no regular file", path.display());
    (meta.mode() & 0o100 != 0, meta.len(), content_digest(path))
}

/// SHA-256 over the size and, in order, each 4 KiB block that is not zero with its number.
fn content_digest(path: &Path) -> Digest {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut hasher = snapcask::digest::Hasher::new();
    hasher.update(&size.to_le_bytes());
    let mut buffer = vec![0; 1 << 20];
    for (start, end) in data_extents(&file) {
        // From a block's begin; an extent that begins in one never shares it with the extent before.
        let mut at = start / 4096 * 4096;
        while at < end {
            let want = buffer.len().min(usize::try_from(end.div_ceil(4096) * 4096 - at).unwrap());
            let want = want.min(usize::try_from(size - at).unwrap());
            file.read_exact_at(&mut buffer[..want], at).unwrap();
            for block in buffer[..want].chunks(4096) {
                if block.iter().any(|b| *b != 0) {
                    hasher.update(&at.to_le_bytes());
                    hasher.update(block);
                }
                at += block.len() as u64;
            }
        }
    }
    hasher.finish()
}

/// The data extents that the filesystem reports.
pub fn data_extents(file: &File) -> Vec<(u64, u64)> {
    let size = file.metadata().unwrap().len();
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(at)) else { break };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap();
        found.push((start, end));
        at = end;
    }
    found
}

pub fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// The copy takes no more disk than the source, but for a block an extent and the filesystem's own.
pub fn assert_holes_kept(source: &Path, copy: &Path) {
    let extents = data_extents(&File::open(source).unwrap()).len() as u64;
    let most = allocated(source) + 4096 * extents + (64 << 10);
    assert!(allocated(copy) <= most, "{} takes {} bytes, over {most}", copy.display(), allocated(copy));
}

/// The same files, byte for byte, with their descriptor and their holes.
pub fn assert_same_snapshot(source: &Made, copy: &Path) {
    assert_eq!(tree(&source.directory), tree(copy), "files of {}", source.name);
    let read = |d: &Path| fs::read(d.join(source.descriptor)).unwrap();
    assert_eq!(read(&source.directory), read(copy), "descriptor of {}", source.name);
    assert_holes_kept(&source.directory.join(&source.disk), &copy.join(&source.disk));
}

/// The command, with nothing of the caller's environment that could matter.
pub fn command<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snapcask"));
    command.args(arguments).env_remove("MSB_HOME").env_remove("MSB").stdin(Stdio::null());
    command
}

/// Runs the command.
pub fn run<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    command(arguments).output().unwrap()
}

/// Runs the command with these bytes on standard input.
pub fn run_with_input<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>, input: &[u8]) -> Output {
    let mut command = command(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts the exit code and returns standard error.
#[track_caller]
pub fn fails(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
    stderr(output)
}

/// Asserts success and returns standard output.
#[track_caller]
pub fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
    stdout(output)
}

/// The hex names of a layout directory's blobs, sorted.
pub fn blobs(layout: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(layout.join("blobs/sha256"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn form_name(form: Form) -> &'static str {
    match form {
        Form::Dir => "bundle/",
        Form::Tar => "bundle.tar",
        Form::TarZst => "bundle.tar.zst",
        Form::Registry => "registry",
    }
}

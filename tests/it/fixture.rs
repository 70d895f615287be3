//! Stores made for tests: chains of three snapshots in every generation, with an image in the cache.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use snapcask::{
    Digest,
    export::{Compression, Destination, ExportOptions, Form},
    import::{BundleLocation, ImportOptions},
    model::Generation,
    progress::Silent,
};

pub const SIZE: u64 = 64 << 20;
pub const NAMES: [&str; 3] = ["base", "middle", "head"];
pub const ALL: [Generation; 3] = [Generation::V066, Generation::Flat, Generation::Final];
const IMAGE: &str = "docker.io/library/alpine:3.20";
const RAW_MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;
const RAW_CONFIG: &str = r#"{"architecture":"amd64","os":"linux"}"#;

/// Bytes that follow from the seed; every other block compresses well.
pub fn data(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = if out.len() / 4096 % 2 == 0 { state } else { state & 0x0101_0101_0101_0101 | 0x20 };
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// A store in a folder that vanishes.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub store: PathBuf,
    pub generation: Generation,
    /// base, middle, head
    pub snapshots: Vec<PathBuf>,
}

impl Fixture {
    pub fn new(generation: Generation) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let mut fixture = Self { folder, store, generation, snapshots: Vec::new() };
        fixture.image();
        let mut parent = None;
        for i in 0..3 {
            parent = Some(fixture.snapshot(i, parent.as_deref()));
        }
        fixture
    }

    pub fn disk_name(generation: Generation, i: usize) -> String {
        match generation {
            Generation::Final => format!("layers/layer_{:032x}.raw", i + 1),
            _ => "upper.ext4".into(),
        }
    }

    fn snapshot(&mut self, i: usize, parent: Option<&str>) -> String {
        let snapshots = self.store.join("snapshots");
        let id = format!("snap_{:032x}", i + 1);
        let directory = match self.generation {
            Generation::Final => snapshots.join("group").join(&id),
            _ => snapshots.join(NAMES[i]),
        };
        fs::create_dir_all(&directory).unwrap();
        let disk = directory.join(Self::disk_name(self.generation, i));
        fs::create_dir_all(disk.parent().unwrap()).unwrap();
        if i > 0 {
            let below = self.snapshots[i - 1].join(Self::disk_name(self.generation, i - 1));
            run(Command::new("cp").args(["--sparse=always"]).args([&below, &disk]));
        }
        let file = File::options().create(true).write(true).truncate(false).open(&disk).unwrap();
        file.set_len(SIZE).unwrap();
        let put = |offset: u64, bytes: &[u8]| file.write_all_at(bytes, offset).unwrap();
        match i {
            0 => {
                put(0, &data(1, 100_000));
                put(5_000_000, &data(2, 300_001));
                put(20 << 20, &vec![0; 3 * 4096]);
                put((20 << 20) + 4096 * 3, &data(3, 4096));
                put(SIZE - 5000, &data(4, 5000));
            }
            1 => {
                put(8192, &data(10, 4096));
                put(5_000_000, &[0; 20_480]);
                put(40 << 20, &data(11, 70_000));
            }
            _ => put(12_288, &data(20, 12_288)),
        }
        fs::write(directory.join("notes.txt"), format!("notes {i}")).unwrap();
        let tool = directory.join("hook.sh");
        fs::write(&tool, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.join(".local"), "never travels").unwrap();
        fs::write(directory.join("x.lock"), "never travels").unwrap();
        let manifest = Digest::of(RAW_MANIFEST.as_bytes());
        let created = format!("2026-05-0{}T12:00:00Z", i + 1);
        let parent_json = parent.map_or("null".into(), |p| format!("\"{p}\""));
        let name = NAMES[i];
        let (file, text) = match self.generation {
            Generation::V066 => (
                "manifest.json",
                format!(
                    r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"{IMAGE}","manifest_digest":"{manifest}"}},"parent":{parent_json},"created_at":"{created}","labels":{{"a":"b"}},"upper":{{"file":"upper.ext4","size_bytes":{SIZE},"integrity":null}},"source_sandbox":"{name}"}}"#
                ),
            ),
            Generation::Flat => (
                "snapshot.json",
                format!(
                    r#"{{"schema":1,"artifact":"snapshot","scope":"disk","created_at":"{created}","parent":{parent_json},"image":{{"ref":"{IMAGE}","manifest_digest":"{manifest}"}},"source_sandbox":"{name}","state":{{"kind":"file","format":"raw","fstype":"ext4","upper":{{"file":"upper.ext4","size_bytes":{SIZE},"integrity":null}}}},"labels":{{}},"extensions":{{}},"requires":[]}}"#
                ),
            ),
            Generation::Final => {
                fs::write(directory.join("group-member.json"), format!(r#"{{"alias":"{name}"}}"#)).unwrap();
                fs::write(directory.join("metadata.json"), r#"{"labels":{"a":"b"}}"#).unwrap();
                fs::write(snapshots.join("group/group.json"), r#"{"name":"group"}"#).unwrap();
                let layer = format!("layer_{:032x}", i + 1);
                (
                    "snapshot.json",
                    format!(
                        r#"{{"capture":{{"consistency":"crash-consistent","created_at":"{created}","source_checkpoint":null,"source_lineage":"{name}"}},"extensions":{{}},"image":{{"manifest_digest":"{manifest}","reference":"{IMAGE}"}},"parent":{parent_json},"requires":[],"root_disk":{{"layout":"managed"}},"schema":"microsandbox.snapshot/1","scope":"file","snapshot_id":"{id}","state":{{"disk_format":"raw","filesystem":"ext4","head":"{layer}","kind":"file","layers":[{{"backing":null,"format":"raw","layer_id":"{layer}","payload":{{"file_kind":"regular","integrity":null}},"virtual_size":{SIZE}}}],"virtual_size":{SIZE}}}}}"#
                    ),
                )
            }
        };
        fs::write(directory.join(file), &text).unwrap();
        self.snapshots.push(directory.clone());
        let snapshot = snapcask::snapshot::Snapshot::open(&directory).unwrap();
        match self.generation {
            Generation::Final => id,
            _ => snapshot.descriptor.digest.to_string(),
        }
    }

    fn image(&self) {
        let cache = fs::canonicalize(self.folder.path()).unwrap().join("store/cache");
        let layer = data(77, 50_000);
        let (diff_id, manifest) = (Digest::of(&layer), Digest::of(RAW_MANIFEST.as_bytes()));
        let metadata = serde_json::json!({
            "manifest_digest": manifest, "config_digest": Digest::of(RAW_CONFIG.as_bytes()),
            "raw_manifest_json": RAW_MANIFEST, "raw_config_json": RAW_CONFIG, "config": {},
            "layers": [{"digest": diff_id, "media_type": "x", "size_bytes": 50_000, "diff_id": diff_id}],
        });
        let (m, d) = (manifest.hex(), diff_id.hex());
        let put = |path: String, bytes: Vec<u8>| {
            let path = cache.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put(format!("manifests/{}.json", Digest::of(IMAGE.as_bytes()).hex()), metadata.to_string().into_bytes());
        put(format!("layers/sha256_{d}.erofs"), layer);
        put(format!("fsmeta/sha256_{m}.erofs"), data(78, 4096));
        let c = cache.display();
        put(
            format!("vmdk/sha256_{m}.vmdk"),
            format!("# x\nRW 8 FLAT \"{c}/fsmeta/sha256_{m}.erofs\" 0\nRW 98 FLAT \"{c}/layers/sha256_{d}.erofs\" 0\n")
                .into(),
        );
        // What must not travel.
        put("layers/sha256_other.erofs".into(), vec![1]);
        put(format!("layers/sha256_{d}.erofs.lock"), vec![1]);
        put("tmp/x".into(), vec![1]);
    }

    pub fn head(&self) -> &'static str {
        match self.generation {
            Generation::Final => "group:head",
            _ => "head",
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn export_options(&self, destination: &Path, form: Form) -> ExportOptions {
        ExportOptions {
            store: self.store.clone(),
            snapshot: self.head().into(),
            destination: Destination::Path(destination.into()),
            form,
            with_parents: true,
            with_image: true,
            delta: true,
            compression: Compression::Zstd(3),
            tag: None,
            force: false,
            jobs: 2,
            progress: Arc::new(Silent),
        }
    }
}

pub fn import_options(source: &Path, store: &Path) -> ImportOptions {
    ImportOptions {
        source: BundleLocation::Path(source.into()),
        store: store.into(),
        dest: None,
        tag: None,
        name: None,
        head_only: false,
        group: None,
        force: false,
        skip_recorded: false,
        max_bytes: None,
        max_files: 1000,
        jobs: 2,
        progress: Arc::new(Silent),
    }
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a tree holds: path -> (executable, size, digest). Missing trees are empty.
pub fn tree(folder: &Path) -> BTreeMap<String, (bool, u64, String)> {
    let mut all = BTreeMap::new();
    walk(folder, folder, &mut all);
    all
}

fn walk(root: &Path, folder: &Path, all: &mut BTreeMap<String, (bool, u64, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if meta.is_dir() {
            all.insert(format!("{name}/"), (false, 0, String::new()));
            walk(root, &path, all);
        } else {
            let digest = Digest::of(&fs::read(&path).unwrap()).to_string();
            all.insert(name, (meta.mode() & 0o100 != 0, meta.len(), digest));
        }
    }
}

/// The files that travel of a snapshot directory.
pub fn travelling(directory: &Path) -> BTreeMap<String, (bool, u64, String)> {
    let mut all = tree(directory);
    all.retain(|name, _| {
        let last = name.trim_end_matches('/').rsplit('/').next().unwrap();
        !name.ends_with('/') && !last.starts_with('.') && !last.ends_with(".lock") && last != "group-member.json"
    });
    all
}

pub fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

//! `verify` of bundles whose every digest holds and whose documents ask for too much, or say what an import refuses.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use serde_json::{Value, json};
use snapcask::{
    Digest,
    check_bundle::{VerifyOptions, verify},
    export::Form,
    import::{BundleLocation, ImportOptions, import},
    media_type,
    model::Generation,
    progress::Silent,
    report::VerifyReport,
};

use crate::fixture::*;

const DISK: &str = "upper.ext4";
const ROOT: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A tar header.
fn header(name: &str, kind: u8, stored: u64, sparse: Option<(u64, &[(u64, u64)])>) -> Vec<u8> {
    let number = |value: u64| {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
        field
    };
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    for (at, text) in
        [(100, "0000644\0"), (108, "0000000\0"), (116, "0000000\0"), (148, "        "), (257, "ustar  \0")]
    {
        header[at..at + 8].copy_from_slice(text.as_bytes());
    }
    header[124..136].copy_from_slice(&number(stored));
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = kind;
    if let Some((size, segments)) = sparse {
        for (slot, (offset, length)) in header[386..482].chunks_exact_mut(24).zip(segments) {
            slot[..12].copy_from_slice(&number(*offset));
            slot[12..].copy_from_slice(&number(*length));
        }
        header[483..495].copy_from_slice(&number(size));
    }
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut entry = [header(name, b'0', bytes.len() as u64, None), bytes.to_vec()].concat();
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn hole(name: &str, size: u64) -> Vec<u8> {
    header(name, b'S', 0, Some((size, &[(size, 0)])))
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

fn describes(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

fn row(path: &str, size: u64, data_bytes: u64) -> Value {
    json!({ "path": path, "executable": false, "size": size, "dataBytes": data_bytes, "root": ROOT })
}

/// A layout directory being made.
struct Layout {
    bundle: std::path::PathBuf,
    entries: Vec<Value>,
}

impl Layout {
    fn new(bundle: &Path) -> Self {
        write(bundle.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
        Self { bundle: bundle.into(), entries: Vec::new() }
    }

    fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        write(self.bundle.join("blobs/sha256").join(digest.hex()), bytes);
        digest
    }

    fn index(&self) {
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": self.entries });
        write(self.bundle.join("index.json"), index.to_string().as_bytes());
    }

    /// Adds a snapshot; `stack` are its layers' records, `layers` their descriptors.
    fn snapshot(&mut self, name: &str, descriptor: &[u8], disk: u64, files: Value, stack: &[Value], layers: &[Value]) {
        let parsed: Value = serde_json::from_slice(descriptor).unwrap();
        let config = json!({
            "schemaVersion": 1,
            "snapshot": { "generation": "flat", "digest": Digest::of(descriptor), "name": name,
                "createdAt": parsed["created_at"],
                "image": { "reference": parsed["image"]["ref"], "manifestDigest": parsed["image"]["manifest_digest"] },
                "format": "raw", "virtualSize": disk, "descriptor": "snapshot.json", "disk": DISK },
            "files": files, "layers": stack,
        })
        .to_string()
        .into_bytes();
        self.put(&config);
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type::MANIFEST, "artifactType": media_type::ARTIFACT,
            "config": describes(media_type::CONFIG, &config), "layers": layers })
            .to_string()
            .into_bytes();
        self.put(&manifest);
        let mut entry = describes(media_type::MANIFEST, &manifest);
        entry["annotations"] = json!({ media_type::REF_NAME: name });
        self.entries.push(entry);
        self.index();
    }
}

fn descriptor_of(name: &str, disk: u64) -> Vec<u8> {
    descriptor(Generation::Flat, name, None, disk, 0, Value::Null).1
}

fn layer(kind: &str, blob: &[u8], descriptor: &[u8], base: bool) -> Value {
    let mut disk = json!({ "path": DISK });
    if base {
        disk["base"] = json!(DISK);
    }
    json!({ "kind": kind, "digest": Digest::of(blob), "snapshot": Digest::of(descriptor),
        "files": [{ "path": "snapshot.json" }, disk] })
}

fn verified(bundle: &Path, deep: bool, head_only: bool) -> VerifyReport {
    let source = BundleLocation::path(bundle.into());
    verify(&VerifyOptions { source, bases: Vec::new(), deep, head_only, jobs: 2, progress: Arc::new(Silent) }).unwrap()
}

#[track_caller]
fn finds(report: &VerifyReport, code: &str, text: &str) {
    let found = report.findings.iter().any(|f| f.code == code && f.message.contains(text));
    assert!(found, "no {code} with {text:?} in {:#?}", report.findings);
}

/// Runs `snapcask`, and gives its exit code, its output and its peak memory.
fn watched(arguments: &[&str], folder: &Path) -> (Option<i32>, String, u64) {
    let mut child =
        command(arguments).env("TMPDIR", folder).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::read_to_string(&mut stdout).unwrap());
    let mut memory = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|text| text.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0);
        memory = memory.max(kib << 10);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    (child.wait().unwrap().code(), reader.join().unwrap(), memory)
}

/// A disk that is kept whole for the delta over it, which changes its size; the table declares none of its data.
#[test]
fn no_more_is_kept_than_the_table_declares() {
    let temp = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&temp.path().join("bundle"));
    let size: u64 = 256 << 20;
    let (first, second) = (descriptor_of("a", size), descriptor_of("b", size + 4096));
    let data = frame(&vec![b'A'; 4 << 20]).repeat((size >> 22) as usize);
    let head = frame(&[file("snapshot.json", &first), header(DISK, b'0', size, None)].concat());
    let base = [head, data, frame(&[0; 1024])].concat();
    let delta = frame(&[file("snapshot.json", &second), hole(DISK, size + 4096), vec![0; 1024]].concat());
    layout.put(&base);
    layout.put(&delta);
    let stack = [layer("base", &base, &first, false), layer("delta", &delta, &second, true)];
    let layers = [describes(media_type::LAYER_ZSTD, &base), describes(media_type::DELTA_ZSTD, &delta)];
    let files = |descriptor: &[u8], size| {
        let length = descriptor.len() as u64;
        json!([row("snapshot.json", length, length), row(DISK, size, 0)])
    };
    layout.snapshot("a", &first, size, files(&first, size), &stack[..1], &layers[..1]);
    layout.snapshot("b", &second, size + 4096, files(&second, size + 4096), &stack, &layers);
    let report = verified(&layout.bundle, true, false);
    finds(&report, "limit-exceeded", "the data of upper.ext4, as the file table declares it, is ");
    assert!(!report.decoded);
    assert!(report.findings.iter().all(|f| f.code == "limit-exceeded"), "{:#?}", report.findings);
}

/// Deltas that claim one segment of terabytes, many of them: what is kept in mind is the claim, not what it would fill.
#[test]
fn claims_of_terabytes_cost_no_memory() {
    let temp = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&temp.path().join("bundle"));
    let size: u64 = 4 << 40;
    for chain in 0..8 {
        let (mut stack, mut layers) = (Vec::new(), Vec::new());
        for depth in 0..20 {
            let name = format!("s{chain}-{depth}");
            let descriptor = descriptor_of(&name, size);
            let (kind, disk) = match depth {
                0 => ("base", [hole(DISK, size), vec![0; 1024]].concat()),
                // The data is not there.
                _ => ("delta", header(DISK, b'S', size, Some((size, &[(0, size)])))),
            };
            let blob = [file("snapshot.json", &descriptor), disk].concat();
            layout.put(&blob);
            stack.push(layer(kind, &blob, &descriptor, depth > 0));
            layers.push(describes(if depth == 0 { media_type::LAYER_TAR } else { media_type::DELTA_TAR }, &blob));
            let length = descriptor.len() as u64;
            let files = json!([row("snapshot.json", length, length), row(DISK, size, 0)]);
            layout.snapshot(&name, &descriptor, size, files, &stack, &layers);
        }
    }
    let (code, text, memory) = watched(&["verify", "--deep", layout.bundle.to_str().unwrap()], temp.path());
    assert_eq!(code, Some(3), "{text}");
    assert!(memory > 0 && memory < 128 << 20, "{memory} bytes of memory");
}

/// Many manifests around one large config: its size is counted each time, and stops what would hold all of them.
#[test]
fn many_manifests_around_one_config() {
    let temp = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&temp.path().join("bundle"));
    let descriptor = descriptor_of("a", 8192);
    let blob = [file("snapshot.json", &descriptor), hole(DISK, 8192), vec![0; 1024]].concat();
    layout.put(&blob);
    let length = descriptor.len() as u64;
    let mut rows: Vec<Value> = (0..25_000).map(|i| row(&format!("f/{i:05}"), 1, 1)).collect();
    rows.extend([row("snapshot.json", length, length), row(DISK, 8192, 0)]);
    rows.sort_by_key(|row| row["path"].as_str().unwrap().to_owned());
    let stack = [layer("base", &blob, &descriptor, false)];
    layout.snapshot("a", &descriptor, 8192, json!(rows), &stack, &[describes(media_type::LAYER_TAR, &blob)]);
    let path = |entry: &Value| layout.bundle.join("blobs/sha256").join(&entry["digest"].as_str().unwrap()[7..]);
    let manifest = json_file(&path(&layout.entries[0]));
    let config = manifest["config"]["size"].as_u64().unwrap();
    assert!(config > 3 << 20, "{config}");
    for i in 0..60 {
        let mut other = manifest.clone();
        other["annotations"] = json!({ "n": i.to_string() });
        let bytes = other.to_string().into_bytes();
        layout.put(&bytes);
        layout.entries.push(describes(media_type::MANIFEST, &bytes));
    }
    layout.index();
    let report = verified(&layout.bundle, false, false);
    finds(&report, "limit-exceeded", "the size of all manifests and configs in the bundle is ");
    assert!(
        report.findings.iter().any(|f| f.message.ends_with("over the limit of 134217728")),
        "{:#?}",
        report.findings
    );
    let bundle = layout.bundle.to_str().unwrap();
    let copy = temp.path().join("copy.tar");
    for arguments in [vec!["inspect", bundle, "--json"], vec!["copy", bundle, copy.to_str().unwrap()]] {
        let (code, _, memory) = watched(&arguments, temp.path());
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(memory < 256 << 20, "{memory} bytes of memory");
    }
}

/// A good bundle of one snapshot.
fn one(bundle: &Path) -> (Layout, Value) {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let options = fixture.export_options(Form::Dir, bundle);
    snapcask::export::export(&options).unwrap();
    let layout = Layout {
        bundle: bundle.into(),
        entries: json_file(&bundle.join("index.json"))["manifests"].as_array().unwrap().clone(),
    };
    let digest = layout.entries[0]["digest"].as_str().unwrap()[7..].to_owned();
    let manifest = json_file(&bundle.join("blobs/sha256").join(digest));
    (layout, manifest)
}

/// Sizes near 2^63, whose sum is more than a number can hold.
#[test]
fn sizes_whose_sum_overflows() {
    let temp = tempfile::tempdir().unwrap();
    let (mut layout, mut manifest) = one(&temp.path().join("bundle"));
    for i in 0..3 {
        manifest["layers"][0]["size"] = json!(i64::MAX);
        manifest["layers"][0]["digest"] = json!(Digest::of(&[i]));
        let bytes = manifest.to_string().into_bytes();
        layout.put(&bytes);
        layout.entries.push(describes(media_type::MANIFEST, &bytes));
    }
    layout.index();
    let report = verified(&layout.bundle, true, false);
    assert_eq!(report.blob_bytes, u64::MAX);
    finds(&report, "blob-missing", "is missing");
    assert!(!report.decoded);
}

/// The same of two layers that the documents agree on: `copy` and `inspect` add them up, too.
#[test]
fn declared_sizes_that_copy_and_inspect_add_up() {
    let temp = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&temp.path().join("bundle"));
    for name in ["a", "b", "c"] {
        let descriptor = descriptor_of(name, 8192);
        let length = descriptor.len() as u64;
        let blob = [file("snapshot.json", &descriptor), hole(DISK, 8192), vec![0; 1024]].concat();
        layout.put(&blob);
        let mut described = describes(media_type::LAYER_TAR, &blob);
        described["size"] = json!(i64::MAX);
        let files = json!([row("snapshot.json", length, length), row(DISK, 8192, 0)]);
        layout.snapshot(name, &descriptor, 8192, files, &[layer("base", &blob, &descriptor, false)], &[described]);
    }
    let bundle = layout.bundle.to_str().unwrap();
    let report: Value = serde_json::from_str(&succeeds(&run(["inspect", bundle, "--json"]))).unwrap();
    assert_eq!(report["blobBytes"], json!(u64::MAX));
    let copy = temp.path().join("copy.tar");
    assert!(
        fails(&run(["copy", bundle, copy.to_str().unwrap()]), 3).contains("its descriptor says 9223372036854775807")
    );
}

/// Two manifests that give one layer different sizes: each import believes its own.
#[test]
fn one_layer_of_two_sizes() {
    for right_first in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let (mut layout, mut manifest) = one(&temp.path().join("bundle"));
        let size = manifest["layers"][0]["size"].as_u64().unwrap();
        manifest["layers"][0]["size"] = json!(size + 1);
        let bytes = manifest.to_string().into_bytes();
        layout.put(&bytes);
        layout.entries.insert(usize::from(right_first), describes(media_type::MANIFEST, &bytes));
        layout.index();
        let report = verified(&layout.bundle, false, false);
        finds(&report, "blob-corrupt", "one descriptor gives it ");
    }
}

/// A descriptor that does not parse, and one that is another snapshot's.
#[test]
fn a_descriptor_that_is_not_the_configs() {
    for (right, wrong, code, text) in [
        ("a", descriptor_of("other", 8192), "document-invalid", "but the snapshot's descriptor is"),
        ("a", b"{\"schema\":1,\"more\":[]}".to_vec(), "document-invalid", "snapshot.json of snapshot a: unknown field"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let mut layout = Layout::new(&temp.path().join("bundle"));
        let right = (right, descriptor_of(right, 8192));
        for (name, held, good) in [(right.0, &right.1, true), (right.0, &wrong, false)] {
            let blob = [file("snapshot.json", held), file(DISK, &[7; 8192]), vec![0; 1024]].concat();
            layout.put(&blob);
            let rows =
                [("snapshot.json", held.as_slice()), (DISK, &[7; 8192])].map(|(path, bytes)| real_row(path, bytes));
            layout.entries.clear();
            let stack = [layer("base", &blob, &right.1, false)];
            let layers = [describes(media_type::LAYER_TAR, &blob)];
            layout.snapshot(name, &right.1, 8192, json!(rows), &stack, &layers);
            let report = verified(&layout.bundle, true, false);
            if good {
                assert!(report.findings.is_empty() && report.decoded, "{:#?}", report.findings);
            } else {
                finds(&report, code, text);
                import(&import_options(&layout.bundle, &temp.path().join("store"))).unwrap_err();
            }
        }
    }
}

fn real_row(path: &str, bytes: &[u8]) -> Value {
    use snapcask::layer::analyze::{FileView, contents};
    let temp = tempfile::NamedTempFile::new().unwrap();
    fs::write(temp.path(), bytes).unwrap();
    let view = FileView { file: temp.as_file(), path: temp.path(), size: bytes.len() as u64 };
    let (found, _) = contents(view, None, 1, &Silent).unwrap();
    let mut row = row(path, found.size, found.data_bytes);
    row["root"] = json!(found.root.to_string());
    row
}

/// The README's way by `skopeo`: the head's manifest and all its layers, without those of its ancestors.
#[test]
fn the_head_alone() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    let bundle = fixture.path("bundle");
    fixture.export_chain(Form::Dir, &bundle);
    let mut index = json_file(&bundle.join("index.json"));
    for entry in index["manifests"].as_array_mut().unwrap().drain(1..) {
        fs::remove_file(bundle.join("blobs/sha256").join(&entry["digest"].as_str().unwrap()[7..])).unwrap();
    }
    fs::write(bundle.join("index.json"), index.to_string()).unwrap();
    let report = verified(&bundle, true, false);
    finds(&report, "blob-missing", "is not in the bundle; `import` and `verify` take --head-only");
    assert!(!report.decoded, "an ancestor is not known");
    let report = verified(&bundle, true, true);
    assert!(report.findings.is_empty() && report.decoded && report.snapshots == 1, "{report:#?}");
    let path = bundle.to_str().unwrap();
    fails(&run(["verify", path]), 3);
    assert!(succeeds(&run(["verify", path, "--head-only", "--deep"])).contains("every file decoded"));
    import(&ImportOptions { head_only: true, ..import_options(&bundle, &fixture.path("target")) }).unwrap();
}

/// What the summary says of a bundle that could not be decoded.
#[test]
fn decoded_is_said_only_when_it_is_so() {
    let temp = tempfile::tempdir().unwrap();
    let (layout, manifest) = one(&temp.path().join("bundle"));
    let bundle = layout.bundle.to_str().unwrap();
    let blob = layout.bundle.join("blobs/sha256").join(&manifest["layers"][0]["digest"].as_str().unwrap()[7..]);
    assert!(succeeds(&run(["verify", bundle, "--deep"])).contains(", every file decoded, "));
    assert!(succeeds(&run(["verify", bundle])).contains(", not decoded (--deep does), "));
    let good = fs::read(&blob).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&blob, bad).unwrap();
    let corrupt = run(["verify", bundle, "--deep"]);
    fs::remove_file(&blob).unwrap();
    for output in [corrupt, run(["verify", bundle, "--deep"])] {
        fails(&output, 3);
        assert!(stdout(&output).contains(", not every file decoded, "), "{}", stdout(&output));
    }
}

/// A blob that may not be read says nothing about the bundle: the findings are failures, and the exit code is 1.
#[test]
fn what_cannot_be_read_is_not_called_bad() {
    let temp = tempfile::tempdir().unwrap();
    let (layout, manifest) = one(&temp.path().join("bundle"));
    chmod(temp.path(), 0o777);
    let program = temp.path().join("snapcask");
    fs::copy(env!("CARGO_BIN_EXE_snapcask"), &program).unwrap();
    let blob = |value: &Value| layout.bundle.join("blobs/sha256").join(&value["digest"].as_str().unwrap()[7..]);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["verify", layout.bundle.to_str().unwrap()]).args(arguments).env("TMPDIR", temp.path());
        // To root nothing is unreadable.
        if fs::metadata(temp.path()).unwrap().uid() == 0 {
            command.uid(65534).gid(65534);
        }
        command.output().unwrap()
    };
    succeeds(&run(&["--deep"]));
    chmod(&blob(&manifest["layers"][0]), 0);
    for arguments in [&["--deep"][..], &[]] {
        let output = run(arguments);
        assert!(fails(&output, 1).contains("not everything could be verified: 1 failure(s) to read"));
        assert!(stdout(&output).starts_with("read-failed"), "{}", stdout(&output));
        assert!(!stdout(&output).contains(", every file decoded"));
    }
    let output = run(&["--deep", "--json"]);
    fails(&output, 1);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["findings"][0]["code"], "read-failed");
    // Beside something that is bad it changes nothing.
    fs::write(blob(&manifest["config"]), b"{}").unwrap();
    assert!(fails(&run(&[]), 3).contains("verification failed: 2 finding(s)"));
}

/// Changes the config of an entry of the index, the head's or its parent's, and all that names it.
fn with_config(bundle: &Path, entry: usize, change: impl Fn(&mut Value)) {
    let blob = |digest: &Value| bundle.join("blobs/sha256").join(&digest.as_str().unwrap()[7..]);
    let put = |document: &Value, entry: &mut Value| {
        let bytes = document.to_string().into_bytes();
        let digest = json!(Digest::of(&bytes).to_string());
        fs::write(blob(&digest), &bytes).unwrap();
        (entry["digest"], entry["size"]) = (digest, json!(bytes.len()));
    };
    let mut index = json_file(&bundle.join("index.json"));
    let mut manifest = json_file(&blob(&index["manifests"][entry]["digest"]));
    let mut config = json_file(&blob(&manifest["config"]["digest"]));
    change(&mut config);
    put(&config, &mut manifest["config"]);
    put(&manifest, &mut index["manifests"][entry]);
    if entry == 1 {
        let mut head = json_file(&blob(&index["manifests"][0]["digest"]));
        put(&manifest, &mut head["subject"]);
        put(&head, &mut index["manifests"][0]);
    }
    fs::write(bundle.join("index.json"), index.to_string()).unwrap();
}

/// Every snapshot says what the image's files are: each has to be right, and `verify --deep` and `import` agree.
#[test]
fn records_of_one_cache_layer_that_differ() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let (good, store) = (fixture.path("good"), fixture.path("target"));
    fixture.export_chain(Form::Dir, &good);
    type Lie = fn(&mut Value);
    let lies: [(&str, Lie); 3] = [
        ("root", |file| file["root"] = json!(format!("{}{}", "0".repeat(63), "1"))),
        ("more data", |file| file["dataBytes"] = json!(file["dataBytes"].as_u64().unwrap() + 4096)),
        ("less data", |file| file["dataBytes"] = json!(file["dataBytes"].as_u64().unwrap() - 1)),
    ];
    for (what, lie) in lies {
        for (entry, head_only) in [(0, false), (0, true), (1, false)] {
            let bundle = fixture.path("bad");
            assert!(std::process::Command::new("cp").arg("-r").args([&good, &bundle]).status().unwrap().success());
            with_config(&bundle, entry, |config| {
                let layers = config["layers"].as_array_mut().unwrap();
                let cached = layers
                    .iter_mut()
                    .find(|layer| layer["file"]["path"].as_str().is_some_and(|path| path.starts_with("layers/")));
                lie(&mut cached.unwrap()["file"]);
            });
            let report = verified(&bundle, true, head_only);
            assert!(!report.findings.is_empty(), "{what} {entry} {head_only}");
            let options = ImportOptions { head_only, ..import_options(&bundle, &store) };
            import(&options).expect_err(what);
            assert!(!store.exists(), "{what}");
            fs::remove_dir_all(&bundle).unwrap();
        }
    }
}

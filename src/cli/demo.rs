//! `snapcask demo`: the main job on made-up snapshots, step by step.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use snapcask::{
    Digest, Error, Result,
    check_bundle::verify_bundle,
    error::IoContext,
    export::{Compression, Destination, ExportOptions, Form, export},
    import::{BundleLocation, ImportOptions, import},
    layer::{
        clone::clone_contents,
        extents::{data_extents, union},
    },
    progress::Silent,
};

use super::{args::DemoArgs, export, import as import_text, output};

const DISK: u64 = 1 << 30;
const IMAGE: &str = "docker.io/library/demo:1";
const NAMES: [&str; 3] = ["base", "packages", "configured"];

/// Runs the verb.
pub fn run(args: &DemoArgs) -> Result<()> {
    let dir = &args.dir;
    if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::AlreadyExists { path: dir.clone() });
    }
    let (store, restored, bundle) = (dir.join("store"), dir.join("restored"), dir.join("bundle.tar.zst"));
    let say = |text: &str| {
        if !args.common.quiet && !args.common.json {
            println!("{text}");
        }
    };
    say("1. A store with a chain of three snapshots (sparse 1 GiB disks) and one image in its cache");
    let started = Instant::now();
    make_store(&store)?;
    for name in NAMES {
        let disk = store.join("snapshots").join(name).join("upper.ext4");
        let meta = fs::metadata(&disk).context("stat", &disk)?;
        let (logical, data) = (output::size(meta.len()), output::size(meta.blocks() * 512));
        say(&format!("   {name:11} {logical} logical, {data} allocated"));
    }
    say(&format!("   made in {}", output::seconds(started.elapsed().as_secs_f64())));
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    say("2. Export the last one with its parents and its image");
    let exported = export(&ExportOptions {
        store: store.clone(),
        snapshot: NAMES[2].into(),
        destination: Destination::Path(bundle.clone()),
        form: Form::TarZst,
        with_parents: true,
        with_image: true,
        delta: true,
        compression: Compression::Zstd(3),
        tag: None,
        force: false,
        jobs,
        progress: Arc::new(Silent),
    })?;
    say(&indent(&export::text(&exported)));
    say("3. Verify the bundle: every blob, every file");
    let location = BundleLocation::Path(bundle.clone());
    let verified = verify_bundle(&location, true, jobs, Arc::new(Silent))?;
    if !verified.findings.is_empty() {
        return Err(Error::Findings { count: verified.findings.len() });
    }
    say(&format!("   {} blobs, no findings, in {}", verified.blobs, output::seconds(verified.seconds)));
    say("4. Import it into a second store");
    let imported = import(&ImportOptions {
        source: location,
        store: restored.clone(),
        dest: None,
        tag: None,
        name: None,
        head_only: false,
        group: None,
        force: false,
        skip_recorded: false,
        max_bytes: None,
        max_files: 1000,
        jobs,
        progress: Arc::new(Silent),
    })?;
    say(&indent(&import_text::text(&imported)));
    say("5. Compare every file of the two stores");
    let files = compare(&store.join("snapshots"), &restored.join("snapshots"))?;
    say(&format!("   {files} files are identical, byte for byte"));
    let bytes = fs::metadata(&bundle).context("stat", &bundle)?.len();
    if args.common.json {
        output::json(&serde_json::json!({
            "bundle": bundle, "bundleBytes": bytes, "export": exported, "verify": verified, "import": imported,
            "identicalFiles": files,
        }));
    }
    let (bundle, restored) = (bundle.display(), restored.display());
    say(&format!("\nThree snapshots of 1 GiB travelled in {}. Try next:\n", output::size(bytes)));
    say(&format!("   snapcask inspect {bundle}"));
    say(&format!("   snapcask list --store {restored}"));
    say(&format!("   zstd -dc {bundle} | tar -tv"));
    say(&format!("   skopeo inspect --raw oci-archive:{bundle}:configured"));
    Ok(())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}

/// Pseudo-random bytes (xorshift64), half of them text-like so that they compress as real disks do.
fn data(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_le_bytes();
        bytes.extend(if bytes.len() / 4096 % 2 == 0 { word } else { word.map(|b| b'a' + b % 4) });
    }
    bytes.truncate(length);
    bytes
}

fn make_store(store: &Path) -> Result<()> {
    let manifest = make_image(&store.join("cache"))?;
    let mut parent: Option<(PathBuf, Digest)> = None;
    for (i, name) in NAMES.iter().enumerate() {
        let folder = store.join("snapshots").join(name);
        fs::create_dir_all(&folder).context("create", &folder)?;
        let path = folder.join("upper.ext4");
        let disk = File::create_new(&path).context("create", &path)?;
        if let Some((below, _)) = &parent {
            let from = File::open(below).context("open", below)?;
            clone_contents(&from, below, &disk, &path, DISK)?;
        }
        disk.set_len(DISK).context("set the size of", &path)?;
        // The first: 6 MiB in scattered pieces of 64 KiB. Its children: 2 MiB in changed blocks of 4 KiB.
        let (pieces, length) = if i == 0 { (96, 64 << 10) } else { (512, 4096) };
        for piece in 0..pieces {
            let offset = (piece * 10_007_003 + i as u64 * 77_003) % (DISK - (1 << 20)) / 4096 * 4096;
            disk.write_all_at(&data(piece + 1000 * i as u64 + 1, length), offset).context("write", &path)?;
        }
        let descriptor = descriptor(name, i, parent.as_ref().map(|(_, d)| d), &manifest);
        let descriptor_path = folder.join("manifest.json");
        fs::write(&descriptor_path, &descriptor).context("write", &descriptor_path)?;
        parent = Some((path, Digest::of(descriptor.as_bytes())));
    }
    Ok(())
}

/// The canonical form of generation `v066`: this field order, compact.
fn descriptor(name: &str, day: usize, parent: Option<&Digest>, manifest: &Digest) -> String {
    let parent = parent.map_or("null".into(), |d| format!("\"{d}\""));
    format!(
        r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"{IMAGE}","manifest_digest":"{manifest}"}},"parent":{parent},"created_at":"2026-05-{:02}T12:00:00Z","labels":{{}},"upper":{{"file":"upper.ext4","size_bytes":{DISK},"integrity":null}},"source_sandbox":"{name}"}}"#,
        day + 1
    )
}

/// One image of one layer; returns its manifest's digest.
fn make_image(cache: &Path) -> Result<Digest> {
    let raw_manifest = r#"{"schemaVersion":2,"layers":[]}"#;
    let raw_config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = Digest::of(raw_manifest.as_bytes());
    let layer = data(99, 1 << 20);
    let diff_id = Digest::of(&layer);
    let metadata = serde_json::json!({
        "manifest_digest": manifest,
        "config_digest": Digest::of(raw_config.as_bytes()),
        "raw_manifest_json": raw_manifest,
        "raw_config_json": raw_config,
        "config": {},
        "layers": [{ "digest": diff_id, "media_type": "application/vnd.oci.image.layer.v1.tar",
                     "size_bytes": layer.len(), "diff_id": diff_id }],
    });
    let absolute = std::path::absolute(cache).context("find the absolute path of", cache)?;
    let absolute = absolute.display();
    let (fsmeta, erofs) =
        (format!("fsmeta/sha256_{}.erofs", manifest.hex()), format!("layers/sha256_{}.erofs", diff_id.hex()));
    let vmdk = format!(
        "# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"{absolute}/{fsmeta}\" 0\nRW 2048 FLAT \"{absolute}/{erofs}\" 0\n"
    );
    for (path, bytes) in [
        (format!("manifests/{}.json", Digest::of(IMAGE.as_bytes()).hex()), metadata.to_string().into_bytes()),
        (erofs, layer),
        (fsmeta, data(7, 4096)),
        (format!("vmdk/sha256_{}.vmdk", manifest.hex()), vmdk.into_bytes()),
    ] {
        let path = cache.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).context("create", folder)?;
        }
        fs::write(&path, bytes).context("write", &path)?;
    }
    Ok(manifest)
}

/// How many files are equal; the first that is not is an error.
fn compare(left: &Path, right: &Path) -> Result<usize> {
    let mut files = 0;
    for name in NAMES {
        for file in ["manifest.json", "upper.ext4"] {
            let (a, b) = (left.join(name).join(file), right.join(name).join(file));
            if !same(&a, &b)? {
                return Err(Error::SourceChanged { path: b });
            }
            files += 1;
        }
    }
    Ok(files)
}

/// Byte for byte where either has data; the rest of both is holes.
fn same(a: &Path, b: &Path) -> Result<bool> {
    let (left, right) = (File::open(a).context("open", a)?, File::open(b).context("open", b)?);
    let size = left.metadata().context("stat", a)?.len();
    if right.metadata().context("stat", b)?.len() != size {
        return Ok(false);
    }
    let (mut x, mut y) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    for extent in union(&data_extents(&left, a, size)?, &data_extents(&right, b, size)?) {
        let mut at = extent.start;
        while at < extent.end {
            let n = (extent.end - at).min(1 << 16) as usize;
            left.read_exact_at(&mut x[..n], at).context("read", a)?;
            right.read_exact_at(&mut y[..n], at).context("read", b)?;
            if x[..n] != y[..n] {
                return Ok(false);
            }
            at += n as u64;
        }
    }
    Ok(true)
}

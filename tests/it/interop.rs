//! Programs that nobody here wrote read our bundles.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use snapcask::{
    export::{Form, export},
    import::import,
    model::Generation,
};

use crate::fixture::{Fixture, allocated, import_options, run, travelling};

/// Whether every program is there. In CI a missing one fails the test.
fn have(tools: &[&str]) -> bool {
    for tool in tools {
        let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"]
            .iter()
            .any(|d| Path::new(d).join(tool).exists());
        if !found {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{tool} is missing in CI");
            eprintln!("SKIPPED: {tool} is not installed");
            return false;
        }
    }
    true
}

fn base_layer(bundle: &Path) -> std::path::PathBuf {
    let index: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("index.json")).unwrap()).unwrap();
    let blob = |d: &serde_json::Value| bundle.join("blobs/sha256").join(&d["digest"].as_str().unwrap()[7..]);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(blob(&index["manifests"][2])).unwrap()).unwrap();
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    blob(&manifest["layers"][0])
}

#[test]
fn gnu_tar_and_zstd_unpack_a_base_layer() {
    if !have(&["tar", "zstd", "python3"]) {
        return;
    }
    let fixture = Fixture::new(Generation::V066);
    let bundle = fixture.path("bundle");
    export(&fixture.export_options(&bundle, Form::Dir)).unwrap();
    let layer = base_layer(&bundle);
    run(Command::new("zstd").arg("-t").arg(&layer));
    let tar = fixture.path("layer.tar");
    run(Command::new("zstd").args(["-dqo"]).args([&tar, &layer]));
    let out = fixture.path("out");
    fs::create_dir(&out).unwrap();
    run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&out));
    assert_eq!(travelling(&fixture.snapshots[0]), travelling(&out));
    let source = allocated(&fixture.snapshots[0].join("upper.ext4"));
    assert!(allocated(&out.join("upper.ext4")) <= source + 4 * 4096);
    let script = "import tarfile,sys\nfor m in tarfile.open(sys.argv[1]): print(m.name, m.size)";
    let seen = run(Command::new("python3").args(["-c", script]).arg(&tar));
    let expected: String =
        travelling(&fixture.snapshots[0]).iter().map(|(name, (_, size, _))| format!("{name} {size}\n")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn zstd_and_tar_read_the_outer_stream() {
    if !have(&["tar", "zstd"]) {
        return;
    }
    let fixture = Fixture::new(Generation::Flat);
    let bundle = fixture.path("b.tar.zst");
    export(&fixture.export_options(&bundle, Form::TarZst)).unwrap();
    run(Command::new("zstd").arg("-tq").arg(&bundle));
    let listing = run(Command::new("bash").args(["-c", &format!("zstd -dc {} | tar -t", bundle.display())]));
    assert!(listing.starts_with("oci-layout\nblobs/sha256/"), "{listing}");
    assert!(listing.ends_with("index.json\n"), "{listing}");
    // Repacked by others: one big frame, gzip, a `./` prefix, other order.
    let folder = fixture.path("unpacked");
    fs::create_dir(&folder).unwrap();
    run(Command::new("bash").args(["-c", &format!("zstd -dc {} | tar -xC {}", bundle.display(), folder.display())]));
    for (i, (name, pack)) in [
        ("one-frame.tar.zst", "tar -C $FROM -c index.json blobs oci-layout | zstd -q -5 -o $TO"),
        ("gzip.tar.gz", "tar -C $FROM -cz -f $TO ./oci-layout ./blobs ./index.json"),
        ("dot.tar", "tar -C $FROM -cf $TO ."),
    ]
    .into_iter()
    .enumerate()
    {
        let to = fixture.path(name);
        run(Command::new("bash").args(["-ec", pack]).env("FROM", &folder).env("TO", &to));
        let store = fixture.path(&format!("restored{i}"));
        import(&import_options(&to, &store)).unwrap();
        assert_eq!(travelling(&fixture.snapshots[2]), travelling(&store.join("snapshots/head")));
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn skopeo_carries_a_bundle_through_a_registry() {
    if !have(&["skopeo", "docker-registry"]) {
        return;
    }
    let fixture = Fixture::new(Generation::Final);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = fixture.path("registry.yml");
    fs::write(
        &config,
        format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            fixture.path("registry").display()
        ),
    )
    .unwrap();
    let server =
        Command::new("docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _server = Server(server.unwrap());
    for _ in 0..100 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    for (form, name, transport) in
        [(Form::Dir, "bundle", "oci"), (Form::Tar, "b.tar", "oci-archive"), (Form::TarZst, "b.tar.zst", "oci-archive")]
    {
        let bundle = fixture.path(name);
        let report = export(&fixture.export_options(&bundle, form)).unwrap();
        let remote = format!("docker://127.0.0.1:{port}/{transport}-{}:head", form.as_str().replace('.', "-"));
        let back = fixture.path(&format!("back-{name}"));
        let skopeo = |args: &[&str]| run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q"]).args(args));
        skopeo(&["--dest-tls-verify=false", &format!("{transport}:{}:head", bundle.display()), &remote]);
        skopeo(&["--src-tls-verify=false", &remote, &format!("oci:{}:head", back.display())]);
        let index: serde_json::Value = serde_json::from_slice(&fs::read(back.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"][0]["digest"], report.snapshots[0].manifest.to_string());
        let mut options = import_options(&back, &fixture.path(&format!("restored-{name}")));
        options.head_only = true;
        let placed = import(&options).unwrap();
        assert_eq!(travelling(&fixture.snapshots[2]), travelling(placed.snapshots[0].path.as_ref().unwrap()));
    }
}

#[test]
fn a_real_ext4_image() {
    if !have(&["mkfs.ext4"]) {
        return;
    }
    let fixture = Fixture::new(Generation::V066);
    for (i, snapshot) in fixture.snapshots.iter().enumerate() {
        let disk = snapshot.join("upper.ext4");
        fs::remove_file(&disk).unwrap();
        let content = fixture.path(&format!("content{i}"));
        fs::create_dir(&content).unwrap();
        for n in 0..=i as u64 * 5 + 20 {
            fs::write(content.join(format!("file{n}")), crate::fixture::data(n + 1, 30_000)).unwrap();
        }
        run(Command::new("mkfs.ext4")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-q", "-F", "-d"])
            .arg(&content)
            .arg(&disk)
            .arg("64M"));
    }
    let bundle = fixture.path("b.tar.zst");
    export(&fixture.export_options(&bundle, Form::TarZst)).unwrap();
    let store = fixture.path("restored");
    import(&import_options(&bundle, &store)).unwrap();
    for (snapshot, name) in fixture.snapshots.iter().zip(crate::fixture::NAMES) {
        assert_eq!(travelling(snapshot), travelling(&store.join("snapshots").join(name)));
    }
}

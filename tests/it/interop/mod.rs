//! Tools that nobody here wrote read what we write.

mod case;
mod fleet;
mod matrix;
mod operation;
pub mod registry;
pub mod tools;
mod umoci;

use std::{fs, path::Path};

use snapcask::{
    export::{ExportOptions, Form, export},
    media_type,
    model::Generation,
};

use self::{
    registry::{Kind, Registry},
    tools::{have, tool},
};
use crate::fixture::*;

fn manifest_of(bundle: &Path) -> serde_json::Value {
    let index = json_file(&bundle.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    json_file(&bundle.join("blobs/sha256").join(&digest[7..]))
}

#[test]
fn tar_and_zstd_unpack_a_base_layer() {
    if !have("tar_and_zstd_unpack_a_base_layer", &["tar", "zstd"]) {
        return;
    }
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, 16 << 20);
        let bundle = fixture.path("bundle");
        export(&fixture.export_options(Form::Dir, &bundle)).unwrap();
        let layer = &manifest_of(&bundle)["layers"][0];
        assert_eq!(layer["mediaType"], media_type::LAYER_ZSTD);
        let blob = bundle.join("blobs/sha256").join(&layer["digest"].as_str().unwrap()[7..]);
        tool("zstd", &["-tq", blob.to_str().unwrap()]);
        let out = fixture.path("out");
        fs::create_dir(&out).unwrap();
        tool("tar", &["--zstd", "-xf", blob.to_str().unwrap(), "-C", out.to_str().unwrap()]);
        assert_same_snapshot(fixture.head(), &out);
        let outer = fixture.path("bundle.tar.zst");
        export(&fixture.export_options(Form::TarZst, &outer)).unwrap();
        tool("zstd", &["-tq", outer.to_str().unwrap()]);
        if have("python's tarfile", &["python3"]) {
            let plain = fixture.path("layer.tar");
            tool("zstd", &["-dqf", blob.to_str().unwrap(), "-o", plain.to_str().unwrap()]);
            let program =
                "import sys,tarfile\nfor m in tarfile.open(sys.argv[1]):\n  if m.isfile(): print(m.name, m.size)";
            let seen = tool("python3", &["-c", program, plain.to_str().unwrap()]);
            let expected: String =
                tree(&fixture.head().directory).iter().map(|(p, (_, size, _))| format!("{p} {size}\n")).collect();
            assert_eq!(seen, expected);
        }
    }
}

#[test]
fn skopeo_and_a_registry_keep_every_digest() {
    if !have("skopeo_and_a_registry_keep_every_digest", &["skopeo", "docker-registry"]) {
        return;
    }
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let registry = Registry::start(Kind::DockerRegistry, fixture.dir.path());
    for (form, name, transport) in [
        (Form::Dir, "bundle", "oci"),
        (Form::Tar, "bundle.tar", "oci-archive"),
        (Form::TarZst, "bundle.tar.zst", "oci-archive"),
    ] {
        let bundle = fixture.path(name);
        let options = ExportOptions { with_parents: true, with_image: true, ..fixture.export_options(form, &bundle) };
        let expected = export(&options).unwrap().snapshots[0].manifest.unwrap().to_string();
        let back = fixture.path(&format!("back-{transport}-{name}-oci"));
        let remote = format!("docker://127.0.0.1:{}/chain-{}:head", registry.port, name.replace('.', "-"));
        let from = format!("{transport}:{}:head", bundle.display());
        tool("skopeo", &["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", &from, &remote]);
        let to = format!("oci:{}:head", back.display());
        tool("skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &remote, &to]);
        let index = json_file(&back.join("index.json"));
        assert_eq!(index["manifests"][0]["digest"], expected.as_str());
        // skopeo does not follow subjects, and the whole stack is in the head's manifest: the head comes back alone.
        let target = fixture.path(&format!("target-{name}"));
        let imported =
            run(["import".as_ref(), back.as_os_str(), "--head-only".as_ref(), "--store".as_ref(), target.as_os_str()]);
        succeeds(&imported);
        assert_same_snapshot(fixture.head(), &target.join("snapshots/head"));
    }
}

#[test]
fn a_real_ext4_image() {
    if !have("a_real_ext4_image", &["mkfs.ext4"]) {
        return;
    }
    let size = 64 << 20;
    let mut fixture = Fixture::empty(Generation::V066);
    let made = fixture.add("head", 0, size, &[], serde_json::Value::Null);
    let files = fixture.path("files");
    write(files.join("etc/motd"), b"hello\n");
    write(files.join("var/data"), &random(3_000_000, 9));
    let disk = made.directory.join(&made.disk);
    let mkfs = if Path::new("/usr/sbin/mkfs.ext4").exists() { "/usr/sbin/mkfs.ext4" } else { "mkfs.ext4" };
    tool(mkfs, &["-q", "-F", "-d", files.to_str().unwrap(), disk.to_str().unwrap()]);
    let bundle = fixture.path("b.tar.zst");
    export(&fixture.export_options(Form::TarZst, &bundle)).unwrap();
    let report = import_ok(&bundle, &fixture.path("target"));
    assert_same_snapshot(&made, report.snapshots[0].path.as_ref().unwrap());
}

//! A small image in the form of `docker save`, for `msb image load`.

use std::{fs, path::Path};

use serde_json::{Value, json};
use snapcask::Digest;

use super::program::Msb;
use crate::{
    fixture::*,
    hardening::tar::{END, file},
};

/// The image's reference.
pub const REFERENCE: &str = "docker.io/library/mini:1";

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = files.iter().flat_map(|(name, data)| file(name, data)).collect();
    bytes.extend(END);
    bytes
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Two layers, five labels (`msb` writes labels in random order); `salt` makes another image.
fn archive(reference: &str, salt: &str) -> Vec<u8> {
    let shell = tar(&[("bin/sh", &[b'x'; 5000]), ("etc/os-release", b"ID=demo\n")]);
    let app = tar(&[("srv/app", &[b'y'; 90_000]), ("srv/salt", salt.as_bytes())]);
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&shell), Digest::of(&app)]},
    })
    .to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest =
        json!([{"Config": name, "RepoTags": [reference], "Layers": ["l1/layer.tar", "l2/layer.tar"]}]).to_string();
    tar(&[
        (&name, config.as_bytes()),
        ("l1/layer.tar", &shell),
        ("l2/layer.tar", &app),
        ("manifest.json", manifest.as_bytes()),
    ])
}

/// An image that a store has.
#[derive(Clone, Debug)]
pub struct Image {
    /// What its manifest's digest is.
    pub manifest_digest: String,
    /// By which name it was loaded.
    pub reference: String,
}

impl Image {
    /// Loads it with `msb image load`.
    pub fn load(msb: &Msb, reference: &str, salt: &str) -> Self {
        let path = msb.home.join("image.tar");
        fs::write(&path, archive(reference, salt)).unwrap();
        msb.ok(&["image", "load", "-i", path.to_str().unwrap()]);
        fs::remove_file(path).unwrap();
        let manifest_digest = manifest_digest(&msb.home, reference);
        Self { manifest_digest, reference: reference.into() }
    }

    /// As the descriptor of a snapshot names it.
    pub fn json(&self) -> Value {
        json!({ "reference": self.reference, "manifest_digest": self.manifest_digest })
    }
}

/// What a store's cache says of a reference.
pub fn manifest_digest(home: &Path, reference: &str) -> String {
    let name = Digest::of(reference.as_bytes()).hex();
    let metadata = json_file(&home.join(format!("cache/manifests/{name}.json")));
    metadata["manifest_digest"].as_str().unwrap().to_owned()
}

//! A whole import. The first byte says what the rest is: a bundle as a file; or a config and a layer (plain or in zstd
//! frames), around which the documents are made with digests that hold, so that the bytes get past them.
//!
//! Whatever it is: nothing is written beside the store, a refused bundle leaves nothing in it, and what was accepted is
//! there when it is imported again.
#![no_main]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use libfuzzer_sys::fuzz_target;
use snapcask::{
    Digest,
    import::{BundleLocation, ImportOptions, import},
    progress::Silent,
    report::Outcome,
    store::{head::HeadRule, index::Index},
};
use tempfile::TempDir;

/// In a config, stands for the layer's digest.
const PLACEHOLDER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn options(bundle: PathBuf, store: PathBuf) -> ImportOptions {
    ImportOptions {
        sources: vec![BundleLocation::path(bundle)],
        bases: Vec::new(),
        store,
        dest: None,
        tag: None,
        name: None,
        head_only: false,
        group: None,
        head: HeadRule::Automatic,
        index: Index::Off,
        force: false,
        orphan_children: false,
        trust_image_tags: false,
        skip_recorded: false,
        verify_source: false,
        max_bytes: Some(1 << 20),
        max_files: 64,
        jobs: 1,
        progress: Arc::new(Silent),
    }
}

fn write_blob(bundle: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    fs::write(bundle.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    digest
}

/// The bundle of a config and a layer: the config's length, the config, the layer.
fn build(bundle: &Path, bytes: &[u8], zstd: bool) -> Option<()> {
    let (length, rest) = bytes.split_at_checked(2)?;
    let (config, layer) = rest.split_at_checked(u16::from_le_bytes(length.try_into().ok()?).into())?;
    fs::create_dir_all(bundle.join("blobs/sha256")).unwrap();
    fs::write(bundle.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let layer_digest = write_blob(bundle, layer);
    let config = std::str::from_utf8(config).ok()?.replace(PLACEHOLDER, &layer_digest.to_string());
    let config_digest = write_blob(bundle, config.as_bytes());
    let media = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+zstd"];
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.snapcask.snapshot.v1",
        "config": { "mediaType": "application/vnd.snapcask.snapshot.config.v1+json", "digest": config_digest, "size": config.len() },
        "layers": [{ "mediaType": media[usize::from(zstd)], "digest": layer_digest, "size": layer.len() }],
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.snapcask.snapshot.v1",
            "digest": write_blob(bundle, manifest.as_bytes()),
            "size": manifest.len(),
        }],
    });
    fs::write(bundle.join("index.json"), index.to_string()).unwrap();
    Some(())
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() }.unwrap();
    let (bundle, area) = (place.path().join("bundle"), place.path().join("area"));
    fs::create_dir(&area).unwrap();
    match first % 3 {
        0 => fs::write(&bundle, bytes).unwrap(),
        kind => {
            if build(&bundle, bytes, kind == 2).is_none() {
                return;
            }
        }
    }
    let store = area.join("store");
    match import(&options(bundle.clone(), store.clone())) {
        Err(_) => assert!(!store.exists(), "a refused bundle leaves something"),
        Ok(_) => {
            let again = import(&options(bundle, store)).expect("what was accepted is accepted again");
            assert!(again.snapshots.iter().all(|s| s.outcome == Some(Outcome::AlreadyThere)));
        }
    }
    let names = |path: &Path| -> Vec<_> { fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect() };
    assert!(names(&area).iter().all(|n| n == "store"));
    assert!(names(place.path()).iter().all(|n| n == "bundle" || n == "area"));
});

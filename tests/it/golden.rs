//! Bundles of version 1 that must import forever (`tests/fixtures/v1-*.tar.zst`), with the digests of their manifests.
//!
//! A manifest names its config and layers by digest, so the pins below hold all bytes of a bundle. They never change:
//! a new zstd encoder may give other layers, then bundles of its own are added beside these. `WRITE_GOLDEN=1` writes
//! missing files and prints their pins.

use std::{fs, path::PathBuf};

use snapcask::{
    export::{ExportOptions, Form, export},
    model::Generation,
};

use crate::fixture::*;

/// Generation, and the manifests of head, middle and base.
const GOLDEN: [(Generation, [&str; 3]); 3] = [
    (
        Generation::V066,
        [
            "sha256:5d7a9d11b5d078ac7d0c7bc8e12bbee5e9f683da9890a50d0adcbd5fafc8f74d",
            "sha256:d6939b69389d87afc16863f5e7cf93f99c9bcde0487eeee31c8fa08cb8d642b4",
            "sha256:e80c39fc0a08702a2095eb942608b6a337c3ae6c9390fdb00aa08ec4f554948f",
        ],
    ),
    (
        Generation::Flat,
        [
            "sha256:82ce2354e53283e76f0a7ad84d069c66ca8117e43cbc04c4f12ab65d788b7b10",
            "sha256:e169719359db28b24bf81a24599cde478ba63da3e9ce30fa975b734080a033f9",
            "sha256:54ebe31fa916603847fcff2a31a2aebce9d296c8a5ebfe201fc96f5f155f5fd0",
        ],
    ),
    (
        Generation::Final,
        [
            "sha256:9d9110fa73adbc04ec5dec12c7166bfb5767517878c6ce2a80433316c97f96fe",
            "sha256:4313cdcf8ffd07977aae8bf023a73672da065b8f2f7db5fbb299cb3f715fbeec",
            "sha256:9981b5fec00d5a5f368e2cf42d13f349b1855017517e777311b527b728c8ad1c",
        ],
    ),
];

fn path(generation: Generation) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v1-{}.tar.zst", generation.as_str()))
}

#[test]
fn golden_bundles_import_and_are_exported_again_the_same() {
    for (generation, pins) in GOLDEN {
        let golden = path(generation);
        let fixture = Fixture::sized(generation, 16 << 20);
        if std::env::var_os("WRITE_GOLDEN").is_some() && !golden.exists() {
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            let report = fixture.export_chain(Form::TarZst, &golden);
            println!(
                "{generation:?}: {:?}",
                report.snapshots.iter().map(|s| s.manifest.unwrap().to_string()).collect::<Vec<_>>()
            );
            continue;
        }
        let store = fixture.path("restored");
        let report = import_ok(&golden, &store);
        let manifests: Vec<String> = report.snapshots.iter().map(|s| s.manifest.unwrap().to_string()).collect();
        assert_eq!(manifests, pins, "{generation:?}");
        let again = fixture.path("again.tar.zst");
        let head = report.snapshots[0].path.as_ref().unwrap().display().to_string();
        let options = export_options(&store, &head, Form::TarZst, &again);
        export(&ExportOptions { with_parents: true, with_image: true, ..options }).unwrap();
        assert!(fs::read(&golden).unwrap() == fs::read(&again).unwrap(), "{generation:?}: other bytes");
    }
}

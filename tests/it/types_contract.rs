//! The published contract reads every `flat` and `final` descriptor that import places.

use std::fs;

use microsandbox_types::snapshot::{Manifest, cloud_manifest};
use snapcask::{export::Form, model::Generation};

use crate::fixture::*;

#[test]
fn placed_descriptors_are_read_with_equal_digests() {
    for generation in [Generation::Flat, Generation::Final] {
        let fixture = Fixture::sized(generation, 16 << 20);
        let bundle = fixture.path("bundle.tar.zst");
        fixture.export_chain(Form::TarZst, &bundle);
        for snapshot in import_ok(&bundle, &fixture.path("target")).snapshots {
            let bytes = fs::read(snapshot.path.unwrap().join("snapshot.json")).unwrap();
            let digest = match generation {
                Generation::Flat => cloud_manifest::Manifest::from_bytes(&bytes).unwrap().digest().unwrap(),
                _ => Manifest::from_bytes(&bytes).unwrap().digest().unwrap(),
            };
            assert_eq!(digest, snapshot.digest.to_string());
        }
    }
}

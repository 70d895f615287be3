//! A bundle is an OCI layout: order, names, documents.

use std::fs;

use snapcask::{
    Digest,
    export::{Form, export},
};

use crate::fixture::{ALL, Fixture};

#[test]
fn order_names_and_documents() {
    for generation in ALL {
        let fixture = Fixture::new(generation);
        let bundle = fixture.path("bundle");
        let report = export(&fixture.export_options(&bundle, Form::Dir)).unwrap();
        for entry in fs::read_dir(bundle.join("blobs/sha256")).unwrap() {
            let entry = entry.unwrap();
            let digest = Digest::of(&fs::read(entry.path()).unwrap());
            assert_eq!(entry.file_name().into_string().unwrap(), digest.hex());
        }
        let index = oci_spec::image::ImageIndex::from_file(bundle.join("index.json")).unwrap();
        let tags: Vec<String> = index
            .manifests()
            .iter()
            .map(|d| d.annotations().as_ref().unwrap()["org.opencontainers.image.ref.name"].clone())
            .collect();
        assert_eq!(tags, ["head", "middle", "base"]);
        oci_spec::image::OciLayout::from_file(bundle.join("oci-layout")).unwrap();
        let mut below = None;
        for (depth, descriptor) in index.manifests().iter().enumerate().rev() {
            let blob = |digest: &str| bundle.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
            let path = blob(descriptor.digest().as_ref());
            let manifest = oci_spec::image::ImageManifest::from_file(&path).unwrap();
            let stack = manifest
                .layers()
                .iter()
                .filter(|l| !l.annotations().as_ref().unwrap()["org.opencontainers.image.title"].contains("erofs"))
                .count();
            assert_eq!(manifest.subject().as_ref().map(|s| s.digest().to_string()), below);
            assert!(stack >= 3 - depth);
            below = Some(descriptor.digest().to_string());
        }
        assert_eq!(report.snapshots.len(), 3);
        assert_eq!(report.cache_files.len(), 4, "{:?}", report.cache_files);
    }
}

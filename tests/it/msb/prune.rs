//! What `msb` takes for unused: an image that only a snapshot needs is its to remove once its database knows no such
//! snapshot.

use std::path::PathBuf;

use super::{
    image::{Image, REFERENCE},
    program::{Msb, have},
    source::{Kind, Source},
};
use crate::fixture::*;

/// A store of `final` snapshots, and the bundle of them.
fn bundle() -> (Source, PathBuf) {
    let source = Source::new(Kind::Final);
    let bundle = source.path("chain.tar.zst");
    let destination = bundle.to_str().unwrap();
    source.msb.snapcask(&["export", "app:v3", "-o", destination, "--with-parents", "--with-image"]).unwrap();
    (source, bundle)
}

/// The files of all images' layers.
fn layers(msb: &Msb) -> Vec<String> {
    let files = whole_tree(&msb.home.join("cache/layers"));
    files.into_keys().filter(|name| name.ends_with(".erofs")).collect()
}

/// A store whose database has the snapshot's image and another one, both without a sandbox.
fn target(source: &Source) -> Msb {
    let msb = Msb::new(&source.path("target"));
    Image::load(&msb, REFERENCE, "first");
    Image::load(&msb, "docker.io/library/other:1", "other");
    assert_eq!(layers(&msb).len(), 3, "a layer of each, and one that they share");
    msb
}

#[test]
fn msb_image_prune_leaves_the_image_of_an_imported_snapshot() {
    if !have("msb_image_prune_leaves_the_image_of_an_imported_snapshot", &[]) {
        return;
    }
    let (source, bundle) = bundle();
    let msb = target(&source);
    msb.snapcask(&["import", bundle.to_str().unwrap(), "--group", "app"]).unwrap();
    msb.ok(&["image", "prune", "--yes"]);
    assert_eq!(layers(&msb), layers(&source.msb), "the other image goes, the snapshot's stays");
    let archive = source.path("again.msb");
    let archive = archive.to_str().unwrap();
    msb.ok(&["snapshot", "export", "app:v3", "-o", archive, "--with-parents", "--with-image"]);
    Msb::new(&source.path("again")).ok(&["snapshot", "import", archive]);
}

/// Without the index, `msb` sees no reason to keep it: the test above can fail.
#[test]
fn msb_image_prune_takes_the_image_after_an_import_with_no_reindex() {
    if !have("msb_image_prune_takes_the_image_after_an_import_with_no_reindex", &[]) {
        return;
    }
    let (source, bundle) = bundle();
    let msb = target(&source);
    msb.snapcask(&["import", bundle.to_str().unwrap(), "--group", "app", "--no-reindex"]).unwrap();
    msb.ok(&["image", "prune", "--yes"]);
    assert!(layers(&msb).is_empty(), "{:?}", layers(&msb));
}

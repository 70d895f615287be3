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

/// The files of an image's layers.
fn layers(msb: &Msb) -> Vec<String> {
    let files = whole_tree(&msb.home.join("cache/layers"));
    files.into_keys().filter(|name| name.ends_with(".erofs")).collect()
}

#[test]
#[ignore = "wants the files and locks of msb's groups"]
fn msb_image_prune_leaves_the_image_of_an_imported_snapshot() {
    if !have("msb_image_prune_leaves_the_image_of_an_imported_snapshot", &[]) {
        return;
    }
    let (source, bundle) = bundle();
    let msb = Msb::new(&source.path("target"));
    // A database of msb that is there before, as on a machine where it has run.
    Image::load(&msb, "docker.io/library/other:1", "other");
    let others = layers(&msb);
    msb.snapcask(&["import", bundle.to_str().unwrap()]).unwrap();
    let with_ours = layers(&msb);
    assert!(with_ours.len() > others.len(), "{with_ours:?}");
    msb.ok(&["image", "prune", "--yes"]);
    assert_eq!(layers(&msb), layers(&source.msb), "the other image goes, the snapshot's stays");
    let again = Msb::new(&source.path("again"));
    let archive = source.path("again.msb");
    let archive = archive.to_str().unwrap();
    let group = std::fs::read_dir(msb.snapshots()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let group = group.into_iter().find(|name| !name.starts_with('.')).unwrap();
    msb.ok(&["snapshot", "export", &format!("{group}:v3"), "-o", archive, "--with-parents", "--with-image"]);
    again.ok(&["snapshot", "import", archive]);
}

/// Without the index, `msb` sees no reason to keep it: the test above can fail.
#[test]
#[ignore = "wants the files and locks of msb's groups"]
fn msb_image_prune_takes_the_image_after_an_import_with_no_reindex() {
    if !have("msb_image_prune_takes_the_image_after_an_import_with_no_reindex", &[]) {
        return;
    }
    let (source, bundle) = bundle();
    let msb = Msb::new(&source.path("target"));
    msb.ok(&["image", "ls"]);
    msb.snapcask(&["import", bundle.to_str().unwrap(), "--no-reindex"]).unwrap();
    msb.ok(&["image", "prune", "--yes"]);
    assert!(layers(&msb).is_empty(), "{:?} of {REFERENCE}", layers(&msb));
}

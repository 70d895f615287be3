//! A folder that is no store is recognised, and said.

use std::fs;

use snapcask::{export::Form, model::Generation};

use super::{Talk, copy};
use crate::fixture::Fixture;

#[test]
fn what_is_no_store_is_said_to_be_none_by_every_verb() {
    let fixture = Fixture::sized(Generation::V066, 16 << 20);
    let mut talk = Talk::new();
    copy(&fixture.store, &talk.path("store"));
    fixture.export_chain(Form::Dir, &talk.path("bundle"));
    fs::create_dir_all(talk.path("documents/letters")).unwrap();
    fs::create_dir(talk.path("empty")).unwrap();
    talk.give("");
    for store in ["nowhere", "documents", "store/snapshots", "store/snapshots/head", "bundle", "empty"] {
        for verb in [
            "list",
            "check",
            "export head -o none.tar",
            "inspect head",
            "push head oci://127.0.0.1:1/vm",
            "remove head",
            "head web",
            "sync head other",
        ] {
            let output = talk.run(&format!("{verb} --store {store}"));
            let is_empty_list = (verb, store) == ("list", "empty");
            assert_eq!(output.status.code(), Some(if is_empty_list { 0 } else { 4 }), "{verb} {store}");
        }
    }
    // An import makes a store, but not within one.
    for store in ["store/snapshots", "store/snapshots/head", "bundle"] {
        let output = talk.run(&format!("import ./bundle --store {store}"));
        assert_eq!(output.status.code(), Some(4), "{store}");
    }
    for store in ["nowhere", "empty", "documents"] {
        talk.run(&format!("import ./bundle --store {store} --no-reindex -q"));
    }
    insta::assert_snapshot!(talk.said);
}

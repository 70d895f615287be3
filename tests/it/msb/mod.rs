//! The real `msb` on stores that we wrote, and we on stores that it wrote.
//!
//! | module | holds |
//! |---|---|
//! | [`program`] | the binary, run on a home of its own |
//! | [`source`] | stores of every kind |
//! | [`captured`] | what `msb snapshot create` makes of stopped sandboxes |
//! | [`stack`], [`full`] | what only a running sandbox could give, made by hand |
//! | [`journey`] | one kind's way through both programs, step by step |
//! | [`matrix`] | every kind both ways, the table of `docs/microsandbox.md` |
//! | [`prune`], [`together`] | images that `msb` keeps; both programs at once |
//! | [`compare`], [`placed`] | what stands in a store, file by file |

mod captured;
mod compare;
mod full;
mod image;
mod journey;
mod matrix;
mod merkle;
mod placed;
mod program;
mod prune;
mod source;
mod stack;
mod together;

use self::source::{Kind, Source};

/// The fixtures are what `msb` itself takes for good.
#[test]
fn msb_lists_and_verifies_every_kind_of_fixture() {
    for kind in Kind::ALL {
        if !program::have("msb_lists_and_verifies_every_kind_of_fixture", kind.tools()) {
            continue;
        }
        let source = Source::new(kind);
        source.msb.ok(&["snapshot", "reindex"]);
        let listed = source.msb.json(&["snapshot", "ls", "--format", "json"]).unwrap();
        let listed: Vec<&str> = listed.as_array().unwrap().iter().map(|s| s["snapshot_id"].as_str().unwrap()).collect();
        for subject in &source.subjects {
            assert!(listed.contains(&subject.id.as_str()), "{kind:?}: {} is not in {listed:?}", subject.id);
            let said = source.msb.ok(&["snapshot", "verify", subject.directory.to_str().unwrap()]);
            println!("{kind:?} {}: {said}", subject.name);
        }
    }
}

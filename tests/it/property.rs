//! Random extent maps and random pairs of parent and child.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::Value;
use snapcask::{
    export::{ExportOptions, Form, export},
    model::Generation,
};

use crate::fixture::*;

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok()).unwrap_or(64);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![select(vec![0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20, 8 << 30]), 0u64..(16 << 20)]
}

/// Where (as a fraction of the disk), how long, of what.
fn map() -> impl Strategy<Value = Vec<(u32, usize, u8, u64)>> {
    vec((any::<u32>(), 1usize..40_000, 0u8..3, any::<u64>()), 0..8)
}

fn extents(size: u64, map: &[(u32, usize, u8, u64)]) -> Vec<Extent> {
    let mut found = Vec::new();
    for (place, len, kind, seed) in map {
        let at = ((u128::from(size) * u128::from(*place)) >> 32) as u64;
        let len = (*len).min(usize::try_from(size - at).unwrap());
        let bytes = match kind {
            0 => vec![0; len],
            1 => b"text ".iter().copied().cycle().take(len).collect(),
            _ => random(len, *seed),
        };
        found.push((at, bytes));
    }
    found
}

fn check(fixture: &Fixture) {
    let form = Form::TarZst;
    let (bundle, again) = (fixture.path("a.tar.zst"), fixture.path("b.tar.zst"));
    let options = ExportOptions { with_parents: true, ..export_options(&fixture.store, "head", form, &bundle) };
    export(&options).unwrap();
    let target = fixture.path("target");
    let report = import_ok(&bundle, &target);
    for (snapshot, made) in report.snapshots.iter().zip(fixture.snapshots.iter().rev()) {
        assert_same_snapshot(made, snapshot.path.as_ref().unwrap());
    }
    let options = ExportOptions { with_parents: true, ..export_options(&target, "head", form, &again) };
    export(&options).unwrap();
    assert!(std::fs::read(bundle).unwrap() == std::fs::read(again).unwrap(), "the second export differs");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn one_disk(size in size(), map in map()) {
        let mut fixture = Fixture::empty(Generation::V066);
        fixture.add("head", 0, size, &extents(size, &map), Value::Null);
        check(&fixture);
    }

    #[test]
    fn parent_and_child(size in size(), grown in select(vec![0u64, 0, 0, 1, 4096, 100_000]), below in map(), above in map()) {
        let mut fixture = Fixture::empty(Generation::V066);
        let mut all = extents(size, &below);
        fixture.add("base", 0, size, &all, Value::Null);
        all.extend(extents(size + grown, &above));
        fixture.add("head", 1, size + grown, &all, Value::Null);
        check(&fixture);
    }
}

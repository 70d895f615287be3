//! Every test that `docs/security.md` names exists, and every case of `hardening` stands in it.

use std::{collections::BTreeSet, fs, path::Path};

/// Words in backquotes that are paths of tests.
fn cited(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            word.contains("::")
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
        })
        .map(str::to_owned)
        .collect()
}

/// The tests of a module's file, by name.
fn tests_in(path: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let text = fs::read_to_string(root.join(format!("{path}.rs"))).unwrap_or_default();
    text.split("#[test]\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("fn ")?.1.split_once('(')?.0.to_owned()))
        .collect()
}

#[test]
fn every_test_that_the_page_names_exists() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let cited = cited(&text);
    assert!(cited.len() > 90, "only {} tests are named", cited.len());
    for name in &cited {
        let (module, test) = name.rsplit_once("::").unwrap();
        assert!(tests_in(&module.replace("::", "/")).iter().any(|t| t == test), "there is no test {name}");
    }
    // What is accepted is no threat.
    let accepted = [
        "the_good_one_is_accepted",
        "what_readers_must_accept",
        "sparse_with_a_million_segments",
        "a_good_table_is_accepted",
        "a_table_with_one_path_twice_or_unsorted",
        "the_store_may_be_reached_through_a_link",
        "versions_that_we_do_not_know",
    ];
    for module in ["outer_tar", "layer_tar", "paths", "oci", "bombs", "poisoned", "other_readers"] {
        let tests = tests_in(&format!("hardening/{module}"));
        assert!(!tests.is_empty(), "{module}");
        for test in tests.iter().filter(|test| !accepted.contains(&test.as_str())) {
            assert!(
                cited.contains(&format!("hardening::{module}::{test}")),
                "{module}::{test} is not in docs/security.md"
            );
        }
    }
}

//! `check` and `check --repair` of the files of groups.

use std::{fs, path::Path, sync::Arc};

use serde_json::json;
use snapcask::{
    check::{CheckOptions, Repairs, check},
    model::Generation,
    progress::Silent,
    report::{CheckReport, IndexReport},
    store::index::Index,
};

use crate::fixture::*;

const SMALL: u64 = 16 << 20;

fn checked(store: &Path, repair: Repairs) -> CheckReport {
    check(&CheckOptions { store: store.into(), repair, index: Index::Off, jobs: 2, progress: Arc::new(Silent) })
        .unwrap()
}

fn codes(report: &CheckReport) -> Vec<&'static str> {
    let mut codes: Vec<_> =
        report.findings.iter().map(|finding| finding.code).filter(|code| is_of_group(code)).collect();
    codes.sort_unstable();
    codes
}

fn is_of_group(code: &str) -> bool {
    code.starts_with("group-") || matches!(code, "head-missing" | "name-taken")
}

fn group() -> (Fixture, std::path::PathBuf) {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let folder = fixture.store.join("snapshots").join(GROUP);
    write_group(&folder, Some(&fixture.head().identity));
    assert_eq!(codes(&checked(&fixture.store, Repairs::Nothing)), [""; 0]);
    (fixture, folder)
}

#[test]
fn repair_mends_what_an_earlier_snapcask_wrote_and_loses_no_name() {
    let (fixture, folder) = group();
    fs::write(folder.join("group.json"), json!({"name": GROUP}).to_string()).unwrap();
    fs::remove_file(folder.join(".group.lock")).unwrap();
    for (made, name) in fixture.snapshots.iter().zip(["v1", "v1", "_x"]) {
        fs::write(made.directory.join("group-member.json"), json!({"alias": name}).to_string()).unwrap();
    }
    let report = checked(&fixture.store, Repairs::Nothing);
    assert_eq!(
        codes(&report),
        ["group-lock-missing", "group-outdated", "group-outdated", "group-outdated", "group-outdated"]
    );
    let report = checked(&fixture.store, Repairs::Groups);
    assert_eq!(codes(&report), [""; 0]);
    assert_eq!(report.repaired.iter().filter(|finding| is_of_group(finding.code)).count(), 5);
    assert_eq!(report.index, Some(IndexReport::Off));
    assert_eq!(json_file(&folder.join("group.json"))["head"], fixture.head().identity);
    let kept: Vec<String> = fixture
        .snapshots
        .iter()
        .flat_map(|made| ["group-member.json", ".group-member.json.old"].map(|file| made.directory.join(file)))
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.iter().any(|text| text.contains("_x")));
}

#[test]
fn repair_clears_a_head_that_is_gone() {
    let (fixture, folder) = group();
    write_group(&folder, Some(&format!("snap_{}", "9".repeat(32))));
    assert_eq!(codes(&checked(&fixture.store, Repairs::Nothing)), ["head-missing"]);
    assert_eq!(codes(&checked(&fixture.store, Repairs::Groups)), [""; 0]);
    assert_eq!(json_file(&folder.join("group.json"))["head"], serde_json::Value::Null);
}

#[test]
fn what_msb_refuses_is_found_and_stays() {
    let (fixture, folder) = group();
    fs::write(folder.join("group.json"), r#"{"schema":"microsandbox.snapshot-group/1","head":null,"more":1}"#).unwrap();
    fs::write(fixture.snapshots[0].directory.join("group-member.json"), "{}").unwrap();
    write_member(&fixture.snapshots[1].directory, "head");
    fs::rename(&folder, folder.with_file_name("_x")).unwrap();
    let before = whole_tree(&fixture.store);
    for repair in [Repairs::Nothing, Repairs::Groups] {
        let report = checked(&fixture.store, repair);
        assert_eq!(
            codes(&report),
            ["group-invalid", "group-invalid", "group-name", "name-taken"],
            "{:?}",
            report.findings
        );
        assert_eq!(whole_tree(&fixture.store), before);
    }
}

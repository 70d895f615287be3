//! `remove` in groups of msb: heads, leases, msb's records of removals, and the images that sandboxes need.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;
use snapcask::{
    Error,
    model::Generation,
    progress::Silent,
    remove::{RemoveOptions, remove},
    report::{HeadCase, IndexReport},
    store::{Store, index::Index, lease::Lease},
};

use crate::fixture::*;

const SMALL: u64 = 16 << 20;

fn options(store: &Path, names: &[&str]) -> RemoveOptions {
    RemoveOptions {
        store: store.into(),
        snapshots: names.iter().map(|name| (*name).to_owned()).collect(),
        dry_run: false,
        orphan_children: false,
        prune_image: false,
        set_head: None,
        index: Index::Off,
        progress: Arc::new(Silent),
    }
}

/// A store with a group of base, middle and head, and the group's folder.
fn group() -> (Fixture, PathBuf) {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let folder = fixture.store.join("snapshots").join(GROUP);
    write_group(&folder, Some(&fixture.head().identity));
    (fixture, folder)
}

fn head_of(folder: &Path) -> serde_json::Value {
    json_file(&folder.join("group.json"))["head"].clone()
}

#[test]
fn remove_refuses_a_head_while_others_stay() {
    let (fixture, folder) = group();
    let before = whole_tree(&fixture.store);
    for dry_run in [true, false] {
        let error = remove(&RemoveOptions { dry_run, ..options(&fixture.store, &["head"]) }).unwrap_err();
        assert!(matches!(&error, Error::HeadStays { head, .. } if *head == fixture.head().identity), "{error}");
        assert!(error.to_string().contains(GROUP) && error.to_string().contains("--set-head MEMBER"), "{error}");
        assert_eq!(whole_tree(&fixture.store), before);
    }
    assert_eq!(head_of(&folder), fixture.head().identity);
}

#[test]
fn remove_moves_the_head_to_the_member_that_set_head_names() {
    for by_id in [false, true] {
        let (fixture, folder) = group();
        let middle = &fixture.snapshots[1].identity;
        let set_head = Some(if by_id { middle.clone() } else { "middle".into() });
        let report = remove(&RemoveOptions { set_head, ..options(&fixture.store, &["head"]) }).unwrap();
        assert_eq!((report.heads[0].case, report.heads[0].head.as_ref()), (HeadCase::Selected, Some(middle)));
        assert_eq!(head_of(&folder), *middle);
        assert!(!fixture.head().directory.exists());
    }
}

#[test]
fn set_head_that_names_no_member_that_stays_is_refused() {
    let (fixture, _) = group();
    let before = whole_tree(&fixture.store);
    for name in ["head", "nobody", &fixture.head().identity] {
        let set_head = Some(name.to_owned());
        let error = remove(&RemoveOptions { set_head, ..options(&fixture.store, &["head"]) }).unwrap_err();
        assert!(matches!(&error, Error::MemberNotFound { .. }), "{error}");
    }
    // Where no head goes, there is none to select.
    write_group(&fixture.store.join("snapshots").join(GROUP), Some(&fixture.snapshots[1].identity));
    let after = whole_tree(&fixture.store);
    let set_head = Some("base".to_owned());
    let error = remove(&RemoveOptions { set_head, ..options(&fixture.store, &["head"]) }).unwrap_err();
    assert!(matches!(&error, Error::Usage(_)), "{error}");
    assert_eq!(whole_tree(&fixture.store), after);
    assert_eq!(after.len(), before.len());
}

#[test]
fn last_member_takes_the_head_with_it_and_the_group_stays() {
    let (fixture, folder) = group();
    let report = remove(&options(&fixture.store, &["base", "middle", "head"])).unwrap();
    assert_eq!((report.heads[0].case, report.heads[0].head.as_ref()), (HeadCase::Cleared, None));
    assert_eq!(head_of(&folder), serde_json::Value::Null);
    assert!(Store::at(&fixture.store).all().unwrap().0.is_empty());
    // Another member can come into it.
    let other = Fixture::sized(Generation::Final, SMALL);
    let bundle = other.path("head.tar");
    let export_options = export_options(&other.store, "head", snapcask::export::Form::Tar, &bundle);
    snapcask::export::export(&export_options).unwrap();
    let import_options =
        snapcask::import::ImportOptions { group: Some(GROUP.into()), ..import_options(&bundle, &fixture.store) };
    snapcask::import::import(&import_options).unwrap();
    assert_eq!(head_of(&folder), other.head().identity);
}

#[test]
fn snapshot_that_is_in_use_is_not_removed() {
    let (fixture, folder) = group();
    let before = whole_tree(&fixture.store);
    let middle = &fixture.snapshots[1].directory;
    let set_head = Some("base".to_owned());
    let both = RemoveOptions { set_head, ..options(&fixture.store, &["head", "middle"]) };
    for lease in [Lease::reader(middle, &Silent).unwrap().unwrap(), Lease::shared(middle, &Silent).unwrap()] {
        let error = remove(&both).unwrap_err();
        assert!(matches!(&error, Error::InUse { path } if path == middle), "{error}");
        assert_eq!(error.exit_code(), 1);
        assert_eq!(whole_tree(&fixture.store), before);
        drop(lease);
    }
    remove(&both).unwrap();
    assert_eq!(head_of(&folder), fixture.snapshots[0].identity);
}

#[test]
fn group_that_msb_refuses_loses_nothing() {
    let (fixture, folder) = group();
    for (file, text) in [
        (folder.join("group.json"), r#"{"schema":"microsandbox.snapshot-group/1","head":null,"more":1}"#),
        (fixture.snapshots[0].directory.join("group-member.json"), "{}"),
    ] {
        let good = fs::read(&file).unwrap();
        fs::write(&file, text).unwrap();
        let before = whole_tree(&fixture.store);
        let error = remove(&options(&fixture.store, &["head"])).unwrap_err();
        assert!(matches!(&error, Error::InvalidGroup { .. }), "{error}");
        assert_eq!(whole_tree(&fixture.store), before);
        fs::write(&file, good).unwrap();
    }
}

#[test]
fn files_of_an_earlier_snapcask_are_mended_on_the_way() {
    let (fixture, folder) = group();
    fs::write(folder.join("group.json"), json!({"name": GROUP}).to_string()).unwrap();
    for (made, name) in fixture.snapshots.iter().zip(NAMES) {
        fs::write(made.directory.join("group-member.json"), json!({"alias": name}).to_string()).unwrap();
    }
    let set_head = Some("middle".to_owned());
    let report = remove(&RemoveOptions { set_head, ..options(&fixture.store, &["head"]) }).unwrap();
    assert_eq!(report.mended.len(), 4, "{:?}", report.mended);
    assert_eq!(head_of(&folder), fixture.snapshots[1].identity);
}

/// msb drops its rows of what these records name.
#[test]
fn removal_is_recorded_for_msb_where_it_has_a_database() {
    for has_database in [false, true] {
        let (fixture, folder) = group();
        if has_database {
            write(fixture.store.join("db/msb.db"), b"");
        }
        let set_head = Some("middle".to_owned());
        let told = RemoveOptions { set_head, index: Index::Tell, ..options(&fixture.store, &["head"]) };
        let report = remove(&told).unwrap();
        let records: Vec<_> = fs::read_dir(folder.join(".snapshot-deletions"))
            .map(|entries| entries.map(|e| e.unwrap().path().join("source.json")).filter(|p| p.exists()).collect())
            .unwrap_or_default();
        assert_eq!(records.len(), usize::from(has_database));
        match has_database {
            true => {
                assert_eq!(json_file(&records[0]), json!(fixture.head().identity));
                assert!(matches!(report.index, Some(IndexReport::Command { .. })));
            }
            false => assert_eq!(report.index, None),
        }
    }
}

fn database(store: &Path, config: &serde_json::Value) {
    fs::create_dir_all(store.join("db")).unwrap();
    let connection = rusqlite::Connection::open(store.join("db/msb.db")).unwrap();
    connection.execute_batch("CREATE TABLE sandbox (name TEXT, config TEXT, active_config TEXT)").unwrap();
    connection.execute("INSERT INTO sandbox VALUES ('box', ?1, NULL)", [config.to_string()]).unwrap();
}

#[test]
fn image_that_a_sandbox_needs_is_not_pruned() {
    for needed in [true, false] {
        let (fixture, _) = group();
        let cache = whole_tree(&fixture.store.join("cache"));
        let manifest = if needed {
            snapcask::Digest::of(IMAGE_MANIFEST.as_bytes()).to_string()
        } else {
            format!("sha256:{}", "7".repeat(64))
        };
        database(&fixture.store, &json!({"image": {"Oci": {"reference": "a"}}, "manifest_digest": manifest}));
        let all = RemoveOptions { prune_image: true, ..options(&fixture.store, &["head", "middle", "base"]) };
        let report = remove(&all).unwrap();
        assert_eq!(report.cache_files.is_empty(), needed);
        assert_eq!(whole_tree(&fixture.store.join("cache")) == cache, needed);
        assert_eq!(report.kept.iter().any(|line| line.contains("\"box\"")), needed, "{:?}", report.kept);
    }
}

#[test]
fn database_that_cannot_be_read_prunes_and_removes_nothing() {
    let (fixture, _) = group();
    write(fixture.store.join("db/msb.db"), b"no database, but long enough to be taken for one of these");
    let before = whole_tree(&fixture.store);
    let all = RemoveOptions { prune_image: true, ..options(&fixture.store, &["head", "middle", "base"]) };
    let error = remove(&all).unwrap_err();
    assert!(matches!(&error, Error::MsbDatabase { .. }), "{error}");
    assert_eq!(whole_tree(&fixture.store), before);
}

#[test]
fn image_cache_file_that_msb_uses_is_not_pruned() {
    let (fixture, _) = group();
    let cache = fixture.store.join("cache");
    let before = whole_tree(&cache);
    let vmdk = cache.join(format!("vmdk/sha256_{}.vmdk", snapcask::Digest::of(IMAGE_MANIFEST.as_bytes()).hex()));
    assert!(vmdk.is_file());
    let lease = Lease::shared(&vmdk, &Silent).unwrap();
    let all = RemoveOptions { prune_image: true, ..options(&fixture.store, &["head", "middle", "base"]) };
    let report = remove(&all).unwrap();
    drop(lease);
    assert_eq!((report.cache_files.len(), report.removed.len()), (0, 3));
    assert!(report.kept[0].contains("msb uses"), "{:?}", report.kept);
    assert_eq!(whole_tree(&cache), before);
}

/// Tries to claim a snapshot whenever a phase of the export begins.
struct Claims {
    directory: PathBuf,
    claimed: std::sync::Mutex<Vec<bool>>,
}

impl snapcask::progress::Progress for Claims {
    fn begin(&self, _: &str, _: Option<u64>) {
        let claimed = snapcask::store::lease::DeletionLease::try_claim(&self.directory).unwrap().is_some();
        self.claimed.lock().unwrap().push(claimed);
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

#[test]
fn snapshot_is_leased_until_its_export_has_ended() {
    let (fixture, _) = group();
    let directory = fixture.snapshots[0].directory.clone();
    let claims = Arc::new(Claims { directory, claimed: Default::default() });
    let options = snapcask::export::ExportOptions {
        with_parents: true,
        progress: claims.clone(),
        ..fixture.export_options(snapcask::export::Form::Tar, &fixture.path("chain.tar"))
    };
    snapcask::export::export(&options).unwrap();
    let claimed = claims.claimed.lock().unwrap().clone();
    let last = claimed.iter().rposition(|claimed| *claimed).map_or(0, |last| last + 1);
    assert!(claimed.len() - last > 3, "{claimed:?}");
}

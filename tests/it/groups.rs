//! Groups of msb 0.7: what an import makes of them, and what it leaves alone.

use std::{fs, os::fd::AsFd, path::Path};

use rustix::fs::{FlockOperation, flock};
use snapcask::{
    Digest, Error,
    export::{ExportOptions, Form, export},
    import::{ImportOptions, import},
    model::Generation,
    report::{HeadCase, ImportReport, Outcome},
    store::{Store, head::HeadRule},
};

use crate::fixture::*;

const SMALL: u64 = 16 << 20;

fn into_group(bundle: &Path, store: &Path, group: &str) -> ImportOptions {
    ImportOptions { group: Some(group.into()), ..import_options(bundle, store) }
}

fn head_of(folder: &Path) -> serde_json::Value {
    json_file(&folder.join("group.json"))["head"].clone()
}

fn case(report: &ImportReport) -> HeadCase {
    report.head.as_ref().unwrap().case
}

/// A chain of three in bundles of one, two and three snapshots.
struct Chain {
    fixture: Fixture,
    bundles: [std::path::PathBuf; 3],
}

impl Chain {
    fn new() -> Self {
        let fixture = Fixture::sized(Generation::Final, SMALL);
        let bundles = NAMES.map(|name| {
            let bundle = fixture.path(&format!("{name}.tar"));
            let options = export_options(&fixture.store, &format!("{GROUP}:{name}"), Form::Tar, &bundle);
            export(&ExportOptions { with_parents: true, ..options }).unwrap();
            bundle
        });
        Self { fixture, bundles }
    }

    fn id(&self, position: usize) -> String {
        self.fixture.snapshots[position].identity.clone()
    }

    fn store(&self, name: &str) -> std::path::PathBuf {
        self.fixture.path(name)
    }

    /// A bundle of the head without its parents.
    fn head_alone(&self) -> std::path::PathBuf {
        let bundle = self.fixture.path("head-alone.tar");
        export(&self.fixture.export_options(Form::Tar, &bundle)).unwrap();
        bundle
    }
}

#[test]
fn import_without_group_makes_a_fresh_group_as_msb_names_one() {
    let chain = Chain::new();
    let store = chain.store("target");
    let report = import_ok(&chain.bundles[2], &store);
    let group = only_group(&store);
    let name = group.file_name().unwrap().to_str().unwrap();
    let digits = name.strip_prefix("msb-").unwrap();
    assert!(digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    assert_eq!((case(&report), head_of(&group)), (HeadCase::Initialized, chain.id(2).into()));
    assert_eq!(report.suggested_group, None);
    for (made, name) in chain.fixture.snapshots.iter().zip(NAMES) {
        let member = json_file(&group.join(&made.identity).join("group-member.json"));
        assert_eq!(member, serde_json::json!({"schema": "microsandbox.snapshot-group-member/1", "name": name}));
    }
    assert_eq!(Store::at(&store).find(name.as_ref()).unwrap().name, "head");
}

#[test]
fn bundle_never_joins_the_group_of_its_parent_by_itself() {
    let chain = Chain::new();
    let store = chain.store("target");
    import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    let before = whole_tree(&store.join("snapshots/web"));
    let report = import_ok(&chain.bundles[2], &store);
    assert_eq!(report.suggested_group.as_deref(), Some("web"));
    let outcomes: Vec<_> = report.snapshots.iter().map(|s| s.outcome.unwrap()).collect();
    assert_eq!(outcomes, [Outcome::Placed, Outcome::Placed, Outcome::AlreadyThere]);
    assert_eq!(report.snapshots[2].path.as_deref(), Some(store.join("snapshots/web").join(chain.id(0)).as_path()));
    assert_eq!(whole_tree(&store.join("snapshots/web")), before);
    let fresh = report.snapshots[0].path.as_ref().unwrap().parent().unwrap();
    assert!(fresh.file_name().unwrap().to_str().unwrap().starts_with("msb-"));
    assert!(!fresh.join(chain.id(0)).exists(), "the parent is not copied");
    // Each is found by its chain.
    let store = Store::at(&store);
    assert_eq!(store.chain(store.find("head").unwrap()).unwrap().len(), 3);
}

#[test]
fn heads_follow_the_table_of_msb() {
    let chain = Chain::new();
    let store = chain.store("target");
    let web = store.join("snapshots/web");
    let report = import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    assert_eq!((case(&report), head_of(&web)), (HeadCase::Initialized, chain.id(0).into()));
    let report = import(&into_group(&chain.bundles[1], &store, "web")).unwrap();
    assert_eq!((case(&report), head_of(&web)), (HeadCase::FastForwarded, chain.id(1).into()));
    let report = import(&into_group(&chain.bundles[1], &store, "web")).unwrap();
    assert_eq!((case(&report), head_of(&web)), (HeadCase::Unchanged, chain.id(1).into()));
    let report = import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    assert_eq!((case(&report), head_of(&web)), (HeadCase::Diverged, chain.id(1).into()));
    let select = ImportOptions { head: HeadRule::Select, ..into_group(&chain.bundles[0], &store, "web") };
    let report = import(&select).unwrap();
    assert_eq!((case(&report), head_of(&web)), (HeadCase::Selected, chain.id(0).into()));
    // The head alone, into a group that does not have its parent.
    let other = Fixture::sized(Generation::Final, SMALL);
    let lone = other.path("lone.tar");
    export(&export_options(&other.store, "middle", Form::Tar, &lone)).unwrap();
    let store = chain.store("second");
    import(&into_group(&chain.bundles[0], &store, "x")).unwrap();
    fs::rename(store.join("snapshots/x").join(chain.id(0)), store.join("aside")).unwrap();
    fs::remove_dir_all(store.join("snapshots/x")).unwrap();
    write_group(&store.join("snapshots/x"), None);
    let report = import(&ImportOptions { head_only: true, ..into_group(&lone, &store, "x") }).unwrap();
    assert_eq!(case(&report), HeadCase::Initialized);
}

#[test]
fn unknown_ancestry_keeps_the_head() {
    let chain = Chain::new();
    let store = chain.store("target");
    import(&into_group(&chain.bundles[0], &store, "one")).unwrap();
    // Another snapshot is the head of the group, and the parent of the new one is in another group.
    let stranger = Fixture::sized(Generation::Final, SMALL);
    let bundle = stranger.path("stranger.tar");
    let mut only = Fixture::empty(Generation::Final);
    only.add("stranger", 9, SMALL, &[(0, random(4096, 3))], serde_json::Value::Null);
    export(&export_options(&only.store, "stranger", Form::Tar, &bundle)).unwrap();
    import(&into_group(&bundle, &store, "two")).unwrap();
    let report = import(&into_group(&chain.bundles[1], &store, "two")).unwrap();
    assert_eq!(case(&report), HeadCase::UnknownAncestry);
    assert_eq!(head_of(&store.join("snapshots/two")), only.head().identity);
}

#[test]
fn set_head_without_group_selects_an_installed_head() {
    let chain = Chain::new();
    let store = chain.store("target");
    import(&into_group(&chain.bundles[2], &store, "web")).unwrap();
    let web = store.join("snapshots/web");
    assert_eq!(case(&import(&into_group(&chain.bundles[1], &store, "web")).unwrap()), HeadCase::Diverged);
    assert!(import_ok(&chain.bundles[1], &store).head.is_none(), "a bundle alone moves no head");
    assert_eq!(head_of(&web), chain.id(2));
    let report =
        import(&ImportOptions { head: HeadRule::Select, ..import_options(&chain.bundles[1], &store) }).unwrap();
    assert_eq!((case(&report), head_of(&web)), (HeadCase::Selected, chain.id(1).into()));
}

#[test]
fn names_are_given_once_in_a_group() {
    let chain = Chain::new();
    let store = chain.store("target");
    import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    // Another snapshot of the same name.
    let mut only = Fixture::empty(Generation::Final);
    let made = only.add("another", 9, SMALL, &[(0, random(4096, 3))], serde_json::Value::Null);
    write_member(&made.directory, "base");
    let bundle = only.path("other.tar");
    export(&export_options(&only.store, "base", Form::Tar, &bundle)).unwrap();
    let before = whole_tree(&store);
    let error = import(&into_group(&bundle, &store, "web")).unwrap_err();
    let text = format!("the name \"base\" belongs to {} in the group web; choose another with --name", chain.id(0));
    assert_eq!((error.to_string(), error.exit_code()), (text, 5));
    assert_eq!(whole_tree(&store), before);
    import(&ImportOptions { name: Some("second".into()), ..into_group(&bundle, &store, "web") }).unwrap();
    assert_eq!(Store::at(&store).find("web:second").unwrap().descriptor.id.unwrap(), only.head().identity);
    // A parent's name is nobody's choice: it goes without.
    let mut child = Fixture::empty(Generation::Final);
    let made = child.add("third", 5, SMALL, &[(0, random(4096, 4))], serde_json::Value::Null);
    write_member(&made.directory, "base");
    child.add("child", 6, SMALL, &[(0, random(4096, 5))], serde_json::Value::Null);
    let bundle = child.path("child.tar");
    let options = export_options(&child.store, "child", Form::Tar, &bundle);
    export(&ExportOptions { with_parents: true, ..options }).unwrap();
    let report = import(&into_group(&bundle, &store, "web")).unwrap();
    assert_eq!(report.snapshots[1].name, child.snapshots[0].identity);
    assert!(!report.snapshots[1].path.as_ref().unwrap().join("group-member.json").exists());
}

#[test]
fn names_that_msb_refuses_are_refused_or_left_out() {
    let chain = Chain::new();
    let store = chain.store("target");
    for bad in ["_x", "a.", "CON", "com1", "sha256", &chain.id(0)] {
        let error = import(&into_group(&chain.bundles[0], &store, bad)).unwrap_err();
        assert_eq!((error.exit_code(), store.exists()), (2, false), "{bad}: {error}");
        if bad != "sha256" {
            let named = ImportOptions { name: Some(bad.into()), ..import_options(&chain.bundles[0], &store) };
            assert_eq!(import(&named).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
    let mut only = Fixture::empty(Generation::Final);
    only.add("_odd", 9, SMALL, &[(0, random(4096, 3))], serde_json::Value::Null);
    let bundle = only.path("odd.tar");
    export(&export_options(&only.store, "_odd", Form::Tar, &bundle)).unwrap();
    let report = import_ok(&bundle, &store);
    assert_eq!(report.snapshots[0].name, only.head().identity);
}

#[test]
fn group_for_older_generations_is_a_usage_error() {
    let fixture = Fixture::sized(Generation::V066, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    let error = import(&into_group(&bundle, &store, "web")).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(!store.exists());
}

#[test]
fn installed_head_gets_a_name_that_is_asked_for_once() {
    let chain = Chain::new();
    let store = chain.store("target");
    let report = import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    let placed = report.snapshots[0].path.clone().unwrap();
    let renamed = ImportOptions { name: Some("other".into()), ..import_options(&chain.bundles[0], &store) };
    let error = import(&renamed).unwrap_err();
    assert!(matches!(error, Error::AlreadyNamed { .. }), "{error}");
    fs::remove_file(placed.join("group-member.json")).unwrap();
    import(&renamed).unwrap();
    assert_eq!(json_file(&placed.join("group-member.json"))["name"], "other");
    import(&renamed).unwrap();
}

/// What snapcask wrote before it knew msb's files.
fn age(group: &Path, members: &[(&str, &str)]) {
    fs::write(group.join("group.json"), r#"{"name":"web"}"#).unwrap();
    let _ = fs::remove_file(group.join(".group.lock"));
    for (id, alias) in members {
        let state = serde_json::json!({ "alias": alias });
        fs::write(group.join(id).join("group-member.json"), state.to_string()).unwrap();
    }
}

#[test]
fn import_mends_a_group_that_an_earlier_snapcask_wrote() {
    let chain = Chain::new();
    let store = chain.store("target");
    let web = store.join("snapshots/web");
    import(&into_group(&chain.bundles[1], &store, "web")).unwrap();
    let ids = [chain.id(0), chain.id(1)];
    age(&web, &[(&ids[0], "_first"), (&ids[1], "middle")]);
    let report = import(&into_group(&chain.bundles[2], &store, "web")).unwrap();
    assert_eq!(report.mended.len(), 3, "{:?}", report.mended);
    assert_eq!((case(&report), head_of(&web)), (HeadCase::FastForwarded, chain.id(2).into()));
    let schema = "microsandbox.snapshot-group-member/1";
    let expected = serde_json::json!({ "schema": schema, "name": "middle" });
    assert_eq!(json_file(&web.join(&ids[1]).join("group-member.json")), expected);
    // msb takes no such name; it is kept beside the snapshot.
    assert!(!web.join(&ids[0]).join("group-member.json").exists());
    assert_eq!(json_file(&web.join(&ids[0]).join(".group-member.json.old"))["alias"], "_first");
    assert!(import(&into_group(&chain.bundles[2], &store, "web")).unwrap().mended.is_empty());
}

#[test]
fn group_files_that_nobody_knows_are_an_error_and_stay() {
    let chain = Chain::new();
    let store = chain.store("target");
    let web = store.join("snapshots/web");
    import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    let good = fs::read_to_string(web.join("group.json")).unwrap();
    for bad in [
        "{}".into(),
        good.replace("group/1", "group/2"),
        good.replace("\"head\"", "\"more\":1,\"head\""),
        good.replace(&chain.id(0), "snap_1"),
        good.replace(&chain.id(0), &format!("snap_{:032x}", 7)),
        "x".repeat(5000),
    ] {
        fs::write(web.join("group.json"), &bad).unwrap();
        let before = whole_tree(&store);
        let error = import(&into_group(&chain.bundles[1], &store, "web")).unwrap_err();
        assert!(matches!(error, Error::InvalidGroup { .. }), "{bad}: {error}");
        assert_eq!(whole_tree(&store), before, "{bad}");
    }
    fs::write(web.join("group.json"), &good).unwrap();
    // A member that is not where its id says, and two of one name.
    let (member, moved) = (web.join(chain.id(0)), web.join(format!("snap_{:032x}", 7)));
    fs::rename(&member, &moved).unwrap();
    assert!(matches!(
        import(&into_group(&chain.bundles[1], &store, "web")).unwrap_err(),
        Error::InvalidGroup { .. } | Error::Different { .. }
    ));
    fs::rename(&moved, &member).unwrap();
    import(&into_group(&chain.bundles[1], &store, "web")).unwrap();
    write_member(&web.join(chain.id(1)), "base");
    let error = import(&into_group(&chain.bundles[2], &store, "web")).unwrap_err();
    assert!(matches!(error, Error::InvalidGroup { .. } | Error::NameTaken { .. }), "{error}");
}

/// What is wrong with a group or a name is found before the image is in the cache and before a parent is placed.
#[test]
fn import_into_group_that_fails_places_nothing() {
    let chain = Chain::new();
    let bundle = chain.fixture.path("whole.tar");
    chain.fixture.export_chain(Form::Tar, &bundle);
    let store = chain.store("target");
    let web = store.join("snapshots/web");
    import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    let good = fs::read_to_string(web.join("group.json")).unwrap();
    let fails = |options: &ImportOptions, what: &str| {
        let before = whole_tree(&store);
        let error = import(options).unwrap_err();
        assert_eq!(whole_tree(&store), before, "{what}");
        assert_eq!(fs::read_dir(store.join("cache")).map_or(0, |entries| entries.count()), 0, "{what}");
        error
    };
    fs::write(web.join("group.json"), "{}").unwrap();
    let error = fails(&into_group(&bundle, &store, "web"), "an invalid group");
    assert!(matches!(error, Error::InvalidGroup { .. }), "{error}");
    fs::write(web.join("group.json"), good.replace(&chain.id(0), &format!("snap_{:032x}", 7))).unwrap();
    let error = fails(&into_group(&bundle, &store, "web"), "a dangling head");
    assert!(matches!(error, Error::InvalidGroup { .. }), "{error}");
    fs::write(web.join("group.json"), &good).unwrap();

    // The head is installed without its parents, under a name.
    import(&ImportOptions { head_only: true, ..into_group(&chain.head_alone(), &store, "heads") }).unwrap();
    let named = ImportOptions { name: Some("other".into()), ..import_options(&bundle, &store) };
    let error = fails(&named, "a head that has a name");
    assert!(matches!(error, Error::AlreadyNamed { .. }), "{error}");
    let error = fails(&ImportOptions { group: Some("heads".into()), ..named.clone() }, "the same in its group");
    assert!(matches!(error, Error::AlreadyNamed { .. }), "{error}");

    // Without a name it gets the one that is asked for, though its parents go to a group of their own.
    let head = store.join("snapshots/heads").join(chain.id(2));
    fs::remove_file(head.join("group-member.json")).unwrap();
    let report = import(&named).unwrap();
    assert_eq!(
        (report.snapshots[0].outcome, report.snapshots[1].outcome),
        (Some(Outcome::AlreadyThere), Some(Outcome::Placed))
    );
    assert_eq!(json_file(&head.join("group-member.json"))["name"], "other");
}

#[test]
fn import_waits_for_the_locks_of_msb() {
    let chain = Chain::new();
    let store = chain.store("target");
    import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    let web = store.join("snapshots/web");
    let leases = web.join(".msb-leases");
    fs::create_dir_all(&leases).unwrap();
    let lease = leases.join(format!("{}.lock", Digest::of(chain.id(1).as_bytes()).hex()));
    for path in [web.join(".group.lock"), lease] {
        let held = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).unwrap();
        flock(held.as_fd(), FlockOperation::LockExclusive).unwrap();
        let options = into_group(&chain.bundles[1], &store, "web");
        std::thread::scope(|scope| {
            let import = scope.spawn(|| import(&options).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(500));
            assert!(!web.join(chain.id(1)).exists() && !import.is_finished(), "{} was not heeded", path.display());
            flock(held.as_fd(), FlockOperation::Unlock).unwrap();
            import.join().unwrap();
        });
        fs::remove_dir_all(web.join(chain.id(1))).unwrap();
        write_group(&web, Some(&chain.id(0)));
    }
}

#[test]
fn force_replaces_no_snapshot_that_msb_reads() {
    let chain = Chain::new();
    let store = chain.store("target");
    import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    let member = store.join("snapshots/web").join(chain.id(0));
    fs::write(member.join("notes.txt"), "other").unwrap();
    let reader = fs::File::open(member.join("snapshot.json")).unwrap();
    flock(reader.as_fd(), FlockOperation::LockShared).unwrap();
    let before = whole_tree(&store);
    let options = ImportOptions { force: true, ..into_group(&chain.bundles[0], &store, "web") };
    let error = import(&options).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert_eq!(whole_tree(&store), before);
    let whole = chain.fixture.path("whole.tar");
    chain.fixture.export_chain(Form::Tar, &whole);
    let error = import(&ImportOptions { sources: into_group(&whole, &store, "web").sources, ..options.clone() });
    assert!(matches!(error, Err(Error::InUse { .. })), "{error:?}");
    assert_eq!(files_in(&store.join("cache/manifests")).len(), 0, "images are placed");
    drop(reader);
    import(&options).unwrap();
}

#[test]
fn member_of_one_id_and_another_descriptor_is_refused() {
    let chain = Chain::new();
    let store = chain.store("target");
    import(&into_group(&chain.bundles[0], &store, "web")).unwrap();
    let descriptor = store.join("snapshots/web").join(chain.id(0)).join("snapshot.json");
    let text = fs::read_to_string(&descriptor).unwrap().replace("2026-05-01T12:00:00", "2026-05-01T12:00:01");
    fs::write(&descriptor, text).unwrap();
    for group in [Some("web"), None] {
        let options = ImportOptions { group: group.map(str::to_owned), ..import_options(&chain.bundles[0], &store) };
        assert!(matches!(import(&options).unwrap_err(), Error::Different { .. }));
    }
}

//! What a tag means here is the user's to say: where an import, a check and a repair put an image's metadata.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use snapcask::{
    Digest, Error,
    check::{CheckOptions, check},
    export::{ExportOptions, Form, export},
    import::{BundleLocation, ImportOptions, import},
    model::Generation,
    progress::Silent,
    remove::{RemoveOptions, remove},
    report::{CheckReport, ImportReport, TagOutcome},
};

use crate::{fixture::*, layout_checks::validate};

const SMALL: u64 = 16 << 20;

/// The image's manifest.
fn image() -> Digest {
    Digest::of(IMAGE_MANIFEST.as_bytes())
}

/// The metadata file of a reference.
fn key(store: &Path, reference: &str) -> PathBuf {
    store.join(format!("cache/manifests/{}.json", Digest::of(reference.as_bytes()).hex()))
}

/// What the image's tag means.
fn tag(store: &Path) -> PathBuf {
    key(store, IMAGE_REFERENCE)
}

/// Where metadata of the image stands without saying what its tag means.
fn pinned(store: &Path) -> PathBuf {
    key(store, &format!("docker.io/library/alpine@{}", image()))
}

fn placed(bundle: &Path, store: &Path, trust_image_tags: bool, force: bool) -> ImportReport {
    import(&ImportOptions { trust_image_tags, force, ..import_options(bundle, store) }).unwrap()
}

fn tags(report: &ImportReport) -> Vec<(&str, TagOutcome, Option<Digest>)> {
    report.image_tags.iter().map(|tag| (tag.reference.as_str(), tag.outcome, tag.current)).collect()
}

fn checked(store: &Path, repair_from: Option<&Path>) -> CheckReport {
    let repair_from = repair_from.map(|path| BundleLocation::path(path.into()));
    check(&CheckOptions {
        store: store.into(),
        repair: repair_from.map_or(snapcask::check::Repairs::Nothing, snapcask::check::Repairs::From),
        index: snapcask::store::index::Index::Off,
        jobs: 2,
        progress: Arc::new(Silent),
    })
    .unwrap()
}

fn codes(report: &CheckReport) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

/// A chain with its image, exported: fixture, bundle, a store that does not exist yet.
fn exported(generation: Generation) -> (Fixture, PathBuf, PathBuf) {
    let fixture = Fixture::sized(generation, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    (fixture, bundle, store)
}

/// Another image that the tag means in this store.
fn tag_means_another_image(store: &Path) -> (Vec<u8>, Digest) {
    let raw = r#"{"schemaVersion":2,"layers":[],"newer":true}"#;
    let metadata = json!({
        "manifest_digest": Digest::of(raw.as_bytes()),
        "config_digest": Digest::of(IMAGE_CONFIG.as_bytes()),
        "raw_manifest_json": raw,
        "raw_config_json": IMAGE_CONFIG,
        "config": {},
        "layers": [],
    });
    write(tag(store), metadata.to_string().as_bytes());
    (metadata.to_string().into_bytes(), Digest::of(raw.as_bytes()))
}

#[test]
fn an_import_gives_no_tag_a_meaning_unasked() {
    for generation in GENERATIONS {
        let (fixture, bundle, store) = exported(generation);
        let report = placed(&bundle, &store, false, false);
        assert_eq!(tags(&report), [(IMAGE_REFERENCE, TagOutcome::NotSet, None)]);
        assert!(!tag(&store).exists());
        assert_eq!(fs::read(pinned(&store)).unwrap(), fs::read(tag(&fixture.store)).unwrap());
        assert!(report.cache_files.contains(&pinned(&store)), "{:?}", report.cache_files);
        assert_eq!(codes(&checked(&store, None)), Vec::<&str>::new());
        // Again, and by force, it is all there already.
        let before = whole_tree(&store);
        for force in [false, true] {
            let again = placed(&bundle, &store, false, force);
            assert_eq!(tags(&again), [(IMAGE_REFERENCE, TagOutcome::NotSet, None)]);
            assert_eq!(whole_tree(&store), before);
        }
        // It is passed on as it came.
        let (out, head) = (fixture.path("again"), report.snapshots[0].path.clone().unwrap());
        let options = export_options(&store, head.to_str().unwrap(), Form::Dir, &out);
        let again = export(&ExportOptions { with_parents: true, with_image: true, ..options }).unwrap();
        let manifests = |snapshots: &[snapcask::report::SnapshotReport]| -> Vec<Digest> {
            snapshots.iter().map(|snapshot| snapshot.manifest.unwrap()).collect()
        };
        assert_eq!(manifests(&again.snapshots), manifests(&report.snapshots), "{generation:?}");
    }
}

#[test]
fn trust_sets_a_tag_that_has_no_meaning() {
    let (fixture, bundle, store) = exported(Generation::Flat);
    let report = placed(&bundle, &store, true, false);
    assert_eq!(tags(&report), [(IMAGE_REFERENCE, TagOutcome::Set, None)]);
    assert_eq!(fs::read(tag(&store)).unwrap(), fs::read(tag(&fixture.store)).unwrap());
    assert!(!pinned(&store).exists());
    assert_eq!(codes(&checked(&store, None)), Vec::<&str>::new());
    // From then on it is there, asked for or not.
    for trust in [false, true] {
        let report = placed(&bundle, &store, trust, false);
        assert_eq!(tags(&report), [(IMAGE_REFERENCE, TagOutcome::Already, Some(image()))]);
        assert!(report.cache_files.contains(&tag(&store)) && !pinned(&store).exists());
    }
}

#[test]
fn a_tag_with_another_meaning_is_replaced_by_trust_and_force_together() {
    for (trust, force) in [(false, false), (false, true), (true, false), (true, true)] {
        let (fixture, bundle, store) = exported(Generation::V066);
        let (newer, manifest) = tag_means_another_image(&store);
        let report = placed(&bundle, &store, trust, force);
        let both = trust && force;
        let outcome = if both { TagOutcome::Set } else { TagOutcome::Kept };
        assert_eq!(tags(&report), [(IMAGE_REFERENCE, outcome, Some(manifest))], "{trust} {force}");
        let expected = if both { fs::read(tag(&fixture.store)).unwrap() } else { newer };
        assert_eq!(fs::read(tag(&store)).unwrap(), expected);
        assert_eq!(pinned(&store).exists(), !both);
        assert_eq!(codes(&checked(&store, None)), Vec::<&str>::new());
    }
    // What no msb can read has no meaning, and is somebody's file.
    for (trust, force) in [(true, false), (true, true)] {
        let (fixture, bundle, store) = exported(Generation::V066);
        write(tag(&store), b"{");
        let report = placed(&bundle, &store, trust, force);
        let outcome = if force { TagOutcome::Set } else { TagOutcome::Kept };
        assert_eq!(tags(&report), [(IMAGE_REFERENCE, outcome, None)]);
        let expected = if force { fs::read(tag(&fixture.store)).unwrap() } else { b"{".to_vec() };
        assert_eq!(fs::read(tag(&store)).unwrap(), expected);
    }
}

/// The pinned key can mean one image only: what stands there and is not its metadata is damage.
#[test]
fn another_file_under_the_pinned_key_is_replaced_by_force() {
    let (fixture, bundle, store) = exported(Generation::Flat);
    write(pinned(&store), b"{");
    let error = import(&import_options(&bundle, &store)).unwrap_err();
    assert!(matches!(error, Error::DifferentFile { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert!(!store.join("snapshots").exists());
    placed(&bundle, &store, false, true);
    assert_eq!(fs::read(pinned(&store)).unwrap(), fs::read(tag(&fixture.store)).unwrap());
}

#[test]
fn the_command_names_each_tag() {
    let (_fixture, bundle, store) = exported(Generation::Flat);
    let run = |options: &[&str]| {
        let (bundle, store) = (bundle.to_str().unwrap(), store.to_str().unwrap());
        succeeds(&run([&["import", bundle, "--store", store], options].concat()))
    };
    let said = run(&[]);
    assert!(said.contains(&format!("tag    {IMAGE_REFERENCE}  not set; --trust-image-tags sets it\n")), "{said}");
    let report: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    validate("import-report", &report);
    assert_eq!(report["imageTags"][0]["outcome"], "not-set");
    let (_, manifest) = tag_means_another_image(&store);
    let said = run(&["--trust-image-tags"]);
    let kept = format!("not set: it means {manifest} here; --trust-image-tags with --force changes it\n");
    assert!(said.contains(&kept), "{said}");
    validate("import-report", &serde_json::from_str(&run(&["--json"])).unwrap());
    let said = run(&["--trust-image-tags", "--force"]);
    assert!(said.contains(&format!("set; it meant {manifest} before\n")), "{said}");
    assert!(run(&[]).contains("means this image already\n"));
}

/// A store with one snapshot, of this reference, and its bundle.
fn with_reference(reference: &str) -> (Fixture, PathBuf, PathBuf) {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let descriptor = fixture.snapshots[0].directory.join(fixture.snapshots[0].descriptor);
    let text = fs::read_to_string(&descriptor).unwrap().replace(IMAGE_REFERENCE, reference);
    fs::write(&descriptor, text).unwrap();
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    let options = export_options(&fixture.store, "base", Form::Tar, &bundle);
    export(&ExportOptions { with_image: true, ..options }).unwrap();
    (fixture, bundle, store)
}

#[test]
fn a_reference_that_is_pinned_to_the_image_has_its_own_key() {
    let canonical = format!("docker.io/library/alpine:3.20@{}", image());
    for reference in [canonical.clone(), format!("alpine:3.20@{}", image())] {
        let (_fixture, bundle, store) = with_reference(&reference);
        let report = placed(&bundle, &store, false, false);
        assert_eq!(tags(&report), []);
        let files: Vec<_> = files_in(&store.join("cache/manifests"));
        assert_eq!(files, [key(&store, &canonical)]);
        assert_eq!(codes(&checked(&store, None)), Vec::<&str>::new());
    }
}

/// It says `alpine@sha256:...` of another manifest: msb would take the one for the other.
#[test]
fn a_reference_that_is_pinned_to_another_manifest_is_no_better_than_a_tag() {
    let reference = format!("docker.io/library/alpine@{}", Digest::of(b"the real one"));
    let (_fixture, bundle, store) = with_reference(&reference);
    let report = placed(&bundle, &store, false, false);
    assert_eq!(tags(&report), [(reference.as_str(), TagOutcome::NotSet, None)]);
    assert!(!key(&store, &reference).exists() && pinned(&store).exists());
    assert_eq!(codes(&checked(&store, None)), Vec::<&str>::new());
}

/// The descriptor may spell the reference shorter: the metadata travels, and a tag is set, under msb's spelling.
#[test]
fn a_short_reference_is_spelled_as_msb_spells_it() {
    let (fixture, bundle, store) = with_reference("alpine:3.20");
    let report = placed(&bundle, &store, false, false);
    assert_eq!(tags(&report), [(IMAGE_REFERENCE, TagOutcome::NotSet, None)]);
    let again = fixture.path("again.tar");
    export(&ExportOptions { with_image: true, ..export_options(&store, "base", Form::Tar, &again) }).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&bundle).unwrap());
    placed(&bundle, &store, true, false);
    assert!(tag(&store).exists());
}

#[test]
fn a_repair_brings_metadata_back_and_sets_no_tag() {
    for another in [false, true] {
        let (_fixture, bundle, store) = exported(Generation::Final);
        placed(&bundle, &store, false, false);
        let good = fs::read(pinned(&store)).unwrap();
        let newer = another.then(|| tag_means_another_image(&store).0);
        for damage in [None, Some(b"{".to_vec()), Some(good[..good.len() - 9].to_vec())] {
            let code = match damage {
                None => fs::remove_file(pinned(&store)).map(|()| "cache-missing").unwrap(),
                Some(bytes) => fs::write(pinned(&store), bytes).map(|()| "cache-corrupt").unwrap(),
            };
            assert_eq!(codes(&checked(&store, None)), [code]);
            assert_eq!(codes(&checked(&store, Some(&bundle))), Vec::<&str>::new());
            assert_eq!(fs::read(pinned(&store)).unwrap(), good);
            assert_eq!(fs::read(tag(&store)).ok(), newer);
        }
    }
}

/// It is whole, so nothing says that it is damage; what it does under that key is for the user to find out.
#[test]
fn a_repair_replaces_no_whole_metadata() {
    let (_fixture, bundle, store) = exported(Generation::Flat);
    placed(&bundle, &store, false, false);
    let (newer, _) = tag_means_another_image(&store);
    fs::rename(tag(&store), pinned(&store)).unwrap();
    assert_eq!(codes(&checked(&store, None)), ["cache-missing"]);
    assert_eq!(codes(&checked(&store, Some(&bundle))), ["cache-missing", "repair-refused"]);
    assert_eq!(fs::read(pinned(&store)).unwrap(), newer);
}

/// A tag that was set here and is damaged means the image before and after.
#[test]
fn a_repair_mends_a_tag_that_means_the_image() {
    let (_fixture, bundle, store) = exported(Generation::Flat);
    placed(&bundle, &store, true, false);
    let good = fs::read_to_string(tag(&store)).unwrap();
    fs::write(tag(&store), good.replace("amd64", "arm64")).unwrap();
    let found = checked(&store, None);
    assert!(codes(&found).contains(&"cache-corrupt"), "{found:?}");
    assert_eq!(codes(&checked(&store, Some(&bundle))), Vec::<&str>::new());
    assert_eq!(fs::read_to_string(tag(&store)).unwrap(), good);
    assert!(!pinned(&store).exists());
}

/// Metadata of the fixture's image, its labels in this order, as msb writes them: in random order.
fn with_labels(store: &Path, labels: &str) -> String {
    let metadata = json_file(&tag(store));
    let config = json!({
        "architecture": "amd64", "config": {"Labels": {"a": "1", "b": "2"}},
        "rootfs": {"type": "layers", "diff_ids": [metadata["layers"][0]["diff_id"], metadata["layers"][1]["diff_id"]]},
    })
    .to_string();
    let mut metadata = metadata;
    metadata["config"] = json!({"env": [], "cmd": null, "labels": "LABELS"});
    metadata["config_digest"] = json!(Digest::of(config.as_bytes()));
    metadata["raw_config_json"] = json!(config);
    metadata.to_string().replace("\"LABELS\"", labels)
}

#[test]
fn two_loads_of_one_image_are_one_image() {
    for trust in [false, true] {
        let fixture = Fixture::sized(Generation::Flat, SMALL);
        let loads = [r#"{"a":"1","b":"2"}"#, r#"{"b":"2","a":"1"}"#].map(|labels| with_labels(&fixture.store, labels));
        assert_ne!(loads[0], loads[1]);
        let bundles = ["one.tar", "two.tar"].map(|name| fixture.path(name));
        for (load, bundle) in loads.iter().zip(&bundles) {
            fs::write(tag(&fixture.store), load).unwrap();
            fixture.export_chain(Form::Tar, bundle);
        }
        let store = fixture.path("target");
        let place = if trust { tag(&store) } else { pinned(&store) };
        placed(&bundles[0], &store, trust, false);
        assert_eq!(fs::read_to_string(&place).unwrap(), loads[0]);
        for force in [false, true] {
            let report = placed(&bundles[1], &store, trust, force);
            assert!(report.cache_files.contains(&place), "{report:?}");
            assert_eq!(fs::read_to_string(&place).unwrap(), loads[0]);
        }
        // msb has loaded the image again since: nothing is wrong, and it is passed on.
        fs::write(&place, &loads[1]).unwrap();
        assert_eq!(codes(&checked(&store, Some(&bundles[0]))), Vec::<&str>::new());
        assert_eq!(fs::read_to_string(&place).unwrap(), loads[1]);
        let out = fixture.path("again.tar");
        let options = export_options(&store, "head", Form::Tar, &out);
        export(&ExportOptions { with_parents: true, with_image: true, ..options }).unwrap();
        assert!(fs::read(&out).unwrap() == fs::read(&bundles[1]).unwrap());
        // Other labels are another meaning, and not those of the image's config.
        fs::write(&place, loads[1].replace(r#"{"b":"2","a":"1"}"#, r#"{"b":"2","a":"3"}"#)).unwrap();
        let found = checked(&store, None);
        assert!(codes(&found).contains(&"image-document"), "{found:?}");
    }
}

/// msb takes its defaults from what it has read out of the documents: a stranger must not say them differently.
#[test]
fn metadata_that_says_something_else_than_its_documents_is_refused() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    let good = with_labels(&fixture.store, r#"{"a":"1","b":"2"}"#);
    fs::write(tag(&fixture.store), good.replace(r#""cmd":null"#, r#""cmd":["/bin/evil"]"#)).unwrap();
    let options = fixture.export_options(Form::Tar, &bundle);
    let error = export(&ExportOptions { with_image: true, ..options }).unwrap_err();
    assert!(error.to_string().contains("its cmd is not that of the image's config"), "{error}");
    assert!(!bundle.exists() && !store.exists());
}

/// msb encodes a manifest that it pulls anew, so its bytes do not hash to the digest that the registry has for it.
#[test]
fn an_image_that_msb_has_pulled_travels() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    let mut metadata = json_file(&tag(&fixture.store));
    let config = Digest::of(IMAGE_CONFIG.as_bytes());
    metadata["raw_manifest_json"] = json!({"config": {"digest": config}, "layers": []}).to_string().into();
    fs::write(tag(&fixture.store), metadata.to_string()).unwrap();
    fixture.export_chain(Form::Tar, &bundle);
    placed(&bundle, &store, false, false);
    assert_eq!(codes(&checked(&store, None)), Vec::<&str>::new());
}

/// The tag of a snapshot that stays is not what another image's metadata is called: that goes with its image.
#[test]
fn pruning_goes_by_what_metadata_is_of() {
    let (_fixture, bundle, store) = exported(Generation::Flat);
    placed(&bundle, &store, false, false);
    let (_, newer) = tag_means_another_image(&store);
    // A snapshot of that other image.
    let base = fs::read_to_string(store.join("snapshots/base/snapshot.json")).unwrap();
    let own = store.join("snapshots/own");
    write(own.join("snapshot.json"), base.replace(&image().to_string(), &newer.to_string()).as_bytes());
    fs::copy(store.join("snapshots/base/upper.ext4"), own.join("upper.ext4")).unwrap();
    let options = RemoveOptions {
        store: store.clone(),
        snapshots: vec!["own".into()],
        orphan_children: false,
        prune_image: true,
        dry_run: false,
        set_head: None,
        index: snapcask::store::index::Index::Off,
        progress: Arc::new(Silent),
    };
    remove(&options).unwrap();
    assert!(!tag(&store).exists() && pinned(&store).exists());
    let all = ["head", "middle", "base"].map(String::from).to_vec();
    remove(&RemoveOptions { snapshots: all, ..options }).unwrap();
    assert!(!pinned(&store).exists());
    assert_eq!(tree(&store.join("cache")).len(), 0);
}

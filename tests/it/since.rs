//! Thin bundles: an export leaves out what its base has, an import takes that from where it is.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use snapcask::{
    Error,
    export::{Compression, ExportOptions, Form, export},
    import::{BundleLocation, ImportOptions, import},
    media_type,
    model::Generation,
    report::{ExportReport, Outcome},
    since::Since,
};

use crate::{fixture::*, layout_checks::validate};

const SMALL: u64 = 16 << 20;

/// Exports `snapshot` with its image, without what `base` has.
fn export_since(fixture: &Fixture, snapshot: &str, base: Since, form: Form, to: &Path) -> ExportReport {
    let options = export_options(&fixture.store, snapshot, form, to);
    export(&ExportOptions { with_image: true, since: vec![base], ..options }).unwrap()
}

/// Exports `snapshot` whole, with its parents and its image.
fn export_whole(fixture: &Fixture, snapshot: &str, form: Form, to: &Path) -> ExportReport {
    let options = export_options(&fixture.store, snapshot, form, to);
    export(&ExportOptions { with_parents: true, with_image: true, ..options }).unwrap()
}

fn ancestor(name: &str) -> Since {
    Since::Snapshot(name.into())
}

fn bundle(path: &Path) -> Since {
    Since::Bundle(BundleLocation::path(path.into()))
}

fn from(sources: &[&Path], bases: &[&Path], store: &Path) -> ImportOptions {
    let at = |paths: &[&Path]| paths.iter().map(|path| BundleLocation::path(path.to_path_buf())).collect();
    ImportOptions { sources: at(sources), bases: at(bases), ..import_options(Path::new("unused"), store) }
}

/// The snapshot of a store, wherever its generation places it.
fn placed(store: &Path, made: &Made, generation: Generation) -> PathBuf {
    match generation {
        Generation::Final => fs::read_dir(store.join("snapshots"))
            .unwrap()
            .map(|group| group.unwrap().path().join(&made.identity))
            .find(|path| path.is_dir())
            .unwrap(),
        _ => store.join("snapshots").join(&made.name),
    }
}

/// Layers of a layout directory's snapshots, by the config's kind.
fn layers(layout: &Path, wanted: &[&str]) -> BTreeSet<String> {
    let blob =
        |digest: &Value| layout.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"));
    let mut found = BTreeSet::new();
    for entry in json_file(&layout.join("index.json"))["manifests"].as_array().unwrap() {
        let manifest = json_file(&blob(&entry["digest"]));
        for layer in json_file(&blob(&manifest["config"]["digest"]))["layers"].as_array().unwrap() {
            if wanted.contains(&layer["kind"].as_str().unwrap()) {
                found.insert(layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned());
            }
        }
    }
    found
}

/// A parent of 8 MiB and a child that changes 2 MiB of it, none of which compresses.
pub fn parent_and_child(generation: Generation) -> Fixture {
    let mut fixture = Fixture::empty(generation);
    let base = (0, random(8 << 20, 900));
    fixture.add("parent", 0, SMALL, std::slice::from_ref(&base), Value::Null);
    fixture.add("child", 1, SMALL, &[base, (1 << 20, random(2 << 20, 901))], Value::Null);
    fixture
}

#[test]
fn export_since_parent_is_at_most_five_percent_over_the_delta() {
    for generation in GENERATIONS {
        let fixture = parent_and_child(generation);
        let (whole, thin) = (fixture.path("whole"), fixture.path("thin.tar.zst"));
        let options = export_options(&fixture.store, "child", Form::Dir, &whole);
        export(&ExportOptions { with_parents: true, ..options }).unwrap();
        let delta: u64 = layers(&whole, &["delta"])
            .iter()
            .map(|hex| fs::metadata(whole.join("blobs/sha256").join(hex)).unwrap().len())
            .sum();
        let options = export_options(&fixture.store, "child", Form::TarZst, &thin);
        let report = export(&ExportOptions { since: vec![ancestor("parent")], ..options }).unwrap();
        let size = fs::metadata(&thin).unwrap().len();
        assert!(size * 100 <= delta * 105, "{generation:?}: {size} bytes for a delta of {delta}");
        assert_eq!(report.left_out.len(), 1);
        assert!(report.left_out[0].size > 8 << 20);
    }
}

#[test]
fn thin_bundle_has_the_whole_ones_manifests_and_no_layer_of_the_base() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let paths = ["whole", "base", "thin", "thin-over-bundle"].map(|name| fixture.path(name));
        let [whole, base, thin, over_bundle] = &paths;
        export_whole(&fixture, "head", Form::Dir, whole);
        export_whole(&fixture, "middle", Form::Dir, base);
        let report = export_since(&fixture, "head", ancestor("middle"), Form::Dir, thin);
        export_since(&fixture, "head", bundle(base), Form::Dir, over_bundle);
        assert_eq!(blobs(thin), blobs(over_bundle), "a snapshot and a bundle of it are the same base");
        assert_eq!(fs::read(thin.join("index.json")).unwrap(), fs::read(over_bundle.join("index.json")).unwrap());
        let digests = |layout: &Path| -> Vec<Value> {
            let index = json_file(&layout.join("index.json"));
            index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].clone()).collect()
        };
        assert_eq!(digests(whole), digests(thin));
        let set = |layout: &Path| blobs(layout).into_iter().collect::<BTreeSet<_>>();
        let left_out: BTreeSet<String> = set(whole).difference(&set(thin)).cloned().collect();
        assert!(set(thin).is_subset(&set(whole)));
        let of_stacks = layers(base, &["base", "delta"]);
        let of_cache = layers(base, &["cache"]);
        assert!(of_stacks.is_subset(&left_out), "every layer of a stack that the base has is left out");
        assert!(left_out.is_subset(&of_stacks.union(&of_cache).cloned().collect()));
        // Metadata and VMDK travel; fsmeta and two layers do not.
        assert_eq!(left_out.intersection(&of_cache).count(), 3);
        let reported: BTreeSet<String> = report.left_out.iter().map(|layer| layer.digest.hex().to_owned()).collect();
        assert_eq!(reported, left_out);
        // Every one is named once, by the oldest snapshot that has it.
        let index = json_file(&thin.join("index.json"));
        let named: Vec<String> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|entry| entry["annotations"][media_type::LEFT_OUT].as_str())
            .flat_map(|digests| digests.split(','))
            .map(|digest| digest.trim_start_matches("sha256:").to_owned())
            .collect();
        assert_eq!(named.len(), left_out.len());
        assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), left_out);
    }
}

#[test]
fn import_completes_from_the_installed_parent() {
    for generation in GENERATIONS {
        for form in [Form::Dir, Form::Tar, Form::TarZst] {
            let fixture = Fixture::sized(generation, SMALL);
            let (base, thin, store) = (fixture.path("base.tar"), fixture.path(form_name(form)), fixture.path("target"));
            export_whole(&fixture, "middle", Form::Tar, &base);
            import_ok(&base, &store);
            export_since(&fixture, "head", ancestor("middle"), form, &thin);
            let report = import_ok(&thin, &store);
            let outcomes: Vec<_> = report.snapshots.iter().map(|snapshot| snapshot.outcome.unwrap()).collect();
            assert_eq!(outcomes, [Outcome::Placed, Outcome::AlreadyThere, Outcome::AlreadyThere]);
            assert_same_snapshot(fixture.head(), report.snapshots[0].path.as_ref().unwrap());
        }
    }
}

#[test]
fn import_completes_from_a_parent_of_another_name_or_group() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (base, thin, store) = (fixture.path("base.tar"), fixture.path("thin.tar"), fixture.path("target"));
        export_whole(&fixture, "middle", Form::Tar, &base);
        export_since(&fixture, "head", ancestor("middle"), Form::Tar, &thin);
        let group = |name: &str| (generation == Generation::Final).then(|| name.to_owned());
        let name = Some("renamed".to_owned());
        import(&ImportOptions { name, group: group("team"), ..import_options(&base, &store) }).unwrap();
        let report = import(&ImportOptions { group: group("other"), ..import_options(&thin, &store) }).unwrap();
        let outcomes: Vec<_> = report.snapshots.iter().map(|snapshot| snapshot.outcome.unwrap()).collect();
        assert_eq!(outcomes, [Outcome::Placed, Outcome::AlreadyThere, Outcome::AlreadyThere], "{generation:?}");
        assert_same_snapshot(fixture.head(), report.snapshots[0].path.as_ref().unwrap());
    }
}

#[test]
fn import_without_the_base_names_every_layer_and_places_nothing() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (thin, store) = (fixture.path("thin.tar"), fixture.path("target"));
    let report = export_since(&fixture, "head", ancestor("base"), Form::Tar, &thin);
    fs::create_dir_all(store.join("snapshots")).unwrap();
    write(store.join("snapshots/other/canary"), b"stays");
    let before = whole_tree(&store);
    let arguments = ["import", thin.to_str().unwrap(), "--store", store.to_str().unwrap()];
    let error = fails(&run(arguments), 4);
    let named = report.left_out.iter().filter(|layer| error.contains(&layer.digest.to_string())).count();
    assert!(named == 3 && error.contains(" and 1 more"), "{error}");
    assert!(error.contains("of snapshot base") && error.contains("--base"), "{error}");
    assert_eq!(whole_tree(&store), before);
}

#[test]
fn import_takes_its_sources_in_every_order() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let paths = ["base.tar", "middle.tar.zst", "head"].map(|name| fixture.path(name));
        let [base, middle, head] = &paths;
        export_whole(&fixture, "base", Form::Tar, base);
        export_since(&fixture, "middle", ancestor("base"), Form::TarZst, middle);
        export_since(&fixture, "head", ancestor("middle"), Form::Dir, head);
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let sources: Vec<&Path> = order.iter().map(|at| paths[*at].as_path()).collect();
            let store = fixture.path(&format!("target-{order:?}"));
            let report = import(&from(&sources, &[], &store)).unwrap();
            assert_eq!(report.snapshots.len(), 3, "{order:?}");
            for made in &fixture.snapshots {
                assert_same_snapshot(made, &placed(&store, made, generation));
            }
            // Any two of them lack something, and nothing is placed.
            let store = fixture.path(&format!("two-{order:?}"));
            if sources[..2].contains(&head.as_path()) {
                let error = import(&from(&sources[..2], &[], &store)).unwrap_err();
                assert!(matches!(error, Error::BaseMissing { .. }), "{order:?}: {error}");
                assert!(!store.join("snapshots").exists(), "{order:?}");
            }
        }
    }
}

#[test]
fn import_completes_from_bases_and_imports_none_of_their_heads() {
    let fixture = Fixture::sized(Generation::V066, SMALL);
    let paths = ["base.tar", "middle.tar", "thin.tar"].map(|name| fixture.path(name));
    let [base, middle, thin] = &paths;
    export_whole(&fixture, "head", Form::Tar, base);
    export_since(&fixture, "middle", ancestor("base"), Form::Tar, thin);
    export_whole(&fixture, "middle", Form::Tar, middle);
    for bases in [&[base.as_path()][..], &[middle.as_path()], &[middle.as_path(), base.as_path()]] {
        let store = fixture.path(&format!("target{}", bases.len() + usize::from(bases[0] == base)));
        let _ = fs::remove_dir_all(&store);
        let report = import(&from(&[thin], bases, &store)).unwrap();
        assert_eq!(report.snapshots[0].name, "middle");
        assert!(!store.join("snapshots/head").exists());
        assert_same_snapshot(&fixture.snapshots[1], &store.join("snapshots/middle"));
    }
}

#[test]
fn import_refuses_an_installed_base_that_is_damaged() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let (base, thin, store) = (fixture.path("base.tar"), fixture.path("thin.tar"), fixture.path("target"));
        export_whole(&fixture, "middle", Form::Tar, &base);
        export_since(&fixture, "head", ancestor("middle"), Form::Tar, &thin);
        import_ok(&base, &store);
        let middle = &fixture.snapshots[1];
        let disk = placed(&store, middle, generation).join(&middle.disk);
        let mut bytes = fs::read(&disk).unwrap();
        // Where the head writes nothing: its own delta would not heal it.
        bytes[9000] ^= 1;
        fs::write(&disk, bytes).unwrap();
        let before = whole_tree(&store);
        let error = import(&import_options(&thin, &store)).unwrap_err();
        assert!(matches!(error, Error::Different { .. }), "{generation:?}: {error}");
        assert_eq!(whole_tree(&store), before);
        // By force it would be replaced, for which its layer is needed.
        let error = import(&ImportOptions { force: true, ..import_options(&thin, &store) }).unwrap_err();
        assert!(matches!(error, Error::BaseMissing { .. }), "{generation:?}: {error}");
        assert_eq!(whole_tree(&store), before);
        import(&ImportOptions { force: true, ..from(&[&thin], &[&base], &store) }).unwrap();
        assert_same_snapshot(fixture.head(), &placed(&store, fixture.head(), generation));
        assert_same_snapshot(middle, &placed(&store, middle, generation));
    }
}

#[test]
fn import_refuses_a_corrupt_base_bundle_by_its_name() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (base, thin, store) = (fixture.path("the-base"), fixture.path("thin.tar"), fixture.path("target"));
    export_whole(&fixture, "base", Form::Dir, &base);
    let report = export_since(&fixture, "head", ancestor("base"), Form::Tar, &thin);
    let path = base.join("blobs/sha256").join(report.left_out[0].digest.hex());
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [flipped.as_slice(), &good[..good.len() - 1]] {
        fs::write(&path, bad).unwrap();
        let error = import(&from(&[&thin], &[&base], &store)).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("the-base"), "{error}");
        assert!(!store.join("snapshots").exists(), "something was placed");
    }
}

#[test]
fn import_refuses_a_base_of_other_content() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let mut other = Fixture::empty(Generation::Flat);
    other.add("base", 0, SMALL, &[(0, random(100_000, 4711))], Value::Null);
    let (base, thin, store) = (fixture.path("base.tar"), fixture.path("thin.tar"), fixture.path("target"));
    let options = export_options(&other.store, "base", Form::Tar, &base);
    export(&options).unwrap();
    let options = export_options(&fixture.store, "head", Form::Tar, &thin);
    export(&ExportOptions { since: vec![ancestor("base")], ..options }).unwrap();
    let error = import(&from(&[&thin], &[&base], &store)).unwrap_err();
    assert!(matches!(error, Error::BaseMissing { .. }), "{error}");
    assert!(!store.join("snapshots").exists());
    // Installed under the same name, it is told apart too.
    import_ok(&base, &store);
    let before = whole_tree(&store);
    let error = import(&import_options(&thin, &store)).unwrap_err();
    assert!(matches!(error, Error::Different { .. }), "{error}");
    assert_eq!(whole_tree(&store), before);
}

#[test]
fn import_leaves_out_ancestors_that_nothing_needs() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (base, thin, store) = (fixture.path("base.tar"), fixture.path("thin.tar"), fixture.path("target"));
    export_whole(&fixture, "middle", Form::Tar, &base);
    import_ok(&base, &store);
    export_since(&fixture, "head", ancestor("middle"), Form::Tar, &thin);
    fs::remove_dir_all(store.join("snapshots/base")).unwrap();
    let report = import_ok(&thin, &store);
    let outcomes: Vec<_> = report.snapshots.iter().map(|snapshot| snapshot.outcome.unwrap()).collect();
    assert_eq!(outcomes, [Outcome::Placed, Outcome::AlreadyThere, Outcome::Skipped]);
    assert_same_snapshot(fixture.head(), &store.join("snapshots/head"));
    assert!(!store.join("snapshots/base").exists());
    // Without the parent, the chain above is not complete: nothing of it is placed.
    fs::remove_dir_all(store.join("snapshots/middle")).unwrap();
    fs::remove_dir_all(store.join("snapshots/head")).unwrap();
    let before = whole_tree(&store);
    let error = import(&import_options(&thin, &store)).unwrap_err();
    assert!(error.to_string().contains("of snapshot middle"), "{error}");
    assert_eq!(whole_tree(&store), before);
}

#[test]
fn import_needs_the_image_files_that_were_left_out() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (base, thin, store) = (fixture.path("base.tar"), fixture.path("thin.tar"), fixture.path("target"));
    // The base travelled without its image, so that the store has none of it.
    let options = export_options(&fixture.store, "middle", Form::Tar, &base);
    export(&ExportOptions { with_parents: true, ..options }).unwrap();
    import_ok(&base, &store);
    export_since(&fixture, "head", ancestor("middle"), Form::Tar, &thin);
    let before = whole_tree(&store);
    let error = import(&import_options(&thin, &store)).unwrap_err();
    assert!(matches!(error, Error::BaseMissing { .. }), "{error}");
    assert_eq!(whole_tree(&store), before);
    let with_image = fixture.path("with-image.tar");
    export_whole(&fixture, "base", Form::Tar, &with_image);
    import(&from(&[&thin], &[&with_image], &store)).unwrap();
    assert_same_snapshot(fixture.head(), &store.join("snapshots/head"));
}

#[test]
fn verify_says_that_a_base_is_needed_and_completes_from_it() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (base, thin) = (fixture.path("base.tar"), fixture.path("thin"));
    export_whole(&fixture, "base", Form::Tar, &base);
    let left_out = export_since(&fixture, "head", bundle(&base), Form::Dir, &thin).left_out;
    let (thin, base) = (thin.to_str().unwrap(), base.to_str().unwrap());
    for deep in [&[][..], &["--deep"]] {
        let output = run(["verify", thin, "--json"].iter().chain(deep));
        fails(&output, 1);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        validate("verify-report", &report);
        let found = report["findings"].as_array().unwrap();
        assert_eq!(found.len(), left_out.len());
        assert!(found.iter().all(|finding| finding["code"] == "base-needed"), "{report:#}");
        assert_eq!(report["leftOut"].as_array().unwrap().len(), left_out.len());
        assert_eq!(report["decoded"], json!(false));
        let output = run(["verify", thin, "--base", base, "--json"].iter().chain(deep));
        let report: Value = serde_json::from_str(&succeeds(&output)).unwrap();
        assert_eq!((&report["findings"], &report["decoded"]), (&json!([]), &json!(!deep.is_empty())));
    }
    // What is there is still verified.
    let delta = layers(Path::new(thin), &["delta"]).into_iter().next().unwrap();
    let path = Path::new(thin).join("blobs/sha256").join(delta);
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, bytes).unwrap();
    fails(&run(["verify", thin]), 3);
    fails(&run(["verify", thin, "--base", base]), 3);
}

#[test]
fn copy_of_a_thin_bundle_is_as_thin_and_whole_with_its_base() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let paths = ["base.tar", "thin.tar", "copy", "full", "whole"].map(|name| fixture.path(name));
    let [base, thin, copy, full, whole] = paths.each_ref().map(|path| path.to_str().unwrap());
    export_whole(&fixture, "base", Form::Tar, Path::new(base));
    let left_out = export_since(&fixture, "head", bundle(Path::new(base)), Form::Tar, Path::new(thin)).left_out;
    let report = succeeds(&run(["copy", thin, &format!("{copy}/"), "--json"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    validate("copy-report", &report);
    assert_eq!(report["leftOut"].as_array().unwrap().len(), left_out.len());
    fails(&run(["verify", copy]), 1);
    succeeds(&run(["verify", copy, "--base", base]));
    let copied = succeeds(&run(["copy", copy, &format!("{full}/"), "--base", base, "--json"]));
    assert!(serde_json::from_str::<Value>(&copied).unwrap().get("leftOut").is_none());
    succeeds(&run(["verify", full, "--deep"]));
    export_whole(&fixture, "head", Form::Dir, Path::new(whole));
    assert_eq!(blobs(Path::new(full)), blobs(Path::new(whole)));
    assert_eq!(json_file(&Path::new(full).join("index.json")), json_file(&Path::new(whole).join("index.json")));
}

#[test]
fn import_of_sources_that_use_one_tag_asks_which() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (one, two, store) = (fixture.path("one.tar"), fixture.path("two.tar"), fixture.path("target"));
    export_whole(&fixture, "base", Form::Tar, &one);
    let options = export_options(&fixture.store, "base", Form::Tar, &two);
    export(&ExportOptions { compression: Compression::None, ..options }).unwrap();
    for sources in [[&one, &two], [&two, &one]] {
        let sources = sources.map(PathBuf::as_path);
        for tag in [None, Some("base".to_owned())] {
            let error = import(&ImportOptions { tag, ..from(&sources, &[], &store) }).unwrap_err();
            assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
        }
    }
    assert!(!store.join("snapshots").exists());
}

#[test]
fn inspect_and_reports_say_what_is_left_out() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (whole, thin) = (fixture.path("whole"), fixture.path("thin"));
    let store = fixture.store.to_str().unwrap();
    let target = thin.to_str().unwrap();
    let export = ["export", "head", "--since", "middle", "-o", target, "--format", "dir", "--store", store, "--json"];
    let report: Value = serde_json::from_str(&succeeds(&run(export))).unwrap();
    validate("export-report", &report);
    assert_eq!(report["leftOut"].as_array().unwrap().len(), 2);
    validate("index", &json_file(&thin.join("index.json")));
    let report: Value = serde_json::from_str(&succeeds(&run(["inspect", target, "--json"]))).unwrap();
    validate("inspect-report", &report);
    let layers = report["snapshots"][0]["layers"].as_array().unwrap();
    let left_out: Vec<bool> = layers.iter().map(|layer| layer["leftOut"] == json!(true)).collect();
    assert_eq!(left_out, [true, true, false]);
    let text = succeeds(&run(["inspect", target]));
    assert!(text.contains(", left out") && text.contains("layers are left out"), "{text}");
    export_whole(&fixture, "head", Form::Dir, &whole);
    assert!(!succeeds(&run(["inspect", whole.to_str().unwrap()])).contains("left out"));
}

#[test]
fn export_since_a_bundle_that_is_packed_otherwise_is_whole() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (base, out, store) = (fixture.path("base.tar"), fixture.path("out.tar"), fixture.path("target"));
    let options = export_options(&fixture.store, "base", Form::Tar, &base);
    export(&ExportOptions { compression: Compression::None, ..options }).unwrap();
    assert!(export_since(&fixture, "head", bundle(&base), Form::Tar, &out).left_out.is_empty());
    import_ok(&out, &store);
}

#[test]
fn export_since_several_thin_bundles_leaves_out_what_each_has() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let paths = ["base.tar", "middle.tar", "head.tar"].map(|name| fixture.path(name));
    let [base, middle, head] = &paths;
    export_whole(&fixture, "base", Form::Tar, base);
    export_since(&fixture, "middle", bundle(base), Form::Tar, middle);
    let options = export_options(&fixture.store, "head", Form::Tar, head);
    let both = ExportOptions { since: vec![bundle(middle), bundle(base)], ..options.clone() };
    assert_eq!(export(&both).unwrap().left_out.len(), 2);
    // A thin bundle does not have what it names only.
    let one = ExportOptions { since: vec![bundle(middle)], force: true, ..options };
    let left_out = export(&one).unwrap().left_out;
    assert_eq!(left_out.iter().map(|layer| layer.snapshot.as_str()).collect::<Vec<_>>(), ["middle"]);
}

#[test]
fn export_since_refuses_what_is_no_base() {
    let mut fixture = Fixture::sized(Generation::Flat, SMALL);
    let last = fixture.snapshots.pop().unwrap();
    fixture.add("sibling", 3, SMALL, &[], Value::Null);
    fixture.snapshots.push(last);
    let store = fixture.store.to_str().unwrap();
    let out = fixture.path("out.tar");
    let out = out.to_str().unwrap();
    let export = |since: &str, to: &str| run(["export", "head", "--since", since, "-o", to, "--store", store]);
    assert!(fails(&export("sibling", out), 2).contains("neither head nor an ancestor of it"));
    fails(&export("nobody", out), 4);
    assert!(!Path::new(out).exists());
    let refused = fails(&export("base", "oci://127.0.0.1:1/a/b:c"), 2);
    assert!(refused.contains("a registry takes no bundle"), "{refused}");
    // A thin bundle over itself would take its base away.
    export_whole(&fixture, "base", Form::Tar, Path::new(out));
    let before = fs::read(out).unwrap();
    let force = ["export", "head", "--since", out, "-o", out, "--store", store, "--force"];
    assert!(fails(&run(force), 2).contains("is what the bundle is made over"));
    assert_eq!(fs::read(out).unwrap(), before);
}

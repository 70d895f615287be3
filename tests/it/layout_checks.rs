//! A bundle is what the format and the schemas say.

use std::{fs, path::Path};

use oci_spec::image::{ImageIndex, ImageManifest, OciLayout};
use serde_json::Value;
use snapcask::{Digest, export::Form, media_type, model::Generation};

use crate::fixture::*;

#[track_caller]
pub fn validate(schema: &str, document: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{schema}.schema.json"));
    let validator = jsonschema::validator_for(&json_file(&path)).unwrap();
    let errors: Vec<String> = validator.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{schema}: {errors:#?}\n{document:#}");
}

#[test]
fn a_directory_follows_the_format() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, 16 << 20);
        let bundle = fixture.path("bundle");
        let report = fixture.export_chain(Form::Dir, &bundle);
        let blob = |hex: &str| bundle.join("blobs/sha256").join(hex);
        let names = blobs(&bundle);
        for hex in &names {
            assert_eq!(Digest::of(&fs::read(blob(hex)).unwrap()).hex(), *hex);
        }
        validate("oci-layout", &json_file(&bundle.join("oci-layout")));
        OciLayout::from_file(bundle.join("oci-layout")).unwrap();
        validate("index", &json_file(&bundle.join("index.json")));
        let index = ImageIndex::from_file(bundle.join("index.json")).unwrap();
        let mut referred = 0;
        let mut subject = None;
        let tags: Vec<String> =
            index.manifests().iter().map(|d| d.annotations().as_ref().unwrap()[media_type::REF_NAME].clone()).collect();
        assert_eq!(tags, ["head", "middle", "base"]);
        let mut all = std::collections::BTreeSet::new();
        for (descriptor, snapshot) in index.manifests().iter().zip(&report.snapshots) {
            assert_eq!(descriptor.digest().to_string(), snapshot.manifest.unwrap().to_string());
            if let Some(expected) = subject.take() {
                assert_eq!(descriptor.digest().to_string(), expected, "the subject is the next entry");
            }
            let path = blob(descriptor.digest().digest());
            validate("manifest", &json_file(&path));
            let manifest = ImageManifest::from_file(&path).unwrap();
            let config = blob(manifest.config().digest().digest());
            validate("config", &json_file(&config));
            snapcask::model::SnapshotConfig::parse(&fs::read(&config).unwrap(), "config").unwrap();
            subject = manifest.subject().as_ref().map(|s| s.digest().to_string());
            all.insert(descriptor.digest().digest().to_owned());
            for d in manifest.layers().iter().chain([manifest.config()]) {
                assert_eq!(fs::metadata(blob(d.digest().digest())).unwrap().len(), d.size());
                all.insert(d.digest().digest().to_owned());
            }
            referred += 1;
        }
        assert_eq!((referred, subject), (3, None));
        assert_eq!(all.into_iter().collect::<Vec<_>>(), names, "no blob that nothing refers to");
    }
}

#[test]
fn every_example_of_the_format_validates() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")).unwrap();
    let mut examples = 0;
    for part in text.split("<!-- schema: ").skip(1) {
        let (name, rest) = part.split_once(" -->").unwrap();
        let example = rest.trim_start().strip_prefix("```json\n").expect("a json fence follows the schema's name");
        let (example, _) = example.split_once("\n```").unwrap();
        let value = serde_json::from_str(example).unwrap_or_else(|e| panic!("{name}: {e}\n{example}"));
        validate(name.trim(), &value);
        examples += 1;
    }
    assert!(examples >= 4, "only {examples} examples");
}

#[test]
fn json_output_validates() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    let (store, target) = (fixture.store.to_str().unwrap(), fixture.path("target"));
    let target = target.to_str().unwrap();
    let bundle = fixture.path("b.tar.zst");
    let bundle = bundle.to_str().unwrap();
    for (schema, arguments) in [
        ("export-report", vec!["export", "head", "-o", bundle, "--with-parents", "--with-image", "--store", store]),
        ("verify-report", vec!["verify", bundle]),
        ("inspect-report", vec!["inspect", bundle]),
        ("inspect-report", vec!["inspect", "head", "--store", store]),
        ("import-report", vec!["import", bundle, "--store", target]),
        ("list-report", vec!["list", "--store", target]),
    ] {
        let output = run([arguments, vec!["--json"]].concat());
        validate(schema, &serde_json::from_str(&succeeds(&output)).unwrap());
    }
    let output = run(["export", "nobody", "-o", "x.tar", "--store", store, "--json"]);
    fails(&output, 4);
    validate("error", &serde_json::from_slice(&output.stdout).unwrap());
}

/// Tools that keep a manifest's referrers under a tag `sha256-HEX` list that index beside the snapshots.
#[test]
fn an_index_among_the_snapshots_is_ignored_and_checked() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let bundle = fixture.path("bundle");
    let report = fixture.export_chain(Form::Dir, &bundle);
    let mut index = json_file(&bundle.join("index.json"));
    let child = index["manifests"][0].clone();
    let parent = index["manifests"][1]["digest"].as_str().unwrap().replace(':', "-");
    let referrers =
        serde_json::json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [child] }).to_string();
    let digest = Digest::of(referrers.as_bytes());
    fs::write(bundle.join("blobs/sha256").join(digest.hex()), &referrers).unwrap();
    index["manifests"].as_array_mut().unwrap().insert(
        0,
        serde_json::json!({
            "mediaType": media_type::INDEX, "digest": digest, "size": referrers.len(), "annotations": { media_type::REF_NAME: parent },
        }),
    );
    fs::write(bundle.join("index.json"), index.to_string()).unwrap();
    let imported = import_ok(&bundle, &fixture.path("target"));
    assert_eq!(imported.snapshots.len(), report.snapshots.len());
    succeeds(&run(["verify".as_ref(), bundle.as_os_str()]));
    succeeds(&run(["inspect".as_ref(), bundle.as_os_str()]));
    let copy = fixture.path("copy.tar");
    succeeds(&run(["copy".as_ref(), bundle.as_os_str(), copy.as_os_str()]));
    succeeds(&run(["verify".as_ref(), copy.as_os_str(), "--deep".as_ref()]));

    let store = fixture.path("other");
    let asked = [
        "import".as_ref(),
        bundle.as_os_str(),
        "--tag".as_ref(),
        parent.as_ref(),
        "--store".as_ref(),
        store.as_os_str(),
    ];
    assert!(fails(&run(asked), 3).contains("it is an index of manifests"));
    // What is ignored is still a blob of the bundle: damage to it is found.
    fs::write(bundle.join("blobs/sha256").join(digest.hex()), referrers.replace("2", "3")).unwrap();
    fails(&run(["verify".as_ref(), bundle.as_os_str()]), 3);
}

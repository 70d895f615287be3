//! The command line: exit codes, messages, and silence in a pipe.

use std::{error::Error, fs, os::unix::fs::symlink, path::Path};

use jsonschema::{Retrieve, Uri};
use serde_json::Value;
use snapcask::{export::Form, model::Generation};

use crate::{
    fixture::*,
    full_snapshot::{self, Sample},
};

const SMALL: u64 = 16 << 20;

#[test]
fn exit_codes() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let store = fixture.store.to_str().unwrap();
    let good = fixture.path("good.tar.zst");
    let good = good.to_str().unwrap();
    let export = |more: &[&str]| run([&["export", "--store", store], more].concat());
    let text = fails(&export(&["head", "-o", fixture.path("a.bin").to_str().unwrap()]), 2);
    for form in [".tar.zst", ".tzst", ".tar", "DIR/", "-"] {
        assert!(text.contains(form), "{form} is not in {text}");
    }
    fails(&run(["no-such-verb"]), 2);
    fails(&export(&["head"]), 2);
    fails(&export(&["nobody", "-o", good]), 4);
    assert!(!fixture.path("good.tar.zst").exists());
    succeeds(&export(&["head", "-o", good, "--with-parents"]));
    let before = fs::read(good).unwrap();
    let text = fails(&export(&["base", "-o", good]), 5);
    assert!(text.contains("--force"), "{text}");
    assert_eq!(fs::read(good).unwrap(), before);
    succeeds(&export(&["head", "-o", good, "--with-parents", "--force"]));
    assert_eq!(fs::read(good).unwrap(), before);
    succeeds(&export(&["head", "-o", fixture.path("new/folders/b.tar").to_str().unwrap()]));
    succeeds(&run(["verify", good]));
    succeeds(&run(["verify", good, "--deep"]));
    let mut bytes = before.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(good, bytes).unwrap();
    fails(&run(["verify", good]), 3);
    fails(&run(["import", good, "--store", fixture.path("target").to_str().unwrap()]), 3);
    fails(&run(["import", "/nonexistent.tar", "--store", fixture.path("target").to_str().unwrap()]), 4);
    assert!(tree(&fixture.path("target")).is_empty());
}

#[test]
fn the_list_has_every_name_and_no_progress_is_in_a_pipe() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let store = fixture.store.to_str().unwrap();
        let text = succeeds(&run(["list", "--store", store]));
        for name in NAMES {
            assert!(text.contains(name), "{name} is not in {text}");
        }
        let bundle = fixture.path("b.tar.zst");
        let exported = run(["export", "head", "-o", bundle.to_str().unwrap(), "--store", store]);
        let target = fixture.path("target");
        let imported = run(["import", bundle.to_str().unwrap(), "--store", target.to_str().unwrap()]);
        for output in [exported, imported] {
            succeeds(&output);
            let all = stdout(&output) + &stderr(&output);
            assert!(!all.contains('\r') && !all.contains('\x1b'), "progress in a pipe: {all:?}");
        }
    }
}

#[test]
fn ambiguity_lists_the_candidates() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let group = fixture.store.join("snapshots/other");
    write_group(&group, Some(&fixture.head().identity));
    let copy = group.join(&fixture.head().identity);
    fs::create_dir_all(&copy).unwrap();
    for file in tree(&fixture.head().directory).keys() {
        write(copy.join(file), &fs::read(fixture.head().directory.join(file)).unwrap());
    }
    write_member(&copy, "head");
    let bundle = fixture.path("b.tar");
    let text =
        fails(&run(["export", "head", "-o", bundle.to_str().unwrap(), "--store", fixture.store.to_str().unwrap()]), 2);
    assert!(text.contains("web:head") && text.contains("other:head"), "{text}");
}

#[test]
fn what_cannot_be_packed() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (store, bundle) = (fixture.store.to_str().unwrap(), fixture.path("b.tar"));
    let export = |name: &str| run(["export", name, "--with-parents", "-o", bundle.to_str().unwrap(), "--store", store]);
    let head = &fixture.head().directory;

    symlink("/etc/passwd", head.join("link")).unwrap();
    assert!(fails(&export("head"), 1).contains("link is a symbolic link"));
    fs::remove_file(head.join("link")).unwrap();

    let disk = fs::OpenOptions::new().write(true).open(head.join("upper.ext4")).unwrap();
    disk.set_len(SMALL + 1).unwrap();
    let text = fails(&export("head"), 1);
    assert!(text.contains(&SMALL.to_string()) && text.contains(&(SMALL + 1).to_string()), "{text}");
    disk.set_len(SMALL).unwrap();

    let odd = fixture.store.join("snapshots/odd name");
    fs::rename(head, &odd).unwrap();
    assert!(fails(&export("odd name"), 2).contains("; rename it"));
    fs::rename(&odd, head).unwrap();

    fs::remove_dir_all(&fixture.snapshots[1].directory).unwrap();
    let text = fails(&export("head"), 4);
    assert!(text.contains(&fixture.snapshots[1].identity) && text.contains("import the parent first"), "{text}");
    assert!(!bundle.exists());
    succeeds(&run(["export", "head", "-o", bundle.to_str().unwrap(), "--store", store]));
    let _ = Form::Tar;
}

/// A disk that is full makes no blob corrupt. (A limit on the size of files is one for root, too.)
#[test]
fn copy_to_a_full_disk() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let bundle = fixture.path("bundle");
    fixture.export_chain(Form::Dir, &bundle);
    for name in ["copy/", "copy.tar", "copy.tar.zst"] {
        let copy = fixture.path(name);
        let output = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_snapcask"), "copy"])
            .args([bundle.as_os_str(), copy.as_os_str()])
            .output()
            .unwrap();
        let text = fails(&output, 1);
        let place = copy.to_str().unwrap().trim_end_matches('/');
        assert!(text.contains(&format!("cannot write {place}")) && text.contains("File too large"), "{text}");
        assert!(!copy.exists());
    }
}

/// The schemas by their names: one may refer to another.
struct Schemas;

impl Retrieve for Schemas {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        let name = uri.as_str().strip_prefix("urn:snapcask:schema:").and_then(|rest| rest.strip_suffix(":1"));
        Ok(schema(name.ok_or("no schema of ours")?))
    }
}

fn schema(name: &str) -> Value {
    json_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{name}.schema.json")))
}

#[test]
fn the_demos_report_is_what_its_schema_says() {
    let folder = tempfile::tempdir().unwrap();
    let report = succeeds(&run(["demo".as_ref(), folder.path().join("demo").as_os_str(), "--json".as_ref()]));
    let report: Value = serde_json::from_str(&report).unwrap();
    let validator = jsonschema::options().with_retriever(Schemas).build(&schema("demo-report")).unwrap();
    let errors: Vec<String> = validator.iter_errors(&report).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{report:#}");
}

#[test]
fn a_store_that_is_not_there_is_not_empty() {
    let folder = tempfile::tempdir().unwrap();
    let list = |store: &Path| run(["list".as_ref(), "--store".as_ref(), store.as_os_str()]);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for none in [folder.path().join("nowhere"), file.clone(), file.join("below")] {
        let text = fails(&list(&none), 4);
        assert!(text.contains("store not found") && text.contains("--store"), "{text}");
    }
    let text = fails(&list(folder.path()), 4);
    assert!(text.contains("is no store: it has neither snapshots/ nor cache/"), "{text}");
    fs::remove_file(&file).unwrap();
    assert!(succeeds(&list(folder.path())).starts_with("no snapshots in "));
}

#[test]
fn a_folder_without_a_descriptor_is_no_snapshot() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let store = fixture.store.to_str().unwrap();
    let empty = fixture.store.join("snapshots/empty");
    fs::create_dir_all(&empty).unwrap();
    let expected = format!("{} is no snapshot: it has neither manifest.json nor snapshot.json", empty.display());
    for arguments in [vec!["inspect", "empty"], vec!["remove", "empty"], vec!["export", "empty", "-o", "x.tar"]] {
        let text = fails(&run([arguments, vec!["--store", store]].concat()), 4);
        assert!(text.contains(&expected), "{text}");
    }
    let listed = succeeds(&run(["list", "--store", store]));
    assert!(listed.contains("is no snapshot") && !listed.contains("pack"), "{listed}");
}

#[test]
fn a_snapshot_that_is_inspected_by_its_path_is_said_to_be_there() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (store, path) = (fixture.path("nowhere"), fixture.head().directory.to_str().unwrap());
    let inspect =
        |more: &[&str]| succeeds(&run([&["inspect", path, "--store", store.to_str().unwrap()], more].concat()));
    assert!(inspect(&[]).starts_with(&format!("{path}\n")));
    assert_eq!(serde_json::from_str::<Value>(&inspect(&["--json"])).unwrap()["source"], path);
}

#[test]
fn a_bundle_that_is_there_is_a_destination_and_no_folder_to_write_into() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let store = fixture.store.to_str().unwrap();
    let export = |output: &Path, more: &[&str]| {
        let arguments = ["export", "base", "--store", store, "-o", output.to_str().unwrap()];
        run([&arguments, more].concat())
    };
    let bundle = fixture.path("bundle");
    fs::create_dir(&bundle).unwrap();
    succeeds(&export(&bundle, &[]));
    let text = fails(&export(&bundle, &[]), 5);
    assert!(text.contains("--force"), "{text}");
    succeeds(&export(&bundle, &["--force"]));
    let before = whole_tree(&bundle);
    symlink("bundle", fixture.path("link")).unwrap();
    for inside in ["bundle/b/c/", "bundle/blobs/b.tar", "link/b.tar", "link/../bundle/new/b.tar"] {
        // Not by `path`, which may make it plain.
        let output = fixture.path("").join(inside);
        let text = fails(&export(&output, &[]), 2);
        assert!(text.contains("is inside of the bundle"), "{text}");
    }
    assert_eq!(whole_tree(&bundle), before);
    succeeds(&export(&fixture.path("link/../beside.tar"), &[]));
    // A folder that somebody called so makes no bundle of what is around it.
    fs::create_dir_all(fixture.path("around/oci-layout")).unwrap();
    succeeds(&export(&fixture.path("around/b.tar"), &[]));
}

#[test]
fn standard_streams_that_lead_nowhere() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let store = fixture.store.to_str().unwrap();
    for empty in [run(["import", "-", "--store", store]), run_with_input(["import", "-", "--store", store], b"")] {
        let text = fails(&empty, 3);
        assert!(text.contains("standard input: it is empty; what was to write it may have failed"), "{text}");
    }
    for arguments in [["push", "-", "oci://127.0.0.1:1/vm:a"], ["copy", "-", "oci://127.0.0.1:1/vm:a"]] {
        let output = run([&arguments[..], &["--username", "ann", "--password-stdin"]].concat());
        assert!(fails(&output, 2).contains("both the bundle (-) and the password"), "{arguments:?}");
    }
    let shell = |redirection: &str| {
        let line = format!("exec \"$0\" export base -o - --store \"$1\" {redirection}");
        let program = env!("CARGO_BIN_EXE_snapcask");
        std::process::Command::new("sh").args(["-c", &line, program, store]).output().unwrap()
    };
    assert!(fails(&shell(">&-"), 2).contains("closed"));
    succeeds(&shell(">/dev/null"));
}

#[test]
fn a_demo_takes_an_empty_folder_and_a_failed_one_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let demo = |dir: &Path| run(["demo".as_ref(), dir.as_os_str()]);
    fs::write(folder.path().join("mine"), "").unwrap();
    let text = fails(&demo(folder.path()), 5);
    assert!(text.contains("name another one") && !text.contains("--force"), "{text}");
    // No file may be as large as its disks: as on a full one.
    let line = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" demo \"$1\"";
    let full = |dir: &Path| {
        let arguments = ["-c".as_ref(), line.as_ref(), env!("CARGO_BIN_EXE_snapcask").as_ref(), dir.as_os_str()];
        std::process::Command::new("sh").args(arguments).output().unwrap()
    };
    fails(&full(&folder.path().join("new/folder")), 1);
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fails(&full(&empty), 1);
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["empty", "mine"]);
    assert!(fs::read_dir(&empty).unwrap().next().is_none());
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeds(&run(["completions", shell]));
        assert!(script.contains("with-parents") && script.contains("repair-from"), "{shell}: {script}");
    }
    fails(&run(["completions", "cmd.exe"]), 2);
}

/// Where the bundle goes to standard output, the report and the error are on the other one.
#[test]
fn json_beside_a_bundle() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let store = fixture.store.to_str().unwrap();
    for (name, code) in [("head", 0), ("nobody", 4)] {
        let output = run(["export", name, "--store", store, "-o", "-", "--json"]);
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(output.stdout.is_empty(), code != 0);
        let text = stderr(&output);
        let report: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
        if code != 0 {
            crate::layout_checks::validate("error", &report);
            assert_eq!(report["error"]["exitCode"], code);
        }
    }
    let text = fails(&run(["export", "head", "-o", "-", "--json", "--what"]), 2);
    let report: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    assert_eq!(report["error"]["exitCode"], 2);
}

#[test]
fn a_name_that_cannot_travel() {
    let mut fixture = Fixture::empty(Generation::Flat);
    fixture.add("my snap", 0, SMALL, &[(0, random(4096, 1))], Value::Null);
    let store = fixture.store.to_str().unwrap();
    for more in [&[][..], &["--tag", "mine"]] {
        let arguments = [&["export", "my snap", "--store", store, "-o", "-"], more].concat();
        let text = fails(&run(arguments), 2);
        assert!(text.contains("a snapshot named \"my snap\" cannot travel (only letters, digits"), "{text}");
        assert!(text.contains("; rename it"), "{text}");
    }
}

#[test]
fn list_shows_the_sizes_of_a_full_snapshot() {
    let sample = Sample::full();
    let store = sample.store.to_str().unwrap();
    let report: Value = serde_json::from_str(&succeeds(&run(["list", "--store", store, "--json"]))).unwrap();
    let snapshot = &report["snapshots"][0];
    assert_eq!(snapshot["virtualSize"], full_snapshot::DISK);
    let held: u64 = tree(&sample.directory).keys().map(|path| allocated(&sample.directory.join(path))).sum();
    let bytes = snapshot["allocatedBytes"].as_u64().unwrap();
    // The alias beside the files counts, too.
    assert!((held..held + 8192).contains(&bytes), "{bytes} of {held}");
    let text = succeeds(&run(["list", "--store", store]));
    assert!(text.contains("256.0 KiB") && text.contains("(full, "), "{text}");
    // Without its documents nothing is known of its disk.
    sample.remove(&sample.object_of("/disks/0"));
    let report: Value = serde_json::from_str(&succeeds(&run(["list", "--store", store, "--json"]))).unwrap();
    assert_eq!(report["snapshots"][0]["virtualSize"], 0);
}

//! What arrives is what was saved: every generation, every form, with and without parents, image and deltas.

use std::{fs, path::Path, process::Command};

use snapcask::{
    export::{Compression, Form, export},
    import::import,
    model::Generation,
    report::Outcome,
};

use crate::fixture::{ALL, Fixture, NAMES, allocated, import_options, run, travelling};

fn check(fixture: &Fixture, store: &Path, parents: bool, image: bool) {
    for (i, source) in fixture.snapshots.iter().enumerate() {
        let placed = match fixture.generation {
            Generation::Final => {
                let group = if parents { "base" } else { "head" };
                store.join("snapshots").join(group).join(source.file_name().unwrap())
            }
            _ => store.join("snapshots").join(NAMES[i]),
        };
        if !parents && i < 2 {
            assert!(!placed.exists());
            continue;
        }
        assert_eq!(travelling(source), travelling(&placed), "{}", placed.display());
        assert!(!placed.join(".local").exists() && !placed.join("x.lock").exists());
        let disk = Fixture::disk_name(fixture.generation, i);
        let (from, to) = (allocated(&source.join(&disk)), allocated(&placed.join(&disk)));
        assert!(to <= from + 8 * 4096, "{disk}: {from} bytes became {to}");
    }
    let cache = store.join("cache");
    if !image {
        assert!(!cache.exists());
        return;
    }
    let vmdk = fs::read_dir(cache.join("vmdk")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(vmdk).unwrap();
    assert!(text.contains(&format!("\"{}/fsmeta/sha256_", cache.display())), "{text}");
    assert!(!cache.join("layers/sha256_other.erofs").exists() && !cache.join("tmp").exists());
    assert_eq!(fs::read_dir(cache.join("layers")).unwrap().count(), 1);
}

#[test]
fn every_generation_in_every_form_with_every_option() {
    for generation in ALL {
        let fixture = Fixture::new(generation);
        let mut number = 0;
        for (form, name) in [(Form::Dir, "b"), (Form::Tar, "b.tar"), (Form::TarZst, "b.tar.zst")] {
            for parents in [false, true] {
                for (image, delta, compression) in [
                    (true, true, Compression::Zstd(3)),
                    (false, false, Compression::Zstd(1)),
                    (true, true, Compression::None),
                ] {
                    number += 1;
                    let bundle = fixture.path(&format!("{number}{name}"));
                    let mut options = fixture.export_options(&bundle, form);
                    (options.with_parents, options.with_image, options.delta) = (parents, image, delta);
                    options.compression = compression;
                    export(&options).unwrap();
                    let store = fixture.path(&format!("restored{number}"));
                    let report = import(&import_options(&bundle, &store)).unwrap();
                    assert_eq!(report.snapshots.len(), if parents { 3 } else { 1 });
                    assert!(report.snapshots.iter().all(|s| s.outcome == Some(Outcome::Placed)));
                    check(&fixture, &store, parents, image);
                }
            }
        }
    }
}

#[test]
fn through_a_pipe() {
    for generation in ALL {
        let fixture = Fixture::new(generation);
        let store = fixture.path("restored");
        let script = format!(
            "set -o pipefail; {bin} export {head} --with-parents --with-image --store {from} -o - | {bin} import - --store {to}",
            bin = env!("CARGO_BIN_EXE_snapcask"),
            head = fixture.head(),
            from = fixture.store.display(),
            to = store.display()
        );
        run(Command::new("bash").args(["-c", &script]));
        check(&fixture, &store, true, true);
    }
}

/// Manifest digests, head first.
fn manifests(fixture: &Fixture, store: &Path, head: &str, name: &str) -> Vec<String> {
    let mut options = fixture.export_options(&fixture.path(name), Form::Tar);
    options.store = store.into();
    options.snapshot = head.into();
    export(&options).unwrap().snapshots.iter().map(|s| s.manifest.to_string()).collect()
}

#[test]
fn content_alone_decides() {
    for generation in ALL {
        let fixture = Fixture::new(generation);
        let first = manifests(&fixture, &fixture.store, fixture.head(), "1.tar");
        let restored = fixture.path("restored");
        import(&import_options(&fixture.path("1.tar"), &restored)).unwrap();
        assert_eq!(first, manifests(&fixture, &restored, fixture.head().rsplit(':').next().unwrap(), "2.tar"));
        // Dense, with zeros that the filesystem stores, and other permissions.
        let dense = fixture.path("dense");
        run(Command::new("cp").args(["-r", "--sparse=never"]).args([&fixture.store, &dense]));
        run(Command::new("chmod").args(["-R", "g+w,o-r"]).arg(&dense));
        // The VMDK still names the first store's cache: reduced, it is the same.
        assert_eq!(first, manifests(&fixture, &dense, fixture.head(), "3.tar"));
        let sparse = fixture.path("sparse");
        run(Command::new("cp").args(["-r", "--sparse=always"]).args([&dense, &sparse]));
        assert_eq!(first, manifests(&fixture, &sparse, fixture.head(), "4.tar"));
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let fixture = Fixture::new(Generation::V066);
    let mut all = Vec::new();
    for jobs in [1, 2, 5] {
        let bundle = fixture.path(&format!("{jobs}.tar.zst"));
        let mut options = fixture.export_options(&bundle, Form::TarZst);
        options.jobs = jobs;
        export(&options).unwrap();
        all.push(fs::read(bundle).unwrap());
    }
    assert!(all[0] == all[1] && all[1] == all[2]);
}

#[test]
fn the_head_alone_is_restored_from_its_stack() {
    for generation in ALL {
        let fixture = Fixture::new(generation);
        let bundle = fixture.path("b.tar.zst");
        export(&fixture.export_options(&bundle, Form::TarZst)).unwrap();
        let store = fixture.path("restored");
        let mut options = import_options(&bundle, &store);
        options.head_only = true;
        let report = import(&options).unwrap();
        assert_eq!(report.snapshots.len(), 1);
        assert_eq!(travelling(&fixture.snapshots[2]), travelling(report.snapshots[0].path.as_ref().unwrap()));
    }
}

#[test]
fn microsandbox_types_reads_what_is_placed() {
    use microsandbox_types::snapshot;
    for generation in [Generation::Flat, Generation::Final] {
        let fixture = Fixture::new(generation);
        let bundle = fixture.path("b.tar");
        export(&fixture.export_options(&bundle, Form::Tar)).unwrap();
        for placed in import(&import_options(&bundle, &fixture.path("restored"))).unwrap().snapshots {
            let bytes = fs::read(placed.path.unwrap().join("snapshot.json")).unwrap();
            let digest = match generation {
                Generation::Flat => snapshot::cloud_manifest::Manifest::from_bytes(&bytes).unwrap().digest().unwrap(),
                _ => snapshot::Manifest::from_bytes(&bytes).unwrap().digest().unwrap(),
            };
            assert_eq!(digest, placed.digest.to_string());
        }
    }
}

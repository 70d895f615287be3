//! A store poisoned at equal size (row 11): what is there is never trusted by its name, size or time.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use snapcask::{
    Error,
    export::Form,
    import::{ImportOptions, import},
};

use crate::{fixture::*, tally};

/// Another byte at the same size, and the same time.
fn poison(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (mut byte, at) = ([0], meta.len() / 2);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), meta.len());
}

fn files(store: &Path) -> Vec<PathBuf> {
    whole_tree(store)
        .into_iter()
        .filter(|(path, (_, size, _))| !path.ends_with('/') && *size > 0 && !path.ends_with(".snapcask.json"))
        .filter(|(path, _)| !path.contains("group"))
        .map(|(path, _)| store.join(path))
        .collect()
}

/// Every file of the store in turn: the next import says so and keeps it, or by force repairs it.
#[test]
fn every_file_at_equal_size() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, 16 << 20);
        let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
        fixture.export_chain(Form::Tar, &bundle);
        import_ok(&bundle, &store);
        let good = whole_tree(&store);
        let all = files(&store);
        assert!(all.len() >= 3 * 5 + 5, "{all:?}");
        for path in all {
            poison(&path);
            let before = whole_tree(&store);
            assert_ne!(before, good, "{} was not poisoned", path.display());
            let error = match import(&import_options(&bundle, &store)) {
                // A path in a VMDK is this machine's to write.
                Ok(_) if path.extension().is_some_and(|e| e == "vmdk") => {
                    assert_eq!(whole_tree(&store), good, "{} is not repaired", path.display());
                    continue;
                }
                other => other.expect_err(&path.display().to_string()),
            };
            assert!(
                matches!(error, Error::Different { .. } | Error::DifferentFile { .. }),
                "{}: {error}",
                path.display()
            );
            assert_eq!(whole_tree(&store), before, "{}", path.display());
            import(&ImportOptions { force: true, ..import_options(&bundle, &store) }).unwrap();
            assert_eq!(whole_tree(&store), good, "{} is not repaired", path.display());
            tally::cases(11, format!("files of a {} chain and its image", generation.as_str()), 1);
        }
    }
}

/// A parent that is poisoned is no base for a child's delta.
#[test]
fn a_parent_is_no_base() {
    let fixture = Fixture::sized(snapcask::model::Generation::Flat, 16 << 20);
    let (bundle, store) = (fixture.path("bundle.tar"), fixture.path("target"));
    fixture.export_chain(Form::Tar, &bundle);
    import_ok(&bundle, &store);
    fs::remove_dir_all(store.join("snapshots/head")).unwrap();
    poison(&store.join("snapshots/middle/upper.ext4"));
    let before = whole_tree(&store);
    assert!(matches!(import(&import_options(&bundle, &store)).unwrap_err(), Error::Different { .. }));
    assert_eq!(whole_tree(&store), before);
    // The head alone does not need the parent's bytes: the bundle has the whole stack.
    import(&ImportOptions { head_only: true, ..import_options(&bundle, &store) }).unwrap();
    assert_same_snapshot(fixture.head(), &store.join("snapshots/head"));
    tally::cases(11, "a parent that a delta would be laid over", 1);
}

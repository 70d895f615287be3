//! Random extent maps and parent/child pairs: contents equal, holes kept, a second export byte-identical.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use proptest::prelude::*;
use snapcask::{
    export::{Form, export},
    import::import,
};

use crate::fixture::{Fixture, allocated, data, import_options, travelling};

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(4095), Just(4096), Just(4097), Just(65_536), 0..9_000_000u64]
}

/// (offset, length, seed); seed 0 is zeros.
fn extents() -> impl Strategy<Value = Vec<(u64, usize, u64)>> {
    prop::collection::vec((0..9_000_000u64, 1..200_000usize, 0..5u64), 0..8)
}

fn write(file: &File, size: u64, extents: &[(u64, usize, u64)]) {
    file.set_len(size).unwrap();
    for (offset, length, seed) in extents {
        if *offset < size {
            let length = (*length as u64).min(size - offset) as usize;
            let bytes = if *seed == 0 { vec![0; length] } else { data(*seed, length) };
            file.write_all_at(&bytes, *offset).unwrap();
        }
    }
}

fn descriptor(size: u64, parent: &str) -> String {
    format!(
        r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"a","manifest_digest":"sha256:{:064x}"}},"parent":{parent},"created_at":"2026-05-01T12:00:00Z","labels":{{}},"upper":{{"file":"upper.ext4","size_bytes":{size},"integrity":null}},"source_sandbox":null}}"#,
        7
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn parent_and_child(
        parent_size in sizes(), child_size in sizes(), grow in any::<bool>(),
        parent in extents(), child in extents(), keep in any::<bool>(),
    ) {
        let child_size = if grow { child_size } else { parent_size };
        let fixture = Fixture { folder: tempfile::tempdir().unwrap(), store: "".into(), generation: snapcask::model::Generation::V066, snapshots: vec![] };
        let fixture = Fixture { store: fixture.folder.path().join("store"), ..fixture };
        let (below, head) = (fixture.store.join("snapshots/base"), fixture.store.join("snapshots/head"));
        fs::create_dir_all(&below).unwrap();
        fs::create_dir_all(&head).unwrap();
        write(&File::create(below.join("upper.ext4")).unwrap(), parent_size, &parent);
        let text = descriptor(parent_size, "null");
        fs::write(below.join("manifest.json"), &text).unwrap();
        let file = File::create(head.join("upper.ext4")).unwrap();
        if keep {
            write(&file, child_size, &parent);
        }
        write(&file, child_size, &child);
        let digest = snapcask::Digest::of(text.as_bytes());
        fs::write(head.join("manifest.json"), descriptor(child_size, &format!("\"{digest}\""))).unwrap();
        let mut options = fixture.export_options(&fixture.path("1.tar.zst"), Form::TarZst);
        options.with_image = false;
        let first = export(&options).unwrap();
        let restored = fixture.path("restored");
        import(&import_options(&fixture.path("1.tar.zst"), &restored)).unwrap();
        for (name, source) in [("base", &below), ("head", &head)] {
            let placed = restored.join("snapshots").join(name);
            prop_assert_eq!(travelling(source), travelling(&placed));
            let (from, to) = (allocated(&source.join("upper.ext4")), allocated(&placed.join("upper.ext4")));
            prop_assert!(to <= from + 9 * 4096, "{} became {}", from, to);
        }
        options.store = restored;
        options.destination = snapcask::export::Destination::Path(fixture.path("2.tar.zst"));
        let second = export(&options).unwrap();
        prop_assert_eq!(first.snapshots[0].manifest, second.snapshots[0].manifest);
        prop_assert!(fs::read(fixture.path("1.tar.zst")).unwrap() == fs::read(fixture.path("2.tar.zst")).unwrap());
    }
}

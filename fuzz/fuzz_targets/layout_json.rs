//! The documents of a layout: the first byte says which. What is accepted is encoded and accepted again, the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snapcask::model::{Index, Manifest, SnapshotConfig};

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    match first % 3 {
        0 => {
            if let Ok(index) = Index::parse(bytes, "index.json") {
                let encoded = index.encode();
                assert_eq!(Index::parse(&encoded, "again").unwrap().encode(), encoded);
            }
        }
        1 => {
            if let Ok(manifest) = Manifest::parse(bytes, "manifest") {
                let encoded = manifest.encode();
                assert_eq!(Manifest::parse(&encoded, "again").unwrap().encode(), encoded);
            }
        }
        _ => {
            if let Ok(config) = SnapshotConfig::parse(bytes, "config") {
                for file in &config.files {
                    assert!(!file.path.as_str().starts_with('/') && !file.path.as_str().split('/').any(|p| p == ".."));
                }
                let encoded = config.encode();
                assert_eq!(SnapshotConfig::parse(&encoded, "again").unwrap().encode(), encoded);
            }
        }
    }
});

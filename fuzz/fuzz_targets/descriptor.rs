//! Snapshot descriptors of every generation: the first byte says under which file name they stand.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use snapcask::snapshot::SnapshotDescriptor;

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let name = ["manifest.json", "snapshot.json"][usize::from(first % 2)];
    let file = name.parse().unwrap();
    if let Ok(descriptor) = SnapshotDescriptor::parse(Path::new(name), &file, bytes.to_vec()) {
        for (payload, _) in &descriptor.payloads {
            assert!(!payload.as_str().starts_with('/') && !payload.as_str().split('/').any(|p| p == ".."));
        }
        let again = SnapshotDescriptor::parse(Path::new(name), &file, bytes.to_vec()).unwrap();
        assert_eq!(descriptor.digest, again.digest);
    }
});

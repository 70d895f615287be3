//! The walker of a layer's tar: the first byte says in which pieces the rest arrives.
//!
//! Whatever the bytes are: what it places lies in the file, in order, and is the same however the stream is cut.
#![no_main]

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use libfuzzer_sys::fuzz_target;
use snapcask::{
    Error, Result,
    layer::walk::{Sink, Walker},
    model::TarPath,
};

struct Entry {
    size: u64,
    /// Where the last placement ended.
    reached: Mutex<u64>,
}

struct Entries;

impl Sink for Entries {
    type File = Entry;

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<Entry>> {
        assert!(path.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")), "{path}");
        for pair in segments.unwrap_or_default().windows(2) {
            assert!(pair[0].end <= pair[1].start, "segments in order");
        }
        if size > 1 << 50 {
            return Err(Error::Usage("too large".into()));
        }
        Ok(Arc::new(Entry { size, reached: Mutex::new(0) }))
    }
}

/// The placed bytes with their offsets, and whether all of it was accepted.
fn walk(bytes: &[u8], piece: usize) -> (Vec<(u64, u8)>, bool) {
    let mut walker = Walker::new("layer".into());
    let mut placed = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut placements = Vec::new();
        let good = walker.feed(piece, &mut Entries, &mut placements).is_ok();
        for placement in placements {
            let bytes = &piece[placement.bytes];
            let end = placement.offset + bytes.len() as u64;
            let mut reached = placement.file.reached.lock().unwrap();
            assert!(*reached <= placement.offset && end <= placement.file.size);
            *reached = end;
            placed.extend(bytes.iter().enumerate().map(|(i, b)| (placement.offset + i as u64, *b)));
        }
        if !good {
            return (placed, false);
        }
    }
    (placed, walker.finish().is_ok())
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let (whole, accepted) = walk(bytes, bytes.len().max(1));
    let (pieces, also) = walk(bytes, usize::from(*first) * 3 + 1);
    assert_eq!(accepted, also);
    if accepted {
        assert!(whole == pieces);
    }
});

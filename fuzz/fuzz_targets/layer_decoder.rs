//! The layer decoder, frames and all: the first byte says whether the tar is in zstd frames, and whether its files have
//! a base. What it accepts is the same with one worker and with three.
#![no_main]

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
};

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use snapcask::{
    Digest, Error, Result,
    layer::{
        decode::{Budget, EncodedLayer, LayerEncoding, OutputFile, decode, sparse_maps},
        streamed::Needs,
        walk::Sink,
    },
    model::TarPath,
    progress::Silent,
    verify::into_error,
};

const MOST: u64 = 1 << 20;

struct Files {
    delta: bool,
    made: BTreeMap<TarPath, Arc<OutputFile>>,
}

impl Sink for Files {
    type File = OutputFile;

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<OutputFile>> {
        if size > MOST || self.made.len() == 64 || segments.is_none() && self.delta {
            return Err(Error::Usage("too much".into()));
        }
        let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).unwrap());
        if self.delta {
            file.write_all_at(&[7; 9000], 0).unwrap();
        }
        file.set_len(size).unwrap();
        let made = Arc::new(OutputFile {
            file,
            path: path.as_str().into(),
            fresh: !self.delta,
            writeback: None,
            unsynced: 0.into(),
            budget: Budget::new(u64::MAX),
        });
        self.made.insert(path.clone(), made.clone());
        Ok(made)
    }
}

fn run(bytes: &[u8], encoding: LayerEncoding, delta: bool, jobs: usize) -> Option<BTreeMap<TarPath, Vec<u8>>> {
    let mut files = Files { delta, made: BTreeMap::new() };
    let layer = EncodedLayer { blob: bytes, encoding, context: "layer", most: 8 * MOST };
    let corrupt = |e| into_error(e, Digest::of(b""));
    decode(layer, &mut files, jobs, &corrupt, &Silent).ok()?;
    let mut contents = BTreeMap::new();
    for (path, made) in files.made {
        let mut bytes = Vec::new();
        let mut file = &made.file;
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        contents.insert(path, bytes);
    }
    Some(contents)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let encoding = if first & 1 == 0 { LayerEncoding::Zstd } else { LayerEncoding::Plain };
    let delta = first & 2 != 0;
    let wanted = ["a", "base", "upper.ext4"].iter().map(|path| path.parse().unwrap()).collect();
    let layer = EncodedLayer { blob: bytes, encoding, context: "layer", most: 8 * MOST };
    for (size, segments) in sparse_maps(layer, &wanted, &|e| into_error(e, Digest::of(b""))).unwrap_or_default().values() {
        std::hint::black_box(Needs::of(segments, *size));
    }
    let one = run(bytes, encoding, delta, 1);
    assert!(one == run(bytes, encoding, delta, 3));
});

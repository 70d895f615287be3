//! Seeds for the fuzz targets (`fuzz/`): from the golden bundles, from small bundles made here, and hostile ones.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;
use snapcask::{
    Digest,
    export::{Compression, ExportOptions, Form, export},
    layout, media_type,
    model::{Descriptor, Generation, Manifest},
    storage::Source,
    temporary::Scratch,
    zstd_input::MaxWindow,
};
use tempfile::TempDir;

use crate::fixture::{Fixture, export_options, form_name, random};

/// Larger inputs make fuzzing slow.
const LARGEST: usize = 64 << 10;
const PLACEHOLDER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Writes `folder/<target>/<digest>`.
pub fn write(folder: &Path) {
    let seeds = Seeds { folder: folder.into() };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let scratch = TempDir::new().unwrap();
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "zst") {
            seeds.bundle(layout::open(&path, &Scratch::at(scratch.path()), MaxWindow::USUAL).unwrap().as_ref());
        }
    }
    let mut hostile = vec![root.join("hostile")];
    while let Some(path) = hostile.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => hostile.extend(entries.map(|e| e.unwrap().path())),
            Err(_) if path.is_file() => {
                let bytes = fs::read(&path).unwrap();
                seeds.add("whole_import", 0, &bytes);
                seeds.add("tar_walker", 40, &bytes);
                seeds.add("layer_decoder", 1, &bytes);
            }
            Err(_) => {}
        }
    }
    for generation in [Generation::V066, Generation::Flat, Generation::Final] {
        for compression in [Compression::None, Compression::Zstd(3)] {
            for form in [Form::Tar, Form::TarZst] {
                seeds.made(generation, compression, form);
            }
        }
    }
    seeds.hostile_tars();
}

struct Seeds {
    folder: PathBuf,
}

impl Seeds {
    fn add(&self, target: &str, first: u8, bytes: &[u8]) {
        if bytes.len() < LARGEST {
            let folder = self.folder.join(target);
            fs::create_dir_all(&folder).unwrap();
            let bytes = [&[first], bytes].concat();
            fs::write(folder.join(&Digest::of(&bytes).hex()[..20]), bytes).unwrap();
        }
    }

    /// A small chain, as a bundle.
    fn made(&self, generation: Generation, compression: Compression, form: Form) {
        let mut fixture = Fixture::empty(generation);
        let below = vec![(0, random(5000, 1))];
        fixture.add("base", 0, 128 << 10, &below, Value::Null);
        fixture.add(
            "head",
            1,
            128 << 10,
            &[below, vec![(4096, random(90, 2)), (8192, vec![0; 4096])]].concat(),
            Value::Null,
        );
        for made in &fixture.snapshots {
            let bytes = fs::read(made.directory.join(made.descriptor)).unwrap();
            self.add("descriptor", u8::from(made.descriptor == "snapshot.json"), &bytes);
        }
        let bundle = fixture.path(form_name(form));
        let options = export_options(&fixture.store, "head", form, &bundle);
        export(&ExportOptions { with_parents: true, compression, ..options }).unwrap();
        self.add("whole_import", 0, &fs::read(&bundle).unwrap());
        self.bundle(layout::open(&bundle, &Scratch::at(fixture.dir.path()), MaxWindow::USUAL).unwrap().as_ref());
    }

    fn bundle(&self, source: &dyn Source) {
        self.add("layout_json", 0, &source.index().encode());
        let mut queue = source.index().manifests.clone();
        while let Some(descriptor) = queue.pop() {
            let bytes = fetch(source, &descriptor);
            let manifest = Manifest::parse(&bytes, "manifest").unwrap();
            self.add("layout_json", 1, &bytes);
            let config = fetch(source, &manifest.config);
            self.add("layout_json", 2, &config);
            for layer in &manifest.layers {
                let bytes = fetch(source, layer);
                let delta =
                    u8::from([media_type::DELTA_TAR, media_type::DELTA_ZSTD].contains(&layer.media_type.as_str()));
                let plain =
                    u8::from([media_type::LAYER_TAR, media_type::DELTA_TAR].contains(&layer.media_type.as_str()));
                self.add("layer_decoder", plain | delta << 1, &bytes);
                if plain == 1 {
                    self.add("tar_walker", 170, &bytes);
                }
            }
            if let [layer] = &manifest.layers[..] {
                let plain = layer.media_type == media_type::LAYER_TAR;
                let config = String::from_utf8(config).unwrap().replace(&layer.digest.to_string(), PLACEHOLDER);
                let length = u16::try_from(config.len()).unwrap_or(0).to_le_bytes();
                let input = [length.as_slice(), config.as_bytes(), &fetch(source, layer)].concat();
                self.add("whole_import", if plain { 1 } else { 2 }, &input);
            }
            queue.extend(manifest.subject);
        }
    }

    /// Entries that a walker of a closed grammar refuses, and some on the border.
    fn hostile_tars(&self) {
        let entries: [(u8, &str, u64, &[u8]); 9] = [
            (b'0', "a", 3, b"abc"),
            (b'x', "PaxHeaders/a", 19, b"19 size=1000000000\n"),
            (b'g', "pax_global_header", 19, b"19 size=1000000000\n"),
            (b'L', "././@LongLink", 3, b"ab\0"),
            (b'1', "hard", 0, b""),
            (b'2', "soft", 0, b""),
            (b'5', "folder/", 0, b""),
            (b'0', "../out", 1, b"x"),
            (b'S', "sparse", 4, b"data"),
        ];
        for (kind, name, size, data) in entries {
            let mut block = [0; 512];
            block[..name.len()].copy_from_slice(name.as_bytes());
            block[100..108].copy_from_slice(b"0000644\0");
            block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
            block[156] = kind;
            block[257..265].copy_from_slice(b"ustar  \0");
            if kind == b'S' {
                block[386..398].copy_from_slice(format!("{:011o}\0", 8192).as_bytes());
                block[398..410].copy_from_slice(format!("{:011o}\0", 4).as_bytes());
                block[483..495].copy_from_slice(format!("{:011o}\0", 1 << 20).as_bytes());
            }
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let mut tar = block.to_vec();
            tar.extend_from_slice(data);
            tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
            self.add("tar_walker", 33, &tar);
            self.add("layer_decoder", 1, &tar);
            self.add("layer_decoder", 3, &tar);
        }
    }
}

fn fetch(source: &dyn Source, descriptor: &Descriptor) -> Vec<u8> {
    let mut bytes = Vec::new();
    source.fetch(descriptor).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

//! Rows 1 and 2: a bundle with any byte changed, or cut anywhere.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use serde_json::Value;
use snapcask::{
    export::{Compression, ExportOptions, Form, export},
    import::{ImportOptions, import},
    model::Generation,
};
use tempfile::TempDir;

use crate::{
    fixture::{Fixture, Identity, export_options, form_name, import_options, random, whole_tree},
    score::{Effort, Row, SEED},
    subject::in_memory,
};

/// A bundle to spoil, and what a good import of it places.
struct Target {
    folder: TempDir,
    bundle: PathBuf,
    store: PathBuf,
    whole: BTreeMap<String, Identity>,
}

/// What an import of a spoilt bundle did.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// It was refused, and nothing was written.
    Refused,
    /// What was placed is byte for byte what the good bundle gives.
    Harmless,
}

impl Target {
    /// A parent and a child, the disk with so many bytes of data.
    fn new(form: Form, data: usize) -> Self {
        let mut fixture = Fixture::empty(Generation::V066);
        let size = (data as u64).next_multiple_of(4096) + (64 << 10);
        let below = vec![(0, random(data, 1))];
        fixture.add("base", 0, size, &below, Value::Null);
        let above = [below, vec![(4096, random(data / 2, 2)), (size - 100, vec![7; 100])]].concat();
        fixture.add("head", 1, size, &above, Value::Null);
        let folder = in_memory();
        let bundle = folder.path().join(form_name(form));
        let options = export_options(&fixture.store, "head", form, &bundle);
        export(&ExportOptions { with_parents: true, compression: Compression::Zstd(3), ..options }).unwrap();
        let store = folder.path().join("store");
        let mut target = Self { folder, bundle, store, whole: BTreeMap::new() };
        target.import().unwrap();
        target.whole = whole_tree(&target.store);
        fs::remove_dir_all(&target.store).unwrap();
        target
    }

    fn import(&self) -> snapcask::Result<()> {
        import(&ImportOptions { jobs: 1, ..import_options(&self.bundle, &self.store) }).map(drop)
    }

    /// The files of the bundle: one, or those of the directory.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.bundle.clone()];
        while let Some(path) = folders.pop() {
            match fs::read_dir(&path) {
                Ok(entries) => folders.extend(entries.map(|e| e.unwrap().path())),
                Err(_) => files.push(path),
            }
        }
        files.sort();
        files
    }

    fn try_import(&self) -> Result<Outcome, String> {
        let result = catch_unwind(AssertUnwindSafe(|| self.import()));
        let found = whole_tree(&self.store);
        let outcome = match result {
            Err(_) => Err("it panics".into()),
            Ok(Err(_)) if found.is_empty() && !self.store.exists() => Ok(Outcome::Refused),
            Ok(Err(error)) => Err(format!("refused ({error}), but the store holds {:?}", found.keys())),
            Ok(Ok(())) if found == self.whole => Ok(Outcome::Harmless),
            Ok(Ok(())) => Err("wrong bytes were placed".into()),
        };
        if self.store.exists() {
            fs::remove_dir_all(&self.store).unwrap();
        }
        outcome
    }
}

/// The n-th of four changes of a byte.
fn mutation(byte: u8, n: u64) -> u8 {
    let changed = match n {
        0 => byte ^ 1,
        1 => byte ^ 0x80,
        2 => 0,
        _ => 0xff,
    };
    if changed == byte { byte.wrapping_add(7) } else { changed }
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) % most.max(1)
    }
}

/// Row 1.
pub fn sweep(effort: Effort, row: &mut Row) {
    row.title("Any byte changed");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for form in [Form::Dir, Form::Tar, Form::TarZst] {
        let target = Target::new(form, 9000);
        let size: u64 = target.files().iter().map(|f| fs::metadata(f).unwrap().len()).sum();
        assert!(size <= 64 << 10, "{size}");
        let line =
            row.line(format!("each byte of a {} of {size} bytes, 4 changes each", form.as_str()), target.folder.path());
        let mut harmless = 0;
        let mut random = Random(SEED);
        for path in target.files() {
            let good = fs::read(&path).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            for (at, byte) in good.iter().enumerate() {
                for n in 0..4 {
                    if effort == Effort::Short && random.below(100) != 0 {
                        continue;
                    }
                    file.write_all_at(&[mutation(*byte, n)], at as u64).unwrap();
                    let outcome = target.try_import();
                    harmless += u64::from(outcome == Ok(Outcome::Harmless));
                    line.case(format!("change {n} of byte {at} of {}", path.display()), outcome.map(drop));
                }
                file.write_all_at(&[*byte], at as u64).unwrap();
            }
        }
        row.note(format!(
            "{harmless} of the changes of the {} were harmless: what was placed is byte-identical.",
            form.as_str()
        ));
    }
    large(effort, row);
    std::panic::set_hook(hook);
}

fn large(effort: Effort, row: &mut Row) {
    let target = Target::new(Form::TarZst, 6 << 20);
    let count = effort.pick(60, 10_000);
    let size = fs::metadata(&target.bundle).unwrap().len();
    let what = format!("1 to 8 random bytes of a tar.zst of {size} bytes");
    let line = row.line(what, target.folder.path());
    let mut random = Random(SEED);
    let file = fs::File::options().read(true).write(true).open(&target.bundle).unwrap();
    let mut harmless = 0;
    for case in 0..count {
        let mut undo = Vec::new();
        for _ in 0..=random.below(8) {
            let (at, n) = (random.below(size), random.below(4));
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            undo.push((at, byte));
            file.write_all_at(&[mutation(byte[0], n)], at).unwrap();
        }
        let outcome = target.try_import();
        harmless += u64::from(outcome == Ok(Outcome::Harmless));
        line.case(format!("mutation {case}: {undo:?}"), outcome.map(drop));
        for (at, byte) in undo.iter().rev() {
            file.write_all_at(byte, *at).unwrap();
        }
    }
    row.note(format!("{harmless} of the {count} mutations of the large one were harmless."));
}

/// Row 2.
pub fn prefixes(effort: Effort, row: &mut Row) {
    row.title("Cut at any length");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for form in [Form::Dir, Form::Tar, Form::TarZst] {
        let target = Target::new(form, 9000);
        let line = row.line(format!("every prefix of every file of a {}", form.as_str()), target.folder.path());
        let mut accepted = Vec::new();
        for path in target.files() {
            let good = fs::read(&path).unwrap();
            let least = good.len();
            for length in (0..least).filter(|l| effort == Effort::Full || l % 41 == 0 || least - l < 40) {
                fs::File::options().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
                let outcome = target.try_import();
                if outcome == Ok(Outcome::Harmless) {
                    accepted.push(least - length);
                }
                line.case(format!("{length} bytes of {}", name(&path)), outcome.map(drop));
                fs::write(&path, &good).unwrap();
            }
        }
        if let (Some(first), Some(last)) = (accepted.iter().min(), accepted.iter().max()) {
            row.note(format!(
                "A {} without its last {first} to {last} bytes was accepted {} times: every blob was there and verified.",
                form.as_str(),
                accepted.len()
            ));
        }
    }
    std::panic::set_hook(hook);
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

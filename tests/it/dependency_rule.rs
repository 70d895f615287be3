//! Imports point one way only (DESIGN section 6).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What each module may use. `error` and `digest` know each other: an error names a digest.
const ALLOWED: &[(&str, &[&str])] = &[
    ("error", &["digest"]),
    ("digest", &["error"]),
    ("media_type", &[]),
    ("beneath", &["error"]),
    ("buffers", &[]),
    ("progress", &[]),
    ("workers", &[]),
    ("writeback", &[]),
    ("zstd_input", &["error"]),
    ("seek_table", &["error"]),
    ("temporary", &["error", "immutable"]),
    ("rename", &["error"]),
    ("fixed_folder", &["beneath", "error", "model", "temporary"]),
    ("immutable", &["error"]),
    ("model", &["digest", "error", "media_type"]),
    ("report", &["digest", "model"]),
    ("verify", &["digest", "error", "model"]),
    ("storage", &["digest", "error", "model", "verify"]),
    ("composite", &["digest", "error", "model", "storage"]),
    ("reference", &["digest", "error", "model"]),
    ("snapshot", &["beneath", "digest", "error", "layer", "model", "progress", "workers"]),
    (
        "store",
        &[
            "beneath",
            "digest",
            "error",
            "fixed_folder",
            "model",
            "progress",
            "rename",
            "report",
            "snapshot",
            "storage",
            "temporary",
            "verify",
        ],
    ),
    (
        "layer",
        &[
            "buffers",
            "digest",
            "error",
            "media_type",
            "model",
            "progress",
            "seek_table",
            "storage",
            "verify",
            "workers",
            "writeback",
            "zstd_input",
        ],
    ),
    (
        "layout",
        &[
            "beneath",
            "buffers",
            "digest",
            "error",
            "media_type",
            "fixed_folder",
            "immutable",
            "model",
            "progress",
            "rename",
            "seek_table",
            "storage",
            "temporary",
            "verify",
            "writeback",
            "zstd_input",
        ],
    ),
    (
        "registry",
        &[
            "buffers",
            "digest",
            "error",
            "media_type",
            "model",
            "progress",
            "reference",
            "report",
            "storage",
            "temporary",
            "verify",
        ],
    ),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The first components of every `crate::` path, those in `use crate::{...}` too.
fn used(text: &str) -> BTreeSet<String> {
    let word = |t: &str| t.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, prefix) in text.match_indices("crate::").chain(text.match_indices("snapcask::")) {
        let rest = &text[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    found.insert(word(&list[i..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found.retain(|w| w.chars().next().is_some_and(char::is_lowercase));
    found
}

#[test]
fn imports_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let module = relative.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text: String = fs::read_to_string(&file)
            .unwrap()
            .lines()
            .filter(|l| !l.trim_start().starts_with("//"))
            .map(|l| format!("{l}\n"))
            .collect();
        for target in used(&text) {
            if target == module || matches!(module.as_str(), "lib" | "main" | "cli") {
                continue;
            }
            let allowed = match ALLOWED.iter().find(|(name, _)| *name == module) {
                Some((_, allowed)) => allowed.contains(&target.as_str()),
                // The pipelines and what they are made of.
                None => target != "cli",
            };
            if !allowed {
                wrong.push(format!("{relative} uses {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_parser_sees_every_form() {
    let text = "use crate::{error::{Error, Result}, model};\nuse crate::digest::Digest; crate::layer::x();";
    assert_eq!(used(text).into_iter().collect::<Vec<_>>(), ["digest", "error", "layer", "model"]);
}

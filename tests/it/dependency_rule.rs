//! Imports point one way only (docs/architecture.md).

use std::{collections::BTreeSet, fs, path::Path};

/// What each module may use of the crate, besides itself.
const ALLOWED: [(&str, &[&str]); 20] = [
    ("error", &["digest"]),
    ("digest", &["error"]),
    ("media_type", &[]),
    ("seek_table", &[]),
    ("progress", &[]),
    ("model", &["digest", "error", "media_type"]),
    ("verify", &["digest", "error", "model"]),
    ("storage", &["error", "model", "verify"]),
    ("report", &["digest", "model"]),
    ("snapshot", &["digest", "error", "model"]),
    ("store", &["digest", "error", "model", "snapshot"]),
    ("layer", &["error", "model", "progress", "seek_table"]),
    ("layout", &["digest", "error", "model", "seek_table", "storage", "verify"]),
    ("bundle", &["digest", "error", "layer", "media_type", "model", "storage"]),
    ("recorded", &["error", "layer", "progress", "snapshot"]),
    ("restore", &["bundle", "error", "layer", "model", "progress", "storage", "verify"]),
    (
        "export",
        &[
            "digest",
            "error",
            "layer",
            "layout",
            "media_type",
            "model",
            "progress",
            "recorded",
            "report",
            "snapshot",
            "storage",
            "store",
        ],
    ),
    (
        "import",
        &[
            "bundle", "error", "layout", "model", "progress", "recorded", "report", "restore", "snapshot", "storage",
            "store",
        ],
    ),
    (
        "check_bundle",
        &["bundle", "digest", "error", "import", "model", "progress", "report", "restore", "storage", "verify"],
    ),
    ("lib", &["digest", "error"]),
];

fn files(folder: &Path, all: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
}

/// The crate's modules that a source uses: `crate::x` and `use crate::{x::..., y}`.
fn used(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + 7..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(word(item.trim()));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        found.insert(word(item.trim()));
    }
    found.retain(|name| !name.is_empty() && name.starts_with(char::is_lowercase));
    found
}

#[test]
fn imports_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    assert!(all.len() > 30);
    for file in all {
        let relative = file.strip_prefix(&src).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if matches!(module, "main" | "cli") {
            continue;
        }
        let (_, allowed) =
            ALLOWED.iter().find(|(name, _)| *name == module).unwrap_or_else(|| panic!("{module} has no rule"));
        for name in used(&fs::read_to_string(&file).unwrap()) {
            let fine = name == module || allowed.contains(&name.as_str()) || matches!(name.as_str(), "error");
            assert!(fine, "{} uses {name}", relative.display());
        }
    }
}

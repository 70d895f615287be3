//! What may be visible: nothing, or whole snapshots as a good import places them, each with what it needs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::fixture::{Identity, import_ok, is_lock_of_msb, whole_tree};

type Tree = BTreeMap<String, Identity>;

/// Stands for the name of a new group.
const FRESH: &str = "msb-NEW";

/// What a finished import looks like.
pub struct StoreOracle {
    store: PathBuf,
    whole: Tree,
    /// The snapshots' folders, oldest first.
    snapshots: Vec<String>,
}

impl StoreOracle {
    /// By an import of `bundle` into `store` (the VMDK names that path), which is removed again.
    pub fn new(bundle: &Path, store: &Path) -> Self {
        let report = import_ok(bundle, store);
        let relative = |p: &PathBuf| renamed(p.strip_prefix(store).unwrap().to_str().unwrap());
        let mut snapshots: Vec<String> = report.snapshots.iter().map(|s| relative(s.path.as_ref().unwrap())).collect();
        snapshots.reverse();
        let whole = named_tree(store);
        fs::remove_dir_all(store).unwrap();
        Self { store: store.into(), whole, snapshots }
    }

    /// Everything that is visible is right and whole.
    pub fn check_visible(&self) -> Result<(), String> {
        let found = visible(&self.store);
        for (path, identity) in &found {
            match self.whole.get(path) {
                Some(expected) if expected == identity => {}
                Some(expected) => return Err(format!("{path} is {identity:?}, not {expected:?}")),
                None => return Err(format!("{path} is visible and belongs to no snapshot")),
            }
        }
        let mut missing: Option<&str> = None;
        for snapshot in &self.snapshots {
            if !found.contains_key(&format!("{snapshot}/")) {
                missing = missing.or(Some(snapshot));
                continue;
            }
            if let Some(parent) = missing {
                return Err(format!("{snapshot} is visible without its parent {parent}"));
            }
            let inside = format!("{snapshot}/");
            if let Some(lost) = self.whole.keys().find(|p| p.starts_with(&inside) && !found.contains_key(*p)) {
                return Err(format!("{snapshot} is visible without {lost}"));
            }
            if let Some(lost) = self.whole.keys().find(|p| is_cache_file(p) && !found.contains_key(*p)) {
                return Err(format!("{snapshot} is visible without the cache's {lost}"));
            }
        }
        let named = |p: &str| p.starts_with("cache/layers/") || p.starts_with("cache/fsmeta/");
        if found.keys().any(|p| is_cache_file(p) && !named(p))
            && let Some(lost) = self.whole.keys().find(|p| is_cache_file(p) && named(p) && !found.contains_key(*p))
        {
            return Err(format!("the cache names {lost}, which is not visible"));
        }
        Ok(())
    }

    /// Everything is there; beside it there may be leftovers.
    pub fn check_placed(&self) -> Result<(), String> {
        same_trees(&self.whole, &visible(&self.store))
    }

    /// Nothing of it is there; there may be leftovers. It is asked while the command's other threads go on.
    pub fn is_unpublished(&self) -> bool {
        !is_published(&self.store)
    }

    /// Everything is there, and nothing else: no leftovers.
    pub fn check_complete(&self) -> Result<(), String> {
        same_trees(&self.whole, &named_tree(&self.store))
    }

    pub fn clear(&self) {
        if self.store.exists() {
            fs::remove_dir_all(&self.store).unwrap();
        }
    }
}

fn is_cache_file(path: &str) -> bool {
    path.starts_with("cache/") && !path.ends_with('/')
}

/// The path with one name for every new group, because an import gives each another one.
fn renamed(path: &str) -> String {
    let is_fresh = |part: &str| {
        part.strip_prefix("msb-")
            .is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    path.split('/').map(|part| if is_fresh(part) { FRESH } else { part }).collect::<Vec<_>>().join("/")
}

/// The tree of a store, with the name of its new group replaced. Of several new groups each keeps its name: there must not
/// be several.
fn named_tree(store: &Path) -> Tree {
    let tree = whole_tree(store);
    let groups = tree.keys().filter(|path| renamed(path).ends_with(&format!("{FRESH}/"))).count();
    if groups > 1 { tree } else { tree.into_iter().map(|(path, identity)| (renamed(&path), identity)).collect() }
}

/// The tree without what is under a temporary name.
fn visible(store: &Path) -> Tree {
    let mut tree = named_tree(store);
    tree.retain(|path, _| !path.split('/').any(|part| part.starts_with(".snapcask-")));
    tree
}

/// Whether a file has a name that is not temporary, a group's mark aside. What vanishes meanwhile was temporary.
fn is_published(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let (name, kind) = (entry.file_name(), entry.file_type());
        match kind {
            _ if name.as_encoded_bytes().starts_with(b".snapcask-") || name == "group.json" => false,
            _ if is_lock_of_msb(&name) => false,
            Ok(kind) if kind.is_dir() => is_published(&entry.path()),
            Ok(_) => true,
            Err(_) => false,
        }
    })
}

fn same_trees(expected: &Tree, found: &Tree) -> Result<(), String> {
    for (path, identity) in expected {
        match found.get(path) {
            None => return Err(format!("{path} is lost")),
            Some(other) if other != identity => return Err(format!("{path} is {other:?}, not {identity:?}")),
            Some(_) => {}
        }
    }
    let left: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left over: {left:?}")) }
}

/// What a finished export looks like.
pub struct BundleOracle {
    /// The folder of the destination, which holds nothing else.
    folder: PathBuf,
    whole: Tree,
}

impl BundleOracle {
    /// By an export into `folder`, which is emptied again.
    pub fn new(folder: &Path, export: impl FnOnce()) -> Self {
        export();
        let oracle = Self { folder: folder.into(), whole: whole_tree(folder) };
        oracle.clear();
        oracle
    }

    pub fn clear(&self) {
        for entry in fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }

    /// The destination is whole or not there, and beside it only what has a temporary name.
    pub fn check_visible(&self) -> Result<(), String> {
        let mut found = whole_tree(&self.folder);
        found.retain(|path, _| !path.starts_with('.'));
        if found.is_empty() { Ok(()) } else { same_trees(&self.whole, &found) }
    }

    pub fn check_complete(&self) -> Result<(), String> {
        same_trees(&self.whole, &whole_tree(&self.folder))
    }

    pub fn is_unpublished(&self) -> bool {
        let is_temporary = |entry: fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
        fs::read_dir(&self.folder).unwrap().all(|entry| is_temporary(entry.unwrap()))
    }

    pub fn check_placed(&self) -> Result<(), String> {
        let mut found = whole_tree(&self.folder);
        found.retain(|path, _| !path.starts_with('.'));
        same_trees(&self.whole, &found)
    }
}

/// Either.
pub enum Oracle {
    Store(StoreOracle),
    Bundle(BundleOracle),
}

impl Oracle {
    pub fn clear(&self) {
        match self {
            Self::Store(oracle) => oracle.clear(),
            Self::Bundle(oracle) => oracle.clear(),
        }
    }

    pub fn check_visible(&self) -> Result<(), String> {
        match self {
            Self::Store(oracle) => oracle.check_visible(),
            Self::Bundle(oracle) => oracle.check_visible(),
        }
    }

    pub fn check_complete(&self) -> Result<(), String> {
        match self {
            Self::Store(oracle) => oracle.check_complete(),
            Self::Bundle(oracle) => oracle.check_complete(),
        }
    }

    pub fn check_placed(&self) -> Result<(), String> {
        match self {
            Self::Store(oracle) => oracle.check_placed(),
            Self::Bundle(oracle) => oracle.check_placed(),
        }
    }

    /// Nothing is there, not even a leftover.
    pub fn check_untouched(&self) -> Result<(), String> {
        let tree = match self {
            Self::Store(oracle) => whole_tree(&oracle.store),
            Self::Bundle(oracle) => whole_tree(&oracle.folder),
        };
        same_trees(&BTreeMap::new(), &tree)
    }

    pub fn is_unpublished(&self) -> bool {
        match self {
            Self::Store(oracle) => oracle.is_unpublished(),
            Self::Bundle(oracle) => oracle.is_unpublished(),
        }
    }
}

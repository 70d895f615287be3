//! Which snapshot a reference means, and which are a snapshot's ancestors.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Store, group::GroupFile, root};
use crate::{
    error::{Error, IoContext, Result},
    model::SnapshotIdentity,
    snapshot::{
        GROUP_FILE, SNAPSHOT_FILE, Snapshot, V066_FILE, alias, hides, is_folder, is_regular, is_there, seen, visible,
    },
};

/// Shortest beginning of a digest that is looked up, in hex digits: what [`crate::Digest::short`] shows.
const MIN_PREFIX: usize = 12;
/// Fewer descriptors are not worth a thread: each takes some 30 microseconds.
const MIN_SHARE: usize = 64;
/// How many names an error lists.
const HINTS: usize = 8;

/// The snapshots that can be meant, and the error of one that is not ours to read, which may be meant, too.
#[derive(Debug, Default)]
pub struct Readable {
    /// Sorted by name.
    pub snapshots: Vec<Snapshot>,
    /// Why one more may be there.
    pub denied: Option<Error>,
}

impl Readable {
    /// Says of `what`, which was not found, that it may be hidden, if something is.
    ///
    /// # Errors
    /// [`Error::MayBeHidden`].
    pub fn may_hide(self, what: impl Into<String>) -> Result<()> {
        self.denied.map_or(Ok(()), |error| Err(may_be_hidden(what, error)))
    }
}

/// What was not found may be what could not be looked at; a failing disk speaks for itself.
pub(super) fn may_be_hidden(what: impl Into<String>, error: Error) -> Error {
    match error.is_denied() {
        true => Error::MayBeHidden { what: what.into(), reason: error.to_string() },
        false => error,
    }
}

/// Every snapshot in a folder that can be meant. One that a failing disk hides may be the one: that is an error, whereas
/// one that is broken is nobody's parent.
pub(super) fn readable(folder: &Path) -> Result<Readable> {
    let (snapshots, unreadable) = all(folder)?;
    let (denied, failed): (Vec<_>, Vec<_>) =
        unreadable.into_iter().map(|(_, error)| error).filter(hides).partition(Error::is_denied);
    match failed.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(Readable { snapshots, denied: denied.into_iter().next() }),
    }
}

/// Every snapshot, and every directory that is none with the reason.
pub(super) fn all(folder: &Path) -> Result<(Vec<Snapshot>, Vec<super::Unreadable>)> {
    let (mut directories, mut snapshots, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    for folder in folders(folder)? {
        let members = |is_group| if is_group { folders(&folder) } else { Ok(vec![folder.clone()]) };
        match is_group(&folder).and_then(members) {
            Ok(members) => directories.extend(members),
            Err(error) => unreadable.push((folder, error)),
        }
    }
    for (directory, opened) in directories.iter().zip(open_each(&directories)) {
        match opened {
            Ok(snapshot) => snapshots.push(snapshot),
            Err(error) => unreadable.push((directory.clone(), error)),
        }
    }
    snapshots.sort_by(|a, b| (&a.name, &a.group, &a.directory).cmp(&(&b.name, &b.group, &b.directory)));
    Ok((snapshots, unreadable))
}

/// Opens all of them, on all cores where they are many.
fn open_each(directories: &[PathBuf]) -> Vec<Result<Snapshot>> {
    let open = |share: &[PathBuf]| share.iter().map(|directory| Snapshot::open(directory)).collect::<Vec<_>>();
    if directories.len() <= MIN_SHARE {
        return open(directories);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = directories.len().div_ceil(threads).max(MIN_SHARE);
    std::thread::scope(|scope| {
        let start = |share| std::thread::Builder::new().spawn_scoped(scope, move || open(share));
        // Without a thread it is done here and now.
        let shares: Vec<_> = directories.chunks(share).map(|share| start(share).map_err(|_| open(share))).collect();
        let join = |share: std::result::Result<std::thread::ScopedJoinHandle<_>, _>| match share {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(opened) => opened,
        };
        shares.into_iter().flat_map(join).collect()
    })
}

/// The one snapshot that answers to `reference`.
pub(super) fn find(store: &Store, reference: &str) -> Result<Snapshot> {
    if reference.contains('/') || matches!(reference, "." | "..") {
        return Snapshot::open(Path::new(reference));
    }
    root::existing(&store.root)?;
    let (mut found, mut failed) = (Found::default(), None);
    let snapshots = store.snapshots();
    let hidden = reference.starts_with('.') || reference.is_empty();

    // A directory's name costs one look, however many there are.
    let direct = snapshots.join(reference);
    if !hidden && is_folder(&direct)? {
        if is_group(&direct)? {
            for head in heads(&direct, reference)? {
                found.add("head", head);
            }
        } else {
            found.add("name", Snapshot::open(&direct)?);
        }
    }
    if let Some((group, member)) = reference.split_once(':')
        && !hidden
    {
        let group = snapshots.join(group);
        if is_folder(&group)? && is_group(&group)? {
            failed = denied(members(folders(&group)?, member, &mut found))?;
        }
    }
    let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
    let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_digest = is_hex && (MIN_PREFIX..=64).contains(&digits.len());
    // A migration gives a snapshot another digest; the one before still means it.
    let was = |snapshot: &Snapshot| snapshot.descriptor.original().is_some_and(|original| original.hex() == digits);
    if is_digest || matches!(reference.parse(), Ok(SnapshotIdentity::Id(_))) {
        let readable = store.readable()?;
        failed = failed.or(readable.denied);
        for snapshot in readable.snapshots {
            if snapshot
                .identities()
                .iter()
                .any(|identity| matches!(identity, SnapshotIdentity::Id(id) if id == reference))
            {
                found.add("id", snapshot);
            } else if is_digest && (snapshot.descriptor.digest.hex().starts_with(digits) || was(&snapshot)) {
                found.add("digest", snapshot);
            }
        }
    }
    // A member's alias alone. No snapshot is parsed for it, only groups are listed.
    let known = !found.0.is_empty();
    for folder in folders(&snapshots)?.into_iter().filter(|folder| *folder != direct) {
        let mut look = || match seen(is_group(&folder))? {
            true => members(seen(folders(&folder))?, reference, &mut found),
            false => Ok(()),
        };
        match look() {
            Err(error) if failed.as_ref().is_none_or(Error::is_denied) => failed = Some(error),
            _ => {}
        }
    }
    match failed {
        // One that is broken elsewhere does not keep anybody from what is known by its own name; of aliases it may be
        // another.
        Some(error) if !known && (found.0.is_empty() || !error.is_denied()) => {
            Err(may_be_hidden(format!("the snapshot {reference:?}"), error))
        }
        _ => found.only(reference, || not_found(store, reference)),
    }
}

/// Head, parent, grandparent, ..., and the error that says so if one is missing.
pub(super) fn ancestors(store: &Store, head: Snapshot) -> Result<(Vec<Snapshot>, Option<Error>)> {
    let mut chain = vec![head];
    if chain[0].descriptor.parent.is_none() {
        return Ok((chain, None));
    }
    let mut known = Known::default();
    let Readable { snapshots, denied: mut hidden } = store.readable()?;
    known.add(snapshots);
    let mut searched = vec![store.snapshots()];
    let mut seen: HashSet<SnapshotIdentity> = chain[0].identities().into_iter().collect();
    while let Some(child) = chain.last()
        && let Some(parent) = &child.descriptor.parent
    {
        let Some(found) = known.get(parent) else {
            if searched.len() == 1
                && let Some(folder) = elsewhere(store, &chain[0])?
            {
                let (found, unseen) = beside(&folder, &chain[0])?;
                known.add(found);
                hidden = hidden.or(unseen);
                searched.push(folder);
                continue;
            }
            if let Some(error) = hidden {
                return Err(may_be_hidden(format!("the parent {parent} of {}", child.name), error));
            }
            let missing = Error::ParentNotFound { child: child.name.clone(), parent: parent.to_string(), searched };
            return Ok((chain, Some(missing)));
        };
        if !found.identities().into_iter().all(|identity| seen.insert(identity)) {
            return Err(Error::InvalidSnapshot {
                directory: found.directory.clone(),
                reason: "it is its own ancestor: its chain of parents is a cycle".into(),
            });
        }
        chain.push(found.clone());
    }
    Ok((chain, None))
}

/// Snapshots by how a child can name them; of two that are the same, the first that came.
#[derive(Default)]
struct Known {
    snapshots: Vec<Snapshot>,
    index: HashMap<SnapshotIdentity, usize>,
}

impl Known {
    fn add(&mut self, snapshots: Vec<Snapshot>) {
        for snapshot in snapshots {
            for identity in snapshot.identities() {
                self.index.entry(identity).or_insert(self.snapshots.len());
            }
            self.snapshots.push(snapshot);
        }
    }

    fn get(&self, identity: &SnapshotIdentity) -> Option<&Snapshot> {
        self.index.get(identity).map(|at| &self.snapshots[*at])
    }
}

/// The folder that a snapshot outside the store stands in, with its group: one that was placed elsewhere has its parents
/// beside it.
fn elsewhere(store: &Store, snapshot: &Snapshot) -> Result<Option<PathBuf>> {
    let canonical = |path: &Path| visible(path.canonicalize().context("look at", path).map(Some));
    let Some(directory) = canonical(&snapshot.directory)? else { return Ok(None) };
    let above = directory.ancestors().nth(if snapshot.group.is_some() { 2 } else { 1 });
    let stores = canonical(&store.snapshots())?;
    Ok(above.filter(|above| stores.as_deref() != Some(above)).map(Path::to_path_buf))
}

/// What stands there and has the snapshot's owner, for the folder may be everybody's; and why one more may be there that a
/// failing disk, or the want of a right, hides.
fn beside(folder: &Path, snapshot: &Snapshot) -> Result<(Vec<Snapshot>, Option<Error>)> {
    let owner = |path: &Path| fs::metadata(path).context("look at", path).map(|metadata| metadata.uid());
    let ours = owner(&snapshot.directory)?;
    let (all, unreadable) = match all(folder) {
        Err(error) if error.is_denied() => return Ok((Vec::new(), Some(error))),
        other => seen(other)?,
    };
    let mut hidden = None;
    for (directory, error) in unreadable.into_iter().filter(|(_, error)| hides(error)) {
        // One whose owner is hidden, too, may be ours.
        if owner(&directory).map_or_else(|error| hides(&error), |owner| owner == ours) {
            hidden = hidden.or(Some(error));
        }
    }
    let mut found = Vec::new();
    for other in all {
        match owner(&other.directory) {
            Ok(owner) if owner == ours => found.push(other),
            Err(error) if hides(&error) => hidden = hidden.or(Some(error)),
            _ => {}
        }
    }
    Ok((found, hidden))
}

/// What a reference can mean so far; a snapshot that answers in two ways is there once.
#[derive(Default)]
struct Found(Vec<(&'static str, Snapshot)>);

impl Found {
    fn add(&mut self, kind: &'static str, snapshot: Snapshot) {
        if !self.0.iter().any(|(_, other)| other.directory == snapshot.directory) {
            self.0.push((kind, snapshot));
        }
    }

    fn only(mut self, reference: &str, none: impl FnOnce() -> Result<Error>) -> Result<Snapshot> {
        if self.0.len() > 1 {
            let candidates = self.0.iter().map(|(kind, snapshot)| describe(kind, snapshot)).collect();
            return Err(Error::Ambiguous { reference: reference.into(), candidates });
        }
        match self.0.pop() {
            Some((_, snapshot)) => Ok(snapshot),
            None => Err(none()?),
        }
    }
}

/// Such as `name base (sha256:abcdef012345)`.
fn describe(kind: &str, snapshot: &Snapshot) -> String {
    let group = snapshot.group.as_ref().map(|group| format!("{group}:")).unwrap_or_default();
    format!("{kind} {group}{} (sha256:{})", snapshot.name, snapshot.descriptor.digest.short())
}

/// The error for a reference that nothing answers to.
fn not_found(store: &Store, reference: &str) -> Result<Error> {
    let folders = folders(&store.snapshots())?;
    let names: Vec<_> =
        folders.iter().filter_map(|f| f.file_name()).take(HINTS).map(|name| name.to_string_lossy()).collect();
    let known = match (names.is_empty(), folders.len() > HINTS) {
        (true, _) => "; the store has no snapshots".into(),
        (false, false) => format!("; the store has {}", names.join(", ")),
        (false, true) => format!("; the store has {}, ...", names.join(", ")),
    };
    let hint = digest_hint(store, reference).unwrap_or_default() + &known;
    Ok(Error::SnapshotNotFound { reference: reference.into(), store: store.snapshots(), hint })
}

/// What is wrong with a reference that is meant as a digest.
fn digest_hint(store: &Store, reference: &str) -> Option<String> {
    let (digits, is_prefixed) = match reference.strip_prefix("sha256:") {
        Some(digits) => (digits, true),
        None => (reference, false),
    };
    let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match digits.len() {
        0..MIN_PREFIX if is_prefixed && is_hex => {
            Some(format!("; a digest is looked up by at least its first {MIN_PREFIX} hex digits"))
        }
        0..=64 if is_prefixed && !is_hex => Some("; a digest has lowercase hex digits only".into()),
        65.. if is_prefixed || is_hex => Some("; a digest has 64 hex digits".into()),
        // A name may be as short; that it begins a digest is worth a word.
        4..MIN_PREFIX if is_hex => {
            let begun = store.readable().ok()?.snapshots;
            let begun = begun.iter().find(|snapshot| snapshot.descriptor.digest.hex().starts_with(digits))?;
            let (name, digest) = (&begun.name, begun.descriptor.digest.short());
            Some(format!("; {digits} begins the digest of {name}, which is looked up by at least {digest}"))
        }
        _ => None,
    }
}

/// Those of a group's `folders` whose alias, id or directory is `member`.
///
/// # Errors
/// A failing disk hides whether one more is; at the end, that one is not ours to read.
fn members(folders: Vec<PathBuf>, member: &str, found: &mut Found) -> Result<()> {
    let mut unseen = None;
    for directory in folders {
        let by_directory = directory.file_name().is_some_and(|name| name == member);
        let named = match seen(alias(&directory)) {
            Err(error) if error.is_denied() => {
                unseen = Some(error);
                None
            }
            other => other?,
        };
        if by_directory || named.as_deref() == Some(member) {
            found.add("member", Snapshot::open(&directory)?);
        }
    }
    unseen.map_or(Ok(()), Err)
}

/// The want of a right, which matters only where nothing else is found.
fn denied(look: Result<()>) -> Result<Option<Error>> {
    match look {
        Err(error) if error.is_denied() => Ok(Some(error)),
        other => other.map(|()| None),
    }
}

/// The head of the group at `folder`. Of one that an earlier snapcask wrote nobody chose it: then it is every member that is
/// no other member's parent, and one that cannot be read may be it, so that is an error.
fn heads(folder: &Path, name: &str) -> Result<Vec<Snapshot>> {
    let path = || folder.join(GROUP_FILE);
    match GroupFile::read(folder)? {
        GroupFile::Head(id) => match Snapshot::open(&folder.join(&id)) {
            Err(Error::NotFound { .. }) => Err(Error::InvalidGroup {
                path: path(),
                reason: format!("its head {id} is not a member; select one with `snapcask head {name}:MEMBER`"),
            }),
            head => Ok(vec![head?]),
        },
        GroupFile::NoHead => Err(Error::NoHead { group: name.into() }),
        GroupFile::Invalid(reason) => Err(Error::InvalidGroup { path: path(), reason }),
        GroupFile::Old => {
            let mut members = Vec::new();
            for directory in folders(folder)? {
                match Snapshot::open(&directory) {
                    Err(Error::NoSnapshot { .. }) => {}
                    member => members.push(member?),
                }
            }
            let parents: HashSet<SnapshotIdentity> =
                members.iter().filter_map(|m| m.descriptor.parent.clone()).collect();
            let is_parent = |member: &Snapshot| member.identities().iter().any(|identity| parents.contains(identity));
            Ok(members.into_iter().filter(|member| !is_parent(member)).collect())
        }
    }
}

/// Whether a directory holds members and is no snapshot itself.
fn is_group(folder: &Path) -> Result<bool> {
    let there = |file: &str| is_there(&folder.join(file));
    Ok(is_regular(&folder.join(GROUP_FILE))? && !there(SNAPSHOT_FILE)? && !there(V066_FILE)?)
}

/// The directories in `path` whose names do not begin with a dot, sorted; none where it does not exist.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries.context("list", path)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context("list", path)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().context("read", entry.path())?;
        // A store may keep a snapshot on another disk, behind a symlink. Where that fails, it is one that cannot be read.
        let leads_to_one = || is_folder(&entry.path()).unwrap_or_else(|error| hides(&error));
        if kind.is_dir() || (kind.is_symlink() && leads_to_one()) {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        (dir, store)
    }

    /// A `v066` snapshot; gives its digest.
    fn old(store: &Store, name: &str, parent: Option<Digest>) -> Digest {
        let image = Digest::of(b"image");
        let parent = serde_json::json!(parent);
        let text = format!(
            r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"a","manifest_digest":"{image}"}},"parent":{parent},"created_at":"2026-05-01T12:00:00Z","labels":{{}},"upper":{{"file":"upper.ext4","size_bytes":0,"integrity":null}},"source_sandbox":"{name}"}}"#
        );
        let directory = store.snapshots().join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(V066_FILE), &text).unwrap();
        Digest::of(text.as_bytes())
    }

    fn id(n: u32) -> String {
        format!("snap_{n:032x}")
    }

    /// A `final` snapshot in `folder`, below `snapshots`.
    fn new(store: &Store, folder: &str, n: u32, parent: Option<u32>, alias: Option<&str>) {
        let layer = format!("layer_{n:032x}");
        let text = serde_json::json!({"schema": "microsandbox.snapshot/1", "snapshot_id": id(n), "scope": "file",
            "state": {"kind": "file", "disk_format": "raw", "filesystem": "ext4", "virtual_size": 1, "head": layer,
                "layers": [{"layer_id": layer, "format": "raw", "virtual_size": 1, "backing": null,
                    "payload": {"file_kind": "regular", "integrity": null}}]},
            "capture": {"created_at": "2026-05-01T12:00:00Z", "source_lineage": null, "source_checkpoint": null,
                "consistency": "crash-consistent"},
            "image": {"reference": "a", "manifest_digest": Digest::of(b"image")},
            "root_disk": {"layout": "managed"}, "parent": parent.map(id), "requires": [], "extensions": {}});
        let directory = store.snapshots().join(folder);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(SNAPSHOT_FILE), text.to_string()).unwrap();
        if let Some(alias) = alias {
            fs::write(directory.join("group-member.json"), format!(r#"{{"alias":"{alias}"}}"#)).unwrap();
        }
    }

    fn group(store: &Store, name: &str, members: &[(u32, Option<u32>, Option<&str>)]) {
        for (n, parent, alias) in members {
            new(store, &format!("{name}/{}", id(*n)), *n, *parent, *alias);
        }
        // As an earlier snapcask wrote it.
        fs::write(store.snapshots().join(name).join(GROUP_FILE), format!(r#"{{"name":"{name}"}}"#)).unwrap();
    }

    fn set_head(store: &Store, name: &str, head: serde_json::Value) {
        let state = serde_json::json!({ "schema": "microsandbox.snapshot-group/1", "head": head });
        fs::write(store.snapshots().join(name).join(GROUP_FILE), state.to_string()).unwrap();
    }

    fn name(store: &Store, reference: &str) -> String {
        store.find(reference).unwrap_or_else(|error| panic!("{reference}: {error}")).name
    }

    fn ambiguous(store: &Store, reference: &str) -> Vec<String> {
        match store.find(reference).unwrap_err() {
            Error::Ambiguous { candidates, .. } => candidates,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn all_is_sorted_and_says_what_is_unreadable() {
        let (_dir, store) = store();
        assert!(store.all().unwrap().0.is_empty());
        old(&store, "b", None);
        old(&store, ".hidden", None);
        group(&store, "web", &[(1, None, Some("a")), (2, Some(1), None)]);
        new(&store, "c", 3, None, None);
        fs::create_dir(store.snapshots().join("empty")).unwrap();
        fs::write(store.snapshots().join("file"), "").unwrap();
        let (found, unreadable) = store.all().unwrap();
        let names: Vec<_> = found.iter().map(|s| (s.group.as_deref(), s.name.clone())).collect();
        assert_eq!(names, [(Some("web"), "a".into()), (None, "b".into()), (None, "c".into()), (Some("web"), id(2))]);
        assert_eq!(unreadable.len(), 1);
        assert!(unreadable[0].1.to_string().contains("neither"), "{unreadable:?}");
    }

    #[test]
    fn every_form_of_reference() {
        let (_dir, store) = store();
        let digest = old(&store, "base", None);
        group(&store, "web", &[(1, None, Some("v1")), (2, Some(1), Some("v2"))]);
        let path = store.snapshots().join("base");
        let (whole, hex) = (digest.to_string(), digest.hex());
        for reference in ["base", path.to_str().unwrap(), &whole, &hex, &hex[..12], &whole[..7 + 12]] {
            assert_eq!(name(&store, reference), "base", "{reference}");
        }
        let (long, short) = (id(2), format!("web:{}", id(2)));
        for reference in ["web", "web:v2", "v2", &long, &short] {
            assert_eq!(name(&store, reference), "v2", "{reference}");
        }
        assert_eq!(name(&store, "web:v1"), "v1");
        for missing in ["other", &hex[..11], "web:v3", "", ".hidden", "sha256:", &id(9), "base:v1"] {
            let error = store.find(missing).unwrap_err();
            assert!(matches!(error, Error::SnapshotNotFound { .. }), "{missing}: {error}");
            assert!(error.to_string().ends_with("; the store has base, web"), "{error}");
        }
        let said = |reference: &str| store.find(reference).unwrap_err().to_string();
        let least = "; a digest is looked up by at least its first 12 hex digits; ";
        assert!(said("sha256:").contains(least) && said(&whole[..7 + 11]).contains(least));
        let begun =
            format!("; {} begins the digest of base, which is looked up by at least {}; ", &hex[..5], &hex[..12]);
        assert!(said(&hex[..5]).contains(&begun), "{}", said(&hex[..5]));
        assert!(
            said(&whole.to_uppercase().replace("SHA", "sha")).contains("; a digest has lowercase hex digits only; ")
        );
        assert!(said(&format!("{whole}0")).contains("; a digest has 64 hex digits; "));
        assert!(matches!(store.find("./none").unwrap_err(), Error::NotFound { .. }));
    }

    #[test]
    fn a_broken_snapshot_asked_for_by_name_says_how() {
        let (_dir, store) = store();
        old(&store, "base", None);
        fs::write(store.snapshots().join("base").join(V066_FILE), "{").unwrap();
        assert!(matches!(store.find("base").unwrap_err(), Error::InvalidDescriptor { .. }));
    }

    #[test]
    fn two_meanings_are_ambiguous() {
        let (_dir, store) = store();
        let digest = old(&store, "base", None);
        let prefix = &digest.hex()[..12];
        let other = old(&store, prefix, None);
        assert_eq!(
            ambiguous(&store, prefix),
            [format!("name {prefix} (sha256:{})", other.short()), format!("digest base (sha256:{prefix})")]
        );
        group(&store, "web", &[(1, None, Some("base")), (2, None, Some("x"))]);
        let said = ambiguous(&store, "base");
        assert!(said[0].starts_with("name base (") && said[1].starts_with("member web:base ("), "{said:?}");
        let said = ambiguous(&store, "web");
        assert!(said[0].starts_with("head web:base (") && said[1].starts_with("head web:x ("), "{said:?}");
    }

    #[test]
    fn group_means_the_head_that_msb_chose() {
        let (_dir, store) = store();
        group(&store, "web", &[(1, None, Some("v1")), (2, Some(1), Some("v2"))]);
        assert_eq!(name(&store, "web"), "v2", "the tip of a group that an earlier snapcask wrote");
        set_head(&store, "web", id(1).into());
        assert_eq!(name(&store, "web"), "v1");
        set_head(&store, "web", serde_json::Value::Null);
        assert!(matches!(store.find("web").unwrap_err(), Error::NoHead { .. }));
        set_head(&store, "web", id(9).into());
        assert!(matches!(store.find("web").unwrap_err(), Error::InvalidGroup { .. }));
        fs::write(store.snapshots().join("web").join(GROUP_FILE), "{}").unwrap();
        assert!(matches!(store.find("web").unwrap_err(), Error::InvalidGroup { .. }));
        assert_eq!(name(&store, "web:v1"), "v1");
    }

    /// Nobody but the head itself says that it is one: without it, its parent would be taken for the head.
    #[test]
    fn a_groups_head_that_cannot_be_read_may_be_the_one() {
        let (_dir, store) = store();
        group(&store, "web", &[(1, None, Some("v1")), (2, Some(1), Some("v2"))]);
        fs::create_dir(store.snapshots().join("web/empty")).unwrap();
        assert_eq!(name(&store, "web"), "v2");
        fs::write(store.snapshots().join("web").join(id(2)).join(SNAPSHOT_FILE), "{").unwrap();
        assert!(matches!(store.find("web").unwrap_err(), Error::InvalidDescriptor { .. }));
        assert_eq!(name(&store, "web:v1"), "v1");
    }

    /// What is not there is nothing, what is hidden is an error, unless it is nothing to us.
    #[test]
    fn a_failing_disk_hides_and_so_does_a_missing_right() {
        use rustix::io::Errno;
        let fails = |errno: Errno| seen::<bool>(Err(Error::io("look at", "x", errno.into())));
        let shows = |errno: Errno| visible::<bool>(Err(Error::io("look at", "x", errno.into())));
        for errno in [Errno::NOENT, Errno::NOTDIR, Errno::LOOP] {
            assert!(!fails(errno).unwrap() && !shows(errno).unwrap(), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM] {
            assert!(fails(errno).is_err() && !shows(errno).unwrap(), "{errno}");
        }
        for errno in [Errno::IO, Errno::MFILE, Errno::NOMEM] {
            assert!(fails(errno).is_err() && shows(errno).is_err(), "{errno}");
        }
    }

    #[test]
    fn chains() {
        let (_dir, store) = store();
        let a = old(&store, "a", None);
        let b = old(&store, "b", Some(a));
        old(&store, "c", Some(b));
        old(&store, "orphan", Some(Digest::of(b"gone")));
        let chain = |name: &str| store.chain(store.find(name).unwrap());
        let names = |name: &str| chain(name).unwrap().into_iter().map(|s| s.name).collect::<Vec<_>>();
        assert_eq!(names("c"), ["c", "b", "a"]);
        assert_eq!(names("a"), ["a"]);
        assert!(matches!(chain("orphan").unwrap_err(), Error::ParentNotFound { .. }));
        group(&store, "web", &[(1, Some(2), Some("x")), (2, Some(1), Some("y")), (3, Some(4), None), (4, None, None)]);
        assert!(matches!(chain("x").unwrap_err(), Error::InvalidSnapshot { .. }));
        assert_eq!(names("web"), [id(3), id(4)]);
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_said_to_be_missing() {
        let (_dir, store) = store();
        old(&store, "base", None);
        // A circle of links: like a folder that is not ours to enter, but so for root as well.
        for name in ["circle", "group"] {
            std::os::unix::fs::symlink(name, store.snapshots().join(name)).unwrap();
        }
        for reference in ["circle", "group:member"] {
            let error = store.find(reference).unwrap_err();
            assert!(matches!(error, Error::Io { operation: "look at", .. }), "{reference}: {error}");
        }
        let long = "x".repeat(300);
        assert!(matches!(store.find(&long).unwrap_err(), Error::SnapshotNotFound { .. }));
        // So long a path that its descriptor's is too long.
        let path = store.snapshots().join("base");
        let path = path.to_str().unwrap();
        let long = format!("{path}{}", "/.".repeat((4090 - path.len()) / 2));
        let error = Snapshot::open(Path::new(&long)).unwrap_err();
        assert!(matches!(error, Error::Io { operation: "look at", .. }), "{error}");
        assert!(Snapshot::is_at(Path::new(&long)) && !Snapshot::is_at(&store.root));
    }
}

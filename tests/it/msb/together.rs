//! `msb` and `snapcask` on one store at the same time: nothing is torn, and no command of either fails because of the other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
};

use serde_json::Value;

use super::{
    captured,
    image::{Image, REFERENCE},
    placed,
    program::{Msb, have},
    source::Subject,
};
use crate::{fixture::*, tally};

/// Rounds of a test: a few with every build, all of them for the scoreboard.
fn rounds() -> u32 {
    std::env::var("SNAPCASK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// One chain of three, packed by both.
struct Chain {
    subjects: Vec<Subject>,
    bundle: PathBuf,
    archive: PathBuf,
}

impl Chain {
    /// Captures a chain; snapshots of chains with other words have other names, because a group has a name once.
    fn new(msb: &Msb, image: &Image, word: &str, seed: u64) -> Self {
        let disk = captured::sandbox(msb, image, word, &[]).join("upper.ext4");
        let mut subjects = Vec::new();
        for i in 0..3 {
            let extents: Vec<Extent> = (0..=i).map(|k| (k << 20, random(60_000, seed + k))).collect();
            write_disk(&disk, 8 << 20, &extents);
            subjects.push(captured::capture(msb, word, &format!("{word}-{i}"), &["--integrity"]));
        }
        let beside = |name: String| msb.home.parent().unwrap().join(name);
        let (bundle, archive) = (beside(format!("{word}.tar.zst")), beside(format!("{word}.msb")));
        let (path, destination) = (bundle.to_str().unwrap(), archive.to_str().unwrap());
        let head = format!("{word}:{word}-2");
        msb.snapcask(&["export", &head, "-o", path, "--with-parents", "--with-image"]).unwrap();
        msb.ok(&["snapshot", "export", &head, "-o", destination, "--with-parents", "--with-image"]);
        Self { subjects, bundle, archive }
    }

    fn head(&self) -> &Subject {
        self.subjects.last().unwrap()
    }

    /// Members of a group, youngest first.
    fn selectors(&self, group: &str) -> Vec<String> {
        self.subjects.iter().rev().map(|s| format!("{group}:{}", s.name)).collect()
    }
}

/// A store, and chains made elsewhere.
struct Arena {
    _dir: tempfile::TempDir,
    msb: Msb,
    theirs: Chain,
    ours: Chain,
    anchor: Chain,
}

/// The group that both use, whose head is the anchor's and stays it.
const SHARED: &str = "shared";

impl Arena {
    fn new() -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let origin = Msb::new(&dir.path().join("origin"));
        let image = Image::load(&origin, REFERENCE, "first");
        let theirs = Chain::new(&origin, &image, "theirs", 100);
        let ours = Chain::new(&origin, &image, "ours", 200);
        let anchor = Chain::new(&origin, &image, "anchor", 300);
        let msb = Msb::new(&dir.path().join("store"));
        let archive = anchor.archive.to_str().unwrap();
        msb.ok(&["snapshot", "import", archive, "--group", SHARED]);
        Self { _dir: dir, msb, theirs, ours, anchor }
    }

    /// The store holds exactly these chains, whole, and the group's head is the anchor's.
    fn holds(&self, chains: &[&Chain]) {
        let there: BTreeSet<String> = placed::all(&self.msb).into_keys().collect();
        let expected: BTreeSet<String> = chains.iter().flat_map(|c| &c.subjects).map(|s| s.id.clone()).collect();
        assert_eq!(there, expected);
        let head = json_file(&self.msb.snapshots().join(SHARED).join("group.json"));
        assert_eq!(head["head"], self.anchor.head().id.as_str());
        let listed = self.msb.json(&["snapshot", "ls", "--format", "json"]).unwrap();
        let listed: BTreeSet<String> =
            listed.as_array().unwrap().iter().map(|row| row["snapshot_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(listed, expected, "what msb lists");
        for placed in placed::all(&self.msb).values() {
            self.msb.ok(&["snapshot", "verify", placed.path()]);
        }
        self.msb.snapcask(&["check"]).unwrap();
        let leftovers = leftovers(&self.msb.snapshots());
        assert!(leftovers.is_empty(), "left over: {leftovers:?}");
    }
}

/// Stages and temporary files that nobody works on any more.
fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let stays =
            [".groups.lock", ".group.lock", ".msb-leases", ".snapshot-deletions", ".snapcask.json", ".snapcask.lock"];
        if name.starts_with('.') && !stays.contains(&name.as_str()) {
            found.push(entry.path());
        } else if entry.file_type().unwrap().is_dir() && !name.starts_with('.') {
            found.extend(leftovers(&entry.path()));
        }
    }
    found
}

/// Runs two scripts at once; what failed.
fn at_once(
    msb: impl FnOnce() -> Result<(), String> + Send,
    ours: impl FnOnce() -> Result<(), String> + Send,
) -> Vec<String> {
    let start = Barrier::new(2);
    let (a, b) = thread::scope(|scope| {
        let a = scope.spawn(|| {
            start.wait();
            msb()
        });
        let b = scope.spawn(|| {
            start.wait();
            ours()
        });
        (a.join().unwrap(), b.join().unwrap())
    });
    [a, b].into_iter().filter_map(Result::err).collect()
}

/// `msb` imports and removes one chain while we import, export and remove another, in one group of one store.
#[test]
fn msb_and_snapcask_import_export_and_remove_in_one_group_at_once() {
    if !have("msb_and_snapcask_import_export_and_remove_in_one_group_at_once", &[]) {
        return;
    }
    let arena = Arena::new();
    let Arena { msb, theirs, ours, anchor, .. } = &arena;
    let out = msb.home.parent().unwrap().join("out.tar.zst");
    let out = out.to_str().unwrap();
    for round in 0..rounds() {
        let failed = at_once(
            || {
                msb.tried(&["snapshot", "import", theirs.archive.to_str().unwrap(), "--group", SHARED])?;
                for selector in theirs.selectors(SHARED) {
                    msb.tried(&["snapshot", "inspect", &selector])?;
                    msb.tried(&["snapshot", "rm", &selector])?;
                }
                Ok(())
            },
            || {
                msb.snapcask(&["import", ours.bundle.to_str().unwrap(), "--group", SHARED])?;
                let selectors = ours.selectors(SHARED);
                msb.snapcask(&["export", &selectors[0], "-o", out, "--with-parents", "--force"])?;
                msb.snapcask(&["verify", out])?;
                msb.snapcask(&["export", SHARED, "-o", out, "--force"])?;
                let mut arguments = vec!["remove"];
                arguments.extend(selectors.iter().map(String::as_str));
                msb.snapcask(&arguments).map(|_| ())
            },
        );
        assert!(failed.is_empty(), "round {round}: {failed:?}");
        if round % 10 == 0 {
            arena.holds(&[anchor]);
        }
    }
    arena.holds(&[anchor]);
    tally::cases(12, "rounds of msb beside snapcask: imports, exports and removals in one group", rounds() as usize);
}

/// Both import the very same snapshots into the same group, which is new: one of them places, the other finds them there.
#[test]
fn msb_and_snapcask_import_the_same_snapshots_at_once() {
    if !have("msb_and_snapcask_import_the_same_snapshots_at_once", &[]) {
        return;
    }
    let arena = Arena::new();
    let Arena { msb, ours, anchor, .. } = &arena;
    for round in 0..rounds() {
        let group = format!("both-{round}");
        let failed = at_once(
            || msb.tried(&["snapshot", "import", ours.archive.to_str().unwrap(), "--group", &group]).map(|_| ()),
            || msb.snapcask(&["import", ours.bundle.to_str().unwrap(), "--group", &group]).map(|_| ()),
        );
        assert!(failed.is_empty(), "round {round}: {failed:?}");
        let head = msb.json(&["snapshot", "head", &group, "--format", "json"]).unwrap();
        assert_eq!(head["head"], Value::from(ours.head().id.as_str()));
        arena.holds(&[anchor, ours]);
        msb.ok(&["snapshot", "head", &ours.selectors(&group)[2]]);
        for selector in ours.selectors(&group) {
            msb.ok(&["snapshot", "rm", &selector]);
        }
    }
    arena.holds(&[anchor]);
    tally::cases(12, "rounds of msb and snapcask importing the same snapshots into a new group", rounds() as usize);
}

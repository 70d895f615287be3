//! Snapshots and layouts whose folders cannot be renamed, as in a lower layer of overlayfs: EXDEV where a folder would be
//! renamed or exchanged that no rename has put in its place. `filesystems` does the same on overlayfs itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use snapcask::{
    export::{Form, export},
    model::Generation,
    progress::Silent,
    store::{
        lease::Lease,
        place::{Stage, leftovers},
    },
};
use tempfile::TempDir;

use crate::{
    durability::{Volatile, temporary, two_of_one_name},
    fixture::*,
    trace::{Call, Ended, Kind, Phase, Verdict, trace},
};

/// What overlayfs says of renames.
#[derive(Default)]
struct Lower {
    /// Folders in the upper layer.
    upper: BTreeSet<PathBuf>,
}

impl Lower {
    fn verdict(&mut self, call: &Call, phase: Phase) -> Verdict {
        let Some(to) = call.to.as_ref().filter(|_| call.name.starts_with("rename")) else { return Verdict::Run };
        let is_lower = |path: &Path| path.is_dir() && !temporary(path) && !self.upper.contains(path);
        if phase == Phase::Before && (is_lower(&call.path) || call.exchanges && is_lower(to)) {
            return Verdict::Fail(libc::EXDEV);
        }
        if phase == Phase::After && call.result >= 0 {
            self.upper.insert(to.clone());
        }
        Verdict::Run
    }
}

/// Runs the command on a lower layer; `decide` has the first word on every call.
fn run_on_lower(
    command: &mut Command,
    area: &Path,
    mut decide: impl FnMut(&Call, Phase) -> Verdict,
) -> (Ended, String) {
    let said = TempDir::new().unwrap();
    let path = said.path().join("stderr");
    command.stdout(Stdio::null()).stderr(fs::File::create(&path).unwrap());
    let mut lower = Lower::default();
    let ended = trace(command, &[area], |call, phase| match decide(call, phase) {
        Verdict::Run => lower.verdict(call, phase),
        verdict => verdict,
    });
    (ended.unwrap(), fs::read_to_string(path).unwrap())
}

/// The calls of the file-by-file way that change something, counted from its beginning.
#[derive(Default)]
struct Steps {
    begun: bool,
    count: usize,
}

impl Steps {
    /// The number of the call, where it is such a step.
    fn number(&mut self, call: &Call, phase: Phase) -> Option<usize> {
        self.begun |= call.path.to_str().unwrap().contains(".snapcask-moving-");
        if !self.begun || phase == Phase::After || matches!(call.kind, Kind::Looks) || call.name == "flock" {
            return None;
        }
        self.count += 1;
        Some(self.count)
    }
}

/// A store with one snapshot, and the command that replaces or removes it.
struct Case {
    area: TempDir,
    store: PathBuf,
    snapshot: PathBuf,
    command: fn(&Path, &Path) -> Command,
    bundle: PathBuf,
}

fn import_by_force(store: &Path, bundle: &Path) -> Command {
    command(["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap(), "--force", "--jobs", "1"])
}

fn remove(store: &Path, _: &Path) -> Command {
    command(["remove", "one", "--store", store.to_str().unwrap()])
}

fn repair(store: &Path, bundle: &Path) -> Command {
    let (store, bundle) = (store.to_str().unwrap(), bundle.to_str().unwrap());
    command(["check", "--store", store, "--repair-from", bundle, "--jobs", "1"])
}

impl Case {
    fn new(old: &Path, bundle: &Path, command: fn(&Path, &Path) -> Command) -> Self {
        let area = TempDir::new().unwrap();
        let store = area.path().join("store");
        let snapshot = import_ok(old, &store).snapshots[0].path.clone().unwrap();
        Self { area, store, snapshot, command, bundle: bundle.into() }
    }

    fn damaged(self) -> Self {
        fs::write(self.snapshot.join("state.bin"), b"damaged").unwrap();
        self
    }

    fn run(&self, decide: impl FnMut(&Call, Phase) -> Verdict) -> (Ended, String) {
        run_on_lower(&mut (self.command)(&self.store, &self.bundle), self.area.path(), decide)
    }

    fn found(&self) -> std::collections::BTreeMap<String, Identity> {
        whole_tree(&self.snapshot)
    }

    fn is_visible(&self) -> bool {
        ["manifest.json", "snapshot.json"].iter().any(|mark| self.snapshot.join(mark).exists())
    }

    /// What the next run does first.
    #[track_caller]
    fn next_run_clears_up(&self, what: &str) {
        let snapshots = self.store.join("snapshots");
        drop(Stage::create(&snapshots).unwrap());
        let left: Vec<String> = whole_tree(&snapshots).into_keys().filter(|p| p.contains(".snapcask-")).collect();
        assert!(left.is_empty() && leftovers(&snapshots).unwrap().is_empty(), "{what}: {left:?}");
    }
}

type Way = (&'static str, fn(&Path, &Path) -> Command);
const WAYS: [Way; 3] = [("import --force", import_by_force), ("repair", repair), ("remove", remove)];

/// Each way, with the contents before and after.
fn cases(generation: Generation, mut each: impl FnMut(&str, &dyn Fn() -> Case, &Contents)) {
    let two = two_of_one_name(generation);
    // A repair brings the very same back.
    for (name, way) in WAYS {
        let make = || match name {
            "repair" => Case::new(&two[0].1, &two[0].1, way).damaged(),
            _ => Case::new(&two[0].1, &two[1].1, way),
        };
        let case = make();
        let before = case.found();
        let (ended, said) = case.run(|_, _| Verdict::Run);
        assert_eq!(ended, Ended::Code(0), "{name}: {said}");
        let contents = Contents { before, after: case.found() };
        assert_ne!(contents.before, contents.after, "{name}");
        assert!(!fs::read_dir(case.store.join("snapshots")).unwrap().any(|e| temporary(&e.unwrap().path())), "{name}");
        each(name, &make, &contents);
    }
}

struct Contents {
    before: std::collections::BTreeMap<String, Identity>,
    after: std::collections::BTreeMap<String, Identity>,
}

#[test]
fn snapshots_in_lower_layer_are_replaced_repaired_and_removed() {
    for generation in [Generation::V066, Generation::Final] {
        let two = two_of_one_name(generation);
        let other = |bundle: &Path| {
            let other = TempDir::new().unwrap();
            tree(import_ok(bundle, other.path()).snapshots[0].path.as_ref().unwrap())
        };
        for (name, way) in WAYS {
            let (new, case) = match name {
                "repair" => (&two[0].1, Case::new(&two[0].1, &two[0].1, way).damaged()),
                _ => (&two[1].1, Case::new(&two[0].1, &two[1].1, way)),
            };
            let mut volatile = Volatile::default();
            let mut refused = 0;
            let snapshots = case.store.join("snapshots");
            let ours = |path: &Path| path.to_str().unwrap().contains(".snapcask-moving-");
            let (mut early, mut has_moved) = (Vec::new(), false);
            let (ended, said) = case.run(|call, phase| {
                let is_mark = |path: &Path| path.ends_with("manifest.json") || path.ends_with("snapshot.json");
                let out = call.to.as_ref().filter(|to| call.kind == Kind::Names && !ours(&call.path) && ours(to));
                let is_content = call.path.parent() == Some(&*case.snapshot) && !is_mark(&call.path);
                // What must be durable before the call.
                let before = |path: &Path| match out {
                    Some(to) if is_mark(&call.path) => {
                        *path == *snapshots || ours(path) && !path.ends_with("old") && !path.starts_with(to)
                    }
                    Some(_) if is_content && !has_moved => path.ends_with("old"),
                    None if call.name.starts_with("unlink") && call.path.ends_with("plan.json") => !temporary(path),
                    _ => false,
                };
                if phase == Phase::Before {
                    let paths = volatile.paths.iter().filter(|path| before(path));
                    early.extend(paths.map(|path| format!("{call}: {}", path.display())));
                    has_moved |= out.is_some() && is_content;
                }
                if phase == Phase::After {
                    refused += usize::from(call.result == -i64::from(libc::EXDEV));
                    volatile.happened(call);
                }
                Verdict::Run
            });
            assert_eq!(ended, Ended::Code(0), "{name}: {said}");
            assert!(refused > 0, "{name} renamed no folder");
            assert!(early.is_empty(), "{name}: {early:#?}");
            volatile.assert_nothing_left(name);
            match name {
                "remove" => assert!(!case.snapshot.exists()),
                _ => assert_eq!(tree(&case.snapshot), other(new), "{name}"),
            }
            let left: Vec<String> = whole_tree(&case.store).into_keys().filter(|p| p.contains(".snapcask-")).collect();
            assert!(left.is_empty(), "{name}: {left:?}");
            assert!(case.store.join("snapshots/.msb-leases").exists() || generation == Generation::Final);
        }
    }
}

/// Whoever looks meanwhile sees the old snapshot, none, or the new one; and the next run leaves the old or the new one.
#[test]
fn runs_killed_at_every_step_in_lower_layer_leave_old_or_new() {
    for generation in [Generation::V066, Generation::Final] {
        cases(generation, |name, make, contents| {
            let mut seen = BTreeSet::new();
            for step in 1.. {
                let case = make();
                let mut steps = Steps::default();
                let (ended, _) = case.run(|call, phase| match steps.number(call, phase) {
                    Some(number) if number == step => Verdict::Kill,
                    _ => Verdict::Run,
                });
                if ended == Ended::Code(0) {
                    assert!(step > 10, "{name}: only {step} steps");
                    break;
                }
                assert!(matches!(ended, Ended::Signal(_)), "{ended:?}");
                let (was_visible, found) = (case.is_visible(), case.found());
                let what = format!("{name}, killed at step {step}");
                assert!(!was_visible || found == contents.before || found == contents.after, "{what}: {found:?}");
                case.next_run_clears_up(&what);
                let found = case.found();
                assert!(found == contents.before || found == contents.after, "{what}, then the next run: {found:?}");
                // What was not to be seen is not what it was before.
                assert!(was_visible || found == contents.after, "{what}");
                seen.insert((was_visible, found == contents.after));
            }
            assert!(seen.len() >= 2, "{name}: {seen:?}");
        });
    }
}

/// EIO at every step: what was there is there, or what was asked for is done.
#[test]
fn failures_at_every_step_in_lower_layer_leave_old_or_new() {
    cases(Generation::Final, |name, make, contents| {
        for step in 1.. {
            let case = make();
            let (mut steps, mut failed) = (Steps::default(), None);
            let (ended, said) = case.run(|call, phase| match steps.number(call, phase) {
                Some(number) if number == step => {
                    failed = Some(call.clone());
                    Verdict::Fail(libc::EIO)
                }
                _ => Verdict::Run,
            });
            let Some(call) = failed else {
                assert!(step > 10, "{name}: only {step} steps");
                break;
            };
            let (found, what) = (case.found(), format!("{name}, {call}: {ended:?}: {said}"));
            // A check repairs what it can and reports what stays.
            assert!(matches!(ended, Ended::Code(0 | 1 | 3)), "{what}");
            if ended == Ended::Code(0) {
                assert!(found == contents.after, "{what}");
            } else if case.is_visible() {
                // What has been done in full stays when something else fails later; a check then finds what is left.
                let is_later = !call.path.to_str().unwrap().contains(".snapcask-moving-") || ended == Ended::Code(3);
                assert!(found == contents.before || is_later && found == contents.after, "{what}");
            } else {
                // A removal that could not be completed.
                let rest = said.contains("it is gone, and the next run removes the rest");
                assert!(rest || found == contents.after, "{what}");
            }
            let was_visible = case.is_visible();
            case.next_run_clears_up(&what);
            assert!(was_visible || case.found() == contents.after, "{what}");
        }
    });
}

/// What somebody put there after the run died stays.
#[test]
fn next_run_takes_nothing_that_came_after_the_run_that_died() {
    let two = two_of_one_name(Generation::Flat);
    let case = Case::new(&two[0].1, &two[1].1, import_by_force);
    let mut hidden = false;
    let (ended, _) = case.run(|call, phase| {
        hidden |= phase == Phase::After && call.path.ends_with("one/snapshot.json") && call.kind == Kind::Names;
        if hidden && phase == Phase::Before && call.kind == Kind::Names { Verdict::Kill } else { Verdict::Run }
    });
    assert!(matches!(ended, Ended::Signal(_)));
    assert!(!case.is_visible());
    let findings = fails(&run(["check", "--store", case.store.to_str().unwrap()]), 3);
    assert!(findings.is_empty() || findings.contains("finding"), "{findings}");
    // Nor anything that is in use.
    let lease = Lease::shared(&case.snapshot, &Silent).unwrap();
    let snapshots = case.store.join("snapshots");
    drop(Stage::create(&snapshots).unwrap());
    assert_eq!((case.is_visible(), leftovers(&snapshots).unwrap().len()), (false, 1));
    drop(lease);
    fs::remove_dir_all(&case.snapshot).unwrap();
    write(case.snapshot.join("manifest.json"), b"another");
    let before = case.found();
    case.next_run_clears_up("another snapshot");
    assert_eq!(case.found(), before);
}

#[test]
fn layout_in_lower_layer_is_replaced_by_force() {
    let [(old, _), (new, _)] = two_of_one_name(Generation::Flat);
    let area = TempDir::new().unwrap();
    let layout = area.path().join("out/layout");
    let options = export_options(&old.store, "one", Form::Dir, &layout);
    export(&options).unwrap();
    let other = area.path().join("other");
    export(&export_options(&new.store, "one", Form::Dir, &other)).unwrap();
    let (store, path) = (new.store.to_str().unwrap(), layout.to_str().unwrap());
    let before = whole_tree(&layout);
    let force = || command(["export", "one", "--store", store, "-o", path, "--force", "--format", "dir"]);
    for step in 1.. {
        let mut steps = Steps::default();
        let (ended, said) = run_on_lower(&mut force(), &area.path().join("out"), |call, phase| {
            if steps.number(call, phase) == Some(step) { Verdict::Kill } else { Verdict::Run }
        });
        if ended == Ended::Code(0) {
            assert!(step > 10, "only {step} steps: {said}");
            break;
        }
        let found = whole_tree(&layout);
        let is_layout = layout.join("index.json").exists();
        assert!(!is_layout || found == before || found == whole_tree(&other), "step {step}");
        succeeds(&force().output().unwrap());
        assert_eq!(whole_tree(&layout), whole_tree(&other), "step {step}");
        let left: Vec<_> = fs::read_dir(area.path().join("out")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left.len(), 1, "step {step}: {left:?}");
        fs::remove_dir_all(&layout).unwrap();
        export(&options).unwrap();
    }
    assert_eq!(whole_tree(&layout), whole_tree(&other));
    assert_eq!(fs::read_dir(area.path().join("out")).unwrap().count(), 1);
}

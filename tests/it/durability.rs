//! In which order things become durable, by the system calls that a run makes: what is given its name has been fsynced
//! before, and at exit 0 everything has been, the names too.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use snapcask::{
    export::{Form, export},
    model::Generation,
};
use tempfile::TempDir;

use crate::{
    fixture::*,
    trace::{Call, Ended, Kind, Phase, Verdict, trace},
};

/// What a power cut could still take.
#[derive(Default)]
pub struct Volatile {
    /// Files whose bytes, and folders whose names, are not on the disk for certain.
    pub paths: BTreeSet<PathBuf>,
    /// Folders in which something got a visible name since they were fsynced.
    named: BTreeSet<PathBuf>,
    /// Names in one folder may become durable together: none of them leads to another.
    siblings: bool,
    wrong: Vec<String>,
}

impl Volatile {
    pub fn happened(&mut self, call: &Call) {
        let holds_nothing = call.path.components().any(|part| is_lock_of_msb(part.as_os_str()));
        if call.result < 0 || call.kind == Kind::Looks || holds_nothing {
            return;
        }
        let above = |path: &Path| path.parent().unwrap().to_path_buf();
        match call.name {
            "flock" => {}
            "fsync" | "fdatasync" => {
                self.paths.remove(&call.path);
                self.named.remove(&call.path);
            }
            "unlink" | "unlinkat" | "rmdir" => self.paths.retain(|path| !path.starts_with(&call.path)),
            "openat" | "open" | "mkdir" | "mkdirat" => self.paths.extend([call.path.clone(), above(&call.path)]),
            _ if call.kind == Kind::Names => {
                let to = call.to.as_ref().unwrap();
                let (moved, kept) =
                    std::mem::take(&mut self.paths).into_iter().partition(|p| p.starts_with(&call.path));
                let _: &BTreeSet<PathBuf> = &moved;
                self.paths = kept;
                // A child's name must not outlive its parent's.
                let elsewhere = |folder: &PathBuf| !self.siblings || *folder != above(to);
                if !temporary(to) && self.named.iter().any(elsewhere) {
                    self.wrong.push(format!(
                        "{} gets its name before those in {:?} are durable",
                        to.display(),
                        self.named
                    ));
                }
                for path in moved {
                    if !temporary(to) {
                        self.wrong.push(format!("{} gets its name before {} is durable", to.display(), path.display()));
                    }
                    let inside = path.strip_prefix(&call.path).unwrap();
                    self.paths.insert(if inside.as_os_str().is_empty() { to.clone() } else { to.join(inside) });
                }
                self.paths.insert(above(to));
                if !temporary(to) {
                    self.named.insert(above(to));
                }
            }
            _ => {
                self.paths.insert(call.path.clone());
            }
        }
    }

    /// At exit 0.
    #[track_caller]
    pub fn assert_nothing_left(&self, what: &str) {
        let volatile: Vec<_> = self.paths.iter().filter(|path| !temporary(path)).collect();
        assert!(self.wrong.is_empty() && volatile.is_empty(), "{what}: {:#?}, not durable: {volatile:#?}", self.wrong);
    }
}

pub fn temporary(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str().to_string_lossy().contains(".snapcask-"))
}

/// Runs the command, which dies after the call of the number among those that give visible names, if any.
fn watch(command: &mut Command, area: &Path, volatile: &mut Volatile, dies_after: Option<usize>) -> Ended {
    watch_on(Renames::WithFlags, command, area, volatile, dies_after)
}

/// What a filesystem knows.
#[derive(Clone, Copy, PartialEq)]
enum Renames {
    WithFlags,
    /// As NFS: every renameat2(2) fails with EINVAL.
    WithoutFlags,
}

impl Renames {
    fn verdict(self, call: &Call) -> Verdict {
        match call.name {
            "renameat2" if self == Self::WithoutFlags => Verdict::Fail(libc::EINVAL),
            _ => Verdict::Run,
        }
    }
}

fn watch_on(
    renames: Renames,
    command: &mut Command,
    area: &Path,
    volatile: &mut Volatile,
    dies_after: Option<usize>,
) -> Ended {
    let mut named = 0;
    command.stdout(Stdio::null()).stderr(Stdio::null());
    trace(command, &[area], |call, phase| {
        if phase == Phase::Before {
            return renames.verdict(call);
        }
        volatile.happened(call);
        let visible =
            call.to.as_ref().is_some_and(|to| !temporary(to)) || call.name == "mkdir" && !temporary(&call.path);
        named += usize::from(visible && call.result >= 0);
        if dies_after == Some(named) { Verdict::Kill } else { Verdict::Run }
    })
    .unwrap()
}

fn import(bundle: &Path, store: &Path) -> Command {
    command(["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap(), "--jobs", "1"])
}

#[test]
fn exports_are_durable_before_they_are_named_and_when_they_end() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    for form in [Form::Dir, Form::Tar, Form::TarZst] {
        let area = TempDir::new().unwrap();
        // Folders that are missing are made, and are to last.
        let to = area.path().join("new/folders").join(form_name(form));
        let mut export = command([
            "export",
            "head",
            "--with-parents",
            "--store",
            fixture.store.to_str().unwrap(),
            "-o",
            to.to_str().unwrap(),
        ]);
        let mut volatile = Volatile::default();
        assert_eq!(watch(&mut export, area.path(), &mut volatile, None), Ended::Code(0));
        volatile.assert_nothing_left(form.as_str());
        assert!(to.exists());
    }
}

#[test]
fn exports_onto_a_layout_are_durable_before_they_are_named_and_when_they_end() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let area = TempDir::new().unwrap();
    let layout = area.path().join("layout");
    let (to, store) = (layout.to_str().unwrap(), fixture.store.to_str().unwrap());
    for snapshot in ["base", "head"] {
        let mut export = command(["export", snapshot, "--with-parents", "--store", store, "--onto", to]);
        let mut volatile = Volatile { siblings: true, ..Volatile::default() };
        assert_eq!(watch(&mut export, area.path(), &mut volatile, None), Ended::Code(0));
        volatile.assert_nothing_left(snapshot);
    }
}

/// The fsync that follows a blob's name, and the one that follows the index's.
#[test]
fn a_layout_is_as_before_where_what_is_added_may_not_last() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let area = TempDir::new().unwrap();
    let layout = area.path().join("layout");
    let (to, store) = (layout.to_str().unwrap(), fixture.store.to_str().unwrap());
    succeeds(&run(["export", "base", "--store", store, "--onto", to]));
    let before = whole_tree(&layout);
    for after in ["blobs/sha256", "index.json"] {
        let mut export = command(["export", "head", "--with-parents", "--store", store, "--onto", to]);
        export.stdout(Stdio::null()).stderr(Stdio::null());
        let (mut named, mut failed) = (false, false);
        let ended = trace(&mut export, &[area.path()], |call, phase| {
            let is_meant = call.to.as_ref().is_some_and(|to| to.starts_with(layout.join(after)));
            if phase == Phase::After {
                named |= is_meant && call.result >= 0;
            } else if named && !failed && call.name == "fsync" {
                failed = true;
                return Verdict::Fail(libc::EIO);
            }
            Verdict::Run
        });
        assert_eq!((ended.unwrap(), failed), (Ended::Code(1), true), "{after}");
        assert_eq!(whole_tree(&layout), before, "{after}");
    }
}

#[test]
fn imports_are_durable_before_they_are_named_and_when_they_end() {
    for generation in [Generation::V066, Generation::Final] {
        let fixture = Fixture::sized(generation, 16 << 20);
        let bundle = fixture.path("b.tar.zst");
        fixture.export_chain(Form::TarZst, &bundle);
        let area = TempDir::new().unwrap();
        let store = area.path().join("new/store");
        let mut volatile = Volatile::default();
        let ended = watch(&mut import(&bundle, &store), area.path(), &mut volatile, None);
        assert_eq!(ended, Ended::Code(0));
        volatile.assert_nothing_left(generation.as_str());
        // Snapshots may go elsewhere, into folders that are missing.
        let mut volatile = Volatile::default();
        let dest = area.path().join("far/away");
        let mut elsewhere = import(&bundle, &store);
        elsewhere.arg("--dest").arg(&dest);
        assert_eq!(watch(&mut elsewhere, area.path(), &mut volatile, None), Ended::Code(0));
        volatile.assert_nothing_left("--dest");
    }
}

/// What a killed import has placed is there for the next one, but perhaps not for a power cut.
#[test]
fn an_import_that_finds_the_work_of_a_killed_one_makes_it_durable() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    let bundle = fixture.path("b.tar.zst");
    fixture.export_chain(Form::TarZst, &bundle);
    let mut killed = 0;
    for dies_after in 1.. {
        let area = TempDir::new().unwrap();
        let store = area.path().join("store");
        let mut volatile = Volatile::default();
        match watch(&mut import(&bundle, &store), area.path(), &mut volatile, Some(dies_after)) {
            Ended::Signal(_) => killed += 1,
            ended => {
                assert_eq!(ended, Ended::Code(0));
                break;
            }
        }
        // The first thing that is named again makes the folder durable, too.
        volatile.named.clear();
        let ended = watch(&mut import(&bundle, &store), area.path(), &mut volatile, None);
        assert_eq!(ended, Ended::Code(0));
        volatile.assert_nothing_left(&format!("killed after name {dies_after}"));
    }
    assert!(killed > 3 + 5, "{killed}: three snapshots, five cache files, a group at least");
}

/// So is what a tool has placed that syncs nothing.
#[test]
fn an_import_that_finds_the_work_of_another_tool_makes_it_durable() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, 16 << 20);
        let bundle = fixture.path("b.tar.zst");
        fixture.export_chain(Form::TarZst, &bundle);
        let area = TempDir::new().unwrap();
        let (store, aside) = (area.path().join("store"), fixture.path("aside"));
        import_ok(&bundle, &store);
        fs::rename(&store, &aside).unwrap();
        let mut volatile = Volatile::default();
        let mut copy = Command::new("cp");
        copy.args(["-r", "--sparse=always"]).args([&aside, &store]);
        assert_eq!(watch(&mut copy, area.path(), &mut volatile, None), Ended::Code(0));
        // Of what is there already the names above are its maker's.
        volatile.named.clear();
        assert_eq!(watch(&mut import(&bundle, &store), area.path(), &mut volatile, None), Ended::Code(0));
        volatile.assert_nothing_left(&format!("{generation:?}"));
    }
}

/// Fails the first fsync after something got a visible name.
fn fail_after_naming(command: &mut Command, area: &Path) -> Ended {
    fail_after_naming_on(Renames::WithFlags, command, area)
}

fn fail_after_naming_on(renames: Renames, command: &mut Command, area: &Path) -> Ended {
    let (mut named, mut failed) = (false, false);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let ended = trace(command, &[area], |call, phase| {
        let visible = call.kind == Kind::Names && call.to.as_ref().is_some_and(|to| !temporary(to));
        if phase == Phase::After {
            named |= visible && call.result >= 0;
        } else if named && !failed && call.name == "fsync" {
            failed = true;
            return Verdict::Fail(libc::EIO);
        }
        if phase == Phase::Before { renames.verdict(call) } else { Verdict::Run }
    })
    .unwrap();
    assert!(failed, "no fsync follows a name");
    ended
}

/// A failed fsync is final: what may not last does not stay, and what was there is not given away for it.
#[test]
fn a_name_that_cannot_be_made_durable_is_taken_back() {
    for generation in [Generation::V066, Generation::Final] {
        let two = two_of_one_name(generation);
        for form in [Form::Dir, Form::Tar, Form::TarZst] {
            let area = TempDir::new().unwrap();
            let folder = area.path().join("out");
            let to = folder.join(form_name(form));
            export_one(&two[0].0, form, &to);
            let before = whole_tree(&folder);
            let (store, path) = (two[1].0.store.to_str().unwrap(), to.to_str().unwrap());
            let mut export = command(["export", "one", "--store", store, "-o", path, "--force"]);
            assert_eq!(fail_after_naming(&mut export, &folder), Ended::Code(1));
            assert_eq!(whole_tree(&folder), before, "{form:?}");
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            let mut export = command(["export", "one", "--store", store, "-o", path]);
            assert_eq!(fail_after_naming(&mut export, &folder), Ended::Code(1));
            assert!(whole_tree(&folder).is_empty(), "{form:?}: {:?}", whole_tree(&folder));
        }
        let area = TempDir::new().unwrap();
        let store = area.path().join("store");
        import_ok(&two[0].1, &store);
        let before = whole_tree(&store);
        let mut replace = import(&two[1].1, &store);
        replace.arg("--force");
        assert_eq!(fail_after_naming(&mut replace, &store), Ended::Code(1));
        assert_eq!(whole_tree(&store), before);
        // A store that has nothing yet, and one that has the group already.
        for group in [false, true] {
            if store.exists() {
                fs::remove_dir_all(&store).unwrap();
            }
            if group {
                write_group(&store.join("snapshots").join(GROUP), None);
            }
            let mut place = import(&two[0].1, &store);
            if generation == Generation::Final {
                place.args(["--group", GROUP]);
            }
            assert_eq!(fail_after_naming(&mut place, &store), Ended::Code(1));
            let left = if store.exists() { whole_tree(&store) } else { Default::default() };
            let left: Vec<String> = left.into_keys().filter(|path| !path.ends_with('/')).collect();
            assert_eq!(left.len(), usize::from(group), "{left:?}");
        }
    }
}

/// Where not even that can be done, what was there is under another name, and said to be: nothing deletes it.
#[test]
fn what_cannot_be_exchanged_back_is_kept() {
    let two = two_of_one_name(Generation::Flat);
    // The fsync and so many names that follow the exchange fail.
    let exchange_fails = |command: &mut Command, area: &Path, names: usize| {
        let (mut exchanged, mut failed) = (false, 0);
        let said = area.with_extension("said");
        command.stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
        let ended = trace(command, &[area], |call, phase| {
            let is_visible = call.to.as_ref().is_some_and(|to| !temporary(to));
            match phase {
                Phase::After => exchanged |= call.kind == Kind::Names && is_visible && call.result >= 0,
                Phase::Before if exchanged && (call.kind == Kind::Names || call.name == "fsync") && failed <= names => {
                    failed += 1;
                    return Verdict::Fail(libc::EIO);
                }
                Phase::Before => {}
            }
            Verdict::Run
        });
        assert_eq!((ended.unwrap(), failed), (Ended::Code(1), 1 + names));
        fs::read_to_string(&said).unwrap()
    };
    let left_in = |folder: &Path| {
        let mut paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.find(|path| temporary(path)).unwrap()
    };
    let area = TempDir::new().unwrap();
    for (names, next) in [(1, ""), (2, ", and the next run removes it: save it")] {
        for form in [Form::Dir, Form::Tar] {
            let folder = area.path().join(format!("{}-{names}", form_name(form)));
            let to = folder.join("bundle");
            export_one(&two[0].0, form, &to);
            let before = whole_tree(&folder);
            let (store, path) = (two[1].0.store.to_str().unwrap(), to.to_str().unwrap());
            let arguments = ["export", "one", "--store", store, "-o", path, "--force", "--format", form.as_str()];
            let said = exchange_fails(&mut command(arguments), &folder, names);
            let kept = left_in(&folder);
            assert!(said.contains(&format!("what was there before is {} now{next}", kept.display())), "{said}");
            if names == 1 {
                succeeds(&run(arguments));
            }
            fs::remove_dir_all(&to).or_else(|_| fs::remove_file(&to)).unwrap();
            fs::rename(&kept, &to).unwrap();
            assert_eq!(whole_tree(&folder), before);
        }
        let store = area.path().join(format!("store-{names}"));
        import_ok(&two[0].1, &store);
        let (one, before) = (store.join("snapshots/one"), whole_tree(&store));
        let said = exchange_fails(import(&two[1].1, &store).arg("--force"), &store, names);
        let kept = left_in(&store.join("snapshots"));
        let what = kept.join("0");
        assert!(said.contains(&format!("what was there before is {} now{next}", what.display())), "{said}");
        if names == 1 {
            import_ok(&two[1].1, &store);
        }
        fs::remove_dir_all(&one).unwrap();
        fs::rename(&what, &one).unwrap();
        fs::remove_dir_all(&kept).unwrap();
        assert_eq!(whole_tree(&store), before);
    }
}

/// Two stores whose snapshots of one name differ, and a bundle of each.
pub fn two_of_one_name(generation: Generation) -> [(Fixture, PathBuf); 2] {
    [11, 12].map(|seed| {
        let mut fixture = Fixture::empty(generation);
        let made = fixture.add("one", 0, 1 << 20, &[(0, random(1 << 20, 7))], serde_json::Value::Null);
        write(made.directory.join("state.bin"), &random(4096, seed));
        let path = fixture.path("b.tar");
        export(&export_options(&fixture.store, "one", Form::Tar, &path)).unwrap();
        (fixture, path)
    })
}

fn without_flags(command: &mut Command, area: &Path) -> (Ended, String) {
    let said = TempDir::new().unwrap();
    let path = said.path().join("stderr");
    command.stdout(Stdio::null()).stderr(fs::File::create(&path).unwrap());
    let ended = trace(command, &[area], |call, phase| match phase {
        Phase::Before => Renames::WithoutFlags.verdict(call),
        Phase::After => Verdict::Run,
    });
    (ended.unwrap(), fs::read_to_string(path).unwrap())
}

#[test]
fn without_flags_of_renames_exports_are_durable_and_replace_files_only() {
    let [(old, _), (new, _)] = two_of_one_name(Generation::Final);
    for form in [Form::Dir, Form::Tar, Form::TarZst] {
        let area = TempDir::new().unwrap();
        let folder = area.path().join("out");
        let to = folder.join(form_name(form));
        let export = |fixture: &Fixture, force: bool| {
            let (store, path) = (fixture.store.to_str().unwrap(), to.to_str().unwrap());
            let mut export = command(["export", "one", "--store", store, "-o", path]);
            export.args(force.then_some("--force"));
            export
        };
        let mut volatile = Volatile::default();
        let first = watch_on(Renames::WithoutFlags, &mut export(&old, false), area.path(), &mut volatile, None);
        assert_eq!(first, Ended::Code(0));
        volatile.assert_nothing_left(form.as_str());
        let before = whole_tree(&folder);
        assert_eq!(without_flags(&mut export(&new, false), area.path()).0, Ended::Code(5));
        assert_eq!(whole_tree(&folder), before, "{form:?}");
        let (ended, said) = without_flags(&mut export(&new, true), area.path());
        if form == Form::Dir {
            let why = format!(
                "cannot replace {}: its filesystem cannot exchange two names, so one of them would be lost meanwhile; \
                 remove it first",
                to.display()
            );
            assert_eq!(ended, Ended::Code(1));
            assert!(said.contains(&why), "{said}");
            assert_eq!(whole_tree(&folder), before);
        } else {
            assert_eq!(ended, Ended::Code(0), "{said}");
            let other = TempDir::new().unwrap();
            export_one(&new, form, &other.path().join(form_name(form)));
            assert_eq!(whole_tree(&folder), whole_tree(other.path()), "{form:?}: one bundle, and no leftovers");
        }
        // A name that may not last is taken back here, too.
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let ended = fail_after_naming_on(Renames::WithoutFlags, &mut export(&new, false), &folder);
        assert_eq!(ended, Ended::Code(1));
        assert!(whole_tree(&folder).is_empty(), "{form:?}: {:?}", whole_tree(&folder));
    }
}

/// The bundle of a fixture's one snapshot.
fn export_one(fixture: &Fixture, form: Form, to: &Path) {
    export(&export_options(&fixture.store, "one", form, to)).unwrap();
}

#[test]
fn without_flags_of_renames_imports_are_durable_and_replace_no_snapshot() {
    for generation in [Generation::V066, Generation::Final] {
        let fixture = Fixture::sized(generation, 16 << 20);
        let bundle = fixture.path("b.tar");
        fixture.export_chain(Form::Tar, &bundle);
        let area = TempDir::new().unwrap();
        let store = area.path().join("store");
        let mut place = import(&bundle, &store);
        if generation == Generation::Final {
            place.args(["--group", GROUP]);
        }
        assert!(place.status().unwrap().success());
        let whole = whole_tree(&store);
        fs::remove_dir_all(&store).unwrap();
        let mut volatile = Volatile::default();
        let ended = watch_on(Renames::WithoutFlags, &mut place, area.path(), &mut volatile, None);
        assert_eq!(ended, Ended::Code(0));
        volatile.assert_nothing_left(generation.as_str());
        assert_eq!(whole_tree(&store), whole);
        // A file of the cache is replaced without an exchange; the snapshots are those of the bundle.
        let cached = whole.keys().find(|path| path.starts_with("cache/") && path.ends_with(".erofs")).unwrap();
        let good = fs::read(store.join(cached)).unwrap();
        fs::write(store.join(cached), &good[1..]).unwrap();
        let mut repair = import(&bundle, &store);
        repair.arg("--force");
        let (ended, said) = without_flags(&mut repair, area.path());
        assert_eq!(ended, Ended::Code(0), "{said}");
        assert!(fs::read(store.join(cached)).unwrap() == good && whole_tree(&store).len() == whole.len());
        // Where a snapshot would have to be exchanged, the cache stays as it is, too.
        fs::write(store.join(cached), &good[1..]).unwrap();
        let payload = whole.keys().find(|path| path.starts_with("snapshots/") && path.ends_with("/state.bin")).unwrap();
        fs::write(store.join(payload), b"other").unwrap();
        let before = whole_tree(&store);
        let mut repair = import(&bundle, &store);
        repair.arg("--force");
        let (ended, said) = without_flags(&mut repair, area.path());
        assert_eq!((ended, whole_tree(&store)), (Ended::Code(1), before), "{said}");
        assert!(said.contains("its filesystem cannot exchange two names"), "{said}");
        // A repair does what it can.
        let mut repair =
            command(["check", "--store", store.to_str().unwrap(), "--repair-from", bundle.to_str().unwrap()]);
        let (ended, _) = without_flags(&mut repair, area.path());
        assert_eq!(ended, Ended::Code(3));
        // The first that gets its name is a file of the cache: where that may not last, it does not stay.
        let other = area.path().join("other");
        let ended = fail_after_naming_on(Renames::WithoutFlags, &mut import(&bundle, &other), &other);
        assert_eq!(ended, Ended::Code(1));
        let left: Vec<String> = if other.exists() {
            whole_tree(&other).into_keys().filter(|p| !p.ends_with('/')).collect()
        } else {
            vec![]
        };
        assert!(left.is_empty(), "{left:?}");
        assert!(fs::read(store.join(cached)).unwrap() == good && fs::read(store.join(payload)).unwrap() == b"other");
    }
    for generation in [Generation::V066, Generation::Final] {
        let two = two_of_one_name(generation);
        let (old, new) = (&two[0].1, &two[1].1);
        let area = TempDir::new().unwrap();
        let store = area.path().join("store");
        import_ok(old, &store);
        let before = whole_tree(&store);
        let mut replace = import(new, &store);
        replace.arg("--force");
        let (ended, said) = without_flags(&mut replace, area.path());
        assert_eq!((ended, whole_tree(&store)), (Ended::Code(1), before), "{said}");
        assert!(said.contains("its filesystem cannot exchange two names"), "{said}");
        fs::remove_dir_all(&store).unwrap();
        assert_eq!(fail_after_naming_on(Renames::WithoutFlags, &mut import(old, &store), &store), Ended::Code(1));
        let left = if store.exists() { whole_tree(&store) } else { Default::default() };
        assert!(left.keys().all(|path| path.ends_with('/')), "{left:?}");
    }
}

/// Fails the first look at each temporary file or folder that comes after its lock, one a run.
#[test]
fn what_was_just_made_and_cannot_be_looked_at_does_not_stay() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    let bundle = fixture.path("b.tar");
    fixture.export_chain(Form::Tar, &bundle);
    let store = fixture.store.to_str().unwrap();
    for export in [true, false] {
        for number in 1.. {
            let area = TempDir::new().unwrap();
            let to = area.path().join("out");
            let mut command = match export {
                true => command(["export", "head", "--store", store, "-o", to.join("b.tar").to_str().unwrap()]),
                false => import(&bundle, &to),
            };
            let (mut locked, mut looked): (BTreeSet<PathBuf>, u64) = Default::default();
            let mut failed = false;
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let ended = trace(&mut command, &[area.path()], |call, phase| {
                if phase == Phase::Before && temporary(&call.path) {
                    if call.name == "flock" {
                        locked.insert(call.path.clone());
                    } else if call.name.contains("stat") && locked.remove(&call.path) {
                        looked += 1;
                        failed |= looked == number;
                        if looked == number {
                            return Verdict::Fail(libc::EIO);
                        }
                    }
                }
                Verdict::Run
            });
            assert!(matches!(ended.unwrap(), Ended::Code(0 | 1)), "{number}");
            let left: Vec<String> = whole_tree(area.path()).into_keys().filter(|p| p.contains(".snapcask-")).collect();
            assert!(left.is_empty(), "{number}: {left:?}");
            if !failed {
                assert!(number > 1, "nothing was looked at after its lock");
                break;
            }
        }
    }
}

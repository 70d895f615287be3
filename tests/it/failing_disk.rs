//! EIO at every call that looks at a store, one a run, for the commands that the scoreboard's row 5 does not put to the
//! test: a removal takes nothing else with it, and no check calls a store good that it could not read.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use snapcask::{
    export::{ExportOptions, Form, export},
    import::{ImportOptions, import},
    model::Generation,
};
use tempfile::TempDir;

use crate::{
    fixture::*,
    trace::{Call, Ended, Kind, Phase, Verdict, trace},
};

type Tree = BTreeMap<String, Identity>;

/// Calls whose failure another way makes good, or that only clear away, or give hints.
const MAY_FAIL: [&str; 5] = ["ioctl", "fcntl", "lseek", "unlinkat", "unlink"];

/// A store with a chain of three that was imported, so that there are records, and the same once more.
fn imported(generation: Generation) -> (TempDir, TempDir) {
    let fixture = Fixture::sized(generation, 16 << 20);
    let bundle = fixture.path("b.tar");
    fixture.export_chain(Form::Tar, &bundle);
    let (area, kept) = (in_memory(), in_memory());
    import_ok(&bundle, &area.path().join("store"));
    copy(&area.path().join("store"), &kept.path().join("store"));
    (area, kept)
}

/// Where there is such, a folder in memory: an fsync costs nothing.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Runs the command with EIO at the call of this number; the call, if there was one.
fn fail_at(command: &mut Command, area: &Path, number: u64) -> (Ended, Option<Call>) {
    command.stdout(Stdio::null());
    fail_nth(command, area, number, libc::EIO, |_| true)
}

/// Runs the command with an error at the nth of the calls that are meant; the call, if there was one.
fn fail_nth(
    command: &mut Command,
    area: &Path,
    nth: u64,
    errno: i32,
    is_meant: impl Fn(&Call) -> bool,
) -> (Ended, Option<Call>) {
    command.stderr(Stdio::null());
    let (mut seen, mut failed) = (0, None);
    let ended = trace(command, &[area], |call, phase| {
        seen += u64::from(phase == Phase::Before && is_meant(call));
        if failed.is_none() && seen == nth && phase == Phase::Before && is_meant(call) {
            failed = Some(call.clone());
            return Verdict::FailLast(errno);
        }
        Verdict::Run
    });
    (ended.unwrap(), failed)
}

fn is_temporary(path: &Path) -> bool {
    path.to_str().unwrap().contains(".snapcask-")
}

#[test]
fn a_removal_takes_nothing_else_with_it() {
    for generation in [Generation::V066, Generation::Final] {
        let (area, kept) = imported(generation);
        let store = area.path().join("store");
        let whole = whole_tree(&store);
        let path = store.to_str().unwrap();
        for number in 1.. {
            let mut remove = command(["remove", "head", "--store", path, "--prune-image"]);
            let (ended, failed) = fail_at(&mut remove, area.path(), number);
            let Some(call) = failed else {
                assert!(number > 20, "only {number} calls were seen");
                break;
            };
            assert!(matches!(ended, Ended::Code(0..=5)), "{call}: {ended:?}");
            let found = whole_tree(&store);
            let gone: Vec<&String> = whole.keys().filter(|path| !found.contains_key(*path)).collect();
            assert!(
                found.iter().all(|(path, is)| path.contains(".snapcask-") || whole.get(path) == Some(is)),
                "{call}"
            );
            // The head, wholly or not at all.
            let folder = gone.iter().find(|path| path.ends_with('/')).map_or("none", |path| path.as_str());
            assert!(gone.iter().all(|path| path.starts_with(folder)), "{call}: {gone:?}");
            if !gone.is_empty() {
                assert!(whole.keys().filter(|path| path.starts_with(folder)).count() == gone.len(), "{call}: {gone:?}");
                fs::remove_dir_all(&store).unwrap();
                copy(&kept.path().join("store"), &store);
            }
        }
        // All of them: of the image nothing stays, and without an error it is said to be gone only if it is. (A group's name
        // is its head's.)
        let oldest = "base";
        for number in 1.. {
            let all = ["remove", "head", "middle", oldest, "--store", path, "--prune-image"];
            let (ended, failed) = fail_at(&mut command(all), area.path(), number);
            let Some(call) = failed else {
                assert!(number > 20, "only {number} calls were seen");
                break;
            };
            let found = whole_tree(&store);
            if ended == Ended::Code(0) && !MAY_FAIL.contains(&call.name) {
                // A group stays without a head.
                let is_left =
                    |p: &&String| !p.ends_with('/') && !p.contains(".snapcask-") && !p.ends_with("/group.json");
                let left: Vec<&String> = found.keys().filter(is_left).collect();
                assert!(left.is_empty(), "exit 0 although {call} failed: {left:?}");
            }
            if found != whole {
                fs::remove_dir_all(&store).unwrap();
                copy(&kept.path().join("store"), &store);
            }
        }
    }
}

#[test]
fn no_check_is_good_that_could_not_read() {
    for generation in [Generation::V066, Generation::Final] {
        let (area, _kept) = imported(generation);
        let store = area.path().join("store");
        let path = store.to_str().unwrap();
        assert_eq!(fail_at(&mut command(["check", "--store", path]), area.path(), 0).0, Ended::Code(0));
        let mut wrong = Vec::new();
        for number in 1.. {
            let (ended, failed) = fail_at(&mut command(["check", "--store", path]), area.path(), number);
            let Some(call) = failed else {
                assert!(number > 20, "only {number} calls were seen");
                break;
            };
            let good = ended == Ended::Code(0) && MAY_FAIL.contains(&call.name);
            if !good && !matches!(ended, Ended::Code(1 | 3)) {
                wrong.push(format!("{call}: {ended:?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// What is imported goes to the group that is asked for, or nowhere.
#[test]
fn import_into_group_on_failing_disk_places_nothing_elsewhere() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    let (all, oldest) = (fixture.path("all.tar"), fixture.path("base.tar"));
    fixture.export_chain(Form::Tar, &all);
    export(&export_options(&fixture.store, "base", Form::Tar, &oldest)).unwrap();
    let area = in_memory();
    let store = area.path().join("store");
    let path = store.to_str().unwrap();
    succeeds(&run(["import", oldest.to_str().unwrap(), "--store", path, "--group", "other"]));
    let (kept, before) = (in_memory(), whole_tree(&store));
    copy(&store, &kept.path().join("store"));
    let import = || command(["import", all.to_str().unwrap(), "--store", path, "--jobs", "1", "--group", "other"]);
    let mut looks = Vec::new();
    let ended = trace(import().stdout(Stdio::null()), &[area.path()], |call, phase| {
        let temporary = call.path.to_str().unwrap().contains(".snapcask-");
        if phase == Phase::Before && call.kind == Kind::Looks && !temporary {
            looks.push(call.number);
        }
        Verdict::Run
    });
    assert_eq!(ended.unwrap(), Ended::Code(0));
    let whole = whole_tree(&store);
    let groups = |tree: &Tree| tree.keys().filter(|p| p.ends_with("/group.json")).cloned().collect::<Vec<_>>();
    assert_eq!((groups(&whole), whole.len() > before.len()), (groups(&before), true));
    assert!(looks.len() > 20, "only {} looks", looks.len());
    for number in looks {
        fs::remove_dir_all(&store).unwrap();
        copy(&kept.path().join("store"), &store);
        let (ended, failed) = fail_at(&mut import(), area.path(), number);
        let mut found = whole_tree(&store);
        found.retain(|path, _| !path.contains(".snapcask-"));
        let expected = if ended == Ended::Code(0) { &whole } else { &found };
        assert!(matches!(ended, Ended::Code(0..=5)) && found == *expected, "{failed:?}: {ended:?}");
        assert_eq!(groups(&found), groups(&before), "{failed:?}: {ended:?}");
    }
}

/// A snapshot is listed as it is, or as one that cannot be read, or all of it fails.
#[test]
fn no_snapshot_is_listed_under_another_name_or_left_out() {
    for generation in [Generation::V066, Generation::Final] {
        let (area, _kept) = imported(generation);
        let store = area.path().join("store");
        if generation == Generation::V066 {
            // On another disk, behind a link.
            let (middle, away) = (store.join("snapshots/middle"), area.path().join("away"));
            fs::rename(&middle, &away).unwrap();
            std::os::unix::fs::symlink(&away, &middle).unwrap();
        }
        let out = in_memory();
        let listed = |number: u64| {
            let file = out.path().join("list");
            let mut list = command(["list", "--json", "--store", store.to_str().unwrap()]);
            list.stdout(fs::File::create(&file).unwrap());
            let (ended, failed) = fail_nth(&mut list, area.path(), number, libc::EIO, |_| true);
            (ended, failed, fs::read_to_string(&file).unwrap())
        };
        let (ended, _, whole) = listed(0);
        assert_eq!(ended, Ended::Code(0));
        let names = |text: &str| -> Vec<String> {
            let report: serde_json::Value = serde_json::from_str(text).unwrap();
            report["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["name"].to_string()).collect()
        };
        let all = names(&whole);
        assert_eq!(all.len(), 3);
        let mut links = 0;
        for number in 1.. {
            let (ended, failed, text) = listed(number);
            let Some(call) = failed else {
                assert!(number > 20, "only {number} calls were seen");
                break;
            };
            // A link to a disk that fails is one snapshot that cannot be read, and not the end of the list.
            let is_link = call.name == "statx" && call.path == store.join("snapshots/middle");
            if ended != Ended::Code(0) {
                assert!(ended == Ended::Code(1) && !is_link, "{call}: {ended:?}");
                continue;
            }
            let report: serde_json::Value = serde_json::from_str(&text).unwrap();
            let hidden = !report["unreadable"].as_array().unwrap().is_empty();
            let found = names(&text);
            assert!(found.iter().all(|name| all.contains(name)), "{call}: {found:?}");
            assert!(hidden || found == all, "{call}: {found:?}");
            links += u64::from(is_link && hidden);
        }
        assert_eq!(links > 0, generation == Generation::V066);
    }
}

#[test]
fn no_verify_is_good_and_no_copy_whole_that_could_not_read() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    for form in [Form::Dir, Form::TarZst] {
        let area = in_memory();
        let bundle = area.path().join(form_name(form));
        fixture.export_chain(form, &bundle);
        let out = in_memory();
        let path = bundle.to_str().unwrap();
        let copied = out.path().join("copy.tar");
        let commands = [
            vec!["verify", path],
            vec!["verify", "--deep", path],
            vec!["copy", path, copied.to_str().unwrap(), "--force"],
        ];
        for arguments in commands {
            // It looks at a delta before it decodes it, and does without what it does not see: for each of the two, an open,
            // a stat and two reads. All of that is read again (in a file of its own, it is opened again).
            let looks = if arguments[1] == "--deep" { 2 * 4 } else { 0 };
            let mut opened = Vec::new();
            let ended = trace(command(&arguments).stdout(Stdio::null()), &[area.path()], |call, phase| {
                if phase == Phase::Before && call.name.starts_with("open") {
                    opened.push(call.clone());
                }
                Verdict::Run
            });
            assert_eq!(ended.unwrap(), Ended::Code(0), "{arguments:?}");
            let read_again =
                |call: &Call| form != Form::Dir || opened.iter().any(|o| o.number > call.number && o.path == call.path);
            let whole = whole_tree(out.path());
            let (mut wrong, mut looked) = (Vec::new(), 0);
            for number in 1.. {
                let (ended, failed) = fail_at(&mut command(&arguments), area.path(), number);
                let Some(call) = failed else {
                    assert!(number > 20, "only {number} calls were seen");
                    break;
                };
                let mut good = ended == Ended::Code(0) && MAY_FAIL.contains(&call.name);
                if !good && ended == Ended::Code(0) && looked < looks && read_again(&call) {
                    (good, looked) = (true, looked + 1);
                }
                if !matches!(ended, Ended::Code(1 | 3)) && !good || whole_tree(out.path()) != whole {
                    wrong.push(format!("{call}: {ended:?}"));
                }
            }
            assert!(wrong.is_empty(), "{arguments:?}: {wrong:#?}");
        }
    }
}

/// Of a member's alias alone: another member that cannot be read may have the same.
#[test]
fn no_alias_is_found_beside_one_that_cannot_be_read() {
    let (area, _kept) = imported(Generation::Final);
    let store = area.path().join("store");
    let inspect = || command(["inspect", "head", "--store", store.to_str().unwrap()]);
    assert_eq!(fail_at(&mut inspect(), area.path(), 0).0, Ended::Code(0));
    let mut aliases = 0;
    for number in 1.. {
        let (ended, failed) = fail_at(&mut inspect(), area.path(), number);
        let Some(call) = failed else { break };
        let path = call.to_string();
        if path.contains("group-member.json") && !MAY_FAIL.contains(&call.name) {
            aliases += 1;
            assert_eq!(ended, Ended::Code(1), "{path}");
        }
    }
    assert!(aliases >= 6, "{aliases}");
}

/// What `import --force` puts away is what it has seen: what people keep beside the same snapshot stays, and so does a
/// parent of children that stay.
#[test]
fn force_takes_nothing_away_that_it_could_not_read() {
    let fixture = Fixture::sized(Generation::Final, 16 << 20);
    let bundle = fixture.path("all.tar");
    fixture.export_chain(Form::Tar, &bundle);
    let (area, kept) = imported(Generation::Final);
    let head = snapcask::store::Store::at(kept.path().join("store")).find("head").unwrap().directory;
    write(head.join("mine.txt"), b"mine");
    // Only the record still says what it was.
    write(head.join("snapshot.json"), b"{");
    let notes = head.strip_prefix(kept.path()).unwrap().join("mine.txt");
    let placed = forced(&bundle, area.path(), kept.path(), |call, ended| {
        assert_eq!(fs::read(area.path().join(&notes)).unwrap(), b"mine", "{call}: {ended:?}");
    });
    assert!(placed > 0);

    let (other, base) = (Fixture::sized(Generation::V066, 16 << 20), fixture.path("base.tar"));
    export(&export_options(&other.store, "base", Form::Tar, &base)).unwrap();
    let (area, kept) = imported(Generation::Flat);
    let before = whole_tree(&kept.path().join("store"));
    let placed = forced(&base, area.path(), kept.path(), |call, ended| {
        let mut found = whole_tree(&area.path().join("store"));
        found.retain(|path, _| !path.contains(".snapcask-"));
        assert_eq!(found, before, "{call}: {ended:?}");
    });
    assert_eq!(placed, 0);
}

/// Imports by force into a copy of the `kept` store in `area`, with EIO at each look at what is there, one a run; how often
/// it succeeded.
fn forced(bundle: &Path, area: &Path, kept: &Path, check: impl Fn(&Call, Ended)) -> usize {
    let store = area.join("store");
    let (mut placed, mut failed) = (0, 0);
    for number in 1.. {
        fs::remove_dir_all(&store).unwrap();
        copy(&kept.join("store"), &store);
        let mut import = command(["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap(), "--force"]);
        import.args(["--jobs", "1"]).stdout(Stdio::null());
        let is_look = |call: &Call| call.kind == Kind::Looks && !is_temporary(&call.path);
        let (ended, spoiled) = fail_nth(&mut import, area, number, libc::EIO, is_look);
        let Some(call) = spoiled else { break };
        assert!(matches!(ended, Ended::Code(0..=5)), "{call}: {ended:?}");
        check(&call, ended);
        *if ended == Ended::Code(0) { &mut placed } else { &mut failed } += 1;
    }
    assert!(failed > 20, "only {failed} failed");
    placed
}

/// Others may lock what we could not: only a filesystem that says that it has no locks has none.
#[test]
fn no_run_goes_on_without_the_lock_on_what_is_temporary() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let (bundle, area) = (fixture.path("all.tar"), in_memory());
    fixture.export_chain(Form::Tar, &bundle);
    let (store, out) = (area.path().join("store"), area.path().join("out.tar"));
    let arguments = |words: [&dyn AsRef<std::ffi::OsStr>; 5]| words.map(|word| word.as_ref().to_owned());
    for arguments in [
        arguments([&"import", &bundle, &"--store", &store, &"--jobs=1"]),
        arguments([&"export", &"head", &"--store", &fixture.store, &format!("-o{}", out.display())]),
    ] {
        let locks = |call: &Call| call.name == "flock" && is_temporary(&call.path);
        for errno in [libc::EIO, libc::ENOMEM] {
            let (ended, failed) = fail_nth(command(&arguments).stdout(Stdio::null()), area.path(), 1, errno, locks);
            assert_eq!(ended, Ended::Code(1), "{failed:?}");
            assert!(failed.is_some() && whole_tree(area.path()).is_empty(), "{:?}", whole_tree(area.path()).keys());
        }
        let mut command = command(&arguments);
        let (ended, failed) = fail_nth(command.stdout(Stdio::null()), area.path(), 1, libc::EOPNOTSUPP, locks);
        assert!(failed.is_some() && ended == Ended::Code(0), "{failed:?}: {ended:?}");
        fs::remove_dir_all(&store).or_else(|_| fs::remove_file(&out)).unwrap();
    }
}

/// A tag has moved on, and its metadata is not a snapshot's any more: no repair takes it for damage.
#[test]
fn a_repair_replaces_no_metadata_that_it_could_not_read() {
    let (fixture, area) = (Fixture::sized(Generation::Flat, 16 << 20), in_memory());
    let (bundle, store) = (fixture.path("all.tar"), area.path().join("store"));
    fixture.export_chain(Form::Tar, &bundle);
    import_ok(&bundle, &store);
    let path = metadata_of_a_newer_image(&store);
    let newer = fs::read(&path).unwrap();
    let files = || files_in(&store.join("cache/manifests")).into_iter();
    let pinned = files().find(|file| file.extension().is_some_and(|e| e == "json") && *file != path).unwrap();
    let (mut failed, mut number) = (0, 0);
    loop {
        number += 1;
        // It is to be brought back, wherever the tag leads.
        let _ = fs::remove_file(&pinned);
        let (from, store) = (bundle.to_str().unwrap(), store.to_str().unwrap());
        let mut check = command(["check", "--store", store, "--repair-from", from]);
        let of_it = |call: &Call| call.path == path;
        let (ended, call) = fail_nth(check.stdout(Stdio::null()), area.path(), number, libc::EIO, of_it);
        let Some(call) = call else { break };
        assert_eq!(fs::read(&path).unwrap(), newer, "{call}");
        failed += u64::from(ended != Ended::Code(0));
    }
    assert!(failed > 5 && number > 10, "{failed} of {number}");
}

/// Its parent has come, and would be missed from now on.
#[test]
fn no_import_leaves_a_child_without_its_parent_unread() {
    let (fixture, area) = (Fixture::sized(Generation::Flat, 16 << 20), in_memory());
    let (plain, store) = (fixture.path("plain.tar"), area.path().join("store"));
    let options = fixture.export_options(Form::Tar, &plain);
    export(&ExportOptions { with_parents: true, delta: false, ..options }).unwrap();
    let record = store.join("snapshots/head/.snapcask.json");
    let (mut good, mut bad) = (0, 0);
    for number in 1.. {
        import(&ImportOptions { head_only: true, ..import_options(&plain, &store) }).unwrap();
        assert!(fs::read_to_string(&record).unwrap().contains("withoutParent"));
        let mut import =
            command(["import", plain.to_str().unwrap(), "--store", store.to_str().unwrap(), "--jobs", "1"]);
        let of_it = |call: &Call| call.path == record || call.path == record.parent().unwrap();
        let (ended, call) = fail_nth(import.stdout(Stdio::null()), area.path(), number, libc::EIO, of_it);
        let Some(call) = call else { break };
        let is_told = !fs::read_to_string(&record).unwrap().contains("withoutParent");
        assert!(is_told || ended == Ended::Code(1), "{call}: {ended:?}");
        *if ended == Ended::Code(0) { &mut good } else { &mut bad } += 1;
        fs::remove_dir_all(&store).unwrap();
    }
    assert!(bad > 5, "{good} good, {bad} bad");
}

/// Only folders that it made itself.
#[test]
fn a_failed_import_removes_no_folder_that_was_there() {
    let (fixture, area) = (Fixture::sized(Generation::Flat, 16 << 20), in_memory());
    let (bundle, store) = (fixture.path("dir"), area.path().join("store"));
    export(&export_options(&fixture.store, "base", Form::Dir, &bundle)).unwrap();
    let size = |blob: &String| fs::metadata(bundle.join("blobs/sha256").join(blob)).unwrap().len();
    let layer = blobs(&bundle).into_iter().max_by_key(size).unwrap();
    let layer = bundle.join("blobs/sha256").join(layer);
    let mut bytes = fs::read(&layer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    write(layer, &bytes);
    let place = area.path().join("place");
    fs::create_dir(&place).unwrap();
    for number in 1.. {
        let mut import = command(["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap()]);
        import.args(["--dest", place.to_str().unwrap(), "--jobs", "1"]).stdout(Stdio::null());
        let is_look = |call: &Call| call.kind == Kind::Looks && !is_temporary(&call.path);
        let (ended, call) = fail_nth(&mut import, area.path(), number, libc::EIO, is_look);
        assert!(matches!(ended, Ended::Code(1 | 3)), "{call:?}: {ended:?}");
        assert!(place.is_dir(), "{call:?}");
        if call.is_none() {
            assert!(number > 5, "only {number} looks");
            break;
        }
    }
}

/// What stands beside a snapshot that is outside of the store, and is its parent.
#[test]
fn no_parent_beside_a_snapshot_is_left_out() {
    let (fixture, area, out) = (Fixture::sized(Generation::Flat, 16 << 20), in_memory(), in_memory());
    copy(&fixture.store.join("snapshots"), &area.path().join("place"));
    let (head, file) = (area.path().join("place/head"), out.path().join("list"));
    let inspected = |number: u64| {
        let nowhere = area.path().join("store");
        let mut inspect = command(["inspect", head.to_str().unwrap(), "--json", "--store", nowhere.to_str().unwrap()]);
        inspect.stdout(fs::File::create(&file).unwrap());
        let (ended, call) = fail_nth(&mut inspect, area.path(), number, libc::EIO, |_| true);
        let report = fs::read_to_string(&file).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap_or_default();
        (ended, call, report["snapshots"].as_array().map_or(0, Vec::len))
    };
    assert_eq!((inspected(0).0, inspected(0).2), (Ended::Code(0), 3));
    for number in 1.. {
        let (ended, call, found) = inspected(number);
        let Some(call) = call else {
            assert!(number > 20, "only {number} calls were seen");
            break;
        };
        assert!(if ended == Ended::Code(0) { found == 3 } else { ended == Ended::Code(1) }, "{call}: {found}");
    }
    // What else stands there, on a disk that is gone, is missed by nobody.
    let stale = area.path().join("place/stale");
    fs::create_dir(&stale).unwrap();
    let nowhere = area.path().join("store");
    let mut failed = 0;
    let mut inspect = command(["inspect", head.to_str().unwrap(), "--store", nowhere.to_str().unwrap()]);
    let ended = trace(inspect.stdout(Stdio::null()), &[area.path()], |call, phase| {
        if phase == Phase::Before && call.path.starts_with(&stale) {
            failed += 1;
            return Verdict::Fail(libc::ENOTCONN);
        }
        Verdict::Run
    });
    assert!(ended.unwrap() == Ended::Code(0) && failed > 0, "{failed}");
}

#[test]
fn no_leftover_is_passed_over_that_could_not_be_looked_at() {
    let (area, _kept) = imported(Generation::Flat);
    let store = area.path().join("store");
    write(store.join("snapshots/.snapcask-stage-dead/0/upper.ext4"), b"half");
    for number in 1.. {
        let of_it = |call: &Call| is_temporary(&call.path);
        let mut check = command(["check", "--store", store.to_str().unwrap()]);
        let (ended, call) = fail_nth(check.stdout(Stdio::null()), area.path(), number, libc::EIO, of_it);
        assert!(matches!(ended, Ended::Code(1 | 3)), "{call:?}: {ended:?}");
        if call.is_none() {
            assert!(number > 2, "only {number} looks");
            break;
        }
    }
}

/// One file that cannot be read is a finding, whenever that is, and all others are told as well.
#[test]
fn a_check_goes_on_beside_metadata_that_it_cannot_read() {
    let (area, _kept) = imported(Generation::Flat);
    let store = area.path().join("store");
    let path = metadata_of_a_newer_image(&store);
    fs::remove_file(store.join("snapshots/head/state.bin")).unwrap();
    let said = in_memory();
    for number in 1.. {
        let mut check = command(["check", "--store", store.to_str().unwrap()]);
        check.stdout(fs::File::create(said.path().join("said")).unwrap());
        let of_it = |call: &Call| call.path == path && !MAY_FAIL.contains(&call.name);
        let (ended, call) = fail_nth(&mut check, area.path(), number, libc::EIO, of_it);
        let text = fs::read_to_string(said.path().join("said")).unwrap();
        assert!(ended == Ended::Code(3) && text.contains("state.bin"), "{call:?}: {ended:?}: {text}");
        let Some(call) = call else {
            assert!(number > 5, "only {number} calls were seen");
            break;
        };
        assert!(["cache-unreadable", "image-invalid"].iter().any(|code| text.contains(code)), "{call}: {text}");
    }
}

//! Ctrl-C, SIGTERM and SIGHUP: the command ends at once, says how to go on, and leaves nothing behind.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use snapcask::{export::Form, model::Generation};

use crate::fixture::{self, *};

/// Far more than it takes: a command that waits for what it was doing would never come to its end here.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command whose signals are those of a terminal, whatever the tests' own are: under `nohup`, or behind a shell's `&`,
/// some are ignored, and so they would be by it.
fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    heeding(fixture::command(args))
}

fn heeding(mut command: Command) -> Command {
    // SAFETY: signal(2) is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    command
}

/// Whether the child has a handler for SIGINT.
fn heeds(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    u64::from_str_radix(caught, 16).unwrap() & (1 << (libc::SIGINT - 1)) != 0
}

/// Interrupts a command that is stuck in the middle of its work.
fn interrupted(child: Child) -> Output {
    told_to_end(child, Signal::INT)
}

fn told_to_end(mut child: Child, signal: Signal) -> Output {
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    kill_process(Pid::from_child(&child), signal).unwrap();
    until("the end after Ctrl-C", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

fn assert_says_how_to_go_on(output: &Output) {
    assert!(fails(output, 130).contains("Run the same command again"));
}

/// The command with delays of system calls in strace's words; the trace goes to a file. Its process is the child itself.
fn slowed<S: AsRef<OsStr>>(delays: &[&str], trace: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let calls: Vec<&str> = delays.iter().filter_map(|delay| delay.split(':').next()).collect();
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-e", &format!("trace={}", calls.join(","))]);
    command.args(delays.iter().flat_map(|delay| ["-e".into(), format!("inject={delay}")]));
    command.arg("-o").arg(trace).arg(env!("CARGO_BIN_EXE_snapcask")).args(args);
    heeding(command)
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_import_leaves_the_store_as_it_was() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let (bundle, store) = (fixture.path("bundle.tar.zst"), fixture.path("target"));
    fixture.export_chain(Form::TarZst, &bundle);
    let bytes = fs::read(&bundle).unwrap();
    let mut import = command(["import", "-", "--store", store.to_str().unwrap()]);
    let mut child = import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&bytes[..bytes.len() / 2]).unwrap();
    let snapshots = store.join("snapshots");
    until("the stage", || snapshots.is_dir() && !names(&snapshots).is_empty());
    assert_says_how_to_go_on(&interrupted(child));
    drop(stdin);
    assert!(!store.exists(), "{:?}", whole_tree(&store));
    succeeds(&run(["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap()]));
    let mut there = names(&snapshots);
    there.retain(|name| !is_lock_of_msb(name.as_ref()));
    there.sort();
    assert_eq!(there, ["base", "head", "middle"]);
}

/// A service manager's and a closed terminal's way.
#[test]
fn other_signals_that_end_a_run() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let fixture = Fixture::sized(Generation::Flat, 16 << 20);
        let bundle = fixture.path("bundle.tar");
        fixture.export_chain(Form::Tar, &bundle);
        let bytes = fs::read(&bundle).unwrap();
        let (out, scratch) = (fixture.path("out"), fixture.path("scratch"));
        fs::create_dir_all(&out).unwrap();
        fs::create_dir(&scratch).unwrap();
        let mut copy = command(["copy", "-", out.join("copy").to_str().unwrap(), "--format", "dir"]);
        copy.env("TMPDIR", &scratch).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = copy.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&bytes[..bytes.len() / 2]).unwrap();
        until("the scratch folder", || !names(&scratch).is_empty());
        let text = fails(&told_to_end(child, signal), code);
        assert!(text.contains("Run the same command again"), "{text}");
        drop(stdin);
        assert!(names(&out).is_empty() && names(&scratch).is_empty(), "{:?} {:?}", names(&out), names(&scratch));
    }
}

#[test]
fn an_export_leaves_no_partial_file() {
    let mut fixture = Fixture::empty(Generation::Flat);
    fixture.add("big", 0, 256 << 20, &[(0, random(192 << 20, 5))], serde_json::Value::Null);
    for form in ["dir", "tar", "tar.zst"] {
        let out = fixture.path("out");
        fs::create_dir_all(&out).unwrap();
        let to = out.join("bundle");
        let mut export = command(["export", "big", "-o", to.to_str().unwrap(), "--format", form]);
        export.args(["--store", fixture.store.to_str().unwrap(), "--jobs", "1", "--compression", "zstd:19"]);
        let mut child = export.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the partial file", || !names(&out).is_empty() || child.try_wait().unwrap().is_some());
        assert_says_how_to_go_on(&interrupted(child));
        assert!(names(&out).is_empty(), "{form}: {:?}", names(&out));
    }
}

#[test]
fn an_export_whose_reader_stopped() {
    let mut fixture = Fixture::empty(Generation::Flat);
    fixture.add("big", 0, 16 << 20, &[(0, random(8 << 20, 5))], serde_json::Value::Null);
    let mut export = command(["export", "big", "-o", "-", "--store", fixture.store.to_str().unwrap()]);
    // Nobody reads the pipe.
    let child = export.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("its handlers", || heeds(&child));
    std::thread::sleep(Duration::from_millis(300));
    assert_says_how_to_go_on(&interrupted(child));
}

#[test]
fn a_pull_from_a_silent_registry() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("oci://{}/team/vm:head", listener.local_addr().unwrap());
    let output = folder.path().join("pulled.tar");
    let mut pull = command(["pull", &reference, "-o", output.to_str().unwrap()]);
    pull.env("DOCKER_CONFIG", folder.path());
    let child = pull.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let held = listener.accept().unwrap();
    assert_says_how_to_go_on(&interrupted(child));
    drop(held);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

#[test]
fn a_demo_leaves_its_folder_empty() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = command(["demo".as_ref(), folder.path().as_os_str()]);
    let mut child = demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("its store", || !names(folder.path()).is_empty() || child.try_wait().unwrap().is_some());
    assert_says_how_to_go_on(&interrupted(child));
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

/// A signal that comes as soon as there is something to leave behind is neither too early nor lost.
#[test]
fn signals_are_heeded_before_there_is_work() {
    let mut fixture = Fixture::empty(Generation::Flat);
    fixture.add("big", 0, 256 << 20, &[(0, random(64 << 20, 5))], serde_json::Value::Null);
    let (out, trace) = (fixture.path("out"), fixture.path("trace"));
    fs::create_dir_all(&out).unwrap();
    let (to, store) = (out.join("bundle.tar"), fixture.store.to_str().unwrap());
    let args = ["export", "big", "-o", to.to_str().unwrap(), "--store", store, "--compression", "zstd:19"];
    let mut export = slowed(&["rt_sigaction:delay_exit=200000"], &trace, args);
    let mut child = export.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the partial file", || !names(&out).is_empty() || child.try_wait().unwrap().is_some());
    assert_says_how_to_go_on(&interrupted(child));
    assert!(fs::read_to_string(&trace).unwrap().contains("SIGINT"), "strace does not see what is done about signals");
    assert!(names(&out).is_empty(), "{:?}", names(&out));
}

/// What was removed is not made again by a thread that has not noticed: all folders are made late, the end comes late.
#[test]
fn a_demo_makes_nothing_after_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    for stop in ["x/store/cache/manifests", "x/store/cache/layers", "x/store/cache/vmdk"] {
        let dir = folder.path().join("x");
        let delays = ["mkdir:delay_enter=100000", "exit_group:delay_enter=1500000"];
        let mut demo = slowed(&delays, &trace, ["demo".as_ref(), dir.as_os_str()]);
        let mut child = demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until(stop, || folder.path().join(stop).exists() || child.try_wait().unwrap().is_some());
        assert_says_how_to_go_on(&interrupted(child));
        assert!(fs::read_to_string(&trace).unwrap().contains("mkdir"), "strace does not see folders made");
        assert!(!dir.exists() || names(&dir).is_empty(), "{stop}: {:?}", names(&dir));
    }
}

/// Started by `nohup`, it outlives its terminal.
#[test]
fn a_signal_that_was_ignored_is_ignored() {
    let (store, snapcask) = (tempfile::tempdir().unwrap(), env!("CARGO_BIN_EXE_snapcask"));
    let mut import = heeding(Command::new("sh"));
    import.args(["-c", "trap '' HUP; exec \"$@\"", "sh", snapcask, "import", "-", "--store"]).arg(store.path());
    let mut child = import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    let snapshots = store.path().join("snapshots");
    until("the stage", || snapshots.is_dir() && !names(&snapshots).is_empty());
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_says_how_to_go_on(&interrupted(child));
    drop(stdin);
}

//! What machines refuse: threads, open files, large files, scratch space, changes of immutable files, memory for zstd
//! windows. Each is an error with a reason, never a panic, a signal or a leftover.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use snapcask::{
    export::{ExportOptions, Form, export},
    model::Generation,
};
use tempfile::TempDir;

use crate::fixture::*;

/// What the tests work on, for any user.
struct Arena {
    fixture: Fixture,
    program: PathBuf,
    bundle: PathBuf,
    /// Of nobody else, because the system counts all of a user's threads.
    user: Option<u32>,
}

impl Arena {
    fn new() -> Self {
        let fixture = Fixture::sized(Generation::Flat, 16 << 20);
        let bundle = fixture.path("bundle.tar.zst");
        fixture.export_chain(Form::TarZst, &bundle);
        let program = fixture.path("snapcask");
        fs::copy(env!("CARGO_BIN_EXE_snapcask"), &program).unwrap();
        let user = rustix::process::geteuid().is_root().then(|| 1_000_000 + std::process::id());
        let arena = Self { fixture, program, bundle, user };
        chmod(arena.fixture.dir.path(), 0o777);
        let all = Command::new("chmod").args(["-R", "a+rwX"]).arg(&arena.fixture.store).status();
        assert!(all.unwrap().success());
        arena
    }

    /// A new folder that is everybody's.
    fn folder(&self) -> TempDir {
        let folder = TempDir::new_in(self.fixture.dir.path()).unwrap();
        chmod(folder.path(), 0o777);
        folder
    }

    /// Runs the program after `ulimit LIMIT VALUE`.
    fn limited(&self, limit: &str, value: u64, arguments: &[&str]) -> Output {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("ulimit {limit} {value} && exec \"$@\""), "bash"]).arg(&self.program);
        command.args(arguments).env_remove("MSB_HOME").env_remove("MSB").stdin(Stdio::null());
        command.env("TMPDIR", self.fixture.dir.path()).env("HOME", self.fixture.dir.path());
        command.env_remove("XDG_CACHE_HOME").env_remove("XDG_RUNTIME_DIR").env_remove("DOCKER_CONFIG");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command.output().unwrap()
    }

    /// Every verb that works on a store or a bundle; what it writes goes to `to`.
    fn verbs<'a>(&'a self, to: &'a str) -> Vec<Vec<&'a str>> {
        let (store, bundle) = (self.fixture.store.to_str().unwrap(), self.bundle.to_str().unwrap());
        vec![
            vec!["export", "head", "--with-parents", "--with-image", "--store", store, "-o", to, "--format", "dir"],
            vec!["import", bundle, "--store", to, "--jobs", "2"],
            vec!["verify", bundle, "--deep", "--jobs", "2"],
            vec!["copy", bundle, to, "--format", "tar"],
            vec!["inspect", bundle],
            vec!["list", "--store", store],
            vec!["check", "--store", store, "--jobs", "2"],
        ]
    }
}

/// Neither a panic nor a signal, and nothing that was half made.
#[track_caller]
fn assert_clean(output: &Output, folder: &Path, what: &str) {
    let said = stderr(output);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{what}: {:?}: {said}", output.status);
    assert!(!said.contains("panicked") && !said.contains("internal error"), "{what}: {said}");
    let left: Vec<String> = whole_tree(folder).into_keys().filter(|path| path.contains(".snapcask-")).collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    if output.status.code() == Some(1) {
        assert!(whole_tree(folder).is_empty(), "{what}: {:?}", whole_tree(folder));
        assert!(said.starts_with("snapcask: error: "), "{what}: {said}");
    }
}

/// Runs every verb at each of the values, which grow; the last one must be enough, and the first too little for `least`
/// verbs. Gives what was said.
fn at_each(limit: &str, values: impl IntoIterator<Item = u64>, least: usize) -> Vec<String> {
    let arena = Arena::new();
    let (mut said, mut failed) = (Vec::new(), Vec::new());
    for value in values {
        let folder = arena.folder();
        let to = folder.path().join("out");
        failed.push(0);
        for verb in arena.verbs(to.to_str().unwrap()) {
            let output = arena.limited(limit, value, &verb);
            assert_clean(&output, folder.path(), &format!("ulimit {limit} {value}: {}", verb[0]));
            if !output.status.success() {
                *failed.last_mut().unwrap() += 1;
                said.push(stderr(&output) + &stdout(&output));
            }
            if to.exists() {
                fs::remove_dir_all(&to).or_else(|_| fs::remove_file(&to)).unwrap();
            }
        }
    }
    assert!(failed[0] >= least, "{failed:?}");
    assert_eq!(failed.last(), Some(&0), "{said:#?}");
    said
}

#[test]
fn refused_threads_are_errors() {
    let said = at_each("-u", 1..24, 7);
    let advice =
        "; `ulimit -u`, a container's limit of processes or its seccomp filter refuses it (--jobs 1 takes the fewest)";
    for text in said {
        // What verify finds is on standard output.
        let is_told = text.contains(advice) || text.contains("not everything could be verified");
        assert!(text.contains("cannot start a thread for ") && is_told, "{text}");
    }
}

/// The client of registries has threads of its own.
#[test]
fn refused_threads_of_registry_clients_are_errors() {
    let arena = Arena::new();
    let listener = TcpListener::bind("localhost:0").unwrap();
    let reference = format!("oci://localhost:{}/x", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let mut codes = Vec::new();
    for threads in 1..10 {
        let output = arena.limited("-u", threads, &["tags", &reference]);
        let said = stderr(&output);
        assert!(matches!(output.status.code(), Some(1 | 4)), "{threads} threads: {:?}: {said}", output.status);
        assert!(!said.contains("panicked"), "{threads} threads: {said}");
        codes.push(output.status.code().unwrap());
    }
    assert_eq!((codes[0], codes.last()), (1, Some(&4)), "{codes:?}");
}

#[test]
fn few_open_files_are_errors() {
    let said = at_each("-n", (4..40).chain([1024]), 7);
    assert!(said.iter().all(|text| text.contains("Too many open files (os error 24)")), "{said:#?}");
    let advice = "; `ulimit -n` limits how many files may be open";
    assert!(said.iter().filter(|text| text.contains(advice)).count() > 20, "{said:#?}");
}

#[test]
fn large_files_are_errors_and_no_signals() {
    // In kilobytes.
    let said = at_each("-f", (0..=20).map(|log| if log == 0 { 0 } else { 1 << log }), 4);
    assert!(
        said.iter().filter(|text| text.contains("File too large (os error 27); `ulimit -f`")).count() > 10,
        "{said:#?}"
    );
}

fn with_temp(folder: &Path, arguments: &[&str], input: Stdio) -> Output {
    command(arguments).env("TMPDIR", folder).stdin(input).output().unwrap()
}

#[test]
fn without_scratch_space_works_what_needs_none() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let store = fixture.store.to_str().unwrap();
    let file = fixture.path("file");
    write(file.clone(), b"a file");
    for (number, folder) in [fixture.path("missing"), file].into_iter().enumerate() {
        let at = |name: &str| fixture.path(&format!("{number}-{name}")).to_str().unwrap().to_owned();
        let (bundle, copied, target) = (at("b.tar.zst"), at("copy.tar"), at("store"));
        let run = |arguments: &[&str]| drop(succeeds(&with_temp(&folder, arguments, Stdio::null())));
        run(&["export", "head", "--with-parents", "--with-image", "--store", store, "-o", &bundle]);
        run(&["verify", &bundle]);
        run(&["inspect", &bundle]);
        run(&["copy", &bundle, &copied]);
        run(&["import", &bundle, "--store", &target]);
        run(&["list", "--store", &target]);
        fs::write(Path::new(&target).join("snapshots/head/state.bin"), b"damaged").unwrap();
        run(&["check", "--store", &target, "--repair-from", &bundle]);
        run(&["check", "--store", &target]);
        // A pipe is spooled beside the store.
        let input = fs::File::open(&bundle).unwrap();
        succeeds(&with_temp(&folder, &["import", "-", "--store", &at("piped")], input.into()));
        run(&["export", "head", "--since", "base", "--store", store, "-o", &at("thin.tar")]);
        run(&["remove", "head", "--store", &target]);

        let why = format!("cannot make scratch space in {}: ", folder.display());
        for arguments in [
            &["verify", "--deep", &bundle][..],
            &["export", "head", "--store", store, "-o", "-"],
            &["copy", &bundle, "-", "--format", "tar"],
        ] {
            let said = fails(&with_temp(&folder, arguments, Stdio::null()), 1);
            assert!(said.contains(&why) && said.contains("; $TMPDIR names another folder"), "{arguments:?}: {said}");
        }
        let mut cat = Command::new("cat").arg(&bundle).stdout(Stdio::piped()).spawn().unwrap();
        let said = fails(&with_temp(&folder, &["inspect", "-"], cat.stdout.take().unwrap().into()), 1);
        assert!(said.contains(&why), "{said}");
        let _ = cat.wait();
    }
}

/// Sets an attribute that ends with this; none where it cannot be set here.
struct Attribute(PathBuf, &'static str);

impl Attribute {
    fn set(path: &Path, letter: &'static str) -> Option<Self> {
        let output = Command::new("chattr").arg(format!("+{letter}")).arg(path).output();
        let reason = match output {
            Ok(output) if output.status.success() => return Some(Self(path.into(), letter)),
            Ok(output) => stderr(&output),
            Err(error) => error.to_string(),
        };
        assert!(std::env::var_os("CI").is_none(), "immutable files were not tested: {reason}");
        eprintln!("NOT TESTED with immutable files: chattr +{letter} {}: {reason}", path.display());
        None
    }
}

impl Drop for Attribute {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg(format!("-{}", self.1)).arg(&self.0).status();
    }
}

#[test]
fn immutable_files_are_told_before_anything_is_taken_away() {
    for generation in [Generation::V066, Generation::Final] {
        let fixture = Fixture::sized(generation, 16 << 20);
        let bundle = fixture.path("b.tar");
        let options = ExportOptions { with_parents: true, ..fixture.export_options(Form::Tar, &bundle) };
        export(&options).unwrap();
        let (path, store) = (bundle.to_str().unwrap(), fixture.path("store2"));
        let group = ["--group", GROUP];
        let group = if generation == Generation::Final { &group[..] } else { &[] };
        succeeds(&run([&["import", path, "--store", store.to_str().unwrap()], group].concat()));
        let head = store.join(fixture.head().directory.strip_prefix(&fixture.store).unwrap());
        write(head.join("state.bin"), b"damaged");
        let before = whole_tree(&store);
        for (letter, word) in [("i", "immutable"), ("a", "append-only")] {
            for held in [head.join(&fixture.head().disk), head.join("bin"), head.clone(), head.parent().unwrap().into()]
            {
                let Some(_attribute) = Attribute::set(&held, letter) else { return };
                let why = |verb: &str| {
                    format!("cannot {verb} {}: it is {word}; `chattr -{letter}` ends that", held.display())
                };
                let store = store.to_str().unwrap();
                let said = fails(&run(["remove", "head", "--set-head", "middle", "--store", store]), 1);
                // A stage cannot be made in the folder of all snapshots.
                let is_stage = held.ends_with("snapshots");
                assert!(said.contains(&why("remove")), "{said}");
                let said = fails(&run([&["import", path, "--store", store, "--force"], group].concat()), 1);
                assert!(is_stage || said.contains(&why("replace")), "{said}");
                let check = run(["check", "--store", store, "--repair-from", path]);
                assert!(is_stage || stdout(&check).contains(&why("replace")), "{}{}", stdout(&check), stderr(&check));
                assert!(matches!(check.status.code(), Some(1 | 3)), "{}", stderr(&check));
                assert_eq!(whole_tree(Path::new(store)), before, "+{letter} {}", held.display());
            }
        }
    }
}

#[test]
fn immutable_bundles_are_not_replaced() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let store = fixture.store.to_str().unwrap();
    let area = TempDir::new().unwrap();
    for form in ["tar", "dir"] {
        let to = area.path().join(form);
        let export = |force: &[&str]| {
            run([&["export", "head", "--store", store, "-o", to.to_str().unwrap(), "--format", form], force].concat())
        };
        succeeds(&export(&[]));
        let held = if form == "dir" { to.join("index.json") } else { to.clone() };
        let Some(_attribute) = Attribute::set(&held, "i") else { return };
        let before = whole_tree(area.path());
        let said = fails(&export(&["--force"]), 1);
        let why = if form == "dir" { "it is immutable; `chattr -i` ends that" } else { "Operation not permitted" };
        assert!(said.contains(why), "{said}");
        assert_eq!(whole_tree(area.path()), before);
    }
}

/// The tar as one zstd frame that asks for a window of 2^`log` bytes.
pub fn with_window(tar: &[u8], log: u8, to: &Path) {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(tar).unwrap();
    let mut frame = encoder.finish().unwrap();
    assert_eq!(frame[4] & 0x20, 0, "not in one segment");
    frame[5] = (log - 10) << 3;
    write(to.into(), &frame);
}

#[test]
fn window_of_128_mib_is_taken_and_a_larger_one_needs_the_option() {
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let tar = fixture.path("b.tar");
    export(&ExportOptions { with_parents: true, ..fixture.export_options(Form::Tar, &tar) }).unwrap();
    let bytes = fs::read(&tar).unwrap();
    let (long, longer) = (fixture.path("long.tar.zst"), fixture.path("longer.tar.zst"));
    with_window(&bytes, 27, &long);
    with_window(&bytes, 29, &longer);
    let verbs = |bundle: &str, name: &str| -> Vec<Vec<String>> {
        let to = |what: &str| fixture.path(&format!("{name}-{what}")).to_str().unwrap().to_owned();
        let verbs = [
            vec!["verify".to_owned(), bundle.into()],
            vec!["verify".into(), "--deep".into(), bundle.into()],
            vec!["inspect".into(), bundle.into()],
            vec!["copy".into(), bundle.into(), to("copy.tar")],
            vec!["import".into(), bundle.into(), "--store".into(), to("store")],
            vec![
                "check".into(),
                "--store".into(),
                fixture.store.to_str().unwrap().into(),
                "--repair-from".into(),
                bundle.into(),
            ],
        ];
        verbs.into()
    };
    for verb in verbs(long.to_str().unwrap(), "long") {
        succeeds(&run(&verb));
    }
    let why = format!(
        "snapcask: error: the zstd window of {}, in bytes, is 536870912, over the limit of 134217728; --max-window raises it\n",
        longer.display()
    );
    for verb in verbs(longer.to_str().unwrap(), "longer") {
        assert_eq!(fails(&run(&verb), 1), why, "{verb:?}");
        succeeds(&run(verb.iter().map(String::as_str).chain(["--max-window", "512MiB"])));
    }
    let said = fails(&run(["verify", longer.to_str().unwrap(), "--max-window", "3GiB"]), 2);
    assert!(said.contains("a window has at most 2147483648 bytes"), "{said}");
}

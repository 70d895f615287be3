//! The command line: arguments become ready options in one step, each verb is one file, output is text or JSON.

mod args;
mod argument;
mod check;
mod convert;
mod copy;
mod demo;
mod destination;
mod ends;
mod export;
mod head;
mod import;
mod inspect;
mod list;
mod login;
mod notices;
mod output;
mod password;
mod progress;
mod registry;
mod remove;
mod sync;
mod verbs;
mod verify;

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
    os::unix::net::UnixStream,
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use rustix::io::Errno;
use snapcask::{Error, Result};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use args::{Cli, StoreArg, Verb};
use argument::{Takes, beside, in_store};

/// How long a run that was told to end may take to remove what it has not finished, before it ends all the same.
const LAST_WORK: Duration = Duration::from_secs(10);

/// How a run ended.
enum Ended {
    /// The verb returned.
    Returned(Result<()>),
    /// A bug: the verb panicked.
    Panicked,
    /// By this signal's number.
    Interrupted(u8),
}

/// Parses the command line. When there is nothing to run, the code to exit with: 0 after `--help` and `--version`,
/// 2 after a mistake.
pub fn parse() -> std::result::Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|mut error| {
        verbs::suggest(&mut error);
        let code = if error.use_stderr() { 2 } else { 0 };
        // If nobody reads it, there is nobody to tell.
        let _ = error.print();
        let asked = |what: &str| std::env::args_os().any(|arg| arg == OsStr::new(what));
        if code != 0 && asked("--json") {
            let message = error.to_string();
            let message = message.trim_start_matches("error: ").trim_end();
            tell_json_error(message, code, ["-", "-o-", "--output=-"].into_iter().any(asked));
        }
        ExitCode::from(code)
    })
}

/// Runs a verb and reports its error. The verb works on a thread of its own; this one waits for it or for a signal to end.
///
/// After Ctrl-C (or SIGTERM, SIGHUP) nothing is put in place any more, what is temporary is removed, and the process
/// ends without waiting for the verb's threads: that would make Ctrl-C slow exactly when much is being written. What a
/// second signal leaves behind has a name that no reader takes for a snapshot or a bundle, and the next run reclaims it.
pub fn run(cli: Cli) -> ExitCode {
    raise_open_files();
    let (json, goes_on) = (cli.verb.json(), cli.verb.goes_on());
    let (again, aside) = (cli.verb.again(), cli.verb.writes_to_stdout());
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::print_error(&format!("snapcask: error: cannot start: {error}{}\n", limit_of(&error)));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        // Before the work, which leaves something when it is ended at once.
        let mut signals = EndSignals::heed();
        let work = on_a_thread(move || dispatch(cli.verb));
        let work = match work {
            Ok(work) => work,
            Err(error) => return Ended::Returned(Err(Error::io("start a thread for", "the work", error))),
        };
        tokio::select! {
            done = work => done.map_or(Ended::Panicked, Ended::Returned),
            number = signals.next() => {
                let removed = removed();
                tokio::select! {
                    _ = removed => {}
                    _ = signals.next() => {}
                    () = tokio::time::sleep(LAST_WORK) => {}
                }
                Ended::Interrupted(number)
            }
        }
    });
    password::show_again();
    let (message, code) = match ended {
        Ended::Returned(Ok(())) => return ExitCode::SUCCESS,
        // The JSON report with the findings is printed; a second object after it would be no JSON.
        Ended::Returned(Err(
            error @ (Error::Findings { .. }
            | Error::Incomplete { .. }
            | Error::NotWhole { .. }
            | Error::NotAllRead { .. }),
        )) => {
            output::print_error(&format!("snapcask: error: {error}\n"));
            return ExitCode::from(error.exit_code());
        }
        Ended::Returned(Err(error)) => {
            let advice = if may_pass(&error) { again } else { advice_on(&error) };
            (format!("{error}{advice}"), error.exit_code())
        }
        Ended::Panicked => {
            ("internal error: this is a bug in snapcask; please report it with the text above".into(), 1)
        }
        Ended::Interrupted(signal) => {
            let again = if goes_on { ": it goes on where it stopped" } else { "" };
            (format!("interrupted; nothing half-written is in place. Run the same command again{again}"), 128 + signal)
        }
    };
    if code > 128 {
        // The shell's ^C and a progress bar may stand on this line.
        let line = if std::io::stderr().is_terminal() { "\r\x1b[2K" } else { "" };
        eprint!("{line}");
        output::print_error(&format!("snapcask: {message}\n"));
    } else {
        output::print_error(&format!("snapcask: error: {message}\n"));
    }
    if json {
        tell_json_error(&message, code, aside);
    }
    // Not by returning: that would wait for the threads that still run after Ctrl-C.
    std::process::exit(code.into())
}

/// What waits for the work and for signals, on this thread. The runtime panics where it cannot open its few files, so it is
/// seen before whether it can.
fn runtime() -> io::Result<Runtime> {
    const FILES: usize = 8;
    let spare: Vec<_> = (0..FILES / 2).map(|_| UnixStream::pair()).collect::<io::Result<_>>()?;
    drop(spare);
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs `work` on a thread of its own; what it gives is there when it is awaited, unless it panicked.
fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (sender, done) = oneshot::channel();
    std::thread::Builder::new().name("work".into()).spawn(move || drop(sender.send(work())))?;
    Ok(done)
}

/// Removes what is temporary; on this thread where there is no other.
async fn removed() {
    match on_a_thread(snapcask::temporary::abandon) {
        Ok(removed) => drop(removed.await),
        Err(_) => snapcask::temporary::abandon(),
    }
}

/// Which limit of the system an error speaks of, beginning with a separator.
fn limit_of(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::FBIG) => "; `ulimit -f`, or the filesystem, limits how large a file may be",
        Some(Errno::MFILE) => "; `ulimit -n` limits how many files may be open",
        _ => "",
    }
}

/// What to do about a limit of the system, beginning with a separator.
fn advice_on(error: &Error) -> &'static str {
    match error {
        Error::Io { operation: "start a thread for", .. } => {
            "; `ulimit -u`, a container's limit of processes or its seccomp filter refuses it (--jobs 1 takes the fewest)"
        }
        Error::Io { source, .. } => limit_of(source),
        _ => "",
    }
}

/// A snapshot may have many files, all open until they are known not to have changed; the usual 1,024 are for programs
/// that use select(2). What the system does not give is missed only by those who need it.
fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

/// Whether the same transfer may do later: the network broke, or a registry is out of order.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Unreachable { attempts, .. } => *attempts > 1,
        Error::Refused { status, hint, .. } => *status >= 500 && hint.is_empty(),
        _ => false,
    }
}

/// The signals that this process was started to ignore, signal 1 in the lowest bit: `nohup` means it.
fn ignored_signals() -> u64 {
    static AT_START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *AT_START.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    })
}

/// The signals that tell the process to end, each with its number.
struct EndSignals(Vec<(Signal, u8)>);

impl EndSignals {
    /// Those that come from here on; one that comes before ends the process at once. Needs a runtime.
    fn heed() -> Self {
        // A file that grows beyond `ulimit -f` ends the process, unless something heeds the signal: then it is an error of
        // the write.
        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
        let kinds = [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15), (SignalKind::hangup(), 1)];
        let ignored = ignored_signals();
        let heeded = kinds.into_iter().filter(|(_, n)| ignored >> (n - 1) & 1 == 0);
        Self(heeded.filter_map(|(kind, n)| Some((signal(kind).ok()?, n))).collect())
    }

    /// Waits for the next one, and gives its number.
    async fn next(&mut self) -> u8 {
        std::future::poll_fn(|context| {
            let told = self.0.iter_mut().find_map(|(signal, n)| signal.poll_recv(context).is_ready().then_some(*n));
            told.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
}

/// `{"error":{"message":...,"exitCode":...}}` on standard output, or `aside` on standard error, where the other is a bundle's.
fn tell_json_error(message: &str, code: u8, aside: bool) {
    let text = format!("{:#}\n", serde_json::json!({ "error": { "message": message, "exitCode": code } }));
    if aside {
        output::print_error(&text);
    } else if let Err(error) = output::print(&text) {
        output::print_error(&format!("snapcask: error: {error}\n"));
    }
}

/// Runs the verb that was asked for.
fn dispatch(verb: Verb) -> Result<()> {
    match verb {
        Verb::Export(args) => {
            let named = OsString::from(&args.snapshot);
            export::run(args).map_err(|error| beside(error, &named, Takes::Snapshot))
        }
        Verb::Import(args) => {
            let store = StoreArg { store: args.store.store.clone() };
            import::run(args).map_err(|error| in_store(error, &store))
        }
        Verb::Convert(args) => convert::run(args),
        Verb::Push(args) => {
            let named = args.what.clone();
            copy::push(args).map_err(|error| beside(error, &named, Takes::Source))
        }
        Verb::Pull(args) => copy::pull(args),
        Verb::Copy(args) => copy::run(args).map_err(|error| in_store(error, &StoreArg { store: None })),
        Verb::Tags(args) => registry::tags(&args),
        Verb::Delete(args) => registry::delete(&args),
        Verb::Login(args) => login::login(&args),
        Verb::Logout(args) => login::logout(&args),
        Verb::Verify(args) => verify::run(&args).map_err(|error| in_store(error, &StoreArg { store: None })),
        Verb::Inspect(args) => inspect::run(&args).map_err(|error| beside(error, &args.what, Takes::Source)),
        Verb::List(args) => list::run(&args),
        Verb::Check(args) => check::run(args),
        Verb::Sync(args) => {
            let named = OsString::from(&args.snapshot);
            sync::run(args).map_err(|error| beside(error, &named, Takes::Snapshot))
        }
        Verb::Remove(args) => remove::run(args),
        Verb::Head(args) => head::run(args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "snapcask", &mut script);
            output::bytes(&script)
        }
    }
}

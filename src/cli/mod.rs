//! The command line: arguments become ready options in one step, each verb is one file, output is text or JSON.

mod args;
mod demo;
mod destination;
mod export;
mod import;
mod inspect;
mod list;
mod output;
mod progress;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use snapcask::{Error, Result};

use args::{Cli, Verb};

/// The exit code of a run that Ctrl-C ended: 128 and the signal's number, as shells count.
const INTERRUPTED: u8 = 130;

/// Runs the command line. The verb works on a blocking thread; this one waits for it or for Ctrl-C.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.verb.json();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("snapcask: error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let work = tokio::task::spawn_blocking(move || run(cli));
        tokio::select! {
            done = work => done.unwrap_or_else(|panic| Err(Error::Usage(format!("internal error: {panic}")))),
            _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
        }
    });
    let code = match &result {
        Ok(()) => 0,
        Err(Error::Interrupted) => INTERRUPTED,
        Err(error) => error.exit_code(),
    };
    if let Err(error) = &result {
        eprintln!("snapcask: error: {error}");
        if json {
            println!("{}", serde_json::json!({ "error": { "message": error.to_string(), "exitCode": code } }));
        }
    }
    // Threads that still run after Ctrl-C end with the process; what they staged is reclaimed by the next run.
    std::process::exit(code.into())
}

fn run(cli: Cli) -> Result<()> {
    match cli.verb {
        Verb::Export(args) => export::run(args),
        Verb::Import(args) => import::run(args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::List(args) => list::run(&args),
        Verb::Demo(args) => demo::run(&args),
    }
}

//! `snapcask sync`.

use std::path::Path;

use snapcask::{
    Error, Result,
    error::IoContext,
    report::{Outcome, SyncReport},
    sync::{Remote, SyncOptions, sync},
};

use super::{args::SyncArgs, argument, output, progress};

/// Runs the verb.
pub fn run(args: SyncArgs) -> Result<()> {
    argument::local(&args.snapshot, "`snapcask import` places it in a store")?;
    let report = sync(&SyncOptions {
        remote: remote(&args)?,
        store: args.store.resolve()?,
        snapshot: args.snapshot,
        with_image: args.with_image,
        group: args.group,
        force: args.force,
        trust_image_tags: args.trust_image_tags,
        compression: args.compression,
        jobs: args.jobs.resolve(),
        progress: progress::for_output(&args.common),
    })?;
    if args.common.json {
        output::json(&report)
    } else if args.common.quiet {
        Ok(())
    } else {
        output::print(&text(&report))
    }
}

/// Where DEST is.
fn remote(args: &SyncArgs) -> Result<Remote> {
    let dest = args.dest.to_string_lossy();
    if dest.starts_with("ssh://") {
        let command = args.ssh.split_whitespace().map(Into::into).collect();
        return Remote::ssh(&dest, command, &args.remote_snapcask);
    }
    // `host:path` is what scp takes, and a folder of that name is not what is meant.
    let first = dest.split('/').next().unwrap_or_default();
    if first.contains(':') && !Path::new(&args.dest).exists() {
        let text = format!("{dest:?} is no store; a host is written ssh://[USER@]HOST[:PORT][/STORE]");
        return Err(Error::Usage(text));
    }
    let program = std::env::current_exe().context("find", "this program")?;
    Remote::here(&args.dest, program)
}

/// The report for people.
fn text(report: &SyncReport) -> String {
    let mut text = String::new();
    for (position, snapshot) in report.snapshots.iter().enumerate() {
        let role = if position == 0 { "head" } else { "parent" };
        let outcome = match snapshot.outcome {
            Outcome::Placed => "placed",
            Outcome::AlreadyThere => "already there, identical",
            Outcome::Skipped => "left out",
        };
        let path = snapshot.path.as_deref().unwrap_or(&snapshot.name);
        text += &format!("{role:6} {}  {}  {outcome}\n", snapshot.digest, output::clean(path));
    }
    let kept = report.left_out.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    let kept = match kept {
        0 => String::new(),
        kept => format!("; {} were there", output::size(kept)),
    };
    text + &format!(
        "synced to {}: {} sent{kept}, in {}\n",
        output::clean(&report.destination),
        output::size(report.sent_bytes),
        output::seconds(report.seconds)
    )
}

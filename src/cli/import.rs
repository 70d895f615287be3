//! `snapcask import`.

use snapcask::{
    Result,
    import::{BundleLocation, ImportOptions, import},
    report::{ImportReport, Outcome},
};

use super::{args::ImportArgs, output, progress};

/// The bundle that an argument names.
pub fn location(text: &str) -> BundleLocation {
    if text == "-" { BundleLocation::Stdin } else { BundleLocation::Path(text.into()) }
}

/// Runs the verb.
pub fn run(args: ImportArgs) -> Result<()> {
    let report = import(&ImportOptions {
        source: location(&args.source),
        store: args.store.resolve()?,
        dest: args.dest,
        tag: args.tag,
        name: args.name,
        head_only: args.head_only,
        group: args.group,
        force: args.force,
        skip_recorded: args.skip_recorded,
        max_bytes: args.max_bytes,
        max_files: args.max_files,
        jobs: args.jobs.resolve(),
        progress: progress::for_output(&args.common),
    })?;
    if args.common.json {
        output::json(&report);
    } else if !args.common.quiet {
        print!("{}", text(&report));
    }
    Ok(())
}

/// The report for people: the head's digest and path first.
pub fn text(report: &ImportReport) -> String {
    let mut text = String::new();
    for (position, snapshot) in report.snapshots.iter().enumerate() {
        let role = if position == 0 { "head" } else { "parent" };
        let outcome = match snapshot.outcome {
            Some(Outcome::Placed) => "placed",
            Some(Outcome::AlreadyThere) => "already there, identical",
            _ => "skipped",
        };
        let path = snapshot.path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        text += &format!("{role:6} {}  {path}  {outcome}\n", snapshot.digest);
    }
    if !report.cache_files.is_empty() {
        text += &format!("image  {} cache files\n", report.cache_files.len());
    }
    text + &format!("done   in {}\n", output::seconds(report.seconds))
}

//! `snapcask export`.

use std::io::IsTerminal;

use snapcask::{
    Result,
    export::{Destination, ExportOptions, export},
    report::ExportReport,
};

use super::{args::ExportArgs, destination, output, progress};

/// Runs the verb. The report goes to standard error when the bundle goes to standard output.
pub fn run(args: ExportArgs) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let (destination, form) =
        destination::resolve(&args.output, args.format.map(Into::into), args.plain_tar, terminal)?;
    let report = export(&ExportOptions {
        store: args.store.resolve()?,
        snapshot: args.snapshot,
        destination: destination.clone(),
        form,
        with_parents: args.with_parents,
        with_image: args.with_image,
        delta: !args.no_delta,
        compression: args.compression,
        tag: args.tag,
        force: args.force,
        jobs: args.jobs.resolve(),
        progress: progress::for_output(&args.common),
    })?;
    let piped = destination == Destination::Stdout;
    match (args.common.json, args.common.quiet, piped) {
        (true, _, false) => output::json(&report),
        (true, _, true) => eprintln!("{}", serde_json::json!(report)),
        (false, true, _) => {}
        (false, false, false) => print!("{}", text(&report)),
        (false, false, true) => eprint!("{}", text(&report)),
    }
    Ok(())
}

/// The report for people.
pub fn text(report: &ExportReport) -> String {
    let mut text = String::new();
    for (position, snapshot) in report.snapshots.iter().enumerate() {
        let role = if position == 0 { "head" } else { "parent" };
        text += &format!(
            "{role:6} {}  {}  {} ({} of data)\n",
            snapshot.name,
            snapshot.digest,
            output::size(snapshot.size),
            output::size(snapshot.data_bytes)
        );
        for requires in &snapshot.unknown_requires {
            text += &format!("       note: it requires {requires:?}, which snapcask carries without knowing it\n");
        }
    }
    if !report.cache_files.is_empty() {
        text += &format!("image  {} cache files\n", report.cache_files.len());
    }
    text + &format!(
        "wrote  {} ({}), {} in {}\n",
        report.destination,
        report.form,
        output::size(report.blob_bytes),
        output::seconds(report.seconds)
    )
}

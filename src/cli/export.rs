//! `snapcask export`.

use std::{ffi::OsStr, io::IsTerminal};

use snapcask::{
    Error, Result,
    export::{Destination, ExportOptions, Form, export},
    reference::{Host, Version},
    report::{ExportReport, SnapshotReport},
    since::Since,
    zstd_input::MaxWindow,
};

use super::{
    args::ExportArgs,
    argument::{self, Meant},
    destination, import, output, progress,
    registry::{self, OptionsFor},
};

/// Runs the verb. The report goes to standard error when the bundle goes to standard output.
pub fn run(args: ExportArgs) -> Result<()> {
    argument::local(&args.snapshot, "`snapcask pull` writes a bundle of it, `snapcask import` places it in the store")?;
    let terminal = std::io::stdout().is_terminal();
    let options = |host: &Host| args.mount.apply(args.registry.options_for(host)?);
    let (destination, form) = match (&args.onto, &args.output) {
        (Some(layout), _) => (Destination::Onto(layout.clone()), Form::Dir),
        (None, Some(output)) => destination_of(output, &args, &options, terminal)?,
        (None, None) => return Err(Error::Usage("name where the bundle goes with -o or --onto".into())),
    };
    // The reference's tag is the head's.
    let named = match &destination {
        Destination::Registry(reference, _) => match &reference.version {
            Some(Version::Tag(tag)) => Some(tag.to_string()),
            Some(Version::Digest(_) | Version::Checked(..)) => {
                return Err(Error::Usage(format!("{reference} names a digest; an export names a tag, or none")));
            }
            None => None,
        },
        _ => None,
    };
    let told = registry::TagsTold::of(&destination);
    let report = export(&ExportOptions {
        store: args.store.resolve()?,
        snapshot: args.snapshot,
        destination: destination.clone(),
        form,
        with_parents: args.with_parents,
        with_image: args.with_image,
        since: args
            .since
            .iter()
            .map(|base| since(base, args.window.max_window, &|host| args.registry.options_for(host)))
            .collect::<Result<_>>()?,
        delta: !args.no_delta,
        compression: args.compression,
        tag: registry::one_tag(named, args.tag)?,
        force: args.force,
        jobs: args.jobs.resolve(),
        progress: progress::for_output(&args.common),
    })?;
    match (args.common.json, args.common.quiet, destination == Destination::Stdout) {
        (true, _, false) => {
            let head = report.snapshots.first().and_then(|head| head.manifest);
            output::json(&told.with(report, head))?;
        }
        (true, _, true) => output::print_error(&output::to_json(&report)?),
        (false, true, _) => {}
        (false, false, false) => output::print(&text_of_push(&report, &told))?,
        (false, false, true) => output::print_error(&text(&report)),
    }
    Ok(())
}

/// The destination that `-o` names.
fn destination_of(
    output: &OsStr,
    args: &ExportArgs,
    options: OptionsFor<'_>,
    terminal: bool,
) -> Result<(Destination, Form)> {
    match registry::destination(output, options)? {
        Some(_) if args.plain_tar || args.format.is_some() => {
            Err(Error::Usage("a registry has one form; leave --format and --plain-tar out".into()))
        }
        Some(found) => Ok(found),
        None => destination::resolve(output, args.format.map(Into::into), args.plain_tar, terminal),
    }
}

/// What `--since` names: a bundle if it is one, else a snapshot of the store.
fn since(base: &OsStr, window: MaxWindow, options: OptionsFor<'_>) -> Result<Since> {
    Ok(match argument::meant(base)? {
        Meant::Bundle => Since::Bundle(import::location(base, window, options)?),
        Meant::Snapshot(reference) => Since::Snapshot(reference),
    })
}

/// The report for people, with what is told of a push.
pub fn text_of_push(report: &ExportReport, told: &registry::TagsTold) -> String {
    text(report) + &told.text(report.snapshots.first().and_then(|head| head.manifest))
}

/// The report for people.
pub fn text(report: &ExportReport) -> String {
    let mut text = String::new();
    for (position, snapshot) in report.snapshots.iter().enumerate() {
        let role = if position == 0 { "head" } else { "parent" };
        text += &format!(
            "{role:6} {}  {}  {} ({} of data)\n",
            output::clean(&snapshot.name),
            snapshot.digest,
            output::size(snapshot.size),
            output::size(snapshot.data_bytes)
        );
        text += &unknown_requires(snapshot);
    }
    if !report.cache_files.is_empty() {
        text += &format!("image  {}\n", output::count(report.cache_files.len(), "cache file"));
    }
    let new = match report.sent_bytes < report.blob_bytes {
        true => format!(", {} of them new", output::size(report.sent_bytes)),
        false => String::new(),
    };
    if !report.left_out.is_empty() {
        let bytes = report.left_out.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        let layers = output::count(report.left_out.len(), "layer");
        text += &format!("left out {layers} of {} that the base has; an import needs the base\n", output::size(bytes));
    }
    text + &format!(
        "wrote  {} ({}), {}{new}, in {}\n",
        output::clean(&report.destination),
        report.form,
        output::size(report.blob_bytes),
        output::seconds(report.seconds)
    )
}

/// A line for everything that the snapshot requires and we do not know.
pub fn unknown_requires(snapshot: &SnapshotReport) -> String {
    let line = |r: &String| {
        format!("       note: it requires {:?}, which snapcask carries without knowing it\n", output::clean(r))
    };
    snapshot.unknown_requires.iter().map(line).collect()
}

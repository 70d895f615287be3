//! `snapcask import`.

use std::{
    ffi::{OsStr, OsString},
    io::{IsTerminal, stdin},
};

use snapcask::{
    Error, Result,
    import::{BundleLocation, ImportOptions, import},
    reference::{Host, Version},
    report::{HeadCase, HeadUpdate, ImportReport, IndexReport, Outcome, TagOutcome, TagReport},
    store::head::HeadRule,
    zstd_input::MaxWindow,
};

use super::{
    args::ImportArgs,
    export, output, progress,
    registry::{self, OptionsFor},
};

/// The bundle that an argument names, which may ask for such a zstd window; nobody types one on a terminal.
pub fn location(argument: &OsStr, window: MaxWindow, options: OptionsFor<'_>) -> Result<BundleLocation> {
    if let Some(reference) = registry::reference(argument)? {
        let options = Box::new(options(&reference.host)?);
        return Ok(BundleLocation::Registry(reference, options));
    }
    match argument == "-" {
        true if stdin().is_terminal() => Err(Error::Usage(
            "a bundle is not read from a terminal; redirect the input (`< bundle.tar.zst`) or name a file".into(),
        )),
        true => Ok(BundleLocation::Stdin(window)),
        false => Ok(BundleLocation::Path(argument.into(), window)),
    }
}

/// The bundle whose head `--tag` names, and the tag if it is still to be looked for in it: that of a repository's
/// reference without a tag is the reference's.
pub fn tagged_location(
    argument: &OsStr,
    tag: Option<String>,
    window: MaxWindow,
    options: OptionsFor<'_>,
) -> Result<(BundleLocation, Option<String>)> {
    match (location(argument, window, options)?, tag) {
        (BundleLocation::Registry(reference, options), Some(tag)) if reference.version.is_none() => {
            let version = match tag.parse() {
                Ok(digest) => Version::Digest(digest),
                Err(_) => Version::Tag(tag.parse()?),
            };
            Ok((BundleLocation::Registry(reference.with(version), options), None))
        }
        other => Ok(other),
    }
}

/// The bundles that several arguments name.
pub fn locations(arguments: &[OsString], window: MaxWindow, options: OptionsFor<'_>) -> Result<Vec<BundleLocation>> {
    arguments.iter().map(|argument| location(argument, window, options)).collect()
}

/// Runs the verb.
pub fn run(args: ImportArgs) -> Result<()> {
    let options = |host: &Host| args.registry.options_for(host);
    let window = args.window.max_window;
    let (sources, tag) = match args.sources.as_slice() {
        [only] => {
            let (source, tag) = tagged_location(only, args.tag, window, &options)?;
            (vec![source], tag)
        }
        several => (locations(several, window, &options)?, args.tag),
    };
    let bases = locations(&args.base, window, &options)?;
    if sources.iter().chain(&bases).filter(|location| matches!(location, BundleLocation::Stdin(_))).count() > 1 {
        return Err(Error::Usage("standard input (-) is one bundle; it is named more than once".into()));
    }
    let verified = if args.verify_source { "source every layer was read and is good\n" } else { "" };
    let report = import(&ImportOptions {
        sources,
        bases,
        store: args.store.resolve()?,
        dest: args.dest,
        tag,
        name: args.name,
        head_only: args.head_only,
        group: args.group,
        head: if args.set_head { HeadRule::Select } else { HeadRule::Automatic },
        force: args.force,
        orphan_children: args.orphan_children,
        trust_image_tags: args.trust_image_tags,
        skip_recorded: args.skip_recorded,
        verify_source: args.verify_source,
        max_bytes: args.max_bytes,
        max_files: args.max_files,
        jobs: args.jobs.resolve(),
        index: args.index.resolve(),
        progress: progress::for_output(&args.common),
    })?;
    if args.common.json {
        output::json(&report)
    } else if args.common.quiet {
        Ok(())
    } else {
        output::print(&(verified.to_owned() + &text(&report)))
    }
}

/// The report for people: the head's digest and path first.
pub fn text(report: &ImportReport) -> String {
    let mut text = String::new();
    for (position, snapshot) in report.snapshots.iter().enumerate() {
        let role = if position == 0 { "head" } else { "parent" };
        let outcome = match snapshot.outcome {
            Some(Outcome::Placed) => "placed",
            Some(Outcome::AlreadyThere) => "already there, identical",
            _ => "left out: its layer is not in the bundle, and what is installed needs none",
        };
        let more = match snapshot.more_files.as_slice() {
            [] => String::new(),
            [first, ..] => {
                let count = output::count(snapshot.more_files.len(), "more file");
                format!("; {count} than the bundle has: {}", output::clean(first))
            }
        };
        let path = snapshot.path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        text += &format!("{role:6} {}  {}  {outcome}{more}\n", snapshot.digest, output::clean(&path));
        text += &export::unknown_requires(snapshot);
    }
    if !report.cache_files.is_empty() {
        text += &format!("image  {}\n", output::count(report.cache_files.len(), "cache file"));
    }
    text.extend(report.image_tags.iter().map(tag));
    for line in &report.mended {
        text += &format!("mended {}\n", output::clean(line));
    }
    text += &report.head.as_ref().map(head_line).unwrap_or_default();
    if let Some(group) = &report.suggested_group {
        text += &format!("hint   relatives are in the group {group}; `--group {group}` imports into that group\n");
    }
    text += &report.index.as_ref().map(index_line).unwrap_or_default();
    if report.source_unread {
        text += "note   everything is installed already, so the bundle was not read beyond its descriptions; --verify-source \
                 reads and verifies all of it\n";
    }
    text + &format!("done   in {}\n", output::seconds(report.seconds))
}

/// Whether msb's database knows what has changed, for people.
pub fn index_line(report: &IndexReport) -> String {
    match report {
        IndexReport::Done => "index  msb knows it\n".into(),
        IndexReport::Command { command } => {
            format!("index  msb is not in PATH; it knows this after `{}`\n", output::clean(command))
        }
        IndexReport::Failed { command, reason } => format!(
            "index  warning: msb failed ({}), and nothing else did; run `{}`\n",
            output::clean(reason),
            output::clean(command)
        ),
        IndexReport::Off => String::new(),
    }
}

/// What became of the head of a group, for people.
pub fn head_line(update: &HeadUpdate) -> String {
    let (group, head) = (&update.group, update.head.as_deref().unwrap_or("none"));
    let why = match update.case {
        HeadCase::Initialized => "it had none",
        HeadCase::Unchanged => "it is the head already",
        HeadCase::FastForwarded => "it descends from the head before",
        HeadCase::Diverged => "kept, because the new snapshot does not descend from it; --set-head selects the new one",
        HeadCase::UnknownAncestry => {
            "kept, because the new snapshot's parents are not all in the group; --set-head selects the new one"
        }
        HeadCase::Ambiguous => "kept, because several new snapshots could be the head; `snapcask head` selects one",
        HeadCase::Selected => "selected",
        HeadCase::Cleared => "the last member has gone",
    };
    format!("group  {group}, its head is {head}: {why}\n")
}

/// What became of an image's tag, and what changes it.
fn tag(report: &TagReport) -> String {
    let became = match (report.outcome, report.current) {
        (TagOutcome::Set, None) => "set".into(),
        (TagOutcome::Set, Some(before)) => format!("set; it meant {before} before"),
        (TagOutcome::Already, _) => "means this image already".into(),
        (TagOutcome::NotSet, _) => "not set; --trust-image-tags sets it".into(),
        (TagOutcome::Kept, Some(current)) => {
            format!("not set: it means {current} here; --trust-image-tags with --force changes it")
        }
        (TagOutcome::Kept, None) => {
            "not set: its file here is no image's metadata; --trust-image-tags with --force replaces it".into()
        }
    };
    format!("tag    {}  {became}\n", output::clean(&report.reference))
}

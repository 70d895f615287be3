//! `snapcask remove`.

use snapcask::{
    Result,
    remove::{RemoveOptions, remove},
    report::RemoveReport,
};

use super::{
    args::RemoveArgs,
    argument,
    import::{head_line, index_line},
    output, progress,
};

/// Runs the verb.
pub fn run(args: RemoveArgs) -> Result<()> {
    let there = "`snapcask delete` removes it there";
    args.snapshots.iter().try_for_each(|reference| argument::local(reference, there))?;
    let report = remove(&RemoveOptions {
        store: args.store.resolve()?,
        snapshots: args.snapshots,
        dry_run: args.dry_run,
        orphan_children: args.orphan_children,
        prune_image: args.prune_image,
        set_head: args.set_head,
        index: args.index.resolve(),
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

fn text(report: &RemoveReport) -> String {
    let verb = if report.dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for snapshot in &report.removed {
        text += &format!("{verb}  {}  {}\n", output::short(&snapshot.digest), output::clean(&snapshot.name));
    }
    for child in &report.orphaned {
        text += &format!("{}  {}\n", if report.dry_run { "would orphan" } else { "orphaned" }, output::clean(child));
    }
    for path in &report.cache_files {
        text += &format!("{verb}  {}\n", output::clean(&path.display().to_string()));
    }
    for line in &report.kept {
        text += &format!("kept   {}\n", output::clean(line));
    }
    for line in &report.mended {
        text += &format!("mended {}\n", output::clean(line));
    }
    text.extend(report.heads.iter().map(head_line));
    text += &report.index.as_ref().map(index_line).unwrap_or_default();
    text + &format!(
        "{}, at most {} on disk, in {}\n",
        output::count(report.removed.len(), "snapshot"),
        output::size(report.allocated_bytes),
        output::seconds(report.seconds)
    )
}

//! `snapcask remove`.

use snapcask::{
    Result,
    remove::{RemoveOptions, remove},
    report::RemoveReport,
};

use super::{args::RemoveArgs, output, progress};

/// Runs the verb.
pub fn run(args: RemoveArgs) -> Result<()> {
    let report = remove(&RemoveOptions {
        store: args.store.resolve()?,
        snapshots: args.snapshots,
        dry_run: args.dry_run,
        orphan_children: args.orphan_children,
        prune_image: args.prune_image,
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
    text + &format!(
        "{}, at most {} on disk, in {}\n",
        output::count(report.removed.len(), "snapshot"),
        output::size(report.allocated_bytes),
        output::seconds(report.seconds)
    )
}

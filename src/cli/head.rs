//! `snapcask head`.

use snapcask::{
    Result,
    head::{HeadOptions, head},
    report::HeadReport,
};

use super::{args::HeadArgs, argument, output, progress};

/// Runs the verb.
pub fn run(args: HeadArgs) -> Result<()> {
    argument::local(&args.selector, "a tag is what names a snapshot there")?;
    let report = head(&HeadOptions {
        store: args.store.resolve()?,
        selector: args.selector,
        progress: progress::for_output(&args.common),
    })?;
    if args.common.json { output::json(&report) } else { output::print(&text(&report)) }
}

fn text(report: &HeadReport) -> String {
    let mut text: String = report.mended.iter().map(|line| format!("mended {}\n", output::clean(line))).collect();
    let head = match (&report.head, &report.name) {
        (Some(id), Some(name)) => format!("{id}  {name}"),
        (Some(id), None) => id.clone(),
        (None, _) => "none".into(),
    };
    text += &format!("{}  head: {head}\n", report.group);
    if report.changed {
        text += &format!("{}  it was: {}\n", report.group, report.previous.as_deref().unwrap_or("none"));
    }
    text
}

//! `snapcask check`.

use snapcask::{
    Error, Result,
    check::{CheckOptions, PARENT_LEFT_OUT, REPAIR_REFUSED, Repairs, UNREADABLE, check},
    report::{CheckReport, Finding},
};

use super::{args::CheckArgs, import, output, progress, verify::findings};

/// Runs the verb: every finding is printed (with `--quiet` too), then they are an error.
pub fn run(args: CheckArgs) -> Result<()> {
    let repair = match args.repair_from.as_deref() {
        Some(source) => {
            Repairs::From(import::location(source, args.window.max_window, &|host| args.registry.options_for(host))?)
        }
        None if args.repair => Repairs::Groups,
        None => Repairs::Nothing,
    };
    let report = check(&CheckOptions {
        store: args.store.resolve()?,
        repair,
        index: args.index.resolve(),
        jobs: args.jobs.resolve(),
        progress: progress::for_output(&args.common),
    })?;
    if args.common.json {
        output::json(&report)?;
    } else {
        output::print(&findings(&report.findings))?;
        if !args.common.quiet {
            output::print(&findings(&report.notes))?;
            output::print(&summary(&report))?;
        }
    }
    match report.findings.len() {
        0 => Ok(()),
        // What could not be read may be as it should, and that it was not repaired says nothing more.
        _ if report.findings.iter().all(|finding| is_unreadable(finding) || finding.code == REPAIR_REFUSED) => {
            let count = report.findings.iter().filter(|finding| is_unreadable(finding)).count();
            Err(Error::Incomplete { count })
        }
        count => Err(Error::Findings { count }),
    }
}

fn is_unreadable(finding: &Finding) -> bool {
    UNREADABLE.contains(&finding.code)
}

/// What was repaired and checked, and whether it is good.
fn summary(report: &CheckReport) -> String {
    let mut text = String::new();
    for finding in &report.repaired {
        text += &format!("repaired  {}  {}\n", finding.code, output::clean(&finding.subject));
    }
    text += &report.index.as_ref().map(import::index_line).unwrap_or_default();
    let verdict = match report.findings.len() {
        0 if report.notes.iter().any(|note| note.code != PARENT_LEFT_OUT) => {
            "nothing wrong in what can be compared".into()
        }
        0 => "good".into(),
        n => output::count(n, "finding"),
    };
    let unrecorded = match report.snapshots - report.recorded {
        0 => String::new(),
        n => format!(" ({n} without a record of an import)"),
    };
    text + &format!(
        "{}: {verdict}; {}{unrecorded}, {} with {} of data, in {}\n",
        output::clean(&report.store.display().to_string()),
        output::count(report.snapshots, "snapshot"),
        output::count(report.files, "file"),
        output::size(report.data_bytes),
        output::seconds(report.seconds)
    )
}

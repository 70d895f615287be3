//! `snapcask verify`.

use snapcask::{Error, Result, check_bundle::verify_bundle};

use super::{args::VerifyArgs, import::location, output, progress};

/// Runs the verb: every finding is printed, then they are an error.
pub fn run(args: &VerifyArgs) -> Result<()> {
    let progress = progress::for_output(&args.common);
    let report = verify_bundle(&location(&args.source), args.deep, args.jobs.resolve(), progress)?;
    if args.common.json {
        output::json(&report);
    } else if !args.common.quiet {
        for finding in &report.findings {
            println!("{}  {}  {}", finding.code, finding.subject, finding.message);
        }
        println!(
            "{}: {} snapshots, {} blobs, {}, {} findings in {}",
            report.source,
            report.snapshots,
            report.blobs,
            output::size(report.blob_bytes),
            report.findings.len(),
            output::seconds(report.seconds)
        );
    }
    if report.findings.is_empty() {
        return Ok(());
    }
    let error = Error::Findings { count: report.findings.len() };
    if args.common.json {
        // The report is the JSON output; a second object would break it.
        eprintln!("snapcask: error: {error}");
        std::process::exit(error.exit_code().into());
    }
    Err(error)
}

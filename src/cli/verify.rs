//! `snapcask verify`.

use snapcask::{
    Error, Result,
    check_bundle::{BASE_NEEDED, READ_FAILED, VerifyOptions, verify},
    report::{Finding, VerifyReport},
};

use super::{args::VerifyArgs, import, output, progress};

/// Runs the verb: every finding is printed (with `--quiet` too: findings are errors), then they are an error.
pub fn run(args: &VerifyArgs) -> Result<()> {
    let window = args.window.max_window;
    let location = import::location(&args.source, window, &|host| args.registry.options_for(host))?;
    let report = verify(&VerifyOptions {
        source: location,
        bases: import::locations(&args.base, window, &|host| args.registry.options_for(host))?,
        deep: args.deep,
        head_only: args.head_only,
        jobs: args.jobs.resolve(),
        progress: progress::for_output(&args.common),
    })?;
    if args.common.json {
        output::json(&report)?;
    } else {
        output::print(&findings(&report.findings))?;
        if !args.common.quiet {
            output::print(&summary(&report))?;
        }
    }
    match report.findings.len() {
        0 => Ok(()),
        // A disk or a registry that fails says nothing about the bundle.
        count if report.findings.iter().all(|f| f.code == BASE_NEEDED) => Err(Error::NotWhole { count }),
        count if report.findings.iter().all(|f| matches!(f.code, READ_FAILED | BASE_NEEDED)) => {
            Err(Error::Incomplete { count })
        }
        count => Err(Error::Findings { count }),
    }
}

/// A line for every finding: its code, what it is about, what is wrong.
pub fn findings(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.code.len()).max().unwrap_or(0);
    findings
        .iter()
        .map(|f| format!("{:width$}  {}  {}\n", f.code, output::clean(&f.subject), output::clean(&f.message)))
        .collect()
}

/// What was checked, and whether it is good.
pub fn summary(report: &VerifyReport) -> String {
    let only_left_out = report.findings.iter().all(|f| f.code == BASE_NEEDED);
    let verdict = match report.findings.len() {
        0 => "good".into(),
        n if only_left_out => format!("good, without {} that it leaves out", output::count(n, "layer")),
        n => output::count(n, "finding"),
    };
    let depth = match (report.deep, report.decoded) {
        (true, true) => "every file decoded",
        (true, false) => "not every file decoded",
        (false, _) => "not decoded (--deep does)",
    };
    format!(
        "{}: {verdict}; {}, {} of {}, {depth}, in {}\n",
        output::clean(&report.source),
        output::count(report.snapshots, "snapshot"),
        output::count(report.blobs, "blob"),
        output::size(report.blob_bytes),
        output::seconds(report.seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_is_one_line() {
        let finding = |code, message: &str| Finding { code, subject: "sha256:00".into(), message: message.to_owned() };
        let mut report = VerifyReport {
            source: "b.tar".into(),
            deep: true,
            decoded: true,
            snapshots: 1,
            blobs: 3,
            blob_bytes: 2048,
            left_out: Vec::new(),
            findings: vec![finding("blob-missing", "no\nsuch blob"), finding("root", "differs")],
            seconds: 0.5,
        };
        assert_eq!(
            findings(&report.findings),
            "blob-missing  sha256:00  no\\nsuch blob\nroot          sha256:00  differs\n"
        );
        report.findings.clear();
        assert_eq!(summary(&report), "b.tar: good; 1 snapshot, 3 blobs of 2.0 KiB, every file decoded, in 0.50 s\n");
        report.decoded = false;
        assert!(summary(&report).contains(", not every file decoded, "));
    }
}

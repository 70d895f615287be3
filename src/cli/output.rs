//! Sizes and times for people, reports for programs.

use serde::Serialize;
use snapcask::digest::Digest;

/// `601.2 MiB`.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// `0.95 s`.
pub fn seconds(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

/// `sha256:` and 12 digits.
pub fn short(digest: &Digest) -> String {
    format!("sha256:{}", digest.short())
}

/// Prints the report as JSON on standard output.
pub fn json(report: &impl Serialize) {
    match serde_json::to_string_pretty(report) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("snapcask: error: cannot print the report: {error}"),
    }
}

//! What the verbs print: sizes and times for people, reports for programs.
//!
//! Text from a bundle or a store (an image's reference, a path, a time) was written by others. Nothing reaches a
//! terminal with control characters in it: they could move the cursor, change the title or forge a line.

use std::io::{ErrorKind, Write};

use serde::Serialize;
use snapcask::{Error, Result, digest::Digest, model::SnapshotIdentity};

/// `601.2 MiB`; below one KiB, `17 B`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        // What would be shown as 1024.0 is shown as 1.0 of the next unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `0.95 s`, `12.3 s`, `3 min 05 s`, `2 h 04 min`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.995 => format!("{seconds:.2} s"),
        _ if seconds < 59.95 => format!("{seconds:.1} s"),
        0..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `1 snapshot`, `2 snapshots`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// `sha256:` and 12 digits.
pub fn short(digest: &Digest) -> String {
    format!("sha256:{}", digest.short())
}

/// The same of a snapshot that is named by its digest; an id as it is.
pub fn short_identity(identity: &SnapshotIdentity) -> String {
    match identity {
        SnapshotIdentity::Digest(digest) => short(digest),
        SnapshotIdentity::Id(id) => id.clone(),
    }
}

/// One field: control characters and those that reorder text are shown as escapes, line breaks too.
pub fn clean(text: &str) -> String {
    escape(text, false)
}

fn escape(text: &str, keep_lines: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && !(keep_lines && c == '\n')) || reorders {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Prints text on standard output. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    write(&mut std::io::stdout().lock(), "standard output", escape(text, true).as_bytes())
}

/// Prints a program's text on standard output, as it is: none of it comes from a bundle or a store.
pub fn bytes(text: &[u8]) -> Result<()> {
    write(&mut std::io::stdout().lock(), "standard output", text)
}

/// Prints text on standard error.
pub fn print_error(text: &str) {
    // If standard error is gone, there is nobody to tell.
    let _ = write(&mut std::io::stderr().lock(), "standard error", escape(text, true).as_bytes());
}

/// A report as JSON, indented by two spaces, with a line break at its end.
pub fn to_json(report: &impl Serialize) -> Result<String> {
    match serde_json::to_string_pretty(report) {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(Error::io("print as JSON", "the report", error.into())),
    }
}

/// Prints a report as JSON on standard output.
pub fn json(report: &impl Serialize) -> Result<()> {
    write(&mut std::io::stdout().lock(), "standard output", to_json(report)?.as_bytes())
}

fn write(to: &mut impl Write, name: &'static str, bytes: &[u8]) -> Result<()> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::io("write to", name, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (630_404_096, "601.2 MiB"),
            (9 << 30, "9.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_for_people() {
        for (value, text) in [
            (0.0, "0.00 s"),
            (0.954, "0.95 s"),
            (9.999, "10.0 s"),
            (59.94, "59.9 s"),
            (59.99, "1 min 00 s"),
            (185.2, "3 min 05 s"),
            (7440.0, "2 h 04 min"),
        ] {
            assert_eq!(seconds(value), text);
        }
        assert_eq!((count(1, "blob"), count(0, "blob")), ("1 blob".into(), "0 blobs".into()));
    }

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(clean("a\x1b[2J\nü"), "a\\u{1b}[2J\\nü");
        assert_eq!(escape("two\nlines\r", true), "two\nlines\\r");
        assert_eq!(clean("x\u{202e}cod.exe"), "x\\u{202e}cod.exe");
    }
}

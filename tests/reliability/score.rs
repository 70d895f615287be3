//! What a row counts, and its page.

use std::{fmt::Write, fs, path::Path, time::Instant};

/// How much of a row is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// A sample, for every build.
    Short,
    /// All of it.
    Full,
}

impl Effort {
    /// One of the two.
    pub fn pick<T>(self, short: T, full: T) -> T {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }
}

/// The seed of all randomness.
pub const SEED: u64 = 20_260_501;

/// One line of a row: what was done how often, and how often it went wrong.
pub struct Line {
    what: String,
    filesystem: String,
    count: u64,
    failures: Vec<String>,
}

impl Line {
    /// One case.
    pub fn case(&mut self, name: impl std::fmt::Display, result: Result<(), String>) {
        self.count += 1;
        if let Err(reason) = result {
            self.failures.push(format!("{name}: {reason}"));
        }
    }
}

/// A row being measured.
#[derive(Default)]
pub struct Row {
    title: &'static str,
    lines: Vec<Line>,
    notes: Vec<String>,
    controls: Vec<(String, bool)>,
    lacks: Option<String>,
    /// Whether each line is told when it begins: in full, a row takes up to an hour.
    told: bool,
}

impl Row {
    pub fn title(&mut self, title: &'static str) {
        self.title = title;
    }

    /// Adds a line for what is done on the filesystem of `place`.
    pub fn line(&mut self, what: impl Into<String>, place: &Path) -> &mut Line {
        let (what, filesystem) = (what.into(), filesystem(place));
        if self.told {
            eprintln!("{what}");
        }
        self.lines.push(Line { what, filesystem, count: 0, failures: Vec::new() });
        self.lines.last_mut().unwrap()
    }

    /// Something that the page should say.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// An experiment that must fail, or the row shows nothing.
    pub fn control(&mut self, what: impl Into<String>, failed: bool) {
        self.controls.push((what.into(), failed));
    }

    /// The row cannot run here.
    pub fn lacks(&mut self, what: impl Into<String>) {
        self.lacks = Some(what.into());
    }
}

/// Runs a row, prints it and writes its page. True if it is as it should be.
pub fn measure(number: u8, effort: Effort, run: impl FnOnce(Effort, &mut Row)) -> bool {
    let started = Instant::now();
    let mut row = Row { told: effort == Effort::Full, ..Row::default() };
    run(effort, &mut row);
    let seconds = started.elapsed().as_secs_f64();
    let page = page(number, effort, &row, seconds);
    println!("{page}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/reliability").join(effort.pick("short", "full"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("row-{number:02}.md")), page).unwrap();
    let mut good = true;
    for line in &row.lines {
        for failure in line.failures.iter().take(20) {
            good = false;
            println!("FAILED: row {number}: {}: {failure}", line.what);
        }
    }
    for (control, _) in row.controls.iter().filter(|(_, failed)| !failed) {
        good = false;
        println!("FAILED: row {number}: the control did not fail: {control}");
    }
    if let Some(lack) = &row.lacks {
        println!("NOT RUN: row {number}: {lack}");
        good &= std::env::var_os("CI").is_none_or(|ci| ci != "true");
    }
    good
}

fn page(number: u8, effort: Effort, row: &Row, seconds: f64) -> String {
    let mut page = format!("## Row {number}. {}\n\n", row.title);
    if let Some(lack) = &row.lacks {
        let _ = writeln!(page, "Not run: {lack}.\n");
    }
    if !row.lines.is_empty() {
        page.push_str("| what | filesystem | N | failures |\n|---|---|--:|--:|\n");
    }
    for line in &row.lines {
        let _ = writeln!(page, "| {} | {} | {} | {} |", line.what, line.filesystem, line.count, line.failures.len());
    }
    page.push('\n');
    for (control, failed) in &row.controls {
        let _ = writeln!(
            page,
            "- Control: {control}: {}.",
            if *failed { "it fails, as it must" } else { "IT DOES NOT FAIL" }
        );
    }
    for note in &row.notes {
        let _ = writeln!(page, "- {note}");
    }
    let full = effort.pick("", " --full");
    let _ = writeln!(
        page,
        "- Seed {SEED}; {}; {seconds:.0} s. Again: `cargo test --test reliability --{full} {number}`",
        kernel()
    );
    page
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} {}", release.trim(), std::env::consts::ARCH)
}

/// The type of the filesystem that a path is on.
fn filesystem(path: &Path) -> String {
    match rustix::fs::statfs(path).map(|s| s.f_type) {
        Ok(0xef53) => "ext4".into(),
        Ok(0x5846_5342) => "XFS".into(),
        Ok(0x0102_1994) => "tmpfs".into(),
        Ok(0x9123_683e) => "Btrfs".into(),
        Ok(0x794c_7630) => "overlayfs".into(),
        Ok(other) => format!("{other:#x}"),
        Err(error) => error.to_string(),
    }
}

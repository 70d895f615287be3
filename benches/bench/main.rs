//! `make bench`: snapcask beside the public peers that are installed, in one run, alternating; a table of ratios.
//!
//! ```text
//! cargo bench --bench bench -- [--runs N] [--dir DIR] [--write] [SECTION ...]
//!
//!   --runs N    runs of each command; the median counts (5)
//!   --dir DIR   where to work: DIR/snapcask-bench is made, used again, and keeps the chain (default: $TMPDIR, else /tmp)
//!   --write     put the table into docs/performance.md
//!   SECTION     one, chain, xfs, verify, spread, many, registry; all if none is named
//! ```
//!
//! Takes root (loop mounts), GNU tar, zstd, openssl, curl; with mkfs.xfs, docker-registry and msb (crate
//! `microsandbox-cli`) more is compared, and what is missing is said.

mod contest;
mod dataset;
mod measure;
mod registry;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use contest::Bench;

const SECTIONS: [&str; 7] = ["one", "chain", "xfs", "verify", "spread", "many", "registry"];

fn main() {
    let mut runs = 5;
    let mut folder = std::env::temp_dir();
    let mut write = false;
    let mut wanted: Vec<String> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--runs" => runs = arguments.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).expect("--runs N"),
            "--dir" => folder = arguments.next().expect("--dir DIR").into(),
            "--write" => write = true,
            section if SECTIONS.contains(&section) => wanted.push(section.into()),
            other => panic!("unknown argument {other}; sections are {}", SECTIONS.join(", ")),
        }
    }
    let all = wanted.is_empty();
    let bench = Bench::new(folder.join("snapcask-bench"), runs);
    let mut rows = Vec::new();
    for section in SECTIONS.into_iter().filter(|s| all || wanted.iter().any(|w| w == s)) {
        eprintln!("{section}");
        rows.extend(match section {
            "one" => bench.one(),
            "chain" => bench.chain(),
            "xfs" => bench.xfs(),
            "verify" => bench.verify(),
            "spread" => bench.spread(),
            "many" => bench.many(),
            _ => registry::registry(&bench),
        });
    }
    rows.extend(bench.memory());
    let text = format!("{}\n{}", machine(&bench.folder, runs), table::markdown(&rows));
    println!("{text}");
    if write {
        put(&text);
    }
}

/// Replaces what stands between the marks in the page.
fn put(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- figures -->\n").expect("the first mark");
    let (_, after) = rest.split_once("<!-- end of figures -->").expect("the second mark");
    fs::write(&path, format!("{before}<!-- figures -->\n{text}<!-- end of figures -->{after}")).unwrap();
}

fn machine(folder: &Path, runs: usize) -> String {
    let first_line = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default().trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let filesystem = first_line("stat", &["-f", "-c", "%T", &folder.display().to_string()]);
    let tools: Vec<String> = [
        first_line("zstd", &["--version"]),
        first_line("tar", &["--version"]),
        first_line("openssl", &["version"]),
        contest::msb().map_or(String::new(), |msb| first_line(&msb.display().to_string(), &["--version"])),
    ]
    .into_iter()
    .map(|tool| tool.trim_matches('*').trim().to_owned())
    .filter(|tool| !tool.is_empty())
    .collect();
    format!(
        "{cpu}, {cores} cores, Linux {}, {filesystem}; {}; medians of {runs}.\n",
        first_line("uname", &["-r"]),
        tools.join("; ")
    )
}

/// The first of these programs that is installed.
fn installed(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|p| p.is_file())
}

//! The arguments of every verb.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use snapcask::{
    Error, Result,
    export::{Compression, Form},
    model::GroupName,
    reference::RegistryReference,
    store::index::Index,
    zstd_input::MaxWindow,
};

use super::{
    copy::{CopyArgs, PullArgs, PushArgs},
    login::{LoginArgs, LogoutArgs},
    registry::{DeleteArgs, MountArg, RegistryArgs, TagsArgs},
};

/// The process's contract, under every verb's help.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 verification failed, 4 not found, \
5 already exists, 130 interrupted, 143 told to end, 129 hung up";

/// The same of `verify`.
const VERIFY_EXIT_CODES: &str = "Exit codes: 0 good, 1 failed, or something is left out or could not be read and the rest is good, \
2 usage, 3 verification failed, 4 not found, 130 interrupted, 143 told to end, 129 hung up";

/// The default of `--max-files`.
const MAX_FILES: u64 = 100_000;

/// Most worker threads.
const MAX_JOBS: u16 = 256;

/// Packs microVM snapshots into verified OCI bundles, and restores them.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Subcommand)]
pub enum Verb {
    /// Pack a snapshot into a bundle
    #[command(after_help = EXIT_CODES)]
    Export(ExportArgs),
    /// Verify a bundle and place its snapshots into a store
    #[command(after_help = EXIT_CODES)]
    Import(ImportArgs),
    /// Make a bundle of an archive that msb exported, without a store
    #[command(after_help = EXIT_CODES)]
    Convert(ConvertArgs),
    /// Push a bundle, or a snapshot straight from the store, to a registry
    #[command(after_help = EXIT_CODES)]
    Push(PushArgs),
    /// Pull a bundle from a registry
    #[command(after_help = EXIT_CODES)]
    Pull(PullArgs),
    /// Copy a bundle between any two of directory, tar, tar.zst, pipe and registry
    #[command(after_help = EXIT_CODES)]
    Copy(CopyArgs),
    /// List the tags of a repository
    #[command(after_help = EXIT_CODES)]
    Tags(TagsArgs),
    /// Delete a snapshot from a repository, never a parent from under its children unless told
    #[command(after_help = EXIT_CODES)]
    Delete(DeleteArgs),
    /// Check credentials for a registry and keep them where other tools keep theirs
    #[command(after_help = EXIT_CODES)]
    Login(LoginArgs),
    /// Forget the credentials of a registry
    #[command(after_help = EXIT_CODES)]
    Logout(LogoutArgs),
    /// Check every blob, the graph and the tables of a bundle; list all findings
    #[command(after_help = VERIFY_EXIT_CODES)]
    Verify(VerifyArgs),
    /// Show the chain, layers and files of a bundle or of a snapshot in a store
    #[command(after_help = EXIT_CODES)]
    Inspect(InspectArgs),
    /// Show the snapshots of a store as a tree
    #[command(after_help = EXIT_CODES)]
    List(ListArgs),
    /// Check a store: descriptors, payloads, parents, leftovers, image cache; list all findings, repair from a bundle
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Send a snapshot to another store, over ssh or on this machine: only what is not there yet
    #[command(after_help = EXIT_CODES)]
    Sync(SyncArgs),
    /// Remove snapshots from a store, never a parent from under its children unless told
    #[command(after_help = EXIT_CODES)]
    Remove(RemoveArgs),
    /// Read or select the head of a group: the member that the group's name alone means
    #[command(after_help = EXIT_CODES)]
    Head(HeadArgs),
    /// Make a store with three snapshots, export, verify, import and compare it
    #[command(after_help = EXIT_CODES)]
    Demo(DemoArgs),
    /// Print what makes a shell complete the verbs and options
    #[command(after_help = EXIT_CODES)]
    Completions(CompletionsArgs),
}

impl Verb {
    /// Whether the same command goes on where it stopped, after a connection broke.
    pub fn goes_on(&self) -> bool {
        match self {
            Self::Push(_) | Self::Pull(_) => true,
            Self::Import(a) => a.sources.iter().any(|source| is_registry(source)),
            _ => false,
        }
    }

    /// Whether output is JSON.
    pub fn json(&self) -> bool {
        match self {
            Self::Export(a) => a.common.json,
            Self::Convert(a) => a.common.json,
            Self::Import(a) => a.common.json,
            Self::Push(a) => a.common.json,
            Self::Pull(a) => a.more.common.json,
            Self::Copy(a) => a.more.common.json,
            Self::Tags(a) => a.common.json,
            Self::Delete(a) => a.common.json,
            Self::Login(a) => a.common.json,
            Self::Logout(a) => a.common.json,
            Self::Verify(a) => a.common.json,
            Self::Inspect(a) => a.common.json,
            Self::List(a) => a.common.json,
            Self::Check(a) => a.common.json,
            Self::Sync(a) => a.common.json,
            Self::Remove(a) => a.common.json,
            Self::Head(a) => a.common.json,
            Self::Demo(a) => a.common.json,
            Self::Completions(_) => false,
        }
    }
}

impl Verb {
    /// Whether standard output is the bundle's; then what else is said goes to standard error.
    pub fn writes_to_stdout(&self) -> bool {
        match self {
            Self::Export(a) => a.output.as_ref().is_some_and(|output| output == "-"),
            Self::Convert(a) => a.output == *"-",
            Self::Pull(a) => a.output == *"-",
            Self::Copy(a) => a.output == *"-",
            _ => false,
        }
    }

    /// What to do when a registry could not be reached: only what goes to a registry keeps what has arrived.
    pub fn again(&self) -> &'static str {
        let resumed = match self {
            Self::Push(_) => true,
            Self::Export(a) => a.output.as_ref().is_some_and(|output| is_registry(output)),
            Self::Convert(a) => is_registry(&a.output),
            Self::Pull(_) => true,
            Self::Copy(a) => is_registry(&a.output),
            Self::Import(a) => a.sources.iter().any(|source| is_registry(source)),
            _ => return "",
        };
        match resumed {
            true => ". Run the same command again; it goes on where it stopped",
            false => ". Run the same command again",
        }
    }
}

fn is_registry(argument: &OsStr) -> bool {
    argument.to_str().is_some_and(RegistryReference::is_meant_by)
}

// A heading goes on for every option after it, until another is set.

/// Options of every verb.
#[derive(Args)]
#[command(next_help_heading = None::<&'static str>)]
pub struct Common {
    /// Print a JSON report (schemas/) instead of text
    #[arg(long)]
    pub json: bool,
    /// No progress and no summary; what `list` and `inspect` are asked for and what `verify` and `check` find is still printed
    #[arg(long, short)]
    pub quiet: bool,
    /// How progress is told on standard error [default: bars on a terminal]
    #[arg(long, value_enum, value_name = "HOW")]
    pub progress: Option<ProgressArg>,
}

/// How progress is told.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    /// Bars, also with --json
    Bars,
    /// One JSON object a line (schemas/progress-event.schema.json)
    Json,
    /// Not at all
    None,
}

/// Where the store is.
#[derive(Args)]
#[command(next_help_heading = None::<&'static str>)]
pub struct StoreArg {
    /// The store: the folder that holds snapshots/ and cache/ [default: $MSB_HOME, else ~/.microsandbox]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

impl StoreArg {
    /// The store's folder.
    pub fn resolve(&self) -> Result<PathBuf> {
        let from = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        self.store
            .clone()
            .or_else(|| from("MSB_HOME"))
            .or_else(|| from("HOME").map(|home| home.join(".microsandbox")))
            .ok_or_else(|| {
                Error::Usage("neither --store, $MSB_HOME nor $HOME says where the store is; use --store DIR".into())
            })
    }
}

/// Whether msb's database is told.
#[derive(Args)]
#[command(next_help_heading = None::<&'static str>)]
pub struct IndexArg {
    /// Do not run `msb`, which makes its database know what has changed ($MSB, else the first in $PATH)
    #[arg(long)]
    pub no_reindex: bool,
}

impl IndexArg {
    /// How msb's database learns of changes.
    pub fn resolve(&self) -> Index {
        let variable = |name| std::env::var_os(name);
        match self.no_reindex {
            true => Index::Off,
            false => Index::find(variable("MSB").as_deref(), variable("PATH").as_deref()),
        }
    }
}

/// How much memory a zstd stream may take.
#[derive(Args)]
#[command(next_help_heading = None::<&'static str>)]
pub struct WindowArg {
    /// Largest zstd window of a .tar.zst, which takes so much memory: up to 2GiB, as `zstd --long=31` makes it
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = parse_window)]
    pub max_window: MaxWindow,
}

/// How many threads.
#[derive(Args)]
#[command(next_help_heading = None::<&'static str>)]
pub struct JobsArg {
    /// Worker threads, 1 to 256 [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_JOBS)))]
    pub jobs: Option<u16>,
}

impl JobsArg {
    /// The number of worker threads.
    pub fn resolve(&self) -> usize {
        match self.jobs {
            Some(jobs) => jobs.into(),
            None => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_JOBS.into()),
        }
    }
}

/// The forms on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub enum FormArg {
    /// A tar in zstd frames
    #[value(name = "tar.zst")]
    TarZst,
    /// A plain tar
    Tar,
    /// An OCI layout directory
    Dir,
}

impl From<FormArg> for Form {
    fn from(form: FormArg) -> Self {
        match form {
            FormArg::TarZst => Self::TarZst,
            FormArg::Tar => Self::Tar,
            FormArg::Dir => Self::Dir,
        }
    }
}

/// `export`.
#[derive(Args)]
pub struct ExportArgs {
    /// A name, path, snapshot digest (or 12 and more hex digits of it), snapshot_id, GROUP:MEMBER or GROUP
    pub snapshot: String,
    /// NAME.tar.zst, NAME.tzst, NAME.tar, DIR/ (or a folder that is empty or a layout), oci://HOST/REPOSITORY[:TAG], or `-` for
    /// a pipe
    #[arg(short, long, value_name = "DEST", required_unless_present = "onto")]
    pub output: Option<OsString>,
    /// Add to this layout directory instead: its blobs and tags stay
    #[arg(long, value_name = "LAYOUT", conflicts_with_all = ["output", "plain_tar", "format"])]
    pub onto: Option<PathBuf>,
    /// Pack all ancestors too; layers become deltas
    #[arg(long)]
    pub with_parents: bool,
    /// Pack the image-cache files that the snapshots boot from
    #[arg(long)]
    pub with_image: bool,
    /// Leave out the layers that BASE has: an ancestor in the store by its name (or SNAPSHOT itself), a bundle (./PATH or
    /// NAME.tar.zst, as for `push`), or oci://HOST/REPOSITORY[:TAG]. Packs the ancestors' descriptions too
    #[arg(long, value_name = "BASE")]
    pub since: Vec<OsString>,
    /// Write a plain tar: where DEST's name does not say, or to a pipe
    #[arg(long)]
    pub plain_tar: bool,
    /// The bundle's form, whatever DEST is called
    #[arg(long, value_enum)]
    pub format: Option<FormArg>,
    /// Pack every snapshot whole
    #[arg(long)]
    pub no_delta: bool,
    /// Of the layers: zstd[:LEVEL] with LEVEL 1 to 19, or none
    #[arg(long, value_name = "zstd[:LEVEL]|none", default_value = "zstd:3", value_parser = parse_compression)]
    pub compression: Compression,
    /// The head's tag [default: the snapshot's name]
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// Replace an existing DEST; in a registry, move parents' tags that name other manifests; with --onto, any tags
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub window: WindowArg,
    #[command(flatten)]
    pub store: StoreArg,
    #[command(flatten)]
    pub jobs: JobsArg,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub mount: MountArg,
    #[command(flatten)]
    pub common: Common,
}

/// `convert`.
#[derive(Args)]
pub struct ConvertArgs {
    /// An archive of `msb snapshot export` (told by content), or `-` for standard input; several that complete each other
    #[arg(value_name = "ARCHIVE", required = true)]
    pub sources: Vec<OsString>,
    /// An archive that has what ARCHIVE leaves out; its own snapshots are not converted
    #[arg(long, value_name = "ARCHIVE")]
    pub base: Vec<OsString>,
    /// NAME.tar.zst, NAME.tzst, NAME.tar, DIR/ (or a folder that is empty or a layout), oci://HOST/REPOSITORY[:TAG], or `-` for
    /// a pipe
    #[arg(short, long, value_name = "DEST")]
    pub output: OsString,
    /// Leave the ancestors out
    #[arg(long)]
    pub head_only: bool,
    /// Write a plain tar: where DEST's name does not say, or to a pipe
    #[arg(long)]
    pub plain_tar: bool,
    /// The bundle's form, whatever DEST is called
    #[arg(long, value_enum)]
    pub format: Option<FormArg>,
    /// Pack every snapshot whole
    #[arg(long)]
    pub no_delta: bool,
    /// Of the layers: zstd[:LEVEL] with LEVEL 1 to 19, or none
    #[arg(long, value_name = "zstd[:LEVEL]|none", default_value = "zstd:3", value_parser = parse_compression)]
    pub compression: Compression,
    /// The head's tag [default: the snapshot's name]
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// Replace an existing DEST; in a registry, move parents' tags that name other manifests
    #[arg(long)]
    pub force: bool,
    /// Most bytes of data to unpack, such as 10GiB, 500MB or plain bytes [default: the free space beside DEST]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_bytes: Option<u64>,
    /// Most files to unpack
    #[arg(long, value_name = "N", default_value_t = MAX_FILES)]
    pub max_files: u64,
    #[command(flatten)]
    pub window: WindowArg,
    #[command(flatten)]
    pub jobs: JobsArg,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub common: Common,
}

/// `import`.
#[derive(Args)]
pub struct ImportArgs {
    /// A layout directory, tar, tar.zst or tar.gz, an archive of msb (told by content), oci://HOST/REPOSITORY[:TAG][@DIGEST], or `-`
    /// for standard input; several that complete each other, in any order
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<OsString>,
    /// A bundle, or an archive, that has what SOURCE leaves out; its own snapshots are not imported
    #[arg(long, value_name = "SOURCE")]
    pub base: Vec<OsString>,
    /// Place snapshots here instead of STORE/snapshots
    #[arg(long, value_name = "DIR")]
    pub dest: Option<PathBuf>,
    /// Which head, when the bundle has several
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// Name for the head
    #[arg(long)]
    pub name: Option<String>,
    /// Leave the ancestors out
    #[arg(long)]
    pub head_only: bool,
    /// Group that new snapshots of msb 0.7 join, made where it is missing [default: a new one, msb-XXXXXXXX]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Make the imported head the head of its group, whatever that was
    #[arg(long)]
    pub set_head: bool,
    /// Replace snapshots and cache files that are there and different; nothing else, and no parent of snapshots that stay
    #[arg(long)]
    pub force: bool,
    /// With --force: replace a parent even if its children stay
    #[arg(long, requires = "force")]
    pub orphan_children: bool,
    /// Let the bundle say what the tags of its images mean here, such as alpine:latest; with --force, also of tags that mean
    /// something else
    #[arg(long)]
    pub trust_image_tags: bool,
    /// Do not verify recorded SHA-256 integrity, which costs the logical size
    #[arg(long)]
    pub skip_recorded: bool,
    /// Read and verify the layers too whose snapshots are installed already
    #[arg(long)]
    pub verify_source: bool,
    /// Most bytes of data to restore, such as 10GiB, 500MB or plain bytes [default: the disk's free space]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_bytes: Option<u64>,
    /// Most files to restore
    #[arg(long, value_name = "N", default_value_t = MAX_FILES)]
    pub max_files: u64,
    #[command(flatten)]
    pub window: WindowArg,
    #[command(flatten)]
    pub index: IndexArg,
    #[command(flatten)]
    pub store: StoreArg,
    #[command(flatten)]
    pub jobs: JobsArg,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub common: Common,
}

/// `verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// A layout directory, tar, tar.zst or tar.gz, an archive of msb, oci://HOST/REPOSITORY[:TAG][@DIGEST], or `-` for standard input
    pub source: OsString,
    /// Decode every layer and compare every file's root; needs scratch space in $TMPDIR
    #[arg(long)]
    pub deep: bool,
    /// A bundle that has blobs which SOURCE leaves out
    #[arg(long, value_name = "SOURCE")]
    pub base: Vec<OsString>,
    /// The heads alone, as `import --head-only` restores them: for a bundle that was copied without the ancestors' manifests
    #[arg(long)]
    pub head_only: bool,
    #[command(flatten)]
    pub window: WindowArg,
    #[command(flatten)]
    pub jobs: JobsArg,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub common: Common,
}

/// `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// A name means a snapshot of the store. A bundle or an archive of msb: ./PATH, NAME.tar, .tar.zst, .tzst, .tar.gz, .msb,
    /// oci://..., or `-` for standard input
    #[arg(value_name = "SOURCE|SNAPSHOT")]
    pub what: OsString,
    #[command(flatten)]
    pub window: WindowArg,
    #[command(flatten)]
    pub store: StoreArg,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub common: Common,
}

/// `list`.
#[derive(Args)]
pub struct ListArgs {
    /// With --json: the files of the image cache too, for `sync`
    #[arg(long, hide = true, requires = "json")]
    pub image_files: bool,
    /// Only the members of this group of msb
    #[arg(long, value_name = "NAME")]
    pub group: Option<GroupName>,
    #[command(flatten)]
    pub store: StoreArg,
    #[command(flatten)]
    pub common: Common,
}

/// `check`.
#[derive(Args)]
pub struct CheckArgs {
    /// Mend what needs no bundle: files of groups that an earlier snapcask wrote, missing locks, heads that are gone
    #[arg(long)]
    pub repair: bool,
    /// Take what is bad from this bundle (as for `import`), where it holds the very same; others wait meanwhile
    #[arg(long, value_name = "SOURCE")]
    pub repair_from: Option<OsString>,
    #[command(flatten)]
    pub window: WindowArg,
    #[command(flatten)]
    pub index: IndexArg,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub store: StoreArg,
    #[command(flatten)]
    pub jobs: JobsArg,
    #[command(flatten)]
    pub common: Common,
}

/// `sync`.
#[derive(Args)]
pub struct SyncArgs {
    /// A name, path, snapshot digest (or 12 and more hex digits of it), snapshot_id, GROUP:MEMBER or GROUP
    pub snapshot: String,
    /// ssh://[USER@]HOST[:PORT][/STORE], or the path of another store
    #[arg(value_name = "DEST")]
    pub dest: OsString,
    /// Send the image-cache files too that the snapshots boot from
    #[arg(long)]
    pub with_image: bool,
    /// Group there for snapshots of generation `final`
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Replace what is there and different; sends everything
    #[arg(long)]
    pub force: bool,
    /// Let the image tags of the snapshots get a meaning there that they do not have yet; with --force, another one
    #[arg(long)]
    pub trust_image_tags: bool,
    /// Of the layers: zstd[:LEVEL] with LEVEL 1 to 19, or none
    #[arg(long, value_name = "zstd[:LEVEL]|none", default_value = "zstd:3", value_parser = parse_compression)]
    pub compression: Compression,
    /// The command that reaches the host, with its first arguments, separated by spaces
    #[arg(long, value_name = "COMMAND", default_value = "ssh")]
    pub ssh: String,
    /// The program on the host
    #[arg(long, value_name = "PATH", default_value = "snapcask")]
    pub remote_snapcask: String,
    #[command(flatten)]
    pub store: StoreArg,
    #[command(flatten)]
    pub jobs: JobsArg,
    #[command(flatten)]
    pub common: Common,
}

/// `remove`.
#[derive(Args)]
pub struct RemoveArgs {
    /// Names, paths, digests (or 12 and more hex digits of them), snapshot_ids, GROUP:MEMBER or GROUP for its head
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// Say only what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Remove a parent even if children stay; they can still be used, but not exported with their parents
    #[arg(long)]
    pub orphan_children: bool,
    /// Make MEMBER the head of a group whose head is removed while others stay
    #[arg(long, value_name = "MEMBER")]
    pub set_head: Option<String>,
    /// Remove the image-cache files too that no other snapshot, no sandbox of msb and no other cached image needs
    #[arg(long)]
    pub prune_image: bool,
    #[command(flatten)]
    pub index: IndexArg,
    #[command(flatten)]
    pub store: StoreArg,
    #[command(flatten)]
    pub common: Common,
}

/// `head`.
#[derive(Args)]
pub struct HeadArgs {
    /// A group, to read its head; GROUP:MEMBER, to make that member the head
    #[arg(value_name = "GROUP[:MEMBER]")]
    pub selector: String,
    #[command(flatten)]
    pub store: StoreArg,
    #[command(flatten)]
    pub common: Common,
}

/// `demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// A new or empty folder
    #[arg(value_name = "DIR", default_value = "snapcask-demo")]
    pub dir: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

/// `completions`.
#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `zstd`, `zstd:LEVEL` or `none`.
pub fn parse_compression(text: &str) -> std::result::Result<Compression, String> {
    match text.split_once(':') {
        None if text == "none" => Ok(Compression::None),
        None if text == "zstd" => Ok(Compression::Zstd(3)),
        Some(("zstd", level)) => match level.parse() {
            Ok(level @ 1..=19) => Ok(Compression::Zstd(level)),
            _ => Err(format!("the level {level:?} is not 1 to 19")),
        },
        _ => Err("it is neither zstd, zstd:LEVEL nor none".into()),
    }
}

/// Bytes, or a whole number of a unit: KiB, MiB, ... are powers of 1024 (K, M, ... too), kB, MB, ... of 1000.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        other => return Err(format!("unknown unit {other:?}; use KiB, MiB, GiB, TiB, kB, MB, GB or TB")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(|| format!("{text:?} is no size such as 10GiB"))
}

fn parse_window(text: &str) -> std::result::Result<MaxWindow, String> {
    match parse_size(text)? {
        size if size > MaxWindow::MOST.0 => Err(format!("a window has at most {} bytes", MaxWindow::MOST.0)),
        size => Ok(MaxWindow(size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn only_registry_options_stand_under_registry() {
        use clap::CommandFactory;
        let ours = "plain-http tls ca-file cert key insecure mount-from chunk-size cache-max timeout retries \
                    username password-stdin from-username from-password-stdin to-username to-password-stdin";
        for verb in Cli::command().get_subcommands() {
            for option in verb.get_arguments() {
                let under = option.get_help_heading() == Some("Registry");
                let name = option.get_long().unwrap_or_default();
                assert_eq!(under, ours.split(' ').any(|one| one == name), "{} --{name}", verb.get_name());
            }
        }
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let Ok(Cli { verb: Verb::Export(args) }) = Cli::try_parse_from(["snapcask", "export", "a", "-o", "-"]) else {
            panic!("export does not parse");
        };
        assert_eq!(args.compression, Compression::Zstd(3));
        assert!((1..=256).contains(&args.jobs.resolve()));
        let Ok(Cli { verb: Verb::Import(args) }) = Cli::try_parse_from(["snapcask", "import", "-"]) else {
            panic!("import does not parse");
        };
        assert_eq!((args.max_files, args.max_bytes), (100_000, None));
        for bad in [["--jobs", "0"], ["--jobs", "257"], ["--max-bytes", "many"], ["--max-files", "-1"]] {
            assert!(Cli::try_parse_from(["snapcask", "import", "x"].iter().chain(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_and_compressions_parse() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("500MB"), Ok(500_000_000));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "GiB", "1XB", "99999999999TiB", "-1"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_compression("zstd:19"), Ok(Compression::Zstd(19)));
        assert_eq!(parse_compression("none"), Ok(Compression::None));
        for bad in ["zstd:0", "zstd:20", "zstd:", "gzip", "none:1"] {
            assert!(parse_compression(bad).is_err(), "{bad}");
        }
    }
}

//! `snapcask copy`, `push` and `pull`.

use std::{
    ffi::{OsStr, OsString},
    io::IsTerminal,
};

use clap::Args;
use snapcask::{
    Error, Result,
    copy::{CopyOptions, copy},
    export::{Compression, Destination, ExportOptions, Form, export},
    reference::Version,
    registry::Options,
    report::CopyReport,
};

use super::{
    args::{Common, FormArg, JobsArg, StoreArg, WindowArg, parse_compression},
    argument::{self, Meant},
    destination,
    ends::EndArgs,
    import, output, progress,
    registry::{self, MountArg, RegistryArgs},
};

/// `copy`.
#[derive(Args)]
pub struct CopyArgs {
    /// A layout directory, tar, tar.zst, tar.gz, oci://HOST/REPOSITORY[:TAG], or `-` for standard input
    pub source: OsString,
    /// oci://HOST/REPOSITORY[:TAG], NAME.tar.zst, NAME.tzst, NAME.tar, DIR/, or `-` for a pipe
    #[arg(value_name = "DEST")]
    pub output: OsString,
    #[command(flatten)]
    pub more: CopyFlags,
}

/// `pull`.
#[derive(Args)]
pub struct PullArgs {
    /// oci://HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]; without a tag, the only head
    pub source: OsString,
    /// NAME.tar.zst, NAME.tzst, NAME.tar, DIR/ (or a folder that is empty or a layout), oci://HOST/REPOSITORY[:TAG], or `-` for a
    /// pipe
    #[arg(short, long, value_name = "DEST")]
    pub output: OsString,
    #[command(flatten)]
    pub more: CopyFlags,
}

/// What both take.
#[derive(Args)]
pub struct CopyFlags {
    /// Which head, when the source has several [default: all of a bundle; a repository's only one]
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// A bundle that has blobs which SOURCE leaves out: the copy is whole
    #[arg(long, value_name = "SOURCE")]
    pub base: Vec<OsString>,
    /// The bundle's form, whatever DEST is called
    #[arg(long, value_enum)]
    pub format: Option<FormArg>,
    /// Replace an existing DEST; in a registry, move parents' tags that name other manifests
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub window: WindowArg,
    #[command(flatten)]
    pub jobs: JobsArg,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub ends: EndArgs,
    #[command(flatten)]
    pub mount: MountArg,
    #[command(flatten)]
    pub common: Common,
}

/// `push`.
#[derive(Args)]
pub struct PushArgs {
    /// A name means a snapshot of the store. A bundle: ./PATH, NAME.tar, .tar.zst, .tzst, .tar.gz, oci://..., or `-` for
    /// standard input
    #[arg(value_name = "SNAPSHOT|SOURCE")]
    pub what: OsString,
    /// oci://HOST[:PORT]/REPOSITORY[:TAG]; without a tag, the snapshot's name
    #[arg(value_name = "DEST")]
    pub output: OsString,
    /// Of a snapshot: its tag. Of a bundle: which head, when it has several [default: all]
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// Of a snapshot: all ancestors too; layers become deltas
    #[arg(long)]
    pub with_parents: bool,
    /// Of a snapshot: the image-cache files that it boots from too
    #[arg(long)]
    pub with_image: bool,
    /// Of a snapshot: every one whole
    #[arg(long)]
    pub no_delta: bool,
    /// Of a snapshot's layers: zstd[:LEVEL] with LEVEL 1 to 19, or none
    #[arg(long, value_name = "zstd[:LEVEL]|none", default_value = "zstd:3", value_parser = parse_compression)]
    pub compression: Compression,
    /// Move parents' tags that name other manifests; a head's tag moves in any case
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

/// Runs `copy`.
pub fn run(args: CopyArgs) -> Result<()> {
    run_with(&args.source, &args.output, &args.more)
}

/// Runs `pull`: a copy from a registry.
pub fn pull(args: PullArgs) -> Result<()> {
    if registry::reference(&args.source)?.is_none() {
        let text = format!("{:?} is no registry; it is written oci://HOST/REPOSITORY[:TAG]", args.source);
        return Err(Error::Usage(text));
    }
    run_with(&args.source, &args.output, &args.more)
}

/// Standard input is either the bundle or the password.
fn refuse_two_inputs(source: &OsStr, password: bool) -> Result<()> {
    match source == "-" && password {
        true => Err(Error::Usage(
            "standard input cannot be both the bundle (-) and the password; use `snapcask login`".into(),
        )),
        false => Ok(()),
    }
}

fn run_with(source: &OsStr, output: &OsStr, flags: &CopyFlags) -> Result<()> {
    refuse_two_inputs(source, flags.registry.password_stdin || flags.ends.reads_stdin())?;
    let hosts = [registry::reference(source)?, registry::reference(output)?].map(|r| r.map(|r| r.host));
    let [from, to] = &hosts;
    let ends = flags.ends.resolve(&flags.registry, from.as_ref(), to.as_ref())?;
    let terminal = std::io::stdout().is_terminal();
    let (destination, form) = match registry::destination(output, &|host| flags.mount.apply(ends.destination(host)?))? {
        Some(_) if flags.format.is_some() => {
            return Err(Error::Usage("a registry has one form; leave --format out".into()));
        }
        Some(found) => found,
        None => destination::resolve(output, flags.format.map(Into::into), false, terminal)?,
    };
    let window = flags.window.max_window;
    let (source, tag) = import::tagged_location(source, flags.tag.clone(), window, &|host| ends.source(host))?;
    copy_and_tell(
        CopyOptions {
            source,
            bases: import::locations(&flags.base, window, &|host| ends.source(host))?,
            tag,
            destination,
            form,
            force: flags.force,
            jobs: flags.jobs.resolve(),
            progress: progress::for_output(&flags.common),
        },
        &flags.common,
    )
}

/// Runs `push`: a copy of a bundle, or an export of a snapshot, into a registry.
pub fn push(args: PushArgs) -> Result<()> {
    let Some(reference) = registry::reference(&args.output)? else {
        let text = format!("{:?} is no registry; it is written oci://HOST/REPOSITORY[:TAG]", args.output);
        return Err(Error::Usage(text));
    };
    refuse_two_inputs(&args.what, args.registry.password_stdin)?;
    let options: Options = args.mount.apply(args.registry.options_for(&reference.host)?)?;
    let asked = match &reference.version {
        Some(Version::Tag(tag)) => Some(tag.to_string()),
        Some(Version::Digest(_) | Version::Checked(..)) => {
            return Err(Error::Usage(format!("{reference} names a digest; a push names a tag, or none")));
        }
        None => None,
    };
    let destination = Destination::Registry(reference, Box::new(options.clone()));
    let (jobs, progress) = (args.jobs.resolve(), progress::for_output(&args.common));
    let snapshot = match argument::meant(&args.what)? {
        Meant::Snapshot(snapshot) => Some(snapshot),
        Meant::Bundle => None,
    };
    let Some(snapshot) = snapshot else {
        let (source, tag) = import::tagged_location(&args.what, args.tag, args.window.max_window, &|host| {
            args.registry.options_for(host)
        })?;
        let options = CopyOptions {
            source,
            bases: Vec::new(),
            tag,
            destination,
            form: Form::Registry,
            force: args.force,
            jobs,
            progress,
        };
        return copy_and_tell(options, &args.common);
    };
    let told = registry::TagsTold::of(&destination);
    let report = export(&ExportOptions {
        store: args.store.resolve()?,
        snapshot,
        destination,
        form: Form::Registry,
        with_parents: args.with_parents,
        with_image: args.with_image,
        since: Vec::new(),
        delta: !args.no_delta,
        compression: args.compression,
        tag: registry::one_tag(asked, args.tag)?,
        force: args.force,
        jobs,
        progress,
    })?;
    match (args.common.json, args.common.quiet) {
        (true, _) => {
            let head = report.snapshots.first().and_then(|head| head.manifest);
            output::json(&told.with(report, head))
        }
        (false, true) => Ok(()),
        (false, false) => output::print(&super::export::text_of_push(&report, &told)),
    }
}

fn copy_and_tell(options: CopyOptions, common: &Common) -> Result<()> {
    let to_pipe = options.destination == Destination::Stdout;
    let told = registry::TagsTold::of(&options.destination);
    let report = copy(&options)?;
    match (common.json, common.quiet, to_pipe) {
        (true, _, false) => {
            let head = report.snapshots.first().map(|head| head.manifest);
            output::json(&told.with(report, head))
        }
        (true, _, true) => {
            output::print_error(&output::to_json(&report)?);
            Ok(())
        }
        (false, true, _) => Ok(()),
        (false, false, false) => {
            let head = report.snapshots.first().map(|head| head.manifest);
            output::print(&(text(&report) + &told.text(head)))
        }
        (false, false, true) => {
            output::print_error(&text(&report));
            Ok(())
        }
    }
}

/// The report for people.
fn text(report: &CopyReport) -> String {
    let mut text = String::new();
    for snapshot in &report.snapshots {
        let tag = snapshot.tag.as_deref().unwrap_or("(no tag)");
        text += &format!("{}  {}  {}\n", output::clean(tag), output::clean(&snapshot.name), snapshot.manifest);
    }
    let mounted = match report.mounted_blobs {
        0 => String::new(),
        n => format!(", {} mounted", output::count(n, "blob")),
    };
    if !report.left_out.is_empty() {
        text += &format!(
            "left out: {} as in the source; --base names what has them\n",
            output::count(report.left_out.len(), "layer")
        );
    }
    text + &format!(
        "copied to {} ({}): {} of {}, {} of them new{mounted}, in {}\n",
        output::clean(&report.destination),
        report.form,
        output::count(report.blobs, "blob"),
        output::size(report.blob_bytes),
        output::size(report.sent_bytes),
        output::seconds(report.seconds)
    )
}

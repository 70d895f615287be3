//! Registries on the command line: how they are spoken to, what `oci://` means, and the verbs that need nothing else.

use std::{cell::OnceCell, ffi::OsStr, path::PathBuf, time::Duration};

use clap::Args;
use serde::Serialize;
use snapcask::{
    Digest, Error, Result,
    export::{Destination, Form},
    reference::{Host, RegistryReference, Repository, Version},
    registry::{
        self, Children, ChunkSize, ClientCertificate, Credentials, Options, Retry, TagChange, TagChanges, TagOutcome,
        Transport,
    },
    report::{DeleteReport, Deleted, RemoteSnapshot, TagsReport},
};

use super::{
    args::{Common, parse_size},
    notices, output, password,
};

/// Fewest and most bytes of a chunk: a chunk waits in memory.
const SMALLEST_CHUNK: usize = 64 << 10;
const LARGEST_CHUNK: usize = 1 << 30;

/// How a registry is spoken to.
#[derive(Args)]
#[command(next_help_heading = "Registry")]
pub struct RegistryArgs {
    /// Plain HTTP, also to a host that is not this machine; `--plain-http=false` means --tls
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub plain_http: Option<bool>,
    /// TLS, also to this machine
    #[arg(long)]
    pub tls: bool,
    /// Trust the certificates in this PEM file too
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The certificate (PEM) to show to a registry that asks who we are
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The private key (PEM) of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Take any certificate
    #[arg(long)]
    pub insecure: bool,
    /// The user, instead of the one in the credentials files; the password is asked for on the terminal
    #[arg(long, short, value_name = "NAME")]
    pub username: Option<String>,
    /// Read the user's password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Send blobs in chunks of this size (8M), or whole; what a registry refuses is sent another way
    #[arg(long, value_name = "SIZE|whole", value_parser = parse_chunk_size)]
    pub chunk_size: Option<ChunkSize>,
    /// Keep at most this much of downloads that were cut
    #[arg(long, value_name = "SIZE", default_value = "20G", value_parser = parse_size)]
    pub cache_max: u64,
    /// Give a request up after so many seconds without a byte
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Make a request that failed again at most so many times without progress
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub retries: u32,
    /// Whose password it is.
    #[arg(skip)]
    given: OnceCell<(Host, Credentials)>,
}

/// `whole`, or a size of at least 64 KiB.
fn parse_chunk_size(text: &str) -> std::result::Result<ChunkSize, String> {
    if text == "whole" {
        return Ok(ChunkSize::Whole);
    }
    match usize::try_from(parse_size(text)?) {
        Ok(size) if (SMALLEST_CHUNK..=LARGEST_CHUNK).contains(&size) => Ok(ChunkSize::Bytes(size)),
        _ => Err("a chunk has 64K to 1G".into()),
    }
}

impl RegistryArgs {
    /// Ready options for a registry. Asks for the password, once.
    ///
    /// # Errors
    /// [`Error::Usage`]: another registry got the user's password already.
    pub fn options_for(&self, host: &Host) -> Result<Options> {
        let credentials = match (&self.username, self.given.get()) {
            (None, _) => None,
            (Some(_), Some((known, given))) if known == host => Some(given.clone()),
            (Some(_), Some((known, _))) => {
                let text = format!("--username could mean {known} or {host}; use `snapcask login` for both");
                return Err(Error::Usage(text));
            }
            (Some(username), None) => {
                let given = password::given(username, host, self.password_stdin, "--password-stdin")?;
                Some(self.given.get_or_init(|| (host.clone(), given)).1.clone())
            }
        };
        self.options_with(credentials)
    }

    /// The same with these credentials.
    pub fn options_with(&self, credentials: Option<Credentials>) -> Result<Options> {
        let transport = match (self.tls, self.plain_http) {
            (true, Some(true)) => {
                return Err(Error::Usage("--tls contradicts --plain-http; leave one of them out".into()));
            }
            (true, _) | (_, Some(false)) => Transport::Tls,
            (_, Some(true)) => Transport::PlainHttp,
            (false, None) => Transport::Automatic,
        };
        let pair = self.cert.clone().zip(self.key.clone());
        Ok(Options {
            transport,
            client_certificate: pair.map(|(certificate, key)| ClientCertificate { certificate, key }),
            ca_file: self.ca_file.clone(),
            insecure: self.insecure,
            credentials,
            chunk: self.chunk_size.unwrap_or_default(),
            cache_max: self.cache_max,
            timeout: Duration::from_secs(self.timeout),
            retry: Retry { attempts: self.retries + 1, ..Retry::default() },
            notices: notices::on_standard_error(),
            ..Options::default()
        })
    }
}

/// Where blobs may be mounted from.
#[derive(Args)]
#[command(next_help_heading = "Registry")]
pub struct MountArg {
    /// Another repository of the registry that may hold some of the blobs: they are mounted, not sent
    #[arg(long, value_name = "REPOSITORY")]
    pub mount_from: Option<String>,
}

impl MountArg {
    /// The options with it.
    pub fn apply(&self, options: Options) -> Result<Options> {
        let mount_from = self.mount_from.as_ref().map(|name| name.parse::<Repository>()).transpose()?;
        Ok(Options { mount_from, ..options })
    }
}

/// The reference, if the argument means a registry.
pub fn reference(argument: &OsStr) -> Result<Option<RegistryReference>> {
    match argument.to_str().filter(|text| RegistryReference::is_meant_by(text)) {
        Some(text) => text.parse().map(Some),
        None => Ok(None),
    }
}

/// How a registry is spoken to.
pub type OptionsFor<'a> = &'a dyn Fn(&Host) -> Result<Options>;

/// A registry as a destination, if the argument means one.
pub fn destination(argument: &OsStr, options: OptionsFor<'_>) -> Result<Option<(Destination, Form)>> {
    let Some(reference) = reference(argument)? else { return Ok(None) };
    let options = Box::new(options(&reference.host)?);
    Ok(Some((Destination::Registry(reference, options), Form::Registry)))
}

/// The head's tag: a reference's, or that of `--tag`, but not two.
pub fn one_tag(in_reference: Option<String>, flag: Option<String>) -> Result<Option<String>> {
    match (in_reference, flag) {
        (Some(one), Some(other)) if one != other => Err(Error::Usage(format!(
            "--tag {other} contradicts the tag {one} of the destination; leave one of them out"
        ))),
        (one, other) => Ok(one.or(other)),
    }
}

/// A report, and what became of tags where the destination is a registry.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WithTags<T> {
    /// The report.
    #[serde(flatten)]
    pub report: T,
    /// Tags that named other manifests before; none for another destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag_changes: Option<Vec<TagChange>>,
    /// The head in the registry, by its digest; none for another destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// What is told of the tags of a push.
pub struct TagsTold(Option<(RegistryReference, TagChanges)>);

impl TagsTold {
    /// Of one to this destination; of another place than a registry there is nothing to tell.
    pub fn of(destination: &Destination) -> Self {
        Self(match destination {
            Destination::Registry(reference, options) => Some((reference.clone(), options.tag_changes.clone())),
            _ => None,
        })
    }

    /// The report of a push whose head has this manifest, with them.
    pub fn with<T>(&self, report: T, head: Option<Digest>) -> WithTags<T> {
        let tag_changes = self.0.as_ref().map(|(_, changes)| changes.list());
        WithTags { report, tag_changes, reference: self.reference(head) }
    }

    /// A line for each, for people, and the reference that names the head for ever.
    pub fn text(&self, head: Option<Digest>) -> String {
        let changes = self.0.iter().flat_map(|(_, changes)| changes.list());
        let lines: String = changes.map(|change| told(&change)).collect();
        lines + &self.reference(head).map_or_else(String::new, |reference| format!("{reference}\n"))
    }

    fn reference(&self, head: Option<Digest>) -> Option<String> {
        let (reference, _) = self.0.as_ref()?;
        Some(reference.with(Version::Digest(head?)).to_string())
    }
}

fn told(change: &TagChange) -> String {
    let TagChange { tag, before, manifest, .. } = change;
    match (change.outcome, &change.instead) {
        (TagOutcome::Kept, Some(instead)) => format!(
            "kept   the tag {tag}, which names another manifest, {before}; the parent has the tag {instead} (--force moves it)\n"
        ),
        _ => format!("moved  the tag {tag} from {before} to {manifest}\n"),
    }
}

/// `tags`.
#[derive(Args)]
pub struct TagsArgs {
    /// oci://HOST[:PORT]/REPOSITORY
    pub repository: String,
    /// Show date, size, digests, parent and children of each snapshot
    #[arg(long, short)]
    pub long: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub common: Common,
}

/// Lists the tags of a repository, one a line.
pub fn tags(args: &TagsArgs) -> Result<()> {
    let reference: RegistryReference = args.repository.parse()?;
    if reference.version.is_some() {
        return Err(Error::Usage(format!("{reference} names one tag; leave it out to list all of them")));
    }
    let options = args.registry.options_for(&reference.host)?;
    let snapshots = args.long.then(|| registry::snapshots(&reference, &options)).transpose()?;
    let tags = match &snapshots {
        // Those of other artifacts are listed without --long only.
        Some(snapshots) => snapshots.iter().flat_map(|snapshot| snapshot.tags.clone()).collect(),
        None => registry::tags(&reference, &options)?,
    };
    if args.common.json {
        return output::json(&TagsReport { repository: reference.to_string(), tags, snapshots });
    }
    match &snapshots {
        Some(snapshots) => output::print(&table(snapshots)),
        None => output::print(&tags.iter().map(|tag| format!("{tag}\n")).collect::<String>()),
    }
}

/// A line for each snapshot, in columns.
fn table(snapshots: &[RemoteSnapshot]) -> String {
    let head = ["TAGS", "CREATED", "SIZE", "SNAPSHOT", "MANIFEST", "PARENT", "CHILDREN"].map(str::to_owned);
    let absent = || "-".to_owned();
    let row = |snapshot: &RemoteSnapshot| {
        [
            snapshot.tags.join(","),
            snapshot.created_at.as_deref().map_or_else(absent, output::clean),
            output::size(snapshot.size),
            snapshot.digest.to_string(),
            snapshot.manifest.to_string(),
            snapshot.parent.as_deref().map_or_else(absent, output::clean),
            if snapshot.children.is_empty() { absent() } else { snapshot.children.join(",") },
        ]
    };
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(snapshots.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// `delete`.
#[derive(Args)]
pub struct DeleteArgs {
    /// oci://HOST[:PORT]/REPOSITORY:TAG, or @DIGEST
    pub reference: String,
    /// Delete a parent even if its children stay
    #[arg(long)]
    pub orphan_children: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub common: Common,
}

/// Deletes a snapshot from a repository.
pub fn delete(args: &DeleteArgs) -> Result<()> {
    let Some(reference) = reference(OsStr::new(&args.reference))? else {
        let text = format!(
            "{:?} is no registry; it is written oci://HOST/REPOSITORY:TAG. `snapcask remove` removes from a store",
            args.reference
        );
        return Err(Error::Usage(text));
    };
    let children = if args.orphan_children { Children::Orphan } else { Children::Keep };
    let report = registry::delete(&reference, &args.registry.options_for(&reference.host)?, children)?;
    match (args.common.json, args.common.quiet) {
        (true, _) => output::json(&report),
        (false, true) => Ok(()),
        (false, false) => output::print(&deleted(&report)),
    }
}

fn deleted(report: &DeleteReport) -> String {
    match report.deleted {
        Deleted::Tag => {
            format!("deleted the tag of {}; the snapshot stays, as {}\n", report.reference, report.tags.join(", "))
        }
        Deleted::Manifest => format!(
            "deleted {}, manifest {}\nits layers take space until the registry collects garbage (`distribution`: \
             `registry garbage-collect CONFIG`)\n",
            report.reference, report.manifest
        ),
    }
}

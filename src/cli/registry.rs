//! Registries on the command line: how they are spoken to, what `oci://` means, and the verbs that need nothing else.

use std::{
    ffi::OsStr,
    io::{IsTerminal, Read, stdin},
    path::PathBuf,
};

use clap::Args;
use serde::Serialize;
use snapcask::{
    Error, Result,
    error::IoContext,
    export::{Destination, Form},
    reference::{Host, RegistryReference, Repository, SCHEME},
    registry::{self, ClientCertificate, Credentials, Options, TagChange, TagChanges, TagOutcome, Transport},
    report::TagsReport,
};

use super::{args::Common, output};

/// Longest password that is read from standard input, in bytes.
const MAX_PASSWORD: u64 = 64 << 10;

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
    /// The user, instead of the one in the credentials files
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    pub username: Option<String>,
    /// Read the user's password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
}

impl RegistryArgs {
    /// Ready options. Reads the password, once.
    pub fn resolve(&self) -> Result<Options> {
        let credentials = match &self.username {
            Some(username) => Some(Credentials::basic(username, &password()?)?),
            None => None,
        };
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

fn password() -> Result<String> {
    if stdin().is_terminal() {
        return Err(Error::Usage(
            "a password is not read from a terminal; redirect the input (`< password-file`)".into(),
        ));
    }
    let mut text = String::new();
    stdin().lock().take(MAX_PASSWORD).read_to_string(&mut text).context("read", "standard input")?;
    match text.trim_end_matches(['\r', '\n']) {
        // A secret that is not set, in most cases.
        "" => Err(Error::Usage("the password on standard input is empty".into())),
        password => Ok(password.to_owned()),
    }
}

/// The reference, if the argument means a registry.
pub fn reference(argument: &OsStr) -> Result<Option<RegistryReference>> {
    match argument.to_str().filter(|text| RegistryReference::is_meant_by(text)) {
        Some(text) => text.parse().map(Some),
        None => Ok(None),
    }
}

/// A registry as a destination, if the argument means one.
pub fn destination(argument: &OsStr, options: &dyn Fn() -> Result<Options>) -> Result<Option<(Destination, Form)>> {
    match reference(argument)? {
        Some(reference) => Ok(Some((Destination::Registry(reference, Box::new(options()?)), Form::Registry))),
        None => Ok(None),
    }
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
}

/// What is told of the tags of a push.
pub struct TagsTold(Option<TagChanges>);

impl TagsTold {
    /// Of one to this destination; of another place than a registry there is nothing to tell.
    pub fn of(destination: &Destination) -> Self {
        Self(match destination {
            Destination::Registry(_, options) => Some(options.tag_changes.clone()),
            _ => None,
        })
    }

    /// The report with them.
    pub fn with<T>(&self, report: T) -> WithTags<T> {
        WithTags { report, tag_changes: self.0.as_ref().map(TagChanges::list) }
    }

    /// A line for each, for people.
    pub fn text(&self) -> String {
        self.0.iter().flat_map(TagChanges::list).map(|change| told(&change)).collect()
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
    let tags = registry::tags(&reference, &args.registry.resolve()?)?;
    if args.common.json {
        return output::json(&TagsReport { repository: reference.to_string(), tags });
    }
    output::print(&tags.iter().map(|tag| format!("{tag}\n")).collect::<String>())
}

/// `login`.
#[derive(Args)]
pub struct LoginArgs {
    /// HOST[:PORT]
    pub host: String,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub common: Common,
}

/// `logout`.
#[derive(Args)]
pub struct LogoutArgs {
    /// HOST[:PORT]
    pub host: String,
    #[command(flatten)]
    pub common: Common,
}

fn host(text: &str) -> Result<Host> {
    text.strip_prefix(SCHEME).unwrap_or(text).parse()
}

/// Keeps credentials that the registry takes.
pub fn login(args: &LoginArgs) -> Result<()> {
    let host = host(&args.host)?;
    let Some(username) = &args.registry.username else {
        return Err(Error::Usage("name the user with --username and give the password with --password-stdin".into()));
    };
    let options = args.registry.resolve()?;
    let Some(Credentials::Basic { password, .. }) = options.credentials.clone() else {
        return Err(Error::Usage("a password is needed".into()));
    };
    let path = registry::login(&host, username, &password, &options)?;
    said(&args.common, &host, "logged in", &format!("logged in to {host}; {} knows it now\n", path.display()))
}

/// Forgets the credentials of a registry.
pub fn logout(args: &LogoutArgs) -> Result<()> {
    let host = host(&args.host)?;
    let (state, text) = match registry::logout(&host, &Options::default())? {
        true => ("logged out", format!("logged out of {host}\n")),
        false => ("not logged in", format!("there were no credentials for {host}\n")),
    };
    said(&args.common, &host, state, &text)
}

fn said(common: &Common, host: &Host, state: &str, text: &str) -> Result<()> {
    match (common.json, common.quiet) {
        (true, _) => output::json(&serde_json::json!({ "registry": host.to_string(), "state": state })),
        (false, true) => Ok(()),
        (false, false) => output::print(text),
    }
}

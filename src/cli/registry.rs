//! Registries on the command line: how they are spoken to, what `oci://` means, and the verbs that need nothing else.

use std::{cell::OnceCell, ffi::OsStr, path::PathBuf};

use clap::Args;
use serde::Serialize;
use snapcask::{
    Error, Result,
    export::{Destination, Form},
    reference::{Host, RegistryReference, Repository},
    registry::{self, ClientCertificate, Credentials, Options, TagChange, TagChanges, TagOutcome, Transport},
    report::TagsReport,
};

use super::{args::Common, output, password};

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
    /// Whose password it is.
    #[arg(skip)]
    given: OnceCell<(Host, Credentials)>,
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
    let tags = registry::tags(&reference, &args.registry.options_for(&reference.host)?)?;
    if args.common.json {
        return output::json(&TagsReport { repository: reference.to_string(), tags });
    }
    output::print(&tags.iter().map(|tag| format!("{tag}\n")).collect::<String>())
}

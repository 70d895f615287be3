//! `snapcask login` and `snapcask logout`.

use clap::Args;
use serde_json::json;
use snapcask::{
    Error, Result,
    reference::{Host, SCHEME},
    registry::{self, Credentials, Options},
};

use super::{args::Common, output, password, registry::RegistryArgs};

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

/// The registry that an argument names, and nothing but it.
fn host(text: &str) -> Result<Host> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err(Error::invalid_host(text, "it begins with a scheme; leave that out"));
    }
    let bare = text.strip_prefix(SCHEME).unwrap_or(text);
    if bare.contains('/') {
        return Err(Error::invalid_host(
            text,
            "credentials are kept for a whole registry; leave out what is behind its name",
        ));
    }
    if bare.contains('@') {
        return Err(Error::invalid_host(text, "it names a user; --username does"));
    }
    bare.parse()
}

/// Keeps credentials that the registry takes.
pub fn login(args: &LoginArgs) -> Result<()> {
    let host = host(&args.host)?;
    let username = match &args.registry.username {
        Some(username) => username.clone(),
        None => password::username(&host)?,
    };
    let given = password::given(&username, &host, args.registry.password_stdin, "--password-stdin")?;
    let Credentials::Basic { password, .. } = given else {
        return Err(Error::Usage("a password is needed".into()));
    };
    let kept = registry::login(&host, &username, &password, &args.registry.options_with(None)?)?;
    let mut text = format!("logged in to {host}; {} knows it now\n", kept.file.display());
    if let Some(helper) = &kept.missing_helper {
        text += &format!("note: {helper}; the password is in the file itself\n");
    }
    said(&args.common, &host, "logged in", &text)
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
        (true, _) => output::json(&json!({ "registry": host.to_string(), "state": state })),
        (false, true) => Ok(()),
        (false, false) => output::print(text),
    }
}

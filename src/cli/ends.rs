//! The users of the two registries that a copy goes between.

use clap::Args;
use snapcask::{
    Error, Result,
    reference::Host,
    registry::{Credentials, Options},
};

use super::{password, registry::RegistryArgs};

/// A user for each end.
#[derive(Args)]
#[command(next_help_heading = "Registry")]
pub struct EndArgs {
    /// The user at SOURCE's registry; the password is asked for on the terminal
    #[arg(long, value_name = "NAME", conflicts_with = "username")]
    pub from_username: Option<String>,
    /// Read the password of --from-username from standard input
    #[arg(long, requires = "from_username")]
    pub from_password_stdin: bool,
    /// The user at DEST's registry; the password is asked for on the terminal
    #[arg(long, value_name = "NAME", conflicts_with = "username")]
    pub to_username: Option<String>,
    /// Read the password of --to-username from standard input; after a line with that of --from-username, if both are read
    #[arg(long, requires = "to_username")]
    pub to_password_stdin: bool,
}

/// Who a copy is at each end.
pub struct Ends<'a> {
    registry: &'a RegistryArgs,
    from: Option<(Host, Credentials)>,
    to: Option<(Host, Credentials)>,
}

impl EndArgs {
    /// Whether standard input holds a password.
    pub fn reads_stdin(&self) -> bool {
        self.from_password_stdin || self.to_password_stdin
    }

    /// Asks for the passwords. `from` and `to` are the registries, where the ends are in one.
    ///
    /// # Errors
    /// [`Error::Usage`]: a user of what is no registry, or one user where two registries are; nobody to ask.
    pub fn resolve<'a>(&self, registry: &'a RegistryArgs, from: Option<&Host>, to: Option<&Host>) -> Result<Ends<'a>> {
        if let (Some(from), Some(to), Some(_)) = (from, to, &registry.username)
            && from != to
        {
            return Err(Error::Usage(format!(
                "--username could mean {from} or {to}; use --from-username and --to-username, or `snapcask login` for both"
            )));
        }
        let wanted = usize::from(self.from_password_stdin) + usize::from(self.to_password_stdin);
        let mut lines = if wanted > 0 { password::lines(wanted)?.into_iter() } else { Vec::new().into_iter() };
        let mut end = |name: &Option<String>, host: Option<&Host>, from_stdin: bool, [flag, stdin, end]: [&str; 3]| {
            let Some(name) = name else { return Ok(None) };
            let Some(host) = host else {
                return Err(Error::Usage(format!("{flag} names a user of a registry, and {end} is none")));
            };
            let given = if from_stdin { lines.next() } else { None };
            let password = given.map_or_else(|| password::asked(name, host, stdin), Ok)?;
            Ok(Some((host.clone(), Credentials::basic(name, &password)?)))
        };
        let source = ["--from-username", "--from-password-stdin", "SOURCE"];
        let destination = ["--to-username", "--to-password-stdin", "DEST"];
        Ok(Ends {
            registry,
            from: end(&self.from_username, from, self.from_password_stdin, source)?,
            to: end(&self.to_username, to, self.to_password_stdin, destination)?,
        })
    }
}

impl Ends<'_> {
    /// For SOURCE, and for what completes it: nobody gets credentials that are for another registry.
    pub fn source(&self, host: &Host) -> Result<Options> {
        self.options(host, [&self.from, &self.to])
    }

    /// For DEST.
    pub fn destination(&self, host: &Host) -> Result<Options> {
        self.options(host, [&self.to, &self.from])
    }

    fn options(&self, host: &Host, ends: [&Option<(Host, Credentials)>; 2]) -> Result<Options> {
        let known = ends.into_iter().flatten().find(|(of, _)| of == host);
        match known {
            Some((_, credentials)) => self.registry.options_with(Some(credentials.clone())),
            None => self.registry.options_for(host),
        }
    }
}

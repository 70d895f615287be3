//! What proves to a registry who we are.

use std::fmt;

use crate::error::{Error, Result};

/// A password or token: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What proves who we are to one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password.
    Basic {
        /// The user's name; it has no colon.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that the registry's token service changes for others.
    IdentityToken(Secret),
}

impl Credentials {
    /// A user and a password.
    ///
    /// # Errors
    /// [`Error::Usage`]: a name that is empty or has a colon, which basic authentication cannot carry.
    pub fn basic(username: &str, password: &str) -> Result<Self> {
        if username.is_empty() || username.contains([':', '\n', '\r']) {
            return Err(Error::Usage(format!("{username:?} is no user name for a registry")));
        }
        Ok(Self::Basic { username: username.into(), password: Secret::new(password) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown_and_names_have_no_colon() {
        assert!(!format!("{:?}", Credentials::basic("ann", "secret").unwrap()).contains("secret"));
        for bad in ["", "a:b", "a\nb"] {
            assert!(Credentials::basic(bad, "x").is_err(), "{bad:?}");
        }
    }
}

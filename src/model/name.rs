//! Names of snapshots and tags of bundles.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A snapshot's name: one path component of 1 to 128 letters, digits, `.`, `_` and `-` that begins with a letter, a digit or `_`.
/// That is also the grammar of an OCI tag (distribution-spec 1.1, "Pulling manifests").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

/// A tag: the same grammar.
pub type Tag = SnapshotName;

impl SnapshotName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let fail = |reason| Err(Error::InvalidName { name: name.chars().take(200).collect(), reason });
        if name.is_empty() || name.len() > 128 {
            return fail("it must have 1 to 128 characters");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return fail("only letters, digits, '.', '_' and '-' are allowed");
        }
        if matches!(name.as_bytes()[0], b'.' | b'-') {
            return fail("it must begin with a letter, a digit or '_'");
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

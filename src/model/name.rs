//! Names of snapshots and tags of bundles.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::SnapshotIdentity;
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

/// A name that msb 0.7 takes for a group of snapshots: the rule of [`MemberName`], and neither
/// `sha256` nor `sha512`, because msb reads these as the beginning of a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

/// A name that msb 0.7 takes for a member of a group: 1 to 128 letters, digits, `-`, `_` and `.`. It
/// begins with a letter or a digit and does not end with a dot. Names of devices on Windows
/// (`CON`, `com1.x`) and `snapshot_id`s are refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberName(String);

/// What breaks msb's rule for local names (`validate_name` of microsandbox 0.7.13).
fn broken_msb_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 128 {
        return Some("it must have 1 to 128 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Some("only letters, digits, '.', '_' and '-' are allowed");
    }
    if !name.as_bytes()[0].is_ascii_alphanumeric() {
        return Some("it must begin with a letter or a digit");
    }
    if name.ends_with('.') {
        return Some("it must not end with a dot");
    }
    let stem = name.split('.').next().unwrap_or(name).to_ascii_uppercase();
    let numbered = ["COM", "LPT"].iter().filter_map(|device| stem.strip_prefix(device));
    let is_device = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL")
        || numbered.into_iter().any(|number| matches!(number.as_bytes(), [b'1'..=b'9']));
    if is_device {
        return Some("Windows reserves it for a device, so msb refuses it");
    }
    if matches!(name.parse(), Ok(SnapshotIdentity::Id(_))) {
        return Some("it has the form of a snapshot_id");
    }
    None
}

macro_rules! msb_name {
    ($name:ident, $broken:expr) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                match $broken(name) {
                    Some(reason) => Err(Error::InvalidName { name: name.chars().take(200).collect(), reason }),
                    None => Ok(Self(name.to_owned())),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(name: String) -> Result<Self> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

msb_name!(MemberName, broken_msb_rule);
msb_name!(GroupName, |name: &str| match name {
    "sha256" | "sha512" => Some("msb reads it as the beginning of a digest"),
    name => broken_msb_rule(name),
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msb_names_follow_the_rule_of_msb() {
        let long = "x".repeat(128);
        let id = format!("snap_{:032x}", 1);
        for good in ["a", "0", "web-1.2_x", "con-x", "COM", "com10", "lpt0", "snap_1", &long] {
            assert!(good.parse::<MemberName>().is_ok(), "{good}");
            assert!(good.parse::<GroupName>().is_ok(), "{good}");
        }
        let too_long = "x".repeat(129);
        for bad in
            ["", "_x", ".x", "-x", "a.", "a b", "a/b", "é", "CON", "con.txt", "com1", "Lpt9.x", "nul", &id, &too_long]
        {
            assert!(bad.parse::<MemberName>().is_err(), "{bad}");
            assert!(bad.parse::<GroupName>().is_err(), "{bad}");
        }
        assert!("sha256".parse::<MemberName>().is_ok() && "sha256".parse::<GroupName>().is_err());
    }
}

//! [`TarPath`]: a relative path that is safe to join to a folder.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Result};

/// Longest component, in bytes: what Linux filesystems take.
pub const MAX_COMPONENT: usize = 255;
/// Longest path, in bytes.
pub const MAX_PATH: usize = 1024;

/// A relative path of plain components, `/` between them: valid UTF-8, no empty, `.` or `..`
/// component, no backslash, colon or control character, at most [`MAX_COMPONENT`] bytes a component and
/// [`MAX_PATH`] in all. Sorted by bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TarPath(String);

impl TarPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders above it, outermost first.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }

    fn problem(text: &str) -> Option<&'static str> {
        if text.is_empty() {
            return Some("it is empty");
        }
        if text.len() > MAX_PATH {
            return Some("it is longer than 1024 bytes");
        }
        if text.starts_with('/') {
            return Some("it is absolute");
        }
        for component in text.split('/') {
            match component {
                "" => return Some("it has an empty component"),
                "." | ".." => return Some("it has a . or .. component"),
                c if c.len() > MAX_COMPONENT => return Some("a component is longer than 255 bytes"),
                c if c.chars().any(|c| c.is_control() || matches!(c, '\\' | ':')) => {
                    return Some("it has a backslash, a colon or a control character");
                }
                _ => {}
            }
        }
        None
    }
}

/// Whether a name, at any level, is local bookkeeping that never travels: it begins with a dot, ends with `.lock`, or is
/// `group.json` or `group-member.json`.
pub fn is_bookkeeping(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".lock") || matches!(name, "group.json" | "group-member.json")
}

/// Names that are one on some filesystem are folded to the same text: case and Unicode form make no difference.
pub fn fold(name: &str) -> String {
    let lower: String = name.nfd().flat_map(char::to_lowercase).collect();
    lower.nfd().collect()
}

impl FromStr for TarPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::problem(text) {
            None => Ok(Self(text.to_owned())),
            Some(reason) => Err(Error::InvalidPath {
                path: text.chars().take(200).collect(),
                context: "a file table or archive".into(),
                reason,
            }),
        }
    }
}

impl TryFrom<String> for TarPath {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TarPath> for String {
    fn from(path: TarPath) -> Self {
        path.0
    }
}

impl AsRef<std::path::Path> for TarPath {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

impl fmt::Display for TarPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_do_not_parse() {
        for good in ["a", "layers/layer_1.raw", "upper.ext4", "a b/ü", "..a/b..", ".hidden"] {
            assert!(good.parse::<TarPath>().is_ok(), "{good:?}");
        }
        let long = "x".repeat(256);
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\\b", "C:a", "a\0b", "a\nb", long.as_str()] {
            assert!(bad.parse::<TarPath>().is_err(), "{bad:?}");
        }
    }
}

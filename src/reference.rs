//! Where a bundle is in a registry: `oci://HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`, parsed strictly, without I/O.
//!
//! The grammar is the one of the OCI distribution-spec 1.1 ("Pulling manifests"): what parses is safe to stand in a
//! URL's path as it is, and a host is never taken for a user, a port or a path.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{
    digest::Digest,
    error::{Error, Result},
    model::Tag,
};

/// What begins every reference.
pub const SCHEME: &str = "oci://";

/// Longest host and repository together: what registries and other clients take.
const MAX_NAME: usize = 255;

/// A registry: a host name or address, and a port where one is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

impl Host {
    /// Whether it is this machine: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        let bare = self.name.trim_start_matches('[').trim_end_matches(']');
        self.name == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Name or address, an IPv6 one in brackets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, where one is given.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = |reason| Err(Error::invalid_host(text, reason));
        let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return fail("what is in brackets is no IPv6 address");
                }
                (&text[..address.len() + 2], rest.strip_prefix(':').or((!rest.is_empty()).then_some("")))
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        if !name.starts_with('[') && !name.split('.').all(is_label) {
            return fail("the host has a part that is not 1 to 63 letters, digits and inner '-'");
        }
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0') => {
                match digits.parse() {
                    Ok(port) => Some(port),
                    Err(_) => return fail("the port is not 1 to 65535"),
                }
            }
            Some(_) => return fail("the port is not 1 to 65535"),
        };
        if text.len() > MAX_NAME {
            return fail("the host is longer than 255 characters");
        }
        Ok(Self { name: name.to_ascii_lowercase(), port })
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A repository of a registry: components of lowercase letters and digits, joined by `.`, `_`, `__` or `-`s.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(String);

impl Repository {
    /// The name, as it stands in URLs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid_reference(text, "it names no repository"));
        }
        if text.len() > MAX_NAME {
            return Err(Error::invalid_reference(text, "the repository is longer than 255 characters"));
        }
        if !text.split('/').all(is_component) {
            let reason = "a repository is components of lowercase letters and digits, joined by '.', '_', '__' or '-'";
            return Err(Error::invalid_reference(text, reason));
        }
        Ok(Self(text.to_owned()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_well = bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends_well
        && separators.filter(|s| !s.is_empty()).all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one that a tag names now.
    Tag(Tag),
    /// The one with this digest.
    Digest(Digest),
    /// The one that a tag names now, which must have this digest.
    Checked(Tag, Digest),
}

impl Version {
    /// The tag, where one is named.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Tag(tag) | Self::Checked(tag, _) => Some(tag),
            Self::Digest(_) => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "{tag}"),
            Self::Digest(digest) => write!(f, "{digest}"),
            Self::Checked(tag, digest) => write!(f, "{tag}@{digest}"),
        }
    }
}

/// A place in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryReference {
    /// The registry.
    pub host: Host,
    /// The repository.
    pub repository: Repository,
    /// The manifest, where one is named.
    pub version: Option<Version>,
}

impl RegistryReference {
    /// Whether the text means a registry: it begins with `oci://`.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The same repository, with this version.
    pub fn with(&self, version: Version) -> Self {
        Self { version: Some(version), ..self.clone() }
    }
}

impl FromStr for RegistryReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = |reason| Error::invalid_reference(text, reason);
        // The reason of a part is said of the whole.
        let part = |error: Error| match error {
            Error::InvalidReference { reason, .. } | Error::InvalidName { reason, .. } => fail(reason),
            Error::InvalidHost { reason, .. } => fail(reason),
            Error::InvalidDigest { reason, .. } => fail(reason),
            other => other,
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| fail("it does not begin with oci://"))?;
        let (host, path) = rest.split_once('/').ok_or_else(|| fail("it names no repository"))?;
        let host: Host = host.parse().map_err(part)?;
        let (repository, version) = if let Some((repository, digest)) = path.split_once('@') {
            let digest = digest.parse().map_err(part)?;
            match repository.split_once(':') {
                Some((repository, tag)) => (repository, Some(Version::Checked(tag.parse().map_err(part)?, digest))),
                None => (repository, Some(Version::Digest(digest))),
            }
        } else if let Some((repository, tag)) = path.split_once(':') {
            (repository, Some(Version::Tag(tag.parse().map_err(part)?)))
        } else {
            (path, None)
        };
        Ok(Self { host, repository: repository.parse().map_err(part)?, version })
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.host, self.repository)?;
        match &self.version {
            None => Ok(()),
            Some(Version::Tag(tag)) => write!(f, ":{tag}"),
            Some(Version::Checked(tag, digest)) => write!(f, ":{tag}@{digest}"),
            Some(Version::Digest(digest)) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn good_forms_come_back_as_they_were() {
        for good in [
            "oci://localhost/a".to_owned(),
            "oci://127.0.0.1:5000/team/snapshots".into(),
            "oci://[::1]:5000/a:v1".into(),
            "oci://registry.example.com/a/b-c/d.e_f__g---h:Tag_1.2-3".into(),
            format!("oci://registry.example.com:443/a@{DIGEST}"),
            format!("oci://registry.example.com:443/a:v1@{DIGEST}"),
            "oci://10.0.0.1/0:_x".into(),
        ] {
            assert_eq!(good.parse::<RegistryReference>().unwrap().to_string(), good);
        }
        let parsed: RegistryReference = "oci://Example.COM:5000/a/b:c".parse().unwrap();
        assert_eq!((parsed.host.name(), parsed.host.port()), ("example.com", Some(5000)));
        assert_eq!(parsed.repository.as_str(), "a/b");
        assert_eq!(parsed.version, Some(Version::Tag("c".parse().unwrap())));
    }

    #[test]
    fn bad_forms_are_refused_with_the_whole_text() {
        for bad in [
            "",
            "oci://",
            "oci:///a",
            "oci://host",
            "oci://host/",
            "oci://host//a",
            "oci://host/a/",
            "oci://host/A",
            "oci://host/a b",
            "oci://host/../a",
            "oci://host/a/../b",
            "oci://host/a/./b",
            "oci://host/a%2fb",
            "oci://host/a?x=y",
            "oci://host/a#b",
            "oci://host/a\\b",
            "oci://host/a\n",
            "oci://host/.a",
            "oci://host/a.",
            "oci://host/a..b",
            "oci://host/a___b",
            "oci://host/a._b",
            "oci://host/a:",
            "oci://host/a:-x",
            "oci://host/a:b:c",
            "oci://host/a:b/c",
            "oci://host/a@sha256:abc",
            "oci://host/a@sha512:abc",
            "oci://host/a@",
            &format!("oci://host/a:@{DIGEST}"),
            &format!("oci://host/a:b:c@{DIGEST}"),
            &format!("oci://host/a:b@{DIGEST}@{DIGEST}"),
            &format!("oci://host/a@{}", DIGEST.to_uppercase()),
            "oci://user@host/a",
            "oci://user:pass@host/a",
            "oci://host:/a",
            "oci://host:0/a",
            "oci://host:05000/a",
            "oci://host:65536/a",
            "oci://host:50x/a",
            "oci://-host/a",
            "oci://ho_st/a",
            "oci://host./a",
            "oci://ho..st/a",
            "oci://[::1/a",
            "oci://[::g]/a",
            "oci://[::1]x/a",
            "oci://[::1]:x/a",
            "oci://::1/a",
            "oci:host/a",
            "OCI://host/a",
            "https://host/a",
            "host/a",
            &format!("oci://host/{}", "a".repeat(256)),
            &format!("oci://host/a:{}", "a".repeat(129)),
            &format!("oci://{}/a", "a".repeat(64)),
        ] {
            match bad.parse::<RegistryReference>() {
                Err(Error::InvalidReference { text, .. }) => {
                    assert_eq!(text, bad.chars().take(300).collect::<String>())
                }
                other => panic!("{bad:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn loopback_is_known_by_address() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:5000", true),
            ("127.0.0.1", true),
            ("127.9.9.9:80", true),
            ("[::1]", true),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1", false),
            ("[::2]", false),
        ] {
            assert_eq!(host.parse::<Host>().unwrap().is_loopback(), expected, "{host}");
        }
    }
}

//! Under which keys the files of Docker and Podman keep the credentials of a registry, or of a part of it:
//! `HOST`, `HOST/NAMESPACE`, `HOST/NAMESPACE/REPOSITORY`, and what older versions wrote.

use crate::reference::{Host, Repository};

/// The key of Docker Hub's credentials.
const HUB: &str = "https://index.docker.io/v1/";
/// What Docker Hub is called.
const HUB_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// A registry, or a part of it, that may have credentials of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub host: &'a Host,
    /// The first components of a repository; none for all of the registry.
    pub namespace: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// All of a registry.
    pub fn whole(host: &'a Host) -> Self {
        Self { host, namespace: None }
    }

    /// What a repository is in, itself first, the whole registry last.
    pub fn around(host: &'a Host, repository: Option<&'a Repository>) -> impl Iterator<Item = Self> {
        let name = repository.map(Repository::as_str);
        let shorter = |name: &&'a str| name.rsplit_once('/').map(|(shorter, _)| shorter);
        let namespaces = std::iter::successors(name, shorter);
        namespaces.map(move |name| Self { host, namespace: Some(name) }).chain([Self::whole(host)])
    }

    /// The key that is written for it.
    pub fn key(&self) -> String {
        match self.namespace {
            Some(name) => format!("{}/{name}", self.host),
            None if is_hub(self.host) => HUB.into(),
            None => self.host.to_string(),
        }
    }

    /// Whether credentials under this key are meant for it.
    pub fn is_meant_by(&self, key: &str) -> bool {
        if key == self.key() {
            return true;
        }
        let (host, rest) = split(key);
        let same_host = host.eq_ignore_ascii_case(&self.host.to_string())
            || (is_hub(self.host) && HUB_HOSTS.iter().any(|hub| host.eq_ignore_ascii_case(hub)));
        same_host && rest == self.namespace
    }
}

/// Host and namespace of a key. Old versions of docker wrote the URL of the registry's API, which is no namespace.
fn split(key: &str) -> (&str, Option<&str>) {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let is_url = bare.is_some() || key.ends_with('/');
    let (host, rest) = match bare.unwrap_or(key).trim_end_matches('/').split_once('/') {
        Some((host, rest)) => (host, Some(rest)),
        None => (bare.unwrap_or(key).trim_end_matches('/'), None),
    };
    (host, rest.filter(|rest| !(is_url && matches!(*rest, "v1" | "v2"))))
}

/// Whether it is Docker Hub.
fn is_hub(host: &Host) -> bool {
    HUB_HOSTS.contains(&host.name()) && host.port().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_around_a_repository_come_longest_first() {
        let (host, repository) = ("r.example:5000".parse().unwrap(), "a/b/c".parse().unwrap());
        let keys: Vec<String> = Place::around(&host, Some(&repository)).map(|place| place.key()).collect();
        assert_eq!(keys, ["r.example:5000/a/b/c", "r.example:5000/a/b", "r.example:5000/a", "r.example:5000"]);
        assert_eq!(Place::around(&host, None).count(), 1);
    }

    #[test]
    fn keys_mean_their_registry_and_namespace_alone() {
        let meant = |key: &str, host: &str, namespace: Option<&str>| {
            Place { host: &host.parse().unwrap(), namespace }.is_meant_by(key)
        };
        for (key, host, namespace) in [
            ("r.example", "r.example", None),
            ("R.Example", "r.example", None),
            ("https://r.example", "r.example", None),
            ("https://r.example:5000/v2/", "r.example:5000", None),
            ("http://r.example/v1", "r.example", None),
            ("r.example/v1/", "r.example", None),
            ("r.example/v1", "r.example", Some("v1")),
            ("r.example/a/b", "r.example", Some("a/b")),
            ("https://index.docker.io/v1/", "docker.io", None),
            ("docker.io", "registry-1.docker.io", None),
            ("docker.io/library", "index.docker.io", Some("library")),
        ] {
            assert!(meant(key, host, namespace), "{key}");
        }
        for (key, host, namespace) in [
            ("r.example", "r.example:5000", None),
            ("r.example:5000", "r.example", None),
            ("r.example/a", "r.example", None),
            ("r.example/a", "r.example", Some("a/b")),
            ("r.example/ab", "r.example", Some("a")),
            ("r.example", "r.example", Some("a")),
            ("other.r.example", "r.example", None),
            ("r.example.other", "r.example", None),
            ("docker.io", "docker.io:5000", None),
            ("", "r.example", None),
        ] {
            assert!(!meant(key, host, namespace), "{key}");
        }
    }
}

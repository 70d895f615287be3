//! How a registry is spoken to.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    path::PathBuf,
    time::Duration,
};

use super::{
    certs_d::CertificateFolders, changes::TagChanges, credential_files::CredentialFiles, credentials::Credentials,
    notices::Notices,
};
use crate::reference::Repository;

/// How a registry is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Plain HTTP or TLS.
    pub transport: Transport,
    /// Certificates (PEM) that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// What proves to the registry who we are, where it asks for a certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// Where more certificates are, for each registry.
    pub certificate_folders: CertificateFolders,
    /// Any certificate is taken.
    pub insecure: bool,
    /// Credentials of the command line; without, those of the files.
    pub credentials: Option<Credentials>,
    /// Where credentials are kept.
    pub files: CredentialFiles,
    /// Another repository of the registry that blobs may be mounted from.
    pub mount_from: Option<Repository>,
    /// What is remembered between runs; without, nothing is.
    pub cache: Option<PathBuf>,
    /// Most bytes of blobs that were fetched in part and are kept there.
    pub cache_max: u64,
    /// How often and how fast it is tried again.
    pub retry: Retry,
    /// How blobs are cut for an upload.
    pub chunk: ChunkSize,
    /// Bytes of a part of a download: blobs of more than two come in several ranges at once, unless the first part
    /// came fast.
    pub part: usize,
    /// Bytes a second that are fast: one connection is enough then.
    pub fast: u64,
    /// How long nothing may move before a request is given up and made again.
    pub timeout: Duration,
    /// Who is told what is waited for.
    pub notices: Notices,
    /// What a push with these options did to tags.
    pub tag_changes: TagChanges,
}

/// Plain HTTP or TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Plain HTTP to this machine, unless certificates are named for it; TLS to all others.
    #[default]
    Automatic,
    /// Plain HTTP to any.
    PlainHttp,
    /// TLS to any.
    Tls,
}

/// A certificate of ours, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and the chain behind it (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// How blobs are cut for an upload. What a registry refuses is sent another way, whatever is chosen here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChunkSize {
    /// Blobs of up to 64 MiB in one request, larger ones in chunks of [`CHUNK`], which a cut upload can go on after.
    #[default]
    Automatic,
    /// Chunks of so many bytes; smaller blobs in one request.
    Bytes(usize),
    /// Every blob in one request. A layer that is packed while it is sent waits in a file until it is complete.
    Whole,
}

/// The size of a chunk. A request costs a registry a sync of its disk: pushing 173 MB to docker-registry 2.8 on loopback
/// took 0.96 s in chunks of 4 MiB, 0.80 s in chunks of 8, 0.76 s in chunks of 16, which take twice the memory. At least
/// 5 MiB, because ECR refuses an upload with smaller ones.
pub const CHUNK: usize = 8 << 20;
/// A size that registries take which refuse larger requests: GHCR takes 4 MiB.
pub(super) const MODEST_CHUNK: usize = 4 << 20;
/// Longest time in which nothing at all moves.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// What may be kept of cut downloads: two chains of 10 GB.
pub const CACHE_MAX: u64 = 20 << 30;
/// The size of a part, in bytes.
const PART: usize = 2 << 20;
/// What a fast network and a registry near by reach. Importing 173 MB over loopback takes 0.58 s over one connection and
/// 0.75 s in ranges, which cost copies and requests; over a network that takes its time ranges are what fills it.
const FAST: u64 = 200_000_000;

impl Default for Options {
    /// As the environment says.
    fn default() -> Self {
        Self {
            transport: Transport::default(),
            ca_file: None,
            client_certificate: None,
            certificate_folders: CertificateFolders::of_environment(),
            insecure: false,
            credentials: None,
            files: CredentialFiles::of_environment(),
            mount_from: None,
            cache: default_cache(),
            cache_max: CACHE_MAX,
            retry: Retry::default(),
            chunk: ChunkSize::Automatic,
            part: PART,
            fast: FAST,
            timeout: TIMEOUT,
            notices: Notices::default(),
            tag_changes: TagChanges::default(),
        }
    }
}

/// `$XDG_CACHE_HOME/snapcask`, else `~/.cache/snapcask`.
fn default_cache() -> Option<PathBuf> {
    let from = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("snapcask"))
}

/// Attempts and the time between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts without any progress, at least 1.
    pub attempts: u32,
    /// The first wait; every further one is twice as long.
    pub first: Duration,
    /// The longest wait of ours.
    pub longest: Duration,
    /// The longest wait that a registry's `Retry-After` is granted.
    pub longest_asked: Duration,
    /// How long a connection is asked for that is refused: a registry may be starting.
    pub refused: Duration,
    /// How long a manifest is sent again whose blobs the registry does not know yet.
    pub unknown: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 6,
            first: Duration::from_millis(200),
            longest: Duration::from_secs(8),
            longest_asked: Duration::from_secs(60),
            refused: Duration::from_secs(15),
            unknown: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// How long to wait after the attempt with this number, from 1: between half and all of the time, so that clients which
    /// failed together do not come back together.
    pub(super) fn delay(&self, attempt: u32, asked: Option<Duration>) -> Duration {
        match asked {
            Some(asked) => asked.min(self.longest_asked).max(self.first),
            None => self.backoff(attempt, RandomState::new().build_hasher().finish()),
        }
    }

    fn backoff(&self, attempt: u32, random: u64) -> Duration {
        let doubled = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(doubled).min(self.longest);
        full.mul_f64(0.5 + 0.5 * (random % 1024) as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_bounds() {
        let retry = Retry::default();
        for (attempt, full) in [(1, 200), (2, 400), (3, 800), (6, 6400), (7, 8000), (40, 8000)] {
            let full = Duration::from_millis(full);
            for random in [0, 1, 511, 1023, u64::MAX] {
                let wait = retry.backoff(attempt, random);
                assert!(wait >= full / 2 && wait <= full, "{attempt} {random}: {wait:?}");
            }
        }
    }
}

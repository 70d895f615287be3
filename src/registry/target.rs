//! A bundle in a registry, written: blobs first, a manifest after everything that it names, tags at the end and the
//! head's last of all. An interrupted push leaves blobs that no tag names, and the next one finds them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use reqwest::{Method, StatusCode, header};

use super::{
    changes::{TagChange, TagChanges, TagOutcome},
    memory::Memory,
    options::Options,
    referrers,
    repository::{Repo, is_manifest},
    upload::{Begun, SENDS, Session, mount},
    writer::{Body, Expected, UploadWriter},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    media_type,
    model::{
        Artifact, Descriptor, Index, Manifest, Tag,
        json::{self, MAX_DOCUMENT},
    },
    reference::{RegistryReference, Repository, Version},
    storage::{Blob, BlobWriter, Put, SharedTarget, Target},
};

/// What the writers of a push share.
pub(super) struct Shared {
    pub repo: Repo,
    pub memory: Memory,
    mount_from: Option<Repository>,
    /// Bytes of blobs that were sent.
    pub sent: AtomicU64,
    /// The manifests pushed by this run, which tags are to name.
    manifests: Mutex<HashMap<Digest, Bytes>>,
    /// Where it is told which tags named other manifests.
    tag_changes: TagChanges,
    unseen: Unseen,
}

/// What to do where the registry does not let us see what a tag or digest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unseen {
    /// Stop, because a tag could be overwritten unseen.
    Stop,
    /// Go on, because the user says so.
    Overwrite,
}

/// Digits of a digest in the tag of a parent whose name is taken.
const TAG_DIGITS: usize = 12;
/// How often a manifest is sent whose digest the registry doubts.
const PUTS: u32 = 4;
/// Longest tag.
const MAX_TAG: usize = 128;

/// A repository being pushed to.
pub(super) struct RegistryTarget {
    shared: Arc<Shared>,
    /// The head's tag, instead of the one in the index.
    head: Option<Version>,
    /// Parents' tags are moved, too.
    force: bool,
}

impl RegistryTarget {
    pub fn open(reference: &RegistryReference, options: &Options, force: bool) -> Result<Self> {
        let shared = Shared {
            repo: Repo::to_push(reference, options)?,
            memory: Memory(options.cache.clone()),
            mount_from: options.mount_from.clone(),
            sent: AtomicU64::new(0),
            manifests: Mutex::new(HashMap::new()),
            tag_changes: options.tag_changes.clone(),
            unseen: if force { Unseen::Overwrite } else { Unseen::Stop },
        };
        Ok(Self { shared: Arc::new(shared), head: reference.version.clone(), force })
    }
}

impl Shared {
    /// Remembers that the repository holds the blob now.
    pub fn holds(&self, descriptor: &Descriptor) {
        if !is_manifest(&descriptor.media_type) {
            self.memory.holds(&self.repo.client.registry(), &descriptor.digest, &self.repo.name);
        }
    }

    /// What the registry shows; `None` where it refuses to, and we are to go on.
    fn seen<T>(&self, shown: Result<T>) -> Result<Option<T>> {
        match shown {
            Ok(shown) => Ok(Some(shown)),
            Err(Error::Unauthorized { .. } | Error::Forbidden { .. } | Error::Refused { status: 400..500, .. })
                if self.unseen == Unseen::Overwrite =>
            {
                Ok(None)
            }
            Err(Error::Forbidden { registry, operation, reason, .. }) => {
                Err(Error::Unseen { registry, operation, reason })
            }
            Err(error) => Err(error),
        }
    }

    fn remember_manifest(&self, digest: Digest, bytes: Bytes) {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, bytes);
    }

    /// Puts a manifest, whose blobs are there, under its digest; then it is among its subject's referrers.
    pub fn put_manifest(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<Put> {
        let artifact = match descriptor.media_type == media_type::MANIFEST {
            true => Some(Artifact::parse(&bytes, &format!("manifest {}", descriptor.digest))?),
            false => None,
        };
        let there = self.seen(self.repo.has_manifest(descriptor))?.unwrap_or(false);
        let registered = match there {
            true => false,
            false => {
                let version = Version::Digest(descriptor.digest);
                let registered = self.put_version(&version, &descriptor.media_type, bytes.clone())?;
                self.sent.fetch_add(descriptor.size, Ordering::Relaxed);
                registered
            }
        };
        if let Some(Artifact { subject: Some(subject), artifact_type, .. }) = artifact
            && !registered
        {
            referrers::register(&self.repo, &subject, descriptor, artifact_type)?;
        }
        self.remember_manifest(descriptor.digest, bytes);
        Ok(if there { Put::Existed } else { Put::Sent })
    }

    /// Whether the registry says that it has noted the subject.
    fn put_version(&self, version: &Version, media: &str, bytes: Bytes) -> Result<bool> {
        let operation = format!("push {version} to {}", self.repo.display());
        let request = self
            .repo
            .request(Method::PUT, self.repo.url(&format!("manifests/{version}")), &operation)
            .body(media, bytes.clone());
        let (mut attempt, began) = (0, Instant::now());
        let response = loop {
            let mut response = self.repo.client.send(&request)?;
            if response.status().is_success() {
                break response;
            }
            attempt += 1;
            let code = response.code();
            let is_worth_another = match code.as_str() {
                // docker-registry 2.8 says so now and then while somebody else pushes the same. The bytes have this digest.
                "DIGEST_INVALID" => attempt < PUTS,
                // Some need a moment until they know what they have taken.
                "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN" | "MANIFEST_UNKNOWN" => {
                    began.elapsed() < self.repo.client.retry.unknown
                }
                _ => false,
            };
            if !is_worth_another {
                return Err(with_layers(self.repo.refusal(response, &operation), media, &bytes));
            }
            self.repo.client.wait(attempt, response.retry_after(), &operation, &format!("it answered {code}"));
        };
        match response.content_digest() {
            Some(named) if named != Digest::of(&bytes) => Err(Error::Protocol {
                registry: self.repo.client.registry(),
                reason: format!("it was sent the manifest {} and keeps it as another digest", Digest::of(&bytes)),
            }),
            _ => Ok(response.header("oci-subject").is_some()),
        }
    }

    /// Makes a tag name a manifest, if it does not yet. Unless it is to be `moved`, a tag that names another stays, and the
    /// manifest gets a tag of its own: registries sweep what has none. Gives the tag that the manifest has.
    fn tag(&self, entry: &Descriptor, tag: &Tag, moved: bool) -> Result<String> {
        let version = Version::Tag(tag.clone());
        let before = self.seen(self.named(&version))?.flatten();
        if before == Some(entry.digest) {
            return Ok(tag.to_string());
        }
        let mut change = before.map(|before| TagChange {
            tag: tag.to_string(),
            outcome: TagOutcome::Moved,
            before,
            manifest: entry.digest,
            instead: None,
        });
        match &mut change {
            Some(change) if !moved => {
                let instead = own_tag(tag, &entry.digest);
                let version = Version::Tag(instead.parse()?);
                if self.named(&version)? != Some(entry.digest) {
                    self.put_tag(entry, &version)?;
                }
                (change.outcome, change.instead) = (TagOutcome::Kept, Some(instead));
            }
            _ => self.put_tag(entry, &version)?,
        }
        let instead = change.as_ref().and_then(|change| change.instead.clone());
        change.into_iter().for_each(|change| self.tag_changes.note(change));
        Ok(instead.unwrap_or_else(|| tag.to_string()))
    }

    /// The digest of what a tag names; none if there is no such tag.
    fn named(&self, version: &Version) -> Result<Option<Digest>> {
        let operation = self.repo.operation(version);
        let accept = format!("{}, {}", media_type::MANIFEST, media_type::INDEX);
        let request = self
            .repo
            .request(Method::HEAD, self.repo.url(&format!("manifests/{version}")), &operation)
            .header(header::ACCEPT, &accept);
        let response = self.repo.client.send(&request)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            // Some answer only to those who ask for the manifest itself.
            _ => return Ok(self.repo.manifest(version)?.map(|(bytes, _)| Digest::of(&bytes))),
        }
        match response.content_digest() {
            Some(digest) => Ok(Some(digest)),
            // The header is optional.
            None => Ok(self.repo.manifest(version)?.map(|(bytes, _)| Digest::of(&bytes))),
        }
    }

    fn put_tag(&self, entry: &Descriptor, version: &Version) -> Result<()> {
        let known = self.manifests.lock().unwrap_or_else(PoisonError::into_inner).get(&entry.digest).cloned();
        let bytes = match known {
            Some(bytes) => bytes,
            None => match self.repo.manifest(&Version::Digest(entry.digest))? {
                Some((bytes, _)) => bytes.into(),
                None => return Err(Error::MissingBlob { digest: entry.digest, role: "a tagged manifest".into() }),
            },
        };
        self.put_version(version, &entry.media_type, bytes).map(drop)
    }

    /// The manifests that are parents of others in this push.
    fn parents(&self) -> HashSet<Digest> {
        let manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        // What does not parse is an index, which has no parent.
        let parse = |bytes| Manifest::parse(bytes, "a pushed manifest").ok();
        manifests.values().filter_map(|bytes| Some(parse(bytes)?.subject?.digest)).collect()
    }

    /// Mounts the blob from a repository that is known to have had it; else an upload that the attempt began.
    fn mount(&self, descriptor: &Descriptor) -> Result<Option<Begun>> {
        let remembered = self.memory.repositories(&self.repo.client.registry(), &descriptor.digest);
        let candidates = self.mount_from.iter().chain(&remembered);
        let mut begun = None;
        for from in candidates.filter(|from| **from != self.repo.name).take(2) {
            match mount(&self.repo, &descriptor.digest, from) {
                Ok(Begun::Mounted) => return Ok(Some(Begun::Mounted)),
                Ok(session) => begun = Some(session),
                // It may not be ours to read.
                Err(Error::Unauthorized { .. } | Error::Forbidden { .. } | Error::RemoteNotFound { .. }) => {}
                Err(Error::Refused { status: 400..500, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(begun)
    }
}

/// A refusal that speaks of layers, with how many there are and what to do.
fn with_layers(refusal: Error, media: &str, bytes: &[u8]) -> Error {
    let is_limit = |reason: &str| {
        let reason = reason.to_ascii_lowercase();
        reason.contains("layers") && ["limit", "exceed", "too many", "maximum"].iter().any(|word| reason.contains(word))
    };
    match refusal {
        Error::Refused { registry, operation, status, reason, .. }
            if is_limit(&reason) && media == media_type::MANIFEST =>
        {
            let layers = Manifest::parse(bytes, "a manifest").map_or(0, |manifest| manifest.layers.len());
            let hint = format!("; the manifest has {layers} layers: --no-delta packs each snapshot into one");
            Error::Refused { registry, operation, status, reason, hint }
        }
        other => other,
    }
}

/// The tag of a parent whose name is another snapshot's: its name, and its manifest's first digits.
fn own_tag(tag: &Tag, digest: &Digest) -> String {
    let digits = &digest.hex()[..TAG_DIGITS];
    let name: String = tag.as_str().chars().take(MAX_TAG - 1 - TAG_DIGITS).collect();
    format!("{name}-{digits}")
}

impl Target for RegistryTarget {
    fn blob(&mut self) -> Result<Box<dyn BlobWriter + '_>> {
        Ok(Box::new(UploadWriter::new(self.shared.clone(), Expected::Nothing, None)))
    }

    fn keyed_blob(&mut self, key: &Digest) -> Result<Box<dyn BlobWriter + '_>> {
        Ok(Box::new(UploadWriter::new(self.shared.clone(), Expected::Key(*key), None)))
    }

    fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        match is_manifest(&descriptor.media_type) {
            true => Ok(self.shared.seen(self.shared.repo.has_manifest(descriptor))?.unwrap_or(false)),
            false => self.shared.repo.has_blob(descriptor),
        }
    }

    fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    fn shared(&self) -> Option<&dyn SharedTarget> {
        Some(self)
    }

    fn finish(self: Box<Self>, index: &Index) -> Result<Vec<Option<String>>> {
        let parents = self.shared.parents();
        let mut tags = vec![None; index.manifests.len()];
        // The head is the first entry, and the last to be tagged: who sees its tag finds everything.
        for (position, entry) in index.manifests.iter().enumerate().rev() {
            let version = match (&self.head, Index::tag_of(entry)) {
                (Some(head), _) if position == 0 => head.clone(),
                (_, Some(tag)) => Version::Tag(tag.parse()?),
                _ => continue,
            };
            match version {
                // A head's tag was asked for; a parent's name may by now be another snapshot's.
                Version::Tag(tag) => {
                    let moved = self.force || position == 0 || !parents.contains(&entry.digest);
                    tags[position] = Some(self.shared.tag(entry, &tag, moved)?);
                }
                Version::Digest(digest) | Version::Checked(_, digest) if digest == entry.digest => {}
                Version::Digest(digest) | Version::Checked(_, digest) => {
                    let text = format!("{digest} was asked for, but the head's manifest is {}", entry.digest);
                    return Err(Error::Usage(text));
                }
            }
        }
        Ok(tags)
    }
}

impl SharedTarget for RegistryTarget {
    fn put<'a>(
        &self,
        descriptor: &Descriptor,
        open: &dyn Fn() -> Result<Blob<'a>>,
        advance: &dyn Fn(u64),
    ) -> Result<Put> {
        let shared = &self.shared;
        if is_manifest(&descriptor.media_type) {
            let bytes = open()?.read_document(MAX_DOCUMENT)?;
            json::reject_duplicate_keys(&bytes)
                .map_err(|reason| Error::bundle(format!("manifest {}", descriptor.digest), reason))?;
            return shared.put_manifest(descriptor, bytes.into());
        }
        if shared.repo.has_blob(descriptor)? {
            shared.holds(descriptor);
            return Ok(Put::Existed);
        }
        let mut session = match shared.mount(descriptor)? {
            Some(Begun::Mounted) if shared.repo.has_blob(descriptor)? => {
                shared.holds(descriptor);
                return Ok(Put::Mounted);
            }
            Some(Begun::Session(session)) => Some(session),
            _ => None,
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            // A stream that broke may have met a redirect, which only what can be read again follows.
            let body = if attempt == 1 { Body::Stream } else { Body::File };
            match self.send(descriptor, open()?, session.take(), body, advance) {
                Ok(()) => return Ok(Put::Sent),
                Err(Error::UploadLost { reason, .. }) if attempt < SENDS => {
                    let operation = format!("push {} to {}", descriptor.digest, shared.repo.display());
                    shared.repo.client.wait(attempt, None, &operation, &reason);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl RegistryTarget {
    fn send(
        &self,
        descriptor: &Descriptor,
        mut blob: Blob<'_>,
        session: Option<Session>,
        body: Body,
        advance: &dyn Fn(u64),
    ) -> Result<()> {
        let expected = Expected::Blob(descriptor.clone(), body);
        let mut writer = UploadWriter::new(self.shared.clone(), expected, session);
        crate::storage::pour(&mut blob, descriptor.digest, &mut writer, &self.shared.repo.display(), advance)?;
        writer.end(&descriptor.media_type).map(drop)
    }
}

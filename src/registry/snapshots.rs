//! The snapshots of a repository: what its tags name, which snapshot is whose parent, and which has children.
//!
//! A repository may hold images, signatures and other artifacts as well. They are told apart by their type, and nothing
//! here looks at them further.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, StatusCode};

use super::{repository::Repo, tags};
use crate::{
    digest::Digest,
    error::{Error, Result},
    media_type,
    model::{Artifact, Descriptor, Manifest, SnapshotConfig, json::MAX_DOCUMENT},
    reference::Version,
    report::RemoteSnapshot,
    verify::VerifyReader,
};

/// Most tags whose manifests are read.
const MAX_READ: usize = 10_000;

/// A snapshot that tags name.
pub(super) struct Tagged {
    /// Sorted.
    pub tags: Vec<String>,
    pub descriptor: Descriptor,
    pub manifest: Manifest,
}

/// Every snapshot that a tag names, by the first of its tags. Tags of other artifacts are left out.
///
/// # Errors
/// What the registry refuses; [`Error::Limit`].
pub(super) fn tagged(repo: &Repo) -> Result<Vec<Tagged>> {
    let mut names = tags::list(repo)?;
    if names.len() > MAX_READ {
        let what = format!("the number of tags of {}", repo.display());
        let hint = "; name the snapshot by its tag or digest";
        return Err(Error::Limit { what, value: names.len() as u64, limit: MAX_READ as u64, hint });
    }
    names.sort_unstable();
    let mut found: Vec<Tagged> = Vec::new();
    for name in names {
        // A tag that is gone meanwhile names nothing.
        let Some((bytes, media)) = repo.manifest(&Version::Tag(name.parse()?))? else { continue };
        let digest = Digest::of(&bytes);
        if let Some(known) = found.iter_mut().find(|known| known.descriptor.digest == digest) {
            known.tags.push(name);
            continue;
        }
        if media == media_type::INDEX || !Artifact::is_snapshot(&bytes) {
            continue;
        }
        let manifest = Manifest::parse(&bytes, &format!("{name} of {}", repo.display()))?;
        let descriptor = Descriptor::new(media_type::MANIFEST, digest, bytes.len() as u64);
        found.push(Tagged { tags: vec![name], descriptor, manifest });
    }
    Ok(found)
}

/// The heads among them: those that are no other one's parent.
pub(super) fn heads(snapshots: &[Tagged]) -> Vec<&Tagged> {
    let parents: BTreeSet<Digest> =
        snapshots.iter().filter_map(|s| Some(s.manifest.subject.as_ref()?.digest)).collect();
    snapshots.iter().filter(|snapshot| !parents.contains(&snapshot.descriptor.digest)).collect()
}

/// What people want to know of every tagged snapshot.
///
/// # Errors
/// What the registry refuses; a config that is corrupt or invalid.
pub(super) fn describe(repo: &Repo) -> Result<Vec<RemoteSnapshot>> {
    let all = tagged(repo)?;
    let mut children: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for child in &all {
        if let Some(subject) = &child.manifest.subject {
            children.entry(subject.digest).or_default().extend(child.tags.first().cloned());
        }
    }
    let describe = |snapshot: &Tagged| {
        let context = format!("the config of {}", snapshot.tags.join(", "));
        let config = SnapshotConfig::parse(&document(repo, &snapshot.manifest.config)?, &context)?;
        Ok(RemoteSnapshot {
            tags: snapshot.tags.clone(),
            name: config.snapshot.name.to_string(),
            created_at: config.snapshot.created_at.clone(),
            size: snapshot.manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size)),
            digest: config.snapshot.digest,
            manifest: snapshot.descriptor.digest,
            parent: config.snapshot.parent.as_ref().map(ToString::to_string),
            parent_manifest: snapshot.manifest.subject.as_ref().map(|subject| subject.digest),
            children: children.get(&snapshot.descriptor.digest).cloned().unwrap_or_default(),
        })
    };
    all.iter().map(describe).collect()
}

/// A small blob.
fn document(repo: &Repo, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let request = repo.read_request(Method::GET, descriptor);
    let response = repo.client.send(&request)?;
    if response.status() != StatusCode::OK {
        return Err(repo.client.refusal(response, &request.operation, "blob"));
    }
    VerifyReader::new(response.into_document(), descriptor).read_document(MAX_DOCUMENT)
}

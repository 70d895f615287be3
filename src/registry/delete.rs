//! Deleting a snapshot from a repository: its manifest goes, its blobs go when the registry collects garbage.

use reqwest::Method;

use super::{
    referrers,
    repository::Repo,
    snapshots::{self, Tagged},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    reference::{RegistryReference, Version},
    report::{DeleteReport, Deleted},
};

/// Whether children keep a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// A snapshot with children stays, because they need its layers' manifests.
    Keep,
    /// It goes, and the children are left without it.
    Orphan,
}

/// Deletes what `reference` names. Of a snapshot with several tags a tag takes only itself away.
pub(super) fn delete(repo: &Repo, reference: &RegistryReference, children: Children) -> Result<DeleteReport> {
    let Some(version) = &reference.version else {
        return Err(Error::Usage(format!("{reference} names a whole repository; name a tag or a digest of it")));
    };
    let all = snapshots::tagged(repo)?;
    let digest = match version {
        Version::Digest(digest) => *digest,
        Version::Tag(tag) | Version::Checked(tag, _) => match all.iter().find(|s| has_tag(s, tag.as_str())) {
            Some(found) => found.descriptor.digest,
            None => return Err(no_snapshot(repo, version)?),
        },
    };
    let found = all.iter().find(|snapshot| snapshot.descriptor.digest == digest);
    let tags = found.map(|found| found.tags.clone()).unwrap_or_default();
    if let (Version::Tag(tag), true) = (version, tags.len() > 1) {
        delete_version(repo, version)?;
        let others = tags.into_iter().filter(|other| other != tag.as_str()).collect();
        return Ok(report(reference, digest, Deleted::Tag, others));
    }
    if let Version::Checked(tag, expected) = version
        && *expected != digest
    {
        return Err(Error::TagMoved { tag: tag.to_string(), expected: *expected, actual: digest });
    }
    let of_this = |child: &&Tagged| child.manifest.subject.as_ref().is_some_and(|subject| subject.digest == digest);
    let mut names: Vec<String> = all.iter().filter(of_this).filter_map(|child| child.tags.first().cloned()).collect();
    // One that no tag names is known to the registry alone.
    let untagged = referrers::snapshots_of(repo, &digest)?;
    let is_tagged = |child: &Digest| all.iter().any(|snapshot| snapshot.descriptor.digest == *child);
    names.extend(untagged.into_iter().filter(|child| !is_tagged(child)).map(|child| child.to_string()));
    if children == Children::Keep && !names.is_empty() {
        return Err(Error::RemoteHasChildren { reference: reference.to_string(), children: names });
    }
    if found.is_none() && repo.manifest(&Version::Digest(digest))?.is_none() {
        return Err(repo.unknown(version));
    }
    delete_version(repo, &Version::Digest(digest))?;
    if let Some(subject) = found.and_then(|found| found.manifest.subject.as_ref()) {
        referrers::unregister(repo, subject, &digest);
    }
    Ok(report(reference, digest, Deleted::Manifest, tags))
}

fn has_tag(snapshot: &Tagged, tag: &str) -> bool {
    snapshot.tags.iter().any(|known| known == tag)
}

/// Why a tag names no snapshot: there is none, or it names another artifact.
fn no_snapshot(repo: &Repo, version: &Version) -> Result<Error> {
    Ok(match repo.manifest(version)? {
        Some(_) => Error::Usage(format!(
            "{version} of {} is no snapshot; delete it with the tool that made it",
            repo.display()
        )),
        None => repo.unknown(version),
    })
}

fn report(reference: &RegistryReference, manifest: Digest, deleted: Deleted, tags: Vec<String>) -> DeleteReport {
    DeleteReport { reference: reference.to_string(), manifest, deleted, tags }
}

fn delete_version(repo: &Repo, version: &Version) -> Result<()> {
    let operation = format!("delete {version} of {}", repo.display());
    let request = repo.request(Method::DELETE, repo.url(&format!("manifests/{version}")), &operation);
    let response = repo.client.send(&request)?;
    match response.status().as_u16() {
        200..300 => Ok(()),
        400 | 405 | 501 => {
            let status = response.status().as_u16();
            let (registry, reason) = (repo.client.registry(), response.reason());
            let hint =
                "; the registry does not allow deletes through its API, or not of tags: `distribution` does with \
                        REGISTRY_STORAGE_DELETE_ENABLED=true"
                    .into();
            Err(Error::Refused { registry, operation, status, reason, hint })
        }
        404 => Err(repo.unknown(version)),
        _ => Err(repo.refusal(response, &operation)),
    }
}

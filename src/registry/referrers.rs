//! A child is found from its parent by the referrers API, or where a registry has none, by the fallback tag
//! `sha256-<hex>` that clients keep (distribution-spec 1.1, "Pushing manifests with a subject").

use reqwest::{Method, StatusCode, header};

use super::repository::Repo;
use crate::{
    error::Result,
    media_type,
    model::{
        Descriptor, Index,
        json::{self, MAX_DOCUMENT},
    },
    reference::Version,
};

/// Attempts to change an index that others change too.
const ATTEMPTS: usize = 5;

/// Makes sure that `child` is among the referrers of `subject`.
pub(super) fn register(repo: &Repo, subject: &Descriptor, child: &Descriptor) -> Result<()> {
    if has_api(repo, subject)? {
        return Ok(());
    }
    let tag = Version::Tag(format!("sha256-{}", subject.digest.hex()).parse()?);
    let entry = Descriptor { artifact_type: Some(media_type::ARTIFACT.into()), ..child.clone() };
    for _ in 0..ATTEMPTS {
        let before = repo.manifest(&tag)?;
        // What is there and no index is somebody's own tag: it is left alone.
        let mut entries = match before {
            None => Vec::new(),
            Some((bytes, _)) => match Index::parse(&bytes, &format!("{tag} of {}", repo.display())) {
                Ok(index) => index.manifests,
                Err(error) => {
                    tracing::warn!(%error, "the tag of the referrers is no index");
                    return Ok(());
                }
            },
        };
        if entries.iter().any(|known| known.digest == child.digest) {
            return Ok(());
        }
        entries.push(entry.clone());
        let bytes = json::canonical(&Index::new(entries));
        if bytes.len() as u64 > MAX_DOCUMENT {
            tracing::warn!(%tag, "the list of referrers is full");
            return Ok(());
        }
        let operation = format!("push {tag} to {}", repo.display());
        let url = repo.url(&format!("manifests/{tag}"));
        let request = repo.request(Method::PUT, url, &operation).body(media_type::INDEX, bytes.into());
        let response = repo.client.send(&request)?;
        if !response.status().is_success() {
            return Err(repo.refusal(response, &operation));
        }
        // There is no lock: another client may have replaced it meanwhile, so it is looked at again.
    }
    Ok(())
}

/// Whether the registry keeps referrers itself.
fn has_api(repo: &Repo, subject: &Descriptor) -> Result<bool> {
    let operation = format!("list the referrers of {} in {}", subject.digest, repo.display());
    let request = repo
        .request(Method::GET, repo.url(&format!("referrers/{}", subject.digest)), operation)
        .header(header::ACCEPT, media_type::INDEX);
    let response = repo.client.send(&request)?;
    // A registry that answers a page for people to everything has no API.
    let index = response.header(header::CONTENT_TYPE).is_some_and(|media| media.starts_with(media_type::INDEX));
    Ok(response.status() == StatusCode::OK && index)
}

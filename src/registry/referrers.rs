//! A child is found from its parent by the referrers API, or where a registry has none, by the fallback tag
//! `sha256-<hex>` that clients keep (distribution-spec 1.1, "Pushing manifests with a subject").

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{repository::Repo, response::Response};
use crate::{
    digest::Digest,
    error::{Error, Result},
    media_type,
    model::{
        Descriptor, Index,
        json::{self, MAX_DOCUMENT},
    },
    reference::Version,
};

/// Attempts to change an index that others change too.
const ATTEMPTS: usize = 5;

/// Makes sure that `child`, of this type, is among the referrers of `subject`.
pub(super) fn register(
    repo: &Repo,
    subject: &Descriptor,
    child: &Descriptor,
    artifact_type: Option<String>,
) -> Result<()> {
    if has_api(repo, subject)? {
        return Ok(());
    }
    let tag = fallback_tag(&subject.digest)?;
    let entry = Descriptor { artifact_type, ..child.clone() };
    for _ in 0..ATTEMPTS {
        let before = repo.manifest(&tag)?;
        let Some(mut index) = index_of(before.map(|(bytes, _)| bytes)) else {
            repo.client.warn(format!("the tag {tag} of {} is no list of referrers; it stays as it is", repo.display()));
            return Ok(());
        };
        let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) else { return Ok(()) };
        if entries.iter().any(|known| known.get("digest") == Some(&json!(child.digest))) {
            return Ok(());
        }
        entries.push(json!(entry));
        let bytes = json::canonical(&index);
        if bytes.len() as u64 > MAX_DOCUMENT {
            repo.client.warn(format!("the list of referrers {tag} of {} is full", repo.display()));
            return Ok(());
        }
        let operation = format!("push {tag} to {}", repo.display());
        let url = repo.url(&format!("manifests/{tag}"));
        let request = repo.request(Method::PUT, url, &operation).body(media_type::INDEX, bytes.into());
        let response = repo.client.send(&request)?;
        if !response.status().is_success() {
            let refusal = repo.refusal(response, &operation);
            // A restore needs no list of referrers: the child names its parent.
            return match refusal {
                Error::Unauthorized { .. } | Error::Unreachable { .. } => Err(refusal),
                refusal => {
                    repo.client.warn(format!("{refusal}; other tools will not list this child of its parent"));
                    Ok(())
                }
            };
        }
        // There is no lock: another client may have replaced it meanwhile, so it is looked at again.
    }
    Ok(())
}

/// What refers to the manifest `digest`, as far as the registry or the fallback tag knows.
pub(super) fn list(repo: &Repo, digest: &Digest) -> Result<Vec<Descriptor>> {
    let operation = format!("list the referrers of {digest} in {}", repo.display());
    let request = repo
        .request(Method::GET, repo.url(&format!("referrers/{digest}")), operation)
        .header(header::ACCEPT, media_type::INDEX);
    let response = repo.client.send(&request)?;
    let bytes = match is_index(&response) {
        true => response.read_all(MAX_DOCUMENT).ok(),
        false => repo.manifest(&fallback_tag(digest)?)?.map(|(bytes, _)| bytes),
    };
    let index = bytes.and_then(|bytes| index_of(Some(bytes)));
    let entries = index.as_ref().and_then(|index| index.get("manifests")?.as_array()).into_iter().flatten();
    // What is named by another digest than SHA-256 is nothing that we could read.
    let manifest = |entry: &Value| {
        let (text, size) = (entry.get("digest")?.as_str()?, entry.get("size")?.as_u64()?);
        let mut descriptor = Descriptor::new(media_type::MANIFEST, text.parse().ok()?, size);
        descriptor.artifact_type = entry.get("artifactType").and_then(Value::as_str).map(str::to_owned);
        (entry.get("mediaType")? == media_type::MANIFEST).then_some(descriptor)
    };
    Ok(entries.filter_map(manifest).collect())
}

/// The snapshots that name the manifest `digest` as their parent, and that are still there.
pub(super) fn snapshots_of(repo: &Repo, digest: &Digest) -> Result<Vec<Digest>> {
    let mut found = Vec::new();
    for entry in list(repo, digest)? {
        let is_snapshot = entry.artifact_type.as_deref() == Some(media_type::ARTIFACT);
        if is_snapshot && repo.manifest(&Version::Digest(entry.digest))?.is_some() {
            found.push(entry.digest);
        }
    }
    Ok(found)
}

/// Takes `child` out of the fallback tag of `subject`, where the registry does not do so itself. A failure is a warning,
/// because a list that names what is gone harms nobody.
pub(super) fn unregister(repo: &Repo, subject: &Descriptor, child: &Digest) {
    if let Err(error) = try_unregister(repo, subject, child) {
        repo.client.warn(format!("{error}; the list of the parent's referrers still names {child}"));
    }
}

fn try_unregister(repo: &Repo, subject: &Descriptor, child: &Digest) -> Result<()> {
    if has_api(repo, subject)? {
        return Ok(());
    }
    let tag = fallback_tag(&subject.digest)?;
    let Some((bytes, _)) = repo.manifest(&tag)? else { return Ok(()) };
    let Some(mut index) = index_of(Some(bytes)) else { return Ok(()) };
    let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) else { return Ok(()) };
    let before = entries.len();
    entries.retain(|entry| entry.get("digest") != Some(&json!(child)));
    if entries.len() == before {
        return Ok(());
    }
    let operation = format!("push {tag} to {}", repo.display());
    let url = repo.url(&format!("manifests/{tag}"));
    let request = repo.request(Method::PUT, url, &operation).body(media_type::INDEX, json::canonical(&index).into());
    let response = repo.client.send(&request)?;
    if response.status().is_success() { Ok(()) } else { Err(repo.refusal(response, &operation)) }
}

fn fallback_tag(digest: &Digest) -> Result<Version> {
    Ok(Version::Tag(format!("sha256-{}", digest.hex()).parse()?))
}

/// Whether the answer is an index. A registry that answers a page for people to everything has no API.
fn is_index(response: &Response) -> bool {
    let index = response.header(header::CONTENT_TYPE).is_some_and(|media| media.starts_with(media_type::INDEX));
    response.status() == StatusCode::OK && index
}

/// The index as it is, for what others wrote into it is theirs; a new one where there is none. What is there and no index
/// is somebody's own tag: it is left alone.
fn index_of(bytes: Option<Vec<u8>>) -> Option<Value> {
    let Some(bytes) = bytes else { return Some(json!(Index::new(Vec::new()))) };
    let index: Value = json::parse(&bytes, "the list of referrers").ok()?;
    let of_another_kind = index.get("mediaType").is_some_and(|media| media != media_type::INDEX)
        || ["layers", "config"].iter().any(|member| index.get(member).is_some());
    let is_index = index.get("schemaVersion") == Some(&json!(2)) && index.get("manifests").is_some_and(Value::is_array);
    (is_index && !of_another_kind).then_some(index)
}

/// Whether the registry keeps referrers itself.
fn has_api(repo: &Repo, subject: &Descriptor) -> Result<bool> {
    let operation = format!("list the referrers of {} in {}", subject.digest, repo.display());
    let request = repo
        .request(Method::GET, repo.url(&format!("referrers/{}", subject.digest)), operation)
        .header(header::ACCEPT, media_type::INDEX);
    Ok(is_index(&repo.client.send(&request)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays() {
        let theirs = json!({
            "schemaVersion": 2, "mediaType": media_type::INDEX, "artifactType": "x/y", "annotations": { "a": "b" },
            "subject": { "digest": "sha512:0", "size": 1 },
            "manifests": [{ "digest": "sha512:1", "platform": { "os": "linux" }, "urls": ["u"], "data": "", "more": 1 }],
        });
        assert_eq!(index_of(Some(theirs.to_string().into_bytes())), Some(theirs));
        assert_eq!(index_of(None).unwrap()["manifests"], json!([]));
        for none in [r#"{"schemaVersion":2}"#, r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "x", "{}", "[]"] {
            assert_eq!(index_of(Some(none.into())), None, "{none}");
        }
        let image = json!({ "schemaVersion": 2, "mediaType": media_type::MANIFEST, "manifests": [] });
        assert_eq!(index_of(Some(image.to_string().into_bytes())), None);
    }
}

//! A child is found from its parent by the referrers API, or where a registry has none, by the fallback tag
//! `sha256-<hex>` that clients keep (distribution-spec 1.1, "Pushing manifests with a subject").

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

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
        let Some(mut index) = index_of(before.map(|(bytes, _)| bytes)) else {
            tracing::warn!(%tag, "the tag of the referrers is no index");
            return Ok(());
        };
        let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) else { return Ok(()) };
        if entries.iter().any(|known| known.get("digest") == Some(&json!(child.digest))) {
            return Ok(());
        }
        entries.push(json!(entry));
        let bytes = json::canonical(&index);
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
    let response = repo.client.send(&request)?;
    // A registry that answers a page for people to everything has no API.
    let index = response.header(header::CONTENT_TYPE).is_some_and(|media| media.starts_with(media_type::INDEX));
    Ok(response.status() == StatusCode::OK && index)
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

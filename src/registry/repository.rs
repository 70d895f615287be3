//! One repository of a registry: its addresses, its manifests, and what it has.

use std::io::Read;

use reqwest::{Method, StatusCode, Url, header};

use super::{
    auth::Scope,
    client::{Client, Request},
    options::Options,
    response::Response,
    tags,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    media_type,
    model::{Descriptor, json::MAX_DOCUMENT},
    reference::{RegistryReference, Repository, SCHEME, Version},
};

/// Tags that an error lists.
const LISTED_TAGS: usize = 50;

/// A repository.
pub(super) struct Repo {
    pub client: Client,
    pub name: Repository,
    /// What tokens are asked for.
    pub scope: Scope,
}

impl Repo {
    /// To read from.
    pub fn to_pull(reference: &RegistryReference, options: &Options) -> Result<Self> {
        let scope = Scope::pull(reference.repository.as_str());
        Ok(Self {
            client: Client::new(&reference.host, Some(&reference.repository), options)?,
            name: reference.repository.clone(),
            scope,
        })
    }

    /// To read from and write to.
    pub fn to_push(reference: &RegistryReference, options: &Options) -> Result<Self> {
        let scope = Scope::push(reference.repository.as_str());
        Ok(Self {
            client: Client::new(&reference.host, Some(&reference.repository), options)?,
            name: reference.repository.clone(),
            scope,
        })
    }

    /// How messages call it.
    pub fn display(&self) -> String {
        format!("{SCHEME}{}/{}", self.client.registry(), self.name)
    }

    /// What a request for something that is there does, as messages call it. A push asks only for what it need not send, so
    /// what is refused then is the push.
    pub fn operation(&self, what: &dyn std::fmt::Display) -> String {
        match self.scope.pushes() {
            true => format!("push to {}", self.display()),
            false => format!("read {what} of {}", self.display()),
        }
    }

    pub fn url(&self, rest: &str) -> Url {
        self.client.url(&format!("/v2/{}/{rest}", self.name))
    }

    fn blob_or_manifest(&self, descriptor: &Descriptor) -> Url {
        match is_manifest(&descriptor.media_type) {
            true => self.url(&format!("manifests/{}", descriptor.digest)),
            false => self.url(&format!("blobs/{}", descriptor.digest)),
        }
    }

    pub fn request(&self, method: Method, url: Url, operation: impl Into<String>) -> Request {
        Request::new(method, url, &self.scope, operation)
    }

    /// A request for a blob or manifest; manifests are negotiated.
    pub fn read_request(&self, method: Method, descriptor: &Descriptor) -> Request {
        let operation = self.operation(&descriptor.digest);
        let request = self.request(method, self.blob_or_manifest(descriptor), operation);
        match is_manifest(&descriptor.media_type) {
            true => request.header(header::ACCEPT, &descriptor.media_type),
            false => request,
        }
    }

    /// Whether the registry has it, at this size. One that does not say is taken to have nothing: what is sent twice harms
    /// nobody.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let request = self.read_request(Method::HEAD, descriptor);
        let response = self.client.send(&request)?;
        match response.status() {
            StatusCode::OK => {
                let size = response.header(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
                Ok(size.is_some_and(|size| size == descriptor.size))
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST => Ok(false),
            _ => Err(self.client.refusal(response, &request.operation, "blob")),
        }
    }

    /// A manifest's bytes and media type; none if there is no such.
    pub fn manifest(&self, version: &Version) -> Result<Option<(Vec<u8>, String)>> {
        let operation = self.operation(version);
        let accept = format!("{}, {}", media_type::MANIFEST, media_type::INDEX);
        let request = self
            .request(Method::GET, self.url(&format!("manifests/{version}")), operation)
            .header(header::ACCEPT, &accept);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let response = self.client.send(&request)?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                _ => return Err(self.client.refusal(response, &request.operation, "manifest")),
            }
            let declared = response.header(header::CONTENT_TYPE).unwrap_or_default();
            let media = declared.split(';').next().unwrap_or_default().trim().to_owned();
            let mut bytes = Vec::new();
            match response.into_body().take(MAX_DOCUMENT + 1).read_to_end(&mut bytes) {
                Ok(_) => {}
                Err(_) if attempt < self.client.retry.attempts => {
                    self.client.retry.wait(attempt, None);
                    continue;
                }
                Err(error) => return Err(self.client.unreachable(&request.operation, error.to_string())),
            }
            if bytes.len() as u64 > MAX_DOCUMENT {
                let what = format!("the size of the manifest {version} of {}", self.display());
                return Err(Error::Limit { what, value: bytes.len() as u64, limit: MAX_DOCUMENT, hint: "" });
            }
            if let Version::Digest(digest) = version
                && Digest::of(&bytes) != *digest
            {
                let reason = format!("the registry sent a manifest with the digest {}", Digest::of(&bytes));
                return Err(Error::CorruptBlob { digest: *digest, reason });
            }
            return Ok(Some((bytes, media)));
        }
    }

    /// What is said when a version is not there: the tags that are.
    pub fn unknown(&self, version: &Version) -> Error {
        let operation = format!("read {version} of {}", self.display());
        let missing = |what, hint: &str| Error::RemoteNotFound {
            registry: self.client.registry(),
            operation: operation.clone(),
            what,
            hint: hint.into(),
        };
        let Version::Tag(tag) = version else { return missing("manifest", "") };
        match tags::list(self) {
            Ok(mut tags) if !tags.is_empty() => {
                let more = tags.len().saturating_sub(LISTED_TAGS);
                tags.truncate(LISTED_TAGS);
                if more > 0 {
                    tags.push(format!("and {more} more"));
                }
                Error::TagNotFound { tag: tag.to_string(), tags }
            }
            Ok(_) => missing("tag", "; the repository has no tags"),
            Err(Error::RemoteNotFound { .. }) => missing("repository", "; check its name, and that it has been pushed"),
            Err(_) => missing("tag", ""),
        }
    }

    pub fn refusal(&self, response: Response, operation: &str) -> Error {
        self.client.refusal(response, operation, "repository")
    }
}

/// Whether registries keep it with the manifests.
pub(super) fn is_manifest(media: &str) -> bool {
    matches!(media, media_type::MANIFEST | media_type::INDEX)
}

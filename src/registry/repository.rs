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

/// Attempts to ask whether a blob is there: the upload tells as well.
const HEADS: u32 = 2;
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
        Self::new(reference, options, Scope::pull(reference.repository.as_str()))
    }

    /// To read from and write to.
    pub fn to_push(reference: &RegistryReference, options: &Options) -> Result<Self> {
        Self::new(reference, options, Scope::push(reference.repository.as_str()))
    }

    /// To read from, write to and delete from.
    pub fn to_delete(reference: &RegistryReference, options: &Options) -> Result<Self> {
        Self::new(reference, options, Scope::delete(reference.repository.as_str()))
    }

    fn new(reference: &RegistryReference, options: &Options, scope: Scope) -> Result<Self> {
        let name = reference.repository.clone();
        Ok(Self { client: Client::new(&reference.host, Some(&name), options)?, name, scope })
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

    /// Whether the registry has the blob or manifest, at this size.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        match is_manifest(&descriptor.media_type) {
            true => self.has_manifest(descriptor),
            false => self.has_blob(descriptor),
        }
    }

    /// Whether the registry has the blob, at this size. One that does not say, or refuses to, is taken to have nothing: some
    /// answer 403 to the question for what they lack, and what is sent twice harms nobody.
    pub fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let request = self.read_request(Method::HEAD, descriptor);
        let response = self.client.send_up_to(&request, HEADS)?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.client.refusal(response, &request.operation, "blob"));
        }
        let size = response.header(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        Ok(response.status() == StatusCode::OK && size == Some(descriptor.size))
    }

    /// Whether the registry has the manifest, at this size. Some answer only to those who ask for the manifest itself.
    ///
    /// # Errors
    /// What the registry refuses to both questions.
    pub fn has_manifest(&self, descriptor: &Descriptor) -> Result<bool> {
        let response = self.client.send(&self.read_request(Method::HEAD, descriptor))?;
        let size = response.header(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        match response.status() {
            StatusCode::OK => Ok(size == Some(descriptor.size)),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Ok(self.manifest(&Version::Digest(descriptor.digest))?.is_some()),
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
            match response.into_document().take(MAX_DOCUMENT + 1).read_to_end(&mut bytes) {
                Ok(_) => {}
                Err(error) if attempt < self.client.retry.attempts => {
                    self.client.wait(attempt, None, &request.operation, &error.to_string());
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

    /// Why a blob was refused; with its size, where that may be the reason.
    pub fn refusal_of_blob(&self, response: Response, descriptor: &Descriptor) -> Error {
        match self.refusal(response, &format!("push to {}", self.display())) {
            Error::Refused { registry, operation, status: 413, reason, .. } => {
                let size = descriptor.size;
                let hint = format!(
                    "; the blob has {size} bytes, and the registry, or a proxy before it, limits the size of a blob or of a \
                     request: --chunk-size SIZE sends smaller requests"
                );
                Error::Refused { registry, operation, status: 413, reason, hint }
            }
            error => error,
        }
    }
}

/// Whether registries keep it with the manifests.
pub(super) fn is_manifest(media: &str) -> bool {
    matches!(media, media_type::MANIFEST | media_type::INDEX)
}

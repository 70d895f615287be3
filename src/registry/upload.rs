//! One upload of a blob: in one request, or chunk after chunk, on at the registry's offset after a cut.
//!
//! ```text
//! POST uploads/         -> a Location, and maybe the smallest chunk that the registry takes
//! PATCH Location        <- a chunk; cut? GET Location says how much arrived, the rest of the chunk follows
//! PUT Location?digest=  <- the end, or the whole blob; the registry compares the digest
//! ```
//!
//! A 2xx means that a chunk was taken, because registries say anything in its `Range`. The digest at the end decides.
//! What a registry refuses is noted in its [`super::capabilities`]; where another way is left the error is
//! [`Error::UploadLost`], and whoever has the bytes sends them again.

use std::io;

use bytes::Bytes;
use reqwest::{Method, StatusCode, Url, header};

use super::{
    capabilities::Way,
    client::{COMMIT, Failure, Request},
    memory::UploadRecord,
    payload::Content,
    repository::Repo,
    response::Response,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    media_type,
    model::Descriptor,
    reference::Repository,
};

/// The media type of a blob's bytes on their way.
const OCTETS: &str = "application/octet-stream";
/// Largest chunk that a registry may ask for, in bytes; one that asks for more gets the blob in one piece.
pub(super) const MAX_CHUNK: usize = 64 << 20;
/// How often a blob is sent from its beginning.
pub(super) const SENDS: u32 = 8;

/// What a registry says to the wish for an upload.
pub(super) enum Begun {
    /// Bytes are awaited.
    Session(Session),
    /// The blob was mounted from another repository.
    Mounted,
}

/// An upload that goes on.
pub(super) struct Session {
    location: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// Fewest bytes of a chunk that the registry takes.
    pub least: usize,
    origin: Origin,
    /// Remembers where it goes on, after a kill too.
    record: Option<UploadRecord>,
}

/// Who began an upload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    ThisRun,
    EarlierRun,
}

/// Why a request was not taken.
enum Trouble {
    /// It may be taken a little later.
    Passes { reason: String, asked: Option<std::time::Duration> },
    /// The connection broke: some of it may have arrived.
    Broken(String),
}

/// The Location of a response.
fn location_of(repo: &Repo, response: &Response) -> Result<Option<Url>> {
    response.header(header::LOCATION).map(|location| repo.client.resolve(response.url(), location)).transpose()
}

/// Asks for an upload.
pub(super) fn begin(repo: &Repo) -> Result<Session> {
    match ask(repo, None)? {
        Begun::Session(session) => Ok(session),
        Begun::Mounted => Err(Error::Protocol {
            registry: repo.client.registry(),
            reason: "it mounts a blob that nobody named".into(),
        }),
    }
}

/// Asks for a mount of `from`'s blob; registries that do not mount it begin an upload instead.
pub(super) fn mount(repo: &Repo, digest: &Digest, from: &Repository) -> Result<Begun> {
    ask(repo, Some((digest, from)))
}

fn ask(repo: &Repo, mount: Option<(&Digest, &Repository)>) -> Result<Begun> {
    let operation = format!("push to {}", repo.display());
    let mut url = repo.url("blobs/uploads/");
    let mut request = repo.request(Method::POST, url.clone(), &operation);
    if let Some((digest, from)) = mount {
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from.as_str());
        request.url = url;
        request.scope = repo.scope.clone().and_pull(from.as_str());
    }
    let response = repo.client.send(&request)?;
    match response.status() {
        StatusCode::CREATED if mount.is_some() => return Ok(Begun::Mounted),
        status if status.is_success() => {}
        _ => return Err(repo.refusal(response, &operation)),
    }
    let Some(location) = location_of(repo, &response)? else {
        let reason = "it begins an upload without a Location".into();
        return Err(Error::Protocol { registry: repo.client.registry(), reason });
    };
    let asked = response.header("oci-chunk-min-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    Ok(Begun::Session(Session { location, offset: 0, least: asked, origin: Origin::ThisRun, record: None }))
}

impl Session {
    /// The upload that the record tells of, where the registry still knows it; with the record.
    pub fn resume(repo: &Repo, record: UploadRecord) -> std::result::Result<Self, UploadRecord> {
        let location = record.location().and_then(|text| repo.client.resolve(&repo.url(""), &text).ok());
        let Some(location) = location else { return Err(record) };
        let mut session = Self { location, offset: 0, least: 0, origin: Origin::EarlierRun, record: None };
        match session.probe(repo, 0, u64::MAX) {
            Ok(()) => {
                record.set(session.location.as_str());
                Ok(Self { record: Some(record), ..session })
            }
            Err(error) => {
                tracing::debug!(%error, "an unfinished upload cannot go on");
                record.clear();
                Err(record)
            }
        }
    }

    /// From now on the upload is remembered.
    pub fn remember(&mut self, record: Option<UploadRecord>) {
        if let Some(record) = record {
            record.set(self.location.as_str());
            self.record = Some(record);
        }
    }

    /// Bytes that the registry has already.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Sends the blob's next bytes.
    ///
    /// # Errors
    /// [`Error::UploadLost`]: the blob must be sent again from its beginning. Else what the registry refuses.
    pub fn send(&mut self, repo: &Repo, chunk: Bytes) -> Result<()> {
        let sent = self.send_chunk(repo, &chunk);
        if matches!(sent, Err(Error::UploadLost { .. })) {
            self.forget();
        }
        sent
    }

    fn send_chunk(&mut self, repo: &Repo, chunk: &Bytes) -> Result<()> {
        let start = self.offset;
        let end = start + chunk.len() as u64;
        let (mut failures, mut failed_at) = (0, start);
        while self.offset < end {
            let piece = chunk.slice((self.offset - start) as usize..);
            let size = piece.len();
            let range = format!("{}-{}", self.offset, end - 1);
            let request =
                self.request(repo, Method::PATCH, Content::Bytes(piece)).header(header::CONTENT_RANGE, &range);
            let trouble = match repo.client.send_once(&request) {
                Ok(response) if response.status().is_success() => {
                    self.take(repo, &response, end)?;
                    continue;
                }
                Ok(response) if response.is_passing() => passes(&response),
                Ok(response) => self.refused(repo, response, size, start, end)?,
                Err(failure) => broken(repo, failure, &request.operation)?,
            };
            let (Trouble::Passes { reason, .. } | Trouble::Broken(reason)) = &trouble;
            tracing::debug!(offset = self.offset, reason, "a chunk was not taken");
            failures += 1;
            if failures >= repo.client.retry.attempts {
                return Err(self.give_up(repo, &request.operation, trouble, size));
            }
            match trouble {
                Trouble::Passes { reason, asked } => repo.client.wait(failures, asked, &request.operation, &reason),
                Trouble::Broken(reason) => repo.client.wait(failures, None, &request.operation, &reason),
            }
            self.probe(repo, start, end)?;
            if self.offset > failed_at {
                (failures, failed_at) = (0, self.offset);
            }
        }
        Ok(())
    }

    /// A chunk was refused for good: out of step with the registry, which is told, or an upload that it forgot, or chunks
    /// that it does not take.
    fn refused(&mut self, repo: &Repo, response: Response, size: usize, start: u64, end: u64) -> Result<Trouble> {
        let status = response.status().as_u16();
        let before = self.offset;
        let refusal = repo.refusal(response, &format!("push to {}", repo.display()));
        if status == 401 {
            return Err(refusal);
        }
        if matches!(status, 404 | 410 | 416) {
            match self.probe(repo, start, end) {
                Ok(()) if self.offset != before => {
                    return Ok(Trouble::Passes { reason: format!("it answered {status}"), asked: None });
                }
                Err(Error::UploadLost { reason, .. }) if status != 416 || self.origin == Origin::EarlierRun => {
                    repo.client.capabilities.lose_upload();
                    return Err(lost(repo, &reason));
                }
                _ => {}
            }
        }
        repo.client.capabilities.refuse_chunk(size, self.least);
        Err(another_way(repo, None, refusal))
    }

    /// Chunks that never come through are refused, by whatever is between.
    fn give_up(&self, repo: &Repo, operation: &str, trouble: Trouble, size: usize) -> Error {
        let capabilities = &repo.client.capabilities;
        match trouble {
            Trouble::Passes { reason, .. } => {
                capabilities.refuse_chunk(size, self.least);
                another_way(repo, None, repo.client.unreachable(operation, reason))
            }
            Trouble::Broken(reason) => {
                capabilities.avoid_chunk(size, self.least);
                another_way(repo, None, repo.client.unreachable(operation, reason))
            }
        }
    }

    fn request(&self, repo: &Repo, method: Method, content: Content) -> Request {
        let operation = format!("push to {}", repo.display());
        let mut request = repo.request(method, self.location.clone(), operation).header(header::CONTENT_TYPE, OCTETS);
        request.body = content;
        request
    }

    /// A chunk was taken.
    fn take(&mut self, repo: &Repo, response: &Response, end: u64) -> Result<()> {
        if let Some(location) = location_of(repo, response)? {
            self.location = location;
        }
        self.offset = end;
        if let Some(record) = &self.record {
            record.set(self.location.as_str());
        }
        Ok(())
    }

    /// Asks how much arrived: not less than `least`, which it has taken, and not more than `most`, which was sent.
    fn probe(&mut self, repo: &Repo, least: u64, most: u64) -> Result<()> {
        let request = repo.request(Method::GET, self.location.clone(), format!("push to {}", repo.display()));
        let response = repo.client.send(&request)?;
        match response.status().as_u16() {
            200..300 => {}
            401 => return Err(repo.refusal(response, &request.operation)),
            400..=499 | 501 => return Err(lost(repo, "it does not know it any more")),
            _ => return Err(repo.refusal(response, &request.operation)),
        }
        let offset = response.header(header::RANGE).map_or(Some(0), bytes_of_range);
        if let Some(location) = location_of(repo, &response)? {
            self.location = location;
        }
        match offset {
            Some(offset) if (least..=most).contains(&offset) => {
                self.offset = offset;
                Ok(())
            }
            _ => Err(lost(repo, "it does not say how much of it arrived")),
        }
    }

    pub fn forget(&mut self) {
        if let Some(record) = self.record.take() {
            record.clear();
        }
    }

    /// Ends the upload: the registry compares size and digest.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn finish(mut self, repo: &Repo, descriptor: &Descriptor) -> Result<()> {
        let finished = self.commit(repo, descriptor);
        if matches!(finished, Ok(()) | Err(Error::UploadLost { .. })) {
            self.forget();
        }
        finished
    }

    // An attempt costs as few requests as it can: a registry that fails at every third one must not meet the same one
    // of a round of three each time.
    fn commit(&mut self, repo: &Repo, descriptor: &Descriptor) -> Result<()> {
        let mut failures = 0;
        loop {
            let request = self.last_request(repo, descriptor, Content::none());
            let trouble = match repo.client.send_once(&request) {
                Ok(response) if response.status().is_success() => return check_named(repo, &response, descriptor),
                Ok(response) if response.is_passing() => passes(&response),
                Ok(response) => {
                    // An earlier attempt's answer may have been lost after the work was done.
                    if failures > 0 && repo.has_blob(descriptor)? {
                        return Ok(());
                    }
                    return Err(self.refused_at_its_end(repo, response, descriptor));
                }
                Err(failure) => broken(repo, failure, &request.operation)?,
            };
            failures += 1;
            // Chunks stand as they were: the end is asked for again, and a registry that forgot them says so.
            if again(repo, descriptor, failures, &request.operation, trouble)? == Again::Arrived {
                return Ok(());
            }
        }
    }

    fn last_request(&self, repo: &Repo, descriptor: &Descriptor, content: Content) -> Request {
        let mut request = self.request(repo, Method::PUT, content);
        request.url.query_pairs_mut().append_pair("digest", &descriptor.digest.to_string());
        request.patience = Some(COMMIT);
        request
    }

    /// Every chunk was taken, and all of them together are not.
    fn refused_at_its_end(&self, repo: &Repo, response: Response, descriptor: &Descriptor) -> Error {
        let status = response.status().as_u16();
        let refusal = repo.refusal_of_blob(response, descriptor);
        match (status, self.origin) {
            // Its bytes may be others.
            (400 | 404 | 410 | 416 | 422, Origin::EarlierRun) => lost(repo, &refusal.to_string()),
            (404 | 410, Origin::ThisRun) => {
                repo.client.capabilities.lose_upload();
                lost(repo, &refusal.to_string())
            }
            // Some take no small chunks, some lose count.
            (400 | 405 | 411 | 415 | 416 | 422 | 501, Origin::ThisRun) => {
                repo.client.capabilities.refuse_chunks();
                another_way(repo, Some(descriptor.size), refusal)
            }
            _ => refusal,
        }
    }
}

/// Sends a blob that can be read again, in whatever way the registry takes it. `session` is an upload that is begun already.
///
/// # Errors
/// What the registry refuses.
pub(super) fn send_content(
    repo: &Repo,
    mut session: Option<Session>,
    descriptor: &Descriptor,
    content: &Content,
) -> Result<()> {
    let mut sends = 0;
    loop {
        sends += 1;
        let sent = match repo.client.capabilities.way(Some(descriptor.size)) {
            Some(Way::Chunks(chunk)) => send_chunks(repo, session.take(), descriptor, content, chunk),
            // A registry that refused everything is asked once more: what it says is the error.
            Some(Way::Whole) | None => send_whole(repo, session.take(), descriptor, content),
        };
        match sent {
            Err(Error::UploadLost { reason, .. }) if sends < SENDS => {
                tracing::debug!(digest = %descriptor.digest, reason, "the blob is sent from its beginning");
            }
            other => return other,
        }
    }
}

fn send_chunks(
    repo: &Repo,
    session: Option<Session>,
    descriptor: &Descriptor,
    content: &Content,
    chunk: usize,
) -> Result<()> {
    let mut session = session.map_or_else(|| begin(repo), Ok)?;
    let chunk = chunk.max(session.least);
    if chunk > MAX_CHUNK {
        repo.client.capabilities.refuse_chunks();
        let reason = format!("it takes no chunks of less than {} bytes", session.least);
        return Err(another_way(
            repo,
            Some(descriptor.size),
            Error::Protocol { registry: repo.client.registry(), reason },
        ));
    }
    while session.offset < descriptor.size {
        let length = (descriptor.size - session.offset).min(chunk as u64) as usize;
        let piece = content.piece(session.offset, length).map_err(|e| Error::io("read", "a spool file", e))?;
        session.send(repo, piece)?;
    }
    session.finish(repo, descriptor)
}

/// Sends a blob in one request. Content that cannot be read again is sent once.
///
/// # Errors
/// [`Error::UploadLost`]: it must be sent again, or in another way. Else what the registry refuses.
pub(super) fn send_whole(
    repo: &Repo,
    mut session: Option<Session>,
    descriptor: &Descriptor,
    content: &Content,
) -> Result<()> {
    let mut failures = 0;
    loop {
        let current = session.take().map_or_else(|| begin(repo), Ok)?;
        let request = current.last_request(repo, descriptor, content.clone());
        let trouble = match repo.client.send_once(&request) {
            Ok(response) if response.status().is_success() => return check_named(repo, &response, descriptor),
            Ok(response) if response.is_passing() || response.status() == StatusCode::NOT_FOUND => passes(&response),
            Ok(response) => {
                let status = response.status().as_u16();
                let refusal = repo.refusal_of_blob(response, descriptor);
                let is_about_content =
                    matches!(&refusal, Error::Refused { reason, .. } if is_about_content(reason)) || status == 401;
                if is_about_content || !matches!(status, 400 | 405 | 411 | 413 | 415 | 416 | 501) {
                    return Err(refusal);
                }
                repo.client.capabilities.refuse_whole(descriptor.size);
                return Err(another_way(repo, Some(descriptor.size), refusal));
            }
            Err(failure) => broken(repo, failure, &request.operation)?,
        };
        failures += 1;
        if again(repo, descriptor, failures, &request.operation, trouble)? == Again::Arrived {
            return Ok(());
        }
        if content.is_stream() {
            return Err(lost(repo, "the connection was cut"));
        }
    }
}

/// Whether the registry speaks of the bytes and not of how they came.
fn is_about_content(reason: &str) -> bool {
    ["DIGEST_INVALID", "SIZE_INVALID"].iter().any(|code| reason.starts_with(code))
}

#[derive(PartialEq, Eq)]
enum Again {
    /// The request is worth another attempt.
    Worth,
    /// The blob arrived though its answer did not.
    Arrived,
}

/// Waits for another attempt; the error if there were enough.
fn again(repo: &Repo, descriptor: &Descriptor, failures: u32, operation: &str, trouble: Trouble) -> Result<Again> {
    let is_broken = matches!(trouble, Trouble::Broken(_));
    let (reason, asked) = match trouble {
        Trouble::Passes { reason, asked } => (reason, asked),
        Trouble::Broken(reason) => (reason, None),
    };
    if failures >= repo.client.retry.attempts {
        return Err(repo.client.unreachable(operation, reason));
    }
    repo.client.wait(failures, asked, operation, &reason);
    // The answer may have been lost after the work was done; an answer that is a failure is cheaper to try again.
    match is_broken && repo.has_blob(descriptor)? {
        true => Ok(Again::Arrived),
        false => Ok(Again::Worth),
    }
}

fn passes(response: &Response) -> Trouble {
    Trouble::Passes { reason: format!("it answered {}", response.status()), asked: response.retry_after() }
}

fn broken(repo: &Repo, failure: Failure, operation: &str) -> Result<Trouble> {
    match failure {
        Failure::Fatal(error) => Err(error),
        Failure::Refused(reason) if !repo.client.is_reached() => Err(repo.client.unreachable(operation, reason)),
        Failure::Broken(reason) | Failure::Refused(reason) => Ok(Trouble::Broken(reason)),
    }
}

fn lost(repo: &Repo, reason: &str) -> Error {
    Error::UploadLost { registry: repo.client.registry(), reason: reason.into() }
}

/// The refusal, unless a blob of this size can be sent in another way.
fn another_way(repo: &Repo, size: Option<u64>, refusal: Error) -> Error {
    match repo.client.capabilities.way(size) {
        Some(_) => lost(repo, &format!("it takes no blobs in that way: {refusal}")),
        None => refusal,
    }
}

/// A registry that kept something else than it was sent says so itself.
fn check_named(repo: &Repo, response: &Response, descriptor: &Descriptor) -> Result<()> {
    match response.content_digest() {
        Some(named) if named != descriptor.digest => Err(Error::Protocol {
            registry: repo.client.registry(),
            reason: format!("it was sent {} and keeps it as {named}", descriptor.digest),
        }),
        _ => Ok(()),
    }
}

/// A blob of so many bytes, as far as an upload has to know it.
pub(super) fn layer(digest: Digest, size: u64) -> Descriptor {
    Descriptor::new(media_type::LAYER_ZSTD, digest, size)
}

/// How many bytes `0-LAST` are. `0-0` is how registries say none: nobody sends a single byte.
fn bytes_of_range(text: &str) -> Option<u64> {
    let (first, last) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    match (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

/// An error for a writer, which speaks I/O errors.
pub(super) fn to_io(error: Error) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_parse() {
        assert_eq!(bytes_of_range("0-0"), Some(0));
        assert_eq!(bytes_of_range("0-4194303"), Some(4 << 20));
        assert_eq!(bytes_of_range("bytes=0-9"), Some(10));
        for bad in ["", "0", "-", "1-2", "0--1", "0-18446744073709551615", "a-b"] {
            assert_eq!(bytes_of_range(bad), None, "{bad}");
        }
    }
}

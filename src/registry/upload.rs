//! One upload session of a blob: chunk after chunk, on at the registry's offset after a cut.
//!
//! ```text
//! POST uploads/         -> a Location, and maybe the smallest chunk that the registry takes
//! PATCH Location        <- a chunk; cut? GET Location says how much arrived, the rest of the chunk follows
//! PUT Location?digest=  <- the end; the registry compares the digest
//! ```

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use reqwest::{Method, StatusCode, Url, header};

use super::{
    client::{COMMIT, Failure, Request, is_passing},
    memory::UploadRecord,
    options::MODEST_CHUNK,
    payload::Content,
    repository::Repo,
    response::Response,
};
use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    media_type,
    model::Descriptor,
    reference::Repository,
};

/// The media type of a blob's bytes on their way.
const OCTETS: &str = "application/octet-stream";
/// Largest chunk that a registry may ask for, in bytes; one that asks for more gets the blob in one piece.
const MAX_CHUNK: usize = 64 << 20;

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
    /// The size of chunks, in bytes.
    pub chunk: usize,
    /// The most that goes in one request: less than a chunk until the registry has taken some, and where it refuses more.
    limit: usize,
    /// Remembers where it goes on, after a kill too.
    record: Option<UploadRecord>,
    /// Whether this run has seen the registry take a chunk.
    proven: bool,
    /// What a registry that refuses chunks will get in one piece.
    whole: Option<Whole>,
}

/// A blob in a file that nobody else sees.
struct Whole {
    file: Arc<File>,
    size: u64,
}

/// The Location of a response.
fn location_of(repo: &Repo, response: &Response) -> Result<Option<Url>> {
    response.header(header::LOCATION).map(|location| repo.client.resolve(response.url(), location)).transpose()
}

/// Asks for an upload, or for a mount of `from`'s blob.
pub(super) fn begin(repo: &Repo, mount: Option<(&Digest, &Repository)>, chunk: usize) -> Result<Begun> {
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
        StatusCode::ACCEPTED => {}
        _ => return Err(repo.refusal(response, &operation)),
    }
    let Some(location) = location_of(repo, &response)? else {
        let reason = "it begins an upload without a Location".into();
        return Err(Error::Protocol { registry: repo.client.registry(), reason });
    };
    let asked = response.header("oci-chunk-min-length").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let limit = chunk.min(MODEST_CHUNK);
    let mut session = Session { location, offset: 0, chunk, limit, record: None, proven: false, whole: None };
    match usize::try_from(asked) {
        Ok(asked) if asked <= limit => {}
        Ok(asked) if asked <= MAX_CHUNK => {
            session.chunk = chunk.max(asked);
            session.limit = session.chunk;
        }
        _ => session.spool()?,
    }
    Ok(Begun::Session(session))
}

impl Session {
    /// The upload that the record tells of, where the registry still knows it; with the record.
    pub fn resume(repo: &Repo, record: UploadRecord, chunk: usize) -> std::result::Result<Self, UploadRecord> {
        let location = record.location().and_then(|text| repo.client.resolve(&repo.url(""), &text).ok());
        let Some(location) = location else { return Err(record) };
        let limit = chunk.min(MODEST_CHUNK);
        let mut session = Self { location, offset: 0, chunk, limit, record: None, proven: true, whole: None };
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
    /// [`Error::UploadLost`]: the registry forgot the upload, the blob must be sent again from its beginning.
    pub fn send(&mut self, repo: &Repo, chunk: Bytes) -> Result<()> {
        let sent = self.send_or_spool(repo, chunk);
        if matches!(sent, Err(Error::UploadLost { .. })) {
            self.forget();
        }
        sent
    }

    fn send_or_spool(&mut self, repo: &Repo, chunk: Bytes) -> Result<()> {
        if let Some(whole) = &mut self.whole {
            return whole.append(&chunk);
        }
        let start = self.offset;
        let chunk_end = start + chunk.len() as u64;
        let (mut failures, mut failed_at) = (0, start);
        while self.offset < chunk_end {
            let end = chunk_end.min(self.offset + self.limit as u64);
            let piece = chunk.slice((self.offset - start) as usize..(end - start) as usize);
            let range = format!("{}-{}", self.offset, end - 1);
            let request = self.request(repo, Method::PATCH, piece).header(header::CONTENT_RANGE, &range);
            let (reason, asked) = match repo.client.send_once(&request) {
                Ok(response) if response.status().is_success() => {
                    self.accepted(repo, &response, end)?;
                    self.limit = self.chunk;
                    continue;
                }
                Ok(response) if is_passing(response.status()) => {
                    (format!("it answered {}", response.status()), response.retry_after())
                }
                Ok(response) => match response.status().as_u16() {
                    // It took less before: more is too much for it, or for a proxy before it.
                    400 | 411 | 413 if self.proven && end - self.offset > MODEST_CHUNK as u64 => {
                        tracing::debug!(status = %response.status(), "the registry refuses large chunks");
                        (self.chunk, self.limit) = (MODEST_CHUNK, MODEST_CHUNK);
                        ("it refuses large chunks".into(), None)
                    }
                    404 | 410 => return Err(self.lost(repo, "it does not know it any more")),
                    // Out of step: what arrived is asked for.
                    416 => ("it answered 416".into(), None),
                    400 | 405 | 411 | 415 | 501 if !self.proven => {
                        tracing::debug!(status = %response.status(), "the registry refuses chunks");
                        self.restart_whole(repo)?;
                        return self.send_or_spool(repo, chunk);
                    }
                    _ => return Err(repo.refusal(response, &request.operation)),
                },
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Broken(reason) | Failure::Refused(reason)) => (reason, None),
            };
            tracing::debug!(offset = self.offset, reason, "a chunk was cut");
            failures += 1;
            if failures >= repo.client.retry.attempts {
                return Err(repo.client.unreachable(&request.operation, reason));
            }
            repo.client.retry.wait(failures, asked);
            self.probe(repo, start, chunk_end)?;
            if self.offset > failed_at {
                (failures, failed_at) = (0, self.offset);
            }
        }
        Ok(())
    }

    fn request(&self, repo: &Repo, method: Method, body: Bytes) -> Request {
        let operation = format!("push to {}", repo.display());
        repo.request(method, self.location.clone(), operation).body(OCTETS, body)
    }

    /// A chunk was taken: all of it, unless the registry says less.
    fn accepted(&mut self, repo: &Repo, response: &Response, end: u64) -> Result<()> {
        let known = response.header(header::RANGE).and_then(bytes_of_range);
        if let Some(location) = location_of(repo, response)? {
            self.location = location;
        }
        match known {
            Some(offset) if offset > self.offset && offset < end => self.offset = offset,
            Some(offset) if offset != end => {
                let reason = format!("it has {offset} bytes after {end} were sent");
                return Err(self.lost(repo, &reason));
            }
            _ => self.offset = end,
        }
        self.proven = true;
        if let Some(record) = &self.record {
            record.set(self.location.as_str());
        }
        Ok(())
    }

    /// Asks how much arrived: not less than `least`, which it has confirmed, and not more than `most`, which was sent.
    fn probe(&mut self, repo: &Repo, least: u64, most: u64) -> Result<()> {
        let request = repo.request(Method::GET, self.location.clone(), format!("push to {}", repo.display()));
        let response = repo.client.send(&request)?;
        match response.status().as_u16() {
            200 | 202 | 204 => {}
            400 | 404 | 405 | 410 | 416 => return Err(self.lost(repo, "it does not know it any more")),
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
            _ => Err(self.lost(repo, "it does not say how much of it arrived")),
        }
    }

    fn lost(&self, repo: &Repo, reason: &str) -> Error {
        Error::UploadLost { registry: repo.client.registry(), reason: reason.into() }
    }

    pub fn forget(&mut self) {
        if let Some(record) = self.record.take() {
            record.clear();
        }
    }

    /// Chunks are refused: a new upload gets the blob in one piece, at its end.
    fn restart_whole(&mut self, repo: &Repo) -> Result<()> {
        if self.offset > 0 {
            return Err(self.lost(repo, "it refuses further chunks"));
        }
        self.forget();
        if let Begun::Session(fresh) = begin(repo, None, self.chunk)? {
            self.location = fresh.location;
        }
        self.spool()
    }

    fn spool(&mut self) -> Result<()> {
        let folder = std::env::temp_dir();
        let file = tempfile::tempfile_in(&folder).context("create a spool file in", &folder)?;
        self.whole = Some(Whole { file: Arc::new(file), size: 0 });
        Ok(())
    }

    /// Ends the upload: the registry compares size and digest.
    pub fn finish(mut self, repo: &Repo, digest: &Digest, size: u64) -> Result<()> {
        let finished = self.commit(repo, digest, size);
        if matches!(finished, Ok(()) | Err(Error::UploadLost { .. })) {
            self.forget();
        }
        finished
    }

    // An attempt costs as few requests as it can: a registry that fails at every third one must not meet the same one
    // of a round of three each time.
    fn commit(&mut self, repo: &Repo, digest: &Digest, size: u64) -> Result<()> {
        let descriptor = Descriptor::new(media_type::LAYER_ZSTD, *digest, size);
        let mut failures = 0;
        loop {
            let mut request = self.request(repo, Method::PUT, Bytes::new());
            request.url.query_pairs_mut().append_pair("digest", &digest.to_string());
            request.patience = COMMIT;
            if let Some(whole) = &self.whole {
                request.body = Content::File(whole.file.clone(), whole.size);
            }
            let mut broken = false;
            let (reason, asked) = match repo.client.send_once(&request) {
                Ok(response) if response.status().is_success() => return check_named(repo, &response, digest),
                Ok(response) if is_passing(response.status()) => {
                    (format!("it answered {}", response.status()), response.retry_after())
                }
                Ok(response) => match response.status().as_u16() {
                    400 | 404 | 410 | 416 => {
                        let error = repo.refusal(response, &request.operation);
                        // An earlier attempt's answer may have been lost after the work was done.
                        if failures > 0 && repo.has(&descriptor)? {
                            return Ok(());
                        }
                        return Err(self.lost(repo, &error.to_string()));
                    }
                    _ => return Err(repo.refusal(response, &request.operation)),
                },
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Broken(reason) | Failure::Refused(reason)) => {
                    broken = true;
                    (reason, None)
                }
            };
            failures += 1;
            if failures >= repo.client.retry.attempts {
                return Err(repo.client.unreachable(&request.operation, reason));
            }
            repo.client.retry.wait(failures, asked);
            if broken && repo.has(&descriptor)? {
                return Ok(());
            }
            // Chunks stand as they were: the end is asked for again, and a registry that forgot them says so. A body of
            // which a part may have arrived cannot be sent into the same session twice.
            if self.whole.is_some()
                && let Begun::Session(fresh) = begin(repo, None, self.chunk)?
            {
                self.location = fresh.location;
            }
        }
    }
}

/// A blob that is in memory, in one piece.
pub(super) fn send_whole(repo: &Repo, begun: Session, digest: &Digest, bytes: &Bytes) -> Result<()> {
    let mut session = Some(begun);
    let mut failures = 0;
    loop {
        let current = match session.take() {
            Some(session) => session,
            None => match begin(repo, None, usize::MAX)? {
                Begun::Session(session) => session,
                Begun::Mounted => return Ok(()),
            },
        };
        let mut request = current.request(repo, Method::PUT, bytes.clone());
        request.url.query_pairs_mut().append_pair("digest", &digest.to_string());
        request.patience = COMMIT;
        let mut broken = false;
        let (reason, asked) = match repo.client.send_once(&request) {
            Ok(response) if response.status().is_success() => return check_named(repo, &response, digest),
            Ok(response) if is_passing(response.status()) || response.status() == StatusCode::NOT_FOUND => {
                (format!("it answered {}", response.status()), response.retry_after())
            }
            Ok(response) => return Err(repo.refusal(response, &request.operation)),
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Broken(reason) | Failure::Refused(reason)) => {
                broken = true;
                (reason, None)
            }
        };
        failures += 1;
        if failures >= repo.client.retry.attempts {
            return Err(repo.client.unreachable(&request.operation, reason));
        }
        repo.client.retry.wait(failures, asked);
        // The answer may have been lost after the work was done; an answer that is a failure is cheaper to try again.
        if broken && repo.has(&Descriptor::new(media_type::LAYER_ZSTD, *digest, bytes.len() as u64))? {
            return Ok(());
        }
    }
}

/// A registry that kept something else than it was sent says so itself.
fn check_named(repo: &Repo, response: &Response, digest: &Digest) -> Result<()> {
    match response.header("docker-content-digest") {
        Some(named) if named != digest.to_string() => Err(Error::Protocol {
            registry: repo.client.registry(),
            reason: format!("it was sent {digest} and keeps it as another digest"),
        }),
        _ => Ok(()),
    }
}

impl Whole {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        (&*self.file).write_all(bytes).context("write a spool file in", std::env::temp_dir())?;
        self.size += bytes.len() as u64;
        Ok(())
    }
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

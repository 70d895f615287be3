//! A bundle in a registry, read.

use std::{
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use reqwest::{Method, StatusCode, header};

use super::{
    options::Options,
    partial::{Partial, Partials},
    parts::{LargeBlob, Ranges},
    referrers,
    repository::{Repo, is_manifest},
    response::{Body, Response},
    snapshots, tags,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    media_type,
    model::{Descriptor, Index, Tag},
    reference::{RegistryReference, Version},
    storage::{Blob, ReadOnlyStorage, Source},
    verify::VerifyReader,
};

/// A manifest of a repository, with everything that it refers to.
pub(super) struct RegistrySource {
    repo: Arc<Repo>,
    /// How large blobs are read.
    ranges: Ranges,
    index: Index,
    reference: RegistryReference,
    partials: Partials,
}

impl RegistrySource {
    pub fn open(reference: &RegistryReference, options: &Options) -> Result<Self> {
        let repo = Repo::to_pull(reference, options)?;
        let version = match &reference.version {
            Some(version) => version.clone(),
            None => Version::Tag(head_tag(&repo, reference)?),
        };
        let asked = version.tag().cloned().map_or_else(|| version.clone(), Version::Tag);
        let Some((bytes, declared)) = repo.manifest(&asked)? else { return Err(repo.unknown(&asked)) };
        if let Version::Checked(tag, expected) = &version
            && Digest::of(&bytes) != *expected
        {
            return Err(Error::TagMoved { tag: tag.to_string(), expected: *expected, actual: Digest::of(&bytes) });
        }
        let index = match declared == media_type::INDEX {
            true => Index::parse(&bytes, &format!("{version} of {}", repo.display()))?,
            false => {
                let mut entry = Descriptor::new(media_type::MANIFEST, Digest::of(&bytes), bytes.len() as u64);
                if let Some(tag) = version.tag() {
                    entry = entry.annotated(media_type::REF_NAME, tag.as_str());
                }
                Index::new(vec![entry])
            }
        };
        let ranges = Ranges { part: options.part.max(1) as u64, fast: options.fast };
        let partials = Partials::new(options.cache.as_deref(), options.cache_max);
        Ok(Self { repo: Arc::new(repo), ranges, index, reference: reference.with(version), partials })
    }
}

/// What a reference without a tag means: the only tag, or that of the only snapshot that is no other one's parent.
fn head_tag(repo: &Repo, reference: &RegistryReference) -> Result<Tag> {
    let all = tags::list(repo)?;
    if let [only] = all.as_slice() {
        return only.parse();
    }
    let nothing = |hint: &str| Error::RemoteNotFound {
        registry: repo.client.registry(),
        operation: format!("read {reference}"),
        what: "tag",
        hint: hint.into(),
    };
    if all.is_empty() {
        return Err(nothing("; the repository has none"));
    }
    let tagged = snapshots::tagged(repo)?;
    let heads = snapshots::heads(&tagged);
    match heads.as_slice() {
        [] => Err(nothing("; none of its tags names a snapshot")),
        [head] => head.tags[0].parse(),
        several => Err(Error::Ambiguous {
            reference: reference.to_string(),
            candidates: several.iter().take(50).map(|head| format!("{reference}:{}", head.tags[0])).collect(),
        }),
    }
}

impl ReadOnlyStorage for RegistrySource {
    fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        self.repo.has(descriptor)
    }

    fn fetch<'a>(&'a self, descriptor: &Descriptor) -> Result<Blob<'a>> {
        let partial = if is_manifest(&descriptor.media_type) { None } else { self.partials.open(descriptor) };
        let here = partial.as_ref().map_or(0, Partial::length);
        let rest = if here == descriptor.size { Box::new(io::empty()) } else { self.rest(descriptor, here)? };
        Ok(match partial {
            Some(partial) => {
                let kept = partial.kept();
                let reader: Box<dyn Read + Send> = Box::new(partial.followed_by(rest));
                VerifyReader::new(reader, descriptor).on_corrupt(move || kept.discard())
            }
            None => VerifyReader::new(rest, descriptor),
        })
    }
}

impl RegistrySource {
    /// A blob's bytes from `start` on, of which there is at least one.
    fn rest(&self, descriptor: &Descriptor, start: u64) -> Result<Box<dyn Read + Send>> {
        let is_large = descriptor.size - start > 2 * self.ranges.part && self.repo.client.capabilities.has_ranges();
        let end = if is_large { start + self.ranges.part } else { descriptor.size };
        let mut stream = Stream::new(&self.repo, descriptor, start..end);
        // Now and not at the first read: that it is missing is the caller's to know.
        stream.open().map_err(|error| match error {
            Error::RemoteNotFound { .. } => {
                Error::MissingBlob { digest: descriptor.digest, role: descriptor.media_type.clone() }
            }
            other => other,
        })?;
        Ok(match stream.is_whole() {
            true => Box::new(stream),
            false => Box::new(LargeBlob::new(stream, self.ranges)),
        })
    }
}

impl Source for RegistrySource {
    fn index(&self) -> &Index {
        &self.index
    }

    fn display(&self) -> String {
        self.reference.to_string()
    }

    fn referrers(&self, subjects: &[Digest]) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for subject in subjects {
            found.extend(referrers::list(&self.repo, subject)?);
        }
        Ok(found)
    }

    fn release(&self) {
        self.partials.release();
    }
}

/// A range of a blob over as many connections as it takes: after a cut it goes on by `Range` where it stopped.
pub(super) struct Stream {
    repo: Arc<Repo>,
    descriptor: Descriptor,
    offset: u64,
    /// Where the range ends.
    end: u64,
    body: Option<Body>,
    /// Cuts since the last progress, and where that was.
    failures: u32,
    failed_at: u64,
}

impl Stream {
    fn new(repo: &Arc<Repo>, descriptor: &Descriptor, range: Range<u64>) -> Self {
        let (repo, descriptor) = (repo.clone(), descriptor.clone());
        Self { repo, descriptor, offset: range.start, end: range.end, body: None, failures: 0, failed_at: range.start }
    }

    /// Another range of the same blob.
    pub fn elsewhere(&self, range: Range<u64>) -> Self {
        Self::new(&self.repo, &self.descriptor, range)
    }

    /// The whole blob's size, in bytes.
    pub fn size(&self) -> u64 {
        self.descriptor.size
    }

    /// Whether it goes to the blob's end, for which a registry that knows no ranges has to send all of it.
    pub fn is_whole(&self) -> bool {
        self.end == self.descriptor.size
    }

    /// Where the range ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether ranges can be asked for.
    pub fn has_ranges(&self) -> bool {
        self.repo.client.capabilities.has_ranges()
    }

    /// Connects for the bytes from `offset` on.
    fn open(&mut self) -> Result<()> {
        if (self.offset > 0 || !self.is_whole()) && self.has_ranges() && self.open_range()? {
            return Ok(());
        }
        self.open_whole()
    }

    /// Asks for the range, with its last byte, because some answer 416 to a range without an end. Whether the answer can be
    /// used.
    fn open_range(&mut self) -> Result<bool> {
        let request = self.repo.read_request(Method::GET, &self.descriptor);
        let request = request.header(header::RANGE, &format!("bytes={}-{}", self.offset, self.end - 1));
        let response = self.repo.client.send(&request)?;
        match response.status() {
            StatusCode::OK => {
                self.skip_to_offset(response)?;
                return Ok(true);
            }
            StatusCode::PARTIAL_CONTENT if !response.is_encoded() => {
                let range = response.header(header::CONTENT_RANGE).unwrap_or_default().to_owned();
                // A range tells nothing of what follows it.
                if let Some(size) = size_of_range(&range).filter(|size| *size != self.descriptor.size) {
                    let digest = self.descriptor.digest;
                    let reason = format!("the registry has {size} bytes of it, not {}", self.descriptor.size);
                    return Err(Error::CorruptBlob { digest, reason });
                }
                if first_of_range(&range) == Some(self.offset) {
                    self.body = Some(response.into_body());
                    return Ok(true);
                }
            }
            StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND => {
                return Err(self.repo.client.refusal(response, &request.operation, "blob"));
            }
            _ => {}
        }
        tracing::debug!(digest = %self.descriptor.digest, "an answer to a range is unusable, the whole blob is asked for");
        self.repo.client.capabilities.refuse_ranges();
        Ok(false)
    }

    fn open_whole(&mut self) -> Result<()> {
        let request = self.repo.read_request(Method::GET, &self.descriptor);
        let response = self.repo.client.send(&request)?;
        if !response.status().is_success() {
            return Err(self.repo.client.refusal(response, &request.operation, "blob"));
        }
        self.skip_to_offset(response)
    }

    /// The whole blob comes; what is known already is read and dropped.
    fn skip_to_offset(&mut self, response: Response) -> Result<()> {
        let mut body = response.into_body();
        let skipped = io::copy(&mut (&mut body).take(self.offset), &mut io::sink());
        if !matches!(skipped, Ok(n) if n == self.offset) {
            let operation = format!("read {} of {}", self.descriptor.digest, self.repo.display());
            return Err(self.repo.client.unreachable(&operation, "the connection was cut".into()));
        }
        self.body = Some(body);
        // All of it is on its way.
        if self.offset == 0 {
            self.end = self.descriptor.size;
        }
        Ok(())
    }

    /// Counts a cut; the error if there were too many without any progress between them. A drip is no progress.
    fn cut(&mut self, reason: String, kind: io::ErrorKind) -> io::Result<()> {
        self.body = None;
        if self.offset > self.failed_at && kind != io::ErrorKind::TimedOut {
            (self.failures, self.failed_at) = (0, self.offset);
        }
        self.failures += 1;
        let client = &self.repo.client;
        tracing::debug!(digest = %self.descriptor.digest, offset = self.offset, reason, "a download was cut");
        if self.failures >= client.retry.attempts {
            let operation = format!("read {} of {}", self.descriptor.digest, self.repo.display());
            return Err(io::Error::other(client.unreachable(&operation, reason)));
        }
        let operation = format!("read {} of {}", self.descriptor.digest, self.repo.display());
        client.wait(self.failures, None, &operation, &reason);
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What stands behind the whole blob is read, too: there must be nothing.
        let most = usize::try_from(self.end - self.offset.min(self.end)).unwrap_or(usize::MAX);
        let length = if self.is_whole() { buffer.len() } else { buffer.len().min(most) };
        let buffer = &mut buffer[..length];
        loop {
            if (self.body.is_none() || !self.is_whole()) && self.offset >= self.end {
                return Ok(0);
            }
            if self.body.is_none() {
                match self.open() {
                    Ok(()) => {}
                    Err(Error::Unreachable { reason, .. }) => self.cut(reason, io::ErrorKind::NotConnected)?,
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            let Some(body) = &mut self.body else { continue };
            match body.read(buffer) {
                Ok(0) if !buffer.is_empty() && self.offset < self.end => {
                    let reason = format!("it ended after {} of {} bytes", self.offset, self.descriptor.size);
                    self.cut(reason, io::ErrorKind::UnexpectedEof)?;
                }
                Ok(n) => {
                    self.offset += n as u64;
                    return Ok(n);
                }
                Err(error) => self.cut(error.to_string(), error.kind())?,
            }
        }
    }
}

/// The first byte of `bytes FIRST-LAST/SIZE`, which some write as `Bytes` or `bytes=`, without a size or with `*`.
fn first_of_range(text: &str) -> Option<u64> {
    let (unit, rest) = text.split_at_checked(5)?;
    let is_unit = unit.eq_ignore_ascii_case("bytes") && rest.starts_with([' ', '=']);
    is_unit.then(|| rest[1..].split_once('-')?.0.trim().parse().ok()).flatten()
}

/// The size of the whole in `bytes FIRST-LAST/SIZE`.
fn size_of_range(text: &str) -> Option<u64> {
    text.rsplit_once('/')?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse() {
        assert_eq!(size_of_range("bytes 10-19/20"), Some(20));
        assert_eq!(size_of_range("bytes 10-19/*"), None);
        for good in ["bytes 10-19/20", "Bytes 10-19/20", "bytes=10-19/20", "bytes 10-19", "bytes 10-19/*"] {
            assert_eq!(first_of_range(good), Some(10), "{good}");
        }
        for bad in ["", "10-19", "bytes10-19/20", "bytés 1-2/3", "bytes -19/20", "bytes */20", "items 1-2/3"] {
            assert_eq!(first_of_range(bad), None, "{bad}");
        }
    }
}

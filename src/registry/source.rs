//! A bundle in a registry, read.

use std::{
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use reqwest::{Method, StatusCode, header};

use super::{
    options::Options,
    parts::{LargeBlob, Ranges},
    repository::Repo,
    response::Body,
    tags,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    media_type,
    model::{Descriptor, Index},
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
}

impl RegistrySource {
    pub fn open(reference: &RegistryReference, options: &Options) -> Result<Self> {
        let repo = Repo::to_pull(reference, options)?;
        let version = match &reference.version {
            Some(version) => version.clone(),
            None => only_tag(&repo, reference)?,
        };
        let Some((bytes, declared)) = repo.manifest(&version)? else { return Err(repo.unknown(&version)) };
        let index = match declared == media_type::INDEX {
            true => Index::parse(&bytes, &format!("{version} of {}", repo.display()))?,
            false => {
                let mut entry = Descriptor::new(media_type::MANIFEST, Digest::of(&bytes), bytes.len() as u64);
                if let Version::Tag(tag) = &version {
                    entry = entry.annotated(media_type::REF_NAME, tag.as_str());
                }
                Index::new(vec![entry])
            }
        };
        let ranges = Ranges { part: options.part.max(1) as u64, fast: options.fast };
        Ok(Self { repo: Arc::new(repo), ranges, index, reference: reference.with(version) })
    }
}

/// A reference without a tag means the only one that there is.
fn only_tag(repo: &Repo, reference: &RegistryReference) -> Result<Version> {
    let tags = tags::list(repo)?;
    match tags.as_slice() {
        [only] => Ok(Version::Tag(only.parse()?)),
        [] => Err(Error::RemoteNotFound {
            registry: repo.client.registry(),
            operation: format!("read {reference}"),
            what: "tag",
            hint: "; the repository has none".into(),
        }),
        several => Err(Error::Ambiguous {
            reference: reference.to_string(),
            candidates: several.iter().take(50).map(|tag| format!("{reference}:{tag}")).collect(),
        }),
    }
}

impl ReadOnlyStorage for RegistrySource {
    fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        self.repo.has(descriptor)
    }

    fn fetch<'a>(&'a self, descriptor: &Descriptor) -> Result<Blob<'a>> {
        let large = descriptor.size > 2 * self.ranges.part;
        let end = if large { self.ranges.part } else { descriptor.size };
        let mut stream = Stream::new(&self.repo, descriptor, 0..end);
        // Now and not at the first read: that it is missing is the caller's to know.
        stream.open().map_err(|error| match error {
            Error::RemoteNotFound { .. } => {
                Error::MissingBlob { digest: descriptor.digest, role: descriptor.media_type.clone() }
            }
            other => other,
        })?;
        let reader: Box<dyn Read + Send> =
            if stream.is_whole() { Box::new(stream) } else { Box::new(LargeBlob::new(stream, self.ranges)) };
        Ok(VerifyReader::new(reader, descriptor))
    }
}

impl Source for RegistrySource {
    fn index(&self) -> &Index {
        &self.index
    }

    fn display(&self) -> String {
        self.reference.to_string()
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

    /// Connects for the bytes from `offset` on.
    fn open(&mut self) -> Result<()> {
        let mut request = self.repo.read_request(Method::GET, &self.descriptor);
        if !self.is_whole() {
            request = request.header(header::RANGE, &format!("bytes={}-{}", self.offset, self.end - 1));
        } else if self.offset > 0 {
            request = request.header(header::RANGE, &format!("bytes={}-", self.offset));
        }
        let response = self.repo.client.send(&request)?;
        let broken = |reason: String| Error::Protocol { registry: self.repo.client.registry(), reason };
        match response.status() {
            StatusCode::OK => {
                let mut body = response.into_body();
                // A registry that knows no ranges begins anew; what is known already is passed over.
                let passed = io::copy(&mut (&mut body).take(self.offset), &mut io::sink());
                if !matches!(passed, Ok(n) if n == self.offset) {
                    return Err(self.repo.client.unreachable(&request.operation, "the connection was cut".into()));
                }
                self.body = Some(body);
                // All of it is on its way.
                if self.offset == 0 {
                    self.end = self.descriptor.size;
                }
                Ok(())
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = response.header(header::CONTENT_RANGE).unwrap_or_default().to_owned();
                if first_of_range(&range) != Some(self.offset) {
                    let asked = self.offset;
                    return Err(broken(format!("it was asked for the bytes from {asked} on and sent {range:?}")));
                }
                // A range tells nothing of what stands behind it.
                if let Some(size) = size_of_range(&range).filter(|size| *size != self.descriptor.size) {
                    let digest = self.descriptor.digest;
                    let reason = format!("the registry has {size} bytes of it, not {}", self.descriptor.size);
                    return Err(Error::CorruptBlob { digest, reason });
                }
                self.body = Some(response.into_body());
                Ok(())
            }
            _ => Err(self.repo.client.refusal(response, &request.operation, "blob")),
        }
    }

    /// Counts a cut; the error if there were too many without any progress between them.
    fn cut(&mut self, reason: String) -> io::Result<()> {
        self.body = None;
        if self.offset > self.failed_at {
            (self.failures, self.failed_at) = (0, self.offset);
        }
        self.failures += 1;
        let client = &self.repo.client;
        tracing::debug!(digest = %self.descriptor.digest, offset = self.offset, reason, "a download was cut");
        if self.failures >= client.retry.attempts {
            let operation = format!("read {} of {}", self.descriptor.digest, self.repo.display());
            return Err(io::Error::other(client.unreachable(&operation, reason)));
        }
        client.retry.wait(self.failures, None);
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
                    Err(Error::Unreachable { reason, .. }) => self.cut(reason)?,
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
            let Some(body) = &mut self.body else { continue };
            match body.read(buffer) {
                Ok(0) if !buffer.is_empty() && self.offset < self.end => {
                    self.cut(format!("it ended after {} of {} bytes", self.offset, self.descriptor.size))?;
                }
                Ok(n) => {
                    self.offset += n as u64;
                    return Ok(n);
                }
                Err(error) => self.cut(error.to_string())?,
            }
        }
    }
}

/// The first byte of `bytes FIRST-LAST/SIZE`.
fn first_of_range(text: &str) -> Option<u64> {
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
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
        assert_eq!(first_of_range("bytes 10-19/20"), Some(10));
        for bad in ["", "10-19", "bytes -19/20", "bytes */20", "items 1-2/3"] {
            assert_eq!(first_of_range(bad), None, "{bad}");
        }
    }
}

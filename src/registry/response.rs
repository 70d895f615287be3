//! A registry's answer, and its body as it comes.

use std::{
    io::{self, Read},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Buf, Bytes};
use flate2::read::GzDecoder;
use reqwest::{StatusCode, Url, header};
use tokio::{runtime::Handle, time::timeout};

use super::{
    auth::registry_of,
    cause::explain,
    notices::{Notice, Notices},
};
use crate::digest::Digest;

/// After so long without a byte it is told what is waited for.
pub(super) const WHILE: Duration = Duration::from_secs(3);
/// A blob that comes more slowly than so many bytes in [`SPAN`] is given up: 1 KiB/s.
const SLOWEST: u64 = 60 << 10;
/// How long a slow blob is looked at.
const SPAN: Duration = Duration::from_secs(60);
/// Longest time for what a refusal says.
const STALL: Duration = Duration::from_secs(60);
/// Longest time for a document (a manifest, a list, a token, an error), which a slow drip would never end: 4 MiB at 14 KiB/s.
const DOCUMENT: Duration = Duration::from_secs(300);
/// Most of an error's body that is looked at, in bytes.
const ERROR_BODY: u64 = 64 << 10;

/// A response whose body has not been read.
pub(super) struct Response {
    inner: reqwest::Response,
    waiting: Waiting,
    /// The body of a refusal that had to be looked at.
    said: Option<Vec<u8>>,
}

/// How a body is waited for.
#[derive(Clone)]
pub(super) struct Waiting {
    pub handle: Handle,
    /// Longest time without a byte.
    pub timeout: Duration,
    pub notices: Notices,
}

/// What registries call a rate limit that they answer with 403.
const RATE_LIMITS: [&str; 6] =
    ["rate limit", "rate-limit", "ratelimit", "too many requests", "toomanyrequests", "throttl"];

impl Response {
    /// Reads the body of a 403, because only that says whether it will pass.
    pub fn new(inner: reqwest::Response, waiting: Waiting) -> Self {
        let mut response = Self { inner, waiting, said: None };
        if response.status() == StatusCode::FORBIDDEN {
            response.hear();
        }
        response
    }

    /// Reads what a refusal says.
    fn hear(&mut self) -> &[u8] {
        if self.said.is_none() {
            let (mut said, began) = (Vec::new(), Instant::now());
            while (said.len() as u64) < ERROR_BODY && began.elapsed() < STALL {
                match self.waiting.handle.block_on(async { timeout(STALL, self.inner.chunk()).await }) {
                    Ok(Ok(Some(bytes))) => said.extend_from_slice(&bytes),
                    _ => break,
                }
            }
            said.truncate(ERROR_BODY as usize);
            self.said = Some(said);
        }
        self.said.as_deref().unwrap_or_default()
    }

    /// The code of a refusal, such as `MANIFEST_BLOB_UNKNOWN`; empty where it gives none.
    pub fn code(&mut self) -> String {
        let error: Option<serde_json::Value> = serde_json::from_slice(self.hear()).ok();
        let code = error.as_ref().and_then(|error| error.get("errors")?.get(0)?.get("code")?.as_str());
        code.unwrap_or_default().to_owned()
    }

    /// What a 403 says, in lower case.
    fn forbids(&self) -> Option<String> {
        self.said.as_ref().map(|said| String::from_utf8_lossy(said).to_ascii_lowercase())
    }

    /// Whether the same request may be answered otherwise a little later.
    pub fn is_passing(&self) -> bool {
        match self.status().as_u16() {
            408 | 429 | 500 | 502 | 503 | 504 => true,
            // GHCR and others say a rate limit so.
            403 => {
                self.retry_after().is_some()
                    || self.forbids().is_some_and(|said| RATE_LIMITS.iter().any(|limit| said.contains(limit)))
            }
            _ => false,
        }
    }

    /// The digest that the registry names. One that is no SHA-256 says nothing to us.
    pub fn content_digest(&self) -> Option<Digest> {
        self.header("docker-content-digest")?.trim_matches('"').parse().ok()
    }

    /// The ways to authenticate that the registry offers.
    pub fn challenges(&self) -> impl Iterator<Item = &str> {
        self.headers(header::WWW_AUTHENTICATE)
    }

    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The address that answered, after redirects.
    pub fn url(&self) -> &Url {
        self.inner.url()
    }

    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.inner.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// Every line of a header.
    pub fn headers(&self, name: impl header::AsHeaderName) -> impl Iterator<Item = &str> {
        self.inner.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }

    /// The time that the registry asks to be left alone for.
    pub fn retry_after(&self) -> Option<Duration> {
        let text = self.header(header::RETRY_AFTER)?.trim();
        match text.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => super::http_date::parse(text)?.duration_since(SystemTime::now()).ok(),
        }
    }

    /// The whole body, which may have `limit` bytes.
    pub fn read_all(self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.into_document().take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the answer is over {limit} bytes long")));
        }
        Ok(bytes)
    }

    /// Whether the bytes are compressed on their way, which some do unasked.
    pub fn is_encoded(&self) -> bool {
        self.header(header::CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity"))
    }

    /// The body of a blob.
    pub fn into_body(self) -> Body {
        self.into_body_within(Duration::MAX)
    }

    /// The body of something that is small: it comes soon, or never.
    pub fn into_document(self) -> Body {
        self.into_body_within(DOCUMENT)
    }

    fn into_body_within(self, longest: Duration) -> Body {
        let is_gzip =
            self.header(header::CONTENT_ENCODING).is_some_and(|encoding| encoding.eq_ignore_ascii_case("gzip"));
        let raw = RawBody {
            inner: self.inner,
            waiting: self.waiting,
            rest: Bytes::new(),
            began: Instant::now(),
            longest,
            slow: Default::default(),
        };
        if is_gzip { Body::Gzip(Box::new(GzDecoder::new(raw))) } else { Body::Plain(Box::new(raw)) }
    }

    /// What a failure's body says, cut and without control characters.
    pub fn reason(mut self) -> String {
        let status = self.status();
        let said = serde_json::from_slice::<serde_json::Value>(self.hear()).ok().and_then(|value| {
            let first = value.get("errors")?.get(0)?.clone();
            let text = |name: &str| first.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            let (code, message) = (text("code"), text("message"));
            Some(if code.is_empty() || message.is_empty() { code + &message } else { format!("{code}: {message}") })
        });
        let said = said.filter(|said| !said.is_empty()).unwrap_or_else(|| status.to_string());
        said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
    }
}

/// A body; an end before its time is an error.
pub(super) enum Body {
    /// As it comes.
    Plain(Box<RawBody>),
    /// Compressed on its way.
    Gzip(Box<GzDecoder<RawBody>>),
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(body) => body.read(buffer),
            Self::Gzip(body) => body.read(buffer),
        }
    }
}

/// A body as it comes.
pub(super) struct RawBody {
    inner: reqwest::Response,
    waiting: Waiting,
    rest: Bytes,
    began: Instant,
    /// How long all of it may take.
    longest: Duration,
    /// How long was waited for how many bytes, since there were enough.
    slow: (Duration, u64),
}

fn timed_out(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

impl RawBody {
    /// The next bytes; none at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let since = Instant::now();
        loop {
            if self.began.elapsed() > self.longest {
                return Err(timed_out(format!("it was not there after {} seconds", self.longest.as_secs())));
            }
            if since.elapsed() >= self.waiting.timeout {
                return Err(timed_out(format!("nothing came for {} seconds", self.waiting.timeout.as_secs())));
            }
            let left = self.waiting.timeout.saturating_sub(since.elapsed());
            match self.waiting.handle.block_on(async { timeout(WHILE.min(left), self.inner.chunk()).await }) {
                Ok(Ok(next)) => return Ok(next),
                Ok(Err(error)) => return Err(io::Error::new(io::ErrorKind::ConnectionReset, explain(error))),
                Err(_) => {
                    let what = format!("more from {}", registry_of(self.inner.url()));
                    self.waiting.notices.tell(Notice::Waiting { what, since: since.elapsed() });
                }
            }
        }
    }

    /// That bytes come faster than a drip. Only the time in which they are waited for counts.
    fn check_speed(&mut self, waited: Duration, came: u64) -> io::Result<()> {
        let (time, bytes) = &mut self.slow;
        *time += waited;
        *bytes += came;
        if *bytes >= SLOWEST {
            self.slow = Default::default();
        } else if *time >= SPAN {
            return Err(timed_out(format!("it came at less than {} bytes a second", SLOWEST / SPAN.as_secs())));
        }
        Ok(())
    }
}

impl Read for RawBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let since = Instant::now();
            let Some(bytes) = self.next()? else { return Ok(0) };
            self.check_speed(since.elapsed(), bytes.len() as u64)?;
            self.rest = bytes;
        }
        let length = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpListener, thread};

    use super::*;

    /// Something comes all the time, so that nothing stalls, and it has no end.
    #[test]
    fn a_document_that_drips_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            for _ in 0..2000 {
                let _ = stream.write_all(b" ");
                thread::sleep(Duration::from_millis(5));
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let inner = runtime.block_on(client.get(url).send()).unwrap();
        let timeout = Duration::from_secs(60);
        let waiting = Waiting { handle: runtime.handle().clone(), timeout, notices: Notices::default() };
        let response = Response::new(inner, waiting);
        let Body::Plain(mut document) = response.into_document() else { panic!("it is not compressed") };
        assert_eq!(document.longest, DOCUMENT);
        document.longest = Duration::from_secs(1);
        let error = document.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "it was not there after 1 seconds");
        // The same as a blob that was waited for almost too long.
        let mut blob = RawBody { longest: Duration::MAX, slow: (SPAN, 0), ..*document };
        let error = blob.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "it came at less than 1024 bytes a second");
    }
}

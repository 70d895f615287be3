//! A registry's answer, and its body as it comes.

use std::{
    io::{self, Read},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Buf, Bytes};
use reqwest::{StatusCode, Url, header};
use tokio::{runtime::Handle, time::timeout};

use super::cause::explain;

/// Longest time in which nothing at all moves.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// Longest time for a document (a manifest, a list, a token, an error), which a slow drip would never end: 4 MiB at 14 KiB/s.
const DOCUMENT: Duration = Duration::from_secs(300);
/// Most of an error's body that is looked at, in bytes.
const ERROR_BODY: u64 = 64 << 10;

/// A response whose body has not been read.
pub(super) struct Response {
    pub(super) inner: reqwest::Response,
    pub(super) handle: Handle,
}

impl Response {
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

    pub fn into_body(self) -> Body {
        Body {
            inner: self.inner,
            handle: self.handle,
            rest: Bytes::new(),
            began: Instant::now(),
            longest: Duration::MAX,
        }
    }

    /// Of something that is small: it is there soon, or never.
    fn into_document(self) -> Body {
        Body { longest: DOCUMENT, ..self.into_body() }
    }

    /// What a failure's body says, cut and without control characters.
    pub fn reason(self) -> String {
        let status = self.status();
        let mut bytes = Vec::new();
        let _ = self.into_document().take(ERROR_BODY).read_to_end(&mut bytes);
        let said = serde_json::from_slice::<serde_json::Value>(&bytes).ok().and_then(|value| {
            let first = value.get("errors")?.get(0)?.clone();
            let text = |name: &str| first.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            let (code, message) = (text("code"), text("message"));
            Some(if code.is_empty() || message.is_empty() { code + &message } else { format!("{code}: {message}") })
        });
        let said = said.filter(|said| !said.is_empty()).unwrap_or_else(|| status.to_string());
        said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
    }
}

/// A body as it comes; an end before its time is an error.
pub(super) struct Body {
    inner: reqwest::Response,
    handle: Handle,
    rest: Bytes,
    began: Instant,
    /// How long all of it may take.
    longest: Duration,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            if self.began.elapsed() > self.longest {
                let reason = format!("it was not there after {} seconds", self.longest.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
            let next = self.handle.block_on(async { timeout(STALL, self.inner.chunk()).await });
            match next {
                Ok(Ok(Some(bytes))) => self.rest = bytes,
                Ok(Ok(None)) => return Ok(0),
                Ok(Err(error)) => return Err(io::Error::new(io::ErrorKind::ConnectionReset, explain(error))),
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came for 60 seconds")),
            }
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
        let response = Response { inner, handle: runtime.handle().clone() };
        let mut document = response.into_document();
        assert_eq!(document.longest, DOCUMENT);
        document.longest = Duration::from_secs(1);
        let error = document.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "it was not there after 1 seconds");
    }
}

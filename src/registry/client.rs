//! One registry's requests: authentication, redirects by hand, retries, bounded bodies.
//!
//! `reqwest` and not `oci-client` carries them. `oci-client` sends credentials to any token service that a challenge
//! names, has no retries, neither limits nor counts what a request takes, cannot resume an upload session, and its client
//! cannot be given per-request rules; every one of these is promised here. What is left of it would be the types of a
//! reference, which `crate::reference` parses more strictly.
//!
//! The library is plain threads, so this owns a small runtime and blocks on it, never from an async worker.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Method, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{runtime::Handle, time::timeout};

use super::{
    auth::{Authenticator, Scope, TokenRequest, bearer, challenge, registry_of},
    capabilities::Capabilities,
    cause::{Cause, cause_of},
    credential_files::Found,
    memory::Memory,
    notices::{Notice, Notices},
    options::{Options, Retry},
    payload::{Content, Payload},
    response::{Response, WHILE, Waiting},
    threads::Connections,
    way::{To, Way},
};
use crate::{
    error::{Error, IoContext, Result},
    reference::{Host, Repository},
};

/// Longest wait for the end of an upload: a registry may copy and hash what it got.
pub(super) const COMMIT: Duration = Duration::from_secs(900);
/// Most redirects that a request follows.
const REDIRECTS: usize = 5;
/// Largest answer of a token service, in bytes.
const TOKEN_BODY: u64 = 1 << 20;

/// What to do about a rate limit.
const LIMITED: &str = "; the registry limits how much may be asked of it: wait, and run the same command again";

/// Why a request has no response.
pub(super) enum Failure {
    /// The connection: another attempt may do.
    Broken(String),
    /// Nobody has answered yet, and nobody listens: worth attempts for a moment.
    Refused(String),
    /// Another attempt would fail as well.
    Fatal(Error),
}

/// A request; `operation` is what messages call it.
#[derive(Clone)]
pub(super) struct Request {
    pub method: Method,
    pub url: Url,
    pub operation: String,
    pub scope: Scope,
    pub headers: HeaderMap,
    pub body: Content,
    /// Longest time in which nothing moves; `None` for that of the options.
    pub patience: Option<Duration>,
}

impl Request {
    pub fn new(method: Method, url: Url, scope: &Scope, operation: impl Into<String>) -> Self {
        Self {
            method,
            url,
            operation: operation.into(),
            scope: scope.clone(),
            headers: HeaderMap::new(),
            body: Content::Bytes(Bytes::new()),
            patience: None,
        }
    }

    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        // Every value that is set here is ASCII of our making; one that is none is left out and the registry objects.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub fn body(mut self, media_type: &str, body: Bytes) -> Self {
        self.body = Content::Bytes(body);
        self.header(header::CONTENT_TYPE, media_type)
    }
}

/// The client of one registry.
pub(super) struct Client {
    _connections: Connections,
    handle: Handle,
    way: Way,
    host: Host,
    auth: Authenticator,
    /// What may know credentials, and cannot be asked.
    not_asked: Vec<String>,
    /// What the registry takes.
    pub capabilities: Capabilities,
    /// Whether anything has answered: what fails afterwards is a network that comes and goes.
    reached: AtomicBool,
    pub retry: Retry,
    timeout: Duration,
    notices: Notices,
}

impl Client {
    /// For one repository, or for the registry itself: they may have credentials of their own.
    pub fn new(host: &Host, repository: Option<&Repository>, options: &Options) -> Result<Self> {
        let connections = Connections::start().context("start a thread for", host.to_string())?;
        let way = Way::new(host, options)?;
        let Found { credentials, not_asked } = match &options.credentials {
            Some(given) => Found { credentials: Some(given.clone()), not_asked: Vec::new() },
            None => options.files.find(host, repository)?,
        };
        Ok(Self {
            handle: connections.handle(),
            _connections: connections,
            auth: Authenticator::new(way.base().clone(), credentials),
            way,
            capabilities: Capabilities::new(options.chunk, Memory(options.cache.clone()), host.to_string()),
            host: host.clone(),
            not_asked,
            reached: AtomicBool::new(false),
            retry: options.retry,
            timeout: options.timeout,
            notices: options.notices.clone(),
        })
    }

    /// Host and port, as the user wrote it.
    pub fn registry(&self) -> String {
        self.host.to_string()
    }

    /// An address on the registry.
    pub fn url(&self, path: &str) -> Url {
        let mut url = self.way.base().clone();
        url.set_path(path);
        url
    }

    /// An address that the registry names, relative to the one that was asked.
    pub fn resolve(&self, asked: &Url, location: &str) -> Result<Url> {
        let broken = |reason: String| Error::Protocol { registry: self.registry(), reason };
        let mut url = asked.join(location).map_err(|e| broken(format!("it names a Location that is no URL ({e})")))?;
        // `reqwest` makes credentials of it, and they are not ours. A URL that can be fetched takes both changes.
        let _ = (url.set_username(""), url.set_password(None));
        let downgraded = url.scheme() != "https" && self.way.base().scheme() == "https";
        if downgraded || !matches!(url.scheme(), "http" | "https") {
            return Err(broken(format!("it names a Location that is not reached by https ({})", registry_of(&url))));
        }
        Ok(url)
    }

    /// Whether `url` is an address of this registry itself: the same scheme, host and port.
    pub fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.way.base().origin()
    }

    /// One request with as many attempts as are worth it. Answers that are failures are answers.
    pub fn send(&self, request: &Request) -> Result<Response> {
        self.send_up_to(request, self.retry.attempts)
    }

    /// The same, where a failure of the registry is worth fewer attempts, because there is another way to learn it.
    pub fn send_up_to(&self, request: &Request, attempts: u32) -> Result<Response> {
        let most = |response: &Response| match response.status().is_server_error() {
            true => attempts.min(self.retry.attempts),
            false => self.retry.attempts,
        };
        let (mut attempt, began) = (0, Instant::now());
        loop {
            attempt += 1;
            match self.send_once(request) {
                Ok(response) if attempt >= most(&response) || !response.is_passing() => {
                    return Ok(response);
                }
                Ok(response) => {
                    let reason = format!("it answered {}", response.status());
                    self.wait(attempt, response.retry_after(), &request.operation, &reason);
                }
                Err(failure) => self.once_more(failure, attempt, began, &request.operation)?,
            }
        }
    }

    /// Waits for another attempt, if the failure is worth one; else the error that it is.
    fn once_more(&self, failure: Failure, attempt: u32, began: Instant, operation: &str) -> Result<()> {
        let (reason, is_worth_it) = match failure {
            Failure::Fatal(error) => return Err(error),
            Failure::Broken(reason) => (reason, attempt < self.retry.attempts),
            // A registry may be starting.
            Failure::Refused(reason) => (reason, began.elapsed() < self.retry.refused),
        };
        if !is_worth_it {
            return Err(self.unreachable_after(attempt, operation, reason));
        }
        self.wait(attempt, None, operation, &reason);
        Ok(())
    }

    /// Waits for another attempt.
    pub fn wait(&self, attempt: u32, asked: Option<Duration>, operation: &str, reason: &str) {
        let wait = self.retry.delay(attempt, asked);
        let (operation, reason) = (operation.to_owned(), reason.to_owned());
        self.notices.tell(Notice::Retry { operation, reason, attempt, wait });
        std::thread::sleep(wait);
    }

    /// Warns of what harms nothing that was asked for.
    pub fn warn(&self, text: String) {
        self.notices.tell(Notice::Warning(text));
    }

    /// Whether anything has answered.
    pub fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    pub fn unreachable(&self, operation: &str, reason: String) -> Error {
        self.unreachable_after(self.retry.attempts, operation, reason)
    }

    fn unreachable_after(&self, attempts: u32, operation: &str, reason: String) -> Error {
        Error::Unreachable { registry: self.registry(), operation: operation.into(), attempts, reason }
    }

    /// One attempt: with what authenticates it, and over redirects.
    pub fn send_once(&self, request: &Request) -> std::result::Result<Response, Failure> {
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS {
            let response = self.authenticated(request, &url)?;
            let asks = matches!(request.method, Method::GET | Method::HEAD);
            let moved = match response.status().as_u16() {
                301..=303 => asks,
                307 | 308 => true,
                _ => false,
            };
            let Some(location) = moved.then(|| response.header(header::LOCATION)).flatten() else {
                return Ok(response);
            };
            url = self.resolve(&url, location).map_err(Failure::Fatal)?;
        }
        let reason = format!("it redirects more than {REDIRECTS} times");
        Err(Failure::Fatal(Error::Protocol { registry: self.registry(), reason }))
    }

    fn authenticated(&self, request: &Request, url: &Url) -> std::result::Result<Response, Failure> {
        let sent = self.auth.header_for(url, &request.scope);
        let to = if self.is_own(url) { To::Ours } else { To::Others };
        let response = self.exchange(to, request, url, sent.as_ref())?;
        if response.status() == StatusCode::FORBIDDEN
            && !response.is_passing()
            && let Some(sent) = &sent
            && let Some(challenge) = self.auth.perhaps_expired(&request.scope, sent)
        {
            let fetch = |token| self.fetch_token(token, &request.operation);
            let renewed = self.auth.answer(&challenge, &request.scope, Some(sent), fetch).map_err(Failure::Fatal)?;
            let Some(answer) = renewed else { return Ok(response) };
            let response = self.exchange(to, request, url, Some(&answer))?;
            if response.status() == StatusCode::FORBIDDEN {
                self.auth.had_not_expired(&request.scope);
            }
            return Ok(response);
        }
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(url) {
            return Ok(response);
        }
        let Some(challenge) = challenge(response.challenges()) else { return Ok(response) };
        let fetch = |token| self.fetch_token(token, &request.operation);
        match self.auth.answer(&challenge, &request.scope, sent.as_ref(), fetch).map_err(Failure::Fatal)? {
            None => Ok(response),
            Some(answer) => self.exchange(to, request, url, Some(&answer)),
        }
    }

    /// What a token service gives, as a header.
    fn fetch_token(&self, token: TokenRequest, operation: &str) -> Result<HeaderValue> {
        let mut request = Request::new(Method::GET, token.url.clone(), &Scope::default(), operation);
        if let Some(form) = token.form {
            request.method = Method::POST;
            request = request.body("application/x-www-form-urlencoded", form.into());
        }
        let (mut attempt, began) = (0, Instant::now());
        let response = loop {
            attempt += 1;
            match self.exchange(To::Ours, &request, &token.url, token.authorization.as_ref()) {
                Ok(response) if attempt < self.retry.attempts && response.is_passing() => {
                    let reason = format!("the token service answered {}", response.status());
                    self.wait(attempt, response.retry_after(), operation, &reason);
                }
                Ok(response) => break response,
                Err(failure) => self.once_more(failure, attempt, began, operation)?,
            }
        };
        if !response.status().is_success() {
            return Err(self.refusal(response, operation, "token service"));
        }
        let service = registry_of(&token.url);
        let broken = || Error::Protocol {
            registry: self.registry(),
            reason: format!("its token service {service} answers without a token"),
        };
        let bytes = response.read_all(TOKEN_BODY).map_err(|_| broken())?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
        let text = |name: &str| answer.get(name).and_then(|token| token.as_str()).filter(|token| !token.is_empty());
        text("token").or_else(|| text("access_token")).and_then(bearer).ok_or_else(broken)
    }

    /// The bare exchange: one request, one response.
    fn exchange(
        &self,
        to: To,
        request: &Request,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> std::result::Result<Response, Failure> {
        let http = self.way.client(to);
        let mut builder = http.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        if let Some(authorization) = authorization {
            builder = builder.header(header::AUTHORIZATION, authorization.clone());
        }
        let moved = Arc::new(AtomicU64::new(0));
        if request.body.len() > 0 {
            builder = builder.body(reqwest::Body::wrap(Payload::new(request.body.clone(), moved.clone())));
        } else if !matches!(request.method, Method::GET | Method::HEAD) {
            builder = builder.header(header::CONTENT_LENGTH, "0");
        }
        let watch = Watch {
            notices: &self.notices,
            what: format!("{} to answer ({})", registry_of(url), request.operation),
            patience: request.patience.unwrap_or(self.timeout).max(self.timeout),
        };
        let inner = self.handle.block_on(watch.over(builder.send(), &moved)).map_err(Failure::Broken)?;
        let inner = inner.map_err(|error| self.failure(error, &request.operation))?;
        if inner.status() == StatusCode::BAD_REQUEST
            && !self.reached.load(Ordering::Relaxed)
            && let Some(reason) = self.way.misunderstands(url)
        {
            return Err(Failure::Fatal(obstructed(url, &request.operation, reason)));
        }
        self.reached.store(true, Ordering::Relaxed);
        Ok(Response::new(
            inner,
            Waiting { handle: self.handle.clone(), timeout: self.timeout, notices: self.notices.clone() },
        ))
    }

    /// Whether what broke is worth another attempt.
    fn failure(&self, error: reqwest::Error, operation: &str) -> Failure {
        let (cause, answered) = (cause_of(&error), self.reached.load(Ordering::Relaxed));
        // These do not heal by themselves, whatever answered before.
        if let (Some(reason), Some(url)) = (self.way.obstacle(&error, &cause, answered), error.url()) {
            return Failure::Fatal(obstructed(url, operation, reason));
        }
        let hint = self.way.check_the_name(&error);
        let reason = self.way.told(error);
        match cause {
            _ if answered => Failure::Broken(reason),
            Cause::UnknownHost => Failure::Fatal(self.unreachable_after(1, operation, reason + &hint)),
            Cause::Refused => Failure::Refused(reason),
            _ => Failure::Broken(reason),
        }
    }

    /// What cannot be asked for credentials, at the end of what a refusal says.
    fn not_asked(&self) -> String {
        self.not_asked.iter().map(|one| format!("; {one}")).collect()
    }

    /// The error that a failure is. `what` is what 404 says is not there.
    pub fn refusal(&self, response: Response, operation: &str, what: &'static str) -> Error {
        let (registry, operation) = (self.registry(), operation.to_owned());
        let (status, is_passing) = (response.status(), response.is_passing());
        let reason = response.reason();
        let is_immutable = reason.to_ascii_lowercase().contains("immutable");
        match status.as_u16() {
            400..500 if is_immutable => {
                let hint = "; choose another tag".into();
                Error::Refused { registry, operation, status: status.as_u16(), reason, hint }
            }
            403 if is_passing => {
                let hint = LIMITED.into();
                Error::Refused { registry, operation, status: 403, reason, hint }
            }
            401 => Error::Unauthorized { registry, operation, reason, hint: self.not_asked() },
            403 => Error::Forbidden { registry, operation, reason, hint: self.not_asked() },
            404 => Error::RemoteNotFound { registry, operation, what, hint: String::new() },
            code => {
                let hint = match code {
                    400 if self.way.lacks_key() => {
                        "; it wants to be shown a certificate: --cert FILE and --key FILE name one"
                    }
                    413 => "; the registry, or a proxy before it, limits the size of a request or of a blob",
                    429 => LIMITED,
                    507 => "; the registry has no room, or a quota is used up",
                    _ => "",
                };
                Error::Refused { registry, operation, status: code, reason, hint: hint.into() }
            }
        }
    }
}

/// A server that is not to be spoken to in this way.
fn obstructed(url: &Url, operation: &str, reason: String) -> Error {
    Error::Obstructed { server: registry_of(url), operation: operation.into(), reason }
}

/// Waits for a request, and tells of it.
struct Watch<'a> {
    notices: &'a Notices,
    /// What is waited for.
    what: String,
    /// Longest time in which nothing moves.
    patience: Duration,
}

impl Watch<'_> {
    /// Waits for `work` as long as bytes move.
    async fn over<T>(&self, work: impl Future<Output = T>, moved: &AtomicU64) -> Result<T, String> {
        let mut work = std::pin::pin!(work);
        let (mut before, mut since) = (0, Instant::now());
        loop {
            let left = self.patience.saturating_sub(since.elapsed());
            match timeout(WHILE.min(left), work.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(_) if moved.load(Ordering::Relaxed) != before => {
                    (before, since) = (moved.load(Ordering::Relaxed), Instant::now());
                }
                Err(_) if since.elapsed() >= self.patience => {
                    return Err(format!("nothing moved for {} seconds", self.patience.as_secs()));
                }
                Err(_) => self.notices.tell(Notice::Waiting { what: self.what.clone(), since: since.elapsed() }),
            }
        }
    }
}

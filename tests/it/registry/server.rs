//! A registry in this process, for tests: it keeps what it gets, notes what it is asked, and lies as it is told.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use snapcask::Digest;

/// One request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub authorization: Option<String>,
    /// Bytes of the body that arrived.
    pub received: u64,
    #[allow(dead_code, reason = "shown when a test fails")]
    pub range: Option<String>,
    #[allow(dead_code, reason = "shown when a test fails")]
    pub status: u16,
    /// The head of the request, whole.
    pub head: String,
}

/// What HEAD of a manifest says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Heads {
    #[default]
    Whole,
    /// This status, where GET would be answered.
    Refused(u16),
    WithoutDigest,
    /// A digest that is none.
    OddDigest,
}

/// What `Range` says after a chunk, and when an upload is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Ranges {
    /// All bytes that came.
    #[default]
    Right,
    /// The end of the first chunk, for ever.
    Stuck,
    /// The last chunk only.
    LastChunk,
    OffByOne,
    /// `bytes=0-N`.
    WithUnit,
    /// `N-M` of the last chunk.
    StartToEnd,
    Zero,
    Absent,
}

/// How a range of a blob is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Parts {
    #[default]
    Right,
    /// With this status.
    Refused(u16),
    /// 416 where the range has no end.
    EndWanted,
    /// 206 without a Content-Range.
    WithoutRange,
    /// With `*` for the size.
    StarSize,
    /// Without a size.
    NoSize,
    /// `Bytes 0-1/2`.
    UpperCase,
    /// `bytes=0-1/2`.
    WithEquals,
    /// Everything from the first byte on.
    ToTheEnd,
}

/// The Location of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Locations {
    #[default]
    Path,
    Absolute,
    /// `//host/path`.
    WithoutScheme,
    /// With a query of its own.
    WithState,
}

/// What Docker-Content-Digest says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Digests {
    #[default]
    Right,
    Absent,
    Quoted,
    Sha512,
}

/// How it lies and what it lacks.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    pub ranges: Ranges,
    pub parts: Parts,
    pub locations: Locations,
    pub digests: Digests,
    /// The status of a chunk that is taken, where it is not 202.
    pub chunk_status: Option<u16>,
    /// The status of a blob that is taken, where it is not 201.
    pub blob_status: Option<u16>,
    /// Uploads with smaller parts, the last one excepted, are refused at their end.
    pub min_part: Option<u64>,
    /// Larger requests are answered with this status.
    pub max_request: Option<(u64, u16)>,
    /// Larger blobs are answered 413 at their end.
    pub max_blob: Option<u64>,
    /// The first chunk is taken and the second answered with this status.
    pub one_chunk: Option<u16>,
    /// So many chunks meet a connection that is reset.
    pub resets: u64,
    /// Nobody may ask how far an upload is.
    pub no_status: bool,
    /// A manifest's blobs are unknown for so many milliseconds.
    pub lag: u64,
    /// So many requests, every third one, are answered 403 that means a rate limit.
    pub limited: u64,
    /// HEAD of a blob that is absent is answered so.
    pub head_of_absent: Option<u16>,
    /// HEAD of a blob that is there is answered so.
    pub head_of_blob: Option<u16>,
    /// HEAD of a blob says that it has no bytes.
    pub empty_heads: bool,
    /// HEAD and GET of a manifest that is absent are answered so.
    pub absent_manifest: Option<u16>,
    /// A tag that is there is never moved, and the wish answered so.
    pub immutable: Option<u16>,
    /// Indexes are answered 415.
    pub no_indexes: bool,
    /// More layers are answered 405.
    pub max_layers: Option<usize>,
    /// Blobs are read at addresses that are good once, take no Authorization and no HEAD.
    pub one_use_urls: bool,
    /// Blobs come compressed.
    pub gzip: bool,
    /// Blobs come in chunks of their own, without a length.
    pub chunked: bool,
    /// DELETE is answered 405.
    pub no_deletes: bool,
    /// The first so many requests with a token are answered 403, because it has expired.
    pub expires: u64,
    /// Every n-th request is answered 500, but never the same one twice in a row, nor more than [`MOST_FAILURES`] times, for
    /// several blobs begin with the same: however requests fall together, a client that tries five times comes through.
    pub fail_every: Option<u64>,
    /// So many requests are answered 429 with this Retry-After.
    pub too_many: u64,
    pub retry_after: &'static str,
    /// A bit of every layer that is read is turned.
    pub wrong_bytes: bool,
    /// A manifest that is asked for by its digest tells of another day.
    pub wrong_manifests: bool,
    /// Every blob ends early and says that this is all.
    pub short_bytes: bool,
    /// Every blob goes on behind its end.
    pub long_bytes: bool,
    /// A range begins elsewhere than asked.
    pub wrong_range: bool,
    /// A range says that the blob is longer by so many bytes than it is.
    pub longer_by: usize,
    /// Ranges are not known: everything is sent.
    pub no_ranges: bool,
    /// Uploads are sent to this base.
    pub uploads_at: Option<String>,
    /// Blobs are read from this base, by redirect.
    pub blobs_at: Option<String>,
    /// Redirects to itself.
    pub redirects: bool,
    /// Tags: a next page, always another one; or one elsewhere.
    pub endless_tags: bool,
    pub tags_at: Option<String>,
    /// Chunks are answered with this status.
    pub refuse_chunks: Option<u16>,
    pub min_chunk: Option<u64>,
    /// Larger requests are answered 413.
    pub max_chunk: Option<u64>,
    pub no_referrers: bool,
    /// So many manifests are answered 400 DIGEST_INVALID.
    pub doubts: u64,
    /// HEAD of any blob says that it is there, and no size.
    pub sizeless: bool,
    /// The first range is cut before its first byte, and none is known after it.
    pub forgets_ranges: bool,
    /// How HEAD of a manifest is answered.
    pub heads: Heads,
    /// A user and a password, `user:password`, in basic authentication.
    pub basic: Option<&'static str>,
    /// Bearer tokens, given at this realm; `Some("")` is its own.
    pub realm: Option<String>,
    /// Every request is answered so.
    pub always: Option<u16>,
    /// An upload that was cut is forgotten.
    pub forgets_cut: bool,
    /// The connection is cut when so many bytes of blobs have been received, or sent; each once.
    pub cut_received: Vec<u64>,
    pub cut_sent: Vec<u64>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<(String, Digest), Vec<u8>>,
    manifests: HashMap<(String, String), (Vec<u8>, String)>,
    tags: HashMap<String, Vec<String>>,
    uploads: HashMap<String, Vec<u8>>,
    behaviour: Behaviour,
    log: Vec<Seen>,
    requests: u64,
    /// How often each request was answered 500, and whether at its last attempt.
    failed: HashMap<String, (u32, bool)>,
    received: u64,
    sent: u64,
    next_upload: u64,
    /// Tokens that were given.
    tokens: u64,
    /// The sizes of an upload's parts.
    parts: HashMap<String, Vec<u64>>,
    last_blob: Option<Instant>,
    spent_urls: HashSet<String>,
}

/// How often one request is failed by [`Behaviour::fail_every`].
const MOST_FAILURES: u32 = 4;

pub const TOKEN: &str = "the-token-that-is-secret";

/// The server; it ends with its value.
pub struct Server {
    pub port: u16,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    accept: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (theirs, stopped) = (state.clone(), stop.clone());
        let accept = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), state) = (stream, theirs.clone()) else { continue };
                std::thread::spawn(move || drop(serve(stream, &state, port)));
            }
        });
        Self { port, state, stop, accept: Some(accept) }
    }

    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn reference(&self, rest: &str) -> String {
        format!("oci://127.0.0.1:{}/{rest}", self.port)
    }

    pub fn behave(&self, behaviour: Behaviour) {
        let mut state = self.lock();
        (state.received, state.sent, state.requests) = (0, 0, 0);
        state.log.clear();
        state.behaviour = behaviour;
    }

    pub fn log(&self) -> Vec<Seen> {
        self.lock().log.clone()
    }

    /// Bytes of blobs that came.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// Bytes of blobs that went.
    pub fn sent(&self) -> u64 {
        self.lock().sent
    }

    pub fn tag(&self, repository: &str, tag: &str) -> Option<Digest> {
        let state = self.lock();
        state.manifests.get(&(repository.into(), tag.into())).map(|(bytes, _)| Digest::of(bytes))
    }

    pub fn manifest(&self, repository: &str, version: &str) -> Option<Vec<u8>> {
        self.lock().manifests.get(&(repository.into(), version.into())).map(|(bytes, _)| bytes.clone())
    }

    /// Every blob hashes to its name; how many there are.
    pub fn check_blobs(&self) -> usize {
        let state = self.lock();
        for ((_, digest), bytes) in &state.blobs {
            assert_eq!(Digest::of(bytes), *digest);
        }
        state.blobs.len()
    }

    /// An upload that somebody has begun with these bytes; its address.
    pub fn begin_upload(&self, repository: &str, bytes: &[u8]) -> String {
        let mut state = self.lock();
        state.next_upload += 1;
        let id = format!("upload-{}", state.next_upload);
        state.uploads.insert(id.clone(), bytes.to_vec());
        format!("{}/v2/{repository}/blobs/uploads/{id}", self.base())
    }

    /// Puts a blob; its digest.
    pub fn put(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        self.lock().blobs.insert((repository.into(), digest), bytes.to_vec());
        digest.to_string()
    }

    /// Puts a manifest under a tag.
    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: &serde_json::Value) {
        let (bytes, mut state) = (manifest.to_string().into_bytes(), self.lock());
        let media = manifest["mediaType"].as_str().unwrap().to_owned();
        for version in [Digest::of(&bytes).to_string(), tag.to_owned()] {
            state.manifests.insert((repository.into(), version), (bytes.clone(), media.clone()));
        }
        state.tags.entry(repository.into()).or_default().push(tag.into());
    }

    /// Gives a manifest another tag.
    pub fn alias(&self, repository: &str, tag: &str, other: &str) {
        let mut state = self.lock();
        let found = state.manifests[&(repository.to_owned(), tag.to_owned())].clone();
        state.manifests.insert((repository.into(), other.into()), found);
        state.tags.entry(repository.into()).or_default().push(other.into());
    }

    /// Takes a tag away; the manifest stays.
    pub fn untag(&self, repository: &str, tag: &str) {
        let mut state = self.lock();
        state.manifests.remove(&(repository.into(), tag.into()));
        state.tags.entry(repository.into()).or_default().retain(|known| known != tag);
    }

    pub fn forget(&self) {
        let mut state = self.lock();
        *state = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(accept) = self.accept.take() {
            accept.join().unwrap();
        }
    }
}

/// A request's head, and its body's length.
struct Request {
    method: String,
    path: String,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    head: String,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The length that is said, if it is not the body's.
    length: Option<u64>,
    /// A blob: its bytes count, and cuts strike.
    is_blob: bool,
    /// No length is said.
    is_sizeless: bool,
    /// The body comes in chunks of the protocol.
    is_chunked: bool,
    /// The connection is reset instead.
    is_reset: bool,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: None,
            is_blob: false,
            is_sizeless: false,
            is_chunked: false,
            is_reset: false,
        }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"so it is"}}]}}"#);
        Self { body: body.into(), ..Self::new(status) }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, port: u16) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    while let Some(request) = read_head(&mut reader)? {
        let mut length: u64 = request.headers.get("content-length").map_or(0, |text| text.parse().unwrap());
        let is_upload = request.path.contains("/blobs/uploads/") && matches!(request.method.as_str(), "PATCH" | "PUT");
        let mut body = Vec::new();
        let mut cut = false;
        let mut piece = vec![0; 16 << 10];
        while length > 0 {
            let want = piece.len().min(usize::try_from(length).unwrap());
            let got = reader.read(&mut piece[..want])?;
            if got == 0 {
                cut = true;
                break;
            }
            let mut kept = got;
            if is_upload {
                let mut state = state.lock().unwrap();
                let before = state.received;
                state.received += got as u64;
                if let Some(at) = strikes(&mut state.behaviour.cut_received, before, got) {
                    (kept, cut) = (at, true);
                }
            }
            body.extend_from_slice(&piece[..kept]);
            length -= got as u64;
            if cut {
                break;
            }
        }
        let answer = if cut {
            arrived_in_part(&mut state.lock().unwrap(), &request, &body);
            None
        } else {
            Some(answer(&mut state.lock().unwrap(), &request, &body, port))
        };
        let seen = Seen {
            method: request.method.clone(),
            target: request.path.clone(),
            authorization: request.headers.get("authorization").cloned(),
            received: body.len() as u64,
            range: request.headers.get("range").cloned(),
            status: answer.as_ref().map_or(0, |a| a.status),
            head: request.head.clone(),
        };
        state.lock().unwrap().log.push(seen);
        let Some(answer) = answer.filter(|answer| !answer.is_reset) else { return Ok(()) };
        let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let said = answer.length.unwrap_or(answer.body.len() as u64);
        if answer.is_chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if !answer.is_sizeless {
            head += &format!("Content-Length: {said}\r\n");
        }
        head += "\r\n";
        writer.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            continue;
        }
        for piece in answer.body.chunks(16 << 10) {
            if answer.is_blob {
                let mut state = state.lock().unwrap();
                let before = state.sent;
                state.sent += piece.len() as u64;
                if let Some(at) = strikes(&mut state.behaviour.cut_sent, before, piece.len()) {
                    drop(state);
                    if !answer.is_chunked {
                        writer.write_all(&piece[..at])?;
                    }
                    return Ok(());
                }
            }
            if answer.is_chunked {
                write!(writer, "{:x}\r\n", piece.len())?;
            }
            writer.write_all(piece)?;
            if answer.is_chunked {
                writer.write_all(b"\r\n")?;
            }
        }
        if answer.is_chunked {
            writer.write_all(b"0\r\n\r\n")?;
        }
        if said != answer.body.len() as u64 {
            return Ok(());
        }
    }
    Ok(())
}

/// Where in the next `length` bytes a cut strikes, if one does.
fn strikes(cuts: &mut Vec<u64>, before: u64, length: usize) -> Option<usize> {
    let at = cuts.iter().position(|cut| (before..before + length as u64).contains(cut))?;
    Some(usize::try_from(cuts.remove(at) - before).unwrap())
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let decode = |text: &str| text.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    Ok(Some(Request {
        method: method.into(),
        path: path.into(),
        query: query.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), decode(v))).collect(),
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(k, v)| (k.to_ascii_lowercase(), v.trim().into()))
            .collect(),
        head: head.clone(),
    }))
}

/// What came of a chunk before the connection was cut stays, as the specification has it.
fn arrived_in_part(state: &mut State, request: &Request, body: &[u8]) {
    let Some((_, id)) = request.path.split_once("/blobs/uploads/") else { return };
    if state.behaviour.forgets_cut {
        state.uploads.remove(id);
    } else if request.method == "PATCH"
        && let Some(upload) = state.uploads.get_mut(id)
    {
        upload.extend_from_slice(body);
    }
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn answer(state: &mut State, request: &Request, body: &[u8], port: u16) -> Answer {
    state.requests += 1;
    let behaviour = state.behaviour.clone();
    if let Some(n) = behaviour.fail_every {
        // An upload that begins anew has another address.
        let this = match request.query.get("digest") {
            Some(digest) => format!("{} {digest}", request.method),
            None => format!("{} {}", request.method, request.path),
        };
        let due = state.requests.is_multiple_of(n);
        let (failures, just_now) = state.failed.entry(this).or_default();
        *just_now = due && !*just_now && *failures < MOST_FAILURES;
        if *just_now {
            *failures += 1;
            return Answer::error(500, "UNKNOWN");
        }
    }
    if behaviour.too_many > 0 {
        state.behaviour.too_many -= 1;
        return Answer::error(429, "TOOMANYREQUESTS").header("Retry-After", behaviour.retry_after);
    }
    if behaviour.limited > 0 && state.requests.is_multiple_of(3) {
        state.behaviour.limited -= 1;
        let body = r#"{"errors":[{"code":"DENIED","message":"You have exceeded a secondary rate limit."}]}"#;
        return Answer { body: body.into(), ..Answer::new(403) };
    }
    if let Some(url) = request.path.strip_prefix("/once/") {
        return once(state, request, url, &behaviour);
    }
    if let Some(status) = behaviour.always {
        return Answer::error(status, "DENIED");
    }
    let authorization = request.headers.get("authorization").map(String::as_str);
    if request.path == "/token" {
        let good = behaviour.basic.map(|b| format!("Basic {}", base64(b)));
        return match good.is_none() || authorization == good.as_deref() {
            true => {
                state.tokens += 1;
                let token = if state.tokens == 1 { TOKEN.into() } else { format!("{TOKEN}-{}", state.tokens) };
                Answer { body: format!(r#"{{"token":"{token}"}}"#).into(), ..Answer::new(200) }
            }
            false => Answer::error(401, "UNAUTHORIZED"),
        };
    }
    if let Some(realm) = &behaviour.realm {
        let own = format!("http://127.0.0.1:{port}/token");
        let realm = if realm.is_empty() { &own } else { realm };
        if !authorization.is_some_and(|given| given.starts_with(&format!("Bearer {TOKEN}"))) {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"x\"");
            return Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", challenge);
        }
        if state.behaviour.expires > 0 && state.requests > 6 {
            state.behaviour.expires -= 1;
            let body =
                r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate."}]}"#;
            return Answer { body: body.into(), ..Answer::new(403) };
        }
    } else if let Some(basic) = behaviour.basic
        && authorization != Some(&format!("Basic {}", base64(basic)))
    {
        return Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", "Basic realm=\"test\"");
    }
    if behaviour.redirects {
        return Answer::new(307).header("Location", request.path.clone() + "?again");
    }
    let Some(rest) = request.path.strip_prefix("/v2/") else { return Answer::error(404, "NOT_FOUND") };
    if rest.is_empty() {
        return Answer::new(200);
    }
    if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
        return upload(state, request, repository, id, body, &behaviour);
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        return blob(state, request, repository, digest, &behaviour);
    }
    if let Some((repository, version)) = rest.split_once("/manifests/") {
        return manifest(state, request, repository, version, body, &behaviour);
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return tags(state, request, repository, &behaviour);
    }
    match rest.split_once("/referrers/") {
        Some((repository, subject)) if !behaviour.no_referrers => {
            let index = referrers(state, repository, subject);
            Answer { body: index.to_string().into_bytes(), ..Answer::new(200) }
                .header("Content-Type", "application/vnd.oci.image.index.v1+json")
        }
        _ => Answer::error(404, "NOT_FOUND"),
    }
}

fn upload(
    state: &mut State,
    request: &Request,
    repository: &str,
    id: &str,
    body: &[u8],
    behaviour: &Behaviour,
) -> Answer {
    let host = request.headers.get("host").cloned().unwrap_or_default();
    let base = match behaviour.locations {
        Locations::Path | Locations::WithState => behaviour.uploads_at.clone().unwrap_or_default(),
        Locations::Absolute => format!("http://{host}"),
        Locations::WithoutScheme => format!("//{host}"),
    };
    let query = if behaviour.locations == Locations::WithState { "?_state=AAAA%3D%3D" } else { "" };
    let location = |id: &str| format!("{base}/v2/{repository}/blobs/uploads/{id}{query}");
    let parts = state.parts.get(id).cloned().unwrap_or_default();
    let with_range = |answer: Answer, length: usize| {
        let (length, last) = (length as u64, parts.last().copied().unwrap_or_default());
        let end = |length: u64| length.saturating_sub(1);
        let range = match behaviour.ranges {
            Ranges::Right => format!("0-{}", end(length)),
            Ranges::Stuck => format!("0-{}", end(parts.first().copied().unwrap_or(length))),
            Ranges::LastChunk => format!("0-{}", end(last)),
            Ranges::OffByOne => format!("0-{length}"),
            Ranges::WithUnit => format!("bytes=0-{}", end(length)),
            Ranges::StartToEnd => format!("{}-{}", length.saturating_sub(last), end(length)),
            Ranges::Zero => "0-0".into(),
            Ranges::Absent => return answer,
        };
        answer.header("Range", range)
    };
    if matches!(request.method.as_str(), "PATCH" | "PUT")
        && let Some((most, status)) = behaviour.max_request
        && body.len() as u64 > most
    {
        return Answer::error(status, "REQUESTED_RANGE_NOT_SATISFIABLE");
    }
    match request.method.as_str() {
        "POST" => {
            if let (Some(digest), Some(from)) = (request.query.get("mount"), request.query.get("from"))
                && let Some(bytes) = state.blobs.get(&(from.clone(), digest.parse().unwrap())).cloned()
            {
                state.blobs.insert((repository.into(), digest.parse().unwrap()), bytes);
                return Answer::new(201);
            }
            state.next_upload += 1;
            let id = format!("upload-{}", state.next_upload);
            state.uploads.insert(id.clone(), Vec::new());
            let answer = Answer::new(202).header("Location", location(&id)).header("Range", "0-0");
            match behaviour.min_chunk {
                Some(min) => answer.header("OCI-Chunk-Min-Length", min.to_string()),
                None => answer,
            }
        }
        "GET" if behaviour.no_status => Answer::error(405, "UNSUPPORTED"),
        "GET" => match state.uploads.get(id) {
            Some(bytes) => with_range(Answer::new(204).header("Location", location(id)), bytes.len()),
            None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
        },
        "PATCH" => {
            if let Some(status) = behaviour.refuse_chunks {
                return Answer::error(status, "UNSUPPORTED");
            }
            if behaviour.max_chunk.is_some_and(|most| body.len() as u64 > most) {
                return Answer::error(413, "REQUEST_TOO_LARGE");
            }
            if behaviour.resets > 0 {
                state.behaviour.resets -= 1;
                return Answer { is_reset: true, ..Answer::new(500) };
            }
            if let Some(status) = behaviour.one_chunk.filter(|_| state.uploads.get(id).is_some_and(|b| !b.is_empty())) {
                return Answer::error(status, "UNSUPPORTED");
            }
            let Some(bytes) = state.uploads.get_mut(id) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
            let begin: usize = request.headers["content-range"].split('-').next().unwrap().parse().unwrap();
            if begin != bytes.len() {
                return Answer::error(416, "RANGE_INVALID");
            }
            bytes.extend_from_slice(body);
            let length = bytes.len();
            let parts = state.parts.entry(id.into()).or_default();
            parts.push(body.len() as u64);
            let parts = parts.clone();
            let answer = Answer::new(behaviour.chunk_status.unwrap_or(202)).header("Location", location(id));
            match behaviour.ranges {
                Ranges::LastChunk => answer.header("Range", format!("0-{}", body.len().saturating_sub(1))),
                Ranges::Stuck => answer.header("Range", format!("0-{}", parts[0].saturating_sub(1))),
                _ => with_range(answer, length),
            }
        }
        "PUT" => {
            let Some(mut bytes) = state.uploads.remove(id) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
            bytes.extend_from_slice(body);
            let digest: Digest = request.query["digest"].parse().unwrap();
            let mut parts = state.parts.remove(id).unwrap_or_default();
            if !body.is_empty() {
                parts.push(body.len() as u64);
            }
            parts.pop();
            if behaviour.min_part.is_some_and(|least| parts.iter().any(|part| *part < least)) {
                return Answer::error(400, "BLOB_UPLOAD_INVALID");
            }
            if behaviour.max_blob.is_some_and(|most| bytes.len() as u64 > most) {
                return Answer::error(413, "SIZE_INVALID");
            }
            if Digest::of(&bytes) != digest {
                return Answer::error(400, "DIGEST_INVALID");
            }
            state.blobs.insert((repository.into(), digest), bytes);
            state.last_blob = Some(Instant::now());
            named(Answer::new(behaviour.blob_status.unwrap_or(201)), behaviour, &digest)
        }
        _ => Answer::error(405, "UNSUPPORTED"),
    }
}

fn blob(state: &mut State, request: &Request, repository: &str, digest: &str, behaviour: &Behaviour) -> Answer {
    if behaviour.sizeless && request.method == "HEAD" {
        return Answer { is_sizeless: true, ..Answer::new(200) };
    }
    let Some(bytes) = state.blobs.get(&(repository.into(), digest.parse().unwrap())) else {
        let status = behaviour.head_of_absent.filter(|_| request.method == "HEAD");
        return Answer::error(status.unwrap_or(404), "BLOB_UNKNOWN");
    };
    if behaviour.one_use_urls && !request.path.starts_with("/once/") {
        state.next_upload += 1;
        let url = format!("/once/{}{}", state.next_upload, request.path);
        return Answer::new(307).header("Location", url);
    }
    if let Some(status) = behaviour.head_of_blob.filter(|_| request.method == "HEAD") {
        return Answer::error(status, "UNKNOWN");
    }
    if let Some(base) = behaviour.blobs_at.as_ref().filter(|_| request.method == "GET") {
        return Answer::new(307).header("Location", format!("{base}{}", request.path));
    }
    let mut bytes = bytes.clone();
    if behaviour.long_bytes {
        bytes.extend([7; 100]);
    }
    let size = bytes.len();
    if behaviour.wrong_bytes && size > 4096 {
        bytes[size / 2] ^= 1;
    }
    if request.method == "HEAD" {
        let size = if behaviour.empty_heads { 0 } else { size as u64 };
        return Answer { length: Some(size), ..Answer::new(200) };
    }
    if behaviour.gzip {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        return Answer { body: encoder.finish().unwrap(), is_blob: true, ..Answer::new(200) }
            .header("Content-Encoding", "gzip");
    }
    if behaviour.chunked {
        return Answer { body: bytes, is_blob: true, is_chunked: true, ..Answer::new(200) };
    }
    if behaviour.short_bytes {
        bytes.truncate(size / 2);
        return Answer { body: bytes, is_blob: true, ..Answer::new(200) };
    }
    let asked = request.headers.get("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((
            first.parse::<usize>().ok()?,
            if last.is_empty() { size - 1 } else { last.parse::<usize>().ok()?.min(size - 1) },
        ))
    });
    if asked.is_some() && behaviour.forgets_ranges {
        let sent = state.sent;
        state.behaviour =
            Behaviour { forgets_ranges: false, no_ranges: true, cut_sent: vec![sent], ..state.behaviour.clone() };
    }
    if let (Some(_), Parts::Refused(status)) = (asked, behaviour.parts) {
        return Answer::error(status, "UNSUPPORTED");
    }
    let endless = request.headers.get("range").is_some_and(|range| range.ends_with('-'));
    if endless && behaviour.parts == Parts::EndWanted {
        return Answer::error(416, "RANGE_INVALID");
    }
    match asked.filter(|_| !behaviour.no_ranges) {
        Some((first, last)) if first < last => {
            let first = if behaviour.wrong_range { first + 1 } else { first };
            let size = size + behaviour.longer_by;
            let last = if behaviour.parts == Parts::ToTheEnd { bytes.len() - 1 } else { last };
            let answer = Answer { body: bytes[first..=last].to_vec(), is_blob: true, ..Answer::new(206) };
            let range = match behaviour.parts {
                Parts::WithoutRange => return answer,
                Parts::StarSize => format!("bytes {first}-{last}/*"),
                Parts::NoSize => format!("bytes {first}-{last}"),
                Parts::UpperCase => format!("Bytes {first}-{last}/{size}"),
                Parts::WithEquals => format!("bytes={first}-{last}/{size}"),
                Parts::Right | Parts::Refused(_) | Parts::EndWanted | Parts::ToTheEnd => {
                    format!("bytes {first}-{last}/{size}")
                }
            };
            answer.header("Content-Range", range)
        }
        _ => Answer { body: bytes, is_blob: true, ..Answer::new(200) },
    }
}

/// A blob at an address that is good once.
fn once(state: &mut State, request: &Request, url: &str, behaviour: &Behaviour) -> Answer {
    let path = url.split_once('/').map_or("", |(_, path)| path);
    if request.method == "HEAD" || request.headers.contains_key("authorization") || !state.spent_urls.insert(url.into())
    {
        return Answer::error(403, "ACCESS_DENIED");
    }
    let Some((repository, digest)) = path.strip_prefix("v2/").and_then(|rest| rest.split_once("/blobs/")) else {
        return Answer::error(404, "NOT_FOUND");
    };
    blob(state, request, repository, digest, behaviour)
}

/// With the digest, as this registry says it.
fn named(answer: Answer, behaviour: &Behaviour, digest: &Digest) -> Answer {
    match behaviour.digests {
        Digests::Right => answer.header("Docker-Content-Digest", digest.to_string()),
        Digests::Absent => answer,
        Digests::Quoted => answer.header("Docker-Content-Digest", format!("\"{digest}\"")),
        Digests::Sha512 => answer.header("Docker-Content-Digest", format!("sha512:{}", "0".repeat(128))),
    }
}

fn manifest(
    state: &mut State,
    request: &Request,
    repository: &str,
    version: &str,
    body: &[u8],
    behaviour: &Behaviour,
) -> Answer {
    let key = (repository.to_owned(), version.to_owned());
    if request.method == "PUT" && state.behaviour.doubts > 0 {
        state.behaviour.doubts -= 1;
        return Answer::error(400, "DIGEST_INVALID");
    }
    if request.method == "PUT" {
        let is_tag = !version.starts_with("sha256:");
        if let Some(status) = behaviour.immutable.filter(|_| is_tag && state.manifests.contains_key(&key)) {
            let body = r#"{"errors":[{"code":"TAG_INVALID","message":"The tag already exists and is immutable."}]}"#;
            return Answer { body: body.into(), ..Answer::new(status) };
        }
        if behaviour.no_indexes && request.headers["content-type"].contains("index") {
            return Answer::error(415, "UNSUPPORTED");
        }
        let lag = Duration::from_millis(behaviour.lag);
        if state.last_blob.is_some_and(|time| time.elapsed() < lag) {
            return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
        }
        let value: serde_json::Value = serde_json::from_slice(body).unwrap();
        let digest = Digest::of(body);
        // What it names must be there, as real registries have it.
        let empty = Vec::new();
        let layers = value["layers"].as_array().unwrap_or(&empty).iter();
        if behaviour.max_layers.is_some_and(|most| layers.len() > most) {
            let body =
                r#"{"errors":[{"code":"UNSUPPORTED","message":"Limit on number of layers per image exceeded"}]}"#;
            return Answer { body: body.into(), ..Answer::new(405) };
        }
        for blob in layers.chain(value.get("config")) {
            let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
            if !state.blobs.contains_key(&(repository.into(), digest)) {
                return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
            }
        }
        let media = request.headers["content-type"].clone();
        state.manifests.insert((repository.into(), digest.to_string()), (body.to_vec(), media.clone()));
        state.manifests.insert(key, (body.to_vec(), media));
        if !version.starts_with("sha256:") {
            let tags = state.tags.entry(repository.into()).or_default();
            if !tags.iter().any(|tag| tag == version) {
                tags.push(version.into());
            }
        }
        let answer = named(Answer::new(201), behaviour, &digest);
        return match value["subject"]["digest"].as_str().filter(|_| !behaviour.no_referrers) {
            Some(subject) => answer.header("OCI-Subject", subject),
            None => answer,
        };
    }
    if request.method == "DELETE" {
        if behaviour.no_deletes {
            return Answer::error(405, "UNSUPPORTED");
        }
        let Some((bytes, _)) = state.manifests.remove(&key) else { return Answer::error(404, "MANIFEST_UNKNOWN") };
        let gone: Vec<String> = match version.starts_with("sha256:") {
            true => {
                let same = |(other, _): &(Vec<u8>, String)| *other == bytes;
                let tags = state.manifests.iter().filter(|((at, _), m)| at == repository && same(m));
                tags.map(|((_, version), _)| version.clone()).collect()
            }
            false => vec![version.into()],
        };
        for tag in gone {
            state.manifests.remove(&(repository.into(), tag.clone()));
            state.tags.entry(repository.into()).or_default().retain(|known| *known != tag);
        }
        return Answer::new(202);
    }
    let heads = if request.method == "HEAD" { behaviour.heads } else { Heads::Whole };
    match (state.manifests.get(&key), heads) {
        (_, Heads::Refused(status)) => Answer::error(status, "UNSUPPORTED"),
        (None, _) => Answer::error(behaviour.absent_manifest.unwrap_or(404), "MANIFEST_UNKNOWN"),
        (Some((bytes, media)), _) => Answer {
            length: (request.method == "HEAD").then_some(bytes.len() as u64),
            body: match request.method.as_str() {
                "HEAD" => Vec::new(),
                _ if behaviour.wrong_manifests && version.starts_with("sha256:") => {
                    let other = String::from_utf8(bytes.clone()).unwrap().replace("2026-05-0", "2027-05-0");
                    assert_ne!(other.as_bytes(), bytes);
                    other.into_bytes()
                }
                _ => bytes.clone(),
            },
            ..Answer::new(200)
        }
        .header("Content-Type", media.clone())
        .header(
            if heads == Heads::WithoutDigest { "X-Nothing" } else { "Docker-Content-Digest" },
            if heads == Heads::OddDigest { "sha256:0".into() } else { Digest::of(bytes).to_string() },
        ),
    }
}

/// The manifests that name this one as their subject.
fn referrers(state: &State, repository: &str, subject: &str) -> serde_json::Value {
    let entries = state.manifests.iter().filter_map(|((at, version), (bytes, media))| {
        let manifest: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let is_one = at == repository && version.starts_with("sha256:") && manifest["subject"]["digest"] == subject;
        is_one.then(|| {
            let artifact = manifest["artifactType"].clone();
            serde_json::json!({ "mediaType": media, "digest": version, "size": bytes.len(), "artifactType": artifact })
        })
    });
    let media = "application/vnd.oci.image.index.v1+json";
    serde_json::json!({ "schemaVersion": 2, "mediaType": media, "manifests": entries.collect::<Vec<_>>() })
}

fn tags(state: &State, request: &Request, repository: &str, behaviour: &Behaviour) -> Answer {
    let Some(tags) = state.tags.get(repository) else { return Answer::error(404, "NAME_UNKNOWN") };
    let body = serde_json::json!({ "name": repository, "tags": tags }).to_string();
    let answer = Answer { body: body.into(), ..Answer::new(200) };
    let page: u64 = request.query.get("page").and_then(|text| text.parse().ok()).unwrap_or(0);
    if let Some(base) = &behaviour.tags_at {
        return answer.header("Link", format!("<{base}{}?page=1>; rel=\"next\"", request.path));
    }
    match behaviour.endless_tags {
        true => answer.header("Link", format!("<{}?page={}>; rel=\"next\"", request.path, page + 1)),
        false => answer,
    }
}

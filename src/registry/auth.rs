//! Who gets to see credentials: the registry that they belong to, and the token service that this registry announces,
//! if it is reached by https or is the registry itself. Nobody else.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Url, header::HeaderValue};

use super::credentials::Credentials;
use crate::error::{Error, Result};

/// What a token is asked for: `repository:NAME:pull`, `repository:NAME:pull,push`; nothing for the registry itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Scope(pub Vec<String>);

impl Scope {
    pub fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    pub fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    /// Whether it is for writing too.
    pub fn pushes(&self) -> bool {
        self.0.iter().any(|scope| scope.ends_with(",push") || scope.ends_with(",delete"))
    }

    pub fn delete(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push,delete")])
    }

    /// And reading from another repository, to mount from there.
    pub fn and_pull(mut self, repository: &str) -> Self {
        self.0.push(format!("repository:{repository}:pull"));
        self
    }
}

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// The strongest challenge of these headers that we can answer.
pub(super) fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut best = None;
    for one in headers.flat_map(challenges) {
        let (scheme, parameters) = one.split_once(' ').unwrap_or((one, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let mut parameters = parse_parameters(parameters);
            if let Some(realm) = parameters.remove("realm") {
                return Some(Challenge::Bearer { realm, service: parameters.remove("service") });
            }
        } else if scheme.eq_ignore_ascii_case("basic") {
            best = Some(Challenge::Basic);
        }
    }
    best
}

/// The challenges of one header: `Basic realm="a", Bearer realm="b",service=c` are two.
fn challenges(header: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in header.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            // A parameter has its name before `=`, a challenge begins with a scheme and a space, or is that alone.
            ',' if !quoted => {
                let next = header[at + 1..].trim_start();
                let name = next.split(['=', ',']).next().unwrap_or_default();
                if name.trim_end().contains(' ') || name.len() == next.len() {
                    starts.push(header.len() - next.len());
                }
            }
            _ => {}
        }
    }
    let ends = starts.iter().skip(1).copied().chain([header.len()]);
    starts.iter().zip(ends).map(|(start, end)| header[*start..end].trim().trim_end_matches(',')).collect()
}

/// `name="value", name=token`: what is none of it ends the list.
fn parse_parameters(mut text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let value;
        if let Some(quoted) = rest.trim_start().strip_prefix('"') {
            let mut out = String::new();
            let mut characters = quoted.char_indices();
            let end = loop {
                match characters.next() {
                    Some((at, '"')) => break at + 1,
                    Some((_, '\\')) => out.extend(characters.next().map(|(_, c)| c)),
                    Some((_, c)) => out.push(c),
                    None => return found,
                }
            };
            value = out;
            text = &quoted[end..];
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            value = rest[..end].trim().to_owned();
            text = &rest[end..];
        }
        found.entry(name).or_insert(value);
    }
    found
}

/// A request to a token service.
pub(super) struct TokenRequest {
    pub url: Url,
    /// `Authorization`, for a user and a password.
    pub authorization: Option<HeaderValue>,
    /// A form to post, for an identity token.
    pub form: Option<String>,
}

/// How long a token that was renewed in vain is not taken for an expired one again.
const BELIEVED: Duration = Duration::from_secs(60);

/// What was got for a scope.
struct Known {
    header: HeaderValue,
    challenge: Challenge,
    /// When it was renewed, because it might have expired, and had not.
    renewed_in_vain: Option<Instant>,
}

/// The credentials for one registry, and what was got for them.
pub(super) struct Authenticator {
    /// The registry's own address: scheme, host and port.
    base: Url,
    credentials: Option<Credentials>,
    answers: Mutex<HashMap<Scope, Known>>,
}

impl Authenticator {
    pub fn new(base: Url, credentials: Option<Credentials>) -> Self {
        Self { base, credentials, answers: Mutex::new(HashMap::new()) }
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Scope, Known>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to send with a request to `url`: nothing to any other host, port or scheme than the registry's.
    pub fn header_for(&self, url: &Url, scope: &Scope) -> Option<HeaderValue> {
        if url.origin() != self.base.origin() {
            return None;
        }
        self.answers().get(scope).map(|known| known.header.clone())
    }

    /// The challenge to answer anew after 403: some registries say so of a token that has expired.
    pub fn perhaps_expired(&self, scope: &Scope, refused: &HeaderValue) -> Option<Challenge> {
        let answers = self.answers();
        let known = answers.get(scope)?;
        let is_believed = known.renewed_in_vain.is_some_and(|when| when.elapsed() < BELIEVED);
        let is_token = matches!(known.challenge, Challenge::Bearer { .. });
        (is_token && !is_believed && known.header == *refused).then(|| known.challenge.clone())
    }

    /// A new token is refused as well: it is not for its age.
    pub fn had_not_expired(&self, scope: &Scope) {
        if let Some(known) = self.answers().get_mut(scope) {
            known.renewed_in_vain = Some(Instant::now());
        }
    }

    /// Answers a challenge of the registry: a header that is not `refused`, or none if there is no other.
    ///
    /// # Errors
    /// [`Error::Protocol`]: the token service is one that may not see credentials; what `fetch` says.
    pub fn answer(
        &self,
        challenge: &Challenge,
        scope: &Scope,
        refused: Option<&HeaderValue>,
        fetch: impl FnOnce(TokenRequest) -> Result<HeaderValue>,
    ) -> Result<Option<HeaderValue>> {
        // Locked meanwhile: many threads that are refused at once need one token.
        let mut answers = self.answers();
        if let Some(known) = answers.get(scope).filter(|known| Some(&known.header) != refused) {
            return Ok(Some(known.header.clone()));
        }
        let header = match challenge {
            Challenge::Basic => match &self.credentials {
                Some(Credentials::Basic { username, password }) => basic(username, password.expose()),
                _ => None,
            },
            Challenge::Bearer { realm, service } => {
                Some(fetch(self.token_request(realm, service.as_deref(), scope)?)?)
            }
        };
        let Some(header) = header.filter(|header| Some(header) != refused) else { return Ok(None) };
        let known = Known { header: header.clone(), challenge: challenge.clone(), renewed_in_vain: None };
        answers.insert(scope.clone(), known);
        Ok(Some(header))
    }

    fn token_request(&self, realm: &str, service: Option<&str>, scope: &Scope) -> Result<TokenRequest> {
        let broken = |reason: String| Error::Protocol { registry: registry_of(&self.base), reason };
        let mut url: Url =
            realm.parse().map_err(|_| broken("it announces a token service that is no URL".to_owned()))?;
        let shown = url.origin().ascii_serialization();
        if url.scheme() != "https" && url.origin() != self.base.origin() {
            let reason = format!("it announces the token service {shown}, another host that is not reached by https");
            return Err(broken(reason));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(broken(format!("it announces the token service {shown} with a user in its URL")));
        }
        let mut request = TokenRequest { url: url.clone(), authorization: None, form: None };
        if let Some(Credentials::IdentityToken(token)) = &self.credentials {
            let mut form = Url::parse("form:").map_err(|e| broken(e.to_string()))?;
            let mut pairs = form.query_pairs_mut();
            pairs.append_pair("grant_type", "refresh_token").append_pair("client_id", "snapcask");
            pairs.append_pair("refresh_token", token.expose());
            if let Some(service) = service {
                pairs.append_pair("service", service);
            }
            pairs.append_pair("scope", &scope.0.join(" "));
            drop(pairs);
            request.form = form.query().map(str::to_owned);
            return Ok(request);
        }
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        for scope in &scope.0 {
            url.query_pairs_mut().append_pair("scope", scope);
        }
        if let Some(Credentials::Basic { username, password }) = &self.credentials {
            request.authorization = basic(username, password.expose());
        }
        request.url = url;
        Ok(request)
    }
}

/// Host and port, for messages.
pub(super) fn registry_of(base: &Url) -> String {
    let host = base.host_str().unwrap_or_default();
    base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// A bearer token's header; none if it is no token.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    (!token.is_empty()).then(|| sensitive(&format!("Bearer {token}"))).flatten()
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator(base: &str) -> Authenticator {
        Authenticator::new(base.parse().unwrap(), Some(Credentials::basic("ann", "secret").unwrap()))
    }

    fn bearer_at(realm: &str) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: Some("s".into()) }
    }

    #[test]
    fn challenges_parse() {
        let parse = |text: &str| challenge([text].into_iter());
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("bearer realm=\"https://a/t\",service=\"s\", scope=x"), Some(bearer_at("https://a/t")));
        assert_eq!(parse("Bearer service=s,realm=\"https://a/\\\"t\""), Some(bearer_at("https://a/\"t")));
        for bad in ["", "Digest realm=\"x\"", "Bearer", "Bearer realm=\"unfinished", "Bearer service=\"s\""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for both in [
            "Basic realm=\"a, Bearer realm=b\", Bearer realm=\"https://a/t\",service=\"s\"",
            "Negotiate, Bearer service=s, realm=\"https://a/t\", Basic realm=\"x\"",
        ] {
            assert_eq!(parse(both), Some(bearer_at("https://a/t")), "{both}");
        }
        let both = challenge(["Basic realm=x", "Bearer realm=\"https://a/t\",service=s"].into_iter());
        assert_eq!(both, Some(bearer_at("https://a/t")));
    }

    #[test]
    fn credentials_reach_their_registry_and_its_token_service_only() {
        let ours = authenticator("https://r.example/");
        let scope = Scope::pull("a");
        let answer = |challenge: &Challenge| {
            let mut asked = None;
            let result = ours.answer(challenge, &scope, None, |request| {
                asked = Some(request);
                Ok(bearer("t").unwrap())
            });
            (result, asked)
        };
        for bad in ["http://auth.example/t", "http://r.example/t", "ftp://r.example/", "x", "https://u:p@r.example/t"] {
            let (result, asked) = answer(&bearer_at(bad));
            assert!(matches!(result, Err(Error::Protocol { .. })) && asked.is_none(), "{bad}");
        }
        let (result, asked) = answer(&bearer_at("https://auth.example/t?x=1"));
        let asked = asked.unwrap();
        assert_eq!(asked.url.as_str(), "https://auth.example/t?x=1&service=s&scope=repository%3Aa%3Apull");
        assert!(asked.authorization.unwrap().is_sensitive());
        assert_eq!(result.unwrap(), bearer("t"));
        for (url, sent) in [
            ("https://r.example/v2/x", true),
            ("https://r.example:443/v2/x", true),
            ("https://r.example:444/v2/x", false),
            ("http://r.example/v2/x", false),
            ("https://cdn.r.example/v2/x", false),
            ("https://other.example/", false),
        ] {
            assert_eq!(ours.header_for(&url.parse().unwrap(), &scope).is_some(), sent, "{url}");
        }
        assert_eq!(ours.header_for(&"https://r.example/".parse().unwrap(), &Scope::push("a")), None);
    }

    #[test]
    fn token_is_taken_for_expired_once_and_a_password_never() {
        let ours = authenticator("https://r.example/");
        let (scope, other) = (Scope::pull("a"), bearer("other").unwrap());
        let get = |refused: Option<&HeaderValue>, token: &str| {
            ours.answer(&bearer_at("https://r.example/t"), &scope, refused, |_| Ok(bearer(token).unwrap()))
                .unwrap()
                .unwrap()
        };
        assert_eq!(ours.perhaps_expired(&scope, &other), None);
        let first = get(None, "1");
        assert_eq!(ours.perhaps_expired(&scope, &other), None, "a newer one is there");
        assert_eq!(ours.perhaps_expired(&scope, &first), Some(bearer_at("https://r.example/t")));
        let second = get(Some(&first), "2");
        ours.had_not_expired(&scope);
        assert_eq!(ours.perhaps_expired(&scope, &second), None);
        let third = get(Some(&second), "3");
        assert!(ours.perhaps_expired(&scope, &third).is_some());

        let never = |_| panic!("no token is needed");
        let basic = ours.answer(&Challenge::Basic, &Scope::push("a"), None, never).unwrap().unwrap();
        assert_eq!(ours.perhaps_expired(&Scope::push("a"), &basic), None);
    }

    #[test]
    fn basic_is_sent_once_and_not_again_when_refused() {
        let ours = authenticator("http://127.0.0.1:5000/");
        let never = |_| panic!("no token is needed");
        let header = ours.answer(&Challenge::Basic, &Scope::default(), None, never).unwrap().unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic YW5uOnNlY3JldA==");
        assert_eq!(ours.answer(&Challenge::Basic, &Scope::default(), Some(&header), never).unwrap(), None);
    }
}

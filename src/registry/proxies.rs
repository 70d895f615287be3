//! The proxies that the environment names.
//!
//! Not left to `reqwest`: it takes a variable that it cannot parse for one that is not set, and goes on without the proxy.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{NoProxy, Proxy, Url};

use crate::error::{Error, Result};

/// What is never reached through a proxy: this machine itself.
const OURSELVES: &str = "localhost,127.0.0.0/8,::1";
/// What a proxy speaks.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The proxies for requests.
pub(super) struct Proxies {
    http: Option<Named>,
    https: Option<Named>,
    not_for: String,
}

/// A proxy, and which variable names it.
#[derive(Clone)]
struct Named {
    variable: &'static str,
    url: Url,
}

impl Proxies {
    /// As the environment says.
    ///
    /// # Errors
    /// [`Error::Usage`]: a variable is set to what is no address of a proxy.
    pub fn of_environment() -> Result<Self> {
        Self::of(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &'static str| variable(name).filter(|value| !value.trim().is_empty());
        let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, get(name)?)));
        let proxy = |names| first(names).map(|(name, value)| parse(name, &value)).transpose();
        let mut proxies = Self { http: None, https: None, not_for: OURSELVES.into() };
        // A program that a web server runs has the headers of a request as variables, `Proxy` as HTTP_PROXY.
        if variable("REQUEST_METHOD").is_some() {
            return Ok(proxies);
        }
        let all = proxy(["ALL_PROXY", "all_proxy"])?;
        proxies.http = proxy(["HTTP_PROXY", "http_proxy"])?.or_else(|| all.clone());
        proxies.https = proxy(["HTTPS_PROXY", "https_proxy"])?.or(all);
        if let Some((_, more)) = first(["NO_PROXY", "no_proxy"]) {
            proxies.not_for = format!("{more},{OURSELVES}");
        }
        Ok(proxies)
    }

    /// For `reqwest`.
    ///
    /// # Errors
    /// What it says to an address.
    pub fn build(&self) -> reqwest::Result<Vec<Proxy>> {
        let but = || NoProxy::from_string(&self.not_for);
        let http = self.http.iter().map(|named| Ok(Proxy::http(named.url.clone())?.no_proxy(but())));
        let https = self.https.iter().map(|named| Ok(Proxy::https(named.url.clone())?.no_proxy(but())));
        http.chain(https).collect()
    }

    /// The variable of the proxy that a request to `url` goes through.
    pub fn on_the_way_to(&self, url: &Url) -> Option<&'static str> {
        let named = if url.scheme() == "https" { self.https.as_ref()? } else { self.http.as_ref()? };
        let matcher = Matcher::builder().all(named.url.as_str()).no(self.not_for.as_str()).build();
        matcher.intercept(&url.as_str().parse().ok()?).map(|_| named.variable)
    }
}

/// The value is in no message, because it may hold a password.
fn parse(variable: &'static str, value: &str) -> Result<Named> {
    let fail = |reason: &str| {
        Error::Usage(format!(
            "${variable} is no address of a proxy: {reason}; it is written http://[USER:PASSWORD@]HOST[:PORT], or with https, \
             socks5 or socks5h, and other characters than letters and digits in USER and PASSWORD as %XX"
        ))
    };
    let value = value.trim();
    let whole = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url = Url::parse(&whole).map_err(|error| fail(&error.to_string()))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err(fail("it begins with none of http, https, socks4, socks4a, socks5 and socks5h"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(fail("it names no host"));
    }
    // What stands behind the host means nothing, but the end of a password that has no business there.
    if [url.path(), url.query().unwrap_or_default(), url.fragment().unwrap_or_default()].iter().any(|t| t.contains('@'))
    {
        return Err(fail("USER or PASSWORD has a character that ends the host"));
    }
    Ok(Named { variable, url })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Proxies> {
        Proxies::of(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    fn way(proxies: &Proxies, url: &str) -> Option<&'static str> {
        proxies.on_the_way_to(&url.parse().unwrap())
    }

    #[test]
    fn proxies_follow_scheme_and_exceptions() {
        let none = of(&[("HTTPS_PROXY", ""), ("NO_PROXY", "*")]).unwrap();
        assert_eq!((way(&none, "https://r.example/"), none.build().unwrap().len()), (None, 0));
        let both = of(&[
            ("https_proxy", "u:p@proxy.example:3128"),
            ("ALL_PROXY", "socks5h://proxy.example"),
            ("no_proxy", "own.example, 10.0.0.0/8"),
        ])
        .unwrap();
        assert_eq!(both.build().unwrap().len(), 2);
        for (url, expected) in [
            ("https://r.example/v2/", Some("https_proxy")),
            ("http://r.example/v2/", Some("ALL_PROXY")),
            ("https://own.example/", None),
            ("https://a.own.example/", None),
            ("https://10.1.2.3:5000/", None),
            ("http://localhost:5000/", None),
            ("https://127.0.0.1:5000/", None),
            ("http://127.9.9.9/", None),
            ("http://[::1]:5000/", None),
        ] {
            assert_eq!(way(&both, url), expected, "{url}");
        }
        // What a web server makes of a header named Proxy.
        let cgi = of(&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "http://evil.example")]).unwrap();
        assert_eq!(way(&cgi, "http://r.example/"), None);
    }

    #[test]
    fn proxy_that_does_not_parse_is_refused_without_its_secret() {
        for bad in [
            "http://user:secret@proxy:port",
            "http://user:secret/x@proxy:1",
            "ftp://user:secret@proxy",
            "http://",
            "://proxy",
            "socks5://user:secret@",
            "http://proxy:99999",
            "http://pro xy:3128",
            "http://user/secret@proxy:3128",
            "http://user#secret@proxy:3128",
            "http://user?secret@proxy:3128",
        ] {
            for variable in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
                let error = of(&[(variable, bad)]).err().expect(bad);
                let text = error.to_string();
                assert!(text.starts_with(&format!("${variable} is no address of a proxy: ")), "{text}");
                assert!(!text.contains("secret") && error.exit_code() == 2, "{text}");
            }
        }
    }
}

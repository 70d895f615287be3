//! The way to a registry: in plain HTTP or TLS, through which proxy, and what is wrong with it where it leads nowhere.

use std::{sync::Arc, time::Duration};

use reqwest::{ClientBuilder, Url, redirect::Policy};
use rustls::{AlertDescription, ClientConfig};

use super::{
    cause::{Cause, explain},
    options::{Options, Transport},
    probe,
    proxies::Proxies,
    threads::Names,
    tls::Tls,
};
use crate::{
    error::{Error, Result},
    reference::Host,
};

/// Time for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(15);
/// Where Docker Hub's registry is.
const HUB: &str = "registry-1.docker.io";

/// Who a request goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The registry, or the token service that it names: they are told who we are.
    Ours,
    /// Anybody else.
    Others,
}

/// The way to one registry.
pub(super) struct Way {
    host: Host,
    base: Url,
    transport: Transport,
    tls: Tls,
    proxies: Proxies,
    ours: reqwest::Client,
    others: reqwest::Client,
}

impl Way {
    /// As the options and the environment say.
    ///
    /// # Errors
    /// Files that hold no certificate or key, a variable that names no proxy, a host that no URL can hold.
    pub fn new(host: &Host, options: &Options) -> Result<Self> {
        let (tls, proxies) = (Tls::new(host, options)?, Proxies::of_environment()?);
        let build = |config: ClientConfig| {
            let builder = reqwest::Client::builder()
                .redirect(Policy::none())
                .referer(false)
                .connect_timeout(CONNECT)
                .http1_only()
                .user_agent(concat!("snapcask/", env!("CARGO_PKG_VERSION")))
                .tls_backend_preconfigured(config)
                .dns_resolver(Arc::new(Names))
                .no_proxy();
            let built = proxies.build().and_then(|all| all.into_iter().fold(builder, ClientBuilder::proxy).build());
            built.map_err(|e| Error::Protocol { registry: host.to_string(), reason: explain(e) })
        };
        let ours = build(tls.ours(host)?)?;
        let others = if tls.has_keys() { build(tls.others(host)?)? } else { ours.clone() };
        let base = base_url(host, tls.is_used)?;
        Ok(Self { host: host.clone(), base, transport: options.transport, tls, proxies, ours, others })
    }

    /// The registry's own address: scheme, host and port.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// What carries a request.
    pub fn client(&self, to: To) -> &reqwest::Client {
        match to {
            To::Ours => &self.ours,
            To::Others => &self.others,
        }
    }

    /// What is wrong that no other attempt will heal, as a part of a sentence whose subject is the server.
    /// `answered`: the registry has answered before.
    pub fn obstacle(&self, error: &reqwest::Error, cause: &Cause, answered: bool) -> Option<String> {
        let asked = error.url()?;
        let is_direct = self.proxies.on_the_way_to(asked).is_none();
        let is_odd = *cause == Cause::Other && !answered && !error.is_timeout() && self.is_own(asked) && is_direct;
        match cause {
            Cause::Distrust(distrust) => Some(distrust.to_string()),
            Cause::Alert(alert) => Some(self.tls.meaning_of(*alert)),
            Cause::NoTls if is_direct && probe::speaks_http(asked) => Some(self.speaks_plain_http()),
            Cause::NoTls => Some("does not speak TLS".into()),
            // The alert that says so may be lost, because the connection is closed behind it.
            _ if is_odd && self.tls.lacks_key() => Some(self.tls.meaning_of(AlertDescription::CertificateRequired)),
            _ if is_odd && asked.scheme() == "https" && probe::speaks_http(asked) => Some(self.speaks_plain_http()),
            _ if is_odd && asked.scheme() == "http" => self.misunderstands(asked),
            _ => None,
        }
    }

    /// The same of a registry that does not answer plain HTTP as one.
    pub fn misunderstands(&self, asked: &Url) -> Option<String> {
        let is_plain = asked.scheme() == "http" && self.is_own(asked) && self.proxies.on_the_way_to(asked).is_none();
        let greeting = is_plain.then(|| self.tls.others(&self.host).ok()).flatten()?;
        let advice = match self.transport {
            Transport::PlainHttp => "; leave --plain-http out",
            _ => ", as every registry on this machine is; use --tls",
        };
        probe::speaks_tls(asked, greeting).then(|| format!("speaks TLS, and was asked in plain HTTP{advice}"))
    }

    fn speaks_plain_http(&self) -> String {
        let advice = match self.transport {
            Transport::Tls => "use --plain-http instead of --tls",
            _ => "--plain-http allows that",
        };
        format!("speaks plain HTTP, and not TLS; {advice}")
    }

    /// An error with its causes, and the proxy if it may be the proxy's.
    pub fn told(&self, error: reqwest::Error) -> String {
        let proxy = error.url().and_then(|url| self.proxies.on_the_way_to(url));
        let reason = explain(error);
        match proxy {
            Some(variable) => format!("{reason} (through the proxy that ${variable} names)"),
            None => reason,
        }
    }

    /// What to do where the name of a host is not known.
    pub fn check_the_name(&self, error: &reqwest::Error) -> String {
        match error.url().and_then(|url| self.proxies.on_the_way_to(url)) {
            Some(variable) => format!("; check the name in ${variable}"),
            None => "; check the name of the registry".into(),
        }
    }

    /// What to do after a refusal, if the registry has asked for a certificate in vain.
    pub fn lacks_key(&self) -> bool {
        self.tls.lacks_key()
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }
}

fn base_url(host: &Host, is_tls: bool) -> Result<Url> {
    let name = match (host.name(), host.port()) {
        ("docker.io" | "index.docker.io", None) => HUB.to_owned(),
        _ => host.to_string(),
    };
    format!("{}://{name}/", if is_tls { "https" } else { "http" })
        .parse()
        .map_err(|_| Error::invalid_host(&host.to_string(), "it is none that a URL can hold"))
}

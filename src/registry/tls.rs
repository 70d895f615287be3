//! TLS of one registry: whom it trusts, and what proves to it who we are.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rustls::{
    AlertDescription, ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::CertificateDer,
    sign::CertifiedKey,
};

use super::{
    certs_d::OfHost,
    options::{Options, Transport},
    pem,
    trust::{TakesAny, Trust},
};
use crate::{
    error::{Error, Result},
    reference::Host,
};

/// What to do where a server wants to know who we are.
pub(super) const NAME_A_KEY: &str = "--cert FILE and --key FILE name one";

/// How one registry is spoken to.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    keys: Vec<Arc<CertifiedKey>>,
    /// Whether the registry has asked who we are.
    asked: Arc<AtomicBool>,
    /// Whether the registry is asked with TLS.
    pub is_used: bool,
}

impl Tls {
    /// Of the options, and of what `certs.d` has for the host.
    ///
    /// # Errors
    /// [`Error::Io`]: files that hold no certificate or key.
    pub fn new(host: &Host, options: &Options) -> Result<Self> {
        // Our own, whatever the program that we are part of has chosen for itself.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let named = options.ca_file.as_deref().map(pem::certificates).transpose()?.unwrap_or_default();
        let key = options.client_certificate.as_ref();
        let key = key.map(|one| pem::certified_key(&one.certificate, &one.key, &provider)).transpose()?;
        let found = match options.transport {
            // Nobody is asked in TLS, but perhaps another host that the registry names.
            Transport::PlainHttp => OfHost::default(),
            _ => options.certificate_folders.read(host, &provider)?,
        };
        let is_asked = options.ca_file.is_some() || options.insecure || key.is_some() || found.is_named;
        let is_used = match options.transport {
            Transport::PlainHttp => false,
            Transport::Tls => true,
            Transport::Automatic => is_asked || !host.is_loopback(),
        };
        let keys = if key.is_some() { key.into_iter().collect() } else { found.keys };
        let trusted: Vec<CertificateDer<'static>> = [named, found.authorities].concat();
        let verifier: Arc<dyn ServerCertVerifier> = match options.insecure {
            true => Arc::new(TakesAny(provider.clone())),
            false => Arc::new(Trust::new(provider.clone(), trusted, found.unreadable)),
        };
        Ok(Self { provider, verifier, keys, asked: Arc::default(), is_used })
    }

    /// For the registry itself and its token service: it is told who we are.
    pub fn ours(&self, host: &Host) -> Result<ClientConfig> {
        self.config(host, &self.keys, &self.asked)
    }

    /// For everybody else.
    pub fn others(&self, host: &Host) -> Result<ClientConfig> {
        self.config(host, &[], &Arc::default())
    }

    /// Whether there is anything that others must not be told.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether the registry has asked for a certificate, and there is none.
    pub fn lacks_key(&self) -> bool {
        self.keys.is_empty() && self.asked.load(Ordering::Relaxed)
    }

    /// What an alert of the registry means, as a part of a sentence whose subject it is.
    pub fn meaning_of(&self, alert: AlertDescription) -> String {
        let asked = self.asked.load(Ordering::Relaxed);
        match self.keys.is_empty() {
            true if asked || alert == AlertDescription::CertificateRequired => {
                format!("wants to be shown a certificate, and there is none; {NAME_A_KEY}")
            }
            false if asked => format!("refuses the certificate that it was shown ({alert:?})"),
            _ if no_common_ground(alert) => format!(
                "has no version or cipher of TLS in common with us ({alert:?}): we speak TLS 1.2 with ECDHE and AES-GCM or \
                 ChaCha20, and TLS 1.3"
            ),
            _ => format!("refuses to speak TLS with us ({alert:?})"),
        }
    }

    fn config(&self, host: &Host, keys: &[Arc<CertifiedKey>], asked: &Arc<AtomicBool>) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| Error::Protocol { registry: host.to_string(), reason: e.to_string() })?;
        let shown = Shown { keys: keys.to_vec(), asked: asked.clone() };
        let builder = builder.dangerous().with_custom_certificate_verifier(self.verifier.clone());
        Ok(builder.with_client_cert_resolver(Arc::new(shown)))
    }
}

fn no_common_ground(alert: AlertDescription) -> bool {
    use AlertDescription::{HandshakeFailure, InsufficientSecurity, ProtocolVersion};
    matches!(alert, HandshakeFailure | InsufficientSecurity | ProtocolVersion)
}

/// What a server is shown that asks who we are; notes that it has asked.
#[derive(Debug)]
struct Shown {
    keys: Vec<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.keys.iter().find(|key| key.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

//! Which servers are trusted: those with a certificate that somebody whom we trust has signed, and those whose very
//! certificate is among the trusted ones.
//!
//! The latter is why this is no `WebPkiServerVerifier` alone: `openssl req -x509` makes a certificate that is a server's and
//! an authority's at once, which that refuses as a server's, whoever trusts it. Host name and dates are checked in any case.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_cert::{
    Certificate,
    der::{DateTime, Decode},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::system;

/// What to do about a certificate that nobody vouches for.
const NAME_IT: &str = "; --ca-file FILE trusts another certificate, --insecure takes any";
/// What to do where there is no certificate to trust at all.
const NO_AUTHORITIES: &str = "; install the system's (the package is called ca-certificates), or name a file of them with \
                              $SSL_CERT_FILE or --ca-file";
/// Most names of a certificate that an error tells.
const TOLD_NAMES: usize = 5;

/// Why a server is not trusted, as a part of a sentence whose subject it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Distrust(String);

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Distrust {}

impl Distrust {
    /// The one that stands in an error of TLS.
    pub fn of(error: &TlsError) -> Option<Self> {
        match error {
            TlsError::InvalidCertificate(CertificateError::Other(OtherError(inside))) => inside.downcast_ref().cloned(),
            // Of a signature in the handshake: the certificate itself is judged below.
            TlsError::InvalidCertificate(other) => {
                Some(Self(format!("is not trusted: it does not prove that its certificate is its own ({other})")))
            }
            _ => None,
        }
    }

    fn because(reason: impl fmt::Display) -> TlsError {
        let error = Self(format!("is not trusted: {reason}"));
        TlsError::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// Takes any certificate, but no server that has not its key.
#[derive(Debug)]
pub(super) struct TakesAny(pub Arc<CryptoProvider>);

/// Takes the certificates that are trusted.
#[derive(Debug)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    /// Those that the user has named.
    named: Vec<CertificateDer<'static>>,
    /// What may hold what is missing, and could not be read.
    unreadable: Vec<String>,
    /// These and the system's, read when the first server has to be judged: plain HTTP needs none.
    all: OnceLock<All>,
}

#[derive(Debug)]
struct All {
    certificates: Vec<CertificateDer<'static>>,
    /// None where there is nothing to trust.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    told: String,
}

impl Trust {
    pub fn new(provider: Arc<CryptoProvider>, named: Vec<CertificateDer<'static>>, unreadable: Vec<String>) -> Self {
        Self { provider, named, unreadable, all: OnceLock::new() }
    }

    fn all(&self) -> &All {
        self.all.get_or_init(|| {
            let system = system::load();
            let certificates = [self.named.clone(), system.certificates].concat();
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates.iter().cloned());
            let builder = WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone());
            All { certificates, verifier: builder.build().ok(), told: system.told }
        })
    }

    /// The places that could not be read, at the end of a reason.
    fn not_read(&self) -> String {
        self.unreadable.iter().map(|one| format!("; {one}")).collect()
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let is_same = |trusted: &CertificateDer<'_>| trusted.as_ref() == certificate.as_ref();
        if self.named.iter().any(is_same) || self.all().certificates.iter().any(is_same) {
            check_dates(certificate, now)?;
            return match ParsedCertificate::try_from(certificate).and_then(|one| verify_server_name(&one, name)) {
                Ok(()) => Ok(ServerCertVerified::assertion()),
                Err(error) => Err(explained(error, certificate, name, "")),
            };
        }
        let All { verifier, told, .. } = self.all();
        let Some(verifier) = verifier else {
            let more = self.not_read();
            return Err(Distrust::because(format_args!(
                "there are no CA certificates to check its own with{told}{more}{NO_AUTHORITIES}"
            )));
        };
        let verified = verifier.verify_server_cert(certificate, between, name, ocsp, now);
        verified.map_err(|error| explained(error, certificate, name, &format!("{told}{}", self.not_read())))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate is valid now.
fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), TlsError> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|error| Distrust::because(format_args!("its certificate cannot be read ({error})")))?;
    let validity = parsed.tbs_certificate().validity();
    let now = Duration::from_secs(now.as_secs());
    if now < validity.not_before.to_unix_duration() {
        return Err(not_yet_valid(validity.not_before));
    }
    // The last second is valid, too.
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(expired(validity.not_after));
    }
    Ok(())
}

fn not_yet_valid(from: impl fmt::Display) -> TlsError {
    Distrust::because(format_args!("its certificate is valid from {from} on; check the clock of this machine"))
}

fn expired(at: impl fmt::Display) -> TlsError {
    Distrust::because(format_args!("its certificate has expired, at {at}; the registry needs a new one"))
}

fn date(time: UnixTime) -> String {
    let date = DateTime::from_unix_duration(Duration::from_secs(time.as_secs()));
    date.map_or_else(|_| format!("{} seconds after 1970", time.as_secs()), |date| date.to_string())
}

/// The verifier's error in words that say what to do. `not_found`: where those whom we trust were looked for in vain.
fn explained(error: TlsError, certificate: &CertificateDer<'_>, name: &ServerName<'_>, not_found: &str) -> TlsError {
    let TlsError::InvalidCertificate(kind) = &error else { return error };
    let parsed = Certificate::from_der(certificate).ok();
    match kind {
        CertificateError::ExpiredContext { not_after, .. } => expired(date(*not_after)),
        CertificateError::NotValidYetContext { not_before, .. } => not_yet_valid(date(*not_before)),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let name = name.to_str();
            match names_of(parsed.as_ref()).as_slice() {
                [] => Distrust::because(format_args!(
                    "its certificate names no host; a name belongs into subjectAltName, a common name is not looked at"
                )),
                names => {
                    Distrust::because(format_args!("its certificate is for {}, and not for {name}", names.join(", ")))
                }
            }
        }
        // Whatever else is wrong with it, that one refuses the certificates of authorities first.
        CertificateError::UnknownIssuer | CertificateError::Other(_) if is_self_signed(parsed.as_ref()) => {
            Distrust::because(format_args!(
                "its certificate is self-signed, and not itself one that is trusted{not_found}{NAME_IT}"
            ))
        }
        CertificateError::UnknownIssuer => {
            let issuer = parsed.as_ref().map(|one| one.tbs_certificate().issuer().to_string());
            let issuer = issuer.filter(|issuer| !issuer.is_empty()).unwrap_or_else(|| "somebody without a name".into());
            Distrust::because(format_args!(
                "its certificate is signed by {issuer}, who is not trusted{not_found}{NAME_IT}"
            ))
        }
        other => Distrust::because(format_args!("{other}{NAME_IT}")),
    }
}

fn is_self_signed(certificate: Option<&Certificate>) -> bool {
    certificate.is_some_and(|one| one.tbs_certificate().issuer() == one.tbs_certificate().subject())
}

/// The hosts that a certificate is for, the first few.
fn names_of(certificate: Option<&Certificate>) -> Vec<String> {
    let extension = certificate.and_then(|one| one.tbs_certificate().get_extension::<SubjectAltName>().ok().flatten());
    let Some((_, SubjectAltName(names))) = extension else { return Vec::new() };
    let mut told: Vec<String> = names.iter().filter_map(host_name).take(TOLD_NAMES + 1).collect();
    if told.len() > TOLD_NAMES {
        told.truncate(TOLD_NAMES);
        told.push("others".into());
    }
    told
}

fn host_name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => match *bytes.as_bytes() {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            ref long => Some(IpAddr::from(<[u8; 16]>::try_from(long).ok()?).to_string()),
        },
        _ => None,
    }
}

//! TLS before a registry of this process, and the certificates for it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use crate::fixture::write;

/// A certificate and its key.
pub struct Identified {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub key: KeyPair,
}

impl Identified {
    /// Writes `NAME.cert` and `NAME.key`; where they are.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join(format!("{name}.cert")), folder.join(format!("{name}.key")));
        write(certificate.clone(), self.pem.as_bytes());
        write(key.clone(), self.key.serialize_pem().as_bytes());
        (certificate, key)
    }
}

/// For hosts, valid from one year to another.
pub fn parameters(hosts: &[&str], years: (i32, i32)) -> CertificateParams {
    let mut parameters = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, "registry");
    parameters.not_before = date_time_ymd(years.0, 1, 1);
    parameters.not_after = date_time_ymd(years.1, 1, 1);
    parameters
}

/// As `openssl req -x509` makes it: a server's and an authority's at once.
pub fn self_signed(hosts: &[&str], years: (i32, i32)) -> Identified {
    let mut parameters = parameters(hosts, years);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let made = parameters.self_signed(&key).unwrap();
    Identified { certificate: made.der().clone(), pem: made.pem(), key }
}

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn sign(&self, hosts: &[&str]) -> Identified {
        let key = KeyPair::generate().unwrap();
        let made = parameters(hosts, (2020, 2100)).signed_by(&key, &self.0).unwrap();
        Identified { certificate: made.der().clone(), pem: made.pem(), key }
    }
}

/// Whether a front wants to know who its clients are.
pub enum Clients<'a> {
    Unknown,
    /// Asks, and takes all that show no certificate, or one of this authority.
    Asked(&'a Authority),
    /// Takes only those that show a certificate of this authority.
    Known(&'a Authority),
}

/// What takes TLS at a port of its own and goes on in plain HTTP; it ends with its value.
pub struct TlsFront {
    pub port: u16,
    shown: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl TlsFront {
    /// Before the port `to` of this machine.
    pub fn start(to: u16, identity: &Identified, clients: &Clients<'_>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let of = |authority: &Authority| {
            let mut roots = RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        };
        let builder = match clients {
            Clients::Unknown => builder.with_no_client_auth(),
            Clients::Asked(authority) => {
                builder.with_client_cert_verifier(of(authority).allow_unauthenticated().build().unwrap())
            }
            Clients::Known(authority) => builder.with_client_cert_verifier(of(authority).build().unwrap()),
        };
        let config = builder.with_single_cert(vec![identity.certificate.clone()], key).unwrap();
        Self::serve(to, config)
    }

    /// Has a certificate that somebody else has the key of, and speaks this version.
    pub fn impostor(to: u16, identity: &Identified, version: &'static SupportedProtocolVersion) -> Self {
        #[derive(Debug)]
        struct Impostor(Arc<CertifiedKey>);
        impl ResolvesServerCert for Impostor {
            fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
                Some(self.0.clone())
            }
        }
        let own = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KeyPair::generate().unwrap().serialize_der()));
        let own = rustls::crypto::ring::sign::any_supported_type(&own).unwrap();
        let shown = Impostor(Arc::new(CertifiedKey::new(vec![identity.certificate.clone()], own)));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        Self::serve(to, builder.with_no_client_auth().with_cert_resolver(Arc::new(shown)))
    }

    fn serve(to: u16, config: ServerConfig) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shown = Arc::new(AtomicU64::new(0));
        let counted = shown.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counted) = (acceptor.clone(), counted.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.peer_certificates().is_some() {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    let Ok(mut behind) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { port, shown, _runtime: runtime }
    }

    pub fn base(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    pub fn reference(&self, rest: &str) -> String {
        format!("oci://localhost:{}/{rest}", self.port)
    }

    /// How many connections have shown a certificate.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }
}

/// A port of this machine that answers each connection with these bytes.
pub fn answers(bytes: &'static [u8]) -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
        }
    });
    port
}

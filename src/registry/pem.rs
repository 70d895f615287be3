//! Certificates and private keys in PEM files.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::error::{Error, IoContext, Result};

/// Largest file of certificates or of a key, in bytes: the authorities that a system trusts take some 220 KiB.
const MAX_FILE: u64 = 16 << 20;
/// What is being done, as errors call it.
const READ_CERTIFICATES: &str = "read certificates from";
const READ_KEY: &str = "read a private key from";

/// The certificates of a file, at least one, which can be trusted.
///
/// # Errors
/// [`Error::Io`]: the file cannot be read, is empty, holds no certificate, or one that is damaged.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path, READ_CERTIFICATES)?;
    let broken = |reason: String| Error::io(READ_CERTIFICATES, path, io::Error::other(reason));
    let mut found = Vec::new();
    for one in CertificateDer::pem_slice_iter(&bytes) {
        let damaged = || broken(format!("its certificate {} is damaged", found.len() + 1));
        let one = one.map_err(|_| damaged())?;
        RootCertStore::empty().add(one.clone()).map_err(|_| damaged())?;
        found.push(one);
    }
    match found.is_empty() {
        true => Err(broken(what_is_wrong(&bytes, "certificate", "x509"))),
        false => Ok(found),
    }
}

/// A certificate, the chain behind it, and its key.
///
/// # Errors
/// [`Error::Io`]: one of the files cannot be read, holds no such thing, or the key is not the certificate's.
pub(super) fn certified_key(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>> {
    let chain = certificates(certificate)?;
    let bytes = read(key, READ_KEY)?;
    let broken = |reason: String| Error::io(READ_KEY, key, io::Error::other(reason));
    let parsed = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let is_encrypted = String::from_utf8_lossy(&bytes).contains("ENCRYPTED");
        broken(match is_encrypted {
            true => "it is encrypted; `openssl pkey -in FILE -out PLAIN` decrypts it".into(),
            false => what_is_wrong(&bytes, "private key", "pkey"),
        })
    })?;
    match CertifiedKey::from_der(chain, parsed, provider) {
        Ok(found) => Ok(Arc::new(found)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let reason = format!("it does not belong to the certificate {}", certificate.display());
            Err(Error::io("use the private key", key, io::Error::other(reason)))
        }
        Err(error) => Err(broken(error.to_string())),
    }
}

fn read(path: &Path, operation: &'static str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).context(operation, path)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).context(operation, path)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::io(operation, path, io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
    }
    // Some editors begin a text with a mark of its encoding.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// Of a file in which `what` was not found; `tool` is the command of openssl that converts it.
fn what_is_wrong(bytes: &[u8], what: &str, tool: &str) -> String {
    // A SEQUENCE of ASN.1 with a length of two bytes.
    let is_der = bytes.starts_with(&[0x30, 0x82]);
    match (bytes.iter().all(u8::is_ascii_whitespace), is_der) {
        (true, _) => "it is empty".into(),
        (false, true) => format!("it is in DER form; `openssl {tool} -inform DER -in FILE -out PEM` makes PEM of it"),
        (false, false) => format!("it holds no {what} in PEM form"),
    }
}

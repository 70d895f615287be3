//! The certificates that the system trusts: those of `$SSL_CERT_FILE` and `$SSL_CERT_DIR` where one of them is set, else
//! the system's own.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use rustls::pki_types::CertificateDer;
use rustls_native_certs::{CertificateResult, load_certs_from_paths};

/// What was found.
pub(super) struct SystemCertificates {
    pub certificates: Vec<CertificateDer<'static>>,
    /// Where they were looked for, and what went wrong there, for those who find that one is missing.
    pub told: String,
}

/// Reads them; what cannot be read is told and not fatal, because others may do.
pub(super) fn load() -> SystemCertificates {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    load_as(set("SSL_CERT_FILE"), set("SSL_CERT_DIR"))
}

fn load_as(file: Option<OsString>, folders: Option<OsString>) -> SystemCertificates {
    let variables = match (&file, &folders) {
        (Some(_), Some(_)) => "$SSL_CERT_FILE and $SSL_CERT_DIR",
        (Some(_), None) => "$SSL_CERT_FILE",
        (None, Some(_)) => "$SSL_CERT_DIR",
        (None, None) => {
            let known = openssl_probe::probe();
            return read(known.cert_file.as_deref(), &known.cert_dir, "");
        }
    };
    let folders: Vec<PathBuf> =
        folders.iter().flat_map(env::split_paths).filter(|path| !path.as_os_str().is_empty()).collect();
    read(file.as_ref().map(Path::new), &folders, variables)
}

fn read(file: Option<&Path>, folders: &[PathBuf], variables: &str) -> SystemCertificates {
    let places = [(file, None)].into_iter().chain(folders.iter().map(|folder| (None, Some(folder.as_path()))));
    let (mut certificates, mut told) = (Vec::new(), Vec::new());
    for (file, folder) in places {
        let CertificateResult { certs, errors, .. } = load_certs_from_paths(file, folder);
        certificates.extend(certs);
        // Of what nobody has named, only that it is not there.
        if !variables.is_empty() {
            told.extend(errors.iter().map(ToString::to_string));
        }
    }
    let told = match (variables, told.is_empty()) {
        ("", _) => String::new(),
        (_, true) => format!(" (looked for with {variables})"),
        (_, false) => format!(" (looked for with {variables}: {})", told.join(", ")),
    };
    SystemCertificates { certificates, told }
}

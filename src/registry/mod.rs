//! Registries: the only home of HTTP.
//!
//! ```text
//! options, credentials     how a registry is spoken to, and as whom; credential_files, _keys, _helper: who knows them
//! auth                     who gets to see credentials
//! tls, trust, system       whom we believe to be the registry; pem, certs_d: certificates of files and folders
//! way, proxies, probe      how a registry is reached, what stands between, what a port speaks that answers oddly
//! client                   requests: attempts, redirects, bounds
//! payload, response, cause what a request carries, what comes back, and why nothing did
//! repository, tags         what a repository has
//! source, parts            a bundle read: blobs verified, resumed by Range, large ones in several ranges at once
//! partial                  what was fetched before a cut, kept for the next run
//! upload, writer, target   a bundle written: blobs resumed at the registry's offset, tags last
//! snapshots, delete        which snapshots a repository has, and deleting one
//! referrers, memory        fallback tags; what is remembered between runs
//! capabilities             what the registry has refused, and what is tried instead
//! notices                  what is waited for, tried again, or warned of
//! changes                  tags that named other manifests before a push
//! ```
//!
//! Every byte that comes is verified by its digest before anything is believed; every list and body is bounded.

mod auth;
mod capabilities;
mod cause;
mod certs_d;
mod changes;
mod client;
mod credential_files;
mod credential_helper;
mod credential_keys;
mod credentials;
mod delete;
mod http_date;
mod memory;
mod notices;
mod options;
mod partial;
mod parts;
mod payload;
mod pem;
mod probe;
mod proxies;
mod referrers;
mod repository;
mod response;
mod snapshots;
mod source;
mod system;
mod tags;
mod target;
mod threads;
mod tls;
mod trust;
mod upload;
mod way;
mod writer;

use reqwest::Method;

pub use certs_d::CertificateFolders;
pub use changes::{TagChange, TagChanges, TagOutcome};
pub use credential_files::{CredentialFiles, Kept};
pub use credentials::{Credentials, Secret};
pub use delete::Children;
pub use notices::{Notice, Notices};
pub use options::{CACHE_MAX, CHUNK, ChunkSize, ClientCertificate, Options, Retry, TIMEOUT, Transport};

use crate::{
    error::{Error, Result},
    reference::{Host, RegistryReference},
    report::{DeleteReport, RemoteSnapshot},
    storage::{Source, Target},
};
use client::{Client, Request};

/// Opens the bundle that `reference` names; without a tag or digest, the only tag that there is.
///
/// # Errors
/// [`crate::Error::TagNotFound`] with the tags that there are, [`crate::Error::RemoteNotFound`], and what registries
/// refuse.
pub fn open(reference: &RegistryReference, options: &Options) -> Result<Box<dyn Source>> {
    Ok(Box::new(source::RegistrySource::open(reference, options)?))
}

/// Begins a push to the repository; the reference's tag, where there is one, becomes the head's. A parent's tag that
/// names another manifest is only moved by force: else the parent is tagged with its name and digits of its digest.
///
/// # Errors
/// Bad credentials files or certificates; the registry is asked later.
pub fn create(reference: &RegistryReference, options: &Options, force: bool) -> Result<Box<dyn Target>> {
    Ok(Box::new(target::RegistryTarget::open(reference, options, force)?))
}

/// The tags of a repository, sorted.
///
/// # Errors
/// [`crate::Error::RemoteNotFound`], and what registries refuse.
pub fn tags(reference: &RegistryReference, options: &Options) -> Result<Vec<String>> {
    let mut tags = tags::list(&repository::Repo::to_pull(reference, options)?)?;
    tags.sort_unstable();
    Ok(tags)
}

/// The snapshots that the tags of a repository name, sorted by their tags. Reads the manifest of every tag.
///
/// # Errors
/// As [`tags`]; a snapshot's manifest or config that is not what the format says.
pub fn snapshots(reference: &RegistryReference, options: &Options) -> Result<Vec<RemoteSnapshot>> {
    snapshots::describe(&repository::Repo::to_pull(reference, options)?)
}

/// Deletes the snapshot that `reference` names, or one of its tags where it has several.
///
/// # Errors
/// [`crate::Error::RemoteHasChildren`]; [`crate::Error::TagNotFound`] and the like where there is no such; what the registry
/// refuses.
pub fn delete(reference: &RegistryReference, options: &Options, children: Children) -> Result<DeleteReport> {
    delete::delete(&repository::Repo::to_delete(reference, options)?, reference, children)
}

/// Asks the registry whether it takes these credentials, and keeps them if it does.
///
/// # Errors
/// [`crate::Error::LoginRefused`]: it does not; nothing was kept.
pub fn login(host: &Host, username: &str, password: &Secret, options: &Options) -> Result<Kept> {
    let credentials = Credentials::basic(username, password.expose())?;
    let client = Client::new(host, None, &Options { credentials: Some(credentials), ..options.clone() })?;
    let request = Request::new(Method::GET, client.url("/v2/"), &auth::Scope::default(), format!("log in to {host}"));
    // Who is told to run `snapcask login` after this did so.
    let refused = |error| match error {
        Error::Unauthorized { registry, reason, .. } => Error::LoginRefused { registry, reason },
        other => other,
    };
    let response = client.send(&request).map_err(refused)?;
    if !response.status().is_success() {
        return Err(refused(client.refusal(response, &request.operation, "registry API")));
    }
    options.files.store(host, username, password)
}

/// Forgets the credentials of a registry. Whether there were any.
///
/// # Errors
/// I/O, or a credential helper that fails.
pub fn logout(host: &Host, options: &Options) -> Result<bool> {
    options.files.erase(host)
}

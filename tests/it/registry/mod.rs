//! Registries: one in this process that lies and cuts, and a real one.

mod auth;
mod cli;
mod credentials;
mod cuts;
mod faults;
mod field;
mod home;
mod login;
mod moves;
mod real;
mod real_tls;
mod remote;
mod said;
mod server;
mod thin;
mod tls;
mod tls_front;

use std::{path::Path, sync::Arc, time::Duration};

use snapcask::{
    Result,
    copy::{CopyOptions, copy},
    export::{Destination, ExportOptions, Form, export},
    import::{BundleLocation, ImportOptions, import},
    progress::Silent,
    registry::{CertificateFolders, ChunkSize, CredentialFiles, Options, Retry},
    report::{CopyReport, ExportReport, ImportReport},
};

use crate::fixture::*;

/// Quick to try again; nothing of the machine's credentials or caches is touched.
pub fn options(cache: Option<&Path>) -> Options {
    let moment = Duration::from_millis(2);
    Options {
        files: CredentialFiles::default(),
        certificate_folders: CertificateFolders::default(),
        cache: cache.map(Into::into),
        retry: Retry {
            attempts: 5,
            first: moment,
            longest: moment * 4,
            longest_asked: Duration::from_secs(2),
            refused: Duration::from_millis(20),
            unknown: Duration::from_secs(1),
        },
        chunk: ChunkSize::Bytes(64 << 10),
        ..Options::default()
    }
}

pub fn registry(reference: &str, options: &Options) -> Destination {
    Destination::Registry(reference.parse().unwrap(), Box::new(options.clone()))
}

pub fn at(reference: &str, options: &Options) -> BundleLocation {
    BundleLocation::Registry(reference.parse().unwrap(), Box::new(options.clone()))
}

/// Pushes a bundle.
pub fn push(bundle: &Path, reference: &str, options: &Options) -> Result<CopyReport> {
    transfer(BundleLocation::path(bundle.into()), registry(reference, options), Form::Registry)
}

pub fn pull(reference: &str, options: &Options, to: &Path, form: Form) -> Result<CopyReport> {
    transfer(at(reference, options), Destination::Path(to.into()), form)
}

pub fn transfer(source: BundleLocation, destination: Destination, form: Form) -> Result<CopyReport> {
    copy(&CopyOptions {
        source,
        bases: Vec::new(),
        tag: None,
        destination,
        form,
        force: true,
        jobs: 3,
        progress: Arc::new(Silent),
    })
}

/// Pushes a snapshot straight from the store, with its ancestors.
pub fn push_snapshot(fixture: &Fixture, name: &str, reference: &str, options: &Options) -> Result<ExportReport> {
    export(&ExportOptions {
        snapshot: name.into(),
        destination: registry(reference, options),
        with_parents: true,
        with_image: true,
        ..fixture.export_options(Form::Registry, Path::new("unused"))
    })
}

pub fn import_from(reference: &str, options: &Options, store: &Path) -> Result<ImportReport> {
    import(&ImportOptions { sources: vec![at(reference, options)], ..import_options(Path::new("unused"), store) })
}

/// A chain of three as a layout directory.
pub fn chain_in_a_folder(fixture: &Fixture) -> (std::path::PathBuf, ExportReport) {
    let bundle = fixture.path("bundle");
    let options = ExportOptions { with_parents: true, with_image: true, ..fixture.export_options(Form::Dir, &bundle) };
    let report = export(&options).unwrap();
    (bundle, report)
}

//! A user without certificates, credentials and proxies, but for those that a test gives.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use crate::fixture::*;

const PROXIES: [&str; 8] =
    ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"];

/// A temporary home that others may look into, with an empty folder `none`.
pub fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    chmod(home.path(), 0o755);
    fs::create_dir(home.path().join("none")).unwrap();
    home
}

/// The command as that user runs it.
pub fn command_at(home: &Path, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    for name in PROXIES {
        command.env_remove(name);
    }
    command
        .current_dir(home)
        .env("HOME", home)
        .env("SSL_CERT_DIR", home.join("none"))
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env_remove("SSL_CERT_FILE")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_CACHE_HOME")
        .env_remove("DOCKER_CONFIG")
        .env_remove("REGISTRY_AUTH_FILE");
    command
}

/// Exactly this error, and this code.
#[track_caller]
pub fn says(output: &Output, code: i32, text: &str) {
    assert_eq!(fails(output, code), format!("snapcask: error: {text}\n"));
}

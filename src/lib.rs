//! snapcask: microVM snapshots as verified, content-addressed OCI bundles.
#![deny(missing_docs)]

pub mod digest;
pub mod error;
pub mod media_type;
pub mod model;
pub mod snapshot;
pub mod storage;
pub mod verify;

pub use digest::Digest;
pub use error::{Error, Result};

//! snapcask: microVM snapshots as verified, content-addressed OCI bundles.
//!
//! ```text
//! export:  store -> chain -> scan -> layer (tar segments, deltas, frames) -> layout (dir, tar, tar.zst)
//! import:  layout -> verify -> layer (decode, write at offsets) -> roots -> stage -> place in the store
//! ```
#![deny(missing_docs)]

pub mod bundle;
pub mod check_bundle;
pub mod digest;
pub mod error;
pub mod export;
pub mod import;
pub mod layer;
pub mod layout;
pub mod media_type;
pub mod model;
pub mod progress;
pub mod recorded;
pub mod report;
pub mod restore;
pub mod seek_table;
pub mod snapshot;
pub mod storage;
pub mod store;
pub mod verify;

pub use digest::Digest;
pub use error::{Error, Result};

//! snapcask: microVM snapshots as verified, content-addressed OCI bundles.
//!
//! ```text
//! export:  store -> chain -> scan -> layer (tar segments, deltas, frames) -> layout (dir, tar, tar.zst) or registry
//! copy:    layout or registry -> verify -> layout or registry, children first
//! import:  layout or registry -> verify -> layer (decode, write at offsets) -> roots -> stage -> place in the store
//! ```
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod ahead;
pub mod beneath;
pub mod buffers;
pub mod bundle;
mod cached;
pub mod check;
mod check_archive;
pub mod check_bundle;
pub mod composite;
pub mod convert;
pub mod copy;
pub mod deep;
pub mod destination;
pub mod digest;
pub mod error;
pub mod export;
mod fixed_folder;
pub mod head;
mod image_tags;
mod immutable;
pub mod import;
pub mod layer;
pub mod layer_cache;
pub mod layout;
pub mod media_type;
pub mod model;
pub mod msb_archive;
pub mod opened;
mod packed;
pub mod progress;
pub mod recorded;
pub mod reference;
pub mod registry;
pub mod remove;
mod rename;
mod repair;
pub mod report;
pub mod restore;
mod same;
pub mod seek_table;
pub mod settle;
pub mod since;
pub mod snapshot;
pub mod storage;
pub mod store;
pub mod sync;
pub mod temporary;
pub mod verify;
mod workers;
pub mod writeback;
pub mod zstd_input;

pub use digest::Digest;
pub use error::{Error, Result};

//! Layers: snapshot directories as tar streams in zstd frames, whole or over a parent. Bytes in, bytes out.
//!
//! ```text
//! analyze (pass 1: zero blocks, differences, roots) -> tar (the stream as a plan) -> encode (pass 2: frames in parallel)
//! decode (frames in parallel) -> walk (the closed tar grammar) -> files at offsets -> analyze again (roots)
//! ```

pub mod analyze;
pub mod clone;
pub mod decode;
pub mod encode;
pub mod extents;
pub mod frame;
pub mod merkle;
pub mod pick;
pub mod runs;
mod shared;
pub mod streamed;
pub mod tar;
pub mod walk;

/// The grain of holes and differences: what ext4, XFS and the page cache use.
pub const BLOCK: u64 = 4096;
/// Bytes of tar in one zstd frame. Measured on 530 MB of ext4 data at level 3: 153.0 MB against 152.3 MB as one frame.
pub const FRAME: usize = 4 << 20;
/// Files smaller than this are stored whole in a delta.
pub const DELTA_MIN: u64 = 64 << 10;

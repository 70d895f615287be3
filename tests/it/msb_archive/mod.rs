//! Archives that msb writes, read by `import`, `verify`, `inspect` and `convert`.

mod round_trip;
pub mod writer;

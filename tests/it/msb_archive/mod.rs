//! Archives that msb writes, read by `import`, `verify`, `inspect` and `convert`.

mod complete;
mod convert;
mod damage;
mod round_trip;
pub mod writer;

//! All integration tests, one binary. `fixture` makes stores; every other module is a kind of promise.

mod cli;
mod conflicts;
mod corruption;
mod dependency_rule;
mod errors;
mod fixture;
mod interop;
mod layout_checks;
mod property;
mod round_trip;

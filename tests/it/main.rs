//! The integration tests: one binary, one module per promise.

mod archives;
mod cli;
mod conflicts;
mod corruption;
mod dependency_rule;
mod errors;
mod fixture;
mod golden;
mod interop;
mod layout_checks;
mod property;
mod round_trip;
mod types_contract;

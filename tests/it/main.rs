//! The integration tests: one binary, one module per promise.

mod archives;
mod check;
mod check_groups;
mod cli;
mod conflicts;
mod corruption;
mod damage;
mod deep;
mod dependency_rule;
#[cfg(target_arch = "x86_64")]
mod durability;
mod errors;
#[cfg(target_arch = "x86_64")]
mod failing_disk;
mod filesystems;
#[cfg(target_arch = "x86_64")]
mod fixed_folders;
mod fixture;
mod full_snapshot;
mod golden;
mod groups;
mod hardening;
mod head;
mod image_tags;
mod index;
mod interop;
mod layout_checks;
mod layouts;
#[cfg(target_arch = "x86_64")]
mod lies;
mod limits;
mod msb;
mod msb_archive;
mod onto;
mod property;
mod reflink;
mod registry;
mod remove;
mod remove_groups;
mod round_trip;
mod security_doc;
mod signals;
mod since;
mod sync;
mod tally;
#[cfg(target_arch = "x86_64")]
#[path = "../reliability/trace.rs"]
#[allow(dead_code, reason = "shared with the scoreboard, which uses all of it")]
mod trace;
mod truth;
mod types_contract;

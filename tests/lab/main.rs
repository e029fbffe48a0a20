//! Tests on real machines. First those of the lab itself; each other file tests a behaviour.
//!
//! Run with `make lab`, as root. Not part of a plain `cargo test`.

mod aging;
mod bucket;
mod builds;
mod confined;
mod doctor;
mod far;
mod field;
mod flood;
mod itself;
mod kills;
mod ledger;
mod lifecycle;
mod machines;
mod operator;
mod outages;
mod packages;
mod process;
mod readme;
mod releases;
mod restricted;
mod resume;
#[path = "../buckets/servers.rs"]
mod s3;
#[path = "../databases/servers.rs"]
mod servers;
mod sync;
mod sync_faults;
mod sync_kills;
mod transfer;
mod upgrade;
mod usage;
mod waiting;

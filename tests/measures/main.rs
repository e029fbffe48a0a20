//! Measurements that need no machine: listing a large archive, and making its index, beside `find`; planning
//! a large target; telling the state of many; the
//! memory that a large package takes; filling a bucket beside `zip`, `s5cmd` and `aws`.
//!
//! Run with `make bench`, which builds the helper first. Prints lines as the lab's bench does:
//! `name ours peer ratio`; the bounds that were promised are asserted.

mod bucket;
mod index;
mod listing;
#[path = "../loopback/mod.rs"]
mod loopback;
#[path = "../lab/machines/mod.rs"]
mod machines;
mod memory;
mod planner;
#[path = "../lab/process.rs"]
mod process;
#[path = "../buckets/servers.rs"]
mod servers;
mod status;
mod table;

use table::line;

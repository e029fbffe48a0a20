//! The lab: real machines for tests and for the demo.
//!
//! A [`Lab`] is a private world: a switch in a network namespace of its own, and machines that boot
//! systemd as their PID 1 (`systemd-nspawn` on an overlay over one root image). Nothing of it shows
//! on the host: mounts and interfaces live in namespaces that die with the test, and all processes
//! sit in one cgroup that a guard empties when the test ends, panics or is killed.
//!
//! The functions that tests call panic with a sentence; those below them return `anyhow::Result`.
//!
//! Used by `tests/lab/main.rs` and, through `#[path]`, by the demo.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "shared by several crates, none of which uses all of it"
)]

mod cgroup;
mod guard;
mod hardware;
mod image;
mod install;
mod machine;
mod namespace;
mod network;
mod real_archive;
mod slow_link;
mod ssh;
mod tap;
mod visit;
mod world;

pub use hardware::Options;
pub use image::{TRANSFER_USER, root as image_root};
pub use install::{
    build_packages, build_rpms, built, install, install_deb, install_target, make, put_deb, put_file,
};
pub use machine::Machine;
pub use namespace::own_mounts;
pub use network::LAB_ADDR;
pub use real_archive::real_archive;
pub use slow_link::{Link, Rate};
pub use ssh::{KNOWN_HOSTS, accept_key, authorize, key_path, trust_host};
pub use visit::Person;
pub use world::Lab;

use std::time::{Duration, Instant};

const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Waits until `condition` holds, asking every 20 ms at first; panics when `limit` has passed. A condition
/// that holds for less than 200 ms may be missed.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        let waited = begin.elapsed();
        assert!(waited < limit, "after {limit:?} still not so: {what}");
        // To look often at what takes long costs the machines more than it tells.
        std::thread::sleep((waited / 16).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}

/// The checkout that the tests were built from.
pub fn checkout() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the lab keeps what it builds and what it runs.
pub fn lab_dir() -> std::path::PathBuf {
    checkout().join("build/lab")
}

//! The planner at a million package-versions, all of which it must look at: a fill, and a target
//! that has everything.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use blat::archive::Found;
use blat::sync::current_set::CurrentSet;
use blat::sync::plan::{Plan, Policy};
use blat::sync::rows::{Reason, Rows};
use blat_target::listing::{Entry, Listing, Stands};
use blat_target::stamp::Stamp;

use crate::line;

const COUNT: usize = 1_000_000;
const VERSIONS: usize = 40;
const STAMP: Stamp = Stamp(1_700_000_000);
const SECONDS_MAX: f64 = 2.0;
const MIB_MAX: f64 = 500.0;

#[test]
fn a_million_package_versions_are_planned_in_two_seconds_and_500_mib() {
    for (name, listing) in [("a fill", Listing::default()), ("nothing to send", all())] {
        forget_peak();
        let begin = Instant::now();
        let set = CurrentSet::gather(rows(), |_| Ok(version())).expect("room for the names");
        let policy = Policy { grace: Duration::from_secs(3600) };
        let plan = Plan::make(&set, &listing, policy, SystemTime::now());
        let (seconds, peak) = (begin.elapsed().as_secs_f64(), peak_mib());
        assert_eq!(plan.sends.len(), COUNT - listing.len());
        line(&format!("planning 1,000,000, {name}, s (2 s)"), seconds, SECONDS_MAX);
        line(&format!("planning 1,000,000, {name}, MiB (500 MiB)"), peak, MIB_MAX);
        assert!(seconds <= SECONDS_MAX && peak <= MIB_MAX);
    }
}

fn names() -> impl Iterator<Item = (String, String)> {
    (0..COUNT).map(|at| (format!("package{:05}", at / VERSIONS), format!("1.{:02}.0", at % VERSIONS)))
}

fn rows() -> Rows {
    let mut rows = Rows::default();
    names().for_each(|(package, version)| {
        rows.add(&package, &version, Reason::Release(0)).expect("good names");
    });
    rows
}

fn all() -> Listing {
    let mut listing = Listing::default();
    names().for_each(|(package, version)| {
        let entry = Entry { package: &package, version: &version, stands: Stands::Version(STAMP) };
        listing.push(entry).expect("in order");
    });
    listing
}

fn version() -> Found {
    Found::Version { stamp: STAMP, writable_since: None }
}

fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").expect("the kernel lets the peak be set back");
}

fn peak_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1024.0
}

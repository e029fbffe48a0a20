//! From a tag to a visible package, one small package at a time, each by a run of its own:
//! the quickest that a publisher can be served when nothing else goes on.

use std::time::{Duration, Instant};

use crate::field::{Field, SOURCE};
use crate::line;
use crate::machines::{KNOWN_HOSTS, Machine, Rate, TRANSFER_USER, key_path};

const TAGS: usize = 100;
const PEERS: usize = 20;

pub(crate) fn measure() {
    let field = Field::with_target("latency");
    // The first transfer brings the helper; warm means after it.
    transfer(&field, "warm", "0");
    compare(&field, "tag to visible, fast link, ms", "fast");
    let link = field.lab.link(&field.master, &field.site, Rate::mbit(100), Duration::from_millis(50));
    transfer(&field, "warm", "1");
    compare(&field, "tag to visible, 50 ms round trip, ms", "slow");
    drop(link);
}

/// Beside so many others, which have nothing to do.
pub(crate) fn measure_beside(field: &Field, targets: usize) {
    transfer(field, "warm", "2");
    compare(field, &format!("tag to visible, one of {targets} targets, ms"), "beside");
}

fn compare(field: &Field, name: &str, package: &str) {
    let mut ours = Vec::new();
    let mut peers = Vec::new();
    for number in 0..TAGS {
        ours.push(transfer(field, package, &number.to_string()));
        if number % (TAGS / PEERS) == 0 {
            peers.push(rsync(field, package, &number.to_string()));
        }
    }
    let (ours, peers) = (Spread::of(ours), Spread::of(peers));
    line(&format!("{name} (median)"), ours.median, peers.median);
    line(&format!("{name} (worst)"), ours.worst, peers.worst);
    for (part, spread) in parts(&field.master, package) {
        println!("  {part:<42} {:>12.1} {:>20.1} (median, worst)", spread.median, spread.worst);
    }
}

/// Publishes, tags, and waits until the package is visible: that long, in milliseconds.
fn transfer(field: &Field, package: &str, version: &str) -> f64 {
    field.publish(package, version);
    let place = field.archive("site1").join(package).join(version);
    let begin = Instant::now();
    field.tag("site1", package, version);
    while std::fs::symlink_metadata(&place).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{package}/{version} does not arrive");
        std::thread::sleep(Duration::from_micros(500));
    }
    let took = begin.elapsed().as_secs_f64() * 1e3;
    // The next one shall need a run of its own.
    field.wait_no_tags("site1", Duration::from_secs(20));
    field.wait_idle("site1");
    took
}

/// What a script would do for the same: one rsync over a fresh ssh.
fn rsync(field: &Field, package: &str, version: &str) -> f64 {
    let ssh = format!("ssh -i {} -o UserKnownHostsFile={KNOWN_HOSTS} -l {TRANSFER_USER}", key_path("site1"));
    let id = format!("{package}/{version}");
    field.site.as_user(TRANSFER_USER, &format!("mkdir -p peer/{package}"));
    let begin = Instant::now();
    field.master.sh(&format!("rsync -a -e '{ssh}' {SOURCE}/{id}/ site1:peer/{id}/"));
    begin.elapsed().as_secs_f64() * 1e3
}

/// Of values of which the largest is the worst.
pub(crate) struct Spread {
    pub(crate) median: f64,
    worst: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], worst: values[values.len() - 1] }
    }
}

/// The steps that blat itself tells of, in milliseconds, from the journal's fields.
fn parts(master: &Machine, package: &str) -> Vec<(&'static str, Spread)> {
    let filter = format!("BLAT_PACKAGE={package}");
    ["trigger", "claim", "attach", "send", "commit"]
        .into_iter()
        .map(|part| {
            let name = format!("BLAT_USEC_{}", part.to_uppercase());
            let text = master.journal(&["-o", "cat", "--output-fields", &name, &filter]);
            let values = text.lines().filter_map(|value| value.parse::<f64>().ok()).map(|value| value / 1e3);
            (part, Spread::of(values.collect()))
        })
        .collect()
}

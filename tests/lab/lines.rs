//! What `blat sync` makes of one large file, and of a line with a long way.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use crate::field::{Field, REAL_SOURCE, SOURCE, real_packages, seal};
use crate::fill::{QUICK, Took, measured, release, sides, sync};
use crate::line;
use crate::machines::{KNOWN_HOSTS, Link, Rate, TRANSFER_USER, key_path};

const LONG: (Rate, Duration) = (Rate::mbit(10), Duration::from_millis(200));
/// To the other side of the world, by a good line: one connection carries a third of it.
const FAR: (Rate, Duration) = (Rate::mbit(500), Duration::from_millis(100));
const FOR_LARGE: &str = "site1";
const FOR_ALL: &str = "site2";
const TARGETS: [&str; 2] = [FOR_LARGE, FOR_ALL];
/// The size of the large file, noise that nobody can make smaller,
const LARGE: usize = 2000 << 20;
/// and of one that goes far.
const LARGE_FAR: usize = 600 << 20;

pub(crate) fn measure() {
    let field = Field::new("lines");
    publish_large(&field, LARGE);
    let all = real_packages(usize::MAX);
    let large = [("large".to_owned(), "1.0".to_owned())];
    let releases = release("All", &all) + &release("Large", &large);
    field.master.write("/root/releases", releases, 0o644);
    field.master.sh("blat release import /root/releases");
    field.add_target(FOR_LARGE, SOURCE, "projects = [\"Large\"]\n");
    field.add_target(FOR_ALL, REAL_SOURCE, "projects = [\"All\"]\n");
    TARGETS.iter().for_each(|target| field.wait_connected(target));
    // Brings the helper; and all that is to be sent is in the master's memory.
    let read = format!("find {REAL_SOURCE} {SOURCE} -type f -exec cat {{}} + >/dev/null");
    field.master.sh(&format!("blat sync --dry-run {FOR_ALL}; {read}"));
    let link = field.lay_line(QUICK, &TARGETS);
    field.stop_timers();
    one_large(&field, &link);
    drop(link);
    let link = field.lay_line(LONG, &TARGETS);
    field.stop_timers();
    long(&field, &link);
}

/// One large file over a line that the window of one connection cannot fill.
pub(crate) fn measure_far() {
    let field = Field::new("far");
    publish_large(&field, LARGE_FAR);
    field.master.write("/root/releases", release("Large", &[("large".into(), "1.0".into())]), 0o644);
    field.master.sh("blat release import /root/releases");
    field.add_target(FOR_LARGE, SOURCE, "projects = [\"Large\"]\n");
    field.wait_connected(FOR_LARGE);
    field.master.sh(&format!("blat sync --dry-run {FOR_LARGE}"));
    let link = field.lay_line(FAR, &[FOR_LARGE]);
    field.stop_timers();
    let peer = cat(&field, &link);
    let ours = sync(&field, FOR_LARGE, Some(&link));
    line("one file of 600 MB, 500 Mbit/s 100 ms, s (ssh cat)", ours.seconds, peer.seconds);
    line("  Mbit/s on the line", mbit_per_second(&ours), mbit_per_second(&peer));
    sides(&ours, &peer);
}

/// The large file, by nothing but a shell and `cat`.
fn cat(field: &Field, link: &Link) -> Took {
    let ssh =
        format!("ssh -i {} -o UserKnownHostsFile={KNOWN_HOSTS} -l {TRANSFER_USER}", key_path(FOR_LARGE));
    measured(field, Some(link), ["ssh", "cat"], &["cat", "sshd", "sshd-session"], || {
        field.master.sh(&format!("{ssh} {FOR_LARGE} 'cat > large' < {SOURCE}/large/1.0/content"));
    })
}

fn one_large(field: &Field, link: &Link) {
    let peer = cat(field, link);
    let ours = sync(field, FOR_LARGE, Some(link));
    line("one file of 2 GB, 1 Gbit/s, s (ssh cat)", ours.seconds, peer.seconds);
    line("  Mbit/s on the line", mbit_per_second(&ours), mbit_per_second(&peer));
    sides(&ours, &peer);
}

fn long(field: &Field, link: &Link) {
    let ours = sync(field, FOR_ALL, Some(link));
    let used = mbit_per_second(&ours) * 1e6 / LONG.0.bits_per_second() as f64;
    line("first fill, 10 Mbit/s 200 ms, part of the line used (0.9)", used, 0.9);
}

/// Both ways.
fn mbit_per_second(took: &Took) -> f64 {
    took.wire_bytes * 8.0 / 1e6 / took.seconds
}

fn publish_large(field: &Field, size: usize) {
    let folder = field.publish_open("large", "1.0", &[]);
    let mut file = File::create(folder.join("content")).expect("a file");
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut piece = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        noise.fill(&mut piece);
        file.write_all(&piece).expect("room for it");
    }
    seal(&folder);
}

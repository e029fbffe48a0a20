//! What `blat sync` makes of a line: a quick one, one with a long way, and of one large file.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use crate::field::{Field, REAL_SOURCE, SOURCE, real_packages, seal};
use crate::fill::{Took, ZSTD, measured, reconnect, release, rsync, sides, sync};
use crate::line;
use crate::machines::{KNOWN_HOSTS, Link, Rate, TRANSFER_USER, key_path};

const QUICK: (Rate, Duration) = (Rate::mbit(1000), Duration::from_micros(200));
const LONG: (Rate, Duration) = (Rate::mbit(10), Duration::from_millis(200));
const TARGETS: [&str; 3] = ["site1", "site2", "site3"];
/// The size of the large file, noise that nobody can make smaller.
const LARGE: usize = 2000 << 20;

pub(crate) fn measure() {
    let field = Field::new("lines");
    publish_large(&field);
    let all = real_packages(usize::MAX);
    let large = [("large".to_owned(), "1.0".to_owned())];
    let releases = release("All", &all) + &release("Large", &large);
    field.master.write("/root/releases", releases, 0o644);
    field.master.sh("blat release import /root/releases");
    field.add_target("site1", REAL_SOURCE, "projects = [\"All\"]\n");
    field.add_target("site2", SOURCE, "projects = [\"Large\"]\n");
    field.add_target("site3", REAL_SOURCE, "projects = [\"All\"]\n");
    TARGETS.iter().for_each(|target| field.wait_connected(target));
    // Brings the helper; and all that is to be sent is in the master's memory.
    let read = format!("find {REAL_SOURCE} {SOURCE} -type f -exec cat {{}} + >/dev/null");
    field.master.sh(&format!("blat sync --dry-run site1; {read}"));
    let link = field.lab.link(&field.master, &field.site, QUICK.0, QUICK.1);
    reconnect(&field, &TARGETS);
    quick(&field, &link);
    one_large(&field, &link);
    drop(link);
    let link = field.lab.link(&field.master, &field.site, LONG.0, LONG.1);
    reconnect(&field, &TARGETS);
    long(&field, &link);
}

fn quick(field: &Field, link: &Link) {
    let peer = rsync(field, ZSTD, "quick", Some(link));
    let ours = sync(field, "site1", Some(link));
    line("first fill, 1 Gbit/s 0.2 ms, s (rsync -az, zstd)", ours.seconds, peer.seconds);
    sides(&ours, &peer);
}

/// Against nothing but a shell and `cat`.
fn one_large(field: &Field, link: &Link) {
    let ssh = format!("ssh -i {} -o UserKnownHostsFile={KNOWN_HOSTS} -l {TRANSFER_USER}", key_path("site1"));
    let peer = measured(field, Some(link), ["ssh", "cat"], &["cat", "sshd", "sshd-session"], || {
        field.master.sh(&format!("{ssh} site1 'cat > large' < {SOURCE}/large/1.0/content"));
    });
    let ours = sync(field, "site2", Some(link));
    line("one file of 2 GB, 1 Gbit/s, s (ssh cat)", ours.seconds, peer.seconds);
    line("  Mbit/s on the line", mbit_per_second(&ours), mbit_per_second(&peer));
    sides(&ours, &peer);
}

fn long(field: &Field, link: &Link) {
    let ours = sync(field, "site3", Some(link));
    let used = mbit_per_second(&ours) * 1e6 / LONG.0.bits_per_second() as f64;
    line("first fill, 10 Mbit/s 200 ms, part of the line used (0.9)", used, 0.9);
}

/// Both ways.
fn mbit_per_second(took: &Took) -> f64 {
    took.wire_bytes * 8.0 / 1e6 / took.seconds
}

fn publish_large(field: &Field) {
    let folder = field.publish_open("large", "1.0", &[]);
    let mut file = File::create(folder.join("content")).expect("a file");
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut piece = vec![0; 1 << 20];
    for _ in 0..LARGE >> 20 {
        noise.fill(&mut piece);
        file.write_all(&piece).expect("room for it");
    }
    seal(&folder);
}

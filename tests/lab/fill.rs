//! A target that has nothing yet is filled: `blat sync` and rsync bring the same tree over the same
//! line in one run, each to a folder of its own.
//!
//! Nothing is deleted in between: ext4 steps around each inode that was deleted in the last minutes
//! when it looks for a free one, and a fill after a large deletion takes several times as long.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::builds::Dice;
use crate::field::{Field, REAL_SOURCE, SOURCE, real_packages, seal};
use crate::latency::Spread;
use crate::line;
use crate::machines::{KNOWN_HOSTS, Link, Rate, TRANSFER_USER, key_path};
use crate::usage::Watch;
use crate::wheels;

/// A gigabit, in the same house.
pub(crate) const QUICK: (Rate, Duration) = (Rate::mbit(1000), Duration::from_micros(200));
/// 100 Mbit/s and 50 ms,
pub(crate) const SLOW: (Rate, Duration) = (Rate::mbit(100), Duration::from_millis(50));
/// and what that line is to machines that are twice as fast: all takes twice as long on these.
const HALF: (Rate, Duration) = (Rate::mbit(50), Duration::from_millis(100));
/// What the slow line loses where its packets are lost on the way, of a million.
const LOST: u32 = 500;
/// So many fills are measured of each kind, each of another target: they differ more than what is promised of
/// them leaves room for, so that is promised of the one in the middle.
const FILLS: usize = 9;
/// Where nothing is promised, so many.
const FILLS_FAST: usize = 3;
/// Gets the small packages.
const SMALL_TARGET: &str = "small";
const SMALL_PACKAGES: usize = 1000;
/// The bytes of a small package beside its `descpkg`: noise, which nobody can make smaller.
const SMALL_BYTES: usize = 8 << 10;
pub(crate) const ZSTD: &str = "-z --compress-choice=zstd";

/// What a fill took.
pub(crate) struct Took {
    pub(crate) seconds: f64,
    /// Both ways, where the line counts them.
    pub(crate) wire_bytes: f64,
    pub(crate) master_cpu: f64,
    pub(crate) master_peak: f64,
    pub(crate) site_cpu: f64,
    pub(crate) site_peak: f64,
}

/// An archive as builds make one: several versions of each package.
pub(crate) fn measure_versions() {
    versions("several versions of each, 100 Mbit/s 50 ms", SLOW, Some(0.6));
}

pub(crate) fn measure_versions_quick() {
    versions("several versions of each, 1 Gbit/s 0.2 ms", QUICK, Some(0.7));
}

fn versions(name: &str, line: (Rate, Duration), promised: Option<f64>) {
    let field = Field::new("versions");
    let ids = publish_wheels(&field);
    field.master.write("/root/releases", release("Wheels", &ids), 0o644);
    field.master.sh("blat release import /root/releases");
    let targets: Vec<String> = (1..=FILLS_FAST).map(|number| format!("site{number}")).collect();
    for target in &targets {
        field.add_target(target, SOURCE, "projects = [\"Wheels\"]\n");
    }
    targets.iter().for_each(|target| field.wait_connected(target));
    // Brings the helper; and all that is to be sent is in the master's memory.
    field.master.sh(&format!("blat sync --dry-run site1; find {SOURCE} -type f -exec cat {{}} + >/dev/null"));
    let link = laid(&field, &targets, line);
    fills(&field, SOURCE, &targets, &link, name, promised);
    field.assert_equal(&targets[0], SOURCE, &ids);
}

/// Publishes four versions of each of many projects.
fn publish_wheels(field: &Field) -> Vec<(String, String)> {
    let mut ids = Vec::new();
    for (package, versions) in wheels::projects() {
        ids.extend(versions.iter().map(|version| (package.to_owned(), (*version).to_owned())));
    }
    for nth in 0..4 {
        let column: Vec<_> = wheels::projects().map(|(package, versions)| (package, versions[nth])).collect();
        wheels::fetch(&column);
    }
    for (package, version) in &ids {
        let folder = field.source().join(package).join(version);
        fs::create_dir_all(folder.parent().expect("a package")).expect("a folder");
        wheels::run(Command::new("cp").arg("-a").arg(wheels::wheel(package, version)).arg(&folder));
        fs::write(folder.join("descpkg"), format!("{package} {version}\n")).expect("a file");
        seal(&folder);
    }
    ids
}

/// The lab's switch: nothing but the machines' own speed counts.
pub(crate) fn measure_fast() {
    let (field, targets, _) = with_targets(FILLS_FAST);
    for target in &targets {
        let plain = rsync(&field, REAL_SOURCE, "", &format!("plain-{target}"), None);
        let (ours, packed) = both(&field, REAL_SOURCE, target, None);
        line("first fill, fast link, s (rsync -a)", ours.seconds, plain.seconds);
        line("first fill, fast link, s (rsync -az, zstd)", ours.seconds, packed.seconds);
        sides(&ours, &packed);
    }
}

/// A line of 1 Gbit/s and 0.2 ms.
pub(crate) fn measure_quick() {
    let (field, targets, _) = with_targets(FILLS);
    let link = laid(&field, &with_small(&targets), QUICK);
    fills(&field, REAL_SOURCE, &targets, &link, "1 Gbit/s 0.2 ms", Some(0.7));
}

/// A line of 100 Mbit/s and 50 ms.
pub(crate) fn measure() {
    let (field, targets, small) = with_targets(FILLS);
    let link = laid(&field, &with_small(&targets), SLOW);
    fills(&field, REAL_SOURCE, &targets, &link, "100 Mbit/s 50 ms", Some(0.6));
    repeat(&field, &targets[0], &link);
    small_ones(&field, &link, small);
}

/// A line of 50 Mbit/s and 100 ms.
pub(crate) fn measure_half() {
    let (field, targets, _) = with_targets(FILLS);
    let link = laid(&field, &with_small(&targets), HALF);
    fills(&field, REAL_SOURCE, &targets, &link, "50 Mbit/s 100 ms", None);
}

/// A line of 100 Mbit/s and 50 ms that loses one packet of 2000.
pub(crate) fn measure_lossy() {
    let (field, targets, _) = with_targets(FILLS_FAST);
    let link = laid(&field, &with_small(&targets), SLOW);
    link.lose(LOST);
    fills(&field, REAL_SOURCE, &targets, &link, "100 Mbit/s 50 ms, 0.05 % lost", None);
}

/// All targets of a field.
fn with_small(targets: &[String]) -> Vec<&str> {
    targets.iter().map(String::as_str).chain([SMALL_TARGET]).collect()
}

fn laid(field: &Field, targets: &[impl AsRef<str>], line: (Rate, Duration)) -> Link {
    let link = field.lay_line(line, targets);
    field.stop_timers();
    link
}

/// So many targets that need all real packages, and one that needs small ones; how many of those there are.
fn with_targets(count: usize) -> (Field, Vec<String>, usize) {
    let field = Field::new("fill");
    let real = real_packages(usize::MAX);
    let small = publish_small(&field);
    field.master.write("/root/releases", release("Real", &real) + &release("Small", &small), 0o644);
    field.master.sh("blat release import /root/releases");
    let targets: Vec<String> = (1..=count).map(|number| format!("site{number}")).collect();
    for target in &targets {
        field.add_target(target, REAL_SOURCE, "projects = [\"Real\"]\n");
    }
    field.add_target(SMALL_TARGET, SOURCE, "projects = [\"Small\"]\n");
    targets.iter().for_each(|target| field.wait_connected(target));
    field.wait_connected(SMALL_TARGET);
    field.stop_timers();
    // Brings the helper; and all that is to be sent is in the master's memory.
    field.master.sh(&format!(
        "blat sync --dry-run site1; find {REAL_SOURCE} {SOURCE} -type f -exec cat {{}} + >/dev/null"
    ));
    (field, targets, small.len())
}

/// A release of these, as a file says it.
pub(crate) fn release(name: &str, ids: &[(String, String)]) -> String {
    let ids = ids.iter().fold(String::new(), |mut text, (package, version)| {
        let _ = writeln!(text, "{package} {version}");
        text
    });
    format!("[{name}/all] N\n{ids}")
}

/// Fills all targets over a line of this name; the ratio to rsync's time of the one in the middle, beside that
/// which is promised of it.
fn fills(field: &Field, source: &str, targets: &[String], link: &Link, name: &str, promised: Option<f64>) {
    let (mut ratios, mut widened) = (Vec::new(), 0);
    for target in targets {
        assert_eq!(standing(field, target), 0, "{target} was filled before");
        let (ours, peer) = both(field, source, target, Some(link));
        line(&format!("first fill, {name}, s (rsync -az, zstd)"), ours.seconds, peer.seconds);
        line(&format!("first fill, {name}, MB on the wire"), ours.wire_bytes / 1e6, peer.wire_bytes / 1e6);
        sides(&ours, &peer);
        ratios.push(ours.seconds / peer.seconds);
        widened += field.widened(target);
    }
    println!("  fills that went over several connections: {widened} of {}", targets.len());
    let median = Spread::of(ratios).median;
    match promised {
        Some(promised) => line(&format!("  the median of their ratios ({promised})"), median, promised),
        None => println!("  the median of their ratios: {median:.2}"),
    }
}

/// The target has everything: what it costs to find that out.
fn repeat(field: &Field, target: &str, link: &Link) {
    let (ours, peer) = both(field, REAL_SOURCE, target, Some(link));
    line("nothing to send, 100 Mbit/s 50 ms, s", ours.seconds, peer.seconds);
    line("nothing to send, kB on the wire", ours.wire_bytes / 1e3, peer.wire_bytes / 1e3);
}

/// Many small packages cost their bytes and a few round trips.
fn small_ones(field: &Field, link: &Link, count: usize) {
    assert_eq!(standing(field, SMALL_TARGET), 0, "they were brought before");
    let ours = sync(field, SMALL_TARGET, Some(link));
    let arrived = fs::read_dir(field.archive(SMALL_TARGET).join("small")).expect("an archive").count();
    assert_eq!(arrived, count);
    let bytes: u64 = size_of(&field.source().join("small"));
    let allowed = 1.5 * bytes as f64 * 8.0 / SLOW.0.bits_per_second() as f64 + 1.0;
    line("1,000 small packages, s (1.5 x line time + 1)", ours.seconds, allowed);
}

/// How many packages stand in a target's archive.
fn standing(field: &Field, target: &str) -> usize {
    let items = fs::read_dir(field.archive(target)).expect("an archive").flatten();
    items.filter(|item| !item.file_name().as_encoded_bytes().starts_with(b".")).count()
}

fn publish_small(field: &Field) -> Vec<(String, String)> {
    let mut dice = Dice::new();
    let mut publish = |number: usize| {
        let (package, version) = ("small".to_owned(), format!("1.{number}"));
        let folder = field.publish_open(&package, &version, &[("bin/tool", "#!/bin/sh\n")]);
        fs::write(folder.join("content"), dice.noise(SMALL_BYTES)).expect("a file");
        seal(&folder);
        (package, version)
    };
    (0..SMALL_PACKAGES).map(&mut publish).collect()
}

/// What blat took for a target, and rsync with zstd for the same, which goes first.
fn both(field: &Field, source: &str, target: &str, link: Option<&Link>) -> (Took, Took) {
    let peer = rsync(field, source, ZSTD, &format!("packed-{target}"), link);
    (sync(field, target, link), peer)
}

/// Runs `blat-sync@TARGET` to its end.
pub(crate) fn sync(field: &Field, target: &str, link: Option<&Link>) -> Took {
    forget_arrived(field);
    let took = measured(field, link, ["blat", "ssh"], &["blat-target", "sshd", "sshd-session"], || {
        field.master.sh(&format!("systemctl start blat-sync@{target}"));
    });
    // A failure of which the agent takes care is none for systemd.
    let status = field.master.sh(&format!("systemctl show -P ExecMainStatus blat-sync@{target}"));
    assert_eq!(status.trim(), "0", "the synchronisation of {target} failed");
    took
}

/// Copies an archive to a folder in the home of the site's transfer user.
pub(crate) fn rsync(field: &Field, source: &str, options: &str, folder: &str, link: Option<&Link>) -> Took {
    forget_arrived(field);
    let ssh = format!("ssh -i {} -o UserKnownHostsFile={KNOWN_HOSTS} -l {TRANSFER_USER}", key_path("site1"));
    measured(field, link, ["rsync", "ssh"], &["rsync", "sshd", "sshd-session"], || {
        field.master.sh(&format!("rsync -a {options} -e '{ssh}' {source}/ site1:{folder}/"));
    })
}

pub(crate) fn measured(
    field: &Field,
    link: Option<&Link>,
    on_master: [&str; 2],
    on_site: &[&str],
    work: impl FnOnce(),
) -> Took {
    nix::unistd::sync();
    let (master, site) = (Watch::start(&field.master), Watch::start(&field.site));
    let (begin, wire_before) = (Instant::now(), wire(link));
    work();
    let (seconds, wire_bytes) = (begin.elapsed().as_secs_f64(), wire(link) - wire_before);
    let (master_cpu, master_peak) = master.end().of(&on_master);
    let (site_cpu, site_peak) = site.end().of(on_site);
    Took { seconds, wire_bytes, master_cpu, master_peak, site_cpu, site_peak }
}

/// Has the kernel forget what files on the site hold, which nobody reads any more. What comes next then gets
/// the same memory again: a virtual machine is given new memory page by page, which takes several times as
/// long as to write a file.
fn forget_arrived(field: &Field) {
    nix::unistd::sync();
    let home = fs::read_dir(field.site.file(&format!("/home/{TRANSFER_USER}"))).expect("a home");
    // Its programs are needed.
    let arrived = home.flatten().filter(|item| item.file_name() != "bin");
    arrived.for_each(|item| forget(&item.path()));
}

fn forget(folder: &Path) {
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = item.file_type() else { continue };
        if kind.is_dir() {
            forget(&item.path());
        } else if kind.is_file()
            && let Ok(file) = File::open(item.path())
        {
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }
}

pub(crate) fn sides(ours: &Took, peer: &Took) {
    line("  CPU of the master, s", ours.master_cpu, peer.master_cpu);
    line("  CPU of the site, s", ours.site_cpu, peer.site_cpu);
    line("  most memory on the master, MiB", ours.master_peak, peer.master_peak);
    line("  most memory on the site, MiB", ours.site_peak, peer.site_peak);
}

fn wire(link: Option<&Link>) -> f64 {
    link.map_or(0.0, |link| {
        let (there, back) = link.bytes();
        (there + back) as f64
    })
}

fn size_of(folder: &Path) -> u64 {
    let items = fs::read_dir(folder).expect("a readable folder").flatten();
    items
        .map(|item| match item.file_type().expect("a kind").is_dir() {
            true => size_of(&item.path()),
            false => item.metadata().expect("a file").len(),
        })
        .sum()
}

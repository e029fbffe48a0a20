//! The next version of a package that the target has: blat, rsync and tar bring the same trees over
//! the same line in one run. The packages are real ones, by name and version: wheels from PyPI, by
//! pip, and crates, by cargo.
//!
//! rsync gets the version before as `--copy-dest` and `--checksum`, for by size and second alone it
//! takes some files for what they are not.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::field::{Field, SOURCE, seal};
use crate::fill::{SLOW, Took, measured};
use crate::line;
use crate::machines::{KNOWN_HOSTS, Link, TRANSFER_USER, key_path, lab_dir};
use crate::wheels::{run, wheel};

/// What is measured, and where it comes from. `BLAT_PAIRS="PACKAGE OLD NEW, …"` measures other
/// wheels instead.
const PAIRS: [(Registry, &str, &str, &str); 9] = [
    (Registry::Crates, "tokio", "1.40.0", "1.41.0"),
    (Registry::Crates, "aws-sdk-s3", "1.156.0", "1.157.0"),
    (Registry::Wheels, "numpy", "2.1.2", "2.1.3"),
    (Registry::Wheels, "numpy", "2.2.5", "2.2.6"),
    (Registry::Wheels, "scipy", "1.15.2", "1.15.3"),
    (Registry::Wheels, "ruff", "0.8.0", "0.8.1"),
    (Registry::Wheels, "sympy", "1.13.2", "1.13.3"),
    (Registry::Wheels, "pillow", "11.0.0", "11.1.0"),
    (Registry::Wheels, "cryptography", "43.0.1", "43.0.3"),
];

#[derive(Clone, Copy)]
enum Registry {
    Crates,
    Wheels,
}

struct Pair {
    registry: Registry,
    package: String,
    old: String,
    new: String,
}

pub(crate) fn measure() {
    let pairs = pairs();
    let field = Field::with_target("deltas");
    for pair in &pairs {
        publish(&field, pair, &pair.old);
        publish(&field, pair, &pair.new);
        field.tag("site1", &pair.package, &pair.old);
        field.wait_for("site1", &pair.package, &pair.old, Duration::from_secs(120));
        let (archive, id) = ("dpkg_archive", format!("{}/{}", pair.package, pair.old));
        let copies = ["plain", "based"].map(|peer| {
            let folder = format!("{peer}/{}", pair.package);
            format!("mkdir -p {folder}")
        });
        let script = format!("{}; cp -a {archive}/{id} based/{}/", copies.join("; "), pair.package);
        field.site.as_user(TRANSFER_USER, &script);
    }
    field.wait_no_tags("site1", Duration::from_secs(120));
    field.wait_idle("site1");
    let link = field.lay_line(SLOW, &["site1"]);
    let mut sums = [(0.0, 0.0); 2];
    for pair in &pairs {
        let (ours, better) = compare(&field, pair, &link);
        sums[0] = (sums[0].0 + ours.wire_bytes, sums[0].1 + better.wire_bytes);
        sums[1] = (sums[1].0 + ours.seconds, sums[1].1 + better.seconds);
    }
    line("next versions, 100 Mbit/s 50 ms, all: kB on the wire", sums[0].0 / 1e3, sums[0].1 / 1e3);
    line("next versions, 100 Mbit/s 50 ms, all: s", sums[1].0, sums[1].1);
    let ids: Vec<_> = pairs.iter().map(|pair| (pair.package.clone(), pair.new.clone())).collect();
    field.assert_equal("site1", SOURCE, &ids);
}

/// blat's, and the better of two rsyncs': the one with fewer bytes.
fn compare(field: &Field, pair: &Pair, link: &Link) -> (Took, Took) {
    let (Pair { package, new, old, .. }, name) = (pair, format!("{} {}", pair.package, pair.new));
    let ssh = format!("ssh -i {} -o UserKnownHostsFile={KNOWN_HOSTS} -l {TRANSFER_USER}", key_path("site1"));
    // All that anybody reads is in memory, for everybody.
    field.master.sh(&format!("find {SOURCE}/{package} -type f -exec cat {{}} + >/dev/null"));
    field
        .site
        .sh(&format!("find /home/{TRANSFER_USER}/*/{package}/{old} -type f -exec cat {{}} + >/dev/null"));
    let packed = "rsync -a -z --compress-choice=zstd";
    let peer = |line: String| {
        measured(field, Some(link), ["rsync", "ssh"], &["rsync", "sshd", "sshd-session"], || {
            field.master.sh(&line);
        })
    };
    let based = peer(format!(
        "{packed} --checksum --copy-dest=../{old} -e '{ssh}' {SOURCE}/{package}/{new}/ site1:based/{package}/{new}/"
    ));
    let plain = peer(format!("{packed} -e '{ssh}' {SOURCE}/{package}/{new}/ site1:plain/{package}/{new}/"));
    let full = peer(format!(
        "tar -C {SOURCE}/{package} -c {new} | zstd -3 -q | {ssh} site1 'mkdir -p tar && zstd -dq | tar -C tar -x'"
    ));
    let place = field.archive("site1").join(package).join(new);
    let ours = measured(field, Some(link), ["blat", "ssh"], &["blat-target", "sshd", "sshd-session"], || {
        let begin = Instant::now();
        field.tag("site1", package, new);
        while fs::symlink_metadata(&place).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(120), "{package}/{new} does not arrive");
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    field.wait_no_tags("site1", Duration::from_secs(20));
    field.wait_idle("site1");
    line(
        &format!("{name}: kB (rsync --copy-dest --checksum)"),
        ours.wire_bytes / 1e3,
        based.wire_bytes / 1e3,
    );
    line(&format!("{name}: kB (rsync of all of it)"), ours.wire_bytes / 1e3, plain.wire_bytes / 1e3);
    line(&format!("{name}: kB (tar | zstd | ssh)"), ours.wire_bytes / 1e3, full.wire_bytes / 1e3);
    let better = if based.wire_bytes < plain.wire_bytes { based } else { plain };
    line(&format!("{name}: s"), ours.seconds, better.seconds);
    line("  CPU of the master, s", ours.master_cpu, better.master_cpu);
    line("  CPU of the site, s", ours.site_cpu, better.site_cpu);
    line("  most memory on the master, MiB", ours.master_peak, better.master_peak);
    line("  most memory on the site, MiB", ours.site_peak, better.site_peak);
    (ours, better)
}

fn pairs() -> Vec<Pair> {
    let pair = |registry, package: &str, old: &str, new: &str| Pair {
        registry,
        package: package.into(),
        old: old.into(),
        new: new.into(),
    };
    let Ok(given) = std::env::var("BLAT_PAIRS") else {
        return PAIRS
            .iter()
            .map(|(registry, package, old, new)| pair(*registry, package, old, new))
            .collect();
    };
    given
        .split(',')
        .map(|words| match words.split_whitespace().collect::<Vec<_>>()[..] {
            [package, old, new] => pair(Registry::Wheels, package, old, new),
            _ => panic!("BLAT_PAIRS takes \"PACKAGE OLD NEW, PACKAGE OLD NEW\", not {words:?}"),
        })
        .collect()
}

/// Puts a version into the master's archive, as it was published, sealed.
fn publish(field: &Field, pair: &Pair, version: &str) {
    let from = match pair.registry {
        Registry::Crates => crate_source(&pair.package, version),
        Registry::Wheels => wheel(&pair.package, version),
    };
    let place = field.source().join(&pair.package).join(version);
    fs::create_dir_all(place.parent().expect("a package")).expect("a folder");
    run(Command::new("cp").arg("-a").arg(&from).arg(&place));
    fs::write(place.join("descpkg"), format!("{} {version}\n", pair.package)).expect("a file");
    seal(&place);
}

/// The source of a crate, out of cargo's own store.
fn crate_source(package: &str, version: &str) -> PathBuf {
    let folder = lab_dir().join("crates").join(format!("{package}-{version}"));
    let vendored = folder.join("vendor").join(format!("{package}-{version}"));
    if !vendored.exists() {
        fs::create_dir_all(folder.join("src")).expect("a folder");
        fs::write(folder.join("src/lib.rs"), "").expect("a file");
        let manifest = format!(
            "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
             [dependencies]\n{package} = {{ version = \"={version}\", default-features = false }}\n"
        );
        fs::write(folder.join("Cargo.toml"), manifest).expect("a file");
        let mut cargo = Command::new(env!("CARGO"));
        run(cargo.args(["vendor", "-q", "--versioned-dirs", "vendor"]).current_dir(&folder));
    }
    vendored
}

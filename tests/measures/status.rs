//! `blat status` of 200 targets, with no agent running: the whole command.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use blat::places::Places;
use blat::state::{self, MissingItem, SyncEnd, Syncs};
use blat_target::package::PackageVersion;

use crate::line;

const TARGETS: usize = 200;
const PROMISED: Duration = Duration::from_millis(100);

/// Each with some tags that wait, and some packages missing.
fn master(root: &Path) {
    for number in 0..TARGETS {
        let name = format!("site{number:03}");
        let places = Places::of(root, &name.parse().unwrap());
        let claimed = root.join("tags").join(&name).join(".claimed");
        for folder in [&places.state, &places.runtime, &claimed] {
            fs::create_dir_all(folder).unwrap();
        }
        for tag in 0..5 {
            fs::write(claimed.join(format!("{tag:016x}-core::{tag}")), "").unwrap();
        }
        let tags = root.join("tags").join(&name);
        let text = format!(
            "source = '/srv'\nreleases = [1, 'Tram/1']\n[ssh]\nhost = '{name}'\n[tags]\ndirectory = {tags:?}\n\
             [packages]\ncore = '1'\n"
        );
        for folder in ["etc/blat/targets", "etc/blat/.accepted/targets"] {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join(format!("{name}.toml")), &text).unwrap();
        }
        let id = |n: u64| PackageVersion::new("core", &n.to_string()).unwrap();
        let item = |n: u64| MissingItem { id: id(n), since: 1_700_000_000, reason: "gone".into() };
        let end = SyncEnd { at: 1_700_000_000, oldest: (0..50).map(item).collect(), ..SyncEnd::default() };
        state::keep(&places.syncs(), &Syncs { ended: Some(end), ..Syncs::default() });
    }
}

#[test]
fn the_state_of_200_targets() {
    let root = tempfile::tempdir().unwrap();
    master(root.path());
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let begin = Instant::now();
            let mut command = Command::new(env!("CARGO_BIN_EXE_blat"));
            let status = command.arg("--root").arg(root.path()).arg("status").stdout(Stdio::null()).status();
            assert_eq!(status.expect("it starts").code(), Some(2), "no agent runs");
            begin.elapsed()
        })
        .collect();
    times.sort();
    let median = times[times.len() / 2];
    line("blat status, 200 targets, ms (promised)", median.as_secs_f64() * 1e3, PROMISED.as_secs_f64() * 1e3);
    assert!(median < PROMISED, "{times:?}");
}

//! The index of an archive of a million files, beside `find` over all of it: made for the first time, and
//! after one in a hundred package-versions changed.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::line;

const VERSIONS: usize = 10_000;
const OF_EACH: usize = 40;
const FOLDERS: usize = 9;
const FILES: usize = 11;
const ROUNDS: usize = 5;
/// One in so many changes.
const CHANGED: usize = 100;
const FIRST_MAX: f64 = 2.0;
const AGAIN_MAX: f64 = 0.1;

#[test]
fn an_index_after_small_changes_takes_a_tenth_of_find() {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("build");
    let helper = build.join("dist/blat-target");
    assert!(helper.exists(), "{} is missing: run `make build`", helper.display());
    let archive = archive(&build);
    let (mut peer, mut first, mut again) = (find(&archive), f64::MAX, f64::MAX);
    for round in 0..ROUNDS {
        peer = peer.min(find(&archive));
        let _ = fs::remove_dir_all(archive.join(".dpkg_archive"));
        first = first.min(index(&helper, &archive));
        peer = peer.min(find(&archive));
        change(&archive, round);
        again = again.min(index(&helper, &archive));
    }
    assert_right(&archive);
    line("index of 1,000,000 files, first, s (find)", first, peer);
    line("index of 1,000,000 files, 1 % changed, s (find)", again, peer);
    assert!(first <= FIRST_MAX * peer, "the first index took {first} s, find {peer} s");
    assert!(again <= AGAIN_MAX * peer, "the index took {again} s, find {peer} s");
}

/// The archive, made once: that takes minutes.
fn archive(build: &Path) -> PathBuf {
    let done = build.join("measures/archive-files-1000000");
    let draft = done.with_extension("draft");
    if !done.exists() {
        let _ = fs::remove_dir_all(&draft);
        (0..VERSIONS).for_each(|at| fill(&version(&draft, at)));
        // As packages have it that were built some time ago.
        let rest = ["-type", "d", "-exec", "touch", "-d", "2 days ago", "{}", "+"];
        assert!(Command::new("find").arg(&draft).args(rest).status().expect("find starts").success());
        fs::rename(&draft, &done).expect("a name for the archive");
    }
    done
}

fn version(archive: &Path, at: usize) -> PathBuf {
    archive.join(format!("package{:04}/1.{:02}.0", at / OF_EACH, at % OF_EACH))
}

/// A hundred files: the `descpkg`, and the others in folders.
fn fill(version: &Path) {
    for folder in 0..FOLDERS {
        let folder = version.join(format!("include/part{folder}"));
        fs::create_dir_all(&folder).expect("a folder");
        (0..FILES)
            .for_each(|file| drop(File::create(folder.join(format!("header{file:02}.h"))).expect("a file")));
    }
    File::create(version.join("descpkg")).expect("a file");
}

/// Builds one in a hundred package-versions anew: others each round, all over the archive.
fn change(archive: &Path, round: usize) {
    for at in (round..VERSIONS).step_by(CHANGED) {
        let version = version(archive, at);
        File::create(version.join(format!("include/part0/new{round}.h"))).expect("a file");
        let time = SystemTime::now() - Duration::from_secs(1_000_000 - round as u64);
        for path in ["descpkg", "include/part0"] {
            let of = File::open(version.join(path)).expect("it is there");
            of.set_times(FileTimes::new().set_modified(time)).expect("a time");
        }
    }
}

fn find(archive: &Path) -> f64 {
    let begin = Instant::now();
    let status = Command::new("find").arg(archive).stdout(Stdio::null()).status().expect("find starts");
    assert!(status.success());
    begin.elapsed().as_secs_f64()
}

fn index(helper: &Path, archive: &Path) -> f64 {
    let begin = Instant::now();
    let status = Command::new(helper)
        .args(["index", "--archive"])
        .arg(archive)
        .stdout(Stdio::null())
        .status()
        .expect("the helper starts");
    assert!(status.success());
    begin.elapsed().as_secs_f64()
}

fn assert_right(archive: &Path) {
    let script = "cd \"$0\" && find . -mindepth 1 -path ./.dpkg_archive -prune -o -type d -printf '%P/\\n' \
                  -o -printf '%P\\n' | LC_ALL=C sort | cmp - .dpkg_archive/dpkg_archive_list.txt";
    let status = Command::new("sh").args(["-c", script]).arg(archive).status().expect("sh starts");
    assert!(status.success(), "the index is not what find finds");
}

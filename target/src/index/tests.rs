//! The index against `find`: made, made again after changes, and after what it knows was damaged.

use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::compose::matches;
use super::*;

fn open(root: &Path) -> Archive {
    Archive::open(root.as_os_str().as_bytes()).unwrap()
}

fn version(root: &Path, id: &str, stamp: u64, files: &[&str]) {
    let folder = root.join(id);
    for file in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let descpkg = File::create(folder.join("descpkg")).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(stamp);
    descpkg.set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// An archive whose names are in another order than their paths.
fn archive() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (id, stamp) in [("a/1.9", 1), ("a/1.9-x", 2), ("a-b/1", 3), ("a.b/1", 4), ("b/1", 5), ("b/1+", 6)] {
        version(root, id, stamp, &["f/x", "f/x.y", "f-1/z", "f/y z/deep/er", "f0"]);
    }
    symlink("1.9", root.join("a/current")).unwrap();
    symlink("../x -> y", root.join("b/1/out")).unwrap();
    fs::create_dir(root.join("b/1/empty")).unwrap();
    fs::create_dir(root.join("c")).unwrap();
    fs::create_dir_all(root.join("d/no-descpkg/x")).unwrap();
    fs::write(root.join("e"), "").unwrap();
    fs::write(root.join("b/file"), "").unwrap();
    fs::create_dir(root.join("a/.blat-1-2-3")).unwrap();
    let rest = ["-type", "d", "-exec", "touch", "-d", "2 days ago", "{}", "+"];
    assert!(Command::new("find").arg(root).args(rest).status().unwrap().success());
    dir
}

/// What `find` says, in the form of the list.
fn found(root: &Path) -> String {
    let line = [
        "-type",
        "d",
        "-printf",
        "%P/\\n",
        "-o",
        "-type",
        "l",
        "-printf",
        "%P -> %l\\n",
        "-o",
        "-printf",
        "%P\\n",
    ];
    let said = Command::new("find")
        .arg(root)
        .args([
            "-mindepth",
            "1",
            "(",
            "-path",
            "*/.dpkg_archive",
            "-o",
            "-name",
            ".blat-*",
            ")",
            "-prune",
            "-o",
        ])
        .args(line)
        .output()
        .unwrap();
    let mut lines: Vec<_> = said.stdout.split_inclusive(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    String::from_utf8(lines.concat()).unwrap()
}

fn list(root: &Path) -> String {
    fs::read_to_string(root.join(".dpkg_archive/dpkg_archive_list.txt")).unwrap()
}

#[track_caller]
fn is_right(root: &Path) {
    let ran = make(&open(root)).unwrap();
    assert_eq!(list(root), found(root));
    assert_eq!(ran.count, list(root).lines().count() as u64);
}

#[test]
fn it_is_what_find_finds_sorted_by_bytes() {
    let dir = archive();
    is_right(dir.path());
    assert_eq!(matches(b"a/1.9/f/x.y", b"1.9*x.y"), list(dir.path()).contains("a/1.9/f/x.y\n"));
}

#[test]
fn changes_are_in_the_next_one() {
    let dir = archive();
    let root = dir.path();
    is_right(root);
    version(root, "a/1.9", 77, &["new/file"]);
    version(root, "a/0", 7, &["x"]);
    version(root, "zz/1", 8, &["x"]);
    fs::remove_dir_all(root.join("b/1+")).unwrap();
    fs::remove_file(root.join("a/current")).unwrap();
    symlink("0", root.join("a/current")).unwrap();
    fs::write(root.join("d/no-descpkg/y"), "").unwrap();
    is_right(root);
    is_right(root);
}

#[test]
fn what_has_the_same_stamp_is_not_walked_again() {
    let dir = archive();
    let root = dir.path();
    is_right(root);
    fs::write(root.join("a/1.9/unseen"), "").unwrap();
    make(&open(root)).unwrap();
    assert!(!list(root).contains("unseen"));
    fs::remove_file(root.join(".dpkg_archive/dpkg_archive_list.txt")).unwrap();
    is_right(root);
}

#[test]
fn what_others_are_still_copying_is_walked_again() {
    let dir = archive();
    let root = dir.path();
    version(root, "p/1", 9, &["lib/a"]);
    is_right(root);
    fs::write(root.join("p/1/lib/b"), "").unwrap();
    is_right(root);
    fs::create_dir(root.join("p/1/later")).unwrap();
    is_right(root);
}

#[test]
fn one_that_fails_is_told_with_the_time_of_the_list_that_stands() {
    let dir = archive();
    let archive = open(dir.path());
    let (own, _) = open_or_make(&archive.root, OWN_FOLDER.as_bytes()).unwrap();
    let made = Ran { at: 5, count: 6, failed: 0, trouble: None };
    history::ran(&own, history::INDEX, &made).unwrap();
    fs::create_dir(dir.path().join(".dpkg_archive/.dpkg_archive_list.new")).unwrap();
    let trouble = Some(make(&archive).unwrap_err().reason);
    assert_eq!(history::last(&own, history::INDEX), Some(Ran { failed: 1, trouble, ..made }));
}

#[test]
fn a_record_that_cannot_be_written_leaves_the_list_to_be_made() {
    let dir = archive();
    let own = dir.path().join(".dpkg_archive");
    fs::create_dir_all(own.join("..dpkg_archive_list.known.new")).unwrap();
    is_right(dir.path());
}

#[test]
fn what_is_known_counts_only_for_the_list_it_belongs_to() {
    let dir = archive();
    let root = dir.path();
    is_right(root);
    let path = root.join(".dpkg_archive/dpkg_archive_list.txt");
    fs::write(&path, "another list\n").unwrap();
    is_right(root);
    let known = root.join(".dpkg_archive/.dpkg_archive_list.known");
    let whole = fs::read(&known).unwrap();
    for length in [0, 20, 48, 60, whole.len() - 1] {
        fs::write(&known, &whole[..length]).unwrap();
        is_right(root);
    }
}

#[test]
fn records_that_lead_elsewhere_in_the_list_are_found_out() {
    let dir = archive();
    let root = dir.path();
    is_right(root);
    let known = root.join(".dpkg_archive/.dpkg_archive_list.known");
    let mut damaged = fs::read(&known).unwrap();
    // The first record's place in the list: behind the head, its key, and three numbers.
    let at = 48 + 2 + "a-b/1/".len() + 24;
    damaged[at] ^= 1;
    fs::write(&known, &damaged).unwrap();
    is_right(root);
}

#[test]
fn only_one_runs_at_a_time() {
    let dir = archive();
    let archive = open(dir.path());
    let (own, _) = open_or_make(&archive.root, OWN_FOLDER.as_bytes()).unwrap();
    let _first = alone(&own).unwrap();
    assert_eq!(make(&archive).unwrap_err().mend, Mend::Later);
}

#[test]
fn a_pattern_is_a_text_in_which_stars_stand_for_anything() {
    let line = b"core/1.0/include/x.h";
    for (pattern, yes) in
        [("include", true), ("core*.h", true), (".h*core", false), ("*", true), ("", true), ("x.c", false)]
    {
        assert_eq!(matches(line, pattern.as_bytes()), yes, "{pattern}");
    }
}

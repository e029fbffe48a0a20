//! The transfer itself, over a private sshd on loopback: what needs no systemd to show.

#[path = "loopback/mod.rs"]
mod loopback;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use loopback::Loopback;

fn world() -> Loopback {
    let blat = PathBuf::from(env!("CARGO_BIN_EXE_blat"));
    let helper = blat.with_file_name("blat-target");
    Loopback::new(&blat, &helper)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}\n{}", output.status, words(output));
}

fn content(folder: &Path) -> String {
    fs::read_to_string(folder.join("content")).expect("the content")
}

#[test]
fn a_run_by_hand_needs_no_agent() {
    let world = world();
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    assert_done(&world.transfer());
    assert_eq!(content(&world.archive().join("core/1.0")), "some content\n");
    assert_eq!(fs::read_dir(world.tags().join(".claimed")).unwrap().count(), 0);
}

#[test]
fn a_run_attaches_to_the_agent() {
    let mut world = world();
    world.start_agent();
    for version in ["1.0", "2.0"] {
        world.publish("core", version);
        world.tag("core", version);
        let output = world.transfer();
        assert_done(&output);
        assert!(world.archive().join("core").join(version).is_dir());
    }
}

#[test]
fn a_link_brings_what_it_addresses_and_a_link_to_a_link_too() {
    let world = world();
    world.publish("core", "1.0");
    symlink("1.0", world.source().join("core/stable")).unwrap();
    symlink("stable", world.source().join("core/current")).unwrap();
    world.tag("core", "current");
    assert_done(&world.transfer());
    let text = |name: &str| fs::read_link(world.archive().join("core").join(name)).unwrap();
    assert_eq!((text("current"), text("stable")), ("stable".into(), "1.0".into()));
    assert_eq!(content(&world.archive().join("core/current")), "some content\n");
}

#[test]
fn what_stands_already_costs_no_transfer() {
    let world = world();
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    assert_done(&world.transfer());
    world.tag("core", "1.0");
    let output = world.transfer();
    assert_done(&output);
    assert!(words(&output).contains("stands on the target already"), "{}", words(&output));
    assert!(!words(&output).contains("committed"), "{}", words(&output));
}

#[test]
fn odd_names_times_and_modes_arrive_as_they_were() {
    let world = world();
    let folder = world.publish("odd", "1.0");
    set_mode(&folder, 0o755);
    let deep = (0..12).fold(folder.clone(), |path, _| path.join("a-folder-with-a-rather-long-name"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join(OsStr::from_bytes(b"not \xff UTF-8, with\nlines")), "deep").unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    symlink("no/where", folder.join("dangling")).unwrap();
    fs::write(folder.join("tool"), "#!/bin/sh\n").unwrap();
    set_mode(&folder.join("tool"), 0o4755);
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_007, 123_456_789);
    fs::File::options().write(true).open(folder.join("tool")).unwrap().set_modified(old).unwrap();
    for path in [folder.join("empty"), deep.clone(), folder.clone()] {
        set_mode(&path, 0o555);
    }
    world.tag("odd", "1.0");
    let output = world.transfer();
    assert_done(&output);
    assert!(words(&output).contains("set-user-id"), "{}", words(&output));
    set_mode(&folder.join("tool"), 0o755);
    let (here, there) = (tree(&folder), tree(&world.archive().join("odd/1.0")));
    assert_eq!(here, there);
    assert!(here.len() > 17 && here.iter().any(|entry| entry.path.as_os_str().len() > 255));
}

#[test]
fn one_bad_package_stops_no_other() {
    let world = world();
    let bad = world.source().join("bad/1.0");
    fs::create_dir_all(&bad).unwrap();
    fs::write(bad.join("descpkg"), "").unwrap();
    nix::unistd::mkfifo(&bad.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    seal(&bad);
    for version in ["1.0", "2.0"] {
        world.publish("core", version);
    }
    for (package, version) in [("core", "1.0"), ("bad", "1.0"), ("core", "2.0")] {
        world.tag(package, version);
    }
    let output = world.transfer();
    assert_eq!(output.status.code(), Some(78), "one bad package, and the run is no success");
    assert!(world.archive().join("core/1.0").is_dir() && world.archive().join("core/2.0").is_dir());
    assert!(!world.archive().join("bad").exists());
    let record = fs::read_to_string(world.rejected().join("bad::1.0"));
    assert!(record.is_ok_and(|record| record.contains("pipe")), "{}", words(&output));
}

#[test]
fn malformed_tags_and_links_that_lead_elsewhere_are_rejected_with_the_reason() {
    let world = world();
    fs::create_dir(world.source().join("core")).unwrap();
    symlink("../other/1.0", world.source().join("core/out")).unwrap();
    fs::write(world.tags().join("nonsense"), "").unwrap();
    fs::create_dir(world.tags().join("folder::1")).unwrap();
    world.tag("core", "out");
    assert_eq!(world.transfer().status.code(), Some(78));
    let record = |name: &str| fs::read_to_string(world.rejected().join(name)).unwrap();
    assert!(record("nonsense").contains("PACKAGE::VERSION"));
    assert!(record("core::out").contains("../other/1.0"));
    assert!(!world.archive().join("core").exists());
}

#[test]
fn a_helper_that_the_machine_cannot_run_is_told_of() {
    let world = world();
    let foreign = world.root().join("foreign");
    fs::write(&foreign, b"\x7fELF\x02\x01\x01\0 not for this machine").unwrap();
    world.publish("core", "1.0");
    world.tag("core", "1.0");
    let output = world.run(&["transfer", loopback::TARGET, "--helper", foreign.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", words(&output));
    assert!(words(&output).contains("cannot run the helper"), "{}", words(&output));
    assert_eq!(fs::read_dir(world.root().join("target/bin")).unwrap().count(), 0, "the upload was left");
    assert_done(&world.transfer());
}

fn seal(folder: &Path) {
    set_mode(&folder.join("descpkg"), 0o555);
    set_mode(folder, 0o555);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What can be seen of an entry, but for when its inode changed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    path: PathBuf,
    mode: u32,
    modified: (i64, i64),
    content: Vec<u8>,
}

fn tree(root: &Path) -> Vec<Entry> {
    let (mut entries, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(at) = open.pop() {
        let found = fs::symlink_metadata(&at).unwrap();
        let content = if found.is_dir() {
            open.extend(fs::read_dir(&at).unwrap().map(|item| item.unwrap().path()));
            Vec::new()
        } else if found.is_symlink() {
            fs::read_link(&at).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&at).unwrap()
        };
        let path = at.strip_prefix(root).unwrap().to_owned();
        entries.push(Entry {
            path,
            mode: found.mode(),
            modified: (found.mtime(), found.mtime_nsec()),
            content,
        });
    }
    entries.sort();
    entries
}

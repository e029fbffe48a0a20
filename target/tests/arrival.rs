//! What arrives: packages and links, as they were.

mod common;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use blat_target::frame::{self, MAGIC};
use blat_target::manifest::Kind;
use blat_target::message::{Mend, Outcome, PROTOCOL, Standing, ToHost, ToTarget};
use blat_target::said;
use blat_target::stamp::Stamp;
use common::pack::{self, Parts, STAMP};
use common::{Host, Site, host_hello, tree};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use rustix::fs::XattrFlags;

const NEW: Outcome = Outcome::Committed { replaced: false };
const REPLACED: Outcome = Outcome::Committed { replaced: true };

/// A folder with one of each oddity.
fn odd_tree(root: &Path) {
    let name = |bytes: &[u8]| root.join(OsStr::from_bytes(bytes));
    fs::write(root.join("descpkg"), "about").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(name(b"not\xff\xfeutf8"), "bytes").unwrap();
    fs::write(name(b"new\nline and space"), "x").unwrap();
    fs::write(name("\u{fc}mlaut\u{2603}".as_bytes()), "x").unwrap();
    fs::write(root.join("block"), vec![7; 512]).unwrap();
    fs::write(root.join("big"), noise(3 << 20)).unwrap();
    fs::create_dir_all(root.join("empty-folder/inner")).unwrap();
    let long = root.join(vec!["l".repeat(200); 6].join("/"));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("deep"), "deep").unwrap();
    fs::create_dir(root.join("sealed")).unwrap();
    fs::write(root.join("sealed/file"), "x").unwrap();
    fs::write(root.join("sealed/tool"), "#!/bin/sh\n").unwrap();
    fs::write(root.join("sealed.txt"), "sorts between").unwrap();
    symlink("descpkg", root.join("link")).unwrap();
    symlink("/nowhere/at/all", root.join("sealed/dangling")).unwrap();
    symlink("../empty-folder", root.join("sealed/folder")).unwrap();
    fs::set_permissions(root.join("sealed/tool"), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("sealed/file"), Permissions::from_mode(0o400)).unwrap();
    // Only root can pack what its owner may not read.
    let unreadable = if common::is_root() { 0o000 } else { 0o400 };
    fs::set_permissions(root.join("empty"), Permissions::from_mode(unreadable)).unwrap();
    fs::set_permissions(root.join("empty-folder/inner"), Permissions::from_mode(0o1777)).unwrap();
    seal(root);
}

/// Gives each entry a time of its own, to the nanosecond, and takes the folders' write bits.
fn seal(root: &Path) {
    for (at, found) in tree::walk(root).into_iter().enumerate().rev() {
        let path = root.join(OsStr::from_bytes(&found.path));
        if found.kind == tree::Kind::Folder && found.mode == 0o755 {
            fs::set_permissions(&path, Permissions::from_mode(0o555)).unwrap();
        }
        let time = TimeSpec::new(STAMP + at as i64, 123_456_000 + at as i64);
        let here = nix::fcntl::AT_FDCWD;
        utimensat(here, &path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn odd_names_modes_times_and_links_arrive_as_they_were() {
    for known in [false, true] {
        let (site, source) = (Site::new(), tempfile::tempdir().unwrap());
        let root = source.path().join("1.0");
        fs::create_dir(&root).unwrap();
        odd_tree(&root);
        assert_eq!(site.send(&[pack::folder("odd/1.0", &root, known)]), [NEW]);
        tree::assert_same(&root, &site.archive().join("odd/1.0"));
        assert!(site.leftovers().is_empty());
        tree::unlock(&root);
    }
}

#[test]
fn hello_tells_build_clock_and_room() {
    let site = Site::new();
    let mut host = site.connect();
    host.hello(common::host_hello());
    let Some(ToHost::Hello(hello)) = host.next() else { panic!() };
    assert_eq!(hello.protocol, PROTOCOL);
    assert_eq!(hello.build.0, *blake3::hash(&fs::read(site.helper()).unwrap()).as_bytes());
    assert!(hello.free_bytes > 0 && hello.clock > STAMP);
    let line = site.command().arg("hello").output().unwrap();
    let line = String::from_utf8(line.stdout).unwrap();
    assert_eq!(line, format!("blat-target {} {} {}\n", hello.version, hello.build, std::env::consts::ARCH));
}

/// What a host says first, and asks along with it.
fn greeting(id: &str) -> Vec<u8> {
    let query = ToTarget::Query(vec![common::id(id)]);
    [&MAGIC[..], &frame::message(&ToTarget::Hello(host_hello())), &frame::message(&query)].concat()
}

#[test]
fn what_is_said_on_the_command_line_is_answered_at_once_and_passed_over_behind_it() {
    let site = Site::new();
    assert_eq!(site.send(&[Parts::described("a/1").pack()]), [NEW]);
    let mut command = site.command();
    command.args(["serve", "--said", &said::encode(&greeting("a/1"))]);
    let mut host = Host::start(command);
    assert!(matches!(host.next(), Some(ToHost::Hello(_))));
    assert_eq!(host.next(), Some(ToHost::Standing(vec![Standing::Version(Stamp(STAMP))])));
    host.raw(&greeting("a/1"));
    assert_eq!(host.query(&["a/2"]), [Standing::Absent]);
    host.send(&Parts::described("a/2").pack());
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn what_is_said_otherwise_behind_the_command_line_ends_the_session() {
    let site = Site::new();
    let mut command = site.command();
    command.args(["serve", "--said", &said::encode(&greeting("a/1"))]);
    let mut host = Host::start(command);
    host.raw(&greeting("b/1"));
    let ended = host.end();
    assert_eq!(ended.code, Some(75));
    assert!(ended.stderr.contains("not what it said on the command line"), "{}", ended.stderr);
}

#[test]
fn a_forced_command_answers_what_was_said_to_the_one_that_it_replaced() {
    let site = Site::new();
    let mut command = site.command();
    command.args(["serve", "--archive", "dpkg_archive"]);
    command.env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22");
    let line = format!("bin/blat-target serve --said {}", said::encode(&greeting("a/1")));
    command.env("SSH_ORIGINAL_COMMAND", line);
    let mut host = Host::start(command);
    assert!(matches!(host.next(), Some(ToHost::Hello(_))));
    assert_eq!(host.next(), Some(ToHost::Standing(vec![Standing::Absent])));
    host.raw(&greeting("a/1"));
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn a_session_without_work_leaves_nothing() {
    let site = Site::new();
    let ended = site.host().done();
    assert_eq!(ended.code, Some(0));
    assert_eq!(fs::read_dir(site.archive()).unwrap().count(), 0);
}

#[test]
fn query_tells_what_stands() {
    let site = Site::new();
    site.send(&[Parts::described("a/1").pack()]);
    symlink("1", site.archive().join("a/now")).unwrap();
    fs::create_dir(site.archive().join("a/bare")).unwrap();
    fs::write(site.archive().join("a/file"), "").unwrap();
    symlink("a", site.archive().join("elsewhere")).unwrap();
    let mut host = site.host();
    let told = host.query(&["a/1", "a/2", "b/1", "a/now", "a/bare", "a/file", "elsewhere/1"]);
    let stands = Standing::Version(Stamp(STAMP));
    let link = Standing::Link(b"1".to_vec());
    use Standing::{Absent, Other};
    assert_eq!(told, [stands, Absent, Absent, link, Other, Other, Other]);
    assert_eq!(host.query(&[]), []);
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn the_same_stamp_is_left_alone_and_another_replaces() {
    let site = Site::new();
    let first = Parts::described("a/1").file("x", b"first").pack();
    assert_eq!(site.send(std::slice::from_ref(&first)), [NEW]);
    let inode = fs::metadata(site.archive().join("a/1")).unwrap().ino();
    assert_eq!(site.send(&[first.clone(), first]), [Outcome::Unchanged, Outcome::Unchanged]);
    assert_eq!(fs::metadata(site.archive().join("a/1")).unwrap().ino(), inode);

    let mut second = Parts::described("a/1").file("x", b"second");
    second.stamp = Stamp(STAMP + 1);
    second.manifest.entries[1].modified.seconds += 1;
    assert_eq!(site.send(&[second.pack()]), [REPLACED]);
    assert_eq!(fs::read(site.archive().join("a/1/x")).unwrap(), b"second");
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_package_replaces_whatever_stands_in_its_place() {
    let site = Site::new();
    site.send(&[Parts::described("a/1").pack()]);
    symlink("1", site.archive().join("a/link")).unwrap();
    fs::write(site.archive().join("a/file"), "").unwrap();
    let packs = ["a/link", "a/file"].map(|id| Parts::described(id).pack());
    assert_eq!(site.send(&packs), [REPLACED, REPLACED]);
    assert!(site.archive().join("a/link/descpkg").is_file());
    assert!(site.archive().join("a/file/descpkg").is_file());
    assert!(site.leftovers().is_empty());
}

#[test]
fn the_same_package_twice_in_a_session_is_taken_once() {
    let site = Site::new();
    let pack = Parts::described("a/1").pack();
    assert_eq!(site.send(&[pack.clone(), pack]), [NEW, Outcome::Unchanged]);
    assert!(site.leftovers().is_empty());
}

#[test]
fn links_are_made_turned_and_left_alone() {
    let site = Site::new();
    let mut host = site.host();
    host.send(&Parts::described("a/1").pack());
    host.link("a/now", b"1");
    host.link("a/now", b"1");
    host.send(&Parts::described("a/2").pack());
    host.link("a/now", b"./2");
    let ended = host.done();
    assert_eq!(ended.outcomes(), [NEW, NEW, Outcome::Unchanged, NEW, REPLACED]);
    assert_eq!(fs::read_link(site.archive().join("a/now")).unwrap(), Path::new("./2"));
    let made = fs::symlink_metadata(site.archive().join("a/now")).unwrap();
    let time = common::LINK_TIME;
    assert_eq!((made.mtime(), made.mtime_nsec()), (time.seconds, i64::from(time.nanoseconds)));
    assert_eq!(ended.heard.last(), Some(&ToHost::Done { committed: 4, unchanged: 1, refused: 0 }));
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_link_takes_the_place_of_a_version() {
    let site = Site::new();
    site.send(&[Parts::described("a/1").pack(), Parts::described("a/now").pack()]);
    let mut host = site.host();
    host.link("a/now", b"1");
    assert_eq!(host.done().outcomes(), [REPLACED]);
    assert!(site.archive().join("a/now").is_symlink());
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_link_may_address_a_link_of_its_package() {
    let site = Site::new();
    site.send(&[Parts::described("a/1").pack()]);
    let mut host = site.host();
    host.link("a/stable", b"1");
    host.link("a/now", b"stable");
    assert_eq!(host.done().outcomes(), [NEW, NEW]);
    assert!(site.archive().join("a/now/descpkg").exists());
}

#[test]
fn a_link_to_what_is_not_there_waits() {
    let site = Site::new();
    let mut host = site.host();
    host.link("a/now", b"1");
    let Outcome::Refused(refusal) = host.outcome() else { panic!() };
    assert_eq!(refusal.mend, Mend::Later);
    assert_eq!(refusal.reason, "the link a/now was not made: a/1, which it addresses, is not there");
    assert_eq!(host.done().code, Some(0));
    assert!(!site.archive().join("a").exists(), "the folder of a package that has nothing");
}

#[test]
fn links_that_leave_their_package_are_refused() {
    let site = Site::new();
    site.send(&[Parts::described("a/1").pack()]);
    for text in [&b"../b/1"[..], b"/etc", b"..", b"now", b"1/x", b"", b"\xff"] {
        let mut host = site.host();
        host.link("a/now", text);
        let Outcome::Refused(refusal) = host.outcome() else { panic!("{text:?}") };
        assert_eq!(refusal.mend, Mend::Person);
        assert_eq!(host.done().code, Some(0));
    }
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_thousand_packages_arrive_over_one_session() {
    let site = Site::new();
    let packs: Vec<_> =
        (0..1000).map(|n| Parts::described(&format!("p{}/{n}", n % 7)).file("x", &noise(n)).pack()).collect();
    assert_eq!(site.send(&packs), vec![NEW; 1000]);
    assert!(site.leftovers().is_empty());
}

#[test]
fn an_answer_comes_without_waiting_for_more_input() {
    let site = Site::new();
    let mut host = site.host();
    host.send(&Parts::described("a/1").pack());
    assert_eq!(host.outcome(), NEW);
    // Nor does it wait for a package that comes slowly.
    host.send(&Parts::described("a/2").pack());
    let slow = Parts::described("a/3").pack();
    host.begin(&slow);
    assert_eq!(host.outcome(), NEW);
    assert!(site.archive().join("a/2/descpkg").exists());
    host.bytes(&slow.plain);
    host.say(&blat_target::message::ToTarget::PackageEnd);
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn an_abandoned_package_is_refused_and_the_session_goes_on() {
    let site = Site::new();
    let mut host = site.host();
    let pack = Parts::described("a/1").file("x", &noise(100_000)).pack();
    host.begin(&pack);
    host.bytes(&pack.plain[..60_000]);
    host.say(&blat_target::message::ToTarget::Abandon("x vanished".into()));
    host.send(&pack);
    let ended = host.done();
    assert_eq!(ended.code, Some(0));
    let outcomes = ended.outcomes();
    let Outcome::Refused(refusal) = &outcomes[0] else { panic!() };
    assert_eq!(refusal.reason, "a/1: the host gave it up: x vanished");
    assert_eq!(outcomes[1], NEW);
    assert!(site.leftovers().is_empty());
}

#[test]
fn the_archive_may_be_a_symlink_or_lie_elsewhere() {
    let site = Site::new();
    let elsewhere = site.folder("elsewhere");
    fs::remove_dir(site.archive()).unwrap();
    symlink(&elsewhere, site.archive()).unwrap();
    assert_eq!(site.send(&[Parts::described("a/1").pack()]), [NEW]);
    assert!(elsewhere.join("a/1/descpkg").exists());

    let mut host = site.connect();
    let archive = elsewhere.as_os_str().as_bytes().to_vec();
    host.hello(blat_target::message::HostHello { archive, ..common::host_hello() });
    assert!(matches!(host.next(), Some(ToHost::Hello(_))));
    assert_eq!(host.query(&["a/1"]), [Standing::Version(Stamp(STAMP))]);
    assert_eq!(host.done().code, Some(0));
}

/// The archive's own folder has a default ACL by which all that is made below it is its owner's alone.
fn of_its_owner_alone(archive: &Path) {
    // Version 2, then for the owner, the group and the others: tag, rights, no number.
    let entries = [(1_u16, 7_u16), (4, 0), (32, 0)];
    let entries = entries.into_iter().flat_map(|(tag, rights)| {
        [tag.to_le_bytes().to_vec(), rights.to_le_bytes().to_vec(), vec![0xff; 4]].concat()
    });
    let acl: Vec<u8> = 2_u32.to_le_bytes().into_iter().chain(entries).collect();
    let set = rustix::fs::setxattr(archive, "system.posix_acl_default", &acl, XattrFlags::empty());
    set.expect("a file system with ACLs");
}

#[test]
fn modes_do_not_depend_on_a_default_acl() {
    let site = Site::new();
    of_its_owner_alone(&site.archive());
    let mut parts = Parts::described("a/1").folder("f").file("f/x", b"x").file("f/y", b"y");
    for entry in &mut parts.manifest.entries {
        entry.mode = if entry.kind == Kind::Folder { 0o755 } else { 0o444 };
    }
    let mut host = site.host();
    host.send(&parts.pack());
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    let mode = |path: &str| fs::metadata(site.archive().join(path)).unwrap().mode() & 0o7777;
    assert_eq!([mode("a/1"), mode("a/1/f")], [0o755, 0o755]);
    assert_eq!([mode("a/1/f/x"), mode("a/1/f/y"), mode("a/1/descpkg")], [0o444, 0o444, 0o444]);
    // So it is with what is made there without being told otherwise.
    fs::write(site.archive().join("plain"), "").unwrap();
    assert_eq!(mode("plain") & 0o077, 0);
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let site = Site::new();
    let mut host = site.connect_by("umask 077; exec \"$0\" serve");
    host.greet();
    host.send(&Parts::described("a/1").folder("f").pack());
    assert_eq!(host.done().outcomes(), [NEW]);
    let mode = |path: &str| fs::metadata(site.archive().join(path)).unwrap().mode() & 0o7777;
    assert_eq!([mode("a"), mode("a/1"), mode("a/1/f"), mode("a/1/descpkg")], [0o755, 0o755, 0o755, 0o644]);
    assert_eq!(mode(".dpkg_archive"), 0o755);
}

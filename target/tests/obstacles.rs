//! What a target machine can hold against a package: rights, room, limits. One package
//! is refused, with what a person would do about it; the session goes on.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use blat_target::frame::{self, MAGIC};
use blat_target::message::{HostHello, Mend, Outcome, PackageHead, Refusal, Standing, ToHost, ToTarget};
use blat_target::stamp::Stamp;
use common::pack::{Pack, Parts, STAMP};
use common::{Host, Site, host_hello, id};

const NEW: Outcome = Outcome::Committed { replaced: false };

fn refused(host: &mut Host, pack: &Pack) -> Refusal {
    host.send(pack);
    match host.outcome() {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_package_folder_without_the_right_to_write_is_named() {
    let site = Site::new();
    let folder = site.folder("home/dpkg_archive/a");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let mut host = site.host();
    let refusal = refused(&mut host, &Parts::described("a/1").pack());
    assert_eq!(refusal.mend, Mend::Person);
    assert_eq!(
        refusal.reason,
        "a/1: could not make a folder to stage a/1: Permission denied; \
         give the transfer user the right to write there, or ownership"
    );
    host.send(&Parts::described("b/1").pack());
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_file_in_place_of_the_package_folder_is_named() {
    let site = Site::new();
    fs::write(site.archive().join("a"), "").unwrap();
    let mut host = site.host();
    let refusal = refused(&mut host, &Parts::described("a/1").pack());
    assert_eq!(refusal.mend, Mend::Person);
    assert!(
        refusal.reason.ends_with("something else stands where a folder must be: remove it"),
        "{refusal:?}"
    );
    assert_eq!(host.done().code, Some(0));
    assert!(site.archive().join("a").is_file());
}

#[test]
fn a_file_that_the_target_cannot_hold_is_named() {
    let site = Site::new();
    // Files of at most 64 blocks of 512 bytes.
    let mut host = site.connect_by("trap '' XFSZ; ulimit -f 64; exec \"$0\" serve");
    host.greet();
    let refusal = refused(&mut host, &Parts::described("a/1").file("x", &noise(100_000)).pack());
    assert_eq!(refusal.mend, Mend::Person);
    assert!(refusal.reason.starts_with("a/1: could not write a/1/x: File too large"), "{refusal:?}");
    host.send(&Parts::described("a/1").pack());
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(site.leftovers().is_empty());
}

#[test]
fn few_open_files_are_enough() {
    let site = Site::new();
    let mut host = site.connect_by("ulimit -n 64; exec \"$0\" serve");
    host.greet();
    let mut wide = Parts::described("a/1");
    for at in 100..500 {
        wide = wide.folder(format!("f{at}")).file(format!("f{at}/x"), b"x");
    }
    host.send(&wide.pack());
    let mut deep = Parts::described("a/2");
    for depth in 1..1500 {
        deep = deep.folder(vec!["f"; depth].join("/"));
    }
    host.send(&deep.pack());
    let ended = host.done();
    assert_eq!(ended.outcomes(), [NEW, NEW]);
    assert!(site.leftovers().is_empty());
}

#[test]
fn many_small_packages_at_once_need_few_open_files() {
    let site = Site::new();
    let mut host = site.connect_by("ulimit -n 400; exec \"$0\" serve");
    host.greet();
    for at in 0..600 {
        host.send(&Parts::described(&format!("p{at}/1")).pack());
    }
    assert_eq!(host.done().outcomes(), vec![NEW; 600]);
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_takes_what_does() {
    let site = Site::new();
    let mut host = on_a_small_disk(&site, "size=1m", "\"$0\" serve");
    host.greet();
    let refusal = refused(&mut host, &Parts::described("a/1").file("x", &noise(3 << 20)).pack());
    assert_eq!(refusal.mend, Mend::Later);
    assert_eq!(
        refusal.reason,
        "a/1: could not write a/1/x: No space left on device; make room on the target"
    );
    host.send(&Parts::described("b/1").file("x", &noise(1 << 16)).pack());
    assert_eq!(host.outcome(), NEW);
    let ended = host.done();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut left: Vec<_> = ended.stderr.lines().collect();
    left.sort_unstable();
    let own = ["./.dpkg_archive", "./.dpkg_archive/lock", "./.dpkg_archive/sessions"];
    assert_eq!(left, [&["."][..], &own, &["./b", "./b/1", "./b/1/descpkg", "./b/1/x"]].concat());
}

/// What takes the last block of a small disk, or the last inode.
const FILLS: [&str; 2] =
    ["cat /dev/zero >fill 2>/dev/null", "n=0; while true 2>/dev/null >fill$n; do n=$((n + 1)); done"];

#[test]
fn what_is_kept_makes_room_for_whatever_is_written_next() {
    let small = Parts::described("b/1").pack();
    let acts: [fn(&mut Host, &Pack); 4] = [
        |host, small| {
            host.send(small);
            assert_eq!(host.outcome(), NEW);
        },
        |host, _| {
            host.link("a/now", b"0");
            assert_eq!(host.outcome(), NEW);
        },
        |host, _| {
            host.say(&marked());
            assert_eq!(host.next(), Some(ToHost::Marked(1)));
        },
        |host, _| {
            host.say(&ToTarget::Hold(Some("the audit".into())));
            assert!(matches!(host.next(), Some(ToHost::Info(info)) if info.hold.is_some()));
        },
    ];
    let large = Parts::described("a/1").file("x", &noise(9 << 20)).pack();
    for fill in FILLS {
        for act in acts {
            let site = Site::new();
            say_before(&site, &[whole(&Parts::described("a/0").pack()), part(&large)].concat());
            let mut host = on_a_small_disk(&site, "size=4m,nr_inodes=60", &before(fill, "\"$0\" serve"));
            host.greet();
            let kept = host.next();
            assert!(matches!(kept, Some(ToHost::Partial(_))), "{fill}: {kept:?}");
            act(&mut host, &small);
            let ended = host.done();
            assert_eq!(ended.code, Some(0), "{fill}: {ended:?}");
            assert!(!ended.stderr.contains("./a/.blat"), "{fill}: {ended:?}");
        }
    }
}

#[test]
fn what_is_marked_can_be_deleted_where_a_disk_is_full_to_the_last() {
    let aged = "sed -i s/since=[0-9]*/since=5/ .dpkg_archive/marks.txt";
    let marks = [frame::message(&marked()), frame::message(&ToTarget::Confirm { max_delete: 9 })].concat();
    let done = frame::message(&ToTarget::Done { sent: 1 });
    let said = [whole(&Parts::described("a/0").pack()), marks, done].concat();
    for fill in FILLS {
        let start = |what: &str| {
            let site = Site::new();
            say_before(&site, &said);
            let host =
                on_a_small_disk(&site, "size=1m,nr_inodes=60", &before(&format!("{aged}; {fill}"), what));
            (site, host)
        };
        let (_site, host) = start("\"$0\" purge >&2");
        let ended = host.end();
        assert!(ended.stderr.contains("deleted a/0\npurged: 1 deleted, 0 failed\n"), "{fill}: {ended:?}");
        assert!(ended.code == Some(0) && !ended.stderr.contains("./a"), "{fill}: {ended:?}");
        let (_site, mut host) = start("\"$0\" serve");
        host.greet();
        let number = host.number();
        host.say(&ToTarget::Delete { number, id: id("a/0"), stands: Standing::Version(Stamp(STAMP)) });
        assert_eq!(host.outcome(), Outcome::Committed { replaced: true }, "{fill}");
        let ended = host.done();
        assert!(ended.code == Some(0) && !ended.stderr.contains("./a"), "{fill}: {ended:?}");
    }
}

fn marked() -> ToTarget {
    let what = vec![(id("a/0"), Standing::Version(Stamp(STAMP)))];
    ToTarget::Mark { what, after: Some(0), why: "it left".into() }
}

/// The lines of a session that hears what is said in a file, what fills the disk, and what comes then.
fn before(fill: &str, then: &str) -> String {
    format!("cd \"$HOME/dpkg_archive\"; \"$0\" serve <\"$HOME/said\" >/dev/null 2>&1; {fill}; {then}")
}

/// Has a session hear this behind its hello.
fn say_before(site: &Site, said: &[u8]) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let hello = frame::message(&ToTarget::Hello(HostHello { clock, ..host_hello() }));
    fs::write(site.path("home/said"), [MAGIC, &hello[..], said].concat()).unwrap();
}

/// What is said of a package, the first of its session.
fn whole(pack: &Pack) -> Vec<u8> {
    [begun(0, pack, pack.plain.len()), frame::message(&ToTarget::PackageEnd)].concat()
}

/// What is said of the second up to its middle.
fn part(pack: &Pack) -> Vec<u8> {
    begun(1, pack, 2 << 20)
}

fn begun(number: u64, pack: &Pack, bytes: usize) -> Vec<u8> {
    let (id, stamp, manifest_length) = (pack.id.clone(), pack.stamp, pack.manifest_length);
    let head = frame::message(&ToTarget::Package(PackageHead { number, id, stamp, manifest_length }));
    let packed = zstd::encode_all(&pack.plain[..bytes], 3).unwrap();
    let data = packed.chunks(frame::PAYLOAD_MAX).flat_map(frame::data);
    head.into_iter().chain(data).collect()
}

/// What these lines do with an archive on such a small disk; what is left in it at the end is listed on stderr.
fn on_a_small_disk(site: &Site, options: &str, lines: &str) -> Host {
    let lines = format!(
        "mount -t tmpfs -o {options},mode=777 none \"$HOME/dpkg_archive\" && \
         {{ {lines}; }}; code=$?; cd \"$HOME/dpkg_archive\" && find . >&2; exit $code"
    );
    let mut command = Command::new("unshare");
    // Whoever is not root becomes it in a user namespace.
    let spaces = if common::is_root() { "--mount" } else { "--map-root-user" };
    command.args([spaces, "--mount", "/bin/sh", "-c", &lines]).arg(site.helper());
    command.env("HOME", site.path("home"));
    let tried = Command::new("unshare").args([spaces, "--mount", "true"]).status();
    assert!(
        tried.is_ok_and(|status| status.success()),
        "this test mounts a small file system: it needs `unshare` (package util-linux) and root or user namespaces"
    );
    Host::start(command)
}

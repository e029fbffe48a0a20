//! Packages that come in full and without a tar: honest ones arrive as they should be, others are refused.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use blat_target::frame;
use blat_target::manifest::Kind;
use blat_target::message::{Digest, HostHello, Mend, Outcome, Refusal, ToHost, ToTarget, window_log_max};
use common::delta::Told;
use common::pack::STAMP;
use common::{Host, Site, host_hello};

const NEW: Outcome = Outcome::Committed { replaced: false };
/// From so many bytes on, what came of a package is kept when the line is cut.
const LARGE: usize = 8 << 20;

fn told() -> Told {
    let mut told = Told::in_full("a/1").whole("empty", b"").whole("x", &b"some content ".repeat(1000));
    told.parts = told.parts.folder("y").symlink("z", b"x");
    told
}

fn refused(told: &Told, plain: &[u8]) -> Refusal {
    let site = Site::new();
    let mut host = site.host();
    host.begin_in_full(told);
    host.bytes(plain);
    host.say(&ToTarget::PackageEnd);
    let refusal = match host.outcome() {
        Outcome::Refused(refusal) => refusal,
        other => panic!("it was taken: {other:?}"),
    };
    host.send_in_full(&Told::in_full("b/1"));
    assert_eq!(host.outcome(), NEW, "the session goes on");
    assert_eq!(host.done().code, Some(0));
    assert!(!site.archive().join("a/1").exists() && site.leftovers().is_empty());
    refusal
}

#[test]
fn a_package_arrives_as_it_was() {
    let site = Site::new();
    let mut host = site.host();
    let mut told = told();
    for entry in &mut told.parts.manifest.entries {
        if entry.path == b"x" {
            entry.mode = 0o555;
        }
    }
    host.send_in_full(&told);
    assert_eq!(host.outcome(), NEW);
    host.send_in_full(&told);
    assert_eq!(host.outcome(), Outcome::Unchanged);
    assert_eq!(host.done().code, Some(0));
    let archive = site.archive();
    assert_eq!(fs::read(archive.join("a/1/x")).unwrap(), b"some content ".repeat(1000));
    assert_eq!(fs::read(archive.join("a/1/empty")).unwrap(), b"");
    assert_eq!(fs::read_link(archive.join("a/1/z")).unwrap().to_str(), Some("x"));
    assert!(archive.join("a/1/y").is_dir());
    let found = fs::metadata(archive.join("a/1/x")).unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec()), (STAMP, 123_456_789));
    assert_eq!(found.permissions().mode() & 0o7777, 0o555);
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_deep_tree_arrives_as_it_was() {
    let site = Site::new();
    let mut host = site.host();
    let mut told = Told::in_full("a/1");
    // Folders and files before the way down, and files on the way up.
    let at = |depth: usize, name: &str| "f/".repeat(depth) + name;
    const DEPTH: usize = 12;
    for depth in 0..DEPTH {
        told = told.whole(&at(depth, "e"), format!("down {depth}").as_bytes());
        told.parts = told.parts.folder(at(depth, "f"));
    }
    for depth in (0..DEPTH).rev() {
        told = told.whole(&at(depth, "fg"), format!("beside {depth}").as_bytes());
        told = told.whole(&at(depth, "x"), format!("up {depth}").as_bytes());
    }
    host.send_in_full(&told);
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    for depth in 0..DEPTH {
        for (name, word) in [("e", "down"), ("fg", "beside"), ("x", "up")] {
            let found = fs::read_to_string(site.archive().join("a/1").join(at(depth, name)));
            assert_eq!(found.unwrap(), format!("{word} {depth}"));
        }
    }
}

#[test]
fn content_that_does_not_keep_its_seal_is_refused() {
    let mut lying = told();
    lying.seals = Some(vec![Digest([7; 32])]);
    let refusal = refused(&lying, &lying.plain_in_full());
    assert_eq!(refusal.mend, Mend::Later);
    assert!(refusal.reason.starts_with("a/1: its files are not what they were"), "{}", refusal.reason);
}

#[test]
fn what_ends_too_early_or_goes_on_too_long_is_refused() {
    let told = told();
    let plain = told.plain_in_full();
    for length in [0, 3, 60, 500, plain.len() - 33, plain.len() - 1] {
        let refusal = refused(&told, &plain[..length]);
        assert!(refusal.reason.contains("it ends in the middle of"), "{length}: {}", refusal.reason);
    }
    let refusal = refused(&told, &[&plain[..], b"x"].concat());
    assert_eq!(refusal.reason, "a/1: it carries more than its manifest announces");
}

#[test]
fn a_manifest_without_the_stamp_is_refused() {
    let mut other = told();
    for entry in &mut other.parts.manifest.entries {
        entry.modified.seconds += 1;
    }
    let refusal = refused(&other, &other.plain_in_full());
    assert!(refusal.reason.contains("it was announced with the stamp"), "{}", refusal.reason);
    let mut without = told();
    without.parts.manifest.entries.retain(|entry| entry.path != b"descpkg");
    let refusal = refused(&without, &without.plain_in_full());
    assert_eq!(refusal.reason, "a/1: it has no descpkg");
}

#[test]
fn what_came_of_a_large_one_is_kept() {
    let site = Site::new();
    let told = Told::in_full("a/1").whole("x", &vec![b'x'; LARGE]);
    let mut host = site.host();
    host.begin_in_full(&told);
    host.bytes(&told.plain_in_full()[..LARGE]);
    host.end();
    let mut host = site.host();
    match host.next() {
        Some(ToHost::Partial(partial)) => assert_eq!(partial[0].id, common::id("a/1")),
        other => panic!("nothing is kept: {other:?}"),
    }
    // In full once more, it does not need it.
    host.send_in_full(&told);
    assert_eq!(host.outcome(), NEW);
    assert_eq!(host.done().code, Some(0));
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_session_of_an_older_protocol_has_neither_them_nor_large_windows() {
    let older = |act: &dyn Fn(&mut Host)| {
        let site = Site::new();
        let mut host = site.connect();
        host.hello(HostHello { protocol: 2, ..host_hello() });
        assert!(matches!(host.next(), Some(ToHost::Hello(hello)) if hello.protocol == 2));
        act(&mut host);
        let ended = host.end();
        ended.failed().map(|refusal| refusal.reason.clone()).unwrap_or_default()
    };
    let reason = older(&|host| {
        host.send_in_full(&told());
    });
    assert!(reason.contains("what this session's protocol does not have"), "{reason}");
    let reason = older(&|host| {
        let pack = common::pack::Parts::described("a/1").entry("y", 0o755, Kind::Folder).pack();
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log_max(2) + 1).unwrap();
        encoder.write_all(&pack.plain).and_then(|()| encoder.flush()).unwrap();
        host.begin(&pack);
        host.raw(&frame::data(encoder.get_ref()));
    });
    assert!(reason.contains("the packed stream is broken"), "{reason}");
}

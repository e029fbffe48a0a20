//! What a target machine can hold against a package: rights, room, limits. One package
//! is refused, with what a person would do about it; the session goes on.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use blat_target::message::{Mend, Outcome, Refusal};
use common::pack::{Pack, Parts};
use common::{Host, Site};

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
    let mut host = on_a_small_disk(&site);
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

/// A session on an archive that has 1 MiB; what is left in it at the end is listed on stderr.
fn on_a_small_disk(site: &Site) -> Host {
    let lines = "mount -t tmpfs -o size=1m,mode=777 none \"$HOME/dpkg_archive\" && \
                 \"$0\" serve; code=$?; cd \"$HOME/dpkg_archive\" && find . >&2; exit $code";
    let mut command = Command::new("unshare");
    // Whoever is not root becomes it in a user namespace.
    let spaces = if common::is_root() { "--mount" } else { "--map-root-user" };
    command.args([spaces, "--mount", "/bin/sh", "-c", lines]).arg(site.helper());
    command.env("HOME", site.path("home"));
    let tried = Command::new("unshare").args([spaces, "--mount", "true"]).status();
    assert!(
        tried.is_ok_and(|status| status.success()),
        "this test mounts a small file system: it needs `unshare` (package util-linux) and root or user namespaces"
    );
    Host::start(command)
}

//! Hostile streams: each is refused with its reason, touches nothing outside of its
//! staging, and leaves nothing.

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use blat_target::frame::{self, MAGIC};
use blat_target::manifest::{Kind, MANIFEST_MAX};
use blat_target::message::{
    Digest, HostHello, Mend, Outcome, PROTOCOL, PackageHead, Refusal, Standing, ToTarget, window_log_max,
};
use blat_target::stamp::Stamp;
use common::pack::{Pack, Parts, STAMP, append};
use common::{Ended, Host, Site, tree};
use tar::EntryType;

/// What may change of an archive in which everything was refused: the times of its own
/// folders, and blat's own folder, which comes into being.
fn snapshot(site: &Site) -> Vec<tree::Found> {
    let working = ["home", "home/dpkg_archive", "home/dpkg_archive/a"];
    let own = b"home/dpkg_archive/.dpkg_archive";
    tree::snapshot(&site.path(""), &working)
        .into_values()
        .filter(|found| !found.path.starts_with(own))
        .collect()
}

/// An archive with a version in it, and something outside that must not be touched.
fn site() -> Site {
    let site = Site::new();
    site.send(&[Parts::described("a/0").file("x", b"old").pack()]);
    let outside = site.folder("outside");
    fs::write(outside.join("file"), "kept").unwrap();
    site.give(&outside.join("file"));
    site
}

/// Sends a package that must be refused; an honest one after it must arrive.
fn refused(pack: &Pack) -> Refusal {
    let site = site();
    let before = snapshot(&site);
    let mut host = site.host();
    host.send(pack);
    let Outcome::Refused(refusal) = host.outcome() else { panic!("it was taken") };
    assert_untouched(&site, &before);
    let honest = Parts::described("good/1").pack();
    host.send(&honest);
    assert_eq!(host.outcome(), Outcome::Committed { replaced: false });
    let ended = host.done();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(site.leftovers().is_empty(), "{:?}", site.leftovers());
    refusal
}

fn assert_untouched(site: &Site, before: &[tree::Found]) {
    let after = snapshot(site);
    assert_eq!(before, after.as_slice());
    let staging = site.leftovers().into_iter().filter(|path| !path.to_string_lossy().contains("/sessions/"));
    assert_eq!(staging.count(), 0, "staging is left");
}

fn says(refusal: &Refusal, text: &str) {
    assert!(refusal.reason.contains(text), "{:?} does not say {text:?}", refusal.reason);
    assert_eq!(refusal.mend, Mend::Person);
    assert!(!refusal.reason.contains('\n'));
}

/// Lets a host do what ends the session; it must be told why, if it still listens.
fn fatal<T>(act: impl FnOnce(&mut Host) -> T) -> Ended {
    let site = site();
    let before = snapshot(&site);
    let mut host = site.host();
    act(&mut host);
    let ended = host.end();
    assert_untouched(&site, &before);
    assert!(site.leftovers().is_empty(), "{:?}", site.leftovers());
    ended
}

fn fails(ended: &Ended, text: &str) {
    says(ended.failed().unwrap_or_else(|| panic!("{ended:?}")), text);
    assert_eq!(ended.code, Some(78));
}

#[test]
fn escaping_paths_are_refused() {
    for path in ["../escape", "..", "/tmp/escape", "f/../../escape", "f//x", "f/", "./x", "f/\0"] {
        let pack = Parts::described("a/1").folder("f").file(path, b"x").pack();
        says(&refused(&pack), "is absolute, climbs, or has an empty");
    }
}

#[test]
fn escaping_paths_in_the_tar_are_refused() {
    for path in ["../escape", "/tmp/escape", "f/../descpkg"] {
        let mut parts = Parts::new("a/1").entry("descpkg", 0o644, Kind::File { size: 5, digest: None });
        parts = parts.carried(path, EntryType::Regular, b"about");
        says(&refused(&parts.pack()), "where its manifest announces \"descpkg\"");
    }
}

#[test]
fn entries_below_a_symlink_are_refused() {
    let pack = Parts::described("a/1").symlink("out", b"../../../outside").file("out/file", b"x").pack();
    says(&refused(&pack), "is not below a folder that was announced before it");
}

#[test]
fn a_symlink_and_a_folder_of_one_name_are_refused() {
    let pack = Parts::described("a/1").symlink("out", b"../../../outside").folder("out").pack();
    says(&refused(&pack), "comes twice, or not in its order");
}

#[test]
fn symlinks_are_made_but_never_followed() {
    let site = site();
    let parts = Parts::described("a/1").symlink("out", b"../../../outside/file");
    let before = tree::walk(&site.path("outside"));
    assert_eq!(site.send(&[parts.pack()]), [Outcome::Committed { replaced: false }]);
    assert_eq!(tree::walk(&site.path("outside")), before);
    assert!(site.archive().join("a/1/out").is_symlink());
}

#[test]
fn a_symlink_in_place_of_the_package_folder_is_not_followed() {
    let site = site();
    symlink(site.path("outside"), site.archive().join("out")).unwrap();
    let before = snapshot(&site);
    let mut host = site.host();
    assert_eq!(host.query(&["out/1"]), [Standing::Other]);
    host.send(&Parts::described("out/1").pack());
    let Outcome::Refused(refusal) = host.outcome() else { panic!() };
    says(&refusal, "a symlink stands where a folder must be: remove it");
    host.link("out/now", b"1");
    let Outcome::Refused(refusal) = host.outcome() else { panic!() };
    says(&refusal, "a symlink stands where a folder must be: remove it");
    assert_eq!(host.done().code, Some(0));
    assert_untouched(&site, &before);
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_symlink_in_place_of_our_own_folder_is_not_followed() {
    for name in [".dpkg_archive", ".dpkg_archive/sessions"] {
        let site = Site::new();
        let outside = site.folder("outside");
        if let Some(parent) = std::path::Path::new(name).parent() {
            fs::create_dir_all(site.archive().join(parent)).unwrap();
        }
        symlink(&outside, site.archive().join(name)).unwrap();
        // As if a dead session had been on record there.
        fs::write(outside.join("1-1"), "a/.blat-1-1-0\n").unwrap();
        site.give(&outside.join("1-1"));
        let before = snapshot(&site);
        let mut host = site.host();
        host.send(&Parts::described("a/1").pack());
        let ended = host.end();
        fails(&ended, "a symlink stands where a folder must be: remove it");
        assert_untouched(&site, &before);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}

#[test]
fn a_symlink_in_place_of_the_version_is_replaced_not_followed() {
    let site = site();
    symlink(site.path("outside"), site.archive().join("a/1")).unwrap();
    let before = tree::walk(&site.path("outside"));
    let outcomes = site.send(&[Parts::described("a/1").file("file", b"new").pack()]);
    assert_eq!(outcomes, [Outcome::Committed { replaced: true }]);
    assert_eq!(tree::walk(&site.path("outside")), before);
    assert!(site.leftovers().is_empty());
}

#[test]
fn devices_and_other_kinds_are_refused() {
    use EntryType::*;
    for kind in [Char, Block, Fifo, Symlink, Link, Directory, Continuous, XGlobalHeader] {
        let mut parts = Parts::new("a/1").entry("descpkg", 0o644, Kind::File { size: 0, digest: None });
        parts = parts.carried("descpkg", kind, b"");
        says(&refused(&parts.pack()), "it carries \"descpkg\" as something else than a regular file");
    }
}

#[test]
fn sparse_files_are_refused() {
    let mut parts = Parts::new("a/1").entry("descpkg", 0o644, Kind::File { size: 0, digest: None });
    parts = parts.carried("descpkg", EntryType::GNUSparse, b"");
    says(&refused(&parts.pack()), "its tar is broken");
}

#[test]
fn a_hard_link_to_what_is_outside_is_refused() {
    let mut parts = Parts::described("a/1").entry("file", 0o644, Kind::File { size: 0, digest: None });
    let mut header = tar::Header::new_gnu();
    header.set_path("file").unwrap();
    header.set_link_name("../../../outside/file").unwrap();
    header.set_entry_type(EntryType::Link);
    header.set_size(0);
    header.set_cksum();
    parts.tar.extend_from_slice(header.as_bytes());
    says(&refused(&parts.pack()), "it carries \"file\" as something else than a regular file");
}

#[test]
fn set_id_bits_are_refused() {
    for mode in [0o4755, 0o2755, 0o6777, 0o100644] {
        let mut parts = Parts::described("a/1").file("tool", b"#!");
        parts.manifest.entries[2].mode = mode;
        says(&refused(&parts.pack()), "only permission bits may travel");
    }
}

#[test]
fn duplicates_are_refused() {
    let pack = Parts::described("a/1").file("x", b"one").file("x", b"two").pack();
    says(&refused(&pack), "comes twice, or not in its order");
    let carried = Parts::described("a/1").carried("descpkg", EntryType::Regular, b"about");
    says(&refused(&carried.pack()), "it carries \"descpkg\", which its manifest does not announce there");
}

#[test]
fn a_file_that_is_not_announced_is_refused() {
    let pack = Parts::described("a/1").carried("more", EntryType::Regular, b"x").pack();
    says(&refused(&pack), "it carries \"more\", which its manifest does not announce there");
}

#[test]
fn files_out_of_their_order_are_refused() {
    let mut parts = Parts::described("a/1").file("x", b"x").file("y", b"y");
    parts.tar.clear();
    for (path, content) in [(&b"descpkg"[..], &b"about"[..]), (b"y", b"y"), (b"x", b"x")] {
        append(&mut parts.tar, path, EntryType::Regular, content);
    }
    says(&refused(&parts.pack()), "it carries \"y\" where its manifest announces \"x\"");
}

#[test]
fn missing_files_are_refused() {
    let parts = Parts::described("a/1").entry("x", 0o644, Kind::File { size: 1, digest: None });
    says(&refused(&parts.pack()), "the file \"x\" is missing from it");
}

#[test]
fn size_lies_are_refused() {
    for (announced, carried) in [(3, &b"more than three"[..]), (100, b"less"), (0, b"some"), (u64::MAX, b"x")]
    {
        let kind = Kind::File { size: announced, digest: None };
        // The total may not overflow either: that is the manifest's own rule.
        let parts = Parts::new("a/1").entry("descpkg", 0o644, kind);
        let pack = parts.carried("descpkg", EntryType::Regular, carried).pack();
        says(&refused(&pack), &format!("was announced with {announced} bytes, but has {}", carried.len()));
    }
}

#[test]
fn sizes_beyond_counting_are_refused() {
    let huge = || Kind::File { size: u64::MAX, digest: None };
    let pack = Parts::described("a/1").entry("x", 0o644, huge()).entry("y", 0o644, huge()).pack();
    says(&refused(&pack), "add up to more than a number can hold");
}

#[test]
fn a_size_that_the_tar_hides_in_an_extension_is_refused() {
    let mut parts = Parts::new("a/1").entry("descpkg", 0o644, Kind::File { size: 5, digest: None });
    parts = parts.carried("pax", EntryType::XHeader, b"14 size=500000\n");
    parts = parts.carried("descpkg", EntryType::Regular, b"about");
    let refusal = refused(&parts.pack());
    assert!(!refusal.reason.is_empty());
}

#[test]
fn an_endless_extension_header_is_refused() {
    let parts = Parts::described("a/1").entry("huge", 0o644, Kind::File { size: 1 << 40, digest: None });
    let pack = parts.carried("x", EntryType::GNULongName, &vec![b'x'; 1 << 20]).pack();
    says(&refused(&pack), "it carries more than its manifest announces");
}

#[test]
fn digest_lies_are_refused() {
    let mut after = Parts::described("a/1").file("x", b"content");
    after.digests[1][31] ^= 1;
    says(&refused(&after.pack()), "the content of \"x\" is not what its digest says");

    let mut before = Parts::described("a/1").file("x", b"content");
    before.manifest.entries[2].kind = Kind::File { size: 7, digest: Some(Digest([7; 32])) };
    before.digests.pop();
    says(&refused(&before.pack()), "the content of \"x\" is not what its digest says");
}

#[test]
fn missing_digests_are_refused() {
    let mut parts = Parts::described("a/1").file("x", b"content");
    parts.digests.pop();
    says(&refused(&parts.pack()), "it ends in the middle of its digests");
}

#[test]
fn a_missing_descpkg_is_refused() {
    says(&refused(&Parts::new("a/1").file("x", b"x").pack()), "it has no descpkg");
    says(&refused(&Parts::new("a/1").folder("f").file("f/descpkg", b"x").pack()), "it has no descpkg");
    says(&refused(&Parts::new("a/1").folder("descpkg").pack()), "its descpkg is not a regular file");
    says(&refused(&Parts::new("a/1").symlink("descpkg", b"x").pack()), "its descpkg is not a regular file");
}

#[test]
fn a_stamp_lie_is_refused() {
    let mut parts = Parts::described("a/1");
    parts.stamp = Stamp(STAMP + 1);
    let lie = format!("announced with the stamp {}, but its descpkg has {STAMP}", STAMP + 1);
    says(&refused(&parts.pack()), &lie);
}

#[test]
fn trailing_data_is_refused() {
    for tail in [&b"x"[..], &[0; 512], &[7; 9000]] {
        let pack = Parts::described("a/1").pack_with_tail(tail);
        says(&refused(&pack), "it carries more than its manifest announces");
    }
}

#[test]
fn an_unreadable_manifest_is_refused() {
    let mut pack = Parts::described("a/1").pack();
    pack.plain[0] = 0xff;
    says(&refused(&pack), "the manifest");
    let mut pack = Parts::described("a/1").pack();
    pack.manifest_length -= 1;
    says(&refused(&pack), "the manifest cannot be read");
    let mut pack = Parts::described("a/1").pack();
    pack.manifest_length = u32::MAX;
    says(&refused(&pack), &format!("longer than the {MANIFEST_MAX} allowed"));
    let mut pack = Parts::described("a/1").pack();
    pack.manifest_length = pack.plain.len() as u32 + 1;
    says(&refused(&pack), "it ends in the middle of its manifest");
}

#[test]
fn a_package_that_is_cut_anywhere_but_closed_is_refused() {
    let pack = Parts::described("a/1").file("x", &[7; 700]).pack();
    let site = site();
    let before = snapshot(&site);
    let mut host = site.host();
    for cut in (0..pack.plain.len()).step_by(37).chain([pack.plain.len() - 1]) {
        host.send(&Pack { plain: pack.plain[..cut].to_vec(), ..pack.clone() });
        let Outcome::Refused(refusal) = host.outcome() else { panic!("cut at {cut}: taken") };
        assert!(refusal.reason.starts_with("a/1: "), "{refusal:?}");
    }
    assert_untouched(&site, &before);
    assert_eq!(host.done().code, Some(0));
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_stream_that_is_cut_anywhere_leaves_nothing() {
    let stream = recorded();
    let site = site();
    let before = snapshot(&site);
    for cut in (0..stream.len()).step_by(stream.len() / 60) {
        let mut host = site.connect();
        host.raw(&stream[..cut]);
        let ended = host.end();
        assert!(matches!(ended.code, Some(64 | 75)), "cut at {cut}: {ended:?}");
        assert!(ended.outcomes().is_empty(), "cut at {cut}: {ended:?}");
        assert_untouched(&site, &before);
        assert!(site.leftovers().is_empty(), "cut at {cut}: {:?}", site.leftovers());
    }
}

/// All that a host sends in a session with one package, but for the package's end.
fn recorded() -> Vec<u8> {
    let pack = Parts::described("a/1").file("x", &[7; 3000]).pack();
    let mut stream = MAGIC.to_vec();
    stream.extend(frame::message(&ToTarget::Hello(common::host_hello())));
    stream.extend(frame::message(&ToTarget::Package(PackageHead {
        number: 0,
        id: pack.id,
        stamp: pack.stamp,
        manifest_length: pack.manifest_length,
    })));
    let packed = zstd::encode_all(&pack.plain[..], 3).unwrap();
    packed.chunks(20).for_each(|piece| stream.extend(frame::data(piece)));
    stream
}

#[test]
fn a_flipped_bit_never_commits_something_else() {
    let stream = recorded();
    for at in (MAGIC.len() + 60..stream.len()).step_by(23) {
        let site = Site::new();
        let mut bent = stream.clone();
        bent[at] ^= 0x10;
        bent.extend(frame::message(&ToTarget::PackageEnd));
        let mut host = site.connect();
        host.raw(&bent);
        let ended = host.end();
        let good = ended.outcomes() == [Outcome::Committed { replaced: false }];
        assert!(!good || fs::read(site.archive().join("a/1/x")).unwrap() == [7; 3000], "bit flipped at {at}");
        assert!(site.leftovers().is_empty(), "bit flipped at {at}: {:?}", site.leftovers());
    }
}

#[test]
fn endless_frames_end_the_session() {
    let ended = fatal(|host| {
        host.begin(&Parts::described("a/1").pack());
        host.raw(&[0xff, 0xff, 0xff, 0xff, 0]);
    });
    fails(&ended, "the peer announced a frame of 4294967295 bytes");
}

#[test]
fn frames_of_unknown_kinds_end_the_session() {
    fails(&fatal(|host| host.raw(&[1, 0, 0, 0, 9, 0])), "a frame of the unknown kind 9");
}

#[test]
fn frames_without_content_without_end_end_the_session() {
    let ended = fatal(|host| {
        host.begin(&Parts::described("a/1").pack());
        while host.raw(&frame::data(&[]).repeat(1000)) {}
    });
    fails(&ended, "the packed stream goes on without carrying anything");
}

#[test]
fn a_stream_that_inflates_to_nothing_ends_the_session() {
    // A frame that decoders skip.
    let mut skipped = 0x184D_2A50u32.to_le_bytes().to_vec();
    skipped.extend(60_000u32.to_le_bytes());
    skipped.resize(60_008, 0);
    let ended = fatal(|host| {
        host.begin(&Parts::described("a/1").pack());
        while host.raw(&frame::data(&skipped)) {}
    });
    fails(&ended, "the packed stream goes on without carrying anything");
}

#[test]
fn a_bomb_ends_the_session() {
    let zeros = vec![0; 1 << 20];
    let ended = fatal(|host| {
        let pack = Parts::described("a/1").pack();
        host.begin(&pack);
        host.bytes(&pack.plain);
        (0..100).all(|_| host.bytes(&zeros));
    });
    assert!(matches!(&ended.outcomes()[..], [Outcome::Refused(refusal)]
        if refusal.reason == "a/1: it carries more than its manifest announces"));
    fails(&ended, "a package that was refused goes on far beyond what was announced");
}

#[test]
fn a_bomb_behind_a_version_that_stands_ends_the_session() {
    let zeros = vec![0; 1 << 20];
    let ended = fatal(|host| {
        let pack = Parts::described("a/0").pack();
        host.begin(&pack);
        host.bytes(&pack.plain);
        (0..100).all(|_| host.bytes(&zeros));
    });
    assert_eq!(ended.outcomes(), [Outcome::Unchanged]);
    fails(&ended, "goes on far beyond what was announced");
}

#[test]
fn a_window_beyond_the_limit_ends_the_session() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log_max(PROTOCOL) + 1).unwrap();
    std::io::Write::write_all(&mut encoder, &Parts::described("a/1").pack().plain).unwrap();
    std::io::Write::flush(&mut encoder).unwrap();
    let packed = encoder.get_ref().clone();
    let ended = fatal(|host| {
        host.begin(&Parts::described("a/1").pack());
        host.raw(&frame::data(&packed));
    });
    fails(&ended, "the packed stream is broken");
}

#[test]
fn a_broken_stream_ends_the_session() {
    let ended = fatal(|host| {
        host.begin(&Parts::described("a/1").pack());
        host.raw(&frame::data(b"this is no zstd"));
    });
    fails(&ended, "the packed stream is broken");
}

#[test]
fn messages_out_of_turn_end_the_session() {
    let in_package = |message: ToTarget| {
        fatal(move |host| {
            host.begin(&Parts::described("a/1").pack());
            host.say(&message);
        })
    };
    for message in
        [ToTarget::Done { sent: 1 }, ToTarget::Query(vec![]), ToTarget::Hello(common::host_hello())]
    {
        fails(&in_package(message), "another message in the middle of a package");
    }
    fails(&fatal(|host| host.say(&ToTarget::PackageEnd)), "a package that it had not begun");
    fails(&fatal(|host| host.raw(&frame::data(b"x"))), "packed bytes outside of a package");
    fails(&fatal(|host| host.say(&ToTarget::Hello(common::host_hello()))), "introduced itself twice");
    fails(&fatal(|host| host.say(&ToTarget::Query(vec![common::id("a/1"); 1001]))), "more than 1000 places");
    fails(&fatal(|host| host.raw(&[3, 0, 0, 0, 1, 9, 9, 9])), "a message that cannot be read");
}

#[test]
fn names_that_are_paths_end_the_session() {
    for (package, version) in
        [("..", "1"), ("a", ".."), ("a/b", "1"), ("/etc", "1"), (".hidden", "1"), ("a", "")]
    {
        let mut message = vec![2, 0];
        for name in [package, version] {
            message.push(name.len() as u8);
            message.extend(name.as_bytes());
        }
        message.extend([0, 0]);
        let mut raw = vec![message.len() as u8, 0, 0, 0, 1];
        raw.extend(message);
        fails(&fatal(|host| host.raw(&raw)), "a message that cannot be read");
    }
}

#[test]
fn miscounts_end_the_session() {
    fails(&fatal(|host| host.say(&ToTarget::Done { sent: 3 })), "it sent 3 packages and links, but 0 came");
    let link = |number| ToTarget::Link {
        modified: common::LINK_TIME,
        number,
        id: blat_target::package::PackageVersion::new("a", "b").unwrap(),
        text: b"..".into(),
    };
    let ended = fatal(|host| {
        host.say(&link(7));
        host.say(&link(7));
    });
    fails(&ended, "the host sent number 7, which is not above those before");
}

#[test]
fn unknown_protocols_are_told_apart() {
    for protocol in [0, PROTOCOL + 1, u16::MAX] {
        let site = Site::new();
        let mut host = site.connect();
        host.hello(HostHello { protocol, ..common::host_hello() });
        let ended = host.end();
        fails(&ended, &format!("the host speaks protocol {protocol}, but the helper on the target"));
    }
    // A hello that has more to say than this build knows.
    let site = Site::new();
    let mut host = site.connect();
    host.raw(MAGIC);
    host.raw(&[7, 0, 0, 0, 1, 0, 99, 0xff, 0xff, 0xff, 0xff, 0xff]);
    fails(&host.end(), "the host speaks protocol 99");
}

#[test]
fn strangers_are_told_what_this_is() {
    for typed in [&b"ls -l\nexit\n"[..], b"SSH-2.0-OpenSSH_9.2\r\n", b"\0blat\r\n\x1b"] {
        let site = Site::new();
        let mut host = site.connect();
        host.raw(typed);
        let ended = host.end();
        assert_eq!((ended.code, ended.heard.len()), (Some(64), 0));
        assert!(ended.stderr.contains("this speaks blat's protocol"), "{ended:?}");
    }
}

#[test]
fn an_archive_that_cannot_be_used_is_named_with_its_mend() {
    let attempt = |site: &Site, archive: &str| {
        let mut host = site.connect();
        host.hello(HostHello { archive: archive.into(), ..common::host_hello() });
        let ended = host.end();
        assert_eq!(ended.code, Some(78));
        ended.failed().unwrap().clone()
    };
    let site = Site::new();
    let path = site.path("home/missing").display().to_string();
    says(
        &attempt(&site, "missing"),
        &format!("there is no archive {path} on the target; make it with `mkdir -p {path}`"),
    );
    fs::write(site.path("home/file"), "").unwrap();
    says(&attempt(&site, "file"), "is not a folder");
    says(&attempt(&site, ""), "is no path of an archive");
    fs::create_dir(site.path("home/foreign")).unwrap();
    if common::is_root() {
        says(&attempt(&site, "foreign"), "could not write to the archive");
    }
}

//! The listing of an archive, and the PackageList that is laid down in it.

mod common;

use std::fs;

use blat_target::listing::{Listing, Stands, chunk};
use blat_target::message::{Digest, Listed, Mend, Outcome, ToHost, ToTarget};
use blat_target::stamp::Stamp;
use common::pack::Parts;
use common::{Host, Site};

/// Asks for the listing: what came of it, and its end.
fn list(host: &mut Host, known: Option<Digest>) -> (Listing, Listed, usize) {
    host.say(&ToTarget::List { known });
    let mut reader = chunk::Reader::default();
    let mut bytes = 0;
    loop {
        match host.next() {
            Some(ToHost::Listing(packed)) => {
                bytes += packed.len();
                reader.chunk(&zstd::bulk::decompress(&packed, chunk::CHUNK_MAX).unwrap()).unwrap();
            }
            Some(ToHost::Listed(end)) => return (reader.finish(), end, bytes),
            other => panic!("{other:?}"),
        }
    }
}

fn put_list(host: &mut Host, text: &[u8], digest: Digest) -> Outcome {
    let number = host.number();
    host.say(&ToTarget::PackageList { number, length: text.len() as u64, digest });
    host.bytes(text);
    host.say(&ToTarget::PackageEnd);
    host.outcome()
}

fn digest(text: &[u8]) -> Digest {
    Digest(*blake3::hash(text).as_bytes())
}

#[test]
fn a_listing_tells_versions_links_and_what_is_neither() {
    let site = Site::new();
    site.send(&[Parts::described("a/1").pack(), Parts::described("b/1").pack()]);
    let mut host = site.host();
    host.link("a/now", b"1");
    site.folder("home/dpkg_archive/b/empty");
    site.folder("home/dpkg_archive/b/.hidden");
    assert_eq!(host.outcome(), Outcome::Committed { replaced: false });
    let (listing, end, _) = list(&mut host, None);
    let found: Vec<_> = listing.iter().map(|entry| (entry.package, entry.version)).collect();
    assert_eq!(found, [("a", "1"), ("a", "now"), ("b", "1"), ("b", "empty")]);
    assert_eq!(listing.get("a", "now"), Some(Stands::Link(b"1")));
    assert!(matches!(listing.get("a", "1"), Some(Stands::Version(Stamp(_)))));
    assert_eq!(listing.get("b", "empty"), Some(Stands::Other));
    assert_eq!((end.digest, end.passed_over_count), (Digest(listing.digest()), 0));
    assert_eq!(host.done().code, Some(0));
}

#[test]
fn an_unchanged_archive_answers_with_its_digest_alone() {
    let site = Site::new();
    let packs: Vec<_> = (0..50).map(|n| Parts::described(&format!("p/{n}")).pack()).collect();
    site.send(&packs);
    let mut host = site.host();
    let (listing, end, bytes) = list(&mut host, None);
    assert!(listing.len() == 50 && bytes > 0);
    let (listing, again, bytes) = list(&mut host, Some(end.digest));
    assert!(listing.is_empty() && bytes == 0 && again.digest == end.digest);
}

#[test]
fn the_package_list_is_replaced_as_a_whole() {
    let site = Site::new();
    let mut host = site.host();
    assert_eq!(list(&mut host, None).1.package_list, None);
    for text in [&b"a 1 5\n"[..], b"", b"a 2 6\nb 1 7\n"] {
        assert_eq!(put_list(&mut host, text, digest(text)), Outcome::Committed { replaced: true });
        assert_eq!(fs::read(site.archive().join(".dpkg_archive/package_list.txt")).unwrap(), text);
        assert_eq!(list(&mut host, None).1.package_list, Some(digest(text)));
    }
    let ended = host.done();
    assert_eq!(ended.heard.last(), Some(&ToHost::Done { committed: 3, unchanged: 0, refused: 0 }));
}

#[test]
fn a_package_list_that_lies_leaves_the_old_one() {
    let site = Site::new();
    let mut host = site.host();
    put_list(&mut host, b"old", digest(b"old"));
    let Outcome::Refused(refusal) = put_list(&mut host, b"new", digest(b"other")) else { panic!() };
    assert_eq!(refusal.mend, Mend::Person);
    let number = host.number();
    host.say(&ToTarget::PackageList { number, length: 2, digest: digest(b"long") });
    host.bytes(b"long");
    host.say(&ToTarget::PackageEnd);
    assert!(matches!(host.outcome(), Outcome::Refused(_)));
    assert_eq!(host.done().code, Some(0));
    let own = site.archive().join(".dpkg_archive");
    assert_eq!(fs::read(own.join("package_list.txt")).unwrap(), b"old");
    let names = fs::read_dir(own).unwrap().map(|item| item.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.as_encoded_bytes().starts_with(b".")), "a draft is left");
}

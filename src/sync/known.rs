//! The listing that is remembered between runs, so that a target which did not change answers
//! with its digest alone.
//!
//! It is advice: a file that is missing, broken or stale costs one full listing. In it each chunk
//! stands after its length (32 bits, little-endian).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use blat_target::listing::{Entry, Listing, ListingError, Stands, chunk};
use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;

use crate::places::keep;

/// Reads the remembered listing; an empty one where there is none that can be read.
pub(crate) fn read(path: &Path) -> Listing {
    fs::read(path).ok().and_then(|bytes| parse(&bytes)).unwrap_or_default()
}

fn parse(mut bytes: &[u8]) -> Option<Listing> {
    let mut reader = chunk::Reader::default();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let (chunk, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        reader.chunk(chunk).ok()?;
        bytes = rest;
    }
    Some(reader.finish())
}

/// Remembers a listing.
pub(crate) fn write(path: &Path, listing: &Listing) -> io::Result<()> {
    let mut bytes = Vec::new();
    for chunk in listing.chunks() {
        bytes.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&chunk);
    }
    keep(path, &bytes)
}

/// What a run put in a place of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Version(Stamp),
    Link(Vec<u8>),
}

/// The listing without what does not stand there any more.
pub(super) fn without(before: &Listing, gone: &BTreeSet<PackageVersion>) -> Result<Listing, ListingError> {
    let mut after = Listing::default();
    let mut gone = gone.iter().map(|id| (id.package.as_str(), id.version.as_str())).peekable();
    for entry in before.iter() {
        let name = (entry.package, entry.version);
        while gone.next_if(|gone| *gone < name).is_some() {}
        if gone.peek() != Some(&name) {
            after.push(entry)?;
        }
    }
    Ok(after)
}

/// The listing as it is after a run put these in their places.
pub(super) fn after(before: &Listing, mut put: Vec<(PackageVersion, Put)>) -> Result<Listing, ListingError> {
    put.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut after = Listing::default();
    let mut old = before.iter().peekable();
    for (id, put) in &put {
        let names = (id.package.as_str(), id.version.as_str());
        while let Some(entry) = old.next_if(|entry| (entry.package, entry.version) < names) {
            after.push(entry)?;
        }
        old.next_if(|entry| (entry.package, entry.version) == names);
        let stands = match put {
            Put::Version(stamp) => Stands::Version(*stamp),
            Put::Link(text) => Stands::Link(text),
        };
        after.push(Entry { package: names.0, version: names.1, stands })?;
    }
    old.try_for_each(|entry| after.push(entry))?;
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let mut listing = Listing::default();
        for version in names {
            listing.push(Entry { package: "core", version, stands: Stands::Version(Stamp(1)) }).unwrap();
        }
        listing
    }

    #[test]
    fn what_is_remembered_is_what_was_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listing");
        assert!(read(&path).is_empty());
        let listing = listing(&["1", "2", "3"]);
        write(&path, &listing).unwrap();
        assert_eq!(read(&path).digest(), listing.digest());
        fs::write(&path, b"\xff\xff\xff\xffnoise").unwrap();
        assert!(read(&path).is_empty());
    }

    #[test]
    fn what_is_gone_is_not_in_the_listing_any_more() {
        let gone = ["0", "2", "9"].map(|version| PackageVersion::new("core", version).unwrap());
        let after = without(&listing(&["1", "2", "3"]), &gone.into()).unwrap();
        assert_eq!(after.iter().map(|entry| entry.version.to_owned()).collect::<Vec<_>>(), ["1", "3"]);
    }

    #[test]
    fn what_was_put_is_in_the_listing_after() {
        let put = |version: &str, put| (PackageVersion::new("core", version).unwrap(), put);
        let puts = vec![put("3", Put::Link(b"2".into())), put("2", Put::Version(Stamp(7)))];
        let after = after(&listing(&["1", "2", "4"]), puts).unwrap();
        let versions: Vec<_> = after.iter().map(|entry| entry.version.to_owned()).collect();
        assert_eq!(versions, ["1", "2", "3", "4"]);
        assert_eq!(after.get("core", "2"), Some(Stands::Version(Stamp(7))));
        assert_eq!(after.get("core", "3"), Some(Stands::Link(b"2")));
    }
}

//! The PackageList: what a target should have, for whoever reads it there.
//!
//! One line `PACKAGE VERSION STAMP` for each member of the current set that the source archive
//! has, sorted by bytes. The stamp of a link is that of the package-version that it leads to. A member that
//! cannot be looked at now, as where the archive's file server is gone, has not left the archive: its line stays,
//! with the stamp that stands on the target.

use std::io::Write;

use blat_target::listing::{Listing, Stands};
use blat_target::package::{PackageVersion, link_target};
use blat_target::stamp::Stamp;

use super::current_set::{CurrentSet, LINKS_MAX, Seen};

/// The list as it is to stand in the `.dpkg_archive/package_list.txt` of the target that has `listing`.
pub fn package_list(set: &CurrentSet, listing: &Listing) -> Vec<u8> {
    let mut list = Vec::with_capacity(set.len() * 32);
    for (place, member) in set.iter().enumerate() {
        if let Some(stamp) = stamp(set, listing, place) {
            writeln!(list, "{} {} {stamp}", member.package, member.version).expect("memory takes all");
        }
    }
    list
}

fn stamp(set: &CurrentSet, listing: &Listing, mut place: usize) -> Option<Stamp> {
    for _ in 0..=LINKS_MAX {
        let member = set.at(place);
        match member.seen {
            Seen::Version { stamp, .. } => return Some(stamp),
            Seen::Unreadable(_) => return standing(listing, member.id()),
            _ => {}
        }
        let addressed = member.addresses()?;
        place = set.place(addressed.package.as_str(), addressed.version.as_str())?;
    }
    None
}

/// The stamp of what stands on the target in this place, or is led to from there.
fn standing(listing: &Listing, mut id: PackageVersion) -> Option<Stamp> {
    for _ in 0..=LINKS_MAX {
        match listing.get(id.package.as_str(), id.version.as_str())? {
            Stands::Version(stamp) => return Some(stamp),
            Stands::Link(text) => id = link_target(&id, text).ok()?,
            Stands::Other => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use blat_target::listing::Entry;

    use super::*;
    use crate::archive::Found;
    use crate::sync::rows::{Reason, Rows};

    #[test]
    fn lines_are_sorted_by_bytes_and_links_have_the_stamp_they_lead_to() {
        let mut rows = Rows::default();
        for (package, version) in
            [("b", "1"), ("a.b", "1"), ("a", "10"), ("a", "x"), ("a", "gone"), ("a", "1!")]
        {
            rows.add(package, version, Reason::Packages).unwrap();
        }
        let set = CurrentSet::gather(rows, |id| {
            Ok(match id.version.as_str() {
                "x" => Found::Link(b"1".to_vec()),
                "gone" => Found::Absent("gone"),
                version => Found::Version { stamp: Stamp(version.len() as i64), writable_since: None },
            })
        });
        let text = String::from_utf8(package_list(&set.unwrap(), &Listing::default())).unwrap();
        assert_eq!(text, "a 1 1\na 1! 2\na 10 2\na x 1\na.b 1 1\nb 1 1\n");
        let mut sorted: Vec<_> = text.lines().collect();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(text.lines()));
    }

    #[test]
    fn what_cannot_be_looked_at_keeps_its_line_with_the_stamp_on_the_target() {
        let mut rows = Rows::default();
        for version in ["1", "2", "3", "fresh", "last", "old"] {
            rows.add("a", version, Reason::Packages).unwrap();
        }
        let set = CurrentSet::gather(rows, |id| match id.version.as_str() {
            "1" => Ok(Found::Version { stamp: Stamp(10), writable_since: None }),
            "last" => Ok(Found::Link(b"3".to_vec())),
            _ => Err(io::Error::other("the file server is gone")),
        });
        let mut listing = Listing::default();
        let stands = [
            ("1", Stands::Version(Stamp(1))),
            ("2", Stands::Other),
            ("3", Stands::Version(Stamp(3))),
            ("old", Stands::Link(b"3")),
        ];
        for (version, stands) in stands {
            listing.push(Entry { package: "a", version, stands }).unwrap();
        }
        let text = String::from_utf8(package_list(&set.unwrap(), &listing)).unwrap();
        assert_eq!(text, "a 1 10\na 3 3\na last 3\na old 3\n");
    }
}

//! The PackageList: what a target should have, for whoever reads it there.
//!
//! One line `PACKAGE VERSION STAMP` for each member of the current set that the source archive
//! has, sorted by bytes. The stamp of a link is that of the package-version that it leads to.

use std::io::Write;

use blat_target::stamp::Stamp;

use super::current_set::{CurrentSet, LINKS_MAX, Seen};

/// The list as it is to stand in the target's `.dpkg_archive/package_list.txt`.
pub fn package_list(set: &CurrentSet) -> Vec<u8> {
    let mut list = Vec::with_capacity(set.len() * 32);
    for (place, member) in set.iter().enumerate() {
        if let Some(stamp) = stamp(set, place) {
            writeln!(list, "{} {} {stamp}", member.package, member.version).expect("memory takes all");
        }
    }
    list
}

fn stamp(set: &CurrentSet, mut place: usize) -> Option<Stamp> {
    for _ in 0..=LINKS_MAX {
        let member = set.at(place);
        if let Seen::Version { stamp, .. } = member.seen {
            return Some(stamp);
        }
        let addressed = member.addresses()?;
        place = set.place(addressed.package.as_str(), addressed.version.as_str())?;
    }
    None
}

#[cfg(test)]
mod tests {
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
        let text = String::from_utf8(package_list(&set.unwrap())).unwrap();
        assert_eq!(text, "a 1 1\na 1! 2\na 10 2\na x 1\na.b 1 1\nb 1 1\n");
        let mut sorted: Vec<_> = text.lines().collect();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(text.lines()));
    }
}

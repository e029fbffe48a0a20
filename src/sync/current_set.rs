//! The current set: the package-versions that a target should have, why each is in it, and what
//! the source archive has in its place.
//!
//! Rows come in, and a sorted set comes out. A link brings what it addresses. The archive is read
//! through the function that is handed in, once for each member, and nothing else is.

use std::io;
use std::time::SystemTime;

use blat_target::names::{Names, Span, TooMany};
use blat_target::package::{PackageVersion, link_target};
use blat_target::stamp::Stamp;

use super::rows::{Reason, Row, Rows, order};
use crate::archive::Found;

/// How many links may lead to a package-version.
pub const LINKS_MAX: usize = 8;

/// Sorted by the bytes of package and version, each member once.
#[derive(Clone, Debug, Default)]
pub struct CurrentSet {
    names: Names,
    rows: Vec<Row>,
    members: Vec<Kept>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    package: Span,
    version: Span,
    /// Where in the rows its own begin.
    reasons: u32,
    seen: KeptSeen,
}

#[derive(Clone, Copy, Debug)]
enum KeptSeen {
    Version { stamp: Stamp, writable_since: Option<SystemTime> },
    Link(Span),
    Absent(&'static str),
    Strange(&'static str),
    Unreadable(Span),
}

/// A package-version that a target should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    pub package: &'a str,
    pub version: &'a str,
    pub seen: Seen<'a>,
}

/// What the source archive has in a member's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    Version {
        stamp: Stamp,
        /// Since when it can be written to, if it can.
        writable_since: Option<SystemTime>,
    },
    /// A link with this text.
    Link(&'a [u8]),
    /// Nothing, or nothing whole, and which of both.
    Absent(&'static str),
    /// Something that is no package-version, and what.
    Strange(&'static str),
    /// It could not be looked at, and why.
    Unreadable(&'a str),
}

impl Member<'_> {
    /// Its name as a value of its own.
    pub fn id(&self) -> PackageVersion {
        PackageVersion::new(self.package, self.version).expect("rows have names that were checked")
    }

    /// What it addresses, if it is a link that addresses another version of its package.
    pub fn addresses(&self) -> Option<PackageVersion> {
        match self.seen {
            Seen::Link(text) => link_target(&self.id(), text).ok(),
            _ => None,
        }
    }
}

impl CurrentSet {
    /// Makes the set of rows and of what their links address.
    ///
    /// # Errors
    /// When there are too many names.
    pub fn gather(
        mut rows: Rows,
        mut look: impl FnMut(&PackageVersion) -> io::Result<Found>,
    ) -> Result<Self, TooMany> {
        rows.sort();
        let mut set = Self { names: rows.names, rows: rows.rows, members: Vec::new() };
        let mut places = set.rows.clone();
        places.dedup_by(|a, b| set.name(a) == set.name(b));
        let mut fresh = set.look_at(&places, &mut look)?;
        drop(places);
        set.members.clone_from(&fresh);
        for _ in 0..LINKS_MAX {
            let addressed = set.addressed_by(&fresh)?;
            if addressed.is_empty() {
                break;
            }
            let new = set.not_yet_members(&addressed);
            fresh = set.look_at(&new, &mut look)?;
            set.take(addressed, &fresh);
        }
        set.tie_reasons();
        Ok(set)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All members, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Member<'_>> + Clone {
        self.members.iter().map(|kept| self.member(kept))
    }

    /// The member at this place.
    pub fn at(&self, place: usize) -> Member<'_> {
        self.member(&self.members[place])
    }

    /// The place of a member, if it is one.
    pub fn place(&self, package: &str, version: &str) -> Option<usize> {
        let key = |kept: &Kept| (self.names.text(kept.package), self.names.text(kept.version));
        self.members.binary_search_by(|kept| key(kept).cmp(&(package, version))).ok()
    }

    /// Why the member at this place is in the set: at least one reason, each once.
    pub fn reasons(&self, place: usize) -> impl Iterator<Item = Reason> + '_ {
        let from = self.members[place].reasons as usize;
        let to = self.members.get(place + 1).map_or(self.rows.len(), |next| next.reasons as usize);
        self.rows[from..to].iter().map(|row| row.reason)
    }

    /// The links of the set that address the member at this place.
    pub fn linked_by(&self, place: usize) -> impl Iterator<Item = Member<'_>> + '_ {
        let member = self.at(place);
        let first = self.members.partition_point(|kept| self.names.text(kept.package) < member.package);
        let same = self.members[first..].iter().map(|kept| self.member(kept));
        same.take_while(move |other| other.package == member.package)
            .filter(move |other| other.addresses().is_some_and(|id| id.version.as_str() == member.version))
    }

    fn member(&self, kept: &Kept) -> Member<'_> {
        let seen = match kept.seen {
            KeptSeen::Version { stamp, writable_since } => Seen::Version { stamp, writable_since },
            KeptSeen::Link(text) => Seen::Link(self.names.bytes(text)),
            KeptSeen::Absent(why) => Seen::Absent(why),
            KeptSeen::Strange(why) => Seen::Strange(why),
            KeptSeen::Unreadable(why) => Seen::Unreadable(self.names.text(why)),
        };
        Member { package: self.names.text(kept.package), version: self.names.text(kept.version), seen }
    }

    fn name(&self, row: &Row) -> (&[u8], &[u8]) {
        (self.names.bytes(row.package), self.names.bytes(row.version))
    }

    fn look_at(
        &mut self,
        places: &[Row],
        look: &mut impl FnMut(&PackageVersion) -> io::Result<Found>,
    ) -> Result<Vec<Kept>, TooMany> {
        let mut members = Vec::with_capacity(places.len());
        for row in places {
            let (package, version) = (row.package, row.version);
            let seen = KeptSeen::Absent("");
            let id = self.member(&Kept { package, version, reasons: 0, seen }).id();
            let seen = self.keep(look(&id))?;
            members.push(Kept { package, version, reasons: 0, seen });
        }
        Ok(members)
    }

    fn keep(&mut self, found: io::Result<Found>) -> Result<KeptSeen, TooMany> {
        Ok(match found {
            Ok(Found::Version { stamp, writable_since }) => KeptSeen::Version { stamp, writable_since },
            Ok(Found::Link(text)) => KeptSeen::Link(self.names.add(&text)?),
            Ok(Found::Absent(why)) => KeptSeen::Absent(why),
            Ok(Found::Strange(why)) => KeptSeen::Strange(why),
            Err(why) => KeptSeen::Unreadable(self.names.add(why.to_string().as_bytes())?),
        })
    }

    /// A row for each place that these members address as links; sorted, each once.
    fn addressed_by(&mut self, members: &[Kept]) -> Result<Vec<Row>, TooMany> {
        let mut rows = Vec::new();
        for kept in members {
            let Some(id) = self.member(kept).addresses() else { continue };
            let version = self.names.add(id.version.as_str().as_bytes())?;
            rows.push(Row { package: kept.package, version, reason: Reason::Link });
        }
        rows.sort_by(|a, b| order(&self.names, a, b));
        rows.dedup_by(|a, b| order(&self.names, a, b).is_eq());
        Ok(rows)
    }

    fn not_yet_members(&self, rows: &[Row]) -> Vec<Row> {
        let name = |span| self.names.text(span);
        let is_new = |row: &&Row| self.place(name(row.package), name(row.version)).is_none();
        rows.iter().filter(is_new).copied().collect()
    }

    /// Takes rows and members in. Stable sorts, which merge what is sorted already.
    fn take(&mut self, rows: Vec<Row>, members: &[Kept]) {
        let names = &self.names;
        self.rows.extend(rows);
        self.rows.sort_by(|a, b| order(names, a, b));
        self.members.extend(members);
        let name = |kept: &Kept| (names.bytes(kept.package), names.bytes(kept.version));
        self.members.sort_by(|a, b| name(a).cmp(&name(b)));
    }

    /// Tells each member where its rows begin: both are sorted, and each row is some member's.
    fn tie_reasons(&mut self) {
        let (names, mut at) = (&self.names, 0);
        self.rows.dedup_by(|a, b| order(names, a, b).is_eq());
        for kept in &mut self.members {
            let is_own = |row: &Row| {
                names.bytes(row.package) == names.bytes(kept.package)
                    && names.bytes(row.version) == names.bytes(kept.version)
            };
            kept.reasons = at as u32;
            at += self.rows[at..].iter().take_while(|row| is_own(row)).count();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(stamp: i64) -> Found {
        Found::Version { stamp: Stamp(stamp), writable_since: None }
    }

    fn link(text: &str) -> Found {
        Found::Link(text.into())
    }

    fn set(rows: &[(&str, &str, Reason)], look: impl Fn(&str) -> Found) -> CurrentSet {
        let mut all = Rows::default();
        rows.iter().for_each(|(package, version, reason)| all.add(package, version, *reason).unwrap());
        CurrentSet::gather(all, |id| Ok(look(&id.to_string()))).unwrap()
    }

    fn names(set: &CurrentSet) -> Vec<String> {
        set.iter().map(|member| member.id().to_string()).collect()
    }

    #[test]
    fn members_are_sorted_and_each_is_one_with_all_its_reasons() {
        use Reason::{Packages, Release};
        let rows =
            [("b", "1", Release(2)), ("a", "2", Packages), ("b", "1", Release(0)), ("b", "1", Release(2))];
        let set = set(&rows, |_| sealed(1));
        assert_eq!(names(&set), ["a/2", "b/1"]);
        assert_eq!(set.reasons(0).collect::<Vec<_>>(), [Packages]);
        assert_eq!(set.reasons(1).collect::<Vec<_>>(), [Release(0), Release(2)]);
    }

    #[test]
    fn a_link_brings_what_it_addresses() {
        let look = |id: &str| match id {
            "core/current" => link("stable"),
            "core/stable" => link("./2.0"),
            _ => sealed(7),
        };
        let set = set(&[("core", "current", Reason::Release(0)), ("zlib", "1", Reason::Packages)], look);
        assert_eq!(names(&set), ["core/2.0", "core/current", "core/stable", "zlib/1"]);
        assert_eq!(set.reasons(0).collect::<Vec<_>>(), [Reason::Link]);
        assert_eq!(set.linked_by(0).map(|link| link.version).collect::<Vec<_>>(), ["stable"]);
        assert_eq!(set.at(3).seen, Seen::Version { stamp: Stamp(7), writable_since: None });
    }

    #[test]
    fn links_in_a_circle_and_links_that_lead_elsewhere_end() {
        let look = |id: &str| match id {
            "a/x" => link("y"),
            "a/y" => link("x"),
            _ => link("../b/1"),
        };
        let set = set(&[("a", "x", Reason::Packages), ("b", "out", Reason::Packages)], look);
        assert_eq!(names(&set), ["a/x", "a/y", "b/out"]);
        assert_eq!(set.reasons(0).collect::<Vec<_>>(), [Reason::Packages, Reason::Link]);
    }

    #[test]
    fn names_that_could_leave_the_archive_are_refused() {
        let mut rows = Rows::default();
        for (package, version) in
            [("a/b", "1"), ("..", "1"), ("a", ".."), ("a", "1\n2"), ("", "1"), ("a", "")]
        {
            assert!(rows.add(package, version, Reason::Packages).is_err(), "{package:?} {version:?}");
        }
        assert!(rows.is_empty());
    }

    proptest! {
        #[test]
        fn every_row_is_a_member_and_every_link_leads_to_one(
            rows in proptest::collection::vec(("[ab]", "[0-9]", 0..3u32), 0..20),
            links in proptest::collection::vec(0..12u8, 10),
        ) {
            let mut all = Rows::default();
            for (package, version, release) in &rows {
                all.add(package, version, Reason::Release(*release)).unwrap();
            }
            let look = |id: &PackageVersion| {
                let own: usize = id.version.as_str().parse().unwrap_or_default();
                Ok(if links[own] < 10 && own < 7 { link(&links[own].to_string()) } else { sealed(1) })
            };
            let set = CurrentSet::gather(all, look).unwrap();
            for (package, version, release) in &rows {
                let place = set.place(package, version).unwrap();
                prop_assert!(set.reasons(place).any(|reason| reason == Reason::Release(*release)));
            }
            for place in 0..set.len() {
                prop_assert!(set.reasons(place).next().is_some());
                if let Some(id) = set.at(place).addresses() {
                    let addressed = set.place(id.package.as_str(), id.version.as_str()).unwrap();
                    prop_assert!(set.reasons(addressed).any(|reason| reason == Reason::Link));
                }
            }
        }
    }
}

//! What stands in an archive: every package-version, sorted, with its stamp or its link's text.
//!
//! The order is that of the names' bytes, package first. Two listings are the same exactly when
//! their digests are, so a target whose archive did not change answers with 32 bytes.
//!
//! On the wire and on disk it is a row of chunks: [`Listing::chunks`], [`chunk::Reader`].

pub mod chunk;

use crate::names::{Names, Span, TooMany};
use crate::package::Name;
use crate::stamp::Stamp;

/// The most entries that a listing has.
pub const ENTRIES_MAX: usize = 16_000_000;
/// The longest text of a link, in bytes: what Linux takes.
pub const LINK_TEXT_MAX: usize = 4095;

/// What stands in a package-version's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stands<'a> {
    /// A folder with a `descpkg` of this stamp.
    Version(Stamp),
    /// A link with this text.
    Link(&'a [u8]),
    /// Anything else: a folder without `descpkg`, a file.
    Other,
}

/// One entry of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry<'a> {
    pub package: &'a str,
    pub version: &'a str,
    pub stands: Stands<'a>,
}

impl<'a> Entry<'a> {
    fn names(&self) -> (&'a str, &'a str) {
        (self.package, self.version)
    }
}

/// Why something is no listing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    #[error("the listing has a name that is none: {0}")]
    Name(#[from] crate::package::NameError),
    #[error("the listing is not sorted at {0}/{1}")]
    Order(String, String),
    #[error("the listing has a link whose text is longer than {LINK_TEXT_MAX} bytes, or empty")]
    LinkText,
    #[error("the listing has more than {ENTRIES_MAX} entries")]
    Long,
    #[error(transparent)]
    Names(#[from] TooMany),
    #[error("a chunk of the listing is broken at byte {0}")]
    Broken(usize),
}

/// The package-versions of an archive, sorted. Takes about 32 bytes and its name for each.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    names: Names,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    package: Span,
    version: Span,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Version(Stamp),
    Link(Span),
    Other,
}

impl Listing {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds an entry behind all others.
    ///
    /// # Errors
    /// When it does not come behind the last one, or its names or text are none.
    pub fn push(&mut self, entry: Entry<'_>) -> Result<(), ListingError> {
        if self.rows.len() == ENTRIES_MAX {
            return Err(ListingError::Long);
        }
        let last = self.rows.last().copied();
        let last_names = last.map(|row| self.entry(&row).names());
        if last_names.is_some_and(|last| last >= entry.names()) {
            return Err(ListingError::Order(entry.package.into(), entry.version.into()));
        }
        let same = last_names.is_some_and(|(package, _)| package == entry.package);
        entry.version.parse::<Name>()?;
        let package = match last {
            Some(last) if same => last.package,
            _ => self.add_package(entry.package)?,
        };
        let version = self.names.add(entry.version.as_bytes())?;
        let what = self.what(entry.stands)?;
        self.rows.push(Row { package, version, what });
        Ok(())
    }

    fn add_package(&mut self, package: &str) -> Result<Span, ListingError> {
        package.parse::<Name>()?;
        Ok(self.names.add(package.as_bytes())?)
    }

    fn what(&mut self, stands: Stands<'_>) -> Result<What, ListingError> {
        Ok(match stands {
            Stands::Version(stamp) => What::Version(stamp),
            Stands::Link(text) if text.is_empty() || text.len() > LINK_TEXT_MAX => {
                return Err(ListingError::LinkText);
            }
            Stands::Link(text) => What::Link(self.names.add(text)?),
            Stands::Other => What::Other,
        })
    }

    fn entry(&self, row: &Row) -> Entry<'_> {
        let stands = match row.what {
            What::Version(stamp) => Stands::Version(stamp),
            What::Link(text) => Stands::Link(self.names.bytes(text)),
            What::Other => Stands::Other,
        };
        Entry { package: self.names.text(row.package), version: self.names.text(row.version), stands }
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> + Clone {
        self.rows.iter().map(|row| self.entry(row))
    }

    /// The entries of one package, in order.
    pub fn of<'a>(&'a self, package: &str) -> impl Iterator<Item = Entry<'a>> {
        let start = self.rows.partition_point(|row| self.entry(row).package < package);
        let rows = self.rows[start..].iter().map(|row| self.entry(row));
        rows.take_while(move |entry| entry.package == package)
    }

    /// What stands in this place, if anything.
    pub fn get(&self, package: &str, version: &str) -> Option<Stands<'_>> {
        let found = self.rows.binary_search_by(|row| self.entry(row).names().cmp(&(package, version)));
        found.ok().map(|at| self.entry(&self.rows[at]).stands)
    }

    /// The BLAKE3 of all entries. Chunks and their form do not matter to it.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::with_capacity(chunk::CHUNK_MAX);
        for entry in self.iter() {
            plain(&mut buffer, &entry);
            if buffer.len() >= chunk::CHUNK_FULL {
                hasher.update(&buffer);
                buffer.clear();
            }
        }
        hasher.update(&buffer);
        *hasher.finalize().as_bytes()
    }

    /// The listing as chunks, each of 1 to [`CHUNK_MAX`](chunk::CHUNK_MAX) bytes; none for an empty one.
    pub fn chunks(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        chunk::chunks(self)
    }
}

/// An entry as it is digested: names and text end in a byte that no name holds, and have their
/// length where they could hold it.
fn plain(to: &mut Vec<u8>, entry: &Entry<'_>) {
    for name in [entry.package, entry.version] {
        to.extend_from_slice(name.as_bytes());
        to.push(0);
    }
    match entry.stands {
        Stands::Version(Stamp(seconds)) => {
            to.push(chunk::VERSION);
            to.extend_from_slice(&seconds.to_le_bytes());
        }
        Stands::Link(text) => {
            to.push(chunk::LINK);
            to.extend_from_slice(&(text.len() as u64).to_le_bytes());
            to.extend_from_slice(text);
        }
        Stands::Other => to.push(chunk::OTHER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Kind {
        Version(i64),
        Link(Vec<u8>),
        Other,
    }

    impl Kind {
        fn stands(&self) -> Stands<'_> {
            match self {
                Self::Version(stamp) => Stands::Version(Stamp(*stamp)),
                Self::Link(text) => Stands::Link(text),
                Self::Other => Stands::Other,
            }
        }
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            any::<i64>().prop_map(Kind::Version),
            vec(any::<u8>(), 1..40).prop_map(Kind::Link),
            Just(Kind::Other),
        ]
    }

    prop_compose! {
        pub(super) fn listings()(rows in btree_map(("[a-cä]{1,4}", "[0-9a-b.ö]{1,3}x?"), kind(), 0..60)) -> Listing {
            let mut listing = Listing::default();
            for ((package, version), kind) in &rows {
                // Some of the names are hidden ones, which no listing takes.
                let _ = listing.push(Entry { package, version, stands: kind.stands() });
            }
            listing
        }
    }

    pub(super) fn many(count: usize) -> Listing {
        let mut listing = Listing::default();
        for number in 0..count {
            let (package, version) =
                (format!("package{:05}", number / 40), format!("1.{:02}.0", number % 40));
            let stands = Stands::Version(Stamp(1_700_000_000 + (number as i64 * 7919) % 90_000_000));
            listing.push(Entry { package: &package, version: &version, stands }).unwrap();
        }
        listing
    }

    #[test]
    fn what_is_not_sorted_or_no_name_is_refused() {
        let mut listing = Listing::default();
        let entry = |package, version| Entry { package, version, stands: Stands::Other };
        listing.push(entry("b", "1")).unwrap();
        for (package, version) in [("a", "2"), ("b", "0"), ("b", "1"), ("c", ".."), ("c/d", "1"), ("d", "")] {
            assert!(listing.push(entry(package, version)).is_err(), "{package}/{version} was taken");
        }
        let empty = Entry { stands: Stands::Link(b""), ..entry("c", "1") };
        assert_eq!(listing.push(empty), Err(ListingError::LinkText));
    }

    #[test]
    fn entries_are_found() {
        let listing = many(100);
        assert_eq!(listing.get("package00001", "1.39.0"), listing.iter().nth(79).map(|entry| entry.stands));
        assert_eq!(listing.get("package00001", "1.40.0"), None);
    }

    proptest! {
        #[test]
        fn listings_that_differ_have_other_digests(a in listings(), b in listings()) {
            prop_assert_eq!(a.iter().eq(b.iter()), a.digest() == b.digest());
        }
    }
}

//! A listing in pieces, each readable by itself.
//!
//! In a chunk each entry is one byte of flags (bits 0 and 1: version, link, other; bit 2: another
//! package than before), the package if it is another, the version, and the stamp (as the
//! difference to the chunk's last one) or the link's length and text. A name says how many bytes
//! it shares with the one before, how many more there are, and these. Numbers are of seven bits a
//! byte, the lowest first.

use super::{Entry, Listing, ListingError, Stands};
use crate::stamp::Stamp;

/// A chunk is closed when it has got this long, in bytes; it is never longer than
/// [`CHUNK_MAX`].
pub(super) const CHUNK_FULL: usize = 256 << 10;
/// The longest chunk, in bytes.
pub const CHUNK_MAX: usize = CHUNK_FULL + 8192;

pub(super) const VERSION: u8 = 0;
pub(super) const LINK: u8 = 1;
pub(super) const OTHER: u8 = 2;
const KINDS: u8 = 3;
const NEXT_PACKAGE: u8 = 4;

/// A listing as chunks.
pub(super) fn chunks(listing: &Listing) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut entries = listing.iter().peekable();
    std::iter::from_fn(move || {
        entries.peek()?;
        let mut chunk = Writer::default();
        while chunk.bytes.len() < CHUNK_FULL
            && let Some(entry) = entries.next()
        {
            chunk.add(&entry);
        }
        Some(chunk.bytes)
    })
}

/// Writes one chunk.
#[derive(Default)]
struct Writer<'a> {
    bytes: Vec<u8>,
    package: &'a str,
    version: &'a str,
    stamp: i64,
}

impl<'a> Writer<'a> {
    fn add(&mut self, entry: &Entry<'a>) {
        let kind = match entry.stands {
            Stands::Version(_) => VERSION,
            Stands::Link(_) => LINK,
            Stands::Other => OTHER,
        };
        if entry.package == self.package {
            self.bytes.push(kind);
        } else {
            self.bytes.push(kind | NEXT_PACKAGE);
            self.name(self.package, entry.package);
        }
        self.name(self.version, entry.version);
        (self.package, self.version) = entry.names();
        match entry.stands {
            Stands::Version(Stamp(seconds)) => self.stamp(seconds),
            Stands::Link(text) => {
                self.number(text.len() as u64);
                self.bytes.extend_from_slice(text);
            }
            Stands::Other => (),
        }
    }

    fn name(&mut self, before: &str, name: &str) {
        let shared = before.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        self.bytes.push(shared as u8);
        self.bytes.push((name.len() - shared) as u8);
        self.bytes.extend_from_slice(&name.as_bytes()[shared..]);
    }

    /// The difference, its sign in the lowest bit.
    fn stamp(&mut self, seconds: i64) {
        let difference = seconds.wrapping_sub(self.stamp);
        self.stamp = seconds;
        self.number(((difference << 1) ^ (difference >> 63)) as u64);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }
}

/// Puts a listing together from its chunks, which it does not trust.
#[derive(Debug, Default)]
pub struct Reader {
    listing: Listing,
}

impl Reader {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// When it is no chunk, or does not go on where the last one ended. The listing is lost then.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), ListingError> {
        if chunk.len() > CHUNK_MAX {
            return Err(ListingError::Broken(CHUNK_MAX));
        }
        let mut cursor = Cursor { chunk, at: 0, package: Vec::new(), version: Vec::new(), stamp: 0 };
        while cursor.at < chunk.len() {
            let at = cursor.at;
            cursor.entry(&mut self.listing).map_err(|why| why.unwrap_or(ListingError::Broken(at)))?;
        }
        Ok(())
    }

    /// The listing of all chunks that were taken.
    pub fn finish(self) -> Listing {
        self.listing
    }
}

/// Where a chunk is read. An error of `None` means that the bytes are no entry.
struct Cursor<'a> {
    chunk: &'a [u8],
    at: usize,
    package: Vec<u8>,
    version: Vec<u8>,
    stamp: i64,
}

impl<'a> Cursor<'a> {
    fn entry(&mut self, listing: &mut Listing) -> Result<(), Option<ListingError>> {
        let flags = self.bytes(1).ok_or(None)?[0];
        if flags & NEXT_PACKAGE != 0 {
            let before = std::mem::take(&mut self.package);
            self.package = self.name(before).ok_or(None)?;
        }
        let before = std::mem::take(&mut self.version);
        self.version = self.name(before).ok_or(None)?;
        let stands = self.stands(flags & !NEXT_PACKAGE).ok_or(None)?;
        let package = std::str::from_utf8(&self.package).map_err(|_| None)?;
        let version = std::str::from_utf8(&self.version).map_err(|_| None)?;
        listing.push(Entry { package, version, stands }).map_err(Some)
    }

    fn stands(&mut self, kind: u8) -> Option<Stands<'a>> {
        match kind {
            VERSION => {
                let number = self.number()?;
                let difference = (number >> 1) as i64 ^ -((number & 1) as i64);
                self.stamp = self.stamp.wrapping_add(difference);
                Some(Stands::Version(Stamp(self.stamp)))
            }
            LINK => {
                let length = usize::try_from(self.number()?).ok()?;
                self.bytes(length).map(Stands::Link)
            }
            OTHER => Some(Stands::Other),
            KINDS.. => None,
        }
    }

    fn name(&mut self, mut before: Vec<u8>) -> Option<Vec<u8>> {
        let &[shared, more] = self.bytes(2)? else { return None };
        if usize::from(shared) > before.len() {
            return None;
        }
        before.truncate(usize::from(shared));
        before.extend_from_slice(self.bytes(usize::from(more))?);
        Some(before)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.chunk[self.at..].get(..count)?;
        self.at += count;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{listings, many};
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Listing, ListingError> {
        let mut reader = Reader::default();
        chunks.into_iter().try_for_each(|chunk| reader.chunk(chunk))?;
        Ok(reader.finish())
    }

    #[test]
    fn a_large_listing_is_small_and_comes_in_chunks() {
        let listing = many(60_000);
        let chunks: Vec<_> = listing.chunks().collect();
        let total: usize = chunks.iter().map(Vec::len).sum();
        assert!(chunks.len() > 1 && total < 60_000 * 12, "{} chunks, {total} bytes", chunks.len());
        let again = read(chunks.iter().map(Vec::as_slice)).unwrap();
        assert!(listing.iter().eq(again.iter()));
        assert_eq!(listing.digest(), again.digest());
    }

    #[test]
    fn chunks_that_do_not_follow_each_other_are_refused() {
        let chunk: Vec<u8> = many(3).chunks().flatten().collect();
        assert!(matches!(read([&chunk[..], &chunk[..]]), Err(ListingError::Order(..))));
        assert_eq!(read([&[0u8; CHUNK_MAX + 1][..]]).unwrap_err(), ListingError::Broken(CHUNK_MAX));
    }

    proptest! {
        #[test]
        fn round_trip(listing in listings()) {
            let chunks: Vec<_> = listing.chunks().collect();
            let again = read(chunks.iter().map(Vec::as_slice)).unwrap();
            prop_assert!(listing.iter().eq(again.iter()));
            prop_assert_eq!(listing.digest(), again.digest());
        }

        #[test]
        fn hostile_chunks_never_panic(chunk in vec(any::<u8>(), 0..200)) {
            let _ = read([&chunk[..]]);
        }

        #[test]
        fn damaged_chunks_never_panic(listing in listings(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes: Vec<u8> = listing.chunks().flatten().collect();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = with;
                let _ = read([&bytes[..]]);
                let _ = read([&bytes[..at]]);
            }
        }
    }
}

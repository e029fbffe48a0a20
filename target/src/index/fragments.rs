//! Which lines of the list are a package-version's, and by what sign they stay right.
//!
//! `.dpkg_archive/.dpkg_archive_list.known`: a head that names the list it belongs to, then a record
//! for each package-version, in the order of the list. Numbers are little-endian.

use std::fs::File;
use std::io::Read;

use nix::sys::stat::fstat;

use crate::folder::Folder;
use crate::history;

const NAME: &str = ".dpkg_archive_list.known";
const FORM: &[u8; 8] = b"blatidx1";
/// The longest path of a package-version, with its `/`s, in bytes; each escaped.
const KEY_MAX: usize = 2 * (2 * 255 + 2);

/// What a package-version's `descpkg` is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    pub(super) seconds: i64,
    pub(super) nanoseconds: i64,
    pub(super) inode: u64,
}

/// Where lines stand in a list, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) start: u64,
    pub(super) length: u64,
    /// How many lines that is.
    pub(super) lines: u64,
}

/// The records, one behind the other as they stand in the file.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    records: Vec<u8>,
}

/// What tells lists apart.
fn head(list: &File) -> Option<[u8; 48]> {
    let found = fstat(list).ok()?;
    let numbers =
        [found.st_dev, found.st_ino, found.st_size as u64, found.st_mtime as u64, found.st_mtime_nsec as u64];
    let mut head = [0; 48];
    head[..8].copy_from_slice(FORM);
    for (place, number) in head[8..].chunks_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    Some(head)
}

impl Fragments {
    /// What is on record of this very list.
    pub(super) fn read(own: &Folder, list: &File) -> Option<Self> {
        let mut file = own.file(NAME.as_bytes()).ok()?;
        let mut found = [0; 48];
        file.read_exact(&mut found).ok()?;
        if found != head(list)? {
            return None;
        }
        let mut records = Vec::new();
        file.read_to_end(&mut records).ok()?;
        Some(Self { records })
    }

    /// Puts them on record for this list.
    pub(super) fn write(&self, own: &Folder, list: &File) -> nix::Result<()> {
        let head = head(list).ok_or(nix::errno::Errno::EIO)?;
        history::replace(own, NAME, &[&head, self.records.as_slice()].concat())
    }

    pub(super) fn add(&mut self, key: &[u8], sign: Sign, at: At) {
        let Ok(length) = u16::try_from(key.len()) else { return };
        self.records.extend_from_slice(&length.to_le_bytes());
        self.records.extend_from_slice(key);
        for number in
            [sign.seconds as u64, sign.nanoseconds as u64, sign.inode, at.start, at.length, at.lines]
        {
            self.records.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// A way through the records, beside one through the archive in the same order.
pub(super) struct Known {
    fragments: Fragments,
    next: usize,
}

impl Known {
    pub(super) fn new(fragments: Fragments) -> Self {
        Self { fragments, next: 0 }
    }

    /// Where the lines of `key` stand, if they are known by this very sign. Keys come in order.
    pub(super) fn take(&mut self, key: &[u8], sign: Sign) -> Option<At> {
        loop {
            let (found, known, at, next) = record(&self.fragments.records, self.next)?;
            match found.cmp(key) {
                std::cmp::Ordering::Less => self.next = next,
                std::cmp::Ordering::Greater => return None,
                std::cmp::Ordering::Equal => {
                    self.next = next;
                    return (known == sign).then_some(at);
                }
            }
        }
    }
}

/// The record at a place, and where the next one is; none at the end, or where it is broken.
fn record(records: &[u8], place: usize) -> Option<(&[u8], Sign, At, usize)> {
    let (length, rest) = records.get(place..)?.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (key, rest) = rest.split_at_checked(length)?;
    let (numbers, _) = rest.split_first_chunk::<48>()?;
    let number = |at: usize| u64::from_le_bytes(numbers[8 * at..8 * at + 8].try_into().expect("eight bytes"));
    let sign = Sign { seconds: number(0) as i64, nanoseconds: number(1) as i64, inode: number(2) };
    let at = At { start: number(3), length: number(4), lines: number(5) };
    (length <= KEY_MAX && length > 0).then_some((key, sign, at, place + 2 + length + 48))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sign(inode: u64) -> Sign {
        Sign { seconds: -1, nanoseconds: 2, inode }
    }

    #[test]
    fn what_is_known_is_found_in_order_and_by_its_sign_alone() {
        let mut fragments = Fragments::default();
        for (number, key) in [b"a/1/", b"a/2/", b"b/1/"].into_iter().enumerate() {
            let number = number as u64;
            fragments.add(key, sign(number), At { start: 10 * number, length: number, lines: 1 });
        }
        let mut known = Known::new(fragments);
        assert_eq!(known.take(b"a/0/", sign(0)), None);
        assert_eq!(known.take(b"a/1/", sign(0)), Some(At { start: 0, length: 0, lines: 1 }));
        assert_eq!(known.take(b"a/2/", sign(7)), None);
        assert_eq!(known.take(b"b/1/", sign(2)), Some(At { start: 20, length: 2, lines: 1 }));
        assert_eq!(known.take(b"c/1/", sign(2)), None);
    }

    proptest! {
        #[test]
        fn broken_records_never_panic(records in proptest::collection::vec(any::<u8>(), 0..200), key in ".{1,4}") {
            let mut known = Known::new(Fragments { records });
            let _ = known.take(key.as_bytes(), sign(1));
        }
    }
}

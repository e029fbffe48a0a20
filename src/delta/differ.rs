//! What a piece of a new file has in common with an old one.
//!
//! The old bytes are indexed at every [`STEP`]th place by the [`ANCHOR`] bytes that stand there. A
//! look through the new ones follows what the two have in common, byte for byte, until that ends,
//! and moves on to another place of the old where an anchor promises clearly more. Between two
//! such places each side is stretched as long as more bytes agree than differ (after Percival's
//! bsdiff, whose suffix array takes many times as long, and as much memory).

use std::hint::black_box;

use blat_target::delta::{Relocation, Streams, put, step};

use super::program::Copied;
use crate::memory::PART_MAX;

/// How many bytes have to be the same for a place to be found.
const ANCHOR: usize = 16;
/// Every so many bytes of the old a place is indexed.
const STEP: usize = 4;
/// How many places with the same hash are remembered.
const WAYS: usize = 4;
/// The largest index has so many rows, as a power of two: 32 MiB.
const ROWS_LOG_MAX: u32 = 21;
/// A place is remembered in so many bits, as the number of its step: enough for any part of an old file,
const PLACE_BITS: u32 = 24;
const _: () = assert!(PART_MAX <= (STEP as u64) << PLACE_BITS);
/// below as many bits of the hash as are left, other than those which choose its row: a place with other ones
/// need not be looked at, which would wait for memory more often than not.
const TAG_BITS: u32 = u32::BITS - PLACE_BITS;
/// No place.
const NOTHING: u32 = u32::MAX;
/// Where more bytes than this go on as before, no other place is sought within them: a better one is found behind
/// them as well, and takes over what it has in common with them.
const GOES_ON: usize = 8;
/// Of the old, so many places are indexed at a time.
const AT_ONCE: usize = 32;
/// Where no more bytes than this differ before it goes on as before, no other place is sought either.
const DIFFER: usize = 8;
/// Nor where of so many bytes nearly all are the same.
const SOME: usize = 32;
/// By how many bytes another place must be better for the move there to be worth its operation.
const MARGIN: usize = 8;

/// A part of an old file, indexed.
pub(super) struct Old {
    bytes: Vec<u8>,
    /// Where in the file the part starts.
    start: u64,
    rows: Vec<[u32; WAYS]>,
    rows_log: u32,
}

/// Copy `copied` bytes from `old`, then take `new` ones: of a chunk, and within a part.
pub(super) struct Operation {
    copied: u32,
    new: u32,
    old: u32,
}

impl Operation {
    fn new(copied: usize, new: usize, old: usize) -> Self {
        // Chunks and parts are far smaller.
        Self { copied: copied as u32, new: new as u32, old: old as u32 }
    }

    /// How many bytes it makes.
    fn makes(&self) -> u64 {
        u64::from(self.copied) + u64::from(self.new)
    }
}

impl Old {
    /// Indexes a part of an old file, of [`PART_MAX`] bytes at most, that starts at `start` in it.
    pub(super) fn new(bytes: Vec<u8>, start: u64) -> Self {
        let rows_log = (bytes.len() / STEP / WAYS).max(1).ilog2().clamp(6, ROWS_LOG_MAX);
        let mut old = Self { bytes, start, rows: vec![[NOTHING; WAYS]; 1 << rows_log], rows_log };
        old.index();
        old
    }

    fn index(&mut self) {
        let last = self.bytes.len().saturating_sub(ANCHOR);
        let (mut at, mut before) = (0, None);
        while at < last {
            let mut some = [(0, 0); AT_ONCE];
            let count = (last - at).div_ceil(STEP).min(AT_ONCE);
            for (nth, it) in some[..count].iter_mut().enumerate() {
                *it = self.row(&self.bytes[at + nth * STEP..]);
            }
            // One after the other, each would wait for memory; so they wait for it together.
            black_box(some[..count].iter().fold(0, |all, (row, _)| all ^ self.rows[*row][0]));
            for (nth, (row, tag)) in some[..count].iter().enumerate() {
                // A long run of one byte would push all else out.
                if before != Some(*row) {
                    let ways = &mut self.rows[*row];
                    ways.copy_within(..WAYS - 1, 1);
                    ways[0] = tag << PLACE_BITS | (at / STEP + nth) as u32;
                }
                before = Some(*row);
            }
            at += count * STEP;
        }
    }

    /// The row for what starts with an anchor, and its tag there.
    fn row(&self, bytes: &[u8]) -> (usize, u32) {
        let hash = hash(bytes);
        let row = hash >> (u64::BITS - self.rows_log);
        let tag = hash << self.rows_log >> (u64::BITS - TAG_BITS);
        (row as usize, tag as u32)
    }

    /// The place of the longest match with the start of `new`, and its length.
    fn longest(&self, new: &[u8]) -> (usize, usize) {
        let (row, tag) = self.row(new);
        let all = self.rows[row].iter().take_while(|kept| **kept != NOTHING);
        let alike = all.filter(|kept| *kept >> PLACE_BITS == tag);
        let places = alike.map(|kept| (kept & ((1 << PLACE_BITS) - 1)) as usize * STEP);
        let matches = places.map(|place| (place, same(new, &self.bytes[place..])));
        matches.max_by_key(|(_, length)| *length).unwrap_or((0, 0))
    }

    /// What makes `new`, which stands at `at` in its file, out of the old.
    pub(super) fn operations(&self, new: &[u8], at: u64) -> Vec<Operation> {
        let guess = at.saturating_sub(self.start).min(self.bytes.len() as u64) as usize;
        let old = &self.bytes;
        let mut operations = Vec::new();
        // From `from` on, `new` is followed beside `old` from `beside` on.
        let (mut from, mut beside, mut at) = (0, guess, 0);
        let (mut follows, mut looks) = (true, 0);
        while at + ANCHOR <= new.len() {
            let here = beside + (at - from);
            let rest = old.get(here..).unwrap_or_default();
            let followed = same(&new[at..], rest);
            if followed >= ANCHOR {
                at += followed;
                (follows, looks) = (true, 0);
                continue;
            }
            if std::mem::take(&mut follows)
                && let Some(differing) = goes_on(&new[at + followed..], &rest[followed..])
            {
                at += followed + differing;
                continue;
            }
            if is_alike(&new[at..], rest) {
                at += DIFFER;
                continue;
            }
            let (place, length) = self.longest(&new[at..]);
            let agreeing = new[at..at + length].iter().zip(rest).filter(|(a, b)| a == b).count();
            if length < ANCHOR || length <= agreeing + MARGIN {
                looks += 1;
                at += if followed > GOES_ON { followed + 1 } else { pace(looks) };
                continue;
            }
            let (forward, backward) = self.border(&new[from..at], beside, place);
            operations.push(Operation::new(forward, at - from - forward - backward, beside));
            (from, beside) = (at - backward, place - backward);
            at += length;
            (follows, looks) = (true, 0);
        }
        let last = &new[from..];
        let forward = stretch(last.iter().zip(old.get(beside..).unwrap_or_default()));
        operations.push(Operation::new(forward, last.len() - forward, beside));
        operations
    }

    /// How far the copy from `beside` goes into `between`, and how far back the one that comes to
    /// `place` behind it.
    fn border(&self, between: &[u8], beside: usize, place: usize) -> (usize, usize) {
        let old = &self.bytes;
        let forward = stretch(between.iter().zip(old.get(beside..).unwrap_or_default()));
        let backward = stretch(between.iter().rev().zip(old[..place].iter().rev()));
        let overlap = (forward + backward).saturating_sub(between.len());
        if overlap == 0 {
            return (forward, backward);
        }
        // Each byte of the overlap goes to whom it agrees with, with one cut.
        let (start, first, second) = (forward - overlap, beside + forward - overlap, place - backward);
        let (mut score, mut best, mut cut) = (0i64, 0, 0);
        for nth in 0..overlap {
            let byte = between[start + nth];
            score += i64::from(byte == old[first + nth]) - i64::from(byte == old[second + nth]);
            if score > best {
                (best, cut) = (score, nth + 1);
            }
        }
        (start + cut, backward - cut)
    }

    /// What the operations copy of the old file, that make what stands at `at` in the new one.
    pub(super) fn copied<'a>(
        &self,
        operations: &'a [Operation],
        mut at: u64,
    ) -> impl Iterator<Item = Copied> + use<'a> {
        let start = self.start;
        operations.iter().map(move |operation| {
            let from = start + u64::from(operation.old);
            let copied = Copied { from, to: at, length: operation.copied.into() };
            at += operation.makes();
            copied
        })
    }

    /// The operations, and all else that makes `new`, which stands at `at` in its file, out of the old, of which
    /// `relocation` works out what it can.
    pub(super) fn streams(
        &self,
        operations: &[Operation],
        new: &[u8],
        at: u64,
        relocation: &Relocation,
    ) -> Streams {
        let mut streams = Streams::default();
        let (mut rest, mut place, mut runs, mut old) = (new, at, Runs::default(), Vec::new());
        for (operation, copied) in operations.iter().zip(self.copied(operations, at)) {
            if operation.makes() == 0 {
                continue;
            }
            let numbers = [copied.length, operation.new.into(), step(place, copied.from)];
            numbers.iter().for_each(|number| put(&mut streams.operations, *number));
            place = copied.from + copied.length;
            let (made, behind) = rest.split_at(operation.copied as usize);
            let from = operation.old as usize;
            old.clear();
            old.extend_from_slice(&self.bytes[from..from + made.len()]);
            relocation.apply(copied.from, copied.to, &mut old);
            runs.add(made, &old, &mut streams);
            let (came, behind) = behind.split_at(operation.new as usize);
            streams.new.extend_from_slice(came);
            rest = behind;
        }
        runs.end(&mut streams);
        streams
    }
}

/// The run that is being counted.
#[derive(Default)]
struct Runs {
    same: u64,
    differ: u64,
}

impl Runs {
    fn add(&mut self, mut new: &[u8], mut old: &[u8], to: &mut Streams) {
        while !new.is_empty() {
            let agreeing = same(new, old);
            if agreeing > 0 && self.differ > 0 {
                self.end(to);
            }
            self.same += agreeing as u64;
            (new, old) = (&new[agreeing..], &old[agreeing..]);
            let differing = new.iter().zip(old).take_while(|(a, b)| a != b).count();
            let differences = new.iter().zip(old).take(differing).map(|(new, old)| new.wrapping_sub(*old));
            to.differences.extend(differences);
            self.differ += differing as u64;
            (new, old) = (&new[differing..], &old[differing..]);
        }
    }

    fn end(&mut self, to: &mut Streams) {
        if self.differ > 0 {
            put(&mut to.runs, self.same);
            put(&mut to.runs, self.differ);
        }
        *self = Self::default();
    }
}

/// How many bytes to take so that most more agree than differ.
fn stretch<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>) -> usize {
    let (mut score, mut best, mut length) = (0i64, 0, 0);
    for (nth, (a, b)) in pairs.enumerate() {
        score += if a == b { 1 } else { -1 };
        if score > best {
            (best, length) = (score, nth + 1);
        }
    }
    length
}

/// Whether nearly all of what comes next is the same.
fn is_alike(new: &[u8], old: &[u8]) -> bool {
    let (Some(new), Some(old)) = (new.first_chunk::<SOME>(), old.first_chunk::<SOME>()) else { return false };
    new.iter().zip(old).filter(|(new, old)| new == old).count() >= SOME - MARGIN
}

/// Behind how few bytes that differ the two are the same again for a while.
fn goes_on(new: &[u8], old: &[u8]) -> Option<usize> {
    let anchor = |of: &[u8], at: usize| of.get(at..)?.first_chunk::<ANCHOR>().copied();
    (1..=DIFFER).find(|at| anchor(new, *at).is_some_and(|it| anchor(old, *at) == Some(it)))
}

/// By how many bytes to move on where nothing was found for so many looks. What is found is stretched back over
/// what was passed by. None has a divisor in common with [`STEP`]: so each place of the old is met sooner or later.
fn pace(looks: usize) -> usize {
    match looks {
        0..=200 => 1,
        201..=1000 => 3,
        _ => 5,
    }
}

/// How many bytes are the same from the start.
fn same(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| a == b).count() * 8;
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

/// Of an anchor.
fn hash(bytes: &[u8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (low, high) =
        (word(0).wrapping_mul(0x9E37_79B9_7F4A_7C15), word(8).wrapping_mul(0xC2B2_AE3D_27D4_EB4F));
    (low ^ high.rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn made(old: &[u8], start: usize, new: &[u8], at: u64) -> (Vec<u8>, usize) {
        let indexed = Old::new(old[start..].to_vec(), start as u64);
        let none = Relocation::default();
        let streams = indexed.streams(&indexed.operations(new, at), new, at, &none);
        let read = |place: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&old[place as usize..place as usize + buffer.len()]);
        };
        (streams.make(at, new.len(), &none, read).unwrap(), streams.length())
    }

    fn noise(length: usize, mut seed: u64) -> Vec<u8> {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn a_file_with_shifted_addresses_costs_their_differences() {
        let old = noise(200_000, 7);
        let mut new = [&noise(100, 3)[..], &old].concat();
        (200..new.len()).step_by(40).for_each(|at| new[at] = new[at].wrapping_add(16));
        let (back, length) = made(&old, 0, &new, 0);
        assert!(back == new);
        assert!(length < 100 + 4 * new.len() / 40, "{length}");
    }

    #[test]
    fn parts_that_change_places_are_found() {
        let (a, b) = (noise(50_000, 1), noise(50_000, 2));
        let (back, length) = made(&[&a[..], &b].concat(), 0, &[&b[..], &a].concat(), 0);
        assert!(back == [&b[..], &a].concat());
        assert!(length < 100, "{length}");
    }

    #[test]
    fn what_has_nothing_in_common_is_a_little_longer_at_most() {
        let new = noise(10_000, 5);
        let (back, length) = made(&noise(10_000, 9), 0, &new, 0);
        assert!(back == new && length < new.len() + 64, "{length}");
    }

    fn pieces() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
        vec((0usize..900, 0usize..200, any::<u8>()), 0..12)
    }

    proptest! {
        #[test]
        fn any_new_file_is_made_of_any_old_one(pieces in pieces(), start in 0usize..300, at in 0u64..2000) {
            let old = noise(1000, 11);
            let mut new = Vec::new();
            for (from, length, byte) in pieces {
                new.extend_from_slice(&old[from..(from + length).min(old.len())]);
                new.push(byte);
            }
            prop_assert_eq!(made(&old, start, &new, at).0, new);
        }

        #[test]
        fn files_of_few_letters_too(old in vec(0u8..2, 0..400), new in vec(0u8..2, 0..400)) {
            prop_assert_eq!(made(&old, 0, &new, 0).0, new);
        }
    }
}

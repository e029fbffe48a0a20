//! Programs that were linked anew: where the addresses in them lead now.
//!
//! What did not change in a program moves all the same when it is linked anew, and with it each
//! instruction and each table changes that leads to it. How the parts of the program moved is known
//! from what is copied. So before a copy's differences are applied, each place in it that looks like
//! an address gets the one that it would be if it led to the same thing as before. What looks like an
//! address and is none costs its difference, no more; and where the two sides were to work out
//! something else, a seal would break.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::DeltaError;

/// The longest encoding of a relocation, in bytes.
pub const RELOCATION_MAX: usize = 1 << 20;
/// How many regions of each file it may have,
pub const REGIONS_MAX: usize = 16;
/// and how many moves.
pub const MOVES_MAX: usize = 1 << 16;
/// Numbers below this are taken for numbers, not for addresses.
const ADDRESS_MIN: u64 = 1 << 12;
/// How long an address in code is, or one that counts from its own place.
const SHORT: usize = 4;
/// How long an absolute one is.
const LONG: usize = 8;

/// A part of a program file that is loaded to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Where it starts in the file, and how long it is there, in bytes;
    pub offset: u64,
    pub length: u64,
    /// and where in memory, and how long it is there.
    pub address: u64,
    pub memory: u64,
    pub holds: Holds,
}

/// What a region holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holds {
    /// Instructions of x86-64.
    Code,
    /// Anything.
    Data,
    /// Addresses that count from the region's start: a program's sorted table of its frames.
    Table,
}

/// How the parts of a program moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relocation {
    old: Vec<Region>,
    new: Vec<Region>,
    /// From which old address on things moved by how much.
    moves: Vec<(u64, i64)>,
    /// All old addresses.
    span: Range<u64>,
}

impl Relocation {
    /// Of two files whose regions these are, the first to hold a place being the one that counts; and from
    /// which old address on, in rising order, things moved by how much.
    pub fn new(old: Vec<Region>, new: Vec<Region>, moves: Vec<(u64, i64)>) -> Self {
        let least = old.iter().map(|region| region.address).min().unwrap_or(0);
        let most = old.iter().map(|region| region.address.saturating_add(region.memory)).max().unwrap_or(0);
        Self { old, new, moves, span: least.max(ADDRESS_MIN)..most }
    }

    /// In postcard's encoding: the regions, and the moves, each as its difference to the one before.
    pub fn encode(&self) -> Vec<u8> {
        let mut last = (0, 0);
        let step = |&(from, by): &(u64, i64)| {
            let step = (from.wrapping_sub(last.0), by.wrapping_sub(last.1));
            last = (from, by);
            step
        };
        let steps: Vec<_> = self.moves.iter().map(step).collect();
        postcard::to_stdvec(&(&self.old, &self.new, steps)).expect("relocations of ours can be encoded")
    }

    /// # Errors
    /// If it is no relocation.
    pub fn decode(bytes: &[u8]) -> Result<Self, DeltaError> {
        let read = postcard::take_from_bytes::<(Vec<Region>, Vec<Region>, Vec<(u64, i64)>)>(bytes);
        let ((old, new, mut moves), rest) = read.map_err(|_| DeltaError::Relocation)?;
        let mut last = (0u64, 0i64);
        for (from, by) in &mut moves {
            *from = last.0.checked_add(*from).ok_or(DeltaError::Relocation)?;
            *by = last.1.wrapping_add(*by);
            last = (*from, *by);
        }
        let most = old.len().max(new.len());
        if !rest.is_empty() || most > REGIONS_MAX || moves.len() > MOVES_MAX {
            return Err(DeltaError::Relocation);
        }
        Ok(Self::new(old, new, moves))
    }

    /// Works out the addresses in what was copied from `place` in the old file to `at` in the new one.
    pub fn apply(&self, place: u64, at: u64, copied: &mut [u8]) {
        if self.span.is_empty() {
            return;
        }
        let mut done = 0;
        while copied.len() - done >= SHORT {
            let from = place.wrapping_add(done as u64);
            let (region, length) = region_at(&self.old, from);
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(copied.len() - done);
            let part = &mut copied[done..done + length];
            let to = region_at(&self.new, at.wrapping_add(done as u64)).0;
            let by = region.zip(to).map(|(region, to)| {
                let address = region.address.wrapping_add(from.wrapping_sub(region.offset));
                let begin = at.wrapping_add(done as u64).wrapping_sub(to.offset);
                let moved = to.address.wrapping_add(begin).wrapping_sub(address) as i64;
                (region, to, address, moved)
            });
            match by {
                Some((Region { holds: Holds::Code, .. }, _, address, moved)) => {
                    self.code(part, address, moved);
                }
                Some((Region { holds: Holds::Table, address, .. }, to, ..)) => {
                    let moved = to.address.wrapping_sub(*address) as i64;
                    self.table(part, from, *address, moved);
                }
                Some((_, _, address, moved)) => self.data(part, from, Some((address, moved))),
                None => self.data(part, from, None),
            }
            done += length;
        }
    }

    /// By how much what is at an old address moved.
    fn moved(&self, address: u64) -> i64 {
        match self.moves.partition_point(|(from, _)| *from <= address) {
            0 => 0,
            behind => self.moves[behind - 1].1,
        }
    }

    /// Has a short address lead from what moved so to where what it leads to has moved.
    fn lead(&self, field: &mut [u8], to: u64, moved: i64) {
        let by = self.moved(to).wrapping_sub(moved);
        let value = short(field).wrapping_add(by);
        field.copy_from_slice(&(value as i32).to_le_bytes());
    }

    /// Instructions that stood at `address` and moved so.
    fn code(&self, part: &mut [u8], address: u64, moved: i64) {
        let mut at = 1;
        while at + SHORT <= part.len() {
            if let Some(behind) = address_in_code(part, at) {
                let field = &mut part[at..at + SHORT];
                let next = address.wrapping_add((at + SHORT) as u64).wrapping_add(behind);
                let to = next.wrapping_add_signed(short(field));
                if self.span.contains(&to) {
                    self.lead(field, to, moved);
                    at += SHORT;
                    continue;
                }
            }
            at += 1;
        }
    }

    /// Addresses that count from `start`, which moved so.
    fn table(&self, part: &mut [u8], place: u64, start: u64, moved: i64) {
        for field in aligned::<SHORT>(part, place) {
            let to = start.wrapping_add_signed(short(field));
            if self.span.contains(&to) {
                self.lead(field, to, moved);
            }
        }
    }

    /// Anything, at `place` in the file: if it is loaded, at an address from which it moved so.
    fn data(&self, part: &mut [u8], place: u64, loaded: Option<(u64, i64)>) {
        for (nth, pair) in aligned::<LONG>(part, place).enumerate() {
            let long = u64::from_le_bytes(pair.as_ref().try_into().expect("eight bytes"));
            if self.span.contains(&long) {
                pair.copy_from_slice(&long.wrapping_add_signed(self.moved(long)).to_le_bytes());
                continue;
            }
            let Some((address, moved)) = loaded else { continue };
            let skipped = place.next_multiple_of(LONG as u64).wrapping_sub(place);
            let first = address.wrapping_add(skipped).wrapping_add((nth * LONG) as u64);
            for (half, field) in pair.chunks_exact_mut(SHORT).enumerate() {
                // In a table of branches it counts from the table's start, which is near enough.
                let to = first.wrapping_add((half * SHORT) as u64).wrapping_add_signed(short(field));
                if short(field) != 0 && self.is_code(to) {
                    self.lead(field, to, moved);
                }
            }
        }
    }

    fn is_code(&self, address: u64) -> bool {
        let holds = |region: &Region| {
            region.holds == Holds::Code && address.wrapping_sub(region.address) < region.memory
        };
        self.old.iter().any(holds)
    }
}

/// The region that holds a place of a file, if one does; and for how many bytes it is so.
fn region_at(regions: &[Region], place: u64) -> (Option<&Region>, u64) {
    let holds =
        |region: &Region| place.checked_sub(region.offset).is_some_and(|behind| behind < region.length);
    let found = regions.iter().position(holds);
    let end = found.map_or(u64::MAX, |nth| regions[nth].offset.saturating_add(regions[nth].length));
    // Those that come before it, or all, may begin within.
    let before = &regions[..found.unwrap_or(regions.len())];
    let next = before.iter().map(|region| region.offset).filter(|offset| *offset > place).min();
    (found.map(|nth| &regions[nth]), (end.min(next.unwrap_or(u64::MAX)) - place).max(1))
}

/// A short address.
fn short(field: &[u8]) -> i64 {
    i32::from_le_bytes(field.try_into().expect("four bytes")).into()
}

/// The fields of so many bytes in a part of a file that is at `place` in it.
fn aligned<const LENGTH: usize>(part: &mut [u8], place: u64) -> std::slice::ChunksExactMut<'_, u8> {
    let skipped = (place.wrapping_neg() % LENGTH as u64) as usize;
    part.get_mut(skipped..).unwrap_or_default().chunks_exact_mut(LENGTH)
}

/// Whether an instruction has an address at `at` that counts from its end; and how many bytes of it follow.
///
/// Instructions are not taken apart, but known by what stands before the address: a call, a jump, or an operand
/// that is addressed by its distance (`mod` 0, `r/m` 5), behind one of the usual operation codes.
fn address_in_code(code: &[u8], at: usize) -> Option<u64> {
    let back = |by: usize| at.checked_sub(by).map_or(0, |at| code[at]);
    let last = code[at - 1];
    if matches!(last, 0xe8 | 0xe9) || (last & 0xf0 == 0x80 && back(2) == 0x0f) {
        return Some(0);
    }
    if last & 0xc7 != 0x05 {
        return None;
    }
    let operation = back(2);
    let is_vector = back(4) == 0xc5 || back(5) == 0xc4 || back(6) == 0x62;
    let is_third = back(4) == 0x0f && matches!(back(3), 0x38 | 0x3a);
    if back(3) == 0x0f || is_vector || is_third {
        let has_number = matches!(operation, 0x70 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc6);
        return Some(u64::from(has_number || (is_third && back(3) == 0x3a)));
    }
    match operation {
        0x01 | 0x03 | 0x09 | 0x0b | 0x13 | 0x1b | 0x21 | 0x23 | 0x29 | 0x2b | 0x31 | 0x33 => Some(0),
        0x38..=0x3b | 0x63 | 0x84 | 0x85 | 0x87..=0x8b | 0x8d => Some(0),
        0xd8 | 0xd9 | 0xdb..=0xdd | 0xdf | 0xf6 | 0xf7 | 0xfe | 0xff => Some(0),
        0x6b | 0x80 | 0x83 | 0xc1 | 0xc6 => Some(1),
        0x69 | 0x81 | 0xc7 => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn region(offset: u64, length: u64, address: u64, holds: Holds) -> Region {
        Region { offset, length, address, memory: length, holds }
    }

    /// Code at 0x2000 in the file and in memory, of which the second half moved by 0x40; a table before, data
    /// behind at another address than its place, which moved by 0x1000.
    fn relocation() -> Relocation {
        let regions = |by: u64, data: u64| {
            vec![
                region(0x1000, 0x100, 0x1000, Holds::Table),
                region(0, 0x2000, 0, Holds::Data),
                region(0x2000, 0x2000 + by, 0x2000, Holds::Code),
                region(0x4000 + by, 0x1000, data, Holds::Data),
            ]
        };
        let moves = vec![(0, 0), (0x3000, 0x40), (0x9000, 0x1000)];
        Relocation::new(regions(0, 0x9000), regions(0x40, 0xa000), moves)
    }

    fn applied(place: u64, at: u64, bytes: &[u8]) -> Vec<u8> {
        let mut copied = bytes.to_vec();
        relocation().apply(place, at, &mut copied);
        copied
    }

    fn with(before: &[u8], address: i32, behind: &[u8]) -> Vec<u8> {
        [before, &address.to_le_bytes(), behind].concat()
    }

    #[test]
    fn an_instruction_leads_to_where_its_aim_has_moved() {
        let all: [(&[u8], i32, &[u8], i32); 8] = [
            // call and jump, from what stays to what moved,
            (&[0xe8], 0x1800, &[0x90], 0x1840),
            (&[0x0f, 0x84], 0x1800, &[], 0x1840),
            // to what stays,
            (&[0xe9], 0x100, &[], 0x100),
            // and to data that moved more.
            (&[0x48, 0x8d, 0x05], 0x7800, &[], 0x8800),
            (&[0xc5, 0xfb, 0x10, 0x0d], 0x7800, &[], 0x8800),
            // A number behind the address: what counts is the instruction's end.
            (&[0x83, 0x3d], 0x6ff9, &[7], 0x7ff9),
            // Nothing is there, or it is no address.
            (&[0xe8], 0x7000_0000, &[], 0x7000_0000),
            (&[0x90, 0x90], 0x1800, &[], 0x1800),
        ];
        for (before, address, behind, moved) in all {
            let found = applied(0x2000, 0x2000, &with(before, address, behind));
            assert_eq!(found, with(before, moved, behind), "{before:x?}");
        }
        let back = applied(0x3000, 0x3040, &with(&[0xe8], -0x1000, &[]));
        assert_eq!(back, with(&[0xe8], -0x1040, &[]), "from what moved to what stays");
    }

    #[test]
    fn tables_and_data_lead_there_too() {
        let long = |address: u64| address.to_le_bytes().to_vec();
        assert_eq!(applied(0x4000, 0x4040, &long(0x3010)), long(0x3050), "an absolute address");
        assert_eq!(applied(0x4000, 0x4040, &long(0x10)), long(0x10), "a small number");
        let short = |addresses: [i32; 2]| addresses.map(i32::to_le_bytes).concat();
        assert_eq!(applied(0x1008, 0x1008, &short([0x2000, 0x1100])), short([0x2040, 0x1100]), "a table");
        assert_eq!(applied(0x1100, 0x1100, &short([0x1f80, 0x20])), short([0x1fc0, 0x20]), "by distance");
        assert_eq!(applied(0x9990, 0x9990, &long(0x3010)), long(0x3050), "what is not loaded");
    }

    #[test]
    fn it_is_what_it_was_when_it_comes_back() {
        assert_eq!(Relocation::decode(&relocation().encode()), Ok(relocation()));
        let none = Relocation::default().encode();
        assert_eq!(none.len(), 3);
        let mut bytes = *b"\xe8 not an address";
        Relocation::decode(&none).unwrap().apply(0, 7, &mut bytes);
        assert_eq!(&bytes, b"\xe8 not an address");
        for bad in [&[][..], &[0, 0], &[0, 0, 0, 0], &[1, 0, 0]] {
            assert_eq!(Relocation::decode(bad), Err(DeltaError::Relocation));
        }
        let many = vec![region(0, 1, 0, Holds::Data); REGIONS_MAX + 1];
        let many = Relocation::new(many, Vec::new(), Vec::new()).encode();
        assert_eq!(Relocation::decode(&many), Err(DeltaError::Relocation));
    }

    fn regions() -> impl Strategy<Value = Vec<Region>> {
        let number = || prop_oneof![0u64..300, any::<u64>()];
        let holds = prop_oneof![Just(Holds::Code), Just(Holds::Data), Just(Holds::Table)];
        let region = (number(), number(), number(), number(), holds).prop_map(
            |(offset, length, address, memory, holds)| Region { offset, length, address, memory, holds },
        );
        vec(region, 0..6)
    }

    proptest! {
        #[test]
        fn whatever_is_said_of_a_program_is_harmless(
            old in regions(),
            new in regions(),
            moves in vec((any::<u64>(), any::<i64>()), 0..9),
            place in prop_oneof![0u64..300, any::<u64>()],
            at in prop_oneof![0u64..300, any::<u64>()],
            bytes in vec(prop_oneof![Just(0xe8u8), Just(0x0f), Just(0x05), any::<u8>()], 0..200),
        ) {
            let mut moves = moves;
            moves.sort_unstable();
            let relocation = Relocation::new(old, new, moves);
            prop_assert!(Relocation::decode(&relocation.encode()).is_ok_and(|it| it == relocation));
            let (mut one, mut other) = (bytes.clone(), bytes);
            relocation.apply(place, at, &mut one);
            relocation.apply(place, at, &mut other);
            prop_assert_eq!(one, other);
        }

        #[test]
        fn noise_is_a_relocation_or_an_error(bytes in vec(any::<u8>(), 0..100)) {
            let _ = Relocation::decode(&bytes);
        }
    }
}

//! Programs among the files that changed: how their parts moved when they were linked anew.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use blat_target::delta::{Holds, MOVES_MAX, REGIONS_MAX, RELOCATION_MAX, Region, Relocation};
use object::LittleEndian;
use object::elf::{EM_X86_64, FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// So many bytes of a file hold the headers of any program.
const HEADERS: u64 = 64 << 10;
/// A move is worth telling for so many bytes that moved together.
const TOGETHER_MIN: u64 = 128;

/// Bytes of a new file that are copied from an old one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) length: u64,
}

/// A range of old addresses that moved together, up to `end`.
struct Moved {
    start: u64,
    end: u64,
    by: i64,
}

/// The regions of a program of 64 bits, little-endian; none if the file is no such.
pub(super) fn regions(path: &Path) -> io::Result<Option<Vec<Region>>> {
    let mut headers = Vec::new();
    File::open(path)?.take(HEADERS).read_to_end(&mut headers)?;
    Ok(regions_of(&headers))
}

fn regions_of(headers: &[u8]) -> Option<Vec<Region>> {
    let header = FileHeader64::<LittleEndian>::parse(headers).ok()?;
    let endian = header.endian().ok()?;
    let is_known = header.e_machine(endian) == EM_X86_64;
    let (mut regions, mut tables) = (Vec::new(), Vec::new());
    for part in header.program_headers(endian, headers).ok()? {
        let region = |holds| Region {
            offset: part.p_offset(endian),
            length: part.p_filesz(endian),
            address: part.p_vaddr(endian),
            memory: part.p_memsz(endian),
            holds,
        };
        match part.p_type(endian) {
            PT_LOAD if is_known && part.p_flags(endian).contains(PF_X) => regions.push(region(Holds::Code)),
            PT_LOAD => regions.push(region(Holds::Data)),
            PT_GNU_EH_FRAME => tables.push(region(Holds::Table)),
            _ => {}
        }
    }
    // A table lies within what is loaded.
    tables.append(&mut regions);
    (1..=REGIONS_MAX).contains(&tables.len()).then_some(tables)
}

/// How the parts of a program moved, by what of it is copied.
pub(super) fn relocation(old: Vec<Region>, new: Vec<Region>, copied: &[Copied]) -> Relocation {
    let mut moved: Vec<_> = copied.iter().flat_map(|copied| moved(*copied, &old, &new)).collect();
    // Of what is copied from one place to several, the longest.
    moved.sort_by_key(|it| (it.start, std::cmp::Reverse(it.end)));
    let mut together = TOGETHER_MIN;
    loop {
        let moves = moves(&moved, together);
        if moves.len() <= MOVES_MAX {
            let relocation = Relocation::new(old.clone(), new.clone(), moves);
            if relocation.encode().len() <= RELOCATION_MAX {
                return relocation;
            }
        }
        together *= 2;
    }
}

/// By which addresses some bytes moved, for each region they are of.
fn moved<'a>(copied: Copied, old: &'a [Region], new: &'a [Region]) -> impl Iterator<Item = Moved> + 'a {
    let loaded = |regions: &'a [Region]| regions.iter().filter(|region| region.holds != Holds::Table);
    loaded(old).filter_map(move |region| {
        let start = copied.from.max(region.offset);
        let end = (copied.from + copied.length).min(region.offset.saturating_add(region.length));
        let place = (start < end).then(|| copied.to + (start - copied.from))?;
        let there = loaded(new).find(|it| place.checked_sub(it.offset).is_some_and(|by| by < it.length))?;
        let address = |region: &Region, place: u64| region.address.wrapping_add(place - region.offset);
        let (from, to) = (address(region, start), address(there, place));
        let by = to.wrapping_sub(from) as i64;
        Some(Moved { start: from, end: from.wrapping_add(end - start), by })
    })
}

/// From where on things moved by how much: what lies between two, with the nearer.
fn moves(moved: &[Moved], together_min: u64) -> Vec<(u64, i64)> {
    let mut moves: Vec<(u64, i64)> = Vec::new();
    let mut end = 0;
    for it in moved.iter().filter(|it| it.end.wrapping_sub(it.start) >= together_min) {
        if it.end <= end {
            continue;
        }
        if moves.last().is_none_or(|(_, by)| *by != it.by) {
            let between = end + it.start.saturating_sub(end) / 2;
            moves.push((if moves.is_empty() { 0 } else { between.min(it.start) }, it.by));
        }
        end = it.end;
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(offset: u64, length: u64, address: u64, holds: Holds) -> Region {
        Region { offset, length, address, memory: length, holds }
    }

    #[test]
    fn this_program_has_regions_and_a_script_has_none() {
        let regions = regions(&std::env::current_exe().unwrap()).unwrap().expect("a program");
        assert!(regions.iter().any(|region| region.holds == Holds::Data));
        assert_eq!(regions.iter().any(|it| it.holds == Holds::Code), cfg!(target_arch = "x86_64"));
        assert_eq!(regions_of(b"#!/bin/sh\n"), None);
        assert_eq!(regions_of(b"\x7fELF\x02\x01\x01"), None);
    }

    #[test]
    fn what_lies_between_moved_with_the_nearer() {
        let old = vec![region(0, 0x1000, 0, Holds::Data), region(0x1000, 0x1000, 0x5000, Holds::Data)];
        let copied = |from, to, length| Copied { from, to, length };
        let all = [
            copied(0, 0, 0x200),
            copied(0x400, 0x440, 0x200),
            copied(0x600, 0x640, 0x200),
            // Too short, and one that is in two regions.
            copied(0x810, 0x900, 0x10),
            copied(0xf00, 0xf80, 0x180),
        ];
        let found: Vec<_> = all.iter().flat_map(|it| moved(*it, &old, &old)).collect();
        assert_eq!(moves(&found, TOGETHER_MIN), [(0, 0), (0x300, 0x40), (0xb80, 0x80)]);
        assert_eq!(found.last().map(|it| (it.start, it.end, it.by)), Some((0x5000, 0x5080, 0x80)));
    }

    #[test]
    fn the_moves_are_never_too_many() {
        let length = 64 << 20;
        let old = vec![region(0, length, 0, Holds::Data)];
        let every = |nth: u64| Copied { from: nth * 512, to: nth * 512 + nth % 7, length: 256 };
        let copied: Vec<_> = (0..length / 512).map(every).collect();
        let encoded = relocation(old.clone(), old, &copied).encode();
        assert!(encoded.len() <= RELOCATION_MAX && Relocation::decode(&encoded).is_ok());
    }
}

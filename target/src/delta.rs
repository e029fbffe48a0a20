//! Deltas: a package-version told by another one of its package that stands on the target already.
//!
//! A [`Recipe`] says for each regular file where its content comes from: from the stream, from a
//! file of the base as it is, or from one with changes. Changes come in chunks of [`CHUNK`] bytes
//! of the new file. A chunk is a row of operations: copy so many bytes of the old file from here,
//! then take so many new ones. What was copied may differ by single bytes, as the addresses in a
//! program do that was linked anew: the differences are told apart from the copying, so that one
//! long copy with a thousand small differences stays one operation. Nothing here is compressed:
//! it travels in the session's stream, which is.
//!
//! A chunk starts with the lengths of its four [`Streams`] (32 bits each, little-endian), in their
//! order; numbers in them have seven bits a byte, the lowest first. A chunk that has nothing in
//! common with the old file is one operation and all of its bytes.
//!
//! From [`PROTOCOL_OF_RELOCATIONS`](crate::message::PROTOCOL_OF_RELOCATIONS) on, a chunk has a
//! [`Relocation`] before it: the length of its encoding (32 bits, little-endian) and the encoding, which
//! is in force from this chunk of the file on; or 0, where what came before stays in force.
//!
//! Nothing that is made so is trusted: each [`GROUP`] of files has a seal, and a file that is not
//! what it should be comes again, in full.

mod relocation;

use serde::{Deserialize, Serialize};

pub use relocation::{Holds, MOVES_MAX, REGIONS_MAX, RELOCATION_MAX, Region, Relocation};

use crate::manifest::PATH_MAX;
use crate::message::Digest;

/// How many bytes of the new file one chunk of changes makes; the last one of a file makes fewer.
pub const CHUNK: usize = 4 << 20;
/// How many bytes longer than what it makes a chunk of changes may be, its header not counted.
pub const OVERHEAD_MAX: usize = 64;
/// The length of a chunk's header, in bytes.
pub const HEADER_LEN: usize = 16;
/// So many files, in the manifest's order, share a seal.
pub const GROUP: usize = 256;

/// Where the content of each regular file comes from, in the manifest's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    pub files: Vec<Source>,
}

/// Where the content of a file comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// It follows in the stream.
    Whole,
    /// It is that of a file of the base.
    Same(Origin),
    /// It is made of a file of the base and the changes that follow in the stream.
    Changed(Origin),
}

/// A file of the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The one with the same path.
    SamePath,
    /// The one with this path.
    Path(Vec<u8>),
}

/// Why bytes are no delta.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    #[error("the recipe cannot be read: {0}")]
    Encoding(String),
    #[error("the recipe has {0} files where the manifest has {1}")]
    Files(u64, usize),
    #[error("the recipe names a file of the base by an impossible path")]
    Path,
    #[error("a chunk of changes is longer than what it makes")]
    Long,
    #[error("a chunk of changes does not make what it should")]
    Chunk,
    #[error("what is said of where a program's parts moved cannot be read, or is too much")]
    Relocation,
}

impl Recipe {
    /// That of a package whose regular files, so many, all come in full.
    pub fn whole(files: usize) -> Self {
        Self { files: vec![Source::Whole; files] }
    }

    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("recipes of ours can be encoded")
    }

    /// Reads the recipe of a manifest with so many regular files.
    pub fn decode(bytes: &[u8], files: usize) -> Result<Self, DeltaError> {
        let unreadable = |why: postcard::Error| DeltaError::Encoding(why.to_string());
        // The encoding starts with the number of files.
        let (count, _) = postcard::take_from_bytes::<u64>(bytes).map_err(unreadable)?;
        if count != files as u64 {
            return Err(DeltaError::Files(count, files));
        }
        let (recipe, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(unreadable)?;
        if !rest.is_empty() {
            return Err(DeltaError::Encoding("bytes are left over".into()));
        }
        let impossible = |path: &[u8]| path.is_empty() || path.len() > PATH_MAX || path.contains(&0);
        let bad = |source: &Source| match source {
            Source::Same(Origin::Path(path)) | Source::Changed(Origin::Path(path)) => impossible(path),
            _ => false,
        };
        if recipe.files.iter().any(bad) { Err(DeltaError::Path) } else { Ok(recipe) }
    }
}

impl Source {
    /// The base's file that the content of the file at `path` is made of, if one is.
    pub fn origin<'a>(&'a self, path: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Whole => None,
            Self::Same(Origin::SamePath) | Self::Changed(Origin::SamePath) => Some(path),
            Self::Same(Origin::Path(other)) | Self::Changed(Origin::Path(other)) => Some(other),
        }
    }
}

/// The seal of a group: the BLAKE3 of its files' digests, one behind the other.
pub fn seal(digests: impl IntoIterator<Item = Digest>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(&digest.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// A chunk of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// For each operation: how many bytes to copy, how many new ones follow, and where in the old
    /// file the copy starts, counted from where the last one ended (the first: from where the chunk
    /// stands in the new file), to the right in even numbers, to the left in odd ones.
    pub operations: Vec<u8>,
    /// Through all that is copied: how many bytes are the same, how many then differ, and so on.
    pub runs: Vec<u8>,
    /// For each byte that differs, what is to be added to the old one.
    pub differences: Vec<u8>,
    /// What is new.
    pub new: Vec<u8>,
}

impl Streams {
    /// All of a chunk as new.
    pub fn whole(chunk: &[u8]) -> Self {
        let mut operations = Vec::new();
        [0, chunk.len() as u64, 0].iter().for_each(|number| put(&mut operations, *number));
        Self { operations, new: chunk.to_vec(), ..Self::default() }
    }

    /// How long it is, without its header, in bytes.
    pub fn length(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// The streams in their order.
    pub fn parts(&self) -> [&[u8]; 4] {
        [&self.operations, &self.runs, &self.differences, &self.new]
    }

    pub fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        for (to, part) in header.chunks_exact_mut(4).zip(self.parts()) {
            to.copy_from_slice(&(part.len() as u32).to_le_bytes());
        }
        header
    }

    /// The streams' lengths, of a chunk that makes `makes` bytes.
    pub fn lengths(header: [u8; HEADER_LEN], makes: usize) -> Result<[usize; 4], DeltaError> {
        let mut lengths = [0; 4];
        for (length, from) in lengths.iter_mut().zip(header.chunks_exact(4)) {
            *length = u32::from_le_bytes(from.try_into().expect("four bytes")) as usize;
        }
        let total = lengths.iter().try_fold(0usize, |sum, length| sum.checked_add(*length));
        match total {
            Some(total) if total <= makes + OVERHEAD_MAX => Ok(lengths),
            _ => Err(DeltaError::Long),
        }
    }

    /// Makes `makes` bytes that stand at `at` in the new file; `old` fills a buffer from a place in
    /// the old file, and `relocation` works out what it can of that.
    pub fn make(
        &self,
        at: u64,
        makes: usize,
        relocation: &Relocation,
        mut old: impl FnMut(u64, &mut [u8]),
    ) -> Result<Vec<u8>, DeltaError> {
        let mut made = Vec::with_capacity(makes);
        let (mut operations, mut new) = (&self.operations[..], &self.new[..]);
        let mut changes = Changes { runs: &self.runs, differences: &self.differences, same: 0, differ: 0 };
        let mut place = at;
        while !operations.is_empty() {
            let (copied, taken) = (take(&mut operations)?, take(&mut operations)?);
            place = moved(place, take(&mut operations)?)?;
            let left = (makes - made.len()) as u64;
            if copied.checked_add(taken).is_none_or(|sum| sum > left || sum == 0) || taken > new.len() as u64
            {
                return Err(DeltaError::Chunk);
            }
            let start = made.len();
            made.resize(start + copied as usize, 0);
            old(place, &mut made[start..]);
            relocation.apply(place, at.wrapping_add(start as u64), &mut made[start..]);
            changes.apply(&mut made[start..])?;
            place = place.checked_add(copied).ok_or(DeltaError::Chunk)?;
            let (came, rest) = new.split_at(taken as usize);
            made.extend_from_slice(came);
            new = rest;
        }
        let rest = changes.runs.len() + changes.differences.len() + new.len();
        if made.len() != makes || rest > 0 || changes.differ > 0 {
            return Err(DeltaError::Chunk);
        }
        Ok(made)
    }
}

/// What is left of the differences.
struct Changes<'a> {
    runs: &'a [u8],
    differences: &'a [u8],
    same: u64,
    differ: u64,
}

impl Changes<'_> {
    fn apply(&mut self, mut copied: &mut [u8]) -> Result<(), DeltaError> {
        while !copied.is_empty() {
            if self.same == 0 && self.differ == 0 {
                if self.runs.is_empty() {
                    return Ok(());
                }
                (self.same, self.differ) = (take(&mut self.runs)?, take(&mut self.runs)?);
                if self.differ == 0 {
                    return Err(DeltaError::Chunk);
                }
            }
            let same = self.same.min(copied.len() as u64);
            self.same -= same;
            copied = &mut copied[same as usize..];
            let differ = self.differ.min(copied.len() as u64) as usize;
            if self.same > 0 || differ == 0 {
                continue;
            }
            let (differences, rest) = self.differences.split_at_checked(differ).ok_or(DeltaError::Chunk)?;
            copied.iter_mut().zip(differences).for_each(|(byte, by)| *byte = byte.wrapping_add(*by));
            self.differences = rest;
            self.differ -= differ as u64;
            copied = &mut copied[differ..];
        }
        Ok(())
    }
}

/// Puts a number behind `to`.
pub fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn take(from: &mut &[u8]) -> Result<u64, DeltaError> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = from.split_first().ok_or(DeltaError::Chunk)?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(DeltaError::Chunk)
}

/// The number that leads from one place in the old file to another.
pub fn step(from: u64, to: u64) -> u64 {
    if to >= from { (to - from) << 1 } else { ((from - to) << 1) - 1 }
}

fn moved(from: u64, step: u64) -> Result<u64, DeltaError> {
    let by = step / 2 + step % 2;
    let to = if step.is_multiple_of(2) { from.checked_add(by) } else { from.checked_sub(by) };
    to.ok_or(DeltaError::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn a_step_leads_where_it_should() {
        for (from, to) in [(0, 0), (5, 9), (9, 5), (1, 0), (0, u64::from(u32::MAX))] {
            assert_eq!(moved(from, step(from, to)), Ok(to));
        }
        assert_eq!(moved(3, 7), Err(DeltaError::Chunk), "before the file's start");
    }

    #[test]
    fn a_recipe_for_other_files_is_refused() {
        let recipe = Recipe { files: vec![Source::Whole, Source::Same(Origin::Path(b"x".to_vec()))] };
        assert_eq!(Recipe::decode(&recipe.encode(), 2), Ok(recipe.clone()));
        assert_eq!(Recipe::decode(&recipe.encode(), 3), Err(DeltaError::Files(2, 3)));
        let bad = Recipe { files: vec![Source::Same(Origin::Path(Vec::new()))] };
        assert_eq!(Recipe::decode(&bad.encode(), 1), Err(DeltaError::Path));
    }

    fn streams() -> impl Strategy<Value = Streams> {
        let bytes = || vec(prop_oneof![0u8..6, any::<u8>()], 0..40);
        (bytes(), bytes(), bytes(), bytes()).prop_map(|(operations, runs, differences, new)| Streams {
            operations,
            runs,
            differences,
            new,
        })
    }

    proptest! {
        #[test]
        fn noise_makes_what_was_asked_or_an_error(streams in streams(), makes in 0usize..100, at in 0u64..50) {
            let old = |_: u64, buffer: &mut [u8]| assert!(buffer.len() <= makes);
            if let Ok(made) = streams.make(at, makes, &Relocation::default(), old) {
                prop_assert_eq!(made.len(), makes);
            }
            let _ = Recipe::decode(&streams.operations, makes);
        }

        #[test]
        fn a_whole_chunk_comes_back(chunk in vec(any::<u8>(), 1..300)) {
            let streams = Streams::whole(&chunk);
            prop_assert_eq!(Streams::lengths(streams.header(), chunk.len()), Ok(streams.parts().map(<[u8]>::len)));
            prop_assert_eq!(streams.make(7, chunk.len(), &Relocation::default(), |_, _| ()), Ok(chunk));
        }
    }
}

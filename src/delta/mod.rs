//! Telling a package by another version of it that stands on the target: both builds are here, so
//! what is new is known before a word is said to the target.
//!
//! Files that are the same by digest are named; a changed file is made of the one with its path, or
//! where that is gone, of one with a similar name and size that is gone from the new version, too.
//! Each chunk goes as changes or as it is, whichever is smaller. See [`blat_target::delta`] for the
//! form, and for why the target needs not be trusted to hold what it says.

mod differ;
mod digests;
mod in_order;
mod mend;
mod origins;
mod program;
mod segment;

use std::io::Write;

use blat_target::delta::{CHUNK, Recipe, Source, Streams};
use blat_target::message::Digest;
use blat_target::package::{Name, PackageVersion};
use blat_target::stamp::Stamp;

pub(crate) use digests::beginning;
pub use digests::{CACHE, Cache};
pub(crate) use mend::{Made, Mend};

use crate::bases::Base;
use crate::failure::{Needs, Result};
use crate::memory::Memory;
use crate::pack::{Reader, Scan, write_seals};
use crate::progress::Progress;
use crate::resume::{Kept, Start};
use in_order::in_order;
use segment::{Changes, Chunk, Telling, chunks};

/// Packages with fewer bytes are not worth the thought.
const BYTES_MIN: u64 = 32 << 10;
/// A chunk of changes of less than one in so many bytes is taken as it is; others are packed, for a
/// try, beside the chunk as a whole.
const PLAINLY_SMALL: usize = 16;
/// zstd's level for such a try.
const TRY_LEVEL: i32 = 1;

/// How a package is told by a base.
pub(crate) struct Delta<'a> {
    new: &'a Scan,
    old: Option<Scan>,
    /// None if all of it comes in full.
    pub(crate) base: Option<(Name, Stamp)>,
    recipe: Recipe,
    digests: Vec<Digest>,
    /// Whether it is said where the parts of programs moved.
    relocates: bool,
}

impl<'a> Delta<'a> {
    /// Works out how `new` is told by the best of `bases`, and where the parts of programs moved if the target
    /// `relocates`; none if it has little in common with any.
    pub(crate) fn of(
        relocates: bool,
        id: &PackageVersion,
        new: &'a Scan,
        bases: &[Base],
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Option<Self>> {
        if bases.is_empty() || new.manifest.bytes() < BYTES_MIN {
            return Ok(None);
        }
        let Some((base, old)) = origins::best(new, bases, progress) else { return Ok(None) };
        let digests = cache.digests(id, new, progress)?;
        let old_digests = cache.digests(&id.with_version(base.version.clone()), &old, progress)?;
        let files = origins::sources(&new.manifest, &digests, &old.manifest, &old_digests);
        if files.iter().all(|source| *source == Source::Whole) {
            return Ok(None);
        }
        let (recipe, base) = (Recipe { files }, Some((base.version.clone(), base.stamp)));
        Ok(Some(Self { new, old: Some(old), base, recipe, digests, relocates }))
    }

    /// `new` in full.
    pub(crate) fn whole(
        id: &PackageVersion,
        new: &'a Scan,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Self> {
        let digests = cache.digests(id, new, progress)?;
        let recipe = Recipe::whole(digests.len());
        Ok(Self { new, old: None, base: None, recipe, digests, relocates: false })
    }

    /// From where on it has to be sent to a target that keeps a part of it.
    pub(crate) fn start(&self, kept: &Kept, progress: &Progress) -> Result<Start> {
        let mut start = Start::of(kept, self.new, &self.digests, progress)?;
        start.bytes = match self.recipe.files.get(start.files) {
            Some(Source::Whole) => start.bytes,
            Some(Source::Changed(_)) => start.bytes - start.bytes % CHUNK as u64,
            Some(Source::Same(_)) | None => 0,
        };
        Ok(start)
    }

    /// How much is there already, in bytes.
    pub(crate) fn total(&self, start: Start) -> u64 {
        start.total(self.new)
    }

    pub(crate) fn recipe(&self) -> Vec<u8> {
        self.recipe.encode()
    }

    /// Writes the package's part of the packed stream: manifest, recipe, files from `start` on, seals.
    pub(crate) fn write(
        &self,
        manifest: &[u8],
        recipe: &[u8],
        start: Start,
        memory: Memory,
        progress: &Progress,
        out: &mut impl Write,
    ) -> Result<()> {
        out.write_all(manifest).and_then(|()| out.write_all(recipe)).later("cannot send")?;
        let telling = Telling { means: memory.means(), relocates: self.relocates };
        let chunks = chunks(self.new, self.old.as_ref(), &self.recipe, start, telling);
        let work = |number: usize| {
            progress.moved();
            match &chunks[number] {
                Chunk::Whole(..) => Ok(None),
                Chunk::Changed(changed) => changed.make().map(Some),
            }
        };
        let (mut number, mut reader) = (0, Reader::of(self.new));
        in_order(telling.means.threads, chunks.len(), work, |made: Result<Option<Changes>>| {
            let chunk = &chunks[number];
            number += 1;
            match (made?, chunk) {
                (Some(changes), _) => write_changes(&changes, self.relocates, out),
                (None, Chunk::Whole(entry, at)) => reader.copy_from(entry, *at, out).map(drop),
                (None, Chunk::Changed(_)) => unreachable!("changes were made of it"),
            }
        })?;
        reader.end()?;
        write_seals(&self.digests, out)
    }
}

fn write_changes(changes: &Changes, relocates: bool, out: &mut impl Write) -> Result<()> {
    let Changes { relocation, streams } = changes;
    let relocation = relocation.as_deref().unwrap_or_default();
    let length = (relocation.len() as u32).to_le_bytes();
    let before = if relocates { [&length[..], relocation] } else { [&[][..]; 2] };
    let header = streams.header();
    let all = before.into_iter().chain([&header[..]]).chain(streams.parts());
    all.into_iter().try_for_each(|part| out.write_all(part)).later("cannot send")
}

/// The smaller of a chunk's changes and the chunk as it is, packed.
fn smaller(changes: Streams, chunk: &[u8]) -> Result<Streams> {
    let length = changes.length();
    if length * PLAINLY_SMALL <= chunk.len() {
        return Ok(changes);
    }
    let packed = |plain: &[u8]| zstd::bulk::compress(plain, TRY_LEVEL).map(|packed| packed.len());
    let whole = packed(chunk).later("cannot pack")?;
    let told = packed(&changes.parts().concat()).later("cannot pack")?;
    Ok(if length < chunk.len() && told < whole { changes } else { Streams::whole(chunk) })
}

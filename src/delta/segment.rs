//! Changed files in chunks. A large file is cut into segments, each told by the part of the old
//! file around its place, so that memory stays bounded whatever the file's size.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use blat_target::delta::{CHUNK, Recipe, Relocation, Source, Streams};
use blat_target::manifest::{Entry, Time};

use super::differ::{Old, Operation};
use super::in_order::in_order;
use super::program::{Copied, regions, relocation};
use super::smaller;
use crate::failure::{Failure, Needs, Result};
use crate::memory::Means;
use crate::pack::{Scan, time};
use crate::resume::Start;

/// What is sent next of a package's files.
pub(super) enum Chunk<'a> {
    /// A file from this byte on.
    Whole(&'a Entry, u64),
    Changed(Changed),
}

/// How changed files are told.
#[derive(Clone, Copy)]
pub(super) struct Telling {
    pub(super) means: Means,
    /// Whether it is said where the parts of programs moved.
    pub(super) relocates: bool,
}

/// A chunk of a changed file.
pub(super) struct Changed {
    segment: Arc<Segment>,
    /// Which of its segment.
    number: usize,
}

/// What makes a chunk, and where the program's parts moved, if that has to be said with it.
pub(super) struct Changes {
    pub(super) relocation: Option<Vec<u8>>,
    pub(super) streams: Streams,
}

/// Chunks of a new file, and the part of the old one that they need: read when the first does, let go with the
/// last.
struct Segment {
    new: PathBuf,
    modified: Time,
    /// Which bytes of the new file.
    range: Range<u64>,
    old: PathBuf,
    start: u64,
    length: u64,
    telling: Telling,
    needed: AtomicUsize,
    ready: Mutex<Option<Arc<Made>>>,
}

/// The operations of all chunks of a program, and where its parts moved.
type Program = (Vec<Vec<Operation>>, Relocation);

/// What all chunks of a segment are made of.
struct Made {
    old: Old,
    /// Of a program: known for all chunks before the first can be told.
    operations: Option<Vec<Vec<Operation>>>,
    relocation: Relocation,
}

/// All that follows the recipe from `start` on, in order.
pub(super) fn chunks<'a>(
    new: &'a Scan,
    old: Option<&Scan>,
    recipe: &Recipe,
    start: Start,
    telling: Telling,
) -> Vec<Chunk<'a>> {
    let old_files = old.into_iter().flat_map(|old| old.manifest.files().map(move |file| (old, file)));
    let origins: std::collections::HashMap<&[u8], (PathBuf, u64)> =
        old_files.map(|(old, (entry, size, _))| (&entry.path[..], (old.path(entry), size))).collect();
    let mut all = Vec::new();
    let mut at = start.bytes;
    for ((entry, size, _), source) in new.manifest.files().zip(&recipe.files).skip(start.files) {
        match (source, source.origin(&entry.path).and_then(|path| origins.get(path))) {
            (Source::Same(_), _) => {}
            (Source::Changed(_), Some((origin, old_size))) => {
                let paths = (new.path(entry), origin.clone());
                all.extend(changed(entry.modified, paths, at..size, *old_size, telling).map(Chunk::Changed));
            }
            _ => all.push(Chunk::Whole(entry, at)),
        }
        at = 0;
    }
    all
}

fn changed(
    modified: Time,
    (new, old): (PathBuf, PathBuf),
    part: Range<u64>,
    old_size: u64,
    telling: Telling,
) -> impl Iterator<Item = Changed> {
    let (end, length) = (part.end, telling.means.segment());
    part.step_by(length as usize).flat_map(move |first| {
        let range = first..end.min(first + length);
        let segment = Arc::new(Segment::new(modified, new.clone(), range, (old.clone(), old_size), telling));
        (0..count(&segment.range)).map(move |number| Changed { segment: segment.clone(), number })
    })
}

impl Changed {
    /// Makes the chunk's changes.
    pub(super) fn make(&self) -> Result<Changes> {
        let made = self.segment.make(self.number);
        self.segment.done();
        made
    }
}

impl Segment {
    fn new(
        modified: Time,
        new: PathBuf,
        range: Range<u64>,
        (old, old_size): (PathBuf, u64),
        telling: Telling,
    ) -> Self {
        let means = telling.means;
        let middle = range.start + means.segment() / 2;
        let start = middle.saturating_sub(means.part / 2).min(old_size.saturating_sub(means.part));
        let length = means.part.min(old_size - start);
        let needed = AtomicUsize::new(count(&range));
        Self { new, modified, range, old, start, length, telling, needed, ready: Mutex::default() }
    }

    fn make(&self, number: usize) -> Result<Changes> {
        let ready = self.ready()?;
        let (chunk, at) = self.chunk(number)?;
        let operations;
        let operations = match &ready.operations {
            Some(all) => &all[number],
            None => {
                operations = ready.old.operations(&chunk, at);
                &operations
            }
        };
        let streams = smaller(ready.old.streams(operations, &chunk, at, &ready.relocation), &chunk)?;
        let relocation = (number == 0).then(|| ready.relocation.encode());
        Ok(Changes { relocation, streams })
    }

    /// A chunk of the new file, and where it stands.
    fn chunk(&self, number: usize) -> Result<(Vec<u8>, u64)> {
        let cannot = || format!("cannot read {}", self.new.display());
        let file = File::open(&self.new).later(cannot())?;
        let at = self.range.start + (number * CHUNK) as u64;
        let mut chunk = vec![0; (self.range.end - at).min(CHUNK as u64) as usize];
        file.read_exact_at(&mut chunk, at).later(cannot())?;
        if time(&file.metadata().later(cannot())?) != self.modified {
            return Err(Failure::later(anyhow::anyhow!("{} changed while it was read", self.new.display())));
        }
        Ok((chunk, at))
    }

    fn ready(&self) -> Result<Arc<Made>> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*ready {
            return Ok(made.clone());
        }
        let made = self.old().and_then(|old| Ok((self.program(&old)?, old)));
        let (program, old) = made.or_else(|why| self.without_old(why))?;
        let (operations, relocation) =
            program.map_or_else(Default::default, |(all, relocation)| (Some(all), relocation));
        Ok(ready.insert(Arc::new(Made { old, operations, relocation })).clone())
    }

    fn old(&self) -> Result<Old> {
        Ok(Old::new(read(&self.old, self.start, self.length)?, self.start))
    }

    /// Where the old file cannot be read any more, all is new; what keeps the new one from being read is an error.
    fn without_old(&self, why: Failure) -> Result<(Option<Program>, Old)> {
        self.chunk(0)?;
        tracing::debug!("{} is told by nothing: {why}", self.new.display());
        Ok((None, Old::new(Vec::new(), self.start)))
    }

    /// If both files are programs, the operations of all chunks, and by these where its parts moved.
    fn program(&self, old: &Old) -> Result<Option<Program>> {
        if !self.telling.relocates {
            return Ok(None);
        }
        let regions = |path: &Path| regions(path).later(format!("cannot read {}", path.display()));
        let (Some(old_regions), Some(new_regions)) = (regions(&self.old)?, regions(&self.new)?) else {
            return Ok(None);
        };
        let (mut all, mut copied) = (Vec::new(), Vec::<Copied>::new());
        let work = |number| self.chunk(number).map(|(chunk, at)| (old.operations(&chunk, at), at));
        in_order(self.telling.means.threads, count(&self.range), work, |made| {
            let (operations, at) = made?;
            copied.extend(old.copied(&operations, at));
            all.push(operations);
            Ok::<(), Failure>(())
        })?;
        Ok(Some((all, relocation(old_regions, new_regions, &copied))))
    }

    fn done(&self) {
        if self.needed.fetch_sub(1, Relaxed) == 1 {
            *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// How many chunks make these bytes.
fn count(range: &Range<u64>) -> usize {
    (range.end - range.start).div_ceil(CHUNK as u64) as usize
}

fn read(path: &Path, start: u64, length: u64) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut bytes = vec![0; length as usize];
    let file = File::open(path).later(cannot())?;
    file.read_exact_at(&mut bytes, start).later(cannot())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const CALLS: usize = 60_000;
    /// How long the headers of the program are, and what stands between two calls.
    const HEADERS: usize = 120;
    const BETWEEN: usize = 140;

    /// A program of x86-64, all of which is code: functions that call one another, `inserted` bytes longer in its
    /// middle.
    fn program(inserted: usize) -> Vec<u8> {
        let mut program = vec![0; HEADERS];
        program[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        // Shared object, machine, version; where the one program header is, and how long both are.
        for (at, number) in [(16, 3u16), (18, 62), (20, 1), (32, 64), (52, 64), (54, 56), (56, 1)] {
            program[at..at + 2].copy_from_slice(&number.to_le_bytes());
        }
        let function = |nth: usize| {
            let behind = if nth < CALLS / 2 { 0 } else { inserted };
            HEADERS + nth * (BETWEEN + 5) + behind
        };
        let mut content = blake3::Hasher::new().finalize_xof();
        for nth in 0..CALLS {
            if nth == CALLS / 2 {
                program.extend_from_slice(&vec![0x90; inserted]);
            }
            let mut between = [0; BETWEEN];
            content.fill(&mut between);
            // Nothing that looks like an address by chance.
            between.iter_mut().for_each(|byte| *byte |= 0x4a);
            program.extend_from_slice(&between);
            let called = function((nth * 7919 + 13) % CALLS) as i64;
            let from = program.len() as i64 + 5;
            program.push(0xe8);
            program.extend_from_slice(&((called - from) as i32).to_le_bytes());
        }
        let length = program.len() as u64;
        // Loaded, to read and execute, from the file's start to address 0x10000.
        let header = [0x5_0000_0001, 0, 0x10000, 0x10000, length, length, 0x1000];
        for (nth, field) in header.iter().enumerate() {
            program[64 + 8 * nth..72 + 8 * nth].copy_from_slice(&u64::to_le_bytes(*field));
        }
        program
    }

    /// How many bytes the changes of a file take, packed; checks that they make it.
    fn told(old: &[u8], new: &[u8], part: u64, relocates: bool) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let paths = (folder.path().join("new"), folder.path().join("old"));
        fs::write(&paths.0, new).unwrap();
        fs::write(&paths.1, old).unwrap();
        let modified = time(&fs::metadata(&paths.0).unwrap());
        let telling = Telling { means: Means { threads: 2, part }, relocates };
        let (mut made, mut sent, mut relocation) = (Vec::new(), Vec::new(), Relocation::default());
        let all: Vec<_> = changed(modified, paths, 0..new.len() as u64, old.len() as u64, telling).collect();
        for chunk in all {
            let Changes { relocation: another, streams } = chunk.make().unwrap();
            if let Some(another) = another {
                relocation = Relocation::decode(&another).unwrap();
                sent.extend_from_slice(&another);
            }
            sent.extend_from_slice(&streams.parts().concat());
            let read = |place: u64, buffer: &mut [u8]| {
                buffer.copy_from_slice(&old[place as usize..place as usize + buffer.len()]);
            };
            let makes = CHUNK.min(new.len() - made.len());
            made.extend(streams.make(made.len() as u64, makes, &relocation, read).unwrap());
        }
        assert!(made == new);
        zstd::bulk::compress(&sent, 6).unwrap().len()
    }

    #[test]
    fn a_program_that_was_linked_anew_costs_next_to_nothing() {
        let (old, new) = (program(0), program(64));
        let told = |part| [true, false].map(|relocates| told(&old, &new, part, relocates));
        let [with, without] = told(64 << 20);
        assert!(with * 20 < without, "{with} of {without} bytes");
        // Of a larger one, each segment knows how its own parts moved.
        let [with, without] = told(8 << 20);
        assert!(with < without, "{with} of {without} bytes");
    }

    #[test]
    fn an_old_file_that_cannot_be_read_costs_what_it_would_have_saved() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("gone"));
        let content = program(0);
        fs::write(&new, &content).unwrap();
        let modified = time(&fs::metadata(&new).unwrap());
        let telling = Telling { means: Means { threads: 2, part: 64 << 20 }, relocates: true };
        let length = content.len() as u64;
        let mut made = Vec::new();
        for chunk in changed(modified, (new.clone(), old), 0..length, length, telling) {
            let changes = chunk.make().unwrap();
            let makes = CHUNK.min(content.len() - made.len());
            let read = |_, taken: &mut [u8]| assert!(taken.is_empty(), "it cannot be read here");
            made.extend(
                changes.streams.make(made.len() as u64, makes, &Relocation::default(), read).unwrap(),
            );
        }
        assert!(made == content);
        fs::remove_file(&new).unwrap();
        let paths = (new, folder.path().join("gone"));
        assert!(changed(modified, paths, 0..length, length, telling).next().unwrap().make().is_err());
    }

    #[test]
    fn what_is_no_program_is_told_as_before() {
        let [old, new] = [program(0), program(64)];
        let [with, without] = [true, false].map(|it| told(&old[HEADERS..], &new[HEADERS..], 64 << 20, it));
        assert!(with.abs_diff(without) < 16, "{with} and {without} bytes");
    }
}

//! Changed files in chunks. A large file is cut into segments, each told by the part of the old
//! file around its place, so that memory stays bounded whatever the file's size.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use blat_target::delta::{CHUNK, Recipe, Source, Streams};
use blat_target::manifest::{Entry, Time};

use super::differ::Old;
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

/// A chunk of a changed file.
pub(super) struct Changed {
    segment: Arc<Segment>,
    new: PathBuf,
    modified: Time,
    at: u64,
    length: usize,
}

/// A part of an old file that some chunks need: read when the first does, let go with the last.
struct Segment {
    old: PathBuf,
    start: u64,
    length: u64,
    needed: AtomicUsize,
    indexed: Mutex<Option<Arc<Old>>>,
}

/// All that follows the recipe from `start` on, in order.
pub(super) fn chunks<'a>(
    new: &'a Scan,
    old: Option<&Scan>,
    recipe: &Recipe,
    start: Start,
    means: Means,
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
                all.extend(changed(entry.modified, paths, at..size, *old_size, means).map(Chunk::Changed));
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
    means: Means,
) -> impl Iterator<Item = Changed> {
    let end = part.end;
    part.step_by(means.segment() as usize).flat_map(move |first| {
        let end = end.min(first + means.segment());
        let places = (first..end).step_by(CHUNK);
        let segment = Arc::new(Segment::new(old.clone(), old_size, first, places.clone().count(), means));
        let new = new.clone();
        places.map(move |at| {
            let length = (end - at).min(CHUNK as u64) as usize;
            Changed { segment: segment.clone(), new: new.clone(), modified, at, length }
        })
    })
}

impl Changed {
    /// Makes the chunk's changes.
    pub(super) fn make(&self) -> Result<Streams> {
        let made = self.try_make();
        self.segment.done();
        made
    }

    fn try_make(&self) -> Result<Streams> {
        let cannot = || format!("cannot read {}", self.new.display());
        let file = File::open(&self.new).later(cannot())?;
        let mut chunk = vec![0; self.length];
        file.read_exact_at(&mut chunk, self.at).later(cannot())?;
        if time(&file.metadata().later(cannot())?) != self.modified {
            return Err(Failure::later(anyhow::anyhow!("{} changed while it was read", self.new.display())));
        }
        let old = self.segment.indexed()?;
        smaller(old.changes(&chunk, self.at), &chunk)
    }
}

impl Segment {
    fn new(old: PathBuf, old_size: u64, first: u64, needed: usize, means: Means) -> Self {
        let middle = first + means.segment() / 2;
        let start = middle.saturating_sub(means.part / 2).min(old_size.saturating_sub(means.part));
        let length = means.part.min(old_size - start);
        Self { old, start, length, needed: AtomicUsize::new(needed), indexed: Mutex::new(None) }
    }

    fn indexed(&self) -> Result<Arc<Old>> {
        let mut indexed = self.indexed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = &*indexed {
            return Ok(old.clone());
        }
        let old = Arc::new(Old::new(read(&self.old, self.start, self.length)?, self.start));
        Ok(indexed.insert(old).clone())
    }

    fn done(&self) {
        if self.needed.fetch_sub(1, Relaxed) == 1 {
            *self.indexed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

fn read(path: &Path, start: u64, length: u64) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut bytes = vec![0; length as usize];
    let file = File::open(path).later(cannot())?;
    file.read_exact_at(&mut bytes, start).later(cannot())?;
    Ok(bytes)
}

//! The file of a package that is ready: frames as they are sent, and behind them what they are.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blat_target::frame::{self, HEADER_LEN, Header};
use blat_target::message::Digest;
use blat_target::package::Name;
use blat_target::stamp::Stamp;
use serde::{Deserialize, Serialize};

use crate::failure::{Needs, Result};
use crate::outlet::Stretch;
use crate::press::Packing;

/// A file is handed over in stretches of so many bytes, and the frame that ends them.
pub(super) const STRETCH: u64 = 1 << 20;
/// The longest end of a file, in bytes.
const END_MAX: usize = 4 << 10;
/// A file is looked at in pieces of so many bytes.
const PIECE: usize = 1 << 18;

/// By what a package is told that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) base: Name,
    pub(crate) base_stamp: Stamp,
    pub(crate) recipe_length: u32,
}

/// A package that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) told: Option<Told>,
    pub(super) content: Content,
    /// Where its stretches end.
    ends: Vec<u64>,
}

/// What is sent of a file. It is held open: whoever deletes the file takes nothing away from it.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) path: PathBuf,
    file: Arc<File>,
    /// Its first bytes, so many,
    length: u64,
    /// and this is their digest.
    digest: Digest,
}

impl Ready {
    /// The frames that are sent, each whole in one of them.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = Stretch> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(at, end)| {
            let length = (end - at) as usize;
            Stretch { file: self.content.file.clone(), at, length }
        })
    }
}

impl Content {
    /// Whether what is sent is what was written.
    pub(super) fn is_whole(&self) -> bool {
        let (mut hash, mut at, mut piece) = (blake3::Hasher::new(), 0, vec![0; PIECE]);
        while at < self.length {
            let most = piece.len().min(usize::try_from(self.length - at).unwrap_or(usize::MAX));
            if self.file.read_exact_at(&mut piece[..most], at).is_err() {
                return false;
            }
            hash.update(&piece[..most]);
            at += most as u64;
        }
        hash.finalize().as_bytes() == &self.digest.0
    }

    /// Deletes the file, unless another has taken its place.
    pub(super) fn delete(&self) {
        let held = self.file.metadata().map(|found| (found.dev(), found.ino()));
        let there = fs::metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if held.is_ok_and(|held| there.is_ok_and(|there| held == there)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How a file ends, behind what is sent of it.
#[derive(Serialize, Deserialize)]
struct End {
    told: Option<Told>,
    /// Of what is sent.
    digest: Digest,
}

/// Writes a file. None where the disk does not take it.
pub(super) fn write(
    path: &Path,
    packing: Packing,
    make: impl FnOnce(&mut dyn Write) -> Result<Option<Told>>,
) -> Result<Option<()>> {
    let Ok(file) = File::create(path) else { return Ok(None) };
    let file = BufWriter::with_capacity(1 << 18, file);
    let mut kept = Keeping { file, hash: blake3::Hasher::new(), failed: false };
    let mut stream = packing.stream(&mut kept).later("cannot start to pack")?;
    let told = make(&mut stream);
    let ended = stream.finish().map(drop);
    let told = match told {
        Err(_) if kept.failed => return Ok(None),
        told => told?,
    };
    let end = ended.and_then(|()| kept.end(told));
    Ok(end.ok())
}

/// What goes into a file, as frames, digested on the way.
struct Keeping {
    file: BufWriter<File>,
    hash: blake3::Hasher,
    /// Whether it was the file that did not take it.
    failed: bool,
}

impl Keeping {
    /// Writes the file's end: what it is, its length, and its digest.
    fn end(mut self, told: Option<Told>) -> io::Result<()> {
        let end = End { told, digest: Digest(self.hash.finalize().into()) };
        let end = serde_json::to_vec(&end).map_err(io::Error::other)?;
        let length = (end.len() as u64).to_le_bytes();
        self.file.write_all(&end)?;
        self.file.write_all(&length)?;
        self.file.write_all(blake3::hash(&end).as_bytes())?;
        self.file.flush()
    }
}

impl Write for Keeping {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(frame::PAYLOAD_MAX);
        let frame = frame::data(&bytes[..taken]);
        let written = self.file.write_all(&frame);
        self.failed |= written.is_err();
        written?;
        self.hash.update(&frame);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file whose end is right.
pub(super) fn read(path: &Path) -> Option<Ready> {
    const BEHIND: u64 = 8 + 32;
    let file = File::open(path).ok()?;
    let end = file.metadata().ok()?.len().checked_sub(BEHIND)?;
    let mut behind = [0; BEHIND as usize];
    file.read_exact_at(&mut behind, end).ok()?;
    let (length, digest) = behind.split_at(8);
    let begin = end.checked_sub(u64::from_le_bytes(length.try_into().ok()?))?;
    let mut bytes = vec![0; usize::try_from(end - begin).ok().filter(|length| *length <= END_MAX)?];
    file.read_exact_at(&mut bytes, begin).ok()?;
    if blake3::hash(&bytes).as_bytes() != digest {
        return None;
    }
    let End { told, digest } = serde_json::from_slice(&bytes).ok()?;
    let ends = ends(&file, begin)?;
    let content = Content { path: path.to_owned(), file: Arc::new(file), length: begin, digest };
    Some(Ready { told, content, ends })
}

/// Where the stretches end of the first bytes of a file, so many. None if these are no whole frames: others
/// could keep a target waiting for more.
fn ends(file: &File, length: u64) -> Option<Vec<u64>> {
    let (mut at, mut begin, mut ends) = (0, 0, Vec::new());
    let mut header = [0; HEADER_LEN];
    while at < length {
        file.read_exact_at(&mut header, at).ok()?;
        let header = Header::parse(header).ok().filter(|header| header.is_data())?;
        at += (HEADER_LEN + header.length) as u64;
        if at - begin >= STRETCH || at == length {
            ends.push(at);
            begin = at;
        }
    }
    (at == length).then_some(ends)
}

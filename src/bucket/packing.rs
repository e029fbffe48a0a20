//! Packing beside uploading: a thread packs, and hands part after part over.
//!
//! A part takes its memory from a store that all packages share before it is filled, and gives it
//! back when it was sent. A part is handed over when the next byte comes, so that whoever takes it
//! knows whether it is the only one.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::anyhow;
use blat_target::manifest::{Entry, Kind, Manifest};
use blat_target::stamp::Stamp;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::zipped;
use crate::failure::{Failure, Result};
use crate::pack;
use crate::progress::Progress;

/// The size of a part, unless there would be too many of them.
const PART: u64 = 8 << 20;
/// The smallest part that S3 takes, but for the last one.
const SMALLEST_PART: u64 = 5 << 20;
/// The largest part. With [`PARTS`], it bounds how large a package can be: 560 GB.
const LARGEST_PART: u64 = 64 << 20;
/// S3 takes 10,000 parts; some room is left for what packing adds.
const PARTS: u64 = 9_000;

/// What a thread that packs has to say.
#[derive(Debug)]
pub(super) enum Packing {
    Scanned(Scanned),
    Part(Part),
    /// The last.
    Ended(Whole),
    Failed(Failure),
}

/// What is known of a package before it is packed.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) stamp: Stamp,
    /// The sum of its files' sizes.
    pub(super) bytes: u64,
    pub(super) dropped_bits: Vec<PathBuf>,
}

/// Some bytes of the ZIP, in order.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) bytes: Vec<u8>,
    pub(super) is_last: bool,
    /// Given back when the part was sent.
    pub(super) memory: OwnedSemaphorePermit,
}

/// What is known of the whole ZIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// Starts a thread that packs `folder`. It ends when it has packed, or when nobody listens any more.
pub(super) fn start(folder: PathBuf, memory: Arc<Semaphore>, progress: Progress) -> mpsc::Receiver<Packing> {
    let (say, hear) = mpsc::channel(1);
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let last = match pack(&folder, &say, memory, runtime, &progress) {
            Ok(whole) => Packing::Ended(whole),
            Err(failure) => Packing::Failed(failure),
        };
        // Nobody listens any more where the upload failed first.
        let _ = say.blocking_send(last);
    });
    hear
}

fn pack(
    folder: &std::path::Path,
    say: &mpsc::Sender<Packing>,
    memory: Arc<Semaphore>,
    runtime: Handle,
    progress: &Progress,
) -> Result<Whole> {
    let scan = pack::scan(folder, progress)?;
    let size = part_size(most(&scan.manifest))?;
    let scanned =
        Scanned { stamp: scan.stamp, bytes: scan.manifest.bytes(), dropped_bits: scan.dropped_bits.clone() };
    let _ = say.blocking_send(Packing::Scanned(scanned));
    let parts = Parts {
        say: say.clone(),
        memory,
        runtime,
        size: size as usize,
        filling: None,
        hash: Sha256::new(),
        written: 0,
    };
    zipped::write(&scan, parts)?.end()
}

/// How large the ZIP can be at most.
fn most(manifest: &Manifest) -> u64 {
    let of_entry = |entry: &Entry| {
        let text = if let Kind::Symlink { text } = &entry.kind { text.len() } else { 0 };
        300 + (2 * entry.path.len() + text) as u64
    };
    let names: u64 = manifest.entries.iter().map(of_entry).sum();
    let bytes = manifest.bytes();
    bytes + bytes / 1000 + names + 1024
}

/// How large a part is of a ZIP that has `most` bytes at most: a small one takes little memory.
fn part_size(most: u64) -> Result<u64> {
    let size = most.div_ceil(PARTS).max(PART);
    if size > LARGEST_PART {
        let why = anyhow!("it is too large for a bucket: {most} bytes in more than {PARTS} parts");
        return Err(Failure::person(why));
    }
    Ok(size.min(most.max(SMALLEST_PART)))
}

/// Takes the ZIP's bytes, and hands parts over.
struct Parts {
    say: mpsc::Sender<Packing>,
    memory: Arc<Semaphore>,
    runtime: Handle,
    size: usize,
    filling: Option<Part>,
    hash: Sha256,
    written: u64,
}

impl Parts {
    /// The part that is being filled, a fresh one if need be.
    fn part(&mut self) -> io::Result<&mut Part> {
        if self.filling.as_ref().is_some_and(|part| part.bytes.len() == self.size) {
            self.hand_over(false)?;
        }
        if self.filling.is_none() {
            let amount = self.size.div_ceil(1 << 10) as u32;
            let memory = self.runtime.block_on(Arc::clone(&self.memory).acquire_many_owned(amount));
            let memory = memory.map_err(io::Error::other)?;
            self.filling = Some(Part { bytes: Vec::with_capacity(self.size), is_last: false, memory });
        }
        Ok(self.filling.as_mut().expect("just made"))
    }

    fn hand_over(&mut self, is_last: bool) -> io::Result<()> {
        let Some(part) = self.filling.take() else { return Ok(()) };
        let sent = self.say.blocking_send(Packing::Part(Part { is_last, ..part }));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload has ended"))
    }

    fn end(mut self) -> Result<Whole> {
        self.hand_over(true).map_err(Failure::later)?;
        let digest = self.hash.finalize();
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Whole { size: self.written, sha256 })
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let size = self.size;
        let part = self.part()?;
        let taken = bytes.len().min(size - part.bytes.len());
        part.bytes.extend_from_slice(&bytes[..taken]);
        self.hash.update(&bytes[..taken]);
        self.written += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_come_in_order_and_only_the_last_says_so() {
        let (say, mut hear) = mpsc::channel(1);
        let (memory, runtime) = (Arc::new(Semaphore::new(2)), Handle::current());
        let mut parts =
            Parts { say, memory, runtime, size: 4, filling: None, hash: Sha256::new(), written: 0 };
        let packing = std::thread::spawn(move || {
            parts.write_all(b"abcdefgh").unwrap();
            parts.end().unwrap()
        });
        let mut seen = Vec::new();
        while let Some(Packing::Part(part)) = hear.recv().await {
            seen.push((String::from_utf8(part.bytes).unwrap(), part.is_last));
        }
        assert_eq!(seen, [("abcd".to_owned(), false), ("efgh".to_owned(), true)]);
        assert_eq!(packing.join().unwrap().size, 8);
    }

    #[test]
    fn a_zip_of_links_with_long_texts_is_no_larger_than_was_reckoned() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("descpkg"), "x").unwrap();
        for number in 0..50_u8 {
            let text = (0..15).map(|part| blake3::hash(&[number, part]).to_hex().to_string());
            let text = text.collect::<Vec<_>>().concat();
            std::os::unix::fs::symlink(text, root.path().join(number.to_string())).unwrap();
        }
        let scan = pack::scan(root.path(), &Progress::start()).unwrap();
        let (size, most) = (zipped::write(&scan, Vec::new()).unwrap().len() as u64, most(&scan.manifest));
        assert!(size <= most, "{size} bytes, at most {most}");
    }

    #[test]
    fn parts_grow_with_the_package_up_to_a_limit() {
        assert_eq!(part_size(5).unwrap(), SMALLEST_PART);
        assert_eq!(part_size(PART - 1).unwrap(), PART - 1);
        assert_eq!(part_size(PART * PARTS * 2).unwrap(), PART * 2);
        assert!(part_size(LARGEST_PART * PARTS + 1).is_err());
    }
}

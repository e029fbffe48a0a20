//! Reads the files of a package, one after the other, as they were scanned.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use blat_target::manifest::{Entry, Kind};

use super::folder::Folder;
use super::{Scan, later, time};
use crate::failure::{Failure, Result};
use crate::progress::Progress;

/// How much of a file is read at a time, in bytes.
const PIECE: usize = 256 << 10;

/// Reads the files of a scanned package. What is not as it was scanned is an error.
pub struct Reader<'a> {
    scan: &'a Scan,
    piece: Vec<u8>,
    /// The folder that was last used, by its path: siblings come in a row.
    parent: Option<(Vec<u8>, Folder)>,
}

impl<'a> Reader<'a> {
    pub fn of(scan: &'a Scan) -> Self {
        Self { scan, piece: vec![0; PIECE], parent: None }
    }

    /// Writes the bytes of one of the package's files to `out`, which must say in its own words what
    /// failed, and returns their digest.
    pub fn copy(&mut self, entry: &Entry, out: &mut impl Write) -> Result<blake3::Hash> {
        self.copy_from(entry, 0, out)
    }

    /// The same without the file's first `start` bytes.
    pub fn copy_from(&mut self, entry: &Entry, start: u64, out: &mut impl Write) -> Result<blake3::Hash> {
        let Kind::File { size, .. } = entry.kind else { return Ok(blake3::hash(b"")) };
        let mut file = self.open(entry, size)?;
        let scan = self.scan;
        let cannot = |attempt| move |why: io::Error| failed(why, attempt, &scan.path(entry));
        file.skip(start).map_err(cannot("read"))?;
        loop {
            let got = file.read(&mut self.piece).map_err(cannot("read"))?;
            if got == 0 {
                break;
            }
            out.write_all(&self.piece[..got]).map_err(cannot("pack"))?;
        }
        file.check(entry, scan)?;
        Ok(file.hash.finalize())
    }

    /// Appends one of the package's files to `tar`, and returns its digest.
    pub(super) fn append(
        &mut self,
        entry: &Entry,
        tar: &mut tar::Builder<impl Write>,
    ) -> Result<blake3::Hash> {
        let Kind::File { size, .. } = entry.kind else { return Ok(blake3::hash(b"")) };
        let mut file = self.open(entry, size)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(entry.mode);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, self.scan.relative(entry), BufReader::with_capacity(PIECE, &mut file))
            .map_err(|why| failed(why, "send", &self.scan.path(entry)))?;
        file.check(entry, self.scan)?;
        Ok(file.hash.finalize())
    }

    /// Fails if another build has been put in the package's place: what was read is no longer what is there.
    pub fn end(self) -> Result<()> {
        let scan = self.scan;
        let is_in_place = || {
            let (held, there) = (scan.root.stat()?, nix::sys::stat::stat(&scan.folder)?);
            Ok((held.st_dev, held.st_ino) == (there.st_dev, there.st_ino))
        };
        match is_in_place() {
            Ok(true) => Ok(()),
            Ok(false) => Err(changed(&scan.folder)),
            Err(why) => Err(later(why, "look at", &scan.folder)),
        }
    }

    fn open(&mut self, entry: &Entry, size: u64) -> Result<Hashing<'a>> {
        let (parent, name) = entry.split();
        let file = self.parent(parent).and_then(|parent| parent.read(name));
        let file = file.map_err(|why| later(why, "read", &self.scan.path(entry)))?;
        Ok(Hashing::new(file, size, &self.scan.progress))
    }

    fn parent(&mut self, path: &[u8]) -> nix::Result<&Folder> {
        let last = self.parent.take().filter(|(known, _)| known == path);
        let last = match last {
            Some(last) => last,
            None => (path.to_vec(), self.scan.root.below(path)?),
        };
        Ok(&self.parent.insert(last).1)
    }
}

fn changed(at: &Path) -> Failure {
    Failure::later(anyhow::anyhow!("{} changed while it was read", at.display()))
}

fn failed(why: io::Error, attempt: &str, at: &Path) -> Failure {
    Failure::later(why).context(format!("cannot {attempt} {}", at.display()))
}

/// A file of an expected size, hashed as it is read.
struct Hashing<'a> {
    file: File,
    size: u64,
    left: u64,
    hash: blake3::Hasher,
    progress: &'a Progress,
}

impl<'a> Hashing<'a> {
    fn new(file: File, size: u64, progress: &'a Progress) -> Self {
        Self { file, size, left: size, hash: blake3::Hasher::new(), progress }
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.left = self.left.saturating_sub(bytes);
        self.file.seek(SeekFrom::Start(bytes)).map(drop)
    }

    /// Fails if it is not what was scanned: it had less or more bytes, or is of another time.
    fn check(&self, entry: &Entry, scan: &Scan) -> Result<()> {
        let found = self.file.metadata().map_err(|why| failed(why, "read", &scan.path(entry)))?;
        if self.left == 0 && found.len() == self.size && time(&found) == entry.modified {
            return Ok(());
        }
        Err(changed(&scan.path(entry)))
    }
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let got = self.file.read(&mut buffer[..most])?;
        self.hash.update(&buffer[..got]);
        self.left -= got as u64;
        self.progress.moved();
        Ok(got)
    }
}

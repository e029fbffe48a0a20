//! What to send of a package in whose files the target found something wrong.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use blat_target::delta::GROUP;
use blat_target::message::Digest;
use blat_target::package::{Name, PackageVersion};

use super::digests::{Cache, digest};
use crate::failure::{Failure, Needs, Result};
use crate::pack::{Reader, Scan, scan};
use crate::progress::Progress;

/// What the target made of a group of files.
pub(crate) type Made = (u32, Vec<Option<Digest>>);

/// The files of a package that are to be sent in full.
pub(crate) struct Mend {
    scan: Scan,
    numbers: Vec<u32>,
}

impl Mend {
    /// Compares what was made with what is here, which was sent with a manifest of this digest. What is
    /// remembered is not relied on.
    pub(crate) fn of(
        id: &PackageVersion,
        (base, manifest): (&Name, blake3::Hash),
        folder: &Path,
        made: &[Made],
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Self> {
        cache.forget(id);
        cache.forget(&id.with_version(base.clone()));
        let scan = scan(folder, progress)?;
        if blake3::hash(&scan.manifest.encode()) != manifest {
            return Err(Failure::later(anyhow!("{} changed while it was sent", folder.display())));
        }
        let mut numbers = Vec::new();
        for (nth, (entry, ..)) in scan.manifest.files().enumerate() {
            let group = made.iter().find(|(group, _)| *group as usize == nth / GROUP);
            let Some(came) = group.and_then(|(_, digests)| digests.get(nth % GROUP)) else { continue };
            if came.is_none() || *came != Some(digest(&scan.path(entry), progress)?) {
                numbers.push(nth as u32);
            }
        }
        Ok(Self { scan, numbers })
    }

    pub(crate) fn count(&self) -> u32 {
        self.numbers.len() as u32
    }

    /// The paths of the files, below the version's folder.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let files: Vec<_> = self.scan.manifest.files().map(|(entry, ..)| entry).collect();
        self.numbers.iter().map(|number| self.scan.relative(files[*number as usize])).collect()
    }

    /// Writes the files' numbers, and each with its digest.
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<()> {
        for number in &self.numbers {
            out.write_all(&number.to_le_bytes()).later("cannot send")?;
        }
        let files: Vec<_> = self.scan.manifest.files().map(|(entry, ..)| entry).collect();
        let mut reader = Reader::of(&self.scan);
        for number in &self.numbers {
            let came = reader.copy(files[*number as usize], out)?;
            out.write_all(came.as_bytes()).later("cannot send")?;
        }
        reader.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_build_than_the_one_that_was_sent_mends_nothing() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("descpkg"), "x").unwrap();
        let (cache, progress) = (Cache::new(root.path().join("cache")), Progress::start());
        let (id, base) = (PackageVersion::new("core", "1.1").unwrap(), "1.0".parse().unwrap());
        let sent = blake3::hash(&scan(root.path(), &progress).unwrap().manifest.encode());
        let made = [(0, vec![None])];
        let mend = || Mend::of(&id, (&base, sent), root.path(), &made, &cache, &progress);
        assert_eq!(mend().unwrap().numbers, [0]);
        std::fs::write(root.path().join("another"), "").unwrap();
        assert!(mend().is_err());
    }
}

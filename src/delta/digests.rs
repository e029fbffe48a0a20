//! The digests of a package-version's files, and the cache that remembers them: a released
//! package does not change, and each target that gets it needs the same ones.
//!
//! A cached row counts only for the very manifest (paths, sizes, times to the nanosecond) that it
//! was made of. It is advice all the same: what it leads to is checked on the target. The cache may
//! be deleted at any time, and keeps itself below [`CACHE_MAX`].

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use blat_target::message::Digest;
use blat_target::package::PackageVersion;

use super::in_order::in_order;
use crate::failure::{Failure, Needs, Result};
use crate::memory::cores;
use crate::pack::Scan;
use crate::places::{make_folder, replace};
use crate::progress::Progress;

/// Where the digests of all targets' packages are remembered, below the root.
pub const CACHE: &str = "var/cache/blat/digests";
/// How large the cache may become, in bytes: 32 for each file of a package.
const CACHE_MAX: u64 = 256 << 20;
/// How much is written until it is looked again how large it is; less than what a look leaves free,
const LOOK_EACH: u64 = 1 << 20;
/// and how much a run has written.
static WRITTEN: AtomicU64 = AtomicU64::new(0);
/// A file is read in pieces of so many bytes.
const PIECE: usize = 1 << 18;
/// Disks are not read faster by more threads.
const THREADS_MAX: usize = 4;

/// The cache; without a folder, nothing is remembered.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in `folder`, there or not.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The digests of a scanned package's regular files, in the manifest's order.
    pub(super) fn digests(
        &self,
        id: &PackageVersion,
        scan: &Scan,
        progress: &Progress,
    ) -> Result<Vec<Digest>> {
        let manifest = *blake3::hash(&scan.manifest.encode()).as_bytes();
        let count = scan.manifest.files().count();
        if let Some(known) = self.read(id, &manifest, count) {
            return Ok(known);
        }
        let digests = digests(scan, progress)?;
        self.write(id, &manifest, &digests);
        Ok(digests)
    }

    /// Forgets what is remembered of a package-version.
    pub(super) fn forget(&self, id: &PackageVersion) {
        let _ = fs::remove_file(self.path(id));
    }

    /// Keeps the cache below its bound, now that so many bytes come to it.
    fn make_room(&self, bytes: u64) {
        let before = WRITTEN.fetch_add(bytes, Ordering::Relaxed);
        if before / LOOK_EACH != (before + bytes) / LOOK_EACH || before == 0 {
            bound(&self.folder, CACHE_MAX);
        }
    }

    fn path(&self, id: &PackageVersion) -> PathBuf {
        self.folder.join(id.package.as_str()).join(id.version.as_str())
    }

    fn read(&self, id: &PackageVersion, manifest: &[u8; 32], count: usize) -> Option<Vec<Digest>> {
        let bytes = fs::read(self.path(id)).ok()?;
        let (rows, check) = bytes.split_last_chunk::<32>()?;
        let good = blake3::hash(rows).as_bytes() == check && rows.len() == 32 * (count + 1);
        let rows = rows.strip_prefix(manifest).filter(|_| good)?;
        Some(rows.chunks_exact(32).map(|row| Digest(row.try_into().expect("32 bytes"))).collect())
    }

    fn write(&self, id: &PackageVersion, manifest: &[u8; 32], digests: &[Digest]) {
        let mut bytes = manifest.to_vec();
        digests.iter().for_each(|digest| bytes.extend_from_slice(&digest.0));
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        let path = self.path(id);
        let folder = path.parent().unwrap_or(&path);
        self.make_room(bytes.len() as u64);
        if let Err(why) = make_folder(folder).and_then(|()| replace(&path, &bytes)) {
            tracing::debug!("cannot remember the digests of {id} in {}: {why}", path.display());
        }
    }
}

/// Reads all regular files, on all cores.
fn digests(scan: &Scan, progress: &Progress) -> Result<Vec<Digest>> {
    let files: Vec<_> = scan.manifest.files().map(|(entry, ..)| entry).collect();
    let mut all = Vec::with_capacity(files.len());
    let work = |number: usize| digest(&scan.path(files[number]), progress);
    let threads = cores().min(THREADS_MAX);
    in_order(threads, files.len(), work, |digest: Result<Digest>| {
        all.push(digest?);
        Ok::<(), Failure>(())
    })?;
    Ok(all)
}

pub(super) fn digest(path: &Path, progress: &Progress) -> Result<Digest> {
    beginning(path, u64::MAX, progress)
}

/// The digest of a file's first bytes.
pub(crate) fn beginning(path: &Path, bytes: u64, progress: &Progress) -> Result<Digest> {
    let digest = File::open(path).and_then(|file| digest_of(file.take(bytes), progress));
    digest.map(|digest| Digest(digest.into())).later(format!("cannot read {}", path.display()))
}

/// The digest of all that comes.
fn digest_of(mut from: impl Read, progress: &Progress) -> io::Result<blake3::Hash> {
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE]);
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(hasher.finalize()),
            got => hasher.update(&piece[..got]),
        };
        progress.moved();
    }
}

/// Deletes what was written longest ago where the cache takes nearly so many bytes of the disk.
fn bound(folder: &Path, max: u64) {
    let packages = fs::read_dir(folder).into_iter().flatten().flatten();
    let versions = packages.flat_map(|package| fs::read_dir(package.path()).into_iter().flatten().flatten());
    let mut files: Vec<_> = versions
        .filter_map(|version| {
            let found = version.metadata().ok()?;
            // Small ones take a block each.
            Some((found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.blocks() * 512, version.path()))
        })
        .collect();
    let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
    files.sort();
    for (_, length, path) in files {
        if total <= max / 2 + max / 4 {
            break;
        }
        if fs::remove_file(path).is_ok() {
            total -= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::scan;

    #[test]
    fn the_cache_takes_no_more_of_the_disk_than_it_may() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("digests"));
        let ids: Vec<_> =
            (0..40).map(|version| PackageVersion::new("core", &version.to_string()).unwrap()).collect();
        ids.iter().for_each(|id| cache.write(id, &[0; 32], &[Digest([1; 32])]));
        // Each takes a block, however small.
        bound(&cache.folder, 16 * 4096);
        let left = fs::read_dir(cache.folder.join("core")).unwrap().count();
        assert!((1..=12).contains(&left), "{left}");
    }

    #[test]
    fn what_is_remembered_counts_for_that_manifest_alone() {
        let (root, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::new(cache.path().join("digests"));
        let id = PackageVersion::new("core", "1.0").unwrap();
        fs::write(root.path().join("descpkg"), "one").unwrap();
        let digests = || {
            let scan = scan(root.path(), &Progress::start()).unwrap();
            (cache.digests(&id, &scan, &Progress::start()).unwrap(), scan)
        };
        let (first, scan) = digests();
        assert_eq!(first, [Digest(*blake3::hash(b"one").as_bytes())]);
        // The same manifest: the bytes are not read again.
        let time = fs::metadata(root.path().join("descpkg")).unwrap().modified().unwrap();
        let folder_time = fs::metadata(root.path()).unwrap().modified().unwrap();
        fs::write(root.path().join("descpkg"), "two").unwrap();
        let set = |path: &Path, time| File::open(path).unwrap().set_modified(time).unwrap();
        set(&root.path().join("descpkg"), time);
        set(root.path(), folder_time);
        assert_eq!(digests().0, first);
        set(&root.path().join("descpkg"), time + std::time::Duration::from_nanos(1));
        assert_eq!(digests().0, [Digest(*blake3::hash(b"two").as_bytes())]);
        cache.forget(&id);
        fs::write(cache.path(&id), "torn").unwrap();
        assert_eq!(cache.read(&id, &[0; 32], scan.manifest.files().count()), None);
    }
}

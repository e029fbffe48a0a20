//! Packages that did not arrive whole, on record: what lets a later session go on with them.
//!
//! A large package's staging has a record in `.dpkg_archive/partial/` from its start: what it is, its
//! hidden name, and its manifest. The record is locked (`flock`) as long as a session works on it,
//! which the kernel sees to whatever becomes of the process, and goes once the package is committed
//! or refused. So a record whose lock can be had is of a session that ended in the middle, and what
//! it names is kept from being cleared ([`crate::sessions`]) until somebody goes on with it
//! ([`crate::resume`]), or it is not worth keeping: its package-version is committed, another build
//! of it came to its place since, it is older than [`AGE_MAX`], there are more than [`COUNT_MAX`], or space is
//! short.
//!
//! Only the holder of its lock removes a record, and what it names goes before it. A crash or a power
//! cut can leave a record that is torn, or that names what is not there: it is removed. Nothing is
//! ever taken on a record's word: what is kept is read anew, and judged by its digests.
//!
//! Who wants what another session holds touches its record, and waits. A session that has heard
//! nothing from its host for a while then ends: its line is cut, and it does not know yet.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{UtimensatFlags, fstat, utimensat};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

use crate::archive::{Archive, OWN_FOLDER, open_or_make};
use crate::folder::Folder;
use crate::held;
use crate::history::came_after;
use crate::manifest::{MANIFEST_MAX, Manifest};
use crate::message::{self, Digest, PackageHead, Refusal, Standing};
use crate::package::PackageVersion;
use crate::refusal::{errno, is_full, refusal, shown};
use crate::remove::remove;
use crate::sessions::{HIDDEN, is_hidden};

const PARTIAL: &str = "partial";
/// Packages with fewer bytes are sent again.
pub(crate) const BYTES_MIN: u64 = 8 << 20;
/// How many are kept that nobody works on.
const COUNT_MAX: usize = 4;
/// For how long one is kept that nobody works on.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest beginning of a record, before the manifest.
const HEAD_MAX: usize = 4096;
/// For how long to wait for what another session holds, and how often to look.
const WAIT_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a record starts with; the manifest follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    what: message::Partial,
    /// The hidden name of its staging.
    name: Vec<u8>,
    /// Whether its session made the package's folder.
    made: bool,
}

/// A record that is held: nobody else works on what it names.
pub(crate) struct Partial {
    folder: Folder,
    name: Vec<u8>,
    record: Flock<File>,
    head: Head,
    /// When the record was last written or touched, as this session knows.
    touched: (i64, i64),
}

impl Partial {
    /// Puts a package's staging on record, if it is large; what is kept of it from before goes, but for
    /// what is held.
    pub(crate) fn begin(
        archive: &Archive,
        of: &PackageHead,
        name: &[u8],
        made: bool,
        (manifest, encoded): (&Manifest, &[u8]),
    ) -> Option<Self> {
        if manifest.bytes() < BYTES_MIN {
            return None;
        }
        clear_if(archive, |what| what.id == of.id);
        let digest = Digest(*blake3::hash(encoded).as_bytes());
        let what = message::Partial { id: of.id.clone(), stamp: of.stamp, manifest: digest };
        // Without a record, the package is sent anew should the line be cut.
        Self::write(archive, Head { what, name: name.to_vec(), made }, encoded).ok()
    }

    fn write(archive: &Archive, head: Head, manifest: &[u8]) -> nix::Result<Self> {
        let (own, _) = open_or_make(&archive.root, OWN_FOLDER.as_bytes())?;
        let (folder, _) = open_or_make(&own, PARTIAL.as_bytes())?;
        let name = head.name.strip_prefix(HIDDEN.as_bytes()).ok_or(Errno::EINVAL)?.to_vec();
        let mut record = held::create(&folder, &name)?;
        let begin = postcard::to_stdvec(&head).map_err(|_| Errno::EINVAL)?;
        let written = record.write_all(&begin).and_then(|()| record.write_all(manifest));
        if let Err(why) = written {
            let _ = folder.unlink(&name);
            return Err(errno(&why));
        }
        let touched = touched(&record)?;
        Ok(Self { folder, name, record, head, touched })
    }

    /// Takes a record that nobody works on.
    fn lock(folder: Folder, name: &[u8]) -> nix::Result<Self> {
        let record = folder.file(name)?;
        let record = Flock::lock(record, FlockArg::LockExclusiveNonblock).map_err(|(_, why)| why)?;
        if !held::stands(&folder, name, &record)? {
            return Err(Errno::ENOENT);
        }
        let Some(head) = read_head(&record) else {
            folder.unlink(name)?;
            return Err(Errno::ENOENT);
        };
        let touched = touched(&record)?;
        Ok(Self { folder, name: name.to_vec(), record, head, touched })
    }

    /// Opens what was staged, as a mere place.
    pub(crate) fn tree(&self, archive: &Archive) -> nix::Result<Folder> {
        let package = archive.root.below(self.package())?;
        package.place(&self.head.name)
    }

    /// Its manifest, if it is whole.
    pub(crate) fn manifest(&self) -> Option<Manifest> {
        let start = postcard::to_stdvec(&self.head).ok()?.len() as u64;
        let length = fstat(&*self.record).ok()?.st_size as u64 - start;
        let mut encoded = vec![0; usize::try_from(length.min(MANIFEST_MAX.into())).ok()?];
        self.record.read_exact_at(&mut encoded, start).ok()?;
        let whole = blake3::hash(&encoded).as_bytes() == &self.head.what.manifest.0;
        whole.then(|| Manifest::decode(&encoded).ok()).flatten()
    }

    /// Whether another session waits for it.
    pub(crate) fn is_wanted(&self) -> bool {
        touched(&self.record).is_ok_and(|touched| touched != self.touched)
    }

    /// Takes it off record: what it names is somebody else's business now, or gone.
    pub(crate) fn forget(&self) {
        let _ = self.folder.unlink(&self.name);
    }

    /// Removes what was staged, and the record.
    pub(crate) fn discard(self, archive: &Archive) -> Result<(), Refusal> {
        let removed = self.remove(archive);
        if removed.is_ok() {
            self.forget();
        }
        let (package, name) = (&self.head.what.id.package, shown(&self.head.name));
        removed.map_err(|why| refusal(format_args!("remove what is kept in {package}/{name}"), why))
    }

    fn remove(&self, archive: &Archive) -> nix::Result<()> {
        match archive.root.below(self.package()) {
            Ok(folder) => remove(&folder, &self.head.name, &archive.pulse)?,
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => return Ok(()),
            Err(why) => return Err(why),
        }
        if self.head.made {
            let _ = archive.root.rmdir(self.package());
        }
        Ok(())
    }

    fn package(&self) -> &[u8] {
        self.head.what.id.package.as_str().as_bytes()
    }

    /// Whether nobody will go on with it.
    fn is_useless(&self, archive: &Archive) -> bool {
        let what = &self.head.what;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let old = now.abs_diff(self.touched.0) > AGE_MAX.as_secs();
        let stands = archive.standing(&what.id) == Ok(Standing::Version(what.stamp));
        old || stands
            || self.is_overtaken(archive)
            || self.tree(archive).is_err_and(|why| why == Errno::ENOENT)
    }

    /// Whether something came to its version's place after it was put on record, by the time of the rename:
    /// another build is wanted now. Who committed that may have been killed before it cleared this, or another
    /// session held it.
    fn is_overtaken(&self, archive: &Archive) -> bool {
        let package = archive.root.place(self.package());
        let version = self.head.what.id.version.as_str().as_bytes();
        let found = package.and_then(|package| package.stat(version)).ok().flatten();
        found.is_some_and(|found| came_after(&found, self.touched, 0))
    }
}

/// What is kept of packages, held or not.
pub(crate) fn list(archive: &Archive) -> Vec<message::Partial> {
    let mut found: Vec<message::Partial> = Vec::new();
    for head in heads(archive) {
        if !found.contains(&head.what) {
            found.push(head.what);
        }
    }
    found
}

/// Whether the hidden name in a package's folder is that of something kept.
pub(crate) fn is_kept(archive: &Archive, package: &[u8], name: &[u8]) -> bool {
    let of = |head: &Head| head.what.id.package.as_str().as_bytes() == package && head.name == name;
    heads(archive).iter().any(of)
}

/// Takes all that is kept of a package, and waits for what others hold, as long as that may help.
pub(crate) fn take(archive: &Archive, what: &message::Partial) -> Vec<Partial> {
    let (begin, mut taken): (_, Vec<Partial>) = (Instant::now(), Vec::new());
    loop {
        let mut wait = false;
        for (name, folder) in records(archive) {
            let is_it = || folder.read(&name).ok().and_then(|record| read_head(&record));
            if taken.iter().any(|partial| partial.name == name)
                || is_it().is_none_or(|head| head.what != *what)
            {
                continue;
            }
            match folder.below(b"").and_then(|folder| Partial::lock(folder, &name)) {
                Ok(partial) => taken.push(partial),
                Err(Errno::EWOULDBLOCK) => {
                    let _ = touch(&folder, &name);
                    wait = true;
                }
                Err(_) => (),
            }
        }
        if !wait || begin.elapsed() > WAIT_MAX {
            return taken;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Removes what is not worth keeping, as far as that can be done; returns what could not.
pub(crate) fn clear(archive: &Archive) -> Vec<Refusal> {
    let (mut left, mut kept) = (Vec::new(), Vec::new());
    for (name, folder) in records(archive) {
        let Ok(partial) = Partial::lock(folder, &name) else { continue };
        if partial.is_useless(archive) {
            left.extend(partial.discard(archive).err());
        } else {
            kept.push(partial);
        }
    }
    kept.sort_by_key(|partial| std::cmp::Reverse(partial.touched));
    let many = kept.drain(COUNT_MAX.min(kept.len())..);
    left.extend(many.filter_map(|partial| partial.discard(archive).err()));
    left
}

/// Removes all that nobody works on, if that is what `why` asks for: space is short.
pub(crate) fn make_room(archive: &Archive, why: Errno) {
    if is_full(why) && clear_if(archive, |_| true) {
        // A session that begins holds all for a moment, this very one too.
        std::thread::sleep(LOOK_EVERY);
        clear_if(archive, |_| true);
    }
}

/// Does what may find the disk full: then once more, when there may be room.
pub(crate) fn with_room<T>(archive: &Archive, mut write: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    match write() {
        Err(why) if is_full(why) => {
            make_room(archive, why);
            write()
        }
        done => done,
    }
}

/// Removes what nobody works on of package-versions that were committed now, in whatever build.
pub(crate) fn clear_overtaken<'a>(archive: &Archive, committed: impl Iterator<Item = &'a PackageVersion>) {
    let committed: BTreeSet<_> = committed.collect();
    if !committed.is_empty() {
        clear_if(archive, |what| committed.contains(&what.id));
    }
}

/// Removes what nobody works on of these. Says whether others hold something.
fn clear_if(archive: &Archive, which: impl Fn(&message::Partial) -> bool) -> bool {
    let mut held = false;
    for (name, folder) in records(archive) {
        match Partial::lock(folder, &name) {
            // What cannot be removed is tried again by a later session.
            Ok(partial) if which(&partial.head.what) => {
                let _ = partial.discard(archive);
            }
            Err(Errno::EWOULDBLOCK) => held = true,
            _ => {}
        }
    }
    held
}

/// The names of all records, each with their folder.
fn records(archive: &Archive) -> Vec<(Vec<u8>, Folder)> {
    let path = format!("{OWN_FOLDER}/{PARTIAL}");
    let Ok(folder) = archive.root.below(path.as_bytes()) else { return Vec::new() };
    let names = folder.names().unwrap_or_default();
    names.into_iter().filter_map(|name| Some((name, folder.below(b"").ok()?))).collect()
}

fn heads(archive: &Archive) -> Vec<Head> {
    let read = |(name, folder): (Vec<u8>, Folder)| read_head(&folder.read(&name).ok()?);
    records(archive).into_iter().filter_map(read).collect()
}

/// What a record starts with. Only hidden names of staging are ever taken from one.
fn read_head(record: &File) -> Option<Head> {
    let mut begin = [0; HEAD_MAX];
    let length = record.read_at(&mut begin, 0).ok()?;
    let (head, _) = postcard::take_from_bytes::<Head>(&begin[..length]).ok()?;
    is_hidden(&head.name).then_some(head)
}

fn touched(record: &File) -> nix::Result<(i64, i64)> {
    fstat(record).map(|found| (found.st_mtime, found.st_mtime_nsec))
}

fn touch(folder: &Folder, name: &[u8]) -> nix::Result<()> {
    let now = TimeSpec::UTIME_NOW;
    utimensat(folder, name, &now, &now, UtimensatFlags::NoFollowSymlink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::manifest::{Entry, Kind, Time};
    use crate::stamp::Stamp;

    #[test]
    fn what_clears_the_records_of_the_dead_takes_none_that_is_being_made() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path().as_os_str().as_bytes()).unwrap();
        let size = BYTES_MIN;
        let modified = Time { seconds: 7, nanoseconds: 8 };
        let kind = Kind::File { size, digest: None };
        let file = Entry { path: b"descpkg".to_vec(), mode: 0o644, modified, kind };
        let manifest = Manifest { entries: vec![file] };
        let id = PackageVersion::new("a", "1").unwrap();
        let head = PackageHead { number: 0, id, stamp: Stamp(7), manifest_length: 0 };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    clear(&archive);
                }
            });
            let missing = (0..3000).filter(|number| {
                let name = format!("{HIDDEN}{number}");
                let partial =
                    Partial::begin(&archive, &head, name.as_bytes(), false, (&manifest, b"manifest"));
                partial.as_ref().inspect(|partial| partial.forget()).is_none()
            });
            let missing = missing.count();
            over.store(true, Ordering::Relaxed);
            assert_eq!(missing, 0);
        });
    }
}

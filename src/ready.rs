//! What is packed once for many: while other targets are served beside this one, a package is packed
//! into a file that all of them send, and whoever needs it meanwhile waits for it. There is one for those
//! that are near and one for those that are far, for their lines want other levels.
//!
//! A file counts only for the very manifest, and the very bases, that it was made for: its name is their
//! digest. It ends with a digest of each piece of it, and one of its end. What a full disk or a power cut left
//! of one has no end that is right; a hole in its middle is found before it is sent, and the run given up then,
//! for the next to pack the package anew. All of them may be deleted at any time; together they stay below
//! [`ALL_MAX`].

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use blat_target::frame;
use blat_target::message::Digest;
use blat_target::package::{Name, PackageVersion};
use blat_target::stamp::Stamp;
use serde::{Deserialize, Serialize};

use crate::buffers::{Buffer, Pool};
use crate::failure::{Failure, Needs, Result};
use crate::lock;
use crate::press::{PIECE, Packing};
use crate::progress::Progress;
use crate::tags::Tag;

/// Where the files lie, below the root.
pub const READY: &str = "var/cache/blat/ready";
/// Packages of fewer bytes are packed sooner than they are looked for,
const BYTES_MIN: u64 = 64 << 10;
/// and those of more are packed by each run for itself, and never wait on a disk.
const BYTES_MAX: u64 = 512 << 20;
/// How large all files together may become, in bytes,
const ALL_MAX: u64 = 1 << 30;
/// how old, for they are made for those who need them at a time,
const AGE_MAX: Duration = Duration::from_secs(3600);
/// and how much has to be free beside them.
const FREE_MIN: u64 = 1 << 30;
/// For how long it is taken as known whether others are served: there may be many targets, and packages.
const KNOWN_FOR: Duration = Duration::from_millis(100);
/// So many pieces of a file are read ahead of the line.
const PIECES_AHEAD: usize = 16;
/// The longest end of a file, in bytes: more than the digests of [`BYTES_MAX`] take.
const END_MAX: usize = 1 << 20;
/// How often to look whether another run has packed what this one needs.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The files, and how to know whether others are served.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    /// The locks that the runs of other targets hold.
    others: Vec<PathBuf>,
    /// Whether one was held when it was last looked, and when that was.
    known: Cell<Option<(Instant, bool)>>,
    /// The tag directories beside this target's.
    tags: Vec<PathBuf>,
}

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
    path: PathBuf,
    file: File,
    length: u64,
    digests: Vec<Digest>,
}

/// How a file ends, behind what is sent of it.
#[derive(Serialize, Deserialize)]
struct End {
    told: Option<Told>,
    /// Of each piece of what is sent.
    digests: Vec<Digest>,
}

impl Store {
    /// The store in `folder`, there or not, for a run that holds `own_lock`, beside those of the other
    /// targets, which hold theirs in folders beside the one it lies in; and which have their tags beside
    /// `own_tags`, for a run that tags are sent by.
    pub fn new(folder: PathBuf, own_lock: &Path, own_tags: Option<&Path>) -> Self {
        let name = own_lock.file_name().unwrap_or_default();
        let states = own_lock.parent().map(beside).into_iter().flatten();
        let others = states.map(|state| state.join(name)).collect();
        Self {
            folder,
            others,
            known: Cell::new(None),
            tags: own_tags.map(beside).into_iter().flatten().collect(),
        }
    }

    /// A store that is never used.
    pub fn none() -> Self {
        Self { folder: PathBuf::new(), others: Vec::new(), known: Cell::new(None), tags: Vec::new() }
    }

    /// Whether a package of so many bytes is packed for others, too: they are served right now, or are
    /// about to get it.
    pub(crate) fn serves(&self, id: &PackageVersion, bytes: u64) -> bool {
        (BYTES_MIN..=BYTES_MAX).contains(&bytes) && (self.serves_others() || self.is_tagged(id))
    }

    fn serves_others(&self) -> bool {
        let now = Instant::now();
        match self.known.get() {
            Some((since, held)) if now - since < KNOWN_FOR => held,
            _ => {
                let held = self.others.iter().any(|lock| lock::is_held(lock));
                self.known.set(Some((now, held)));
                held
            }
        }
    }

    fn is_tagged(&self, id: &PackageVersion) -> bool {
        let tag = Tag(id.clone()).to_string();
        self.tags.iter().any(|tags| tags.join(&tag).exists())
    }

    /// The package of this key, made by `make` if nobody has made it, or is making it, and packed so.
    ///
    /// # Errors
    /// Those of `make`. None is returned where the store cannot be used: then it has to be packed anyway.
    pub(crate) fn take_or_make(
        &self,
        key: &blake3::Hash,
        packing: Packing,
        progress: &Progress,
        make: impl FnOnce(&mut dyn Write) -> Result<Option<Told>>,
    ) -> Result<Option<Ready>> {
        let path = self.folder.join(key.to_hex().as_str());
        let Ok(_turn) = self.turn(&path, progress) else { return Ok(None) };
        if let Some(ready) = read(&path) {
            return Ok(Some(ready));
        }
        if !self.has_room() {
            return Ok(None);
        }
        let draft = path.with_extension(format!("{}.draft", std::process::id()));
        let made = write(&draft, packing, make);
        let kept = made.as_ref().is_ok_and(Option::is_some) && fs::rename(&draft, &path).is_ok();
        if !kept {
            let _ = fs::remove_file(&draft);
        }
        made?;
        Ok(kept.then(|| read(&path)).flatten())
    }

    /// Waits until nobody else makes the file.
    fn turn(&self, path: &Path, progress: &Progress) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let lock = path.with_extension("lock");
        loop {
            if !lock::is_held(&lock)
                && let Ok(taken) = lock::take(&lock, "another run packs it")
            {
                return Ok(taken);
            }
            if !lock.exists() {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            progress.moved();
            sleep(LOOK_EVERY);
        }
    }

    /// Deletes what is old or too much; whether there is room for another file.
    fn has_room(&self) -> bool {
        let now = SystemTime::now();
        let mut all: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|item| {
                let found = item.metadata().ok()?;
                Some((found.modified().ok()?, found.len(), item.path()))
            })
            .collect();
        all.sort();
        let mut total: u64 = all.iter().map(|(_, length, _)| length).sum();
        for (time, length, path) in all {
            let old = now.duration_since(time).is_ok_and(|age| age > AGE_MAX);
            if (old || total > ALL_MAX - BYTES_MAX) && !lock::is_held(&path.with_extension("lock")) {
                total -= fs::remove_file(&path).map_or(0, |()| length);
            }
        }
        let free = nix::sys::statvfs::statvfs(&self.folder)
            .map_or(0, |disk| disk.blocks_available() * disk.fragment_size());
        total <= ALL_MAX - BYTES_MAX && free >= FREE_MIN
    }
}

/// The folders beside one.
fn beside(own: &Path) -> impl Iterator<Item = PathBuf> {
    let all = own.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    all.map(|item| item.path()).filter(move |path| path != own)
}

/// Writes a file. None where the disk does not take it.
fn write(
    path: &Path,
    packing: Packing,
    make: impl FnOnce(&mut dyn Write) -> Result<Option<Told>>,
) -> Result<Option<()>> {
    let Ok(file) = File::create(path) else { return Ok(None) };
    let file = BufWriter::with_capacity(1 << 18, file);
    let mut kept = Keeping { file, hash: blake3::Hasher::new(), digests: Vec::new(), failed: false };
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

/// What goes into a file, digested on the way.
struct Keeping {
    file: BufWriter<File>,
    /// Of what is written of the current piece.
    hash: blake3::Hasher,
    digests: Vec<Digest>,
    /// Whether it was the file that did not take it.
    failed: bool,
}

impl Keeping {
    /// Writes the file's end: what it is, its length, and its digest.
    fn end(&mut self, told: Option<Told>) -> io::Result<()> {
        self.end_piece();
        let end = End { told, digests: std::mem::take(&mut self.digests) };
        let end = serde_json::to_vec(&end).map_err(io::Error::other)?;
        let length = (end.len() as u64).to_le_bytes();
        self.file.write_all(&end)?;
        self.file.write_all(&length)?;
        self.file.write_all(blake3::hash(&end).as_bytes())?;
        self.file.flush()
    }

    fn digest(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.hash.count() as usize));
            self.hash.update(now);
            if self.hash.count() == PIECE as u64 {
                self.end_piece();
            }
            bytes = later;
        }
    }

    fn end_piece(&mut self) {
        if self.hash.count() > 0 {
            self.digests.push(Digest(self.hash.finalize().into()));
            self.hash.reset();
        }
    }
}

impl Write for Keeping {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        self.failed |= written.is_err();
        let written = written?;
        self.digest(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file whose end is right.
fn read(path: &Path) -> Option<Ready> {
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
    let End { told, digests } = serde_json::from_slice(&bytes).ok()?;
    Some(Ready { told, path: path.to_owned(), file, length: begin, digests })
}

impl Ready {
    /// Hands its packed bytes over, in frames of a piece each. Where they are not what was packed, or not all
    /// are taken (they may be why), the file is deleted.
    ///
    /// # Errors
    /// Those of `take`; and that they are not what was packed.
    pub(crate) fn send(self, take: impl FnMut(Buffer) -> Result<()>) -> Result<()> {
        self.pieces(take).inspect_err(|_| drop(fs::remove_file(&self.path)))
    }

    fn pieces(&self, mut take: impl FnMut(Buffer) -> Result<()>) -> Result<()> {
        let torn = || anyhow!("what was packed for several targets is torn: it will be packed anew");
        let mut pool = Pool::new(PIECES_AHEAD);
        let mut left = self.length;
        for digest in &self.digests {
            let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let frame = frame::data_of(&self.file, length, pool.memory());
            let frame = frame.map_err(|_| Failure::later(torn()))?;
            if blake3::hash(&frame[frame::HEADER_LEN..]) != digest.0 {
                return Err(Failure::later(torn()));
            }
            take(pool.buffer(frame))?;
            left -= length as u64;
        }
        if left > 0 { Err(Failure::later(torn())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PACKING: Packing = Packing { level: 3, window_log: 24, long_distance: true };

    /// What was sent, if it is what was packed.
    fn sent(ready: Ready) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        let whole = ready.send(|frame| {
            all.extend_from_slice(&frame[frame::HEADER_LEN..]);
            Ok(())
        });
        whole.ok().map(|()| zstd::decode_all(&all[..]).unwrap())
    }

    #[test]
    fn what_many_need_at_a_time_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store { folder: root.path().join("ready"), ..Store::none() };
        let (made, key) = (AtomicUsize::new(0), blake3::hash(b"key"));
        let told = Told { base: "1.0".parse().unwrap(), base_stamp: Stamp(-7), recipe_length: 9 };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (store, made, key, told) = (store.clone(), &made, &key, &told);
                scope.spawn(move || {
                    let make = |out: &mut dyn Write| {
                        made.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(50));
                        out.write_all(b"the same bytes").later("cannot write")?;
                        Ok(Some(told.clone()))
                    };
                    let ready = store.take_or_make(key, PACKING, &Progress::start(), make).unwrap().unwrap();
                    assert_eq!(ready.told.as_ref(), Some(told));
                    assert_eq!(sent(ready).unwrap(), b"the same bytes");
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn what_is_torn_is_made_anew_and_what_fails_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let store = Store { folder: root.path().to_owned(), ..Store::none() };
        let key = blake3::hash(b"key");
        let make = |text: &'static str| {
            move |out: &mut dyn Write| {
                out.write_all(text.as_bytes()).later("cannot write")?;
                Ok(None)
            }
        };
        let take = |text| store.take_or_make(&key, PACKING, &Progress::start(), make(text)).unwrap().unwrap();
        assert_eq!(sent(take("first")).unwrap(), b"first");
        assert_eq!(sent(take("second")).unwrap(), b"first");
        let path = root.path().join(key.to_hex().as_str());
        let whole = fs::read(&path).unwrap();
        let torn = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
        };
        torn(3);
        assert_eq!(sent(take("third")), None);
        assert!(!path.exists());
        for at in whole.len() - 60..whole.len() {
            torn(at);
            assert_eq!(sent(take("fourth")).unwrap(), b"fourth", "torn at {at} of {}", whole.len());
        }
        for length in [0, 1, 39, 40, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(sent(take("fifth")).unwrap(), b"fifth", "cut at {length}");
        }
        let cut = take("sixth").send(|_| Err(Failure::later(anyhow::anyhow!("the session is over"))));
        assert!(cut.is_err() && !path.exists(), "it may be why");
        // Pieces that cannot be made smaller.
        let mut noise = vec![0; 3 * PIECE];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let long = |out: &mut dyn Write| out.write_all(&noise).later("cannot write").map(|()| None);
        let take_long = || store.take_or_make(&key, PACKING, &Progress::start(), long).unwrap().unwrap();
        assert!(sent(take_long()).unwrap() == noise);
        let mut bytes = fs::read(&path).unwrap();
        bytes[2 * PIECE] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut good = 0;
        let torn = take_long().send(|frame| {
            good += frame.len() - frame::HEADER_LEN;
            Ok(())
        });
        assert_eq!((good, torn.is_err()), (2 * PIECE, true), "nothing that is torn is sent");
        let other = blake3::hash(b"other");
        let fails = |_: &mut dyn Write| Err(Failure::later(anyhow::anyhow!("it changed")));
        assert!(store.take_or_make(&other, PACKING, &Progress::start(), fails).is_err());
        assert!(!root.path().join(other.to_hex().as_str()).exists());
    }

    #[test]
    fn it_serves_while_another_target_is_served_beside() {
        let root = tempfile::tempdir().unwrap();
        ["site1", "site2"].iter().for_each(|name| fs::create_dir(root.path().join(name)).unwrap());
        let (lock, tags) = (root.path().join("site1/transfer.lock"), root.path().join("tags/site1"));
        fs::create_dir_all(root.path().join("tags/site2")).unwrap();
        let store = Store::new(root.path().join("ready"), &lock, Some(&tags));
        let id = PackageVersion::new("core", "1.0").unwrap();
        let own = lock::take(&lock, "a run").unwrap();
        assert!(!store.serves(&id, 1 << 20));
        let other = lock::take(&root.path().join("site2/transfer.lock"), "a run").unwrap();
        sleep(KNOWN_FOR);
        assert!(store.serves(&id, 1 << 20) && !store.serves(&id, 1 << 10) && !store.serves(&id, 1 << 40));
        drop((own, other));
        sleep(KNOWN_FOR);
        assert!(!store.serves(&id, 1 << 20));
        fs::write(root.path().join("tags/site2/core::1.0"), "").unwrap();
        assert!(store.serves(&id, 1 << 20));
    }
}

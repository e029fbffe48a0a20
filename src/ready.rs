//! What is packed once for many: while other targets are served beside this one, a package is packed
//! into a file that all of them send, and whoever needs it meanwhile waits for it. There is one for those
//! that are near and one for those that are far, for their lines want other levels.
//!
//! A file counts only for the very manifest, and the very bases, that it was made for: its name is their
//! digest. It is sent as it lies there, unread: frames, whose content ends with a checksum, so that a target
//! commits nothing that is torn. What a full disk or a power cut left of one has no end that is right, or is no
//! row of frames. Where a target refuses something, what it was sent from here is looked at, by the digest that
//! is behind it ([`Lent`]): what is torn is deleted, and the run given up, for the next to pack the package
//! anew. It is held open for that, so that one that was merely deleted meanwhile is not taken for torn. All of them may be deleted at any time; together they stay below [`ALL_MAX`].

mod file;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use blat_target::package::PackageVersion;

use crate::failure::{Failure, Result};
use crate::lock;
use crate::places::make_folder;
use crate::press::Packing;
use crate::progress::Progress;
use crate::tags::Tag;
use file::{Content, read, write};
pub(crate) use file::{Ready, Told};

/// Where the files lie, below the root.
pub const READY: &str = "var/cache/blat/ready";
/// Packages of fewer bytes are packed sooner than they are looked for,
const BYTES_MIN: u64 = 64 << 10;
/// and those of more only for so many others: nothing is sent before all is packed, so two targets have a large
/// one sooner where both pack it,
const BYTES_MANY: u64 = 512 << 20;
const MANY: usize = 3;
/// and those of more than this never.
const BYTES_MAX: u64 = 4 << 30;
/// How large all files together may become, in bytes,
const ALL_MAX: u64 = 4 << 30;
/// how old, for they are made for those who need them at a time,
const AGE_MAX: Duration = Duration::from_secs(3600);
/// and how much has to be free beside them.
const FREE_MIN: u64 = 1 << 30;
/// How many files are held open until the target has answered: a process may have 1024, all told.
const HELD_MAX: usize = 128;
/// For how long it is taken as known whether others are served: there may be many targets, and packages.
const KNOWN_FOR: Duration = Duration::from_millis(100);
/// How soon to look whether another run has packed what this one needs, and how seldom after a while: each time,
/// a small part of what it has taken already.
const LOOK_SOONEST: Duration = Duration::from_millis(10);
const LOOK_LATEST: Duration = Duration::from_millis(250);
const LOOK_PART: u32 = 32;
/// A lock that nobody holds, and that cannot be taken so many times, is not for this user.
const TRIES: u32 = 5;

/// The files, and how to know whether others are served.
#[derive(Clone, Debug, Default)]
pub struct Store {
    folder: PathBuf,
    /// The locks that the runs of other targets hold.
    others: Vec<PathBuf>,
    /// Whether one was held when it was last looked, and when that was.
    known: Cell<Option<(Instant, bool)>>,
    /// The tag directories beside this target's.
    tags: Vec<PathBuf>,
    lent: Lent,
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
            lent: Lent::default(),
        }
    }

    /// A store that is never used.
    pub fn none() -> Self {
        Self::default()
    }

    /// Begins a session; what is lent in it.
    pub(crate) fn begin(&mut self) -> Lent {
        self.lent = Lent::default();
        self.lent.clone()
    }

    /// Notes that the package of this number goes out as it is ready.
    pub(crate) fn lend(&self, number: u64, ready: &Ready) {
        self.lent.sent(number, ready);
    }

    /// What went out with this number as it was ready is not what it should be: nobody gets it again.
    pub(crate) fn spoiled(&self, number: u64) {
        if let Some(loan) = self.lent.with(|lent| lent.remove(&number)) {
            loan.delete();
        }
    }

    /// Whether a package of so many bytes is packed for others, too: they are served right now, or are
    /// about to get it.
    pub(crate) fn serves(&self, id: &PackageVersion, bytes: u64) -> bool {
        match bytes {
            BYTES_MIN..BYTES_MANY => self.serves_others() || self.tagged(id).next().is_some(),
            BYTES_MANY..=BYTES_MAX => {
                self.served().take(MANY).count() + self.tagged(id).take(MANY).count() >= MANY
            }
            _ => false,
        }
    }

    fn serves_others(&self) -> bool {
        let now = Instant::now();
        match self.known.get() {
            Some((since, held)) if now - since < KNOWN_FOR => held,
            _ => {
                let held = self.served().next().is_some();
                self.known.set(Some((now, held)));
                held
            }
        }
    }

    /// The locks of the others that are served.
    fn served(&self) -> impl Iterator<Item = &PathBuf> {
        self.others.iter().filter(|lock| lock::is_held(lock))
    }

    /// The tags for it that wait for others.
    fn tagged(&self, id: &PackageVersion) -> impl Iterator<Item = PathBuf> {
        let tag = Tag(id.clone()).to_string();
        self.tags.iter().map(move |tags| tags.join(&tag)).filter(|tag| tag.exists())
    }

    /// The package of this key and of so many bytes, made by `make` if nobody has made it, or is making it, and
    /// packed so.
    ///
    /// # Errors
    /// Those of `make`. None is returned where the store cannot be used: then it has to be packed anyway.
    pub(crate) fn take_or_make(
        &self,
        key: &blake3::Hash,
        bytes: u64,
        packing: Packing,
        progress: &Progress,
        make: impl FnOnce(&mut dyn Write) -> Result<Option<Told>>,
    ) -> Result<Option<Ready>> {
        let path = self.folder.join(key.to_hex().as_str());
        let Ok(_turn) = self.turn(&path, progress) else { return Ok(None) };
        if let Some(ready) = read(&path) {
            return Ok(Some(ready));
        }
        if !self.has_room(bytes) {
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

    /// Waits until nobody else makes the file. Fails where this run cannot make it either.
    fn turn(&self, path: &Path, progress: &Progress) -> io::Result<File> {
        make_folder(&self.folder)?;
        let (lock, mut tries, began) = (path.with_extension("lock"), 0, Instant::now());
        while tries < TRIES {
            if lock::is_held(&lock) {
                tries = 0;
            } else if let Ok(taken) = lock::take(&lock, "another run packs it") {
                return Ok(taken);
            } else {
                tries += 1;
            }
            progress.moved();
            sleep((began.elapsed() / LOOK_PART).clamp(LOOK_SOONEST, LOOK_LATEST));
        }
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    }

    /// Deletes what is old or too much; whether there is room for a package of so many bytes, however it packs.
    fn has_room(&self, bytes: u64) -> bool {
        let others_max = ALL_MAX.saturating_sub(bytes);
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
            if (old || total > others_max) && !lock::is_held(&path.with_extension("lock")) {
                total -= fs::remove_file(&path).map_or(0, |()| length);
            }
        }
        let free = nix::sys::statvfs::statvfs(&self.folder)
            .map_or(0, |disk| disk.blocks_available() * disk.fragment_size());
        total <= others_max && free >= FREE_MIN + bytes
    }
}

/// The folders beside one.
fn beside(own: &Path) -> impl Iterator<Item = PathBuf> {
    let all = own.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    all.map(|item| item.path()).filter(move |path| path != own)
}

/// What a session sent of what is ready, as long as the target has not answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lent(Arc<Mutex<HashMap<u64, Loan>>>);

/// What was sent of a file.
#[derive(Clone, Debug)]
enum Loan {
    Held(Content),
    /// Of more than may be held open, that one is gone says nothing of it.
    Named(PathBuf),
}

impl Lent {
    pub(crate) fn sent(&self, number: u64, ready: &Ready) {
        self.with(|lent| {
            let loan = match lent.len() {
                ..HELD_MAX => Loan::Held(ready.content.clone()),
                _ => Loan::Named(ready.content.path.clone()),
            };
            lent.insert(number, loan)
        });
    }

    pub(crate) fn answered(&self, number: u64) {
        self.with(|lent| lent.remove(&number));
    }

    /// Looks whether what the target was given with this number is torn, and deletes it.
    ///
    /// # Errors
    /// If so: the target cannot be blamed for what it does not like.
    pub(crate) fn look_at(&self, number: u64) -> Result<()> {
        look_at(self.with(|lent| lent.get(&number).cloned()))
    }

    /// The same for all that it was given.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn look_at_all(&self) -> Result<()> {
        look_at(self.with(|lent| lent.values().cloned().collect::<Vec<_>>()))
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<u64, Loan>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Loan {
    fn is_torn(&self) -> bool {
        match self {
            Self::Held(content) => !content.is_whole(),
            Self::Named(path) => !read(path).is_some_and(|ready| ready.content.is_whole()),
        }
    }

    fn delete(&self) {
        match self {
            Self::Held(content) => content.delete(),
            Self::Named(path) => drop(fs::remove_file(path)),
        }
    }
}

fn look_at(loans: impl IntoIterator<Item = Loan>) -> Result<()> {
    let torn: Vec<_> = loans.into_iter().filter(Loan::is_torn).collect();
    torn.iter().for_each(Loan::delete);
    if torn.is_empty() {
        return Ok(());
    }
    Err(Failure::later(anyhow!("what was packed for several targets is torn: it will be packed anew")))
}

#[cfg(test)]
mod tests {
    use super::file::STRETCH;
    use super::*;
    use crate::failure::Needs;
    use crate::outlet::Stretch;
    use blat_target::frame::{self, Frame, HEADER_LEN};
    use blat_target::message::{Mend, ToTarget};
    use blat_target::stamp::Stamp;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PACKING: Packing = Packing { level: 3, window_log: 24, long_distance: true, checksum: true };

    /// What is sent, unpacked.
    fn sent(ready: &Ready) -> io::Result<Vec<u8>> {
        let mut packed = Vec::new();
        for Stretch { file, at, length } in ready.stretches() {
            let mut frames = vec![0; length];
            file.read_exact_at(&mut frames, at)?;
            // Whole ones: a message may be put out behind each stretch.
            let mut frames = &frames[..];
            while !frames.is_empty() {
                match frame::read::<ToTarget>(&mut frames).map_err(io::Error::other)? {
                    Frame::Data(piece) => packed.extend_from_slice(&piece),
                    Frame::Message(other) => panic!("{other:?}"),
                }
            }
        }
        zstd::decode_all(&packed[..])
    }

    #[test]
    fn a_file_that_may_not_be_made_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let store = Store { folder: root.path().to_owned(), ..Store::none() };
        let key = blake3::hash(b"key");
        // As it is where somebody else's lock lies there: nobody holds it, and it cannot be taken.
        fs::create_dir(root.path().join(key.to_hex().as_str()).with_extension("lock")).unwrap();
        let make = |_: &mut dyn Write| -> Result<Option<Told>> { panic!("it is packed alone") };
        assert!(store.take_or_make(&key, 9, PACKING, &Progress::start(), make).unwrap().is_none());
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
                    let ready =
                        store.take_or_make(key, 14, PACKING, &Progress::start(), make).unwrap().unwrap();
                    assert_eq!(ready.told.as_ref(), Some(told));
                    assert_eq!(sent(&ready).unwrap(), b"the same bytes");
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn what_is_torn_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let store = Store { folder: root.path().to_owned(), ..Store::none() };
        let key = blake3::hash(b"key");
        let make = |text: &'static str| {
            move |out: &mut dyn Write| {
                out.write_all(text.as_bytes()).later("cannot write")?;
                Ok(None)
            }
        };
        let take =
            |text| store.take_or_make(&key, 9, PACKING, &Progress::start(), make(text)).unwrap().unwrap();
        assert_eq!(sent(&take("first")).unwrap(), b"first");
        assert_eq!(sent(&take("second")).unwrap(), b"first");
        let path = root.path().join(key.to_hex().as_str());
        let whole = fs::read(&path).unwrap();
        let torn = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
        };
        let lent = Lent::default();
        lent.sent(7, &take("second"));
        lent.look_at(7).unwrap();
        torn(whole.len() - 60);
        assert_eq!(sent(&take("third")).unwrap(), b"third", "its end is torn");
        lent.look_at_all().unwrap();
        // What is sent: no target takes it for something else, and it is found then.
        for at in 0..HEADER_LEN {
            torn(at);
            assert_eq!(sent(&take("first")).unwrap(), b"first", "its frames are torn at {at}");
        }
        for at in HEADER_LEN..HEADER_LEN + 18 {
            torn(at);
            let ready = take("fourth");
            lent.sent(8, &ready);
            assert!(sent(&ready).map_or(true, |content| content == b"first"), "torn at {at}");
            lent.look_at(7).unwrap();
            let why = lent.look_at(8).unwrap_err();
            assert!(why.mend == Mend::Later && !path.exists(), "{why}");
            assert_eq!(sent(&take("first")).unwrap(), b"first");
            lent.answered(8);
        }
        for at in whole.len() - 40..whole.len() {
            torn(at);
            assert_eq!(sent(&take("first")).unwrap(), b"first", "torn at {at} of {}", whole.len());
        }
        for length in [0, 1, 39, 40, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(sent(&take("fifth")).unwrap(), b"fifth", "cut at {length}");
        }
    }

    #[test]
    fn what_is_merely_deleted_is_not_taken_for_torn() {
        let root = tempfile::tempdir().unwrap();
        let store = Store { folder: root.path().to_owned(), ..Store::none() };
        let key = blake3::hash(b"key");
        let make = |out: &mut dyn Write| out.write_all(b"content").later("cannot write").map(|()| None);
        let take = || store.take_or_make(&key, 9, PACKING, &Progress::start(), make).unwrap().unwrap();
        let (path, lent) = (root.path().join(key.to_hex().as_str()), Lent::default());
        (0..=HELD_MAX as u64).for_each(|number| lent.sent(number, &take()));
        let file = File::options().write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        lent.look_at(0).unwrap();
        lent.look_at(HELD_MAX as u64 - 1).unwrap();
        assert!(lent.look_at(HELD_MAX as u64).is_err(), "nobody knows what one that is gone was");
        lent.answered(HELD_MAX as u64);
        lent.look_at_all().unwrap();
        // What is torn is found though it is gone, and what was made anew meanwhile stays.
        take();
        file.write_all_at(&[0xff], HEADER_LEN as u64 + 4).unwrap();
        assert!(lent.look_at(0).is_err() && lent.look_at_all().is_err() && path.exists());
    }

    #[test]
    fn what_cannot_be_made_smaller_comes_whole_and_what_fails_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let store = Store { folder: root.path().to_owned(), ..Store::none() };
        let key = blake3::hash(b"key");
        let mut noise = vec![0; 3 * STRETCH as usize + 1];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let long = |out: &mut dyn Write| out.write_all(&noise).later("cannot write").map(|()| None);
        let ready = store.take_or_make(&key, 3 << 20, PACKING, &Progress::start(), long).unwrap();
        assert!(sent(&ready.unwrap()).unwrap() == *noise);
        let other = blake3::hash(b"other");
        let fails = |_: &mut dyn Write| Err(Failure::later(anyhow::anyhow!("it changed")));
        assert!(store.take_or_make(&other, 9, PACKING, &Progress::start(), fails).is_err());
        assert!(!root.path().join(other.to_hex().as_str()).exists());
    }

    #[test]
    fn it_serves_while_others_are_served_beside() {
        let root = tempfile::tempdir().unwrap();
        let (large, huge) = (BYTES_MANY, BYTES_MAX + 1);
        let names = ["site1", "site2", "site3", "site4"];
        names.iter().for_each(|name| fs::create_dir(root.path().join(name)).unwrap());
        let lock = |name: &str| root.path().join(name).join("transfer.lock");
        let tags = root.path().join("tags/site1");
        ["site2", "site4"].iter().for_each(|name| fs::create_dir_all(tags.with_file_name(name)).unwrap());
        let store = Store::new(root.path().join("ready"), &lock("site1"), Some(&tags));
        let id = PackageVersion::new("core", "1.0").unwrap();
        let own = lock::take(&lock("site1"), "a run").unwrap();
        assert!(!store.serves(&id, 1 << 20));
        let mut others = vec![lock::take(&lock("site2"), "a run").unwrap()];
        sleep(KNOWN_FOR);
        assert!(store.serves(&id, 1 << 20) && !store.serves(&id, 1 << 10) && !store.serves(&id, large));
        others.push(lock::take(&lock("site3"), "a run").unwrap());
        sleep(KNOWN_FOR);
        assert!(!store.serves(&id, large), "two others");
        fs::write(tags.with_file_name("site4").join("core::1.0"), "").unwrap();
        assert!(store.serves(&id, large) && !store.serves(&id, huge));
        drop((own, others));
        sleep(KNOWN_FOR);
        assert!(store.serves(&id, 1 << 20) && !store.serves(&id, large), "only a tag");
        fs::remove_file(tags.with_file_name("site4").join("core::1.0")).unwrap();
        assert!(!store.serves(&id, 1 << 20));
    }

    #[test]
    fn what_is_made_makes_room_for_more() {
        let root = tempfile::tempdir().unwrap();
        let store = Store { folder: root.path().to_owned(), ..Store::none() };
        let path = root.path().join("old");
        File::create(&path).unwrap().set_len(ALL_MAX - 10).unwrap();
        assert!(store.has_room(10) && path.exists());
        let making = lock::take(&path.with_extension("lock"), "a run").unwrap();
        assert!(!store.has_room(11) && path.exists(), "it is made right now");
        drop(making);
        assert!(store.has_room(11) && !path.exists());
        assert!(!store.has_room(1 << 60), "no disk is so large");
    }
}

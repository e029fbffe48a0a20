//! Staging: a package-version is built under a hidden name in its package's folder.
//!
//! The name is on record before anything is made under it ([`crate::sessions`]), and
//! whatever stands there goes when its [`Hidden`] is let go: so nothing is left on any
//! way out but a kill, and after that a later session clears it. A large package is also on
//! record as a partial one ([`crate::partial`]): what came of it stays when the session ends
//! in the middle, for a later one to go on with. Until the commit all
//! folders are their owner's alone; each gets its final mode and time last, the
//! deepest first, so that read-only folders are no obstacle.

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::fcntl::RenameFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{ftruncate, geteuid};

use crate::archive::Archive;
use crate::commit::Unsynced;
use crate::folder::{Folder, has_mode, kind, set_mode, set_time};
use crate::manifest::{Entry, Kind, Manifest, Time};
use crate::message::{PackageHead, Refusal};
use crate::package::{Name, PackageVersion};
use crate::partial::{self, Partial};
use crate::refusal::{Stop, is_full, refusal, shown};
use crate::sessions::Session;

/// So many of a package's folders are held open while it is built, where there may be that many,
const HELD_MAX: u64 = 256;
/// or this part of all files that may be open.
const HELD_PART: u64 = 4;
/// How often to make a package's folder again when others remove it.
const ATTEMPTS: usize = 100;

/// A hidden name in a package's folder; what stands there is removed when this is dropped.
pub(crate) struct Hidden {
    pub(crate) archive: Arc<Archive>,
    pub(crate) session: Arc<Session>,
    package: Name,
    pub(crate) folder: Folder,
    pub(crate) name: Vec<u8>,
    /// The record by which another session can go on with it.
    partial: Option<Arc<Partial>>,
    /// When the package-version that is staged there was begun, by the file system's clock.
    pub(crate) began: Option<(i64, i64)>,
    /// Whether nothing is left to be removed, or what there is shall stay.
    removed: Cell<bool>,
}

impl Hidden {
    /// Takes a fresh name, and makes what stands there by `make`; on a full disk once more, after what is kept
    /// of other packages was removed.
    fn make<T>(
        archive: &Arc<Archive>,
        session: &Arc<Session>,
        package: &Name,
        make: impl Fn(&Folder, &[u8]) -> nix::Result<T>,
    ) -> nix::Result<(Self, T)> {
        partial::with_room(archive, || Self::try_make(archive, session, package, &make))
    }

    fn try_make<T>(
        archive: &Arc<Archive>,
        session: &Arc<Session>,
        package: &Name,
        make: impl Fn(&Folder, &[u8]) -> nix::Result<T>,
    ) -> nix::Result<(Self, T)> {
        for attempt in 0.. {
            let name = session.hidden_name(package)?;
            let folder = session.package(archive, package)?;
            match make(&folder, &name) {
                // Who made the package's folder, another session or our own commit, failed there and
                // removed it meanwhile.
                Err(Errno::ENOENT) if attempt < ATTEMPTS => continue,
                made => {
                    let (archive, session) = (archive.clone(), session.clone());
                    let (package, removed) = (package.clone(), Cell::new(false));
                    let (partial, began) = (None, None);
                    let hidden = Self { archive, session, package, folder, name, partial, began, removed };
                    return made.map(|made| (hidden, made));
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Makes a symlink under a hidden name.
    pub(crate) fn link(
        archive: &Arc<Archive>,
        session: &Arc<Session>,
        id: &PackageVersion,
        text: &[u8],
        modified: Time,
    ) -> Result<Self, Refusal> {
        let make = |folder: &Folder, name: &[u8]| {
            folder.symlink(name, text)?;
            folder.touch(name, modified)
        };
        Self::make(archive, session, &id.package, make)
            .map(|(hidden, ())| hidden)
            .map_err(|why| refusal(format_args!("stage the link {id}"), why))
    }
}

impl Hidden {
    /// Takes what stands at `id` in its package's `folder` out of sight, in one step.
    ///
    /// It is to be removed, which takes no room; so where there is none for its name in the record, it goes
    /// without: what a crash leaves of it is cleared like what lost its record in a power cut.
    pub(crate) fn take(
        archive: &Arc<Archive>,
        session: &Arc<Session>,
        id: &PackageVersion,
        folder: Folder,
    ) -> nix::Result<Self> {
        let name = match session.hidden_name(&id.package) {
            Err(why) if is_full(why) => session.fresh_name().into_bytes(),
            name => name?,
        };
        let from = id.version.as_str().as_bytes();
        match folder.rename(from, &name, RenameFlags::RENAME_NOREPLACE) {
            // The name is fresh: nothing stands there that could be replaced.
            Err(Errno::EINVAL) => folder.rename(from, &name, RenameFlags::empty())?,
            done => done?,
        }
        let (archive, session, package) = (archive.clone(), session.clone(), id.package.clone());
        let (partial, began, removed) = (None, None, Cell::new(false));
        Ok(Self { archive, session, package, folder, name, partial, began, removed })
    }

    /// Removes what stands there.
    ///
    /// # Errors
    /// What is left of it stays on record.
    pub(crate) fn remove(self) -> nix::Result<()> {
        self.removed.set(true);
        self.session.clear(&self.archive, &self.package, &self.folder, &self.name)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.removed.get() {
            return;
        }
        if let Err(why) = self.session.clear(&self.archive, &self.package, &self.folder, &self.name) {
            let name = String::from_utf8_lossy(&self.name);
            eprintln!("blat-target: could not remove {}/{name}: {}", self.package, why.desc());
        }
        if let Some(partial) = &self.partial {
            partial.forget();
        }
    }
}

/// A package-version that is being built.
pub(crate) struct Staging {
    id: PackageVersion,
    /// Its folders that are open, by their paths; the version's own, whose path is empty, always is.
    held: RefCell<BTreeMap<Vec<u8>, Folder>>,
    /// How many may be.
    held_max: usize,
    /// Modes with which its files are made just as asked: a default ACL may take bits away.
    modes: RefCell<Vec<u32>>,
    unsynced: RefCell<Unsynced>,
    // Last, so that it is dropped last.
    hidden: Hidden,
}

impl Staging {
    /// Makes the version's own folder, hidden.
    pub(crate) fn begin(
        archive: &Arc<Archive>,
        session: &Arc<Session>,
        head: &PackageHead,
        manifest: (&Manifest, &[u8]),
    ) -> Result<Self, Refusal> {
        let id = &head.id;
        let make = |folder: &Folder, name: &[u8]| {
            folder.mkdir(name, 0o700)?;
            let root = folder.below(name)?;
            let made = fstat(&root)?;
            Ok((root, (made.st_ctime, made.st_ctime_nsec)))
        };
        let (mut hidden, (root, began)) = Hidden::make(archive, session, &id.package, make)
            .map_err(|why| refusal(format_args!("make a folder to stage {id}"), why))?;
        hidden.began = Some(began);
        let made = session.made(&id.package);
        hidden.partial = Partial::begin(archive, head, &hidden.name, made, manifest).map(Arc::new);
        Ok(Self {
            id: id.clone(),
            held: RefCell::new(BTreeMap::from([(Vec::new(), root)])),
            held_max: held_max(),
            modes: RefCell::default(),
            unsynced: RefCell::default(),
            hidden,
        })
    }

    /// The record by which another session can go on with it, if it is large.
    pub(crate) fn partial(&self) -> Weak<Partial> {
        self.hidden.partial.as_ref().map_or_else(Weak::new, Arc::downgrade)
    }

    /// Holds nothing open but what it must, for it may wait.
    pub(crate) fn rest(&self) {
        self.held.borrow_mut().retain(|path, _| path.is_empty());
    }

    /// Leaves what came to a later session, if it is on record.
    pub(crate) fn keep(&self) {
        self.hidden.removed.set(self.hidden.partial.is_some());
    }

    /// The same, where the session ends in the middle of `done`.
    pub(crate) fn keep_if_cut<T>(&self, done: Result<T, Stop>) -> Result<T, Stop> {
        if let Err(Stop::End(_)) = done {
            self.keep();
        }
        done
    }

    /// Takes a complete regular file over from another staging of the same package.
    pub(crate) fn take_over(&self, entry: &Entry, size: u64, from: &Folder) -> Result<(), Refusal> {
        let (parent, name) = entry.split();
        self.moved();
        let take = || {
            let to = self.parent(parent)?;
            from.place(parent)?.move_to(name, &to)?;
            let (file, own) = opened(&to, name)?;
            if own {
                set_mode(&file, entry.mode)?;
            } else if !is_like(&file, entry, size) {
                return Err(CHANGED);
            }
            Ok((file, own))
        };
        let (file, own) = take().map_err(|why| self.refusal("go on with", entry, why))?;
        if own {
            return self.finish(entry, file, size);
        }
        // It has its mode and time, which are other versions', too.
        self.unsynced.borrow_mut().add(OwnedFd::from(file), 0);
        Ok(())
    }

    /// The same, to go on writing behind its first `bytes`.
    pub(crate) fn take_over_part(&self, entry: &Entry, from: &Folder, bytes: u64) -> Result<File, Refusal> {
        let (parent, name) = entry.split();
        let take = || {
            let to = self.parent(parent)?;
            from.place(parent)?.move_to(name, &to)?;
            let (part, own) = opened(&to, name)?;
            if !own {
                // What is written there would be in other versions, too.
                return Err(CHANGED);
            }
            // Who owns it may write it once its mode says so.
            set_mode(&part, entry.mode | 0o600)?;
            let file = to.file(name)?;
            set_mode(&file, entry.mode)?;
            ftruncate(&file, bytes as i64)?;
            Ok(file)
        };
        take().map_err(|why| self.refusal("go on with", entry, why))
    }

    /// Makes all folders and symlinks, from the manifest alone.
    pub(crate) fn lay_out(&self, manifest: &Manifest) -> Result<(), Refusal> {
        for entry in &manifest.entries[1..] {
            self.moved();
            self.lay(entry).map_err(|why| self.refusal("make", entry, why))?;
        }
        Ok(())
    }

    fn lay(&self, entry: &Entry) -> nix::Result<()> {
        let (parent, name) = entry.split();
        match &entry.kind {
            Kind::File { .. } => Ok(()),
            Kind::Folder => self.parent(parent)?.mkdir(name, 0o700),
            Kind::Symlink { text } => {
                let parent = self.parent(parent)?;
                parent.symlink(name, text)?;
                parent.touch(name, entry.modified)
            }
        }
    }

    /// Makes an empty regular file.
    pub(crate) fn create(&self, entry: &Entry) -> Result<File, Refusal> {
        let (parent, name) = entry.split();
        // Another session may have to read it, and go on.
        let mode = if self.hidden.partial.is_some() { entry.mode | 0o400 } else { entry.mode };
        self.moved();
        let create = || {
            let file = self.parent(parent)?.create_with(name, mode)?;
            if !self.modes.borrow().contains(&mode) && has_mode(&file, mode)? {
                self.modes.borrow_mut().push(mode);
            }
            Ok(file)
        };
        create().map_err(|why| self.refusal("make", entry, why))
    }

    /// Makes a regular file by a hard link to one that is like it already. Says whether it did; if not, nothing
    /// was made.
    pub(crate) fn link(&self, entry: &Entry, size: u64, to: &File) -> bool {
        let (parent, name) = entry.split();
        self.moved();
        let Ok(held) = to.try_clone() else { return false };
        let linked = is_like(to, entry, size)
            && self.parent(parent).is_ok_and(|parent| parent.hard_link(to, name).is_ok());
        if linked {
            // Others than blat may have brought it, and not have synced it.
            self.unsynced.borrow_mut().add(OwnedFd::from(held), 0);
        }
        linked
    }

    /// Takes back a file that was made.
    pub(crate) fn discard(&self, entry: &Entry) -> Result<(), Refusal> {
        let (parent, name) = entry.split();
        self.parent(parent)
            .and_then(|parent| parent.unlink(name))
            .map_err(|why| self.refusal("remove", entry, why))
    }

    /// Gives a written file its mode and time.
    pub(crate) fn finish(&self, entry: &Entry, file: File, size: u64) -> Result<(), Refusal> {
        let finish = || {
            if !self.modes.borrow().contains(&entry.mode) {
                set_mode(&file, entry.mode)?;
            }
            set_time(&file, entry.modified)
        };
        finish().map_err(|why| self.refusal("set mode and time of", entry, why))?;
        self.unsynced.borrow_mut().add(OwnedFd::from(file), size);
        Ok(())
    }

    /// Gives each folder its mode and time, and hands over what is to be committed.
    pub(crate) fn seal(self, manifest: &Manifest) -> Result<(Hidden, Unsynced), Refusal> {
        let folders = manifest.entries.iter().filter(|entry| entry.kind == Kind::Folder);
        for entry in folders.rev() {
            self.moved();
            let seal = || {
                let held = self.held.borrow_mut().remove(&entry.path);
                let folder = held.map_or_else(|| self.open(&entry.path), Ok)?;
                set_mode(&folder, entry.mode)?;
                set_time(&folder, entry.modified)?;
                Ok(folder)
            };
            let folder: Folder = seal().map_err(|why| self.refusal("set mode and time of", entry, why))?;
            self.unsynced.borrow_mut().add(folder.into(), 0);
        }
        Ok((self.hidden, self.unsynced.into_inner()))
    }

    /// There may be very many entries, and nothing to be read for them.
    fn moved(&self) {
        self.hidden.archive.pulse.moved();
    }

    /// The refusal when `attempt` failed on an entry.
    pub(crate) fn refusal(&self, attempt: &str, entry: &Entry, why: Errno) -> Refusal {
        partial::make_room(&self.hidden.archive, why);
        refusal(format_args!("{attempt} {}/{}", self.id, shown(&entry.path)), why)
    }

    /// The folder at `path`, which is held open from here on.
    fn parent(&self, path: &[u8]) -> nix::Result<Ref<'_, Folder>> {
        if !self.held.borrow().contains_key(path) {
            let folder = self.open(path)?;
            if self.held.borrow().len() == self.held_max {
                // Entries come depth first: most of these are not needed again before the end.
                self.rest();
            }
            self.held.borrow_mut().insert(path.to_vec(), folder);
        }
        Ok(Ref::map(self.held.borrow(), |held| &held[path]))
    }

    /// Opens the folder at `path`, from the nearest above it that is open.
    fn open(&self, path: &[u8]) -> nix::Result<Folder> {
        let held = self.held.borrow();
        let mut above = path;
        while let Some(end) = above.iter().rposition(|byte| *byte == b'/') {
            above = &path[..end];
            if let Some(folder) = held.get(above) {
                return folder.below(&path[end + 1..]);
            }
        }
        held.get(&b""[..]).ok_or(Errno::EBADF)?.below(path)
    }
}

/// Why what is kept is not taken over: it is not what it was when it was read.
const CHANGED: Errno = Errno::ESTALE;

/// Opens a file to read; also whether it has no other name.
fn opened(folder: &Folder, name: &[u8]) -> nix::Result<(File, bool)> {
    let file = folder.read(name)?;
    let own = fstat(&file)?.st_nlink == 1;
    Ok((file, own))
}

/// Whether an open file has all that an entry tells, but for the content: kind, size, mode, time; and is ours.
pub(crate) fn is_like(file: &File, entry: &Entry, size: u64) -> bool {
    fstat(file).is_ok_and(|found| {
        let modified = (entry.modified.seconds, i64::from(entry.modified.nanoseconds));
        kind(&found) == SFlag::S_IFREG
            && found.st_size as u64 == size
            && found.st_mode & 0o7777 == entry.mode
            && (found.st_mtime, found.st_mtime_nsec) == modified
            && found.st_uid == geteuid().as_raw()
    })
}

/// How many folders of a package may be held open.
fn held_max() -> usize {
    let open_max = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    (open_max / HELD_PART).clamp(2, HELD_MAX) as usize
}

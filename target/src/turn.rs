//! Taking turns at an archive: who commits, marks or deletes holds `.dpkg_archive/lock` meanwhile.
//!
//! The turn is short: a rename or two. What is slow (receiving, syncing, removing a tree) happens
//! outside of it; but where the disk is full, what is kept of packages goes in a turn, so that the marks can be
//! written. They are read under it, so who deletes sees each mark that a receiver took
//! away, and who receives can tell that nobody deletes what it has just found standing.
//!
//! The lock is `flock`'s: the kernel frees it whatever becomes of the process.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};

use crate::archive::{Archive, OWN_FOLDER, open_or_make};
use crate::folder::Folder;
use crate::marks::Marks;
use crate::partial::with_room;
use crate::refusal::errno;

const LOCK: &[u8] = b"lock";
/// While this file stands there, nothing is deleted.
pub(crate) const HOLD: &[u8] = b"hold";

/// What is needed to take turns at an archive; one for a process.
pub(crate) struct Turns {
    archive: Arc<Archive>,
    /// Opened with the first turn.
    held: Mutex<Option<Held>>,
}

struct Held {
    archive: Arc<Archive>,
    own: Folder,
    lock: File,
    marks: Marks,
}

/// A turn: it ends when this is dropped.
pub(crate) struct Turn<'a> {
    // First, so that it is dropped first: the next thread must not find its own process locked.
    _lock: Flock<File>,
    held: MutexGuard<'a, Option<Held>>,
}

impl Turns {
    pub(crate) fn new(archive: Arc<Archive>) -> Self {
        Self { archive, held: Mutex::new(None) }
    }

    /// Waits for a turn, and reads the marks if they have changed.
    pub(crate) fn take(&self) -> nix::Result<Turn<'_>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(with_room(&self.archive, || Held::open(&self.archive))?);
        }
        let Held { own, lock, marks, .. } = held.as_mut().expect("just opened");
        let lock = lock.try_clone().map_err(|why| errno(&why))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, why)| why)?;
        marks.refresh(own)?;
        Ok(Turn { _lock: lock, held })
    }
}

impl Held {
    fn open(archive: &Arc<Archive>) -> nix::Result<Self> {
        let (own, _) = open_or_make(&archive.root, OWN_FOLDER.as_bytes())?;
        let lock = own.open_or_create(LOCK)?;
        Ok(Self { archive: archive.clone(), own, lock, marks: Marks::default() })
    }
}

impl Turn<'_> {
    fn held(&self) -> &Held {
        self.held.as_ref().expect("a turn is only taken of what is open")
    }

    fn held_mut(&mut self) -> &mut Held {
        self.held.as_mut().expect("a turn is only taken of what is open")
    }

    pub(crate) fn marks(&mut self) -> &mut Marks {
        &mut self.held_mut().marks
    }

    /// Writes the marks, if they were changed in this turn.
    pub(crate) fn write_marks(&mut self) -> nix::Result<()> {
        let Held { archive, own, marks, .. } = self.held_mut();
        with_room(archive, || marks.write(own))
    }

    /// The folder where blat keeps what is its own.
    pub(crate) fn own(&self) -> &Folder {
        &self.held().own
    }

    /// Whether a person holds all deletion back. Who cannot tell takes it that one does.
    pub(crate) fn is_held(&self) -> bool {
        !matches!(self.own().stat(HOLD), Ok(None))
    }
}

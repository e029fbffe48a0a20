//! Sessions on record: what lets a later session clear what a killed one left.
//!
//! `.dpkg_archive/sessions/ID` belongs to the session ID. It is locked (`flock`) as
//! long as the session lives, which the kernel sees to whatever becomes of the
//! process, and a hidden name goes into it *before* anything is made under that name.
//! So a record whose lock can be had is a dead session's, and names all that it may
//! have left; a live session's is never touched.
//!
//! Between making a record and locking it, another session could take it for dead
//! and delete it. So a session that has its lock looks whether the record still
//! stands under its name, and otherwise starts over; whoever clears looks likewise
//! after locking.
//!
//! A power cut can lose a record but not what it names (nothing syncs the record:
//! that would cost each session a disk's latency). So whoever opens a package's
//! folder also removes the hidden names there whose session has no record at all; and
//! as the record may be there but torn until a later session has cleared it, the purge
//! looks for such names in all packages.
//!
//! Nor is a full disk an obstacle to a session that deletes: its record is made when there is room, and what
//! is to be removed at once need not be on it ([`crate::stage::Hidden::take`]).
//!
//! A crash while clearing leaves the record, which goes last.
//!
//! What is kept of a large package ([`crate::partial`]) has a record of its own, and is left to that.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::archive::{Archive, OWN_FOLDER, open_or_make};
use crate::folder::Folder;
use crate::held;
use crate::message::Refusal;
use crate::package::Name;
use crate::partial;
use crate::refusal::{errno, is_full, refusal, shown};
use crate::remove::remove;

const SESSIONS: &str = "sessions";
/// What the hidden names of staging start with.
pub(crate) const HIDDEN: &str = ".blat-";
/// The longest record that is read back, in bytes.
const RECORD_MAX: u64 = 64 << 20;

/// A live session's record, shared by the thread that stages and the one that commits.
pub(crate) struct Session {
    archive: Arc<Archive>,
    id: String,
    /// None as long as there is no room for one.
    record: Mutex<Option<Record>>,
    next: AtomicU64,
    /// The packages whose folders this session made.
    made: Mutex<BTreeSet<Name>>,
    /// The packages whose folders were searched for what nobody has on record.
    searched: Mutex<BTreeSet<Name>>,
    /// Whether something could not be removed: then the record stays, for a later session to try.
    leaves: AtomicBool,
}

/// The file of a record, held.
struct Record {
    sessions: Folder,
    file: Flock<File>,
}

impl Record {
    fn make(archive: &Archive, id: &str) -> nix::Result<Self> {
        let (own, _) = open_or_make(&archive.root, OWN_FOLDER.as_bytes())?;
        let (sessions, _) = open_or_make(&own, SESSIONS.as_bytes())?;
        let file = held::create(&sessions, id.as_bytes())?;
        Ok(Self { sessions, file })
    }
}

impl Session {
    /// Puts a session on record, if there is room for that.
    pub(crate) fn begin(archive: &Arc<Archive>) -> Result<Self, Refusal> {
        let (id, record) = loop {
            let id = fresh_id();
            match Record::make(archive, &id) {
                Ok(record) => break (id, Some(record)),
                Err(Errno::EEXIST) => continue,
                Err(why) if is_full(why) => break (id, None),
                Err(why) => {
                    let attempt = "put the session on record in";
                    return Err(refusal(
                        format_args!("{attempt} {OWN_FOLDER}/{SESSIONS} of the archive"),
                        why,
                    ));
                }
            }
        };
        Ok(Self {
            archive: archive.clone(),
            id,
            record: Mutex::new(record),
            next: AtomicU64::new(0),
            made: Mutex::default(),
            searched: Mutex::default(),
            leaves: AtomicBool::new(false),
        })
    }

    /// A hidden name in a package's folder, on record from now on.
    pub(crate) fn hidden_name(&self, package: &Name) -> nix::Result<Vec<u8>> {
        let name = self.fresh_name();
        self.write(format_args!("{package}/{name}"))?;
        Ok(name.into_bytes())
    }

    /// A hidden name that is on no record.
    pub(crate) fn fresh_name(&self) -> String {
        format!("{HIDDEN}{}-{}", self.id, self.next.fetch_add(1, Relaxed))
    }

    /// Opens a package's folder for staging; makes it, on record, where it is missing.
    pub(crate) fn package(&self, archive: &Archive, package: &Name) -> nix::Result<Folder> {
        if archive.root.stat(package.as_str().as_bytes())?.is_none() {
            self.write(format_args!("{package}/"))?;
        }
        let (folder, made) = archive.package(package)?;
        if made {
            lock(&self.made).insert(package.clone());
        }
        if lock(&self.searched).insert(package.clone()) {
            // What cannot be removed hinders nobody: it stays hidden.
            let _ = clear_unrecorded(archive, package, &folder);
        }
        Ok(folder)
    }

    /// Whether this session made the package's folder.
    pub(crate) fn made(&self, package: &Name) -> bool {
        lock(&self.made).contains(package)
    }

    /// Removes what stands at a hidden name of this session, and the package's folder if the
    /// session made it and nothing is in it.
    ///
    /// # Errors
    /// What cannot be removed stays on record.
    pub(crate) fn clear(
        &self,
        archive: &Archive,
        package: &Name,
        folder: &Folder,
        name: &[u8],
    ) -> nix::Result<()> {
        let removed = remove(folder, name, &archive.pulse).inspect_err(|_| self.leaves.store(true, Relaxed));
        if self.made(package) {
            let _ = archive.root.rmdir(package.as_str().as_bytes());
        }
        removed
    }

    /// Takes the session off record: nothing hidden is left of it.
    pub(crate) fn end(&self) {
        if let (false, Some(record)) = (self.leaves.load(Relaxed), &*lock(&self.record)) {
            let _ = record.sessions.unlink(self.id.as_bytes());
        }
    }

    fn write(&self, line: std::fmt::Arguments<'_>) -> nix::Result<()> {
        let mut record = lock(&self.record);
        let record = match &mut *record {
            Some(record) => record,
            none => none.insert(Record::make(&self.archive, &self.id)?),
        };
        // The line before may be torn, if there was no room for it.
        record.file.write_all(format!("\n{line}\n").as_bytes()).map_err(|why| errno(&why))
    }
}

/// Clears what killed sessions left, and what others could not remove, each as far as that can be
/// done; returns what could not.
pub(crate) fn clear_dead(archive: &Archive) -> Vec<Refusal> {
    let mut left = partial::clear(archive);
    let Ok(sessions) = archive.root.below(format!("{OWN_FOLDER}/{SESSIONS}").as_bytes()) else { return left };
    for id in sessions.names().unwrap_or_default() {
        if let Ok(id) = String::from_utf8(id) {
            let _ = clear_if_dead(archive, &sessions, &id, &mut left);
        }
    }
    left
}

/// Clears what nobody has on record, in all packages, as far as that can be done; returns what could not.
pub(crate) fn clear_all_unrecorded(archive: &Archive) -> Vec<Refusal> {
    let names = archive.root.names().unwrap_or_default();
    let packages = names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse::<Name>().ok());
    let clear = |package: Name| {
        // What is no folder, or nobody may look into, has nothing of ours.
        let folder = archive.root.below(package.as_str().as_bytes()).ok()?;
        match clear_unrecorded(archive, &package, &folder) {
            Ok(removed) if removed => {
                let _ = archive.root.rmdir(package.as_str().as_bytes());
                None
            }
            cleared => cleared.err(),
        }
        .map(|why| refusal(format_args!("remove what broken sessions left in {package}"), why))
    };
    packages.filter_map(clear).collect()
}

/// Removes the hidden names in a package's folder whose session is not on record; whether there were any.
fn clear_unrecorded(archive: &Archive, package: &Name, folder: &Folder) -> nix::Result<bool> {
    let mut all = Ok(false);
    for name in folder.names()? {
        let Some(id) = session_of(&name) else { continue };
        if !is_on_record(archive, id)? && !partial::is_kept(archive, package.as_str().as_bytes(), &name) {
            let removed = remove(folder, &name, &archive.pulse);
            all = all.and_then(|_| removed.map(|()| true));
        }
    }
    all
}

fn clear_if_dead(archive: &Archive, sessions: &Folder, id: &str, left: &mut Vec<Refusal>) -> nix::Result<()> {
    let Ok(mut record) = Flock::lock(sessions.file(id.as_bytes())?, FlockArg::LockExclusiveNonblock) else {
        return Ok(());
    };
    if !held::stands(sessions, id.as_bytes(), &record)? {
        return Ok(());
    }
    let mut lines = Vec::new();
    Read::take(&mut *record, RECORD_MAX).read_to_end(&mut lines).map_err(|why| errno(&why))?;
    let mut all = true;
    let named = || lines.split(|byte| *byte == b'\n').filter_map(read_line);
    for (package, name) in named().filter(|(_, name)| session_of(name) == Some(id)) {
        if partial::is_kept(archive, package, name) {
            continue;
        }
        if let Err(why) = clear_named(archive, package, name) {
            let (package, name) = (shown(package), shown(name));
            left.push(refusal(format_args!("remove {package}/{name}, which an earlier session left"), why));
            all = false;
        }
    }
    // The folders that it made, if they are empty now.
    for (package, _) in named().filter(|(_, name)| name.is_empty()) {
        let _ = archive.root.rmdir(package);
    }
    if all { sessions.unlink(id.as_bytes()) } else { Ok(()) }
}

/// The package and the name that a line of a record is about. Only hidden names of that very
/// session and empty folders of packages ever go, whatever a record says.
fn read_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = line.iter().position(|byte| *byte == b'/')?;
    let (package, name) = (&line[..slash], &line[slash + 1..]);
    std::str::from_utf8(package).ok()?.parse::<Name>().ok()?;
    Some((package, name))
}

fn clear_named(archive: &Archive, package: &[u8], name: &[u8]) -> nix::Result<()> {
    match archive.root.below(package) {
        Ok(folder) => remove(&folder, name, &archive.pulse),
        Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => Ok(()),
        Err(why) => Err(why),
    }
}

/// The session that a hidden name of staging belongs to.
fn session_of(name: &[u8]) -> Option<&str> {
    let (id, number) = std::str::from_utf8(name).ok()?.strip_prefix(HIDDEN)?.rsplit_once('-')?;
    let good = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (good && number.parse::<u64>().is_ok()).then_some(id)
}

/// Whether a session has a record, dead or alive.
fn is_on_record(archive: &Archive, id: &str) -> nix::Result<bool> {
    let path = format!("{OWN_FOLDER}/{SESSIONS}/{id}");
    archive.root.look(path.as_bytes()).map(|found| found.is_some())
}

/// Whether a name in a package's folder is one of staging, or of what is being deleted.
pub(crate) fn is_hidden(name: &[u8]) -> bool {
    session_of(name).is_some()
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unique among sessions at once on machines that share the archive, for all practical purposes.
fn fresh_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_nanos(), std::process::id())
}

//! `blat-target index`: the list of every file and folder of the archive,
//! `.dpkg_archive/dpkg_archive_list.txt`.
//!
//! One path a line, relative to the archive, sorted by bytes; folders end in `/`, links are
//! `path -> text`. A line break in a name is written `\n`. blat's own folder and what it has hidden are not
//! in it.
//!
//! A package-version's lines all begin with its path, so they stand together. Where they stand in the
//! list is on record ([`fragments`]) with the time and inode of its `descpkg`; while these are the same,
//! its lines are copied from the old list, and nothing of it is walked. All else is, and what others may still be
//! writing: that in which a folder was changed within a day.
//!
//! The list is written beside its place, synced, and renamed into it: a reader has the old one or the new one,
//! and a run that is killed, or a power cut, leaves one of them. The record names the list that it belongs to, so one
//! that is left of a killed run counts for nothing.

mod compose;
mod fragments;
mod scan;
mod walk;

use std::fs::File;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, RenameFlags};
use nix::sys::stat::{Mode, fchmod};

use crate::archive::{Archive, OWN_FOLDER, open_or_make};
use crate::folder::Folder;
use crate::history::{self, now};
use crate::message::{Mend, Ran, Refusal};
use crate::refusal::{errno, refusal};
use crate::serve::{EXIT_DONE, EXIT_LATER, EXIT_PERSON};

use compose::Compose;
use fragments::Fragments;
use walk::Faults;

pub use compose::find;

const LIST: &[u8] = b"dpkg_archive_list.txt";
const DRAFT: &[u8] = b".dpkg_archive_list.new";
const LOCK: &[u8] = b"index.lock";

/// Makes the index of the archive at `path`.
pub fn index(path: &[u8]) -> ExitCode {
    let made = Archive::open_as_its_owner(path).and_then(|archive| make(&archive));
    let code = match made {
        Ok(ran) => {
            println!("indexed: {} lines, {} faults", ran.count, ran.failed);
            if ran.failed == 0 { EXIT_DONE } else { EXIT_LATER }
        }
        Err(refusal) => {
            eprintln!("blat-target: {}", refusal.reason);
            if refusal.mend == Mend::Later { EXIT_LATER } else { EXIT_PERSON }
        }
    };
    ExitCode::from(code)
}

/// Makes the index; what it could not look at is told, and the rest is in it.
fn make(archive: &Archive) -> Result<Ran, Refusal> {
    let failed = |why| refusal(format_args!("write {OWN_FOLDER}/dpkg_archive_list.txt"), why);
    let (own, _) = open_or_make(&archive.root, OWN_FOLDER.as_bytes()).map_err(failed)?;
    let _alone = alone(&own)?;
    let mut faults = Faults::default();
    let made = lay_down(archive, &own, &mut faults);
    let ran = match &made {
        Ok(count) => Ran { at: now(), count: *count, failed: faults.count, trouble: faults.first },
        Err(refusal) => {
            // On a disk that is full, it holds what packages need.
            let _ = own.unlink(DRAFT);
            // The list that stands there is as old as it was.
            let (at, count) =
                history::last(&own, history::INDEX).map_or((now(), 0), |ran| (ran.at, ran.count));
            Ran { at, count, failed: faults.count + 1, trouble: Some(refusal.reason.clone()) }
        }
    };
    if let Err(why) = history::ran(&own, history::INDEX, &ran) {
        eprintln!("blat-target: cannot write down that this ran: {why}");
    }
    made.map(|_| ran)
}

/// Lays a new list down; how many lines it has.
fn lay_down(archive: &Archive, own: &Folder, faults: &mut Faults) -> Result<u64, Refusal> {
    let failed = |why| refusal(format_args!("write {OWN_FOLDER}/dpkg_archive_list.txt"), why);
    let draft = fresh(own).map_err(failed)?;
    let old = own.read(LIST).ok();
    let known = old.as_ref().and_then(|old| Fragments::read(own, old)).unwrap_or_default();
    let mut compose = Compose::new(old, draft);
    scan::scan(&archive.root, known, &mut compose, faults).map_err(|why| refusal("list the archive", why))?;
    let (draft, fragments, count) = compose.finish().map_err(failed)?;
    put(own, &draft).map_err(failed)?;
    if let Err(why) = fragments.write(own, &draft) {
        eprintln!("blat-target: the next index walks all there is: cannot write down what is known: {why}");
    }
    Ok(count)
}

/// The one run that there may be at a time.
fn alone(own: &Folder) -> Result<Flock<File>, Refusal> {
    let failed = |why| refusal(format_args!("use {OWN_FOLDER}/index.lock"), why);
    let lock = own.open_or_create(LOCK).map_err(failed)?;
    match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(Refusal::later("an index is being made already")),
        Err((_, why)) => Err(failed(why)),
    }
}

/// A new draft; one that a killed run left goes.
fn fresh(own: &Folder) -> nix::Result<File> {
    match own.unlink(DRAFT) {
        Ok(()) | Err(Errno::ENOENT) => own.create(DRAFT),
        Err(why) => Err(why),
    }
}

fn put(own: &Folder, draft: &File) -> nix::Result<()> {
    fchmod(draft, Mode::from_bits_truncate(0o644))?;
    draft.sync_all().map_err(|why| errno(&why))?;
    own.rename(DRAFT, LIST, RenameFlags::empty())
}

#[cfg(test)]
mod tests;

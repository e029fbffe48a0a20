//! Records that are locked (`flock`) by who works on what they name.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::fstat;

use crate::folder::Folder;

/// How often to make a record again when others remove it.
const ATTEMPTS: usize = 1000;

/// Makes an empty record, held. Whoever clears what dead sessions left, this very session too, may take it
/// for such before it is held: then there is another.
pub(crate) fn create(folder: &Folder, name: &[u8]) -> nix::Result<Flock<File>> {
    for _ in 0..ATTEMPTS {
        let record = Flock::lock(folder.create(name)?, FlockArg::LockExclusive).map_err(|(_, why)| why)?;
        if stands(folder, name, &record)? {
            return Ok(record);
        }
    }
    Err(Errno::ENOENT)
}

/// Whether the open record still stands under its name.
pub(crate) fn stands(folder: &Folder, name: &[u8], record: &File) -> nix::Result<bool> {
    let held = fstat(record)?;
    let named = folder.stat(name)?;
    Ok(named.is_some_and(|named| (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)))
}

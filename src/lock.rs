//! The locks of a target: one transfer, and one synchronisation, at a time. A lock ends with the
//! process that holds it, whatever ends that.
//!
//! It is a lock of the open file (`F_OFD_SETLK`), for whether one is held can then be asked without
//! taking it: the agent's look never stands in a run's way.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::anyhow;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::failure::{Failure, Needs};
use crate::places::adopt;

/// Why a lock was not taken.
#[derive(Debug)]
pub enum Untaken {
    /// Somebody else holds it, which is no trouble: the work is being done.
    Held(Failure),
    Failed(Failure),
}

impl From<Failure> for Untaken {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Untaken> for Failure {
    fn from(why: Untaken) -> Self {
        match why {
            Untaken::Held(failure) | Untaken::Failed(failure) => failure,
        }
    }
}

/// Takes the lock `path` in the folder `path` lies in; it is held as long as the file is open.
/// `what` runs while somebody else holds it.
pub fn take(path: &Path, what: &str) -> Result<File, Untaken> {
    let file = File::options().create(true).append(true).open(path);
    let file = file.person(format!("cannot open {}: run as root or as the user blat", path.display()))?;
    adopt(path, path.parent().unwrap_or(path));
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => Ok(file),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            Err(Untaken::Held(Failure::later(anyhow!("{what} for this target runs already"))))
        }
        Err(why) => Ok(Err(why).later(format!("cannot lock {}", path.display()))?),
    }
}

/// Whether somebody holds the lock `path`.
pub fn is_held(path: &Path) -> bool {
    let held = || -> io::Result<bool> {
        let file = File::open(path)?;
        let mut lock = whole_file();
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
    };
    held().unwrap_or(false)
}

/// A lock for writing, from the file's start to wherever its end will be.
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_it_is_held_can_be_asked_without_taking_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        assert!(!is_held(&path));
        let lock = take(&path, "a run").unwrap();
        assert!(is_held(&path));
        assert!(matches!(take(&path, "a run"), Err(Untaken::Held(_))));
        drop(lock);
        assert!(!is_held(&path));
        take(&path, "a run").unwrap();
        assert!(matches!(take(root.path(), "a run"), Err(Untaken::Failed(_))), "a folder is none");
    }
}

//! A folder that is held open: what is in it is reached from there, not by its whole path each time.
//!
//! Unlike the helper's, it is not guarded against symlinks that are put in a path's middle: the archive
//! here is the master's own, and `openat2`, which would do so, is not allowed where units may not set
//! set-user-id bits (`RestrictSUIDSGID=`).

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::Result;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{AccessFlags, faccessat};

#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// Opens any path, symlinks in it followed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map(Self)
    }

    /// Opens the folder `path` below this one (empty: this one again).
    pub(super) fn below(&self, path: &[u8]) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.0, own(path), flags, Mode::empty()).map(Self)
    }

    /// What it itself is.
    pub(super) fn stat(&self) -> Result<FileStat> {
        fstat(&self.0)
    }

    /// Whether the user that this process runs as may read and search it.
    pub(super) fn may_be_read(&self, stat: &FileStat) -> Result<bool> {
        may_read(&self.0, b".", stat)
    }

    /// Opens what stands at `name` to read, without waiting for a writer where it is a pipe.
    pub(super) fn read(&self, name: &[u8]) -> Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(&self.0, name, flags, Mode::empty()).map(File::from)
    }

    /// Reads the folder `path` below this one (empty: this one).
    pub(super) fn list(&self, path: &[u8]) -> Result<Listed> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut folder = Dir::openat(&self.0, own(path), flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in folder.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(Listed { folder, names })
    }
}

/// A folder that was read.
pub(super) struct Listed {
    folder: Dir,
    /// What is in it, without `.` and `..`, in byte order.
    pub(super) names: Vec<Vec<u8>>,
}

impl Listed {
    /// What `name` itself is.
    pub(super) fn stat(&self, name: &[u8]) -> Result<FileStat> {
        fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Whether the user that this process runs as may read `name`, and search it where that is a folder.
    pub(super) fn may_read(&self, name: &[u8], stat: &FileStat) -> Result<bool> {
        may_read(&self.folder, name, stat)
    }

    pub(super) fn link_text(&self, name: &[u8]) -> Result<OsString> {
        readlinkat(&self.folder, name)
    }
}

/// Most packages are for everybody to read: only of what is not, the kernel is asked.
fn may_read(folder: impl AsFd, name: &[u8], stat: &FileStat) -> Result<bool> {
    let is_folder = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    let (by_all, wanted) = match is_folder {
        true => (0o005, AccessFlags::R_OK | AccessFlags::X_OK),
        false => (0o004, AccessFlags::R_OK),
    };
    if stat.st_mode & by_all == by_all {
        return Ok(true);
    }
    match faccessat(folder, name, wanted, AtFlags::AT_EACCESS) {
        Ok(()) => Ok(true),
        Err(Errno::EACCES) => Ok(false),
        Err(why) => Err(why),
    }
}

fn own(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

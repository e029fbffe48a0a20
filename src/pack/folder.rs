//! A folder that is held open: what is in it is reached from there, not by its whole path each time.
//!
//! Unlike the helper's, it is not guarded against symlinks that are put in a path's middle: the archive
//! here is the master's own, and `openat2`, which would do so, is not allowed where units may not set
//! set-user-id bits (`RestrictSUIDSGID=`).

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::Result;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat};

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

    /// What `name` itself is (empty: this folder).
    pub(super) fn stat(&self, name: &[u8]) -> Result<FileStat> {
        fstatat(&self.0, own(name), AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    pub(super) fn link_text(&self, name: &[u8]) -> Result<OsString> {
        readlinkat(&self.0, name)
    }

    /// Opens what stands at `name` to read, without waiting for a writer where it is a pipe.
    pub(super) fn read(&self, name: &[u8]) -> Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(&self.0, name, flags, Mode::empty()).map(File::from)
    }

    /// The names in it, without `.` and `..`, in byte order.
    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut names = Vec::new();
        for entry in Dir::openat(&self.0, ".", flags, Mode::empty())? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

fn own(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

//! Held folders: every file operation of the helper starts at an open folder.
//!
//! A path below a held folder is resolved by the kernel under `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`, so whatever stands in an archive (symlinks that someone
//! put there beforehand, or swaps in meanwhile), nothing outside the folder is
//! read, made, changed or deleted. Names handed to the operations that take one
//! name ("name") must be plain: no slash.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::Result;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, readlinkat, renameat2};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, fsync, linkat, symlinkat, unlinkat};

use crate::manifest::Time;

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens any path, symlinks in it followed: only for the archive itself.
    pub(crate) fn open(path: &[u8]) -> Result<Self> {
        nix::fcntl::open(path, folder_flags(), Mode::empty()).map(Self)
    }

    /// Opens the folder `path` below this one (empty: this one again), to list and sync it.
    pub(crate) fn below(&self, path: &[u8]) -> Result<Self> {
        let path = if path.is_empty() { b"." } else { path };
        self.resolve(path, folder_flags(), Mode::empty()).map(Self)
    }

    /// Opens the folder `path` below this one as a mere place: needs no right to read it.
    pub(crate) fn place(&self, path: &[u8]) -> Result<Self> {
        let path = if path.is_empty() { b"." } else { path };
        self.resolve(path, OFlag::O_PATH | folder_flags(), Mode::empty()).map(Self)
    }

    /// What stands at `path` itself, if anything.
    pub(crate) fn look(&self, path: &[u8]) -> Result<Option<FileStat>> {
        match self.resolve(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(found) => fstat(found).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// What `name` is, if anything.
    pub(crate) fn stat(&self, name: &[u8]) -> Result<Option<FileStat>> {
        match fstatat(self, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Makes the file `name`, which must not exist, for its owner alone.
    pub(crate) fn create(&self, name: &[u8]) -> Result<File> {
        self.create_with(name, 0o600)
    }

    /// Makes the file `name`, which must not exist, with this mode.
    pub(crate) fn create_with(&self, name: &[u8], mode: u32) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.resolve(name, flags, Mode::from_bits_truncate(mode)).map(File::from)
    }

    /// Opens what stands at `path` to read; whether it is a regular file is for the caller to see.
    pub(crate) fn read(&self, path: &[u8]) -> Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        self.resolve(path, flags, Mode::empty()).map(File::from)
    }

    /// Opens the regular file `name` to read and write.
    pub(crate) fn file(&self, name: &[u8]) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        self.resolve(name, flags, Mode::empty()).map(File::from)
    }

    /// Opens the regular file `name` to read and write, and makes it where it is missing.
    pub(crate) fn open_or_create(&self, name: &[u8]) -> Result<File> {
        loop {
            match self.file(name) {
                Err(Errno::ENOENT) => (),
                opened => return opened,
            }
            match self.create(name) {
                Err(Errno::EEXIST) => (),
                made => return made,
            }
        }
    }

    pub(crate) fn mkdir(&self, name: &[u8], mode: u32) -> Result<()> {
        mkdirat(self, name, Mode::from_bits_truncate(mode))
    }

    pub(crate) fn symlink(&self, name: &[u8], text: &[u8]) -> Result<()> {
        symlinkat(text, self, name)
    }

    /// Gives an open file `name`, under which nothing must stand, beside the names that it has.
    pub(crate) fn hard_link(&self, file: &File, name: &[u8]) -> Result<()> {
        // Who is not root may not link a descriptor itself.
        linkat(nix::fcntl::AT_FDCWD, by_descriptor(file).as_str(), self, name, AtFlags::AT_SYMLINK_FOLLOW)
    }

    pub(crate) fn link_text(&self, name: &[u8]) -> Result<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        readlinkat(self, name).map(OsStringExt::into_vec)
    }

    pub(crate) fn unlink(&self, name: &[u8]) -> Result<()> {
        unlinkat(self, name, UnlinkatFlags::NoRemoveDir)
    }

    pub(crate) fn rmdir(&self, name: &[u8]) -> Result<()> {
        unlinkat(self, name, UnlinkatFlags::RemoveDir)
    }

    /// Renames within this folder.
    pub(crate) fn rename(&self, from: &[u8], to: &[u8], flags: RenameFlags) -> Result<()> {
        renameat2(self, from, self, to, flags)
    }

    /// Moves `name` into another folder, where nothing stands under its name.
    pub(crate) fn move_to(&self, name: &[u8], to: &Self) -> Result<()> {
        match renameat2(self, name, to, name, RenameFlags::RENAME_NOREPLACE) {
            // A file system that cannot refuse to replace.
            Err(Errno::EINVAL) => renameat2(self, name, to, name, RenameFlags::empty()),
            done => done,
        }
    }

    /// Sets the time of `name`, also of a symlink itself.
    pub(crate) fn touch(&self, name: &[u8], modified: Time) -> Result<()> {
        let time = time_spec(modified);
        utimensat(self, name, &time, &time, UtimensatFlags::NoFollowSymlink)
    }

    /// The names in this folder, without `.` and `..`.
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>> {
        let listed = Dir::from_fd(openat(self, ".", folder_flags(), Mode::empty())?)?;
        let mut names = Vec::new();
        for entry in listed {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        fsync(self)
    }

    fn resolve(&self, path: &[u8], flags: OFlag, mode: Mode) -> Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        loop {
            match openat2(self, path, how) {
                // The kernel could not tell whether a rename meanwhile led outside.
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                done => return done,
            }
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> Self {
        folder.0
    }
}

/// The name under /proc of what is open, for calls that take no descriptor; it is no link to elsewhere.
pub(crate) fn by_descriptor(open: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", open.as_fd().as_raw_fd())
}

/// Whether an open file or folder has this mode. To look costs a third of what it costs to set it.
pub(crate) fn has_mode(open: &impl AsFd, mode: u32) -> Result<bool> {
    Ok(fstat(open)?.st_mode & 0o7777 == mode)
}

/// Gives an open file or folder its mode.
pub(crate) fn set_mode(open: &impl AsFd, mode: u32) -> Result<()> {
    fchmod(open, Mode::from_bits_truncate(mode))
}

/// Gives an open file or folder its time.
pub(crate) fn set_time(open: &impl AsFd, modified: Time) -> Result<()> {
    let time = time_spec(modified);
    futimens(open, &time, &time)
}

/// What kind of thing a `stat` tells of.
pub(crate) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Without `O_NOFOLLOW`: so a symlink is told apart (`ELOOP`) from what else is no folder.
fn folder_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

fn time_spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanoseconds))
}

//! The archive on the target: held open for a session, and what stands in it.
//!
//! The archive itself may be a symlink, as may any part of the path to it. Nothing
//! below it is reached through one: see [`crate::folder`].

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{AccessFlags, Gid, Uid, faccessat, geteuid, setgid, setgroups, setuid};

use crate::channel::Pulse;
use crate::folder::{Folder, kind};
use crate::message::{Refusal, Standing};
use crate::package::{Name, PackageVersion};
use crate::refusal::{refusal, shown};
use crate::stamp::{DESCPKG, Stamp};

/// The folder in an archive where blat keeps what is its own.
pub(crate) const OWN_FOLDER: &str = ".dpkg_archive";

/// What stands at the root of a file system, and only root may read: an archive may be one.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";

/// An archive, held open.
pub(crate) struct Archive {
    pub(crate) root: Folder,
    /// Moves with each step of work that is as long as there is much in the archive.
    pub(crate) pulse: Arc<Pulse>,
}

impl Archive {
    /// Opens the archive at `path`, absolute or below the user's home, to look at it.
    pub(crate) fn open_to_read(path: &[u8]) -> Result<Self, Refusal> {
        let path = located(path)?;
        let root = Folder::open(&path).map_err(|why| unusable(&path, why))?;
        root.below(b"").map_err(|why| match why {
            Errno::ENOSYS => Refusal::person("the target's kernel is older than Linux 5.6: update it"),
            why => unusable(&path, why),
        })?;
        Ok(Self { root, pulse: Arc::new(Pulse::new()) })
    }

    /// Opens the archive at `path`, absolute or below the user's home, for writing.
    pub(crate) fn open(path: &[u8]) -> Result<Self, Refusal> {
        let archive = Self::open_to_read(path)?;
        let rights = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(&archive.root, ".", rights, AtFlags::AT_EACCESS)
            .map_err(|why| refusal(format_args!("write to the archive {}", shown(path)), why))?;
        Ok(archive)
    }

    /// Opens it for writing, and as whoever blat's own folder in it belongs to: what root made there, that user could
    /// not write to any more. Only for a process that does nothing else.
    pub(crate) fn open_as_its_owner(path: &[u8]) -> Result<Self, Refusal> {
        if geteuid().is_root() {
            let archive = Self::open_to_read(path)?;
            let failed =
                |why| refusal(format_args!("go on as the owner of the archive {}", shown(path)), why);
            let root = fstat(&archive.root).map_err(failed)?;
            let own = archive.root.stat(OWN_FOLDER.as_bytes()).ok().flatten().unwrap_or(root);
            // The archive may be open to that user as to one of its group.
            become_user(own.st_uid, own.st_gid, root.st_gid).map_err(failed)?;
        }
        Self::open(path)
    }

    /// What the transfer user can still write: bytes, and files (0 where that is not counted).
    pub(crate) fn free(&self) -> (u64, u64) {
        match fstatvfs(&self.root) {
            Ok(found) => (found.blocks_available() * found.fragment_size(), found.files_available()),
            Err(_) => (0, 0),
        }
    }

    /// What stands in the place of a package-version.
    ///
    /// One look in the common cases; an error means that nobody can tell.
    pub(crate) fn standing(&self, id: &PackageVersion) -> nix::Result<Standing> {
        match self.root.look(format!("{id}/{DESCPKG}").as_bytes()) {
            Ok(Some(found)) if kind(&found) == SFlag::S_IFREG => Ok(Standing::Version(Stamp(found.st_mtime))),
            Ok(Some(_)) => Ok(Standing::Other),
            Ok(None) | Err(Errno::ELOOP | Errno::ENOTDIR) => self.standing_without_descpkg(id),
            Err(why) => Err(why),
        }
    }

    fn standing_without_descpkg(&self, id: &PackageVersion) -> nix::Result<Standing> {
        match self.root.place(id.package.as_str().as_bytes()) {
            Ok(package) => standing_in(&package, &id.version),
            Err(Errno::ENOENT) => Ok(Standing::Absent),
            Err(Errno::ELOOP | Errno::ENOTDIR) => Ok(Standing::Other),
            Err(why) => Err(why),
        }
    }

    /// Opens a package's folder, and makes it where it is missing; also says whether it did.
    pub(crate) fn package(&self, package: &Name) -> nix::Result<(Folder, bool)> {
        open_or_make(&self.root, package.as_str().as_bytes())
    }
}

/// What stands in a version's place in its package's folder.
pub(crate) fn standing_in(package: &Folder, version: &Name) -> nix::Result<Standing> {
    let name = version.as_str().as_bytes();
    match package.look(format!("{version}/{DESCPKG}").as_bytes()) {
        Ok(Some(found)) if kind(&found) == SFlag::S_IFREG => {
            return Ok(Standing::Version(Stamp(found.st_mtime)));
        }
        Ok(_) | Err(Errno::ELOOP | Errno::ENOTDIR) => (),
        Err(why) => return Err(why),
    }
    match package.stat(name)?.map(|found| kind(&found)) {
        None => Ok(Standing::Absent),
        Some(SFlag::S_IFLNK) => package.link_text(name).map(Standing::Link),
        Some(_) => Ok(Standing::Other),
    }
}

/// Opens the folder `name`, and makes it (0755) where it is missing; also says whether it did.
pub(crate) fn open_or_make(parent: &Folder, name: &[u8]) -> nix::Result<(Folder, bool)> {
    loop {
        match parent.below(name) {
            Ok(folder) => return Ok((folder, false)),
            Err(Errno::ENOENT) => (),
            Err(why) => return Err(why),
        }
        match parent.mkdir(name, 0o755) {
            Ok(()) => return Ok((parent.below(name)?, true)),
            Err(Errno::EEXIST) => continue,
            Err(why) => return Err(why),
        }
    }
}

fn become_user(user: u32, group: u32, second: u32) -> nix::Result<()> {
    if user == 0 {
        return Ok(());
    }
    setgroups(&[Gid::from_raw(group), Gid::from_raw(second)])?;
    setgid(Gid::from_raw(group))?;
    setuid(Uid::from_raw(user))
}

/// The archive's path from the root; from the current folder where no home is set.
pub(crate) fn located(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    if path.is_empty() || path.contains(&0) {
        return Err(Refusal::person(format!("{:?} is no path of an archive", shown(path))));
    }
    match std::env::var_os("HOME") {
        Some(home) if path[0] != b'/' && !home.is_empty() => Ok([home.as_bytes(), b"/", path].concat()),
        _ => Ok(path.to_vec()),
    }
}

fn unusable(path: &[u8], why: Errno) -> Refusal {
    let path = shown(path);
    match why {
        Errno::ENOENT => Refusal::person(format!(
            "there is no archive {path} on the target; make it with `mkdir -p {path}`, \
             or link it with `ln -s /where/it/is {path}`"
        )),
        Errno::ENOTDIR => Refusal::person(format!("the archive {path} on the target is not a folder")),
        why => refusal(format_args!("open the archive {path}"), why),
    }
}

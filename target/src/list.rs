//! Lists an archive: one look at each package-version, none at its files.
//!
//! Folders are read through held descriptors, and opened without following a symlink. A version's
//! folder is not opened at all: its `descpkg` is looked at from the package's folder, once the
//! kernel said that a folder stands there. Should someone swap that folder for a symlink in
//! between, the look tells the time of another file, and nothing else comes of it: what is written
//! or deleted later is reached by other ways.
//!
//! Hidden names are blat's own and never listed, nor is what nobody could name in a message.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::Result;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use crate::archive::LOST_AND_FOUND;
use crate::listing::{Entry, LINK_TEXT_MAX, Listing, Stands};
use crate::package::Name;
use crate::stamp::{DESCPKG, Stamp};

/// How many faults are told one by one.
const TOLD_MAX: usize = 100;

/// An archive's listing, and what is not in it.
#[derive(Debug, Default)]
pub struct Listed {
    pub listing: Listing,
    /// What could not be read or named, and why; the first hundred.
    pub passed_over: Vec<String>,
    /// How many there are of these altogether.
    pub passed_over_count: u64,
}

/// Lists the archive that is open as `archive`.
///
/// A package's folder that cannot be opened is passed over, and told, but for a file system's own. Tells `moved`
/// as it goes on.
///
/// # Errors
/// When the archive, or a folder in it, cannot be read to its end: half a listing is none.
pub fn list(archive: impl AsFd, moved: impl Fn()) -> Result<Listed> {
    let mut listed = Listed::default();
    let root = openat(&archive, ".", folder_flags(), Mode::empty())?;
    for (package, kind) in names(&mut Dir::from_fd(root)?, &mut listed)? {
        moved();
        if !matches!(kind, Some(Type::Directory) | None) {
            continue;
        }
        match openat(&archive, package.as_str(), folder_flags(), Mode::empty()) {
            Ok(folder) => list_package(Dir::from_fd(folder)?, &package, &mut listed, &moved)?,
            // A file or a symlink beside the packages, or what was deleted meanwhile.
            Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT) => (),
            Err(Errno::EACCES) if package.as_str() == LOST_AND_FOUND => (),
            Err(Errno::EACCES) => listed.pass_over(format!("{package}: the transfer user may not read it")),
            Err(why) => return Err(why),
        }
    }
    Ok(listed)
}

fn list_package(mut folder: Dir, package: &Name, listed: &mut Listed, moved: impl Fn()) -> Result<()> {
    let versions = names(&mut folder, listed)?;
    let mut path = String::new();
    for (version, kind) in versions {
        moved();
        path.clear();
        path.push_str(version.as_str());
        path.push('/');
        path.push_str(DESCPKG);
        let Some(found) = look(&folder, version.as_str(), &path, kind)? else { continue };
        let stands = match &found {
            Found::Version(stamp) => Stands::Version(*stamp),
            Found::Link(text) if !text.is_empty() && text.len() <= LINK_TEXT_MAX => Stands::Link(text),
            Found::Link(_) | Found::Other => Stands::Other,
        };
        let entry = Entry { package: package.as_str(), version: version.as_str(), stands };
        if let Err(why) = listed.listing.push(entry) {
            listed.pass_over(format!("{package}/{version}: {why}"));
        }
    }
    Ok(())
}

enum Found {
    Version(Stamp),
    Link(Vec<u8>),
    Other,
}

/// What stands there; `None` when it is gone.
fn look(folder: &Dir, version: &str, descpkg: &str, kind: Option<Type>) -> Result<Option<Found>> {
    let kind = match kind {
        Some(kind) => Some(kind),
        None => stat(folder, version)?.as_ref().and_then(type_of),
    };
    match kind {
        None => Ok(None),
        Some(Type::Symlink) => match readlinkat(folder, version) {
            Ok(text) => Ok(Some(Found::Link(text.as_bytes().to_vec()))),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::EINVAL) => Ok(Some(Found::Other)),
            Err(why) => Err(why),
        },
        Some(Type::Directory) => match stat(folder, descpkg)? {
            Some(found) if type_of(&found) == Some(Type::File) => {
                Ok(Some(Found::Version(Stamp(found.st_mtime))))
            }
            _ => Ok(Some(Found::Other)),
        },
        Some(_) => Ok(Some(Found::Other)),
    }
}

/// What stands at `path`; `None` when nothing does that could be looked at.
fn stat(folder: &Dir, path: &str) -> Result<Option<FileStat>> {
    match fstatat(folder, path, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => Ok(None),
        Err(why) => Err(why),
    }
}

fn type_of(stat: &FileStat) -> Option<Type> {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFLNK => Some(Type::Symlink),
        SFlag::S_IFREG => Some(Type::File),
        _ => Some(Type::Fifo),
    }
}

/// The names in a folder, sorted by their bytes; what each is, where the file system tells.
fn names(folder: &mut Dir, listed: &mut Listed) -> Result<Vec<(Name, Option<Type>)>> {
    let mut found = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes.first() == Some(&b'.') {
            continue;
        }
        match std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Name>().ok()) {
            Some(name) => found.push((name, entry.file_type())),
            None => listed
                .pass_over(format!("{:?}: no name of a package or version", String::from_utf8_lossy(bytes))),
        }
    }
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

impl Listed {
    fn pass_over(&mut self, what: String) {
        self.passed_over_count += 1;
        if self.passed_over.len() < TOLD_MAX {
            self.passed_over.push(what);
        }
    }
}

fn folder_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs::{self, File, FileTimes};
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn version(root: &Path, path: &str, stamp: u64) {
        fs::create_dir_all(root.join(path)).unwrap();
        let descpkg = File::create(root.join(path).join(DESCPKG)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(stamp * 1000 + 500);
        descpkg.set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    fn lines(root: &Path) -> (Vec<String>, Listed) {
        let listed = list(File::open(root).unwrap(), || ()).unwrap();
        let line = |entry: Entry<'_>| match entry.stands {
            Stands::Version(stamp) => format!("{}/{} {stamp}", entry.package, entry.version),
            Stands::Link(text) => {
                format!("{}/{} -> {}", entry.package, entry.version, String::from_utf8_lossy(text))
            }
            Stands::Other => format!("{}/{} ?", entry.package, entry.version),
        };
        (listed.listing.iter().map(line).collect(), listed)
    }

    #[test]
    fn package_versions_are_listed_sorted_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        for (path, stamp) in [("b/1", 7), ("a/1.9", 1), ("a/1.10", 2), ("a-b/1", 3), (".own/x", 4)] {
            version(root.path(), path, stamp);
        }
        version(root.path(), "a/.staging", 5);
        symlink("1.9", root.path().join("a/current")).unwrap();
        symlink("a", root.path().join("linked")).unwrap();
        symlink("/etc", root.path().join("b/out")).unwrap();
        fs::create_dir(root.path().join("b/empty")).unwrap();
        fs::create_dir_all(root.path().join("b/deep/descpkg")).unwrap();
        fs::write(root.path().join("b/file"), "").unwrap();
        fs::write(root.path().join("list.txt"), "").unwrap();
        version(root.path(), "b/a b", 6);
        let (lines, listed) = lines(root.path());
        let expected = [
            "a/1.10 2",
            "a/1.9 1",
            "a/current -> 1.9",
            "a-b/1 3",
            "b/1 7",
            "b/deep ?",
            "b/empty ?",
            "b/file ?",
            "b/out -> /etc",
        ];
        assert_eq!(lines, expected);
        assert_eq!(listed.passed_over, ["\"a b\": no name of a package or version"]);
    }

    #[test]
    fn each_package_and_version_is_told_to_move() {
        let root = tempfile::tempdir().unwrap();
        for path in ["a/1", "a/2", "b/1"] {
            version(root.path(), path, 1);
        }
        let moves = Cell::new(0);
        list(File::open(root.path()).unwrap(), || moves.set(moves.get() + 1)).unwrap();
        assert_eq!(moves.get(), 5);
    }

    #[test]
    fn a_link_in_a_versions_place_is_never_looked_through() {
        let root = tempfile::tempdir().unwrap();
        version(root.path(), "elsewhere/1", 9);
        fs::create_dir(root.path().join("a")).unwrap();
        symlink("../elsewhere/1", root.path().join("a/1")).unwrap();
        assert_eq!(lines(root.path()).0, ["a/1 -> ../elsewhere/1", "elsewhere/1 9"]);
    }
}

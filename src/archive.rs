//! The source archive: what stands in a package-version's place on the master.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blat_target::package::PackageVersion;
use blat_target::stamp::{DESCPKG, Stamp};

/// A tree `<package>/<version>/…`, read only.
#[derive(Clone, Debug)]
pub struct Archive {
    root: PathBuf,
}

/// What stands in a package-version's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or nothing whole yet (a folder without its `descpkg`), and which of both.
    Absent(&'static str),
    /// A symlink with this text.
    Link(Vec<u8>),
    Version {
        stamp: Stamp,
        /// When it became writable, if its folder or `descpkg` has a write bit:
        /// the younger of their change times.
        writable_since: Option<SystemTime>,
    },
    /// Something that is no package-version, and what.
    Strange(&'static str),
}

impl Archive {
    /// The archive at `root`, which must be a folder that can be read now.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::read_dir(root)?;
        Ok(Self { root: root.to_owned() })
    }

    /// Whether nothing lies there, as in a mount point on which nothing is mounted.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(&self.root).is_ok_and(|mut items| items.next().is_none())
    }

    /// The folder of `id`, there or not.
    pub fn path(&self, id: &PackageVersion) -> PathBuf {
        self.root.join(id.package.as_str()).join(id.version.as_str())
    }

    /// Looks at `id`: two `lstat`s at most.
    pub fn look(&self, id: &PackageVersion) -> io::Result<Found> {
        let path = self.path(id);
        let Some(folder) = lstat(&path)? else {
            return Ok(Found::Absent("the source archive does not have it"));
        };
        if folder.is_symlink() {
            return Ok(Found::Link(fs::read_link(&path)?.as_os_str().as_bytes().to_vec()));
        }
        if !folder.is_dir() {
            return Ok(Found::Strange("it is a file, not a folder, in the source archive"));
        }
        match lstat(&path.join(DESCPKG))? {
            None => Ok(Found::Absent("its folder in the source archive has no descpkg yet")),
            Some(descpkg) if !descpkg.is_file() => Ok(Found::Strange("its descpkg is not a regular file")),
            Some(descpkg) => Ok(version(&folder, &descpkg)),
        }
    }
}

fn version(folder: &Metadata, descpkg: &Metadata) -> Found {
    let changed = [folder, descpkg].map(|of| (of.ctime(), of.ctime_nsec()));
    let writable = [folder, descpkg].iter().any(|of| of.mode() & 0o222 != 0);
    let (seconds, nanos) = changed[0].max(changed[1]);
    let since = SystemTime::UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanos as u32);
    Found::Version { stamp: Stamp(descpkg.mtime()), writable_since: writable.then_some(since) }
}

fn lstat(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_version_is_writable_while_its_folder_or_descpkg_has_a_write_bit() {
        let root = tempfile::tempdir().unwrap();
        let archive = Archive::open(root.path()).unwrap();
        let id = PackageVersion::new("core", "1.0").unwrap();
        let folder = archive.path(&id);
        assert!(matches!(archive.look(&id).unwrap(), Found::Absent(_)));
        fs::create_dir_all(&folder).unwrap();
        assert!(matches!(archive.look(&id).unwrap(), Found::Absent(_)));
        fs::write(folder.join(DESCPKG), "x").unwrap();
        set_mode(&folder.join(DESCPKG), 0o444);
        let writable = |found| matches!(found, Found::Version { writable_since: Some(_), .. });
        assert!(writable(archive.look(&id).unwrap()));
        set_mode(&folder, 0o555);
        assert!(!writable(archive.look(&id).unwrap()));
        set_mode(&folder.join(DESCPKG), 0o464);
        assert!(writable(archive.look(&id).unwrap()));
        set_mode(&folder, 0o755);
    }

    #[test]
    fn a_link_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("core")).unwrap();
        symlink("1.0", root.path().join("core/current")).unwrap();
        let archive = Archive::open(root.path()).unwrap();
        let id = PackageVersion::new("core", "current").unwrap();
        assert_eq!(archive.look(&id).unwrap(), Found::Link(b"1.0".to_vec()));
    }
}

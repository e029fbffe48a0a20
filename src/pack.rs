//! From a package-version's folder to the packed stream: scan, then read once.
//!
//! The scan takes names, modes, times and sizes; the bytes are read while they are
//! sent, hashed on the way. What changes between the two is noticed (a size, a time,
//! a file cut short) and the package is abandoned, never sent half, or half of two
//! builds.

mod folder;
mod reader;

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blat_target::delta::{GROUP, seal};
use blat_target::manifest::{Entry, Kind, MODE_MASK, Manifest, PATH_MAX, Time};
use blat_target::message::Digest;
use blat_target::stamp::{DESCPKG, Stamp};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};

use folder::{Folder, Listed};
pub use reader::Reader;

use crate::failure::{Failure, Needs, Result};
use crate::progress::Progress;

/// A package-version as it was scanned, ready to be read.
#[derive(Debug)]
pub struct Scan {
    pub manifest: Manifest,
    pub stamp: Stamp,
    /// Entries that had set-user-id or set-group-id bits, which do not travel.
    pub dropped_bits: Vec<PathBuf>,
    folder: PathBuf,
    /// The same, held: all is looked at and read from here.
    root: Folder,
    progress: Progress,
}

/// Scans `folder`, and tells `progress` as it goes on. What no target can hold (a device, a
/// socket) needs a person.
pub fn scan(folder: &Path, progress: &Progress) -> Result<Scan> {
    let cannot = |why| later(why, "look at", folder);
    let root = Folder::open(folder).map_err(cannot)?;
    let top = root.stat().map_err(cannot)?;
    if !root.may_be_read(&top).map_err(cannot)? {
        return Err(unreadable(folder));
    }
    let mut scan = Scan {
        manifest: Manifest { entries: Vec::new() },
        stamp: Stamp(0),
        dropped_bits: Vec::new(),
        folder: folder.to_owned(),
        root,
        progress: progress.clone(),
    };
    scan.add(entry(Vec::new(), &top, Kind::Folder));
    scan.walk(&[])?;
    scan.stamp = stamp(&scan.manifest, folder)?;
    Ok(scan)
}

fn stamp(manifest: &Manifest, folder: &Path) -> Result<Stamp> {
    let descpkg = manifest.files().find(|(entry, ..)| entry.path == DESCPKG.as_bytes());
    match descpkg {
        Some((entry, ..)) => Ok(Stamp(entry.modified.seconds)),
        None => Err(Failure::later(anyhow::anyhow!("{} has no descpkg any more", folder.display()))),
    }
}

impl Scan {
    /// Adds all that is below a folder of the package. No folder is held open meanwhile, however deep
    /// they are.
    fn walk(&mut self, path: &[u8]) -> Result<()> {
        for found in self.list(path)? {
            let below = (found.kind == Kind::Folder).then(|| found.path.clone());
            self.add(found);
            below.map_or(Ok(()), |below| self.walk(&below))?;
        }
        Ok(())
    }

    /// What is in a folder of the package, in byte order; with all bits of its mode.
    fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let cannot = |why| later(why, "read the folder", &self.place(path));
        let folder = self.root.list(path).map_err(cannot)?;
        self.progress.moved();
        folder.names.iter().map(|name| self.look(&folder, join(path, name), name)).collect()
    }

    fn look(&self, folder: &Listed, path: Vec<u8>, name: &[u8]) -> Result<Entry> {
        if path.len() > PATH_MAX {
            return Err(Failure::person(anyhow::anyhow!(
                "the path {} is longer than {PATH_MAX} bytes",
                self.place(&path).display()
            )));
        }
        let cannot = |why| later(why, "look at", &self.place(&path));
        let person = |what: &str| Failure::person(anyhow::anyhow!("{} {what}", self.place(&path).display()));
        let stat = folder.stat(name).map_err(cannot)?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            // Where only the server of the archive says no, time may mend it.
            SFlag::S_IFDIR | SFlag::S_IFREG if !folder.may_read(name, &stat).map_err(cannot)? => {
                return Err(unreadable(&self.place(&path)));
            }
            SFlag::S_IFDIR => Kind::Folder,
            SFlag::S_IFREG => Kind::File { size: stat.st_size as u64, digest: None },
            SFlag::S_IFLNK => Kind::Symlink { text: folder.link_text(name).map_err(cannot)?.into_vec() },
            _ => return Err(person("is a device, pipe or socket, which no package may hold")),
        };
        Ok(entry(path, &stat, kind))
    }

    fn add(&mut self, mut found: Entry) {
        if found.mode & 0o6000 != 0 {
            self.dropped_bits.push(OsStr::from_bytes(&found.path).into());
        }
        found.mode &= MODE_MASK;
        self.manifest.entries.push(found);
    }

    /// Writes the package's part of the packed stream: manifest, files, seals.
    /// An error of `out` and one of the source come back as the same type, so `out`
    /// must say what failed in its own words.
    pub fn write(&self, manifest: &[u8], out: &mut impl Write) -> Result<()> {
        out.write_all(manifest).later("cannot send")?;
        let mut reader = Reader::of(self);
        let mut digests = Vec::new();
        for (entry, ..) in self.manifest.files() {
            digests.push(Digest(reader.copy(entry, out)?.into()));
        }
        reader.end()?;
        write_seals(&digests, out)
    }

    /// The same for a target that knows no seals: manifest, tar, digests.
    pub fn write_tar(&self, manifest: &[u8], out: &mut impl Write) -> Result<()> {
        out.write_all(manifest).later("cannot send")?;
        let mut reader = Reader::of(self);
        let mut digests = Vec::new();
        let mut tar = tar::Builder::new(&mut *out);
        for (entry, _, digest) in self.manifest.files() {
            let found = reader.append(entry, &mut tar)?;
            if digest.is_none() {
                digests.extend_from_slice(found.as_bytes());
            }
        }
        tar.into_inner().later("cannot send")?;
        reader.end()?;
        out.write_all(&digests).later("cannot send")
    }

    /// Where a file of the package is.
    pub fn path(&self, entry: &Entry) -> PathBuf {
        self.place(&entry.path)
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        self.folder.join(OsStr::from_bytes(path))
    }

    /// The path of an entry, below the version's folder.
    pub fn relative(&self, entry: &Entry) -> PathBuf {
        OsStr::from_bytes(&entry.path).into()
    }
}

/// Writes the seals of all files.
pub(crate) fn write_seals(digests: &[Digest], out: &mut impl Write) -> Result<()> {
    let mut groups = digests.chunks(GROUP);
    groups.try_for_each(|group| out.write_all(&seal(group.iter().copied()).0)).later("cannot send")
}

/// When something was last written, to the nanosecond.
pub fn time(metadata: &Metadata) -> Time {
    Time { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() as u32 }
}

/// With all bits of its mode.
fn entry(path: Vec<u8>, stat: &FileStat, kind: Kind) -> Entry {
    Entry { path, mode: stat.st_mode, modified: time_of(stat), kind }
}

fn time_of(stat: &FileStat) -> Time {
    Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

/// Time does not give blat rights that it does not have.
fn unreadable(at: &Path) -> Failure {
    let what = "may not be read by the user that blat runs as: let it read what is published";
    Failure::person(anyhow::anyhow!("{} {what}", at.display()))
}

fn later(why: Errno, attempt: &str, at: &Path) -> Failure {
    Failure::later(io::Error::from(why)).context(format!("cannot {attempt} {}", at.display()))
}

fn join(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    match prefix {
        [] => name.to_vec(),
        _ => [prefix, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn package() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(DESCPKG), "x").unwrap();
        root
    }

    #[test]
    fn a_scan_is_a_manifest_that_a_target_takes() {
        let root = package();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::create_dir(root.path().join("a.b")).unwrap();
        fs::write(root.path().join("a/b/c"), "content").unwrap();
        fs::write(root.path().join(OsStr::from_bytes(b"\xff\xfe")), "odd").unwrap();
        symlink("a/b", root.path().join("link")).unwrap();
        let scan = scan(root.path(), &Progress::start()).unwrap();
        assert_eq!(Manifest::decode(&scan.manifest.encode()).as_ref(), Ok(&scan.manifest));
        assert_eq!(scan.manifest.entries.len(), 8);
    }

    #[test]
    fn set_id_bits_are_dropped_and_named() {
        let root = package();
        let file = root.path().join("tool");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
        let scan = scan(root.path(), &Progress::start()).unwrap();
        assert_eq!(scan.dropped_bits, [PathBuf::from("tool")]);
        assert!(scan.manifest.entries.iter().all(|entry| entry.mode & !MODE_MASK == 0));
    }

    #[test]
    fn a_pipe_in_a_package_needs_a_person() {
        let root = package();
        nix::unistd::mkfifo(&root.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let failure = scan(root.path(), &Progress::start()).unwrap_err();
        assert_eq!(failure.exit_code(), crate::failure::EXIT_PERSON);
    }

    #[test]
    fn what_may_not_be_read_needs_a_person_before_anything_is_sent() {
        // What lies in it, or at last its own folder, which others may search.
        for (is_folder, mode, of_all) in
            [(false, 0o600, 0o755), (true, 0o700, 0o755), (true, 0o744, 0o755), (false, 0o644, 0o711)]
        {
            let root = package();
            let secret = root.path().join("secret");
            if is_folder {
                fs::create_dir(&secret).unwrap();
                fs::write(secret.join("within"), "x").unwrap();
            } else {
                fs::write(&secret, "x").unwrap();
            }
            fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
            scan(root.path(), &Progress::start()).expect("its owner may read it");
            // Root may read whatever there is.
            if nix::unistd::geteuid().is_root() {
                fs::set_permissions(root.path(), fs::Permissions::from_mode(of_all)).unwrap();
                let folder = root.path().to_owned();
                let as_nobody = std::thread::spawn(move || {
                    nix::unistd::setfsuid(65534.into());
                    scan(&folder, &Progress::start()).unwrap_err()
                });
                let failure = as_nobody.join().unwrap();
                assert_eq!(failure.exit_code(), crate::failure::EXIT_PERSON, "{failure}");
                let named = if of_all == 0o755 { &secret } else { root.path() };
                let expected = format!("{} may not be read ", named.display());
                assert!(failure.to_string().starts_with(&expected), "{failure}");
            }
        }
    }

    #[test]
    fn another_build_with_files_of_the_same_size_is_noticed() {
        let root = package();
        let scan = scan(root.path(), &Progress::start()).unwrap();
        let descpkg = File::options().write(true).open(root.path().join(DESCPKG)).unwrap();
        descpkg.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let failure = scan.write(b"", &mut io::sink()).unwrap_err();
        assert!(failure.to_string().contains("changed while it was read"), "{failure}");
    }

    #[test]
    fn another_build_in_the_place_of_the_one_that_was_scanned_is_noticed() {
        let archive = tempfile::tempdir().unwrap();
        let (place, aside) = (archive.path().join("1.0"), archive.path().join("aside"));
        fs::create_dir(&place).unwrap();
        fs::write(place.join(DESCPKG), "x").unwrap();
        let scan = scan(&place, &Progress::start()).unwrap();
        fs::rename(&place, &aside).unwrap();
        fs::create_dir(&place).unwrap();
        fs::hard_link(aside.join(DESCPKG), place.join(DESCPKG)).unwrap();
        for written in [scan.write(b"", &mut io::sink()), scan.write_tar(b"", &mut io::sink())] {
            let failure = written.unwrap_err();
            assert!(failure.to_string().contains("changed while it was read"), "{failure}");
        }
        fs::remove_dir_all(&place).unwrap();
        assert!(scan.write(b"", &mut io::sink()).is_err(), "and so is that it is gone");
    }

    #[test]
    fn a_file_that_shrinks_or_grows_after_the_scan_is_noticed() {
        for now in ["", "longer than before"] {
            let root = package();
            let scan = scan(root.path(), &Progress::start()).unwrap();
            fs::write(root.path().join(DESCPKG), now).unwrap();
            let failure = scan.write(b"", &mut io::sink()).unwrap_err();
            assert!(failure.to_string().contains("changed while it was read"), "{failure}");
        }
    }
}

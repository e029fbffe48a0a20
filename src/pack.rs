//! From a package-version's folder to the packed stream: scan, then read once.
//!
//! The scan takes names, modes, times and sizes; the bytes are read while they are
//! sent, hashed on the way. What changes between the two is noticed (a size, a time,
//! a file cut short) and the package is abandoned, never sent half, or half of two
//! builds.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use blat_target::delta::{GROUP, seal};
use blat_target::manifest::{Entry, Kind, MODE_MASK, Manifest, PATH_MAX, Time};
use blat_target::message::Digest;
use blat_target::stamp::{DESCPKG, Stamp};
use nix::libc::O_NOFOLLOW;

use crate::failure::{Failure, Needs, Result};
use crate::progress::Progress;

/// How much of a file is read at a time, in bytes.
const COPY_MAX: usize = 256 << 10;

/// A package-version as it was scanned, ready to be read.
#[derive(Debug)]
pub struct Scan {
    pub manifest: Manifest,
    pub stamp: Stamp,
    /// Entries that had set-user-id or set-group-id bits, which do not travel.
    pub dropped_bits: Vec<PathBuf>,
    folder: PathBuf,
    progress: Progress,
}

/// Scans `folder`, and tells `progress` as it goes on. What no target can hold (a device, a
/// socket) needs a person.
pub fn scan(folder: &Path, progress: &Progress) -> Result<Scan> {
    let mut scan = Scan {
        manifest: Manifest { entries: Vec::new() },
        stamp: Stamp(0),
        dropped_bits: Vec::new(),
        folder: folder.to_owned(),
        progress: progress.clone(),
    };
    let top = fs::symlink_metadata(folder).later(format!("cannot look at {}", folder.display()))?;
    scan.add(Vec::new(), &top, Kind::Folder);
    scan.walk(folder, &[])?;
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
    fn walk(&mut self, folder: &Path, prefix: &[u8]) -> Result<()> {
        let cannot = || format!("cannot read the folder {}", folder.display());
        let mut names = Vec::new();
        for item in fs::read_dir(folder).later(cannot())? {
            names.push(item.later(cannot())?.file_name());
        }
        self.progress.moved();
        names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        names.iter().try_for_each(|name| self.entry(folder, prefix, name))
    }

    fn entry(&mut self, folder: &Path, prefix: &[u8], name: &OsStr) -> Result<()> {
        let at = folder.join(name);
        let path = join(prefix, name.as_bytes());
        if path.len() > PATH_MAX {
            return Err(Failure::person(anyhow::anyhow!(
                "the path {} is longer than {PATH_MAX} bytes",
                at.display()
            )));
        }
        let metadata = fs::symlink_metadata(&at).later(format!("cannot look at {}", at.display()))?;
        let kind = kind(&at, &metadata)?;
        let descend = kind == Kind::Folder;
        self.add(path.clone(), &metadata, kind);
        if descend { self.walk(&at, &path) } else { Ok(()) }
    }

    fn add(&mut self, path: Vec<u8>, metadata: &Metadata, kind: Kind) {
        if metadata.mode() & 0o6000 != 0 {
            self.dropped_bits.push(OsStr::from_bytes(&path).into());
        }
        let modified = time(metadata);
        self.manifest.entries.push(Entry { path, mode: metadata.mode() & MODE_MASK, modified, kind });
    }

    /// Writes the package's part of the packed stream: manifest, files, seals.
    /// An error of `out` and one of the source come back as the same type, so `out`
    /// must say what failed in its own words.
    pub fn write(&self, manifest: &[u8], out: &mut impl Write) -> Result<()> {
        out.write_all(manifest).later("cannot send")?;
        let mut piece = piece();
        let mut digests = Vec::new();
        for (entry, ..) in self.manifest.files() {
            digests.push(Digest(self.copy(entry, &mut piece, out)?.into()));
        }
        write_seals(&digests, out)
    }

    /// The same for a target that knows no seals: manifest, tar, digests.
    pub fn write_tar(&self, manifest: &[u8], out: &mut impl Write) -> Result<()> {
        out.write_all(manifest).later("cannot send")?;
        let mut digests = Vec::new();
        let mut tar = tar::Builder::new(&mut *out);
        for (entry, size, digest) in self.manifest.files() {
            let found = self.append(&mut tar, entry, size)?;
            if digest.is_none() {
                digests.extend_from_slice(found.as_bytes());
            }
        }
        tar.into_inner().later("cannot send")?;
        out.write_all(&digests).later("cannot send")
    }

    /// Where a file of the package is.
    pub fn path(&self, entry: &Entry) -> PathBuf {
        self.folder.join(self.relative(entry))
    }

    /// The path of an entry, below the version's folder.
    pub fn relative(&self, entry: &Entry) -> PathBuf {
        OsStr::from_bytes(&entry.path).into()
    }

    /// Writes the bytes of one of the package's files to `out`, which must say in its own words what
    /// failed, and returns their digest. They go through `piece`, see [`piece`].
    pub fn copy(&self, entry: &Entry, piece: &mut [u8], out: &mut impl Write) -> Result<blake3::Hash> {
        self.copy_from(entry, 0, piece, out)
    }

    /// The same without the file's first `start` bytes.
    pub fn copy_from(
        &self,
        entry: &Entry,
        start: u64,
        piece: &mut [u8],
        out: &mut impl Write,
    ) -> Result<blake3::Hash> {
        let Kind::File { size, .. } = entry.kind else { return Ok(blake3::hash(b"")) };
        let at = self.path(entry);
        let mut file = self.open(&at, size)?;
        file.skip(start).later(format!("cannot read {}", at.display()))?;
        loop {
            let got = file.read(piece).later(format!("cannot read {}", at.display()))?;
            if got == 0 {
                break;
            }
            out.write_all(&piece[..got]).later(format!("cannot pack {}", at.display()))?;
        }
        file.check(&at, entry.modified)?;
        Ok(file.hash.finalize())
    }

    fn open(&self, at: &Path, size: u64) -> Result<Hashing<'_>> {
        let file = File::options().read(true).custom_flags(O_NOFOLLOW).open(at);
        Ok(Hashing::new(file.later(format!("cannot read {}", at.display()))?, size, &self.progress))
    }

    fn append(&self, tar: &mut tar::Builder<impl Write>, entry: &Entry, size: u64) -> Result<blake3::Hash> {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        let at = self.folder.join(path);
        let mut file = self.open(&at, size)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(entry.mode);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, path, BufReader::with_capacity(1 << 18, &mut file))
            .later(format!("cannot send {}", at.display()))?;
        file.check(&at, entry.modified)?;
        Ok(file.hash.finalize())
    }
}

/// A file of an expected size, hashed as it is read.
struct Hashing<'a> {
    file: File,
    size: u64,
    left: u64,
    hash: blake3::Hasher,
    progress: &'a Progress,
}

impl<'a> Hashing<'a> {
    fn new(file: File, size: u64, progress: &'a Progress) -> Self {
        Self { file, size, left: size, hash: blake3::Hasher::new(), progress }
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.left = self.left.saturating_sub(bytes);
        self.file.seek(SeekFrom::Start(bytes)).map(drop)
    }

    /// Fails if it is not what was scanned.
    fn check(&mut self, at: &Path, modified: Time) -> Result<()> {
        let as_scanned = self.ended_as_scanned(modified).later(format!("cannot read {}", at.display()))?;
        match as_scanned {
            true => Ok(()),
            false => Err(Failure::later(anyhow::anyhow!("{} changed while it was read", at.display()))),
        }
    }

    /// Whether it had neither less nor more bytes than expected, and is still of that time: another
    /// build may have been put in the folder's place, with files of the same size.
    fn ended_as_scanned(&mut self, modified: Time) -> io::Result<bool> {
        let found = self.file.metadata()?;
        Ok(self.left == 0 && found.len() == self.size && time(&found) == modified)
    }
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let got = self.file.read(&mut buffer[..most])?;
        self.hash.update(&buffer[..got]);
        self.left -= got as u64;
        self.progress.moved();
        Ok(got)
    }
}

/// What files are read into, piece by piece.
pub fn piece() -> Vec<u8> {
    vec![0; COPY_MAX]
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

fn join(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    match prefix {
        [] => name.to_vec(),
        _ => [prefix, b"/", name].concat(),
    }
}

fn kind(at: &Path, metadata: &Metadata) -> Result<Kind> {
    let is = metadata.file_type();
    if is.is_dir() {
        Ok(Kind::Folder)
    } else if is.is_file() {
        Ok(Kind::File { size: metadata.len(), digest: None })
    } else if is.is_symlink() {
        let text = fs::read_link(at).later(format!("cannot read the link {}", at.display()))?;
        Ok(Kind::Symlink { text: text.as_os_str().as_bytes().to_vec() })
    } else {
        let what = anyhow::anyhow!("{} is a device, pipe or socket, which no package may hold", at.display());
        Err(Failure::person(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn another_build_with_files_of_the_same_size_is_noticed() {
        let root = package();
        let scan = scan(root.path(), &Progress::start()).unwrap();
        let descpkg = File::options().write(true).open(root.path().join(DESCPKG)).unwrap();
        descpkg.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let failure = scan.write(b"", &mut io::sink()).unwrap_err();
        assert!(failure.to_string().contains("changed while it was read"), "{failure}");
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

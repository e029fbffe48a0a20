//! Package-versions that describe themselves, and a witness that reads them on the site.
//!
//! Every file of a build says which build it belongs to, and `descpkg` says how many files there
//! are and how large, so that a reader sees by itself whether what it found is whole and of one
//! build.

#![allow(dead_code, reason = "shared by several crates, none of which uses all of it")]

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::Mode;

use crate::field::{seal, set_mode};

/// Leaves the core to those who write what is looked at.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// The stamp of build 0; each later one is a second younger.
const FIRST_STAMP: u64 = 1_700_000_000;

/// A generator of pseudo-random numbers that can be started again from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Seeded by `BLAT_SEED`, or by the clock; says by what.
    pub(crate) fn new() -> Self {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let given = std::env::var("BLAT_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(clock.as_nanos() as u64);
        println!("BLAT_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }

    /// Bytes that do not compress.
    pub(crate) fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut noise = vec![0; length];
        blake3::Hasher::new().update(&self.next().to_le_bytes()).finalize_xof().fill(&mut noise);
        noise
    }
}

/// Puts build `number` of a package-version at `folder`: whole at once, in exchange for the build
/// that stood there.
pub(crate) fn put_build(folder: &Path, number: u64, files: usize, blob: &[u8]) {
    let name = folder.file_name().expect("a name").to_string_lossy();
    let draft = folder.with_file_name(format!(".draft-{name}"));
    fs::create_dir_all(draft.join("sub")).expect("a folder");
    let stamp = SystemTime::UNIX_EPOCH + Duration::from_secs(FIRST_STAMP + number);
    let write = |name: String, content: &[u8]| {
        let path = draft.join(name);
        fs::write(&path, content).expect("a file");
        File::options().write(true).open(&path).and_then(|file| file.set_modified(stamp)).expect("a time");
    };
    write("descpkg".into(), format!("{number} {files} {}\n", blob.len()).as_bytes());
    for file in 0..files {
        write(format!("sub/{file}"), number.to_string().as_bytes());
    }
    write("blob".into(), &[&number.to_le_bytes(), blob].concat());
    seal(&draft);
    set_mode(&draft, 0o755);
    let stands = fs::symlink_metadata(folder).is_ok();
    let flags = if stands { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::empty() };
    renameat2(AT_FDCWD, &draft, AT_FDCWD, folder, flags).expect("renamed into place");
    set_mode(folder, 0o555);
    if stands {
        for path in [draft.join("sub"), draft.clone()] {
            set_mode(&path, 0o755);
        }
        fs::remove_dir_all(&draft).expect("removed");
    }
}

/// Looks at an archive over and over, and keeps all that it should not have seen.
pub(crate) struct Witness {
    over: Arc<AtomicBool>,
    looked: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

impl Witness {
    pub(crate) fn of(archive: PathBuf) -> Self {
        let (over, looked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (Arc::clone(&over), Arc::clone(&looked));
        let thread = std::thread::spawn(move || {
            let mut wrong = Vec::new();
            while !end.load(Relaxed) && wrong.len() < 20 {
                wrong.extend(look_at_all(&archive, &count));
                std::thread::sleep(BETWEEN_LOOKS);
            }
            wrong
        });
        Self { over, looked, thread }
    }

    /// How many package-versions it has read, and what was wrong with them.
    pub(crate) fn ends(self) -> (u64, Vec<String>) {
        self.over.store(true, Relaxed);
        let wrong = self.thread.join().expect("the witness does not panic");
        (self.looked.load(Relaxed), wrong)
    }
}

fn look_at_all(archive: &Path, count: &AtomicU64) -> Vec<String> {
    let visible = |path: &Path| -> Vec<PathBuf> {
        let items = fs::read_dir(path).into_iter().flatten().flatten().map(|item| item.path());
        let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        items.filter(|path| !hidden(path)).collect()
    };
    let mut wrong = Vec::new();
    for version in visible(archive).iter().flat_map(|package| visible(package)) {
        if let Err(what) = look_at(&version) {
            wrong.push(format!("{}: {what}", version.display()));
        }
        count.fetch_add(1, Relaxed);
    }
    wrong
}

/// What stands at `path` must be whole, or go away while it is read.
fn look_at(path: &Path) -> Result<(), String> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(folder) = openat(AT_FDCWD, path, flags, Mode::empty()) else {
        return look_at_link(path);
    };
    let folder = File::from(folder);
    let read = read_build(&folder);
    // The open folder keeps its number from being used again.
    let held = folder.metadata().map_err(|why| why.to_string())?;
    let stands =
        fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino()));
    match read {
        Err(what) if stands => Err(what),
        _ => Ok(()),
    }
}

fn look_at_link(path: &Path) -> Result<(), String> {
    let Ok(text) = fs::read_link(path) else { return Ok(()) };
    match path.with_file_name(&text).join("descpkg").metadata() {
        Ok(_) => Ok(()),
        Err(why) => Err(format!("it addresses {}, where {why}", text.display())),
    }
}

fn read_build(folder: &File) -> Result<(), String> {
    let read = |name: &str| read_in(folder, name).map_err(|why| format!("{name}: {why}"));
    let (descpkg, found) = read("descpkg")?;
    let (descpkg, stamp) = (String::from_utf8_lossy(&descpkg).into_owned(), found.mtime() as u64);
    let numbers: Vec<u64> = descpkg.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [number, files, blob] = numbers[..] else { return Err(format!("descpkg is {descpkg:?}")) };
    if stamp != FIRST_STAMP + number {
        return Err(format!("build {number} has the stamp {stamp}"));
    }
    for file in 0..files {
        let (content, _) = read(&format!("sub/{file}"))?;
        if content != number.to_string().as_bytes() {
            let found = String::from_utf8_lossy(&content).into_owned();
            return Err(format!("sub/{file} of build {number} has {found:?}"));
        }
    }
    let (begin, found) = read("blob")?;
    if found.len() != blob + 8 || begin[..8] != number.to_le_bytes() {
        return Err(format!("the blob of build {number} has {} of {} bytes", found.len(), blob + 8));
    }
    let mode = folder.metadata().map_err(|why| why.to_string())?.permissions().mode() & 0o777;
    if mode != 0o555 { Err(format!("build {number} has the mode {mode:o}")) } else { Ok(()) }
}

/// How a file begins, and what it is: of the large ones, no more tells builds apart.
fn read_in(folder: &File, name: &str) -> io::Result<(Vec<u8>, Metadata)> {
    let opened = openat(folder.as_fd(), name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let file = File::from(opened);
    let mut begin = Vec::new();
    (&file).take(100).read_to_end(&mut begin)?;
    Ok((begin, file.metadata()?))
}

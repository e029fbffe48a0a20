//! A real archive to transfer: the sources of all crates that blat is built from and of those that
//! `tests/lab/archive` names, hundreds of package-versions with more than 20,000 files.
//!
//! It lies in `build/lab/archive-<key>/dpkg_archive`, made once for each content of the two
//! `Cargo.lock` and renamed into place when complete. Each package-version is sealed as released ones are: no
//! write bit anywhere, times with nanoseconds, a `descpkg`, a symbolic link inside the package.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{AT_FDCWD, FlockArg};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::{checkout, guard, lab_dir};

/// When the oldest package was released: 2024-01-01, in seconds since 1970.
const OLDEST: u64 = 1_704_067_200;
/// The manifest that names crates beyond those of blat itself.
const MORE: &str = "tests/lab/archive";

/// The folder `dpkg_archive`; makes it when it is not there yet. It is read-only: bind it into a
/// machine (see `Options::bind_ro`), or copy it.
///
/// # Panics
/// When the crates cannot be had or the disk is full.
#[track_caller]
pub fn real_archive() -> PathBuf {
    make().unwrap_or_else(|why| panic!("no archive to transfer: {why:#}"))
}

fn make() -> Result<PathBuf> {
    fs::create_dir_all(lab_dir())?;
    let _turn = guard::lock(&lab_dir().join("archive.lock"), FlockArg::LockExclusive)?;
    let locks =
        [fs::read(checkout().join("Cargo.lock"))?, fs::read(checkout().join(MORE).join("Cargo.lock"))?];
    let key = &blake3::hash(&locks.concat()).to_hex()[..12];
    let done = lab_dir().join(format!("archive-{key}"));
    if !done.exists() {
        let draft = done.with_extension("draft");
        if draft.exists() {
            fs::remove_dir_all(&draft)?;
        }
        vendor(&draft.join("vendor"))?;
        arrange(&draft.join("vendor"), &draft.join("dpkg_archive"))?;
        fs::remove_dir_all(draft.join("vendor"))?;
        fs::rename(&draft, &done)?;
    }
    Ok(done.join("dpkg_archive"))
}

fn vendor(to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let output = Command::new(env!("CARGO"))
        .args(["vendor", "--locked", "--versioned-dirs", "--quiet", "--sync", "tests/lab/archive/Cargo.toml"])
        .arg(to)
        .current_dir(checkout())
        .output()
        .context("starting cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo vendor: {said}");
    Ok(())
}

/// Moves each `NAME-VERSION` to `NAME/VERSION` and seals it.
fn arrange(vendor: &Path, archive: &Path) -> Result<()> {
    let mut crates: Vec<_> = fs::read_dir(vendor)?.collect::<std::io::Result<_>>()?;
    crates.sort_by_key(fs::DirEntry::file_name);
    for (nth, entry) in crates.iter().enumerate() {
        let folder = entry.file_name().to_string_lossy().into_owned();
        let (name, version) = split(&folder).with_context(|| format!("odd name {folder}"))?;
        let place = archive.join(name).join(version);
        fs::create_dir_all(archive.join(name))?;
        fs::rename(entry.path(), &place)?;
        describe(&place, name, version)?;
        let mut clock = Clock::starting_at(OLDEST + nth as u64 * 86_413);
        seal(&place, &mut clock).with_context(|| format!("sealing {}", place.display()))?;
    }
    Ok(())
}

/// Splits at the dash before the version, which is the first that a digit and a dot follow
/// (`aws-lc-rs-1.2.3`, `libz-rs-sys-0.5.0-alpha.1`).
fn split(folder: &str) -> Option<(&str, &str)> {
    let dashes = folder.match_indices('-').map(|(at, _)| at);
    dashes.map(|at| (&folder[..at], &folder[at + 1..])).find(|(_, version)| {
        let digits = version.trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() < version.len() && digits.starts_with('.')
    })
}

fn describe(place: &Path, name: &str, version: &str) -> Result<()> {
    let text = format!("Package Name: {name}\nVersion: {version}\nArchitecture: any\n");
    fs::write(place.join("descpkg"), text)?;
    let read = ["README.md", "Cargo.toml"].map(|file| (file, place.join(file)));
    let (file, _) = read.iter().find(|(_, path)| path.is_file()).context("no Cargo.toml")?;
    Ok(symlink(file, place.join("read-me-first"))?)
}

/// The times of a package's files: each a little later than the one before, none on a full second.
struct Clock {
    now: Duration,
}

impl Clock {
    fn starting_at(seconds: u64) -> Clock {
        Clock { now: Duration::new(seconds, 123_456_789) }
    }

    fn tick(&mut self) -> Duration {
        self.now += Duration::new(1, 7_654_321);
        self.now
    }
}

/// Takes all write bits away and sets the times, from the leaves up.
fn seal(path: &Path, clock: &mut Clock) -> Result<()> {
    let kind = fs::symlink_metadata(path)?;
    if kind.is_symlink() {
        return touch_link(path, clock.tick());
    }
    if kind.is_dir() {
        let mut inside: Vec<_> = fs::read_dir(path)?.collect::<std::io::Result<_>>()?;
        inside.sort_by_key(fs::DirEntry::file_name);
        for entry in inside {
            seal(&entry.path(), clock)?;
        }
    }
    let runs = kind.is_dir() || kind.permissions().mode() & 0o111 != 0;
    let time = SystemTime::UNIX_EPOCH + clock.tick();
    let times = FileTimes::new().set_accessed(time).set_modified(time);
    File::open(path)?.set_times(times)?;
    let mode = if runs { 0o555 } else { 0o444 };
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

fn touch_link(path: &Path, time: Duration) -> Result<()> {
    let time = TimeSpec::from(time);
    let how = UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(AT_FDCWD, path, &time, &time, how)?)
}

//! Writes the accepted copies.
//!
//! Each is written beside its place, synced and renamed into it, so a reader (the generator at boot,
//! a program that starts now) has the old copy or the new one whole. A kill between two copies leaves
//! some accepted and some not; the next `apply` goes on from there. What the manager was to be told
//! of is noted first (`pending`), so that a kill after the copies loses no start and no stop.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::folder::Folder;
use super::name::TargetName;

/// The accepted folder, as its one writer has it.
pub(super) struct Copies {
    folder: Folder,
    pending: PathBuf,
    /// Nobody else writes as long as it is held.
    _turn: Flock<File>,
}

impl Copies {
    /// Opens the accepted folder, made if it is missing, once nobody else writes into it.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let folder = Folder::accepted(root);
        let targets = folder.targets();
        if !targets.exists() {
            fs::create_dir_all(&targets)?;
            // Everyone's to pass, whatever the umask: the agents run as another user.
            for made in [targets.as_path(), targets.parent().unwrap_or(&targets)] {
                fs::set_permissions(made, Permissions::from_mode(0o755))?;
            }
        }
        let pending = folder.defaults().with_file_name("pending");
        let turn = Flock::lock(File::open(&targets)?, FlockArg::LockExclusive).map_err(|(_, why)| why)?;
        Ok(Self { folder, pending, _turn: turn })
    }

    /// Makes `blat.toml` this text, or no file. Says whether that changed anything.
    pub(super) fn put_defaults(&self, text: Option<&str>) -> io::Result<bool> {
        put(&self.folder.defaults(), text)
    }

    /// Makes a target's file this text, or no file. Says whether that changed anything.
    pub(super) fn put_target(&self, name: &TargetName, text: Option<&str>) -> io::Result<bool> {
        put(&self.folder.target(name), text)
    }

    /// What the manager may not have been told.
    pub(super) fn pending(&self) -> Pending {
        let text = fs::read_to_string(&self.pending).unwrap_or_default();
        let name =
            |line: &str| line.strip_suffix(START).map_or((line.parse(), false), |name| (name.parse(), true));
        text.lines().map(name).filter_map(|(name, starts)| Some((name.ok()?, starts))).collect()
    }

    /// Notes it.
    pub(super) fn put_pending(&self, pending: &Pending) -> io::Result<()> {
        let line = |(name, starts): (_, &bool)| format!("{name}{}\n", if *starts { START } else { "" });
        let lines: String = pending.iter().map(line).collect();
        put(&self.pending, (!pending.is_empty()).then_some(&lines)).map(|_| ())
    }
}

/// Targets of which the manager may not have been told, and whether each is one to start.
pub(super) type Pending = BTreeMap<TargetName, bool>;

const START: &str = " start";

fn put(path: &Path, text: Option<&str>) -> io::Result<bool> {
    let now = fs::read_to_string(path);
    match (text, now) {
        (Some(text), Ok(now)) if text == now => Ok(false),
        (Some(text), _) => replace(path, text).map(|()| true),
        (None, Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        (None, _) => {
            fs::remove_file(path)?;
            sync_folder(path).map(|()| true)
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    // Everyone's to read, whatever the umask: the agents run as another user.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

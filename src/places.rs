//! Where the files of a target lie on the master.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use crate::config::TargetName;
use crate::delta::CACHE;
use crate::ready::READY;
use crate::ssh::Control;

/// The folders and sockets of one target.
#[derive(Clone, Debug)]
pub struct Places {
    /// Queue records, rejected tags, locks: kept over a reboot.
    pub state: PathBuf,
    /// The control socket and the trigger files: gone after a reboot.
    pub runtime: PathBuf,
    /// The socket on which short-lived programs report to the agent.
    pub report: PathBuf,
    /// There as long as a person is told what the target needs: `RuntimeDirectory=` of `blat-notify@.service`.
    pub telling: PathBuf,
    /// The digests of packages, for all targets: may be deleted.
    pub digests: PathBuf,
    /// Packages that are packed for several targets: may be deleted.
    pub ready: PathBuf,
}

impl Places {
    /// The places of `name` below `root` (`/`, but for tests).
    pub fn of(root: &Path, name: &TargetName) -> Self {
        let run = root.join("run/blat");
        Self {
            state: root.join("var/lib/blat").join(name.as_str()),
            runtime: run.join(name.as_str()),
            report: run.join(format!("{name}.report")),
            telling: root.join("run/blat-notify").join(name.as_str()),
            digests: root.join(CACHE),
            ready: root.join(READY),
        }
    }

    /// How to come to the agent's connection.
    pub fn control(&self) -> Control {
        Control::at(self.runtime.join("ssh"))
    }

    /// And to the further ones, where there are so many in all.
    pub fn controls_beside(&self, connections: usize) -> impl Iterator<Item = Control> {
        (2..=connections).map(|number| Control::at(self.runtime.join(format!("ssh.{number}"))))
    }

    /// Touched to have waiting tags looked at.
    pub fn transfer_trigger(&self) -> PathBuf {
        self.runtime.join("transfer")
    }

    /// Touched to have the target synchronised.
    pub fn sync_trigger(&self) -> PathBuf {
        self.runtime.join("sync")
    }

    /// Held by the one synchronisation that runs.
    pub fn sync_lock(&self) -> PathBuf {
        self.state.join("sync.lock")
    }

    /// There from the beginning of a synchronisation until one has ended well, or a person stopped it.
    pub fn sync_begun(&self) -> PathBuf {
        self.state.join("sync.begun")
    }

    /// What the target answered when it was last asked what it has.
    pub fn listing(&self) -> PathBuf {
        self.state.join("listing")
    }

    /// How many members there were at the last good synchronisation.
    pub fn last_good(&self) -> PathBuf {
        self.state.join("last_good")
    }

    /// Stands there while a person holds all deletion at the target back.
    pub fn hold(&self) -> PathBuf {
        self.state.join("hold")
    }

    /// What the target last told of its own upkeep.
    pub fn upkeep(&self) -> PathBuf {
        self.state.join("upkeep.json")
    }

    /// Deletions of a session that were told of, as long as the target's own record of them was not.
    pub fn heard(&self) -> PathBuf {
        self.state.join("deleted.heard")
    }

    /// Uploads to a bucket that a synchronisation began and did not end.
    pub fn sync_uploads(&self) -> PathBuf {
        self.state.join("uploads.sync")
    }

    /// The same of a transfer, which may run beside it.
    pub fn transfer_uploads(&self) -> PathBuf {
        self.state.join("uploads.transfer")
    }

    /// What the last synchronisations came to.
    pub fn syncs(&self) -> PathBuf {
        self.state.join("sync.json")
    }

    /// What the last transfers came to.
    pub fn transfers(&self) -> PathBuf {
        self.state.join("transfer.json")
    }

    /// What the target said of itself.
    pub fn facts(&self) -> PathBuf {
        self.state.join("target.json")
    }

    /// What the target has and nothing asks for.
    pub fn excess(&self) -> PathBuf {
        self.state.join("excess.json")
    }

    /// What the target should have and has not.
    pub fn missing(&self) -> PathBuf {
        self.state.join("missing.json")
    }

    /// What the target should have, and who asks for it.
    pub fn wanted(&self) -> PathBuf {
        self.state.join("wanted")
    }

    /// The results of synchronisations over time.
    pub fn sync_series(&self) -> PathBuf {
        self.state.join("sync.series")
    }

    /// The results of transfers over time.
    pub fn transfer_series(&self) -> PathBuf {
        self.state.join("transfer.series")
    }

    /// What the agent knows.
    pub fn agent(&self) -> PathBuf {
        self.runtime.join("agent.json")
    }

    /// Written to have a person told what is needed.
    pub fn person(&self) -> PathBuf {
        self.runtime.join("person")
    }

    /// There from a call until somebody is about to tell it: `ExecStartPre=` of `blat-notify@.service` removes it.
    pub fn untold(&self) -> PathBuf {
        self.runtime.join("untold")
    }

    /// What a person is needed for and was not told yet.
    pub fn calls(&self) -> PathBuf {
        self.runtime.join("calls.json")
    }

    /// Held by the agent that runs.
    pub fn agent_lock(&self) -> PathBuf {
        self.runtime.join("agent.lock")
    }

    /// How far the synchronisation is that runs.
    pub fn progress(&self) -> PathBuf {
        self.runtime.join("progress.json")
    }

    /// Held by the one transfer that runs.
    pub fn transfer_lock(&self) -> PathBuf {
        self.state.join("transfer.lock")
    }
}

/// Gives what root made by hand to the owner of the folder that it lies in, so that a run
/// by root leaves nothing that the next run of the user `blat` cannot use.
pub fn adopt(path: &Path, folder: &Path) {
    if nix::unistd::geteuid().is_root()
        && let Ok(owner) = fs::metadata(folder)
        && let Err(why) = lchown(path, Some(owner.uid()), Some(owner.gid()))
    {
        tracing::warn!("cannot give {} to the owner of its folder: {why}", path.display());
    }
}

/// Makes a folder and those that lead to it, each owned as the one that it lies in is.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    make_folder(folder)?;
    match fs::create_dir(path) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    adopt(path, folder);
    Ok(())
}

/// Replaces a file as a whole: a reader finds the old content or the new. It is owned as its
/// folder is.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let beside = folder.join(format!(".new-{}", std::process::id()));
    let replaced = fs::write(&beside, content).and_then(|()| {
        adopt(&beside, folder);
        fs::rename(&beside, path)
    });
    if replaced.is_err() {
        // The next try has another name: on a full disk they would add up.
        let _ = fs::remove_file(&beside);
    }
    replaced
}

/// The same, and a power cut does not undo it.
pub fn replace_for_good(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content)?;
    fs::File::open(path)?.sync_all()?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// The same as [`replace`], but a file that has this content already is left alone: a run that finds nothing new
/// writes nothing.
pub fn keep(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::read(path) {
        Ok(there) if there == content => Ok(()),
        _ => replace(path, content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_replaced_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("place")).unwrap();
        replace(&root.path().join("place"), b"new").unwrap_err();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_that_are_made_are_owned_as_those_that_they_lie_in() {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache");
        fs::create_dir(&cache).unwrap();
        // Only root can give something away; anybody has what it made.
        let owner = if nix::unistd::geteuid().is_root() { 12345 } else { nix::unistd::geteuid().as_raw() };
        lchown(&cache, Some(owner), None).unwrap();
        let made = cache.join("digests/core");
        make_folder(&made).unwrap();
        make_folder(&made).unwrap();
        for folder in [&made, made.parent().unwrap()] {
            assert_eq!(fs::metadata(folder).unwrap().uid(), owner, "{}", folder.display());
        }
        fs::write(made.join("1.0"), "").unwrap();
        assert!(make_folder(&made.join("1.0/no")).is_err());
    }
}

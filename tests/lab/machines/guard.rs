//! What ends a lab: one small process that waits for the test to go away, however it goes.
//!
//! The guard holds the reading end of a pipe whose writing end only the test has. At its end of
//! file it kills the lab's cgroup and removes the cgroup and the lab's folder. A test that returns,
//! panics, aborts or is killed is all the same to it. Should the guard itself have been killed, the
//! next lab clears up: a lab's folder is stale when nobody holds the lock on its `lab.lock`.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

use super::cgroup::Cgroup;

/// Arguments: the lab's folder, then the folders of its cgroup, the unified one first.
const CLEAR: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
dir=$1; shift
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -e "$1" ] && echo 1 >"$1/cgroup.kill"
    find "$@" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -e "$1" ] || break
    sleep 0.05
done
rm -rf --one-file-system "$dir"
"#;

/// The lab's folder with its lock, and the process that removes them.
#[derive(Debug)]
pub struct Guard {
    dir: PathBuf,
    _lock: Flock<File>,
    process: Child,
    lifeline: Option<ChildStdin>,
}

impl Guard {
    /// Makes the folder `dir`, locks it, and sets the guard over it and `cgroup`.
    pub fn set(dir: PathBuf, cgroup: &Cgroup) -> Result<Guard> {
        fs::create_dir_all(&dir)?;
        let lock = lock(&dir.join("lab.lock"), FlockArg::LockExclusive)?;
        record(&dir, cgroup)?;
        let mut process = watch(&dir, cgroup.paths())?;
        let lifeline = process.stdin.take();
        Ok(Guard { dir, _lock: lock, process, lifeline })
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.process.wait();
    }
}

/// Clears what labs under `runs` have left whose test and guard were both killed. While the lock
/// that it returns is held, nobody else clears: a new lab has time to lock its own folder.
pub fn clear_stale(runs: &Path) -> Result<Flock<File>> {
    fs::create_dir_all(runs)?;
    let turn = lock(&runs.join(".lock"), FlockArg::LockExclusive)?;
    for entry in fs::read_dir(runs)? {
        let dir = entry?.path();
        let held = dir.join("lab.lock");
        if held.exists() && lock(&held, FlockArg::LockExclusiveNonblock).is_ok() {
            let groups = fs::read_to_string(dir.join("cgroups")).unwrap_or_default();
            let groups: Vec<PathBuf> = groups.lines().map(PathBuf::from).collect();
            // Without a lifeline the guard clears at once.
            watch(&dir, &groups)?.wait()?;
        }
    }
    Ok(turn)
}

/// Takes the lock on `path`; it is free again when the value is dropped or its process ends.
pub fn lock(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    Flock::lock(file, how).map_err(|(_, why)| anyhow!("locking {}: {why}", path.display()))
}

fn record(dir: &Path, cgroup: &Cgroup) -> Result<()> {
    let lines = cgroup.paths().iter().map(|path| format!("{}\n", path.display()));
    Ok(fs::write(dir.join("cgroups"), lines.collect::<String>())?)
}

fn watch(dir: &Path, groups: &[PathBuf]) -> Result<Child> {
    Command::new("sh")
        .args(["-c", CLEAR, "lab-guard"])
        .arg(dir)
        .args(groups)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("starting the lab's guard")
}

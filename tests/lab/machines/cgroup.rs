//! One cgroup for a lab and one below it for each machine, so that a machine can be switched off
//! at once and nothing of it is left.
//!
//! Works on a host with the unified hierarchy alone, and on one where it stands beside the old
//! ones: then systemd's own named hierarchy is followed too, as `systemd-nspawn` expects.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The same group in each hierarchy that matters; the unified one comes first.
#[derive(Clone, Debug)]
pub struct Cgroup {
    paths: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes the group `name` at the top of the tree.
    pub fn create(name: &str) -> Result<Cgroup> {
        let top = Cgroup { paths: hierarchies()? };
        let group = top.child(name)?;
        // Only a host without the old hierarchies has controllers to hand down: best effort.
        for controller in ["+cpu", "+memory", "+io", "+pids"] {
            let _ = fs::write(group.unified().join("cgroup.subtree_control"), controller);
        }
        Ok(group)
    }

    /// Makes the group `name` below this one.
    pub fn child(&self, name: &str) -> Result<Cgroup> {
        let paths: Vec<_> = self.paths.iter().map(|path| path.join(name)).collect();
        for path in &paths {
            fs::create_dir_all(path).with_context(|| format!("cgroup {}", path.display()))?;
        }
        Ok(Cgroup { paths })
    }

    /// Kills every process in the group and below it.
    pub fn kill(&self) -> Result<()> {
        let file = self.unified().join("cgroup.kill");
        fs::write(&file, "1").with_context(|| format!("writing {}", file.display()))
    }

    /// The group's folders, the unified hierarchy's first.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// A shell line that moves the shell into the group, to stand before an `exec`.
    pub fn enter_line(&self) -> String {
        let moves = self.paths.iter().map(|path| format!("echo 0 >{}/cgroup.procs", path.display()));
        moves.collect::<Vec<_>>().join(" && ")
    }

    fn unified(&self) -> &Path {
        &self.paths[0]
    }
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return Ok(vec![top.to_path_buf()]);
    }
    let unified = top.join("unified");
    anyhow::ensure!(
        unified.join("cgroup.procs").exists(),
        "no unified cgroup hierarchy under /sys/fs/cgroup"
    );
    let named = Some(top.join("systemd")).filter(|path| path.join("cgroup.procs").exists());
    Ok([unified].into_iter().chain(named).collect())
}

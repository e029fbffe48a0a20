//! Calls systemctl, or what tests put in its place.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, bail};

use super::steps::{State, Step};

/// The program that talks to the manager.
#[derive(Clone, Debug)]
pub struct Systemctl(pub PathBuf);

impl Default for Systemctl {
    fn default() -> Self {
        Self(PathBuf::from("systemctl"))
    }
}

impl Systemctl {
    fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let command = || format!("`{} {}`", self.0.display(), arguments.join(" "));
        let output = Command::new(&self.0).args(arguments).output().with_context(command)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            bail!("{}: {}: {said}", command(), output.status);
        }
        Ok(output)
    }

    /// Has the manager read its units anew, the generator run first.
    pub(super) fn daemon_reload(&self) -> anyhow::Result<()> {
        self.run(&["daemon-reload"]).map(drop)
    }

    /// Queues a job and does not wait for it: an agent may take its time, and this may run at boot.
    pub(super) fn queue(&self, step: &Step) -> anyhow::Result<()> {
        self.run(&[step.verb, "--no-block", &step.unit]).map(drop)
    }

    /// The states of these units.
    pub(super) fn states(
        &self,
        units: impl Iterator<Item = String>,
    ) -> anyhow::Result<HashMap<String, State>> {
        let units: Vec<String> = units.collect();
        let mut arguments = vec!["show", "--property=Id,ActiveState,LoadState"];
        arguments.extend(units.iter().map(String::as_str));
        let output = self.run(&arguments)?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.split("\n\n").filter_map(unit_state).collect())
    }
}

/// Reads one block of `systemctl show`, its lines in any order.
fn unit_state(block: &str) -> Option<(String, State)> {
    let value = |key: &str| block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let state = match (value("LoadState")?, value("ActiveState")?) {
        ("masked", _) => State::Masked,
        (_, "failed") => State::Failed,
        (_, "inactive" | "deactivating") => State::Inactive,
        _ => State::Active,
    };
    Some((value("Id")?.to_owned(), state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_show_prints() {
        let text = "Id=blat@a.service\nLoadState=loaded\nActiveState=active\n\nId=b.service\nLoadState=masked\nActiveState=inactive\n";
        let states: HashMap<_, _> = text.split("\n\n").filter_map(unit_state).collect();
        assert_eq!(states["blat@a.service"], State::Active);
        assert_eq!(states["b.service"], State::Masked);
    }
}

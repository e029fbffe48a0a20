//! How the targets stand: gathered from files alone, so that it costs little and needs no agent.
//!
//! [`Fleet::gather`] reads, [`judge`] tells what of it is to be minded, [`text`] shows it to people;
//! as JSON it is what `blat status --json` and `/api/status` give. Times are seconds since 1970 (UTC),
//! durations seconds, sizes bytes.

mod judge;
mod target;
pub mod text;

use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::config::{Overview, TargetName};
use crate::state::{Seconds, seconds};

pub use judge::{Level, Remark};
use target::Asked;
pub use target::{Queued, Tags, Target};

/// All targets, or one, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Fleet {
    pub at: Seconds,
    /// The worst of all.
    pub level: Level,
    pub targets: Vec<Target>,
    /// What is wrong with files that are no target's.
    pub problems: Vec<String>,
}

impl Fleet {
    /// Reads what is known of all targets, or of `only` one. `None`: there is no such target.
    pub fn gather(root: &Path, only: Option<&TargetName>, now: SystemTime) -> Option<Self> {
        let overview = Overview::read(root);
        let at = seconds(now);
        if only.is_some_and(|name| !overview.targets.contains_key(name)) {
            return None;
        }
        let wanted = overview.targets.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let begun: Vec<_> =
            wanted.map(|(name, settings)| Asked::begin(root, name, settings.as_ref())).collect();
        let targets: Vec<_> = begun
            .into_iter()
            .map(|asked| {
                let own = overview.problems.iter().filter(|of| of.target().as_ref() == Some(asked.name));
                let own = own.map(ToString::to_string).collect();
                Target::gather(root, asked, own, at)
            })
            .collect();
        let general = overview.problems.iter().filter(|problem| problem.target().is_none());
        let problems: Vec<String> = general.map(ToString::to_string).collect();
        let own = if problems.is_empty() { Level::Ok } else { Level::Critical };
        let level = targets.iter().map(|target| target.level).max().unwrap_or(Level::Ok).max(own);
        Some(Self { at, level, targets, problems })
    }
}

#[cfg(test)]
mod tests;

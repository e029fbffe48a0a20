//! `blat config apply`: what people wrote is judged, accepted, and put in force.
//!
//! Run by `blat-config.service` as root. Harmless to be killed anywhere and run again: each round
//! goes from what lies in the folders and in the manager, not from memory (see `copies`).
//!
//! The path unit that starts this loses what happens while it runs, so the folder is read again after
//! the work until nothing has changed; and for the moment between that last look and the path unit's
//! next, `blat-config-again.service` looks once more when this has ended. Two that run at once take
//! turns. A file is believed once it has been still for a moment: an
//! editor may write it piece by piece, or take it away before it puts the new one there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::copies::{Copies, Pending};
use super::directories::{self, Owners};
use super::folder::{Folder, Texts};
use super::in_force::{Reading, in_force};
use super::name::TargetName;
use super::problem::Problem;
use super::settings::Settings;
use super::steps::{Change, State};
use super::systemctl::Systemctl;
use super::verdict::{Judged, Verdict, judge};
use crate::generator::{self, Output};
use crate::ledger;

/// What `apply` works with; tests put other things in place.
#[derive(Clone, Debug)]
pub struct Apply {
    pub root: PathBuf,
    pub systemctl: Systemctl,
    pub owners: Owners,
    /// How long the files have to be as they are before they are believed.
    pub still: Duration,
}

impl Apply {
    /// On this machine.
    ///
    /// # Errors
    /// When the users of blat are not there.
    pub fn new(root: &Path) -> anyhow::Result<Self> {
        let systemctl = Systemctl::default();
        Ok(Self {
            root: root.to_owned(),
            systemctl,
            owners: Owners::look_up()?,
            still: Duration::from_millis(150),
        })
    }

    /// Works until the folder is as it was when it was read. Returns what is wrong with the files,
    /// each told in the journal too; the rest is in force.
    ///
    /// # Errors
    /// When copies cannot be written or the manager cannot be asked: to be tried again later.
    pub fn run(&self) -> anyhow::Result<Vec<Problem>> {
        let done = self.rounds();
        if done.is_err() {
            // Tags may be dropped all the same, also where /etc can only be read.
            self.make_directories(in_force(&self.root).0.iter());
        }
        done
    }

    fn rounds(&self) -> anyhow::Result<Vec<Problem>> {
        let live = Folder::live(&self.root);
        let copies = Copies::open(&self.root).context("cannot make the folder of accepted copies")?;
        let mut told = BTreeSet::new();
        loop {
            let texts = self.wait_until_still(&live);
            let problems = self.round(&copies, &mut told)?;
            if live.read_all() == texts {
                return Ok(problems);
            }
        }
    }

    fn wait_until_still(&self, live: &Folder) -> Texts {
        let mut texts = live.read_all();
        loop {
            std::thread::sleep(self.still);
            let now = live.read_all();
            if now == texts {
                return now;
            }
            texts = now;
        }
    }

    fn round(&self, copies: &Copies, told: &mut BTreeSet<String>) -> anyhow::Result<Vec<Problem>> {
        let live = Reading::of(Folder::live(&self.root));
        let accepted = Reading::of(Folder::accepted(&self.root));
        let verdict = judge(&live, &accepted);
        for problem in &verdict.problems {
            let line = problem.to_string();
            if told.insert(line.clone()) {
                let target = problem.target();
                let target = target.as_ref().map(TargetName::as_str);
                tracing::error!(
                    message_id = ledger::CONFIG_BROKEN,
                    blat_target = target,
                    blat_reason = line,
                    "{line}"
                );
            }
        }
        // By this the agents that run were started. Once the copies are written, a reload by anyone makes it new.
        let had = generator::read_back(&self.root.join("run/systemd/generator"));
        let (undone, mut untold) = self.accept(copies, &verdict).context("cannot write an accepted copy")?;
        self.make_directories(verdict.targets.values().filter_map(Judged::settings));
        let root = self.root.clone();
        let left = move |settings: &Settings| directories::leave(&root, settings);
        tell_all(directories::of_all(left_behind(&verdict, &accepted).iter(), left));
        let told = self.tell_manager(&verdict, &undone, &had, &mut untold);
        copies.put_pending(&untold).context("cannot note that the manager was told")?;
        told.map(|()| verdict.problems)
    }

    fn make_directories<'a>(&self, targets: impl Iterator<Item = &'a Settings>) {
        let (root, owners) = (self.root.clone(), self.owners);
        let made = move |settings: &Settings| directories::make(&root, settings, &owners);
        tell_all(directories::of_all(targets, made));
    }

    /// Writes the copies. Returns what an earlier run left undone, and that with what is to be told now.
    fn accept(&self, copies: &Copies, verdict: &Verdict) -> anyhow::Result<(Pending, Pending)> {
        let undone = copies.pending();
        let changed = verdict.targets.iter().filter(|(_, judged)| judged.changed());
        let changed = changed.map(|(name, judged)| (name, judged.starts()));
        let removed = verdict.removed.iter().map(|name| (name, false));
        let mut pending = undone.clone();
        for (name, starts) in changed.chain(removed) {
            *pending.entry(name.clone()).or_default() |= starts;
        }
        copies.put_pending(&pending)?;
        if let Some(defaults) = &verdict.defaults {
            copies.put_defaults(defaults.as_deref())?;
        }
        // A copy that cannot be read, of a newer version maybe, is not taken away: only what is better goes over it.
        let is_read = |judged: &Judged| judged.before.is_some() || judged.after.is_some();
        for (name, judged) in verdict.targets.iter().filter(|(_, judged)| is_read(judged)) {
            let text = judged.after.as_ref().map(|(_, text)| text.as_str());
            if copies.put_target(name, text)? && text.is_some() {
                tracing::info!(BLAT_TARGET = %name, "{name}: accepted");
            }
        }
        for name in &verdict.removed {
            copies.put_target(name, None)?;
            tracing::info!(BLAT_TARGET = %name, "{name}: removed");
        }
        Ok((undone, pending))
    }

    /// Has the manager do what is to be done. Who was told is `untold` no more.
    fn tell_manager(
        &self,
        verdict: &Verdict,
        undone: &Pending,
        had: &Output,
        untold: &mut Pending,
    ) -> anyhow::Result<()> {
        let (has, _) = generator::plan(&self.root);
        // A reload may take a second: only where what starts takes a new drop-in or a new timer does it come first.
        let first = starts_differ(had, &has, &verdict.removed);
        if first {
            self.systemctl.daemon_reload()?;
        }
        let done = self.take_all(verdict, undone, (had, &has), untold);
        if *had != has && !first {
            self.systemctl.daemon_reload()?;
        }
        done
    }

    fn take_all(
        &self,
        verdict: &Verdict,
        undone: &Pending,
        (had, has): (&Output, &Output),
        untold: &mut Pending,
    ) -> anyhow::Result<()> {
        let names: BTreeSet<&TargetName> =
            verdict.targets.keys().chain(&verdict.removed).chain(undone.keys()).collect();
        let states = self.systemctl.states(names.iter().map(|name| agent(name)).chain([GROUP.into()]))?;
        let state = |unit: &str| states.get(unit).copied().unwrap_or(State::Inactive);
        let mut first = Ok(());
        for name in names {
            let judged = verdict.targets.get(name);
            let timers = [generator::timer_link(name), generator::sync_timer_link(name)];
            let [polled, synced] = timers.map(|link| (had.contains_key(&link), has.contains_key(&link)));
            let change = Change {
                name,
                before: judged.and_then(|judged| judged.before.as_ref()),
                after: judged.and_then(Judged::settings),
                undone: judged.is_none() || undone.contains_key(name),
                starts: untold.get(name).is_some_and(|starts| *starts),
                polled,
                synced,
                seen: had.contains_key(&generator::agent_link(name)),
                agent: state(&agent(name)),
                group_runs: state(GROUP) == State::Active,
            };
            let taken = self.take(&change);
            if taken.is_ok() {
                untold.remove(name);
            }
            first = first.and(taken);
        }
        first
    }

    /// Takes the steps of one target, all of them; the first that fails is returned. A unit that a person masked
    /// is left alone.
    fn take(&self, change: &Change<'_>) -> anyhow::Result<()> {
        let mut first = Ok(());
        for step in change.steps() {
            tracing::info!(BLAT_TARGET = %change.name, "{}: {} {}", change.name, step.verb, step.unit);
            let queued = self.systemctl.queue(&step);
            first =
                first.and(queued.or_else(|why| if self.is_masked(&step.unit) { Ok(()) } else { Err(why) }));
        }
        first
    }

    fn is_masked(&self, unit: &str) -> bool {
        let states = self.systemctl.states([unit.to_owned()].into_iter());
        states.is_ok_and(|states| states.get(unit) == Some(&State::Masked))
    }
}

/// The targets that are no more, and by what they ran, but for those whose tag directory another has now.
fn left_behind(verdict: &Verdict, accepted: &Reading) -> Vec<Settings> {
    let removed = verdict.removed.iter().filter_map(|name| accepted.settings(name)?.ok());
    let others = verdict.targets.values().filter_map(Judged::settings);
    let had: BTreeSet<&Path> = others.map(|settings| settings.tags.directory.as_path()).collect();
    removed.filter(|old| !had.contains(old.tags.directory.as_path())).collect()
}

fn tell_all(in_the_way: Vec<(TargetName, anyhow::Error)>) {
    for (name, error) in in_the_way {
        tracing::warn!(BLAT_TARGET = %name, "{name}: {error:#}");
    }
}

/// Whether anything by which the units of a target that stays start is to come, to go or to change: a drop-in,
/// or a timer that the agent brings up. That blat.target wants the agent is for the next boot.
fn starts_differ(had: &Output, has: &Output, removed: &BTreeSet<TargetName>) -> bool {
    let stays = |path: &Path| generator::instance(path).is_none_or(|name| !removed.contains(&name));
    let differs = |path: &PathBuf| !path.starts_with(WANTED) && stays(path) && had.get(path) != has.get(path);
    had.keys().chain(has.keys()).any(differs)
}

const GROUP: &str = "blat.target";
/// Where the generator has the agents that are wanted.
const WANTED: &str = "blat.target.wants";

fn agent(name: &TargetName) -> String {
    format!("blat@{name}.service")
}

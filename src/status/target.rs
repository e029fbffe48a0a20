//! What is known of one target.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::judge::{Level, Remark, remarks};
use crate::config::{Settings, TargetName, folder::Folder};
use crate::lock;
use crate::look::Look;
use crate::places::Places;
use crate::state::{
    self, Agent, Facts, Missing, MissingItem, Progress, Seconds, SyncEnd, Syncs, Transfers, seconds,
};
use crate::sync::run::is_wanted;
use crate::sync::upkeep::Upkeep;
use crate::tags::{Claim, Glance, Rejected, rejected};

/// How many tags, and rejected ones, are shown one by one.
const SHOWN: usize = 100;
/// How many of what is missing are told one by one.
const OLDEST: usize = 200;
/// After a start, the first synchronisation comes so much later.
const FIRST_SYNC: Seconds = 60;
/// A synchronisation is overdue after so many periods, and this time, without a good one.
const PERIODS: u64 = 2;
const OVERDUE: u64 = 3_600;
/// A time so little in the future is a clock's correction.
const AHEAD: u64 = 60;

/// A target, as far as its files tell.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    pub name: String,
    pub level: Level,
    pub remarks: Vec<Remark>,
    pub enabled: bool,
    pub host: String,
    /// What the agent knows; none, when it does not run.
    pub agent: Option<Agent>,
    /// Whether anything says what the target should have.
    pub wanted: bool,
    /// The age of the oldest package-version that should be there and is not: since it was first seen
    /// missing, or its tag was dropped. None, when none is known to be missing, or the target is disabled.
    pub lag: Option<u64>,
    /// How many are missing, those first that have been missing longest.
    pub missing: u64,
    pub oldest: Vec<MissingItem>,
    pub tags: Tags,
    pub rejected: Vec<Rejected>,
    pub sync: Syncs,
    pub transfer: Transfers,
    pub sync_runs: bool,
    pub progress: Option<Progress>,
    pub transfer_runs: bool,
    pub sync_period: u64,
    /// About when the next synchronisation begins.
    pub next_sync: Option<Seconds>,
    pub facts: Option<Facts>,
    /// What it told of its index, its purge and its space at the last synchronisation.
    pub upkeep: Option<Upkeep>,
    /// Why a person holds all deletion back, here or there.
    pub held: Option<String>,
    pub config_problems: Vec<String>,
    /// Why its state cannot be told.
    pub unreadable: Option<String>,
    /// When its file was last written.
    #[serde(skip)]
    settings_since: Seconds,
    /// Whether its settings are known, and nothing in them says what it should have.
    #[serde(skip)]
    pub(super) tags_only: bool,
    /// Whether the target makes its index and purges when targets usually do.
    #[serde(skip)]
    pub(super) usual_times: bool,
}

/// The tags of a target that are not done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tags {
    /// Not taken up yet,
    pub fresh: usize,
    /// and since when the oldest of those lies there.
    pub fresh_since: Option<Seconds>,
    /// Taken up.
    pub queued: usize,
    /// The oldest of those.
    pub shown: Vec<Queued>,
}

/// A tag that was taken up and is not done.
#[derive(Clone, Debug, Serialize)]
pub struct Queued {
    pub tag: String,
    pub since: Seconds,
    /// Why it waits, where it was looked at in vain.
    pub reason: Option<String>,
    /// When it is looked at again.
    pub due: Option<Seconds>,
}

/// A target whose tags are being looked at.
pub(super) struct Asked<'a> {
    pub(super) name: &'a TargetName,
    places: Places,
    settings: Option<(&'a Settings, Look<Glance>)>,
}

impl<'a> Asked<'a> {
    pub(super) fn begin(root: &Path, name: &'a TargetName, settings: Option<&'a Settings>) -> Self {
        let places = Places::of(root, name);
        let look =
            |settings: &'a Settings| (settings, Glance::begin(&settings.tags.directory, &places.state));
        Self { name, settings: settings.map(look), places }
    }
}

impl Target {
    pub(super) fn gather(root: &Path, asked: Asked<'_>, config_problems: Vec<String>, now: Seconds) -> Self {
        let Asked { name, places, settings } = asked;
        let mut target = Self::of_state(&places, name);
        target.config_problems = config_problems;
        if let Some((settings, glance)) = settings {
            target.enabled = settings.enabled;
            target.host = settings.destination.to_string();
            target.wanted = is_wanted(settings);
            target.tags_only = !target.wanted;
            target.usual_times = settings.destination.ssh().is_some_and(|ssh| ssh.there.has_usual_times());
            let written = fs::metadata(Folder::live(root).target(name)).and_then(|file| file.modified());
            target.settings_since = written.map_or(0, seconds);
            target.sync_period = settings.sync.period.as_secs();
            target.take_tags(&settings.tags.directory, glance.end());
        }
        target.take_missing(&places, now);
        target.next_sync = target.next_sync();
        target.remarks = remarks(&target, now);
        target.level = target.remarks.iter().map(|remark| remark.level).max().unwrap_or(Level::Ok);
        target
    }

    fn of_state(places: &Places, name: &TargetName) -> Self {
        let runs = lock::is_held(&places.agent_lock());
        let sync_runs = lock::is_held(&places.sync_lock());
        let upkeep = Upkeep::read(&places.upkeep());
        Self {
            name: name.to_string(),
            level: Level::Ok,
            remarks: Vec::new(),
            enabled: true,
            host: String::new(),
            agent: if runs { state::read(&places.agent()) } else { None },
            wanted: false,
            lag: None,
            missing: 0,
            oldest: Vec::new(),
            tags: Tags::default(),
            rejected: rejected(&places.state, SHOWN),
            sync: state::read(&places.syncs()).unwrap_or_default(),
            transfer: state::read(&places.transfers()).unwrap_or_default(),
            sync_runs,
            progress: if sync_runs { state::read(&places.progress()) } else { None },
            transfer_runs: lock::is_held(&places.transfer_lock()),
            sync_period: 0,
            next_sync: None,
            facts: state::read(&places.facts()),
            held: held(places, upkeep.as_ref()),
            upkeep,
            config_problems: Vec::new(),
            unreadable: state::unreadable(&places.state),
            settings_since: 0,
            tags_only: false,
            usual_times: false,
        }
    }

    fn take_tags(&mut self, directory: &Path, glance: io::Result<Glance>) {
        match glance {
            Ok(glance) => {
                let queued = |claim: &Claim| Queued {
                    tag: claim.name.to_string_lossy().into_owned(),
                    since: seconds(claim.since),
                    reason: glance.waiting(claim).map(|waiting| waiting.reason.clone()),
                    due: glance.waiting(claim).map(|waiting| waiting.due),
                };
                let shown = glance.claims.iter().take(SHOWN).map(queued).collect();
                self.tags = Tags {
                    fresh: glance.fresh.len(),
                    fresh_since: glance.fresh_since.map(seconds),
                    queued: glance.claims.len(),
                    shown,
                };
            }
            Err(why) => {
                let why = format!("cannot look at the tags in {}: {why}", directory.display());
                self.unreadable.get_or_insert(why);
            }
        }
    }

    /// What is missing by the synchronisation that looked last, also where that goes on or broke off; but for
    /// what it, or tags, have brought since.
    fn take_missing(&mut self, places: &Places, now: Seconds) {
        let ended = self.sync.ended.as_ref();
        let looked = state::read(&places.missing()).or_else(|| ended.map(SyncEnd::missing));
        if let Some(Missing { at, count, items }) = looked.filter(|_| !self.tags_only) {
            // An older version wrote no time down.
            let since = at.max(ended.map_or(0, SyncEnd::began));
            let sent = |item: &&MissingItem| self.transfer.sent_at(&item.id).is_some_and(|at| at >= since);
            let told = &items[..items.len().min(OLDEST)];
            self.oldest = told.iter().filter(|item| !sent(item)).cloned().collect();
            let by_tags = (told.len() - self.oldest.len()) as u64;
            let by_the_run = self.progress.as_ref().map_or(0, |progress| progress.done);
            self.missing = count.saturating_sub(by_tags + by_the_run);
        }
        let missing = self.oldest.first().map(|item| item.since);
        let tagged = self.tags.shown.first().map(|tag| tag.since);
        let oldest = missing.into_iter().chain(tagged).chain(self.tags.fresh_since).min();
        self.lag = oldest.filter(|_| self.enabled).map(|since| now.saturating_sub(since));
    }

    fn next_sync(&self) -> Option<Seconds> {
        let agent = self.agent.as_ref().filter(|_| self.wanted && !self.sync_runs)?;
        let ended = self.sync.ended.as_ref().map(|end| end.at);
        let failed = self.sync.failed.as_ref().map(|failed| failed.at);
        let last = ended.max(failed).map(|at| at + self.sync_period);
        // After a start of the agent the timer counts from that, whatever was before.
        let first = agent.since + FIRST_SYNC;
        Some(match ended.max(failed) {
            Some(at) if at >= agent.since => last.unwrap_or(first),
            _ => first,
        })
    }

    /// How the last synchronisation ended; that is no matter where nothing says any more what the target should have.
    pub fn ended(&self) -> Option<&SyncEnd> {
        self.sync.ended.as_ref().filter(|_| !self.tags_only)
    }

    /// Seconds since the last good synchronisation. One in the future, by a clock that was set back since, tells
    /// nothing.
    pub fn since_good_sync(&self, now: Seconds) -> Option<u64> {
        let at = self.sync.good_at.filter(|at| *at <= now + AHEAD)?;
        Some(now.saturating_sub(at))
    }

    /// For how long there was no good synchronisation, where that is too long. Where there never was one, since
    /// the first that failed, or since the agent and the settings have been as they are.
    pub(super) fn overdue(&self, now: Seconds) -> Option<u64> {
        let failing = self.sync.failed.as_ref().map(|failed| failed.since);
        let waiting = self.agent.as_ref().map(|agent| agent.since.max(self.settings_since));
        let begin = failing.into_iter().chain(waiting).min();
        let never = || begin.map(|begin| now.saturating_sub(begin));
        let since = self.since_good_sync(now).or_else(never).filter(|_| self.wanted)?;
        (since > self.sync_period * PERIODS + OVERDUE).then_some(since)
    }
}

fn held(places: &Places, upkeep: Option<&Upkeep>) -> Option<String> {
    let here = fs::read_to_string(places.hold()).ok().map(|reason| reason.trim().to_owned());
    here.or_else(|| upkeep?.held.clone())
}

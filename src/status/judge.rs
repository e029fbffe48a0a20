//! What of a target's state is to be minded, and how much.
//!
//! Critical is what stays until a person does something, or has lasted so long that one should look;
//! a warning mends itself in time, or is small.

use serde::{Deserialize, Serialize};

use super::target::Target;
use crate::state::{Failed, LineState, Seconds};
use crate::sync::upkeep::Upkeep;
use crate::told::{duration, size};

/// A target that has been without a connection for longer needs somebody to look.
const DOWN_TOO_LONG: u64 = 15 * 60;
/// What has been missing, or waiting, for longer is worth a word.
const LATE: u64 = 3_600;
/// Clocks that differ by more are wrong.
const CLOCK: u64 = 60;
/// Less space than this on the target, in bytes.
const LOW_SPACE: u64 = 1 << 30;
/// Fewer files than this that can still be made there.
const LOW_INODES: u64 = 1_000;
/// An index that is made daily, and a purge that is made weekly, are made no more.
const INDEX_RESTS: u64 = 15 * DAY;
const PURGE_RESTS: u64 = 35 * DAY;
const DAY: u64 = 86_400;

/// How much it is to be minded. Its number is the exit code of `blat status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok = 0,
    /// Something waits, or is tried again by itself.
    Warning = 1,
    /// Something needs a person.
    Critical = 2,
    /// It cannot be told.
    Unknown = 3,
}

impl Level {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing to be minded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    pub level: Level,
    pub text: String,
}

/// All that is to be minded of a target, the worst first.
pub(super) fn remarks(target: &Target, now: Seconds) -> Vec<Remark> {
    let mut found = Vec::new();
    let mut mind = |level, text: String| found.push(Remark { level, text });
    for problem in &target.config_problems {
        mind(Level::Critical, format!("the configuration is broken: {problem}"));
    }
    if let Some(why) = &target.unreadable {
        mind(Level::Unknown, why.clone());
    }
    if !target.enabled {
        return found;
    }
    connection(target, now, &mut mind);
    runs(target, now, &mut mind);
    content(target, now, &mut mind);
    deletion(target, &mut mind);
    machine(target, &mut mind);
    found.sort_by_key(|remark| std::cmp::Reverse(remark.level));
    found
}

fn connection(target: &Target, now: Seconds, mind: &mut impl FnMut(Level, String)) {
    let Some(agent) = &target.agent else {
        if target.unreadable.is_none() {
            let start = format!("systemctl start blat@{}", target.name);
            mind(Level::Critical, format!("the agent does not run: {start}"));
        }
        return;
    };
    let line = &agent.line;
    if line.state == LineState::Down {
        let since = line.since.unwrap_or(now);
        let gone = now.saturating_sub(since);
        let level = if line.person || gone > DOWN_TOO_LONG { Level::Critical } else { Level::Warning };
        let reason = line.reason.as_deref().unwrap_or("for an unknown reason");
        mind(level, format!("not connected for {}: {reason}", duration(gone)));
    }
}

fn runs(target: &Target, now: Seconds, mind: &mut impl FnMut(Level, String)) {
    let mut failed = |what: &str, failed: &Failed| {
        let level = if failed.person { Level::Critical } else { Level::Warning };
        let since = duration(now.saturating_sub(failed.since));
        mind(level, format!("{what} has failed for {since}: {}", failed.reason));
    };
    if let Some(why) = target.sync.failed.as_ref().filter(|_| !target.tags_only) {
        failed("synchronisation", why);
    }
    if let Some(why) = &target.transfer.failed {
        failed("transfer", why);
    }
    if let Some(overdue) = target.overdue(now) {
        mind(Level::Critical, format!("no good synchronisation for {}", duration(overdue)));
    }
}

fn content(target: &Target, now: Seconds, mind: &mut impl FnMut(Level, String)) {
    if let Some(end) = target.ended() {
        if end.failed > 0 {
            mind(Level::Warning, format!("{} packages were not sent", end.failed));
        }
        if end.undeleted > 0 {
            mind(Level::Warning, format!("{} packages in excess could not be deleted", end.undeleted));
        }
        if end.problems > 0 {
            mind(Level::Warning, format!("{} packages have problems", end.problems));
        }
        if let Some(guard) = &end.guarded {
            let mend = format!("`blat sync --dry-run {}` shows what would go", target.name);
            mind(Level::Critical, format!("nothing in excess was marked or deleted: {guard}; {mend}"));
        } else if let Some(why) = &end.withheld {
            mind(Level::Critical, format!("the PackageList on the target stays as it was: {why}"));
        }
        for release in &end.closed {
            mind(Level::Ok, format!("the release {release} is closed: nothing of it is asked for any more"));
        }
    }
    if let Some(lag) = target.lag.filter(|lag| *lag > LATE) {
        mind(Level::Warning, format!("the oldest package that should be there is {} late", duration(lag)));
    }
    let lies = target.tags.fresh_since.map(|since| now.saturating_sub(since));
    if let Some(lies) = lies.filter(|lies| *lies > LATE && !target.transfer_runs) {
        let (name, lies) = (&target.name, duration(lies));
        let units = format!("systemctl status 'blat-tags@{name}.*' blat-transfer@{name}");
        mind(Level::Warning, format!("a tag was not taken up for {lies}: {units}"));
    }
    let lately = target.rejected.iter().filter(|rejected| is_of_today(&rejected.at, now)).count();
    match lately {
        0 => {}
        1 => mind(Level::Warning, "a tag was rejected within a day".into()),
        _ => mind(Level::Warning, format!("{lately} tags were rejected within a day")),
    }
}

fn deletion(target: &Target, mind: &mut impl FnMut(Level, String)) {
    if let Some(reason) = &target.held {
        let end = format!("`blat release-hold {}` ends that", target.name);
        mind(Level::Ok, format!("a person holds all deletion back: {reason}; {end}"));
    }
}

fn is_of_today(at: &str, now: Seconds) -> bool {
    let at = at.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_second).unwrap_or_default();
    now.saturating_sub(at.max(0) as u64) < DAY
}

fn looks_after_itself(target: &Target, upkeep: &Upkeep, mind: &mut impl FnMut(Level, String)) {
    let of = [
        ("index", upkeep.indexed, &upkeep.index_trouble, INDEX_RESTS),
        ("purge", upkeep.purged, &upkeep.purge_trouble, PURGE_RESTS),
    ];
    for (what, ran, trouble, longest) in of {
        let rests = ran.map_or(0, |at| upkeep.asked.saturating_sub(at).max(0)) as u64;
        if let Some(trouble) = trouble {
            mind(Level::Warning, format!("the last {what} on the target did not do all: {trouble}"));
        } else if rests > longest && target.usual_times {
            let (rests, mend) = (duration(rests), format!("`blat target install {}`", target.name));
            let asks = format!("no {what} was made on the target for {rests}: does its timer run?");
            mind(Level::Warning, format!("{asks} {mend}"));
        }
    }
}

fn machine(target: &Target, mind: &mut impl FnMut(Level, String)) {
    let old = target.agent.as_ref().and_then(|agent| agent.old_helper.as_ref());
    if let Some(old) = old {
        mind(Level::Warning, format!("the helper on the target is old: {old}"));
    }
    if let Some(upkeep) = target.upkeep.as_ref().filter(|_| !target.tags_only) {
        looks_after_itself(target, upkeep, mind);
    }
    let Some(facts) = &target.facts else { return };
    if facts.clock_ahead.unsigned_abs() > CLOCK {
        let word = if facts.clock_ahead > 0 { "ahead of" } else { "behind" };
        let by = duration(facts.clock_ahead.unsigned_abs());
        mind(Level::Warning, format!("the target's clock is {by} {word} this machine's"));
    }
    if facts.free_bytes < LOW_SPACE {
        let free = size(facts.free_bytes);
        mind(Level::Warning, format!("only {free} are left on the target"));
    }
    if facts.free_inodes > 0 && facts.free_inodes < LOW_INODES {
        mind(Level::Warning, format!("only {} files can still be made on the target", facts.free_inodes));
    }
    if old.is_none() && facts.protocol < blat_target::message::PROTOCOL {
        let (helper, protocol) = (&facts.helper, facts.protocol);
        mind(Level::Warning, format!("the helper on the target is old ({helper}, protocol {protocol})"));
    }
}

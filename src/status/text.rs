//! How the targets stand, for people at a terminal.

use std::fmt::Write;

use super::{Fleet, Level, Target};
use crate::state::{LineState, Seconds};
use crate::sync::upkeep::Upkeep;
use crate::told::{duration, size, time};

/// How many tags and missing packages are shown of one target.
const SHOWN: usize = 20;

/// As JSON, in one line.
pub fn json(fleet: &Fleet) -> String {
    serde_json::to_string(fleet).expect("texts and numbers") + "\n"
}

/// What a file's or a person's text is at a terminal: nothing of it moves the cursor.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// When the target's own index and purge ran, by its clock.
pub fn upkeep_in_words(upkeep: &Upkeep) -> String {
    let ran = |at: Option<i64>| {
        at.and_then(|at| u64::try_from(at).ok()).map_or_else(|| "never, or not known".into(), time)
    };
    format!("index {}; purge {}", ran(upkeep.indexed), ran(upkeep.purged))
}

impl Fleet {
    /// A line for each target and what is to be minded below it; or all of one target.
    pub fn text(&self, whole: bool) -> String {
        let mut text = String::new();
        if whole {
            self.targets.iter().for_each(|target| text.push_str(&target.whole(self.at)));
        } else {
            text = self.table();
        }
        for problem in &self.problems {
            let _ = writeln!(text, "critical: the configuration is broken: {}", plain(problem));
        }
        if self.targets.is_empty() {
            text.push_str("There is no target yet: put a file into /etc/blat/targets.\n");
        }
        text
    }

    fn table(&self) -> String {
        let width = self.targets.iter().map(|target| target.name.len()).max().unwrap_or(0).max(6);
        let mut text = String::new();
        if !self.targets.is_empty() {
            let _ = writeln!(
                text,
                "{:width$}  {:8}  {:10}  {:8}  {:>7}  {:>7}  {:>10}  {:>10}",
                "TARGET", "STATE", "CONNECTION", "LAG", "MISSING", "TAGS", "LAST SYNC", "NEXT SYNC"
            );
        }
        for target in &self.targets {
            let ago = target.since_good_sync(self.at).map_or_else(|| "never".into(), duration);
            let lag = target.lag.map_or_else(|| "none".into(), duration);
            let _ = writeln!(
                text,
                "{:width$}  {:8}  {:10}  {lag:8}  {:>7}  {:>7}  {ago:>10}  {:>10}",
                target.name,
                target.level.word(),
                target.connection(),
                target.missing,
                target.tags.fresh + target.tags.queued,
                target.next(self.at),
            );
            for remark in target.remarks.iter().filter(|remark| remark.level > Level::Ok) {
                let _ = writeln!(text, "  {}: {}", remark.level.word(), plain(&remark.text));
            }
        }
        text
    }
}

impl Target {
    /// The connection in a word.
    pub fn connection(&self) -> &'static str {
        match (&self.agent, self.enabled) {
            (_, false) => "disabled",
            (None, _) => "no agent",
            (Some(agent), _) => match agent.line.state {
                LineState::Up => "up",
                LineState::Connecting => "connecting",
                LineState::Down => "down",
                LineState::NotKept => "bucket",
            },
        }
    }

    /// How many connections there are, where there is more than one.
    pub fn several(&self) -> String {
        self.agent.as_ref().map(|agent| agent.line.several()).unwrap_or_default()
    }

    /// When the next synchronisation is, in words.
    pub fn next(&self, now: Seconds) -> String {
        match self.next_sync {
            _ if self.sync_runs => "runs now".into(),
            None => "-".into(),
            Some(at) if at <= now => "soon".into(),
            Some(at) => format!("in {}", duration(at - now)),
        }
    }

    fn whole(&self, now: Seconds) -> String {
        let mut text = format!("{} ({}): {}\n", self.name, self.host, self.level.word());
        for remark in &self.remarks {
            let _ = writeln!(text, "  {}: {}", remark.level.word(), plain(&remark.text));
        }
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<11} {}", plain(&value));
        };
        line("connection", self.connection_in_words(now));
        line("lag", self.lag_in_words());
        line("last sync", self.last_sync(now));
        line("next sync", self.next(now));
        line("last tag", self.last_transfer(now));
        line("runs now", self.running());
        if let Some(facts) = &self.facts {
            let (free, ago) = (size(facts.free_bytes), duration(now.saturating_sub(facts.at)));
            let ahead = facts.clock_ahead;
            line(
                "target",
                format!(
                    "{free} free, clock {ahead:+} s, helper {} ({}), seen {ago} ago",
                    facts.helper, facts.build
                ),
            );
        }
        if let Some(upkeep) = &self.upkeep {
            line("upkeep", upkeep_in_words(upkeep));
        }
        text + &self.lists(now)
    }

    fn connection_in_words(&self, now: Seconds) -> String {
        let since = self.agent.as_ref().and_then(|agent| agent.line.since);
        let since = since.map(|at| format!(" for {}", duration(now.saturating_sub(at)))).unwrap_or_default();
        format!("{}{since}{}", self.connection(), self.several())
    }

    fn lag_in_words(&self) -> String {
        match (self.lag, self.missing) {
            _ if !self.enabled => "none: the target is disabled".into(),
            (None, _) if self.sync.ended.is_none() && self.wanted => {
                "not known: no synchronisation yet".into()
            }
            (None, _) => "none: nothing is known to be missing".into(),
            (Some(lag), missing) => format!("{}, {missing} missing", duration(lag)),
        }
    }

    fn last_sync(&self, now: Seconds) -> String {
        let Some(end) = self.ended() else {
            return if self.wanted { "never" } else { "none: no release, project or package is named" }
                .into();
        };
        let good = match self.since_good_sync(now) {
            Some(ago) => format!("good one {} ago", duration(ago)),
            None => "no good one yet".into(),
        };
        format!(
            "{good}; {} members, {} packages sent ({}), {} wait, {} problems, {} in excess ({} marked, {} deleted), \
             in {:.1} s",
            end.members,
            end.packages,
            size(end.bytes),
            end.waiting,
            end.problems,
            end.excess,
            end.marked,
            end.deleted,
            end.millis as f64 / 1000.0
        )
    }

    fn last_transfer(&self, now: Seconds) -> String {
        match self.transfer.sent.back() {
            Some(sent) => format!("{} sent {} ago", sent.id, duration(now.saturating_sub(sent.at))),
            None => "none was served yet".into(),
        }
    }

    fn running(&self) -> String {
        let sync = match &self.progress {
            Some(of) => format!("synchronisation, {} of {} packages, {}", of.done, of.total, size(of.bytes)),
            None => "synchronisation".into(),
        };
        match (self.sync_runs, self.transfer_runs) {
            (false, false) => "nothing".into(),
            (true, false) => sync,
            (false, true) => "transfer".into(),
            (true, true) => format!("{sync}; transfer"),
        }
    }

    fn lists(&self, now: Seconds) -> String {
        let mut text = String::new();
        if self.tags.fresh + self.tags.queued > 0 {
            let _ = writeln!(text, "  tags: {} fresh, {} queued", self.tags.fresh, self.tags.queued);
        }
        for tag in self.tags.shown.iter().take(SHOWN) {
            let why = tag.reason.as_deref().unwrap_or("being worked on, or next");
            let age = duration(now.saturating_sub(tag.since));
            let _ = writeln!(text, "    {} ({age}): {}", plain(&tag.tag), plain(why));
        }
        if !self.oldest.is_empty() {
            let _ = writeln!(text, "  missing: {}", self.missing);
        }
        for item in self.oldest.iter().take(SHOWN) {
            let age = duration(now.saturating_sub(item.since));
            let _ = writeln!(text, "    {} ({age}): {}", item.id, plain(&item.reason));
        }
        for rejected in self.rejected.iter().take(SHOWN / 4) {
            let (tag, reason) = (plain(&rejected.tag), plain(&rejected.reason));
            let _ = writeln!(text, "  rejected {tag} at {}: {reason}", rejected.at);
        }
        text
    }
}

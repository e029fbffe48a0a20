//! Runs that fail: how soon the next is started, and how often the same reason is told.
//!
//! A failing run is tried again after 5 s, then 10, 20, … up to 5 min, until one ends well or the
//! line comes up anew. A reason is told when it is new, and once an hour as long as it lasts; one
//! that differs in its numbers alone (a process id, a time) is not new. A run that is killed before it
//! can tell anything counts as one that failed, unless it got something done.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const TELL_AGAIN: Duration = Duration::from_secs(3600);
/// How many lines are remembered as told.
const LINES: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Whether the run that reports now has failed.
    failed: bool,
    /// How many runs have failed, one after the other.
    count: u32,
    /// Whether the last of them was counted as it began.
    taken_up: bool,
    until: Option<Instant>,
    told: Option<(String, Instant)>,
    /// What was told of single packages, since a run last ended well.
    lines: BTreeMap<String, Instant>,
}

impl Troubles {
    /// A run fails for `reason`; whether that is to be told.
    pub(super) fn heard(&mut self, reason: &str, now: Instant) -> bool {
        self.failed = true;
        let known = |(told, at): &(String, Instant)| alike(told, reason) && now - *at < TELL_AGAIN;
        let tell = !self.told.as_ref().is_some_and(known);
        if tell {
            self.told = Some((reason.to_owned(), now));
        }
        tell
    }

    /// A run has ended: well, unless it was heard to fail.
    pub(super) fn run_ended(&mut self, now: Instant) {
        if !std::mem::take(&mut self.failed) {
            return *self = Self::default();
        }
        if std::mem::take(&mut self.taken_up) {
            self.count = self.count.saturating_sub(1);
        }
        self.pause(now);
    }

    /// A run is started anew that failed, or that nobody heard the end of: whatever killed it may kill it
    /// again, so it counts as one that fails until it is heard to end.
    pub(super) fn taken_up(&mut self, now: Instant) {
        self.pause(now);
        self.taken_up = true;
    }

    /// A run gets something done: if it fails or is killed, the next need not wait long.
    pub(super) fn moved(&mut self) {
        (self.count, self.until) = (0, None);
    }

    /// Whether a line about a single package is to be told.
    pub(super) fn is_new(&mut self, line: &str, now: Instant) -> bool {
        self.lines.retain(|_, at| now - *at < TELL_AGAIN);
        if self.lines.len() >= LINES {
            self.lines.clear();
        }
        self.lines.insert(line.to_owned(), now).is_none()
    }

    fn pause(&mut self, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.count.min(10)).min(LONGEST_PAUSE);
        self.count += 1;
        self.until = Some(now + pause);
    }

    /// What failed may go well over a new line; its reason stays known.
    pub(super) fn line_is_new(&mut self) {
        (self.count, self.until) = (0, None);
    }

    /// Whether a run may be started that nobody asked for.
    pub(super) fn allow(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// Why the last run failed, if it did.
    pub(super) fn reason(&self) -> Option<&str> {
        self.told.as_ref().map(|(reason, _)| reason.as_str())
    }
}

/// Whether two reasons are the same but for their numbers.
fn alike(one: &str, other: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    words(one) == words(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes_and_end_with_a_run_that_ends_well() {
        let (mut troubles, mut now) = (Troubles::default(), Instant::now());
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            troubles.heard("no", now);
            troubles.run_ended(now);
            assert!(!troubles.allow(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(troubles.allow(now));
        }
        troubles.heard("no", now);
        troubles.run_ended(now);
        troubles.run_ended(now);
        assert!(troubles.allow(now) && troubles.reason().is_none());
    }

    #[test]
    fn runs_that_are_killed_pause_unless_they_get_something_done() {
        let (mut troubles, mut now) = (Troubles::default(), Instant::now());
        for seconds in [5, 10, 20] {
            troubles.taken_up(now);
            assert!(!troubles.allow(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(troubles.allow(now));
        }
        troubles.moved();
        troubles.taken_up(now);
        assert!(troubles.allow(now + Duration::from_secs(5)));
    }

    #[test]
    fn a_run_that_is_taken_up_counts_once_whether_it_fails_or_is_killed() {
        let (mut troubles, mut now) = (Troubles::default(), Instant::now());
        for (seconds, is_killed) in
            [(5, false), (10, false), (20, true), (40, true), (80, false), (160, true)]
        {
            troubles.taken_up(now);
            if !is_killed {
                now += Duration::from_secs(3);
                troubles.heard("no", now);
                troubles.run_ended(now);
            }
            assert!(!troubles.allow(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(troubles.allow(now));
        }
        troubles.taken_up(now);
        troubles.moved();
        assert!(troubles.allow(now));
    }

    #[test]
    fn a_line_about_a_package_is_told_again_after_a_run_that_ended_well_or_an_hour() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        assert!(troubles.is_new("core/1", now) && troubles.is_new("core/2", now));
        assert!(!troubles.is_new("core/1", now + Duration::from_secs(3599)));
        assert!(troubles.is_new("core/2", now + Duration::from_secs(3600)));
        troubles.run_ended(now);
        assert!(troubles.is_new("core/1", now));
    }

    #[test]
    fn a_reason_is_told_when_it_is_new_and_once_an_hour() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        assert!(troubles.heard("no", now));
        troubles.line_is_new();
        assert!(!troubles.heard("no", now + Duration::from_secs(3000)));
        assert!(troubles.heard("no", now + Duration::from_secs(3600)));
        assert!(troubles.heard("other 7", now + Duration::from_secs(3601)));
        assert!(!troubles.heard("other 12", now + Duration::from_secs(3602)));
    }
}

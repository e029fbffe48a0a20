//! Calls for a person: not one right after the other, and none lost.
//!
//! The path unit that starts `blat-notify@NAME.service` sees nothing while that runs, and fails where it starts it
//! more than ten times in a minute. So a call comes 10 s after the one before, and when that has been told, at the
//! agent's next look, and has all that is needed by then. The first comes 10 s after the start, for the path unit
//! starts after the agent and sees nothing of what was there before; sooner, where it waited for the agent before.
//!
//! Nor does it see anything while systemd reads its units anew. So a call counts as told when that service has
//! taken a note away; until then it is made again, ever less often: where nobody takes notes, as with a path unit
//! that is masked or a service that is an administrator's own as a whole, there is no end to that.
//!
//! What is not told lies in a file that a restart leaves alone, so the next agent calls for it; but not for what the
//! line needed a person for, which the next agent's own line will say where it is still so.

use std::fs;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::places::Places;
use crate::state::{self, Seconds, seconds};

const PAUSE: Duration = Duration::from_secs(10);
/// The path unit is there by then, but on a slow machine.
const FIRST: Duration = Duration::from_secs(4);
/// When a call that nobody took is made again; after that, each time twice as late,
const AGAIN: Duration = Duration::from_secs(300);
/// but once a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// So many reasons stand in one call; the journal has the others.
const REASONS: usize = 5;

#[derive(Debug)]
pub(super) struct Calls {
    kept: Kept,
    /// Where that is kept.
    file: PathBuf,
    /// The note that is taken away.
    untold: PathBuf,
    /// When a person may be called for what is new,
    next: Instant,
    /// and again for what nobody took.
    again: Instant,
    /// How long that waits after a call.
    pause: Duration,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// What a person was not called for.
    #[serde(flatten)]
    waiting: Reasons,
    /// What a person was called for, and nobody took.
    #[serde(default)]
    called: Reasons,
    /// Since when something waits, or when the last call was made: an agent that dies again and again still calls.
    #[serde(default)]
    since: Option<Seconds>,
}

/// What a person is needed for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Reasons {
    reasons: Vec<String>,
    /// How much there is besides.
    more: usize,
    /// What the line said last. It takes that back by itself.
    #[serde(default)]
    line: Option<String>,
}

impl Reasons {
    fn is_empty(&self) -> bool {
        self.reasons.is_empty() && self.line.is_none()
    }

    fn has(&self, reason: &str) -> bool {
        self.reasons.iter().any(|known| known == reason)
    }

    fn add(&mut self, reason: String) {
        match self.reasons.len() {
            _ if self.has(&reason) => {}
            REASONS.. => self.more += 1,
            _ => self.reasons.push(reason),
        }
    }

    /// With what came later.
    fn and(mut self, later: Self) -> Self {
        later.reasons.into_iter().for_each(|reason| self.add(reason));
        Self { more: self.more + later.more, line: later.line.or(self.line), ..self }
    }

    fn text(&self) -> String {
        let mut words: Vec<_> = self.line.iter().chain(&self.reasons).cloned().collect();
        if self.more > 0 {
            words.push(format!("and {} more", self.more));
        }
        words.join("; ")
    }
}

impl Calls {
    /// Those that an agent before left.
    pub(super) fn left(places: &Places, now: Instant) -> Self {
        let (file, untold) = (places.calls(), places.untold());
        let mut kept: Kept = state::read(&file).unwrap_or_default();
        (kept.waiting.line, kept.called.line) = (None, None);
        // By a clock that was set meanwhile, it is as if that had begun now, or long ago.
        let waited = kept.since.map_or(0, |since| clock().saturating_sub(since));
        let from = |pause: Duration| now + pause.saturating_sub(Duration::from_secs(waited)).max(FIRST);
        Self { kept, file, untold, next: from(PAUSE), again: from(AGAIN), pause: AGAIN }
    }

    /// A person is needed for `reason`.
    pub(super) fn need(&mut self, reason: &str) {
        self.settle();
        if !self.kept.called.has(reason) && !self.kept.waiting.has(reason) {
            self.begin();
            self.kept.waiting.add(reason.to_owned());
            self.keep();
        }
    }

    /// A person is needed for `reason`, or there will be no line.
    pub(super) fn line_needs(&mut self, reason: &str) {
        self.settle();
        let Kept { waiting, called, .. } = &self.kept;
        if waiting.line.as_ref().or(called.line.as_ref()).is_none_or(|known| known != reason) {
            self.begin();
            self.kept.waiting.line = Some(reason.to_owned());
            self.keep();
        }
    }

    /// The line needs nobody any more, or it is another one.
    pub(super) fn line_is_new(&mut self) {
        if self.kept.since.is_some() {
            (self.kept.waiting.line, self.kept.called.line) = (None, None);
            self.keep();
        }
    }

    /// What a person is to be called for now; nothing as long as another call is told.
    pub(super) fn due(&mut self, now: Instant, is_told: impl FnOnce() -> bool) -> Option<String> {
        self.settle();
        let Kept { waiting, called, .. } = &self.kept;
        let (is_new, is_old) = (!waiting.is_empty(), !called.is_empty());
        let is_due = is_new && now >= self.next || is_old && !is_new && now >= self.again;
        (is_due && !is_told()).then(|| called.clone().and(waiting.clone()).text())
    }

    /// The call that was due is made. Not before: a kill between has it made twice, never lost.
    pub(super) fn made(&mut self, now: Instant) {
        let Kept { waiting, called, .. } = mem::take(&mut self.kept);
        self.pause = if waiting.is_empty() { (2 * self.pause).min(LONGEST) } else { AGAIN };
        (self.next, self.again) = (now + PAUSE, now + self.pause);
        self.kept = Kept { waiting: Reasons::default(), called: called.and(waiting), since: Some(clock()) };
        self.keep();
    }

    /// Looks whether the last call was taken.
    fn settle(&mut self) {
        if !self.kept.called.is_empty() && !self.untold.exists() {
            self.kept.called = Reasons::default();
            self.keep();
        }
    }

    /// Something is about to wait.
    fn begin(&mut self) {
        if self.kept.waiting.is_empty() && (self.kept.since.is_none() || !self.kept.called.is_empty()) {
            self.kept.since = Some(clock());
        }
    }

    fn keep(&mut self) {
        if !self.kept.waiting.is_empty() || !self.kept.called.is_empty() {
            return state::keep(&self.file, &self.kept);
        }
        self.kept.since = None;
        match fs::remove_file(&self.file) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {why}", self.file.display());
            }
            _ => {}
        }
    }
}

fn clock() -> Seconds {
    seconds(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify;

    /// A target without calls.
    fn places() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        let places = Places::of(root.path(), &"site1".parse().unwrap());
        fs::create_dir_all(&places.runtime).unwrap();
        (root, places)
    }

    /// Makes the call that is due after so many seconds, if there is one; nobody takes it.
    fn call_in_vain(calls: &mut Calls, places: &Places, start: Instant, seconds: u64) -> Option<String> {
        let now = start + Duration::from_secs(seconds);
        let reason = calls.due(now, || false)?;
        notify::call(places, &reason);
        calls.made(now);
        Some(reason)
    }

    /// The same, and it is taken.
    fn call(calls: &mut Calls, places: &Places, start: Instant, seconds: u64) -> Option<String> {
        let reason = call_in_vain(calls, places, start, seconds)?;
        fs::remove_file(places.untold()).unwrap();
        Some(reason)
    }

    /// As if what is kept had begun so many seconds ago.
    fn age(places: &Places, seconds: i64) {
        let mut kept: Kept = state::read(&places.calls()).unwrap();
        kept.since = kept.since.and_then(|since| since.checked_add_signed(-seconds));
        state::keep(&places.calls(), &kept);
    }

    #[test]
    fn a_call_comes_some_time_after_the_start_or_the_one_before_and_has_all_that_is_needed() {
        let ((_root, places), start) = (places(), Instant::now());
        let mut calls = Calls::left(&places, start);
        let call = |calls: &mut Calls, seconds| call(calls, &places, start, seconds);
        assert_eq!(call(&mut calls, 10), None);
        calls.need("a");
        assert_eq!(call(&mut calls, 9), None);
        assert_eq!(call(&mut calls, 10).as_deref(), Some("a"));
        for reason in ["b", "c", "b"] {
            calls.need(reason);
        }
        assert_eq!(call(&mut calls, 19), None);
        assert_eq!(call(&mut calls, 20).as_deref(), Some("b; c"));
        assert_eq!(call(&mut calls, 100), None);
        (0..=6).for_each(|number| calls.need(&number.to_string()));
        assert_eq!(call(&mut calls, 100).as_deref(), Some("0; 1; 2; 3; 4; and 2 more"));
    }

    #[test]
    fn a_call_waits_until_the_one_before_was_told() {
        let ((_root, places), start) = (places(), Instant::now());
        let mut calls = Calls::left(&places, start);
        calls.need("a");
        assert_eq!(calls.due(start + PAUSE, || true), None);
        calls.need("b");
        assert_eq!(calls.due(start + PAUSE, || false).as_deref(), Some("a; b"));
    }

    #[test]
    fn a_call_that_waits_is_made_by_the_next_agent_and_once() {
        let ((_root, places), start) = (places(), Instant::now());
        (0..=5).for_each(|number| Calls::left(&places, start).need(&number.to_string()));
        let mut calls = Calls::left(&places, start);
        calls.need("0");
        let text = call(&mut calls, &places, start, 10);
        assert_eq!(text.as_deref(), Some("0; 1; 2; 3; 4; and 1 more"));
        assert_eq!(call(&mut Calls::left(&places, start), &places, start, 1000), None);
        assert!(calls.due(start + 3 * PAUSE, || false).is_none() && !places.calls().exists());
    }

    /// As where systemd reads its units anew; and as where the path unit is masked.
    #[test]
    fn a_call_that_nobody_takes_is_made_again_and_ever_less_often() {
        let ((_root, places), start) = (places(), Instant::now());
        let mut calls = Calls::left(&places, start);
        let call_in_vain = |calls: &mut Calls, seconds| call_in_vain(calls, &places, start, seconds);
        calls.need("a");
        assert_eq!(call_in_vain(&mut calls, 10).as_deref(), Some("a"));
        calls.need("a");
        assert_eq!(call_in_vain(&mut calls, 309), None);
        assert_eq!(call_in_vain(&mut calls, 310).as_deref(), Some("a"));
        assert_eq!(call_in_vain(&mut calls, 909), None);
        assert_eq!(call_in_vain(&mut calls, 910).as_deref(), Some("a"));
        // What is new does not wait for that.
        calls.need("b");
        assert_eq!(call_in_vain(&mut calls, 920).as_deref(), Some("a; b"));
        assert_eq!(call(&mut calls, &places, start, 1220).as_deref(), Some("a; b"));
        assert_eq!(calls.due(start + LONGEST, || false), None);
    }

    #[test]
    fn a_call_that_nobody_took_is_made_again_by_the_next_agent_but_no_sooner_for_that() {
        let ((_root, places), start) = (places(), Instant::now());
        let mut calls = Calls::left(&places, start);
        calls.need("a");
        call_in_vain(&mut calls, &places, start, 10).unwrap();
        let mut next = Calls::left(&places, start);
        assert_eq!(next.due(start + AGAIN / 2, || false), None);
        assert_eq!(next.due(start + AGAIN, || false).as_deref(), Some("a"));
    }

    #[test]
    fn an_agent_that_dies_again_and_again_calls_when_enough_time_has_passed_in_all() {
        let ((_root, places), start) = (places(), Instant::now());
        Calls::left(&places, start).need("a");
        age(&places, 60);
        let mut calls = Calls::left(&places, start);
        calls.need("b");
        assert_eq!(calls.due(start + FIRST / 2, || false), None);
        assert_eq!(calls.due(start + FIRST, || false).as_deref(), Some("a; b"));
        // The clock was set back by an hour.
        age(&places, -3600);
        assert!(Calls::left(&places, start).due(start + PAUSE, || false).is_some());
    }

    #[test]
    fn what_the_line_needed_is_taken_back_by_the_line_and_nothing_else_is() {
        let ((_root, places), start) = (places(), Instant::now());
        let mut calls = Calls::left(&places, start);
        calls.line_needs("no key");
        calls.line_is_new();
        assert!(calls.due(start + PAUSE, || false).is_none() && !places.calls().exists());
        calls.line_needs("no key");
        calls.need("a tag");
        calls.line_needs("a bad key");
        assert_eq!(calls.due(start + PAUSE, || false).as_deref(), Some("a bad key; a tag"));
        calls.line_is_new();
        assert_eq!(calls.due(start + PAUSE, || false).as_deref(), Some("a tag"));
    }

    #[test]
    fn what_the_line_of_an_agent_needed_the_next_does_not_call_for_by_itself() {
        let ((_root, places), start) = (places(), Instant::now());
        Calls::left(&places, start).line_needs("no key");
        age(&places, 60);
        let mut calls = Calls::left(&places, start);
        assert_eq!(calls.due(start + PAUSE, || false), None);
        calls.line_needs("no key");
        assert_eq!(calls.due(start + FIRST, || false).as_deref(), Some("no key"));
        calls.line_is_new();
        assert!(!places.calls().exists());
    }
}

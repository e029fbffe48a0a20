//! Calls for a person: not one right after the other.
//!
//! The path unit that starts `blat-notify@NAME.service` sees nothing while that runs, and fails where it starts it
//! more than ten times in a minute. So a call comes 10 s after the one before, and when that has been told, at the
//! agent's next look, and has all that is needed by then. The first comes 10 s after the start, for the path unit
//! starts after the agent and sees nothing of what was there before.
//!
//! What waits lies in a file that a restart leaves alone, so the next agent calls for it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::state;

const PAUSE: Duration = Duration::from_secs(10);
/// So many reasons stand in one call; the journal has the others.
const REASONS: usize = 5;

#[derive(Debug)]
pub(super) struct Calls {
    waiting: Waiting,
    /// Where that is kept.
    file: PathBuf,
    /// When a person was last called, or the agent started.
    last: Instant,
}

/// What a person is needed for and was not called for.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Waiting {
    reasons: Vec<String>,
    /// How much there is besides.
    more: usize,
}

impl Calls {
    /// Those that an agent before left in `file`.
    pub(super) fn left(file: PathBuf, now: Instant) -> Self {
        Self { waiting: state::read(&file).unwrap_or_default(), file, last: now }
    }

    /// A person is needed for `reason`.
    pub(super) fn need(&mut self, reason: &str) {
        let Waiting { reasons, more } = &mut self.waiting;
        if reasons.iter().any(|waiting| waiting == reason) {
            return;
        }
        match reasons.len() {
            REASONS.. => *more += 1,
            _ => reasons.push(reason.to_owned()),
        }
        state::keep(&self.file, &self.waiting);
    }

    /// What a person is to be called for now; nothing as long as another call is told.
    pub(super) fn due(&self, now: Instant, is_told: impl FnOnce() -> bool) -> Option<String> {
        let Waiting { reasons, more } = &self.waiting;
        if reasons.is_empty() || now - self.last < PAUSE || is_told() {
            return None;
        }
        let reasons = reasons.join("; ");
        Some(match more {
            0 => reasons,
            more => format!("{reasons}; and {more} more"),
        })
    }

    /// The call that was due is made. Not before: a kill between has it made twice, never lost.
    pub(super) fn made(&mut self, now: Instant) {
        (self.waiting, self.last) = (Waiting::default(), now);
        if let Err(why) = fs::remove_file(&self.file) {
            tracing::warn!("cannot remove {}: {why}", self.file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the call that is due after so many seconds, if there is one.
    fn call(calls: &mut Calls, start: Instant, seconds: u64) -> Option<String> {
        let now = start + Duration::from_secs(seconds);
        let reason = calls.due(now, || false)?;
        calls.made(now);
        Some(reason)
    }

    #[test]
    fn a_call_comes_some_time_after_the_start_or_the_one_before_and_has_all_that_is_needed() {
        let (folder, start) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut calls = Calls::left(folder.path().join("calls.json"), start);
        assert_eq!(call(&mut calls, start, 10), None);
        calls.need("a");
        assert_eq!(call(&mut calls, start, 9), None);
        assert_eq!(call(&mut calls, start, 10).as_deref(), Some("a"));
        for reason in ["b", "c", "b"] {
            calls.need(reason);
        }
        assert_eq!(call(&mut calls, start, 19), None);
        assert_eq!(call(&mut calls, start, 20).as_deref(), Some("b; c"));
        assert_eq!(call(&mut calls, start, 100), None);
        (0..=6).for_each(|number| calls.need(&number.to_string()));
        assert_eq!(call(&mut calls, start, 100).as_deref(), Some("0; 1; 2; 3; 4; and 2 more"));
    }

    #[test]
    fn a_call_waits_until_the_one_before_was_told() {
        let (folder, start) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut calls = Calls::left(folder.path().join("calls.json"), start);
        calls.need("a");
        assert_eq!(calls.due(start + PAUSE, || true), None);
        calls.need("b");
        assert_eq!(calls.due(start + PAUSE, || false).as_deref(), Some("a; b"));
    }

    #[test]
    fn a_call_that_waits_is_made_by_the_next_agent_and_once() {
        let (folder, start) = (tempfile::tempdir().unwrap(), Instant::now());
        let next = || Calls::left(folder.path().join("calls.json"), start);
        (0..=5).for_each(|number| next().need(&number.to_string()));
        let mut calls = next();
        calls.need("0");
        assert_eq!(call(&mut calls, start, 10).as_deref(), Some("0; 1; 2; 3; 4; and 1 more"));
        assert_eq!(call(&mut next(), start, 10), None);
    }
}

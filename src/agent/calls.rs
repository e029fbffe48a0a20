//! Calls for a person: not one right after the other.
//!
//! The path unit that starts `blat-notify@NAME.service` sees nothing while that runs, and fails where it starts it
//! more than ten times in a minute. So a call comes 10 s after the one before, and when that has been told, at the
//! agent's next look, and has all that is needed by then.

use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(10);
/// So many reasons stand in one call; the journal has the others.
const REASONS: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Calls {
    /// What a person is needed for and was not called for.
    waiting: Vec<String>,
    /// How much there is besides.
    more: usize,
    last: Option<Instant>,
}

impl Calls {
    /// A person is needed for `reason`.
    pub(super) fn need(&mut self, reason: &str) {
        if self.waiting.iter().any(|waiting| waiting == reason) {
            return;
        }
        match self.waiting.len() {
            REASONS => self.more += 1,
            _ => self.waiting.push(reason.to_owned()),
        }
    }

    /// What a person is to be called for now; nothing as long as another call is told.
    pub(super) fn due(&mut self, now: Instant, is_told: impl FnOnce() -> bool) -> Option<String> {
        let early = self.last.is_some_and(|last| now - last < PAUSE);
        if self.waiting.is_empty() || early || is_told() {
            return None;
        }
        self.last = Some(now);
        let reasons = std::mem::take(&mut self.waiting).join("; ");
        Some(match std::mem::take(&mut self.more) {
            0 => reasons,
            more => format!("{reasons}; and {more} more"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_comes_some_time_after_the_one_before_and_has_all_that_is_needed() {
        let (mut calls, now) = (Calls::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(calls.due(now, || false), None);
        calls.need("a");
        assert_eq!(calls.due(now, || false).as_deref(), Some("a"));
        for reason in ["b", "c", "b"] {
            calls.need(reason);
        }
        assert_eq!(calls.due(after(9), || false), None);
        assert_eq!(calls.due(after(10), || false).as_deref(), Some("b; c"));
        assert_eq!(calls.due(after(100), || false), None);
        (0..=6).for_each(|number| calls.need(&number.to_string()));
        assert_eq!(calls.due(after(100), || false).as_deref(), Some("0; 1; 2; 3; 4; and 2 more"));
    }

    #[test]
    fn a_call_waits_until_the_one_before_was_told() {
        let (mut calls, now) = (Calls::default(), Instant::now());
        calls.need("a");
        assert_eq!(calls.due(now, || true), None);
        calls.need("b");
        assert_eq!(calls.due(now, || false).as_deref(), Some("a; b"));
    }
}

//! zstd's level, by what the line does with what comes out.
//!
//! Frames wait in a queue for the line. Where it runs full, the line is what takes long, and a higher
//! level makes less for it to carry; where it runs empty, packing does, and a lower level is quicker. A
//! fast line gets the lowest: a queue for it is full where the target is slow, and then a smaller stream
//! would save nothing but cost this machine.

use std::time::{Duration, Instant};

/// For a fast line.
const QUICKEST: i32 = 1;
/// From the first of a session, while nothing is known about the line, to the one that makes least of it.
const LEVELS: [i32; 4] = [3, 5, 7, 9];
/// How fast a line is, is judged by so many bytes at a time, more than what ssh and the kernel take in
/// without having sent it,
const STRETCH: u64 = 16 << 20;
/// which is so much at most: the window of ssh, and the pipes to it.
const TAKEN_IN: u64 = 3 << 20;
/// A line is fast from so many bytes a second on: so judged, those of 120 Mbit/s.
const FAST: f64 = 11e6;
/// The queue counts as full, or as empty, from here on.
const FULL: f64 = 0.75;
const EMPTY: f64 = 0.1;
/// Another level means a new stream, which knows nothing of what was sent, and the queue takes a while to
/// show what it does: for so long it stays.
const STAYS: Duration = Duration::from_secs(1);

/// Chooses levels for one session.
pub(super) struct Levels {
    level: i32,
    /// When it was chosen.
    since: Instant,
    /// The best that was seen of the line, in bytes a second.
    line: f64,
    /// When the current stretch began, and at how many bytes that were sent.
    begin: (Instant, u64),
}

impl Levels {
    pub(super) fn new(now: Instant) -> Self {
        Self { level: LEVELS[0], since: now, line: 0.0, begin: (now, 0) }
    }

    pub(super) fn level(&self) -> i32 {
        self.level
    }

    /// So many bytes were sent since the session began.
    pub(super) fn sent(&mut self, bytes: u64, now: Instant) {
        let (begin, before) = self.begin;
        let stretch = bytes.saturating_sub(before);
        if before == 0 {
            self.begin = (now, bytes);
        } else if stretch >= STRETCH {
            let seconds = (now - begin).as_secs_f64().max(1e-6);
            self.line = self.line.max((stretch - TAKEN_IN) as f64 / seconds);
            self.begin = (now, bytes);
        }
    }

    /// With a queue that is so full (0 to 1): whether another level comes next.
    pub(super) fn choose(&mut self, full: f64, now: Instant) -> bool {
        if now - self.since < STAYS {
            return false;
        }
        let [above, below] = [
            LEVELS.into_iter().find(|level| *level > self.level),
            LEVELS.into_iter().rfind(|level| *level < self.level),
        ];
        let level = match full {
            _ if self.line >= FAST => QUICKEST,
            FULL.. => above.unwrap_or(self.level),
            ..EMPTY => below.unwrap_or(self.level),
            _ => self.level,
        };
        let other = level != self.level;
        if other {
            let line = self.line as u64;
            tracing::debug!(
                "packs at level {level}: the queue for the line is full to {full:.2}, which took {line} B/s at best"
            );
            (self.level, self.since) = (level, now);
        }
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chosen second by second, over a line of so many bytes a second, with a queue that is so full.
    fn over(line: u64, full: f64) -> Vec<i32> {
        let begin = Instant::now();
        let mut levels = Levels::new(begin);
        levels.sent(1, begin);
        let seconds = 1..=20_u32;
        seconds
            .map(|second| {
                let now = begin + STAYS * second;
                levels.sent(u64::from(second) * line, now);
                levels.choose(full, now);
                levels.level()
            })
            .collect()
    }

    #[test]
    fn a_fast_line_gets_the_quickest_level_however_full_its_queue_is() {
        assert_eq!(over(100_000_000, 1.0), [1; 20]);
    }

    #[test]
    fn a_slow_line_gets_as_little_as_can_be_packed_in_time() {
        assert_eq!(over(10_000_000, 1.0)[..5], [5, 7, 9, 9, 9]);
        assert_eq!(over(10_000_000, 0.5), [3; 20]);
        assert_eq!(over(10_000_000, 0.0), [3; 20]);
    }

    #[test]
    fn a_stream_lasts_for_a_while() {
        let begin = Instant::now();
        let mut levels = Levels::new(begin);
        assert!(!levels.choose(1.0, begin + STAYS / 2));
        assert!(levels.choose(1.0, begin + STAYS));
        assert!(!levels.choose(1.0, begin + STAYS * 3 / 2), "the new one has to last as well");
    }
}

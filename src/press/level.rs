//! zstd's level, by what the line does with what comes out.
//!
//! Frames wait in a queue for the line. Where it stays full, the line is what takes long, and a higher
//! level makes less for it to carry; where it runs empty, packing does, and a lower level is quicker. A
//! fast line gets the lowest: a queue for it is full where the target is slow, and then a smaller stream
//! would save nothing but cost this machine.
//!
//! Another level means a new stream, which knows nothing of what was sent. So it waits for packages of another
//! name, which have less in common with those before, and the first one should be right: how long the target
//! takes to answer tells a line across the house from one across the country. For one across the house,
//! nothing is sought far back either, as long as the line takes all that comes: that would take half as much
//! time again, for a seventh of the bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::line::Queue;
use super::packing::Packing;
use crate::progress::Progress;

/// From the one for a fast line to the one that makes least for a slow one, and how many times as long each
/// takes as the one before it: source, in one stream.
const LEVELS: [(i32, f64); 5] = [(1, 1.0), (3, 1.7), (FOR_FAR, 2.2), (9, 1.25), (12, 1.9)];
const QUICKEST: i32 = LEVELS[0].0;
/// For so much of the time a thread may pack at a higher level: the line is to find some whenever it wants it.
const BUSY: f64 = 0.8;
/// The first of a session with a target that is not near.
pub(super) const FOR_FAR: i32 = 6;
/// Who answers so soon is near.
const NEAR: Duration = Duration::from_millis(20);
/// How many frames wait for the line, each of a piece ([`super::PIECE`]): 7.5 MiB, so that it goes on over what
/// is slow to read or to pack.
pub(super) const AHEAD: usize = 64;
/// To a target that is near, a line carries that in no time, and what waits only waits for the target: which
/// then is alone at work at the end, with all that was packed ahead of it.
const AHEAD_NEAR: usize = 8;
/// How fast a line is, is judged by so many bytes at a time, more than what ssh and the kernel take in
/// without having sent it,
const STRETCH: u64 = 16 << 20;
/// which is so much at most on each connection: the window of ssh, and the pipes to it.
const TAKEN_IN: u64 = 3 << 20;
/// A line is fast from so many bytes a second on: so judged, those of 120 Mbit/s.
const FAST: f64 = 11e6;
/// The queue counts as full, or as empty, from here on,
const FULL: f64 = 0.75;
const EMPTY: f64 = 0.1;
/// where it is so for as long as this: a new stream makes up for itself only after a while. At a level that takes
/// as long as the first for a line that is far, a busy machine leaves half of the line idle; the one below packs
/// twice as much, but not before its stream begins.
const FULL_LASTS: Duration = Duration::from_secs(1);
const EMPTY_LASTS: Duration = Duration::from_millis(700);
const EMPTY_LASTS_BELOW: Duration = Duration::from_secs(3);
/// When it was not looked at for so long, there was nothing to pack.
const UNSEEN: Duration = Duration::from_millis(500);

/// How many frames wait for the line to a target that took so long to answer, if that is known.
pub(crate) fn frames_ahead(round_trip: Option<Duration>) -> usize {
    if is_near(round_trip) { AHEAD_NEAR } else { AHEAD }
}

/// Whether a target that took so long to answer is near, as far as that is known.
pub(super) fn is_near(round_trip: Option<Duration>) -> bool {
    round_trip.is_some_and(|round_trip| round_trip < NEAR)
}

/// Chooses the packing of a session, for all threads that pack.
#[derive(Clone)]
pub(super) struct Choice {
    /// From the first on that is packed.
    levels: Arc<Mutex<Option<Levels>>>,
    progress: Progress,
}

impl Choice {
    pub(super) fn new(progress: Progress) -> Self {
        Self { levels: Arc::default(), progress }
    }

    /// How it is packed from here on, by what is seen of the line's queue.
    pub(super) fn packing(&self, window_log: u32, queue: Option<Queue>) -> Packing {
        let now = Instant::now();
        let mut levels = self.levels();
        let levels = levels.get_or_insert_with(|| Levels::new(self.progress.round_trip(), now));
        levels.sent(self.progress.bytes_sent(), self.progress.lanes(), now);
        if let Some(queue) = queue {
            levels.choose(queue, now);
        }
        levels.packing(window_log)
    }

    /// Whether the line would take more than what is packed.
    pub(super) fn packs_too_little(&self) -> bool {
        self.levels().as_ref().is_none_or(|levels| levels.full < FULL)
    }

    #[cfg(test)]
    pub(super) fn set_level(&self, level: i32) {
        *self.levels() = Some(Levels { level, ..Levels::new(None, Instant::now()) });
    }

    fn levels(&self) -> MutexGuard<'_, Option<Levels>> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chooses levels for one session.
pub(super) struct Levels {
    near: bool,
    level: i32,
    /// When it was chosen.
    since: Instant,
    /// When the queue was last not full, and not empty.
    not_full: Instant,
    not_empty: Instant,
    /// For how long there was no room in it, since it was last not full.
    waited: Duration,
    /// When it was last looked at.
    looked: Instant,
    /// How full it was then.
    full: f64,
    /// The best that was seen of the line, in bytes a second.
    line: f64,
    /// When the current stretch began, and at how many bytes that were sent.
    begin: (Instant, u64),
}

impl Levels {
    /// For a target that took so long to answer, if that is known.
    pub(super) fn new(round_trip: Option<Duration>, now: Instant) -> Self {
        let near = is_near(round_trip);
        let level = if near { QUICKEST } else { FOR_FAR };
        tracing::debug!("packs at level {level} at first: the target answered within {round_trip:?}");
        Self {
            near,
            level,
            since: now,
            not_full: now,
            not_empty: now,
            waited: Duration::ZERO,
            looked: now,
            full: 0.0,
            line: 0.0,
            begin: (now, 0),
        }
    }

    /// How it is packed from here on.
    pub(super) fn packing(&self, window_log: u32) -> Packing {
        let long_distance = !self.near || self.level != QUICKEST;
        Packing { level: self.level, window_log, long_distance, checksum: false }
    }

    /// So many bytes were sent since the session began, now over so many connections.
    pub(super) fn sent(&mut self, bytes: u64, lanes: u64, now: Instant) {
        let (begin, before) = self.begin;
        let stretch = bytes.saturating_sub(before);
        if before == 0 {
            self.begin = (now, bytes);
        } else if stretch >= STRETCH * lanes {
            let seconds = (now - begin).as_secs_f64().max(1e-6);
            self.line = self.line.max((stretch - TAKEN_IN * lanes) as f64 / seconds);
            self.begin = (now, bytes);
        }
    }

    /// Chooses which level comes next.
    fn choose(&mut self, queue: Queue, now: Instant) {
        let Queue { full, waited } = queue;
        // A batch whose turn it is now may have waited for that before.
        self.waited += waited.min(now - self.looked);
        if full < FULL {
            (self.not_full, self.waited) = (now, Duration::ZERO);
        }
        // Where there was nothing to pack, it is empty for that.
        if full > EMPTY || now - self.looked >= UNSEEN {
            self.not_empty = now;
        }
        (self.looked, self.full) = (now, full);
        let lasted = |since: Instant| now - since.max(self.since);
        // A new stream has to last to be worth it: what was full for as long as it was not before may go on so.
        let was_not_full = self.not_full.saturating_duration_since(self.since);
        let full_for = lasted(self.not_full);
        let busy = 1.0 - self.waited.div_duration_f64(full_for.max(Duration::from_millis(1)));
        let empty_lasts = if self.level < FOR_FAR { EMPTY_LASTS_BELOW } else { EMPTY_LASTS };
        let mut levels = LEVELS.into_iter();
        let level = if self.line >= FAST {
            Some(QUICKEST)
        } else if full_for >= FULL_LASTS.max(was_not_full) {
            let next = levels.find(|(level, _)| *level > self.level);
            next.filter(|(_, times)| busy * times <= BUSY).map(|(level, _)| level)
        } else if lasted(self.not_empty) >= empty_lasts {
            levels.rfind(|(level, _)| *level < self.level).map(|(level, _)| level)
        } else {
            None
        };
        let level = level.unwrap_or(self.level);
        if level != self.level {
            let line = self.line as u64;
            tracing::debug!(
                "packs at level {level}: the queue for the line is full to {full:.2}, which took {line} B/s at best"
            );
            (self.level, self.since, self.waited) = (level, now, Duration::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Option<Duration> = Some(Duration::from_millis(50));
    const SECOND: Duration = Duration::from_secs(1);

    /// For so much of the time whoever packs waits for room in a queue that is full.
    const WAITS: f64 = 0.9;

    fn look(levels: &mut Levels, full: f64, waits: f64, now: Instant) {
        let waits = if full == 1.0 { waits } else { 0.0 };
        let waited = (now - levels.looked).mul_f64(waits);
        levels.choose(Queue { full, waited }, now);
    }

    /// What is chosen second by second, over a line of so many bytes a second, with a queue that is so full.
    fn over(line: u64, round_trip: Option<Duration>, full: f64) -> Vec<i32> {
        let begin = Instant::now();
        let mut levels = Levels::new(round_trip, begin);
        levels.sent(1, 1, begin);
        let seconds = 1..=20_u32;
        seconds
            .map(|second| {
                for tenth in 1..=10 {
                    let now = begin + SECOND * (second - 1) + SECOND * tenth / 10;
                    look(&mut levels, full, WAITS, now);
                }
                levels.sent(u64::from(second) * line, 1, begin + SECOND * second);
                levels.level
            })
            .collect()
    }

    /// Whether another level comes next.
    fn changes(levels: &mut Levels, full: f64, now: Instant) -> bool {
        let before = levels.level;
        look(levels, full, WAITS, now);
        levels.level != before
    }

    #[test]
    fn a_fast_line_gets_the_quickest_level_however_full_its_queue_is() {
        assert_eq!(over(100_000_000, FAR, 1.0)[3..], [1; 17]);
        assert_eq!(over(100_000_000, Some(NEAR / 2), 1.0)[3..], [1; 17]);
    }

    #[test]
    fn a_slow_line_gets_as_little_as_can_be_packed_in_time() {
        assert_eq!(over(10_000_000, FAR, 1.0)[..4], [9, 12, 12, 12]);
        assert_eq!(over(10_000_000, FAR, 0.5), [FOR_FAR; 20]);
        assert_eq!(over(10_000_000, FAR, 0.0)[..12], [3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(over(10_000_000, None, 0.5), [FOR_FAR; 20]);
        assert_eq!(over(10_000_000, Some(NEAR / 2), 1.0)[..4], [3, 6, 9, 12]);
    }

    #[test]
    fn only_what_is_quick_for_near_is_not_sought_far_back() {
        let (near, far) = (Some(NEAR / 2), FAR);
        let first = |round_trip| Levels::new(round_trip, Instant::now());
        let is = |level, long_distance| Packing { level, window_log: 25, long_distance, checksum: false };
        assert_eq!(first(near).packing(25), is(QUICKEST, false));
        assert_eq!(first(far).packing(25), is(FOR_FAR, true));
        assert_eq!(first(None).packing(25), is(FOR_FAR, true));
        let fast = Levels { level: QUICKEST, ..first(far) };
        assert_eq!(fast.packing(25), is(QUICKEST, true), "a line that is far, and fast");
        let slow = Levels { level: LEVELS[1].0, ..first(near) };
        assert_eq!(slow.packing(25), is(LEVELS[1].0, true), "one that is near, and slow");
    }

    #[test]
    fn a_level_that_would_not_keep_the_line_busy_is_not_tried() {
        let last = |waits| {
            let begin = Instant::now();
            let mut levels = Levels::new(FAR, begin);
            (1..200).for_each(|tenth| look(&mut levels, 1.0, waits, begin + SECOND * tenth / 10));
            levels.level
        };
        assert_eq!([0.3, 0.4, 0.6].map(last), [FOR_FAR, 9, 12]);
    }

    #[test]
    fn what_was_waited_for_a_turn_says_nothing_of_the_line() {
        let begin = Instant::now();
        let mut levels = Levels::new(FAR, begin);
        look(&mut levels, 0.8, 0.0, begin + SECOND / 2);
        levels.choose(Queue { full: 1.0, waited: SECOND * 9 }, begin + SECOND * 6 / 10);
        look(&mut levels, 1.0, 0.2, begin + SECOND * 2);
        assert_eq!(levels.level, FOR_FAR);
    }

    #[test]
    fn a_level_lasts_for_a_while() {
        let begin = Instant::now();
        let mut levels = Levels::new(FAR, begin);
        assert!(!changes(&mut levels, 1.0, begin + FULL_LASTS / 2));
        assert!(changes(&mut levels, 1.0, begin + FULL_LASTS));
        assert!(!changes(&mut levels, 1.0, begin + FULL_LASTS * 3 / 2), "the new one has to last as well");
    }

    #[test]
    fn a_queue_has_to_be_full_for_as_long_as_it_was_not_before() {
        let begin = Instant::now();
        let mut levels = Levels::new(FAR, begin);
        for second in 1..=3 {
            assert!(!changes(&mut levels, 0.5, begin + SECOND * second));
        }
        assert!(!changes(&mut levels, 1.0, begin + SECOND * 5));
        assert!(changes(&mut levels, 1.0, begin + SECOND * 6));
    }

    #[test]
    fn a_queue_that_is_empty_for_there_was_nothing_to_pack_changes_nothing() {
        let begin = Instant::now();
        let mut levels = Levels::new(FAR, begin);
        assert!((1..10).all(|time| !changes(&mut levels, 0.0, begin + EMPTY_LASTS * time)));
    }

    #[test]
    fn a_queue_that_is_full_for_a_moment_changes_nothing() {
        let begin = Instant::now();
        let mut levels = Levels::new(FAR, begin);
        for second in 1..10 {
            assert!(!changes(&mut levels, 0.5, begin + SECOND * second - SECOND / 2));
            assert!(!changes(&mut levels, 1.0, begin + SECOND * second));
        }
    }
}

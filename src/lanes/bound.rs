//! Whether a session is bound by a window of its one connection, not by its line.
//!
//! There are two such windows. sshd lets 2 MiB be under way on a channel, which a long and fast line has room
//! for several times. And the kernel lets the less be under way the more packets are lost: where a line loses some
//! that it has room for, as radio and long ways do, one connection carries a part of what the line would. What
//! differs from a line that is full: there, what waits before the line is under way too, so that in a round trip
//! of a quiet line less arrives than the window lets.

use std::time::Duration;

use blat_target::lanes::WINDOW;

use crate::ssh;

/// A session that sends so much of what a window lets be under way in a round trip is bound by that: the rest is
/// lost between its parts.
const BOUND: f64 = 0.8;
/// Who answers sooner is near: there, one connection is enough for a gigabit.
const FAR: Duration = Duration::from_millis(20);
/// So many looks in a row find that it is sshd's window: what is sent at first fills what lies between here and
/// the line.
const LOOKS: u32 = 2;
/// Over so many looks it is seen that it is the kernel's, which each loss changes.
const LOOKS_KERNEL: usize = 6;
/// More than so many times of what the kernel's window lets cannot have gone by the line: it filled what lies before
/// that.
const AT_MOST: f64 = 2.0;
/// Who is let send so many times as much in the second half of the looks as in the first, and does, has a line that
/// is not full.
const GROWS: f64 = 1.2;
/// What a segment carries, in bytes: a packet of Ethernet, without what stands before it.
const SEGMENT: f64 = 1448.0;

/// Looks again and again whether a session sends as much as a window lets.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// What had been sent at the last look.
    sent: u64,
    /// How many looks in a row have found it bound by sshd's window.
    looks: u32,
    /// The last looks at the kernel's.
    slices: Vec<Slice>,
}

/// From one look to the next.
#[derive(Clone, Copy, Debug)]
struct Slice {
    /// How much went, in bytes,
    went: f64,
    /// and how much could by the kernel's window, on a quiet line.
    by_window: f64,
    /// Where slow start has ended, in segments: a loss sets it anew.
    threshold: Option<u32>,
}

impl Bound {
    /// Whether it does by now: so much was sent in all, and the last look was so long ago.
    pub(super) fn look(
        &mut self,
        sent: u64,
        since: Duration,
        round_trip: Option<Duration>,
        window: impl FnOnce() -> Option<ssh::Window>,
    ) -> bool {
        let went = (sent - self.sent) as f64;
        self.sent = sent;
        let Some(trip) = round_trip.filter(|trip| *trip >= FAR) else { return false };
        let trips = since.div_duration_f64(trip);
        let is_bound = went >= BOUND * WINDOW as f64 * trips;
        self.looks = if is_bound { self.looks + 1 } else { 0 };
        match window().map(|window| Slice::new(went, window, trips)) {
            Some(slice) if slice.went <= AT_MOST * slice.by_window => self.slices.push(slice),
            _ => self.slices.clear(),
        }
        self.slices.drain(..self.slices.len().saturating_sub(LOOKS_KERNEL));
        self.looks >= LOOKS || self.is_bound_by_kernel()
    }

    fn is_bound_by_kernel(&self) -> bool {
        let (went, by_window) = sums(&self.slices);
        if self.slices.len() < LOOKS_KERNEL || went < BOUND * by_window {
            return false;
        }
        // Before the first threshold, the window doubles with each round trip; and that is no loss, for slow start
        // ends where a line begins to be slower, too.
        if self.slices.iter().any(|slice| slice.threshold.is_none()) {
            return false;
        }
        let lost_some = self.slices.windows(2).any(|pair| pair[0].threshold != pair[1].threshold);
        let (before, after) = self.slices.split_at(LOOKS_KERNEL / 2);
        let (before, after) = (sums(before), sums(after));
        lost_some || (after.0 >= GROWS * before.0 && after.1 >= GROWS * before.1)
    }
}

/// How much went, and how much could by the kernel's window.
fn sums(slices: &[Slice]) -> (f64, f64) {
    slices.iter().fold((0.0, 0.0), |sum, slice| (sum.0 + slice.went, sum.1 + slice.by_window))
}

impl Slice {
    /// What went while so many round trips take, and could by this window.
    fn new(went: f64, window: ssh::Window, trips: f64) -> Self {
        Self { went, by_window: f64::from(window.congestion) * SEGMENT * trips, threshold: window.threshold }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Which looks find a session bound that sends so many MiB from one to the next, one second after the other.
    fn found(round_trip: Option<u64>, sent: &[u64]) -> Vec<bool> {
        let (mut bound, mut all) = (Bound::default(), 0);
        let round_trip = round_trip.map(Duration::from_millis);
        let looks = sent.iter().map(|some| {
            all += some << 20;
            bound.look(all, SECOND, round_trip, || None)
        });
        looks.collect()
    }

    /// Whether one is found bound at last that sends so much of its windows, which are of so many segments with
    /// such a threshold.
    fn found_by_kernel(part: f64, windows: &[(u32, Option<u32>)]) -> bool {
        let sent: Vec<_> = windows.iter().map(|(congestion, _)| part * f64::from(*congestion)).collect();
        found_sending(&sent, windows)
    }

    /// Likewise, of one that sends so many segments in each round trip.
    fn found_sending(sent: &[f64], windows: &[(u32, Option<u32>)]) -> bool {
        let (mut bound, mut all, mut is_bound) = (Bound::default(), 0.0, false);
        for (segments, &(congestion, threshold)) in sent.iter().zip(windows) {
            all += segments * SEGMENT * 20.0;
            let window = || Some(ssh::Window { congestion, threshold });
            is_bound = bound.look(all as u64, SECOND, Some(SECOND / 20), window);
        }
        is_bound
    }

    /// The same window again and again, and at last some that a loss made smaller.
    fn with_a_loss(count: usize) -> Vec<(u32, Option<u32>)> {
        let mut all = vec![(60, Some(55)); count];
        all.extend([(42, Some(42)); 2]);
        all
    }

    #[test]
    fn a_session_is_bound_that_sends_a_window_in_each_round_trip() {
        assert_eq!(found(Some(100), &[20, 19, 10, 18, 18]), [false, true, false, false, true]);
        assert_eq!(found(Some(100), &[15, 15, 15]), [false; 3], "the line is slower, or the packing");
        assert_eq!(found(Some(1), &[5000, 5000, 5000]), [false; 3], "it is near");
        assert_eq!(found(None, &[20, 20, 20]), [false; 3], "nobody knows how far it is");
    }

    #[test]
    fn a_session_is_bound_that_loses_packets_on_a_line_that_is_not_full() {
        assert!(found_by_kernel(0.95, &with_a_loss(20)));
        assert!(!found_by_kernel(0.95, &with_a_loss(3)), "not for long yet");
        assert!(!found_by_kernel(0.95, &[(60, Some(55)); 20]), "it may be full: nothing was lost");
        assert!(!found_by_kernel(0.7, &with_a_loss(20)), "it is full, or the packing slower");
        let slow_start_ended = [[(60, None); 3], [(60, Some(60)); 3]].concat();
        assert!(!found_by_kernel(0.95, &slow_start_ended), "a full line ends it, too");
        let lost_long_ago = [with_a_loss(20), vec![(42, Some(42)); 20]].concat();
        assert!(!found_by_kernel(0.95, &lost_long_ago));
    }

    #[test]
    fn a_session_is_bound_that_goes_the_faster_the_more_the_kernel_lets() {
        let grows: Vec<_> = (0..8).map(|look| (7 + look, Some(7))).collect();
        assert!(found_by_kernel(0.95, &grows));
        assert!(!found_by_kernel(0.7, &grows), "it is full, or the packing slower");
        let grows_much: Vec<_> = (0..6).map(|look| (60 + 5 * look, Some(60))).collect();
        assert!(found_by_kernel(0.95, &grows_much));
        assert!(!found_sending(&[60.0; 6], &grows_much), "the line is full");
        let packing = [45.0, 48.0, 50.0, 57.0, 60.0, 60.0];
        assert!(!found_sending(&packing, &[(60, Some(60)); 6]), "the packing has become quicker");
        let slow_start: Vec<_> = (0..20).map(|look| (7 + look, None)).collect();
        assert!(!found_by_kernel(0.95, &slow_start), "soon there is more than the line takes");
        assert!(!found_by_kernel(0.95, &grows[..5]), "not for long yet");
        assert!(!found_by_kernel(2.5, &grows), "more went than can have gone by the line");
    }
}

//! Which lane of a session that is spread takes the next block: the one that will be done with it soonest.
//!
//! A lane whose line lost something, or whose slow start ended early, carries a tenth of what the others do,
//! and the target can take up nothing that comes behind what is still on its way. So no lane has more under
//! way than it carries in two round trips, and among those that may have more, it is the one with the
//! smallest part of that.

use std::time::Duration;

use blat_target::lanes::WINDOW;
use tokio::time::Instant;

/// The least that a lane may have under way, in bytes: what a connection begins with, a few round trips later.
const LEAST: u64 = 192 << 10;
/// The most: more than sshd's window and the pipe to ssh hold.
const MOST: u64 = WINDOW + (512 << 10);

/// What came of a session that is spread, as the target says.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    /// How many bytes were taken up in their order.
    pub(crate) place: u64,
    /// How many came by each lane.
    pub(crate) lanes: Vec<u64>,
}

/// Deals out a session's blocks.
#[derive(Debug)]
pub(crate) struct Dealer {
    lanes: Vec<Lane>,
    /// How far ahead of what was taken up it may be.
    window: u64,
    round_trip: Duration,
    /// How many bytes were taken up of those that were dealt out.
    taken: u64,
}

/// What one lane was given.
#[derive(Debug)]
struct Lane {
    sent: u64,
    came: u64,
    /// How much may be under way.
    limit: u64,
    /// Whether that was as much, since it was looked at last how fast the lane is.
    is_full: bool,
    looked: Instant,
    /// What had come then.
    had_come: u64,
}

impl Dealer {
    /// For so many lanes to a target that answers within `round_trip`, and has room for so many bytes that must
    /// wait for what comes before them.
    pub(crate) fn new(lanes: usize, round_trip: Duration, waiting_max: u64) -> Self {
        let now = Instant::now();
        let lane = |limit| Lane { sent: 0, came: 0, limit, is_full: false, looked: now, had_come: 0 };
        // The first one carries much already.
        let limits = std::iter::once(MOST).chain(std::iter::repeat(LEAST)).take(lanes);
        let window = waiting_max.min(WINDOW * lanes as u64);
        Self { lanes: limits.map(lane).collect(), window, round_trip, taken: 0 }
    }

    /// Where in the session the next block belongs.
    pub(crate) fn place(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent).sum()
    }

    /// Which lane takes a block of so many bytes; none before something more came.
    pub(crate) fn next(&mut self, bytes: usize) -> Option<usize> {
        if self.place() + bytes as u64 > self.taken + self.window {
            return None;
        }
        for lane in &mut self.lanes {
            lane.is_full |= lane.has_enough();
        }
        let free = self.lanes.iter().enumerate().filter(|(_, lane)| !lane.has_enough());
        let load = |lane: &Lane| (lane.under_way() + bytes as u64) as f64 / lane.limit as f64;
        free.min_by(|(_, a), (_, b)| load(a).total_cmp(&load(b))).map(|(number, _)| number)
    }

    /// A block of so many bytes went by a lane.
    pub(crate) fn went(&mut self, lane: usize, bytes: usize) {
        self.lanes[lane].sent += bytes as u64;
    }

    pub(crate) fn came(&mut self, came: &Came, now: Instant) {
        self.taken = came.place.min(self.place());
        for (lane, came) in self.lanes.iter_mut().zip(&came.lanes) {
            lane.came(*came, now, self.round_trip);
        }
    }
}

impl Lane {
    fn under_way(&self) -> u64 {
        self.sent - self.came
    }

    fn has_enough(&self) -> bool {
        self.under_way() >= self.limit
    }

    /// So much came now. How fast the lane is shows only where it had enough.
    fn came(&mut self, came: u64, now: Instant, round_trip: Duration) {
        self.came = came.clamp(self.came, self.sent);
        let since = now - self.looked;
        if since < round_trip {
            return;
        }
        if std::mem::take(&mut self.is_full) {
            let carries = (self.came - self.had_come) as f64 * round_trip.div_duration_f64(since);
            self.limit = (2.0 * carries) as u64;
            self.limit = self.limit.clamp(LEAST, MOST);
        }
        (self.looked, self.had_come) = (now, self.came);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(100);
    const BLOCK: usize = 32 << 10;
    const MIB: u64 = 1 << 20;

    /// Lanes that carry so many bytes a second each: how many came by each in so many round trips, and in order.
    fn carried(rates: &[u64], round_trips: u32, waiting_max: u64) -> (Vec<u64>, u64) {
        let mut dealer = Dealer::new(rates.len(), ROUND_TRIP, waiting_max);
        let step = Duration::from_millis(5);
        // When each block comes, by its place.
        let (mut blocks, mut free_at) =
            (std::collections::BTreeMap::new(), vec![Duration::ZERO; rates.len()]);
        let (mut came, mut place, begin) = (vec![0; rates.len()], 0, Instant::now());
        let mut now = Duration::ZERO;
        while now < ROUND_TRIP * round_trips {
            while let Some(lane) = dealer.next(BLOCK) {
                free_at[lane] =
                    now.max(free_at[lane]) + Duration::from_secs_f64(BLOCK as f64 / rates[lane] as f64);
                blocks.insert(dealer.place(), (lane, free_at[lane] + ROUND_TRIP));
                dealer.went(lane, BLOCK);
            }
            now += step;
            blocks.retain(|_, (lane, due)| {
                let has_come = *due <= now;
                came[*lane] += if has_come { BLOCK as u64 } else { 0 };
                !has_come
            });
            place = blocks.first_key_value().map_or(dealer.place(), |(first, _)| *first);
            dealer.came(&Came { place, lanes: came.clone() }, begin + now);
        }
        (came, place)
    }

    #[test]
    fn a_slow_lane_keeps_no_other_from_what_it_can() {
        let rates = [10 * MIB, MIB / 2, 10 * MIB, 10 * MIB];
        let (came, place) = carried(&rates, 50, u64::MAX);
        // In five seconds the four can carry 152 MiB; with equal parts for each it would be ten.
        assert!(place > 110 * MIB, "{place} in order, {came:?}");
        assert!(came[1] > MIB, "{came:?}");
    }

    #[test]
    fn lanes_that_carry_the_same_get_the_same() {
        let (came, place) = carried(&[10 * MIB; 4], 50, u64::MAX);
        assert!(place > 160 * MIB, "{place} in order, {came:?}");
        let (least, most) = (came.iter().min().unwrap(), came.iter().max().unwrap());
        assert!(most - least < most / 4, "{came:?}");
    }

    #[test]
    fn nothing_goes_that_the_target_has_no_room_for() {
        let mut dealer = Dealer::new(2, ROUND_TRIP, MIB);
        let deal = |dealer: &mut Dealer| {
            while let Some(lane) = dealer.next(BLOCK) {
                dealer.went(lane, BLOCK);
            }
            dealer.place()
        };
        assert_eq!(deal(&mut dealer), MIB);
        let lanes = dealer.lanes.iter().map(|lane| lane.sent).collect();
        dealer.came(&Came { place: 0, lanes }, Instant::now());
        assert_eq!(deal(&mut dealer), MIB, "all came, but for the first");
        dealer.came(&Came { place: 5 * MIB, lanes: vec![u64::MAX; 9] }, Instant::now());
        assert_eq!(deal(&mut dealer), 2 * MIB, "more cannot have come than was sent");
    }

    #[test]
    fn a_session_that_sends_little_keeps_what_its_lanes_carry() {
        let mut dealer = Dealer::new(2, ROUND_TRIP, u64::MAX);
        let now = Instant::now();
        dealer.went(0, BLOCK);
        dealer.came(&Came { place: BLOCK as u64, lanes: vec![BLOCK as u64, 0] }, now + 2 * ROUND_TRIP);
        assert_eq!(dealer.lanes[0].limit, MOST);
    }
}

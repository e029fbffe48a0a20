//! Whether a connection is worse than a new one would be, for what it lost.
//!
//! A kernel that shares lines by CUBIC takes each loss for a full line: a packet that is lost of those by which
//! a silent connection is kept up leaves it a window of some segments, and no slow start to get out of that by.
//! The next session then takes many seconds to fill a long line; over a new connection, it takes some round trips.
//! What a session loses that sends much is another matter: so the kernel learns how much the line carries.

use crate::ssh::TcpState;

/// Who sent fewer bytes from one look to the next lost nothing for a line that was full.
const LITTLE: u64 = 64 << 10;
/// From so many segments on, a new connection would not be ahead soon: it begins with ten, and doubles that with
/// each round trip.
const ENOUGH: u32 = 64;

/// What the looks at a connection found.
#[derive(Debug, Default)]
pub(super) struct Losses {
    before: Option<TcpState>,
    threshold: Option<u32>,
    are_bad: bool,
}

impl Losses {
    /// Whether it is worse than a new one, by what went since the last look.
    pub(super) fn look(&mut self, now: TcpState) -> bool {
        let before = self.before.replace(now);
        let nothing_was_lost = before.is_some_and(|before| before.sent_again == now.sent_again);
        if nothing_was_lost && !self.are_bad {
            return false;
        }
        let went = now.sent - before.map_or(0, |before| before.sent);
        self.are_bad |= is_lower(now.window.threshold, self.threshold) && went < LITTLE;
        self.are_bad &= now.window.soon().is_some_and(|segments| segments < ENOUGH);
        self.threshold = now.window.threshold;
        self.are_bad
    }
}

/// None is higher than any.
fn is_lower(threshold: Option<u32>, than: Option<u32>) -> bool {
    threshold.unwrap_or(u32::MAX) < than.unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::Window;

    const MIB: u64 = 1 << 20;

    /// What each look says, of a connection that has such a window and threshold when so many bytes were
    /// sent and so many segments sent again.
    fn looks(all: &[(u32, Option<u32>, u64, u32)]) -> Vec<bool> {
        let mut losses = Losses::default();
        let looks = all.iter().map(|&(congestion, threshold, sent, sent_again)| {
            losses.look(TcpState { window: Window { congestion, threshold }, sent, sent_again })
        });
        looks.collect()
    }

    #[test]
    fn a_loss_while_nearly_nothing_is_written_is_bad_until_the_window_has_grown() {
        let all = [
            (10, None, 5000, 1),
            (10, None, 90 * MIB, 1),
            (1, Some(7), 90 * MIB + 500, 2),
            (7, Some(7), 90 * MIB + 900, 2),
            (200, Some(7), 180 * MIB, 2),
            (200, Some(7), 180 * MIB, 2),
        ];
        assert_eq!(looks(&all), [false, false, true, true, false, false]);
        assert_eq!(looks(&[(7, Some(7), 5000, 1)]), [true], "before the first look");
    }

    #[test]
    fn what_a_full_line_taught_is_kept() {
        let all = [
            (10, None, 5000, 0),
            (40, Some(30), 20 * MIB, 9),
            (40, Some(30), 20 * MIB + 500, 12),
            (28, Some(28), 20 * MIB + 900, 13),
        ];
        assert_eq!(looks(&all), [false, false, false, true], "the third took nothing of the threshold");
    }

    #[test]
    fn a_window_that_is_still_large_is_kept() {
        assert_eq!(looks(&[(430, None, 90 * MIB, 0), (301, Some(301), 90 * MIB + 500, 1)]), [false; 2]);
    }
}

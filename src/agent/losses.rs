//! Whether a connection is worse than a new one would be, for what it lost.
//!
//! A kernel that shares lines by CUBIC takes each loss for a full line: a packet that is lost of those by which
//! a silent connection is kept up leaves it a window of some segments, and no slow start to get out of that by.
//! The next session then takes many seconds to fill a long line; over a new connection, it takes some round trips.
//! What a session loses that sends much is another matter: so the kernel learns how much the line carries.

use crate::ssh::Window;

/// Who wrote fewer bytes from one look to the next lost nothing for a line that was full.
const LITTLE: u64 = 64 << 10;
/// From so many segments on, a new connection would not be ahead soon: it begins with ten, and doubles that with
/// each round trip.
const ENOUGH: u32 = 64;

/// What the looks at a connection found.
#[derive(Debug, Default)]
pub(super) struct Losses {
    before: Option<Window>,
    are_bad: bool,
}

impl Losses {
    /// Whether it is worse than a new one, by what the kernel says now.
    pub(super) fn look(&mut self, now: Window) -> bool {
        let before = self.before.replace(now);
        let threshold = |window: Window| window.threshold.unwrap_or(u32::MAX);
        let has_lost = threshold(now) < before.map_or(u32::MAX, threshold);
        let written = now.written - before.map_or(0, |before| before.written);
        self.are_bad |= has_lost && written < LITTLE;
        self.are_bad &= now.soon().is_some_and(|segments| segments < ENOUGH);
        self.are_bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn window(congestion: u32, threshold: Option<u32>, written: u64) -> Window {
        Window { congestion, threshold, written }
    }

    /// What each look says.
    fn looks(windows: &[Window]) -> Vec<bool> {
        let mut losses = Losses::default();
        windows.iter().map(|window| losses.look(*window)).collect()
    }

    #[test]
    fn a_loss_while_nearly_nothing_is_sent_is_bad_until_the_window_has_grown() {
        let windows = [
            window(10, None, 5000),
            window(1, Some(7), 5500),
            window(7, Some(7), 6000),
            window(200, Some(7), 90 * MIB),
        ];
        assert_eq!(looks(&windows), [false, true, true, false]);
        assert_eq!(looks(&[window(7, Some(7), 5000)]), [true], "before the first look");
    }

    #[test]
    fn what_a_full_line_taught_is_kept() {
        let windows = [
            window(10, None, 5000),
            window(40, Some(30), 20 * MIB),
            window(40, Some(30), 20 * MIB + 500),
            window(28, Some(28), 20 * MIB + 900),
        ];
        assert_eq!(looks(&windows), [false, false, false, true]);
    }

    #[test]
    fn a_window_that_is_still_large_is_kept() {
        assert_eq!(looks(&[window(430, None, 90 * MIB), window(301, Some(301), 90 * MIB + 500)]), [false; 2]);
    }
}

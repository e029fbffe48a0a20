//! The agent's clock: one timer of the kernel for all that it does regularly.
//!
//! Of hundreds of agents that have nothing to do, each time that one wakes up counts. tokio's timers
//! would wake it two or three times for each, as they come nearer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::read;
use tokio::io::unix::AsyncFd;

/// Ticks at a regular interval.
#[derive(Debug)]
pub(super) struct Tick {
    timer: TimerFd,
    ready: AsyncFd<OwnedFd>,
    period: Duration,
}

impl Tick {
    /// The first tick comes after `period`.
    ///
    /// # Errors
    /// When the kernel gives no timer. Wants to be called within the runtime.
    pub(super) fn new(period: Duration) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // SAFETY: an owned descriptor is always the same one, open as long as its owner is there.
        let ready = unsafe { AsyncFd::register(timer.as_fd().try_clone_to_owned()?) }?;
        let mut tick = Self { timer, ready, period: Duration::ZERO };
        tick.pace(period)?;
        Ok(tick)
    }

    /// Ticks so often from now on.
    ///
    /// # Errors
    /// When the kernel does not set the timer.
    pub(super) fn pace(&mut self, period: Duration) -> io::Result<()> {
        if self.period != period {
            let interval = Expiration::Interval(TimeSpec::from_duration(period));
            self.timer.set(interval, TimerSetTimeFlags::empty())?;
            self.period = period;
        }
        Ok(())
    }

    /// Waits for the next tick; those that were missed count as one. Can be dropped at any point and
    /// called again.
    pub(super) async fn next(&self) {
        // An error would be one of our own: it counts as a tick, so that the watchdog is fed.
        while let Ok(mut ready) = self.ready.readable().await {
            if ready.try_io(|timer| Ok(read(timer, &mut [0; 8])?)).is_ok() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::block_on;
    use std::time::Instant;

    #[test]
    fn it_ticks_again_and_again_and_what_was_missed_counts_once() {
        block_on(async {
            let (begin, tick) = (Instant::now(), Tick::new(Duration::from_millis(40)).unwrap());
            tick.next().await;
            assert!(begin.elapsed() >= Duration::from_millis(40), "{:?}", begin.elapsed());
            std::thread::sleep(Duration::from_millis(200));
            for _ in 0..3 {
                tick.next().await;
            }
            assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn another_period_counts_at_once() {
        block_on(async {
            let mut tick = Tick::new(Duration::from_secs(3600)).unwrap();
            tick.pace(Duration::from_millis(1)).unwrap();
            tokio::time::timeout(Duration::from_secs(60), tick.next()).await.unwrap();
            Ok(())
        })
        .unwrap();
    }
}

//! Whether anything moves: the ground on which a hanging target is given up, and on
//! which systemd is asked for more time; and how much was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How often systemd is told that work goes on.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// For how long the unit may then go on without another word.
const EXTENSION: Duration = Duration::from_secs(90);
/// How often what is waited for counts as something that moves.
const MOVES_EVERY: Duration = Duration::from_secs(5);

/// When something moved last, shared by all who move something.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    moved: AtomicU64,
    sent: AtomicU64,
    told: AtomicU64,
    /// When the target was asked something last, in microseconds,
    asked: AtomicU64,
    /// and the shortest time after which it answered.
    round_trip: AtomicU64,
    /// Over how many connections.
    lanes: AtomicU64,
}

impl Progress {
    pub fn start() -> Self {
        let (moved, sent, told, asked) = Default::default();
        let (round_trip, lanes) = (AtomicU64::new(u64::MAX), AtomicU64::new(1));
        Self(Arc::new(Shared { start: Instant::now(), moved, sent, told, asked, round_trip, lanes }))
    }

    /// Something moved now. Now and then this extends the unit's start timeout.
    pub fn moved(&self) {
        let now = self.now();
        self.0.moved.store(now, Ordering::Relaxed);
        let told = self.0.told.load(Ordering::Relaxed);
        if now.saturating_sub(told) >= TELL_EVERY.as_millis() as u64 {
            self.0.told.store(now, Ordering::Relaxed);
            let extension = NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32);
            if let Err(why) = sd_notify::notify(&[extension]) {
                tracing::debug!("cannot ask systemd for more time: {why}");
            }
        }
    }

    /// Waits for what ends in time by itself, and counts as moving until then.
    pub(crate) async fn during<T>(&self, waited_for: impl Future<Output = T>) -> T {
        let mut waited_for = std::pin::pin!(waited_for);
        loop {
            match tokio::time::timeout(MOVES_EVERY, &mut waited_for).await {
                Ok(done) => return done,
                Err(_) => self.moved(),
            }
        }
    }

    /// So many bytes more went to the target.
    pub(crate) fn sent(&self, bytes: usize) {
        self.0.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved();
    }

    /// How many bytes that were.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// What is sent goes over so many connections from now on.
    pub(crate) fn spread(&self, lanes: u64) {
        self.0.lanes.store(lanes, Ordering::Relaxed);
    }

    /// Over how many connections it goes.
    pub(crate) fn lanes(&self) -> u64 {
        self.0.lanes.load(Ordering::Relaxed)
    }

    /// The target is asked something.
    pub(crate) fn asked(&self) {
        self.0.asked.store(self.now_exactly().max(1), Ordering::Relaxed);
    }

    /// The target said something: if it was asked before, that is the answer.
    pub(crate) fn answered(&self) {
        let asked = self.0.asked.swap(0, Ordering::Relaxed);
        if asked > 0 {
            self.answered_within(Duration::from_micros(self.now_exactly().saturating_sub(asked)));
        }
    }

    /// The target was asked something, and answered so much later.
    pub(crate) fn answered_within(&self, time: Duration) {
        self.0.round_trip.fetch_min(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// How long the way there and back takes at most, if anything was asked yet.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let shortest = self.0.round_trip.load(Ordering::Relaxed);
        (shortest < u64::MAX).then(|| Duration::from_micros(shortest))
    }

    /// For how long nothing has moved.
    pub fn idle(&self) -> Duration {
        self.idle_at(self.now())
    }

    /// Whoever moves something meanwhile does so later than that.
    fn idle_at(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.0.moved.load(Ordering::Relaxed)))
    }

    fn now_exactly(&self) -> u64 {
        self.0.start.elapsed().as_micros() as u64
    }

    fn now(&self) -> u64 {
        self.0.start.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_while_it_is_looked_whether_anything_does_is_no_hanging() {
        let progress = Progress::start();
        let looked = progress.now();
        std::thread::sleep(Duration::from_millis(5));
        progress.moved();
        assert_eq!(progress.idle_at(looked), Duration::ZERO);
    }
}

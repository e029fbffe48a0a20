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

/// When something moved last, shared by all who move something.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    moved: AtomicU64,
    sent: AtomicU64,
    told: AtomicU64,
}

impl Progress {
    pub fn start() -> Self {
        let (moved, sent, told) = Default::default();
        Self(Arc::new(Shared { start: Instant::now(), moved, sent, told }))
    }

    /// Something moved now. Now and then this extends the unit's start timeout.
    pub fn moved(&self) {
        let now = self.now();
        self.0.moved.store(now, Ordering::Relaxed);
        let told = self.0.told.load(Ordering::Relaxed);
        if now - told >= TELL_EVERY.as_millis() as u64 {
            self.0.told.store(now, Ordering::Relaxed);
            let extension = NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32);
            if let Err(why) = sd_notify::notify(&[extension]) {
                tracing::debug!("cannot ask systemd for more time: {why}");
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

    /// For how long nothing has moved.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.now() - self.0.moved.load(Ordering::Relaxed))
    }

    fn now(&self) -> u64 {
        self.0.start.elapsed().as_millis() as u64
    }
}

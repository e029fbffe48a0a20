//! Whether anything moves: the ground on which a hanging target is given up, and on
//! which systemd is asked for more time.

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
    told: AtomicU64,
}

impl Progress {
    pub fn start() -> Self {
        let shared = Shared { start: Instant::now(), moved: AtomicU64::new(0), told: AtomicU64::new(0) };
        Self(Arc::new(shared))
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

    /// For how long nothing has moved.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.now() - self.0.moved.load(Ordering::Relaxed))
    }

    fn now(&self) -> u64 {
        self.0.start.elapsed().as_millis() as u64
    }
}

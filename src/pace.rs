//! How fast a session sends: no faster than its limit, and not while tags are being served.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::lock;
use crate::progress::Progress;

/// Time that was not used may be made up for, up to so much of it.
const SLACK: Duration = Duration::from_millis(50);
/// How often to look whether tags are still being served,
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// and for how long to make way at most: then a piece goes all the same, or the target would take
/// the session for dead.
const WAY_MAX: Duration = Duration::from_secs(120);

/// What a session keeps to.
#[derive(Clone, Debug)]
pub struct Pace {
    /// In bytes a second; none for as fast as the line is.
    limit: Option<u64>,
    /// While somebody holds this lock, nothing is sent.
    way_for: Option<PathBuf>,
    /// When that was last looked at.
    looked: Option<Instant>,
    /// When the line would be done with all that was sent, at the limit.
    done: Instant,
}

impl Pace {
    /// At most `limit` bytes a second (0: no limit), and nothing while the lock `way_for` is held.
    pub fn new(limit: u64, way_for: Option<PathBuf>) -> Self {
        Self { limit: (limit > 0).then_some(limit), way_for, looked: None, done: Instant::now() }
    }

    /// Waits until so many bytes may be sent.
    pub(crate) async fn turn(&mut self, bytes: usize, progress: &Progress) {
        self.make_way(progress).await;
        let Some(limit) = self.limit else { return };
        self.done = self.done.max(Instant::now() - SLACK)
            + Duration::from_secs(1).mul_f64(bytes as f64 / limit as f64);
        sleep_until(self.done).await;
    }

    async fn make_way(&mut self, progress: &Progress) {
        let Some(lock) = &self.way_for else { return };
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        let begin = Instant::now();
        while begin.elapsed() < WAY_MAX && lock::is_held(lock) {
            progress.moved();
            sleep(LOOK_EVERY).await;
        }
        self.looked = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work);
    }

    #[test]
    fn a_limit_is_kept() {
        block_on(async {
            let (begin, mut pace) = (Instant::now(), Pace::new(1_000_000, None));
            for _ in 0..20 {
                pace.turn(25_000, &Progress::start()).await;
            }
            // Half a second's worth, less what may be made up for.
            assert!(begin.elapsed() >= Duration::from_millis(450), "{:?}", begin.elapsed());
        });
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        block_on(async {
            let mut pace = Pace::new(0, None);
            let turns = async { pace.turn(usize::MAX, &Progress::start()).await };
            tokio::time::timeout(Duration::from_secs(30), turns).await.unwrap();
        });
    }

    #[test]
    fn bulk_makes_way_as_long_as_the_lock_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock::take(&path, "a transfer").unwrap();
        block_on(async {
            let mut pace = Pace::new(0, Some(path));
            let progress = Progress::start();
            let soon = tokio::time::timeout(Duration::from_millis(300), pace.turn(1, &progress)).await;
            assert!(soon.is_err(), "it did not make way");
            drop(held);
            tokio::time::timeout(Duration::from_secs(30), pace.turn(1, &progress)).await.unwrap();
        });
    }
}

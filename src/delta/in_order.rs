//! Work on several cores whose results are wanted in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

/// How many results may wait for one before them: what is ready stays small, too.
const AHEAD: usize = 8;

/// Does `work` on each number below `count`, on so many threads, and hands what comes of it to `take` in
/// order. Ends early when `take` fails.
pub(super) fn in_order<T: Send, E>(
    threads: usize,
    count: usize,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.min(count);
    if threads < 2 {
        return (0..count).try_for_each(|number| take(work(number)));
    }
    let (next, gate) = (AtomicUsize::new(0), Gate::default());
    let (work, next, gate) = (&work, &next, &gate);
    thread::scope(|scope| {
        let (tell, done) = channel();
        for _ in 0..threads {
            let tell = tell.clone();
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count || !gate.wait_for(number) || tell.send((number, work(number))).is_err()
                    {
                        return;
                    }
                }
            });
        }
        drop(tell);
        let (mut ready, mut taken) = (BTreeMap::new(), 0);
        for (number, result) in done {
            ready.insert(number, result);
            while let Some(result) = ready.remove(&taken) {
                taken += 1;
                let ended = take(result);
                gate.open(if ended.is_ok() { Some(taken) } else { None });
                ended?;
            }
        }
        Ok(())
    })
}

/// How far the work may go: `None` when nobody wants it any more.
struct Gate {
    taken: Mutex<Option<usize>>,
    moved: Condvar,
}

impl Default for Gate {
    fn default() -> Self {
        Self { taken: Mutex::new(Some(0)), moved: Condvar::new() }
    }
}

impl Gate {
    fn wait_for(&self, number: usize) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while taken.is_some_and(|taken| number >= taken + AHEAD) {
            taken = self.moved.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        taken.is_some()
    }

    fn open(&self, taken: Option<usize>) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = taken;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREADS: usize = 4;

    #[test]
    fn results_come_in_order_and_not_too_far_ahead() {
        let (begun, mut taken) = (AtomicUsize::new(0), Vec::new());
        let work = |number: usize| {
            begun.fetch_add(1, Relaxed);
            number * 2
        };
        let take = |result| {
            taken.push(result);
            assert!(begun.load(Relaxed) <= taken.len() + AHEAD + THREADS);
            Ok::<(), ()>(())
        };
        in_order(THREADS, 1000, work, take).unwrap();
        assert_eq!(taken, (0..1000).map(|number| number * 2).collect::<Vec<_>>());
    }

    #[test]
    fn a_failure_ends_the_work() {
        let take = |number| if number == 5 { Err("enough") } else { Ok(()) };
        assert_eq!(in_order(THREADS, 1000, |number| number, take), Err("enough"));
    }
}

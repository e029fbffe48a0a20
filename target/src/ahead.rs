//! Reading ahead: a thread reads what comes, so that who sends can go on while that is worked on.
//!
//! What waits is bounded. Where it is full, nothing is read until half of it is taken: a reader that goes on
//! after each piece would cost as many switches between the two threads, and to who sends, as there are
//! pieces.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many bytes are read at a time: what a pipe holds.
pub(crate) const PIECE: usize = 64 << 10;

/// What was read, and waits to be taken.
pub(crate) struct Ahead {
    state: Mutex<State>,
    /// There is something to take, or room for more.
    changed: Condvar,
}

struct State {
    /// How many bytes may wait.
    most: usize,
    pieces: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether nothing more is read for now.
    full: bool,
    /// How the input ended.
    end: Option<io::Result<()>>,
    /// Whether nobody takes anything any more.
    left: bool,
}

impl State {
    /// Has more read where enough was taken; whether it was full.
    fn refill(&mut self) -> bool {
        self.full && {
            self.full = self.bytes > self.most / 2;
            !self.full
        }
    }
}

/// What is there to be taken.
pub(crate) enum Taken {
    Piece(Vec<u8>),
    /// Nothing came in time.
    Nothing,
    End,
}

impl Ahead {
    /// At most `most` bytes wait, and a piece more.
    pub(crate) fn new(most: usize) -> Self {
        let (pieces, bytes) = Default::default();
        let state = State { most, pieces, bytes, full: false, end: None, left: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// At most so many wait from now on, and two pieces more, once what waits now is taken.
    pub(crate) fn limit(&self, most: usize) {
        let mut state = self.state();
        state.most = most;
        if state.refill() {
            self.changed.notify_all();
        }
    }

    /// Reads to the end, or until nobody takes what is read.
    pub(crate) fn read(&self, mut from: impl Read) {
        loop {
            let mut piece = vec![0; PIECE];
            match from.read(&mut piece) {
                Ok(0) => return self.end(Ok(())),
                Ok(came) => piece.truncate(came),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                Err(why) => return self.end(Err(why)),
            }
            if !self.add(piece) {
                return;
            }
        }
    }

    /// Says how the input ended.
    pub(crate) fn end(&self, how: io::Result<()>) {
        self.state().end = Some(how);
        self.changed.notify_all();
    }

    /// Whether something can be taken without waiting (an end of the input counts).
    pub(crate) fn is_ready(&self) -> bool {
        let state = self.state();
        !state.pieces.is_empty() || state.end.is_some()
    }

    /// The next piece, once it is there.
    ///
    /// # Errors
    /// The input's, once.
    pub(crate) fn take(&self, patience: Duration) -> io::Result<Taken> {
        let waits = |state: &mut State| state.pieces.is_empty() && state.end.is_none();
        let waited = self.changed.wait_timeout_while(self.state(), patience, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(piece) = state.pieces.pop_front() else {
            return match state.end.as_mut() {
                Some(end) => std::mem::replace(end, Ok(())).map(|()| Taken::End),
                None => Ok(Taken::Nothing),
            };
        };
        state.bytes -= piece.len();
        if state.refill() {
            self.changed.notify_all();
        }
        Ok(Taken::Piece(piece))
    }

    /// Nothing will be taken any more.
    pub(crate) fn leave(&self) {
        self.state().left = true;
        self.changed.notify_all();
    }

    /// Has a piece wait to be taken, and waits for room; whether anybody takes any.
    fn add(&self, piece: Vec<u8>) -> bool {
        let mut state = self.state();
        state.bytes += piece.len();
        state.full = state.bytes >= state.most;
        state.pieces.push_back(piece);
        if state.pieces.len() == 1 {
            self.changed.notify_all();
        }
        let waited = self.changed.wait_while(state, |state| state.full && !state.left);
        !waited.unwrap_or_else(PoisonError::into_inner).left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LONG: Duration = Duration::from_secs(60);

    /// Gives a piece at each call, and counts them.
    struct Endless(Arc<AtomicUsize>);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(buffer.len())
        }
    }

    /// Reads from `from` ahead, in a thread of its own.
    fn reading(pieces: usize, from: impl Read + Send + 'static) -> (Arc<Ahead>, std::thread::JoinHandle<()>) {
        let ahead = Arc::new(Ahead::new(pieces * PIECE));
        let reads = ahead.clone();
        (ahead, std::thread::spawn(move || reads.read(from)))
    }

    fn wait_for(count: &AtomicUsize, wanted: usize) {
        let begin = std::time::Instant::now();
        while count.load(Ordering::Relaxed) != wanted {
            assert!(begin.elapsed() < LONG, "{} instead of {wanted}", count.load(Ordering::Relaxed));
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_full_is_filled_again_when_half_of_it_was_taken() {
        let count = Arc::new(AtomicUsize::new(0));
        let (ahead, reader) = reading(4, Endless(count.clone()));
        wait_for(&count, 4);
        let take = || assert!(matches!(ahead.take(LONG), Ok(Taken::Piece(_))));
        take();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(count.load(Ordering::Relaxed), 4, "most of it waits still");
        take();
        wait_for(&count, 6);
        ahead.leave();
        reader.join().unwrap();
    }

    #[test]
    fn a_lower_limit_holds_once_what_waits_is_taken() {
        let count = Arc::new(AtomicUsize::new(0));
        let (ahead, reader) = reading(6, Endless(count.clone()));
        wait_for(&count, 6);
        ahead.limit(2 * PIECE);
        let take = || assert!(matches!(ahead.take(LONG), Ok(Taken::Piece(_))));
        (0..4).for_each(|_| take());
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(count.load(Ordering::Relaxed), 6, "enough waits still");
        take();
        wait_for(&count, 7);
        ahead.limit(6 * PIECE);
        wait_for(&count, 11);
        ahead.leave();
        reader.join().unwrap();
    }

    #[test]
    fn what_came_before_an_error_is_taken_before_it() {
        struct Breaks;
        impl Read for Breaks {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let (ahead, reader) = reading(4, io::Cursor::new(b"first").chain(Breaks));
        reader.join().unwrap();
        assert!(ahead.is_ready());
        assert!(matches!(ahead.take(LONG), Ok(Taken::Piece(piece)) if piece == b"first"));
        assert!(ahead.is_ready(), "an end is ready to be taken");
        assert_eq!(ahead.take(LONG).err().unwrap().to_string(), "broken");
        assert!(matches!(ahead.take(LONG), Ok(Taken::End)));
    }

    #[test]
    fn what_does_not_come_is_not_waited_for_longer_than_asked() {
        let (silent, held) = nix::unistd::pipe().unwrap();
        let (ahead, reader) = reading(4, std::fs::File::from(silent));
        assert!(!ahead.is_ready());
        assert!(matches!(ahead.take(Duration::from_millis(5)), Ok(Taken::Nothing)));
        drop(held);
        reader.join().unwrap();
        assert!(matches!(ahead.take(LONG), Ok(Taken::End)));
    }
}

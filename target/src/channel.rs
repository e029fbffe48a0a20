//! The two ends of the channel to the host: what is read, what is said, and the pulse
//! that tells the host of work that goes on without a word.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::ahead::{Ahead, PIECE, Taken};
use crate::frame;
use crate::lanes::{Further, InOrder, Switch, spread_after};
use crate::message::{Outcome, PROTOCOL, ToHost};
use crate::partial::Partial;
use crate::refusal::End;

/// For how long a host may say nothing, and work may not move.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(600);
/// A host that said nothing for so long in the middle of a package may be gone: its package goes to
/// another session that wants it.
const YIELD_AFTER: Duration = Duration::from_secs(3);
/// How often to look whether one does.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many bytes may wait for what is done with them, and are lost when the program is killed.
const AHEAD_MAX: usize = 4 << 20;
/// So many may while lanes are waited for.
const AHEAD_SHORT: usize = 128 << 10;
// Of what goes over to lanes, nothing may have been read yet.
const _: () = assert!(spread_after(PROTOCOL) >= AHEAD_SHORT as u64 + 4 * PIECE as u64);
/// How often a host is told that work goes on.
const BEAT: Duration = Duration::from_secs(10);

/// What comes from the host. A thread reads ahead of what is done with it, so that the line goes on while
/// files are made; it ends with the input, or when nobody takes what it read.
pub(crate) struct Input {
    ahead: Arc<Ahead>,
    /// What is being read now.
    piece: io::Cursor<Vec<u8>>,
    /// How many bytes were read.
    taken: u64,
    switch: Switch,
    silence_max: Duration,
    pulse: Arc<Pulse>,
}

impl Input {
    /// What comes from `file`. What was `said` before is there already, and comes once more.
    pub(crate) fn new(said: Vec<u8>, file: File, silence_max: Duration, pulse: Arc<Pulse>) -> Self {
        let ahead = Arc::new(Ahead::new(AHEAD_MAX));
        let (reads, again) = (ahead.clone(), said.clone());
        let switch = Switch::new();
        let switches = switch.clone();
        std::thread::spawn(move || match hear_again(&file, &again) {
            Ok(()) => reads.read(InOrder::new(file, again.len() as u64, switches)),
            Err(why) => reads.end(Err(why)),
        });
        Self { ahead, piece: io::Cursor::new(said), taken: 0, switch, silence_max, pulse }
    }

    /// The input will come by lanes as well, soon. What was read too far ahead by now was sent before the host can
    /// know that they are there.
    pub(crate) fn will_spread(&self) {
        self.ahead.limit(AHEAD_SHORT);
    }

    /// Behind so many bytes more, the input comes by these lanes as well.
    pub(crate) fn spread(&mut self, after: u64, lanes: Further) {
        self.switch.set(self.taken.saturating_add(after), lanes);
        self.ahead.limit(AHEAD_MAX);
    }

    /// Whether something can be read without waiting (an end of the input counts).
    pub(crate) fn is_ready(&self) -> bool {
        self.left() > 0 || self.ahead.is_ready()
    }

    fn left(&self) -> usize {
        self.piece.get_ref().len() - self.piece.position() as usize
    }

    /// Waits for more; none at the end of the input.
    fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let gone = |text: String| Err(io::Error::new(io::ErrorKind::TimedOut, text));
        let begin = Instant::now();
        loop {
            match self.ahead.take(LOOK_EVERY.min(self.silence_max))? {
                Taken::Piece(piece) => return Ok(Some(piece)),
                Taken::End => return Ok(None),
                Taken::Nothing => {}
            }
            let silent = begin.elapsed();
            if silent >= self.silence_max {
                return gone(format!("nothing came from the host for {} s", self.silence_max.as_secs()));
            }
            if silent >= YIELD_AFTER && self.pulse.is_wanted() {
                return gone(
                    "nothing came from the host, and another session goes on with the package".into(),
                );
            }
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left() == 0 {
            let Some(piece) = self.next()? else { return Ok(0) };
            self.pulse.moved();
            self.piece = io::Cursor::new(piece);
        }
        let read = self.piece.read(buffer)?;
        self.taken += read as u64;
        Ok(read)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.ahead.leave();
    }
}

/// Reads what was said before once more. An input that ends before is left to who reads on.
fn hear_again(mut file: &File, again: &[u8]) -> io::Result<()> {
    let mut said = vec![0; again.len()];
    match file.read_exact(&mut said) {
        Ok(()) if said != again => {
            Err(io::Error::other("what the host says first is not what it said on the command line"))
        }
        Err(why) if why.kind() != io::ErrorKind::UnexpectedEof => Err(why),
        _ => Ok(()),
    }
}

/// What is said to the host, and how many answers of each kind were given.
pub(crate) struct Output {
    said: Mutex<Said>,
}

struct Said {
    file: File,
    tally: Tally,
}

/// How many packages and links ended how.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) committed: u64,
    pub(crate) unchanged: u64,
    pub(crate) refused: u64,
}

impl Output {
    pub(crate) fn new(file: File) -> Self {
        Self { said: Mutex::new(Said { file, tally: Tally::default() }) }
    }

    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), End> {
        io::Write::write_all(&mut self.lock().file, bytes).map_err(gone)
    }

    pub(crate) fn say(&self, message: &ToHost) -> Result<(), End> {
        self.raw(&frame::message(message))
    }

    /// Says how it ended with a package or link.
    pub(crate) fn answer(&self, number: u64, outcome: Outcome) -> Result<(), End> {
        let mut said = self.lock();
        match outcome {
            Outcome::Committed { .. } => said.tally.committed += 1,
            Outcome::Unchanged => said.tally.unchanged += 1,
            Outcome::Refused(_) => said.tally.refused += 1,
        }
        let answer = frame::message(&ToHost::Outcome { number, outcome });
        io::Write::write_all(&mut said.file, &answer).map_err(gone)
    }

    pub(crate) fn tally(&self) -> Tally {
        self.lock().tally
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(why: io::Error) -> End {
    End::Cut(format!("the host does not listen any more: {why}"))
}

/// Whether there is work in hand, and when something last moved in it.
pub(crate) struct Pulse {
    start: Instant,
    /// In milliseconds since `start`.
    moved: AtomicU64,
    busy: AtomicBool,
    /// How many packages and links wait to be committed.
    waiting: AtomicUsize,
    /// The package that is being received, if another session can go on with it.
    holds: Mutex<Weak<Partial>>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let (moved, busy) = (AtomicU64::new(0), AtomicBool::new(false));
        let (waiting, holds) = (AtomicUsize::new(0), Mutex::default());
        Self { start: Instant::now(), moved, busy, waiting, holds }
    }

    pub(crate) fn moved(&self) {
        self.moved.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// So many packages and links go to be committed.
    pub(crate) fn waits(&self, count: usize) {
        self.waiting.fetch_add(count, Ordering::Relaxed);
    }

    /// So many of them are.
    pub(crate) fn committed(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// Something of the host's is in hand from now on, or is not.
    pub(crate) fn busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// The package that is being received from now on.
    pub(crate) fn holds(&self, partial: Weak<Partial>) {
        *self.holds.lock().unwrap_or_else(PoisonError::into_inner) = partial;
    }

    /// Whether another session waits for it.
    fn is_wanted(&self) -> bool {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.upgrade().is_some_and(|partial| partial.is_wanted())
    }

    /// Whether work is in hand that moved within `time`.
    fn beats(&self, time: Duration) -> bool {
        let works = self.busy.load(Ordering::Relaxed) || self.waiting.load(Ordering::Relaxed) > 0;
        works && self.rested() < time
    }

    /// For how long nothing has moved.
    pub(crate) fn rested(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    /// Tells the host, from a thread of its own, for as long as the process lives.
    pub(crate) fn tell(self: Arc<Self>, output: Arc<Output>) {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(BEAT);
                if self.beats(SILENCE_MAX) && output.say(&ToHost::Alive).is_err() {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_host_is_given_up() {
        let (silent, _held) = nix::unistd::pipe().unwrap();
        let mut input =
            Input::new(Vec::new(), silent.into(), Duration::from_millis(20), Arc::new(Pulse::new()));
        assert!(!input.is_ready());
        assert_eq!(input.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_pulse_beats_for_work_that_moves() {
        let pulse = Pulse::new();
        assert!(!pulse.beats(SILENCE_MAX), "no work is in hand");
        pulse.busy(true);
        assert!(pulse.beats(SILENCE_MAX));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!pulse.beats(Duration::from_millis(10)), "nothing moved");
        pulse.moved();
        assert!(pulse.beats(Duration::from_secs(1)));
    }
}

//! The press: threads that pack what the packer reads, so that reading and packing overlap.
//!
//! All packages of a session go through one zstd stream, flushed at each package's end, so that
//! packages share what they have in common (a window of 32 MiB, with long-distance matching) and
//! each can be committed at once. Everything keeps the order in which it is handed in.
//!
//! Where one thread packs less than the line takes, the stream is cut into batches, which two threads pack
//! in turns. What is packed of one before its turn comes waits in a queue of its own.

mod level;
mod line;
mod packing;
mod stream;
mod worker;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{self as std_mpsc, SyncSender};

use blat_target::message::ToTarget;
use tokio::sync::mpsc;

pub(crate) use self::level::frames_ahead;
use self::level::{Choice, is_near};
use self::line::Way;
pub(crate) use self::packing::Packing;
use self::worker::Common;
use crate::buffers::{Buffer, Pool};
use crate::failure::{Needs, Result};
use crate::outlet::Outgoing;
use crate::progress::Progress;
use crate::ready::Ready;
use crate::session::Heard;

/// The packed stream is cut into pieces of so many bytes. With its header, one stays below the 128 KiB from
/// which on the allocator has the kernel make fresh memory for each.
pub(crate) const PIECE: usize = 120 << 10;
/// What is read is handed over in pieces of so many bytes,
const PLAIN: usize = 256 << 10;
/// and so many of them may wait.
const PIECES_AHEAD: usize = 16;
/// A batch has so many bytes, at least: in batches of half the size, the stream is 3 % longer.
const BATCH: usize = 64 << 20;
/// The first is shorter, for the second thread waits for it to be read.
const FIRST_BATCH: usize = 32 << 20;
/// How many pieces may wait where two threads pack: 32 MiB, so that each has some of its batch.
const PIECES_AHEAD_OF_TWO: usize = 128;
/// How many frames of a batch may wait for its turn: some 12 MiB,
const WAITING: usize = 100;
/// and of so many batches, with the one whose turn it is.
const BATCHES: usize = 4;

/// What a thread of the press does next.
enum Step {
    Pack(Buffer),
    /// All that was packed so far shall go out.
    Flush,
    /// What was packed before.
    Ready(Ready),
    Say(ToTarget),
    Tell(Heard),
    /// Here the batch ends; where it goes on.
    End(Outgoing),
    /// Here one begins, which goes there.
    Begin(Way),
}

/// The packer's end of the press. What is written to it is packed.
pub(crate) struct Press {
    plain: Vec<u8>,
    /// For what is read: the pieces that wait, those that are packed, and the one that is filled.
    pool: Pool,
    common: Common,
    /// What the threads do; they are started when they are needed.
    threads: Vec<SyncSender<Step>>,
    threads_max: usize,
    /// The one of the current batch.
    thread: usize,
    batch: Batch,
    /// The batches before, the oldest first. A word comes from each that is over, or an error.
    before: VecDeque<std_mpsc::Receiver<()>>,
}

/// The current batch.
struct Batch {
    frames: mpsc::Sender<Outgoing>,
    bytes: usize,
    /// From so many on it may end.
    enough: usize,
}

impl Press {
    /// Starts a thread, and more when they are needed, up to so many. They end with this end, or when nobody
    /// takes their frames any more.
    pub(crate) fn start(
        window_log: u32,
        threads_max: usize,
        frames: mpsc::Sender<Outgoing>,
        hear: mpsc::Sender<Heard>,
        progress: Progress,
    ) -> Self {
        let threads_max = if is_near(progress.round_trip()) { 1 } else { threads_max };
        let ahead = if threads_max == 1 { PIECES_AHEAD } else { PIECES_AHEAD_OF_TWO };
        let common = Common { window_log, choice: Choice::new(progress), hear };
        let first = common.start(Way { frames: frames.clone(), before: None });
        Self {
            plain: Vec::with_capacity(PLAIN),
            pool: Pool::new(ahead + threads_max + 1),
            common,
            threads: vec![first],
            threads_max,
            thread: 0,
            batch: Batch { frames, bytes: 0, enough: FIRST_BATCH },
            before: VecDeque::new(),
        }
    }

    /// Sends a message, behind what was flushed before.
    pub(crate) fn say(&self, message: ToTarget) -> Result<()> {
        self.step(Step::Say(message)).later("cannot send")
    }

    /// Tells the session something, once all that was flushed before is on its way.
    pub(crate) fn tell(&self, heard: Heard) -> Result<()> {
        self.step(Step::Tell(heard)).later("cannot send")
    }

    /// Hands over a package that is packed already.
    pub(crate) fn ready(&self, ready: Ready) -> Result<()> {
        self.step(Step::Ready(ready)).later("cannot send")
    }

    fn step(&self, step: Step) -> io::Result<()> {
        self.threads[self.thread].send(step).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let is_enough = self.threads_max > 1 && self.batch.bytes >= self.batch.enough;
        if is_enough && self.common.choice.packs_too_little() {
            self.begin_batch()?;
        }
        let plain = self.pool.buffer(std::mem::take(&mut self.plain));
        self.batch.bytes += plain.len();
        self.step(Step::Pack(plain))?;
        self.plain = self.pool.memory();
        self.plain.reserve(PLAIN);
        Ok(())
    }

    /// Has the next thread go on.
    fn begin_batch(&mut self) -> io::Result<()> {
        if self.before.len() == BATCHES - 1
            && let Some(first) = self.before.pop_front()
        {
            let _ = first.recv();
        }
        let (frames, to_send) = mpsc::channel(WAITING);
        let (over, is_over) = std_mpsc::channel();
        self.step(Step::End(Outgoing::Next(to_send, over)))?;
        self.before.push_back(is_over);
        let batch = Batch { frames: frames.clone(), bytes: 0, enough: BATCH };
        let before = std::mem::replace(&mut self.batch, batch).frames;
        let way = Way { frames, before: Some(before) };
        self.thread = (self.thread + 1) % self.threads_max;
        if self.thread < self.threads.len() {
            return self.step(Step::Begin(way));
        }
        self.threads.push(self.common.start(way));
        Ok(())
    }
}

impl Write for Press {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PLAIN - self.plain.len());
        self.plain.extend_from_slice(&bytes[..taken]);
        if self.plain.len() == PLAIN {
            self.hand_over()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_over()?;
        self.step(Step::Flush)
    }
}

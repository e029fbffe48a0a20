//! The batches of a session, which threads pack in turns.

use std::io;
use std::sync::mpsc::Sender;

use tokio::sync::mpsc;

use super::Step;
use super::line::Way;
use super::worker::Common;
use crate::buffers::Buffer;
use crate::outlet::Outgoing;

/// A batch is as long as this at least,
const ENOUGH: Enough = Enough { at_name: 32 << 20, anywhere: 96 << 20 };
/// but for those at the beginning: the first is as long as this, and each then so many times as long as the one
/// before. Else the second thread would do nothing for half a second; the stream is 0.4 % longer for it.
pub(super) const FIRST: usize = 4 << 20;
const TIMES: usize = 3;
/// How many frames of a batch may wait for its turn: some 12 MiB;
const WAITING: usize = 100;
/// and so many batches may be on their way, or wait.
pub(super) const BATCHES: usize = 4;

/// How many bytes are enough for a batch.
#[derive(Clone, Copy)]
pub(super) struct Enough {
    /// Where packages of another name begin: of a real archive, the stream is 0.7 % longer for it; with twice as
    /// many bytes 0.4 %.
    pub(super) at_name: usize,
    /// Wherever it may be. With as few, the stream would be 3 % longer: what comes next is like what was before.
    pub(super) anywhere: usize,
}

/// Has what is handed in packed, in its order.
pub(super) struct Batches {
    pub(super) common: Common,
    /// What the threads do; they are started when they are needed.
    threads: Vec<Sender<Step>>,
    threads_max: usize,
    pub(super) enough: Enough,
    /// What is enough for the current one at the beginning.
    pub(super) soon: usize,
    /// The thread that packs the current batch,
    thread: usize,
    /// where it goes,
    frames: mpsc::Sender<Outgoing>,
    /// and how many bytes it has.
    pub(super) bytes: usize,
    /// Where those before go that are not over.
    before: Vec<mpsc::Sender<Outgoing>>,
}

impl Batches {
    /// Starts a thread, and more when they are needed, up to so many.
    pub(super) fn start(common: Common, threads_max: usize, frames: mpsc::Sender<Outgoing>) -> Self {
        let first = common.start(Way { frames: frames.clone(), before: None });
        Self {
            common,
            threads: vec![first],
            threads_max,
            enough: ENOUGH,
            soon: FIRST,
            thread: 0,
            frames,
            bytes: 0,
            before: Vec::new(),
        }
    }

    /// # Errors
    /// If nobody takes what comes out any more.
    pub(super) fn step(&self, step: Step) -> io::Result<()> {
        self.threads[self.thread].send(step).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Packs some bytes; where a package begins that is of another name than what was before, says `is_new`, and
    /// where more comes than one thread packs, `is_much`.
    pub(super) fn pack(&mut self, plain: Buffer, is_new: bool, is_much: bool) -> io::Result<()> {
        if !plain.is_empty() && self.is_to_end(is_new, is_much) {
            self.begin()?;
        }
        self.bytes += plain.len();
        self.step(Step::Pack(plain, is_new))
    }

    /// Whether the current batch should end here: where it has enough, the line would take more than is packed,
    /// and few enough wait.
    pub(super) fn is_to_end(&mut self, is_new: bool, is_much: bool) -> bool {
        let enough = if is_new { self.enough.at_name } else { self.enough.anywhere };
        let enough = if is_much { enough.min(self.soon) } else { enough };
        if self.threads_max == 1 || self.bytes < enough || !self.common.choice.packs_too_little() {
            return false;
        }
        self.before.retain(|frames| !frames.is_closed());
        self.before.len() < BATCHES - 1
    }

    /// Has the next thread go on with another batch.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        tracing::debug!("another thread packs on, behind a batch of {} bytes", self.bytes);
        let (frames, rest) = mpsc::channel(WAITING);
        self.step(Step::End(rest))?;
        self.before.push(std::mem::replace(&mut self.frames, frames.clone()));
        self.bytes = 0;
        self.soon = self.soon.saturating_mul(TIMES);
        self.thread = (self.thread + 1) % self.threads_max;
        let way = Way { frames, before: self.before.last().cloned() };
        if self.thread < self.threads.len() {
            return self.step(Step::Begin(way));
        }
        self.threads.push(self.common.start(way));
        Ok(())
    }
}

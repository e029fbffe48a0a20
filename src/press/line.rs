//! The way to the line, for what one thread packs.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use blat_target::frame;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::PIECE;
use super::level::AHEAD;
use crate::outlet::{Bytes, Outgoing};
use crate::ready::Ready;

/// Where the frames of a batch go.
pub(super) struct Way {
    pub(super) frames: mpsc::Sender<Outgoing>,
    /// Where those of the batch before go, if there is one.
    pub(super) before: Option<mpsc::Sender<Outgoing>>,
}

impl Way {
    /// Whether what goes here is put out at once: else it waits for its turn.
    fn is_first(&self) -> bool {
        self.before.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Puts something into the queue; for how long there was no room for it.
    fn hand_over(&self, outgoing: Outgoing) -> io::Result<Duration> {
        let outgoing = match self.frames.try_send(outgoing) {
            Ok(()) => return Ok(Duration::ZERO),
            Err(TrySendError::Full(outgoing) | TrySendError::Closed(outgoing)) => outgoing,
        };
        let begin = Instant::now();
        let sent = self.frames.blocking_send(outgoing);
        sent.map(|()| begin.elapsed()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// What is seen of the line's queue.
#[derive(Clone, Copy)]
pub(super) struct Queue {
    /// How full it is, from 0 to 1.
    pub(super) full: f64,
    /// For how long there was no room in it, since it was last looked at.
    pub(super) waited: Duration,
}

/// Where frames go: small ones together, so that the queue is as long in bytes as it is in frames.
#[derive(Clone)]
pub(super) struct Line(Rc<RefCell<Shared>>);

struct Shared {
    way: Way,
    small: Vec<u8>,
    /// For how long there was no room in the queue, since somebody asked.
    waited: Duration,
}

impl Line {
    pub(super) fn new(way: Way) -> Self {
        Self(Rc::new(RefCell::new(Shared { way, small: Vec::new(), waited: Duration::ZERO })))
    }

    pub(super) fn send(&self, frame: Vec<u8>) -> io::Result<()> {
        let mut shared = self.0.borrow_mut();
        if shared.small.len() + frame.len() > PIECE {
            shared.flush()?;
        }
        if frame.len() >= PIECE {
            return shared.hand_over(Outgoing::Bytes(Bytes::Frames(frame)));
        }
        shared.small.extend_from_slice(&frame);
        Ok(())
    }

    pub(super) fn send_ready(&self, ready: &Ready) -> io::Result<()> {
        self.flush()?;
        let mut shared = self.0.borrow_mut();
        let mut stretches = ready.stretches().map(|stretch| Outgoing::Bytes(Bytes::File(stretch)));
        stretches.try_for_each(|stretch| shared.hand_over(stretch))
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }

    /// Ends the batch, behind which the next one comes out of `rest`.
    pub(super) fn end(&self, rest: mpsc::Receiver<Outgoing>) -> io::Result<()> {
        self.flush()?;
        self.0.borrow_mut().hand_over(Outgoing::Next(rest))
    }

    /// Begins another batch, which goes there.
    pub(super) fn begin(&self, way: Way) {
        self.0.borrow_mut().way = way;
    }

    /// What is seen of the queue for the line; none where it is another that is put out now.
    pub(super) fn queue(&self) -> Option<Queue> {
        let mut shared = self.0.borrow_mut();
        let waited = std::mem::take(&mut shared.waited);
        let frames = &shared.way.frames;
        let (most, left) = (frames.max_capacity(), frames.capacity());
        let full = (most - left) as f64 / most.min(AHEAD) as f64;
        shared.way.is_first().then_some(Queue { full: full.min(1.0), waited })
    }
}

impl Shared {
    fn hand_over(&mut self, outgoing: Outgoing) -> io::Result<()> {
        self.waited += self.way.hand_over(outgoing)?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let small = std::mem::take(&mut self.small);
        if small.is_empty() { Ok(()) } else { self.hand_over(Outgoing::Bytes(Bytes::Frames(small))) }
    }
}

/// Cuts the packed stream into data frames.
pub(super) struct Pieces {
    piece: Vec<u8>,
    line: Line,
}

impl Pieces {
    pub(super) fn to(line: &Line) -> Self {
        Self { piece: Vec::with_capacity(PIECE), line: line.clone() }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let sent = self.line.send(frame::data(&self.piece));
        self.piece.clear();
        sent
    }
}

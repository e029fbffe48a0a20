//! The way to the line, for what one thread packs.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use blat_target::frame;
use tokio::sync::mpsc;

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

    fn hand_over(&self, outgoing: Outgoing) -> io::Result<()> {
        self.frames.blocking_send(outgoing).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// Where frames go: small ones together, so that the queue is as long in bytes as it is in frames.
#[derive(Clone)]
pub(super) struct Line(Rc<RefCell<Shared>>);

struct Shared {
    way: Way,
    small: Vec<u8>,
}

impl Line {
    pub(super) fn new(way: Way) -> Self {
        Self(Rc::new(RefCell::new(Shared { way, small: Vec::new() })))
    }

    pub(super) fn send(&self, frame: Vec<u8>) -> io::Result<()> {
        let mut shared = self.0.borrow_mut();
        if shared.small.len() + frame.len() > PIECE {
            shared.flush()?;
        }
        if frame.len() >= PIECE {
            return shared.way.hand_over(Outgoing::Bytes(Bytes::Frames(frame)));
        }
        shared.small.extend_from_slice(&frame);
        Ok(())
    }

    pub(super) fn send_ready(&self, ready: &Ready) -> io::Result<()> {
        self.flush()?;
        let shared = self.0.borrow();
        let mut stretches = ready.stretches().map(|stretch| Outgoing::Bytes(Bytes::File(stretch)));
        stretches.try_for_each(|stretch| shared.way.hand_over(stretch))
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }

    /// Ends the batch, behind which the next one comes out of `rest`.
    pub(super) fn end(&self, rest: mpsc::Receiver<Outgoing>) -> io::Result<()> {
        self.flush()?;
        self.0.borrow().way.hand_over(Outgoing::Next(rest))
    }

    /// Begins another batch, which goes there.
    pub(super) fn begin(&self, way: Way) {
        self.0.borrow_mut().way = way;
    }

    /// How full the queue for the line is, from 0 to 1; none where it is another that is put out now.
    pub(super) fn full(&self) -> Option<f64> {
        let way = &self.0.borrow().way;
        let (most, left) = (way.frames.max_capacity(), way.frames.capacity());
        let full = (most - left) as f64 / most.min(AHEAD) as f64;
        way.is_first().then_some(full.min(1.0))
    }
}

impl Shared {
    fn flush(&mut self) -> io::Result<()> {
        let small = std::mem::take(&mut self.small);
        if small.is_empty() { Ok(()) } else { self.way.hand_over(Outgoing::Bytes(Bytes::Frames(small))) }
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

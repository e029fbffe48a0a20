//! A batch's way to the line.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use blat_target::frame;
use tokio::sync::mpsc;

use super::PIECE;
use super::level::AHEAD;
use crate::outlet::Outgoing;
use crate::ready::Ready;

/// Where the frames of a batch go.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) frames: mpsc::Sender<Outgoing>,
    /// That of the batch before, for as long as it is not over.
    pub(super) before: Option<mpsc::Sender<Outgoing>>,
}

impl Way {
    /// Whether what goes here goes to the line: else it waits for its turn.
    fn is_first(&self) -> bool {
        self.before.as_ref().is_none_or(mpsc::Sender::is_closed)
    }
}

/// Where frames go: small ones together, so that the queue is as long in bytes as it is in frames.
#[derive(Clone)]
pub(super) struct Line {
    way: Way,
    small: Rc<RefCell<Vec<u8>>>,
}

impl Line {
    pub(super) fn new(way: Way) -> Self {
        Self { way, small: Rc::default() }
    }

    pub(super) fn send(&self, frame: Vec<u8>) -> io::Result<()> {
        if self.small.borrow().len() + frame.len() > PIECE {
            self.flush()?;
        }
        if frame.len() >= PIECE {
            return self.hand_over(Outgoing::Frames(frame));
        }
        self.small.borrow_mut().extend_from_slice(&frame);
        Ok(())
    }

    pub(super) fn send_ready(&self, ready: &Ready) -> io::Result<()> {
        self.flush()?;
        ready.stretches().try_for_each(|stretch| self.hand_over(Outgoing::File(stretch)))
    }

    /// Says that this was the batch, and what comes next.
    pub(super) fn end(&self, next: Outgoing) -> io::Result<()> {
        self.flush()?;
        self.hand_over(next)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        let small = self.small.take();
        if small.is_empty() { Ok(()) } else { self.hand_over(Outgoing::Frames(small)) }
    }

    fn hand_over(&self, frames: Outgoing) -> io::Result<()> {
        self.way.frames.blocking_send(frames).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// How full the queue for the line is, from 0 to 1. None where this is not the one that is emptied now.
    pub(super) fn full(&self) -> Option<f64> {
        let frames = &self.way.frames;
        let full =
            || (frames.max_capacity() - frames.capacity()) as f64 / frames.max_capacity().min(AHEAD) as f64;
        self.way.is_first().then(full)
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

//! The press: a thread that packs what the packer reads, so that reading and packing overlap.
//!
//! All packages of a session go through one zstd stream, flushed at each package's end, so that
//! packages share what they have in common (a window of 32 MiB, with long-distance matching) and
//! each can be committed at once. Everything keeps the order in which it is handed in.

mod level;
mod packing;
mod stream;

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use blat_target::frame;
use blat_target::message::ToTarget;
use tokio::sync::mpsc;

use self::level::Levels;
pub(crate) use self::level::frames_ahead;
pub(crate) use self::packing::Packing;
use self::stream::Stream;
use crate::buffers::{Buffer, Pool};
use crate::failure::{Failure, Needs, Result};
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

/// What the press does next.
enum Step {
    Pack(Buffer),
    /// All that was packed so far shall go out.
    Flush,
    /// What was packed before.
    Ready(Ready),
    Say(ToTarget),
    Tell(Heard),
}

/// The packer's end of the press. What is written to it is packed.
pub(crate) struct Press {
    plain: Vec<u8>,
    steps: SyncSender<Step>,
    /// For what is read: the pieces that wait, the one that is packed, and the one that is filled.
    pool: Pool,
}

impl Press {
    /// Starts the thread. It ends with this end, or when nobody takes its frames any more.
    pub(crate) fn start(
        window_log: u32,
        frames: mpsc::Sender<Outgoing>,
        hear: mpsc::Sender<Heard>,
        progress: Progress,
    ) -> Self {
        let (steps, to_do) = sync_channel(PIECES_AHEAD);
        thread::spawn(move || {
            if let Err(failure) = work(&to_do, window_log, &Line::new(frames, progress), &hear) {
                // The session has ended already when this cannot be said any more.
                let _ = hear.blocking_send(Heard::Broken(failure));
            }
        });
        Self { plain: Vec::with_capacity(PLAIN), steps, pool: Pool::new(PIECES_AHEAD + 2) }
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
        self.steps.send(step).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let plain = self.pool.buffer(std::mem::take(&mut self.plain));
        self.step(Step::Pack(plain))?;
        self.plain = self.pool.memory();
        self.plain.reserve(PLAIN);
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

fn work(
    steps: &Receiver<Step>,
    window_log: u32,
    line: &Line,
    hear: &mpsc::Sender<Heard>,
) -> Result<(), Failure> {
    let mut levels: Option<Levels> = None;
    // None behind what was packed before, and had its own end.
    let mut open: Option<Stream<Pieces>> = None;
    while let Some(step) = next(steps, line)? {
        match step {
            Step::Pack(plain) => {
                let levels =
                    levels.get_or_insert_with(|| Levels::new(line.progress.round_trip(), Instant::now()));
                if levels.choose(line.full(), Instant::now()) {
                    end(open.take())?;
                }
                let stream = match &mut open {
                    Some(stream) => stream,
                    None => {
                        let pieces = Pieces { piece: Vec::with_capacity(PIECE), line: line.clone() };
                        let stream = levels.packing(window_log).stream(pieces);
                        open.insert(stream.later("cannot start to pack")?)
                    }
                };
                stream.write_all(&plain).later("cannot send")?;
            }
            Step::Flush => open.as_mut().map_or(Ok(()), Write::flush).later("cannot send")?,
            Step::Ready(ready) => {
                end(open.take())?;
                line.send_ready(&ready).later("cannot send")?;
            }
            Step::Say(message) => line.send(frame::message(&message)).later("cannot send")?,
            Step::Tell(heard) => {
                line.flush().later("cannot send")?;
                hear.blocking_send(heard).later("the session is over")?;
            }
        }
        if let Some(levels) = &mut levels {
            levels.sent(line.progress.bytes_sent(), Instant::now());
        }
    }
    Ok(())
}

/// The next step. Before it is waited for, all frames are on their way.
fn next(steps: &Receiver<Step>, line: &Line) -> Result<Option<Step>> {
    match steps.try_recv() {
        Ok(step) => Ok(Some(step)),
        Err(_) => {
            line.flush().later("cannot send")?;
            Ok(steps.recv().ok())
        }
    }
}

/// Ends a stream, if there is one.
fn end(stream: Option<Stream<Pieces>>) -> Result<()> {
    let Some(stream) = stream else { return Ok(()) };
    stream.finish().and_then(|mut pieces| pieces.flush()).later("cannot send")
}

/// Where frames go: small ones together, so that the queue is as long in bytes as it is in frames.
#[derive(Clone)]
struct Line {
    frames: mpsc::Sender<Outgoing>,
    small: Rc<RefCell<Vec<u8>>>,
    progress: Progress,
}

impl Line {
    fn new(frames: mpsc::Sender<Outgoing>, progress: Progress) -> Self {
        Self { frames, small: Rc::default(), progress }
    }

    fn send(&self, frame: Vec<u8>) -> io::Result<()> {
        if self.small.borrow().len() + frame.len() > PIECE {
            self.flush()?;
        }
        if frame.len() >= PIECE {
            return self.hand_over(Outgoing::Frames(frame));
        }
        self.small.borrow_mut().extend_from_slice(&frame);
        Ok(())
    }

    fn send_ready(&self, ready: &Ready) -> io::Result<()> {
        self.flush()?;
        ready.stretches().try_for_each(|stretch| self.hand_over(Outgoing::File(stretch)))
    }

    fn flush(&self) -> io::Result<()> {
        let small = self.small.take();
        if small.is_empty() { Ok(()) } else { self.hand_over(Outgoing::Frames(small)) }
    }

    fn hand_over(&self, frames: Outgoing) -> io::Result<()> {
        self.frames.blocking_send(frames).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// How full the queue is, from 0 to 1.
    fn full(&self) -> f64 {
        1.0 - self.frames.capacity() as f64 / self.frames.max_capacity() as f64
    }
}

/// Cuts the packed stream into data frames.
struct Pieces {
    piece: Vec<u8>,
    line: Line,
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

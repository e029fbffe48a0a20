//! One of the threads of the press: it packs batches, each into a stream of its own.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use blat_target::frame;
use tokio::sync::mpsc;

use super::level::Choice;
use super::line::{Line, Pieces, Way};
use super::packing::Packing;
use super::stream::Stream;
use super::{PIECES_AHEAD_OF_TWO, Step};
use crate::failure::{Needs, Result};
use crate::session::Heard;

/// How many steps may wait: all that is read, and what stands between it.
const STEPS_AHEAD: usize = 2 * PIECES_AHEAD_OF_TWO;

/// What all threads of a press have.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) window_log: u32,
    pub(super) choice: Choice,
    pub(super) hear: mpsc::Sender<Heard>,
}

impl Common {
    /// Starts a thread, whose first batch goes there.
    pub(super) fn start(&self, way: Way) -> SyncSender<Step> {
        let (steps, to_do) = sync_channel(STEPS_AHEAD);
        let common = self.clone();
        thread::spawn(move || {
            let hear = common.hear.clone();
            if let Err(failure) = Worker::new(common, way).run(&to_do) {
                // The session has ended already when this cannot be said any more.
                let _ = hear.blocking_send(Heard::Broken(failure));
            }
        });
        steps
    }
}

struct Worker {
    common: Common,
    line: Line,
    /// None behind what was packed before, and had its own end.
    open: Option<(Packing, Stream<Pieces>)>,
}

impl Worker {
    fn new(common: Common, way: Way) -> Self {
        Self { line: Line::new(way), common, open: None }
    }

    /// Does what is to be done, until there will be no more.
    fn run(mut self, steps: &Receiver<Step>) -> Result<()> {
        while let Some(step) = self.next(steps)? {
            match step {
                Step::Pack(plain) => self.pack(&plain)?,
                Step::Flush => {
                    let open = self.open.as_mut();
                    open.map_or(Ok(()), |(_, stream)| stream.flush()).later("cannot send")?;
                }
                Step::Ready(ready) => {
                    self.end_stream()?;
                    self.line.send_ready(&ready).later("cannot send")?;
                }
                Step::Say(message) => self.line.send(frame::message(&message)).later("cannot send")?,
                Step::Tell(heard) => {
                    self.line.flush().later("cannot send")?;
                    self.common.hear.blocking_send(heard).later("the session is over")?;
                }
                Step::End(next) => {
                    self.end_stream()?;
                    self.line.end(next).later("cannot send")?;
                }
                Step::Begin(way) => self.line = Line::new(way),
            }
        }
        Ok(())
    }

    /// The next step. Before it is waited for, all frames are on their way.
    fn next(&self, steps: &Receiver<Step>) -> Result<Option<Step>> {
        match steps.try_recv() {
            Ok(step) => Ok(Some(step)),
            Err(_) => {
                self.line.flush().later("cannot send")?;
                Ok(steps.recv().ok())
            }
        }
    }

    fn pack(&mut self, plain: &[u8]) -> Result<()> {
        let packing = self.common.choice.packing(self.common.window_log, self.line.full());
        if self.open.as_ref().is_some_and(|(before, _)| *before != packing) {
            self.end_stream()?;
        }
        let (_, stream) = match &mut self.open {
            Some(open) => open,
            None => {
                let stream = packing.stream(Pieces::to(&self.line)).later("cannot start to pack")?;
                self.open.insert((packing, stream))
            }
        };
        stream.write_all(plain).later("cannot send")
    }

    /// Ends the stream, if there is one.
    fn end_stream(&mut self) -> Result<()> {
        let Some((_, stream)) = self.open.take() else { return Ok(()) };
        stream.finish().and_then(|mut pieces| pieces.flush()).later("cannot send")
    }
}

//! One of the threads of the press: it packs batches, each into a stream of its own.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use blat_target::frame;
use tokio::sync::mpsc;

use super::Step;
use super::level::Choice;
use super::line::{Line, Pieces, Way};
use super::packing::Packing;
use super::stream::Stream;
use crate::failure::{Needs, Result};
use crate::session::Heard;

/// What all threads of a press have.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) window_log: u32,
    pub(super) choice: Choice,
    pub(super) hear: mpsc::Sender<Heard>,
}

impl Common {
    /// Starts a thread, whose first batch goes there.
    pub(super) fn start(&self, way: Way) -> Sender<Step> {
        // As long as there is memory for pieces.
        let (steps, to_do) = channel();
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
    /// The stream, and how it is packed.
    stream: Option<(Packing, Stream<Pieces>)>,
}

impl Worker {
    fn new(common: Common, way: Way) -> Self {
        Self { line: Line::new(way), common, stream: None }
    }

    /// Does what is to be done, until there will be no more.
    fn run(mut self, steps: &Receiver<Step>) -> Result<()> {
        while let Some(step) = self.next(steps)? {
            match step {
                Step::Pack(plain) => self.pack(&plain)?,
                Step::Flush => self.with_stream(Write::flush)?,
                Step::Ready(ready, _place) => {
                    self.with_stream(Stream::end_frame)?;
                    self.line.send_ready(&ready).later("cannot send")?;
                }
                Step::Say(message) => self.line.send(frame::message(&message)).later("cannot send")?,
                Step::Tell(heard) => {
                    self.line.flush().later("cannot send")?;
                    self.common.hear.blocking_send(heard).later("the session is over")?;
                }
                Step::End(rest) => {
                    self.with_stream(Stream::end_frame)?;
                    self.line.end(rest).later("cannot send")?;
                }
                Step::Begin(way) => self.line.begin(way),
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
        if self.stream.as_ref().is_some_and(|(before, _)| *before != packing) {
            self.with_stream(Stream::end_frame)?;
            self.stream = None;
        }
        let (_, stream) = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = packing.stream(Pieces::to(&self.line)).later("cannot start to pack")?;
                self.stream.insert((packing, stream))
            }
        };
        stream.write_all(plain).later("cannot send")
    }

    fn with_stream(&mut self, work: impl FnOnce(&mut Stream<Pieces>) -> io::Result<()>) -> Result<()> {
        self.stream.as_mut().map_or(Ok(()), |(_, stream)| work(stream)).later("cannot send")
    }
}

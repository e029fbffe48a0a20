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

/// Another packing means a new stream, which is longer in the midst of what is alike than where packages of
/// another name begin: for so many bytes it is waited for those.
const OTHERWISE_MAX: usize = 32 << 20;

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
    /// How many bytes it has that should have been packed otherwise.
    otherwise: usize,
}

impl Worker {
    fn new(common: Common, way: Way) -> Self {
        Self { line: Line::new(way), common, stream: None, otherwise: 0 }
    }

    /// Does what is to be done, until there will be no more.
    fn run(mut self, steps: &Receiver<Step>) -> Result<()> {
        while let Some(step) = self.next(steps)? {
            match step {
                Step::Pack(plain, is_new) => self.pack(&plain, is_new)?,
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

    /// Packs some bytes; where a package begins that is of another name than what was before, says `is_new`.
    fn pack(&mut self, plain: &[u8], is_new: bool) -> Result<()> {
        let packing = self.common.choice.packing(self.common.window_log, self.line.queue());
        let stream = self.stream.as_ref().filter(|(before, _)| *before != packing);
        self.otherwise = stream.map_or(0, |_| self.otherwise + plain.len());
        let is_to_change =
            |stream: &Stream<_>| is_new || !stream.is_open() || self.otherwise >= OTHERWISE_MAX;
        if stream.is_some_and(|(_, stream)| is_to_change(stream)) {
            self.with_stream(Stream::end_frame)?;
            (self.stream, self.otherwise) = (None, 0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    #[test]
    fn another_level_comes_where_packages_of_another_name_begin_or_after_a_while() {
        let (frames, _outgoing) = mpsc::channel(1000);
        let (hear, _heard) = mpsc::channel(1);
        let choice = Choice::new(Progress::start());
        let common = Common { window_log: 25, choice: choice.clone(), hear };
        let mut worker = Worker::new(common, Way { frames, before: None });
        let level = |worker: &mut Worker, level, bytes: usize, is_new| {
            choice.set_level(level);
            worker.pack(&vec![0; bytes], is_new).unwrap();
            worker.stream.as_ref().map_or(0, |(packing, _)| packing.level)
        };
        let worker = &mut worker;
        assert_eq!([level(worker, 6, 9, true), level(worker, 9, 9, false)], [6, 6]);
        assert_eq!(level(worker, 9, 9, true), 9);
        for (other, before) in [(12, 9), (9, 12)] {
            assert_eq!(level(worker, other, OTHERWISE_MAX - 1, false), before);
            assert_eq!(level(worker, other, 1, false), other);
        }
        worker.with_stream(Stream::end_frame).unwrap();
        assert_eq!(level(worker, 6, 9, false), 6, "where a batch begins, it costs nothing");
    }
}

//! The press: threads that pack what the packer reads, so that reading and packing overlap.
//!
//! All packages of a session go through one zstd stream, flushed at each package's end, so that
//! packages share what they have in common (a window of 32 MiB, with long-distance matching) and
//! each can be committed at once. Everything keeps the order in which it is handed in.
//!
//! Where one thread packs less than the line takes, the packages are cut into batches, each with a stream of
//! its own, which two threads pack in turns. What is packed of one before its turn comes waits in its own queue.

mod batches;
mod level;
mod line;
mod packing;
mod stream;
mod worker;

use std::io::{self, Write};

use blat_target::message::ToTarget;
use blat_target::package::Name;
use tokio::sync::mpsc;

use self::batches::{Batches, FIRST};
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
/// and so many of them may wait:
const PIECES_AHEAD: usize = 16;
/// where there may be two threads 32 MiB, so that both have some.
const PIECES_AHEAD_OF_TWO: usize = 128;

/// What a thread of the press does next.
enum Step {
    /// These bytes, and whether a package begins with them that is of another name than what was before.
    Pack(Buffer, bool),
    /// All that was packed so far shall go out.
    Flush,
    /// What was packed before. It waits in the place of a piece, for it holds a file open.
    Ready(Ready, Buffer),
    Say(ToTarget),
    Tell(Heard),
    /// Here the batch ends; the next comes out of that.
    End(mpsc::Receiver<Outgoing>),
    /// Here one begins.
    Begin(Way),
}

/// The packer's end of the press. What is written to it is packed.
pub(crate) struct Press {
    plain: Vec<u8>,
    /// For what is read: the pieces that wait, those that are packed, and the one that is filled.
    pool: Pool,
    batches: Batches,
    /// Of which name the packages are,
    name: Option<Name>,
    /// and whether none of its bytes were handed over yet.
    is_new: bool,
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
        Self {
            plain: Vec::with_capacity(PLAIN),
            pool: Pool::new(ahead + threads_max + 1),
            batches: Batches::start(common, threads_max, frames),
            name: None,
            is_new: false,
        }
    }

    /// A package of this name comes next.
    pub(crate) fn package(&mut self, name: &Name) {
        if self.name.as_ref() != Some(name) {
            (self.name, self.is_new) = (Some(name.clone()), true);
        }
    }

    /// Sends a message, behind what was flushed before.
    pub(crate) fn say(&self, message: ToTarget) -> Result<()> {
        self.batches.step(Step::Say(message)).later("cannot send")
    }

    /// Tells the session something, once all that was flushed before is on its way.
    pub(crate) fn tell(&self, heard: Heard) -> Result<()> {
        self.batches.step(Step::Tell(heard)).later("cannot send")
    }

    /// Hands over a package that is packed already.
    pub(crate) fn ready(&mut self, ready: Ready) -> Result<()> {
        let place = self.pool.memory();
        self.batches.step(Step::Ready(ready, self.pool.buffer(place))).later("cannot send")
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let plain = self.pool.buffer(std::mem::take(&mut self.plain));
        let is_new = self.is_new;
        self.is_new &= plain.is_empty();
        let is_much = self.pool.peak() * PLAIN >= FIRST;
        self.batches.pack(plain, is_new, is_much)?;
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
        self.batches.step(Step::Flush)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use blat_target::frame::{self, Frame};

    use super::batches::{BATCHES, Enough};
    use super::line::Queue;
    use super::*;
    use crate::outlet::Bytes;
    use crate::packer::Resumed;

    /// Batches that are soon full, of pieces of 256 KiB.
    const SMALL: Enough = Enough { at_name: 1 << 20, anywhere: 5 << 20 };
    const PACKAGES: u64 = 60;

    fn press(threads: usize, progress: Progress) -> (Press, mpsc::Receiver<Outgoing>, mpsc::Receiver<Heard>) {
        let (frames, outgoing) = mpsc::channel(frames_ahead(progress.round_trip()));
        let (hear, heard) = mpsc::channel(1000);
        let mut press = Press::start(25, threads, frames, hear, progress);
        press.batches.enough = SMALL;
        (press, outgoing, heard)
    }

    fn name(of: u64) -> Name {
        format!("package{of}").parse().unwrap()
    }

    /// The content of a package: some of it is noise.
    fn content(number: u64) -> Vec<u8> {
        let mut content = vec![0; (number * 7919 % 1500) as usize * 1000];
        let noise = content.len() / 3;
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut content[..noise]);
        content
    }

    /// Sends packages, with a message behind each; what of the content is to be known by then.
    fn send(mut press: Press) -> (Vec<u8>, Vec<usize>) {
        let (mut all, mut known) = (Vec::new(), Vec::new());
        for number in 0..PACKAGES {
            press.package(&name(number / 2));
            let content = content(number);
            content.chunks(300_000).for_each(|part| press.write_all(part).unwrap());
            press.flush().unwrap();
            press.say(ToTarget::Done { sent: number }).unwrap();
            press.tell(Heard::Resumed(Resumed { number, bytes: 0 })).unwrap();
            all.extend_from_slice(&content);
            known.push(all.len());
        }
        (all, known)
    }

    /// All that comes out, slowly at first, and of how many batches.
    fn take(mut outgoing: mpsc::Receiver<Outgoing>) -> (Vec<u8>, usize) {
        let (mut all, mut batches) = (Vec::new(), 1);
        while let Some(next) = outgoing.blocking_recv() {
            match next {
                Outgoing::Next(rest) => (outgoing, batches) = (rest, batches + 1),
                Outgoing::Bytes(Bytes::Frames(frames)) => all.extend_from_slice(&frames),
                Outgoing::Bytes(Bytes::File(_)) => panic!("nothing was ready"),
            }
            if batches == 1 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        (all, batches)
    }

    /// How many batches come out; checks that they are what was sent, in its order.
    fn check(threads: usize, progress: Progress) -> usize {
        let (press, outgoing, mut heard) = press(threads, progress);
        let sending = thread::spawn(move || send(press));
        let (frames, batches) = take(outgoing);
        let (all, known) = sending.join().unwrap();
        let mut unpacked = zstd::stream::write::Decoder::new(Vec::new()).unwrap();
        let (mut frames, mut said) = (&frames[..], 0);
        while !frames.is_empty() {
            match frame::read::<ToTarget>(&mut frames).unwrap() {
                Frame::Data(piece) => unpacked.write_all(&piece).unwrap(),
                Frame::Message(ToTarget::Done { sent }) => {
                    assert_eq!(sent, said);
                    unpacked.flush().unwrap();
                    assert_eq!(unpacked.get_ref().len(), known[sent as usize], "before message {sent}");
                    said += 1;
                }
                Frame::Message(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(said, PACKAGES);
        assert!(unpacked.get_ref() == &all);
        let mut told = Vec::new();
        while let Some(Heard::Resumed(Resumed { number, .. })) = heard.blocking_recv() {
            told.push(number);
        }
        told.sort_unstable();
        assert!(told.into_iter().eq(0..PACKAGES));
        batches
    }

    #[test]
    fn what_two_threads_pack_comes_out_in_its_order() {
        assert!(check(2, Progress::start()) > 5);
    }

    #[test]
    fn one_thread_packs_one_batch_and_so_it_is_for_a_target_that_is_near() {
        assert_eq!(check(1, Progress::start()), 1);
        let near = Progress::start();
        near.answered_within(Duration::from_millis(1));
        assert_eq!(check(2, near), 1);
    }

    #[test]
    fn a_batch_ends_where_it_has_enough_and_the_line_would_take_more() {
        let (press, outgoing, _heard) = press(2, Progress::start());
        let mut batches = press.batches;
        let ends = |batches: &mut Batches, is_new, bytes, full| {
            batches.common.choice.packing(25, Some(Queue { full, waited: Duration::ZERO }));
            batches.bytes = bytes;
            batches.is_to_end(is_new, false)
        };
        assert!(ends(&mut batches, true, SMALL.at_name, 0.0));
        assert!(!ends(&mut batches, true, SMALL.at_name - 1, 0.0));
        assert!(!ends(&mut batches, true, usize::MAX, 0.8), "the line has enough");
        assert!(ends(&mut batches, false, SMALL.anywhere, 0.0));
        assert!(!ends(&mut batches, false, SMALL.anywhere - 1, 0.0));
        for _ in 1..BATCHES {
            assert!(ends(&mut batches, false, usize::MAX, 0.0));
            batches.begin().unwrap();
        }
        assert!(!ends(&mut batches, false, usize::MAX, 0.0), "enough of them wait");
        drop(outgoing);
        let begin = Instant::now();
        while !ends(&mut batches, false, usize::MAX, 0.0) {
            assert!(begin.elapsed() < Duration::from_secs(10), "none waits any more");
        }
    }

    #[test]
    fn the_first_batches_are_short_where_much_comes() {
        let (frames, _outgoing) = mpsc::channel(frames_ahead(None));
        let (hear, _heard) = mpsc::channel(1000);
        let mut batches = Press::start(25, 2, frames, hear, Progress::start()).batches;
        let mut ends = |bytes, is_much| {
            batches.bytes = bytes;
            let ends = batches.is_to_end(false, is_much);
            if ends {
                batches.begin().unwrap();
            }
            ends
        };
        assert_eq!([ends(FIRST, false), ends(FIRST - 1, true), ends(FIRST, true)], [false, false, true]);
        assert_eq!([ends(FIRST, true), ends(3 * FIRST, true)], [false, true]);
        assert_eq!([ends(3 * FIRST, true), ends(9 * FIRST, true)], [false, true]);
    }

    #[test]
    fn it_ends_when_nobody_takes_its_frames() {
        for threads in [1, 2] {
            let (mut press, mut outgoing, mut heard) = press(threads, Progress::start());
            let sending = thread::spawn(move || {
                loop {
                    press.package(&name(1));
                    let sent = press.write_all(&content(1)).and_then(|()| press.flush());
                    if let Err(why) = sent {
                        return why.kind();
                    }
                }
            });
            outgoing.blocking_recv().unwrap();
            drop(outgoing);
            assert_eq!(sending.join().unwrap(), io::ErrorKind::BrokenPipe);
            assert!(matches!(heard.blocking_recv(), Some(Heard::Broken(_))));
        }
    }
}

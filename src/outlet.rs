//! The outlet: what puts a session's frames on the channel, as fast as the line takes them and the pace allows.
//!
//! The channel is a pipe to ssh, which takes a few pages of it at a time, and the kernel says each time that
//! there is room. So the pipe is made large, nobody watches it as long as it moves, and where it was full it is
//! left alone until there is room for much at once. What lies ready in a file goes from there into the pipe
//! without being read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use blat_target::frame::{self, Frame, HEADER_LEN, Header};
use blat_target::lanes::block_head;
use blat_target::message::ToTarget;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::libc::off64_t;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use openssh::ChildStdin;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::lanes::{Dealer, Word};
use crate::pace::Pace;
use crate::progress::Progress;

/// How much the pipe holds, in bytes: what a line of 1 Gbit/s carries in 4 ms. Where the user has too many
/// such pipes, it stays as it was, and is watched.
const PIPE: usize = 512 << 10;
/// For how long a pipe that was full is left alone: so that it is never found empty, whatever the line,
const REST_MIN: Duration = Duration::from_millis(1);
/// nor waited for when a slow line becomes quick.
const REST_MAX: Duration = Duration::from_millis(8);
/// The pace is kept by so many bytes at a time, and no block of a session that is spread has more.
const STEP: usize = 32 << 10;
/// Where nothing was to be sent for so long, the target hears that this side lives: a large file may take longer to
/// read than it waits for.
const ALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often it is looked whether all lanes are still there, where nothing goes by them.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What comes to the outlet.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Bytes(Bytes),
    /// It goes on with what comes from there.
    Next(mpsc::Receiver<Self>),
}

/// What is put on the channel: whole frames.
#[derive(Debug)]
pub(crate) enum Bytes {
    Frames(Vec<u8>),
    File(Stretch),
}

/// Bytes of a file that nobody changes.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) file: Arc<File>,
    pub(crate) at: u64,
    pub(crate) length: usize,
}

/// What the outlet does about the channel itself, between two frames.
#[derive(Debug)]
pub(crate) enum Order {
    /// It says this, and then that it has.
    Say(ToTarget, oneshot::Sender<()>),
    /// Behind so many bytes more, it spreads what comes over these as well, as they are dealt to.
    Spread(u64, Vec<OwnedFd>, Dealer),
}

/// A session's way out. The channel ends with it.
pub(crate) struct Outlet {
    /// One for each lane.
    pipes: Vec<Pipe>,
    /// Who says which of them is next, once there are several.
    dealer: Option<Dealer>,
    /// Pipes that get their part behind so many bytes more.
    coming: Option<(u64, Vec<Pipe>, Dealer)>,
    pace: Pace,
    progress: Progress,
    word: Arc<Word>,
    alive_after: Duration,
    /// What says that this side lives, by what was put out last; nothing behind the end.
    alive: Option<Alive>,
}

/// What says that this side lives, and nothing else.
#[derive(Clone, Copy)]
enum Alive {
    /// Within a package: an empty piece.
    Piece,
    /// Elsewhere: a question about no place, whose answer nobody hears.
    Question,
}

/// A pipe to ssh.
struct Pipe {
    end: OwnedFd,
    fullness: Fullness,
}

impl Outlet {
    /// # Errors
    /// Those of the system, of which the pipe comes.
    pub(crate) fn new(
        stdin: ChildStdin,
        pace: Pace,
        progress: Progress,
        word: Arc<Word>,
    ) -> io::Result<Self> {
        Self::over(stdin.into_owned_fd()?, pace, progress, word)
    }

    fn over(pipe: OwnedFd, pace: Pace, progress: Progress, word: Arc<Word>) -> io::Result<Self> {
        Ok(Self {
            pipes: vec![Pipe::new(pipe)?],
            dealer: None,
            coming: None,
            pace,
            progress,
            word,
            alive_after: ALIVE_AFTER,
            // The hello was said: what comes first may take long to read, too.
            alive: Some(Alive::Question),
        })
    }

    /// Puts out whatever comes, until nothing more does, or nobody takes it: the reader learns why the target
    /// hung up, nobody waits for this side.
    pub(crate) async fn run(
        mut self,
        mut outgoing: mpsc::Receiver<Outgoing>,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) {
        let ended = loop {
            match self.receive(&mut outgoing).await {
                Ok(None) => return,
                Ok(Some(Outgoing::Next(rest))) => outgoing = rest,
                Ok(Some(Outgoing::Bytes(bytes))) => {
                    let mut put = Ok(());
                    while put.is_ok()
                        && let Ok(order) = orders.try_recv()
                    {
                        put = self.obey(order).await;
                    }
                    if put.is_ok() {
                        put = self.put(&bytes).await;
                        self.alive = Alive::behind(&bytes);
                    }
                    if let Err(why) = put {
                        break why;
                    }
                }
                Err(why) => break why,
            }
        };
        tracing::debug!("the channel takes nothing more: {ended}");
    }

    /// What comes next. A lane that ends before may have taken along what the target waits for.
    async fn receive(&mut self, outgoing: &mut mpsc::Receiver<Outgoing>) -> io::Result<Option<Outgoing>> {
        let mut since = Instant::now();
        loop {
            let wait = if self.dealer.is_none() { self.alive_after } else { LOOK_EVERY };
            if let Ok(next) = timeout(wait, outgoing.recv()).await {
                return Ok(next);
            }
            if self.dealer.is_some() {
                self.check_lanes()?;
            }
            if since.elapsed() >= self.alive_after
                && let Some(alive) = self.alive
            {
                self.put(&Bytes::Frames(alive.frame())).await?;
                since = Instant::now();
            }
        }
    }

    fn check_lanes(&self) -> io::Result<()> {
        let mut polled: Vec<_> =
            self.pipes.iter().map(|pipe| PollFd::new(pipe.end.as_fd(), PollFlags::empty())).collect();
        match poll(&mut polled, PollTimeout::ZERO)? {
            0 => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Say(message, said) => {
                self.put(&Bytes::Frames(frame::message(&message))).await?;
                // Who waits for it may have left.
                let _ = said.send(());
                Ok(())
            }
            Order::Spread(after, ends, dealer) => {
                let pipes = ends.into_iter().map(Pipe::new).collect::<io::Result<_>>()?;
                self.put(&Bytes::Frames(frame::message(&ToTarget::Spread { after }))).await?;
                self.coming = Some((after, pipes, dealer));
                Ok(())
            }
        }
    }

    async fn put(&mut self, bytes: &Bytes) -> io::Result<()> {
        let (length, mut done) = (bytes.length(), 0);
        while done < length {
            let step = self.step(length - done);
            self.pace.turn(step, &self.progress).await;
            let lane = self.lane(step).await?;
            if let Some(dealer) = &self.dealer {
                let head = block_head(dealer.place(), step);
                self.put_by(lane, &Bytes::Frames(head.to_vec()), 0..head.len()).await?;
            }
            self.put_by(lane, bytes, done..done + step).await?;
            self.went(lane, step);
            done += step;
        }
        Ok(())
    }

    /// How many of the next bytes go at a time.
    fn step(&mut self, most: usize) -> usize {
        if let Some((_, pipes, dealer)) = self.coming.take_if(|(left, ..)| *left == 0) {
            self.pipes.extend(pipes);
            self.progress.spread(self.pipes.len() as u64);
            self.dealer = Some(dealer);
        }
        let left = self.coming.as_ref().map_or(u64::MAX, |(left, ..)| *left);
        most.min(STEP).min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// By which lane the next bytes go, so many, once they may.
    async fn lane(&mut self, bytes: usize) -> io::Result<usize> {
        while let Some(dealer) = &mut self.dealer {
            if let Some(came) = self.word.take() {
                dealer.came(&came, Instant::now());
            }
            if let Some(lane) = dealer.next(bytes) {
                return Ok(lane);
            }
            if timeout(LOOK_EVERY, self.word.has_come()).await.is_err() {
                self.check_lanes()?;
            }
        }
        Ok(0)
    }

    async fn put_by(&mut self, lane: usize, bytes: &Bytes, mut range: Range<usize>) -> io::Result<()> {
        let pipe = &mut self.pipes[lane];
        while !range.is_empty() {
            match bytes.put(pipe.end.as_fd(), range.start, range.len()) {
                Ok(count) => {
                    pipe.fullness.taken(count);
                    self.progress.sent(count);
                    range.start += count;
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => pipe.until_there_is_room().await?,
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    fn went(&mut self, lane: usize, bytes: usize) {
        if let Some(dealer) = &mut self.dealer {
            dealer.went(lane, bytes);
        }
        if let Some((left, ..)) = &mut self.coming {
            *left -= bytes as u64;
        }
    }
}

impl Alive {
    /// What says it behind these.
    fn behind(last: &Bytes) -> Option<Self> {
        use ToTarget::{Delta, Done, Mend, Package, PackageList, Replace, Rest, Whole};
        let Bytes::Frames(frames) = last else { return Some(Self::Piece) };
        match last_of(frames)? {
            Frame::Data(_)
            | Frame::Message(Package(_) | Whole(_) | Delta(_) | Rest(_) | Mend { .. })
            | Frame::Message(PackageList { .. } | Replace { .. }) => Some(Self::Piece),
            Frame::Message(Done { .. }) => None,
            Frame::Message(_) => Some(Self::Question),
        }
    }

    fn frame(self) -> Vec<u8> {
        match self {
            Self::Piece => frame::data(&[]),
            Self::Question => frame::message(&ToTarget::Query(Vec::new())),
        }
    }
}

/// The last of whole frames.
fn last_of(mut frames: &[u8]) -> Option<Frame<ToTarget>> {
    loop {
        let header = Header::parse(*frames.first_chunk()?).ok()?;
        let (one, rest) = frames.split_at_checked(HEADER_LEN + header.length)?;
        if rest.is_empty() {
            // What is in a piece does not matter.
            let payload = if header.is_data() { Vec::new() } else { one[HEADER_LEN..].to_vec() };
            return header.frame(payload).ok();
        }
        frames = rest;
    }
}

impl Pipe {
    fn new(end: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&end, FcntlArg::F_GETFL)?);
        fcntl(&end, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let is_large = fcntl(&end, FcntlArg::F_SETPIPE_SZ(PIPE as i32)).is_ok();
        Ok(Self { end, fullness: Fullness::new(is_large) })
    }

    async fn until_there_is_room(&mut self) -> io::Result<()> {
        if self.fullness.is_to_be_watched() {
            pipe::Sender::from_owned_fd(self.end.try_clone()?)?.writable().await?;
        }
        match self.fullness.rest() {
            Duration::ZERO => {}
            rest => sleep(rest).await,
        }
        Ok(())
    }
}

/// For how long to leave a pipe alone that is full.
struct Fullness {
    /// Whether it is as large as it should be.
    is_large: bool,
    rest: Duration,
    /// What the pipe took since it was full last.
    taken: usize,
}

impl Fullness {
    fn new(is_large: bool) -> Self {
        Self { is_large, rest: REST_MIN, taken: PIPE / 2 }
    }

    fn taken(&mut self, bytes: usize) {
        self.taken += bytes;
    }

    /// Whether only the system can say when there will be room: it is small, or nobody took anything for the
    /// whole of the last rest.
    fn is_to_be_watched(&self) -> bool {
        !self.is_large || self.taken == 0
    }

    /// It is full now. Longer each time where there was little room after the last rest, shorter where there
    /// was much.
    fn rest(&mut self) -> Duration {
        if !self.is_large {
            return Duration::ZERO;
        }
        self.rest = match std::mem::take(&mut self.taken) {
            0 => REST_MIN,
            taken if taken < PIPE / 4 => REST_MAX.min(self.rest * 2),
            taken if taken > PIPE / 2 => REST_MIN.max(self.rest / 2),
            _ => self.rest,
        };
        self.rest
    }
}

impl Bytes {
    fn length(&self) -> usize {
        match self {
            Self::Frames(frames) => frames.len(),
            Self::File(stretch) => stretch.length,
        }
    }

    /// Puts at most so many bytes into the pipe, of those from here on; how many it took.
    fn put(&self, pipe: BorrowedFd, from: usize, most: usize) -> io::Result<usize> {
        match self {
            Self::Frames(frames) => Ok(nix::unistd::write(pipe, &frames[from..from + most])?),
            Self::File(stretch) => stretch.put(pipe, stretch.at + from as u64, most),
        }
    }
}

impl Stretch {
    fn put(&self, pipe: BorrowedFd, at: u64, most: usize) -> io::Result<usize> {
        let mut offset = at as off64_t;
        match splice(&self.file, Some(&mut offset), pipe, None, most, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            // Not every file system can.
            Err(Errno::EINVAL) => self.copy(pipe, at, most),
            count => Ok(count?),
        }
    }

    fn copy(&self, pipe: BorrowedFd, at: u64, most: usize) -> io::Result<usize> {
        let mut bytes = vec![0; most];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(nix::unistd::write(pipe, &bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};

    use blat_target::lanes::BLOCK_HEAD;

    use super::*;

    fn over(pipe: OwnedFd) -> Outlet {
        Outlet::over(pipe, Pace::new(0, None), Progress::start(), Arc::default()).unwrap()
    }

    fn dealer(lanes: usize) -> Dealer {
        Dealer::new(lanes, Duration::from_millis(100), u64::MAX)
    }

    /// What comes out of all of it, taken slowly, in the end.
    fn taken(bytes: Vec<Bytes>) -> Vec<u8> {
        taken_of(true, bytes)
    }

    fn taken_of(is_large: bool, bytes: Vec<Bytes>) -> Vec<u8> {
        let (mut reader, writer) = io::pipe().unwrap();
        let reading = std::thread::spawn(move || {
            let (mut all, mut some) = (Vec::new(), vec![0; 50_000]);
            while let Ok(count @ 1..) = reader.read(&mut some) {
                all.extend_from_slice(&some[..count]);
                std::thread::sleep(Duration::from_micros(300));
            }
            all
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut outlet = over(writer.into());
            outlet.pipes[0].fullness.is_large &= is_large;
            // Each comes from a queue of its own.
            let (mut give, take) = mpsc::channel(2);
            for bytes in bytes {
                give.send(Outgoing::Bytes(bytes)).await.unwrap();
                let (next, rest) = mpsc::channel(2);
                give.send(Outgoing::Next(rest)).await.unwrap();
                give = next;
            }
            drop(give);
            outlet.run(take, mpsc::unbounded_channel().1).await;
        });
        reading.join().unwrap()
    }

    #[test]
    fn who_has_nothing_to_send_says_that_it_lives() {
        let (mut reader, writer) = io::pipe().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let messages =
            [ToTarget::Mend { number: 1, files: 2 }, ToTarget::PackageEnd, ToTarget::Done { sent: 1 }];
        let given = messages.clone();
        runtime.block_on(async {
            let mut outlet = over(writer.into());
            outlet.alive_after = Duration::from_millis(20);
            let (give, take) = mpsc::channel(1);
            let giving = async move {
                sleep(Duration::from_millis(200)).await;
                for message in &given {
                    let frames = [frame::data(b"before"), frame::message(message)].concat();
                    give.send(Outgoing::Bytes(Bytes::Frames(frames))).await.unwrap();
                    sleep(Duration::from_millis(200)).await;
                }
            };
            tokio::join!(outlet.run(take, mpsc::unbounded_channel().1), giving);
        });
        let mut all = Vec::new();
        while let Ok(frame) = frame::read::<ToTarget>(&mut reader) {
            if all.last() != Some(&frame) {
                all.push(frame);
            }
        }
        let (before, lives) = (Frame::Data(b"before".to_vec()), Frame::Data(Vec::new()));
        let says = Frame::Message;
        let question = says(ToTarget::Query(Vec::new()));
        let [mend, end, done] = messages.map(says);
        let first = question.clone();
        let expected = [first, before.clone(), mend, lives, before.clone(), end, question, before, done];
        assert_eq!(all, expected, "before the first word, within a package, behind it, and behind the last");
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut noise = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    #[test]
    fn what_is_put_out_comes_out_in_its_order_whole() {
        let noise = noise(3 << 20);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&noise).unwrap();
        let stretch =
            |at: u64, length| Bytes::File(Stretch { file: file.try_clone().unwrap().into(), at, length });
        let frames = |range: std::ops::Range<usize>| Bytes::Frames(noise[range].to_vec());
        let all = vec![
            frames(0..10),
            stretch(10, 1 << 20),
            frames(10 + (1 << 20)..2_000_000),
            stretch(2_000_000, (3 << 20) - 2_000_000),
        ];
        assert!(taken(all) == noise);
        assert!(taken_of(false, vec![stretch(0, 1 << 20), frames(1 << 20..3 << 20)]) == noise);
    }

    #[test]
    fn what_is_spread_goes_by_all_pipes_in_blocks() {
        let after: u64 = 8 << 20;
        let noise = noise(after as usize + (1 << 20) + 7);
        let (mut readers, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (mut reader, end) = io::pipe().unwrap();
            ends.push(OwnedFd::from(end));
            readers.push(std::thread::spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| all).unwrap()
            }));
        }
        let further = ends.split_off(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let outlet = over(ends.remove(0));
            let ((give, take), (order, ordered)) = (mpsc::channel(2), mpsc::unbounded_channel());
            order.send(Order::Spread(after, further, dealer(3))).unwrap();
            let putting = tokio::spawn(outlet.run(take, ordered));
            for piece in noise.chunks(100_000) {
                give.send(Outgoing::Bytes(Bytes::Frames(piece.to_vec()))).await.unwrap();
            }
            drop(give);
            putting.await.unwrap();
        });
        let mut came: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        let told = frame::message(&ToTarget::Spread { after });
        let mut all: Vec<u8> = came[0].drain(..told.len() + after as usize).collect();
        assert!(all[..told.len()] == told);
        let mut blocks = BTreeMap::new();
        for mut lane in came {
            assert!(!lane.is_empty());
            while !lane.is_empty() {
                let head: Vec<_> = lane.drain(..BLOCK_HEAD).collect();
                let (place, length) = head.split_at(8);
                let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
                blocks.insert(u64::from_le_bytes(place.try_into().unwrap()), lane.drain(..length).collect());
            }
        }
        for (place, block) in blocks {
            assert_eq!(all.len() as u64, told.len() as u64 + after + place);
            all.extend::<Vec<_>>(block);
        }
        assert!(all[told.len()..] == noise);
    }

    /// What it had may be what the target waits for, and nothing more comes that would show it.
    #[test]
    fn a_lane_that_ends_ends_the_session() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ((reader, end), (lane, lane_end)) = (io::pipe().unwrap(), io::pipe().unwrap());
            let mut outlet = over(end.into());
            outlet.pipes.push(Pipe::new(lane_end.into()).unwrap());
            outlet.dealer = Some(dealer(2));
            let (_give, take) = mpsc::channel(2);
            let mut running = tokio::spawn(outlet.run(take, mpsc::unbounded_channel().1));
            let is_over = timeout(3 * LOOK_EVERY, &mut running).await;
            assert!(is_over.is_err(), "both are there");
            drop(lane);
            timeout(100 * LOOK_EVERY, running).await.unwrap().unwrap();
            drop(reader);
        });
    }

    #[test]
    fn a_full_pipe_is_left_alone_for_as_long_as_it_is_slow() {
        let mut pipe = Fullness::new(true);
        let mut after = |taken| {
            pipe.taken(taken);
            (pipe.is_to_be_watched(), pipe.rest().as_millis())
        };
        let found =
            [PIPE / 8, PIPE / 8, PIPE / 8, PIPE / 8, PIPE / 3, PIPE, PIPE, 0, PIPE / 8].map(&mut after);
        assert_eq!(found.map(|(_, rest)| rest), [1, 2, 4, 8, 8, 4, 2, 1, 2]);
        let watched = found.map(|(watched, _)| watched);
        assert_eq!(watched, [false, false, false, false, false, false, false, true, false]);
    }

    #[test]
    fn a_small_pipe_is_watched() {
        let mut pipe = Fullness::new(false);
        pipe.taken(PIPE);
        assert!(pipe.is_to_be_watched());
        assert_eq!(pipe.rest(), Duration::ZERO);
    }

    #[test]
    fn what_cannot_be_spliced_is_copied() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let stretch = Stretch { file: file.into(), at: 0, length: 10 };
        assert_eq!(stretch.copy(writer.as_fd(), 3, 5).unwrap(), 5);
        assert!(stretch.copy(writer.as_fd(), 8, 5).is_err());
        drop(writer);
        let mut out = String::new();
        reader.read_to_string(&mut out).unwrap();
        assert_eq!(out, "34567");
    }

    #[test]
    fn a_file_that_became_shorter_ends_the_channel() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let all =
            vec![Bytes::File(Stretch { file: file.into(), at: 0, length: 1000 }), Bytes::Frames(vec![7])];
        let begin = Instant::now();
        assert_eq!(taken(all), [0; 100]);
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}

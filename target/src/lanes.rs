//! Lanes: one session's bytes by several channels, where the window of one cannot fill the line.
//!
//! sshd gives a channel a window of 2 MiB, so on a line to the other side of the world a channel carries
//! 80 Mbit/s, whatever the line could. For each further one the host starts a process
//! (`blat-target serve --join`) that hands its standard input over to the session, by a socket whose name in
//! the abstract namespace is a key that the host made up for this session. From a place in the stream that
//! the host names ([`Spread`](crate::message::ToTarget::Spread)), its bytes come in blocks, each by the lane that the host chose and
//! with its place before it ([`block_head`]). The target takes them up in their order, keeps those that came
//! too soon, and tells what came ([`Came`](crate::message::ToHost::Came)): so a lane that is slower than the others gets less.

mod in_order;

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg};

use crate::channel::Output;
use crate::message::{Digest, PROTOCOL_OF_SOON, ToHost};
use crate::refusal::End;
use crate::said;

pub(crate) use in_order::InOrder;

/// The most bytes that a block has.
pub const BLOCK_MAX: usize = 64 << 10;
/// How long that is which stands before a block, in bytes.
pub const BLOCK_HEAD: usize = 12;
/// For each lane, so many bytes may have been sent that the target did not take up yet.
pub const WINDOW: u64 = 2 << 20;
/// A session has at most so many lanes, its own channel included.
pub const LANES_MAX: u8 = 16;
/// So many bytes at least come by the session's own channel behind [`Spread`](crate::message::ToTarget::Spread): more than is read
/// ahead of it, which is little once lanes are waited for.
pub const fn spread_after(protocol: u16) -> u64 {
    if protocol < PROTOCOL_OF_SOON { 8 << 20 } else { 512 << 10 }
}
/// For how long a lane and its session wait for each other,
const PATIENCE: Duration = Duration::from_secs(30);
/// and how often a lane looks whether the session is there.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Writes what stands before each block: where in the session it belongs, in bytes from where that is spread on,
/// and how many bytes it has, at most [`BLOCK_MAX`]. Little-endian.
pub fn block_head(place: u64, length: usize) -> [u8; BLOCK_HEAD] {
    let mut head = [0; BLOCK_HEAD];
    head[..8].copy_from_slice(&place.to_le_bytes());
    head[8..].copy_from_slice(&(length as u32).to_le_bytes());
    head
}

/// One lane of a session, as it stands on a helper's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// What the host calls the session by, for its lanes. Others of the machine may see it: both sides look
    /// who the other is.
    pub key: Digest,
    /// Which of its lanes: 1 is the first beside the session's own channel.
    pub number: u8,
}

impl Lane {
    /// In hexadecimal: the key, and the number.
    pub fn encode(&self) -> String {
        said::encode(&[&self.key.0[..], &[self.number]].concat())
    }

    /// Reads what stands there; none if it is no lane.
    pub fn decode(text: &[u8]) -> Option<Self> {
        let bytes = said::decode(text)?;
        let (number, key) = bytes.split_last()?;
        Some(Self { key: Digest(key.try_into().ok()?), number: *number })
    }

    /// Hands `input` over to the session, and stays until that has ended.
    ///
    /// # Errors
    /// When there is no such session within 30 seconds, or it is another user's.
    pub(crate) fn join(self, input: &File) -> io::Result<()> {
        let address = address(self.key)?;
        let begin = Instant::now();
        let session = loop {
            match UnixStream::connect_addr(&address) {
                Err(why) if why.kind() == io::ErrorKind::ConnectionRefused && begin.elapsed() < PATIENCE => {
                    std::thread::sleep(LOOK_EVERY);
                }
                other => break other?,
            }
        };
        check_user(&session)?;
        let (number, input) = ([self.number], [input.as_raw_fd()]);
        let rights = [ControlMessage::ScmRights(&input)];
        sendmsg::<()>(session.as_raw_fd(), &[IoSlice::new(&number)], &rights, MsgFlags::empty(), None)?;
        // It says nothing, and ends.
        (&session).read(&mut [0]).map(drop)
    }
}

/// The sockets of the abstract namespace are open to every user of the machine.
fn check_user(peer: &UnixStream) -> io::Result<()> {
    let peer = getsockopt(peer, PeerCredentials)?.uid();
    if peer == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::other(format!("the user {peer} is at the other end of its socket")))
}

fn address(key: Digest) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("blat-{}", said::encode(&key.0)))
}

/// A lane that was handed over.
struct Joined {
    number: u8,
    input: File,
    /// Its process ends with this.
    process: UnixStream,
}

impl Joined {
    fn receive(process: UnixStream) -> io::Result<Self> {
        check_user(&process)?;
        process.set_read_timeout(Some(PATIENCE))?;
        let (mut number, mut space) = ([0], nix::cmsg_space!([i32; 1]));
        let mut parts = [IoSliceMut::new(&mut number)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let came = recvmsg::<()>(process.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let handed = came.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmRights(handed) => handed.first().copied(),
            _ => None,
        });
        let handed = handed.ok_or_else(|| io::Error::other("it came without its input"))?;
        // SAFETY: the kernel made the descriptor for this message, and nobody else takes it.
        let input = unsafe { File::from_raw_fd(handed) };
        Ok(Self { number: number[0], input, process })
    }
}

/// Waits until lanes 1 to `count` are there.
fn gather(key: Digest, count: u8) -> io::Result<Vec<Joined>> {
    let listener = UnixListener::bind_addr(&address(key)?)?;
    let (begin, mut lanes, mut strangers) = (Instant::now(), Vec::new(), false);
    while lanes.len() < usize::from(count) {
        let left = PATIENCE.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(io::Error::other(format!("{} of {count} came in time", lanes.len())));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            continue;
        }
        match Joined::receive(listener.accept()?.0) {
            Ok(lane) => lanes.push(lane),
            // The lanes may still come. What others do here is worth one word.
            Err(why) if !std::mem::replace(&mut strangers, true) => {
                eprintln!("blat-target: this is no channel of the session: {why}");
            }
            Err(_) => {}
        }
    }
    lanes.sort_by_key(|lane| lane.number);
    if lanes.iter().map(|lane| lane.number).eq(1..=count) {
        return Ok(lanes);
    }
    Err(io::Error::other("they are not those that were announced"))
}

/// What a session knows of its lanes.
pub(crate) struct Lanes {
    output: Arc<Output>,
    gathered: Arc<Mutex<Vec<Joined>>>,
    /// Held as long as the session: the lanes' processes.
    held: Vec<UnixStream>,
    asked: bool,
}

impl Lanes {
    pub(crate) fn new(output: Arc<Output>) -> Self {
        Self { output, gathered: Arc::default(), held: Vec::new(), asked: false }
    }

    /// Begins to wait for lanes, and tells the host once all are there.
    pub(crate) fn gather(&mut self, key: Digest, count: u8) -> Result<(), End> {
        if std::mem::replace(&mut self.asked, true) || !(1..LANES_MAX).contains(&count) {
            return Err(End::broken(format!("the host asked for channels again, or for {count} of them")));
        }
        let (gathered, output) = (self.gathered.clone(), self.output.clone());
        std::thread::spawn(move || match gather(key, count) {
            Ok(lanes) => {
                *gathered.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
                // A host that hears nothing any more is gone, which the input tells.
                let _ = output.say(&ToHost::Gathered);
            }
            Err(why) => eprintln!("blat-target: the session stays on one channel: {why}"),
        });
        Ok(())
    }

    /// What the session is spread over: the lanes that are there.
    pub(crate) fn take(&mut self) -> Result<Further, End> {
        let lanes = std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner));
        if lanes.is_empty() {
            return Err(End::broken("the host spreads the session over channels that it has not"));
        }
        let (inputs, processes): (Vec<_>, Vec<_>) =
            lanes.into_iter().map(|lane| (lane.input, lane.process)).unzip();
        self.held.extend(processes);
        Ok(Further { inputs, output: self.output.clone() })
    }
}

/// Lanes beside a session's own channel.
pub(crate) struct Further {
    inputs: Vec<File>,
    /// Where the host hears what came.
    output: Arc<Output>,
}

/// Where a session's input goes over to lanes; told to whoever reads it.
#[derive(Clone)]
pub(crate) struct Switch(Arc<(AtomicU64, Mutex<Option<Further>>)>);

impl Switch {
    pub(crate) fn new() -> Self {
        Self(Arc::new((AtomicU64::new(u64::MAX), Mutex::default())))
    }

    /// Behind so many bytes, which are more than were read yet, all of these have a part.
    pub(crate) fn set(&self, at: u64, lanes: Further) {
        *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(lanes);
        self.0.0.store(at, Ordering::Release);
    }

    fn at(&self) -> u64 {
        self.0.0.load(Ordering::Acquire)
    }

    fn take(&self) -> Option<Further> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

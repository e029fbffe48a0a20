//! A slow cable between two machines, for a kernel that cannot delay packets by itself.
//!
//! Each machine gets a TAP device and a route to the other through it; a thread carries the
//! frames across, later and no faster than asked. TCP stays the kernel's, end to end. A direction
//! is a line that sends one frame after the other at the given rate, then takes half the round
//! trip to arrive; what would wait for the line longer than a round trip (at least 100 ms) is lost,
//! as in a router's full queue; and some that there is room for, where that is asked for. A large
//! frame, which a card would cut, is as long as its parts are, and arrives when the last of them does.
//!
//! When the lab drops a link, its devices go and the machines meet on the fast switch again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;

use super::hardware::Hardware;
use super::tap::{FRAME_MAX, line_bytes, open_tap};

/// How long the thread sleeps before it looks whether the link is still wanted.
const NAP: Duration = Duration::from_millis(50);
/// While frames are under way, the thread looks at them this often: a hundred times in a round trip, within
/// these bounds. Network cards report what came in batches like these, and a wake-up for each frame would
/// take more of the processor than the machines do for it.
const LOOK_MIN: Duration = Duration::from_micros(100);
const LOOK_MAX: Duration = Duration::from_micros(500);
/// The most bytes of a packet, with what stands before it.
const PACKET: usize = 1514;
/// The shortest queue, as the time that it takes to send it.
const SHORTEST_QUEUE: Duration = Duration::from_millis(100);

/// How fast a line is. Counts whole Ethernet frames: TCP's payload is about 5 % less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bits_per_second: u64,
}

impl Rate {
    /// A rate in millions of bits a second.
    pub const fn mbit(millions: u64) -> Rate {
        Rate::bits(millions * 1_000_000)
    }

    /// A rate in bits a second.
    pub const fn bits(bits_per_second: u64) -> Rate {
        Rate { bits_per_second }
    }

    /// The rate in bits a second.
    pub const fn bits_per_second(self) -> u64 {
        self.bits_per_second
    }

    /// How long a frame of `bytes` occupies the line.
    fn time_for(self, bytes: usize) -> Duration {
        let bits = bytes as u64 * 8;
        Duration::from_nanos(bits * 1_000_000_000 / self.bits_per_second)
    }
}

/// A slow link. Ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    cable: Arc<Cable>,
    /// None once it has ended.
    carrier: Option<JoinHandle<()>>,
}

/// What the two directions of a link share with each other and with the machines' power.
#[derive(Debug)]
pub(super) struct Cable {
    device: String,
    rate: Rate,
    rtt: Duration,
    ends: [End; 2],
    cut: AtomicBool,
    /// How many of a million packets are lost.
    lost: AtomicU32,
    over: AtomicBool,
}

#[derive(Debug)]
struct End {
    machine: Arc<Hardware>,
    /// The machine's TAP device; none while the machine is off.
    tap: Mutex<Option<Arc<File>>>,
    /// Bytes that have left the line at this end's machine.
    delivered: AtomicU64,
}

impl Link {
    pub(super) fn lay(number: usize, [a, b]: [&Arc<Hardware>; 2], rate: Rate, rtt: Duration) -> Result<Link> {
        let cable = Arc::new(Cable {
            device: format!("slow{number}"),
            rate,
            rtt,
            ends: [a, b].map(End::new),
            cut: AtomicBool::new(false),
            lost: AtomicU32::new(0),
            over: AtomicBool::new(false),
        });
        cable.connect(a)?;
        cable.connect(b)?;
        let carried = Arc::clone(&cable);
        let carrier = Some(std::thread::spawn(move || carried.carry()));
        Ok(Link { cable, carrier })
    }

    pub(super) fn cable(&self) -> &Arc<Cable> {
        &self.cable
    }

    /// Loses every frame from now on, those under way too, without a word to anybody; or (`false`)
    /// carries them again.
    pub fn drop_all(&self, cut: bool) {
        self.cable.cut.store(cut, Relaxed);
    }

    /// Loses so many of a million packets from now on, at random moments. One that is a part of a large frame
    /// takes that along: packets that follow each other are lost together.
    pub fn lose(&self, of_a_million: u32) {
        self.cable.lost.store(of_a_million, Relaxed);
    }

    /// Bytes delivered so far: from the first machine to the second, and back.
    pub fn bytes(&self) -> (u64, u64) {
        let [a, b] = &self.cable.ends;
        (b.delivered.load(Relaxed), a.delivered.load(Relaxed))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cable.over.store(true, Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
        for end in &self.cable.ends {
            end.set(None);
        }
    }
}

impl Cable {
    /// Gives `machine`, when it is at one of the ends, its device and route.
    pub(super) fn connect(&self, machine: &Hardware) -> Result<()> {
        let [a, b] = &self.ends;
        for (here, there) in [(a, b), (b, a)] {
            if here.machine.name == machine.name && !self.over.load(Relaxed) {
                let tap = self.open_tap(&here.machine, &there.machine)?;
                here.set(Some(Arc::new(tap)));
            }
        }
        Ok(())
    }

    /// Takes `machine`'s device away, for its network is about to go.
    pub(super) fn disconnect(&self, machine: &Hardware) {
        for end in &self.ends {
            if end.machine.name == machine.name {
                end.set(None);
            }
        }
    }

    fn open_tap(&self, here: &Hardware, there: &Hardware) -> Result<File> {
        let device = self.device.clone();
        let tap = here.space.run(move || open_tap(&device));
        let tap = tap.with_context(|| format!("a TAP device in {}", here.name))?;
        here.space.ip(&self.setup(here, there))?;
        Ok(tap)
    }

    /// A device keeps its hardware address over a power cut, for the peer remembers it.
    fn setup(&self, here: &Hardware, there: &Hardware) -> String {
        let (device, hardware_addr) = (&self.device, here.place.hardware_addr());
        let (here, there) = (here.place.addr(), there.place.addr());
        format!(
            "link set {device} address {hardware_addr} up\n\
             route replace {there}/32 dev {device} src {here}\n"
        )
    }

    /// Carries frames until the link is over.
    fn carry(&self) {
        hurry();
        let mut directions = [0, 1].map(|from| Direction::new(self, from));
        while !self.over.load(Relaxed) {
            self.wait(directions.iter().any(|direction| !direction.under_way.is_empty()));
            for direction in &mut directions {
                direction.take();
                if self.cut.load(Relaxed) {
                    direction.under_way.clear();
                }
                direction.deliver();
            }
        }
    }

    /// Sleeps until it is time to look again, or where nothing is under way, until a frame comes in.
    fn wait(&self, under_way: bool) {
        if under_way {
            return std::thread::sleep(self.look_every());
        }
        let taps: Vec<_> = self.ends.iter().filter_map(End::tap).collect();
        let mut fds: Vec<_> = taps.iter().map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)).collect();
        let _ = ppoll(&mut fds, Some(TimeSpec::from(NAP)), Some(SigSet::empty()));
    }

    fn look_every(&self) -> Duration {
        (self.rtt / 100).clamp(LOOK_MIN, LOOK_MAX)
    }
}

impl End {
    fn new(machine: &Arc<Hardware>) -> End {
        End { machine: Arc::clone(machine), tap: Mutex::new(None), delivered: AtomicU64::new(0) }
    }

    fn tap(&self) -> Option<Arc<File>> {
        self.tap.lock().expect("no panic under this lock").clone()
    }

    /// Reads a frame, under the lock: what is read after [`End::set`] comes from the new device.
    fn read(&self, frame: &mut [u8]) -> Option<io::Result<usize>> {
        let tap = self.tap.lock().expect("no panic under this lock");
        tap.as_deref().map(|mut tap| tap.read(frame))
    }

    fn set(&self, tap: Option<Arc<File>>) {
        *self.tap.lock().expect("no panic under this lock") = tap;
    }
}

/// One direction of a cable.
struct Direction<'a> {
    cable: &'a Cable,
    from: &'a End,
    to: &'a End,
    under_way: VecDeque<(Instant, Vec<u8>)>,
    /// What is read goes through it.
    frame: Vec<u8>,
    /// When the line will have sent all that it has taken so far.
    free_at: Instant,
    /// Says which packets are lost; never 0.
    random: u64,
}

impl<'a> Direction<'a> {
    fn new(cable: &'a Cable, from: usize) -> Direction<'a> {
        Direction {
            cable,
            from: &cable.ends[from],
            to: &cable.ends[1 - from],
            under_way: VecDeque::new(),
            frame: vec![0; FRAME_MAX],
            free_at: Instant::now(),
            random: 1 + from as u64,
        }
    }

    fn take(&mut self) {
        while let Some(read) = self.from.read(&mut self.frame) {
            match read {
                Ok(length) => self.enqueue(length),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return,
                // The machine's network went away under us: soon there is another device.
                Err(_) => return std::thread::sleep(NAP),
            }
        }
    }

    /// The frame that was read, of so many bytes.
    fn enqueue(&mut self, length: usize) {
        let frame = &self.frame[..length];
        let now = Instant::now();
        let begin = self.free_at.max(now);
        if begin - now <= self.cable.rtt.max(SHORTEST_QUEUE) {
            self.free_at = begin + self.cable.rate.time_for(line_bytes(frame));
            let due = self.free_at + self.cable.rtt / 2;
            if !self.is_lost(length) {
                self.under_way.push_back((due, self.frame[..length].to_vec()));
            }
        }
    }

    /// Whether the next frame, of so many bytes, is lost: by each packet that it is cut to.
    fn is_lost(&mut self, length: usize) -> bool {
        let of_a_million = u64::from(self.cable.lost.load(Relaxed)) * length.div_ceil(PACKET) as u64;
        // Marsaglia's xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1_000_000 < of_a_million
    }

    /// Delivers what is due by now, or nearer to now than to the next look.
    fn deliver(&mut self) {
        let tap = self.to.tap();
        let now = Instant::now() + self.cable.look_every() / 2;
        while self.under_way.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, frame)) = self.under_way.pop_front() else {
                return;
            };
            let written = tap.as_deref().map(|mut tap| tap.write(&frame));
            if let Some(Ok(_)) = written {
                self.to.delivered.fetch_add(line_bytes(&frame) as u64, Relaxed);
            }
        }
    }
}

/// Lets the thread run before all others as soon as a frame is due, where that is allowed.
fn hurry() {
    // SAFETY: plain numbers in zeroed memory; 0 is the calling thread.
    unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = 1;
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters);
    }
}

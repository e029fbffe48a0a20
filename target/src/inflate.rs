//! From data frames to a package's plain bytes.
//!
//! One zstd stream runs through all packages of a session; [`Packed`] is the part of
//! it that belongs to one package, and ends where the package does. How much may come
//! out is set by whoever reads ([`Packed::allow`]), step by step, never by the sender:
//! one byte more is an error. A stream that takes bytes and gives none ends the session.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::channel::{Input, Pulse};
use crate::commit::Group;
use crate::frame::{self, Frame, HEADER_LEN, PAYLOAD_MAX};
use crate::lanes::{Lanes, spread_after};
use crate::message::{PROTOCOL_OF_LANES, Refusal, ToTarget, window_log_max};
use crate::partial::Partial;
use crate::refusal::{End, Stop};
use std::sync::{Arc, Weak};

/// How many packed bytes may come in a row that inflate to nothing (one block of zstd takes 128 KiB).
const BARREN_MAX: usize = 2 * PAYLOAD_MAX;
/// How much is inflated, to be dropped, of a package whose size nobody knows.
const UNKNOWN_MAX: u64 = 64 << 20;

/// Where frames come from. What is staged goes to be committed before anyone waits for the host.
pub(crate) struct Intake {
    pub(crate) input: Input,
    pub(crate) group: Group,
    pub(crate) pulse: Arc<Pulse>,
    /// Of the two sides' protocols the older one.
    pub(crate) protocol: u16,
    pub(crate) lanes: Lanes,
}

impl Intake {
    /// The next frame in the middle of a package.
    fn frame(&mut self) -> Result<Frame<ToTarget>, End> {
        self.group.settle(&self.input)?;
        self.read()
    }

    /// The next frame that is not about the channel itself.
    fn read(&mut self) -> Result<Frame<ToTarget>, End> {
        loop {
            let message = match frame::read(&mut self.input)? {
                Frame::Message(message) => message,
                data => return Ok(data),
            };
            if message.since() > self.protocol {
                return Err(End::broken("the host said what this session's protocol does not have"));
            }
            match message {
                ToTarget::Gather { .. } if self.protocol < PROTOCOL_OF_LANES => {}
                ToTarget::Gather { key, lanes } => {
                    self.input.will_spread();
                    self.lanes.gather(key, lanes)?;
                }
                ToTarget::Spread { after } if after < spread_after(self.protocol) => {
                    let what = format!("the host spreads the session behind {after} bytes already");
                    return Err(End::broken(what));
                }
                ToTarget::Spread { after } => self.input.spread(after, self.lanes.take()?),
                message => return Ok(Frame::Message(message)),
            }
            // The host may be waited for again.
            self.group.settle(&self.input)?;
        }
    }

    /// The next message between packages.
    pub(crate) fn message(&mut self) -> Result<ToTarget, End> {
        self.group.settle(&self.input)?;
        self.pulse.busy(false);
        self.pulse.holds(Weak::new());
        let frame = self.read();
        self.pulse.busy(true);
        match frame? {
            Frame::Message(message) => Ok(message),
            Frame::Data(_) => Err(End::broken("the host sent packed bytes outside of a package")),
        }
    }
}

/// The session's zstd stream.
pub(crate) struct Inflate {
    decoder: Decoder<'static>,
    piece: Vec<u8>,
    /// How much of `piece` is inflated.
    done: usize,
    barren: usize,
}

impl Inflate {
    pub(crate) fn new(protocol: u16) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(window_log_max(protocol)))?;
        Ok(Self { decoder, piece: Vec::new(), done: 0, barren: 0 })
    }

    /// Inflates some of what is there; 0 when another piece is needed.
    fn inflate(&mut self, out: &mut [u8]) -> Result<usize, End> {
        loop {
            let mut input = InBuffer::around(&self.piece[self.done..]);
            let mut output = OutBuffer::around(&mut *out);
            self.decoder.run(&mut input, &mut output).map_err(broken_stream)?;
            let (taken, given) = (input.pos(), output.pos());
            self.done += taken;
            if given > 0 {
                self.barren = 0;
                return Ok(given);
            }
            if self.done == self.piece.len() || taken == 0 {
                return Ok(0);
            }
        }
    }

    fn feed(&mut self, piece: Vec<u8>) -> Result<(), End> {
        self.barren += piece.len() + HEADER_LEN;
        if self.barren > BARREN_MAX {
            return Err(End::broken("the packed stream goes on without carrying anything"));
        }
        self.piece = piece;
        self.done = 0;
        Ok(())
    }
}

fn broken_stream(why: io::Error) -> End {
    End::broken(format!("the packed stream is broken: {why}"))
}

/// The plain bytes of one package, up to its end.
pub(crate) struct Packed<'a> {
    stream: RefCell<(&'a mut Inflate, &'a mut Intake)>,
    allowed: Cell<u64>,
    /// All that the package may still come to, once its manifest is known.
    announced: Cell<u64>,
    over: Cell<bool>,
    closed: RefCell<Option<Closed>>,
    end: RefCell<Option<End>>,
}

/// How the host closed a package.
enum Closed {
    Complete,
    Abandoned(String),
}

impl<'a> Packed<'a> {
    pub(crate) fn new(inflate: &'a mut Inflate, intake: &'a mut Intake) -> Self {
        Self {
            stream: RefCell::new((inflate, intake)),
            allowed: Cell::new(0),
            announced: Cell::new(UNKNOWN_MAX),
            over: Cell::new(false),
            closed: RefCell::new(None),
            end: RefCell::new(None),
        }
    }

    /// From here on, at most `bytes` may come.
    pub(crate) fn allow(&self, bytes: u64) {
        self.allowed.set(bytes);
    }

    /// The whole package may come to this many bytes.
    pub(crate) fn announce(&self, bytes: u64) {
        self.announced.set(bytes);
    }

    /// What an error in reading means for the package; `text` says what else it may be.
    pub(crate) fn stop(&self, text: impl std::fmt::Display) -> Stop {
        if let Some(end) = self.end.take() {
            return Stop::End(end);
        }
        match &*self.closed.borrow() {
            Some(Closed::Abandoned(why)) => Refusal::later(format!("the host gave it up: {why}")).into(),
            _ if self.over.get() => Stop::person("it carries more than its manifest announces"),
            _ => Stop::person(text.to_string()),
        }
    }

    /// The session's.
    pub(crate) fn protocol(&self) -> u16 {
        self.stream.borrow().1.protocol
    }

    /// Another session may want this, which is in the middle of the package.
    pub(crate) fn holds(&self, partial: Weak<Partial>) {
        self.stream.borrow().1.pulse.holds(partial);
    }

    /// Work goes on that reads nothing.
    pub(crate) fn moved(&self) {
        self.stream.borrow().1.pulse.moved();
    }

    /// Reads exactly so many bytes as `buffer` holds; `what` names them.
    pub(crate) fn exactly(&self, buffer: &mut [u8], what: &str) -> Result<(), Stop> {
        self.allow(buffer.len() as u64);
        let mut from = self;
        from.read_exact(buffer).map_err(|_| self.stop(format_args!("it ends in the middle of {what}")))
    }

    /// Sees to it that nothing more comes, and that the host closed the package as complete.
    pub(crate) fn finish(&self) -> Result<(), Stop> {
        self.allow(0);
        let mut from = self;
        let rest = from.read(&mut [0]).map_err(|_| self.stop("it cannot be read"))?;
        debug_assert_eq!(rest, 0);
        match &*self.closed.borrow() {
            Some(Closed::Complete) => Ok(()),
            _ => Err(self.stop("it has no end")),
        }
    }

    /// Drops the rest of a package that was answered; the work for that is bounded.
    pub(crate) fn drop_rest(self) -> Result<(), End> {
        self.over.set(false);
        self.allow(self.announced.get());
        match io::copy(&mut &self, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.end.take().unwrap_or_else(|| {
                End::broken("a package that was refused goes on far beyond what was announced")
            })),
        }
    }

    /// Inflates into `out`; 0 at the package's end.
    fn pull(&self, out: &mut [u8]) -> Result<usize, End> {
        let (inflate, intake) = &mut *self.stream.borrow_mut();
        loop {
            let given = inflate.inflate(out)?;
            if given > 0 || self.closed.borrow().is_some() {
                // A piece that came may make very much.
                intake.pulse.moved();
                return Ok(given);
            }
            match intake.frame()? {
                Frame::Data(piece) => inflate.feed(piece)?,
                Frame::Message(ToTarget::PackageEnd) => *self.closed.borrow_mut() = Some(Closed::Complete),
                Frame::Message(ToTarget::Abandon(why)) => {
                    *self.closed.borrow_mut() = Some(Closed::Abandoned(why));
                }
                Frame::Message(_) => {
                    return Err(End::broken("the host sent another message in the middle of a package"));
                }
            }
        }
    }
}

impl Read for &Packed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowed.get();
        let most = out.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
        let mut probe = [0];
        let target = if most > 0 { &mut out[..most] } else { &mut probe };
        let given = self.pull(target).map_err(|end| {
            *self.end.borrow_mut() = Some(end);
            io::Error::other("the session ends")
        })?;
        if given > most {
            self.over.set(true);
            return Err(io::Error::other("more came than is allowed"));
        }
        self.allowed.set(allowed - given as u64);
        Ok(given)
    }
}

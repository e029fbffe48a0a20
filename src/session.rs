//! A session with a target: one remote process, frames each way, packages back to back.
//!
//! Four parts run beside each other, so that reading, packing and sending overlap: the packer
//! (a thread) reads packages, the press (one or two more) turns them into frames, the outlet puts frames
//! on the channel, the reader turns the target's frames into events. What the target did not acknowledge is
//! not done, whatever exit code or end of file arrives.

mod aging;
mod answered;
mod ear;
mod early;
mod open;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blat_target::delta::GROUP;
use blat_target::lanes::spread_after;
use blat_target::listing::{Listing, chunk};
use blat_target::manifest::ENTRIES_MAX;
use blat_target::message::{
    Digest, Listed, Outcome, PROTOCOL_OF_HARD_LINKS, PROTOCOL_OF_LANES, Refusal, Standing, TargetHello,
    ToHost, ToTarget,
};
use blat_target::package::PackageVersion;
use openssh::{ChildStdin, ChildStdout};
use tokio::io::BufReader;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::bases::Base;
use crate::delta::{Cache, Made};
use crate::failure::{Failure, Needs, Result};
use crate::jobs::{Closed, Desk, jobs};
use crate::lanes::{self, Widening, Word};
use crate::memory::Memory;
use crate::outlet::Outlet;
use crate::pace::Pace;
use crate::packer::{self, Job, Ways};
pub use crate::packer::{Mended, Packed, Resumed};
use crate::press::frames_ahead;
use crate::progress::Progress;
use crate::ready::{Lent, Store};
use crate::ssh::Child;
pub(crate) use answered::Answered;
use ear::Ear;
pub use early::Early;
pub use open::Refused;
use open::words;

/// From this protocol on, packages can be told by others.
const PROTOCOL_OF_DELTAS: u16 = 2;
/// How many events wait to be heard.
const EVENTS_AHEAD: usize = 16;

/// What a session sends, and what became of it.
#[derive(Debug)]
pub enum Event {
    /// The packer has sent all of a job's bytes.
    Packed(Packed),
    /// The package could not be read here, so nothing of it was sent.
    Unreadable { number: u64, failure: Failure },
    /// The target could not make some files of what it has: these were sent in full.
    Mended(Mended),
    /// The target had a part of the package from before: only the rest is sent.
    Resumed(Resumed),
    /// The target says how it ended.
    Outcome { number: u64, outcome: Outcome },
}

/// What a session works with.
#[derive(Clone, Debug)]
pub struct Means {
    pub cache: Cache,
    pub memory: Memory,
    pub ready: Store,
    pub pace: Pace,
    /// What is asked along with the hello. Its first questions must be these.
    pub early: Early,
    /// In which time the target answered before, over the same connection, if that is known.
    pub round_trip: Option<Duration>,
    /// Whether all that goes by the helper's command line as well, which saves another: sshd takes nothing
    /// on a channel before it has started what is to take it.
    pub by_command: bool,
    /// How there can be more connections, where there can.
    pub lanes: Option<lanes::Means>,
    /// Whether files that are the same in two versions shall be hard links there.
    pub hard_links: bool,
}

impl Means {
    /// For a session that sends no package.
    pub fn none() -> Self {
        Self {
            cache: Cache::new(PathBuf::new()),
            memory: Memory::default(),
            ready: Store::none(),
            pace: Pace::new(0, None),
            early: Early::Nothing,
            round_trip: None,
            by_command: false,
            lanes: None,
            hard_links: false,
        }
    }
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    pub hello: TargetHello,
    jobs: Desk,
    /// Packages that are told by others, as long as they are not answered.
    told: HashMap<u64, Told>,
    heard: mpsc::Receiver<Heard>,
    progress: Progress,
    /// What was asked along with the hello, and is not taken up yet.
    early: VecDeque<ToTarget>,
    /// Whether the packer was told that this is the end.
    done: bool,
    sent: u64,
    /// What was packed for several targets, and is not answered yet.
    lent: Lent,
    answered: Answered,
    /// What puts frames on the channel, hears the target, and has more channels come. They end with the session.
    _tasks: JoinSet<()>,
    /// Held, for the channel ends with it.
    _child: Child,
}

/// A package that is told by another, and what the target doubts of it.
#[derive(Debug)]
struct Told {
    id: PackageVersion,
    folder: PathBuf,
    made: Vec<Made>,
}

/// What arrives from the packer and the target.
#[derive(Debug)]
pub(crate) enum Heard {
    Said(ToHost),
    Packed(Packed),
    Mended(Mended),
    Resumed(Resumed),
    Unreadable { number: u64, failure: Failure },
    Broken(Failure),
}

impl Session {
    fn run(
        hello: TargetHello,
        mut child: Child,
        stdin: ChildStdin,
        stdout: BufReader<ChildStdout>,
        progress: Progress,
        early: VecDeque<ToTarget>,
        mut means: Means,
    ) -> Result<Self> {
        let (jobs, to_do) = jobs();
        let (frames, to_send) = mpsc::channel(frames_ahead(progress.round_trip()));
        let (hear, heard) = mpsc::channel(EVENTS_AHEAD);
        let protocol = hello.protocol;
        if let Some(stderr) = child.stderr().take() {
            tokio::spawn(async move { tracing::debug!("the helper said: {}", words(stderr).await) });
        }
        let (answer, answers) = std::sync::mpsc::channel();
        let word = Arc::new(Word::default());
        let outlet = Outlet::new(stdin, means.pace.clone(), progress.clone(), word.clone());
        let (orders, ordered) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(outlet.later("cannot use the channel")?.run(to_send, ordered));
        let lent = means.ready.begin();
        if let Some(means) = means.lanes.take_if(|_| protocol >= PROTOCOL_OF_LANES) {
            let (progress, word) = (progress.clone(), word.clone());
            let after = spread_after(protocol);
            tasks.spawn(Widening { means, progress, orders, word, after }.run());
        }
        if means.hard_links && protocol >= PROTOCOL_OF_HARD_LINKS {
            jobs.push(Job::Say(ToTarget::HardLinks)).map_err(over)?;
        }
        let answered = Answered::default();
        let ways = Ways { frames, hear: hear.clone(), answers, answered: answered.clone() };
        packer::start(protocol, to_do, ways, means, progress.clone());
        tasks.spawn(Ear { hear, answer, word, progress: progress.clone() }.listen(stdout));
        let told = HashMap::new();
        Ok(Self {
            hello,
            jobs,
            told,
            heard,
            progress,
            early,
            done: false,
            sent: 0,
            lent,
            answered,
            _tasks: tasks,
            _child: child,
        })
    }

    /// In which time the target answered at best.
    pub fn round_trip(&self) -> Option<Duration> {
        self.progress.round_trip()
    }

    /// The answer to a question about `count` places.
    async fn standing(&mut self, count: usize) -> Result<Vec<Standing>> {
        match self.said().await? {
            ToHost::Standing(standing) if standing.len() == count => Ok(standing),
            other => Err(unexpected(&other)),
        }
    }

    /// Hands a package over to be sent, told by one of `bases` if that pays; its number, by which
    /// events speak of it.
    pub fn send_package(&mut self, id: PackageVersion, folder: PathBuf, bases: Vec<Base>) -> Result<u64> {
        let number = self.next_number();
        let takes_bases = self.hello.protocol >= PROTOCOL_OF_DELTAS;
        let bases = if takes_bases { bases } else { Vec::new() };
        if !bases.is_empty() {
            let told = Told { id: id.clone(), folder: folder.clone(), made: Vec::new() };
            self.told.insert(number, told);
        }
        self.push(Job::Package { number, id, folder, bases })?;
        Ok(number)
    }

    /// Hands a link over to be made, as old as the `link` here is; its number.
    pub fn send_link(&mut self, id: PackageVersion, text: Vec<u8>, link: PathBuf) -> Result<u64> {
        let number = self.next_number();
        self.push(Job::Link { number, id, text, link })?;
        Ok(number)
    }

    /// Hands the PackageList over to be laid down; its number.
    pub fn send_package_list(&mut self, text: Vec<u8>) -> Result<u64> {
        let number = self.next_number();
        self.push(Job::PackageList { number, text })?;
        Ok(number)
    }

    /// Asks what stands in the whole archive. The listing is none if its digest is `known`.
    pub async fn list(&mut self, known: Option<Digest>) -> Result<(Option<Listing>, Listed)> {
        self.ask(ToTarget::List { known })?;
        let mut listing = chunk::Reader::default();
        loop {
            match self.said().await? {
                ToHost::Listing(packed) => {
                    let plain = zstd::bulk::decompress(&packed, chunk::CHUNK_MAX);
                    let plain = plain.later("the target's listing cannot be unpacked")?;
                    listing.chunk(&plain).later("the target's listing cannot be read")?;
                }
                ToHost::Listed(end) if Some(end.digest) == known => return Ok((None, end)),
                ToHost::Listed(end) => {
                    let listing = listing.finish();
                    if Digest(listing.digest()) != end.digest {
                        return Err(Failure::later(anyhow::anyhow!("the target's listing came in broken")));
                    }
                    return Ok((Some(listing), end));
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// What speaks against replacing the helper; nothing where it may be done. Only for protocol 2.
    pub async fn ask_replace(&mut self) -> Result<Option<Refusal>> {
        self.push(Job::Say(ToTarget::AskReplace))?;
        match self.said().await? {
            ToHost::MayReplace(against) => Ok(against),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the helper replaced by `program`. The next session has the new one. Only for protocol 2.
    pub async fn replace_helper(&mut self, program: Vec<u8>) -> Result<Outcome> {
        let number = self.next_number();
        self.push(Job::Helper { number, program })?;
        match self.said().await? {
            ToHost::Outcome { number: of, outcome } if of == number => Ok(outcome),
            other => Err(unexpected(&other)),
        }
    }

    /// What happened next. Fails when nothing moves any more.
    pub async fn event(&mut self) -> Result<Event> {
        loop {
            match self.hear().await? {
                Heard::Packed(packed) => return Ok(Event::Packed(packed)),
                Heard::Mended(mended) => return Ok(Event::Mended(mended)),
                Heard::Resumed(resumed) => return Ok(Event::Resumed(resumed)),
                Heard::Said(ToHost::Outcome { number, outcome }) => {
                    self.told.remove(&number);
                    if matches!(outcome, Outcome::Refused(_)) {
                        self.lent.look_at(number)?;
                    }
                    self.lent.answered(number);
                    self.answered.answered(number);
                    return Ok(Event::Outcome { number, outcome });
                }
                Heard::Unreadable { number, failure } => {
                    self.told.remove(&number);
                    return Ok(Event::Unreadable { number, failure });
                }
                Heard::Said(said) => self.doubt(said)?,
                Heard::Broken(failure) => return Err(failure),
            }
        }
    }

    /// Takes the target's word on files that it could not make, and has them sent in full.
    fn doubt(&mut self, said: ToHost) -> Result<()> {
        let (ToHost::Made { number, .. } | ToHost::Doubt { number }) = &said else {
            return Err(unexpected(&said));
        };
        let number = *number;
        let Some(told) = self.told.get_mut(&number) else { return Err(unexpected(&said)) };
        if let ToHost::Made { group, digests, .. } = said {
            if told.made.len() as u64 > ENTRIES_MAX / GROUP as u64 {
                return Err(Failure::later(anyhow::anyhow!("the target doubts more than there is")));
            }
            told.made.push((group, digests));
            return Ok(());
        }
        let (id, folder, made) = (told.id.clone(), told.folder.clone(), std::mem::take(&mut told.made));
        self.jobs.push_urgent(Job::Mend { number, id, folder, made }).map_err(over)
    }

    /// Something that the session waits for has gone on.
    pub fn moved(&self) {
        self.progress.moved();
    }

    /// Says right behind what was handed over that this was all, so that the target commits it at once and
    /// the session's end takes no round trip of its own. Nothing may be sent or asked any more. Where the
    /// target may doubt a package, it waits for [`Session::finish`].
    pub fn end_is_near(&mut self) -> Result<()> {
        if !self.done && self.told.is_empty() {
            self.push(Job::Done)?;
            self.done = true;
        }
        Ok(())
    }

    /// Ends the session: says how much was sent, and waits for the target's counts.
    /// All outcomes must have been heard.
    pub async fn finish(mut self) -> Result<()> {
        if !self.done {
            self.push(Job::Done)?;
        }
        match self.said().await? {
            ToHost::Done { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.sent += 1;
        self.sent - 1
    }

    fn push(&self, job: Job) -> Result<()> {
        if matches!(job, Job::Say(_)) {
            self.progress.asked();
        }
        self.jobs.push(job).map_err(over)
    }

    /// What the target says to a question, or at the end. A package that it answered before all of it was sent may
    /// have been packed meanwhile; nobody waits for that any more.
    async fn said(&mut self) -> Result<ToHost> {
        loop {
            match self.hear().await? {
                Heard::Said(said) => return Ok(said),
                Heard::Packed(_) | Heard::Mended(_) | Heard::Resumed(_) => {}
                Heard::Unreadable { failure, .. } | Heard::Broken(failure) => return Err(failure),
            }
        }
    }

    async fn hear(&mut self) -> Result<Heard> {
        loop {
            tokio::select! {
                heard = self.heard.recv() => match heard {
                    Some(Heard::Said(ToHost::Alive)) => {}
                    Some(Heard::Said(ToHost::Failed(refusal))) => {
                        self.lent.look_at_all()?;
                        return Err(Failure::from(refusal).context("the target ended the session"));
                    }
                    Some(Heard::Broken(failure)) => return Err(failure),
                    Some(heard) => return Ok(heard),
                    None => return Err(Failure::later(anyhow::anyhow!("the session is over"))),
                },
                () = sleep(Duration::from_secs(1)) => {
                    if self.progress.idle() > packer::STALL {
                        return Err(stalled());
                    }
                }
            }
        }
    }
}

fn over(_: Closed) -> Failure {
    Failure::later(anyhow::anyhow!("the session is over"))
}

fn stalled() -> Failure {
    Failure::later(anyhow::anyhow!("nothing moved for {} s: the target hangs", packer::STALL.as_secs()))
}

fn unexpected(said: &ToHost) -> Failure {
    Failure::later(anyhow::anyhow!("the target said something that was not asked for: {said:?}"))
}

//! `blat-target serve`: one session with a host, on standard input and output.
//!
//! The session ends well only with the host's `Done`. Whatever else ends it, what was
//! acknowledged stands, what came whole is committed, and what was staged is cleared: here,
//! or after a kill by a later session. Of a large package it is kept, for a later session to go on with.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::stat::{Mode, umask};

use crate::aging::Aging;
use crate::archive::{Archive, located};
use crate::channel::{Input, Output, Pulse, SILENCE_MAX};
use crate::command_line::Allowed;
use crate::commit::{Group, Pending, Unsynced};
use crate::frame::{Frame, HEADER_LEN, Header, MAGIC};
use crate::inflate::{Inflate, Intake, Packed};
use crate::lanes::Lanes;
use crate::list::{Listed, list};
use crate::manifest::{ENTRIES_MAX, Time};
use crate::message::{
    self, DeltaHead, Digest, HostHello, Mend, Outcome, PROTOCOL, PROTOCOL_OLDEST, PackageHead, Partial,
    QUERY_MAX, Refusal, RestHead, Standing, TargetHello, ToHost, ToTarget,
};
use crate::package::{PackageVersion, link_target};
use crate::package_list;
use crate::partial;
use crate::rebuild::{Doubtful, Rebuilt, Told, rebuild};
use crate::receive::{manifest, receive};
use crate::refusal::{End, Stop, refusal, shown};
use crate::resume::Kept;
use crate::sessions::{Session, clear_dead};
use crate::stage::Hidden;
use crate::turn::Turns;
use crate::update::Place;

/// All went well.
pub const EXIT_DONE: u8 = 0;
/// The input is not a host's.
pub const EXIT_USAGE: u8 = 64;
/// Trying again later may help.
pub const EXIT_LATER: u8 = 75;
/// A person is needed.
pub const EXIT_PERSON: u8 = 78;

/// The BLAKE3 of the running executable.
pub fn build() -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open("/proc/self/exe")?)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// Serves one session on standard input and output, within what is allowed.
pub fn serve(mut allowed: Allowed) -> ExitCode {
    let over_ssh = std::env::var_os("SSH_CONNECTION").is_some();
    let original = std::env::var_os("SSH_ORIGINAL_COMMAND");
    if let Some(what) = allowed.misused(over_ssh, original.as_deref()) {
        eprintln!("blat-target: this key serves blat and nothing else; {what} is not for it");
        return ExitCode::from(EXIT_USAGE);
    }
    if over_ssh && !allowed.hear(original.as_deref()) {
        eprintln!("blat-target: what follows --join is no channel of a session");
        return ExitCode::from(EXIT_USAGE);
    }
    // Modes are the manifest's, whatever the login shell thinks.
    umask(Mode::empty());
    let pulse = Arc::new(Pulse::new());
    let (Ok(input), Ok(output)) = (held(io::stdin()), held(io::stdout())) else {
        eprintln!("blat-target: standard input and output are needed");
        return ExitCode::from(EXIT_USAGE);
    };
    if let Some(lane) = allowed.lane {
        return joined(lane.join(&input));
    }
    let input = Input::new(std::mem::take(&mut allowed.said), input, SILENCE_MAX, pulse.clone());
    let output = Arc::new(Output::new(output));
    match converse(input, &output, pulse, &allowed) {
        Ok(code) => ExitCode::from(code),
        Err(End::Cut(why)) => {
            eprintln!("blat-target: {why}");
            ExitCode::from(EXIT_LATER)
        }
        Err(End::Failed(refusal)) => fail(&output, refusal),
    }
}

/// How a process ends that was a lane of another one's session.
fn joined(how: io::Result<()>) -> ExitCode {
    match how {
        Ok(()) => ExitCode::from(EXIT_DONE),
        Err(why) => {
            eprintln!("blat-target: no session took this channel: {why}");
            ExitCode::from(EXIT_LATER)
        }
    }
}

fn held(end: impl AsFd) -> io::Result<File> {
    Ok(File::from(end.as_fd().try_clone_to_owned()?))
}

fn fail(output: &Output, refusal: Refusal) -> ExitCode {
    let code = match refusal.mend {
        Mend::Later => EXIT_LATER,
        Mend::Person => EXIT_PERSON,
    };
    if let Err(End::Cut(_)) = output.say(&ToHost::Failed(refusal.clone())) {
        eprintln!("blat-target: {}", refusal.reason);
    }
    ExitCode::from(code)
}

fn converse(mut input: Input, output: &Arc<Output>, pulse: Arc<Pulse>, allowed: &Allowed) -> Result<u8, End> {
    output.raw(MAGIC)?;
    let mut magic = [0; MAGIC.len()];
    if input.read_exact(&mut magic).is_err() || magic != *MAGIC {
        eprintln!("blat-target: this speaks blat's protocol with a host; it is not for typing");
        return Ok(EXIT_USAGE);
    }
    let hello = hello(&mut input)?;
    if let Some(only) = &allowed.archive
        && located(only) != located(&hello.archive)
    {
        let (asked, only) = (shown(&hello.archive), shown(only));
        return Err(End::broken(format!("this key serves the archive {only} only, not {asked}")));
    }
    let archive = Arc::new(Archive::open(&hello.archive).map_err(End::Failed)?);
    let protocol = hello.protocol.min(PROTOCOL);
    output.say(&ToHost::Hello(introduction(&archive, protocol)?))?;
    if protocol >= ToTarget::PROTOCOL_OF_PARTIALS {
        tell_partials(&archive, output)?;
    }
    let cleared = archive.clone();
    let clearing = std::thread::spawn(move || clear_dead(&cleared));
    pulse.clone().tell(output.clone());
    let turns = Arc::new(Turns::new(archive.clone()));
    let aging = Aging::new(archive.clone(), turns.clone(), &hello);
    let group = Group::new(archive.clone(), turns, output.clone(), pulse.clone());
    let inflate = Inflate::new(protocol).map_err(|why| End::Failed(Refusal::later(why.to_string())))?;
    let lanes = Lanes::new(output.clone());
    let intake = Intake { input, group, pulse, protocol, lanes };
    let replace = allowed.replace || !allowed.is_restricted();
    let output = output.clone();
    let mut talk = Talk {
        replace,
        archive,
        aging,
        output,
        intake,
        inflate,
        session: None,
        kept: None,
        doubtful: BTreeMap::new(),
        next: 0,
        came: 0,
        hard_links: false,
    };
    let done = talk.run();
    talk.leave();
    let _ = clearing.join();
    done.map(|()| EXIT_DONE)
}

/// Reads the host's hello, and refuses a host whose protocol is unknown here.
fn hello(input: &mut Input) -> Result<HostHello, End> {
    let mut header = [0; HEADER_LEN];
    input.read_exact(&mut header).map_err(|why| End::Cut(why.to_string()))?;
    let header = Header::parse(header)?;
    let mut payload = vec![0; header.length];
    input.read_exact(&mut payload).map_err(|why| End::Cut(why.to_string()))?;
    check_protocol(&payload)?;
    match header.frame(payload)? {
        Frame::Message(ToTarget::Hello(hello)) => Ok(hello),
        _ => Err(End::broken("the host did not start with a hello")),
    }
}

/// Reads only what each protocol to come has first, for the rest may be unreadable.
fn check_protocol(payload: &[u8]) -> Result<(), End> {
    const HELLO: u32 = 0;
    match postcard::take_from_bytes::<(u32, u16)>(payload) {
        Ok(((HELLO, spoken), _)) if !(PROTOCOL_OLDEST..=PROTOCOL).contains(&spoken) => {
            let version = env!("CARGO_PKG_VERSION");
            Err(End::broken(format!(
                "the host speaks protocol {spoken}, but the helper on the target, blat-target {version}, \
                 speaks {PROTOCOL_OLDEST} to {PROTOCOL}: bring both to one version"
            )))
        }
        _ => Ok(()),
    }
}

/// Says of which packages a part is kept, if there are any.
fn tell_partials(archive: &Archive, output: &Output) -> Result<(), End> {
    let partial = partial::list(archive);
    if partial.is_empty() { Ok(()) } else { output.say(&ToHost::Partial(partial)) }
}

fn introduction(archive: &Archive, protocol: u16) -> Result<TargetHello, End> {
    let build = build()
        .map_err(|why| End::Failed(Refusal::later(format!("could not read /proc/self/exe: {why}"))))?;
    let (free_bytes, free_inodes) = archive.free();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(TargetHello { protocol, build, version, clock, free_bytes, free_inodes })
}

/// How many packages may wait to be mended, and how many entries they may have together.
const DOUBTFUL_MAX: usize = 64;
const DOUBTFUL_ENTRIES_MAX: usize = ENTRIES_MAX as usize;

/// How many digests one [`ToHost::Kept`] has at most.
const KEPT_TOLD: usize = 16 << 10;

/// zstd's level for listings: names that were shortened already.
const LISTING_LEVEL: i32 = 1;

/// A session after the hellos.
struct Talk {
    /// Whether this session may replace the program.
    replace: bool,
    archive: Arc<Archive>,
    aging: Aging,
    output: Arc<Output>,
    intake: Intake,
    inflate: Inflate,
    /// Made when something is first staged.
    session: Option<Arc<Session>>,
    /// What is kept of the package that the host asked about last.
    kept: Option<Kept>,
    /// Packages that wait for files to be mended.
    doubtful: BTreeMap<u64, Doubtful>,
    /// The least number that the next package or link may have.
    next: u64,
    /// How many packages and links came.
    came: u64,
    /// Whether files that are the same in another version may be hard links to these.
    hard_links: bool,
}

impl Talk {
    fn run(&mut self) -> Result<(), End> {
        loop {
            let message = self.intake.message()?;
            match message {
                ToTarget::AskReplace => self.ask_replace()?,
                ToTarget::Replace { number, length, digest } => self.replace(number, length, digest)?,
                ToTarget::Query(places) => self.query(&places)?,
                ToTarget::Package(head) => self.package(head)?,
                ToTarget::Whole(head) => self.whole(head)?,
                ToTarget::Delta(delta) => self.delta(delta)?,
                ToTarget::Mend { number, files } => self.mend(number, files)?,
                ToTarget::Resume(what) => self.resume(what)?,
                ToTarget::Rest(rest) => self.rest(rest)?,
                ToTarget::Link { number, id, text, modified } => self.link(number, id, text, modified)?,
                ToTarget::List { known } => self.list(known)?,
                ToTarget::PackageList { number, length, digest } => {
                    self.package_list(number, length, digest)?;
                }
                ToTarget::Unmark(places) => self.unmark(&places)?,
                ToTarget::Marks => self.tell_marks()?,
                ToTarget::Mark { what, after, why } => self.mark(what, after, &why)?,
                ToTarget::Delete { number, id, stands } => self.delete(number, &id, &stands)?,
                ToTarget::Confirm { max_delete } => {
                    let info = self.aging.confirm(max_delete).map_err(End::Failed)?;
                    self.output.say(&info)?;
                }
                ToTarget::Hold(reason) => {
                    let info = self.aging.hold(reason.as_deref()).map_err(End::Failed)?;
                    self.output.say(&info)?;
                }
                ToTarget::HardLinks => self.hard_links = true,
                ToTarget::Done { sent } => return self.done(sent),
                ToTarget::Gather { .. } | ToTarget::Spread { .. } => {
                    return Err(End::broken("the host spreads a session in the wrong place"));
                }
                ToTarget::Hello(_) => return Err(End::broken("the host introduced itself twice")),
                ToTarget::PackageEnd | ToTarget::Abandon(_) => {
                    return Err(End::broken("the host ended a package that it had not begun"));
                }
            }
        }
    }

    /// Clears what is staged, but for what a later session can go on with, and takes the session off
    /// record.
    fn leave(&mut self) {
        self.kept = None;
        self.doubtful.values().for_each(Doubtful::keep);
        self.doubtful.clear();
        self.intake.group.end();
        if let Some(session) = self.session.take() {
            session.end();
        }
    }

    fn query(&mut self, places: &[PackageVersion]) -> Result<(), End> {
        at_most(places.len())?;
        // Who cannot look finds something else there: sending it will tell why.
        let standing = |id| self.archive.standing(id).unwrap_or(Standing::Other);
        self.output.say(&ToHost::Standing(places.iter().map(standing).collect()))
    }

    fn package(&mut self, head: PackageHead) -> Result<(), End> {
        self.count(head.number)?;
        self.leave_kept(&head);
        if self.stands_needed(&head)? {
            return self.unchanged(&head);
        }
        let session = self.session()?;
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        match receive(&head, &self.archive, &session, &packed) {
            Ok((pending, unsynced)) => {
                drop(packed);
                self.intake.group.add(pending, unsynced);
                Ok(())
            }
            Err(Stop::Refused(refusal)) => {
                self.output.answer(head.number, Outcome::Refused(named(&head.id, refusal)))?;
                packed.drop_rest()
            }
            Err(Stop::End(end)) => Err(end),
        }
    }

    /// Whether this very build stands there already; if so, it has no mark any more.
    fn stands_needed(&self, head: &PackageHead) -> Result<bool, End> {
        let wanted = Standing::Version(head.stamp);
        let stands = self.archive.standing(&head.id).as_ref() == Ok(&wanted);
        Ok(stands && self.aging.is_needed(&head.id, &wanted).map_err(End::Failed)?)
    }

    /// A package that comes in full, without a tar.
    fn whole(&mut self, head: PackageHead) -> Result<(), End> {
        self.count(head.number)?;
        self.leave_kept(&head);
        self.rebuild(Told::whole(head))
    }

    /// A package that is told by another one.
    fn delta(&mut self, delta: DeltaHead) -> Result<(), End> {
        self.count(delta.head.number)?;
        self.leave_kept(&delta.head);
        self.rebuild(delta.into())
    }

    /// Tells what is kept of a package.
    fn resume(&mut self, what: Partial) -> Result<(), End> {
        // What waits may take long.
        self.intake.group.commit()?;
        let kept = Kept::find(&self.archive, what, || self.intake.pulse.moved());
        for digests in kept.digests().chunks(KEPT_TOLD) {
            self.output.say(&ToHost::Kept(digests.to_vec()))?;
        }
        let (bytes, digest) = kept.part();
        self.output.say(&ToHost::KeptPart { bytes, digest })?;
        self.kept = Some(kept);
        Ok(())
    }

    /// The rest of a package of which a part is kept.
    fn rest(&mut self, rest: RestHead) -> Result<(), End> {
        self.count(rest.head.number)?;
        match self.kept.take() {
            Some(kept) if (&kept.what().id, kept.what().stamp) == (&rest.head.id, rest.head.stamp) => {
                self.rebuild(Told::rest(rest, kept))
            }
            _ => Err(End::broken("the host goes on with a package that it did not ask about")),
        }
    }

    /// What is kept of a package that comes whole is nobody's business any more.
    fn leave_kept(&mut self, head: &PackageHead) {
        if let Some(kept) = self.kept.take_if(|kept| kept.what().id == head.id) {
            kept.discard();
        }
    }

    fn rebuild(&mut self, told: Told) -> Result<(), End> {
        let head = told.head.clone();
        if self.stands_needed(&head)? {
            return self.unchanged(&head);
        }
        let session = self.session()?;
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        match rebuild(told, self.hard_links, &self.archive, &session, &packed) {
            Ok(Rebuilt::Complete(built)) => {
                drop(packed);
                let (pending, unsynced) = *built;
                self.intake.group.add(pending, unsynced);
                Ok(())
            }
            Ok(Rebuilt::Doubtful(doubtful)) => {
                drop(packed);
                self.doubt(*doubtful)
            }
            Err(Stop::Refused(refusal)) => {
                self.output.answer(head.number, Outcome::Refused(named(&head.id, refusal)))?;
                packed.drop_rest()
            }
            Err(Stop::End(end)) => Err(end),
        }
    }

    /// Tells what was made of files that are wrong, and keeps the package until they come.
    fn doubt(&mut self, doubtful: Doubtful) -> Result<(), End> {
        let head = doubtful.head();
        let number = head.number;
        let held: usize = self.doubtful.values().map(Doubtful::entries).sum();
        if self.doubtful.len() == DOUBTFUL_MAX || held + doubtful.entries() > DOUBTFUL_ENTRIES_MAX {
            let why = Refusal::later("what it was told by is damaged on the target, as is too much else");
            return self.output.answer(number, Outcome::Refused(named(&head.id, why)));
        }
        for broken in doubtful.broken() {
            let (group, digests) = (broken.group, broken.digests.clone());
            self.output.say(&ToHost::Made { number, group, digests })?;
        }
        self.output.say(&ToHost::Doubt { number })?;
        self.doubtful.insert(number, doubtful);
        Ok(())
    }

    fn mend(&mut self, number: u64, files: u32) -> Result<(), End> {
        let Some(doubtful) = self.doubtful.remove(&number) else {
            return Err(End::broken("the host mends a package that is not in doubt"));
        };
        let id = doubtful.head().id.clone();
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        match doubtful.mend(files, &packed) {
            Ok((pending, unsynced)) => {
                drop(packed);
                self.intake.group.add(pending, unsynced);
                Ok(())
            }
            Err(Stop::Refused(refusal)) => {
                self.output.answer(number, Outcome::Refused(named(&id, refusal)))?;
                packed.drop_rest()
            }
            Err(Stop::End(end)) => Err(end),
        }
    }

    /// Answers for a package that stands already, and drops its bytes.
    fn unchanged(&mut self, head: &PackageHead) -> Result<(), End> {
        self.output.answer(head.number, Outcome::Unchanged)?;
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        // Only to know how much may follow.
        match manifest(head, &packed) {
            Err(Stop::End(end)) => Err(end),
            _ => packed.drop_rest(),
        }
    }

    fn link(&mut self, number: u64, id: PackageVersion, text: Vec<u8>, modified: Time) -> Result<(), End> {
        self.count(number)?;
        let addressed = match link_target(&id, &text) {
            Ok(addressed) => addressed.version,
            Err(why) => {
                let refusal = Refusal::person(why.to_string());
                return self.output.answer(number, Outcome::Refused(refusal));
            }
        };
        let session = self.session()?;
        match Hidden::link(&self.archive, &session, &id, &text, modified) {
            Ok(hidden) => {
                self.intake
                    .group
                    .add(Pending::link(number, id, text, addressed, hidden), Unsynced::default());
                Ok(())
            }
            Err(refusal) => self.output.answer(number, Outcome::Refused(refusal)),
        }
    }

    fn unmark(&mut self, places: &[PackageVersion]) -> Result<(), End> {
        at_most(places.len())?;
        self.intake.group.commit()?;
        let standing = self.aging.unmark(places).map_err(End::Failed)?;
        self.output.say(&standing)
    }

    fn tell_marks(&mut self) -> Result<(), End> {
        let marks = self.aging.marks().map_err(End::Failed)?;
        marks.iter().try_for_each(|part| self.output.say(part))
    }

    fn mark(
        &mut self,
        what: Vec<(PackageVersion, Standing)>,
        after: Option<u64>,
        why: &str,
    ) -> Result<(), End> {
        at_most(what.len())?;
        self.intake.group.commit()?;
        let marked = self.aging.mark(what, after, why).map_err(End::Failed)?;
        self.output.say(&marked)
    }

    fn delete(&mut self, number: u64, id: &PackageVersion, stands: &Standing) -> Result<(), End> {
        self.count(number)?;
        self.intake.group.commit()?;
        let session = self.session()?;
        let outcome = self.aging.delete(&session, id, stands);
        self.output.answer(number, outcome)
    }

    fn list(&mut self, known: Option<Digest>) -> Result<(), End> {
        self.intake.group.commit()?;
        let listed = list(&self.archive.root).map_err(|why| End::Failed(refusal("list the archive", why)))?;
        let digest = Digest(listed.listing.digest());
        if known != Some(digest) {
            for chunk in listed.listing.chunks() {
                let packed = zstd::bulk::compress(&chunk, LISTING_LEVEL).map_err(|why| {
                    End::Failed(Refusal::later(format!("could not pack the listing: {why}")))
                })?;
                self.output.say(&ToHost::Listing(packed))?;
            }
        }
        let Listed { passed_over, passed_over_count, .. } = listed;
        let package_list = package_list::digest(&self.archive);
        self.output.say(&ToHost::Listed(message::Listed {
            digest,
            passed_over,
            passed_over_count,
            package_list,
        }))
    }

    fn package_list(&mut self, number: u64, length: u64, digest: Digest) -> Result<(), End> {
        self.count(number)?;
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        match package_list::receive(&self.archive, length, digest, &packed) {
            Ok(outcome) => self.output.answer(number, outcome),
            Err(Stop::Refused(refusal)) => {
                let reason = format!("the PackageList: {}", refusal.reason);
                self.output.answer(number, Outcome::Refused(Refusal { reason, ..refusal }))?;
                packed.drop_rest()
            }
            Err(Stop::End(end)) => Err(end),
        }
    }

    fn ask_replace(&mut self) -> Result<(), End> {
        self.output.say(&ToHost::MayReplace(self.place().err()))
    }

    /// The program's place, if this session may replace it.
    fn place(&self) -> Result<Place, Refusal> {
        if !self.replace {
            return Err(Refusal::person(
                "the key is restricted, and its forced command does not have `--allow-replace`",
            ));
        }
        Place::find()
    }

    fn replace(&mut self, number: u64, length: u64, digest: Digest) -> Result<(), End> {
        self.count(number)?;
        let place = self.place();
        let packed = Packed::new(&mut self.inflate, &mut self.intake);
        match place.map_err(Stop::from).and_then(|place| place.replace(length, digest, &packed)) {
            Ok(outcome) => self.output.answer(number, outcome),
            Err(Stop::Refused(refusal)) => {
                let reason = format!("the new helper: {}", refusal.reason);
                self.output.answer(number, Outcome::Refused(Refusal { reason, ..refusal }))?;
                packed.drop_rest()
            }
            Err(Stop::End(end)) => Err(end),
        }
    }

    fn done(&mut self, sent: u64) -> Result<(), End> {
        self.intake.group.commit()?;
        if sent != self.came {
            let came = self.came;
            return Err(End::broken(format!(
                "the host says that it sent {sent} packages and links, but {came} came"
            )));
        }
        self.aging.write_gone().map_err(End::Failed)?;
        self.leave();
        let tally = self.output.tally();
        let (committed, unchanged, refused) = (tally.committed, tally.unchanged, tally.refused);
        self.output.say(&ToHost::Done { committed, unchanged, refused })
    }

    fn count(&mut self, number: u64) -> Result<(), End> {
        if number < self.next {
            return Err(End::broken(format!(
                "the host sent number {number}, which is not above those before"
            )));
        }
        self.next = number.saturating_add(1);
        self.came += 1;
        Ok(())
    }

    fn session(&mut self) -> Result<Arc<Session>, End> {
        if let Some(session) = &self.session {
            return Ok(session.clone());
        }
        let session = Arc::new(Session::begin(&self.archive).map_err(End::Failed)?);
        Ok(self.session.insert(session).clone())
    }
}

/// Refuses a message about too much at once.
fn at_most(places: usize) -> Result<(), End> {
    if places > QUERY_MAX {
        return Err(End::broken(format!("the host asked for more than {QUERY_MAX} places at once")));
    }
    Ok(())
}

/// A refusal that names its package.
fn named(id: &PackageVersion, refusal: Refusal) -> Refusal {
    Refusal { reason: format!("{id}: {}", refusal.reason), ..refusal }
}

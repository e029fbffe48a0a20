//! What is said in a session after the hellos, message by message.

mod links;
mod packages;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use crate::aging::Aging;
use crate::archive::Archive;
use crate::channel::Output;
use crate::inflate::{Inflate, Intake, Packed};
use crate::list::{Listed, list};
use crate::message::{self, Digest, Outcome, QUERY_MAX, Refusal, Standing, ToHost, ToTarget};
use crate::package::PackageVersion;
use crate::package_list;
use crate::rebuild::Doubtful;
use crate::refusal::{End, Stop, refusal};
use crate::resume::Kept;
use crate::sessions::Session;
use crate::update::Place;

use links::Link;

/// zstd's level for listings: names that were shortened already.
const LISTING_LEVEL: i32 = 1;

/// A session after the hellos.
pub(super) struct Talk {
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
    /// Links that wait for these, in their order.
    waiting: Vec<Link>,
    /// The least number that the next package or link may have.
    next: u64,
    /// How many packages and links came.
    came: u64,
    /// Whether files that are the same in another version may be hard links to these.
    hard_links: bool,
}

impl Talk {
    pub(super) fn new(
        archive: Arc<Archive>,
        aging: Aging,
        output: Arc<Output>,
        intake: Intake,
        inflate: Inflate,
        replace: bool,
    ) -> Self {
        Self {
            replace,
            archive,
            aging,
            output,
            intake,
            inflate,
            session: None,
            kept: None,
            doubtful: BTreeMap::new(),
            waiting: Vec::new(),
            next: 0,
            came: 0,
            hard_links: false,
        }
    }

    /// Does what the host says, up to its `Done`.
    pub(super) fn run(&mut self) -> Result<(), End> {
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
    pub(super) fn leave(&mut self) {
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
        let listed = list(&self.archive.root, || self.archive.pulse.moved())
            .map_err(|why| End::Failed(refusal("list the archive", why)))?;
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
        let came = package_list::receive(&self.archive, length, digest, &packed);
        match unless_refused(came, "the PackageList", number, &self.output, packed)? {
            Some(outcome) => self.output.answer(number, outcome),
            None => Ok(()),
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
        let came = place.map_err(Stop::from).and_then(|place| place.replace(length, digest, &packed));
        match unless_refused(came, "the new helper", number, &self.output, packed)? {
            Some(outcome) => self.output.answer(number, outcome),
            None => Ok(()),
        }
    }

    fn done(&mut self, sent: u64) -> Result<(), End> {
        self.stage_all_waiting()?;
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

/// What came, if it was not refused. If it was, that is answered for `what` of this number, and the rest dropped.
fn unless_refused<T>(
    came: Result<T, Stop>,
    what: impl Display,
    number: u64,
    output: &Output,
    packed: Packed<'_>,
) -> Result<Option<T>, End> {
    match came {
        Ok(came) => Ok(Some(came)),
        Err(Stop::Refused(refusal)) => {
            let reason = format!("{what}: {}", refusal.reason);
            output.answer(number, Outcome::Refused(Refusal { reason, ..refusal }))?;
            packed.drop_rest()?;
            Ok(None)
        }
        Err(Stop::End(end)) => Err(end),
    }
}

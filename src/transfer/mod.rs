//! Fast transfer: from the tags in a target's directory to packages on the target.
//!
//! One run claims what lies there, sends it over one session, and looks again until
//! nothing fresh is left; waiting claims that are due come after the fresh ones. A claim
//! is cleared when the target acknowledged all that it needs, and at no other time: what
//! is cut short is found again by the next run.

mod bucket;
mod near;
mod record;
mod resolve;
mod round;

use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use blat_target::message::{Mend, Outcome, Refusal};

use crate::archive::Archive;
use crate::channel::{Channel, Purpose};
use crate::config::{Destination, Settings};
use crate::failure::{Failure, Needs, Result};
use crate::lock::{self, Untaken};
use crate::places::Places;
use crate::progress::Progress;
use crate::report::{Cause, Parts, Report, Reporter};
use crate::session::{Early, Event};
use crate::tags::{Claim, Queue, WaitsFor};
use crate::trigger;
use near::Near;
use record::Record;
use resolve::{Verdict, Want, resolve};
use round::{Failed, Round, Settled};

/// For how long a run that failed holds back the next where tags could not be claimed.
const PAUSE: Duration = Duration::from_secs(5);

/// Runs until no tag is left that can be worked on now.
///
/// # Errors
/// What kept the run from its work as a whole; what concerns one package is told to the
/// agent, and its tag waits or is rejected.
pub async fn run(settings: &Settings, places: &Places, helper: &Path, started: SystemTime) -> Result<()> {
    let mut reporter = Reporter::new(settings.name.as_str(), &places.report);
    let mut unclaimed = true;
    let ended = once(settings, places, helper, started, &mut reporter, &mut unclaimed).await;
    if ended.is_err() && unclaimed && Queue::has_fresh(&settings.tags.directory) {
        // What cannot even be claimed starts the next run as soon as this one ends.
        tokio::time::sleep(PAUSE).await;
    }
    ended
}

async fn once(
    settings: &Settings,
    places: &Places,
    helper: &Path,
    started: SystemTime,
    reporter: &mut Reporter,
    unclaimed: &mut bool,
) -> Result<()> {
    let mut record = Record::begin();
    let _lock = match lock::take(&places.transfer_lock(), "a transfer") {
        Ok(lock) => lock,
        Err(Untaken::Held(running)) => return Err(running),
        Err(Untaken::Failed(failure)) => return tell_end(settings, places, reporter, &record, Err(failure)),
    };
    let worked = work(settings, places, helper, started, reporter, unclaimed, &mut record).await;
    match tell_end(settings, places, reporter, &record, worked)? {
        None => Ok(()),
        // A package that failed stopped no other, but the run is no success.
        Some(mend) => {
            Err(Failure { mend, cause: anyhow::anyhow!("not every tag could be served, as told above") })
        }
    }
}

/// Tells how a run came to its end. The agent, which starts the next, has to hear of every end.
fn tell_end<T>(
    settings: &Settings,
    places: &Places,
    reporter: &mut Reporter,
    record: &Record,
    ended: Result<T>,
) -> Result<T> {
    if let Err(failure) = &ended {
        let person = failure.mend == Mend::Person;
        reporter.tell(Report::Trouble { reason: failure.to_string(), person });
    }
    record.end(places, ended.as_ref().err());
    reporter.tell(Report::Queue { waiting: Queue::count(&settings.tags.directory) });
    ended
}

/// Returns what single packages that failed need, the worst of them.
async fn work(
    settings: &Settings,
    places: &Places,
    helper: &Path,
    started: SystemTime,
    reporter: &mut Reporter,
    unclaimed: &mut bool,
    record: &mut Record,
) -> Result<Option<Mend>> {
    let all_are_due = trigger::take(&places.transfer_trigger())?;
    let queue = open_queue(settings, places)?;
    let mut run = Run {
        settings,
        places,
        helper,
        reporter,
        queue,
        all_are_due,
        channel: None,
        tried: HashSet::new(),
        worst: None,
        undone: None,
        unclaimed,
        started,
        record,
        progress: Progress::start(),
    };
    let ended = run.all().await;
    run.close().await;
    let written = of_queue(run.queue.save(), "cannot write down why tags wait".into());
    ended.and(run.undone.map_or(written, Err)).map(|()| run.worst)
}

fn open_queue(settings: &Settings, places: &Places) -> Result<Queue> {
    let directory = &settings.tags.directory;
    let attempt = format!("cannot use the tag directory {}", directory.display());
    of_queue(Queue::open(directory, &places.state), attempt)
}

/// What mends that a queue cannot be used: one of another user's, a person.
fn of_queue<T>(done: io::Result<T>, attempt: String) -> Result<T> {
    match done {
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            Err(anyhow::anyhow!("{why}: is it the user blat's?")).person(attempt)
        }
        done => done.later(attempt),
    }
}

struct Run<'a> {
    settings: &'a Settings,
    places: &'a Places,
    helper: &'a Path,
    reporter: &'a mut Reporter,
    queue: Queue,
    /// A person wants no claim to wait for its time.
    all_are_due: bool,
    /// The way to the target, once it was needed.
    channel: Option<Channel>,
    /// Claims that this run has looked at.
    tried: HashSet<OsString>,
    /// What single packages that failed need, the worst of them.
    worst: Option<Mend>,
    /// Why the first tag that could be neither claimed, cleared nor rejected could not.
    undone: Option<Failure>,
    /// Whether tags may lie there that cannot be claimed.
    unclaimed: &'a mut bool,
    started: SystemTime,
    record: &'a mut Record,
    /// Asks systemd for more time as long as claims are looked at.
    progress: Progress,
}

impl Run<'_> {
    async fn all(&mut self) -> Result<()> {
        loop {
            let mut claims = self.claim()?;
            if claims.is_empty() {
                claims = self.due()?;
            }
            if claims.is_empty() {
                if !trigger::take(&self.places.transfer_trigger())? {
                    return Ok(());
                }
                // A person has asked meanwhile for all that waits to be tried.
                self.all_are_due = true;
                self.tried.clear();
                continue;
            }
            self.tried.extend(claims.iter().map(|claim| claim.file().to_owned()));
            let round = self.resolve(claims)?;
            if !round.is_empty() {
                self.send(round).await?;
            }
        }
    }

    fn claim(&mut self) -> Result<Vec<Claim>> {
        let reporter = &mut *self.reporter;
        let claimed = self.queue.claim(|name, reason| {
            let (tag, reason) = (name.to_string_lossy().into_owned(), reason.to_owned());
            reporter.tell(Report::Rejected { tag, reason });
        });
        let attempt = format!("cannot claim tags in {}", self.settings.tags.directory.display());
        let (claims, failed) = of_queue(claimed, attempt.clone())?;
        *self.unclaimed = failed.is_some();
        self.goes_on(of_queue(failed.map_or(Ok(()), Err), attempt));
        Ok(claims)
    }

    /// What cannot be done with one tag leaves the others to go on, and then the run fails.
    fn goes_on(&mut self, done: Result<()>) {
        if let Err(failure) = done {
            self.undone.get_or_insert(failure);
        }
    }

    fn due(&self) -> Result<Vec<Claim>> {
        let now = SystemTime::now();
        let claims = of_queue(self.queue.claims(), "cannot read the queue".into())?;
        let due = |claim: &Claim| {
            !self.tried.contains(claim.file()) && (self.all_are_due || self.queue.is_due(claim, now))
        };
        Ok(claims.into_iter().filter(due).collect())
    }

    /// Sorts claims into what is sent now, what waits, and what is rejected.
    fn resolve(&mut self, claims: Vec<Claim>) -> Result<Round> {
        let source = &self.settings.source;
        let archive = Archive::open(source)
            .later(format!("cannot read the source archive {}: is it mounted?", source.display()))?;
        let (now, grace) = (SystemTime::now(), self.settings.writable.grace.into());
        let is_empty = LazyCell::new(|| archive.is_empty());
        let mut round = Round::default();
        for claim in claims {
            self.progress.moved();
            let verdict = match &claim.tag {
                Ok(tag) => resolve(&archive, &tag.0, grace, now),
                Err(why) => Verdict::Reject(why.to_string()),
            };
            match verdict {
                Verdict::Send(steps) => round.add(claim, steps),
                Verdict::Wait { what: WaitsFor::Publishing, .. } if *is_empty => {
                    let reason = "the source archive has nothing at all: is it mounted?";
                    self.wait(&claim, reason.into(), WaitsFor::Archive);
                }
                Verdict::Wait { reason, what } => self.wait(&claim, reason, what),
                Verdict::Reject(reason) => self.reject(&claim, reason),
            }
        }
        Ok(round)
    }

    async fn send(&mut self, mut round: Round) -> Result<()> {
        if let Destination::S3(target) = &self.settings.destination {
            return self.put(&target.s3, round).await;
        }
        let archive = Archive::open(&self.settings.source).later("cannot read the source archive")?;
        let near = Near::of(&archive, &round);
        let mut channel = match self.channel.take() {
            Some(channel) => channel,
            None => {
                let early = Early::Need { ids: round.ids(), others: near.all() };
                Channel::open(self.settings, self.places, self.helper, self.reporter, Purpose::Tags, early)
                    .await?
            }
        };
        let ended = self.send_over(&mut channel, &mut round, &archive, &near).await;
        if ended.is_ok() {
            self.channel = Some(channel);
        } else {
            channel.drop_session().await;
        }
        ended
    }

    async fn send_over(
        &mut self,
        channel: &mut Channel,
        round: &mut Round,
        archive: &Archive,
        near: &Near,
    ) -> Result<()> {
        let standing = channel.session.need(&round.ids(), &near.all()).await?;
        let mut sent = HashMap::new();
        for (at, step) in round.steps.clone().into_iter().enumerate() {
            if standing.get(&step.id).is_some_and(|found| step.is_met_by(found)) {
                tracing::debug!("{} stands on the target already", step.id);
                let settled = round.settle(at, None);
                self.settle(settled);
                continue;
            }
            let number = match step.want {
                Want::Version(_) => {
                    let bases = near.there(archive, &step.id, &standing);
                    channel.session.send_package(step.id.clone(), archive.path(&step.id), bases)?
                }
                Want::Link(text) => {
                    channel.session.send_link(step.id.clone(), text, archive.path(&step.id))?
                }
            };
            round.sent(at, number);
            sent.insert(number, Sent::default());
        }
        while round.is_open() {
            match channel.session.event().await? {
                Event::Packed(packed) => self.packed(round, &mut sent, packed),
                Event::Mended(mended) => {
                    if let Some(step) = round.step(mended.number) {
                        self.reporter.tell(Report::mended(&round.steps[step].id, &mended));
                    }
                }
                Event::Resumed(resumed) => {
                    if let Some(step) = round.step(resumed.number) {
                        self.reporter.tell(Report::resumed(&round.steps[step].id, resumed.bytes));
                    }
                }
                Event::Unreadable { number, failure } => {
                    let settled = round.ended(number, Some(&Failed::Unreadable(failure.into())));
                    self.settle(settled);
                }
                Event::Outcome { number, outcome } => {
                    let parts = self.parts(channel.attached, sent.remove(&number), round, number);
                    self.ended(round, number, &outcome, parts);
                }
            }
        }
        Ok(())
    }

    fn packed(&mut self, round: &Round, sent: &mut HashMap<u64, Sent>, packed: crate::session::Packed) {
        if !packed.dropped_bits.is_empty()
            && let Some(step) = round.step(packed.number)
        {
            let reason = format!(
                "{}: set-user-id and set-group-id bits do not travel; dropped from {} entries, such as {}",
                round.steps[step].id,
                packed.dropped_bits.len(),
                packed.dropped_bits[0].display()
            );
            self.reporter.tell(Report::Notice { reason });
        }
        sent.insert(packed.number, Sent { bytes: packed.bytes, at: Some(SystemTime::now()) });
    }

    fn parts(&self, attached: SystemTime, sent: Option<Sent>, round: &Round, number: u64) -> (u64, Parts) {
        let sent = sent.unwrap_or_default();
        let now = SystemTime::now();
        let Some(claim) = round.claim_of(number) else { return (sent.bytes, Parts::default()) };
        let dropped = claim.dropped.unwrap_or(claim.since);
        let since =
            |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default().as_micros() as u64;
        let attached = attached.max(claim.since);
        let gone = sent.at.unwrap_or(attached).max(attached);
        let parts = Parts {
            trigger: since(dropped, self.started.max(dropped)),
            claim: since(self.started.max(dropped), claim.since),
            attach: since(claim.since, attached),
            send: since(attached, gone),
            commit: since(gone, now),
        };
        (sent.bytes, parts)
    }

    fn ended(&mut self, round: &mut Round, number: u64, outcome: &Outcome, (bytes, parts): (u64, Parts)) {
        if let (Outcome::Committed { replaced }, Some(step)) = (outcome, round.step(number)) {
            let id = &round.steps[step].id;
            self.record.sent(id, bytes);
            self.reporter.tell(Report::Committed {
                package: id.package.to_string(),
                version: id.version.to_string(),
                bytes,
                replaced: *replaced,
                cause: Cause::Tag,
                micros: parts.sum(),
                parts,
            });
        }
        let failed = match outcome {
            Outcome::Refused(refusal) => Some(Failed::Refused(refusal.clone())),
            _ => None,
        };
        let settled = round.ended(number, failed.as_ref());
        self.settle(settled);
    }

    /// Clears the claims that are done. The others wait, but for those whose package no target
    /// can hold: they are rejected. What the target refuses a person may mend without dropping
    /// the tag again.
    fn settle(&mut self, settled: Vec<Settled>) {
        for Settled { claim, failed } in settled {
            self.count(failed.as_ref());
            match failed {
                None => {
                    let cleared = self.queue.clear(&claim);
                    self.goes_on(of_queue(cleared, format!("cannot clear the tag {}", claim.name.display())));
                }
                Some(Failed::Unreadable(Refusal { mend: Mend::Person, reason })) => {
                    self.reject(&claim, reason);
                }
                Some(Failed::Refused(Refusal { mend: Mend::Person, reason })) => {
                    self.wait(&claim, reason, WaitsFor::Person);
                }
                Some(Failed::Unreadable(refusal) | Failed::Refused(refusal)) => {
                    self.wait(&claim, refusal.reason, WaitsFor::Time);
                }
            }
        }
    }

    fn count(&mut self, failed: Option<&Failed>) {
        match failed {
            Some(Failed::Unreadable(refusal) | Failed::Refused(refusal))
                if self.worst != Some(Mend::Person) =>
            {
                self.worst = Some(refusal.mend);
            }
            _ => {}
        }
    }

    /// Has it wait, or gives it up where that has gone on for too long.
    fn wait(&mut self, claim: &Claim, reason: String, what: WaitsFor) {
        let now = SystemTime::now();
        let waited = self.queue.waited(claim, what, now);
        if what.has_limit() && waited > Duration::from(self.settings.tags.give_up) {
            return self.reject(claim, format!("{reason}; given up after {} s", waited.as_secs()));
        }
        let known = self.queue.waiting(claim).is_some_and(|waiting| waiting.reason == reason);
        if !known {
            let tag = claim.name.to_string_lossy().into_owned();
            self.reporter.tell(Report::Waits { tag, reason: reason.clone() });
        }
        self.queue.wait(claim, reason, what, now);
    }

    /// Where that cannot be written down, the claim stays.
    fn reject(&mut self, claim: &Claim, reason: String) {
        let tag = String::from_utf8_lossy(claim.name.as_bytes()).into_owned();
        match of_queue(self.queue.reject(claim, &reason), format!("cannot reject the tag {tag}")) {
            Ok(()) => {
                self.reporter.tell(Report::Rejected { tag, reason });
                self.worst = Some(Mend::Person);
            }
            failed => self.goes_on(failed),
        }
    }

    async fn close(&mut self) {
        if let Some(channel) = self.channel.take() {
            channel.close().await;
        }
    }
}

/// What is known of a step that was sent.
#[derive(Debug, Default)]
struct Sent {
    bytes: u64,
    at: Option<SystemTime>,
}

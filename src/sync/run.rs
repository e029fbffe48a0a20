//! One synchronisation of one target: list, plan, carry out, report.
//!
//! Nothing is remembered that a next run would need: what was committed is in the next listing,
//! so a run that is killed or cut goes on where it stopped. A marker stands while a run works; one
//! that is left of a killed run has the agent start another. TERM and INT are a person who stops it.
//! systemd is asked for more time (`EXTEND_TIMEOUT_USEC=`) as long as anything moves: an answer is waited
//! for as long as parts of it come, and each member that was looked at is a move.

mod again;
mod exchange;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use blat_target::listing::Listing;
use blat_target::message::Mend;
use blat_target::package::PackageVersion;
use tokio::sync::oneshot;

use super::age::Done;
use super::aging::{self, Decision, Guard};
use super::bucket;
use super::carry::Carried;
use super::current_set::CurrentSet;
use super::good;
use super::known;
use super::plan::{Plan, Policy};
use super::plan_text;
use super::record::{self, Record, Sent};
use super::room;
use super::rows::Rows;
use super::show::{Show, tell};
use super::stop;
use crate::archive::Archive;
use crate::bucket::{Bucket, State};
use crate::channel::clock;
use crate::config::{Destination, S3, Settings, Source};
use crate::failure::{Failure, Needs, Result};
use crate::lock::{self, Untaken};
use crate::places::{Places, replace};
use crate::progress::Progress;
use crate::release;
use crate::release::answer::{Answer, Asked};
use crate::release::heard::Heard;
use crate::report::{Report, Reporter};
use crate::told::print;
use crate::trigger;

/// How many members with problems are told one by one.
const PROBLEMS_TOLD: usize = 20;
/// How many times as long as a query may take nothing may come of the release source. A database whose machine
/// vanished would be waited for by its driver for hours, and not each driver keeps to a query's time.
const SILENCE: u32 = 10;

/// What a run is to do with its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Carry it out. `accept_shrink`: a person says that the current set is meant to be that small.
    Real { accept_shrink: bool },
    /// Print it, for people or for programs, and change nothing.
    DryRun { json: bool },
}

impl Mode {
    fn accepts_shrink(self) -> bool {
        matches!(self, Self::Real { accept_shrink: true })
    }
}

/// Synchronises the target of `settings`, and once more, by those in force then, where that is asked for meanwhile.
///
/// # Errors
/// What kept the run from its work, or the worst of what failed for single packages.
pub async fn run(root: &Path, settings: &Settings, helper: &Path, mode: Mode) -> Result<()> {
    let places = &Places::of(root, &settings.name);
    if !is_wanted(settings) {
        tracing::info!("{} names no releases, projects or packages: nothing to synchronise", settings.name);
        return if matches!(mode, Mode::Real { .. }) { nothing_is_wanted(settings, places) } else { Ok(()) };
    }
    match mode {
        Mode::Real { .. } => carry_out(root, settings, places, helper, mode).await,
        // It changes nothing, so it may run beside another; what it finds is for the person who asked.
        Mode::DryRun { .. } => {
            let mut reporter = Reporter::to_the_log(settings.name.as_str());
            let mut run = Run::new(root, settings, places, helper, &mut reporter);
            run.all(mode).await.map(drop)
        }
    }
}

/// What failed before is not to be tried again.
fn nothing_is_wanted(settings: &Settings, places: &Places) -> Result<()> {
    Reporter::new(settings.name.as_str(), &places.report).tell(Report::NothingWanted);
    trigger::forget(&places.sync_trigger()).and(trigger::forget(&places.sync_begun()))
}

async fn carry_out(
    root: &Path,
    settings: &Settings,
    places: &Places,
    helper: &Path,
    mode: Mode,
) -> Result<()> {
    let mut reporter = Reporter::new(settings.name.as_str(), &places.report);
    let _lock = match begin(settings, places) {
        Ok(lock) => lock,
        Err(Untaken::Held(running)) => return Err(running),
        Err(Untaken::Failed(failure)) => {
            tell_failure(places, &failure, Sent::default(), &mut reporter);
            return Err(failure);
        }
    };
    let mut ended = once(root, settings, places, helper, mode, &mut reporter).await;
    // Asked for while that went on, whose answers may be older, and its settings.
    while places.sync_trigger().exists() {
        trigger::forget(&places.sync_trigger())?;
        let now = Settings::load(root, &settings.name).unwrap_or_else(|_| settings.clone());
        if !is_wanted(&now) {
            break;
        }
        ended = once(root, &now, places, helper, Mode::Real { accept_shrink: false }, &mut reporter).await;
    }
    ended
}

fn begin(settings: &Settings, places: &Places) -> Result<File, Untaken> {
    let lock = lock::take(&places.sync_lock(), "a synchronisation")?;
    stop::watch(settings.name.as_str(), places)?;
    trigger::forget(&places.sync_trigger())?;
    Ok(lock)
}

async fn once(
    root: &Path,
    settings: &Settings,
    places: &Places,
    helper: &Path,
    mode: Mode,
    reporter: &mut Reporter,
) -> Result<()> {
    let begun = places.sync_begun();
    let noted = replace(&begun, b"").person(format!("cannot write {}", begun.display()));
    let mut run = Run::new(root, settings, places, helper, reporter);
    let ended = match noted {
        Ok(()) => run.all(mode).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &ended {
        tell_failure(places, failure, run.sent, run.reporter);
    }
    // What failed is taken up again by the agent, also by one that starts only now: it may be its end,
    // at a restart, by which this failed.
    if ended.as_ref().is_ok_and(|ended| ended.failed == 0) {
        trigger::forget(&begun)?;
    }
    ended?.verdict()
}

fn tell_failure(places: &Places, failure: &Failure, sent: Sent, reporter: &mut Reporter) {
    record::failed(places, failure, sent);
    let person = failure.mend == Mend::Person;
    reporter.tell(Report::SyncFailed { reason: failure.to_string(), person });
}

/// Whether anything says what the target should have.
pub fn is_wanted(settings: &Settings) -> bool {
    settings.release.source == Source::File
        || !Asked::from(settings).names_no_release()
        || !settings.packages.is_empty()
}

/// How a run ended that came to its end.
#[derive(Debug, Default)]
struct Ended {
    /// Packages that were not sent, or not deleted, and what mends the worst of them.
    failed: usize,
    mend: Option<Mend>,
    /// Members that cannot be sent as they are, and rows that name none.
    problems: u64,
    /// Whether what is in excess was not marked or deleted until a person says that it is safe.
    guarded: bool,
    /// Whether the PackageList was not laid down until then.
    withheld: bool,
}

impl Ended {
    /// Ends as the worst failure asks.
    fn verdict(&self) -> Result<()> {
        let problems = self.problems;
        let failed = format!("{} packages were not sent, or not deleted, as told above", self.failed);
        match self.mend {
            Some(Mend::Person) => Err(Failure::person(anyhow!(failed))),
            Some(Mend::Later) => Err(Failure::later(anyhow!(failed))),
            _ if self.guarded => {
                Err(Failure::person(anyhow!("nothing in excess was marked or deleted, as told above")))
            }
            _ if self.withheld => {
                Err(Failure::person(anyhow!("the PackageList was not laid down, as told above")))
            }
            None if problems > 0 => {
                Err(Failure::later(anyhow!("{problems} packages have problems, as told above")))
            }
            None => Ok(()),
        }
    }
}

/// What a run brings a target to.
#[derive(Clone, Copy)]
struct Aim<'a> {
    archive: &'a Archive,
    /// What the target should have.
    set: &'a CurrentSet,
    /// How many rows name nothing that it could.
    refused: u64,
    /// When the release source was asked for them.
    asked: Instant,
    mode: Mode,
}

struct Run<'a> {
    root: &'a Path,
    settings: &'a Settings,
    places: &'a Places,
    helper: &'a Path,
    reporter: &'a mut Reporter,
    /// What the target had when it was last asked.
    known: Listing,
    sent: Sent,
    progress: Progress,
}

impl<'a> Run<'a> {
    fn new(
        root: &'a Path,
        settings: &'a Settings,
        places: &'a Places,
        helper: &'a Path,
        reporter: &'a mut Reporter,
    ) -> Self {
        let (known, progress) = (known::read(&places.listing()), Progress::start());
        Self { root, settings, places, helper, reporter, known, sent: Sent::default(), progress }
    }

    async fn all(&mut self, mode: Mode) -> Result<Ended> {
        let begin = Instant::now();
        let source = &self.settings.source;
        let archive = Archive::open(source)
            .later(format!("cannot read the source archive {}: is it mounted?", source.display()))?;
        tell("asking which packages there should be");
        let asked = Instant::now();
        let answer = self.ask().await?;
        let refused = answer.refused.len() as u64;
        let mut record = Record::new(self.places, &answer);
        let wanted = self.wanted(answer.rows, &archive, &record, mode);
        let done = match &self.settings.destination {
            Destination::Ssh(_) => {
                let set = wanted.await?;
                let aim = Aim { archive: &archive, set: &set, refused, asked, mode };
                self.fill_archive(aim, &mut record).await?
            }
            Destination::S3(target) => {
                // The archive's disk and the bucket's server are looked at beside each other. Both looks
                // come to their ends: what is wanted is told though there be no server.
                let (set, there) = tokio::join!(wanted, self.look_at_bucket(&target.s3));
                let (set, there) = (set?, there?);
                let aim = Aim { archive: &archive, set: &set, refused, asked, mode };
                self.fill_bucket(there, aim, &mut record).await?
            }
        };
        Ok(match done {
            Some((plan, carried, aged)) => {
                record.ended(&plan, &carried, &aged, refused, begin.elapsed());
                self.tell_end(&plan, &carried, &aged, refused, begin.elapsed())
            }
            None => Ended::default(),
        })
    }

    async fn look_at_bucket(&self, settings: &S3) -> Result<(Bucket, State)> {
        tell("asking the target what it has");
        let bucket = Bucket::open(&self.settings.name, settings, &self.places.sync_uploads()).await?;
        let state = State::read(&bucket).await?;
        Ok((bucket, state))
    }

    async fn fill_bucket(
        &mut self,
        (bucket, mut state): (Bucket, State),
        aim: Aim<'_>,
        record: &mut Record<'_>,
    ) -> Result<Option<(Plan, Carried, Done)>> {
        let Aim { archive, set, .. } = aim;
        let listing = bucket::listing(&state, set).person("the bucket has too many names")?;
        let grace = self.settings.writable.grace.into();
        let mut plan = Plan::make(set, &listing, Policy { grace }, SystemTime::now());
        let mut policy = self.policy(aim, &listing);
        let marks = bucket::marks(&state);
        plan.age(set, &listing, &marks, &policy, clock()).person("the bucket has too much to plan for")?;
        if let Mode::DryRun { json } = aim.mode {
            self.print(&mut plan, archive, json);
            return Ok(None);
        }
        record.begins(&plan, &listing);
        let mut show = Show::of(&plan, self.places.progress());
        let carry = bucket::Carry {
            bucket: &bucket,
            archive,
            set,
            state: &mut state,
            reporter: self.reporter,
            show: &mut show,
            carried: Carried::default(),
            in_a_row: 0,
        };
        let (carried, ended) = carry.out(&plan).await;
        show.end();
        self.sent = record.carried(&plan, &carried);
        ended?;
        self.decide_again(aim, Instant::now(), &state, &mut plan, &mut policy).await?;
        let hold = self.places.hold();
        let age = bucket::Age::new(&bucket, &mut state, &hold, self.reporter);
        let aged = age.out(plan.aged.as_ref()).await?;
        self.remember(&listing, &carried, &aged);
        self.note_good(aim, &policy, &listing)?;
        Ok(Some((plan, carried, aged)))
    }

    /// Notes how many members there are now. They are no measure where the answer that they came with was
    /// doubtful, or the one that excess was judged by, which `policy` is of. What a person has accepted is one, with
    /// rows that name nothing, too.
    fn note_good(&self, aim: Aim<'_>, policy: &aging::Policy, listing: &Listing) -> Result<()> {
        let doubts = |guard: Guard| !(aim.mode.accepts_shrink() && matches!(guard, Guard::Rows(_)));
        if policy.guard.is_some_and(doubts) || self.guard(aim, listing.len() as u64).is_some_and(doubts) {
            return Ok(());
        }
        let path = self.places.last_good();
        good::write(&path, aim.set.len() as u64).later(format!("cannot write {}", path.display()))
    }

    /// Asks which package-versions there should be, links not followed yet.
    async fn ask(&mut self) -> Result<Answer> {
        let answer = self.progress.during(answer(self.settings.clone())).await?;
        self.tell_problems(answer.refused.iter().map(|refused| (refused.to_string(), None)));
        for closed in &answer.closed {
            tracing::debug!("the release {closed} is closed: its packages are not asked for any more");
        }
        Ok(answer)
    }

    /// What the target should have, which a real run writes down.
    async fn wanted(
        &self,
        rows: Rows,
        archive: &Archive,
        record: &Record<'_>,
        mode: Mode,
    ) -> Result<CurrentSet> {
        let set = self.gather(rows, archive).await?;
        if matches!(mode, Mode::Real { .. }) {
            record.wanted(&set);
        }
        Ok(set)
    }

    /// A thread of its own looks at the archive, whose disk may be slow.
    async fn gather(&self, rows: Rows, archive: &Archive) -> Result<CurrentSet> {
        let (archive, progress) = (archive.clone(), self.progress.clone());
        let look = move |id: &PackageVersion| {
            progress.moved();
            archive.look(id)
        };
        let gathered = tokio::task::spawn_blocking(move || CurrentSet::gather(rows, look));
        let gathered = gathered.await.person("looking at the source archive panicked")?;
        gathered.person("the current set is too large")
    }

    fn tell_problems(&mut self, problems: impl ExactSizeIterator<Item = (String, Option<PackageVersion>)>) {
        let more = problems.len().saturating_sub(PROBLEMS_TOLD);
        for (reason, about) in problems.take(PROBLEMS_TOLD) {
            self.reporter.tell(Report::Problem { reason, about });
        }
        if more > 0 {
            self.reporter
                .tell(Report::Problem { reason: format!("and {more} more of this kind"), about: None });
        }
    }

    /// What the configuration, a person here and the guards say.
    fn policy(&self, aim: Aim<'_>, listing: &Listing) -> aging::Policy {
        let aging = &self.settings.aging;
        aging::Policy {
            mode: aging.mode,
            after: aging.after.into(),
            max_delete: aging.max_delete.into(),
            guard: self.guard(aim, listing.len() as u64),
            held: self.places.hold().exists(),
        }
    }

    /// What makes the set doubtful. It is held against how many members there were at the last good
    /// synchronisation; where there was none, against `otherwise`.
    fn guard(&self, aim: Aim<'_>, otherwise: u64) -> Option<Guard> {
        let accept = aim.mode.accepts_shrink();
        let before = good::members(&self.places.last_good()).unwrap_or(otherwise);
        let most = self.settings.aging.max_shrink;
        Guard::look(aim.set.len() as u64, aim.refused, before, most, accept)
    }

    fn remember(&self, before: &Listing, carried: &Carried, aged: &Done) {
        let after = known::after(before, carried.put.clone());
        let after = after.and_then(|after| known::without(&after, &aged.gone));
        let written = after.map_err(std::io::Error::other);
        let written = written.and_then(|listing| known::write(&self.places.listing(), &listing));
        if let Err(why) = written {
            tracing::warn!("cannot remember what the target has: {why}");
        }
    }

    /// Prints a plan, with how much it sends.
    fn print(&self, plan: &mut Plan, archive: &Archive, json: bool) {
        plan.measure(|id| room::size_of(archive, id).map(|(bytes, _)| bytes));
        let name = self.settings.name.as_str();
        if json {
            print(&(plan_text::json(plan, name) + "\n"));
        } else {
            print(&plan_text::text(plan, name));
        }
    }

    /// Tells the totals.
    fn tell_end(
        &mut self,
        plan: &Plan,
        carried: &Carried,
        aged: &Done,
        refused: u64,
        took: Duration,
    ) -> Ended {
        self.tell_problems(
            plan.problems.iter().map(|of| (format!("{}: {}", of.id, of.why), Some(of.id.clone()))),
        );
        let problems = plan.totals.problem + refused;
        self.reporter.tell(Report::Synced {
            members: plan.totals.members,
            packages: carried.packages,
            links: carried.links,
            bytes: carried.bytes,
            waiting: plan.totals.wait,
            problems,
            failed: (carried.failed.len() + aged.failed.len()) as u64,
            excess: plan.totals.excess,
            marked: aged.marked,
            deleted: aged.gone.len() as u64,
            millis: took.as_millis() as u64,
        });
        let guard = plan.aged.as_ref().and_then(Decision::guarded);
        if let Some(guard) = guard {
            let why = guard.with_mend(self.settings.name.as_str());
            let reason = format!("nothing that is in excess was marked or deleted: {why}");
            self.reporter.tell(Report::Guarded { reason });
        }
        let failed = carried.failed.len() + aged.failed.len();
        let (guarded, withheld) = (guard.is_some(), carried.withheld.is_some());
        Ended { failed, mend: worse(carried.mend(), aged.mend()), problems, guarded, withheld }
    }
}

fn worse(one: Option<Mend>, other: Option<Mend>) -> Option<Mend> {
    if one == Some(Mend::Person) { one } else { other.or(one) }
}

/// Asks the release source.
async fn answer(settings: Settings) -> Result<Answer> {
    let silence = Duration::from(settings.release.timeout).saturating_mul(SILENCE);
    heard_out(silence, move |heard| ask(&settings, heard)).await
}

/// Has a thread of its own `ask`, which blocks, and says what it hears: one of which nothing is heard for that long
/// may never come back, and is given up.
async fn heard_out<T: Send + 'static>(
    silence: Duration,
    ask: impl FnOnce(&Progress) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (heard, (done, mut answer)) = (Progress::start(), oneshot::channel());
    let hears = heard.clone();
    std::thread::spawn(move || drop(done.send(ask(&hears))));
    loop {
        match tokio::time::timeout(silence.saturating_sub(heard.idle()), &mut answer).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => return Err(Failure::person(anyhow!("asking the release source panicked"))),
            Err(_) if heard.idle() < silence => {}
            Err(_) => {
                let silence = silence.as_secs();
                return Err(Failure::later(anyhow!(
                    "nothing was heard of the release source for {silence} s: is its machine there?"
                )));
            }
        }
    }
}

fn ask(settings: &Settings, heard: &Progress) -> Result<Answer> {
    let asked = Asked::from(settings);
    if asked.names_no_release() && settings.release.source == Source::Odbc {
        return Ok(Answer::of(None, &asked)?);
    }
    let mut source = Heard::new(release::open(&settings.release)?, || heard.moved());
    Ok(Answer::of(Some(&mut source), &asked)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::block_on;

    #[test]
    fn a_release_source_is_given_up_for_its_silence_not_for_the_length_of_its_answer() {
        let silence = Duration::from_secs(1);
        let long = heard_out(silence, move |heard| {
            let begin = Instant::now();
            while begin.elapsed() < silence * 2 {
                heard.moved();
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        let silent = heard_out(silence, |heard| -> Result<()> {
            heard.moved();
            loop {
                std::thread::park();
            }
        });
        block_on(async {
            let (long, silent) = tokio::join!(long, silent);
            let why = silent.unwrap_err();
            assert_eq!(why.mend, Mend::Later);
            assert!(why.to_string().starts_with("nothing was heard of the release source for 1 s"), "{why}");
            long
        })
        .unwrap();
    }
}

//! What a synchronisation writes down of what it found and did, for whoever asks later.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use blat_target::listing::{Listing, Stands};
use blat_target::message::Mend;
use blat_target::package::PackageVersion;

use super::age::Done;
use super::aged_text::why;
use super::aging::{Aged, Decision, Fate, Keep};
use super::carry::Carried;
use super::current_set::CurrentSet;
use super::plan::Plan;
use super::plan_text::why_wait;
use crate::failure::Failure;
use crate::places::Places;
use crate::release::answer::Answer;
use crate::state::{self, Excess, Failed, Missing, Point, Seconds, SyncEnd, Syncs, Wanted, seconds};

/// How many of those that are missing are told with the result.
const OLDEST: usize = 200;

/// What a run sent: how many packages and links, and the sum of the sizes of their files, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    packages: u64,
    bytes: u64,
}

/// The records of one run.
#[derive(Debug)]
pub(super) struct Record<'a> {
    places: &'a Places,
    began: Seconds,
    releases: Vec<String>,
    closed: Vec<String>,
    missing: Missing,
}

impl<'a> Record<'a> {
    /// A run has asked which releases there are.
    pub(super) fn new(places: &'a Places, answer: &Answer) -> Self {
        Self {
            places,
            began: seconds(SystemTime::now()),
            releases: answer.releases.iter().map(ToString::to_string).collect(),
            closed: answer.closed.iter().map(ToString::to_string).collect(),
            missing: Missing::default(),
        }
    }

    /// The target should have this set.
    pub(super) fn wanted(&self, set: &CurrentSet) {
        let head = Wanted::new(SystemTime::now(), self.releases.clone(), self.closed.clone());
        head.keep(&self.places.wanted(), set);
    }

    /// This is missing as the run begins to send. Written down now, for a run may take long or be killed.
    pub(super) fn begins(&mut self, plan: &Plan, listing: &Listing) {
        let before = state::read(&self.places.missing()).unwrap_or_default();
        let now = seconds(SystemTime::now());
        self.missing = Missing::after(&before, self.began, now, missing(plan, listing));
        state::keep(&self.places.missing(), &self.missing);
    }

    /// So much of the plan was carried out, perhaps up to a failure.
    pub(super) fn carried(&mut self, plan: &Plan, carried: &Carried) -> Sent {
        let put: HashSet<&PackageVersion> = carried.put.iter().map(|(id, _)| id).collect();
        let planned = (plan.sends.len() + plan.links.len()) as u64;
        self.missing.items.retain(|item| !put.contains(&item.id));
        self.missing.count = self.missing.count.saturating_sub(planned.min(put.len() as u64));
        for item in &mut self.missing.items {
            if let Some(why) = carried.why.get(&item.id) {
                item.reason = format!("it was not sent: {why}");
            }
        }
        state::keep(&self.places.missing(), &self.missing);
        Sent { packages: carried.packages + carried.links, bytes: carried.bytes }
    }

    /// The run came to its end.
    pub(super) fn ended(self, plan: &Plan, carried: &Carried, aged: &Done, refused: u64, took: Duration) {
        let now = seconds(SystemTime::now());
        if let Some(decision) = &plan.aged {
            state::keep(&self.places.excess(), &excess(decision, aged));
        }
        let end = SyncEnd {
            at: now,
            members: plan.totals.members,
            packages: carried.packages,
            links: carried.links,
            bytes: carried.bytes,
            waiting: plan.totals.wait,
            problems: plan.totals.problem + refused,
            failed: carried.failed.len() as u64,
            excess: plan.totals.excess,
            marked: aged.marked,
            deleted: aged.gone.len() as u64,
            undeleted: aged.failed.len() as u64,
            guarded: plan.aged.as_ref().and_then(Decision::guarded).map(|guard| guard.to_string()),
            withheld: carried.withheld.clone(),
            millis: took.as_millis() as u64,
            missing: self.missing.count,
            oldest: self.missing.oldest(OLDEST),
            releases: self.releases,
            closed: self.closed,
        };
        let lag = end.oldest.first().map_or(0, |item| now.saturating_sub(item.since));
        let point = Point {
            at: now,
            lag: Some(lag),
            packages: end.packages + end.links,
            bytes: end.bytes,
            millis: end.millis,
            failed: false,
        };
        state::append(&self.places.sync_series(), &point);
        keep_end(self.places, end);
    }
}

fn keep_end(places: &Places, end: SyncEnd) {
    let mut syncs: Syncs = state::read(&places.syncs()).unwrap_or_default();
    syncs.totals.count(end.packages + end.links, end.bytes);
    if end.failed == 0 {
        syncs.good_at = Some(end.at);
    }
    if end.failed + end.undeleted > 0 {
        syncs.totals.failures += 1;
    }
    syncs.failed = None;
    syncs.ended = Some(end);
    state::keep(&places.syncs(), &syncs);
}

/// A run did not come to its end. What it sent up to then stays.
pub(super) fn failed(places: &Places, failure: &Failure, Sent { packages, bytes }: Sent) {
    let now = seconds(SystemTime::now());
    let mut syncs: Syncs = state::read(&places.syncs()).unwrap_or_default();
    let person = failure.mend == Mend::Person;
    syncs.failed = Some(Failed::after(syncs.failed.as_ref(), failure.to_string(), person, now));
    syncs.totals.count(packages, bytes);
    syncs.totals.failures += 1;
    state::keep(&places.syncs(), &syncs);
    let point = Point { at: now, packages, bytes, failed: true, ..Point::default() };
    state::append(&places.sync_series(), &point);
}

/// What is still in excess, and what becomes of it.
fn excess(decision: &Decision, done: &Done) -> Vec<Excess> {
    let left = decision.aged.iter().filter(|aged| !done.gone.contains(&aged.id));
    let excess = |aged: &Aged| Excess {
        id: aged.id.clone(),
        marked: aged.marked || aged.fate == Fate::Mark,
        reason: match aged.fate {
            Fate::Keep(_) => why(&aged.fate),
            Fate::Mark => "marked by the last synchronisation, deleted when that is long enough ago".into(),
            Fate::Delete(_) if done.held => Keep::Held.to_string(),
            Fate::Delete(_) => "it was to be deleted, and that failed".into(),
        },
    };
    left.map(excess).collect()
}

/// What is not there as it should be, and why.
fn missing(plan: &Plan, listing: &Listing) -> Vec<(PackageVersion, String)> {
    let there = |id: &PackageVersion| {
        matches!(listing.get(id.package.as_str(), id.version.as_str()), Some(Stands::Version(_)))
    };
    let comes = || "it is on its way, or comes with the next synchronisation".to_owned();
    let sends = plan.sends.iter().map(|send| (send.id.clone(), comes()));
    let links = plan.links.iter().map(|link| (link.id.clone(), comes()));
    let waits = plan.waits.iter().map(|wait| (wait.id.clone(), why_wait(&wait.why)));
    // What the archive lost and the target has is a problem, but nothing that is missing there.
    let problems = plan.problems.iter().filter(|problem| !there(&problem.id));
    let problems = problems.map(|problem| (problem.id.clone(), problem.why.to_string()));
    sends.chain(links).chain(waits).chain(problems).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::known::Put;
    use crate::sync::plan::{Send, There};
    use blat_target::message::Refusal;
    use blat_target::stamp::Stamp;

    fn site1(root: &tempfile::TempDir) -> Places {
        let places = Places::of(root.path(), &"site1".parse().unwrap());
        std::fs::create_dir_all(&places.state).unwrap();
        places
    }

    #[test]
    fn what_could_not_be_deleted_was_not_left_unsent() {
        let root = tempfile::tempdir().unwrap();
        let places = site1(&root);
        let refusal = Refusal { mend: Mend::Person, reason: "it belongs to root".into() };
        let aged = Done { failed: vec![refusal], ..Done::default() };
        let record = Record::new(&places, &Answer::default());
        record.ended(&Plan::default(), &Carried::default(), &aged, 0, Duration::ZERO);
        let syncs: Syncs = state::read(&places.syncs()).unwrap();
        let end = syncs.ended.unwrap();
        assert_eq!((end.failed, end.undeleted), (0, 1));
        assert_eq!((syncs.good_at, syncs.totals.failures), (Some(end.at), 1));
    }

    #[test]
    fn what_was_sent_before_a_failure_counts_and_is_not_missing_any_more() {
        let root = tempfile::tempdir().unwrap();
        let places = site1(&root);
        let id = |version: &str| PackageVersion::new("core", version).unwrap();
        let send =
            |version: &str| Send { id: id(version), stamp: Stamp(1), there: There::Nothing, bytes: None };
        let plan = Plan { sends: vec![send("1.0"), send("2.0")], ..Plan::default() };
        let mut record = Record::new(&places, &Answer::default());
        record.begins(&plan, &Listing::default());
        let put = vec![(id("1.0"), Put::Version(Stamp(1)))];
        let sent = record.carried(&plan, &Carried { put, packages: 1, bytes: 7, ..Carried::default() });
        failed(&places, &Failure::later(anyhow::anyhow!("the line broke")), sent);
        let totals = state::read::<Syncs>(&places.syncs()).unwrap().totals;
        assert_eq!((totals.runs, totals.failures, totals.packages, totals.bytes), (1, 1, 1, 7));
        assert_eq!(state::points(&places.sync_series())[0].bytes, 7);
        let missing: Missing = state::read(&places.missing()).unwrap();
        assert_eq!((missing.count, &missing.items[0].id), (1, &id("2.0")));
    }
}

//! What a run does over a session: asks the target what it has, carries the plan out, and says what is in
//! excess.

use std::fmt::Display;
use std::time::{Instant, SystemTime};

use anyhow::anyhow;
use blat_target::listing::{Listing, Stands};
use blat_target::message::{Digest, Info, Listed, Standing};
use blat_target::package::PackageVersion;

use super::again::ByNow;
use super::{Aim, Mode, Run};
use crate::channel::{Channel, Purpose, clock};
use crate::config::AgingMode;
use crate::failure::{Failure, Needs, Result};
use crate::report::Report;
use crate::session::Early;
use crate::sync::age::{self, Done};
use crate::sync::aging::{self, Guard};
use crate::sync::carry::{Carried, Carry};
use crate::sync::known;
use crate::sync::package_list::package_list;
use crate::sync::plan::{Plan, Policy};
use crate::sync::record::Record;
use crate::sync::room;
use crate::sync::show::{Show, tell};
use crate::sync::upkeep;

/// How often a plan is made anew because something that it counts on was deleted meanwhile.
const REPLANS: usize = 5;

/// A plan, and what it was made of.
struct Planned {
    listing: Listing,
    listed: Listed,
    plan: Plan,
    policy: aging::Policy,
    /// What the target told of itself, if it knows of marks.
    info: Option<Info>,
}

impl Planned {
    /// Whether the target's own purge is to know that a good synchronisation has gone through all marks.
    fn is_to_confirm(&self) -> bool {
        self.policy.guard.is_none() && self.policy.mode != AgingMode::None
    }
}

impl Run<'_> {
    pub(super) async fn fill_archive(
        &mut self,
        aim: Aim<'_>,
        record: &mut Record<'_>,
    ) -> Result<Option<(Plan, Carried, Done)>> {
        tell("asking the target what it has");
        let early = Early::List { known: Digest(self.known.digest()) };
        let mut channel =
            Channel::open(self.settings, self.places, self.helper, self.reporter, Purpose::Sync, early)
                .await?;
        let ended = self.over(&mut channel, aim, record).await;
        match ended {
            Ok(_) => channel.close().await,
            Err(_) => channel.drop_session().await,
        }
        ended
    }

    async fn over(
        &mut self,
        channel: &mut Channel,
        aim: Aim<'_>,
        record: &mut Record<'_>,
    ) -> Result<Option<(Plan, Carried, Done)>> {
        let Aim { archive, set, .. } = aim;
        let mut planned = self.plan(channel, aim).await?;
        if let Mode::DryRun { json } = aim.mode {
            self.print(&mut planned.plan, archive, json);
            return Ok(None);
        }
        planned = self.unmark(channel, aim, planned).await?;
        record.begins(&planned.plan, &planned.listing);
        let text = package_list(set, &planned.listing);
        let same = planned.listed.package_list == Some(Digest(*blake3::hash(&text).as_bytes()));
        let doubts = self.doubts_list(aim).filter(|_| !same);
        let lays_down = !same && !self.withholds_list(doubts, &planned, &text);
        let mut show = Show::of(&planned.plan, self.places.progress());
        let silent = self.is_silent_about_excess(&planned);
        let look = room::Look::begin(&planned.plan, &self.settings.source, archive, planned.info.clone());
        let carry = Carry::new(archive, &planned.listing, channel, look, self.reporter, &mut show);
        let (mut carried, ended) = carry.out(&planned.plan, lays_down.then_some(text), silent).await;
        show.end();
        self.sent = record.carried(&planned.plan, &carried);
        ended?;
        let aged = match silent {
            true => Done::default(),
            false => self.age(channel, aim, &mut planned, &carried).await?,
        };
        // A second answer that is not doubtful is laid down by the next run.
        let doubts = doubts.filter(|_| planned.policy.guard.is_some());
        carried.withheld = doubts.map(|guard| guard.with_mend(self.settings.name.as_str()));
        self.note(aim, &planned)?;
        self.remember(&planned.listing, &carried, &aged);
        Ok(Some((planned.plan, carried, aged)))
    }

    /// Asks the target what it has, and makes the plan.
    async fn plan(&mut self, channel: &mut Channel, aim: Aim<'_>) -> Result<Planned> {
        let (listing, listed) = self.list(channel).await?;
        let grace = self.settings.writable.grace.into();
        let mut plan = Plan::make(aim.set, &listing, Policy { grace }, SystemTime::now());
        let mut policy = self.policy(aim, &listing);
        let mut info = None;
        if channel.session.ages() {
            let (marks, told) = channel.session.marks().await?;
            policy.held |= told.hold.is_some();
            let now = told.clock.min(clock());
            plan.age(aim.set, &listing, &marks, &policy, now)
                .person("the target has too much to plan for")?;
            info = Some(told);
        } else if policy.mode != AgingMode::None {
            let reason = "the helper on the target is too old to mark or delete anything: update it".into();
            self.reporter.tell(Report::Problem { reason, about: None });
        }
        Ok(Planned { listing, listed, plan, policy, info })
    }

    /// Takes marks away before anything else, so that nobody deletes what the plan counts on. What was
    /// deleted meanwhile is planned for anew.
    async fn unmark(&mut self, channel: &mut Channel, aim: Aim<'_>, mut planned: Planned) -> Result<Planned> {
        for _ in 0..REPLANS {
            let unmark = planned.plan.aged.as_ref().map(|aged| aged.unmark.clone()).unwrap_or_default();
            if unmark.is_empty() {
                return Ok(planned);
            }
            let standing = channel.session.need(&unmark, &[]).await?;
            let is_as_planned = |id: &PackageVersion| {
                let planned = planned.listing.get(id.package.as_str(), id.version.as_str());
                standing.get(id).is_some_and(|found| stands_as(found, planned))
            };
            if unmark.iter().all(is_as_planned) {
                return Ok(planned);
            }
            planned = self.plan(channel, aim).await?;
        }
        Err(Failure::later(anyhow!("what stands on the target keeps changing")))
    }

    /// Whether the list on the target stays as it was, for this one is doubtful: whoever reads it there would
    /// take it at its word.
    fn withholds_list(&mut self, doubts: Option<Guard>, planned: &Planned, text: &[u8]) -> bool {
        let is_told = planned.plan.aged.as_ref().is_some_and(|aged| aged.guarded().is_some());
        let stays = |why: &dyn Display| format!("the PackageList on the target stays as it was: {why}");
        self.reporter.tell(match doubts {
            Some(guard) if is_told => Report::Problem { reason: stays(&guard), about: None },
            Some(guard) => Report::Guarded { reason: stays(&guard.with_mend(self.settings.name.as_str())) },
            None if text.is_empty() => {
                let why = "the source archive has nothing of what the target should have: is it mounted?";
                Report::Problem { reason: stays(&why), about: None }
            }
            None => return false,
        });
        true
    }

    /// What makes the list doubtful. What stands on the target is nothing to hold it against: much of that may
    /// be in excess. And a row that names nothing has no line in any list.
    fn doubts_list(&self, aim: Aim<'_>) -> Option<Guard> {
        self.guard(Aim { refused: 0, ..aim }, 0)
    }

    /// Whether nothing has to be said about excess once everything was sent.
    fn is_silent_about_excess(&self, planned: &Planned) -> bool {
        let (Some(decision), Some(info)) = (&planned.plan.aged, &planned.info) else { return true };
        let holds = info.hold.is_none() && self.places.hold().exists();
        !holds
            && !planned.is_to_confirm()
            && decision.marks().next().is_none()
            && decision.deletions().is_empty()
    }

    /// Marks and deletes what is in excess, as was planned; what the target then tells of itself.
    async fn age(
        &mut self,
        channel: &mut Channel,
        aim: Aim<'_>,
        planned: &mut Planned,
        carried: &Carried,
    ) -> Result<Done> {
        let (Some(_), Some(info)) = (&planned.plan.aged, &planned.info) else {
            return Ok(Done::default());
        };
        if info.hold.is_none() && self.places.hold().exists() {
            let reason = std::fs::read_to_string(self.places.hold()).unwrap_or_default();
            channel.session.hold(Some(reason.trim().to_owned())).await?;
        }
        self.decide_again_there(channel, aim, planned, carried).await?;
        let Some(decision) = &planned.plan.aged else { return Ok(Done::default()) };
        let (policy, target) = (&planned.policy, self.settings.name.as_str());
        let done =
            age::carry_out(decision, policy, target, &self.places.heard(), channel, self.reporter).await?;
        if planned.is_to_confirm() {
            planned.info = Some(channel.session.confirm(policy.max_delete).await?);
        }
        Ok(done)
    }

    /// Decides anew of what is in excess, where the answer that the plan was made of is old by now: what is
    /// needed again loses its mark. Nothing is decided where the source cannot be asked.
    async fn decide_again_there(
        &mut self,
        channel: &mut Channel,
        aim: Aim<'_>,
        planned: &mut Planned,
        carried: &Carried,
    ) -> Result<()> {
        let (set, refused) = match self.by_now(aim, Instant::now()).await {
            ByNow::AsBefore => return Ok(()),
            ByNow::Unknown => {
                planned.plan.aged = None;
                return Ok(());
            }
            ByNow::Set(set, refused) => (set, refused),
        };
        let standing = known::after(&planned.listing, carried.put.clone());
        let standing = standing.person("the target has too much to plan for")?;
        let mut policy = self.policy_again(aim, &set, refused, &standing);
        let (marks, told) = channel.session.marks().await?;
        policy.held |= told.hold.is_some();
        let decision = aging::decide(&set, &standing, &marks, &policy, told.clock.min(clock()));
        if !decision.unmark.is_empty() {
            channel.session.need(&decision.unmark, &[]).await?;
        }
        (planned.policy, planned.info, planned.plan.aged) = (policy, Some(told), Some(decision));
        Ok(())
    }

    /// Notes how many members there are now, and what the target told of itself.
    fn note(&mut self, aim: Aim<'_>, planned: &Planned) -> Result<()> {
        let (Some(_), Some(info)) = (&planned.plan.aged, &planned.info) else { return Ok(()) };
        self.note_good(aim, &planned.policy, &planned.listing)?;
        upkeep::note(&self.places.upkeep(), &self.places.heard(), info, self.reporter)
    }

    async fn list(&mut self, channel: &mut Channel) -> Result<(Listing, Listed)> {
        let (listing, listed) = channel.session.list(Some(Digest(self.known.digest()))).await?;
        for fault in &listed.passed_over {
            self.reporter.tell(Report::Problem { reason: format!("on the target, {fault}"), about: None });
        }
        Ok((listing.unwrap_or_else(|| self.known.clone()), listed))
    }
}

fn stands_as(found: &Standing, listed: Option<Stands<'_>>) -> bool {
    match (found, listed) {
        (Standing::Absent, None) | (Standing::Other, Some(Stands::Other)) => true,
        (Standing::Version(found), Some(Stands::Version(listed))) => *found == listed,
        (Standing::Link(found), Some(Stands::Link(listed))) => found == listed,
        _ => false,
    }
}

//! The plan: what is to be done so that a target has its current set, each with its reason.
//!
//! It is a pure function of the set (with what the source archive has), the target's listing, the
//! policy and the time, and a value: a dry run shows what a real run carries out. Carried out,
//! and made again of the listing that comes of it, it has nothing more to send or to link.
//!
//! What is in excess is told, and what becomes of it decided by [`crate::sync::aging`]. What a link on
//! the target leads to is not told as excess while that link is a member that the plan must leave as
//! it is.

mod excess;
mod link;

use std::time::{Duration, SystemTime};

use blat_target::listing::{Entry, Listing, ListingError, Stands};
use blat_target::mark::Mark;
use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;

use super::aging::{self, Decision, decide};
use super::current_set::{CurrentSet, Member, Seen};
use super::known::{self, Put};

/// What the configuration says about planning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A package that has been writable for longer is sent all the same.
    pub grace: Duration,
}

/// Each list is sorted by the bytes of package and version, but for the links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub sends: Vec<Send>,
    /// To be made when everything was sent, in this order: what a link addresses comes before it.
    pub links: Vec<Link>,
    pub waits: Vec<Wait>,
    pub problems: Vec<Problem>,
    pub excess: Vec<Excess>,
    /// What becomes of the excess, once [`Plan::age`] was told of the marks.
    pub aged: Option<Decision>,
    pub totals: Totals,
}

/// A package-version to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    pub id: PackageVersion,
    pub stamp: Stamp,
    /// What stands in its place on the target until then.
    pub there: There,
    /// How much it is, in bytes, where that is known: see [`Plan::measure`].
    pub bytes: Option<u64>,
}

/// A link to make, or to turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub id: PackageVersion,
    /// What it is to say: the name of a version, perhaps with `./` in front.
    pub text: String,
    /// What stands in its place on the target until then.
    pub there: There,
}

/// What stands in a place on the target, seen from what should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum There {
    Nothing,
    /// A package-version with another stamp, or where a link should be.
    Version(Stamp),
    /// A link with another text, or where a package-version should be.
    Link(String),
    /// Something that is neither.
    Other,
}

/// A member that is not sent yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub id: PackageVersion,
    pub why: WaitWhy,
}

/// What a member waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitWhy {
    /// It can still be written to in the source archive; it is sent once it is sealed, and at the
    /// latest when it has been writable for the grace.
    Writable { since: SystemTime, until: SystemTime },
    /// It is a link, and this, which it addresses, waits.
    Addressed(PackageVersion),
}

/// A member that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub id: PackageVersion,
    pub why: ProblemWhy,
}

/// Why a member cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemWhy {
    #[error("{0}")]
    Missing(&'static str),
    #[error("{0}")]
    Strange(&'static str),
    #[error("it cannot be looked at in the source archive: {0}")]
    Unreadable(String),
    #[error("it is a link to {0:?}, which is not another version of the same package")]
    Elsewhere(String),
    #[error("it is a link that leads through too many links, or in a circle")]
    Circle,
    #[error("it is a link to {0}, which the target will not have")]
    Dangling(PackageVersion),
}

/// What the target has and should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    pub id: PackageVersion,
    pub there: There,
}

/// Counts of package-versions, links among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Members of the current set.
    pub members: u64,
    /// Members that stand on the target as they should.
    pub unchanged: u64,
    pub send: u64,
    pub link: u64,
    pub wait: u64,
    pub problem: u64,
    pub excess: u64,
    /// Not in the current set, but where links lead to that wait or have a problem.
    pub undecided: u64,
    /// Bytes to send, of those packages whose size is known.
    pub bytes: u64,
    /// Packages to send whose size is not known.
    pub unmeasured: u64,
}

/// What becomes of one member.
enum Fate {
    /// It stands there as it should, or will when the plan was carried out.
    There,
    Waits,
    Fails,
}

impl Plan {
    /// Makes the plan.
    pub fn make(set: &CurrentSet, listing: &Listing, policy: Policy, now: SystemTime) -> Self {
        let mut making = Making { plan: Self::default(), fates: Vec::with_capacity(set.len()), policy, now };
        let mut links = Vec::new();
        let mut there = listing.iter().peekable();
        for (place, member) in set.iter().enumerate() {
            let name = (member.package, member.version);
            while there.next_if(|entry| (entry.package, entry.version) < name).is_some() {}
            let entry = there.peek().filter(|entry| (entry.package, entry.version) == name);
            let fate = match member.seen {
                Seen::Link(text) => {
                    links.push(link::Place { place, there: entry.map(|entry| entry.stands), text });
                    Fate::Waits
                }
                _ => making.member(member, entry),
            };
            making.fates.push(fate);
        }
        making.links(set, &links);
        making.excess(set, listing);
        making.finish(set)
    }

    /// Whether there is nothing to send and nothing to link.
    pub fn is_done(&self) -> bool {
        self.sends.is_empty() && self.links.is_empty()
    }

    /// Decides what becomes of the excess. `listing` is what the plan was made of, `now` the earlier
    /// one of both clocks, in seconds since 1970.
    ///
    /// # Errors
    /// When there are too many names.
    pub fn age(
        &mut self,
        set: &CurrentSet,
        listing: &Listing,
        marks: &[Mark],
        policy: &aging::Policy,
        now: i64,
    ) -> Result<(), ListingError> {
        let standing = self.standing_after(listing)?;
        self.aged = Some(decide(set, &standing, marks, policy, now));
        Ok(())
    }

    /// What will stand on the target, once everything was sent and linked.
    ///
    /// # Errors
    /// When there are too many names.
    pub fn standing_after(&self, listing: &Listing) -> Result<Listing, ListingError> {
        let sends = self.sends.iter().map(|send| (send.id.clone(), Put::Version(send.stamp)));
        let links =
            self.links.iter().map(|link| (link.id.clone(), Put::Link(link.text.clone().into_bytes())));
        known::after(listing, sends.chain(links).collect())
    }

    /// Asks how large, in bytes, each package to send is.
    pub fn measure(&mut self, mut size: impl FnMut(&PackageVersion) -> Option<u64>) {
        for send in &mut self.sends {
            send.bytes = size(&send.id);
        }
        self.totals.bytes = self.sends.iter().filter_map(|send| send.bytes).sum();
        self.totals.unmeasured = self.sends.iter().filter(|send| send.bytes.is_none()).count() as u64;
    }
}

/// A plan in the making.
struct Making {
    plan: Plan,
    fates: Vec<Fate>,
    policy: Policy,
    now: SystemTime,
}

impl Making {
    /// A member that is no link.
    fn member(&mut self, member: Member<'_>, entry: Option<&Entry<'_>>) -> Fate {
        let there = entry.map(|entry| entry.stands);
        let why = match member.seen {
            Seen::Version { stamp, writable_since } => {
                return self.version(member, stamp, writable_since, there);
            }
            Seen::Absent(why) => ProblemWhy::Missing(why),
            Seen::Strange(why) => ProblemWhy::Strange(why),
            Seen::Unreadable(why) => ProblemWhy::Unreadable(why.to_owned()),
            Seen::Link(_) => unreachable!("links are looked at last"),
        };
        self.plan.problems.push(Problem { id: member.id(), why });
        // A link may still be turned to what the target has.
        if matches!(there, Some(Stands::Version(_))) { Fate::There } else { Fate::Fails }
    }

    fn version(
        &mut self,
        member: Member<'_>,
        stamp: Stamp,
        writable_since: Option<SystemTime>,
        there: Option<Stands<'_>>,
    ) -> Fate {
        if there == Some(Stands::Version(stamp)) {
            self.plan.totals.unchanged += 1;
            return Fate::There;
        }
        let id = member.id();
        match writable_since.and_then(|since| self.open_until(since)) {
            Some(why) => {
                self.plan.waits.push(Wait { id, why });
                if matches!(there, Some(Stands::Version(_))) { Fate::There } else { Fate::Waits }
            }
            None => {
                self.plan.sends.push(Send { id, stamp, there: There::of(there), bytes: None });
                Fate::There
            }
        }
    }

    /// Why to wait for what has been writable since then; `None` when the grace is over.
    fn open_until(&self, since: SystemTime) -> Option<WaitWhy> {
        let open = self.now.duration_since(since).unwrap_or_default() <= self.policy.grace;
        let until = since.checked_add(self.policy.grace).unwrap_or(since);
        open.then_some(WaitWhy::Writable { since, until })
    }

    fn finish(self, set: &CurrentSet) -> Plan {
        let mut plan = self.plan;
        plan.waits.sort_by(|a, b| a.id.cmp(&b.id));
        plan.problems.sort_by(|a, b| a.id.cmp(&b.id));
        plan.totals = Totals {
            members: set.len() as u64,
            send: plan.sends.len() as u64,
            link: plan.links.len() as u64,
            wait: plan.waits.len() as u64,
            problem: plan.problems.len() as u64,
            excess: plan.excess.len() as u64,
            unmeasured: plan.sends.len() as u64,
            ..plan.totals
        };
        plan
    }
}

impl There {
    fn of(stands: Option<Stands<'_>>) -> Self {
        match stands {
            None => Self::Nothing,
            Some(Stands::Version(stamp)) => Self::Version(stamp),
            Some(Stands::Link(text)) => Self::Link(String::from_utf8_lossy(text).into_owned()),
            Some(Stands::Other) => Self::Other,
        }
    }
}

#[cfg(test)]
pub(in crate::sync) mod tests;

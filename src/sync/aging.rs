//! What becomes of what is in excess: kept, marked or deleted, each with its reason.
//!
//! A pure function of the current set, what stands on the target, the marks there, the policy and
//! the time. It knows nothing of how a target is reached. What stands is to be handed in as it will be
//! once the rest of the plan was carried out: see [`Plan::standing_after`](super::plan::Plan::standing_after).
//!
//! The argument for its safety: only what stands there as a package-version or link and is no member
//! of the set can be deleted; what links lead to that are members, wherever they lead at that
//! moment, is kept; a guard that finds the set doubtful keeps all. A link that would dangle goes
//! before what it addresses, so no reader ever finds one that does.

mod guard;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use blat_target::listing::{Entry, Listing, Stands};
use blat_target::mark::Mark;
use blat_target::message::Standing;
use blat_target::package::{PackageVersion, link_target};

use super::current_set::{CurrentSet, LINKS_MAX};
use crate::config::AgingMode;

pub use guard::Guard;

/// By how many seconds a mark may be of the future before it is made anew.
const AHEAD_MAX: i64 = 300;

/// What the configuration, a person and the guards say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub mode: AgingMode,
    /// How old a mark must be before what it marks is deleted.
    pub after: Duration,
    /// How many deletions there may be.
    pub max_delete: u64,
    /// Why nothing is marked or deleted this time.
    pub guard: Option<Guard>,
    /// Whether a person holds all deletion back.
    pub held: bool,
}

/// What is done about excess. Sorted by the bytes of package and version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub aged: Vec<Aged>,
    /// Marks of what is needed, or not there: they go.
    pub unmark: Vec<PackageVersion>,
}

/// Something in excess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aged {
    pub id: PackageVersion,
    pub stands: Standing,
    /// Whether it has a mark that counts. What has none is marked before it is deleted.
    pub marked: bool,
    pub fate: Fate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Keep(Keep),
    Mark,
    Delete(Delete),
}

/// Why something in excess stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Keep {
    #[error("nothing is ever deleted there")]
    Never,
    #[error("neither a package-version nor a link: a person has to look at it")]
    Strange,
    /// Its mark is not old enough; from then on (seconds since 1970) the master deletes it.
    #[error("marked, not for long enough")]
    Young { until: i64 },
    /// The target's own purge deletes it from then on.
    #[error("marked for the target's own purge")]
    Purge { until: i64 },
    #[error("deletion is held back; `blat release-hold` ends that")]
    Held,
    #[error("this run deletes no more than aging.max_delete")]
    TooMany,
    #[error("{0}")]
    Guarded(Guard),
}

/// Why something is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delete {
    /// It is in excess, and that is enough.
    Excess,
    /// It was marked then, and that is long enough ago.
    Aged { since: i64 },
    /// It is a link, and this, where it leads, goes.
    Dangling(PackageVersion),
}

impl Decision {
    /// Whether nothing is to be done.
    pub fn is_done(&self) -> bool {
        self.unmark.is_empty() && self.aged.iter().all(|aged| matches!(aged.fate, Fate::Keep(_)))
    }

    /// The guard that keeps something from being marked or deleted, if one does.
    pub fn guarded(&self) -> Option<Guard> {
        self.aged.iter().find_map(|aged| match aged.fate {
            Fate::Keep(Keep::Guarded(guard)) => Some(guard),
            _ => None,
        })
    }

    /// What is to be marked: all that has the fate, and what is to be deleted and has no mark yet.
    pub fn marks(&self) -> impl Iterator<Item = &Aged> {
        self.aged.iter().filter(|aged| match aged.fate {
            Fate::Mark => true,
            Fate::Delete(_) => !aged.marked,
            Fate::Keep(_) => false,
        })
    }

    /// What is to be deleted, in the order in which to do it: links before what they address.
    pub fn deletions(&self) -> Vec<&Aged> {
        let doomed = self.aged.iter().filter(|aged| matches!(aged.fate, Fate::Delete(_)));
        let mut doomed: Vec<_> = doomed.collect();
        let texts: HashMap<_, _> = doomed.iter().map(|aged| (&aged.id, *aged)).collect();
        let depth = |aged: &Aged| {
            let mut at = addressed(&aged.id, &aged.stands);
            (0..LINKS_MAX)
                .take_while(|_| match at.take() {
                    Some(next) => {
                        at = texts.get(&next).and_then(|aged| addressed(&next, &aged.stands));
                        true
                    }
                    None => false,
                })
                .count()
        };
        doomed.sort_by(|a, b| {
            let package = a.id.package.cmp(&b.id.package);
            package.then_with(|| depth(b).cmp(&depth(a))).then_with(|| a.id.cmp(&b.id))
        });
        doomed
    }
}

/// Decides. `standing` is what will stand on the target, `marks` are in any order, `now` is the
/// earlier one of the two clocks, in seconds since 1970.
pub fn decide(set: &CurrentSet, standing: &Listing, marks: &[Mark], policy: &Policy, now: i64) -> Decision {
    let spared = spared(set, standing);
    let marks: HashMap<_, _> = marks.iter().map(|mark| (&mark.id, mark)).collect();
    let judge = Judge { marks: &marks, policy, now };
    let mut aged = Vec::new();
    let mut members = set.iter().peekable();
    for entry in standing.iter() {
        let name = (entry.package, entry.version);
        while members.next_if(|member| (member.package, member.version) < name).is_some() {}
        if members.peek().is_some_and(|member| (member.package, member.version) == name) {
            continue;
        }
        let id = id_of(&entry);
        if !spared.contains(&id) {
            aged.push(judge.judge(id, standing_of(entry.stands)));
        }
    }
    take_links_along(&mut aged);
    let mut decision = Decision { unmark: stale(&marks, &aged, policy), aged };
    decision.cap(policy.max_delete);
    decision
}

struct Judge<'a> {
    marks: &'a HashMap<&'a PackageVersion, &'a Mark>,
    policy: &'a Policy,
    now: i64,
}

impl Judge<'_> {
    fn judge(&self, id: PackageVersion, stands: Standing) -> Aged {
        let mark = self.marks.get(&id).filter(|mark| mark.stands == stands);
        let fate = match self.fate(&stands, mark.copied()) {
            Fate::Delete(_) if self.policy.held => Fate::Keep(Keep::Held),
            fate => fate,
        };
        Aged { marked: mark.is_some(), id, stands, fate }
    }

    fn fate(&self, stands: &Standing, mark: Option<&Mark>) -> Fate {
        let policy = self.policy;
        if policy.mode == AgingMode::None {
            return Fate::Keep(Keep::Never);
        }
        if !matches!(stands, Standing::Version(_) | Standing::Link(_)) {
            return Fate::Keep(Keep::Strange);
        }
        if let Some(guard) = policy.guard {
            return Fate::Keep(Keep::Guarded(guard));
        }
        match (policy.mode, mark) {
            (AgingMode::Immediate, _) => Fate::Delete(Delete::Excess),
            (_, Some(mark)) if mark.after == policy.told() && mark.since <= self.now + AHEAD_MAX => {
                self.marked(mark)
            }
            _ => Fate::Mark,
        }
    }

    /// The fate of what has a good mark.
    fn marked(&self, mark: &Mark) -> Fate {
        let after = self.policy.after.as_secs();
        let until = mark.since.saturating_add(i64::try_from(after).unwrap_or(i64::MAX));
        match self.policy.mode {
            AgingMode::Master if mark.age(self.now).is_some_and(|age| age >= after) => {
                Fate::Delete(Delete::Aged { since: mark.since })
            }
            AgingMode::Master => Fate::Keep(Keep::Young { until }),
            _ => Fate::Keep(Keep::Purge { until }),
        }
    }
}

impl Policy {
    /// What a mark tells the target: after how many seconds its own purge deletes, if it does.
    pub fn told(&self) -> Option<u64> {
        (self.mode == AgingMode::Target).then_some(self.after.as_secs())
    }
}

impl Decision {
    /// Keeps of the deletions only the first so many.
    fn cap(&mut self, most: u64) {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut late: HashSet<_> =
            self.deletions().into_iter().skip(most).map(|aged| aged.id.clone()).collect();
        // Links that lead in a circle go together or not at all: whatever a link that stays addresses
        // stays.
        while !late.is_empty() {
            for aged in self.aged.iter_mut().filter(|aged| late.contains(&aged.id)) {
                aged.fate = Fate::Keep(Keep::TooMany);
            }
            let late_too = |aged: &&Aged| late.contains(&aged.id);
            let held: HashSet<_> = self
                .aged
                .iter()
                .filter(late_too)
                .filter_map(|aged| addressed(&aged.id, &aged.stands))
                .collect();
            let goes = |aged: &&Aged| matches!(aged.fate, Fate::Delete(_)) && held.contains(&aged.id);
            late = self.aged.iter().filter(goes).map(|aged| aged.id.clone()).collect();
        }
    }
}

/// A link whose way leads to what goes would dangle: it goes too.
fn take_links_along(aged: &mut [Aged]) {
    let doomed: HashMap<_, _> = aged
        .iter()
        .map(|aged| {
            let goes = matches!(aged.fate, Fate::Delete(_));
            (aged.id.clone(), (goes, addressed(&aged.id, &aged.stands)))
        })
        .collect();
    for aged in aged.iter_mut().filter(|aged| matches!(aged.stands, Standing::Link(_))) {
        if matches!(aged.fate, Fate::Delete(_) | Fate::Keep(Keep::Guarded(_) | Keep::Held | Keep::Never)) {
            continue;
        }
        let mut at = addressed(&aged.id, &aged.stands);
        for _ in 0..LINKS_MAX {
            let Some(next) = at.take() else { break };
            match doomed.get(&next) {
                Some((true, _)) => {
                    aged.fate = Fate::Delete(Delete::Dangling(next));
                    break;
                }
                Some((false, further)) => at.clone_from(further),
                None => break,
            }
        }
    }
}

/// Marks that mean nothing any more: of what is needed, or was deleted. Where nothing is ever deleted,
/// all.
fn stale(marks: &HashMap<&PackageVersion, &Mark>, aged: &[Aged], policy: &Policy) -> Vec<PackageVersion> {
    let never = policy.mode == AgingMode::None;
    let excess: HashSet<_> = aged.iter().map(|aged| &aged.id).collect();
    let stale = marks.keys().filter(|id| never || !excess.contains(**id));
    let mut stale: Vec<_> = stale.map(|id| (*id).clone()).collect();
    stale.sort();
    stale
}

/// What links lead to that stand there and are members, and what such a link leads through.
fn spared(set: &CurrentSet, standing: &Listing) -> HashSet<PackageVersion> {
    let mut spared = HashSet::new();
    let mut members = set.iter().peekable();
    for entry in standing.iter().filter(|entry| matches!(entry.stands, Stands::Link(_))) {
        let name = (entry.package, entry.version);
        while members.next_if(|member| (member.package, member.version) < name).is_some() {}
        if members.peek().is_none_or(|member| (member.package, member.version) != name) {
            continue;
        }
        let mut at = addressed(&id_of(&entry), &standing_of(entry.stands));
        // Not bounded by how many links a set follows: in doubt it is needed.
        while let Some(next) = at.take().filter(|next| spared.insert(next.clone())) {
            let stands = standing.get(next.package.as_str(), next.version.as_str());
            at = stands.and_then(|stands| addressed(&next, &standing_of(stands)));
        }
    }
    spared
}

fn addressed(id: &PackageVersion, stands: &Standing) -> Option<PackageVersion> {
    match stands {
        Standing::Link(text) => link_target(id, text).ok(),
        _ => None,
    }
}

fn id_of(entry: &Entry<'_>) -> PackageVersion {
    PackageVersion::new(entry.package, entry.version).expect("a listing has checked names")
}

fn standing_of(stands: Stands<'_>) -> Standing {
    match stands {
        Stands::Version(stamp) => Standing::Version(stamp),
        Stands::Link(text) => Standing::Link(text.to_vec()),
        Stands::Other => Standing::Other,
    }
}

#[cfg(test)]
mod tests;

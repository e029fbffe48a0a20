//! What the target has and should not; only told here.

use std::collections::HashSet;

use blat_target::listing::{Listing, Stands};
use blat_target::package::{PackageVersion, link_target};

use super::{Excess, Making, Plan, There};
use crate::sync::current_set::{CurrentSet, LINKS_MAX};

impl Making {
    /// Tells what is on the target and not in the set.
    pub(super) fn excess(&mut self, set: &CurrentSet, listing: &Listing) {
        let spared = spared(&self.plan, listing);
        let mut members = set.iter().peekable();
        for entry in listing.iter() {
            let name = (entry.package, entry.version);
            while members.next_if(|member| (member.package, member.version) < name).is_some() {}
            if members.peek().is_some_and(|member| (member.package, member.version) == name) {
                continue;
            }
            let id = PackageVersion::new(entry.package, entry.version).expect("a listing has checked names");
            if spared.contains(&id) {
                self.plan.totals.undecided += 1;
            } else {
                self.plan.excess.push(Excess { id, there: There::of(Some(entry.stands)) });
            }
        }
    }
}

/// What links of the target lead to that are members, and that this plan leaves as they are: it is
/// still needed there, or nobody can tell.
fn spared(plan: &Plan, listing: &Listing) -> HashSet<PackageVersion> {
    let left = plan.waits.iter().map(|wait| &wait.id);
    let left = left.chain(plan.problems.iter().map(|problem| &problem.id));
    let mut spared = HashSet::new();
    for id in left {
        let mut id = id.clone();
        for _ in 0..LINKS_MAX {
            let stands = listing.get(id.package.as_str(), id.version.as_str());
            let Some(Stands::Link(text)) = stands else { break };
            let Ok(next) = link_target(&id, text) else { break };
            spared.insert(next.clone());
            id = next;
        }
    }
    spared
}

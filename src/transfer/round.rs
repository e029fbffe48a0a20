//! The bookkeeping of one round: which claim needs which steps, and how each stands.

use std::collections::HashMap;

use blat_target::message::{Refusal, Standing};
use blat_target::package::PackageVersion;

use super::resolve::{Step, Want};
use crate::tags::Claim;

/// Claims and the steps that they need, each step once however many claims need it.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) steps: Vec<Step>,
    index: HashMap<PackageVersion, usize>,
    claims: Vec<Pending>,
    needed_by: Vec<Vec<usize>>,
    numbers: HashMap<u64, usize>,
}

#[derive(Debug)]
struct Pending {
    claim: Claim,
    open: usize,
    failed: Option<Failed>,
}

/// A claim of which every step has ended.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) claim: Claim,
    /// What failed first, if anything did.
    pub(super) failed: Option<Failed>,
}

/// How a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The package could not be read on this side.
    Unreadable(Refusal),
    /// The target did not take it.
    Refused(Refusal),
}

impl Round {
    /// Adds a claim with the steps that it came to.
    pub(super) fn add(&mut self, claim: Claim, steps: Vec<Step>) {
        let number = self.claims.len();
        self.claims.push(Pending { claim, open: steps.len(), failed: None });
        for step in steps {
            let at = *self.index.entry(step.id.clone()).or_insert_with(|| {
                self.steps.push(step);
                self.needed_by.push(Vec::new());
                self.steps.len() - 1
            });
            self.needed_by[at].push(number);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    pub(super) fn ids(&self) -> Vec<PackageVersion> {
        self.steps.iter().map(|step| step.id.clone()).collect()
    }

    /// The claims whose step is sent under `number` from now on.
    pub(super) fn sent(&mut self, step: usize, number: u64) {
        self.numbers.insert(number, step);
    }

    /// The step that was sent under `number`, if any was.
    pub(super) fn step(&self, number: u64) -> Option<usize> {
        self.numbers.get(&number).copied()
    }

    /// The first claim that needs what was sent under `number`.
    pub(super) fn claim_of(&self, number: u64) -> Option<&Claim> {
        let claim = self.needed_by[self.step(number)?].first()?;
        Some(&self.claims[*claim].claim)
    }

    /// Whether anything that was sent has no outcome yet.
    pub(super) fn is_open(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// The step sent under `number` ended so; the claims that are settled by it.
    pub(super) fn ended(&mut self, number: u64, failed: Option<&Failed>) -> Vec<Settled> {
        match self.numbers.remove(&number) {
            Some(step) => self.settle(step, failed),
            None => Vec::new(),
        }
    }

    /// `step` ended so, sent or not; the claims that are settled by it.
    pub(super) fn settle(&mut self, step: usize, failed: Option<&Failed>) -> Vec<Settled> {
        let mut settled = Vec::new();
        for claim in std::mem::take(&mut self.needed_by[step]) {
            let pending = &mut self.claims[claim];
            pending.open -= 1;
            pending.failed = pending.failed.take().or(failed.cloned());
            if pending.open == 0 {
                let (claim, failed) = (pending.claim.clone(), pending.failed.take());
                settled.push(Settled { claim, failed });
            }
        }
        settled
    }
}

impl Step {
    /// Whether what stands on the target is what is wanted.
    pub(super) fn is_met_by(&self, standing: &Standing) -> bool {
        match (&self.want, standing) {
            (Want::Version(wanted), Standing::Version(found)) => wanted == found,
            (Want::Link(wanted), Standing::Link(found)) => wanted == found,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tags::Queue;
    use blat_target::stamp::Stamp;

    fn step(version: &str) -> Step {
        let id = PackageVersion::new("core", version).unwrap();
        Step { id, want: Want::Version(Stamp(1)) }
    }

    fn claims(count: usize) -> Vec<Claim> {
        let root = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(root.path(), root.path()).unwrap();
        for number in 0..count {
            std::fs::write(root.path().join(format!("core::{number}")), "").unwrap();
        }
        queue.claim(|name, why| panic!("{name:?}: {why}")).unwrap().0
    }

    #[test]
    fn a_step_that_two_claims_need_is_sent_once_and_settles_both() {
        let mut round = Round::default();
        for claim in claims(2) {
            round.add(claim, vec![step("1.0")]);
        }
        assert_eq!(round.steps.len(), 1);
        round.sent(0, 7);
        assert_eq!(round.ended(7, None).len(), 2);
        assert!(!round.is_open());
    }

    #[test]
    fn a_claim_with_one_refused_step_is_refused_once_all_ended() {
        let mut round = Round::default();
        round.add(claims(1).remove(0), vec![step("1.0"), step("current")]);
        let refused = Failed::Refused(Refusal::later("full"));
        assert!(round.settle(0, Some(&refused)).is_empty());
        let settled = round.settle(1, None);
        assert_eq!(settled[0].failed, Some(refused));
    }
}

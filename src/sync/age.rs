//! Carrying out what was decided of excess, over one session: marks, then deletions.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use blat_target::message::{Mend, Outcome, Refusal, Standing};
use blat_target::package::PackageVersion;

use super::aging::{Decision, Fate, Policy};
use crate::channel::Channel;
use crate::failure::Result;
use crate::report::{Report, Reporter};
use crate::session::Event;
use crate::sync::upkeep;

/// How many deletions may be unanswered.
const AHEAD: usize = 256;
/// How many marks are told one by one.
pub(super) const MARKS_TOLD: usize = 1000;
/// How many failures are told one by one.
const FAILURES_TOLD: usize = 20;

/// What became of a decision.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) marked: u64,
    /// What does not stand on the target any more.
    pub(super) gone: BTreeSet<PackageVersion>,
    pub(super) failed: Vec<Refusal>,
    /// Whether a person held deletion back meanwhile, so that the rest stays.
    pub(super) held: bool,
}

impl Done {
    /// What mends the failures: a person, if any of them needs one.
    pub(super) fn mend(&self) -> Option<Mend> {
        let person = self.failed.iter().any(|refusal| refusal.mend == Mend::Person);
        (!self.failed.is_empty()).then_some(if person { Mend::Person } else { Mend::Later })
    }
}

/// Marks and deletes as was decided, for `target`. What was needed again has lost its mark before. What is told as
/// deleted stands in the file `heard`.
pub(super) async fn carry_out(
    decision: &Decision,
    policy: &Policy,
    target: &str,
    heard: &Path,
    channel: &mut Channel,
    reporter: &mut Reporter,
) -> Result<Done> {
    let mut done = Done::default();
    let marks: Vec<(PackageVersion, Standing)> =
        decision.marks().map(|aged| (aged.id.clone(), aged.stands.clone())).collect();
    let why = format!("nothing that {target} names has it");
    done.marked = channel.session.mark(&marks, policy.told(), &why).await?;
    let mut new: Vec<_> = decision.marks().filter(|aged| aged.fate == Fate::Mark).collect();
    if done.marked < marks.len() as u64 {
        // Something was replaced meanwhile; the next synchronisation finds what.
        let (there, _) = channel.session.marks().await?;
        let there: HashMap<_, _> = there.iter().map(|mark| (&mark.id, &mark.stands)).collect();
        new.retain(|aged| there.get(&aged.id) == Some(&&aged.stands));
    }
    new.iter().take(MARKS_TOLD).for_each(|aged| reporter.tell(Report::marked(&aged.id)));
    let mut open = HashMap::new();
    for aged in decision.deletions() {
        while open.len() >= AHEAD {
            hear(channel, reporter, heard, &mut open, &mut done).await?;
        }
        let number = channel.session.send_delete(aged.id.clone(), aged.stands.clone())?;
        open.insert(number, aged.id.clone());
    }
    while !open.is_empty() {
        hear(channel, reporter, heard, &mut open, &mut done).await?;
    }
    Ok(done)
}

async fn hear(
    channel: &mut Channel,
    reporter: &mut Reporter,
    heard: &Path,
    open: &mut HashMap<u64, PackageVersion>,
    done: &mut Done,
) -> Result<()> {
    let Event::Outcome { number, outcome } = channel.session.event().await? else { return Ok(()) };
    let Some(id) = open.remove(&number) else { return Ok(()) };
    match outcome {
        Outcome::Committed { .. } => {
            let (package, version) = (id.package.to_string(), id.version.to_string());
            reporter.tell(Report::Deleted { package, version, at: None });
            upkeep::note_heard(heard, &id);
            done.gone.insert(id);
        }
        Outcome::Unchanged => drop(done.gone.insert(id)),
        Outcome::Refused(refusal) => {
            if done.failed.len() < FAILURES_TOLD {
                reporter.tell(Report::Problem { reason: refusal.reason.clone(), about: Some(id) });
            }
            done.failed.push(refusal);
        }
    }
    Ok(())
}

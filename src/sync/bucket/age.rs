//! Marking, in the index, and deleting what is in excess in a bucket; and the index, which tells of it all.

use std::path::Path;

use blat_target::message::Refusal;
use blat_target::package::PackageVersion;

use crate::bucket::{Bucket, State};
use crate::channel::clock;
use crate::failure::Result;
use crate::report::{Report, Reporter};
use crate::sync::age::{Done, MARKS_TOLD};
use crate::sync::aging::{Decision, Fate, Keep};
use crate::sync::carry::FAILURES_TOLD;

pub(in crate::sync) struct Age<'a> {
    bucket: &'a Bucket,
    state: &'a mut State,
    /// Stands there from when a person holds all deletion back.
    hold: &'a Path,
    reporter: &'a mut Reporter,
    done: Done,
}

impl<'a> Age<'a> {
    pub(in crate::sync) fn new(
        bucket: &'a Bucket,
        state: &'a mut State,
        hold: &'a Path,
        reporter: &'a mut Reporter,
    ) -> Self {
        Self { bucket, state, hold, reporter, done: Done::default() }
    }

    /// Does what was decided, if anything was, and writes the index.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub(in crate::sync) async fn out(mut self, decision: Option<&Decision>) -> Result<Done> {
        if let Some(decision) = decision {
            self.age(decision).await;
        }
        self.state.write(self.bucket).await?;
        Ok(self.done)
    }

    /// Marks, in the index, and deletes, as was decided.
    async fn age(&mut self, decision: &Decision) {
        for id in &decision.unmark {
            self.state.mark(id, None);
        }
        for aged in decision.marks().filter(|aged| aged.fate == Fate::Mark) {
            self.state.mark(&aged.id, Some(clock()));
            self.done.marked += 1;
            if self.done.marked <= MARKS_TOLD as u64 {
                self.reporter.tell(Report::marked(&aged.id));
            }
        }
        for aged in decision.deletions() {
            // A bucket refuses nothing that is held back meanwhile, as a target would.
            if self.hold.exists() {
                self.done.held = true;
                let reason = format!("what else was to be deleted stays: {}", Keep::Held);
                return self.reporter.tell(Report::Notice { reason });
            }
            self.delete(&aged.id).await;
        }
    }

    async fn delete(&mut self, id: &PackageVersion) {
        let Some(entry) = self.state.get(id).cloned() else { return };
        match self.bucket.delete(id, &entry).await {
            Ok(()) => {
                self.state.remove(id);
                let (package, version) = (id.package.to_string(), id.version.to_string());
                self.reporter.tell(Report::Deleted { package, version, at: None });
                self.done.gone.insert(id.clone());
            }
            Err(failure) => {
                let refusal = Refusal::from(failure);
                if self.done.failed.len() < FAILURES_TOLD {
                    self.reporter
                        .tell(Report::Problem { reason: refusal.reason.clone(), about: Some(id.clone()) });
                }
                self.done.failed.push(refusal);
            }
        }
    }
}

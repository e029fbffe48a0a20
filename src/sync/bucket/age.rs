//! Marking, in the index, and deleting what is in excess in a bucket; and the index, which tells of it all.
//!
//! The index names nothing that is deleted: it is written before, on the condition that it is as it was when
//! this run began. Where a tag asked meanwhile for something, and so took its mark away or put it back into the
//! index, that stays: the index is looked at before each deletion. After a kill, what was not deleted yet is found
//! by the listing, and marked anew: it goes late, never early.

use std::path::Path;

use blat_target::message::Refusal;
use blat_target::package::PackageVersion;

use crate::bucket::{Bucket, Entry, State};
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
        let doomed = decision.map(|decision| self.mark(decision)).unwrap_or_default();
        self.state.write(self.bucket).await?;
        self.delete_all(doomed).await?;
        self.state.write(self.bucket).await?;
        Ok(self.done)
    }

    /// Marks, in the index, as was decided, and takes out of it what is to be deleted: that is returned.
    fn mark(&mut self, decision: &Decision) -> Vec<(PackageVersion, Entry)> {
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
        let deletions = decision.deletions().into_iter();
        let doomed = deletions.filter_map(|aged| Some((aged.id.clone(), self.state.get(&aged.id)?.clone())));
        let doomed: Vec<_> = doomed.collect();
        doomed.iter().for_each(|(id, _)| self.state.remove(id));
        doomed
    }

    /// Deletes what the index does not name any more. What then still stands goes back into it.
    async fn delete_all(&mut self, doomed: Vec<(PackageVersion, Entry)>) -> Result<()> {
        for (id, entry) in doomed {
            if !self.done.held {
                self.state.catch_up(self.bucket).await?;
            }
            if self.state.get(&id).is_some() {
                let reason = format!("{id} stays: it was asked for meanwhile");
                self.reporter.tell(Report::Notice { reason });
                continue;
            }
            if !self.is_held() && self.delete(&id, &entry).await {
                self.state.gone(id, entry);
            } else {
                self.state.put_back(id, entry);
            }
        }
        Ok(())
    }

    /// Whether deletion is held back, from when that was first seen on: a bucket refuses nothing, as a target would.
    fn is_held(&mut self) -> bool {
        if !self.done.held && self.hold.exists() {
            self.done.held = true;
            let reason = format!("what else was to be deleted stays: {}", Keep::Held);
            self.reporter.tell(Report::Notice { reason });
        }
        self.done.held
    }

    /// Whether it is gone.
    async fn delete(&mut self, id: &PackageVersion, entry: &Entry) -> bool {
        match self.bucket.delete(id, entry).await {
            Ok(()) => {
                let (package, version) = (id.package.to_string(), id.version.to_string());
                self.reporter.tell(Report::Deleted { package, version, at: None });
                self.done.gone.insert(id.clone());
                true
            }
            Err(failure) => {
                let refusal = Refusal::from(failure);
                if self.done.failed.len() < FAILURES_TOLD {
                    self.reporter
                        .tell(Report::Problem { reason: refusal.reason.clone(), about: Some(id.clone()) });
                }
                self.done.failed.push(refusal);
                false
            }
        }
    }
}

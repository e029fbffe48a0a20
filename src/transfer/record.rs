//! What a transfer writes down of what it did, for whoever asks later.

use std::time::{Instant, SystemTime};

use blat_target::message::Mend;
use blat_target::package::PackageVersion;

use crate::failure::Failure;
use crate::places::Places;
use crate::state::{self, Failed, Missing, Point, Transfers, seconds};

/// The record of one run.
#[derive(Debug)]
pub(super) struct Record {
    begin: Instant,
    sent: Vec<(PackageVersion, u64)>,
}

impl Record {
    pub(super) fn begin() -> Self {
        Self { begin: Instant::now(), sent: Vec::new() }
    }

    /// A package-version, or link, was committed, of so many bytes.
    pub(super) fn sent(&mut self, id: &PackageVersion, bytes: u64) {
        self.sent.push((id.clone(), bytes));
    }

    /// The run is over, perhaps by a failure of the whole. One that had nothing to do writes nothing.
    pub(super) fn end(&self, places: &Places, failure: Option<&Failure>) {
        let mut transfers: Transfers = state::read(&places.transfers()).unwrap_or_default();
        if failure.is_none() && self.sent.is_empty() && transfers.failed.is_none() {
            return;
        }
        let now = seconds(SystemTime::now());
        let bytes = self.sent.iter().map(|(_, bytes)| bytes).sum();
        transfers.totals.count(self.sent.len() as u64, bytes);
        self.sent.iter().for_each(|(id, _)| transfers.note_sent(id.clone(), now));
        let missing: Missing = state::read(&places.missing()).unwrap_or_default();
        transfers.forget_sent(&missing.items);
        match failure {
            Some(failure) => {
                let person = failure.mend == Mend::Person;
                let before = transfers.failed.take();
                transfers.failed = Some(Failed::after(before.as_ref(), failure.to_string(), person, now));
                transfers.totals.failures += 1;
            }
            None => (transfers.failed, transfers.good_at) = (None, Some(now)),
        }
        state::keep(&places.transfers(), &transfers);
        let (packages, millis) = (self.sent.len() as u64, self.begin.elapsed().as_millis() as u64);
        let failed = failure.is_some();
        let point = Point { at: now, lag: None, packages, bytes, millis, failed };
        state::append(&places.transfer_series(), &point);
    }
}

//! What runs leave behind: how the last ones ended, and how far the one that goes on is.

use std::collections::VecDeque;

use blat_target::package::PackageVersion;
use serde::{Deserialize, Serialize};

use super::{Missing, MissingItem, Seconds};

/// How many package-versions are remembered as sent for tags, and how many of those that no
/// synchronisation had found missing.
const SENT_MAX: usize = 300;
const SENT_OTHERS: usize = 50;

/// `/var/lib/blat/NAME/sync.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Syncs {
    /// The last one that came to its end, however much of it failed.
    pub ended: Option<SyncEnd>,
    /// When the last one ended that sent all that it could.
    pub good_at: Option<Seconds>,
    /// The failure of the last one, if it did not come to its end.
    pub failed: Option<Failed>,
    pub totals: Totals,
}

/// How a synchronisation ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncEnd {
    pub at: Seconds,
    pub members: u64,
    pub packages: u64,
    pub links: u64,
    pub bytes: u64,
    pub waiting: u64,
    pub problems: u64,
    pub failed: u64,
    pub excess: u64,
    /// Of that, what this run has marked, and deleted.
    pub marked: u64,
    pub deleted: u64,
    /// What could not be deleted.
    pub undeleted: u64,
    /// Why nothing of it was, where a person has to say that it is safe.
    pub guarded: Option<String>,
    /// Why the PackageList was not laid down, and what a person does about it, where one has to.
    pub withheld: Option<String>,
    pub millis: u64,
    /// How many members were not there in the end, those first that have been missing longest.
    pub missing: u64,
    pub oldest: Vec<MissingItem>,
    /// The open releases that were asked, and closed ones that the settings name.
    pub releases: Vec<String>,
    pub closed: Vec<String>,
}

/// `/var/lib/blat/NAME/transfer.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transfers {
    /// When the last run ended that served all it could.
    pub good_at: Option<Seconds>,
    pub failed: Option<Failed>,
    /// What was sent lately, the last one last.
    pub sent: VecDeque<Sent>,
    pub totals: Totals,
}

/// A package-version or link that was sent for a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub id: PackageVersion,
    pub at: Seconds,
}

/// Why the last run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub at: Seconds,
    /// Since when each run has failed.
    pub since: Seconds,
    pub reason: String,
    /// Whether only a person mends it.
    pub person: bool,
}

/// Counts that only rise, for as long as the state folder is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub runs: u64,
    pub failures: u64,
    pub packages: u64,
    pub bytes: u64,
}

/// `/run/blat/NAME/progress.json`: how far the synchronisation is that runs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub since: Seconds,
    pub done: u64,
    pub total: u64,
    pub bytes: u64,
}

impl SyncEnd {
    /// When the run began. What tags have brought since, its listing of the target may lack.
    pub fn began(&self) -> Seconds {
        self.at.saturating_sub(self.millis.div_ceil(1000))
    }

    /// What was not there in the end, as far as it is told with the result.
    pub fn missing(&self) -> Missing {
        Missing { at: self.began(), count: self.missing, items: self.oldest.clone() }
    }
}

impl Failed {
    /// A failure, seen after `before`.
    pub fn after(before: Option<&Self>, reason: String, person: bool, at: Seconds) -> Self {
        Self { at, since: before.map_or(at, |before| before.since), reason, person }
    }
}

impl Totals {
    /// Counts a run that sent so much.
    pub fn count(&mut self, packages: u64, bytes: u64) {
        self.runs += 1;
        self.packages += packages;
        self.bytes += bytes;
    }
}

impl Transfers {
    /// Notes what was sent.
    pub fn note_sent(&mut self, id: PackageVersion, at: Seconds) {
        self.sent.push_back(Sent { id, at });
    }

    /// Forgets the oldest, but for what is told as missing: of that it must be known that it came.
    pub fn forget_sent(&mut self, missing: &[MissingItem]) {
        let mut others = self.sent.len();
        self.sent.retain(|sent| {
            others -= 1;
            others < SENT_OTHERS || missing.iter().any(|item| item.id == sent.id)
        });
        while self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
    }

    /// When `id` was last sent for a tag, as far as it is remembered.
    pub fn sent_at(&self, id: &PackageVersion) -> Option<Seconds> {
        self.sent.iter().rev().find(|sent| sent.id == *id).map(|sent| sent.at)
    }
}

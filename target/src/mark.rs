//! A mark: the record that a package-version became excess, and since when.
//!
//! It counts only for what stood there when it was made. Its time is the later one of the
//! master's clock and the target's: with the earlier one of both as the time of day, an age is never
//! more than it is by any of the two clocks, so a clock that is wrong deletes late, never early.

use serde::{Deserialize, Serialize};

use crate::message::Standing;
use crate::package::PackageVersion;

/// A package-version that is in excess.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub id: PackageVersion,
    /// What stood there: a mark counts for nothing else.
    pub stands: Standing,
    /// Since when, in seconds since 1970 (UTC).
    pub since: i64,
    /// After how many seconds the target's own purge deletes it; `None`: it does not.
    pub after: Option<u64>,
    /// Which master made it.
    pub master: String,
    pub why: String,
}

impl Mark {
    /// How old it is at `now`, in seconds; `None` if it is of the future.
    pub fn age(&self, now: i64) -> Option<u64> {
        now.checked_sub(self.since).and_then(|age| u64::try_from(age).ok())
    }
}

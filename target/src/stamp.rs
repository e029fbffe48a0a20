//! The stamp: when a package-version was built, as its `descpkg` tells.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The file that every package-version holds, and whose time is its stamp.
pub const DESCPKG: &str = "descpkg";

/// The modification time of `descpkg`, in whole seconds since 1970 (UTC).
///
/// Two stamps that differ are two builds of the same version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp(pub i64);

impl Stamp {
    /// What `time` is in whole seconds, rounded down before 1970 as `stat` does.
    pub fn of(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self(since.as_secs() as i64),
            Err(before) => {
                let before = before.duration();
                let partial = i64::from(before.subsec_nanos() > 0);
                Self(-(before.as_secs() as i64) - partial)
            }
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

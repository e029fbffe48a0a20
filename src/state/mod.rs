//! What is remembered of a target between runs, for whoever asks how it stands: `blat status`,
//! `blat explain`, the web pages.
//!
//! Each file has one writer: a synchronisation writes its own under its lock, a transfer under its
//! lock, the agent what it alone knows. A file is replaced as a whole, so a reader sees the old or the
//! new one. All of it is advice: no run decides anything by it, and a file that is missing or cannot
//! be read is as one that was never written.

mod agent;
mod excess;
mod facts;
mod missing;
mod runs;
mod series;
mod wanted;

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::places;

pub use agent::{Agent, Line, LineState};
pub use excess::Excess;
pub use facts::{Away, Facts};
pub use missing::{Missing, MissingItem};
pub use runs::{Failed, Progress, Sent, SyncEnd, Syncs, Totals, Transfers};
pub use series::{Point, append, complete_since, last_points, points};
pub use wanted::{Asks, Wanted, WantedBy};

/// Seconds since 1970 (UTC).
pub type Seconds = u64;

/// The seconds of a time; 0 for one before 1970.
pub fn seconds(time: SystemTime) -> Seconds {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Reads a file back, if it is there and whole.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Why a target's state folder that is there cannot be read.
pub fn unreadable(folder: &Path) -> Option<String> {
    match fs::read_dir(folder) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Some(format!(
            "cannot read {} ({why}): ask as root or as a member of the group blat",
            folder.display()
        )),
        _ => None,
    }
}

/// Writes a file down. What cannot be written is only told: it is advice.
pub fn keep(path: &Path, value: &impl Serialize) {
    let text = serde_json::to_vec(value).map_err(io::Error::other);
    if let Err(why) = text.and_then(|text| places::keep(path, &text)) {
        tracing::warn!("cannot write {}: {why}", path.display());
    }
}

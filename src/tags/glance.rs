//! A glance at a target's tags, for whoever asks how it stands: nothing is made, moved or locked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::queue::CLAIMED;
use super::{Claim, Waiting};
use crate::look::Look;

/// What lies in the tag directory and in the queue.
#[derive(Debug, Default)]
pub struct Glance {
    /// Tags that no run has taken up.
    pub fresh: Vec<OsString>,
    /// Since when the oldest of them lies there.
    pub fresh_since: Option<SystemTime>,
    /// Oldest first.
    pub claims: Vec<Claim>,
    waiting: BTreeMap<String, Waiting>,
}

/// A tag that was given up.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rejected {
    pub tag: String,
    /// RFC 3339.
    pub at: String,
    pub reason: String,
}

impl Glance {
    /// Begins to look at the tag directory `directory`, whose file server may be gone, and the records in `state`.
    pub fn begin(directory: &Path, state: &Path) -> Look<Self> {
        let (tags, state) = (directory.to_owned(), state.to_owned());
        Look::begin(directory, move || Self::at(&tags, &state))
    }

    /// Looks at the tag directory `directory` and the records in `state`.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn at(directory: &Path, state: &Path) -> io::Result<Self> {
        let items = |folder: &Path| match fs::read_dir(folder) {
            Ok(items) => items.collect::<io::Result<Vec<_>>>(),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(why) => Err(why),
        };
        let mut fresh = items(directory)?;
        fresh.retain(|item| !item.file_name().as_bytes().starts_with(b"."));
        let claimed = items(&directory.join(CLAIMED))?;
        let mut claimed: Vec<OsString> = claimed.iter().map(fs::DirEntry::file_name).collect();
        claimed.sort();
        let waiting = fs::read(state.join("waiting.json")).unwrap_or_default();
        Ok(Self {
            fresh_since: fresh.iter().filter_map(lies_since).min(),
            fresh: fresh.iter().map(fs::DirEntry::file_name).collect(),
            claims: claimed.into_iter().filter_map(Claim::of_file).collect(),
            waiting: serde_json::from_slice(&waiting).unwrap_or_default(),
        })
    }

    /// Why a claim waits, if it was looked at before.
    pub fn waiting(&self, claim: &Claim) -> Option<&Waiting> {
        self.waiting.get(&claim.key())
    }
}

/// When the file was put there: its time of change, for what is moved or copied may keep its older time.
fn lies_since(item: &fs::DirEntry) -> Option<SystemTime> {
    let changed = u64::try_from(item.metadata().ok()?.ctime()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(changed))
}

/// The tags that were given up, the last one first, at most `count`.
pub fn rejected(state: &Path, count: usize) -> Vec<Rejected> {
    let items = fs::read_dir(state.join("rejected")).into_iter().flatten().flatten();
    let hidden = |item: &fs::DirEntry| item.file_name().as_bytes().starts_with(b".new-");
    let mut all: Vec<_> = items
        .filter(|item| !hidden(item))
        .filter_map(|item| Some((item.metadata().ok()?.modified().ok()?, item.path())))
        .collect();
    all.sort_by(|a, b| b.cmp(a));
    all.into_iter().take(count).filter_map(|(_, path)| record(&path)).collect()
}

fn record(path: &Path) -> Option<Rejected> {
    let text = fs::read_to_string(path).ok()?;
    let (at, reason) = text.split_once('\n')?;
    let tag = path.file_name()?.to_string_lossy().into_owned();
    Some(Rejected { tag, at: at.to_owned(), reason: reason.trim_end().to_owned() })
}

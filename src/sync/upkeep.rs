//! What a target tells of its own upkeep: put on record after each synchronisation, and what is new in it
//! told.

use std::fs;
use std::path::Path;

use blat_target::message::{Info, Ran};
use serde::{Deserialize, Serialize};

use crate::failure::{Needs, Result};
use crate::places::replace;
use crate::report::{self, Report, Reporter};

/// By how many seconds two clocks may differ.
const SKEW_MAX: u64 = 300;
/// Who deletes on the target by itself.
const PURGE: &str = "purge";
/// How many deletions are told one by one.
const TOLD_MAX: usize = 1000;

/// What is on record of a target. Times are in seconds since 1970, by its clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Upkeep {
    pub asked: i64,
    pub indexed: Option<i64>,
    pub purged: Option<i64>,
    pub held: Option<String>,
    pub free_bytes: u64,
    pub free_inodes: u64,
    /// When the last deletion was that was told of.
    pub told: i64,
    /// How many of that very second were told of.
    pub told_then: usize,
}

impl Upkeep {
    /// What is on record, if anything is.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }
}

/// Puts what a target says on record at `path`, and tells what is new.
///
/// # Errors
/// When it cannot be written.
pub(super) fn note(path: &Path, info: &Info, reporter: &mut Reporter) -> Result<()> {
    let before = Upkeep::read(path).unwrap_or_default();
    let new = new_deletions(info, &before);
    for deleted in new.iter().take(TOLD_MAX) {
        let (package, version) = (deleted.id.package.to_string(), deleted.id.version.to_string());
        reporter.tell(Report::Deleted { package, version, at: Some(deleted.at) });
    }
    tell_ran(report::Upkeep::Index, info.index.as_ref(), before.indexed, reporter);
    tell_ran(report::Upkeep::Purge, info.purge.as_ref(), before.purged, reporter);
    let told = info.deleted.last().map_or(before.told, |last| last.at);
    let after = Upkeep {
        asked: info.clock,
        indexed: info.index.as_ref().map(|ran| ran.at),
        purged: info.purge.as_ref().map(|ran| ran.at),
        held: info.hold.clone(),
        free_bytes: info.free_bytes,
        free_inodes: info.free_inodes,
        told,
        told_then: info.deleted.iter().filter(|deleted| deleted.at == told).count(),
    };
    let text = serde_json::to_vec(&after).expect("plain values can be written");
    replace(path, &text).later(format!("cannot write {}", path.display()))
}

/// What the target's own purge has deleted and was not told of before.
fn new_deletions<'a>(info: &'a Info, before: &Upkeep) -> Vec<&'a blat_target::message::Deleted> {
    let then = info.deleted.iter().filter(|deleted| deleted.at == before.told).skip(before.told_then);
    let later = info.deleted.iter().filter(|deleted| deleted.at > before.told);
    then.chain(later).filter(|deleted| deleted.by == PURGE).collect()
}

fn tell_ran(what: report::Upkeep, ran: Option<&Ran>, before: Option<i64>, reporter: &mut Reporter) {
    let Some(ran) = ran.filter(|ran| before != Some(ran.at)) else { return };
    let (at, count, failed, trouble) = (ran.at, ran.count, ran.failed, ran.trouble.clone());
    reporter.tell(Report::Upkeep { what, at, count, failed, trouble });
}

/// What there is to say about two clocks, both in seconds since 1970.
pub fn skew(target: i64, master: i64) -> Option<String> {
    let ahead = target.saturating_sub(master);
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let by = ahead.unsigned_abs();
    (by > SKEW_MAX).then(|| {
        format!("the target's clock is {by} s {way} the master's: set it right; until then, things are deleted late")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_target::message::Deleted;
    use blat_target::package::PackageVersion;

    #[test]
    fn each_deletion_by_the_purge_is_told_once() {
        let deleted = |at, version: &str, by: &str| Deleted {
            at,
            id: PackageVersion::new("a", version).unwrap(),
            by: by.to_owned(),
        };
        let mut info = Info {
            clock: 9,
            free_bytes: 1,
            free_inodes: 2,
            hold: None,
            index: None,
            purge: Some(Ran { at: 5, count: 2, failed: 0, trouble: None }),
            deleted: vec![deleted(4, "1", "master"), deleted(5, "2", PURGE)],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upkeep");
        let told = |info: &Info| -> Vec<String> {
            let new = new_deletions(info, &Upkeep::read(&path).unwrap_or_default());
            new.iter().map(|deleted| deleted.id.version.to_string()).collect()
        };
        assert_eq!(told(&info), ["2"]);
        note(&path, &info, &mut Reporter::to_the_log("site1")).unwrap();
        assert_eq!(told(&info), Vec::<String>::new());
        info.deleted.push(deleted(5, "3", PURGE));
        info.deleted.push(deleted(6, "4", PURGE));
        assert_eq!(told(&info), ["3", "4"]);
        assert_eq!(Upkeep::read(&path).unwrap().purged, Some(5));
    }

    #[test]
    fn clocks_that_differ_by_more_than_five_minutes_are_told() {
        assert_eq!(skew(1000, 1300), None);
        assert!(skew(1000, 1301).unwrap().contains("301 s behind"));
        assert!(skew(1301, 1000).unwrap().contains("301 s ahead of"));
        assert!(skew(i64::MIN, i64::MAX).is_some());
    }
}

//! What a target tells of its own upkeep: put on record after each synchronisation, and what is new in it
//! told.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use blat_target::message::{Deleted, Info, Ran};
use blat_target::package::PackageVersion;
use serde::{Deserialize, Serialize};

use crate::channel::master;
use crate::failure::{Needs, Result};
use crate::places::{adopt, replace};
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
    /// Why the last index, and the last purge, did not do all.
    #[serde(default)]
    pub index_trouble: Option<String>,
    #[serde(default)]
    pub purge_trouble: Option<String>,
    pub held: Option<String>,
    pub free_bytes: u64,
    pub free_inodes: u64,
    /// When the last deletion was that is told of, by a clock that may have been wrong,
    pub told: i64,
    /// and of what.
    #[serde(default)]
    pub told_last: Option<PackageVersion>,
}

impl Upkeep {
    /// What is on record, if anything is.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).expect("plain values can be written");
        replace(path, &text).later(format!("cannot write {}", path.display()))
    }
}

/// Notes in the file `heard` that a deletion was told of, as it is: the run may be cut or killed before it hears
/// of what the target has on record.
pub(super) fn note_heard(heard: &Path, id: &PackageVersion) {
    let noted = || {
        let mut file = File::options().create(true).append(true).open(heard)?;
        adopt(heard, heard.parent().unwrap_or(heard));
        writeln!(file, "{id}")
    };
    if let Err(why) = noted() {
        tracing::warn!("cannot write {}: {why}", heard.display());
    }
}

/// Puts what a target says on record at `path`, and tells what is new: that is not what stands in the file `heard`,
/// which then goes.
///
/// # Errors
/// When it cannot be written.
pub(super) fn note(path: &Path, heard: &Path, info: &Info, reporter: &mut Reporter) -> Result<()> {
    let before = Upkeep::read(path).unwrap_or_default();
    let told = fs::read_to_string(heard).unwrap_or_default();
    for deleted in new_deletions(info, &before, &told, &master()).into_iter().take(TOLD_MAX) {
        let (package, version) = (deleted.id.package.to_string(), deleted.id.version.to_string());
        let at = (deleted.by == PURGE).then_some(deleted.at);
        reporter.tell(Report::Deleted { package, version, at });
    }
    tell_ran(report::Upkeep::Index, info.index.as_ref(), (before.indexed, before.index_trouble), reporter);
    tell_ran(report::Upkeep::Purge, info.purge.as_ref(), (before.purged, before.purge_trouble), reporter);
    let last = info.deleted.last();
    Upkeep {
        asked: info.clock,
        indexed: info.index.as_ref().map(|ran| ran.at),
        purged: info.purge.as_ref().map(|ran| ran.at),
        index_trouble: info.index.as_ref().and_then(|ran| ran.trouble.clone()),
        purge_trouble: info.purge.as_ref().and_then(|ran| ran.trouble.clone()),
        held: info.hold.clone(),
        free_bytes: info.free_bytes,
        free_inodes: info.free_inodes,
        told: last.map_or(before.told, |last| last.at),
        told_last: last.map(|last| last.id.clone()).or(before.told_last),
    }
    .write(path)?;
    let _ = fs::remove_file(heard);
    Ok(())
}

/// What was not told of before: deletions of the target's own purge, and those of this `master`'s sessions whose
/// outcome it did not hear. `heard` has those that it did, one a line.
fn new_deletions<'a>(info: &'a Info, before: &Upkeep, heard: &str, master: &str) -> Vec<&'a Deleted> {
    let all = &info.deleted;
    let first = match &before.told_last {
        // Where the last one is no longer told, all came after it.
        Some(id) => {
            all.iter().rposition(|it| it.at == before.told && it.id == *id).map_or(0, |last| last + 1)
        }
        None => all.iter().position(|it| it.at > before.told).unwrap_or(all.len()),
    };
    let heard: HashSet<&str> = heard.lines().collect();
    let was_told = |id: &PackageVersion| heard.contains(id.to_string().as_str());
    let is_new = |it: &&Deleted| it.by == PURGE || it.by == master && !was_told(&it.id);
    all[first..].iter().filter(is_new).collect()
}

fn tell_ran(
    what: report::Upkeep,
    ran: Option<&Ran>,
    (before, trouble): (Option<i64>, Option<String>),
    reporter: &mut Reporter,
) {
    // One that failed since has the time of the one before.
    let is_new = |ran: &&Ran| before != Some(ran.at) || ran.trouble != trouble;
    let Some(ran) = ran.filter(is_new) else { return };
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

    fn deleted(at: i64, version: &str, by: &str) -> Deleted {
        Deleted { at, id: PackageVersion::new("a", version).unwrap(), by: by.to_owned() }
    }

    fn info(deleted: Vec<Deleted>) -> Info {
        let purge = Some(Ran { at: 5, count: 2, failed: 0, trouble: None });
        Info { clock: 9, free_bytes: 1, free_inodes: 2, hold: None, index: None, purge, deleted }
    }

    /// The versions of which is told, where it was heard that these were deleted.
    fn told(path: &Path, info: &Info, gone: &[&str]) -> Vec<String> {
        let (before, heard) = (Upkeep::read(path).unwrap_or_default(), path.with_extension("heard"));
        gone.iter().for_each(|version| note_heard(&heard, &deleted(0, version, "").id));
        let lines = fs::read_to_string(&heard).unwrap_or_default();
        let new = new_deletions(info, &before, &lines, "master");
        let told = new.iter().map(|deleted| deleted.id.version.to_string()).collect();
        note(path, &heard, info, &mut Reporter::to_the_log("site1")).unwrap();
        assert!(!heard.exists());
        told
    }

    #[test]
    fn each_deletion_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upkeep");
        let mut info =
            info(vec![deleted(4, "1", "master"), deleted(5, "2", PURGE), deleted(5, "x", "other")]);
        assert_eq!(told(&path, &info, &["1"]), ["2"]);
        assert_eq!(told(&path, &info, &[]), [""; 0]);
        info.deleted.extend([deleted(5, "3", PURGE), deleted(6, "4", PURGE)]);
        assert_eq!(told(&path, &info, &[]), ["3", "4"]);
        // A session was cut: of one of its deletions it had heard.
        info.deleted.extend([deleted(7, "5", "master"), deleted(7, "6", "master")]);
        assert_eq!(told(&path, &info, &["5"]), ["6"]);
        assert_eq!(Upkeep::read(&path).unwrap().purged, Some(5));
    }

    #[test]
    fn a_clock_that_was_ahead_hides_no_deletion_and_repeats_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upkeep");
        let mut info = info(vec![deleted(9000, "1", PURGE)]);
        assert_eq!(told(&path, &info, &[]), ["1"]);
        info.deleted.push(deleted(10, "2", PURGE));
        assert_eq!(told(&path, &info, &[]), ["2"]);
        assert_eq!(told(&path, &info, &[]), [""; 0]);
        info.deleted.drain(..);
        info.deleted.push(deleted(11, "3", PURGE));
        assert_eq!(told(&path, &info, &[]), ["3"], "so many that the last is not among them");
        // As an earlier blat wrote it.
        fs::write(&path, r#"{"asked":9,"free_bytes":1,"free_inodes":2,"told":10,"told_then":1}"#).unwrap();
        assert_eq!(told(&path, &info, &[]), ["3"]);
    }

    #[test]
    fn clocks_that_differ_by_more_than_five_minutes_are_told() {
        assert_eq!(skew(1000, 1300), None);
        assert!(skew(1000, 1301).unwrap().contains("301 s behind"));
        assert!(skew(1301, 1000).unwrap().contains("301 s ahead of"));
        assert!(skew(i64::MIN, i64::MAX).is_some());
    }
}

//! Situations of a target as its files tell them, and what `status` and `explain` say of each.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blat_target::listing::{Entry, Listing, Stands};
use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;

use super::{Fleet, Level, Target};
use crate::explain::{self, Explained};
use crate::lock;
use crate::places::Places;
use crate::state::{
    self, Agent, Excess, Facts, Failed, Line, LineState, Missing, MissingItem, Progress, SyncEnd, Syncs,
    Transfers, Wanted,
};
use crate::sync::current_set::CurrentSet;
use crate::sync::known;
use crate::sync::rows::{Reason, Rows};
use crate::sync::upkeep::Upkeep;
use crate::tags::{Queue, Tag, WaitsFor};

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3_600;

/// A master's files below a folder of their own, with the target `site1`.
struct World {
    root: tempfile::TempDir,
    lock: Option<fs::File>,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let world = Self { root, lock: None };
        for folder in ["etc/blat/targets", "var/lib/blat/site1", "run/blat/site1", "tags", "source"] {
            fs::create_dir_all(world.path(folder)).unwrap();
        }
        world.settings("[packages]\ncore = \"1.0\"\n");
        world
    }

    /// One that is well: connected, synchronised an hour ago, nothing missing.
    fn well() -> Self {
        let mut world = Self::new();
        world.agent(LineState::Up, None, false);
        world.synced(SyncEnd { members: 1, ..SyncEnd::default() });
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn places(&self) -> Places {
        Places::of(self.root.path(), &"site1".parse().unwrap())
    }

    fn settings(&self, more: &str) {
        let (source, tags) = (self.path("source"), self.path("tags"));
        let text = format!("source = {source:?}\n{more}\n[ssh]\nhost = 'h'\n[tags]\ndirectory = {tags:?}\n");
        fs::write(self.path("etc/blat/targets/site1.toml"), text).unwrap();
    }

    fn agent(&mut self, state: LineState, reason: Option<&str>, person: bool) {
        let places = self.places();
        self.lock.get_or_insert_with(|| lock::take(&places.agent_lock(), "an agent").unwrap());
        let (since, reason) = (Some(NOW - 600), reason.map(str::to_owned));
        let line = Line { state, since, reason, person, next: None, connections: 1 };
        let agent = Agent {
            since: NOW - 9 * HOUR,
            line,
            transfer_trouble: None,
            sync_trouble: None,
            old_helper: None,
        };
        state::keep(&places.agent(), &agent);
    }

    fn synced(&self, end: SyncEnd) {
        let ended = Some(SyncEnd { at: NOW - HOUR, ..end });
        self.syncs(Syncs { ended, good_at: Some(NOW - HOUR), ..Syncs::default() });
    }

    fn syncs(&self, syncs: Syncs) {
        state::keep(&self.places().syncs(), &syncs);
    }

    fn publish(&self, id: &PackageVersion, stamp: u64, sealed: bool) {
        let folder = self.path("source").join(id.package.as_str()).join(id.version.as_str());
        fs::create_dir_all(&folder).unwrap();
        let descpkg = folder.join("descpkg");
        fs::write(&descpkg, "x").unwrap();
        let file = fs::File::options().write(true).open(&descpkg).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(stamp)).unwrap();
        if sealed {
            fs::set_permissions(&descpkg, PermissionsExt::from_mode(0o444)).unwrap();
            fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).unwrap();
        }
    }

    /// The target answered that it has these.
    fn listed(&self, entries: &[(&PackageVersion, u64)]) {
        let mut listing = Listing::default();
        for (id, stamp) in entries {
            let (package, version) = (id.package.as_str(), id.version.as_str());
            let stands = Stands::Version(Stamp(*stamp as i64));
            listing.push(Entry { package, version, stands }).unwrap();
        }
        known::write(&self.places().listing(), &listing).unwrap();
    }

    /// The releases asked for these.
    fn wanted(&self, ids: &[&PackageVersion], closed: &[&str]) {
        let mut rows = Rows::default();
        for id in ids {
            rows.add(id.package.as_str(), id.version.as_str(), Reason::Release(0)).unwrap();
        }
        let archive = crate::archive::Archive::open(&self.path("source")).unwrap();
        let set = CurrentSet::gather(rows, |id| archive.look(id)).unwrap();
        let closed = closed.iter().map(|name| (*name).to_owned()).collect();
        Wanted { at: NOW - HOUR, releases: vec!["Tram/1".into()], closed }
            .keep(&self.places().wanted(), &set);
    }

    fn fleet(&self) -> Fleet {
        Fleet::gather(self.root.path(), None, now()).unwrap()
    }

    fn target(&self) -> Target {
        self.fleet().targets.remove(0)
    }

    /// Panics unless the worst remark is of this level and says this.
    #[track_caller]
    fn assert_says(&self, level: Level, says: &str) {
        let target = self.target();
        let first = target.remarks.first().unwrap_or_else(|| panic!("nothing is minded: {target:?}"));
        assert_eq!((first.level, target.level), (level, level), "{:?}", target.remarks);
        assert!(first.text.contains(says), "{:?}", target.remarks);
        let (table, whole) = (self.fleet().text(false), self.fleet().text(true));
        assert!(whole.contains(says), "{whole}");
        assert_eq!(table.contains(says), level > Level::Ok, "{table}");
    }

    fn explain(&self, id: &PackageVersion) -> Explained {
        let asked =
            explain::Asked { package: id.package.as_str(), version: Some(id.version.as_str()), target: None };
        explain::explain(self.root.path(), &asked).unwrap().all.remove(0)
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn core(version: &str) -> PackageVersion {
    PackageVersion::new("core", version).unwrap()
}

fn failed(reason: &str, person: bool) -> Option<Failed> {
    Some(Failed { at: NOW - 60, since: NOW - 300, reason: reason.into(), person })
}

#[test]
fn a_target_that_is_well_needs_nothing() {
    let world = World::well();
    let target = world.target();
    assert_eq!((target.level, target.lag, target.missing), (Level::Ok, None, 0), "{:?}", target.remarks);
    assert_eq!(target.next_sync, Some(NOW - HOUR + 4 * HOUR));
    let text = world.fleet().text(false);
    assert!(text.lines().nth(1).unwrap().starts_with("site1   ok        up"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&super::text::json(&world.fleet())).unwrap();
    assert_eq!(json["targets"][0]["agent"]["line"]["state"], "up");
}

#[test]
fn no_target_yet() {
    let world = World::new();
    fs::remove_file(world.path("etc/blat/targets/site1.toml")).unwrap();
    assert!(world.fleet().targets.is_empty());
    assert!(world.fleet().text(false).contains("There is no target yet"));
    assert!(Fleet::gather(world.root.path(), Some(&"site1".parse().unwrap()), now()).is_none());
}

#[test]
fn a_target_that_is_down_is_a_warning_and_one_that_refuses_the_key_is_critical() {
    let mut world = World::well();
    world.agent(LineState::Down, Some("No route to host"), false);
    world.assert_says(Level::Warning, "not connected for 10m: No route to host");
    world.agent(LineState::Down, Some("the key is refused"), true);
    world.assert_says(Level::Critical, "the key is refused");
}

#[test]
fn without_an_agent_the_rest_is_still_told() {
    let mut world = World::well();
    world.lock = None;
    world.assert_says(Level::Critical, "the agent does not run: systemctl start blat@site1");
    assert_eq!(world.target().sync.ended.unwrap().members, 1);
}

#[test]
fn a_target_that_a_person_disabled_is_no_matter() {
    let world = World::new();
    world.settings("enabled = false");
    assert_eq!(world.target().level, Level::Ok);
    assert!(world.fleet().text(false).contains("disabled"));
}

#[test]
fn a_broken_configuration_is_told_with_its_place() {
    let world = World::well();
    world.settings("nonsense = 1");
    world.assert_says(Level::Critical, "/etc/blat/targets/site1.toml:2:1: key `nonsense`");
}

#[test]
fn a_database_that_is_down_is_a_warning_and_a_refused_login_is_critical() {
    let world = World::well();
    let syncs = |failed| Syncs { good_at: Some(NOW - 2 * HOUR), failed, ..Syncs::default() };
    world.syncs(syncs(failed("the database cannot be reached", false)));
    world.assert_says(Level::Warning, "synchronisation has failed for 5m: the database cannot be reached");
    world.syncs(syncs(failed("the database refused the login", true)));
    world.assert_says(Level::Critical, "the database refused the login");
    let why = world.explain(&core("1.0")).troubles;
    assert!(why.iter().any(|why| why.contains("the database refused the login")), "{why:?}");
}

#[test]
fn a_shrunken_set_keeps_what_is_in_excess_and_needs_a_person() {
    let world = World::well();
    let guarded = Some("the target should have 3 package-versions, 9 before".to_owned());
    world.synced(SyncEnd { excess: 6, guarded, ..SyncEnd::default() });
    let says = "nothing in excess was marked or deleted: the target should have 3 package-versions, 9 before";
    world.assert_says(Level::Critical, says);
}

#[test]
fn a_list_that_was_not_laid_down_needs_a_person_though_nothing_is_ever_deleted() {
    let world = World::well();
    let withheld = Some("the target should have 3 package-versions, 9 before".to_owned());
    world.synced(SyncEnd { excess: 6, withheld, ..SyncEnd::default() });
    let says = "the PackageList on the target stays as it was: the target should have 3 package-versions";
    world.assert_says(Level::Critical, says);
}

#[test]
fn a_mark_is_told_with_what_becomes_of_it() {
    let world = World::well();
    world.publish(&core("1.0"), 5, true);
    world.listed(&[(&core("1.0"), 5)]);
    world.wanted(&[], &[]);
    world.synced(SyncEnd { excess: 1, marked: 1, ..SyncEnd::default() });
    let reason = "marked, deleted from 2027-02-01T00:00:00Z on".to_owned();
    let excess = Excess { id: core("1.0"), marked: true, reason: reason.clone() };
    state::keep(&world.places().excess(), &[excess]);
    let explained = world.explain(&core("1.0"));
    assert_eq!(explained.summary, "it is there, though nothing asks for it (in excess)");
    let text = explain::text(&[explained]);
    assert!(text.contains(&format!("it has a mark: {reason}")), "{text}");
    assert!(world.fleet().text(true).contains("1 in excess (1 marked, 0 deleted)"));
}

#[test]
fn a_hold_is_told_whoever_holds_and_is_no_fault() {
    let world = World::well();
    fs::write(world.places().hold(), "an audit\n").unwrap();
    world.assert_says(Level::Ok, "a person holds all deletion back: an audit; `blat release-hold site1`");
    fs::remove_file(world.places().hold()).unwrap();
    let held = Some("by another master".to_owned());
    let upkeep = Upkeep { held, purged: Some(1_790_000_000), ..Upkeep::default() };
    state::keep(&world.places().upkeep(), &upkeep);
    world.assert_says(Level::Ok, "a person holds all deletion back: by another master");
    let text = world.fleet().text(true);
    assert!(text.contains("index never, or not known; purge 2026-09-21"), "{text}");
}

#[test]
fn an_index_that_failed_or_is_made_no_more_is_told() {
    let world = World::well();
    let (asked, day) = (1_790_000_000, 86_400);
    let told = |upkeep: Upkeep| {
        state::keep(&world.places().upkeep(), &Upkeep { asked, ..upkeep });
        let target = world.target();
        (target.level, target.remarks.iter().map(|remark| remark.text.clone()).collect::<String>())
    };
    let lately = Upkeep { indexed: Some(asked - day), purged: Some(asked - 30 * day), ..Upkeep::default() };
    assert_eq!(told(lately.clone()), (Level::Ok, String::new()));
    let (level, text) = told(Upkeep { index_trouble: Some("disk full".into()), ..lately.clone() });
    assert_eq!((level, &*text), (Level::Warning, "the last index on the target did not do all: disk full"));
    let (level, text) = told(Upkeep { indexed: Some(asked - 16 * day), ..lately.clone() });
    assert!(level == Level::Warning && text.starts_with("no index was made on the target for 16d"), "{text}");
    world.settings("[target]\npurge_at = \"quarterly\"\n[packages]\ncore = \"1.0\"\n");
    let (level, _) = told(Upkeep { purged: Some(asked - 80 * day), ..lately });
    assert_eq!(level, Level::Ok);
}

#[test]
fn a_bucket_has_no_connection_that_could_be_down() {
    let mut world = World::well();
    let (source, tags) = (world.path("source"), world.path("tags"));
    let text = format!(
        "kind = 's3'\nsource = {source:?}\n[s3]\nbucket = 'packages'\n[tags]\ndirectory = {tags:?}\n\
         [packages]\ncore = '1.0'\n"
    );
    fs::write(world.path("etc/blat/targets/site1.toml"), text).unwrap();
    world.agent(LineState::NotKept, None, false);
    let target = world.target();
    assert_eq!((target.level, target.connection()), (Level::Ok, "bucket"), "{:?}", target.remarks);
    assert!(target.host.contains("bucket packages at AWS"), "{}", target.host);
}

#[test]
fn more_connections_than_one_are_told() {
    let mut world = World::well();
    world.agent(LineState::Up, None, false);
    let told = |world: &World| world.fleet().text(true).lines().nth(1).unwrap().trim().to_owned();
    assert_eq!(told(&world), "connection  up for 10m");
    let mut agent: Agent = state::read(&world.places().agent()).unwrap();
    agent.line.connections = 4;
    state::keep(&world.places().agent(), &agent);
    assert_eq!(told(&world), "connection  up for 10m, 4 connections");
}

#[test]
fn an_old_helper_is_a_warning_that_says_why_it_stays() {
    let mut world = World::well();
    world.agent(LineState::Up, None, false);
    let mut agent: Agent = state::read(&world.places().agent()).unwrap();
    agent.old_helper = Some("0.0.9, which belongs to root".into());
    state::keep(&world.places().agent(), &agent);
    world.assert_says(Level::Warning, "the helper on the target is old: 0.0.9, which belongs to root");
}

#[test]
fn too_long_without_a_good_synchronisation_is_critical() {
    let world = World::well();
    world.syncs(Syncs { good_at: Some(NOW - 10 * HOUR), ..Syncs::default() });
    world.assert_says(Level::Critical, "no good synchronisation for 10h");
}

#[test]
fn a_target_whose_first_synchronisations_all_fail_becomes_critical() {
    let world = World::well();
    let since = |since| {
        let failed = Some(Failed { since, ..failed("the database cannot be reached", false).unwrap() });
        world.syncs(Syncs { good_at: None, failed, ..Syncs::default() });
    };
    since(NOW - HOUR);
    world.assert_says(Level::Warning, "synchronisation has failed for 1h");
    since(NOW - 10 * HOUR);
    world.assert_says(Level::Critical, "no good synchronisation for 10h");
}

#[test]
fn a_target_that_no_synchronisation_ever_ended_well_on_becomes_critical() {
    let world = World::well();
    world.syncs(Syncs::default());
    assert_eq!(world.target().level, Level::Ok, "the agent has not run for long");
    let mut agent: Agent = state::read(&world.places().agent()).unwrap();
    agent.since = NOW - 10 * HOUR;
    state::keep(&world.places().agent(), &agent);
    world.assert_says(Level::Critical, "no good synchronisation for 10h");
    let ended = Some(SyncEnd { at: NOW - HOUR, failed: 1, ..SyncEnd::default() });
    world.syncs(Syncs { ended, ..Syncs::default() });
    world.assert_says(Level::Critical, "no good synchronisation for 10h");
    // By a clock that was set back.
    world.syncs(Syncs { good_at: Some(NOW + HOUR), ..Syncs::default() });
    world.assert_says(Level::Critical, "no good synchronisation for 10h");
    let file = fs::File::open(world.path("etc/blat/targets/site1.toml")).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(NOW - HOUR)).unwrap();
    assert_eq!(world.target().level, Level::Ok, "it was told only now what the target should have");
}

#[test]
fn a_waiting_tag_is_shown_with_its_reason_and_counts_as_lag() {
    let world = World::well();
    world.publish(&core("2.0"), 5, false);
    Tag(core("2.0")).drop_into(&world.path("tags")).unwrap();
    assert_eq!(world.target().tags.fresh, 1);
    let places = world.places();
    let mut queue = Queue::open(&world.path("tags"), &places.state).unwrap();
    let claim = queue.claim(|_, _| {}).unwrap().0.remove(0);
    let reason = "core/2.0 is still writable in the source archive";
    queue.wait(&claim, reason.into(), WaitsFor::Sealing, SystemTime::now());
    queue.save().unwrap();
    let target = world.target();
    assert_eq!((target.tags.fresh, target.tags.queued), (0, 1));
    assert_eq!(target.tags.shown[0].reason.as_deref(), Some(reason));
    assert!(target.lag.is_some());
    let explained = world.explain(&core("2.0"));
    assert_eq!(explained.summary, "it is not there, and a tag asks for it");
    let text = explain::text(&[explained]);
    assert!(text.contains(reason) && text.contains("still writable"), "{text}");
}

#[test]
fn a_tag_that_nobody_takes_up_is_late_after_an_hour() {
    let mut world = World::well();
    // The tag's time is the clock's.
    let clock = state::seconds(SystemTime::now());
    world.syncs(Syncs { good_at: Some(clock), ..Syncs::default() });
    world.agent(LineState::Up, None, false);
    Tag(core("2.0")).drop_into(&world.path("tags")).unwrap();
    let at = |now| Fleet::gather(world.root.path(), None, now).unwrap().targets.remove(0);
    let soon = at(SystemTime::now());
    assert_eq!((soon.tags.fresh, soon.level), (1, Level::Ok), "{:?}", soon.remarks);
    let late = at(SystemTime::now() + Duration::from_secs(2 * HOUR));
    assert!(late.lag.is_some_and(|lag| lag >= 2 * HOUR), "{late:?}");
    let says = "a tag was not taken up for 2h: systemctl status 'blat-tags@site1.*' blat-transfer@site1";
    assert!(late.remarks.iter().any(|remark| remark.text == says), "{:?}", late.remarks);
}

#[test]
fn a_target_that_is_disabled_is_not_late() {
    let world = World::well();
    Tag(core("2.0")).drop_into(&world.path("tags")).unwrap();
    Queue::open(&world.path("tags"), &world.places().state).unwrap().claim(|_, _| {}).unwrap();
    Tag(core("3.0")).drop_into(&world.path("tags")).unwrap();
    let item = MissingItem { id: core("1.0"), since: NOW - 3 * HOUR, reason: "gone".into() };
    world.synced(SyncEnd { missing: 1, oldest: vec![item], ..SyncEnd::default() });
    assert!(world.target().lag.is_some());
    world.settings("enabled = false\n[packages]\ncore = '1.0'\n");
    let target = world.target();
    assert_eq!((target.lag, target.missing, target.tags.fresh, target.tags.queued), (None, 1, 1, 1));
    let text = world.fleet().text(true);
    assert!(text.contains("none: the target is disabled"), "{text}");
}

#[test]
fn what_old_synchronisations_left_is_no_matter_where_nothing_is_named_any_more() {
    let world = World::well();
    let item = MissingItem { id: core("1.0"), since: NOW - 3 * HOUR, reason: "gone".into() };
    state::keep(&world.places().missing(), &Missing { at: NOW - HOUR, count: 1, items: vec![item] });
    let guarded = Some("the target should have 3 package-versions, 9 before".to_owned());
    let end = SyncEnd { at: NOW - HOUR, failed: 1, undeleted: 1, problems: 1, guarded, ..SyncEnd::default() };
    let failed = failed("the database refused the login", true);
    world.syncs(Syncs { ended: Some(end), failed, ..Syncs::default() });
    let index_trouble = Some("disk full".to_owned());
    state::keep(&world.places().upkeep(), &Upkeep { index_trouble, ..Upkeep::default() });
    assert_eq!(world.target().remarks.len(), 7);
    world.settings("");
    let target = world.target();
    assert_eq!((target.remarks, target.lag, target.missing, target.level), (vec![], None, 0, Level::Ok));
    let text = world.fleet().text(true);
    assert!(text.contains("none: no release, project or package is named"), "{text}");
    // Where it cannot be told what is named, nothing is kept back.
    world.settings("nonsense = 1");
    assert_eq!(world.target().remarks.len(), 8);
}

#[test]
fn a_rejected_tag_is_told_of() {
    let world = World::well();
    let places = world.places();
    Tag(core("9")).drop_into(&world.path("tags")).unwrap();
    let mut queue = Queue::open(&world.path("tags"), &places.state).unwrap();
    let claim = queue.claim(|_, _| {}).unwrap().0.remove(0);
    queue.reject(&claim, "core/9: the source archive does not have it; given up after 5 s").unwrap();
    let fleet = Fleet::gather(world.root.path(), None, SystemTime::now()).unwrap();
    let texts: Vec<_> = fleet.targets[0].remarks.iter().map(|remark| remark.text.clone()).collect();
    assert!(texts.contains(&"a tag was rejected within a day".to_owned()), "{texts:?}");
    let text = explain::text(&[world.explain(&core("9"))]);
    assert!(text.contains("given up after 5 s"), "{text}");
}

#[test]
fn what_is_missing_counts_from_when_it_was_first_seen_missing_until_a_tag_brings_it() {
    let world = World::well();
    let item = MissingItem { id: core("1.0"), since: NOW - 3 * HOUR, reason: "it is a link".into() };
    let end = SyncEnd { missing: 1, oldest: vec![item.clone()], ..SyncEnd::default() };
    world.synced(end);
    world.assert_says(Level::Warning, "the oldest package that should be there is 3h late");
    assert_eq!(world.target().missing, 1);
    let mut transfers = Transfers::default();
    transfers.note_sent(core("1.0"), NOW - 5);
    state::keep(&world.places().transfers(), &transfers);
    let target = world.target();
    assert_eq!((target.level, target.lag, target.missing), (Level::Ok, None, 0));
}

#[test]
fn what_a_tag_brings_while_a_synchronisation_runs_is_not_missing() {
    let world = World::well();
    let id = core("1.0");
    world.publish(&id, NOW - 10 * HOUR, true);
    world.listed(&[]);
    world.wanted(&[&id], &[]);
    let item = MissingItem { id: id.clone(), since: NOW - 3 * HOUR, reason: "it waits".into() };
    // It ran from three hours ago to one hour ago.
    let millis = 2 * HOUR * 1000;
    world.synced(SyncEnd { millis, missing: 1, oldest: vec![item], ..SyncEnd::default() });
    let mut transfers = Transfers::default();
    transfers.note_sent(id.clone(), NOW - 2 * HOUR);
    state::keep(&world.places().transfers(), &transfers);
    let target = world.target();
    assert_eq!((target.lag, target.missing), (None, 0));
    // The releases were asked again after that, but the target was not.
    assert_eq!(world.explain(&id).summary, "it is there, as it should be");
}

#[test]
fn what_a_run_that_goes_on_or_broke_off_found_missing_is_told_at_once() {
    let world = World::well();
    assert_eq!(world.target().missing, 0);
    let item =
        |version: &str| MissingItem { id: core(version), since: NOW - 2 * HOUR, reason: "gone".into() };
    let missing = Missing { at: NOW - HOUR, count: 3, items: vec![item("1.0"), item("2.0"), item("3.0")] };
    state::keep(&world.places().missing(), &missing);
    world.assert_says(Level::Warning, "the oldest package that should be there is 2h late");
    assert_eq!(world.target().missing, 3);
    let _runs = lock::take(&world.places().sync_lock(), "a synchronisation").unwrap();
    state::keep(&world.places().progress(), &Progress { since: NOW - HOUR, done: 2, total: 3, bytes: 2 });
    let target = world.target();
    assert_eq!((target.missing, target.lag), (1, Some(2 * HOUR)));
}

#[test]
fn a_closed_release_is_told_and_explains_why_nothing_asks() {
    let world = World::well();
    world.publish(&core("1.0"), 5, true);
    world.listed(&[(&core("1.0"), 5)]);
    world.wanted(&[], &["Bus/1"]);
    world.synced(SyncEnd { excess: 1, closed: vec!["Bus/1".into()], ..SyncEnd::default() });
    world.assert_says(Level::Ok, "the release Bus/1 is closed");
    let explained = world.explain(&core("1.0"));
    assert_eq!(explained.summary, "it is there, though nothing asks for it (in excess)");
    assert!(explain::text(&[explained]).contains("no open release"), "closed: Bus/1");
}

#[test]
fn explain_tells_there_missing_and_another_build_apart() {
    let world = World::well();
    let ids = ["1.0", "2.0", "3.0"].map(core);
    ids.iter().for_each(|id| world.publish(id, 5, true));
    world.listed(&[(&ids[0], 5), (&ids[1], 4)]);
    world.wanted(&ids.iter().collect::<Vec<_>>(), &[]);
    world.synced(SyncEnd::default());
    let summaries: Vec<_> = ids.iter().map(|id| world.explain(id).summary).collect();
    let expected = ["it is there, as it should be", "another build of it is there", "it is missing"];
    assert_eq!(summaries, expected);
    let text = explain::text(&[world.explain(&ids[1])]);
    assert!(
        text.contains("the release Tram/1") && text.contains("stamp 5") && text.contains("stamp 4"),
        "{text}"
    );
    let asked = explain::Asked { package: "core", version: None, target: None };
    assert_eq!(explain::explain(world.root.path(), &asked).unwrap().all.len(), 3);
    // A tag has brought it since the target was asked.
    let mut transfers = Transfers::default();
    transfers.note_sent(ids[2].clone(), NOW - 5);
    state::keep(&world.places().transfers(), &transfers);
    assert_eq!(world.explain(&ids[2]).summary, "it is there, as it should be");
}

#[test]
fn what_cannot_be_read_here_is_no_other_build() {
    let world = World::well();
    world.listed(&[(&core("1.0"), 5)]);
    world.wanted(&[&core("1.0")], &[]);
    fs::remove_dir_all(world.path("source")).unwrap();
    let explained = world.explain(&core("1.0"));
    assert_eq!(explained.summary, "it is there, and cannot be compared with what the source archive has");
    let text = explain::text(&[explained]);
    assert!(text.contains("the source archive cannot be read"), "{text}");
}

#[test]
fn of_a_disabled_target_it_is_explained_that_it_is_disabled() {
    let world = World::new();
    world.settings("enabled = false");
    let troubles = world.explain(&core("1.0")).troubles;
    assert_eq!(troubles, ["the target is disabled (`enabled = false`): nothing is sent to it"]);
}

#[test]
fn what_a_tag_brought_is_not_in_excess_before_anything_was_asked() {
    let world = World::new();
    world.settings("");
    world.publish(&core("1.0"), 5, true);
    let mut transfers = Transfers::default();
    transfers.note_sent(core("1.0"), NOW - 5);
    state::keep(&world.places().transfers(), &transfers);
    assert_eq!(world.explain(&core("1.0")).summary, "it is there, and no synchronisation has asked yet");
}

#[test]
fn a_package_that_was_built_again_after_it_was_sent_is_another_build_there() {
    let world = World::well();
    let id = core("1.0");
    world.publish(&id, NOW - 5, true);
    world.listed(&[(&id, NOW - 2 * HOUR)]);
    world.wanted(&[&id], &[]);
    let mut transfers = Transfers::default();
    transfers.note_sent(id.clone(), NOW - 60);
    state::keep(&world.places().transfers(), &transfers);
    assert_eq!(world.explain(&id).summary, "another build of it is there");
}

#[test]
fn of_many_versions_those_that_matter_are_explained_and_the_rest_is_counted() {
    let world = World::well();
    (100..310).for_each(|number| fs::create_dir_all(world.path(&format!("source/core/{number}"))).unwrap());
    world.wanted(&[&core("309")], &[]);
    Tag(core("fresh")).drop_into(&world.path("tags")).unwrap();
    let rejected = world.places().state.join("rejected");
    fs::create_dir_all(&rejected).unwrap();
    fs::write(rejected.join("core::rejected"), "2026-11-30T00:00:00Z\nno\n").unwrap();
    let asked = explain::Asked { package: "core", version: None, target: None };
    let explained = explain::explain(world.root.path(), &asked).unwrap();
    let versions: Vec<_> = explained.all.iter().map(|of| of.id.version.as_str()).collect();
    assert_eq!((versions.len(), &versions[..4]), (200, &["309", "fresh", "rejected", "100"][..]));
    assert_eq!(explained.left_out, 12);
}

#[test]
fn explain_says_nothing_of_what_cannot_be_read() {
    let world = World::well();
    // Neither root nor anybody else can read it.
    fs::remove_dir_all(world.places().state).unwrap();
    fs::write(world.places().state, "").unwrap();
    let asked = explain::Asked { package: "core", version: None, target: None };
    let why = explain::explain(world.root.path(), &asked).unwrap_err();
    assert!(why.to_string().contains("ask as root or as a member of the group blat"), "{why}");
}

fn facts(free_bytes: u64, clock_ahead: i64) -> Facts {
    Facts {
        at: NOW - 60,
        helper: "blat-target 0.1.0".into(),
        build: "00".into(),
        protocol: blat_target::message::PROTOCOL,
        free_bytes,
        free_inodes: 0,
        clock_ahead,
        away: None,
    }
}

#[test]
fn the_machine_of_the_target_is_minded() {
    let world = World::well();
    state::keep(&world.places().facts(), &facts(1 << 20, 0));
    world.assert_says(Level::Warning, "only 1.0 MiB are left on the target");
    state::keep(&world.places().facts(), &facts(1 << 40, -90));
    world.assert_says(Level::Warning, "the target's clock is 1m 30s behind");
}

#[test]
fn names_and_reasons_cannot_move_the_cursor() {
    let world = World::well();
    world.syncs(Syncs { failed: failed("\u{1b}[2Jgone", false), ..Syncs::default() });
    let facts =
        Facts { helper: "\u{1b}[2Jblat-target".into(), build: "\u{9b}2J".into(), ..facts(1 << 40, 0) };
    state::keep(&world.places().facts(), &facts);
    assert!(!world.fleet().text(true).contains(['\u{1b}', '\u{9b}']));
}

fn two_hundred(root: &Path) {
    for number in 0..200 {
        let world = Places::of(root, &format!("t{number}").parse().unwrap());
        fs::create_dir_all(&world.state).unwrap();
        let text = format!("source = '/srv'\n[packages]\ncore = '1'\n[ssh]\nhost = 'h{number}'\n");
        let folders = [root.join("etc/blat/targets"), root.join("etc/blat/.accepted/targets")];
        for folder in folders {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("t{number}.toml")), &text).unwrap();
        }
        let item = |n: u64| MissingItem { id: core(&n.to_string()), since: NOW - n, reason: "gone".into() };
        let end = SyncEnd { at: NOW, oldest: (0..20).map(item).collect(), ..SyncEnd::default() };
        state::keep(&world.syncs(), &Syncs { ended: Some(end), ..Syncs::default() });
    }
}

/// What it costs is measured in the release build; here it is only that all are told.
#[test]
fn two_hundred_targets_are_told() {
    let root = tempfile::tempdir().unwrap();
    two_hundred(root.path());
    let fleet = Fleet::gather(root.path(), None, now()).unwrap();
    assert_eq!(fleet.targets.len(), 200);
    assert_eq!(fleet.level, Level::Critical, "no agent runs");
}

//! Masters in all states, as their files tell them.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blat::archive::Archive;
use blat::lock;
use blat::places::Places;
use blat::state::{
    self, Agent, Excess, Facts, Failed, Line, LineState, MissingItem, Point, Progress, SyncEnd, Syncs,
    Totals, Transfers, Wanted,
};
use blat::sync::current_set::CurrentSet;
use blat::sync::rows::{Reason, Rows};
use blat::tags::{Queue, Tag, WaitsFor};
use blat_target::package::PackageVersion;

/// A name as nobody would wish it.
const MARKUP: &str = "<script>alert(1)<b>&\"'";

/// The files of a master. Agents and runs live as long as the value, by the locks that it holds.
pub(crate) struct World {
    root: tempfile::TempDir,
    locks: Vec<File>,
    now: u64,
}

impl World {
    /// No target yet.
    pub(crate) fn empty() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["etc/blat/targets", "var/lib/blat", "run/blat", "source"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self { root, locks: Vec::new(), now }
    }

    /// Targets in all states, and one whose packages have names with markup.
    pub(crate) fn mixed() -> Self {
        let mut world = Self::empty();
        world.publish("core", "1.0");
        world.publish("core", "2.0");
        world.up();
        world.add("down");
        world.agent("down", LineState::Down, Some("No route to host"), false);
        world.synced("down", SyncEnd::default(), None);
        world.add("nodb");
        world.agent("nodb", LineState::Up, None, false);
        world.no_database();
        world.add("key");
        world.agent("key", LineState::Down, Some("the key is refused"), true);
        world.add("gone");
        world.shrunk();
        world.markup();
        world
    }

    pub(crate) fn many() -> Self {
        let mut world = Self::empty();
        for number in 0..200 {
            let name = format!("site{number:03}");
            world.add(&name);
            world.agent(&name, LineState::Up, None, false);
            world.synced(&name, SyncEnd { members: number, ..SyncEnd::default() }, None);
        }
        world
    }

    /// A broken file beside a good target.
    pub(crate) fn broken() -> Self {
        let mut world = Self::empty();
        world.add("good");
        world.agent("good", LineState::Up, None, false);
        fs::write(world.root().join("etc/blat/targets/bad.toml"), "nonsense = 1\n").unwrap();
        world
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    fn places(&self, name: &str) -> Places {
        Places::of(self.root(), &name.parse().unwrap())
    }

    fn tags(&self, name: &str) -> PathBuf {
        self.root().join("tags").join(name)
    }

    fn add(&self, name: &str) {
        let places = self.places(name);
        for folder in [&places.state, &places.runtime, &self.tags(name)] {
            fs::create_dir_all(folder).unwrap();
        }
        let (source, tags) = (self.root().join("source"), self.tags(name));
        let text = format!(
            "source = {source:?}\n[ssh]\nhost = '{name}.example.org'\n[tags]\ndirectory = {tags:?}\n\
             [packages]\ncore = '1.0'\n"
        );
        fs::write(self.root().join(format!("etc/blat/targets/{name}.toml")), text).unwrap();
    }

    fn agent(&mut self, name: &str, state: LineState, reason: Option<&str>, person: bool) {
        let places = self.places(name);
        self.locks.push(lock::take(&places.agent_lock(), "an agent").unwrap());
        let since = Some(self.now - 600);
        let reason = reason.map(str::to_owned);
        let line = Line { state, since, reason, person, next: None, connections: 1 };
        let agent = Agent {
            since: self.now - 90_000,
            line,
            transfer_trouble: None,
            sync_trouble: None,
            old_helper: None,
        };
        state::keep(&places.agent(), &agent);
    }

    fn synced(&self, name: &str, end: SyncEnd, failed: Option<Failed>) {
        let at = self.now - 3600;
        let totals = Totals { runs: 10, failures: 1, packages: 40, bytes: 123_456_789 };
        let syncs = Syncs { ended: Some(SyncEnd { at, ..end }), good_at: Some(at), failed, totals };
        state::keep(&self.places(name).syncs(), &syncs);
    }

    fn no_database(&self) {
        let reason = "the database cannot be reached: connection refused (SQLSTATE 08001)".into();
        let failed = Failed { at: self.now - 60, since: self.now - 3000, reason, person: false };
        let syncs = Syncs { good_at: Some(self.now - 7200), failed: Some(failed), ..Syncs::default() };
        state::keep(&self.places("nodb").syncs(), &syncs);
    }

    /// One whose set shrank too much, with a mark and a hold.
    fn shrunk(&mut self) {
        self.add("shrunk");
        self.agent("shrunk", LineState::Up, None, false);
        let guarded = Some("the target should have 3 package-versions, 9 before".into());
        self.synced("shrunk", SyncEnd { members: 3, excess: 6, guarded, ..SyncEnd::default() }, None);
        let places = self.places("shrunk");
        let reason = "marked, deleted from 2027-02-01T00:00:00Z on".into();
        let id = PackageVersion::new("core", "2.0").unwrap();
        state::keep(&places.excess(), &[Excess { id, marked: true, reason }]);
        fs::write(places.hold(), "an audit\n").unwrap();
    }

    fn publish(&self, package: &str, version: &str) {
        let folder = self.root().join("source").join(package).join(version);
        fs::create_dir_all(&folder).unwrap();
        let descpkg = folder.join("descpkg");
        fs::write(&descpkg, "x").unwrap();
        let file = File::options().write(true).open(&descpkg).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(5)).unwrap();
        fs::set_permissions(&descpkg, PermissionsExt::from_mode(0o444)).unwrap();
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).unwrap();
    }

    /// One that is well, has sent for a week and sends now.
    fn up(&mut self) {
        self.add("up");
        self.agent("up", LineState::Up, None, false);
        let places = self.places("up");
        let releases = vec!["Tram/1.0".to_owned()];
        let end = SyncEnd {
            members: 432,
            packages: 7,
            bytes: 9_000_000,
            millis: 1500,
            releases,
            ..SyncEnd::default()
        };
        self.synced("up", end, None);
        for hours in (1..160).rev().step_by(4) {
            let (at, lag) = (self.now - hours * 3600, Some(hours * 100 % 1900));
            let lag = if hours < 5 { Some(300) } else { lag };
            let point = Point { at, lag, packages: 3, bytes: hours * 70_000, millis: 1200, failed: false };
            state::append(&places.sync_series(), &point);
        }
        self.locks.push(lock::take(&places.sync_lock(), "a synchronisation").unwrap());
        state::keep(
            &places.progress(),
            &Progress { since: self.now - 5, done: 3, total: 10, bytes: 1 << 20 },
        );
        let facts = Facts {
            at: self.now - 60,
            helper: "blat-target 0.1.0".into(),
            build: "0123456789abcdef".into(),
            protocol: blat_target::message::PROTOCOL,
            free_bytes: 1 << 38,
            free_inodes: 1_000_000,
            clock_ahead: -1,
            away: None,
        };
        state::keep(&places.facts(), &facts);
        let mut transfers = Transfers::default();
        transfers.note_sent(PackageVersion::new("core", "1.0").unwrap(), self.now - 30);
        state::keep(&places.transfers(), &transfers);
        self.wanted("up", &[("core", "1.0"), ("core", "2.0")]);
    }

    fn wanted(&self, name: &str, ids: &[(&str, &str)]) {
        let mut rows = Rows::default();
        for (package, version) in ids {
            rows.add(package, version, Reason::Release(0)).unwrap();
        }
        let archive = Archive::open(&self.root().join("source")).unwrap();
        let set = CurrentSet::gather(rows, |id| archive.look(id)).unwrap();
        let releases = vec!["Tram/1.0".to_owned()];
        Wanted { at: self.now - 3600, releases, closed: Vec::new() }.keep(&self.places(name).wanted(), &set);
    }

    /// Packages, versions, tags, reasons and releases with markup in them.
    fn markup(&mut self) {
        self.add("markup");
        self.agent("markup", LineState::Down, Some(MARKUP), false);
        let id = PackageVersion::new(MARKUP, MARKUP).unwrap();
        let missing = MissingItem { id: id.clone(), since: self.now - 7300, reason: MARKUP.into() };
        let end = SyncEnd {
            missing: 1,
            oldest: vec![missing],
            releases: vec![MARKUP.into()],
            closed: vec![MARKUP.into()],
            ..SyncEnd::default()
        };
        let failed = Failed { at: self.now, since: self.now, reason: MARKUP.into(), person: true };
        self.synced("markup", end, Some(failed));
        let (tags, state) = (self.tags("markup"), self.places("markup").state);
        Tag(id.clone()).drop_into(&tags).unwrap();
        fs::write(tags.join(MARKUP), "").unwrap();
        let mut queue = Queue::open(&tags, &state).unwrap();
        for claim in queue.claim(|_, _| {}).unwrap().0 {
            if claim.tag.is_err() {
                queue.reject(&claim, MARKUP).unwrap();
            } else {
                let reason = format!("{MARKUP} is still writable");
                queue.wait(&claim, reason, WaitsFor::Sealing, SystemTime::now());
            }
        }
        queue.save().unwrap();
        self.wanted("markup", &[(MARKUP, MARKUP)]);
    }
}

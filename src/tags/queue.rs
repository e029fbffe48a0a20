//! The queue of a target: tags that were claimed and are not done.
//!
//! A claim is a rename into the hidden folder `.claimed` of the tag directory: one step,
//! in one mount, so that a kill at any point leaves the tag in the one place or in the
//! other. Each claim has a name of its own (when, which, and the tag), so the same tag
//! dropped again while its transfer runs is a claim beside the first. A claim is removed
//! after its work was acknowledged or its rejection was written down: a kill between
//! repeats the work, which then finds nothing to do.
//!
//! Why a claim waits, and when it is looked at again, lies in `waiting.json` of the
//! target's state directory. It is advice: without it, everything is due at once.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};

use super::{Tag, TagError};
use crate::places::{adopt, replace};

pub(super) const CLAIMED: &str = ".claimed";
/// Digits before the tag in a claim's name: nanoseconds since 1970, in hexadecimal.
const PREFIX: usize = 16;
/// How many records of rejected tags are kept.
const REJECTED_MAX: usize = 1000;

/// The tags of one target that were claimed and are not done.
#[derive(Debug)]
pub struct Queue {
    directory: PathBuf,
    state: PathBuf,
    waiting: BTreeMap<String, Waiting>,
    changed: bool,
    last: u64,
}

/// A claimed tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    file: OsString,
    /// When it was claimed.
    pub since: SystemTime,
    /// When the file was last written, as far as it can be told.
    pub dropped: Option<SystemTime>,
    /// The file's name as it was dropped, and what it asks for.
    pub name: OsString,
    pub tag: Result<Tag, TagError>,
}

/// What a claim waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitsFor {
    /// The package-version cannot be read yet: it is still writable, for one.
    #[default]
    Sealing,
    /// The source archive does not have it.
    Publishing,
    /// The source archive cannot be looked at: it is not mounted, for one, and so has nothing at all.
    Archive,
    /// What hinders it passes: a full disk on the target, for one.
    Time,
    /// The target refuses it until a person mends something there.
    Person,
}

impl WaitsFor {
    /// Whether it may never come, so that the claim is given up.
    pub fn has_limit(self) -> bool {
        matches!(self, Self::Publishing | Self::Person)
    }

    /// Whether it is a hindrance on the way to what a claim waits for, and tells nothing of that.
    fn passes(self) -> bool {
        matches!(self, Self::Archive | Self::Time)
    }

    /// The longest time between two looks. Those at the source archive alone are cheap.
    fn longest(self) -> Duration {
        match self {
            Self::Sealing | Self::Publishing | Self::Archive => Duration::from_secs(30),
            Self::Time | Self::Person => MAX_DELAY,
        }
    }
}

/// Why a claim is not done, and when it is looked at again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub reason: String,
    /// What was added later is not in the records of older versions.
    #[serde(default)]
    pub waits_for: WaitsFor,
    /// For how many seconds it has waited for that.
    #[serde(default)]
    pub waited: u64,
    /// Whether something else hinders it at the moment, which passes: that time does not count.
    #[serde(default)]
    pub hindered: bool,
    /// When it was last looked at, in seconds since 1970 (UTC).
    #[serde(default)]
    pub seen: u64,
    /// How often it was looked at in vain.
    pub tries: u32,
    /// When it is due, in seconds since 1970 (UTC).
    pub due: u64,
}

impl Queue {
    /// The queue of the tag directory `directory`, with its records in `state`.
    pub fn open(directory: &Path, state: &Path) -> io::Result<Self> {
        let claimed = directory.join(CLAIMED);
        match fs::create_dir(&claimed) {
            Ok(()) => adopt(&claimed, state),
            // As a run by root may have left it.
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
                if fs::symlink_metadata(&claimed).is_ok_and(|lies| lies.is_dir() && lies.uid() == 0) {
                    adopt(&claimed, state);
                }
            }
            Err(why) => return Err(why),
        }
        let waiting = fs::read(state.join("waiting.json")).unwrap_or_default();
        Ok(Self {
            directory: directory.to_owned(),
            state: state.to_owned(),
            waiting: serde_json::from_slice(&waiting).unwrap_or_default(),
            changed: false,
            last: 0,
        })
    }

    /// How many claims lie in the tag directory `directory`, where that can be read.
    pub fn count(directory: &Path) -> Option<usize> {
        let names = names(&directory.join(CLAIMED)).ok()?;
        Some(names.into_iter().filter_map(Claim::of_file).count())
    }

    /// Whether any claim lies in the tag directory `directory`.
    pub fn has_claims(directory: &Path) -> bool {
        fs::read_dir(directory.join(CLAIMED)).is_ok_and(|mut claims| claims.next().is_some())
    }

    /// Whether any tag lies in the tag directory `directory`, unclaimed.
    pub fn has_fresh(directory: &Path) -> bool {
        let fresh = |item: io::Result<fs::DirEntry>| {
            item.is_ok_and(|item| !item.file_name().as_bytes().starts_with(b"."))
        };
        fs::read_dir(directory).is_ok_and(|mut items| items.any(fresh))
    }

    /// Whether any tag lies in the tag directory `directory`, claimed or not.
    pub fn has_any(directory: &Path) -> bool {
        Self::has_claims(directory) || Self::has_fresh(directory)
    }

    /// Whether any claim in the tag directory `directory` may be looked at `now`, by the records in
    /// `state`.
    pub fn has_due(directory: &Path, state: &Path, now: SystemTime) -> bool {
        if !Self::has_claims(directory) {
            return false;
        }
        let queue = Self::open(directory, state);
        let due = queue.and_then(|queue| Ok(queue.claims()?.iter().any(|claim| queue.is_due(claim, now))));
        due.unwrap_or(false)
    }

    /// Claims all tags that lie in the directory, oldest claim first, and gives why the first stays there that
    /// can be neither claimed nor rejected.
    ///
    /// What can never be claimed (a folder of somebody else's) is rejected, hidden where it lies, so that
    /// it cannot trigger again, and told to `refused`. What is no tag's fault, such as a full disk, or a queue
    /// that is somebody else's, rejects none.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn claim(
        &mut self,
        mut refused: impl FnMut(&OsStr, &str),
    ) -> io::Result<(Vec<Claim>, Option<io::Error>)> {
        let (mut claims, mut failed) = (Vec::new(), None);
        for item in fs::read_dir(&self.directory)? {
            let name = item?.file_name();
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let claimed = match self.claim_one(&name) {
                Err(why) if stays(&why) => self.refuse(&name, &why, &mut refused),
                claimed => claimed.map(|claim| claims.extend(claim)),
            };
            if let Err(why) = claimed {
                let reason = format!("{}: {why}", name.to_string_lossy());
                failed = failed.or(Some(io::Error::new(why.kind(), reason)));
            }
        }
        claims.sort_by(|a, b| a.file.cmp(&b.file));
        Ok((claims, failed))
    }

    /// Rejects what lies there as `name` and cannot be claimed.
    fn refuse(
        &mut self,
        name: &OsStr,
        why: &io::Error,
        refused: &mut impl FnMut(&OsStr, &str),
    ) -> io::Result<()> {
        self.takes_claims()?;
        let reason = format!("the tag cannot be claimed: {why}");
        self.record(name, &reason)?;
        self.hide(name).inspect_err(|_| {
            // A tag that lies there is not rejected.
            let _ = fs::remove_file(self.state.join("rejected").join(name));
        })?;
        refused(name, &reason);
        Ok(())
    }

    fn claim_one(&mut self, name: &OsStr) -> io::Result<Option<Claim>> {
        let mut file = OsString::from(format!("{:0PREFIX$x}-", self.next_number()));
        file.push(name);
        match fs::rename(self.directory.join(name), self.claimed(&file)) {
            Ok(()) => Ok(self.read_claim(file)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Fails where no tag could be claimed, whosever it is.
    fn takes_claims(&self) -> io::Result<()> {
        for folder in [&self.directory, &self.directory.join(CLAIMED)] {
            let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
            if let Err(why) = faccessat(AT_FDCWD, folder, wanted, AtFlags::AT_EACCESS) {
                let reason = format!("{}: {why}", folder.display());
                return Err(io::Error::new(io::Error::from(why).kind(), reason));
            }
        }
        Ok(())
    }

    /// Nanoseconds since 1970, and never the same twice.
    fn next_number(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last = (now.as_nanos() as u64).max(self.last + 1);
        self.last
    }

    fn hide(&mut self, name: &OsStr) -> io::Result<()> {
        let mut hidden = OsString::from(format!(".refused-{:x}-", self.next_number()));
        hidden.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(200)]));
        fs::rename(self.directory.join(name), self.directory.join(hidden))
    }

    /// Claims of earlier runs, oldest first.
    pub fn claims(&self) -> io::Result<Vec<Claim>> {
        let names = names(&self.directory.join(CLAIMED))?;
        let mut claims: Vec<_> = names.into_iter().filter_map(|file| self.read_claim(file)).collect();
        claims.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(claims)
    }

    /// Whether `claim` may be looked at again at `now`.
    pub fn is_due(&self, claim: &Claim, now: SystemTime) -> bool {
        let now = seconds(now);
        let Some(waiting) = self.waiting.get(&claim.key()) else { return true };
        // A clock that was set back must not make a claim wait for it to catch up.
        waiting.due <= now || waiting.due > now + MAX_DELAY.as_secs()
    }

    /// Why `claim` waits, if it was looked at before.
    pub fn waiting(&self, claim: &Claim) -> Option<&Waiting> {
        self.waiting.get(&claim.key())
    }

    /// For how long `claim` has been seen to wait for `what`, and for nothing else meanwhile.
    ///
    /// The time between two looks counts up to [`UNSEEN_MAX`]: neither a target that was down for
    /// long nor a clock that was set makes a claim old.
    pub fn waited(&self, claim: &Claim, what: WaitsFor, now: SystemTime) -> Duration {
        self.before(claim, what).map_or(Duration::ZERO, |before| {
            let unseen = Duration::from_secs(seconds(now).saturating_sub(before.seen));
            Duration::from_secs(before.waited) + unseen.min(UNSEEN_MAX)
        })
    }

    fn before(&self, claim: &Claim, what: WaitsFor) -> Option<&Waiting> {
        self.waiting(claim).filter(|waiting| waiting.waits_for == what)
    }

    /// `claim` waits for `what`; each look in vain doubles the time to the next.
    ///
    /// What passes counts for nothing, and takes nothing away either: else a claim that is hindered now and then
    /// would never be given up.
    pub fn wait(&mut self, claim: &Claim, reason: String, what: WaitsFor, now: SystemTime) {
        let limited = self.waiting(claim).filter(|before| what.passes() && before.waits_for.has_limit());
        let (waits_for, waited, hindered) = match limited {
            Some(before) => (before.waits_for, before.waited, true),
            None => (what, self.waited(claim, what, now).as_secs(), false),
        };
        let before = self.before(claim, waits_for).filter(|before| before.hindered == hindered);
        let tries = before.map_or(0, |before| before.tries);
        let delay = FIRST_DELAY.saturating_mul(1 << tries.min(10)).min(what.longest());
        let waiting = Waiting {
            reason,
            waits_for,
            waited,
            hindered,
            seen: seconds(now),
            tries: tries + 1,
            due: seconds(now) + delay.as_secs(),
        };
        self.waiting.insert(claim.key(), waiting);
        self.changed = true;
    }

    /// `claim` is done.
    pub fn clear(&mut self, claim: &Claim) -> io::Result<()> {
        self.changed |= self.waiting.remove(&claim.key()).is_some();
        match fs::remove_file(self.claimed(&claim.file)) {
            Err(why) if why.kind() == io::ErrorKind::IsADirectory => {
                fs::remove_dir_all(self.claimed(&claim.file))
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// `claim` is given up for `reason`, which is written down before the claim goes.
    pub fn reject(&mut self, claim: &Claim, reason: &str) -> io::Result<()> {
        self.record(&claim.name, reason)?;
        self.clear(claim)
    }

    fn record(&self, name: &OsStr, reason: &str) -> io::Result<()> {
        let rejected = self.state.join("rejected");
        fs::create_dir_all(&rejected)?;
        adopt(&rejected, &self.state);
        forget_oldest(&rejected)?;
        let record = format!("{}\n{reason}\n", jiff::Timestamp::now());
        replace(&rejected.join(name), record.as_bytes())
    }

    /// Writes down why claims wait.
    pub fn save(&mut self) -> io::Result<()> {
        let claims = self.claims()?;
        let known: Vec<_> = claims.iter().map(Claim::key).collect();
        let before = self.waiting.len();
        self.waiting.retain(|key, _| known.contains(key));
        if self.changed || self.waiting.len() != before {
            let text = serde_json::to_vec_pretty(&self.waiting).map_err(io::Error::other)?;
            replace(&self.state.join("waiting.json"), &text)?;
            self.changed = false;
        }
        Ok(())
    }

    fn read_claim(&self, file: OsString) -> Option<Claim> {
        let modified = fs::symlink_metadata(self.claimed(&file)).and_then(|claim| claim.modified());
        let claim = Claim::of_file(file)?;
        Some(Claim { dropped: modified.ok(), ..claim })
    }

    fn claimed(&self, file: &OsStr) -> PathBuf {
        self.directory.join(CLAIMED).join(file)
    }
}

/// The first time that a claim waits; each further try doubles it.
const FIRST_DELAY: Duration = Duration::from_secs(5);
/// The longest time between two tries.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(900);
/// How much of the time between two looks counts as waiting: there was none for longer only where
/// nobody could look.
const UNSEEN_MAX: Duration = Duration::from_secs(2 * MAX_DELAY.as_secs());

impl Claim {
    pub(super) fn of_file(file: OsString) -> Option<Self> {
        let bytes = file.as_bytes();
        if bytes.get(PREFIX) != Some(&b'-') {
            return None;
        }
        let nanos = u64::from_str_radix(std::str::from_utf8(&bytes[..PREFIX]).ok()?, 16).ok()?;
        let name = OsString::from_vec(bytes[PREFIX + 1..].to_vec());
        let since = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        let tag = Tag::of_file(&name);
        Some(Self { since, dropped: None, tag, name, file })
    }

    /// The name of its file: unlike that of any other claim.
    pub fn file(&self) -> &OsStr {
        &self.file
    }

    pub(super) fn key(&self) -> String {
        self.file.to_string_lossy().into_owned()
    }
}

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether it is the tag itself that cannot be claimed, now or later: its name is too long with the
/// number before it, or it belongs to somebody else.
fn stays(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::InvalidFilename | io::ErrorKind::PermissionDenied)
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|item| Ok(item?.file_name())).collect()
}

/// Keeps a folder of records from growing for years: the oldest go.
fn forget_oldest(folder: &Path) -> io::Result<()> {
    let items = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    if items.len() < REJECTED_MAX {
        return Ok(());
    }
    let mut by_age = Vec::new();
    for item in items {
        by_age.push((item.metadata()?.modified()?, item.path()));
    }
    by_age.sort();
    let excess = by_age.len() + 1 - REJECTED_MAX;
    by_age.iter().take(excess).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, lchown};

    struct World {
        root: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("tags")).unwrap();
            fs::create_dir(root.path().join("state")).unwrap();
            Self { root }
        }

        fn queue(&self) -> Queue {
            Queue::open(&self.tags(), &self.root.path().join("state")).unwrap()
        }

        fn tags(&self) -> PathBuf {
            self.root.path().join("tags")
        }

        fn drop_tag(&self, name: &str) {
            fs::write(self.tags().join(name), "").unwrap();
        }

        fn claim(&self, queue: &mut Queue) -> Vec<Claim> {
            let (claims, failed) = queue.claim(|name, why| panic!("{name:?}: {why}")).unwrap();
            assert!(failed.is_none(), "{failed:?}");
            claims
        }
    }

    #[test]
    fn the_same_tag_dropped_again_is_a_claim_beside_the_first() {
        let world = World::new();
        let mut queue = world.queue();
        for _ in 0..3 {
            world.drop_tag("core::1.0");
            assert_eq!(world.claim(&mut queue).len(), 1);
        }
        assert_eq!(world.queue().claims().unwrap().len(), 3);
    }

    #[test]
    fn only_claims_are_counted_and_where_they_cannot_be_none_is_not_said() {
        let world = World::new();
        assert_eq!(Queue::count(&world.tags()), None);
        world.drop_tag("core::1.0");
        world.claim(&mut world.queue());
        fs::write(world.tags().join(CLAIMED).join(".nfs0000000000000001"), "").unwrap();
        assert_eq!(Queue::count(&world.tags()), Some(1));
    }

    #[test]
    fn hidden_files_are_left_alone() {
        let world = World::new();
        world.drop_tag(".core::1.0");
        assert!(world.claim(&mut world.queue()).is_empty());
        assert!(world.tags().join(".core::1.0").exists());
    }

    #[test]
    fn a_claim_outlives_a_crash_and_is_due_again() {
        let world = World::new();
        world.drop_tag("core::1.0");
        world.claim(&mut world.queue());
        let queue = world.queue();
        let claims = queue.claims().unwrap();
        assert_eq!(claims[0].tag.as_ref().unwrap().to_string(), "core::1.0");
        assert!(queue.is_due(&claims[0], SystemTime::now()));
    }

    #[test]
    fn waiting_doubles_up_to_its_limit_and_survives() {
        let world = World::new();
        world.drop_tag("core::1.0");
        let mut queue = world.queue();
        let claim = world.claim(&mut queue).remove(0);
        let now = SystemTime::now();
        let mut delays = Vec::new();
        for _ in 0..5 {
            queue.wait(&claim, "writable".into(), WaitsFor::Sealing, now);
            delays.push(queue.waiting(&claim).unwrap().due - seconds(now));
        }
        assert_eq!(delays, [5, 10, 20, 30, 30]);
        queue.save().unwrap();
        let queue = world.queue();
        assert!(!queue.is_due(&claim, now));
        assert!(queue.is_due(&claim, now + Duration::from_secs(31)));
        assert!(queue.is_due(&claim, now - Duration::from_secs(86_400)), "waits for a clock set back");
    }

    #[test]
    fn what_waits_for_something_else_begins_anew() {
        let world = World::new();
        world.drop_tag("core::1.0");
        let mut queue = world.queue();
        let claim = world.claim(&mut queue).remove(0);
        let mut now = SystemTime::now();
        for _ in 0..20 {
            now += Duration::from_secs(30);
            queue.wait(&claim, "writable".into(), WaitsFor::Sealing, now);
        }
        queue.wait(&claim, "the disk is full".into(), WaitsFor::Time, now);
        assert_eq!(queue.waiting(&claim).unwrap().due - seconds(now), 5);
        assert_eq!(queue.waited(&claim, WaitsFor::Time, now), Duration::ZERO);
    }

    #[test]
    fn what_passes_counts_for_nothing_and_takes_nothing_away() {
        const HOUR: Duration = Duration::from_secs(3600);
        let world = World::new();
        world.drop_tag("core::1.0");
        let mut queue = world.queue();
        let claim = world.claim(&mut queue).remove(0);
        let mut now = SystemTime::now();
        let mut wait = |queue: &mut Queue, what| {
            now += Duration::from_secs(600);
            queue.wait(&claim, "no".into(), what, now);
            queue.waiting(&claim).unwrap().due - seconds(now)
        };
        for limited in [WaitsFor::Publishing, WaitsFor::Person] {
            for _ in 0..7 {
                wait(&mut queue, limited);
            }
            for passes in [WaitsFor::Archive, WaitsFor::Time] {
                let before = queue.waiting(&claim).unwrap().waited;
                let delays = [(); 9].map(|()| wait(&mut queue, passes));
                assert_eq!(delays[..2], [5, 10], "its pauses begin anew");
                assert_eq!(delays[8], passes.longest().as_secs());
                assert_eq!(queue.waiting(&claim).unwrap().waited, before);
                wait(&mut queue, limited);
            }
            assert!(queue.waiting(&claim).unwrap().waited >= HOUR.as_secs());
            assert!(queue.waiting(&claim).unwrap().waited < 2 * HOUR.as_secs());
        }
        wait(&mut queue, WaitsFor::Sealing);
        assert_eq!(queue.waiting(&claim).unwrap().waited, 0, "it was published");
    }

    #[test]
    fn only_time_in_which_somebody_looked_makes_a_claim_old() {
        const DAY: Duration = Duration::from_secs(86_400);
        let world = World::new();
        world.drop_tag("core::1.0");
        let mut queue = world.queue();
        let claim = world.claim(&mut queue).remove(0);
        let mut now = claim.since + 8 * DAY;
        let waited = |queue: &Queue, now| queue.waited(&claim, WaitsFor::Publishing, now);
        let wait = |queue: &mut Queue, now| queue.wait(&claim, "no".into(), WaitsFor::Publishing, now);
        assert_eq!(waited(&queue, now), Duration::ZERO, "it is the first look");
        wait(&mut queue, now);
        for set in [now + 8 * DAY, now + 20_000 * DAY, now - 8 * DAY, SystemTime::UNIX_EPOCH] {
            assert!(waited(&queue, set) <= UNSEEN_MAX, "the clock was set");
        }
        for _ in 0..8 * 96 {
            now += DAY / 96;
            wait(&mut queue, now);
        }
        queue.save().unwrap();
        assert_eq!(waited(&world.queue(), now), 8 * DAY);
        assert_eq!(world.queue().waited(&claim, WaitsFor::Person, now), Duration::ZERO);
    }

    #[test]
    fn what_an_older_version_wrote_down_is_still_known() {
        let world = World::new();
        world.drop_tag("core::1.0");
        let claim = world.claim(&mut world.queue()).remove(0);
        let older = format!(r#"{{"{}": {{"reason": "no", "tries": 3, "due": 77}}}}"#, claim.key());
        fs::write(world.root.path().join("state/waiting.json"), older).unwrap();
        let queue = world.queue();
        assert_eq!(queue.waiting(&claim).unwrap().reason, "no");
        assert_eq!(queue.waited(&claim, WaitsFor::Publishing, SystemTime::now()), Duration::ZERO);
    }

    #[test]
    fn a_rejected_tag_leaves_its_reason() {
        let world = World::new();
        world.drop_tag("nonsense");
        let mut queue = world.queue();
        let claim = world.claim(&mut queue).remove(0);
        queue.reject(&claim, "not of the form").unwrap();
        let record = fs::read_to_string(world.root.path().join("state/rejected/nonsense")).unwrap();
        assert!(record.contains("not of the form"));
        assert!(queue.claims().unwrap().is_empty());
    }

    #[test]
    fn a_name_too_long_to_claim_is_hidden_and_told() {
        let world = World::new();
        world.drop_tag(&"x".repeat(250));
        let mut told = 0;
        assert!(world.queue().claim(|_, _| told += 1).unwrap().0.is_empty());
        assert_eq!(told, 1);
        assert!(world.claim(&mut world.queue()).is_empty(), "it triggers again");
    }

    #[test]
    fn a_tag_that_cannot_be_claimed_now_lies_there_still() {
        let world = World::new();
        world.drop_tag("core::1.0");
        let mut queue = world.queue();
        let claimed = world.tags().join(CLAIMED);
        fs::remove_dir(&claimed).unwrap();
        fs::write(&claimed, "").unwrap();
        let (claims, failed) = queue.claim(|name, why| panic!("{name:?}: {why}")).unwrap();
        assert!(claims.is_empty() && failed.is_some());
        fs::remove_file(claimed).unwrap();
        assert_eq!(world.claim(&mut world.queue()).len(), 1);
    }

    /// Why a user who is not root cannot claim in a tag directory of this mode.
    fn fails_for_nobody(world: &World, mode: u32) -> io::Error {
        let mut queue = world.queue();
        let set_mode = |path: PathBuf, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set_mode(world.root.path().to_owned(), 0o755);
        set_mode(world.root.path().join("state"), 0o777);
        set_mode(world.tags(), mode);
        let as_nobody = std::thread::spawn(move || {
            nix::unistd::setfsuid(65534.into());
            queue.claim(|name, why| panic!("{name:?}: {why}")).unwrap()
        });
        let (claims, failed) = as_nobody.join().unwrap();
        set_mode(world.tags(), 0o755);
        assert!(claims.is_empty());
        failed.unwrap()
    }

    #[test]
    fn no_tag_is_rejected_where_the_queue_is_somebody_elses() {
        let world = World::new();
        world.drop_tag("core::1.0");
        fs::create_dir(world.tags().join(CLAIMED)).unwrap();
        fs::set_permissions(world.tags().join(CLAIMED), Permissions::from_mode(0o555)).unwrap();
        let why = fails_for_nobody(&world, 0o777);
        assert_eq!(why.kind(), io::ErrorKind::PermissionDenied);
        assert!(why.to_string().contains(CLAIMED), "{why}");
        assert!(world.tags().join("core::1.0").exists());
        assert!(!world.root.path().join("state/rejected").exists());
    }

    #[test]
    fn no_tag_is_on_record_as_rejected_that_lies_there_still() {
        // Whose tag it is matters in such a folder, and whose the folder is: only root has none of them taken.
        if nix::unistd::geteuid().is_root() {
            let world = World::new();
            world.drop_tag("core::1.0");
            fs::create_dir(world.tags().join(CLAIMED)).unwrap();
            fs::set_permissions(world.tags().join(CLAIMED), Permissions::from_mode(0o777)).unwrap();
            fails_for_nobody(&world, 0o1777);
            assert!(world.tags().join("core::1.0").exists());
            assert_eq!(fs::read_dir(world.root.path().join("state/rejected")).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_queue_of_roots_goes_to_the_owner_of_the_state_whosever_the_tag_directory_is() {
        let world = World::new();
        // Only root can give something away; anybody has what it made.
        let user = nix::unistd::geteuid();
        let (owner, other) = if user.is_root() { (12345, 54321) } else { (user.as_raw(), user.as_raw()) };
        lchown(world.tags(), Some(other), None).unwrap();
        lchown(world.root.path().join("state"), Some(owner), None).unwrap();
        let claimed = world.tags().join(CLAIMED);
        let owner_after = || {
            world.queue();
            fs::metadata(&claimed).unwrap().uid()
        };
        assert_eq!(owner_after(), owner);
        lchown(&claimed, Some(user.as_raw()), None).unwrap();
        assert_eq!(owner_after(), owner, "it was there already");
        lchown(&claimed, Some(other), None).unwrap();
        assert_eq!(owner_after(), other, "another made it");
    }

    #[test]
    fn a_tag_whose_rejection_cannot_be_written_down_lies_there_still() {
        let world = World::new();
        let name = "x".repeat(250);
        world.drop_tag(&name);
        fs::write(world.root.path().join("state/rejected"), "").unwrap();
        world.drop_tag("core::1.0");
        let (claims, failed) = world.queue().claim(|name, why| panic!("{name:?}: {why}")).unwrap();
        assert!(failed.unwrap().to_string().contains(&name));
        assert!(world.tags().join(name).exists());
        assert_eq!(claims.len(), 1, "the other is claimed all the same");
    }
}

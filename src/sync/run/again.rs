//! Asking the release source again before anything is marked or deleted: what was sent meanwhile may have
//! taken hours, and what had left the current set may be needed again. Then excess is judged by the set as it
//! is now; what came to be missing since is left to the next run. Where the settings are others by now, so is
//! all of it.

use std::fmt::Display;
use std::time::{Duration, Instant};

use blat_target::listing::Listing;

use super::{Aim, Run};
use crate::bucket::State;
use crate::channel::clock;
use crate::config::Settings;
use crate::failure::{Needs, Result};
use crate::report::Report;
use crate::sync::aging::{Guard, Policy, decide};
use crate::sync::bucket;
use crate::sync::current_set::CurrentSet;
use crate::sync::plan::Plan;
use crate::trigger;

/// How old an answer may be that something is marked or deleted by.
const FRESH: Duration = Duration::from_secs(300);

/// What the target should have by now.
pub(super) enum ByNow {
    /// The answer that the run began with is fresh.
    AsBefore,
    /// This, and how many rows name nothing that it could.
    Set(CurrentSet, u64),
    /// It cannot be told, which was told.
    Unknown,
}

impl Run<'_> {
    /// What the target should have `now`, where the last answer is old.
    pub(super) async fn by_now(&mut self, aim: Aim<'_>, now: Instant) -> ByNow {
        match Settings::load(self.root, &self.settings.name) {
            Ok(settings) if decides_alike(&settings, self.settings) => {}
            Ok(_) => {
                self.leaves_excess(&"the settings have changed since this run began");
                trigger::touch(&self.places.sync_trigger());
                return ByNow::Unknown;
            }
            Err(why) => {
                self.leaves_excess(&why);
                return ByNow::Unknown;
            }
        }
        if now.saturating_duration_since(aim.asked) < FRESH {
            return ByNow::AsBefore;
        }
        match self.ask_again(aim).await {
            Ok((set, refused)) => ByNow::Set(set, refused),
            Err(why) => {
                self.leaves_excess(&format_args!("that takes asking again: {why}"));
                ByNow::Unknown
            }
        }
    }

    fn leaves_excess(&mut self, why: &dyn Display) {
        let reason = format!("nothing is marked or deleted this time, for {why}");
        self.reporter.tell(Report::Problem { reason, about: None });
    }

    async fn ask_again(&mut self, aim: Aim<'_>) -> Result<(CurrentSet, u64)> {
        let answer = self.ask().await?;
        let refused = answer.refused.len() as u64;
        Ok((self.gather(answer.rows, aim.archive).await?, refused))
    }

    /// What says what becomes of excess by a second answer. It is held against the first, too, unless that was
    /// doubtful itself: a person who accepts that there is less does not accept that there is less still, and where
    /// there is more than before, only the first knows that.
    pub(super) fn policy_again(
        &self,
        aim: Aim<'_>,
        set: &CurrentSet,
        refused: u64,
        listing: &Listing,
    ) -> Policy {
        let mut policy = self.policy(Aim { set, refused, ..aim }, listing);
        let (members, before) = (set.len() as u64, aim.set.len() as u64);
        let most = self.settings.aging.max_shrink;
        if aim.mode.accepts_shrink() || self.guard(aim, listing.len() as u64).is_none() {
            policy.guard = policy.guard.or_else(|| Guard::look(members, refused, before, most, false));
        }
        policy
    }

    /// Decides anew of what a bucket has in excess, where the answer is old. Nothing is decided where the
    /// source cannot be asked.
    pub(super) async fn decide_again(
        &mut self,
        aim: Aim<'_>,
        now: Instant,
        state: &State,
        plan: &mut Plan,
        policy: &mut Policy,
    ) -> Result<()> {
        match self.by_now(aim, now).await {
            ByNow::AsBefore => {}
            ByNow::Unknown => plan.aged = None,
            ByNow::Set(set, refused) => {
                let listing = bucket::listing(state, &set).person("the bucket has too many names")?;
                *policy = self.policy_again(aim, &set, refused, &listing);
                plan.aged = Some(decide(&set, &listing, &bucket::marks(state), policy, clock()));
            }
        }
        Ok(())
    }
}

/// Whether all is the same that says what a target should have, and what becomes of the rest.
fn decides_alike(one: &Settings, other: &Settings) -> bool {
    let Settings { source, releases, projects, packages, destination, aging, release, .. } = one;
    *source == other.source
        && *releases == other.releases
        && *projects == other.projects
        && *packages == other.packages
        && *destination == other.destination
        && *aging == other.aging
        && *release == other.release
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::Path;
    use std::time::SystemTime;

    use blat_target::package::PackageVersion;

    use super::*;
    use crate::archive::Archive;
    use crate::bucket::Entry;
    use crate::places::Places;
    use crate::report::Reporter;
    use crate::sync::aging::Decision;
    use crate::sync::good;
    use crate::sync::rows::{Reason, Rows};
    use crate::sync::run::Mode;

    fn core(version: &str) -> PackageVersion {
        PackageVersion::new("core", version).unwrap()
    }

    fn entry(version: &str) -> (PackageVersion, Entry) {
        let (package, version, key) = ("core".to_owned(), version.to_owned(), version.to_owned());
        let (sha256, etag) = (String::new(), String::new());
        let entry =
            Entry { package, version, stamp: 1, size: 1, sha256, key, etag, link: None, excess_since: None };
        (core(&entry.version), entry)
    }

    /// A target that should have what `list` says, of a source archive that has nothing.
    fn world(root: &Path) -> (Settings, Places, Archive) {
        let (source, list) = (root.join("source"), root.join("list"));
        fs::create_dir_all(root.join("etc/blat/targets")).unwrap();
        fs::create_dir(&source).unwrap();
        let text = format!(
            "source = {source:?}\n[ssh]\nhost = \"site1\"\n[aging]\nmode = \"immediate\"\nmax_shrink = \"90%\"\n\
             [release]\nsource = \"file\"\nfile = {list:?}\n"
        );
        fs::write(root.join("etc/blat/targets/site1.toml"), text).unwrap();
        let name = "site1".parse().unwrap();
        let settings = Settings::load(root, &name).unwrap_or_else(|why| panic!("{why}"));
        (settings, Places::of(root, &name), Archive::open(&source).unwrap())
    }

    /// So many versions of core, from the second on.
    fn rows(count: u32) -> Rows {
        let mut rows = Rows::default();
        (2..2 + count).for_each(|version| rows.add("core", &version.to_string(), Reason::Packages).unwrap());
        rows
    }

    /// The same as a list.
    fn list(count: u32) -> String {
        (2..2 + count).map(|version| format!("core {version}\n")).collect()
    }

    /// What is to be deleted of core/1 and core/2, so long after the answer that has core/2 alone, where the
    /// source says `list` by then.
    async fn deleted(list: Option<&str>, later: Duration) -> Option<Vec<PackageVersion>> {
        after((rows(1), 0), false, None, says(list), later).await.0
    }

    /// Has the source say this.
    fn says(list: Option<&str>) -> impl FnOnce(&Path) + use<> {
        let list = list.map(str::to_owned);
        move |root| {
            if let Some(list) = list {
                let mut file = File::create(root.join("list")).unwrap();
                file.write_all(list.as_bytes()).unwrap();
                file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
            }
        }
    }

    /// The same after an answer of `first`, with so many rows that name nothing; and how many members are on record
    /// then, where `good` were. What happens `meanwhile` is told the root.
    async fn after(
        (first, refused): (Rows, u64),
        accept_shrink: bool,
        good: Option<u64>,
        meanwhile: impl FnOnce(&Path),
        later: Duration,
    ) -> (Option<Vec<PackageVersion>>, Option<u64>) {
        let root = tempfile::tempdir().unwrap();
        let (settings, places, archive) = world(root.path());
        fs::create_dir_all(&places.state).unwrap();
        good.into_iter().for_each(|good| good::write(&places.last_good(), good).unwrap());
        let mut reporter = Reporter::to_the_log("site1");
        let mut run = Run::new(root.path(), &settings, &places, Path::new("helper"), &mut reporter);
        let set = run.gather(first, &archive).await.unwrap();
        let mode = Mode::Real { accept_shrink };
        let aim = Aim { archive: &archive, set: &set, refused, asked: Instant::now(), mode };
        let state = State::of_entries([entry("1"), entry("2")].into());
        let listing = bucket::listing(&state, &set).unwrap();
        let (mut plan, mut policy) = (Plan::default(), run.policy(aim, &listing));
        plan.aged = Some(decide(&set, &listing, &[], &policy, clock()));
        meanwhile(root.path());
        run.decide_again(aim, aim.asked + later, &state, &mut plan, &mut policy).await.unwrap();
        run.note_good(aim, &policy, &listing).unwrap();
        let ids = |aged: Decision| aged.deletions().into_iter().map(|aged| aged.id.clone()).collect();
        (plan.aged.map(ids), good::members(&places.last_good()))
    }

    #[tokio::test]
    async fn each_member_that_was_looked_at_is_something_that_moves() {
        let root = tempfile::tempdir().unwrap();
        let (settings, places, archive) = world(root.path());
        let (began, mut reporter) = (Instant::now(), Reporter::to_the_log("site1"));
        let run = Run::new(root.path(), &settings, &places, Path::new("helper"), &mut reporter);
        let pause = Duration::from_millis(20);
        std::thread::sleep(pause);
        run.gather(rows(1), &archive).await.unwrap();
        assert!(run.progress.idle() + pause <= began.elapsed());
    }

    #[tokio::test]
    async fn what_is_needed_again_by_then_is_not_deleted() {
        assert_eq!(deleted(Some("core 1\ncore 2\n"), FRESH).await, Some(vec![]));
        assert_eq!(deleted(Some("core 2\n"), FRESH).await, Some(vec![core("1")]));
    }

    #[tokio::test]
    async fn nothing_is_deleted_by_an_old_answer_alone() {
        assert_eq!(deleted(None, FRESH).await, None);
        assert_eq!(deleted(None, Duration::ZERO).await, Some(vec![core("1")]), "it is fresh");
    }

    #[tokio::test]
    async fn settings_that_decide_nothing_of_it_may_change_meanwhile() {
        let meanwhile = |root: &Path| {
            let file = root.join("etc/blat/targets/site1.toml");
            fs::write(&file, fs::read_to_string(&file).unwrap() + "[sync]\nperiod = 7\n").unwrap();
        };
        let then = after((rows(1), 0), false, None, meanwhile, Duration::ZERO).await;
        assert_eq!(then.0, Some(vec![core("1")]));
    }

    #[tokio::test]
    async fn nothing_is_deleted_by_settings_that_are_not_in_force_any_more() {
        for later in [Duration::ZERO, FRESH] {
            let meanwhile = |root: &Path| {
                let file = root.join("etc/blat/targets/site1.toml");
                let text = fs::read_to_string(&file).unwrap().replace("immediate", "none");
                fs::write(file, text).unwrap();
                says(Some("core 2\n"))(root);
            };
            assert_eq!(after((rows(1), 0), false, None, meanwhile, later).await.0, None);
        }
    }

    #[tokio::test]
    async fn who_accepts_that_there_is_less_does_not_accept_a_second_answer_that_has_less_still() {
        let then = |list: String| async move {
            after((rows(11), 0), true, Some(1000), says(Some(&list)), FRESH).await
        };
        assert_eq!(then(list(1)).await, (Some(vec![]), Some(1000)), "more than nine tenths less than 11");
        assert_eq!(then(list(2)).await, (Some(vec![core("1")]), Some(11)));
    }

    #[tokio::test]
    async fn a_second_answer_is_held_against_a_first_that_has_more_than_ever() {
        let then = after((rows(30), 0), false, Some(2), says(Some(&list(2))), FRESH).await;
        assert_eq!(then, (Some(vec![]), Some(2)));
    }

    #[tokio::test]
    async fn what_a_person_accepts_is_put_on_record_though_rows_name_nothing() {
        for (accepts, members) in [(true, 2), (false, 100)] {
            let then = after((rows(2), 1), accepts, Some(100), says(Some(&list(2))), FRESH).await;
            assert_eq!(then.1, Some(members));
        }
    }

    #[tokio::test]
    async fn a_doubtful_answer_is_not_put_on_record_by_a_good_one_behind_it() {
        let then = after((rows(1), 0), false, Some(100), says(Some(&list(10))), FRESH).await;
        assert_eq!(then, (Some(vec![core("1")]), Some(100)));
    }
}

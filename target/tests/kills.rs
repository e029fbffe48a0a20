//! Kills, cut lines, and sessions at once: no reader ever sees part of a version, what
//! a dead session left is cleared by a later one, and a live session's work never is.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blat_target::message::{Mend, Outcome, ToHost};
use blat_target::stamp::Stamp;
use common::pack::{Pack, Parts, STAMP};
use common::{Host, Site};

const NEW: Outcome = Outcome::Committed { replaced: false };
/// How many rounds of kills a test goes through.
const ROUNDS: u64 = 20;
/// The files of a version of [`build`], besides its `descpkg`.
const FILES: usize = 30;

/// Build `generation` of a version: its files all tell the generation, as does its stamp.
fn build(id: &str, generation: i64) -> Pack {
    let content = format!("{generation}").repeat(2000);
    let mut parts = Parts::described(id).folder("f");
    for file in 0..FILES {
        parts = parts.file(format!("f/{file:03}"), content.as_bytes());
    }
    parts.stamp = Stamp(STAMP + generation);
    parts.manifest.entries.iter_mut().for_each(|entry| entry.modified.seconds += generation);
    for folder in [0, 2] {
        parts.manifest.entries[folder].mode = 0o555;
    }
    parts.pack()
}

/// Fails if the version at `path` is only a part of one. Whether there is one is told.
fn assert_whole(path: &Path) -> bool {
    let identity = || fs::symlink_metadata(path).map(|meta| (meta.ino(), meta.mtime(), meta.mode()));
    let Ok(before) = identity() else { return false };
    let seen = read(path);
    // What was exchanged while it was read says nothing.
    if identity().ok() != Some(before) {
        return false;
    }
    let seen = seen.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let generation = before.1 - STAMP;
    assert_eq!(before.2 & 0o7777, 0o555, "{}: the mode of its folder", path.display());
    assert_eq!(seen.len(), FILES, "{}: the number of files", path.display());
    let due = format!("{generation}").repeat(2000);
    assert!(seen.iter().all(|content| *content == due), "{}: what is in the files", path.display());
    true
}

fn read(path: &Path) -> std::io::Result<Vec<String>> {
    File::open(path.join("descpkg"))?;
    let listed = fs::read_dir(path.join("f"))?.collect::<Result<Vec<_>, _>>()?;
    listed.iter().map(|entry| fs::read_to_string(entry.path())).collect()
}

/// Looks at all versions again and again, until it is dropped.
struct Reader {
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    looking: Option<std::thread::JoinHandle<()>>,
}

impl Reader {
    fn new(archive: PathBuf) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), seen.clone());
        let looking = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                count.fetch_add(look(&archive), Ordering::Relaxed);
            }
        });
        Self { stop, seen, looking: Some(looking) }
    }

    /// How many whole versions were seen, a part of one never.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.take().unwrap().join().unwrap();
        self.seen.load(Ordering::Relaxed)
    }
}

/// Looks at all versions once.
fn look(archive: &Path) -> u64 {
    let visible = |path: &PathBuf| !path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
    let list = |path: &Path| {
        let listed = fs::read_dir(path).into_iter().flatten().flatten();
        listed.map(|entry| entry.path()).filter(visible).collect::<Vec<_>>()
    };
    let versions = list(archive).into_iter().flat_map(|package| list(&package));
    versions.filter(|version| assert_whole(version)).count() as u64
}

/// A number that differs from call to call.
fn any(below: u64) -> u64 {
    let mut bytes = [0; 8];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % below
}

fn wait_for(what: &str, mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} never came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn kills_at_any_moment_leave_whole_versions_and_a_later_session_clears_the_rest() {
    let site = Site::new();
    let reader = Reader::new(site.archive());
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS as i64 {
        // Some are new, some replace what earlier rounds left.
        let ids: Vec<_> = (0..8).map(|n| format!("p{}/{}", n % 3, (n + round) % 12)).collect();
        let packs: Vec<_> = ids.iter().map(|id| build(id, round)).collect();
        let mut host = site.host();
        let pid = nix::unistd::Pid::from_raw(host.pid() as i32);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(any(60_000)));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        });
        for pack in &packs {
            host.send(pack);
        }
        killer.join().unwrap();
        let ended = host.end();
        assert_eq!(ended.signal, Some(9));
        for said in ended.heard {
            if let ToHost::Outcome { number, outcome } = said {
                assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
                acknowledged.push(ids[number as usize].clone());
            }
        }
        // What was acknowledged stands.
        assert!(acknowledged.iter().all(|id| assert_whole(&site.archive().join(id))));
        if round % 3 == 2 {
            assert_eq!(site.host().done().code, Some(0));
            assert!(site.leftovers().is_empty(), "round {round}: {:?}", site.leftovers());
        }
    }
    let packs: Vec<_> = (0..12).flat_map(|n| (0..3).map(move |p| build(&format!("p{p}/{n}"), 99))).collect();
    let outcomes = site.send(&packs);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Committed { .. })), "{outcomes:?}");
    assert_eq!(look(&site.archive()), 36);
    assert!(site.leftovers().is_empty(), "{:?}", site.leftovers());
    assert!(reader.end() > 0);
}

#[test]
fn a_reader_sees_the_old_version_or_the_new_one_while_it_is_replaced() {
    let site = Site::new();
    site.send(&[build("a/1", 0)]);
    let reader = Reader::new(site.archive());
    let mut host = site.host();
    for generation in 1..40 {
        host.send(&build("a/1", generation));
        assert_eq!(host.outcome(), Outcome::Committed { replaced: true });
        assert!(site.archive().join("a/1/descpkg").exists(), "for a moment there was none");
    }
    assert_eq!(host.done().code, Some(0));
    assert!(reader.end() > 0);
    assert!(site.leftovers().is_empty());
}

/// A session in the middle of a package.
fn half_sent(site: &Site, pack: &Pack) -> Host {
    let mut host = site.host();
    host.begin(pack);
    host.bytes(&pack.plain[..pack.plain.len() / 2]);
    wait_for("staging", || site.leftovers().iter().any(|path| path.join("f").is_dir()));
    host
}

#[test]
fn what_was_begun_before_another_build_came_does_not_replace_it() {
    let site = Site::new();
    site.send(&[build("a/1", 0)]);
    let old = build("a/1", 1);
    let mut slow = half_sent(&site, &old);
    // The clock of a file system has ticks.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(site.send(&[build("a/1", 2)]), [Outcome::Committed { replaced: true }]);
    slow.bytes(&old.plain[old.plain.len() / 2..]);
    slow.say(&blat_target::message::ToTarget::PackageEnd);
    let Outcome::Refused(refusal) = slow.outcome() else { panic!("it replaced the newer one") };
    assert_eq!(refusal.mend, Mend::Later);
    assert!(refusal.reason.contains("came in another build"), "{}", refusal.reason);
    // Whoever begins now, wants it by now.
    slow.send(&old);
    assert_eq!(slow.outcome(), Outcome::Committed { replaced: true });
    assert_eq!(slow.done().code, Some(0));
    assert!(site.leftovers().is_empty());
}

#[test]
fn the_staging_of_a_live_session_is_never_cleared() {
    let site = Site::new();
    let pack = build("a/1", 1);
    let mut live = half_sent(&site, &pack);
    let staged = site.leftovers();
    // By the record, and by the hidden names in the package's folder.
    assert_eq!(site.send(&[build("a/2", 1)]), [NEW]);
    assert_eq!(site.leftovers(), staged);
    live.bytes(&pack.plain[pack.plain.len() / 2..]);
    live.say(&blat_target::message::ToTarget::PackageEnd);
    assert_eq!(live.outcome(), NEW);
    assert_eq!(live.done().code, Some(0));
    assert_eq!(look(&site.archive()), 2);
    assert!(site.leftovers().is_empty());
}

#[test]
fn a_killed_session_is_cleared_with_the_folder_that_it_made() {
    let site = Site::new();
    half_sent(&site, &build("a/1", 1)).kill();
    assert_eq!(site.leftovers().len(), 2, "staging and record");
    let other = site.host();
    assert_eq!(other.done().code, Some(0));
    assert!(site.leftovers().is_empty());
    assert!(!site.archive().join("a").exists());
}

#[test]
fn a_cut_line_leaves_nothing() {
    let site = Site::new();
    let ended = half_sent(&site, &build("a/1", 1)).end();
    assert_eq!(ended.code, Some(75));
    assert!(ended.stderr.contains("the connection ended in the middle of a session"), "{ended:?}");
    assert!(site.leftovers().is_empty());
    assert!(!site.archive().join("a").exists());
}

#[test]
fn a_host_that_does_not_listen_ends_the_session() {
    let site = Site::new();
    // `head` takes the magic and the hello, and goes.
    let mut host = site.connect_by("(\"$0\" serve; echo \"code $?\" >&2) | head -c 20 >/dev/null");
    host.hello(common::host_hello());
    std::thread::sleep(Duration::from_millis(300));
    let pack = build("a/1", 1);
    for _ in 0..200 {
        host.send(&pack);
    }
    let ended = host.end();
    assert!(ended.stderr.contains("the host does not listen any more"), "{ended:?}");
    assert!(ended.stderr.contains("code 75"), "{ended:?}");
    assert!(site.leftovers().is_empty());
}

#[test]
fn hidden_names_that_nobody_has_on_record_are_cleared_when_their_package_is_next_staged() {
    let site = Site::new();
    site.send(&[build("a/1", 1)]);
    let lost = site.folder("home/dpkg_archive/a/.blat-1f-2-3");
    for inner in ["", "inner"] {
        fs::create_dir_all(lost.join(inner)).unwrap();
        fs::write(lost.join(inner).join("file"), "x").unwrap();
        site.give(&lost.join(inner));
    }
    fs::set_permissions(lost.join("inner"), fs::Permissions::from_mode(0o500)).unwrap();
    let others =
        [".blat", ".blat-", ".blat-x-1", ".blat-1", ".keep"].map(|name| site.archive().join("a").join(name));
    others.iter().for_each(|path| fs::write(path, "").unwrap());
    assert_eq!(site.send(&[build("a/2", 1)]), [NEW]);
    assert!(!lost.exists());
    assert!(others.iter().all(|path| path.exists()), "what is not ours was removed");
}

#[test]
fn what_a_power_cut_took_off_its_record_is_cleared_by_the_purge_and_what_lives_is_not() {
    let site = Site::new();
    site.send(&[build("a/1", 1)]);
    let lost = ["a/.blat-1f-2-3", "c/.blat-1f-2-4"].map(|name| {
        site.folder(&format!("home/dpkg_archive/{}", name.split_once('/').unwrap().0));
        site.folder(&format!("home/dpkg_archive/{name}"))
    });
    let torn = |name: &str| {
        let path = site.archive().join(".dpkg_archive").join(name);
        site.give(&fs::write(&path, "").map(|()| path).unwrap());
    };
    torn("sessions/1f-2");
    site.folder("home/dpkg_archive/.dpkg_archive/partial");
    torn("partial/1f-2-3");
    // What begins and ends a session clears the record, which names nothing.
    let pack = build("b/1", 1);
    let mut live = half_sent(&site, &pack);
    wait_for("a record that is cleared", || !site.archive().join(".dpkg_archive/sessions/1f-2").exists());
    assert!(lost.iter().all(|path| path.exists()));
    assert!(site.command().arg("purge").status().unwrap().success());
    assert!(!lost[0].exists() && !site.archive().join("c").exists());
    live.bytes(&pack.plain[pack.plain.len() / 2..]);
    live.say(&blat_target::message::ToTarget::PackageEnd);
    assert_eq!(live.outcome(), NEW);
    assert_eq!(live.done().code, Some(0));
    assert!(site.leftovers().is_empty(), "{:?}", site.leftovers());
}

#[test]
fn a_dead_record_can_only_name_staging_of_its_own() {
    let site = Site::new();
    site.send(&[build("a/1", 1)]);
    let outside = site.folder("outside");
    fs::write(outside.join("file"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, site.archive().join("out")).unwrap();
    let kept = site.folder("home/dpkg_archive/a/.blat-2-2-0");
    let own = site.folder("home/dpkg_archive/a/.blat-1-1-0");
    let outer = site.folder("outside/.blat-1-1-0");
    let record = site.archive().join(".dpkg_archive/sessions/1-1");
    let lines =
        "a/1\na/.blat-2-2-0\na/.blat-1-1-0\nout/.blat-1-1-0\n../outside/file\na/../a/1\n/\n./\nout/\na/\nx";
    fs::write(&record, lines).unwrap();
    site.give(&record);
    assert_eq!(site.host().done().code, Some(0));
    assert!(!own.exists() && !record.exists());
    assert!(kept.exists() && outer.exists() && outside.join("file").exists());
    assert!(assert_whole(&site.archive().join("a/1")));
}

#[test]
fn two_sessions_at_once_may_send_the_same() {
    let site = Site::new();
    let reader = Reader::new(site.archive());
    std::thread::scope(|scope| {
        for side in 0..2 {
            let site = &site;
            scope.spawn(move || {
                for round in 0..6 {
                    // Now the same stamp, now another.
                    let packs: Vec<_> =
                        (0..10).map(|n| build(&format!("p{}/{n}", n % 2), round * (1 + side % 2))).collect();
                    let outcomes = site.send(&packs);
                    let good = |it: &Outcome| match it {
                        Outcome::Committed { .. } | Outcome::Unchanged => true,
                        Outcome::Refused(refusal) => refusal.reason.contains("came in another build"),
                    };
                    assert!(outcomes.iter().all(good), "{outcomes:?}");
                }
            });
        }
    });
    assert!(reader.end() > 0);
    assert_eq!(look(&site.archive()), 10);
    assert!(site.leftovers().is_empty(), "{:?}", site.leftovers());
}

#[test]
fn sessions_that_fail_and_succeed_in_one_new_package_do_not_hinder_each_other() {
    let site = Site::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..40 {
                let mut bad = Parts::described("a/bad");
                bad.digests[0][0] ^= 1;
                assert!(matches!(site.send(&[bad.pack()])[..], [Outcome::Refused(_)]));
            }
        });
        scope.spawn(|| {
            for round in 0..40 {
                let outcomes = site.send(&[Parts::described(&format!("a/{round}")).pack()]);
                assert_eq!(outcomes, [NEW]);
                let _ = fs::remove_dir_all(site.archive().join(format!("a/{round}")));
                let _ = fs::remove_dir(site.archive().join("a"));
            }
        });
    });
    assert!(site.leftovers().is_empty());
}

#[test]
fn work_in_hand_is_told_every_ten_seconds() {
    let site = Site::new();
    let idle = site.host();
    let mut busy = half_sent(&site, &build("a/1", 1));
    assert_eq!(busy.next_of_all(), Some(ToHost::Alive));
    busy.end();
    let said = idle.done().heard;
    assert!(!said.contains(&ToHost::Alive), "no work was in hand: {said:?}");
}

//! Marks and deletions over a session, and the purge: what has a mark goes, and nothing else does.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blat_target::mark::Mark;
use blat_target::message::{Info, Mend, Outcome, Standing, ToHost, ToTarget};
use blat_target::stamp::Stamp;
use common::delta::Told;
use common::pack::{Pack, Parts, STAMP};
use common::{Host, Site, host_hello, id, is_root};

const GONE: Outcome = Outcome::Committed { replaced: true };
const DAY: i64 = 86_400;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn pack(name: &str) -> Pack {
    let mut parts = Parts::described(name).folder("f").file("f/x", b"content");
    parts.manifest.entries[0].mode = 0o555;
    parts.manifest.entries[2].mode = 0o555;
    parts.pack()
}

fn standing(name: &str) -> (blat_target::package::PackageVersion, Standing) {
    (id(name), Standing::Version(Stamp(STAMP)))
}

trait Ages {
    fn mark(
        &mut self,
        what: Vec<(blat_target::package::PackageVersion, Standing)>,
        after: Option<u64>,
    ) -> u64;
    fn delete(&mut self, name: &str, stands: Standing) -> Outcome;
    fn told(&mut self, message: &ToTarget) -> ToHost;
    fn info(&mut self, message: &ToTarget) -> Info;
    fn marks(&mut self) -> (Vec<Mark>, Info);
}

impl Ages for Host {
    fn mark(
        &mut self,
        what: Vec<(blat_target::package::PackageVersion, Standing)>,
        after: Option<u64>,
    ) -> u64 {
        match self.told(&ToTarget::Mark { what, after, why: "it left".into() }) {
            ToHost::Marked(count) => count,
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, name: &str, stands: Standing) -> Outcome {
        let number = self.number();
        self.say(&ToTarget::Delete { number, id: id(name), stands });
        self.outcome()
    }

    fn told(&mut self, message: &ToTarget) -> ToHost {
        self.say(message);
        self.next().expect("an answer")
    }

    fn info(&mut self, message: &ToTarget) -> Info {
        match self.told(message) {
            ToHost::Info(info) => info,
            other => panic!("{other:?}"),
        }
    }

    fn marks(&mut self) -> (Vec<Mark>, Info) {
        self.say(&ToTarget::Marks);
        let mut marks = Vec::new();
        loop {
            match self.next() {
                Some(ToHost::Marks(some)) => marks.extend(some),
                Some(ToHost::Info(info)) => return (marks, info),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A site that has these, and a host whose clock is right.
fn site(names: &[&str]) -> (Site, Host) {
    let site = Site::new();
    let packs: Vec<_> = names.iter().map(|name| pack(name)).collect();
    site.send(&packs);
    let host = host(&site);
    (site, host)
}

fn host(site: &Site) -> Host {
    let mut host = site.connect();
    let hello = blat_target::message::HostHello { clock: now(), ..host_hello() };
    host.hello(hello);
    assert!(matches!(host.next(), Some(ToHost::Hello(_))));
    host
}

/// Runs the purge; its exit code, and what it said on both channels.
fn purge(site: &Site, arguments: &[&str]) -> (i32, String) {
    let said = site.command().arg("purge").args(arguments).output().unwrap();
    let words = [said.stdout, said.stderr].concat();
    (said.status.code().unwrap(), String::from_utf8(words).unwrap())
}

/// Makes all marks so many days older, as if they had been made then. Whole seconds of two clocks are
/// compared, so what is to go at once must not be of this very second.
fn age(site: &Site, days: i64) {
    let path = site.archive().join(".dpkg_archive/marks.txt");
    let text = fs::read_to_string(&path).unwrap();
    let older = |word: &str| match word.strip_prefix("since=") {
        Some(since) => format!("since={}", since.parse::<i64>().unwrap() - days * DAY),
        None => word.to_owned(),
    };
    let line = |line: &str| line.split(' ').map(older).collect::<Vec<_>>().join(" ") + "\n";
    fs::write(&path, text.lines().map(line).collect::<String>()).unwrap();
    site.give(&path);
}

#[test]
fn only_what_is_marked_and_still_the_same_is_deleted() {
    let (site, mut host) = site(&["a/1", "a/2", "a/3"]);
    assert!(matches!(host.delete("a/1", standing("a/1").1), Outcome::Refused(_)), "it has no mark");
    let other = (id("a/2"), Standing::Version(Stamp(5)));
    let strange = (id("a/3"), Standing::Other);
    assert_eq!(host.mark(vec![standing("a/1"), other, strange, standing("b/9")], None), 1);
    assert!(
        matches!(host.delete("a/1", Standing::Version(Stamp(5))), Outcome::Refused(_)),
        "the host saw another"
    );
    assert_eq!(host.delete("a/1", standing("a/1").1), GONE);
    assert_eq!(host.delete("a/1", standing("a/1").1), Outcome::Unchanged);
    assert!(matches!(host.delete("a/2", standing("a/2").1), Outcome::Refused(_)));
    let ended = host.done();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!site.archive().join("a/1").exists() && site.archive().join("a/2/f/x").exists());
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
    let mut host = host_of(&site);
    let (marks, info) = host.marks();
    assert_eq!((marks, info.deleted.len(), info.deleted[0].by.as_str()), (vec![], 1, "master"));
    host.done();
}

fn host_of(site: &Site) -> Host {
    host(site)
}

#[test]
fn what_is_sent_tagged_or_linked_to_again_loses_its_mark() {
    let (site, mut host) = site(&["a/1", "a/2", "a/3", "a/4"]);
    let all = ["a/1", "a/2", "a/3", "a/4"].map(standing).to_vec();
    assert_eq!(host.mark(all, Some(0)), 4);
    host.send(&pack("a/1"));
    assert_eq!(host.outcome(), Outcome::Unchanged);
    host.link("a/current", b"2");
    assert_eq!(host.outcome(), Outcome::Committed { replaced: false });
    let unmarked = host.told(&ToTarget::Unmark(vec![id("a/3"), id("a/9")]));
    assert_eq!(unmarked, ToHost::Standing(vec![standing("a/3").1, Standing::Absent]));
    let (marks, _) = host.marks();
    assert_eq!(marks.iter().map(|mark| mark.id.to_string()).collect::<Vec<_>>(), ["a/4"]);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 10 });
    host.done();
    let (code, said) = purge(&site, &[]);
    assert_eq!(code, 0, "{said}");
    let there = ["a/1", "a/2", "a/3", "a/4"].map(|name| site.archive().join(name).exists());
    assert_eq!(there, [true, true, true, false], "{said}");
}

#[test]
fn what_is_told_by_another_version_and_stands_there_loses_its_mark() {
    let (_site, mut host) = site(&["a/0", "a/1"]);
    assert_eq!(host.mark(vec![standing("a/1")], None), 1);
    host.tell(&Told::described("a/1", "0"));
    assert_eq!(host.outcome(), Outcome::Unchanged);
    assert_eq!(host.marks().0, []);
}

#[test]
fn what_a_link_without_a_mark_addresses_stays_and_marked_links_go_first() {
    let (site, mut host) = site(&["a/1", "b/1"]);
    for link in ["a/x", "b/x"] {
        host.link(link, b"1");
        assert_eq!(host.outcome(), Outcome::Committed { replaced: false });
    }
    let marked = vec![standing("a/1"), standing("b/1"), (id("b/x"), Standing::Link(b"1".to_vec()))];
    assert_eq!(host.mark(marked, Some(0)), 3);
    match host.delete("a/1", standing("a/1").1) {
        Outcome::Refused(why) => assert!(why.reason.contains("the link a/x"), "{why:?}"),
        other => panic!("{other:?}"),
    }
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 10 });
    host.done();
    let (code, said) = purge(&site, &[]);
    assert_eq!(code, 0, "{said}");
    let place = |line: &str| said.lines().position(|said| said == line);
    assert!(place("deleted b/x").unwrap() < place("deleted b/1").unwrap(), "{said}");
    assert!(site.archive().join("a/x/descpkg").exists() && !site.archive().join("b").exists(), "{said}");
}

#[test]
fn a_mark_that_became_old_enough_in_the_session_is_not_confirmed_by_it() {
    let (site, mut host) = site(&["a/1"]);
    assert_eq!(host.mark(vec![standing("a/1")], Some(DAY as u64 + 3)), 1);
    host.done();
    age(&site, 1);
    let mut host = host_of(&site);
    std::thread::sleep(Duration::from_secs(4));
    host.info(&ToTarget::Confirm { max_delete: 10 });
    host.done();
    assert!(!purge(&site, &[]).1.contains("deleted a/"));
    let mut host = host_of(&site);
    host.info(&ToTarget::Confirm { max_delete: 10 });
    host.done();
    assert!(purge(&site, &[]).1.contains("deleted a/1"));
}

#[test]
fn the_purge_deletes_what_is_old_enough_by_both_clocks_and_was_confirmed() {
    let (site, mut host) = site(&["a/1", "a/2"]);
    assert_eq!(host.mark(vec![standing("a/1")], Some(30 * DAY as u64)), 1);
    assert_eq!(host.mark(vec![standing("a/2")], None), 1);
    host.info(&ToTarget::Confirm { max_delete: 10 });
    host.done();
    age(&site, 29);
    assert!(!purge(&site, &[]).1.contains("deleted a/"));
    age(&site, 2);
    assert_eq!(purge(&site, &["--dry-run"]).1, "would delete a/1\n");
    assert!(site.archive().join("a/1").exists());
    let marks = site.archive().join(".dpkg_archive/marks.txt");
    let text = fs::read_to_string(&marks).unwrap();
    let (head, rest) = text.split_once('\n').unwrap();
    for confirmed in [0, now() - 3 * DAY] {
        fs::write(&marks, format!("blat-marks-1 confirmed={confirmed} max_delete=10\n{rest}")).unwrap();
        assert!(!purge(&site, &[]).1.contains("deleted a/"), "no master has confirmed it since");
    }
    fs::write(&marks, format!("blat-marks-1 confirmed={} max_delete=0\n{rest}", now())).unwrap();
    assert!(!purge(&site, &[]).1.contains("deleted a/"), "none may go");
    fs::write(&marks, format!("{head}\n{rest}")).unwrap();
    let (code, said) = purge(&site, &[]);
    assert_eq!((code, said.as_str()), (0, "deleted a/1\npurged: 1 deleted, 0 failed\n"));
    assert!(site.archive().join("a/2/f/x").exists(), "the purge has no say in it");
}

#[test]
fn a_clock_that_is_wrong_makes_a_mark_younger_never_older() {
    let (site, host) = site(&["a/1", "a/2"]);
    host.done();
    for (name, clock) in [("a/1", 0), ("a/2", now() + 100 * DAY)] {
        let mut host = site.connect();
        host.hello(blat_target::message::HostHello { clock, ..host_hello() });
        host.next();
        assert_eq!(host.mark(vec![standing(name)], Some(1)), 1);
        let (marks, _) = host.marks();
        let mark = marks.iter().find(|mark| mark.id == id(name)).unwrap();
        assert!(mark.since >= now() - 5, "{mark:?}");
        host.done();
    }
    // Once the clock is right, marks of the future are made anew.
    let mut host = host_of(&site);
    assert_eq!(host.mark(vec![standing("a/2")], Some(1)), 1);
    assert!(host.marks().0.iter().all(|mark| mark.since <= now() + 1));
    host.done();
}

#[test]
fn what_goes_together_goes_in_several_runs_where_few_may_go_in_one() {
    let (site, mut host) = site(&["a/1", "b/1"]);
    std::os::unix::fs::symlink("1", site.archive().join("a/current")).unwrap();
    let link = (id("a/current"), Standing::Link(b"1".to_vec()));
    assert_eq!(host.mark(vec![standing("a/1"), link, standing("b/1")], Some(0)), 3);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 1 });
    host.done();
    let rest = "no more than 1 are deleted in one run: the rest waits for the next\n";
    assert_eq!(purge(&site, &["--dry-run"]).1, format!("would delete a/current\n{rest}"));
    for gone in ["a/current", "a/1", "b/1"] {
        let (code, said) = purge(&site, &[]);
        assert_eq!((code, said.starts_with(&format!("deleted {gone}\n"))), (0, true), "{said}");
        assert_eq!(said.contains(rest), gone != "b/1", "{said}");
    }
}

#[test]
fn what_root_purges_and_indexes_stays_the_transfer_users() {
    if !is_root() {
        println!("only root can try this");
        return;
    }
    let (site, mut host) = site(&["a/1", "a/2"]);
    assert_eq!(host.mark(vec![standing("a/1")], Some(0)), 1);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 10 });
    host.done();
    // One that the transfer user may write to as a member of its group.
    for folder in [site.archive(), site.archive().join("a")] {
        std::os::unix::fs::chown(&folder, Some(0), Some(12345)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o775)).unwrap();
    }
    for what in ["purge", "index"] {
        let mut command = std::process::Command::new(site.helper());
        command.env_clear().env("HOME", site.path("home")).args([what, "--archive"]).arg(site.archive());
        let said = command.output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
    assert!(!site.archive().join("a/1").exists());
    let own = site.archive().join(".dpkg_archive");
    let user = fs::metadata(&own).unwrap().uid();
    for item in fs::read_dir(&own).unwrap().map(Result::unwrap) {
        assert_eq!(item.metadata().unwrap().uid(), user, "{:?}", item.path());
    }
}

#[test]
fn what_cannot_be_deleted_takes_no_place_of_what_can() {
    if !is_root() {
        println!("only root can try this");
        return;
    }
    let names = ["a/1", "a/2", "a/3", "b/1", "b/2", "c/1"];
    let (site, mut host) = site(&names);
    assert_eq!(host.mark(names.map(standing).into(), Some(0)), 6);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 2 });
    host.done();
    for (package, mode) in [("a", 0o755), ("c", 0o700)] {
        let folder = site.archive().join(package);
        std::os::unix::fs::chown(&folder, Some(0), Some(0)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    }
    let (code, said) = purge(&site, &[]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("2 deleted, 4 failed"), "what may not be looked into is told: {said}");
    assert!(
        !site.archive().join("b").exists() || fs::read_dir(site.archive().join("b")).unwrap().count() == 0
    );
}

#[test]
fn while_deletion_is_held_back_nothing_goes() {
    let (site, mut host) = site(&["a/1", "a/2"]);
    assert_eq!(host.mark(vec![standing("a/1"), standing("a/2")], Some(0)), 2);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 10 });
    let info = host.info(&ToTarget::Hold(Some("the audit".into())));
    assert_eq!(info.hold.as_deref(), Some("master the audit"));
    assert!(matches!(host.delete("a/1", standing("a/1").1), Outcome::Refused(_)));
    assert!(!purge(&site, &[]).1.contains("deleted a/"));
    let said = purge(&site, &["--dry-run"]).1;
    assert!(said.contains("held back") && !said.contains("would delete"), "{said}");
    assert!(site.archive().join("a/1").exists() && site.archive().join("a/2").exists());
    assert_eq!(host.info(&ToTarget::Hold(None)).hold, None);
    assert_eq!(host.delete("a/1", standing("a/1").1), GONE);
    host.done();
    assert!(purge(&site, &[]).1.contains("deleted a/2"));
}

#[test]
fn a_hold_stops_a_purge_that_runs() {
    let names: Vec<_> = (0..300).map(|number| format!("a/{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (site, mut host) = site(&names);
    assert_eq!(host.mark(names.iter().map(|name| standing(name)).collect(), Some(0)), 300);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 1000 });
    let left = || {
        fs::read_dir(site.archive().join("a")).map_or(0, |all| {
            all.filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
                .count()
        })
    };
    let purge = site.command().arg("purge").stdout(std::process::Stdio::piped()).spawn().unwrap();
    while left() == 300 {
        std::thread::sleep(Duration::from_micros(100));
    }
    host.info(&ToTarget::Hold(Some("stop".into())));
    let held = left();
    let said = purge.wait_with_output().unwrap();
    assert_eq!(left(), held, "what was deleted after the hold was answered");
    // On a machine that is very fast, or very slow here, it may have come to its end before.
    let words = String::from_utf8(said.stdout).unwrap();
    assert!(held == 0 || words.contains("deletion is held back"), "{words}");
    host.done();
}

#[test]
fn what_cannot_be_removed_is_told_tried_again_and_stops_nothing_else() {
    if !is_root() {
        return eprintln!("only root can make what its user cannot remove: not tried");
    }
    let (site, mut host) = site(&["a/1", "a/2", "a/3"]);
    let foreign = site.archive().join("a/2/foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("file"), "").unwrap();
    assert_eq!(host.mark(["a/1", "a/2", "a/3"].map(standing).to_vec(), Some(0)), 3);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 10 });
    host.done();
    let (code, said) = purge(&site, &[]);
    assert!(code != 0 && said.contains("could not remove all of a/2"), "{code} {said}");
    assert!(["a/1", "a/2", "a/3"].iter().all(|name| !site.archive().join(name).exists()), "{said}");
    assert!(!site.leftovers().is_empty(), "it is on record");
    let (code, said) = purge(&site, &[]);
    assert!(code != 0 && said.contains("could not remove a/.blat-"), "{code} {said}");
    let mut host = host_of(&site);
    assert_eq!(host.marks().1.purge.unwrap().failed, 1);
    host.done();
    for entry in fs::read_dir(site.archive().join("a")).unwrap() {
        let path = entry.unwrap().path().join("foreign");
        site.give(&path);
        site.give(&path.join("file"));
    }
    let (code, said) = purge(&site, &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
}

/// Makes a sealed version without a host: a thousand of them are sent in no time that a test has.
fn make(site: &Site, name: &str) {
    let folder = site.archive().join(name);
    fs::create_dir_all(folder.join("f")).unwrap();
    for file in ["descpkg", "f/x"] {
        let made = fs::File::create(folder.join(file)).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(STAMP as u64);
        made.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
        site.give(&folder.join(file));
    }
    for part in ["f", ""] {
        site.give(&folder.join(part));
        fs::set_permissions(folder.join(part), fs::Permissions::from_mode(0o555)).unwrap();
    }
    site.give(folder.parent().unwrap());
}

/// Reads all of a thousand versions again and again; how often one was seen, whole each time.
fn read_all(root: &std::path::Path, over: &AtomicBool) -> u64 {
    let mut whole = 0;
    while !over.load(Ordering::Relaxed) {
        for number in 0..1000 {
            let path = root.join(format!("a/{number}"));
            let Ok(held) = fs::File::open(&path) else { continue };
            let held_path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
            let parts = ["descpkg", "f/x"].map(|part| fs::metadata(format!("{held_path}/{part}")).is_ok());
            // What goes while it is read says nothing.
            if path.exists() {
                assert_eq!(parts, [true, true], "a/{number}");
                whole += 1;
            }
        }
    }
    whole
}

#[test]
fn readers_see_each_of_a_thousand_versions_whole_or_not_at_all_while_they_are_deleted() {
    let names: Vec<_> = (0..1000).map(|number| format!("a/{number}")).collect();
    let (site, mut host) = site(&[]);
    names.iter().for_each(|name| make(&site, name));
    let over = Arc::new(AtomicBool::new(false));
    let (root, done) = (site.archive(), over.clone());
    let reader = std::thread::spawn(move || read_all(&root, &done));
    assert_eq!(host.mark(names.iter().map(|name| standing(name)).collect(), Some(0)), 1000);
    names[..500].iter().for_each(|name| assert_eq!(host.delete(name, standing(name).1), GONE));
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 1000 });
    host.done();
    assert_eq!(fs::read_dir(site.archive().join("a")).unwrap().count(), 500);
    let (code, said) = purge(&site, &[]);
    assert_eq!(code, 0, "{said}");
    over.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0, "the reader has seen some");
    assert!(!site.archive().join("a").exists(), "the empty folder of the package goes too");
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn needed_again_while_the_purge_runs_it_is_there_at_the_end_whole() {
    let rounds = if std::env::var_os("BLAT_SOAK").is_some() { 200 } else { 20 };
    let (site, mut host) = site(&[]);
    let (mut saved, mut sent) = (0, 0);
    let mut random = 12345_u64;
    for round in 0..rounds {
        let names: Vec<_> = (0..5).map(|number| format!("a/{number}")).collect();
        for name in &names {
            host.send(&pack(name));
            assert!(!matches!(host.outcome(), Outcome::Refused(_)));
        }
        let marked = host.mark(names.iter().map(|name| standing(name)).collect(), Some(0));
        assert_eq!(marked, 5);
        age(&site, 1);
        host.info(&ToTarget::Confirm { max_delete: 100 });
        let purge = site.command().arg("purge").stdout(std::process::Stdio::piped()).spawn().unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((random >> 33) % 6000));
        host.send(&pack("a/2"));
        match host.outcome() {
            Outcome::Unchanged => saved += 1,
            Outcome::Committed { replaced: false } => sent += 1,
            other => panic!("round {round}: {other:?}"),
        }
        let said = purge.wait_with_output().unwrap();
        assert!(said.status.success(), "round {round}: {said:?}");
        for part in ["descpkg", "f/x"] {
            assert!(site.archive().join("a/2").join(part).exists(), "round {round}: {part} is gone");
        }
    }
    println!("{rounds} rounds: {saved} times it still stood, {sent} times it was sent again");
    host.done();
}

#[test]
fn a_purge_that_is_killed_leaves_no_part_in_sight_and_the_next_ends_it() {
    let names: Vec<_> = (0..60).map(|number| format!("a/{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (site, mut host) = site(&names);
    assert_eq!(host.mark(names.iter().map(|name| standing(name)).collect(), Some(0)), 60);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 1000 });
    host.done();
    for round in 0..12 {
        let mut purge = site.command().arg("purge").stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(1500 + 300 * round));
        purge.kill().unwrap();
        purge.wait().unwrap();
        for name in names.iter().filter(|name| site.archive().join(name).exists()) {
            assert!(site.archive().join(name).join("f/x").exists(), "{name} is a part");
        }
    }
    let (code, said) = purge(&site, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(!site.archive().join("a").exists());
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_belongs_to_others_or_is_broken_is_refused_with_a_reason() {
    let (site, mut host) = site(&["a/1"]);
    assert_eq!(host.mark(vec![standing("a/1")], Some(0)), 1);
    age(&site, 1);
    host.info(&ToTarget::Confirm { max_delete: 10 });
    fs::set_permissions(site.archive().join("a"), fs::Permissions::from_mode(0o555)).unwrap();
    match host.delete("a/1", standing("a/1").1) {
        Outcome::Refused(why) => assert_eq!(why.mend, Mend::Person, "{why:?}"),
        other => panic!("{other:?}"),
    }
    host.done();
    let (code, said) = purge(&site, &[]);
    assert!(code == 78 && said.contains("could not delete a/1"), "{code} {said}");
    fs::set_permissions(site.archive().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(purge(&site, &[]).0, 0);
    assert!(!site.archive().join("a/1").exists());
}

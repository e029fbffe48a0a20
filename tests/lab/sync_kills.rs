//! A synchronisation that is killed or cut, at any moment, goes on by itself where it stopped; tags
//! pass it by; a person can stop it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::builds::{Dice, put_build};
use crate::field::{Field, REAL_SOURCE, SOURCE, real_packages};
use crate::machines::{Link, Machine, Rate, wait_until};
use crate::releases::release;

const SITE: &str = "site1";
/// Who is hit, in turn.
const VICTIMS: [&str; 5] = ["the synchronisation", "the agent", "the ssh master", "the helper", "the cable"];

/// A master with a release of so many packages of 1 MB beside these, behind a slow link; the target is not there
/// yet.
fn filled(
    field: Field,
    mut ids: Vec<(String, String)>,
    bulk: u64,
    rate: u64,
) -> (Field, Link, Vec<(String, String)>) {
    let mut dice = Dice::new();
    for number in 0..bulk {
        let id = (format!("bulk{number}"), "1.0".to_owned());
        put_build(&field.source().join(&id.0).join(&id.1), number, 3, &dice.noise(1_000_000));
        ids.push(id);
    }
    let names: Vec<String> = ids.iter().map(|(package, version)| format!("{package}/{version}")).collect();
    field.master.write("/root/releases", release("Bus/0", 'N', &names), 0o644);
    field.master.sh("blat release import /root/releases");
    let link = field.lab.link(&field.master, &field.site, Rate::bits(rate), Duration::from_millis(10));
    (field, link, ids)
}

fn start(field: &Field) {
    field.master.sh(&format!("systemctl start --no-block blat-sync@{SITE}"));
}

fn add_target(field: &Field) {
    field.add_target(SITE, SOURCE, "releases = [\"Bus/0\"]\n");
    field.wait_connected(SITE);
}

/// What the agent's journal tells.
fn story(field: &Field) -> String {
    field.master.journal(&["-u", "blat@site1", "-o", "cat"])
}

/// How many packages the journal says were committed, by id.
fn committed(field: &Field) -> BTreeMap<String, usize> {
    let journal = story(field);
    let mut counts = BTreeMap::new();
    for line in journal.lines().filter_map(|line| line.strip_prefix("committed ")) {
        let id = line.split(' ').next().unwrap_or_default().to_owned();
        *counts.entry(id).or_default() += 1;
    }
    counts
}

fn runs(field: &Field) -> bool {
    field.active("blat-sync@site1") == "activating"
}

#[test]
fn a_fill_that_is_killed_and_cut_goes_on_by_itself() {
    let soak = std::env::var_os("BLAT_SOAK").is_some();
    let (rounds, rate) = if soak { (100, 4_000_000) } else { (20, 16_000_000) };
    let mut dice = Dice::new();
    let (field, ids) = (Field::new("synckills"), real_packages(10_000));
    field.master.sh(&format!("cp -a {REAL_SOURCE}/. {SOURCE}/"));
    let (field, link, ids) = filled(field, ids, 40, rate);
    add_target(&field);
    // Brings the helper: otherwise hits in quick succession meet nothing but its upload.
    field.master.sh("blat sync --dry-run site1");
    let begin = Instant::now();
    field.master.sh("blat sync --dry-run site1");
    // What a run asks before it sends takes longer on a busy machine, and is not all that is to be hit.
    let within = 1500 + 2 * begin.elapsed().as_millis() as u64;
    start(&field);
    let begin = Instant::now();
    let mut hits = [0; VICTIMS.len()];
    for round in 0..rounds {
        let victim = round % VICTIMS.len();
        hits[victim] += usize::from(hit(&field, &link, &mut dice, within, victim));
    }
    // What was committed for a run that was killed before it could tell is there all the same.
    let there = ids.iter().filter(|(package, version)| field.has(SITE, package, version)).count();
    let killing = begin.elapsed();
    wait_until("the fill is complete", Duration::from_secs(600), || {
        story(&field).lines().any(|line| line.starts_with("synchronised: "))
    });
    let counts = committed(&field);
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    println!(
        "{rounds} rounds in {killing:?}, each within {within} ms of a run's begin, hit {VICTIMS:?} {hits:?} \
         times; {there} of {} were there then; \
         complete {:?} later; {} told as committed, sent twice: {twice:?}; {} lines in the agent's journal \
         beside these",
        ids.len(),
        begin.elapsed() - killing,
        counts.len(),
        story(&field).lines().count() - counts.len(),
    );
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    assert!(hits.iter().sum::<usize>() * 4 >= rounds * 3, "too few of the hits met a run");
    assert!(hits.iter().all(|count| *count > 0), "somebody was never hit");
    assert!(there > 0, "nothing came through between the hits");
    assert!(there < ids.len(), "it was complete before the last hit");
    field.assert_equal(SITE, SOURCE, &ids);
    assert_eq!(field.staging(SITE), Vec::<std::path::PathBuf>::new());
    field.assert_no_failed_unit();
}

/// Hits a run that is under way, at a random moment of its first `within` milliseconds; whether there was
/// one.
fn hit(field: &Field, link: &Link, dice: &mut Dice, within: u64, victim: usize) -> bool {
    let begin = Instant::now();
    while !runs(field) && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(30));
    }
    std::thread::sleep(dice.millis(within));
    let (machine, script): (&Machine, &str) = match victim {
        0 => (&field.master, "kill -KILL $(pgrep -f '^/usr/bin/blat sync site1')"),
        1 => (&field.master, "kill -KILL $(systemctl show -P MainPID blat@site1)"),
        2 => (&field.master, "pkill -KILL -P $(systemctl show -P MainPID blat@site1) -x ssh"),
        3 => (&field.site, "pkill -KILL -x blat-target"),
        _ => {
            link.drop_all(true);
            std::thread::sleep(dice.millis(3000));
            link.drop_all(false);
            return true;
        }
    };
    machine.run(&["sh", "-euc", script]).status.success()
}

#[test]
fn tags_pass_a_long_synchronisation_by_and_a_second_one_says_that_one_runs() {
    let (field, _link, _) = filled(Field::new("synctags"), Vec::new(), 150, 10_000_000);
    add_target(&field);
    start(&field);
    wait_until("packages arrive", Duration::from_secs(60), || committed(&field).len() > 5);
    a_tag_is_fast(&field);
    a_second_one_is_told(&field);
    a_dry_run_beside_it(&field);
    a_person_stops_it(&field);
}

fn a_tag_is_fast(field: &Field) {
    let times: Vec<Duration> = (0..6)
        .map(|number| {
            let version = format!("1.{number}");
            field.publish("tagged", &version);
            let begin = Instant::now();
            field.tag(SITE, "tagged", &version);
            field.wait_for(SITE, "tagged", &version, Duration::from_secs(20));
            assert!(runs(field), "the synchronisation is over");
            begin.elapsed()
        })
        .collect();
    println!("tags beside a synchronisation over 10 Mbit/s: {times:?}");
    assert!(times.iter().all(|time| *time < Duration::from_secs(8)), "{times:?}");
}

fn a_second_one_is_told(field: &Field) {
    let second = field.master.run(&["blat", "sync", SITE]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(75), "{said}");
    assert_eq!(said, "blat: a synchronisation for this target runs already\n");
    assert!(runs(field), "the first goes on");
}

fn a_dry_run_beside_it(field: &Field) {
    let said = field.master.sh("blat sync --dry-run site1");
    assert!(said.contains(": missing, "), "{said}");
    assert!(runs(field), "the first goes on");
}

/// What a person stops is not started again, until somebody asks for it.
fn a_person_stops_it(field: &Field) {
    field.master.sh("systemctl stop blat-sync@site1");
    let there = committed(field).len();
    std::thread::sleep(Duration::from_secs(12));
    assert!(!runs(field) && committed(field).len() <= there + 1, "it was started again");
    assert_eq!(field.count("blat@site1", "the synchronisation was stopped"), 1);
    assert_eq!(field.active("blat-sync@site1"), "inactive");
    field.master.sh("systemctl kill -s USR1 blat@site1");
    wait_until("it goes on", Duration::from_secs(20), || committed(field).len() > there + 3);
    field.assert_no_failed_unit();
}

/// What root leaves behind by hand, the user of the unit can use.
#[test]
fn by_hand_by_root_and_with_the_agent_stopped() {
    let field = Field::new("byhand");
    field.publish("core", "1.0");
    field.add_target(SITE, SOURCE, "[packages]\ncore = \"1.0\"\n");
    field.wait_connected(SITE);
    field.master.sh("blat sync site1");
    assert!(field.has(SITE, "core", "1.0"));
    let foreign = field.master.sh("find /var/lib/blat/site1 /run/blat/site1 ! -user blat");
    assert_eq!(foreign, "", "not the user's");
    field.master.sh("systemctl start blat-sync@site1");
    wait_until("the unit's run is told", Duration::from_secs(10), || {
        field.count("blat@site1", "synchronised: 0 packages") == 1
    });
    field.master.sh("systemctl stop blat@site1; systemctl start blat-sync@site1");
    assert_eq!(field.master.sh("systemctl show -P ExecMainStatus blat-sync@site1"), "75");
    let says = "there is no connection to the target (the agent, if it runs, makes one by itself)";
    wait_until("it is told", Duration::from_secs(30), || field.count("blat-sync@site1", says) > 0);
    field.publish("core", "2.0");
    field.write_target(SITE, SOURCE, "[packages]\ncore = \"2.0\"\n");
    wait_until("it is accepted", Duration::from_secs(10), || {
        field.master.sh("cat /etc/blat/.accepted/targets/site1.toml").contains("2.0")
    });
    field.master.sh("blat sync site1");
    assert!(field.has(SITE, "core", "2.0"), "root has the key");
    assert_eq!(field.active("blat@site1"), "inactive", "nothing starts the agent");
    field.assert_no_failed_unit();
}

/// A killed run, or an agent that is told of a failure again and again, costs little.
#[test]
fn a_failing_database_fills_no_journal() {
    let field = Field::new("quiet");
    field.publish("core", "1.0");
    field.add_target(SITE, SOURCE, "releases = [1]\n");
    field.wait_connected(SITE);
    let before = field.lines();
    start(&field);
    std::thread::sleep(Duration::from_secs(30));
    let lines = field.lines() - before;
    let starts = field.count("blat-sync@site1", "Starting ");
    println!("a missing database for 30 s: {starts} starts, {lines} lines");
    assert!((2..=5).contains(&starts), "{starts} starts");
    assert!(lines <= 5 * starts + 5, "{lines} lines:\n{}", field.all_lines());
}

#[test]
fn what_was_missed_while_the_master_was_off_is_caught_up_and_timers_come_and_go() {
    let field = Field::new("timers");
    field.publish("core", "1.0");
    let listed = |field: &Field| {
        field.master.sh("systemctl list-timers --no-pager --no-legend").contains("blat-sync@site1.timer")
    };
    field.add_target(SITE, SOURCE, "");
    field.wait_connected(SITE);
    assert!(!listed(&field), "nothing to synchronise");
    let packages = |version: &str| format!("sync.period = 5\n[packages]\ncore = \"{version}\"\n");
    field.write_target(SITE, SOURCE, &packages("1.0"));
    wait_until("the timer is there", Duration::from_secs(20), || listed(&field));
    field.wait_for(SITE, "core", "1.0", Duration::from_secs(40));
    field.publish("core", "2.0");
    field.master.stop();
    std::thread::sleep(Duration::from_secs(7));
    let settings = field.master.file("/etc/blat/targets/site1.toml");
    let text = std::fs::read_to_string(&settings).expect("its settings");
    std::fs::write(&settings, text.replace("1.0", "2.0")).expect("written");
    field.master.start();
    let begin = Instant::now();
    let circles = field.master.kernel_log() + &field.master.journal(&["-b"]);
    assert!(!circles.contains("ordering cycle"), "a unit was left out of the boot");
    field.wait_for(SITE, "core", "2.0", Duration::from_secs(60));
    println!("with a period of 5 s, off for longer: caught up {:?} after the boot", begin.elapsed());
    field.write_target(SITE, SOURCE, "");
    wait_until("the timer is gone", Duration::from_secs(20), || !listed(&field));
    field.assert_no_failed_unit();
}

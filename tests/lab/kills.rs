//! Whatever is killed, and whenever: readers on the site see whole packages only, no tag is lost,
//! and nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::builds::{Dice, Witness, put_build};
use crate::field::{Field, SOURCE};
use crate::machines::{Machine, wait_until};

const PACKAGES: u64 = 8;
const VERSIONS: u64 = 6;

/// Who is killed, in turn.
const VICTIMS: [&str; 5] = ["the transfer", "the agent", "the ssh master", "the helper", "sshd's session"];

#[test]
fn readers_see_whole_packages_only_and_no_tag_is_lost() {
    let rounds = if std::env::var_os("BLAT_SOAK").is_some() { 200 } else { 20 };
    let mut dice = Dice::new();
    let field = Field::new("kills");
    field.add_target("site1", SOURCE, "verbosity = \"debug\"\n");
    field.wait_connected("site1");
    let witness = Witness::of(field.archive("site1"));
    let (over, feed) = (AtomicBool::new(false), dice.clone());
    let begin = Instant::now();
    let (tagged, hits) = std::thread::scope(|scope| {
        let feeder = scope.spawn(|| publish_until(&field, feed, &over));
        let hits = (0..rounds).map(|round| hit(&field, &mut dice, round % VICTIMS.len())).collect::<Vec<_>>();
        over.store(true, Relaxed);
        (feeder.join().expect("the feeder does not panic"), hits)
    });
    let killing = begin.elapsed();
    field.wait_no_tags("site1", Duration::from_secs(60));
    let settled = begin.elapsed() - killing;
    let (looked, wrong) = witness.ends();
    assert!(wrong.is_empty(), "the witness saw parts of packages:\n{}", wrong.join("\n"));
    let killed = VICTIMS.map(|victim| hits.iter().filter(|hit| **hit == Some(victim)).count());
    let (ids, tags) = tagged;
    println!(
        "{rounds} rounds in {killing:?}, killed {VICTIMS:?} {killed:?} times; {tags} tags, {} package-versions \
         and links, all there {settled:?} after the last kill; the witness read {looked} package-versions",
        ids.len()
    );
    assert!(hits.iter().flatten().count() * 4 >= rounds * 3, "too few of the kills met somebody");
    assert!(killed.iter().all(|count| *count > 0), "somebody was never killed");
    assert!(looked > 0, "the witness saw nothing");
    judge(&field, &ids);
    let told = field.master.journal(&["-u", "blat-transfer@site1", "-o", "cat"]);
    let told = told.lines().filter(|line| line.contains(" is told by ")).count();
    println!("{told} times a package was told by another version, or the rest of one");
}

fn judge(field: &Field, ids: &BTreeSet<(String, String)>) {
    let (links, folders): (Vec<_>, Vec<_>) =
        ids.iter().cloned().partition(|(_, version)| version == "current");
    field.assert_equal("site1", SOURCE, &folders);
    for (package, version) in links {
        let text =
            |root: &std::path::Path| fs::read_link(root.join(&package).join(&version)).expect("a link");
        assert_eq!(text(&field.source()), text(&field.archive("site1")), "{package}/{version}");
    }
    field.assert_nothing_left("site1");
    field.assert_no_failed_unit();
}

/// Kills somebody at a random moment; says who, if there was anybody to kill.
fn hit(field: &Field, dice: &mut Dice, victim: usize) -> Option<&'static str> {
    std::thread::sleep(dice.millis(800));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(15) {
        if kill(field, victim) {
            return Some(VICTIMS[victim]);
        }
        std::thread::sleep(dice.millis(30));
    }
    None
}

fn kill(field: &Field, victim: usize) -> bool {
    let (machine, script): (&Machine, &str) = match victim {
        0 => (&field.master, "kill -KILL $(pgrep -f '^/usr/bin/blat transfer site1')"),
        1 => (&field.master, "kill -KILL $(systemctl show -P MainPID blat@site1)"),
        2 => (&field.master, "pkill -KILL -P $(systemctl show -P MainPID blat@site1) -x ssh"),
        3 => (&field.site, "pkill -KILL -x blat-target"),
        _ => (&field.site, "pkill -KILL -u pkgadmin -x sshd"),
    };
    machine.run(&["sh", "-euc", script]).status.success()
}

/// Publishes and tags without a pause: new versions, new builds of old ones, links that turn, and
/// some that take a while to send.
fn publish_until(field: &Field, mut dice: Dice, over: &AtomicBool) -> (BTreeSet<(String, String)>, u64) {
    let (mut ids, mut tags) = (BTreeSet::new(), 0);
    // Large ones have most in common, and are told by each other.
    let common = dice.noise(20_000_000);
    while !over.load(Relaxed) {
        tags += 1;
        let package = format!("package{}", dice.below(PACKAGES));
        let mut version = format!("1.{}", dice.below(VERSIONS));
        if dice.below(5) == 0 && ids.contains(&(package.clone(), version.clone())) {
            field.publish_link(&package, "current", &version);
            version = "current".into();
        } else {
            let large = dice.below(10) == 0;
            let folder = field.source().join(&package).join(&version);
            let blob = match large {
                true => changed(&mut dice, &common),
                false => noise(&mut dice, 5_000),
            };
            put_build(&folder, tags, 1 + dice.below(12) as usize, &blob);
        }
        field.tag("site1", &package, &version);
        ids.insert((package, version));
        std::thread::sleep(dice.millis(250));
    }
    (ids, tags)
}

fn noise(dice: &mut Dice, below: u64) -> Vec<u8> {
    let length = dice.below(below);
    dice.noise(length as usize)
}

/// A beginning of it, with changes all over.
fn changed(dice: &mut Dice, common: &[u8]) -> Vec<u8> {
    let mut blob = common[..3_000_000 + dice.below(17_000_000) as usize].to_vec();
    let step = 500 + dice.below(5_000) as usize;
    blob.iter_mut().step_by(step).for_each(|byte| *byte ^= 1);
    blob
}

#[test]
fn a_killed_transfer_is_taken_up_soon_though_another_tag_waits() {
    let field = Field::with_target("takeup");
    field.publish_open("waits", "1.0", &[]);
    field.tag("site1", "waits", "1.0");
    let mut dice = Dice::new();
    wait_until("the first tag waits", Duration::from_secs(10), || {
        field.master.journal(&["-u", "blat@site1"]).contains("still writable")
    });
    put_build(&field.source().join("large/1.0"), 1, 1, &dice.noise(60_000_000));
    field.tag("site1", "large", "1.0");
    wait_until("the transfer was killed", Duration::from_secs(10), || {
        field.staging("site1").iter().any(|path| path.join("blob").exists()) && kill(&field, 0)
    });
    let begin = Instant::now();
    field.wait_for("site1", "large", "1.0", Duration::from_secs(20));
    println!("a killed transfer of 60 MB was taken up and done after {:?}", begin.elapsed());
    assert!(!field.has("site1", "waits", "1.0"));
    field.assert_no_failed_unit();
}

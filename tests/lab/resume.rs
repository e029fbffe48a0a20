//! A large package on a line that breaks: what came before is not sent again, and a limit on the line,
//! or on memory, holds.

use std::time::{Duration, Instant};

use crate::builds::{Dice, put_build};
use crate::field::{Field, SOURCE};
use crate::machines::{Link, Rate, wait_until};
use crate::usage::Watch;

/// What a line that breaks may cost, in bytes sent twice.
const TWICE_MAX: i64 = 8 << 20;
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// What the limit is set to, in bytes a second, and how much is sent under it.
const LIMIT: u64 = 4 << 20;
const LIMITED: usize = 44 << 20;
/// And the bounds on memory, in MiB.
const HERE: u32 = 128;
const THERE: u32 = 32;

/// The size of the packages: one that took a while.
fn size() -> usize {
    if std::env::var_os("BLAT_SOAK").is_some() { 2_000_000_000 } else { 200_000_000 }
}

#[test]
fn what_came_before_the_line_broke_is_not_sent_again() {
    let field = Field::with_target("resume");
    let link = field.lay_line((Rate::mbit(500), Duration::from_millis(10)), &["site1"]);
    let noise = Dice::new().noise(size());
    let whole = unbroken(&field, &link, &noise);
    broken(&field, &link, &noise, whole);
    limited(&field, &link, &noise[..LIMITED], whole);
    bounded(&field, &link, noise);
    let ids = ["whole", "broken", "limited"].map(|package| (package.to_owned(), "1.0".to_owned()));
    field.assert_equal("site1", SOURCE, &[("whole".into(), "1.1".into())]);
    field.assert_equal("site1", SOURCE, &ids);
    field.assert_nothing_left("site1");
    field.assert_no_failed_unit();
}

fn sent(link: &Link) -> u64 {
    link.bytes().0
}

fn publish(field: &Field, package: &str, noise: &[u8]) {
    put_build(&field.source().join(package).join("1.0"), 1, 3, noise);
    field.tag("site1", package, "1.0");
}

/// The bytes on the wire of a package on a line that holds.
fn unbroken(field: &Field, link: &Link, noise: &[u8]) -> u64 {
    let before = sent(link);
    let (master, site) = (Watch::start(&field.master), Watch::start(&field.site));
    publish(field, "whole", noise);
    field.wait_for("site1", "whole", "1.0", PATIENCE);
    field.wait_no_tags("site1", PATIENCE);
    let there = site.end().anonymous("blat-target");
    println!("memory: {:.0} MiB on the master, {there:.0} MiB on the site", master.end().anonymous("blat"));
    assert!(there < 64.0, "{there} MiB on the site, without a base");
    sent(link) - before
}

/// The ssh connection is killed, then the helper, then the cable is pulled.
fn broken(field: &Field, link: &Link, noise: &[u8], whole: u64) {
    let before = sent(link);
    publish(field, "broken", noise);
    let wait_for = |part: u64| {
        let due = before + whole / 8 * part;
        wait_until("a part of it went", PATIENCE, || sent(link) > due);
        assert!(!field.has("site1", "broken", "1.0"), "it was quicker");
    };
    wait_for(2);
    field.master.sh("pkill -KILL -P $(systemctl show -P MainPID blat@site1) -x ssh");
    wait_for(4);
    field.site.sh("pkill -KILL -x blat-target");
    wait_for(6);
    link.drop_all(true);
    let begin = Instant::now();
    // A tag that is dropped meanwhile finds that the line is dead.
    wait_until("the line is given up", Duration::from_secs(90), || {
        field.active("blat-transfer@site1") != "activating"
    });
    println!("given up {:?} after the cable was pulled", begin.elapsed());
    link.drop_all(false);
    field.wait_for("site1", "broken", "1.0", PATIENCE);
    field.wait_no_tags("site1", PATIENCE);
    let twice = (sent(link) - before) as i64 - whole as i64;
    let goes_on = field.count("blat@site1", "broken/1.0: the target has");
    println!(
        "{whole} bytes in one go; on a line that broke three times {:+.2} MB, {goes_on} times gone on with",
        twice as f64 / 1e6
    );
    assert!(goes_on >= 3, "{}", field.all_lines());
    assert!(twice < 3 * TWICE_MAX, "{twice} bytes more");
}

/// The next version of a large package, told by it: the bounds on memory hold.
fn bounded(field: &Field, link: &Link, mut noise: Vec<u8>) {
    noise.iter_mut().step_by(997).for_each(|byte| *byte ^= 1);
    let before = sent(link);
    let (master, site) = (Watch::start(&field.master), Watch::start(&field.site));
    put_build(&field.source().join("whole").join("1.1"), 2, 3, &noise);
    field.tag("site1", "whole", "1.1");
    field.wait_for("site1", "whole", "1.1", PATIENCE);
    field.wait_no_tags("site1", PATIENCE);
    let (here, there) = (master.end().anonymous("blat"), site.end().anonymous("blat-target"));
    println!(
        "told by another, memory: {here:.0} of {HERE} MiB on the master, {there:.0} of {THERE} MiB on the site"
    );
    assert!(sent(link) - before < size() as u64 / 10, "it was not told by another");
    assert!(here < f64::from(HERE) && there < f64::from(THERE), "{here} and {there} MiB");
}

/// A limit is kept to within 5 %: the packed stream's bytes, for the line adds its own to them.
fn limited(field: &Field, link: &Link, noise: &[u8], whole: u64) {
    let on_the_line = whole as f64 / size() as f64;
    let text = field.master.sh("cat /etc/blat/targets/site1.toml");
    let text =
        text.replace("[ssh]", &format!("[ssh]\nbandwidth = \"{}m\"\nmemory = \"{HERE}m\"", LIMIT >> 20));
    let text = text.replace("[target]", &format!("[target]\nmemory = \"{THERE}m\""));
    field.master.write("/etc/blat/targets/site1.toml", text, 0o644);
    wait_until("the limit is accepted", Duration::from_secs(30), || {
        field.master.sh("cat /etc/blat/.accepted/targets/site1.toml").contains("bandwidth")
    });
    let start = sent(link);
    publish(field, "limited", noise);
    let reached = |bytes: usize| {
        wait_until("it is on its way", PATIENCE, || sent(link) - start > bytes as u64);
        (Instant::now(), sent(link))
    };
    let (begin, first) = reached(LIMITED / 20);
    let (end, last) = reached(LIMITED - LIMITED / 20);
    let rate = (last - first) as f64 / on_the_line / (end - begin).as_secs_f64();
    let off = rate / LIMIT as f64 - 1.0;
    println!("a limit of {LIMIT} bytes a second: {rate:.0}, off by {:.1} %", off * 100.0);
    assert!(off.abs() < 0.05, "{rate:.0} bytes a second");
    field.wait_for("site1", "limited", "1.0", PATIENCE);
    field.wait_no_tags("site1", PATIENCE);
}

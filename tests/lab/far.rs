//! A line so long that the window of one connection cannot fill it: more are made for a session that sends much,
//! and what they break costs little.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::builds::{Dice, put_build};
use crate::field::{Field, SOURCE};
use crate::machines::{Link, Rate, wait_until};

/// One connection carries two fifths of it: so little that a busy machine, too, can pack and carry more.
const LINE: (Rate, Duration) = (Rate::mbit(100), Duration::from_millis(400));
/// The most that it carries, in bytes a second: what sshd lets be under way in each round trip.
const BY_ONE: f64 = (2 << 20) as f64 / 0.4;
const SIZE: usize = 150_000_000;
const SMALL: usize = 30_000_000;
/// A line that loses one packet of a thousand, however little goes by it: one connection carries a part of what it
/// would.
const LOSSY: (Rate, Duration) = (Rate::mbit(100), Duration::from_millis(50));
const LOST: u32 = 1000;
/// What a line that breaks may cost, in bytes sent twice.
const TWICE_MAX: i64 = 8 << 20;
/// The kernel halves what it lets be under way for each time that it would have waited for an answer: here, for
/// less than a second.
const SILENCE: Duration = Duration::from_secs(7);
/// So long, keepalives are lost; one is sent each 10 s, and the third that has no answer ends the connection.
const CUT: Duration = Duration::from_secs(15);
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn what_one_connection_cannot_carry_goes_over_several() {
    let field = Field::with_target("far");
    let link = field.lay_line(LINE, &["site1"]);
    let noise = Dice::new().noise(SIZE);
    let whole = wide(&field, &link, &noise);
    broken(&field, &link, &noise, whole);
    shared(&field, &noise[..2 * SMALL]);
    narrow(&field, &link, &noise[..SMALL]);
    drop(link);
    let ids = ["wide", "broken", "narrow"].map(|package| (package.to_owned(), "1.0".to_owned()));
    field.assert_equal("site1", SOURCE, &ids);
    for target in ["site1", "site2"] {
        field.assert_equal(target, SOURCE, &[("shared".into(), "1.0".into())]);
        field.assert_nothing_left(target);
    }
    field.assert_no_failed_unit();
}

#[test]
fn a_line_that_loses_packets_is_used_by_several_connections() {
    let field = Field::with_target("lossy");
    let link = field.lay_line(LOSSY, &["site1"]);
    link.lose(LOST);
    let noise = Dice::new().noise(2 * SMALL);
    let by_several = brought(&field, &link, "wide", &noise);
    assert_eq!(field.widened("site1"), 1);
    only_one(&field);
    let by_one = brought(&field, &link, "narrow", &noise[..SMALL / 2]);
    println!("{:.0} Mbit/s by four connections, {:.0} by one", by_several * 8e-6, by_one * 8e-6);
    assert!(by_several > 1.5 * by_one);
    drop(link);
    let ids = ["wide", "narrow"].map(|package| (package.to_owned(), "1.0".to_owned()));
    field.assert_equal("site1", SOURCE, &ids);
    field.assert_no_failed_unit();
}

#[test]
fn a_connection_that_was_silent_carries_as_much_at_once_as_before() {
    let field = Field::with_target("silent");
    let _link = field.lay_line(LINE, &["site1"]);
    let brought = |package: &str, size: usize| {
        publish(&field, package, &Dice::new().noise(size));
        field.wait_for("site1", package, "1.0", PATIENCE);
        field.wait_no_tags("site1", PATIENCE);
        congestion_window(&field)
    };
    let begin = Instant::now();
    brought("first", 1000);
    println!("the helper and a package: {:?}", begin.elapsed());
    let grown = brought("large", SMALL / 6);
    std::thread::sleep(SILENCE);
    let kept = brought("small", 1000);
    println!("segments that may be under way at once: {grown}, and after a silence {kept}");
    assert!(kept > grown / 2);
}

#[test]
fn a_connection_that_lost_packets_in_a_silence_is_replaced_and_serves_to_the_end() {
    let field = Field::with_target("losses");
    publish(&field, "first", b"the helper goes with it");
    field.wait_for("site1", "first", "1.0", PATIENCE);
    field.wait_no_tags("site1", PATIENCE);
    let link = field.lay_line(LINE, &["site1"]);
    let command = "runuser -u blat -- ssh -S /run/blat/site1/ssh site1 'read -r word; echo $word'";
    let mut served = field.master.spawn(&["sh", "-c", command]);
    link.drop_all(true);
    std::thread::sleep(CUT);
    link.drop_all(false);
    wait_until("the losses have left their mark", PATIENCE, || threshold(&field).is_some());
    println!("after a loss in a silence, slow start ends at {:?} segments", threshold(&field));
    let begin = Instant::now();
    wait_until("there is a new connection", PATIENCE, || field.count("blat@site1", "is a new one") == 1);
    println!("a new connection after {:?}", begin.elapsed());
    assert_eq!(of_connections(&field, "cwnd:").len(), 2, "somebody still uses the old one");
    served.stdin.take().expect("a pipe").write_all(b"served\n").expect("the session goes on");
    let output = served.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "served\n", "{output:?}");
    wait_until("the old connection has ended", PATIENCE, || of_connections(&field, "cwnd:").len() == 1);
    assert_eq!(threshold(&field), None);
    publish(&field, "second", &Dice::new().noise(SMALL / 6));
    let begin = Instant::now();
    field.wait_for("site1", "second", "1.0", PATIENCE);
    println!("5 MB over it: {:?}", begin.elapsed());
    assert_eq!(field.count("blat@site1", "is not connected"), 0, "{}", field.all_lines());
    field.assert_no_failed_unit();
}

/// How many segments may be under way on the connection to the site, as the kernel has it.
fn congestion_window(field: &Field) -> u64 {
    of_connections(field, "cwnd:").into_iter().max().expect("a connection")
}

/// Up to how many segments that grows quickly, on the connection that lost most.
fn threshold(field: &Field) -> Option<u64> {
    of_connections(field, "ssthresh:").into_iter().min()
}

/// What the kernel says under this name of each connection to the site of which it says that.
fn of_connections(field: &Field, name: &str) -> Vec<u64> {
    let said = field.master.sh("ss -tinH state established '( dport = :22 )'");
    said.split_whitespace().filter_map(|word| word.strip_prefix(name)?.parse().ok()).collect()
}

fn sent(link: &Link) -> u64 {
    link.bytes().0
}

fn publish(field: &Field, package: &str, noise: &[u8]) {
    put_build(&field.source().join(package).join("1.0"), 1, 3, noise);
    field.tag("site1", package, "1.0");
}

/// What is packed once for two targets goes to each over several connections.
fn shared(field: &Field, noise: &[u8]) {
    field.add_target("site2", SOURCE, "");
    field.wait_connected("site2");
    put_build(&field.source().join("shared").join("1.0"), 1, 3, noise);
    let targets = ["site1", "site2"];
    targets.iter().for_each(|target| field.tag(target, "shared", "1.0"));
    for target in targets {
        field.wait_for(target, "shared", "1.0", PATIENCE);
        field.wait_no_tags(target, PATIENCE);
    }
    let widened = field.widened("site2");
    println!("shared by two; the second one over several connections: {}", widened == 1);
    let stayed =
        targets.map(|target| field.count(&format!("blat@{target}"), "much is sent by one connection"));
    assert_eq!(stayed, [0, 0], "{}", field.all_lines());
}

/// How fast the line is used between half and nine tenths of what goes.
fn rate(link: &Link, before: u64, size: usize) -> f64 {
    let reached = |part: f64| {
        let due = before + (size as f64 * part) as u64;
        wait_until("a part of it went", PATIENCE, || sent(link) > due);
        (Instant::now(), sent(link))
    };
    let (begin, first) = reached(0.5);
    let (end, last) = reached(0.9);
    (last - first) as f64 / (end - begin).as_secs_f64()
}

/// A package is brought; how fast.
fn brought(field: &Field, link: &Link, package: &str, noise: &[u8]) -> f64 {
    let before = sent(link);
    publish(field, package, noise);
    let rate = rate(link, before, noise.len());
    field.wait_for("site1", package, "1.0", PATIENCE);
    field.wait_no_tags("site1", PATIENCE);
    rate
}

/// Four connections carry more than one could; the bytes on the wire.
fn wide(field: &Field, link: &Link, noise: &[u8]) -> u64 {
    let before = sent(link);
    publish(field, "wide", noise);
    let rate = rate(link, before, noise.len());
    let is_told = || field.status_text("site1").contains(", 4 connections; ");
    wait_until("the status tells of four connections", PATIENCE, is_told);
    let is_told = || field.master.sh("blat status site1").contains(", 4 connections");
    wait_until("blat status tells of them, too", PATIENCE, is_told);
    field.wait_for("site1", "wide", "1.0", PATIENCE);
    field.wait_no_tags("site1", PATIENCE);
    println!("{:.0} Mbit/s; by one connection at most {:.0}", rate * 8e-6, BY_ONE * 8e-6);
    assert_eq!(field.widened("site1"), 1);
    // On an idle machine it is twice as much; a busy one has to show only that it is more than one could.
    assert!(rate > 1.2 * BY_ONE, "{rate} bytes a second");
    sent(link) - before
}

/// One of the further connections is killed, then the first.
fn broken(field: &Field, link: &Link, noise: &[u8], whole: u64) {
    let before = sent(link);
    publish(field, "broken", noise);
    // Such patterns do not match what looks for them.
    for (part, victim) in [(4, "ssh[.]3[.][0-9a-f]+"), (6, "ss[h][.][0-9a-f]+")] {
        let due = before + whole / 8 * part;
        wait_until("a part of it went", PATIENCE, || sent(link) > due);
        assert!(!field.has("site1", "broken", "1.0"), "it was quicker");
        field.master.sh(&format!("pkill -KILL -f -- '-M -S /run/blat/site1/{victim} '"));
    }
    field.wait_for("site1", "broken", "1.0", PATIENCE);
    field.wait_no_tags("site1", PATIENCE);
    let twice = (sent(link) - before) as i64 - whole as i64;
    let goes_on = field.count("blat@site1", "broken/1.0: the target has");
    println!("two connections killed: {:+.2} MB, {goes_on} times gone on with", twice as f64 / 1e6);
    assert!(goes_on >= 2, "{}", field.all_lines());
    assert!(twice < 2 * TWICE_MAX, "{twice} bytes more");
}

/// Where a person wants one connection, there is one.
fn narrow(field: &Field, link: &Link, noise: &[u8]) {
    only_one(field);
    let rate = brought(field, link, "narrow", noise);
    println!("{:.0} Mbit/s by one connection", rate * 8e-6);
    assert!(rate < 1.1 * BY_ONE, "{rate} bytes a second");
    assert!(!field.status_text("site1").contains("connections"));
}

/// Has the target reached by one connection.
fn only_one(field: &Field) {
    let text = field.master.sh("cat /etc/blat/targets/site1.toml");
    let text = text.replace("[ssh]", "[ssh]\nconnections = 1");
    field.master.write("/etc/blat/targets/site1.toml", text, 0o644);
    wait_until("the others are closed", PATIENCE, || !field.status_text("site1").contains("connections"));
}

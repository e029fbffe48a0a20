//! Tags that must wait, and tags that are refused: neither is in the way of the others.

use std::fs;
use std::time::{Duration, Instant};

use crate::builds::{Dice, put_build};
use crate::field::{Field, SOURCE, seal};
use crate::machines::wait_until;

const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn a_fresh_tag_is_not_held_up_by_a_waiting_one_and_that_arrives_once_it_is_sealed() {
    let field = Field::with_target("waiting");
    let open = field.publish_open("waits", "1.0", &[("data", "some")]);
    field.tag("site1", "waits", "1.0");
    wait_until("the journal says why it waits", Duration::from_secs(10), || {
        field.count("blat@site1", "waits/1.0 is still writable") > 0
    });
    let mut slowest = Duration::ZERO;
    for number in 0..10 {
        let version = number.to_string();
        field.publish("fresh", &version);
        let begin = Instant::now();
        field.tag("site1", "fresh", &version);
        field.wait_for("site1", "fresh", &version, AT_ONCE);
        slowest = slowest.max(begin.elapsed());
    }
    assert!(!field.has("site1", "waits", "1.0"));
    seal(&open);
    let begin = Instant::now();
    field.wait_for("site1", "waits", "1.0", Duration::from_secs(40));
    println!(
        "beside a waiting tag, the slowest of 10 fresh ones took {slowest:?}; the other arrived {:?} after \
         it was sealed",
        begin.elapsed()
    );
    field.wait_no_tags("site1", AT_ONCE);
    assert_eq!(field.count("blat@site1", "waits/1.0 is still writable"), 1);
}

#[test]
fn a_tag_for_what_is_not_there_is_given_up_and_a_malformed_one_at_once() {
    let field = Field::new("rejected");
    field.add_target("site1", SOURCE, "[tags]\ngive_up = 5\n");
    field.wait_connected("site1");
    let rejected = |name: &str| field.master.file(&format!("/var/lib/blat/site1/rejected/{name}"));
    let reason = |name: &str| fs::read_to_string(rejected(name)).unwrap_or_default();
    let tags = field.master.file("/var/lib/blat/tags/site1");
    for name in ["no-version", "core::..", "a::b::c", "core::.hidden", "core::"] {
        fs::write(tags.join(name), "").expect("a tag");
        wait_until(&format!("{name} is rejected"), AT_ONCE, || !reason(name).is_empty());
        println!("{name}: {}", reason(name).lines().nth(1).unwrap_or_default());
    }
    field.publish_link("core", "out", "../other/1.0");
    field.tag("site1", "core", "out");
    wait_until("the link is refused", AT_ONCE, || !reason("core::out").is_empty());
    field.tag("site1", "core", "missing");
    let begin = Instant::now();
    wait_until("what is missing is given up", Duration::from_secs(30), || {
        reason("core::missing").contains("does not have it")
    });
    println!("what is missing was given up after {:?}", begin.elapsed());
    assert!(begin.elapsed() > Duration::from_secs(5));
    wait_until("the journal tells of it", AT_ONCE, || {
        field.count("blat@site1", "rejected the tag core::missing") == 1
    });
    assert_eq!(field.open_tags("site1"), 0);
    field.assert_no_failed_unit();
}

#[test]
fn a_tag_dropped_again_while_it_is_sent_is_sent_again() {
    let field = Field::new("again");
    field.master.write("/etc/blat/blat.toml", "[ssh]\nbandwidth = \"4m\"\n", 0o644);
    field.add_target("site1", SOURCE, "");
    field.wait_connected("site1");
    let folder = field.source().join("core/1.0");
    let mut dice = Dice::new();
    put_build(&folder, 1, 3, &dice.noise(20_000_000));
    field.tag("site1", "core", "1.0");
    wait_until("it is under way", Duration::from_secs(20), || !field.staging("site1").is_empty());
    put_build(&folder, 2, 3, &dice.noise(1_000_000));
    field.tag("site1", "core", "1.0");
    assert!(!field.has("site1", "core", "1.0"), "it was sent before it was tagged again");
    field.wait_no_tags("site1", Duration::from_secs(40));
    field.assert_equal("site1", SOURCE, &[("core".into(), "1.0".into())]);
    field.assert_nothing_left("site1");
}

#[test]
fn a_tag_directory_that_cannot_be_used_starts_few_transfers() {
    let field = Field::with_target("unusable");
    field.count_starts();
    let tags = "/var/lib/blat/tags/site1";
    field.master.sh(&format!("chown -R root:root {tags} && chmod 0755 {tags}"));
    field.publish("core", "1.0");
    field.tag("site1", "core", "1.0");
    std::thread::sleep(Duration::from_secs(12));
    let (starts, lines) = (field.starts("site1"), field.lines());
    field.master.sh(&format!("chown -R blat:blat-tags {tags} && chmod 2775 {tags}"));
    let begin = Instant::now();
    field.wait_for("site1", "core", "1.0", Duration::from_secs(20));
    println!(
        "a directory of root's: {starts} starts, {lines} lines in 12 s; sent {:?} after",
        begin.elapsed()
    );
    assert!(starts <= 5 && lines <= 50, "{starts} starts, {lines} lines:\n{}", field.all_lines());
    field.assert_no_failed_unit();
}

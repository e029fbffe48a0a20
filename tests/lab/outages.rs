//! A site that is down, or hangs: what was tagged arrives once it can, without a hand, and
//! meanwhile starts of the transfer and lines in the journal are few.

use std::time::{Duration, Instant};

use crate::builds::{Dice, put_build};
use crate::field::{Field, SOURCE};
use crate::machines::{Rate, wait_until};

/// How soon a hang is given up, and how soon a transfer must be over once nothing hinders it: the
/// line is tried once a minute at least.
const GIVEN_UP: Duration = Duration::from_secs(60);
const RECOVERED: Duration = Duration::from_secs(90);

#[test]
fn tags_for_a_site_that_is_down_wait_for_it() {
    let outage = Duration::from_secs(if std::env::var_os("BLAT_SOAK").is_some() { 60 } else { 20 });
    let field = under_way("down");
    let ids: Vec<_> = (0..10).map(|number| ("core".to_owned(), format!("1.{number}"))).collect();
    for (package, version) in &ids {
        field.publish(package, version);
    }
    let before = field.lines();
    field.site.kill();
    assert!(!field.has("site1", "large", "1.0"), "it was done before the power was cut");
    let begin = Instant::now();
    for (package, version) in &ids {
        field.tag("site1", package, version);
        std::thread::sleep(outage / ids.len() as u32);
    }
    let (starts, lines) = (field.starts("site1"), field.lines() - before);
    field.site.start();
    let up = Instant::now();
    field.wait_for("site1", "large", "1.0", RECOVERED);
    field.wait_no_tags("site1", RECOVERED);
    println!(
        "down for {:?} with 10 tags: {starts} starts, {lines} lines; all there {:?} after the boot",
        up - begin,
        up.elapsed()
    );
    // A start for each tag, and few for the line that is found to be dead. Two lines of the
    // transfer's own for each start, and few of the agent's.
    assert!(starts <= 10 + 5, "{starts} starts");
    assert!(lines <= 2 * starts + 10, "{lines} lines:\n{}", field.all_lines());
    field.assert_equal("site1", SOURCE, &ids);
    field.assert_equal("site1", SOURCE, &[("large".into(), "1.0".into())]);
    field.assert_nothing_left("site1");
    field.assert_no_failed_unit();
}

#[test]
fn a_hang_is_given_up_within_a_minute_and_the_tags_arrive() {
    std::thread::scope(|scope| {
        scope.spawn(the_helper_hangs);
        scope.spawn(sshd_hangs);
        scope.spawn(packets_vanish);
    });
}

#[test]
fn an_agent_that_hangs_hinders_no_tag_and_is_started_again_and_so_is_its_ssh() {
    let field = Field::new("agentstop");
    // Of its own, it takes up to 90 s to be found.
    field.drop_in("blat@.service", "watchdog", "[Service]\nWatchdogSec=35s\n");
    field.add_target("site1", SOURCE, "");
    field.wait_connected("site1");
    let agent = || field.master.sh("systemctl show -P MainPID blat@site1");
    let before = agent();
    field.master.sh(&format!("kill -STOP {before}"));
    let begin = Instant::now();
    field.publish("core", "1.0");
    field.tag("site1", "core", "1.0");
    field.wait_for("site1", "core", "1.0", Duration::from_secs(20));
    wait_until("the agent was started again", Duration::from_secs(120), || {
        agent() != before && field.active("blat@site1") == "active"
    });
    println!("an agent that hangs was started again after {:?}", begin.elapsed());
    field.wait_connected("site1");
    wait_until("what was done meanwhile is told", Duration::from_secs(20), || {
        field.count("blat@site1", "committed core/1.0") == 1
    });
    assert_eq!(field.active("blat-tags@site1.path"), "active");
    its_ssh_hangs(&field);
    field.assert_no_failed_unit();
}

/// The connection's own process hangs on this side: the agent asks it, and starts another.
fn its_ssh_hangs(field: &Field) {
    let ssh = || field.master.sh("pgrep -x ssh || true");
    let before = ssh();
    field.master.sh(&format!("kill -STOP {before}"));
    let begin = Instant::now();
    wait_until("another ssh was started", Duration::from_secs(90), || {
        let now = ssh();
        now != before && !now.is_empty()
    });
    field.wait_connected("site1");
    println!("an ssh that hangs was given up, and the line up again, after {:?}", begin.elapsed());
    field.publish("core", "2.0");
    field.tag("site1", "core", "2.0");
    field.wait_for("site1", "core", "2.0", Duration::from_secs(20));
    field.wait_no_tags("site1", Duration::from_secs(20));
}

fn the_helper_hangs() {
    let field = under_way("helperstop");
    let lines = field.lines();
    field.site.sh("pkill -STOP -x blat-target");
    let given_up = given_up(&field);
    let arrived = arrived(&field);
    println!("helper stopped: given up after {given_up:?}, arrived {arrived:?} later");
    // Only those that hang: the one that just committed tells of it, and the tag ends by that.
    field.site.sh("pkill -KILL -x -r T blat-target || true");
    after(&field, lines, Duration::from_secs(20));
}

fn sshd_hangs() {
    let field = under_way("sshdstop");
    let lines = field.lines();
    field.site.sh("pkill -STOP -u pkgadmin -x sshd");
    let given_up = given_up(&field);
    let arrived = arrived(&field);
    println!("sshd's session stopped: given up after {given_up:?}, arrived {arrived:?} later");
    field.site.sh("pkill -CONT -u pkgadmin -x sshd");
    after(&field, lines, Duration::from_secs(10));
}

fn packets_vanish() {
    let field = under_way("silence");
    let lines = field.lines();
    field.site.plug(false);
    let given_up = given_up(&field);
    std::thread::sleep(Duration::from_secs(5));
    field.site.plug(true);
    let arrived = arrived(&field);
    println!("packets dropped: given up after {given_up:?}, arrived {arrived:?} after the cable was back");
    // The site's side of the lost connection ends when TCP has tried again there.
    after(&field, lines, Duration::from_secs(60));
}

/// A field with a transfer that is half way, and stays so for seconds.
fn under_way(name: &str) -> Field {
    let field = Field::new(name);
    field.master.write("/etc/blat/blat.toml", "[ssh]\nbandwidth = \"4m\"\n", 0o644);
    field.add_target("site1", SOURCE, "");
    field.wait_connected("site1");
    field.count_starts();
    let noise = Dice::new().noise(40_000_000);
    put_build(&field.source().join("large/1.0"), 1, 1, &noise);
    field.publish("small", "1.0");
    field.tag("site1", "large", "1.0");
    wait_until("bytes arrive", Duration::from_secs(20), || {
        let blob = |path: std::path::PathBuf| path.join("blob").metadata().map_or(0, |blob| blob.len());
        field.staging("site1").into_iter().map(blob).any(|length| length > 1_000_000)
    });
    field
}

/// How long until the transfer that hangs has ended.
fn given_up(field: &Field) -> Duration {
    let begin = Instant::now();
    field.tag("site1", "small", "1.0");
    wait_until("the hanging transfer was given up", GIVEN_UP, || {
        field.active("blat-transfer@site1") != "activating" || field.starts("site1") > 1
    });
    assert!(!field.has("site1", "large", "1.0"), "it was done before it could hang");
    begin.elapsed()
}

fn arrived(field: &Field) -> Duration {
    let begin = Instant::now();
    field.wait_for("site1", "large", "1.0", RECOVERED);
    field.wait_for("site1", "small", "1.0", RECOVERED);
    begin.elapsed()
}

/// `lines` there were in the journal when it began to hang.
fn after(field: &Field, lines: usize, patience: Duration) {
    field.wait_no_tags("site1", RECOVERED);
    let (starts, lines) = (field.starts("site1"), field.lines() - lines);
    assert!(starts <= 20 && lines <= 40, "{starts} starts, {lines} lines more:\n{}", field.all_lines());
    println!("  {starts} starts, {lines} lines more");
    wait_until("the helper that hung has ended", patience, || {
        field.site.sh("pgrep -x blat-target || true").is_empty()
    });
    field.assert_equal("site1", SOURCE, &[("large".into(), "1.0".into()), ("small".into(), "1.0".into())]);
    field.assert_nothing_left("site1");
    field.assert_no_failed_unit();
}

#[test]
fn a_key_that_was_missing_serves_once_it_is_there() {
    let field = Field::new("nokey");
    field.master.sh("mv /etc/blat/keys/site1 /root/key");
    field.add_target("site1", SOURCE, "");
    wait_until("its state tells of the missing key", Duration::from_secs(10), || {
        field.status_text("site1").contains("there is no key at /etc/blat/keys/site1")
    });
    let before = field.lines();
    field.publish("core", "1.0");
    field.tag("site1", "core", "1.0");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(field.active("blat@site1"), "active");
    let lines = field.lines() - before;
    assert!(lines <= 10, "{lines} lines:\n{}", field.all_lines());
    field.master.sh("mv /root/key /etc/blat/keys/site1");
    let begin = Instant::now();
    field.wait_for("site1", "core", "1.0", Duration::from_secs(60));
    println!("a key was mended: connected and sent after {:?}", begin.elapsed());
    field.assert_no_failed_unit();
}

/// Systemd gives a transfer so long, but more as long as something moves.
#[test]
fn a_helper_that_takes_longer_to_upload_than_a_transfer_may_gets_there() {
    let field = Field::new("slowline");
    field.drop_in("blat-transfer@.service", "timeout", "[Service]\nTimeoutStartSec=20s\n");
    let _link = field.lab.link(&field.master, &field.site, Rate::bits(600_000), Duration::from_millis(50));
    field.add_target("site1", SOURCE, "");
    field.wait_connected("site1");
    field.count_starts();
    field.publish("core", "1.0");
    field.tag("site1", "core", "1.0");
    let begin = Instant::now();
    field.wait_for("site1", "core", "1.0", Duration::from_secs(240));
    println!("over 600 kbit/s, helper and package were there after {:?}", begin.elapsed());
    assert!(begin.elapsed() > Duration::from_secs(25), "too fast to show anything");
    assert_eq!(field.starts("site1"), 1);
}

#[test]
fn a_full_disk_is_waited_for() {
    let field = Field::with_target("full");
    let archive = "/home/pkgadmin/dpkg_archive";
    field.site.sh(&format!("mount -t tmpfs -o size=8m,mode=0755,uid=pkgadmin none {archive}"));
    field.count_starts();
    put_build(&field.source().join("large/1.0"), 1, 1, &Dice::new().noise(12_000_000));
    field.tag("site1", "large", "1.0");
    wait_until("the journal tells of the full disk", Duration::from_secs(20), || {
        field.count("blat@site1", "No space left") > 0
    });
    field.publish("small", "1.0");
    field.tag("site1", "small", "1.0");
    field.wait_for("site1", "small", "1.0", Duration::from_secs(20));
    std::thread::sleep(Duration::from_secs(12));
    let (starts, told) = (field.starts("site1"), field.count("blat@site1", "No space left"));
    field.site.sh(&format!("mount -o remount,size=64m {archive}"));
    let begin = Instant::now();
    field.wait_for("site1", "large", "1.0", Duration::from_secs(60));
    println!(
        "disk full: {starts} starts, told {told} times; sent {:?} after there was room",
        begin.elapsed()
    );
    assert!(starts <= 6 && told <= 2, "{starts} starts, {told} times told");
    field.assert_nothing_left("site1");
    field.assert_no_failed_unit();
}

#[test]
fn a_helper_for_another_machine_is_told_of_and_mended() {
    let field = Field::with_target("foreign");
    let shipped = "/usr/lib/blat/blat-target";
    // What an ELF header says of the machine: 183 is ARM's 64 bits.
    field.master.sh(&format!(
        "cp {shipped} /root/good; printf '\\267\\000' | dd of={shipped} bs=1 seek=18 conv=notrunc 2>/dev/null"
    ));
    field.count_starts();
    field.publish("core", "1.0");
    field.tag("site1", "core", "1.0");
    wait_until("the journal tells of it", Duration::from_secs(20), || {
        field.count("blat@site1", "build blat-target for that machine") > 0
    });
    std::thread::sleep(Duration::from_secs(8));
    let (starts, told) = (field.starts("site1"), field.count("blat@site1", "build blat-target"));
    field.assert_no_failed_unit();
    field.master.sh(&format!("install -m 0755 /root/good {shipped}"));
    let begin = Instant::now();
    field.wait_for("site1", "core", "1.0", Duration::from_secs(45));
    println!("foreign helper: {starts} starts, told {told} times; sent {:?} after the mend", begin.elapsed());
    assert!(starts <= 3 && told == 1, "{starts} starts, {told} times told");
}

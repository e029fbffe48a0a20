//! Targets come, change and go: by systemctl, and by nothing but their files.

use std::fs;
use std::time::{Duration, Instant};

use crate::builds::Dice;
use crate::field::{Field, SOURCE};
use crate::machines::wait_until;

/// A change of a file is in force within this time.
const IN_FORCE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(20);

#[test]
fn start_and_stop_take_all_of_a_target_with_them() {
    let field = Field::new("startstop");
    field.add_target("site1", SOURCE, "[tags]\npolling = \"always\"\n");
    // By itself, and with no drop-in: the timer is not there because another target had the manager reload.
    wait(&field, &["blat-tags@site1.timer"], "active");
    field.add_target("other-one", SOURCE, "");
    for target in ["site1", "other-one"] {
        field.wait_connected(target);
    }
    let units = ["blat@site1.service", "blat@site1.socket", "blat-tags@site1.path", "blat-tags@site1.timer"];
    wait(&field, &units, "active");
    the_key_is_with_its_agent_alone(&field);
    field.master.sh("systemctl stop blat@site1");
    wait(&field, &units, "inactive");
    stays_stopped(&field, "site1");
    wait(&field, &["blat@other-one", "blat-tags@other-one.path"], "active");
    field.master.sh("systemctl start blat@site1");
    wait(&field, &units, "active");
    field.wait_for("site1", "late", "1.0", SOON);
    field.master.sh("systemctl stop blat.target");
    let all = ["blat@other-one.service", "blat@other-one.socket", "blat-tags@other-one.path"];
    wait(&field, &[&units[..], &all].concat(), "inactive");
    field.master.sh("systemctl start blat.target");
    wait(&field, &[&units[..], &all].concat(), "active");
    sends(&field, "other-one", "dash");
    field.assert_no_failed_unit();
}

/// It is not among the mounts that every other unit would have to be rid of first; and the agent has it still.
fn the_key_is_with_its_agent_alone(field: &Field) {
    assert_eq!(field.master.sh("grep -F blat@ /proc/1/mountinfo || true"), "");
    let connection = "pgrep -x ssh -P $(systemctl show -P MainPID blat@site1)";
    let before = field.master.sh(connection);
    field.master.sh(&format!("kill -KILL {before}"));
    wait_until("there is another connection", SOON, || {
        let now = field.master.sh(&format!("{connection} || true"));
        !now.is_empty() && now != before
    });
    field.wait_connected("site1");
    sends(field, "site1", "again");
}

/// A tag and a report that come after the stop start nothing.
fn stays_stopped(field: &Field, target: &str) {
    field.publish("late", "1.0");
    field.tag(target, "late", "1.0");
    let report = format!("/run/blat/{target}.report");
    field.master.sh(&format!("echo '{{}}' | nc -uU -w1 {report} 2>/dev/null || true"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(field.active(&format!("blat@{target}")), "inactive");
    assert_eq!(field.active(&format!("blat-transfer@{target}")), "inactive");
    assert!(!field.has(target, "late", "1.0"));
}

#[test]
fn files_alone_start_change_and_stop_targets() {
    let field = Field::new("files");
    timed("a new file", || {
        field.add_target("site1", SOURCE, "");
        wait(&field, &["blat@site1", "blat-tags@site1.path"], "active");
    });
    sends(&field, "site1", "new");
    timed("two files 100 ms apart", || {
        field.add_target("a", SOURCE, "");
        std::thread::sleep(Duration::from_millis(100));
        field.add_target("b", SOURCE, "");
        wait(&field, &["blat@a", "blat@b"], "active");
    });
    another_tag_directory(&field);
    another_host(&field);
    timed("enabled = false", || {
        field.write_target("a", SOURCE, "enabled = false\n");
        wait(&field, &["blat@a", "blat-tags@a.path"], "inactive");
    });
    timed("enabled again", || {
        field.write_target("a", SOURCE, "");
        wait(&field, &["blat@a"], "active");
    });
    timed("a file that is removed", || {
        field.master.sh("rm /etc/blat/targets/b.toml");
        wait(&field, &["blat@b", "blat-tags@b.path", "blat@b.socket"], "inactive");
    });
    a_person_is_obeyed(&field);
    field.assert_no_failed_unit();
}

#[test]
fn a_file_is_noticed_however_late_in_the_acceptance_of_another_it_comes() {
    let field = Field::new("moments");
    let mut dice = Dice::new();
    for number in 0..30 {
        field.write_target(&format!("t{number}"), SOURCE, "enabled = false\n");
        let accepted = field.master.file(&format!("/etc/blat/.accepted/targets/t{number}.toml"));
        let begin = Instant::now();
        while !accepted.exists() {
            assert!(begin.elapsed() < SOON, "the file of t{number} was not noticed");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(dice.millis(80));
    }
    field.assert_no_failed_unit();
}

fn another_tag_directory(field: &Field) {
    field.tag("site1", "never", "there");
    wait_until("a tag waits", SOON, || field.count("blat@site1", "the tag never::there waits") > 0);
    timed("another tag directory", || {
        field.write_target("site1", SOURCE, "[tags]\ndirectory = \"/var/lib/blat/tags/elsewhere\"\n");
        wait_until("it is watched", IN_FORCE, || {
            let paths = field.master.sh("systemctl show -P Paths blat-tags@site1.path");
            let active = field.active("blat-tags@site1.path") == "active";
            active && paths.contains("tags/elsewhere (DirectoryNotEmpty)") && !paths.contains("tags/site1")
        });
    });
    wait_until("what is left behind is told of", IN_FORCE, || {
        field.count("blat@site1", "tags are left in /var/lib/blat/tags/site1") == 1
    });
    field.publish("moved", "1.0");
    field.tag("elsewhere", "moved", "1.0");
    field.wait_for("site1", "moved", "1.0", SOON);
    field.write_target("site1", SOURCE, "");
    wait_until("all is as before", IN_FORCE, || {
        field.master.sh("systemctl show -P Paths blat-tags@site1.path").contains("tags/site1")
    });
}

fn another_host(field: &Field) {
    let path = "/etc/blat/targets/site1.toml";
    let text = fs::read_to_string(field.master.file(path)).expect("the target's file");
    timed("another host", || {
        field.master.write(path, text.replace("host = \"site1\"", "host = \"nowhere\""), 0o644);
        wait_until("the line is gone", IN_FORCE, || !field.status_text("site1").starts_with("connected"));
    });
    field.master.write(path, text, 0o644);
    field.wait_connected("site1");
    sends(field, "site1", "back");
}

/// What a person stopped or masked is not started because its file changes.
fn a_person_is_obeyed(field: &Field) {
    field.master.sh("systemctl stop blat@a; systemctl mask --now blat@site1 2>/dev/null");
    field.write_target("a", SOURCE, "verbosity = \"debug\"\n");
    field.write_target("site1", SOURCE, "verbosity = \"debug\"\n");
    wait_until("both files are applied", IN_FORCE, || {
        let accepted = |name| field.master.file(&format!("/etc/blat/.accepted/targets/{name}.toml"));
        let debug = |name| fs::read_to_string(accepted(name)).is_ok_and(|text| text.contains("debug"));
        debug("a") && debug("site1") && field.active("blat-config") == "inactive"
    });
    assert_eq!([field.active("blat@a"), field.active("blat@site1")], ["inactive", "inactive"]);
    field.master.sh("systemctl unmask blat@site1 2>/dev/null; systemctl start blat@site1");
    field.wait_connected("site1");
}

#[test]
fn a_broken_edit_leaves_in_force_what_worked_over_a_reboot_too() {
    let field = Field::with_target("broken");
    let path = "/etc/blat/targets/site1.toml";
    let text = fs::read_to_string(field.master.file(path)).expect("the target's file");
    let pid = field.master.sh("systemctl show -P MainPID blat@site1");
    field.master.write(path, text.replace("host =", "hots ="), 0o644);
    let place = format!("{path}:4:1");
    wait_until("the journal says where", IN_FORCE, || field.count("blat-config", &place) > 0);
    let said = field.master.run(&["blat", "config", "check"]);
    assert_eq!(said.status.code(), Some(78));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains(&place) && said.contains("hots"), "{said}");
    println!("{}", said.lines().next().unwrap_or_default());
    assert_eq!(field.master.sh("systemctl show -P MainPID blat@site1"), pid);
    sends(&field, "site1", "before");
    field.master.reboot();
    field.wait_connected("site1");
    sends(&field, "site1", "after");
    assert_eq!(field.active("blat-tags@site1.path"), "active");
    field.assert_no_failed_unit();
}

#[test]
fn a_publisher_drops_tags_and_nobody_else_does() {
    let field = Field::with_target("publisher");
    field.master.sh("useradd -m -G blat-tags publisher; useradd -m stranger");
    field.publish("by-tag", "1.0");
    field.publish("by-touch", "1.0");
    field.master.as_user("publisher", "blat tag site1 by-tag 1.0");
    field.master.as_user("publisher", "touch /var/lib/blat/tags/site1/by-touch::1.0");
    field.wait_for("site1", "by-tag", "1.0", SOON);
    field.wait_for("site1", "by-touch", "1.0", SOON);
    let refused = field.master.command_as("stranger", &["blat", "tag", "site1", "by-tag", "1.0"]).output();
    let refused = refused.expect("blat starts");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("blat-tags"), "{said}");
    field.wait_no_tags("site1", SOON);
}

#[test]
fn signals_reach_the_agent_and_leave_its_connection_alone() {
    let field = Field::with_target("signals");
    let agent = || field.master.sh("systemctl show -P MainPID blat@site1");
    let ssh = || field.master.sh(&format!("pgrep -x ssh -P {}", agent()));
    let before = (agent(), ssh());
    for (signal, told) in [("USR1", "asked to synchronise now"), ("HUP", "read the configuration again")] {
        field.master.sh(&format!("systemctl kill -s {signal} blat@site1"));
        wait_until("the agent tells of it", SOON, || field.count("blat@site1", told) > 0);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!((agent(), ssh()), before, "after {signal}");
        assert!(field.status_text("site1").starts_with("connected"));
    }
    field.master.sh("systemctl kill 'blat@*'");
    wait_until("the agent was started again", SOON, || {
        field.active("blat@site1") == "active" && agent() != before.0
    });
    field.wait_connected("site1");
    sends(&field, "site1", "after");
    assert_eq!(field.active("blat-tags@site1.path"), "active");
    field.assert_no_failed_unit();
}

/// A tag for a new package goes through.
fn sends(field: &Field, target: &str, package: &str) {
    field.publish(package, "1.0");
    field.tag(target, package, "1.0");
    field.wait_for(target, package, "1.0", SOON);
}

fn wait(field: &Field, units: &[&str], state: &str) {
    for unit in units {
        wait_until(&format!("{unit} is {state}"), IN_FORCE, || field.active(unit) == state);
    }
}

fn timed(what: &str, act: impl FnOnce()) {
    let begin = Instant::now();
    act();
    println!("{what}: in force after {:?}", begin.elapsed());
    assert!(begin.elapsed() < IN_FORCE + Duration::from_secs(1), "{what} took {:?}", begin.elapsed());
}

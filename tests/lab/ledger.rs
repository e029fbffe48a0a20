//! The ledger: whatever happens to a target is an entry of the journal with a stable id, its fields,
//! and an explanation in the catalog; and the history tells of it.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use blat::ledger;

use crate::field::{Field, SOURCE, seal};
use crate::machines::{TRANSFER_USER, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// How many entries of this id the target has.
fn entries(field: &Field, id: &str) -> usize {
    let matches = ["-o", "cat", &format!("MESSAGE_ID={id}"), "BLAT_TARGET=site1"];
    field.master.journal(&matches).lines().count()
}

#[track_caller]
fn wait_entry(field: &Field, id: &str) {
    let word = ledger::word(id).expect("one of ours");
    wait_until(&format!("the journal has an entry of the kind {word}"), SOON, || entries(field, id) > 0);
}

/// Brings about one entry of each kind.
fn all_of_it(field: &Field) {
    wait_entry(field, ledger::CONNECTED);
    field.publish("core", "1.0");
    field.tag("site1", "core", "1.0");
    wait_entry(field, ledger::COMMITTED);
    field.tag("site1", "core", "missing");
    wait_entry(field, ledger::WAITS);
    fs::write(field.master.file("/var/lib/blat/tags/site1/no-version"), "").expect("a tag");
    wait_entry(field, ledger::REJECTED);
    wait_entry(field, ledger::PERSON_NEEDED);
    let set_id = field.publish_open("setid", "1.0", &[("tool", "x")]);
    crate::field::set_mode(&set_id.join("tool"), 0o4555);
    field.master.sh(&format!("chmod 4555 {SOURCE}/setid/1.0/tool && chmod 0444 {SOURCE}/setid/1.0/descpkg"));
    field.master.sh(&format!("chmod 0555 {SOURCE}/setid/1.0"));
    field.tag("site1", "setid", "1.0");
    wait_entry(field, ledger::NOTICE);
    seal(&field.publish_open("synced", "1.0", &[("data", "x")]));
    field.write_target("site1", SOURCE, "[packages]\nsynced = \"1.0\"\nabsent = \"1.0\"\n");
    wait_until("it is in force", SOON, || {
        field.master.sh("systemctl start blat-sync@site1");
        entries(field, ledger::SYNCED) > 0 && entries(field, ledger::PROBLEM) > 0
    });
    aged(field);
    old_helper(field);
    field.write_target("site1", SOURCE, "releases = [1]\n");
    wait_until("it is in force", SOON, || {
        field.master.sh("systemctl start blat-sync@site1");
        entries(field, ledger::SYNC_FAILED) > 0
    });
    field.write_target("site1", SOURCE, "nonsense = 1\n");
    wait_entry(field, ledger::CONFIG_BROKEN);
    // A source that is gone fails a transfer as a whole.
    field.master.sh(&format!("mv {SOURCE} {SOURCE}.away"));
    field.tag("site1", "core", "2.0");
    wait_entry(field, ledger::TRANSFER_FAILED);
    field.master.sh(&format!("mv {SOURCE}.away {SOURCE}"));
}

/// What left the set: guarded, marked, deleted; a hold, and the target's own index and purge.
fn aged(field: &Field) {
    let write = |packages: &str, aging: &str| {
        field.write_target(
            "site1",
            SOURCE,
            &format!("[packages]\n{packages}\n[aging]\nmode = \"{aging}\"\n"),
        );
    };
    // Two are needed, then one: that is half of it.
    write("core = \"1.0\"\nsynced = \"1.0\"", "master");
    wait_until("the two are what is needed", SOON, || {
        let _ = field.master.sh("blat sync site1 2>&1 || true");
        fs::read_to_string(field.master.file("/var/lib/blat/site1/last_good")).is_ok_and(|n| n.trim() == "2")
    });
    write("core = \"1.0\"", "master");
    wait_until("the one is doubtful", SOON, || {
        field.master.sh("systemctl start blat-sync@site1 || true");
        entries(field, ledger::GUARDED) > 0
    });
    wait_until("a person is told of the guard", SOON, || {
        field
            .master
            .journal(&["-u", "blat-notify@site1"])
            .contains("site1 needs a person: nothing that is in excess was marked or deleted")
    });
    let status = field.master.sh("blat status site1 || echo code $?");
    assert!(status.contains("nothing in excess was marked") && status.ends_with("code 2"), "{status}");
    field.master.sh("blat sync --accept-shrink site1");
    wait_entry(field, ledger::MARKED);
    let why = field.master.sh("blat explain synced 1.0 site1");
    assert!(why.contains("(in excess)") && why.contains("it has a mark"), "{why}");
    field.master.sh("blat hold site1 --reason 'an audit'");
    wait_entry(field, ledger::HELD);
    let status = field.master.sh("blat status site1 || true");
    assert!(status.contains("a person holds all deletion back: an audit"), "{status}");
    field.master.sh("blat release-hold site1");
    wait_entry(field, ledger::RELEASED);
    field.site.as_user(TRANSFER_USER, "bin/blat-target index; bin/blat-target purge");
    write("core = \"1.0\"", "immediate");
    wait_until("it is deleted", SOON, || {
        field.master.sh("blat sync site1 || true");
        entries(field, ledger::DELETED) > 0
    });
    wait_entry(field, ledger::INDEXED);
    wait_entry(field, ledger::PURGED);
    let status = field.master.sh("blat status site1 || true");
    let upkeep = status.lines().find(|line| line.contains("upkeep")).unwrap_or_default();
    assert!(upkeep.contains("UTC; purge 20"), "{status}");
}

/// A helper of root's, which is not replaced by a newer one.
fn old_helper(field: &Field) {
    field.site.sh("chown root /home/pkgadmin/bin/blat-target");
    field.master.sh("echo 'a newer build' >>/usr/lib/blat/blat-target");
    field.publish("helped", "1.0");
    field.tag("site1", "helped", "1.0");
    wait_entry(field, ledger::OLD_HELPER);
    wait_until("the status says so", SOON, || {
        field.master.sh("blat status site1 || true").contains("the helper on the target is old")
    });
}

/// A synchronisation that a person stops, one that is killed, and a target that goes away.
fn stopped_and_cut(field: &Field) {
    // A list that never comes: whoever reads it waits.
    field.master.sh("mkfifo -m 0644 /etc/blat/packages.txt");
    field.write_target("site1", SOURCE, "[release]\nsource = \"file\"\n");
    wait_until("a synchronisation is stopped on its way", SOON, || {
        field
            .master
            .sh("systemctl start --no-block blat-sync@site1; sleep 2; systemctl stop blat-sync@site1");
        entries(field, ledger::SYNC_STOPPED) > 0
    });
    // It leaves a failed unit, which has a person told by systemd.
    wait_until("a person is told of a synchronisation that was killed", SOON, || {
        field.master.sh(
            "systemctl start --no-block blat-sync@site1; sleep 2; systemctl kill -s KILL blat-sync@site1 || true",
        );
        let told = field.master.journal(&["-u", "blat-notify@blat-sync@site1.service.service"]);
        told.contains("blat-sync@site1.service needs a person: the unit failed (signal, KILL)")
    });
    field.site.sh("systemctl stop ssh.socket ssh.service 2>/dev/null || true; pkill -x sshd || true");
    wait_entry(field, ledger::DISCONNECTED);
}

#[test]
fn whatever_happens_to_a_target_is_an_entry_with_an_id_that_the_catalog_explains() {
    let field = Field::with_target("ledger");
    all_of_it(&field);
    stopped_and_cut(&field);
    for (id, word) in ledger::ALL {
        assert!(entries(&field, id) > 0, "no entry of the kind {word}");
        let explained = field.master.journal(&["-x", "-o", "short", "-n", "1", &format!("MESSAGE_ID={id}")]);
        let subject =
            explained.lines().any(|line| line.contains("-- Subject: ") || line.contains("░░ Subject: "));
        assert!(subject, "{word} is not explained:\n{explained}");
    }
    the_fields(&field);
    the_history(&field);
}

/// What told a person of the target.
fn calls(field: &Field) -> String {
    field.master.journal(&["-u", "blat-notify@site1"])
}

#[test]
fn a_person_is_told_of_a_key_that_is_missing_when_the_agent_starts() {
    let field = Field::new("callkey");
    field.master.sh("mv /etc/blat/keys/site1 /root/key");
    field.add_target("site1", SOURCE, "");
    wait_until("a person is told", SOON, || {
        calls(&field).contains("site1 needs a person: there is no key at /etc/blat/keys/site1")
    });
}

#[test]
fn a_person_is_told_of_a_tag_that_was_rejected_while_the_agent_was_down() {
    let field = Field::with_target("calltag");
    // It reads no report any more, and then it dies.
    field.master.sh("systemctl kill --kill-who=main -s STOP blat@site1");
    fs::write(field.master.file("/var/lib/blat/tags/site1/no-version"), "").expect("a tag");
    wait_until("the tag is rejected", SOON, || {
        field.master.file("/var/lib/blat/site1/rejected/no-version").exists()
    });
    assert!(!calls(&field).contains("needs a person"));
    field.master.sh("systemctl kill --kill-who=main -s KILL blat@site1");
    wait_until("a person is told", SOON, || calls(&field).contains("site1 needs a person: "));
}

fn the_fields(field: &Field) {
    let by_package = field.master.journal(&["-o", "json", "BLAT_PACKAGE=core", "BLAT_VERSION=1.0"]);
    let lines: Vec<&str> = by_package.lines().collect();
    assert_eq!(lines.len(), 1, "{by_package}");
    let entry: serde_json::Value = serde_json::from_str(lines[0]).expect("JSON");
    let has = |name: &str| entry[name].as_str().unwrap_or_else(|| panic!("no {name} in {entry}")).to_owned();
    assert_eq!(has("MESSAGE_ID"), ledger::COMMITTED);
    assert_eq!((has("BLAT_TARGET").as_str(), has("BLAT_CAUSE").as_str()), ("site1", "tag"));
    assert!(has("BLAT_BYTES").parse::<u64>().unwrap() > 0 && has("BLAT_USEC").parse::<u64>().unwrap() > 0);
    let waits = field.master.journal(&["-o", "json", "BLAT_PACKAGE=core", "BLAT_VERSION=missing"]);
    assert!(waits.contains("\"BLAT_REASON\""), "{waits}");
}

fn the_history(field: &Field) {
    let all = field.master.sh("blat history site1");
    let kinds: BTreeSet<&str> = all.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(kinds, ledger::ALL.iter().map(|(_, word)| *word).collect(), "{all}");
    let core = field.master.sh("blat history site1 --package core --since -1h");
    assert!(core.lines().count() >= 2 && core.lines().all(|line| line.contains("core")), "{core}");
    assert_eq!(field.master.sh("blat history site1 --since +1h"), "", "nothing is of the future");
    let refused = field.master.sh("blat history site1 --since nonsense 2>&1 || echo code $?");
    assert!(refused.ends_with("code 78"), "{refused}");
    println!("blat history:\n{all}");
}

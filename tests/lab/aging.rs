//! What left the current set: marked, needed again, deleted; by real timers, on both machines.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::field::{Field, SOURCE, archive_name, seal};
use crate::machines::{TRANSFER_USER, install_target, real_archive, wait_until};
use crate::releases::{Releases, release};

const SOON: Duration = Duration::from_secs(60);
/// What stays needed all the time.
const KEPT: usize = 12;

/// A target for each mode, that mode its name; but `site1` for "target", whose timers are the transfer
/// user's.
const MODES: [(&str, &str); 4] =
    [("none", "none"), ("immediate", "immediate"), ("master", "master"), ("site1", "target")];

impl Field {
    /// The settings of a target whose list is a file that this test writes.
    fn write_aging(&self, name: &str, mode: &str) {
        let text = format!(
            "source = {SOURCE:?}\n[sync]\nperiod = \"3s\"\n[aging]\nmode = {mode:?}\n\
             [release]\nsource = \"file\"\nfile = \"/etc/blat/{name}.list\"\n\
             [ssh]\nhost = \"site1\"\nidentity = \"/etc/blat/keys/site1\"\n\
             [target]\narchive = {:?}\nindex_at = \"*:*:0/5\"\npurge_at = \"*:*:0/5\"\n",
            archive_name(name)
        );
        self.master.write(&format!("/etc/blat/targets/{name}.toml"), text, 0o644);
    }

    /// What the targets should have from now on: what is kept, and perhaps the old one.
    fn list(&self, with_old: bool) {
        let mut list: String = (0..KEPT).map(|number| format!("kept{number} 1.0\n")).collect();
        if with_old {
            list += "old 1.0\nold current\n";
        }
        for (name, _) in MODES {
            self.master.write(&format!("/etc/blat/{name}.list"), &list, 0o644);
        }
    }

    fn has_old(&self, name: &str) -> bool {
        let (version, link) = (self.has(name, "old", "1.0"), self.has(name, "old", "current"));
        // Between the two steps of a deletion the link is gone already.
        version || link
    }

    fn marks(&self, name: &str) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.own(name, "marks.txt")).unwrap_or_default();
        let mark = |line: &str| line.split_once(' ').map(|(id, rest)| (id.to_owned(), rest.to_owned()));
        text.lines().skip(1).filter_map(mark).collect()
    }

    fn own(&self, name: &str, file: &str) -> PathBuf {
        self.archive(name).join(".dpkg_archive").join(file)
    }

    #[track_caller]
    fn wait_marked(&self, name: &str, marked: bool) {
        wait_until(&format!("the marks of {name} are there: {marked}"), SOON, || {
            let marks = self.marks(name);
            ["old/1.0", "old/current"].iter().all(|id| marks.contains_key(*id) == marked)
        });
    }

    /// Makes the marks as old as if they had been made so many days before.
    fn age_marks(&self, name: &str, days: u64) {
        let marks = format!("/home/{TRANSFER_USER}/{}/.dpkg_archive/marks.txt", archive_name(name));
        self.site.as_user(
            TRANSFER_USER,
            &format!(
                "awk '{{ for (i = 1; i <= NF; i++) if ($i ~ /^since=/) \
                 $i = sprintf(\"since=%d\", substr($i, 7) - {days} * 86400); print }}' {marks} >{marks}.aged && \
                 mv {marks}.aged {marks}"
            ),
        );
    }

    /// What the target's own purge has said.
    fn purges(&self) -> String {
        self.site.journal(&["_SYSTEMD_USER_UNIT=blat-purge.service", "-o", "cat"])
    }

    fn timers(&self) -> String {
        self.site.as_user(TRANSFER_USER, "systemctl --user list-timers --all --no-pager")
    }
}

#[test]
fn each_mode_goes_through_its_whole_life_by_real_timers() {
    let field = Field::new("aging");
    a_fresh_machine_is_set_up(&field);
    (0..KEPT).for_each(|number| drop(field.publish(&format!("kept{number}"), "1.0")));
    let old = field.publish_open("old", "1.0", &[("deep/er/file", "content"), ("file", "content")]);
    seal(&old);
    field.publish_link("old", "current", "1.0");
    field.list(true);
    for (name, mode) in MODES {
        field.site.as_user(TRANSFER_USER, &format!("mkdir -p {}", archive_name(name)));
        field.write_aging(name, mode);
    }
    for (name, _) in MODES {
        wait_until(&format!("{name} is filled"), SOON, || field.has(name, "old", "current"));
    }
    it_is_marked(&field);
    it_is_needed_again(&field);
    it_is_deleted(&field);
    the_index_is_what_find_finds(&field);
    the_units_of_the_system_run_too(&field);
    field.assert_no_failed_unit();
}

/// Only sshd and systemd are there: helper, archive, units and timers come by one command.
fn a_fresh_machine_is_set_up(field: &Field) {
    field.list(false);
    field.write_aging("site1", "target");
    field.wait_connected("site1");
    let said = field.master.sh("blat target install site1 2>&1");
    for line in [
        "put the helper there",
        "enabled and started blat-index.timer",
        "enabled and started blat-purge.timer",
    ] {
        assert!(said.contains(line), "{line}:\n{said}");
    }
    let again = field.master.sh("blat target install site1 2>&1");
    let did = ["put the helper", "made ", "wrote ", "enabled", "had ", "anew"];
    assert!(!did.iter().any(|word| again.contains(word)), "it changed something:\n{again}");
    let shows_both =
        |timers: String| timers.contains("blat-index.timer") && timers.contains("blat-purge.timer");
    assert!(shows_both(field.timers()), "{}", field.timers());
    field.site.reboot();
    wait_until("the user's manager is up", SOON, || {
        field.site.file("/run/user/1000/systemd/private").exists()
    });
    assert!(shows_both(field.timers()), "after a reboot: {}", field.timers());
    println!("{said}\n{}", field.timers());
}

fn it_is_marked(field: &Field) {
    field.list(false);
    wait_until("immediate: it is gone", SOON, || !field.has_old("immediate"));
    field.wait_marked("master", true);
    field.wait_marked("site1", true);
    let purged = field.purges().matches("purged: 0 deleted").count();
    wait_until("a purge has left what is not old enough", SOON, || {
        field.purges().matches("purged: 0 deleted").count() > purged
    });
    for name in ["none", "master", "site1"] {
        assert!(field.has(name, "old", "1.0") && field.has(name, "old", "current"), "{name}");
    }
    assert_eq!(field.count("blat@immediate", "deleted old/1.0, which was in excess"), 1);
    assert!(field.marks("none").is_empty());
}

fn it_is_needed_again(field: &Field) {
    field.age_marks("master", 5);
    field.age_marks("site1", 5);
    field.list(true);
    field.wait_marked("master", false);
    field.wait_marked("site1", false);
    wait_until("immediate: it is there again", SOON, || field.has("immediate", "old", "current"));
}

fn it_is_deleted(field: &Field) {
    field.list(false);
    field.wait_marked("master", true);
    field.wait_marked("site1", true);
    field.age_marks("master", 31);
    field.age_marks("site1", 31);
    wait_until("master: it is gone", SOON, || !field.has_old("master"));
    wait_until("target: it is gone", SOON, || !field.has_old("site1"));
    wait_until("immediate: it is gone", SOON, || !field.has_old("immediate"));
    assert!(field.has("none", "old", "1.0") && field.has("none", "old", "current"));
    for (name, _) in MODES {
        let kept = (0..KEPT).all(|number| field.has(name, &format!("kept{number}"), "1.0"));
        assert!(kept, "{name}");
        assert!(field.staging(name).is_empty(), "{name}: {:?}", field.staging(name));
    }
    let purges = field.purges();
    assert!(purges.contains("deleted old/1.0") && purges.contains("deleted old/current"), "{purges}");
    wait_until("the master tells of it", SOON, || {
        field.count("blat@site1", "deleted old/1.0, which was in excess: the target's own purge did") == 1
    });
    wait_until("the master tells of its own", SOON, || {
        field.count("blat@master", "deleted old/1.0, which was in excess") == 1
    });
    let upkeep = fs::read_to_string(field.master.file("/var/lib/blat/site1/upkeep.json")).expect("on record");
    assert!(!upkeep.contains("\"purged\":null") && !upkeep.contains("\"indexed\":null"), "{upkeep}");
    println!("{upkeep}");
}

fn the_index_is_what_find_finds(field: &Field) {
    field.site.as_user(TRANSFER_USER, "systemctl --user start blat-index.service");
    assert_is_what_find_finds(field, "dpkg_archive");
    let said = field.site.as_user(TRANSFER_USER, "bin/blat-target find 'kept1/*descpkg'");
    assert_eq!(said, "kept1/1.0/descpkg");
    let home = field.site.file(&format!("/home/{TRANSFER_USER}"));
    let copied = Command::new("cp").arg("-a").arg(real_archive()).arg(home.join("real")).status();
    assert!(copied.expect("cp starts").success(), "the real archive can be copied");
    field.site.sh(&format!("chown -R {TRANSFER_USER}: /home/{TRANSFER_USER}/real"));
    field.site.as_user(TRANSFER_USER, "chmod u+w real; bin/blat-target index --archive real");
    let lines = assert_is_what_find_finds(field, "real");
    assert!(lines > 20_000, "only {lines} lines in the index of the real archive");
}

/// Compares the index of an archive in the user's home with what `find` finds; how many lines both have.
fn assert_is_what_find_finds(field: &Field, archive: &str) -> usize {
    field.site.sh(&format!(
        "cd /home/{TRANSFER_USER}/{archive} && find . -mindepth 1 -path ./.dpkg_archive -prune -o -type d \
         -printf '%P/\\n' -o -type l -printf '%P -> %l\\n' -o -printf '%P\\n' | LC_ALL=C sort >/var/tmp/found"
    ));
    let found = fs::read(field.site.file("/var/tmp/found")).expect("what find found");
    let list = format!("/home/{TRANSFER_USER}/{archive}/.dpkg_archive/dpkg_archive_list.txt");
    let list = fs::read(field.site.file(&list)).expect("the index");
    assert!(list == found, "the index of {archive} is not what find finds");
    found.iter().filter(|byte| **byte == b'\n').count()
}

/// For targets that an administrator manages: hardened, and the user's own step back.
fn the_units_of_the_system_run_too(field: &Field) {
    install_target(&field.site);
    fs::remove_file(field.own("site1", "dpkg_archive_list.txt")).expect("an index");
    field.site.sh("systemctl start blat-index.service blat-purge.service");
    assert!(field.own("site1", "dpkg_archive_list.txt").exists());
    field.site.sh("systemctl enable --now blat-index.timer blat-purge.timer");
    let said = field.master.sh("blat target install site1 2>&1");
    assert!(said.contains("blat-index.timer is enabled in the system"), "{said}");
}

/// A target that deletes at once, and a release with 20 package-versions.
struct Guarded {
    source: Releases,
    field: Field,
    ids: Vec<String>,
}

impl Guarded {
    fn new(name: &str, source: impl FnOnce(&Field) -> Releases) -> Self {
        let field = Field::new(name);
        let source = source(&field);
        let ids: Vec<String> = (0..20).map(|number| format!("p{number}/1.0")).collect();
        (0..20).for_each(|number| drop(field.publish(&format!("p{number}"), "1.0")));
        let guarded = Self { source, field, ids };
        guarded.release(20);
        let table = guarded.source.table(&guarded.field.master);
        let settings = format!("releases = [\"Bus/0\"]\n[aging]\nmode = \"immediate\"\n{table}");
        guarded.field.add_target("site1", SOURCE, &settings);
        guarded.field.wait_connected("site1");
        assert_eq!(guarded.sync(""), 0);
        assert_eq!(guarded.there(), 20);
        guarded
    }

    /// The release has the first so many.
    fn release(&self, count: usize) {
        self.source.import(&self.field.master, &release("Bus/0", 'N', &self.ids[..count]));
    }

    /// Synchronises by hand; how it ended.
    fn sync(&self, more: &str) -> i32 {
        // The password's file is root's alone.
        let user = if matches!(self.source, Releases::BuiltIn) { "runuser -u blat -- " } else { "" };
        let line = format!("{user}blat sync {more} site1");
        loop {
            let said = self.field.master.run(&["sh", "-c", &line]);
            let words = String::from_utf8_lossy(&said.stderr);
            // The agent has failed ones tried again by itself.
            if !words.contains("runs already") {
                println!("blat sync {more}: {}: {}", said.status, words.trim());
                return said.status.code().expect("it ends");
            }
        }
    }

    fn there(&self) -> usize {
        (0..20).filter(|number| self.field.has("site1", &format!("p{number}"), "1.0")).count()
    }

    fn marks(&self) -> usize {
        self.field.marks("site1").len()
    }
}

fn doubtful_answers_delete_and_mark_nothing(guarded: &Guarded) {
    guarded.release(2);
    assert_eq!(guarded.sync(""), 78, "ten times smaller");
    assert_eq!((guarded.there(), guarded.marks()), (20, 0));
    let says = "if that is meant, say so once: `blat sync --accept-shrink site1`";
    wait_until("the mend is told", SOON, || guarded.field.count("blat@site1", says) == 1);
    let shown = guarded.field.master.sh("blat sync --dry-run site1");
    assert!(shown.contains("excess  p2/1.0: kept: ") && shown.contains("0 to delete"), "{shown}");
    guarded.release(0);
    assert_eq!(guarded.sync(""), 75, "empty");
    guarded.release(20);
    let master = &guarded.field.master;
    guarded.source.change(master, "ALTER TABLE release_content RENAME TO hidden_content");
    assert!([75, 78].contains(&guarded.sync("")), "failing");
    guarded.source.change(master, "ALTER TABLE hidden_content RENAME TO release_content");
    assert_eq!((guarded.there(), guarded.marks()), (20, 0));
    guarded.release(18);
    assert_eq!((guarded.sync(""), guarded.there()), (0, 18), "as much less as may be");
    guarded.release(2);
    assert_eq!((guarded.sync("--accept-shrink"), guarded.there()), (0, 2), "a person says that it is meant");
    guarded.release(20);
    assert_eq!((guarded.sync(""), guarded.there()), (0, 20));
}

#[test]
fn a_database_server_in_doubt_deletes_nothing() {
    let guarded = Guarded::new("guardspg", |field| Releases::on_postgresql(&field.lab));
    doubtful_answers_delete_and_mark_nothing(&guarded);
}

#[test]
fn a_built_in_database_in_doubt_deletes_nothing_and_a_hold_holds() {
    let guarded = Guarded::new("guards", |_| Releases::BuiltIn);
    doubtful_answers_delete_and_mark_nothing(&guarded);
    guarded.field.master.sh("blat hold --reason 'an audit' site1");
    guarded.release(17);
    assert_eq!((guarded.sync(""), guarded.there()), (0, 20), "held back");
    let hold = fs::read_to_string(guarded.field.own("site1", "hold")).expect("a hold");
    assert_eq!(hold.trim_end(), "master an audit");
    guarded.field.master.sh("blat release-hold site1");
    assert_eq!((guarded.sync(""), guarded.there()), (0, 17));
    a_target_that_is_away_is_held_all_the_same(&guarded);
    what_does_not_fit_is_told_before(&guarded);
}

fn a_target_that_is_away_is_held_all_the_same(guarded: &Guarded) {
    let field = &guarded.field;
    field.master.sh("systemctl stop blat@site1");
    field.site.sh("systemctl stop ssh.socket ssh.service || systemctl stop ssh.service");
    let said = field.master.run(&["blat", "hold", "site1"]);
    assert_eq!(said.status.code(), Some(75), "{said:?}");
    field.site.sh("systemctl start ssh.service");
    field.master.sh("systemctl start blat@site1");
    field.wait_connected("site1");
    guarded.release(16);
    assert_eq!((guarded.sync(""), guarded.there()), (0, 17), "held back by the master alone");
    assert!(field.own("site1", "hold").exists(), "the target was told");
    field.master.sh("blat release-hold site1");
    assert_eq!((guarded.sync(""), guarded.there()), (0, 16));
}

/// The target's disk is made small, and what is new larger than it.
fn what_does_not_fit_is_told_before(guarded: &Guarded) {
    let field = &guarded.field;
    let archive = format!("/home/{TRANSFER_USER}/dpkg_archive");
    field.site.sh(&format!(
        "mkdir /run/small && mount -t tmpfs -o size=3m,mode=755 none /run/small && cp -a {archive}/. /run/small/ && \
         chown {TRANSFER_USER}: /run/small && mv {archive} {archive}.away && ln -s /run/small {archive}"
    ));
    let folder = field.publish_open("large", "1.0", &[]);
    fs::write(folder.join("noise"), vec![7; 8 << 20]).expect("room here");
    seal(&folder);
    let ids: Vec<String> = guarded.ids[..16].iter().cloned().chain(["large/1.0".into()]).collect();
    guarded.source.import(&field.master, &release("Bus/0", 'N', &ids));
    assert_eq!(guarded.sync(""), 75);
    let told = field.count("blat@site1", "what is to be sent does not fit on the target: 8.0 MiB are needed");
    assert_eq!(told, 1);
    let lines = field.master.journal(&["-u", "blat@site1", "-o", "cat"]);
    let place = |text: &str| lines.lines().position(|line| line.contains(text));
    assert!(place("does not fit on the target") < place("large/1.0 was not sent"), "{lines}");
}

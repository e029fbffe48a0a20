//! A release source that fails, however it does: the target stays as it is, the journal says what is
//! wrong, no unit is failed, and once it is mended the agent has it tried again without a hand.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::field::{Field, SOURCE};
use crate::machines::wait_until;
use crate::releases::{PASSWORD_FILE, Releases, assert_password_unseen, release};

const LATER: &str = "75";
const PERSON: &str = "78";

/// A fault that is about to be made.
struct Fault {
    name: &'static str,
    code: &'static str,
    says: String,
    /// What stood before it,
    standing: BTreeSet<(PathBuf, i64, u32)>,
    /// and how often the journal said the same.
    told: usize,
}

/// A target that has all that its release names, and more to come with each mended fault.
struct Faulty {
    source: Releases,
    field: Field,
    ids: Vec<String>,
}

impl Faulty {
    fn new(name: &str, source: impl FnOnce(&Field) -> Releases) -> Self {
        let field = Field::new(name);
        let source = source(&field);
        let mut faulty = Self { source, field, ids: Vec::new() };
        faulty.add("first");
        faulty.configure("");
        faulty.field.add_target("site1", SOURCE, &faulty.settings(""));
        faulty.field.wait_connected("site1");
        faulty.field.stop_timers();
        faulty.field.master.sh("systemctl start blat-sync@site1");
        faulty.field.wait_for("site1", "first", "1.0", Duration::from_secs(10));
        faulty.ends("0");
        faulty
    }

    /// A package-version more is published and released.
    fn add(&mut self, package: &str) {
        self.field.publish(package, "1.0");
        self.ids.push(format!("{package}/1.0"));
        self.source.import(&self.field.master, &release("Bus/0", 'N', &self.ids));
    }

    fn settings(&self, more: &str) -> String {
        let table = self.source.table(&self.field.master);
        let table = if table.is_empty() { "[release]\n".into() } else { table };
        format!("releases = [\"Bus/0\"]\n{table}{more}")
    }

    /// Puts other settings in force, and waits until they are.
    fn put(&self, settings: &str) {
        self.field.write_target("site1", SOURCE, settings);
        let text = |path: &str| fs::read(self.field.master.file(path)).ok();
        wait_until("the settings are accepted", Duration::from_secs(20), || {
            text("/etc/blat/.accepted/targets/site1.toml") == text("/etc/blat/targets/site1.toml")
        });
        wait_until("nothing is applied", Duration::from_secs(20), || {
            self.field.active("blat-config") != "activating"
        });
    }

    fn configure(&self, more: &str) {
        if self.field.active("blat@site1") == "active" {
            self.put(&self.settings(more));
        }
    }

    fn told(&self, text: &str) -> usize {
        self.field.count("blat@site1", text)
    }

    /// Everything that stands in the target's archive: paths, times, kinds.
    fn standing(&self) -> BTreeSet<(PathBuf, i64, u32)> {
        let mut open = vec![self.field.archive("site1")];
        let mut all = BTreeSet::new();
        while let Some(path) = open.pop() {
            let found = fs::symlink_metadata(&path).expect("it stands");
            if path.ends_with(".dpkg_archive/sessions") {
                continue;
            }
            if found.is_dir() {
                open.extend(fs::read_dir(&path).expect("a folder").flatten().map(|entry| entry.path()));
            }
            let time = if found.is_dir() { 0 } else { found.mtime_nsec() };
            all.insert((path, time, found.mode()));
        }
        all
    }

    /// What a fault will lead to, and how all stands before it is there.
    fn before(&self, name: &'static str, code: &'static str, says: &str) -> Fault {
        Fault { name, code, says: says.to_owned(), standing: self.standing(), told: self.told(says) }
    }

    /// With the fault there, a synchronisation says so, ends with its code, and changes nothing; once
    /// `mend` was called, what waits arrives by itself.
    #[track_caller]
    fn fails_and_heals(&mut self, fault: &Fault, mend: impl FnOnce(&mut Self)) {
        let Fault { name, code, says, .. } = fault;
        self.field.master.sh("systemctl start blat-sync@site1");
        wait_until(&format!("the journal says {says:?}"), Duration::from_secs(40), || {
            self.told(says) > fault.told
        });
        self.ends(code);
        assert_eq!(self.standing(), fault.standing, "{name}");
        assert_eq!(self.field.failed_units(), "", "{name}");
        let begin = Instant::now();
        mend(self);
        let (package, _) = self.ids.last().and_then(|id| id.split_once('/')).expect("some id");
        self.field.wait_for("site1", package, "1.0", Duration::from_secs(45));
        println!("{name}: exit {code}, {says:?}; it healed by itself after {:?}", begin.elapsed());
        self.ends("0");
    }

    /// No run is under way, and the last one ended so.
    #[track_caller]
    fn ends(&self, code: &str) {
        wait_until(&format!("the run has ended with {code}"), Duration::from_secs(30), || {
            let shown =
                self.field.master.sh("systemctl show -p ActiveState -p ExecMainStatus blat-sync@site1");
            let is = |property: String| shown.lines().any(|line| line == property);
            is("ActiveState=inactive".into()) && is(format!("ExecMainStatus={code}"))
        });
    }

    /// A fault in the settings, which are mended.
    #[track_caller]
    fn setting(&mut self, package: &'static str, more: &str, code: &'static str, says: &str) {
        let fault = self.before(package, code, says);
        self.add(package);
        self.put(&self.settings(more));
        self.fails_and_heals(&fault, |faulty| faulty.put(&faulty.settings("")));
    }
}

#[test]
fn a_built_in_database_that_fails_changes_nothing_and_heals() {
    let mut faulty = Faulty::new("dbfaults", |_| Releases::BuiltIn);
    queries_that_are_wrong(&mut faulty);
    the_driver_is_missing(&mut faulty);
    the_file_is_missing(&mut faulty);
    a_release_that_does_not_exist(&mut faulty);
    names_that_are_none(&mut faulty);
    faulty.field.assert_no_failed_unit();
}

fn the_file_is_missing(faulty: &mut Faulty) {
    let says = "there is no database to open (`blat release import` makes the built-in one)";
    let fault = faulty.before("file missing", PERSON, says);
    faulty.add("file-missing");
    faulty.field.master.sh("mv /var/lib/blat/release_manager.db /root/");
    faulty.fails_and_heals(&fault, |faulty| {
        assert!(!faulty.field.master.file("/var/lib/blat/release_manager.db").exists(), "none was made");
        faulty.field.master.sh("mv /root/release_manager.db /var/lib/blat/");
    });
}

fn the_driver_is_missing(faulty: &mut Faulty) {
    let more = "connection = \"Driver=SQLite9;Database=/var/lib/blat/release_manager.db\"\n";
    faulty.setting("driver-missing", more, PERSON, "install the package libsqliteodbc");
}

fn queries_that_are_wrong(faulty: &mut Faulty) {
    let content = |query: &str| format!("queries.content = \"{query}\"\n");
    let broken = content("SELECT pkg_name FROM nowhere WHERE x = ?");
    faulty.setting("query-broken", &broken, PERSON, "the query `content` failed");
    let columns = content("SELECT k.pkg_name FROM packages k WHERE k.pkg_id >= ?");
    faulty.setting("columns-missing", &columns, PERSON, "the query `content` returns 1 columns, not 2");
    let types = content("SELECT c.rtag_id, c.pv_id FROM release_content c WHERE c.rtag_id = ?");
    faulty.setting("types-wrong", &types, PERSON, "column 1 of the query `content` is Integer, not text");
    let empty = content("SELECT k.pkg_name, k.pkg_name FROM packages k WHERE k.pkg_id = -1 - ?");
    faulty.setting("answer-empty", &empty, LATER, "the release source answered with nothing at all");
}

fn a_release_that_does_not_exist(faulty: &mut Faulty) {
    faulty.field.add_target("site2", SOURCE, &faulty.settings(""));
    faulty.field.wait_connected("site2");
    let fault = faulty.before("release missing", PERSON, "the project Bus has no release 99");
    faulty.add("release-missing");
    faulty.put("releases = [\"Bus/0\", \"Bus/99\"]\n");
    faulty.field.master.sh("systemctl kill -s USR1 'blat@*'");
    faulty.fails_and_heals(&fault, |faulty| {
        faulty.field.wait_for("site2", "release-missing", "1.0", Duration::from_secs(20));
        assert!(!faulty.field.has("site1", "release-missing", "1.0"));
        faulty.put(&faulty.settings(""));
    });
}

/// Rows that name no package-version are told and passed over; the others are sent, and the run is
/// not a success.
fn names_that_are_none(faulty: &mut Faulty) {
    let bad = ["up", "slash", "dots", "bell"];
    bad.iter().for_each(|package| faulty.add(package));
    let bell = "a' || char(7) || 'b";
    for (from, to) in bad.iter().zip(["../up", "sla/sh", "..", bell]) {
        let change = format!("UPDATE packages SET pkg_name = '{to}' WHERE pkg_name = '{from}'");
        faulty.source.change(&faulty.field.master, &change);
    }
    let good = "names-good".to_owned();
    faulty.field.publish(&good, "1.0");
    faulty.source.change(
        &faulty.field.master,
        "INSERT INTO packages VALUES (900, 'names-good'); INSERT INTO package_versions VALUES (900, 900, '1.0'); \
         INSERT INTO release_content SELECT rtag_id, 900 FROM release_tags",
    );
    faulty.field.master.sh("systemctl start blat-sync@site1");
    faulty.field.wait_for("site1", &good, "1.0", Duration::from_secs(10));
    wait_until("the run is told", Duration::from_secs(10), || faulty.told("4 have problems") > 0);
    faulty.ends(LATER);
    for name in ["\"../up\"", "\"sla/sh\"", "\"..\"", "\"a\\u{7}b\""] {
        let said = format!("release Bus/0: a row was refused: {name}");
        assert_eq!(faulty.told(&said), 1, "{said}");
    }
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(faulty.told("4 have problems"), 1, "it is not tried again before its time");
    println!("bad names: each of 4 rows refused and told once, the good one sent, exit {LATER}, no retry");
}

#[test]
fn a_database_server_that_fails_changes_nothing_and_heals() {
    let mut faulty = Faulty::new("pgfaults", |field| Releases::on_postgresql(&field.lab));
    the_server_is_down(&mut faulty);
    the_password_is_wrong(&mut faulty);
    rows_stop_in_the_middle(&mut faulty);
    the_server_falls_silent(&mut faulty);
    assert_password_unseen(&faulty.field);
    faulty.field.assert_no_failed_unit();
}

fn the_server_is_down(faulty: &mut Faulty) {
    let fault = faulty.before("server down", LATER, "the database cannot be reached");
    faulty.add("server-down");
    faulty.source.stop();
    faulty.fails_and_heals(&fault, |faulty| {
        std::thread::sleep(Duration::from_secs(20));
        assert_eq!(faulty.told("the database cannot be reached"), 1, "the same is told once");
        faulty.source.start_again(&faulty.field.lab);
    });
}

fn the_password_is_wrong(faulty: &mut Faulty) {
    let fault = faulty.before("password wrong", PERSON, "the database refused the login");
    faulty.add("password-wrong");
    faulty.field.master.write(PASSWORD_FILE, "not it\n", 0o600);
    faulty.fails_and_heals(&fault, |faulty| {
        drop(faulty.source.table(&faulty.field.master));
    });
    let says = format!("cannot read the password file {PASSWORD_FILE}");
    let fault = faulty.before("password missing", PERSON, &says);
    faulty.add("password-missing");
    faulty.field.master.sh(&format!("mv {PASSWORD_FILE} /root/password"));
    faulty.fails_and_heals(&fault, |faulty| {
        faulty.field.master.sh(&format!("mv /root/password {PASSWORD_FILE}"));
    });
}

/// Rows that come so slowly that there is time to hinder them.
const SLOW: &str = "timeout = 1\nqueries.content = \"\"\"SELECT k.pkg_name, v.pkg_version \
     FROM release_content c INNER JOIN package_versions v ON v.pv_id = c.pv_id \
     INNER JOIN packages k ON k.pkg_id = v.pkg_id, generate_series(1, 3000) \
     WHERE c.rtag_id = ? AND pg_sleep(0.001) IS NOT NULL\"\"\"\n";

fn rows_stop_in_the_middle(faulty: &mut Faulty) {
    let fault = faulty.before("rows cut", LATER, "the connection was lost in the middle");
    faulty.add("rows-cut");
    faulty.put(&faulty.settings(&SLOW.replace("timeout = 1\n", "")));
    let server = faulty.source.process();
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| signal_backend(&server, "-KILL"));
        // The server ends all others when one is killed; it comes up again by itself.
        faulty.fails_and_heals(&fault, |faulty| {
            faulty.put(&faulty.settings(""));
        });
        killer.join().expect("it found one");
    });
}

fn the_server_falls_silent(faulty: &mut Faulty) {
    let fault = faulty.before("server silent", LATER, "nothing was heard of the release source for 10 s");
    faulty.add("rows-silent");
    faulty.put(&faulty.settings(SLOW));
    let server = faulty.source.process();
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| signal_backend(&server, "-STOP"));
        faulty.fails_and_heals(&fault, |faulty| {
            faulty.put(&faulty.settings(""));
        });
        let stopped = killer.join().expect("it found one");
        run("kill", &["-CONT", &stopped]);
    });
}

/// Signals the server's process that answers the master; returns its number.
fn signal_backend(server: &str, signal: &str) -> String {
    let mut found = String::new();
    wait_until("rows are on their way", Duration::from_secs(30), || {
        found = run("pgrep", &["-P", server, "-f", "^postgres: blat rm 10\\..*(SELECT|FETCH)"]);
        !found.is_empty()
    });
    std::thread::sleep(Duration::from_millis(300));
    run("kill", &[signal, &found]);
    found
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().unwrap_or_default().to_owned()
}

/// The database's password, and a target that needs it, put there by one copy.
#[test]
fn a_target_that_is_written_right_after_another_file_is_noticed() {
    let field = Field::new("together");
    for number in 0..2 {
        field.master.write(&format!("/etc/blat/other{number}"), "", 0o600);
        field.add_target(&format!("site{number}"), SOURCE, "");
        let unit = format!("blat@site{number}");
        wait_until("its agent runs", Duration::from_secs(20), || field.active(&unit) == "active");
        wait_until("nothing is applied", Duration::from_secs(20), || {
            field.active("blat-config") != "activating"
        });
    }
}

#[test]
fn a_list_and_packages_alone_need_no_database() {
    let field = Field::new("nodb");
    field.publish("listed", "1.0");
    field.publish("alone", "1.0");
    let list = |text: &str| field.master.write("/etc/blat/packages.txt", text, 0o644);
    list("listed 1.0\nlisted 1.0 more\n");
    field.add_target("site1", SOURCE, "[release]\nsource = \"file\"\n");
    field.wait_connected("site1");
    field.master.sh("systemctl start blat-sync@site1");
    let says = "/etc/blat/packages.txt:2: a line is PACKAGE VERSION";
    wait_until("the bad line is told", Duration::from_secs(10), || field.count("blat@site1", says) > 0);
    assert_eq!(field.master.sh("systemctl show -P ExecMainStatus blat-sync@site1"), PERSON);
    assert!(!field.has("site1", "listed", "1.0"));
    list("listed 1.0\n");
    field.wait_for("site1", "listed", "1.0", Duration::from_secs(30));
    field.master.sh("rm /etc/blat/packages.txt; systemctl start blat-sync@site1");
    wait_until("the missing list is told", Duration::from_secs(10), || {
        field.count("blat@site1", "cannot read the list of package-versions /etc/blat/packages.txt") > 0
    });
    assert!(field.has("site1", "listed", "1.0"));
    field.add_target("site2", SOURCE, "[packages]\nalone = \"1.0\"\n");
    field.wait_connected("site2");
    field.master.sh("systemctl start blat-sync@site2");
    field.wait_for("site2", "alone", "1.0", Duration::from_secs(10));
    assert!(!field.master.file("/var/lib/blat/release_manager.db").exists());
    field.assert_no_failed_unit();
}

//! A bucket as a target under real systemd: its whole life, by the units that a person has.
//!
//! The server is a process on the lab's network. What is in the bucket is judged by the command line of
//! AWS, and what is in its objects by `unzip`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::field::{Field, REAL_SOURCE, SOURCE, real_packages, seal, set_mode};
use crate::machines::{LAB_ADDR, wait_until};
use crate::s3::{BUCKET, KEY, Kind, SECRET, Server, aws, credentials, said};

const SOON: Duration = Duration::from_secs(60);
/// Until a run has given a server up that does not answer, and until one that failed is made again.
const PATIENCE: Duration = Duration::from_secs(150);
const KEY_FILE: &str = "/etc/blat/keys/bucket1";
/// How many of the real packages are in it.
const REAL: usize = 40;

/// A master whose target `bucket1` is a bucket, and the server that has it.
struct Filled {
    field: Field,
    server: Server,
    content: BTreeSet<String>,
}

impl Filled {
    fn new(name: &str) -> Self {
        let field = Field::new(name);
        let lab = field.lab.clone();
        let launch = move |mut command: Command| lab.on_network(move || command.spawn());
        let server = Server::start_at(Kind::Seaweed, &LAB_ADDR.to_string(), launch);
        let ids: Vec<String> =
            real_packages(REAL).iter().map(|(package, version)| format!("{package}/{version}")).collect();
        field.master.write("/root/ids", ids.join("\n"), 0o644);
        field.master.sh(&format!("cd {REAL_SOURCE} && xargs -a /root/ids cp -a --parents -t {SOURCE}"));
        field.publish("core", "1.0");
        field.publish_link("core", "current", "1.0");
        let mut content: BTreeSet<String> = ids.into_iter().collect();
        content.insert("core/current".into());
        let filled = Self { field, server, content };
        filled.import();
        filled.put_key(KEY, SECRET);
        let text = format!(
            "kind = \"s3\"\nsource = \"{SOURCE}\"\nprojects = [\"Tram\"]\n[s3]\nbucket = \"{BUCKET}\"\n\
             prefix = \"ci/\"\nendpoint = \"{}\"\npath_style = true\n",
            filled.server.endpoint()
        );
        filled.field.master.write("/etc/blat/targets/bucket1.toml", text, 0o644);
        filled.wait_in_force();
        filled
    }

    /// Until the agent is there, the units have no drop-ins, and what they do is told to nobody.
    fn wait_in_force(&self) {
        wait_until("the agent of bucket1 runs", SOON, || {
            self.field.status_text("bucket1").starts_with(&format!("bucket {BUCKET} at "))
        });
        // Synchronisations are counted, so none comes by itself.
        let timer = "blat-sync@bucket1.timer";
        wait_until("its timer runs", SOON, || self.field.active(timer) == "active");
        self.field.master.sh(&format!("systemctl stop {timer}"));
    }

    /// One release goes into buckets, one does not.
    fn import(&self) {
        let lines = self.content.iter().map(|id| id.replace('/', " ") + "\n").collect::<String>();
        let text = format!("[Tram/ci] N s3\n{lines}[Tram/site] N\nsite 1.0\n");
        self.field.master.write("/root/releases", text, 0o644);
        self.field.master.sh("blat release import /root/releases");
    }

    fn put_key(&self, key: &str, secret: &str) {
        self.field.master.sh("mkdir -p /etc/blat/keys");
        self.field.master.write(KEY_FILE, credentials(key, secret), 0o600);
    }

    fn journal(&self) -> String {
        self.field.master.journal(&["-u", "blat@bucket1", "-o", "cat"])
    }

    /// Waits for a line in the journal behind the first `before` ones.
    #[track_caller]
    fn wait_line(&self, before: usize, part: &str) -> String {
        let mut found = None;
        wait_until(&format!("{part:?} is told"), SOON, || {
            let journal = self.journal();
            found = journal.lines().skip(before).find(|line| line.contains(part)).map(str::to_owned);
            found.is_some()
        });
        found.expect("just found")
    }

    /// Synchronises by the unit; what it sent and linked.
    #[track_caller]
    fn sync(&self) -> String {
        let before = self.journal().lines().count();
        self.field.master.sh("systemctl start blat-sync@bucket1");
        self.sent_after(before)
    }

    #[track_caller]
    fn sent_after(&self, before: usize) -> String {
        let line = self.wait_line(before, "synchronised: ");
        let line = line.strip_prefix("synchronised: ").expect("just found").to_owned();
        let (packages, rest) = line.split_once(" packages sent").expect("packages");
        let links =
            rest.split_once("), ").and_then(|(_, rest)| rest.split_once(" links made")).expect("links");
        format!("{packages} sent, {} linked", links.0)
    }

    fn aws(&self, arguments: &[&str]) -> String {
        said(&aws(&self.server, arguments))
    }

    /// The keys below the prefix, without it.
    fn keys(&self) -> BTreeSet<String> {
        let text = self.aws(&["s3", "ls", "--recursive", &format!("s3://{BUCKET}/ci/")]);
        let key = |line: &str| {
            line.split_whitespace().nth(3).and_then(|key| key.strip_prefix("ci/").map(str::to_owned))
        };
        text.lines().filter_map(key).collect()
    }

    /// The keys that there should be.
    fn wanted(&self) -> BTreeSet<String> {
        let key = |id: &str| {
            let (package, version) = id.split_once('/').expect("an id");
            format!("{package}/{package}-{version}.zip")
        };
        let ids = self.content.iter().map(String::as_str).chain(["core/1.0"]);
        ids.map(key).chain(["packages.json".to_owned()]).collect()
    }

    /// Gets the object and unpacks it.
    fn unpacked(&self, key: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let zip = folder.path().join("package.zip");
        self.aws(&["s3", "cp", &format!("s3://{BUCKET}/ci/{key}"), zip.to_str().expect("a path")]);
        let output =
            Command::new("unzip").arg("-q").arg(&zip).arg("-d").arg(folder.path().join("tree")).output();
        said(&output.expect("these tests need Debian's package `unzip`"));
        folder
    }

    /// What the object of a link or package says that it is, by its `descpkg`.
    fn descpkg(&self, key: &str) -> String {
        let folder = self.unpacked(key);
        let text = fs::read_to_string(folder.path().join("tree/descpkg")).expect("a descpkg");
        unlock(folder.path());
        text
    }

    fn rebuild(&self, version: &str, content: &str) {
        let folder = self.field.source().join("core").join(version);
        set_mode(&folder, 0o755);
        fs::remove_file(folder.join("descpkg")).expect("an old descpkg");
        fs::write(folder.join("descpkg"), content).expect("a new descpkg");
        seal(&folder);
    }
}

/// So that what is read-only can be removed.
fn unlock(folder: &Path) {
    let _ = Command::new("chmod").arg("-R").arg("u+w").arg(folder).status();
}

#[test]
fn a_bucket_lives_its_whole_life_by_its_units() {
    let mut filled = Filled::new("bucket");
    it_is_filled_and_found_unchanged(&filled);
    builds_and_links_follow(&filled);
    signals_and_tags_work(&mut filled);
    a_server_that_is_away_is_told_and_what_waits_comes_later(&mut filled);
    a_network_that_swallows_all_is_given_up(&filled);
    a_key_that_is_wrong_or_missing_is_told_and_heals(&filled);
    the_timer_synchronises_by_itself(&mut filled);
    filled.field.assert_no_failed_unit();
}

fn it_is_filled_and_found_unchanged(filled: &Filled) {
    assert_eq!(filled.sync(), format!("{} sent, 1 linked", REAL + 1));
    assert_eq!(filled.keys(), filled.wanted(), "and nothing of the release without the flag");
    assert_eq!(filled.sync(), "0 sent, 0 linked");
    let status = filled.field.status_text("bucket1");
    assert!(status.starts_with(&format!("bucket {BUCKET} at http://{LAB_ADDR}:")), "{status}");
    assert!(status.contains("; synchronised at "), "{status}");
    let agent = "blat@bucket1.service";
    let seen = format!("/proc/$(systemctl show -P MainPID {agent})/root");
    let key = filled.field.master.sh(&format!("ls {seen}/run/credentials/{agent}"));
    assert_eq!(key, "identity", "the agent gets nothing but what stands in for a key");
}

fn builds_and_links_follow(filled: &Filled) {
    filled.rebuild("1.0", "built again\n");
    assert_eq!(filled.sync(), "1 sent, 1 linked", "the link's object holds the new build too");
    assert_eq!(filled.descpkg("core/core-current.zip"), "built again\n");
    filled.field.publish("core", "2.0");
    filled.field.publish_link("core", "current", "2.0");
    assert_eq!(filled.sync(), "1 sent, 1 linked");
    assert_eq!(filled.descpkg("core/core-current.zip"), "core 2.0\n");
    assert_eq!(filled.sync(), "0 sent, 0 linked");
}

fn signals_and_tags_work(filled: &mut Filled) {
    filled.field.publish("tram", "1.0");
    filled.content.insert("tram/1.0".into());
    filled.import();
    let before = filled.journal().lines().count();
    filled.field.master.sh("systemctl kill -s USR1 blat@bucket1");
    assert_eq!(filled.sent_after(before), "1 sent, 0 linked");
    filled.field.publish("tagged", "1.0");
    filled.field.publish_link("tagged", "stable", "1.0");
    filled.field.tag("bucket1", "tagged", "stable");
    filled.field.wait_no_tags("bucket1", SOON);
    let keys = filled.keys();
    assert!(keys.contains("tagged/tagged-1.0.zip") && keys.contains("tagged/tagged-stable.zip"), "{keys:?}");
    assert_eq!(filled.descpkg("tagged/tagged-stable.zip"), "tagged 1.0\n");
    let index = filled.aws(&["s3", "cp", &format!("s3://{BUCKET}/ci/packages.json"), "-"]);
    assert!(index.contains("\"package\":\"tagged\",\"version\":\"stable\""), "{index}");
    assert_eq!(filled.sync(), "0 sent, 0 linked", "the index knows what the tag brought");
}

fn a_server_that_is_away_is_told_and_what_waits_comes_later(filled: &mut Filled) {
    let before = filled.journal().lines().count();
    filled.server.stop();
    filled.field.publish("waiting", "1.0");
    filled.field.tag("bucket1", "waiting", "1.0");
    let line = filled.wait_line(before, "cannot be reached");
    assert!(line.contains(BUCKET) && line.contains(&filled.server.endpoint()), "{line}");
    // Not while it is tried again.
    wait_until("the status tells it", SOON, || {
        let status = filled.field.status_text("bucket1");
        status.contains("1 tag waits") && status.contains("the last transfer failed")
    });
    filled.server.run();
    filled.field.wait_no_tags("bucket1", PATIENCE);
    assert!(filled.keys().contains("waiting/waiting-1.0.zip"), "nobody asked for it again");
    filled.field.assert_no_failed_unit();
}

/// Nobody refuses, nothing arrives: the run gives the server up, nobody has to stop the run.
fn a_network_that_swallows_all_is_given_up(filled: &Filled) {
    let before = filled.journal().lines().count();
    filled.field.master.plug(false);
    filled.field.publish("swallowed", "1.0");
    filled.field.tag("bucket1", "swallowed", "1.0");
    let mut told = false;
    wait_until("the server is given up", PATIENCE, || {
        told = filled
            .journal()
            .lines()
            .skip(before)
            .any(|line| line.contains("in the bucket ci-packages: http"));
        told
    });
    filled.field.master.plug(true);
    filled.field.wait_no_tags("bucket1", PATIENCE);
    assert!(filled.keys().contains("swallowed/swallowed-1.0.zip"));
    let ended = filled.field.master.journal(&["-u", "blat-transfer@bucket1", "-o", "cat"]);
    assert!(!ended.contains("operation timed out"), "systemd did not have to end it: {ended}");
    filled.field.assert_no_failed_unit();
}

fn the_timer_synchronises_by_itself(filled: &mut Filled) {
    let file = "/etc/blat/targets/bucket1.toml";
    let text = fs::read_to_string(filled.field.master.file(file)).expect("the target's file");
    filled.field.master.write(file, text + "[sync]\nperiod = \"3s\"\n[aging]\nmode = \"immediate\"\n", 0o644);
    filled.content.remove("tram/1.0");
    filled.field.publish("timed", "1.0");
    filled.content.insert("timed/1.0".into());
    filled.import();
    wait_until("the new period is in force", SOON, || {
        filled.field.master.sh("systemctl cat blat-sync@bucket1.timer").contains("OnUnitInactiveSec=3s")
    });
    filled.field.master.sh("systemctl start blat-sync@bucket1.timer");
    wait_until("the timer brings what is new and takes what is in excess", PATIENCE, || {
        let keys = filled.keys();
        keys.contains("timed/timed-1.0.zip") && !keys.contains("tram/tram-1.0.zip")
    });
}

fn a_key_that_is_wrong_or_missing_is_told_and_heals(filled: &Filled) {
    filled.field.master.sh(&format!("rm {KEY_FILE}"));
    let before = filled.journal().lines().count();
    filled.field.publish("late", "1.0");
    filled.field.tag("bucket1", "late", "1.0");
    filled.wait_line(before, "there are no credentials");
    filled.put_key(KEY, "not-the-secret");
    filled.field.master.sh("systemctl start blat-sync@bucket1 || true");
    let line = filled.wait_line(before, "SignatureDoesNotMatch");
    assert!(line.contains(BUCKET) && line.contains(KEY_FILE), "{line}");
    filled.field.assert_no_failed_unit();
    filled.put_key(KEY, SECRET);
    filled.field.master.sh("systemctl kill -s USR1 blat@bucket1");
    filled.field.wait_no_tags("bucket1", SOON);
    assert!(filled.keys().contains("late/late-1.0.zip"));
}

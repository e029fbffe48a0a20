//! The agent by itself, mostly of a bucket, to which it keeps no line.

mod loopback;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use blat::agent;
use blat::config::Settings;
use blat::lock;
use blat::places::Places;
use blat::report::{Report, Reporter};
use blat::start::block_on;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

use crate::loopback::Loopback;

const SOON: Duration = Duration::from_secs(20);
/// How often the agent looks by itself.
const TICK: Duration = Duration::from_secs(5);
const BUCKET: &str = "source = \"/srv/a\"\nkind = \"s3\"\ns3.bucket = \"packages\"\n";

/// A root with one target, whose settings are these.
fn root(settings: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for folder in ["etc/blat/targets", "tags/.claimed", "var/lib/blat/site1", "run/blat/site1"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    write(root.path(), settings);
    root
}

fn write(root: &Path, settings: &str) {
    write_with_tags_in(&root.join("tags"), root, settings);
}

fn write_with_tags_in(tags: &Path, root: &Path, settings: &str) {
    let text = format!("{settings}[tags]\ndirectory = {tags:?}\n");
    fs::write(root.join("etc/blat/targets/site1.toml"), text).unwrap();
}

#[track_caller]
fn wait(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < SOON, "{what}: not so");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An agent, and what it says.
struct Agent {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Agent {
    fn start(root: &Path) -> Self {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_blat-agent"));
        agent.arg("--root").arg(root).arg("site1").env_remove("BLAT_LOG").env_remove("JOURNAL_STREAM");
        agent.env("NOTIFY_SOCKET", root.join("notify"));
        let mut process = agent.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map(Result::unwrap).try_for_each(|line| tell.send(line)));
        Self { process, lines }
    }

    fn says(&self, words: &str) {
        while !self.lines.recv_timeout(SOON).expect(words).contains(words) {}
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends at TERM, and soon.
    fn ends(&mut self) {
        self.signal(Signal::SIGTERM);
        let begin = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < SOON, "the agent does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_look_at_the_tags_that_never_comes_back_leaves_the_agent_to_its_work() {
    let root = root(BUCKET);
    fs::write(root.path().join("tags/.claimed/0000000000000001-core::1.0"), "").unwrap();
    // Whoever opens it waits, as where a file server is gone.
    mkfifo(&root.path().join("var/lib/blat/site1/waiting.json"), Mode::S_IRWXU).unwrap();
    let mut agent = Agent::start(root.path());
    agent.says("is ready");
    agent.signal(Signal::SIGHUP);
    agent.says("read the configuration again");
    agent.ends();
}

/// As where a file is accepted between the agent's reading it and its being ready: systemd reloads nothing that is
/// not ready.
#[test]
fn what_came_into_force_while_the_agent_started_is_what_it_goes_by() {
    let root = root("source = \"/srv/a\"\nssh.host = \"nowhere\"\n");
    let settings = Settings::load(root.path(), &"site1".parse().unwrap()).unwrap();
    write(root.path(), BUCKET);
    let runs = async {
        let _ = tokio::time::timeout(Duration::from_secs(2), agent::run(root.path(), settings)).await;
        Ok(())
    };
    block_on(runs).unwrap();
    let known = fs::read_to_string(root.path().join("run/blat/site1/agent.json")).unwrap();
    assert!(known.contains("not_kept"), "{known}");
}

#[test]
fn an_agent_that_reads_its_configuration_again_is_as_wordy_as_that_says() {
    let root = root(&format!("verbosity = \"error\"\n{BUCKET}"));
    let mut agent = Agent::start(root.path());
    let begin = Instant::now();
    while !root.path().join("run/blat/site1/agent.json").exists() {
        assert!(begin.elapsed() < SOON, "the agent does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    write(root.path(), BUCKET);
    agent.signal(Signal::SIGHUP);
    agent.says("read the configuration again");
    agent.ends();
}

#[test]
fn tags_that_waited_where_nothing_looks_any_more_are_not_in_the_status() {
    let root = root(BUCKET);
    let told = UnixDatagram::bind(root.path().join("notify")).unwrap();
    told.set_read_timeout(Some(SOON)).unwrap();
    let status = |words: &str| {
        let mut datagram = [0; 4096];
        while !String::from_utf8_lossy(&datagram).contains(words) {
            datagram.fill(0);
            told.recv(&mut datagram).expect(words);
        }
        String::from_utf8_lossy(&datagram).into_owned()
    };
    let mut agent = Agent::start(root.path());
    agent.says("is ready");
    let report = Places::of(root.path(), &"site1".parse().unwrap()).report;
    let mut reporter = Reporter::new("site1", &report);
    reporter.tell(Report::Queue { waiting: Some(3) });
    reporter.tell(Report::Trouble { reason: "its disk is gone".into(), person: false });
    reporter.tell(Report::Queue { waiting: None });
    status("3 tags wait; the last transfer failed: its disk is gone");
    reporter.tell(Report::Queue { waiting: None });
    let words = status("3 tags wait");
    assert!(!words.contains("failed"), "the run's end was not heard: {words}");
    write_with_tags_in(&root.path().join("elsewhere"), root.path(), BUCKET);
    agent.signal(Signal::SIGHUP);
    let words = status("no tag waits");
    assert!(!words.contains("failed"), "{words}");
    agent.ends();
}

#[test]
fn claims_that_are_due_are_taken_up() {
    let root = root(BUCKET);
    fs::write(root.path().join("tags/.claimed/0000000000000001-core::1.0"), "").unwrap();
    let mut agent = Agent::start(root.path());
    let (trigger, begin) = (root.path().join("run/blat/site1/transfer"), Instant::now());
    while !trigger.exists() {
        assert!(begin.elapsed() < SOON, "nothing has the tag looked at");
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.ends();
}

/// As where the manager, which reads its units anew, sees nothing of the trigger.
#[test]
fn a_synchronisation_that_was_asked_for_and_did_not_begin_is_asked_for_again() {
    let root = root(BUCKET);
    let places = Places::of(root.path(), &"site1".parse().unwrap());
    let touches = || fs::read(places.sync_trigger()).map_or(0, |text| text.len());
    let mut agent = Agent::start(root.path());
    agent.says("is ready");
    let running = lock::take(&places.sync_lock(), "a run").unwrap();
    agent.signal(Signal::SIGUSR1);
    wait("it is asked for", || touches() > 0);
    // A run that goes on looks at its end whether it was asked for meanwhile.
    std::thread::sleep(TICK);
    assert_eq!(touches(), 1);
    drop(running);
    wait("it is asked for again", || touches() > 1);
    agent.ends();
}

#[test]
fn a_synchronisation_that_failed_is_forgotten_once_nothing_is_wanted() {
    let root = root(BUCKET);
    let places = Places::of(root.path(), &"site1".parse().unwrap());
    let trouble = || fs::read_to_string(places.agent()).unwrap_or_default().contains("no such release");
    let mut agent = Agent::start(root.path());
    agent.says("is ready");
    let failed = Report::SyncFailed { reason: "no such release".into(), person: true };
    Reporter::new("site1", &places.report).tell(failed);
    wait("the failure is known", trouble);
    let mut sync = Command::new(env!("CARGO_BIN_EXE_blat"));
    sync.arg("--root").arg(root.path()).args(["sync", "site1"]);
    assert!(sync.status().unwrap().success(), "nothing is to be synchronised");
    wait("it is forgotten", || !trouble());
    agent.ends();
}

#[test]
fn a_call_for_a_person_waits_until_systemd_looks_and_over_a_restart() {
    let root = root("source = \"/srv/a\"\nssh.host = \"nowhere\"\nssh.identity = \"/nowhere/key\"\n");
    let places = Places::of(root.path(), &"site1".parse().unwrap());
    let waiting = || fs::read_to_string(places.calls()).unwrap_or_default();
    let mut agent = Agent::start(root.path());
    wait("a person is needed", || waiting().contains("cannot read the key /nowhere/key"));
    agent.ends();
    assert!(!places.person().exists(), "nobody looks there yet");
    // As an agent of an older version left it.
    fs::write(places.calls(), r#"{"reasons":["a tag is rejected"],"more":0}"#).unwrap();
    let mut agent = Agent::start(root.path());
    wait("a person is called", || {
        let called = fs::read_to_string(places.person()).unwrap_or_default();
        called.contains("/nowhere/key") && called.contains("; a tag is rejected")
    });
    // As the service does when it starts; until then, it is not known whether systemd saw anything.
    wait("there is a note", || places.untold().exists());
    assert!(waiting().contains("a tag is rejected"));
    fs::remove_file(places.untold()).unwrap();
    wait("once", || !places.calls().exists());
    agent.ends();
}

#[test]
fn nobody_is_called_for_a_key_once_the_line_is_up() {
    let blat = Path::new(env!("CARGO_BIN_EXE_blat"));
    let world = Loopback::new(blat, &blat.with_file_name("blat-target"));
    let places = Places::of(world.root(), &"site1".parse().unwrap());
    let key = world.root().join("etc/blat/keys/site1");
    fs::rename(&key, world.root().join("key")).unwrap();
    let mut agent = Agent::start(world.root());
    wait("a person is needed", || places.calls().exists());
    fs::rename(world.root().join("key"), &key).unwrap();
    wait("nobody is needed", || !places.calls().exists());
    assert!(!places.person().exists());
    agent.ends();
}

#[test]
fn nobody_is_called_for_a_host_that_is_the_targets_no_more() {
    let root = root("source = \"/srv/a\"\nssh.host = \"nowhere\"\nssh.identity = \"/nowhere/key\"\n");
    let places = Places::of(root.path(), &"site1".parse().unwrap());
    let mut agent = Agent::start(root.path());
    wait("a person is needed", || places.calls().exists());
    // The same line as before: what was said of it is not said again.
    for _ in 0..2 {
        agent.signal(Signal::SIGHUP);
        // It says so at the beginning: when it begins once more, the first is over.
        agent.says("read the configuration again");
    }
    assert!(places.calls().exists());
    write(root.path(), BUCKET);
    agent.signal(Signal::SIGHUP);
    wait("nobody is needed", || !places.calls().exists());
    assert!(!places.person().exists());
    agent.ends();
}

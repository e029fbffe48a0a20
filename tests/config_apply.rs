//! `config apply` on a folder of its own, with a systemctl that only writes down what it is asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use blat::config::{Apply, Owners, Settings, Systemctl};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, mkfifo};
use tempfile::TempDir;

const GOOD: &str = "source = \"/srv/a\"\n[ssh]\nhost = \"h\"\n";

struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        machine.put("etc/blat/targets/.keep", "");
        machine.put("calls", "");
        machine.state("inactive");
        let script = "#!/bin/sh\ncd \"${0%/*}\"\nmasked=$(cat masked 2>/dev/null)\n\
             [ \"$1\" = show ] || { echo \"$*\" >> calls; [ ! -e fails ] && [ \"$3\" != \"$masked\" -o -z \"$3\" ]; exit; }\n\
             shift 2\nfor unit; do case $unit in blat.target) state=active;; *) state=$(cat state);; esac\n\
             load=loaded; [ \"$unit\" = \"$masked\" ] && load=masked\n\
             printf 'Id=%s\\nLoadState=%s\\nActiveState=%s\\n\\n' \"$unit\" \"$load\" \"$state\"; done\n";
        machine.put("systemctl", script);
        fs::set_permissions(machine.path("systemctl"), PermissionsExt::from_mode(0o755)).unwrap();
        machine
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    /// The state in which the agents are found.
    fn state(&self, state: &str) {
        self.put("state", state);
    }

    fn try_apply(&self) -> anyhow::Result<Vec<String>> {
        let (user, group) = (Uid::effective(), Gid::effective());
        let apply = Apply {
            root: self.root.path().to_owned(),
            systemctl: Systemctl(self.path("systemctl")),
            owners: Owners { trusted: user, user, group, publishers: group },
            still: Duration::from_millis(1),
        };
        Ok(apply.run()?.iter().map(ToString::to_string).collect())
    }

    /// What is wrong with the files, and what the manager was asked.
    fn apply(&self) -> (Vec<String>, Vec<String>) {
        self.put("calls", "");
        let problems = self.try_apply().unwrap();
        // As the manager does on a reload.
        let generated = self.path("run/systemd/generator");
        let _ = fs::remove_dir_all(&generated);
        blat::generator::write(&blat::generator::plan(self.root.path()).0, &generated).unwrap();
        (problems, self.calls())
    }

    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.path("calls")).unwrap().lines().map(str::to_owned).collect()
    }

    fn host(&self, name: &str) -> String {
        Settings::load(self.root.path(), &name.parse().unwrap())
            .unwrap()
            .destination
            .ssh()
            .unwrap()
            .ssh
            .host
            .to_string()
    }
}

#[test]
fn a_new_target_is_accepted_and_started() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    let (problems, calls) = machine.apply();
    assert_eq!(problems, [""; 0]);
    assert_eq!(calls, ["start --no-block blat@site1.service", "daemon-reload"]);
    let mode = |path: &str| fs::metadata(machine.path(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("var/lib/blat/tags/site1"), 0o2775);
    assert_eq!(mode("var/lib/blat/site1"), 0o750);
    assert_eq!(mode("etc/blat/.accepted/targets/site1.toml"), 0o644);
}

/// The manager starts with an agent what it knows that the agent wants.
#[test]
fn timers_are_known_before_the_agent_starts_that_brings_them_up() {
    let machine = Machine::new();
    let expected = ["daemon-reload", "start --no-block blat@site1.service"];
    machine.put("etc/blat/targets/site1.toml", &format!("projects = ['Ferry']\n{GOOD}"));
    assert_eq!(machine.apply().1, expected);
    machine.state("failed");
    machine.put("etc/blat/targets/site1.toml", &format!("{GOOD}[tags]\npolling = 'always'\n"));
    assert_eq!(machine.apply().1, expected);
}

#[test]
fn nothing_changed_asks_nothing() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    assert_eq!(machine.apply().1, [""; 0]);
}

#[test]
fn a_changed_target_is_reloaded_only_where_it_runs() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    machine.put("etc/blat/targets/site1.toml", &GOOD.replace("\"h\"", "\"other\""));
    assert_eq!(machine.apply().1, [""; 0]);
    machine.state("active");
    machine.put("etc/blat/targets/site1.toml", GOOD);
    assert_eq!(machine.apply().1, ["reload --no-block blat@site1.service"]);
}

#[test]
fn changed_defaults_reach_every_target() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/a.toml", GOOD);
    machine.put("etc/blat/targets/b.toml", GOOD);
    machine.apply();
    machine.state("active");
    machine.put("etc/blat/blat.toml", "[tags]\ngive_up = '1h'\n");
    assert_eq!(machine.apply().1, ["reload --no-block blat@a.service", "reload --no-block blat@b.service"]);
}

#[test]
fn a_broken_file_leaves_what_worked_and_says_where() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    machine.state("active");
    machine.put("etc/blat/targets/site1.toml", "source = \"/srv/a\"\n[ssh]\nhots = \"h\"\n");
    let (problems, calls) = machine.apply();
    assert!(
        problems[0].starts_with("/etc/blat/targets/site1.toml:3:1: key `ssh.hots`: unknown key; "),
        "{problems:?}"
    );
    assert_eq!(calls, [""; 0]);
    assert_eq!(machine.host("site1"), "h");
}

#[test]
fn removed_and_disabled_targets_stop() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/a.toml", GOOD);
    machine.put("etc/blat/targets/b.toml", GOOD);
    machine.apply();
    machine.state("active");
    fs::remove_file(machine.path("etc/blat/targets/a.toml")).unwrap();
    machine.put("etc/blat/targets/b.toml", &format!("enabled = false\n{GOOD}"));
    let (_, calls) = machine.apply();
    assert_eq!(calls, ["stop --no-block blat@a.service", "stop --no-block blat@b.service", "daemon-reload"]);
    assert!(!machine.path("etc/blat/.accepted/targets/a.toml").exists());
}

#[test]
fn a_target_that_goes_leaves_no_tags_unsaid_but_those_that_another_has() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/a.toml", GOOD);
    machine.put("etc/blat/targets/b.toml", &format!("{GOOD}[tags]\ndirectory = '/srv/t'\n"));
    machine.apply();
    machine.put("var/lib/blat/tags/a/core::1.0", "");
    machine.put("srv/t/core::1.0", "");
    for (old, new) in [("a", "c"), ("b", "d")] {
        let path = |name: &str| machine.path(&format!("etc/blat/targets/{name}.toml"));
        fs::rename(path(old), path(new)).unwrap();
    }
    let log = fs::File::create(machine.path("log")).unwrap();
    let subscriber = tracing_subscriber::fmt().with_writer(log).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || machine.apply());
    let log = fs::read_to_string(machine.path("log")).unwrap();
    let left: Vec<&str> = log.lines().filter(|line| line.contains("tags are left in")).collect();
    assert_eq!(left.len(), 1, "{log}");
    assert!(left[0].contains("a: tags are left in /var/lib/blat/tags/a, "), "{log}");
}

#[test]
fn a_link_to_what_is_not_mounted_removes_nothing() {
    for linked in ["etc/blat/blat.toml", "etc/blat/targets", "etc/blat/targets/site1.toml"] {
        let machine = Machine::new();
        machine.put("etc/blat/blat.toml", "source = '/srv/a'\n");
        machine.put("etc/blat/targets/site1.toml", "ssh.host = 'h'\n");
        machine.apply();
        machine.state("active");
        fs::rename(machine.path(linked), machine.path("unmounted")).unwrap();
        symlink(machine.path("nowhere"), machine.path(linked)).unwrap();
        let (problems, calls) = machine.apply();
        let expected =
            "a symbolic link to what is not there; mount what it leads to, or remove the link".to_owned();
        assert_eq!(problems, [format!("/{linked}: {expected}")]);
        assert_eq!(calls, [""; 0]);
        assert_eq!(machine.host("site1"), "h");
    }
}

#[test]
fn a_target_whose_name_begins_as_a_removed_ones_is_no_less_new() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    fs::remove_file(machine.path("etc/blat/targets/site1.toml")).unwrap();
    machine.put("etc/blat/targets/site1.example.org.toml", &format!("projects = ['Ferry']\n{GOOD}"));
    let expected = [
        "daemon-reload",
        "stop --no-block blat@site1.service",
        "start --no-block blat@site1.example.org.service",
    ];
    assert_eq!(machine.apply().1, expected);
}

#[test]
fn a_failed_agent_is_started_again() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    machine.state("failed");
    assert_eq!(machine.apply().1, ["start --no-block blat@site1.service"]);
}

#[test]
fn a_moved_tag_directory_starts_its_path_again() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    machine.state("active");
    machine.put(
        "etc/blat/targets/site1.toml",
        &format!("{GOOD}[tags]\ndirectory = '/srv/t'\npolling = 'always'\n"),
    );
    let expected = [
        "daemon-reload",
        "try-restart --no-block blat-tags@site1.path",
        "start --no-block blat-tags@site1.timer",
        "reload --no-block blat@site1.service",
    ];
    assert_eq!(machine.apply().1, expected);
}

/// As by a package's installation beside this.
#[test]
fn a_reload_by_another_while_copies_are_written_leaves_no_timer_unstarted() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    machine.state("active");
    machine.put("etc/blat/targets/site1.toml", &format!("{GOOD}[tags]\npolling = 'always'\n"));
    // It is read when the copies are about to be written, and waits for what is done here.
    let pending = machine.path("etc/blat/.accepted/pending");
    mkfifo(&pending, Mode::S_IRWXU).unwrap();
    let link = machine.path("run/systemd/generator/blat@site1.service.wants/blat-tags@site1.timer");
    std::thread::spawn(move || {
        let _waits = fs::File::options().write(true).open(&pending).unwrap();
        fs::remove_file(&pending).unwrap();
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink("/usr/lib/systemd/system/blat-tags@.timer", &link).unwrap();
    });
    let (_, calls) = machine.apply();
    assert!(calls.contains(&"start --no-block blat-tags@site1.timer".to_owned()), "{calls:?}");
}

#[test]
fn a_manager_that_fails_is_told_again() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.put("fails", "");
    assert!(machine.try_apply().is_err());
    fs::remove_file(machine.path("fails")).unwrap();
    assert!(machine.apply().1.contains(&"start --no-block blat@site1.service".to_owned()));
    assert!(!machine.path("etc/blat/.accepted/pending").exists());
}

#[test]
fn what_a_person_stopped_stays_so_though_the_manager_failed_meanwhile() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    machine.put("etc/blat/blat.toml", "tags.directory = '/srv/{target}'\n");
    machine.put("fails", "");
    assert!(machine.try_apply().is_err());
    fs::remove_file(machine.path("fails")).unwrap();
    assert_eq!(machine.apply().1, ["daemon-reload"]);
    assert!(!machine.path("etc/blat/.accepted/pending").exists());
}

#[test]
fn a_unit_that_a_person_masked_keeps_nothing_from_being_done() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    machine.state("active");
    machine.put("masked", "blat-tags@site1.path");
    machine.put("etc/blat/targets/site1.toml", &format!("{GOOD}[tags]\ndirectory = '/srv/t'\n"));
    let (_, calls) = machine.apply();
    assert_eq!(
        calls[1..],
        ["try-restart --no-block blat-tags@site1.path", "reload --no-block blat@site1.service"]
    );
}

#[test]
fn targets_whose_files_were_not_there_yet_at_boot_are_started() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.apply();
    // A generator that found no files.
    fs::remove_dir_all(machine.path("run/systemd/generator")).unwrap();
    let (_, calls) = machine.apply();
    assert_eq!(calls, ["start --no-block blat@site1.service", "daemon-reload"]);
    assert!(machine.apply().1.is_empty(), "what a person stops from then on stays so");
}

#[test]
fn what_was_accepted_by_a_newer_version_is_not_taken_away() {
    let machine = Machine::new();
    let (newer, broken) = ("new_key = 1\n", "source = \n");
    for path in ["blat.toml", "targets/site1.toml"] {
        machine.put(&format!("etc/blat/{path}"), broken);
        machine.put(&format!("etc/blat/.accepted/{path}"), newer);
    }
    machine.apply();
    let kept = |path: &str| fs::read_to_string(machine.path(&format!("etc/blat/.accepted/{path}"))).unwrap();
    assert_eq!((&*kept("blat.toml"), &*kept("targets/site1.toml")), (newer, newer));
    machine.put("etc/blat/blat.toml", "");
    machine.apply();
    assert_eq!(kept("targets/site1.toml"), newer);
}

#[test]
fn tag_directories_are_made_though_no_copy_can_be_written() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    machine.put("var/lib/blat/tags/.keep", "");
    machine.put("etc/blat/.accepted", "in the way");
    assert!(machine.try_apply().is_err());
    assert!(machine.path("var/lib/blat/tags/site1/.claimed").is_dir());
}

#[test]
fn a_file_that_comes_during_the_work_is_seen() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/a.toml", GOOD);
    let script = fs::read_to_string(machine.path("systemctl")).unwrap();
    let also = script.replacen(
        '\n',
        "\n: > /dev/null; cp ${0%/*}/etc/blat/targets/a.toml ${0%/*}/etc/blat/targets/b.toml\n",
        1,
    );
    machine.put("systemctl", &also);
    let (_, calls) = machine.apply();
    assert!(calls.contains(&"start --no-block blat@b.service".to_owned()), "{calls:?}");
}

#[test]
fn without_an_accepted_copy_the_live_file_is_read() {
    let machine = Machine::new();
    machine.put("etc/blat/targets/site1.toml", GOOD);
    assert_eq!(machine.host("site1"), "h");
    assert!(!Path::new(&machine.path("etc/blat/.accepted")).exists());
}

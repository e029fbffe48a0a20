//! Going into a running machine: to run commands there, as root or as a user, and to read and
//! write its files.
//!
//! A visitor enters all namespaces of the machine's PID 1 and dies with the machine.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::unistd::Pid;

use super::machine::Machine;

/// A user of a machine, from its `/etc/passwd`.
#[derive(Clone, Debug)]
pub struct Person {
    /// The login name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The number of the user's own group.
    pub gid: u32,
    /// The home folder, as the machine sees it.
    pub home: PathBuf,
}

impl Machine {
    /// A command inside the machine, as root, in `/`, with a plain environment: for those who
    /// want to say themselves where input and output go.
    #[track_caller]
    pub fn command(&self, command: &[&str]) -> Command {
        self.enter(self.pid1(), command)
    }

    /// As [`Machine::command`], as `user`, in that user's home and with the variables that find
    /// the user's own systemd (which runs once the user has a session or lingers).
    #[track_caller]
    pub fn command_as(&self, user: &str, command: &[&str]) -> Command {
        let person = self.person(user);
        let runtime = format!("/run/user/{}", person.uid);
        let set = [
            format!("--reuid={}", person.uid),
            format!("--regid={}", person.gid),
            format!("XDG_RUNTIME_DIR={runtime}"),
            format!("DBUS_SESSION_BUS_ADDRESS=unix:path={runtime}/bus"),
            format!("--chdir={}", person.home.display()),
        ];
        let mut all = vec!["setpriv", &set[0], &set[1], "--init-groups", "--reset-env"];
        all.extend(["env", &set[4], &set[2], &set[3]]);
        all.extend(command);
        self.command(&all)
    }

    /// Runs a command as root without input; returns how it ended and what it said.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        let output = self.command(command).output();
        output.unwrap_or_else(|why| panic!("{} cannot run {command:?}: {why}", self.name()))
    }

    /// Runs a script as root, with `sh -eu`; returns its output without the last line end.
    ///
    /// # Panics
    /// When the script fails, with what it said.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.told(script, self.command(&["sh", "-euc", script]))
    }

    /// As [`Machine::sh`], as `user`.
    #[track_caller]
    pub fn as_user(&self, user: &str, script: &str) -> String {
        self.told(script, self.command_as(user, &["sh", "-euc", script]))
    }

    /// Starts a command as root that goes on meanwhile; input and output are pipes.
    #[track_caller]
    pub fn spawn(&self, command: &[&str]) -> Child {
        let mut command = self.command(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|why| panic!("{} cannot start {command:?}: {why}", self.name()))
    }

    /// What `journalctl` prints with `args`. Works on a machine that is off, too.
    #[track_caller]
    pub fn journal(&self, args: &[&str]) -> String {
        let mut command = if self.is_running() {
            self.command(&["journalctl", "--no-pager"])
        } else {
            let mut command = Command::new("journalctl");
            let files = self.root().join("var/log/journal");
            command.arg("--no-pager").arg("-D").arg(files);
            command
        };
        command.args(args);
        self.told("journalctl", command)
    }

    /// Writes a file of root's, whole at once: it is renamed into its place, from a hidden name
    /// beside it. Missing folders are made. Works on a machine that is off, too.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) {
        let path = self.file(path);
        let write = || -> std::io::Result<()> {
            let folder = path.parent().unwrap_or(&path);
            fs::create_dir_all(folder)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let draft = folder.join(format!(".{name}.draft"));
            fs::write(&draft, content)?;
            fs::set_permissions(&draft, Permissions::from_mode(mode))?;
            fs::rename(&draft, &path)
        };
        write().unwrap_or_else(|why| panic!("writing {}: {why}", path.display()));
    }

    /// Where the host finds the machine's file `path` now.
    pub fn file(&self, path: &str) -> PathBuf {
        let below = path.trim_start_matches('/');
        if self.is_running() { self.live_root().join(below) } else { self.root().join(below) }
    }

    /// A user of the machine.
    ///
    /// # Panics
    /// When there is no such user.
    #[track_caller]
    pub fn person(&self, name: &str) -> Person {
        let table = fs::read_to_string(self.root().join("etc/passwd")).unwrap_or_default();
        table
            .lines()
            .find_map(|line| Person::parse(line).filter(|person| person.name == name))
            .unwrap_or_else(|| panic!("{} has no user {name}", self.name()))
    }

    /// The command that runs `command` in the namespaces of `leader`.
    pub(super) fn enter(&self, leader: Pid, command: &[&str]) -> Command {
        let mut enter = Command::new("sh");
        let line = self.cgroup_of_visitors();
        enter
            .args(["-c", &format!("{line} && exec \"$@\""), "visit", "nsenter"])
            .arg(format!("--target={leader}"))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"])
            .arg("--")
            .args(command)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", "/root")
            .stdin(Stdio::null());
        enter
    }

    #[track_caller]
    fn told(&self, what: &str, mut command: Command) -> String {
        let output =
            command.output().unwrap_or_else(|why| panic!("{} cannot run {what:?}: {why}", self.name()));
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}\n$ {what}\n{text}\n{said}", self.name(), output.status);
        text
    }
}

impl Person {
    fn parse(line: &str) -> Option<Person> {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Person {
            name: (*fields.first()?).to_owned(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: Path::new(fields.get(5)?).to_path_buf(),
        })
    }
}

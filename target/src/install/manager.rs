//! The user's own service manager: its timers, and that it runs while nobody is logged in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::Result;

const TIMERS: [&str; 2] = ["blat-index.timer", "blat-purge.timer"];
/// How long the manager may take to come up, once it was asked to linger.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Manager {
    user: String,
    runtime: PathBuf,
}

/// A timer of ours that an administrator has enabled in the system, if one is.
pub(super) fn system_timer() -> Option<&'static str> {
    TIMERS.into_iter().find(|timer| {
        says(Command::new("systemctl").args(["is-enabled", timer])).as_deref() == Some("enabled")
    })
}

impl Manager {
    pub(super) fn of_user() -> Result<Self> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let user = set("USER").or_else(|| set("LOGNAME")).ok_or("USER is not set: log in by ssh")?;
        let runtime = set("XDG_RUNTIME_DIR").map(PathBuf::from);
        let own = || Path::new("/run/user").join(nix::unistd::getuid().to_string());
        Ok(Self { user, runtime: runtime.unwrap_or_else(own) })
    }

    /// Has the manager run while nobody is logged in; whether it does now is told.
    pub(super) fn linger(&mut self) -> Result<bool> {
        if self.lingers() {
            println!("{} lingers: its units run while nobody is logged in", self.user);
            return Ok(true);
        }
        let asked = says(Command::new("loginctl").arg("enable-linger"));
        if asked.is_none() || !self.lingers() {
            return Ok(false);
        }
        println!("had {} linger: its units run while nobody is logged in", self.user);
        Ok(true)
    }

    /// What root runs where the user may not.
    pub(super) fn linger_command(&self) -> String {
        format!("loginctl enable-linger {}", self.user)
    }

    fn lingers(&self) -> bool {
        Path::new("/var/lib/systemd/linger").join(&self.user).exists()
    }

    /// Whether the manager answers, perhaps after a moment.
    pub(super) fn answers(&self) -> bool {
        let begin = Instant::now();
        loop {
            let up = self.runtime.join("systemd/private").exists();
            if up && self.systemctl(&["is-system-running"]).is_ok_and(|said| !said.stdout.is_empty()) {
                return true;
            }
            // Nobody starts it who does not linger and has no session.
            if begin.elapsed() > PATIENCE || !(up || self.lingers()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Has the timers run, now and from each boot on.
    pub(super) fn start_timers(&self, changed: &[&str]) -> Result<()> {
        if !changed.is_empty() {
            self.does(&["daemon-reload"])?;
        }
        for timer in TIMERS {
            let said = |verb| self.systemctl(&[verb, timer]).map(|said| text(&said.stdout));
            let runs = said("is-enabled")? == "enabled" && said("is-active")? == "active";
            if !runs {
                self.does(&["enable", "--now", timer])?;
                println!("enabled and started {timer}");
            } else if changed.contains(&timer) {
                self.does(&["restart", timer])?;
                println!("started {timer} anew");
            } else {
                println!("{timer} runs");
            }
        }
        Ok(())
    }

    fn does(&self, arguments: &[&str]) -> Result<()> {
        let said = self.systemctl(arguments)?;
        match said.status.success() {
            true => Ok(()),
            false => Err(format!("`systemctl --user {}`: {}", arguments.join(" "), text(&said.stderr))),
        }
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("systemctl");
        command.arg("--user").args(arguments).env("XDG_RUNTIME_DIR", &self.runtime).stdin(Stdio::null());
        command.output().map_err(|why| format!("cannot run systemctl: {why}"))
    }
}

/// What a program says, if it can be run and ends well.
fn says(command: &mut Command) -> Option<String> {
    let said = command.stdin(Stdio::null()).output().ok()?;
    said.status.success().then(|| text(&said.stdout))
}

fn text(said: &[u8]) -> String {
    String::from_utf8_lossy(said).trim().to_owned()
}

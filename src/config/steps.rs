//! What the manager is asked to do about a target: a value, made from how things were and are.
//!
//! What a person stopped or masked is never started: only what is new, what was switched on in its
//! file, what the manager did not see at boot, and what had failed (its configuration was bad, and may be good now).

use std::path::Path;

use super::name::TargetName;
use super::period::Period;
use super::settings::Settings;

/// The state of a unit, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active,
    Inactive,
    Failed,
    Masked,
}

/// One call of the manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) verb: &'static str,
    pub(super) unit: String,
}

/// A target, before and after, and what the manager has of it.
pub(super) struct Change<'a> {
    pub(super) name: &'a TargetName,
    pub(super) before: Option<&'a Settings>,
    pub(super) after: Option<&'a Settings>,
    /// Whether the file is gone, or an earlier run was killed before it told the manager: what runs is made to
    /// run by the file.
    pub(super) undone: bool,
    /// Whether that run would have started it.
    pub(super) starts: bool,
    /// Whether the polling timer was, and is, wanted.
    pub(super) polled: (bool, bool),
    /// Whether the timer of the synchronisation was, and is, wanted.
    pub(super) synced: (bool, bool),
    /// Whether the manager had it to start as it last read its units: at a boot it may have read none, where the
    /// files came to be there only later.
    pub(super) seen: bool,
    pub(super) agent: State,
    /// Whether `blat.target` runs: where it was stopped, nothing new starts.
    pub(super) group_runs: bool,
}

impl Change<'_> {
    /// The steps, in order.
    pub(super) fn steps(&self) -> Vec<Step> {
        let agent = |verb| vec![Step { verb, unit: self.unit("blat@", "service") }];
        let is = self.after.is_some_and(|settings| settings.enabled);
        let was = match self.undone {
            true => !is || !self.starts,
            false => self.before.is_some_and(|settings| settings.enabled),
        };
        match (self.agent, was, is) {
            (State::Masked, _, _) => Vec::new(),
            (State::Inactive, false, true) | (State::Failed, _, true) if self.group_runs => agent("start"),
            (State::Inactive, true, true) if self.group_runs && !self.seen => agent("start"),
            // A file that never was good stops nothing; one that is gone, or says so, does.
            (_, true, false) => agent("stop"),
            (State::Active, _, _) if self.undone => agent("try-restart"),
            (State::Active, _, _) => self.steps_while_active(),
            _ => Vec::new(),
        }
    }

    fn unit(&self, template: &str, kind: &str) -> String {
        format!("{template}{}.{kind}", self.name)
    }

    fn steps_while_active(&self) -> Vec<Step> {
        let (Some(before), Some(after)) = (self.before, self.after) else {
            return Vec::new();
        };
        let mut steps = self.triggers(before, after);
        let unit = self.unit("blat@", "service");
        // Credentials are loaded as the service starts, so a new key needs a new start.
        if identity(before) != identity(after) {
            steps.push(Step { verb: "try-restart", unit });
        } else if before != after {
            steps.push(Step { verb: "reload", unit });
        }
        steps
    }

    fn triggers(&self, before: &Settings, after: &Settings) -> Vec<Step> {
        let step = |verb, kind| Step { verb, unit: self.unit("blat-tags@", kind) };
        let mut steps = Vec::new();
        if before.tags.directory != after.tags.directory {
            steps.push(step("try-restart", "path"));
        }
        let poll = (before.tags.poll, after.tags.poll);
        steps.extend(timer(self.polled, poll).map(|verb| step(verb, "timer")));
        let unit = self.unit("blat-sync@", "timer");
        let period = (before.sync.period, after.sync.period);
        steps.extend(timer(self.synced, period).map(|verb| Step { verb, unit }));
        steps
    }
}

/// The key that the agent loads; it holds no connection to a bucket.
fn identity(settings: &Settings) -> Option<&Path> {
    settings.destination.ssh().map(|target| target.ssh.identity.as_path())
}

/// What becomes of a timer that was and is wanted, with these periods.
fn timer(wanted: (bool, bool), period: (Period, Period)) -> Option<&'static str> {
    match wanted {
        (false, true) => Some("start"),
        (true, false) => Some("stop"),
        (true, true) if period.0 != period.1 => Some("try-restart"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::layer::Document;
    use super::*;

    fn settings(more: &str) -> Settings {
        let text = format!("source = '/a'\nssh.host = 'h'\n{more}");
        let document = Document::parse(Path::new("a.toml"), text).unwrap();
        Settings::merge(&"a".parse().unwrap(), &document, None).unwrap()
    }

    fn steps(before: Option<&Settings>, after: Option<&Settings>, agent: State) -> String {
        told(before, after, agent, (false, false), true)
    }

    fn told(
        before: Option<&Settings>,
        after: Option<&Settings>,
        agent: State,
        polled: (bool, bool),
        group_runs: bool,
    ) -> String {
        let name = "a".parse().unwrap();
        let change = Change {
            name: &name,
            before,
            after,
            undone: after.is_none(),
            starts: false,
            polled,
            synced: (false, false),
            seen: true,
            agent,
            group_runs,
        };
        let words: Vec<String> =
            change.steps().iter().map(|step| format!("{} {}", step.verb, step.unit)).collect();
        words.join(", ")
    }

    #[test]
    fn new_switched_on_and_failed_ones_start() {
        let (on, off) = (settings(""), settings("enabled = false"));
        assert_eq!(steps(None, Some(&on), State::Inactive), "start blat@a.service");
        assert_eq!(steps(Some(&off), Some(&on), State::Inactive), "start blat@a.service");
        assert_eq!(steps(Some(&on), Some(&on), State::Failed), "start blat@a.service");
        assert_eq!(steps(None, Some(&off), State::Inactive), "");
    }

    #[test]
    fn what_a_person_stopped_or_masked_is_left_alone() {
        let (on, other) = (settings(""), settings("ssh.port = 23"));
        assert_eq!(steps(Some(&on), Some(&other), State::Inactive), "");
        assert_eq!(steps(None, Some(&on), State::Masked), "");
        assert_eq!(told(None, Some(&on), State::Inactive, (false, false), false), "");
    }

    #[test]
    fn what_an_earlier_run_left_undone_is_done_and_no_more() {
        let (name, on) = ("a".parse().unwrap(), settings(""));
        let steps = |agent, starts| {
            let (before, after) = (Some(&on), Some(&on));
            let (undone, seen, group_runs) = (true, true, true);
            let (polled, synced) = ((false, false), (false, false));
            let name = &name;
            let change =
                Change { name, before, after, undone, starts, polled, synced, seen, agent, group_runs };
            change.steps().first().map(|step| step.verb)
        };
        assert_eq!(steps(State::Inactive, true), Some("start"));
        assert_eq!(steps(State::Inactive, false), None, "a person stopped it");
        assert_eq!(steps(State::Active, false), Some("try-restart"));
    }

    #[test]
    fn removed_and_switched_off_ones_stop() {
        let (on, off) = (settings(""), settings("enabled = false"));
        assert_eq!(steps(Some(&on), None, State::Active), "stop blat@a.service");
        assert_eq!(steps(Some(&on), Some(&off), State::Active), "stop blat@a.service");
        // Started by hand while its file says off: that was meant.
        assert_eq!(steps(Some(&off), Some(&off), State::Active), "");
    }

    #[test]
    fn changes_reload_and_a_new_key_restarts() {
        let on = settings("");
        let port = settings("ssh.port = 23");
        let key = settings("ssh.identity = '/k'");
        assert_eq!(steps(Some(&on), Some(&on), State::Active), "");
        assert_eq!(steps(Some(&on), Some(&port), State::Active), "reload blat@a.service");
        assert_eq!(steps(Some(&on), Some(&key), State::Active), "try-restart blat@a.service");
    }

    #[test]
    fn changes_of_tags_start_path_and_timer_again() {
        let on = settings("");
        let directory = settings("[tags]\ndirectory = '/t'");
        let poll = settings("[tags]\npoll = 9");
        let active = |after, polled| told(Some(&on), Some(after), State::Active, polled, true);
        assert_eq!(
            active(&directory, (false, true)),
            "try-restart blat-tags@a.path, start blat-tags@a.timer, reload blat@a.service"
        );
        assert_eq!(active(&poll, (true, true)), "try-restart blat-tags@a.timer, reload blat@a.service");
        assert_eq!(active(&on, (true, false)), "stop blat-tags@a.timer");
    }
}

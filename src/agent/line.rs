//! The line to the target: an ssh master that is kept up, with patience.
//!
//! A line that is down is tried again after 1 s, then 2, 4, … up to 60 s; one that went down
//! soon after it came up goes on with that, so that a flapping line costs little. Where there are
//! many targets, they do not all connect in one moment: the first attempt, and each later one,
//! comes at a random time of its span. What is wrong is told once when it begins, and once an hour
//! as long as it lasts, and again where from then on only a person mends it.
//!
//! A connection that is worse than a new one would be ([`Losses`]) is replaced by a new one once that is up;
//! who is served by the old one then is served by it to the end.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use blat_target::message::Mend;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::losses::Losses;
use crate::failure::{Failure, Result};
use crate::ssh::{Control, Endpoint, Master, Proof};
use crate::state::{self, LineState, seconds};
use crate::told::time_of;

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const TELL_AGAIN: Duration = Duration::from_secs(3600);
/// A line that was up for so long is a good one.
const GOOD_AFTER: Duration = Duration::from_secs(60);
/// How often a line that is up is asked whether it still answers: at the agent's next tick.
const CHECK_EVERY: Duration = Duration::from_secs(50);
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is looked whether a new connection would be better, at a tick as well.
const LOOK_EVERY: Duration = Duration::from_secs(14);
/// How often, at most, a connection is replaced by a new one.
const RENEW_AFTER: Duration = Duration::from_secs(600);
/// A line is not hurried more often than this.
const HURRY_AFTER: Duration = Duration::from_secs(5);
/// What the unit's template loads where the key file is missing.
const NO_KEY: &[u8] = b"missing";

/// The private key: where it was configured, and as systemd loaded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) source: PathBuf,
    pub(super) credential: Option<PathBuf>,
}

impl Key {
    /// The file for ssh to read.
    fn file(&self) -> Result<PathBuf> {
        let file = self.credential.as_ref().unwrap_or(&self.source);
        let missing = match std::fs::read(file) {
            Ok(content) => content.trim_ascii() == NO_KEY,
            Err(why) => {
                return Err(Failure::person(anyhow!("cannot read the key {}: {why}", file.display())));
            }
        };
        if missing {
            return Err(Failure::person(anyhow!(
                "there is no key at {}: put the private key there, owned by root, mode 0600",
                self.source.display()
            )));
        }
        Ok(file.clone())
    }

    /// The state of the configured file, if it is there.
    fn version(&self) -> Option<Version> {
        let file = std::fs::metadata(&self.source).ok()?;
        Some(Version { inode: file.ino(), changed: (file.ctime(), file.ctime_nsec()) })
    }
}

/// Another one for a file that was put there, or changed. By its change time, for a key that is copied back from
/// elsewhere keeps the time of its content; never by the clock, which may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    inode: u64,
    changed: (i64, i64),
}

/// What happened to the line, as far as it is to be told.
#[derive(Debug)]
pub(super) enum Change {
    Up,
    Down {
        reason: String,
        /// Whether only a person mends it.
        person: bool,
    },
    StillDown {
        reason: String,
        person: bool,
        since: SystemTime,
    },
    /// It goes on over a new connection.
    Renewed,
    Quiet,
}

#[derive(Debug)]
pub(super) struct Line {
    endpoint: Endpoint,
    key: Key,
    /// What the key file was when systemd loaded it.
    loaded: Option<Version>,
    /// Leads to the socket of the connection that is up.
    control: Control,
    state: State,
    outage: Option<Outage>,
    /// Attempts in vain, one after the other.
    tries: u32,
    /// Connections that were replaced, and still serve somebody.
    retired: JoinSet<()>,
}

#[derive(Debug)]
enum State {
    Up(Box<Up>),
    Trying { master: Master },
    Waiting { until: Instant, last: Instant },
}

#[derive(Debug)]
struct Up {
    master: Master,
    since: SystemTime,
    good: Instant,
    check: Instant,
    /// Since when it is being asked whether it answers.
    asked: Option<Instant>,
    look: Instant,
    losses: Losses,
    /// What replaces the connection as soon as it is up.
    next: Option<Master>,
    /// When it was last begun to replace it.
    renewed: Option<Instant>,
}

/// A time without a line: since when, and what was told of it.
#[derive(Debug)]
struct Outage {
    since: SystemTime,
    reason: String,
    /// Whether only a person mends it.
    person: bool,
    told: Instant,
}

impl Line {
    /// A line that first connects at some moment within `span`.
    pub(super) fn new(endpoint: Endpoint, key: Key, control: Control, span: Duration) -> Self {
        let now = Instant::now();
        Self {
            endpoint,
            loaded: key.version(),
            key,
            control,
            state: State::Waiting { until: now + within(span), last: now },
            outage: None,
            tries: 0,
            retired: JoinSet::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Waits for the next change. Can be dropped at any point and called again.
    pub(super) async fn change(&mut self) -> Change {
        match &mut self.state {
            State::Waiting { until, .. } => {
                sleep_until(*until).await;
                self.start().await
            }
            State::Trying { master } => match master.ready().await {
                Ok(()) => self.is_now_up(),
                Err(failure) => self.failed(failure),
            },
            State::Up(up) => {
                // No timer of its own: whoever waits for a change does so anew at each tick.
                if up.check <= Instant::now() {
                    if !up.answers().await {
                        return self.failed(Failure::later(anyhow!("ssh does not answer on its socket")));
                    }
                    (up.check, up.asked) = (Instant::now() + CHECK_EVERY, None);
                }
                if up.look <= Instant::now() {
                    if up.is_to_be_replaced() {
                        let socket = self.control.socket(&self.endpoint, Some(&up.master));
                        match begin(&self.endpoint, &self.key, &socket).await {
                            Ok(next) => up.next = Some(next),
                            Err(failure) => tracing::info!("no new connection can be made: {failure}"),
                        }
                        up.renewed = Some(Instant::now());
                    }
                    up.look = Instant::now() + LOOK_EVERY;
                }
                tokio::select! {
                    failure = up.master.ended() => self.failed(failure),
                    came = ready(&mut up.next) => self.replace(came),
                }
            }
        }
    }

    async fn start(&mut self) -> Change {
        match begin(&self.endpoint, &self.key, &self.control.socket(&self.endpoint, None)).await {
            Ok(master) => {
                self.state = State::Trying { master };
                Change::Quiet
            }
            Err(failure) => self.failed(failure),
        }
    }

    fn is_now_up(&mut self) -> Change {
        let now = Instant::now();
        let waiting = State::Waiting { until: now, last: now };
        if let State::Trying { master } = std::mem::replace(&mut self.state, waiting) {
            if let Err(failure) = self.control.lead(&master) {
                return self.failed(failure);
            }
            self.state = State::Up(Box::new(Up {
                master,
                since: SystemTime::now(),
                good: now + GOOD_AFTER,
                check: now + CHECK_EVERY,
                asked: None,
                look: now + LOOK_EVERY,
                losses: Losses::default(),
                next: None,
                renewed: None,
            }));
        }
        self.outage = None;
        Change::Up
    }

    /// The new connection takes the place of the old one, if it came up.
    fn replace(&mut self, came: Result<()>) -> Change {
        let State::Up(up) = &mut self.state else { return Change::Quiet };
        let Some(next) = up.next.take() else { return Change::Quiet };
        if let Err(failure) = came.and_then(|()| self.control.lead(&next)) {
            tracing::info!("the connection stays though a new one would be quicker: {failure}");
            return Change::Quiet;
        }
        let old = std::mem::replace(&mut up.master, next);
        up.losses = Losses::default();
        while self.retired.try_join_next().is_some() {}
        self.retired.spawn(old.retire());
        Change::Renewed
    }

    /// The line is down, or stays so. The old ssh, if any, dies with its state.
    fn failed(&mut self, failure: Failure) -> Change {
        let now = Instant::now();
        let (reason, person) = (failure.to_string(), failure.mend == Mend::Person);
        if matches!(&self.state, State::Up(up) if up.good <= now) {
            self.tries = 0;
        }
        let delay = FIRST_DELAY.saturating_mul(1 << self.tries.min(6)).min(LONGEST_DELAY);
        self.tries += 1;
        let delay = delay / 2 + within(delay / 2);
        self.state = State::Waiting { until: now + delay, last: now };
        match &mut self.outage {
            None => {
                let (since, reason_now) = (SystemTime::now(), reason.clone());
                self.outage = Some(Outage { since, reason: reason_now, person, told: now });
                Change::Down { reason, person }
            }
            Some(outage) => {
                outage.reason.clone_from(&reason);
                // Time would have mended what it was until now.
                let needs_person = person && !outage.person;
                outage.person = person;
                if needs_person {
                    outage.told = now;
                    return Change::Down { reason, person };
                }
                if now - outage.told < TELL_AGAIN {
                    return Change::Quiet;
                }
                outage.told = now;
                Change::StillDown { reason, person, since: outage.since }
            }
        }
    }

    /// Somebody needs the line: the next attempt is made soon.
    pub(super) fn hurry(&mut self) {
        if let State::Waiting { until, last } = &mut self.state {
            *until = (*until).min(*last + HURRY_AFTER);
        }
    }

    /// Goes to `endpoint` with `key` from now on; whether those are others.
    pub(super) async fn redirect(&mut self, endpoint: Endpoint, key: Key) -> bool {
        let is_another = (&self.endpoint, &self.key) != (&endpoint, &key);
        if is_another {
            (self.endpoint, self.key) = (endpoint, key);
            self.close().await;
            (self.outage, self.tries) = (None, 0);
        }
        is_another
    }

    /// Ends ssh.
    pub(super) async fn close(&mut self) {
        let now = Instant::now();
        match std::mem::replace(&mut self.state, State::Waiting { until: now, last: now }) {
            State::Up(up) => up.master.end().await,
            State::Trying { master } => master.end().await,
            State::Waiting { .. } => {}
        }
        self.control.remove();
        self.retired.shutdown().await;
    }

    /// Whether the key file was mended since the agent started: systemd loads it anew
    /// only for a new process.
    pub(super) fn needs_new_key(&self) -> bool {
        let is_another = || self.key.version().is_some_and(|now| self.loaded != Some(now));
        self.outage.is_some() && self.key.credential.is_some() && is_another()
    }

    /// The state, for whoever reads the agent's file; so many more connections are up beside it.
    pub(super) fn shown(&self, beside: usize) -> state::Line {
        let outage = self.outage.as_ref();
        let next = match &self.state {
            // To five seconds, or the file would be another at each look.
            State::Waiting { until, .. } if outage.is_some() => {
                let next = SystemTime::now() + until.saturating_duration_since(Instant::now());
                Some((seconds(next) + 2) / 5 * 5)
            }
            _ => None,
        };
        let (state, since) = match (&self.state, outage) {
            (State::Up(up), _) => (LineState::Up, Some(seconds(up.since))),
            (_, None) => (LineState::Connecting, None),
            (_, Some(outage)) => (LineState::Down, Some(seconds(outage.since))),
        };
        let reason = outage.map(|outage| outage.reason.clone());
        let person = outage.is_some_and(|outage| outage.person);
        let connections = if self.is_up() { 1 + beside } else { 0 };
        state::Line { state, since, reason, person, next, connections }
    }

    /// The state in words, for `systemctl status`.
    pub(super) fn state(&self) -> String {
        match (&self.state, &self.outage) {
            (State::Up(up), _) => format!("connected since {}", time_of(up.since)),
            (State::Trying { .. }, None) | (State::Waiting { .. }, None) => "connecting".into(),
            (State::Trying { .. }, Some(outage)) => {
                format!("not connected since {}: {}; trying now", time_of(outage.since), outage.reason)
            }
            (State::Waiting { until, .. }, Some(outage)) => {
                let next = SystemTime::now() + until.saturating_duration_since(Instant::now());
                format!(
                    "not connected since {}: {}; next try {}",
                    time_of(outage.since),
                    outage.reason,
                    time_of(next)
                )
            }
        }
    }
}

impl Up {
    async fn answers(&mut self) -> bool {
        let asked = *self.asked.get_or_insert_with(Instant::now);
        self.master.answers(asked + CHECK_TIMEOUT).await
    }

    fn is_to_be_replaced(&mut self) -> bool {
        let Self { master, losses, .. } = self;
        let is_bad = master.state().is_some_and(|now| losses.look(now));
        let is_due = self.renewed.is_none_or(|at| at.elapsed() >= RENEW_AFTER);
        is_bad && is_due && self.next.is_none()
    }
}

async fn begin(endpoint: &Endpoint, key: &Key, socket: &Path) -> Result<Master> {
    Master::start(endpoint, Proof::Key(&key.file()?), socket).await
}

/// Waits until the next connection is up, if there is to be one.
async fn ready(next: &mut Option<Master>) -> Result<()> {
    match next {
        Some(next) => next.ready().await,
        None => std::future::pending().await,
    }
}

/// A random part of `span`, so that those who failed together do not try again together.
fn within(span: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) >> 11;
    span.mul_f64(random as f64 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(folder: &Path) -> Line {
        let endpoint = Endpoint {
            host: "nowhere".into(),
            port: 22,
            user: "pkgadmin".into(),
            known_hosts: folder.join("known_hosts"),
        };
        let key = Key { source: folder.join("key"), credential: Some(folder.join("identity")) };
        Line::new(endpoint, key, Control::at(folder.join("ssh")), Duration::ZERO)
    }

    #[test]
    fn a_key_is_new_when_its_file_is_another_whatever_the_clock_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut line = line(folder.path());
        let put = |text: &str| {
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), folder.path().join("key")).unwrap();
        };
        line.failed(Failure::person(anyhow!("there is no key")));
        assert!(!line.needs_new_key());
        put("one");
        assert!(line.needs_new_key());
        // Written in the same moment as the agent is started, or later by the clock of then.
        line.loaded = line.key.version();
        assert!(!line.needs_new_key());
        put("another");
        assert!(line.needs_new_key());
        std::fs::remove_file(folder.path().join("key")).unwrap();
        assert!(!line.needs_new_key(), "nothing could be loaded");
    }

    #[test]
    fn an_outage_that_time_no_longer_mends_is_told_again() {
        let mut line = line(Path::new("/nowhere"));
        let mut fails = |failure: fn(anyhow::Error) -> Failure| line.failed(failure(anyhow!("no")));
        assert!(matches!(fails(Failure::later), Change::Down { person: false, .. }));
        assert!(matches!(fails(Failure::later), Change::Quiet));
        assert!(matches!(fails(Failure::person), Change::Down { person: true, .. }));
        assert!(matches!(fails(Failure::person), Change::Quiet));
        assert!(matches!(fails(Failure::later), Change::Quiet));
        for (failure, needs_person) in [(Failure::later as fn(_) -> _, false), (Failure::person, true)] {
            line.failed(failure(anyhow!("no")));
            line.outage.as_mut().unwrap().told -= TELL_AGAIN;
            let change = line.failed(failure(anyhow!("no")));
            assert!(matches!(change, Change::StillDown { person, .. } if person == needs_person));
        }
    }
}

//! The agent: one small resident process for each target, under `blat@NAME.service`.
//!
//! It holds the ssh connection that the short-lived programs attach to, shows the
//! target's state to systemd, turns signals into triggers, and logs what the programs
//! report. Nothing is lost when it dies: tags lie in their queue, reports in the socket
//! that systemd holds, and the next agent looks for both.

mod beside;
mod calls;
mod line;
mod losses;
mod memory;
mod tick;
mod troubles;
mod way;

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::{Settings, folder::Folder};
use crate::failure::{Needs, Result};
use crate::ledger;
use crate::lock;
use crate::log;
use crate::notify;
use crate::places::Places;
use crate::report::{self, Cause, REPORT_MAX, Report};
use crate::state;
use crate::tags::Queue;
use crate::told::time_of;
use crate::trigger::{touch, touch_again, touch_for_all};
use calls::Calls;
use line::Change;
use tick::Tick;
use troubles::Troubles;
use way::Way;

/// How often the agent wakes up by itself: to look for claims that are due, or that a killed run left.
/// While there are none, a look is one reading of an empty folder.
const TICK: Duration = Duration::from_secs(5);
/// And how often when nothing has been going on for a while: of hundreds of targets, most are quiet.
const QUIET_TICK: Duration = Duration::from_secs(15);
const QUIET_AFTER: Duration = Duration::from_secs(60);
/// So many targets may connect in one moment.
const CONNECT_AT_ONCE: u32 = 10;

/// Runs until TERM. Ready as soon as the configuration is good.
pub async fn run(root: &Path, settings: Settings) -> Result<()> {
    let places = Places::of(root, &settings.name);
    std::fs::create_dir_all(&places.runtime)
        .person(format!("cannot make {}: run as the user blat", places.runtime.display()))?;
    let calls = Calls::left(&places, Instant::now());
    let mut agent = Agent {
        way: Way::new(&settings, &places, connect_within(root)),
        reports: socket(&places)?,
        root: root.to_owned(),
        settings,
        places,
        waiting: 0,
        troubles: Troubles::default(),
        syncs: Troubles::default(),
        calls,
        looks: None,
        due: None,
        old_helper: None,
        status: String::new(),
        shown: None,
    };
    // Whoever looks at the agent's file sees by the lock whether it lives.
    let _lock = lock::take(&agent.places.agent_lock(), "an agent")?;
    let signals = Signals::new().person("cannot listen for signals")?;
    let tick = Tick::new(TICK).person("cannot set a timer")?;
    agent.serve(signals, tick).await;
    agent.way.close().await;
    Ok(())
}

/// The span in which the targets first connect: a few at once, of many ten in a second, or the
/// handshakes of all would go on beside each other, each too slow for its time.
fn connect_within(root: &Path) -> Duration {
    let targets = Folder::accepted(root).count() as u32;
    Duration::from_millis(100) * targets.saturating_sub(CONNECT_AT_ONCE)
}

struct Agent {
    root: PathBuf,
    settings: Settings,
    places: Places,
    way: Way,
    reports: UnixDatagram,
    waiting: usize,
    troubles: Troubles,
    syncs: Troubles,
    calls: Calls,
    /// Looks for claims that are due,
    looks: Option<Looks>,
    /// and tells, once the tag directory has answered.
    due: Option<oneshot::Receiver<bool>>,
    /// Which old helper serves the target, and why it was not replaced.
    old_helper: Option<String>,
    status: String,
    /// What was written down last of what is known.
    shown: Option<state::Agent>,
}

struct Signals {
    usr1: Signal,
    hup: Signal,
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            usr1: signal(SignalKind::user_defined1())?,
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }
}

impl Agent {
    async fn serve(&mut self, mut signals: Signals, mut tick: Tick) {
        notify(&[NotifyState::Ready]);
        tracing::info!(blat_target = %self.settings.name, "the agent of {} is ready", self.settings.name);
        let watchdog = sd_notify::watchdog_enabled().unwrap_or(Duration::from_secs(120)) / 2;
        let (started, mut fed) = (SystemTime::now(), Instant::now());
        let mut busy = Instant::now();
        // A reload that systemd is asked for while the agent starts is lost.
        self.catch_up().await;
        self.look();
        memory::let_go_of_the_start();
        loop {
            self.show_status();
            self.write_down(started);
            if let Some(reason) = self.calls.due(Instant::now(), || self.places.telling.exists()) {
                notify::call(&self.places, &reason);
                self.calls.made(Instant::now());
            }
            if !self.is_quiet() {
                busy = Instant::now();
            }
            let period = if busy.elapsed() < QUIET_AFTER { TICK } else { QUIET_TICK };
            if let Err(why) = tick.pace(period) {
                tracing::warn!("cannot set the timer: {why}");
            }
            let mut datagram = [0; REPORT_MAX];
            tokio::select! {
                change = self.way.change() => self.line_changed(change),
                got = self.reports.recv(&mut datagram) => match got {
                    Ok(length) => {
                        busy = Instant::now();
                        self.heard(&datagram[..length]);
                    }
                    Err(why) => tracing::warn!("cannot receive a report: {why}"),
                },
                due = answer(&mut self.due) => {
                    self.due = None;
                    if due {
                        self.take_up();
                    }
                }
                () = tick.next() => {
                    self.look();
                    self.way.look();
                    if self.way.needs_new_key() {
                        tracing::info!("the key file has changed: starting again, for systemd to load it");
                        break;
                    }
                    if fed.elapsed() + period > watchdog {
                        notify(&[NotifyState::Watchdog]);
                        fed = Instant::now();
                    }
                }
                _ = signals.usr1.recv() => self.sync_now().await,
                _ = signals.hup.recv() => self.reload().await,
                _ = signals.term.recv() => break,
                _ = signals.int.recv() => break,
            }
        }
        notify(&[NotifyState::Stopping]);
    }

    /// Whether nothing waits, is wrong, or may come due by itself.
    fn is_quiet(&self) -> bool {
        let troubled = self.troubles.reason().or(self.syncs.reason()).is_some();
        self.way.is_open() && self.waiting == 0 && !troubled
    }

    fn line_changed(&mut self, change: Change) {
        let target = self.settings.name.as_str();
        match change {
            Change::Up => {
                tracing::info!(
                    message_id = ledger::CONNECTED,
                    blat_target = target,
                    "connected to {}",
                    self.way
                );
                self.troubles.line_is_new();
                self.syncs.line_is_new();
                self.calls.line_is_new();
                self.look();
            }
            Change::Down { reason, person } => self.disconnected(&reason, person, None),
            Change::StillDown { reason, person, since } => self.disconnected(&reason, person, Some(since)),
            Change::Renewed => tracing::info!(
                blat_target = target,
                "the connection to {} is a new one: packets that were lost had left the old one slow",
                self.way
            ),
            Change::Quiet => {}
        }
    }

    /// There is no line, for `reason`; `since` when, where that was told before.
    fn disconnected(&mut self, reason: &str, person: bool, since: Option<SystemTime>) {
        if person {
            self.calls.line_needs(reason);
        }
        let target = self.settings.name.as_str();
        let since = since.map(|since| format!(" since {}", time_of(since))).unwrap_or_default();
        tracing::warn!(
            message_id = ledger::DISCONNECTED,
            blat_target = target,
            blat_reason = reason,
            "{target} is not connected{since}: {reason}"
        );
    }

    fn heard(&mut self, datagram: &[u8]) {
        let report = match report::decode(datagram) {
            Ok(report) => report,
            Err(why) => return tracing::warn!("a report cannot be read: {why}"),
        };
        let now = Instant::now();
        match &report {
            Report::Trouble { reason, .. } if !self.troubles.heard(reason, now) => return,
            Report::Queue { waiting } => {
                self.waiting = waiting.unwrap_or(self.waiting);
                self.troubles.run_ended(now);
            }
            Report::SyncFailed { reason, .. } => {
                let tell = self.syncs.heard(reason, now);
                self.syncs.run_ended(now);
                if !tell {
                    return;
                }
            }
            Report::Synced { failed, .. } => {
                if *failed > 0 {
                    self.syncs.heard(&format!("{failed} packages were not sent, or not deleted"), now);
                }
                self.syncs.run_ended(now);
                self.way.synchronised();
            }
            Report::SyncStopped | Report::NothingWanted => self.syncs = Troubles::default(),
            Report::Problem { reason, .. } | Report::Guarded { reason }
                if !self.syncs.is_new(reason, now) =>
            {
                return;
            }
            Report::Committed { cause: Cause::Sync, .. } => self.syncs.moved(),
            Report::Wanted => self.way.hurry(),
            Report::WindowBound if !self.way.widen() => return,
            Report::Helper { old } if *old == self.old_helper => return,
            Report::Helper { old } => self.old_helper.clone_from(old),
            _ => {}
        }
        report.log(self.settings.name.as_str());
        if let Some(reason) = report.needs_person() {
            self.calls.need(reason);
        }
    }

    /// Asks whether claims are due, unless an answer is still to come, and has a synchronisation started that
    /// nobody works on.
    fn look(&mut self) {
        let now = Instant::now();
        if self.due.is_none() && self.way.is_open() && self.troubles.allow(now) {
            let looks = self.looks.get_or_insert_with(|| look_for_due(&self.settings, &self.places));
            let (tell, told) = oneshot::channel();
            match looks.send(tell) {
                Ok(()) => self.due = Some(told),
                // It could not be started, which was told: the next look tries again.
                Err(_) => self.looks = None,
            }
        }
        if self.way.is_open() && self.syncs.allow(now) {
            self.take_up_sync(now);
        }
    }

    /// Starts a transfer for claims that are due and that nobody works on: of a run that was
    /// killed or failed, of a time without a line, or waiting.
    fn take_up(&self) {
        if self.way.is_open() && !lock::is_held(&self.places.transfer_lock()) {
            touch(&self.places.transfer_trigger());
        }
    }

    /// Starts a synchronisation that failed, or was killed before its end; or one that was asked for and did not
    /// begin: while systemd reads its units anew, it sees no trigger.
    fn take_up_sync(&mut self, now: Instant) {
        let trigger = self.places.sync_trigger();
        let begun = self.syncs.reason().is_some() || self.places.sync_begun().exists();
        // Asked last: a run that has begun just then is not taken for one that was killed.
        if lock::is_held(&self.places.sync_lock()) {
            return;
        }
        if begun {
            touch(&trigger);
        }
        if begun || touch_again(&trigger) {
            self.syncs.taken_up(now);
        }
    }

    /// `systemctl kill -s USR1` reaches every process of the unit, also the `kill` by which systemd just
    /// then says that the configuration has changed: so that is looked at here, too.
    async fn sync_now(&mut self) {
        tracing::info!(blat_target = %self.settings.name, "asked to synchronise now");
        self.catch_up().await;
        touch(&self.places.sync_trigger());
        touch_for_all(&self.places.transfer_trigger());
        self.way.hurry();
    }

    /// Reads the configuration again if it is another by now.
    async fn catch_up(&mut self) {
        if Settings::load(&self.root, &self.settings.name).is_ok_and(|now| now != self.settings) {
            self.reload().await;
        }
    }

    async fn reload(&mut self) {
        let settings = match Settings::load(&self.root, &self.settings.name) {
            Ok(settings) => settings,
            Err(why) => {
                return tracing::error!(
                    "the settings stay as they are, for those in the file are broken: {why}"
                );
            }
        };
        log::set(settings.verbosity);
        tracing::info!(blat_target = %settings.name, "read the configuration again");
        if self.way.redirect(&settings, &self.places).await {
            self.calls.line_is_new();
        }
        let old = std::mem::replace(&mut self.settings, settings).tags.directory;
        if old != self.settings.tags.directory {
            (self.looks, self.due, self.waiting) = (None, None, 0);
            self.troubles = Troubles::default();
            self.tell_of_left_tags(old);
        }
    }

    /// Tags in a directory that is the target's no more: nothing looks there.
    fn tell_of_left_tags(&self, old: PathBuf) {
        let (target, new) = (self.settings.name.clone(), self.settings.tags.directory.clone());
        aside(move || {
            if Queue::has_any(&old) {
                tracing::warn!(
                    blat_target = %target,
                    "tags are left in {}, where nothing looks any more: drop them again in {}",
                    old.display(),
                    new.display()
                );
            }
        });
    }

    fn show_status(&mut self) {
        let tags = match self.waiting {
            0 => "no tag waits".into(),
            1 => "1 tag waits".into(),
            count => format!("{count} tags wait"),
        };
        let trouble = self.troubles.reason().map(|reason| format!("; the last transfer failed: {reason}"));
        let sync = self.syncs.reason().map(|reason| format!("; the last synchronisation failed: {reason}"));
        let helper = self.old_helper.as_ref().map(|old| format!("; the helper on the target is old: {old}"));
        let more = [trouble, sync, helper].map(Option::unwrap_or_default).concat();
        let status = format!("{}; {tags}{more}", self.way.state());
        if status != self.status {
            notify(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }
}

/// What others may know of the agent.
impl Agent {
    fn write_down(&mut self, started: SystemTime) {
        let now = state::Agent {
            since: state::seconds(started),
            line: self.way.shown(),
            transfer_trouble: self.troubles.reason().map(str::to_owned),
            sync_trouble: self.syncs.reason().map(str::to_owned),
            old_helper: self.old_helper.clone(),
        };
        if self.shown.as_ref() != Some(&now) {
            state::keep(&self.places.agent(), &now);
            self.shown = Some(now);
        }
    }
}

/// Looks into a tag directory on a thread of its own: where its file server is gone it may never answer, and the
/// agent has to.
fn aside(look: impl FnOnce() + Send + 'static) {
    if let Err(why) = thread::Builder::new().spawn(look) {
        tracing::warn!("cannot look into the tag directory: {why}");
    }
}

/// Asks whether any claim may be looked at now.
type Looks = mpsc::Sender<oneshot::Sender<bool>>;

/// Starts what answers that for as long as it may be asked: the agent looks often.
fn look_for_due(settings: &Settings, places: &Places) -> Looks {
    let (looks, asked) = mpsc::channel::<oneshot::Sender<bool>>();
    let (tags, state) = (settings.tags.directory.clone(), places.state.clone());
    aside(move || {
        for tell in asked {
            // A reload may have made the question void.
            let _ = tell.send(Queue::has_due(&tags, &state, SystemTime::now()));
        }
    });
    looks
}

/// Waits for the answer, if there was a question. Can be dropped at any point and called again.
async fn answer(due: &mut Option<oneshot::Receiver<bool>>) -> bool {
    match due {
        Some(due) => due.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

/// The socket that systemd holds for us, or by hand one of our own.
fn socket(places: &Places) -> Result<UnixDatagram> {
    let handed = libsystemd::activation::receive_descriptors(true).unwrap_or_default();
    let socket = match handed.into_iter().next() {
        // SAFETY: systemd hands the descriptor over, and nobody else takes it.
        Some(descriptor) => unsafe { StdDatagram::from_raw_fd(descriptor.into_raw_fd()) },
        None => bind(&places.report)?,
    };
    socket.set_nonblocking(true).person("cannot use the report socket")?;
    UnixDatagram::from_std(socket).person("cannot use the report socket")
}

/// Logs the reports that wait in the socket which systemd handed over, of an agent that
/// cannot run: left unread, they would have it started again and again.
pub fn drain_reports(target: &str) {
    for descriptor in libsystemd::activation::receive_descriptors(true).unwrap_or_default() {
        // SAFETY: systemd hands the descriptor over, and nobody else takes it.
        let socket = unsafe { StdDatagram::from_raw_fd(descriptor.into_raw_fd()) };
        let mut datagram = [0; REPORT_MAX];
        while socket.set_nonblocking(true).is_ok()
            && let Ok(length) = socket.recv(&mut datagram)
        {
            if let Ok(report) = report::decode(&datagram[..length]) {
                report.log(target);
            }
        }
    }
}

fn bind(path: &Path) -> Result<StdDatagram> {
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            return Err(why).person(format!("cannot replace the report socket {}", path.display()));
        }
        _ => {}
    }
    StdDatagram::bind(path).person(format!("cannot make the report socket {}", path.display()))
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(why) = sd_notify::notify(state) {
        tracing::debug!("cannot tell systemd: {why}");
    }
}

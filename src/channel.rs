//! The way to a target, for one run: a connection, and a session over it with the helper that
//! belongs to this host.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use anyhow::anyhow;
use blat_target::message::{HostHello, PROTOCOL, PROTOCOL_OF_SAID};

use crate::config::{Settings, SshTarget, There};
use crate::delta::Cache;
use crate::failure::{Failure, Needs, Result};
use crate::helper::Helper;
use crate::lanes;
use crate::memory::Memory;
use crate::pace::Pace;
use crate::places::Places;
use crate::ready::Store;
use crate::report::{Report, Reporter};
use crate::session::{Early, Means, Session};
use crate::ssh::{Connection, Endpoint, Proof};
use crate::state;
use crate::sync::upkeep::skew;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A synchronisation. It sends nothing while tags are transferred.
    Sync,
    /// Tags, and whatever else cannot wait.
    Tags,
}

/// An open way to a target.
#[derive(Debug)]
pub struct Channel {
    pub session: Session,
    connection: Connection,
    /// When the target had said hello.
    pub attached: SystemTime,
}

impl Channel {
    /// Attaches to the agent's connection, or makes one where there is none and the key can be read,
    /// and opens a session for `purpose`, whose first questions will be `early`. `helper` is the program
    /// that is put on the target where it is missing.
    pub async fn open(
        settings: &Settings,
        places: &Places,
        helper: &Path,
        reporter: &mut Reporter,
        purpose: Purpose,
        early: Early,
    ) -> Result<Self> {
        let SshTarget { ssh, there: target } = over_ssh(settings)?;
        let helper = Helper::read(helper)?;
        let limit = ssh.bandwidth.as_bytes();
        // Synchronisations share what they pack with each other, and transfers likewise.
        let (lock, tags, way_for) = match purpose {
            Purpose::Sync => (places.sync_lock(), None, Some(places.transfer_lock())),
            Purpose::Tags => (places.transfer_lock(), Some(settings.tags.directory.as_path()), None),
        };
        let facts: Option<state::Facts> = state::read(&places.facts());
        let round_trip = facts.as_ref().and_then(|facts| facts.round_trip(&places.control()));
        // The first over a connection asks by itself: nothing else tells as well how far the target is, and
        // how to pack for it.
        let early = if purpose == Purpose::Tags && round_trip.is_none() { Early::Nothing } else { early };
        let endpoint = Endpoint::of(ssh);
        let attached = Connection::attach(&places.control(), &endpoint).await;
        let memory = Memory::new(ssh.memory.as_bytes(), target.memory.as_bytes());
        let lanes = attached.is_some().then(|| lanes::Means {
            control: places.control(),
            controls: places.controls_beside(ssh.connections.get()).collect(),
            endpoint,
            target: settings.name.to_string(),
            report: places.report.clone(),
            command: Helper::command(target),
            waiting_max: memory.waiting(),
        });
        let means = Means {
            cache: Cache::new(places.digests.clone()),
            memory,
            ready: Store::new(places.ready.clone(), &lock, tags),
            pace: Pace::new(limit, way_for),
            early,
            round_trip,
            by_command: facts.is_none_or(|facts| facts.protocol >= PROTOCOL_OF_SAID),
            lanes: lanes.filter(|lanes| !lanes.controls.is_empty()),
            hard_links: target.hard_links,
        };
        let connection = match attached {
            Some(connection) => connection,
            None => connect(settings, reporter).await?,
        };
        match helper.session(&connection, target, hello(target), &means).await {
            Ok((session, old)) => {
                tell_skew(&session, reporter);
                reporter.tell(Report::Helper { old });
                let attached = SystemTime::now();
                let away = session.round_trip().and_then(|time| state::Away::over(&places.control(), time));
                state::keep(&places.facts(), &state::Facts::of(&session.hello, away, attached));
                Ok(Self { session, connection, attached })
            }
            Err(failure) => {
                connection.close().await;
                Err(failure)
            }
        }
    }

    /// Ends the session in order: everything that was sent has been answered.
    pub async fn close(self) {
        if let Err(failure) = self.session.finish().await {
            tracing::debug!("the session did not end well: {failure}");
        }
        self.connection.close().await;
    }

    /// Ends a session that cannot go on.
    pub async fn drop_session(self) {
        drop(self.session);
        self.connection.close().await;
    }
}

/// Tells of clocks that differ by much.
fn tell_skew(session: &Session, reporter: &mut Reporter) {
    if let Some(reason) = skew(session.hello.clock, clock()) {
        reporter.tell(Report::Notice { reason });
    }
}

/// This machine's clock, in seconds since 1970.
pub fn clock() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() as i64
}

/// What it takes to reach a target by ssh.
pub(crate) fn over_ssh(settings: &Settings) -> Result<&SshTarget> {
    let target = settings.destination.ssh();
    target.ok_or_else(|| Failure::person(anyhow!("{} is not reached by ssh", settings.name)))
}

/// A connection of our own: for runs by hand, with no agent there.
pub(crate) async fn connect(settings: &Settings, reporter: &mut Reporter) -> Result<Connection> {
    reporter.tell(Report::Wanted);
    let ssh = &over_ssh(settings)?.ssh;
    let key = &ssh.identity;
    File::open(key).later(format!(
        "there is no connection to the target (the agent, if it runs, makes one by itself), and {} cannot \
         be read here",
        key.display()
    ))?;
    Connection::open(&Endpoint::of(ssh), Proof::Key(key)).await
}

/// By which name targets know this host.
pub(crate) fn master() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// How this host introduces itself to a target.
pub(crate) fn hello(target: &There) -> HostHello {
    HostHello {
        protocol: PROTOCOL,
        archive: target.archive.as_str().as_bytes().to_vec(),
        master: master(),
        clock: clock(),
    }
}

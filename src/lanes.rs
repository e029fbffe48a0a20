//! Lanes: more connections for a session that sends much on a line which the window of one cannot fill.
//!
//! Once a session is bound by a window, not by the line ([`bound`]), the agent is asked for more connections, a
//! further process of the helper is started over each, and the session is spread over all
//! ([`blat_target::lanes`]), by as much as each of them carries ([`dealer`]).
//! Most targets are near, or their lines slow: there, nobody notices any of this.

mod bound;
mod dealer;

use std::cell::LazyCell;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use blat_target::lanes::Lane;
use blat_target::message::{Digest, ToTarget};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::failure::{Failure, Needs, Result};
use crate::outlet::Order;
use crate::progress::Progress;
use crate::report::{Report, Reporter};
use crate::ssh::{Child, Connection, Control, Endpoint, Tcp};
use bound::Bound;
pub(crate) use dealer::{Came, Dealer};

/// How often it is looked at what was sent.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For how long the agent may take to make more connections,
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// how often to look whether they are there,
const CONNECTED_EVERY: Duration = Duration::from_millis(100);
/// and when to try again where none came.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// For how long a target may take to hear of all lanes.
const GATHER_TIMEOUT: Duration = Duration::from_secs(30);
/// The agent keeps the connections for as long as it hears so often that they are needed.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What it takes to have more connections.
#[derive(Clone, Debug)]
pub struct Means {
    /// How to come to the first connection,
    pub control: Control,
    /// and to those beside it, as the agent makes them.
    pub controls: Vec<Control>,
    /// Where all of them go.
    pub endpoint: Endpoint,
    /// Where the agent hears of it: the target's name, and the socket.
    pub target: String,
    pub report: PathBuf,
    /// What starts the helper on the target.
    pub command: String,
    /// How many bytes may wait there for what comes before them.
    pub waiting_max: u64,
}

/// What the target says of the lanes, from who hears it to who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Word {
    /// All lanes are there.
    pub(crate) gathered: Notify,
    came: Mutex<Option<Came>>,
    has_come: Notify,
}

impl Word {
    /// What came by now.
    pub(crate) fn came(&self, came: Came) {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = Some(came);
        self.has_come.notify_one();
    }

    /// What came, if that was said since it was last asked for.
    pub(crate) fn take(&self) -> Option<Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until it is said what came.
    pub(crate) async fn has_come(&self) {
        self.has_come.notified().await;
    }
}

/// A session that may be spread.
pub(crate) struct Widening {
    pub(crate) means: Means,
    pub(crate) progress: Progress,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    pub(crate) word: Arc<Word>,
    /// So many bytes go by its own channel still behind the word that it is spread.
    pub(crate) after: u64,
}

impl Widening {
    /// Spreads the session once that is worth it. The lanes end with this, which ends with the session.
    pub(crate) async fn run(self) {
        let connections = self.connections().await;
        let count = 1 + connections.len();
        let lanes = match self.gather(connections).await {
            Ok(lanes) => lanes,
            Err(failure) => return self.tell_why(&failure),
        };
        tracing::debug!("the session goes on over {count} connections");
        let _held = lanes;
        loop {
            sleep(TELL_EVERY).await;
            self.tell(Report::WindowBound);
        }
    }

    /// Waits until the session has use for more connections, and has some.
    async fn connections(&self) -> Vec<Connection> {
        let mut is_told = false;
        loop {
            self.until_bound().await;
            self.tell(Report::WindowBound);
            let found = attach(&self.means).await;
            if !found.is_empty() {
                return found;
            }
            if !std::mem::replace(&mut is_told, true) {
                self.tell_why(&Failure::later(anyhow!("no further connection to the target came up")));
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Waits until a window of its one connection is what bounds the session.
    async fn until_bound(&self) {
        let (mut bound, mut looked) = (Bound::default(), Instant::now());
        // Most sessions are over before, or near: they never ask.
        let first = LazyCell::new(|| Tcp::of_process(self.means.control.process()?));
        loop {
            sleep(LOOK_EVERY).await;
            let since = looked.elapsed();
            looked = Instant::now();
            let (sent, round_trip) = (self.progress.bytes_sent(), self.progress.round_trip());
            if bound.look(sent, since, round_trip, || Some(first.as_ref()?.state()?.window)) {
                return;
            }
        }
    }

    /// Has a lane come to the session over each of these; they are the outlet's then.
    async fn gather(&self, connections: Vec<Connection>) -> Result<Vec<Child>> {
        let mut key = Digest([0; 32]);
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut key.0))
            .later("cannot read /dev/urandom")?;
        let (said, is_said) = oneshot::channel();
        self.order(Order::Say(ToTarget::Gather { key, lanes: connections.len() as u8 }, said))?;
        is_said.await.later("the session is over")?;
        let mut lanes = self.start(key, connections).await?;
        let pipes = lanes.iter_mut().map(own_pipe).collect::<Result<Vec<_>>>()?;
        let gathered = timeout(GATHER_TIMEOUT, self.word.gathered.notified()).await;
        gathered.later("the channels did not come together on the target")?;
        let round_trip = self.progress.round_trip().unwrap_or_default();
        let dealer = Dealer::new(1 + pipes.len(), round_trip, self.means.waiting_max);
        self.order(Order::Spread(self.after, pipes, dealer))?;
        Ok(lanes)
    }

    /// Starts a lane over each, all at a time: that takes several round trips.
    async fn start(&self, key: Digest, connections: Vec<Connection>) -> Result<Vec<Child>> {
        let mut starting = JoinSet::new();
        for (number, connection) in (1..).zip(connections) {
            let command = format!("{} --join {}", self.means.command, Lane { key, number }.encode());
            starting.spawn(async move { connection.start(&command).await.map(|lane| (number, lane)) });
        }
        let mut lanes = starting.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        lanes.sort_by_key(|(number, _)| *number);
        Ok(lanes.into_iter().map(|(_, lane)| lane).collect())
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| Failure::later(anyhow!("the session is over")))
    }

    fn tell(&self, report: Report) {
        Reporter::new(&self.means.target, &self.means.report).tell(report);
    }

    fn tell_why(&self, failure: &Failure) {
        let reason = format!(
            "much is sent by one connection that several would carry sooner: {failure}; see whether the sshd \
             there lets enough in (MaxStartups), or say ssh.connections = 1"
        );
        self.tell(Report::Notice { reason });
    }
}

/// The pipe to ssh of a lane, which is the outlet's then.
fn own_pipe(lane: &mut Child) -> Result<OwnedFd> {
    let stdin = lane.stdin().take().ok_or_else(|| Failure::later(anyhow!("ssh gave no channel")))?;
    stdin.into_owned_fd().later("cannot use a channel")
}

/// Attaches to those further connections that answer in time.
async fn attach(Means { controls, endpoint, .. }: &Means) -> Vec<Connection> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut found = Vec::new();
    for control in controls {
        found.extend(attach_until(deadline, control, endpoint).await);
    }
    found
}

/// After the deadline it is looked once all the same: what was waited for before may have taken all of the time.
async fn attach_until(deadline: Instant, control: &Control, endpoint: &Endpoint) -> Option<Connection> {
    loop {
        let connection = Connection::attach(control, endpoint).await;
        if connection.is_some() || Instant::now() >= deadline {
            return connection;
        }
        sleep(CONNECTED_EVERY).await;
    }
}

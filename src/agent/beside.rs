//! Connections beside the first one, as long as a run has use for them: where the line is so long that the
//! window of one cannot fill it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::line::{Change, Key, Line};
use crate::ssh::{Control, Endpoint};

/// For how long they are kept when nobody says any more that they are needed.
const KEEP_FOR: Duration = Duration::from_secs(300);
/// How often one that is up is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(50);

/// The further connections of a target: none, until they are needed.
#[derive(Debug)]
pub(super) struct Beside {
    endpoint: Endpoint,
    key: Key,
    controls: Vec<Control>,
    kept: Vec<Kept>,
    /// When it was last said that they are needed.
    needed: Instant,
}

/// A connection that is kept up by a task of its own.
#[derive(Debug)]
struct Kept {
    control: Control,
    is_up: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Beside {
    /// There may be one for each of these control sockets.
    pub(super) fn new(endpoint: Endpoint, key: Key, controls: Vec<Control>) -> Self {
        Self { endpoint, key, controls, kept: Vec::new(), needed: Instant::now() }
    }

    /// They are needed; whether that is news.
    pub(super) fn need(&mut self) -> bool {
        self.needed = Instant::now();
        let were_there = self.kept.len();
        for control in &self.controls[were_there..] {
            self.kept.push(Kept::begin(&self.endpoint, &self.key, control));
        }
        were_there == 0 && !self.kept.is_empty()
    }

    /// How many of them are up.
    pub(super) fn count(&self) -> usize {
        self.kept.iter().filter(|kept| kept.is_up.load(Ordering::Relaxed)).count()
    }

    /// Ends them if nobody has needed them for a while.
    pub(super) fn look(&mut self) {
        if self.needed.elapsed() > KEEP_FOR {
            self.close();
        }
    }

    /// Goes to `endpoint` with `key` from now on, over these control sockets.
    pub(super) fn redirect(&mut self, endpoint: Endpoint, key: Key, controls: Vec<Control>) {
        if (&self.endpoint, &self.key) != (&endpoint, &key) {
            self.close();
        }
        self.kept.truncate(controls.len());
        (self.endpoint, self.key, self.controls) = (endpoint, key, controls);
    }

    pub(super) fn close(&mut self) {
        self.kept.clear();
    }
}

impl Kept {
    fn begin(endpoint: &Endpoint, key: &Key, control: &Control) -> Self {
        let line = Line::new(endpoint.clone(), key.clone(), control.clone(), Duration::ZERO);
        let is_up = Arc::default();
        let task = tokio::spawn(keep(line, Arc::clone(&is_up)));
        Self { control: control.clone(), is_up, task }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // ssh ends with the task.
        self.task.abort();
        self.control.remove();
    }
}

/// Keeps a line up. What is to be told of the target is told of its first connection.
async fn keep(mut line: Line, is_up: Arc<AtomicBool>) {
    loop {
        // A line that is up is asked whether it answers whenever one begins to wait for its change.
        let change = timeout(LOOK_EVERY, line.change()).await;
        is_up.store(line.is_up(), Ordering::Relaxed);
        if let Ok(Change::Down { reason, .. } | Change::StillDown { reason, .. }) = change {
            tracing::info!("a further connection is down: {reason}");
        }
    }
}

//! Connections beside the first one, as long as a run has use for them: where the line is so long that the
//! window of one cannot fill it.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::line::{Change, Key, Line};
use crate::ssh::Endpoint;

/// For how long they are kept when nobody says any more that they are needed.
const KEEP_FOR: Duration = Duration::from_secs(300);

/// The further connections of a target: none, until they are needed.
#[derive(Debug)]
pub(super) struct Beside {
    endpoint: Endpoint,
    key: Key,
    controls: Vec<PathBuf>,
    lines: Vec<Line>,
    /// When it was last said that they are needed.
    needed: Instant,
}

impl Beside {
    /// There may be one for each of these control sockets.
    pub(super) fn new(endpoint: Endpoint, key: Key, controls: Vec<PathBuf>) -> Self {
        Self { endpoint, key, controls, lines: Vec::new(), needed: Instant::now() }
    }

    /// They are needed; whether that is news.
    pub(super) fn need(&mut self) -> bool {
        self.needed = Instant::now();
        if !self.lines.is_empty() {
            return false;
        }
        let line = |control: &PathBuf| {
            Line::new(self.endpoint.clone(), self.key.clone(), control.clone(), Duration::ZERO)
        };
        self.lines = self.controls.iter().map(line).collect();
        !self.lines.is_empty()
    }

    /// How many of them are up.
    pub(super) fn count(&self) -> usize {
        self.lines.iter().filter(|line| line.is_up()).count()
    }

    /// Goes on with what there is to do about them, for ever. Can be dropped at any point and called again.
    pub(super) async fn run(&mut self) -> Change {
        let mut changes: Vec<Pin<Box<_>>> =
            self.lines.iter_mut().map(|line| Box::pin(line.change())).collect();
        let change = poll_fn(|context| {
            let ready = changes.iter_mut().find_map(|change| match change.as_mut().poll(context) {
                Poll::Ready(change) => Some(change),
                Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        });
        match change.await {
            Change::Down { reason, .. } | Change::StillDown { reason, .. } => {
                tracing::debug!("a further connection is down: {reason}");
            }
            Change::Up | Change::Quiet => {}
        }
        // What is to be told of the target is told of its first connection.
        Change::Quiet
    }

    /// Ends them if nobody has needed them for a while.
    pub(super) async fn look(&mut self) {
        if self.needed.elapsed() > KEEP_FOR {
            self.close().await;
        }
    }

    /// Goes to `endpoint` with `key` from now on, over so many connections.
    pub(super) async fn redirect(&mut self, endpoint: Endpoint, key: Key, controls: Vec<PathBuf>) {
        if (&self.endpoint, &self.key, &self.controls) != (&endpoint, &key, &controls) {
            self.close().await;
            *self = Self::new(endpoint, key, controls);
        }
    }

    pub(super) async fn close(&mut self) {
        for mut line in self.lines.drain(..) {
            line.close().await;
        }
    }
}

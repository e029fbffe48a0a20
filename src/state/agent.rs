//! What the agent knows: the line to the target, and what the runs told it.

use serde::{Deserialize, Serialize};

use super::Seconds;

/// `/run/blat/NAME/agent.json`. It tells of a living agent as long as the lock beside it is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    pub since: Seconds,
    pub line: Line,
    /// Why the last transfer failed, if it did.
    pub transfer_trouble: Option<String>,
    /// Why the last synchronisation failed, if it did.
    pub sync_trouble: Option<String>,
    /// Which old helper serves the target, and why it was not replaced.
    #[serde(default)]
    pub old_helper: Option<String>,
}

/// The connection to the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub state: LineState,
    /// Since when it is up, or down.
    pub since: Option<Seconds>,
    /// Why it is down.
    pub reason: Option<String>,
    /// Whether only a person mends that.
    #[serde(default)]
    pub person: bool,
    /// When it is tried again.
    pub next: Option<Seconds>,
    /// How many connections are up: more than one as long as the line takes more than one carries.
    #[serde(default)]
    pub connections: usize,
}

impl Line {
    /// How many connections there are, where there is more than one, to read on from the connection's state.
    pub fn several(&self) -> String {
        if self.connections > 1 { format!(", {} connections", self.connections) } else { String::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineState {
    Up,
    /// The first attempt has not ended.
    Connecting,
    Down,
    /// There is none: each run finds its way to the bucket by itself.
    NotKept,
}

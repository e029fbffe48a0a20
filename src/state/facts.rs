//! What the target said of itself when a session with it began.

use std::time::SystemTime;

use blat_target::message::TargetHello;
use serde::{Deserialize, Serialize};

use super::{Seconds, seconds};

/// `/var/lib/blat/NAME/target.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub at: Seconds,
    /// The helper's version, and its build.
    pub helper: String,
    pub build: String,
    pub protocol: u16,
    pub free_bytes: u64,
    pub free_inodes: u64,
    /// How far the target's clock is ahead of ours, in seconds.
    pub clock_ahead: i64,
}

impl Facts {
    pub fn of(hello: &TargetHello, now: SystemTime) -> Self {
        let at = seconds(now);
        Self {
            at,
            helper: hello.version.clone(),
            build: hello.build.to_string(),
            protocol: hello.protocol,
            free_bytes: hello.free_bytes,
            free_inodes: hello.free_inodes,
            clock_ahead: hello.clock - at as i64,
        }
    }
}

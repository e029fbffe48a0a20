//! What the target said of itself when a session with it began.

use std::time::{Duration, SystemTime};

use blat_target::message::TargetHello;
use serde::{Deserialize, Serialize};

use super::{Seconds, seconds};
use crate::ssh::Control;

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
    /// How far away it is.
    #[serde(default)]
    pub away: Option<Away>,
}

/// How far away a target is, as it seems to sessions over one connection: to one on a busy machine, it seems
/// further away than it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// When the connection was made, in microseconds since 1970.
    pub connected: u64,
    /// The shortest time in which it answered, in microseconds.
    pub round_trip: u64,
}

impl Away {
    /// Over the connection to which this leads, in `round_trip`; none where there is none.
    pub fn over(control: &Control, round_trip: Duration) -> Option<Self> {
        Some(Self { connected: connected(control)?, round_trip: round_trip.as_micros() as u64 })
    }
}

/// When the connection was made to which this leads, in microseconds since 1970.
fn connected(control: &Control) -> Option<u64> {
    Some(control.made()?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_micros() as u64)
}

impl Facts {
    /// In which time the target answered at best over the connection to which this leads, if that is known.
    pub fn round_trip(&self, control: &Control) -> Option<Duration> {
        let away = self.away?;
        (connected(control)? == away.connected).then(|| Duration::from_micros(away.round_trip))
    }

    pub fn of(hello: &TargetHello, away: Option<Away>, now: SystemTime) -> Self {
        let at = seconds(now);
        Self {
            at,
            helper: hello.version.clone(),
            build: hello.build.to_string(),
            protocol: hello.protocol,
            free_bytes: hello.free_bytes,
            free_inodes: hello.free_inodes,
            clock_ahead: hello.clock - at as i64,
            away,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_away_it_is_is_known_for_one_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let control = Control::at(path.clone());
        assert_eq!(Away::over(&control, Duration::ZERO), None);
        let socket = std::fs::File::create(&path).unwrap();
        let text =
            r#"{"at":0,"helper":"","build":"","protocol":2,"free_bytes":0,"free_inodes":0,"clock_ahead":0}"#;
        let mut facts: Facts = serde_json::from_str(text).unwrap();
        assert_eq!(facts.round_trip(&control), None);
        let time = Duration::from_millis(7);
        facts.away = Away::over(&control, time);
        assert_eq!(facts.round_trip(&control), Some(time));
        socket.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
        assert_eq!(facts.round_trip(&control), None, "it is another one");
    }
}

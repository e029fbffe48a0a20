//! Reports: what the short-lived programs tell the agent, so that the journal of
//! `blat@NAME` has the whole story of a target.
//!
//! One datagram of JSON for each. A report that cannot be delivered (no agent, run by
//! hand) is logged by the program itself: either way it is logged once.

mod words;

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use blat_target::package::PackageVersion;
use serde::{Deserialize, Serialize};

use crate::session::Mended;
use crate::told::size;

/// The largest report, in bytes; longer reasons are cut.
pub const REPORT_MAX: usize = 16 << 10;
/// How many files are named that could not be made on a target.
const MENDED_NAMED: usize = 5;
const REASON_MAX: usize = 4 << 10;

/// Something that happened to a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// A package-version, or link, is on the target's disk and visible.
    Committed {
        package: String,
        version: String,
        /// The sum of its files' sizes, in bytes.
        bytes: u64,
        /// Whether another build, or link, stood there before.
        replaced: bool,
        cause: Cause,
        /// From its first byte's turn to its acknowledgement, in microseconds.
        #[serde(default)]
        micros: u64,
        parts: Parts,
    },
    /// A synchronisation ended. `bytes` is the sum of the sizes of the files that were sent.
    Synced {
        members: u64,
        packages: u64,
        links: u64,
        bytes: u64,
        waiting: u64,
        problems: u64,
        failed: u64,
        excess: u64,
        /// Of the excess, what has a mark since, and what was deleted.
        #[serde(default)]
        marked: u64,
        #[serde(default)]
        deleted: u64,
        millis: u64,
    },
    /// Something in excess was deleted: by the synchronisation, or, at that time (in seconds since 1970),
    /// by the target's own purge.
    Deleted { package: String, version: String, at: Option<i64> },
    /// Something in excess was marked: it goes when the mark is old enough.
    Marked { package: String, version: String },
    /// Something in excess was not marked or deleted, or the PackageList was not laid down, for that is not
    /// safe until a person says so.
    Guarded { reason: String },
    /// A person holds all deletion at the target back, for this reason, or does not any more.
    Held { reason: Option<String> },
    /// The target told that its own index or purge ran, at that time (in seconds since 1970).
    Upkeep {
        what: Upkeep,
        at: i64,
        /// How many files the index has, or what the purge deleted.
        count: u64,
        failed: u64,
        /// One of the failures.
        trouble: Option<String>,
    },
    /// A synchronisation could not do its work.
    SyncFailed {
        reason: String,
        /// Whether only a person mends it.
        #[serde(default)]
        person: bool,
    },
    /// A person stopped a synchronisation.
    SyncStopped,
    /// Nothing says any more what the target should have.
    NothingWanted,
    /// Something that keeps a synchronisation from being complete, though the rest goes on.
    Problem {
        reason: String,
        /// What it is about, where that is one package-version.
        #[serde(default)]
        about: Option<PackageVersion>,
    },
    /// A tag was given up.
    Rejected { tag: String, reason: String },
    /// A tag waits, and why; said when the reason is new.
    Waits { tag: String, reason: String },
    /// Something that a person may want to know of a package that was sent.
    Notice { reason: String },
    /// A run failed.
    Trouble {
        reason: String,
        /// Whether only a person mends it.
        #[serde(default)]
        person: bool,
    },
    /// A run ended, and so many tags wait. It is a run's last word; one that failed has said so before.
    Queue {
        /// Left out where they cannot be counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waiting: Option<usize>,
    },
    /// A session was opened with the helper that belongs to this build, or with an old one: which, and
    /// why it stays so.
    Helper { old: Option<String> },
    /// A run found no connection: the next attempt should not be waited for.
    Wanted,
    /// A window of its one connection is what bounds a run that sends much: it has use for more of them. Said
    /// again, for as long as it has.
    WindowBound,
}

/// What a target does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upkeep {
    Index,
    Purge,
}

/// What a package was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Tag,
    Sync,
}

impl Cause {
    /// As the journal has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Sync => "sync",
        }
    }
}

/// How long each step took from the tag to the commit, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// From the tag's drop until the program ran.
    pub trigger: u64,
    /// Until the tag was claimed.
    pub claim: u64,
    /// Until the target had said hello.
    pub attach: u64,
    /// Until all bytes were handed to ssh.
    pub send: u64,
    /// Until the target had acknowledged the commit.
    pub commit: u64,
}

impl Parts {
    /// The whole time.
    pub fn sum(&self) -> u64 {
        self.trigger + self.claim + self.attach + self.send + self.commit
    }
}

impl Report {
    /// Files of `id` were sent in full that could have been made of another version on the target.
    pub(crate) fn mended(id: &PackageVersion, mended: &Mended) -> Self {
        let (package, base) = (&id.package, &mended.base);
        let named: Vec<_> =
            mended.files.iter().take(MENDED_NAMED).map(|path| path.display().to_string()).collect();
        let more = match mended.files.len().saturating_sub(MENDED_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let reason = format!(
            "{id}: {}{more} could not be made of what {package}/{base} is on the target, and went in full: \
             look after {package}/{base} there, it is damaged or going",
            named.join(", ")
        );
        Self::Notice { reason }
    }

    /// A session broke off in the middle of `id`, and another one goes on with it.
    pub(crate) fn resumed(id: &PackageVersion, bytes: u64) -> Self {
        let there = size(bytes);
        Self::Notice { reason: format!("{id}: the target has {there} of it already, only the rest is sent") }
    }

    /// Something in excess was marked.
    pub fn marked(id: &PackageVersion) -> Self {
        Self::Marked { package: id.package.to_string(), version: id.version.to_string() }
    }

    /// What a person is needed for, if one is.
    pub fn needs_person(&self) -> Option<&str> {
        match self {
            Self::SyncFailed { reason, person: true }
            | Self::Trouble { reason, person: true }
            | Self::Guarded { reason }
            | Self::Rejected { reason, .. } => Some(reason),
            _ => None,
        }
    }

    fn shortened(mut self) -> Self {
        if let Self::Rejected { reason, .. }
        | Self::Waits { reason, .. }
        | Self::Trouble { reason, .. }
        | Self::SyncFailed { reason, .. }
        | Self::Guarded { reason }
        | Self::Held { reason: Some(reason) }
        | Self::Upkeep { trouble: Some(reason), .. }
        | Self::Problem { reason, .. }
        | Self::Notice { reason } = &mut self
        {
            while reason.len() > REASON_MAX || !reason.is_char_boundary(reason.len()) {
                reason.pop();
            }
        }
        self
    }
}

/// The way to the agent, as long as there is one.
#[derive(Debug)]
pub struct Reporter {
    target: String,
    socket: Option<UnixDatagram>,
}

impl Reporter {
    /// Reports for `target` to the agent's socket at `path`.
    pub fn new(target: &str, path: &Path) -> Self {
        Self { target: target.to_owned(), socket: connect(path).ok() }
    }

    /// Tells nobody but the log: for what is asked by hand.
    pub fn to_the_log(target: &str) -> Self {
        Self { target: target.to_owned(), socket: None }
    }

    /// Tells the agent, or the log where there is none.
    pub fn tell(&mut self, report: Report) {
        let report = report.shortened();
        let sent = self.socket.as_ref().map(|socket| socket.send(&encode(&report)));
        if !matches!(sent, Some(Ok(_))) {
            self.socket = None;
            report.log(&self.target);
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

fn encode(report: &Report) -> Vec<u8> {
    serde_json::to_vec(report).expect("reports can be written as JSON")
}

/// Reads a report off a datagram.
pub fn decode(datagram: &[u8]) -> Result<Report, serde_json::Error> {
    serde_json::from_slice(datagram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_arrives_as_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        let agent = UnixDatagram::bind(&path).unwrap();
        let report = Report::Rejected { tag: "core::1".into(), reason: "é".repeat(REASON_MAX) };
        Reporter::new("site1", &path).tell(report.clone());
        let mut datagram = [0; REPORT_MAX];
        let length = agent.recv(&mut datagram).unwrap();
        assert_eq!(decode(&datagram[..length]).unwrap(), report.shortened());
    }

    #[test]
    fn without_an_agent_nothing_fails() {
        Reporter::new("site1", Path::new("/nonexistent/report")).tell(Report::Wanted);
    }
}

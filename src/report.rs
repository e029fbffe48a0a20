//! Reports: what the short-lived programs tell the agent, so that the journal of
//! `blat@NAME` has the whole story of a target.
//!
//! One datagram of JSON for each. A report that cannot be delivered (no agent, run by
//! hand) is logged by the program itself: either way it is logged once.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use blat_target::package::PackageVersion;
use serde::{Deserialize, Serialize};

use crate::session::Mended;

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
    /// Something in excess was not marked or deleted, for that is not safe until a person says so.
    Guarded { reason: String },
    /// A synchronisation could not do its work.
    SyncFailed { reason: String },
    /// A person stopped a synchronisation.
    SyncStopped,
    /// Something that keeps a synchronisation from being complete, though the rest goes on.
    Problem { reason: String },
    /// A tag was given up.
    Rejected { tag: String, reason: String },
    /// A tag waits, and why; said when the reason is new.
    Waits { tag: String, reason: String },
    /// Something that a person may want to know of a package that was sent.
    Notice { reason: String },
    /// A run failed.
    Trouble { reason: String },
    /// A run ended, and so many tags wait. It is a run's last word; one that failed has said so before.
    Queue { waiting: usize },
    /// A session was opened with the helper that belongs to this build, or with an old one: which, and
    /// why it stays so.
    Helper { old: Option<String> },
    /// A run found no connection: the next attempt should not be waited for.
    Wanted,
}

/// What a package was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Tag,
    Sync,
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

    /// Logs it under the name of `target`.
    pub fn log(&self, target: &str) {
        match self {
            Self::Committed { package, version, bytes, replaced, cause: Cause::Sync, .. } => tracing::info!(
                blat_target = target,
                blat_package = package,
                blat_version = version,
                blat_bytes = bytes,
                "committed {package}/{version} ({bytes} bytes{})",
                if *replaced { ", another build before" } else { "" }
            ),
            Self::Synced {
                members,
                packages,
                links,
                bytes,
                waiting,
                problems,
                failed,
                excess,
                marked,
                deleted,
                millis,
            } => {
                tracing::info!(
                    blat_target = target,
                    blat_packages = packages,
                    blat_bytes = bytes,
                    blat_millis = millis,
                    "synchronised: {packages} packages sent ({bytes} bytes), {links} links made, {waiting} wait, \
                     {problems} have problems, {failed} failed, {excess} in excess ({marked} marked, {deleted} deleted); {members} should be there; {millis} ms"
                );
            }
            Self::Deleted { package, version, at } => tracing::info!(
                blat_target = target,
                blat_package = package,
                blat_version = version,
                "deleted {package}/{version}, which was in excess{}",
                at.map_or_else(String::new, |at| format!(": the target's own purge did, at {}", time(at)))
            ),
            Self::Guarded { reason } => tracing::error!(blat_target = target, "{reason}"),
            Self::SyncFailed { reason } => {
                tracing::error!(blat_target = target, "not synchronised: {reason}");
            }
            Self::Committed { package, version, bytes, replaced, parts, .. } => tracing::info!(
                blat_target = target,
                blat_package = package,
                blat_version = version,
                blat_bytes = bytes,
                blat_usec_trigger = parts.trigger,
                blat_usec_claim = parts.claim,
                blat_usec_attach = parts.attach,
                blat_usec_send = parts.send,
                blat_usec_commit = parts.commit,
                "committed {package}/{version} ({bytes} bytes{})",
                if *replaced { ", another build before" } else { "" }
            ),
            Self::Rejected { tag, reason } => {
                tracing::error!(blat_target = target, blat_tag = tag, "rejected the tag {tag}: {reason}");
            }
            Self::Waits { tag, reason } => {
                tracing::warn!(blat_target = target, blat_tag = tag, "the tag {tag} waits: {reason}");
            }
            Self::SyncStopped => tracing::warn!(
                blat_target = target,
                "the synchronisation was stopped; it goes on at its next start, by its timer or by hand"
            ),
            Self::Notice { reason } | Self::Problem { reason } => {
                tracing::warn!(blat_target = target, "{reason}")
            }
            Self::Trouble { reason } => tracing::error!(blat_target = target, "{reason}"),
            Self::Helper { old: Some(old) } => {
                tracing::warn!(blat_target = target, "the helper on the target is old: {old}");
            }
            Self::Queue { .. } | Self::Wanted | Self::Helper { old: None } => {}
        }
    }

    fn shortened(mut self) -> Self {
        if let Self::Rejected { reason, .. }
        | Self::Waits { reason, .. }
        | Self::Trouble { reason }
        | Self::SyncFailed { reason }
        | Self::Guarded { reason }
        | Self::Problem { reason }
        | Self::Notice { reason } = &mut self
        {
            while reason.len() > REASON_MAX || !reason.is_char_boundary(reason.len()) {
                reason.pop();
            }
        }
        self
    }
}

/// In UTC.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
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

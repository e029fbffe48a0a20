//! The way to a target, as the agent sees it: a line that it keeps up, or a bucket, to which each
//! run finds the way by itself.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::line::{Change, Key, Line};
use crate::config::{Destination, Settings, SshTarget};
use crate::ssh::Endpoint;
use crate::state;
use crate::told::time_of;

#[derive(Debug)]
pub(super) enum Way {
    Line(Box<Line>, String),
    Bucket { shown: String, synchronised: Option<SystemTime> },
}

/// The host, or the bucket.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(_, shown) | Self::Bucket { shown, .. } => f.write_str(shown),
        }
    }
}

impl Way {
    /// The way to a target; where it is a line, that connects at some moment within `span`.
    pub(super) fn new(settings: &Settings, control: PathBuf, span: Duration) -> Self {
        match &settings.destination {
            Destination::Ssh(target) => {
                let line = Line::new(Endpoint::of(&target.ssh), key(target), control, span);
                Self::Line(Box::new(line), target.ssh.host.to_string())
            }
            Destination::S3(_) => {
                Self::Bucket { shown: settings.destination.to_string(), synchronised: None }
            }
        }
    }

    /// Whether a run can be started now; to a bucket, always.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Line(line, _) => line.is_up(),
            Self::Bucket { .. } => true,
        }
    }

    /// Waits for the next change. Can be dropped at any point and called again.
    pub(super) async fn change(&mut self) -> Change {
        match self {
            Self::Line(line, _) => line.change().await,
            Self::Bucket { .. } => std::future::pending().await,
        }
    }

    /// A synchronisation has ended.
    pub(super) fn synchronised(&mut self) {
        if let Self::Bucket { synchronised, .. } = self {
            *synchronised = Some(SystemTime::now());
        }
    }

    /// Somebody needs the line: the next attempt is made soon.
    pub(super) fn hurry(&mut self) {
        if let Self::Line(line, _) = self {
            line.hurry();
        }
    }

    /// Goes where these settings say from now on.
    pub(super) async fn redirect(&mut self, settings: &Settings, control: PathBuf) {
        match (&mut *self, &settings.destination) {
            (Self::Line(line, shown), Destination::Ssh(target)) => {
                *shown = target.ssh.host.to_string();
                line.redirect(Endpoint::of(&target.ssh), key(target)).await;
            }
            _ => {
                self.close().await;
                *self = Self::new(settings, control, Duration::ZERO);
            }
        }
    }

    pub(super) async fn close(&mut self) {
        if let Self::Line(line, _) = self {
            line.close().await;
        }
    }

    /// Whether the key file was mended since the agent started. A run to a bucket gets its own.
    pub(super) fn needs_new_key(&self, started: SystemTime) -> bool {
        match self {
            Self::Line(line, _) => line.needs_new_key(started),
            Self::Bucket { .. } => false,
        }
    }

    /// The state, for whoever reads the agent's file.
    pub(super) fn shown(&self) -> state::Line {
        match self {
            Self::Line(line, _) => line.shown(),
            Self::Bucket { .. } => state::Line {
                state: state::LineState::NotKept,
                since: None,
                reason: None,
                person: false,
                next: None,
            },
        }
    }

    /// The state in words, for `systemctl status`.
    pub(super) fn state(&self) -> String {
        match self {
            Self::Line(line, _) => line.state(),
            Self::Bucket { shown, synchronised: None } => shown.clone(),
            Self::Bucket { shown, synchronised: Some(at) } => {
                format!("{shown}; synchronised at {}", time_of(*at))
            }
        }
    }
}

/// The credential that systemd loaded, or by hand the file itself.
fn key(target: &SshTarget) -> Key {
    let credential =
        libsystemd::credentials::CredentialsLoader::path_from_env().map(|folder| folder.join("identity"));
    Key { source: target.ssh.identity.clone(), credential: credential.filter(|path| path.exists()) }
}

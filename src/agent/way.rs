//! The way to a target, as the agent sees it: a line that it keeps up, or a bucket, to which each
//! run finds the way by itself.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::beside::Beside;
use super::line::{Change, Key, Line};
use crate::config::{Destination, Settings, SshTarget};
use crate::places::Places;
use crate::ssh::{Control, Endpoint};
use crate::state;
use crate::told::time_of;

#[derive(Debug)]
pub(super) enum Way {
    Host(Box<Host>),
    Bucket { shown: String, synchronised: Option<SystemTime> },
}

/// A host, and the connections to it.
#[derive(Debug)]
pub(super) struct Host {
    shown: String,
    /// The one that is always kept up.
    first: Line,
    beside: Beside,
}

impl Host {
    fn shown(&self) -> state::Line {
        self.first.shown(self.beside.count())
    }
}

/// The host, or the bucket.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(&host.shown),
            Self::Bucket { shown, .. } => f.write_str(shown),
        }
    }
}

impl Way {
    /// The way to a target; where it is a line, that connects at some moment within `span`.
    pub(super) fn new(settings: &Settings, places: &Places, span: Duration) -> Self {
        match &settings.destination {
            Destination::Ssh(target) => {
                let (endpoint, key) = (Endpoint::of(&target.ssh), key(target));
                Self::Host(Box::new(Host {
                    shown: target.ssh.host.to_string(),
                    first: Line::new(endpoint.clone(), key.clone(), places.control(), span),
                    beside: Beside::new(endpoint, key, controls_beside(target, places)),
                }))
            }
            Destination::S3(_) => {
                Self::Bucket { shown: settings.destination.to_string(), synchronised: None }
            }
        }
    }

    /// Whether a run can be started now; to a bucket, always.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Host(host) => host.first.is_up(),
            Self::Bucket { .. } => true,
        }
    }

    /// Waits for the next change. Can be dropped at any point and called again.
    pub(super) async fn change(&mut self) -> Change {
        match self {
            Self::Host(host) => host.first.change().await,
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
        if let Self::Host(host) = self {
            host.first.hurry();
        }
    }

    /// A run has use for more than one connection; whether that is news.
    pub(super) fn widen(&mut self) -> bool {
        match self {
            Self::Host(host) => host.beside.need(),
            Self::Bucket { .. } => false,
        }
    }

    /// Ends what nobody has needed for a while.
    pub(super) fn look(&mut self) {
        if let Self::Host(host) = self {
            host.beside.look();
        }
    }

    /// Goes where these settings say from now on; whether that is by another line.
    pub(super) async fn redirect(&mut self, settings: &Settings, places: &Places) -> bool {
        match (&mut *self, &settings.destination) {
            (Self::Host(host), Destination::Ssh(target)) => {
                let (endpoint, key) = (Endpoint::of(&target.ssh), key(target));
                host.shown = target.ssh.host.to_string();
                let is_another = host.first.redirect(endpoint.clone(), key.clone()).await;
                host.beside.redirect(endpoint, key, controls_beside(target, places));
                is_another
            }
            _ => {
                self.close().await;
                *self = Self::new(settings, places, Duration::ZERO);
                true
            }
        }
    }

    pub(super) async fn close(&mut self) {
        if let Self::Host(host) = self {
            host.beside.close();
            host.first.close().await;
        }
    }

    /// Whether the key file was mended since the agent started. A run to a bucket gets its own.
    pub(super) fn needs_new_key(&self) -> bool {
        match self {
            Self::Host(host) => host.first.needs_new_key(),
            Self::Bucket { .. } => false,
        }
    }

    /// The state, for whoever reads the agent's file.
    pub(super) fn shown(&self) -> state::Line {
        match self {
            Self::Host(host) => host.shown(),
            Self::Bucket { .. } => state::Line {
                state: state::LineState::NotKept,
                since: None,
                reason: None,
                person: false,
                next: None,
                connections: 0,
            },
        }
    }

    /// The state in words, for `systemctl status`.
    pub(super) fn state(&self) -> String {
        match self {
            Self::Host(host) => host.first.state() + &host.shown().several(),
            Self::Bucket { shown, synchronised: None } => shown.clone(),
            Self::Bucket { shown, synchronised: Some(at) } => {
                format!("{shown}; synchronised at {}", time_of(*at))
            }
        }
    }
}

fn controls_beside(target: &SshTarget, places: &Places) -> Vec<Control> {
    places.controls_beside(target.ssh.connections.get()).collect()
}

/// The credential that systemd loaded, or by hand the file itself.
fn key(target: &SshTarget) -> Key {
    let credential =
        libsystemd::credentials::CredentialsLoader::path_from_env().map(|folder| folder.join("identity"));
    Key { source: target.ssh.identity.clone(), credential: credential.filter(|path| path.exists()) }
}

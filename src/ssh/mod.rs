//! The connection to a target: the agent's, or one of our own when there is none.

mod arguments;
mod cipher;
mod control;
mod master;
mod window;
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openssh::{Session, Stdio};
use tokio::time::timeout;

pub use arguments::{Proof, arguments};
pub use control::Control;
pub use master::Master;
pub use window::{Tcp, TcpState, Window};
pub use words::{Meaning, Why};

use crate::config::Ssh;
use crate::failure::{Failure, Needs, Result};

/// How long a running master may take to answer, and to open a channel.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a target is, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub known_hosts: PathBuf,
}

/// A program that runs on the target.
pub type Child = openssh::Child<Arc<Session>>;

/// A connection on which remote programs can be started.
#[derive(Debug)]
pub struct Connection {
    session: Arc<Session>,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    master: Master,
    /// Holds the control socket.
    _folder: tempfile::TempDir,
}

impl Endpoint {
    /// Where these settings say that it is.
    pub fn of(ssh: &Ssh) -> Self {
        Self {
            host: ssh.host.to_string(),
            port: ssh.port,
            user: ssh.user.to_string(),
            known_hosts: ssh.known_hosts.clone(),
        }
    }
}

impl Connection {
    /// Attaches to the running master that `control` leads to, if that is one to `endpoint`, and answers.
    pub async fn attach(control: &Control, endpoint: &Endpoint) -> Option<Self> {
        let connection = Self { session: resume(&control.leads_to(endpoint)?), own: None };
        connection.is_alive().await.then_some(connection)
    }

    /// Connects anew; the connection ends with this value.
    pub async fn open(endpoint: &Endpoint, proof: Proof<'_>) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("blat-").tempdir().later("cannot make a folder for ssh")?;
        let control = folder.path().join("ssh");
        let mut master = Master::start(endpoint, proof, &control).await?;
        master.ready().await?;
        Ok(Self { session: resume(&control), own: Some(Own { master, _folder: folder }) })
    }

    /// Starts `command` (the one fixed command line) with all three streams piped.
    pub async fn start(&self, command: &str) -> Result<Child> {
        let mut command = Session::to_raw_command(Arc::clone(&self.session), command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match timeout(ANSWER_TIMEOUT, command.spawn()).await {
            Ok(started) => started.later("cannot start a program on the target"),
            Err(_) => Err(Failure::later(anyhow::anyhow!("the target does not answer"))),
        }
    }

    /// The ssh session, for the programs of others that speak over it.
    pub fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    /// Whether the connection still answers.
    pub async fn is_alive(&self) -> bool {
        matches!(timeout(ANSWER_TIMEOUT, self.session.check()).await, Ok(Ok(())))
    }

    /// Ends a connection of our own; leaves the agent's alone.
    pub async fn close(self) {
        if let Some(own) = self.own {
            own.master.end().await;
        }
    }
}

fn resume(control: &Path) -> Arc<Session> {
    Arc::new(Session::resume_mux(control.to_owned().into_boxed_path(), None))
}

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
    /// What led to it, where it is the agent's.
    led: Option<(Control, Endpoint)>,
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
        let mut socket = control.leads_to(endpoint)?;
        loop {
            let led = Some((control.clone(), endpoint.clone()));
            let connection = Self { session: resume(&socket), led, own: None };
            if connection.is_alive().await {
                return Some(connection);
            }
            // The agent may have replaced it in this moment.
            socket = control.leads_to(endpoint).filter(|now| *now != socket)?;
        }
    }

    /// Connects anew; the connection ends with this value.
    pub async fn open(endpoint: &Endpoint, proof: Proof<'_>) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("blat-").tempdir().later("cannot make a folder for ssh")?;
        let control = folder.path().join("ssh");
        let mut master = Master::start(endpoint, proof, &control).await?;
        master.ready().await?;
        Ok(Self { session: resume(&control), led: None, own: Some(Own { master, _folder: folder }) })
    }

    /// Starts `command` (the one fixed command line) with all three streams piped.
    pub async fn start(&self, command: &str) -> Result<Child> {
        let mut command = Session::to_raw_command(self.session(), command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match timeout(ANSWER_TIMEOUT, command.spawn()).await {
            Ok(started) => started.later("cannot start a program on the target"),
            Err(_) => Err(Failure::later(anyhow::anyhow!("the target does not answer"))),
        }
    }

    /// The ssh session, for the programs of others that speak over it: that of the connection by which the agent
    /// has replaced this one, if it has.
    pub fn session(&self) -> Arc<Session> {
        let led = self.led.as_ref().and_then(|(control, endpoint)| control.leads_to(endpoint));
        led.map_or_else(|| Arc::clone(&self.session), |socket| resume(&socket))
    }

    /// Whether the connection still answers.
    async fn is_alive(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_started_over_a_connection_that_was_replaced_goes_by_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("ssh");
        let (control, known_hosts) = (Control::at(link.clone()), folder.path().join("known_hosts"));
        let endpoint = Endpoint { host: "h".into(), port: 22, user: "u".into(), known_hosts };
        let first = control.socket(&endpoint, None);
        let session = resume(&first);
        let connection = Connection { session, led: Some((control, endpoint)), own: None };
        assert_eq!(connection.session().control_socket(), first);
        let second = PathBuf::from(format!("{}b", first.to_str().unwrap().strip_suffix('a').unwrap()));
        symlink(second.file_name().unwrap(), &link).unwrap();
        assert_eq!(connection.session().control_socket(), second);
    }
}

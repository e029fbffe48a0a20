//! An ssh master connection: a child of ours on a control socket with a fixed path, to
//! which short-lived programs attach.
//!
//! The child ignores USR1 and HUP, which `systemctl kill` sends to every process of a
//! unit, and dies with the process that started it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::arguments::{Proof, arguments};
use super::{ANSWER_TIMEOUT, Endpoint, Tcp, TcpState, cipher, words};
use crate::failure::{Failure, Needs, Result};

/// How long a connection may take to come up,
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// and one for which a person types a password.
const TYPING_TIMEOUT: Duration = Duration::from_secs(300);
/// ssh keeps up to 2 MiB of a channel in a buffer, which it makes longer by some KiB at a time: each time another
/// one. Left to itself, glibc has the kernel make the pages of each anew, and takes 150 ms of CPU to get there. So
/// it shall take them from its heap, and give that back once there is more of it free than two such buffers leave
/// behind: `mallopt(3)`, in bytes.
const ALLOCATOR: [(&str, &str); 2] =
    [("MALLOC_MMAP_THRESHOLD_", "4194304"), ("MALLOC_TRIM_THRESHOLD_", "6291456")];
/// How many lines of ssh's words are kept.
const WORDS_MAX: usize = 40;

/// A running `ssh -N -M`.
#[derive(Debug)]
pub struct Master {
    child: Child,
    control: PathBuf,
    words: Arc<Mutex<VecDeque<String>>>,
    deadline: Instant,
    /// Which connection is its, once that was asked.
    tcp: OnceLock<Option<Box<Tcp>>>,
}

impl Master {
    /// Starts ssh; [`Master::ready`] tells when it is connected.
    pub async fn start(endpoint: &Endpoint, proof: Proof<'_>, control: &Path) -> Result<Self> {
        let arguments = arguments(endpoint, proof);
        let cipher = cipher::option(&arguments).await;
        match std::fs::remove_file(control) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                return Err(why).person(format!("cannot remove the stale socket {}", control.display()));
            }
            _ => {}
        }
        let mut child = command(control, cipher, arguments).spawn().person("cannot start ssh")?;
        let words = Arc::default();
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(listen(stderr, Arc::clone(&words)));
        }
        let patience = if proof == Proof::Person { TYPING_TIMEOUT } else { CONNECT_TIMEOUT };
        let deadline = Instant::now() + patience;
        Ok(Self { child, control: control.to_owned(), words, deadline, tcp: OnceLock::new() })
    }

    /// Waits until programs can attach. Fails with ssh's reason, or 30 s after the start.
    pub async fn ready(&mut self) -> Result<()> {
        let mut pause = Duration::from_millis(20);
        while !self.answers(self.deadline).await {
            if let Ok(ended) = timeout_at(Instant::now() + pause, self.child.wait()).await {
                ended.later("cannot wait for ssh")?;
                return Err(self.last_words().await);
            }
            if Instant::now() >= self.deadline {
                return Err(Failure::later(anyhow::anyhow!("the target does not answer")));
            }
            // The longer it has taken, the less a little more matters.
            pause = (pause * 5 / 4).min(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Whether the master answers on its socket until `deadline`.
    pub async fn answers(&self, deadline: Instant) -> bool {
        if !self.control.exists() {
            return false;
        }
        matches!(timeout_at(deadline, super::resume(&self.control).check()).await, Ok(Ok(())))
    }

    /// Waits until ssh ends, and says why.
    pub async fn ended(&mut self) -> Failure {
        match self.child.wait().await {
            Ok(_) => self.last_words().await,
            Err(why) => Failure::later(why),
        }
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// What the kernel says of the connection; none where that cannot be known.
    pub fn state(&self) -> Option<TcpState> {
        let id = self.child.id()?;
        self.tcp.get_or_init(|| Tcp::of_process(id).map(Box::new)).as_ref()?.state()
    }

    /// Lets nobody attach any more, and ends when the last of those has left who are there.
    pub async fn retire(mut self) {
        // Whoever comes next may have a socket at the same place by the time that this ends.
        let control = std::mem::take(&mut self.control);
        let stop = openssh::Session::resume_mux(control.into_boxed_path(), None).close();
        if let Ok(Ok(())) = timeout(ANSWER_TIMEOUT, stop).await {
            self.ended().await;
        }
    }

    /// Ends ssh: every channel with it.
    pub async fn end(mut self) {
        if let Err(why) = self.child.kill().await {
            tracing::warn!("cannot end ssh: {why}");
        }
    }

    async fn last_words(&self) -> Failure {
        // The reader may be a moment behind the end of the process.
        sleep(Duration::from_millis(20)).await;
        let words = self.words.lock().expect("no reader panics");
        words::failure(&words.iter().map(String::as_str).collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // ssh is killed, and does not remove it itself.
        let _ = std::fs::remove_file(&self.control);
    }
}

fn command(control: &Path, cipher: Option<String>, arguments: Vec<OsString>) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-N").arg("-M").arg("-S").arg(control);
    if let Some(option) = cipher {
        command.args(["-o", &option]);
    }
    command.args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.envs(ALLOCATOR);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe { command.pre_exec(before_exec) };
    command
}

fn before_exec() -> io::Result<()> {
    // SAFETY: ignoring a signal installs no handler.
    unsafe {
        signal(Signal::SIGUSR1, SigHandler::SigIgn)?;
        signal(Signal::SIGHUP, SigHandler::SigIgn)?;
    }
    // SAFETY: a plain system call.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

async fn listen(stderr: impl AsyncRead + Unpin, words: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!("ssh: {line}");
        let mut words = words.lock().expect("no other holder panics");
        if words.len() == WORDS_MAX {
            words.pop_front();
        }
        words.push_back(line);
    }
}

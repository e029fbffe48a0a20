//! How a session comes up: the helper is started, both sides say hello.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use blat_target::frame::{self, MAGIC};
use blat_target::message::{
    HostHello, Mend, PROTOCOL, PROTOCOL_OF_SAID, PROTOCOL_OLDEST, TargetHello, ToHost, ToTarget,
};
use blat_target::said;
use blat_target::serve::EXIT_USAGE;
use openssh::{ChildStderr, ChildStdout};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::ear::next;
use super::{Means, Session, stalled};
use crate::failure::{Failure, Result};
use crate::packer;
use crate::progress::Progress;
use crate::ssh::{Child, Connection};

/// What a login shell may print before the helper speaks, in bytes.
const NOISE_MAX: usize = 64 << 10;
/// How much of what the helper says on its error channel is kept, in bytes.
const WORDS_MAX: usize = 4096;

/// Why a session did not come up.
#[derive(Debug)]
pub enum Refused {
    /// There is no helper on the target.
    HelperMissing,
    /// What is there cannot be run, in the target's words.
    HelperBroken(String),
    /// The helper ended the session at the hello: it may know no protocol as new as ours.
    Declined(Failure),
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Session {
    /// Starts `command` on the target and exchanges hellos.
    pub async fn open(
        connection: &Connection,
        command: &str,
        hello: HostHello,
        means: &Means,
    ) -> Result<Self, Refused> {
        let early = means.early.questions(hello.protocol);
        let messages = early.iter().flat_map(frame::message);
        let by_command = means.by_command && hello.protocol >= PROTOCOL_OF_SAID;
        let greeting: Vec<u8> =
            MAGIC.iter().copied().chain(frame::message(&ToTarget::Hello(hello))).chain(messages).collect();
        if by_command {
            let command = format!("{command} --said {}", said::encode(&greeting));
            match Self::start(connection, &command, &greeting, early.clone(), means).await {
                // It is older than what we know of it.
                Err(Unmet::Usage(_)) => {}
                other => return other.map_err(Refused::from),
            }
        }
        Self::start(connection, command, &greeting, early, means).await.map_err(Refused::from)
    }

    /// Starts `command`, and waits for the answer to what is said first.
    async fn start(
        connection: &Connection,
        command: &str,
        greeting: &[u8],
        early: VecDeque<ToTarget>,
        means: &Means,
    ) -> Result<Self, Unmet> {
        let asked = Instant::now();
        let mut child = connection.start(command).await?;
        // sshd has opened the channel: that takes as long as the way there and back, while the helper's
        // start takes longer on a busy machine.
        let opened = asked.elapsed();
        let (stdin, stdout) = (child.stdin().take(), child.stdout().take());
        let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(Failure::later(anyhow::anyhow!("ssh gave no channel")).into());
        };
        // Also for a helper that has heard it: behind a forced command may stand one that has not.
        // One that is missing closes its end before it reads: what it says tells more.
        let _ = stdin.write_all(greeting).await;
        let mut stdout = BufReader::with_capacity(1 << 16, stdout);
        let answered = timeout(packer::STALL, meet(&mut stdout)).await;
        match answered.unwrap_or_else(|_| Err(stalled().into())) {
            Ok(hello) => {
                let progress = Progress::start();
                progress.answered_within(opened);
                if let Some(before) = means.round_trip {
                    progress.answered_within(before);
                }
                Ok(Self::run(hello, child, stdin, stdout, progress, early, means.clone())?)
            }
            Err(Unmet::Ended) => Err(epitaph(child).await),
            Err(other) => Err(other),
        }
    }
}

/// Why there was no hello.
enum Unmet {
    /// The channel ended before it.
    Ended,
    /// The helper does not know its command line.
    Usage(Failure),
    Refused(Refused),
}

impl From<Failure> for Unmet {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure.into())
    }
}

impl From<Unmet> for Refused {
    fn from(unmet: Unmet) -> Self {
        match unmet {
            Unmet::Refused(refused) => refused,
            Unmet::Usage(failure) => failure.into(),
            Unmet::Ended => later("the channel ended before the target said hello".into()),
        }
    }
}

/// Reads up to the target's hello.
async fn meet(stdout: &mut BufReader<ChildStdout>) -> Result<TargetHello, Unmet> {
    skip_noise(stdout).await?;
    match next(stdout).await {
        Ok(ToHost::Hello(hello)) if (PROTOCOL_OLDEST..=PROTOCOL).contains(&hello.protocol) => Ok(hello),
        Ok(ToHost::Hello(hello)) => Err(Failure::person(anyhow::anyhow!(
            "the helper on the target ({}) speaks protocol {}, this build {PROTOCOL_OLDEST} to {PROTOCOL}",
            hello.version,
            hello.protocol
        ))
        .into()),
        Ok(ToHost::Failed(refusal)) => Err(Unmet::Refused(Refused::Declined(refusal.into()))),
        Ok(_) => Err(Failure::later(anyhow::anyhow!("the target did not say hello")).into()),
        Err(frame::FrameError::Ended) => Err(Unmet::Ended),
        Err(why) => Err(Failure::later(why).into()),
    }
}

async fn skip_noise(stdout: &mut BufReader<ChildStdout>) -> Result<(), Unmet> {
    let mut seen = Vec::new();
    while !seen.ends_with(MAGIC) {
        match stdout.read_u8().await {
            Ok(byte) if seen.len() < NOISE_MAX => seen.push(byte),
            Ok(_) => {
                let noise = String::from_utf8_lossy(&seen[..80]).into_owned();
                let what =
                    anyhow::anyhow!("the target's login shell prints without end, starting with {noise:?}");
                return Err(Failure::person(what).into());
            }
            Err(_) => return Err(Unmet::Ended),
        }
    }
    Ok(())
}

/// Why the remote command ended before it said hello.
async fn epitaph(mut child: Child) -> Unmet {
    let words = match child.stderr().take() {
        Some(stderr) => timeout(Duration::from_secs(2), words(stderr)).await.unwrap_or_default(),
        None => String::new(),
    };
    let ended = timeout(Duration::from_secs(5), child.wait()).await;
    let refused = match ended {
        Ok(Err(openssh::Error::Remote(why))) if why.kind() == std::io::ErrorKind::NotFound => {
            Refused::HelperMissing
        }
        Ok(Ok(status)) if status.code() == Some(127) => Refused::HelperMissing,
        Ok(Ok(status)) if status.code() == Some(126) => Refused::HelperBroken(words),
        Ok(Ok(status)) if status.code() == Some(i32::from(EXIT_USAGE)) => {
            let what = anyhow::anyhow!("the helper on the target refuses its command line: {words}");
            return Unmet::Usage(Failure::later(what));
        }
        Ok(Ok(status)) => {
            later(format!("the helper on the target ended ({status}) before it said hello: {words}"))
        }
        Ok(Err(why)) => later(format!("the connection broke before the target said hello: {why} {words}")),
        Err(_) => later("the target closed the channel before it said hello".into()),
    };
    Unmet::Refused(refused)
}

fn later(what: String) -> Refused {
    Refused::Failed(Failure { mend: Mend::Later, cause: anyhow::Error::msg(what.trim().to_owned()) })
}

pub(super) async fn words(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(got @ 1..) = stderr.read(&mut piece).await {
        kept.extend_from_slice(&piece[..got]);
        kept.truncate(WORDS_MAX);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

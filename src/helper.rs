//! The helper on the target: the build that belongs to this host, put there when it is
//! missing or another.
//!
//! It is uploaded beside its place, tried, and renamed into it: a session that runs keeps
//! the program that it started, and the next finds the old one or the new one, whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use blat_target::message::{Digest, HostHello};
use openssh_sftp_client::{Sftp, SftpOptions, metadata::Permissions};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::config::There;
use crate::failure::{Failure, Needs, Result};
use crate::progress::Progress;
use crate::session::{Refused, Session};
use crate::ssh::Connection;

/// Where the packages put the helper that belongs to them.
pub const SHIPPED: &str = "/usr/lib/blat/blat-target";
/// How long an upload may take: 2 MB on the slowest line that anyone has.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// The helper goes in pieces of so many bytes.
const UPLOAD_PIECE: usize = 64 << 10;
const TRIAL_TIMEOUT: Duration = Duration::from_secs(30);
const NAME: &str = "blat-target";

/// The helper that belongs to this host.
#[derive(Debug)]
pub struct Helper {
    path: PathBuf,
    program: Vec<u8>,
    digest: Digest,
}

impl Helper {
    /// Reads the helper at `path` (see [`SHIPPED`]).
    pub fn read(path: &Path) -> Result<Self> {
        let mend = || format!("cannot read the helper {}: is blat installed whole?", path.display());
        let program = std::fs::read(path).person(mend())?;
        let digest = Digest(*blake3::hash(&program).as_bytes());
        Ok(Self { path: path.to_owned(), program, digest })
    }

    /// Opens a session with this very build, which is put there first where it has to be.
    pub async fn session(
        &self,
        connection: &Connection,
        target: &There,
        hello: HostHello,
    ) -> Result<Session> {
        let command = format!("{}/{NAME} serve", target.bin);
        match Session::open(connection, &command, hello.clone()).await {
            Ok(session) if session.hello.build == self.digest => return Ok(session),
            Ok(session) => {
                tracing::info!(
                    "the helper on the target is another build ({}): it is replaced",
                    session.hello.build
                );
                session.finish().await?;
            }
            Err(Refused::Failed(failure)) => return Err(failure),
            Err(Refused::HelperMissing) => {
                tracing::info!("there is no helper on the target: it is put there")
            }
            Err(Refused::HelperBroken(words)) => {
                tracing::info!("the helper on the target cannot be run ({words}): it is replaced");
            }
        }
        self.put(connection, target).await?;
        Session::open(connection, &command, hello).await.map_err(|refused| match refused {
            Refused::Failed(failure) => failure,
            other => Failure::person(anyhow!("the helper was put on the target, and still: {other:?}")),
        })
    }

    /// Has this very build be there, without a session, which would want an archive; whether it was put
    /// there is told.
    pub async fn ensure(&self, connection: &Connection, target: &There) -> Result<bool> {
        let command = format!("{}/{NAME} --version", target.bin);
        let said = run(connection, &command).await?;
        if said.stdout.contains(&self.digest.to_string()) {
            return Ok(false);
        }
        self.put(connection, target).await.map(|()| true)
    }

    async fn put(&self, connection: &Connection, target: &There) -> Result<()> {
        let bin = target.bin.to_string();
        let beside = format!("{bin}/.{NAME}-{}-{}", self.digest, std::process::id());
        let attempt = format!("cannot put the helper into {bin} on the target over SFTP");
        let uploaded = timeout(UPLOAD_TIMEOUT, self.upload(connection, &bin, &beside)).await;
        uploaded.later(attempt.clone())?.map_err(|failure| failure.context(attempt.clone()))?;
        let tried = self.try_out(connection, &beside).await;
        let sftp = open_sftp(connection).await?;
        let ended = match &tried {
            Ok(()) => sftp.fs().rename(&beside, format!("{bin}/{NAME}")).await,
            Err(_) => sftp.fs().remove_file(&beside).await,
        };
        ended.later(attempt)?;
        let _ = sftp.close().await;
        tried
    }

    async fn upload(&self, connection: &Connection, bin: &str, beside: &str) -> Result<()> {
        let sftp = open_sftp(connection).await?;
        // It is there already, or opening the file below says why not.
        let _ = sftp.fs().create_dir(bin).await;
        let mut file = sftp.options().write(true).create(true).truncate(true).open(beside).await.person(format!(
            "cannot write {beside}: does the folder belong to the transfer user, and is the disk not full?"
        ))?;
        file.set_permissions(Permissions::from(0o755)).await.later("cannot set its mode")?;
        let progress = Progress::start();
        for piece in self.program.chunks(UPLOAD_PIECE) {
            file.write_all(piece).await.later("cannot write it")?;
            // Or systemd gives the unit up before a slow line has carried all of it.
            progress.moved();
        }
        if sftp.support_fsync() {
            file.sync_all().await.later("cannot sync it")?;
        }
        file.close().await.later("cannot close it")?;
        let _ = sftp.close().await;
        Ok(())
    }

    /// Runs what was uploaded: the target's own word on whether it can.
    async fn try_out(&self, connection: &Connection, beside: &str) -> Result<()> {
        let said = run(connection, &format!("{beside} --version")).await?;
        // Not what its shell says in its place: that names the file, and so the digest.
        if said.stdout.contains(&self.digest.to_string()) {
            return Ok(());
        }
        let machine = run(connection, "uname -m").await.map(|said| said.stdout).unwrap_or_default();
        Err(Failure::person(anyhow!(
            "the target (machine {}) cannot run the helper {}: {}; build blat-target for that machine",
            machine.trim(),
            self.path.display(),
            // Without its name of the moment, so that the same reason is the same words.
            format!("{} {}", said.stdout.trim(), said.stderr.trim()).trim().replace(beside, NAME)
        )))
    }
}

async fn open_sftp(connection: &Connection) -> Result<Sftp> {
    let opened = Sftp::from_clonable_session(connection.session(), SftpOptions::new());
    let opened = timeout(TRIAL_TIMEOUT, opened).await.later("the target does not answer over SFTP")?;
    opened.later("cannot use SFTP on the target")
}

/// What a program on the target prints, the first 4 KiB of each.
struct Said {
    stdout: String,
    stderr: String,
}

async fn run(connection: &Connection, command: &str) -> Result<Said> {
    let mut child = connection.start(command).await?;
    let (stdout, stderr) = (child.stdout().take(), child.stderr().take());
    drop(child.stdin().take());
    let reading = async { Ok::<_, std::io::Error>((all(stdout).await?, all(stderr).await?)) };
    let read =
        timeout(TRIAL_TIMEOUT, reading).await.later(format!("`{command}` on the target does not end"))?;
    let (stdout, stderr) = read.later(format!("cannot run `{command}` on the target"))?;
    Ok(Said { stdout, stderr })
}

async fn all(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut said = Vec::new();
    if let Some(stream) = stream {
        stream.take(4096).read_to_end(&mut said).await?;
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

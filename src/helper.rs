//! The helper on the target: the build that belongs to this host, put there when it is
//! missing or another.
//!
//! It is written beside its place, tried, and renamed into it: a session that runs keeps
//! the program that it started, and the next finds the old one or the new one, whole. A helper that
//! runs replaces itself, through the session; one that is missing, broken or older than that comes over
//! SFTP. One that is root's, or behind a key that may not replace it, stays as it is and serves.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use blat_target::message::{Digest, HostHello, Mend, Outcome, PROTOCOL_OLDEST};
use openssh_sftp_client::{Sftp, SftpOptions, file::File as Remote, metadata::Permissions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::There;
use crate::failure::{Failure, Needs, Result};
use crate::progress::Progress;
use crate::session::{Means, Refused, Session};
use crate::ssh::Connection;

/// Where the packages put the helper that belongs to them,
const SHIPPED: &str = "/usr/lib/blat/blat-target";
/// and where it is below the prefix of any installation.
const BELOW_PREFIX: &str = "lib/blat/blat-target";
/// How long an upload may take: 2 MB on the slowest line that anyone has.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// The helper goes in pieces of so many bytes, which every server takes at once,
const UPLOAD_PIECE: usize = 32 << 10;
/// and so many of them are under way at a time: half of what ssh lets be. One at a time, each would wait for the
/// answer to the one before: 17 s for all of them, where one comes after 200 ms.
const UPLOAD_PIECES: usize = 32;
const TRIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// What is no harm if it is not done need not be waited for.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(10);
const NAME: &str = "blat-target";
/// The protocol that can have the helper replaced.
const REPLACES_SINCE: u16 = 2;

/// The helper that belongs to this host.
#[derive(Debug)]
pub struct Helper {
    path: PathBuf,
    /// Held open, so that it stays the program of this digest.
    file: File,
    digest: Digest,
}

/// The helper that was installed together with this program, `PREFIX/bin/blat`, or else that of the packages.
pub fn shipped() -> PathBuf {
    let program = std::env::current_exe().ok();
    let prefix = program.as_deref().and_then(|program| program.ancestors().nth(2));
    let installed = prefix.map(|prefix| prefix.join(BELOW_PREFIX)).filter(|helper| helper.exists());
    installed.unwrap_or_else(|| SHIPPED.into())
}

impl Helper {
    /// Looks at the helper at `path` (see [`shipped`]).
    pub fn read(path: &Path) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let file = File::open(path).and_then(|file| {
            hasher.update_reader(&file)?;
            Ok(file)
        });
        let file = file.person(cannot_read(path))?;
        Ok(Self { path: path.to_owned(), file, digest: Digest(hasher.finalize().into()) })
    }

    /// The program itself: few sessions need it.
    fn program(&self) -> Result<Vec<u8>> {
        let (mut file, mut program) = (&self.file, Vec::new());
        let read = file.rewind().and_then(|()| file.read_to_end(&mut program));
        read.person(cannot_read(&self.path)).map(|_| program)
    }

    /// What serves a session on a target.
    pub(crate) fn command(target: &There) -> String {
        format!("{}/{NAME} serve", target.bin)
    }

    /// Which program it is.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Opens a session with whatever helper is there, and changes nothing.
    pub async fn look(
        &self,
        connection: &Connection,
        target: &There,
        hello: HostHello,
    ) -> Result<Session, Refused> {
        open(connection, &Self::command(target), &hello, &Means::none()).await
    }

    /// Opens a session, with this very build where it can be: it is put there first, through the
    /// protocol or over SFTP. Where neither is allowed, the helper that is there serves, in its own
    /// protocol, and the second value says why it is old.
    pub async fn session(
        &self,
        connection: &Connection,
        target: &There,
        hello: HostHello,
        means: &Means,
    ) -> Result<(Session, Option<String>)> {
        let command = Self::command(target);
        let open = || open(connection, &command, &hello, means);
        match open().await {
            Ok(session) if session.hello.build == self.digest => return Ok((session, None)),
            Ok(mut session) => {
                let Err(why) = self.renew(&mut session, connection, target).await? else {
                    session.finish().await?;
                    return self.settled(open().await);
                };
                return Ok((session, Some(why)));
            }
            Err(Refused::Failed(failure) | Refused::Declined(failure)) => return Err(failure),
            Err(Refused::HelperMissing) => {
                tracing::info!("there is no helper on the target: it is put there")
            }
            Err(Refused::HelperBroken(words)) => {
                tracing::info!("the helper on the target cannot be run ({words}): it is replaced");
            }
        }
        self.put(connection, target).await?;
        self.settled(open().await)
    }

    /// Whether the helper may be replaced through this session.
    pub async fn may_replace(&self, session: &mut Session) -> Result<bool> {
        Ok(session.hello.protocol >= REPLACES_SINCE && session.ask_replace().await?.is_none())
    }

    /// The session with a helper that was just put there, by us or by another run.
    fn settled(&self, opened: Result<Session, Refused>) -> Result<(Session, Option<String>)> {
        match opened {
            Ok(session) => {
                let other = session.hello.build != self.digest;
                let why = other.then(|| old(&session, "somebody else replaces it as well"));
                Ok((session, why))
            }
            Err(Refused::Failed(failure) | Refused::Declined(failure)) => Err(failure),
            Err(other) => {
                Err(Failure::person(anyhow!("the helper was put on the target, and still: {other:?}")))
            }
        }
    }

    /// Replaces a helper of another build, or says why it stays; its session goes on then.
    async fn renew(
        &self,
        session: &mut Session,
        connection: &Connection,
        target: &There,
    ) -> Result<Result<(), String>> {
        let build = session.hello.build;
        session.drop_early().await?;
        if session.hello.protocol < REPLACES_SINCE {
            let put = self.put(connection, target).await.map_err(|failure| old(session, failure));
            if put.is_ok() {
                tracing::info!("the helper on the target was another build ({build}): it was replaced");
            }
            return Ok(put);
        }
        match session.ask_replace().await? {
            // Another run has replaced it meanwhile.
            Some(refusal) if refusal.mend == Mend::Later => return Ok(Ok(())),
            Some(refusal) => return Ok(Err(old(session, refusal.reason))),
            None => tracing::info!("the helper on the target is another build ({build}): it is replaced"),
        }
        Ok(match session.replace_helper(self.program()?).await? {
            Outcome::Refused(refusal) => Err(old(session, refusal.reason)),
            Outcome::Committed { .. } | Outcome::Unchanged => Ok(()),
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

    /// Puts the helper there over SFTP.
    ///
    /// # Errors
    /// Also where a helper lies there that is root's, or only a session is allowed.
    pub async fn put(&self, connection: &Connection, target: &There) -> Result<()> {
        let bin = target.bin.to_string();
        let beside = format!("{bin}/.{NAME}-{}-{}", self.digest, std::process::id());
        let attempt = format!("cannot put the helper into {bin} on the target over SFTP");
        let in_context = |failure: Failure| failure.context(attempt.clone());
        let sftp = open_sftp(connection).await.map_err(in_context)?;
        let placed = async {
            let uploaded = timeout(UPLOAD_TIMEOUT, self.upload(&sftp, &bin, &beside)).await;
            uploaded.later(attempt.clone())?.map_err(in_context)?;
            self.try_out(connection, &beside).await?;
            sftp.fs().rename(&beside, format!("{bin}/{NAME}")).await.later(attempt.clone())
        }
        .await;
        if placed.is_err() {
            // No more than tried: the line may be what failed.
            let _ = timeout(CLEAN_TIMEOUT, sftp.fs().remove_file(&beside)).await;
        }
        let _ = timeout(CLEAN_TIMEOUT, sftp.close()).await;
        placed
    }

    /// Writes it beside its place.
    async fn upload(&self, sftp: &Sftp, bin: &str, beside: &str) -> Result<()> {
        let place = format!("{bin}/{NAME}");
        if sftp.fs().metadata(&place).await.is_ok_and(|found| found.uid() == Some(0)) {
            return Err(Failure::person(anyhow!(
                "{place} belongs to root, and is left to root to update, by its package `blat-target`"
            )));
        }
        // It is there already, or opening the file below says why not.
        let _ = sftp.fs().create_dir(bin).await;
        let mut file = sftp.options().write(true).create(true).truncate(true).open(beside).await.person(format!(
            "cannot write {beside}: does the folder belong to the transfer user, and is the disk not full?"
        ))?;
        file.set_permissions(Permissions::from(0o755)).await.later("cannot set its mode")?;
        write(&file, &self.program()?).await?;
        if sftp.support_fsync() {
            file.sync_all().await.later("cannot sync it")?;
        }
        file.close().await.later("cannot close it")
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

fn cannot_read(path: &Path) -> String {
    format!("cannot read the helper {}: is blat installed whole?", path.display())
}

/// Opens a session in our protocol, or in the newest that the helper knows.
async fn open(
    connection: &Connection,
    command: &str,
    hello: &HostHello,
    means: &Means,
) -> Result<Session, Refused> {
    let mut declined = None;
    for protocol in (PROTOCOL_OLDEST..=hello.protocol).rev() {
        let hello = HostHello { protocol, ..hello.clone() };
        match Session::open(connection, command, hello, means).await {
            Err(Refused::Declined(failure)) => declined = declined.or(Some(failure)),
            other => return other,
        }
    }
    // It was not the protocol.
    Err(Refused::Declined(declined.expect("there is a protocol to try")))
}

/// Says that the helper of a session is old, and why it stays so.
fn old(session: &Session, why: impl std::fmt::Display) -> String {
    let hello = &session.hello;
    format!("blat-target {} (build {}, protocol {}): {why}", hello.version, hello.build, hello.protocol)
}

/// Writes all of a file on the target.
async fn write(file: &Remote, content: &[u8]) -> Result<()> {
    let progress = Progress::start();
    let (mut pieces, mut under_way) = (content.chunks(UPLOAD_PIECE).zip(0..), JoinSet::new());
    loop {
        while under_way.len() < UPLOAD_PIECES
            && let Some((piece, nth)) = pieces.next()
        {
            under_way.spawn(write_at(file.clone(), nth * UPLOAD_PIECE as u64, piece.to_vec()));
        }
        let Some(written) = under_way.join_next().await else { return Ok(()) };
        written.later("cannot write it")??;
        // Or systemd gives the unit up before a slow line has carried all of it.
        progress.moved();
    }
}

async fn write_at(mut file: Remote, at: u64, piece: Vec<u8>) -> Result<()> {
    file.seek(SeekFrom::Start(at)).await.later("cannot write it")?;
    file.write_all(&piece).await.later("cannot write it")
}

pub(crate) async fn open_sftp(connection: &Connection) -> Result<Sftp> {
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

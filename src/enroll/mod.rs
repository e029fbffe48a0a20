//! `blat enroll`: from nothing to a target that works.
//!
//! Each step looks first whether it is done already, so that what failed half-way can be run again; the
//! target's file, by which everything starts, is written last. What is done on the target goes over one
//! connection, for which a person gives a password once, asked for by ssh itself.

mod file;
pub(crate) mod host_key;
mod key;
mod there;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;

use crate::channel::{hello, over_ssh};
use crate::config::{SshTarget, TargetName};
use crate::failure::{Failure, Needs, Result};
use crate::helper::Helper;
use crate::session::Means;
use crate::ssh::{Connection, Endpoint, Proof};
use crate::target_install::look_after_itself;

/// How long the target's units may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What is asked for.
#[derive(Debug)]
pub struct Wish {
    pub name: TargetName,
    pub user: String,
    pub host: String,
    pub port: u16,
    /// The archive on this machine, where `blat.toml` has none or another.
    pub source: Option<PathBuf>,
    /// Where the archive lies on the target: a link to it is made in the user's home.
    pub link_to: Option<String>,
    /// Whether the key may do nothing but serve blat,
    pub restrict: bool,
    /// and replace the helper.
    pub allow_replace: bool,
    /// The fingerprint that the target's host key must have; without it a person is asked.
    pub host_key: Option<String>,
    pub helper: PathBuf,
}

/// Carries it out.
///
/// # Errors
/// The step that failed; those before it stay done, and a next run goes on from there.
pub async fn run(root: &Path, wish: &Wish) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::person(anyhow!("enrolling writes into /etc/blat: run it as root")));
    }
    let file = file::File::of(root, wish)?;
    let target = over_ssh(file.settings())?;
    let helper = Helper::read(&wish.helper)?;
    let endpoint = Endpoint::of(&target.ssh);
    let public = key::make_sure(&target.ssh.identity, &wish.name)?;
    host_key::make_sure(&endpoint, wish.host_key.as_deref())?;
    if !serves_restricted(target, wish, &helper).await {
        let connection = log_in(&endpoint, &target.ssh.identity).await?;
        let prepared = prepare(target, wish, &helper, &connection, &public).await;
        connection.close().await;
        prepared?;
        // What the key may do there is settled when a connection is made: the agent makes a new one.
        systemctl(root, &["try-restart", &format!("blat@{}.service", wish.name)]);
    }
    try_key(target, &helper).await?;
    file.write()?;
    wait_running(root, &wish.name, file.disabled_by(root).as_deref())
}

/// Tells of a step that is done.
fn said(what: impl std::fmt::Display) {
    println!("  {what}");
}

/// Whether all is done on the target already, by a restricted key: one that may replace the helper or not, as is
/// asked. Where no restriction is asked for, the one that is there stays.
async fn serves_restricted(target: &SshTarget, wish: &Wish, helper: &Helper) -> bool {
    let key = Proof::Key(&target.ssh.identity);
    let Ok(connection) = Connection::open(&Endpoint::of(&target.ssh), key).await else { return false };
    let restricted = !there::has_sftp(&connection).await;
    let serves = restricted
        && may_replace(target, helper, &connection)
            .await
            .is_ok_and(|may| !wish.restrict || may == wish.allow_replace);
    connection.close().await;
    if serves && !wish.restrict {
        said("the key is restricted on the target, and stays so");
    }
    serves
}

/// Whether a session serves by which the helper may be replaced.
async fn may_replace(target: &SshTarget, helper: &Helper, connection: &Connection) -> Result<bool, ()> {
    let opened = helper.session(connection, &target.there, hello(&target.there), &Means::none()).await;
    let (mut session, _) = opened.map_err(drop)?;
    let may = helper.may_replace(&mut session).await.map_err(drop)?;
    session.finish().await.map_err(drop)?;
    Ok(may)
}

/// A connection on which the target can be prepared: by the target's key, where that is let in and
/// may do so already, or by a person.
async fn log_in(endpoint: &Endpoint, key: &Path) -> Result<Connection> {
    if let Ok(connection) = Connection::open(endpoint, Proof::Key(key)).await {
        if there::has_sftp(&connection).await {
            return Ok(connection);
        }
        connection.close().await;
    }
    said(format_args!(
        "logging in as {}@{}, this once without the target's key",
        endpoint.user, endpoint.host
    ));
    let opened = Connection::open(endpoint, Proof::Person).await;
    opened.map_err(|failure| {
        failure.context(format!("cannot log in as {}@{} to prepare the target", endpoint.user, endpoint.host))
    })
}

/// All that is to be done on the target, in an order in which each step can be the last one.
async fn prepare(
    target: &SshTarget,
    wish: &Wish,
    helper: &Helper,
    connection: &Connection,
    public: &str,
) -> Result<()> {
    there::make_archive(connection, target.there.archive.as_str(), wish.link_to.as_deref()).await?;
    serves(target, helper, connection).await?;
    said(format_args!("the helper is in {} and serves {}", target.there.bin, target.there.archive));
    if let Err(failure) = look_after_itself(&target.there, connection).await {
        said(format_args!(
            "the target does not look after itself yet: {failure}; then: blat target install {}",
            wish.name
        ));
    }
    there::authorize(connection, &there::Line::new(&target.there, wish, public)?).await
}

/// Opens a session and ends it; what is old or missing of the helper is put there.
async fn serves(target: &SshTarget, helper: &Helper, connection: &Connection) -> Result<()> {
    let (session, old) =
        helper.session(connection, &target.there, hello(&target.there), &Means::none()).await?;
    if let Some(old) = old {
        said(format_args!("the helper on the target is old: {old}"));
    }
    session.finish().await
}

/// The target's key by itself, as the units will use it.
async fn try_key(target: &SshTarget, helper: &Helper) -> Result<()> {
    let key = Proof::Key(&target.ssh.identity);
    let connection = Connection::open(&Endpoint::of(&target.ssh), key).await.map_err(|failure| {
        failure.context(
            "the key was installed, and still (sshd's log on the target says why: perhaps the home, or ~/.ssh, \
             can be written by others)",
        )
    })?;
    let served = serves(target, helper, &connection).await;
    connection.close().await;
    served.map(|()| said("the key is let in, and serves"))
}

fn wait_running(root: &Path, name: &TargetName, disabled_by: Option<&Path>) -> Result<()> {
    if root != Path::new("/") {
        return Ok(());
    }
    let active = |unit: &str| systemctl(root, &["is-active", "--quiet", unit]);
    if let Some(why) = stays_down(disabled_by, active) {
        said(why);
        return Ok(());
    }
    let unit = format!("blat@{name}.service");
    let begin = std::time::Instant::now();
    while !active(&unit) {
        if begin.elapsed() > START_TIMEOUT {
            return Err(Failure::later(anyhow!(
                "{unit} does not run yet: `systemctl status {unit} blat-config.service` says why"
            )));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    said(format_args!("{unit} runs"));
    println!("Ask for a package: blat tag {name} PACKAGE VERSION");
    Ok(())
}

/// Why nothing is started, if so; `active` tells whether a unit is.
fn stays_down(disabled_by: Option<&Path>, active: impl Fn(&str) -> bool) -> Option<String> {
    if let Some(file) = disabled_by {
        return Some(format!("it is not to run: {} says `enabled = false`", file.display()));
    }
    if !active("blat-config.path") {
        return Some(
            "nothing watches /etc/blat yet: systemctl enable --now blat.target blat-config.path".into(),
        );
    }
    let stopped = "blat.target does not run, so no target is started: systemctl start blat.target";
    (!active("blat.target")).then(|| stopped.into())
}

/// Whether systemctl did, or said yes to, what it was asked; for another root there is nobody to ask.
fn systemctl(root: &Path, arguments: &[&str]) -> bool {
    let ask = || std::process::Command::new("systemctl").args(arguments).status();
    root == Path::new("/") && ask().is_ok_and(|status| status.success())
}

/// Runs a program of OpenSSH's, and hands over what it said.
fn openssh(program: &str, arguments: &[&str], input: &str) -> Result<std::process::Output> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let attempt = || format!("cannot run {program}, of Debian's package openssh-client");
    let mut child = command.spawn().person(attempt())?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().later(attempt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn wish() -> Wish {
        Wish {
            name: "site1".parse().unwrap(),
            user: "pkgadmin".into(),
            host: "h".into(),
            port: 22,
            source: Some("/srv/a".into()),
            link_to: None,
            restrict: false,
            allow_replace: false,
            host_key: None,
            helper: PathBuf::new(),
        }
    }

    #[test]
    fn nothing_is_waited_for_where_nothing_starts() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/blat");
        fs::create_dir_all(etc.join("targets")).unwrap();
        let why = |active: &dyn Fn(&str) -> bool| {
            let file = file::File::of(root.path(), &wish()).unwrap();
            stays_down(file.disabled_by(root.path()).as_deref(), active)
        };
        let own = |text: &str| {
            let text = format!("source = '/srv/a'\nssh.host = 'h'\n{text}");
            fs::write(etc.join("targets/site1.toml"), text).unwrap();
        };
        assert_eq!(why(&|_| true), None);
        fs::write(etc.join("blat.toml"), "enabled = false\n").unwrap();
        let of_all = "it is not to run: /etc/blat/blat.toml says `enabled = false`";
        assert_eq!(why(&|_| true).as_deref(), Some(of_all));
        own("");
        assert_eq!(why(&|_| true).as_deref(), Some(of_all));
        own("enabled = false\n");
        let its_own = "it is not to run: /etc/blat/targets/site1.toml says `enabled = false`";
        assert_eq!(why(&|_| true).as_deref(), Some(its_own));
        own("enabled = true\n");
        assert_eq!(why(&|_| true), None);
        let stopped = why(&|unit| unit != "blat.target").unwrap();
        assert!(stopped.ends_with(": systemctl start blat.target"), "{stopped}");
        let unwatched = why(&|_| false).unwrap();
        assert!(unwatched.contains("enable --now blat.target blat-config.path"), "{unwatched}");
    }
}

//! `blat ssh`: a shell on the target, as the transfer user, by the target's key.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::anyhow;

use crate::channel::over_ssh;
use crate::config::Settings;
use crate::failure::{Failure, Needs, Result};
use crate::ssh::{Endpoint, Proof, arguments};

/// Becomes ssh.
///
/// # Errors
/// When the key cannot be read here, the target is a bucket, or there is no ssh.
pub fn open(settings: &Settings) -> Result<()> {
    let ssh = &over_ssh(settings)?.ssh;
    let key = &ssh.identity;
    let attempt = format!("cannot read the key {}: it is root's alone, so run this as root", key.display());
    std::fs::File::open(key).person(attempt)?;
    let why = Command::new("ssh").args(arguments(&Endpoint::of(ssh), Proof::Key(key))).exec();
    Err(Failure::person(anyhow!(why).context("cannot start ssh, of Debian's package openssh-client")))
}

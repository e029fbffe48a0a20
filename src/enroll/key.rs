//! The target's key pair: made once, for this target alone.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::anyhow;

use super::{openssh, said};
use crate::config::TargetName;
use crate::failure::{Failure, Needs, Result};

/// Makes the private key where there is none; the public key, as one line.
pub(super) fn make_sure(path: &Path, name: &TargetName) -> Result<String> {
    if !path.exists() {
        make(path, name)?;
        said(format_args!("made the key {}", path.display()));
    }
    let attempt = || format!("cannot make the key {} root's alone", path.display());
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).person(attempt())?;
    let shown = path.display().to_string();
    let read = openssh("ssh-keygen", &["-y", "-P", "", "-f", &shown], "")?;
    if !read.status.success() {
        let words = String::from_utf8_lossy(&read.stderr).trim().to_owned();
        return Err(Failure::person(anyhow!(
            "{shown} is no private key without a passphrase: {words}; move it away, and a new one is made"
        )));
    }
    Ok(String::from_utf8_lossy(&read.stdout).trim().to_owned())
}

fn make(path: &Path, name: &TargetName) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
    made.person(format!("cannot make {}", folder.display()))?;
    let master = nix::unistd::gethostname().unwrap_or_default();
    let comment = format!("blat-{name}@{}", master.to_string_lossy());
    let shown = path.display().to_string();
    let made = openssh("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f", &shown], "")?;
    if made.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&made.stderr).trim().to_owned();
    Err(Failure::person(anyhow!("cannot make the key {shown}: {words}")))
}

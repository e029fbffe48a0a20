//! What is done on the target, over SFTP: no word of ours goes through a shell there.

use std::path::Path;

use anyhow::anyhow;
use openssh_sftp_client::Sftp;
use openssh_sftp_client::metadata::Permissions;

use super::{Wish, said};
use crate::config::There;
use crate::failure::{Failure, Needs, Result};
use crate::helper::open_sftp;
use crate::ssh::Connection;

const SSH_FOLDER: &str = ".ssh";
const AUTHORIZED_KEYS: &str = ".ssh/authorized_keys";
const DRAFT: &str = ".ssh/.authorized_keys.blat";

/// Whether SFTP may be used on this connection, which a restricted key may not.
pub(super) async fn has_sftp(connection: &Connection) -> bool {
    match open_sftp(connection).await {
        Ok(sftp) => {
            let _ = sftp.close().await;
            true
        }
        Err(_) => false,
    }
}

/// Sees to it that the archive is there: as it is, as a link to `link_to`, or as a folder of its own.
pub(super) async fn make_archive(
    connection: &Connection,
    archive: &str,
    link_to: Option<&str>,
) -> Result<()> {
    let sftp = open_sftp(connection).await?;
    let mut fs = sftp.fs();
    match fs.metadata(archive).await {
        Ok(found) if found.file_type().is_some_and(|kind| kind.is_dir()) => {
            said(format_args!("the archive {archive} is there"));
            return Ok(());
        }
        Ok(_) => return Err(Failure::person(anyhow!("{archive} on the target is no folder"))),
        Err(_) => {}
    }
    if let Ok(text) = fs.read_link(archive).await {
        let text = text.display().to_string();
        return Err(Failure::person(anyhow!(
            "{archive} on the target is a link to {text}, and there is no folder: make it (mkdir -p {text}), \
             or remove the link"
        )));
    }
    let Some(to) = link_to else {
        let attempt = format!("cannot make the archive {archive} on the target");
        fs.create_dir(archive).await.person(attempt)?;
        said(format_args!("made the archive {archive}, a folder in the home"));
        return Ok(());
    };
    if fs.metadata(to).await.is_err() {
        let attempt = format!("there is no folder {to} on the target, and the user cannot make it");
        fs.create_dir(to).await.person(attempt)?;
    }
    fs.symlink(to, archive).await.person(format!("cannot make the link {archive} on the target"))?;
    said(format_args!("made the archive {archive}, a link to {to}"));
    Ok(())
}

/// A line of `authorized_keys` for the target's key.
pub(super) struct Line {
    /// The key itself, by which the line is found again.
    key: String,
    text: String,
}

impl Line {
    /// The line for a public key: plain, or such that it can do nothing but serve the archive.
    pub(super) fn new(target: &There, wish: &Wish, public: &str) -> Result<Self> {
        let key = public.split_whitespace().nth(1);
        let key = key.ok_or_else(|| Failure::person(anyhow!("{public:?} is no public key")))?.to_owned();
        if !wish.restrict {
            return Ok(Self { key, text: public.to_owned() });
        }
        let archive = target.archive.as_str();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        if !archive.chars().all(plain) {
            return Err(Failure::person(anyhow!(
                "a restricted key's command line can only name an archive of the characters A-Z a-z 0-9 . _ / -, \
                 which {archive:?} is not: link it to such a name"
            )));
        }
        let replace = if wish.allow_replace { " --allow-replace" } else { "" };
        let command = format!("{}/blat-target serve --archive {archive}{replace}", target.bin);
        Ok(Self { key, text: format!("restrict,command=\"{command}\" {public}") })
    }

    /// The file with this line in the place of those that have the key; none if it is as it should be.
    fn put_into(&self, file: &str) -> Option<String> {
        let has_key = |line: &&str| line.split_whitespace().any(|word| word == self.key);
        let ours: Vec<&str> = file.lines().filter(has_key).collect();
        if ours == [self.text.as_str()] {
            return None;
        }
        let others = file.lines().filter(|line| !has_key(line));
        Some(others.chain([self.text.as_str()]).map(|line| format!("{line}\n")).collect())
    }
}

/// Has the target let the key in, as the line says.
pub(super) async fn authorize(connection: &Connection, line: &Line) -> Result<()> {
    let sftp = open_sftp(connection).await?;
    let before = match sftp.fs().read(AUTHORIZED_KEYS).await {
        Ok(content) => String::from_utf8_lossy(&content).into_owned(),
        Err(_) => String::new(),
    };
    match line.put_into(&before) {
        Some(text) => write(&sftp, &text).await?,
        None => return Ok(()),
    }
    let _ = sftp.close().await;
    if line.text.starts_with("restrict") {
        said("installed the public key, restricted: it serves this archive, and nothing else");
        said("what that costs: `blat ssh`, and (without --allow-replace) that a new helper comes by itself");
    } else {
        said("installed the public key");
    }
    Ok(())
}

/// Replaces `authorized_keys` as a whole, also where it is a link.
async fn write(sftp: &Sftp, text: &str) -> Result<()> {
    let mut fs = sftp.fs();
    let attempt = || format!("cannot write {AUTHORIZED_KEYS} on the target");
    if fs.metadata(SSH_FOLDER).await.is_err() {
        fs.create_dir(SSH_FOLDER).await.person(attempt())?;
        fs.set_permissions(SSH_FOLDER, Permissions::from(0o700)).await.person(attempt())?;
    }
    let place = fs.canonicalize(AUTHORIZED_KEYS).await;
    let place = place.unwrap_or_else(|_| Path::new(AUTHORIZED_KEYS).to_owned());
    fs.write(DRAFT, text.as_bytes()).await.person(attempt())?;
    fs.set_permissions(DRAFT, Permissions::from(0o600)).await.person(attempt())?;
    fs.rename(DRAFT, place).await.person(attempt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { key: "AAAAkey".into(), text: text.into() }
    }

    #[test]
    fn a_key_stands_in_the_file_once_and_others_stay() {
        let plain = line("ssh-ed25519 AAAAkey blat");
        let others = "# mine\nssh-rsa AAAAother me\n";
        let with = plain.put_into(others).unwrap();
        assert_eq!(with, format!("{others}ssh-ed25519 AAAAkey blat\n"));
        assert_eq!(plain.put_into(&with), None);
        let tight = line("restrict,command=\"bin/blat-target serve\" ssh-ed25519 AAAAkey blat");
        assert_eq!(tight.put_into(&with).unwrap(), format!("{others}{}\n", tight.text));
        assert_eq!(tight.put_into("").unwrap(), format!("{}\n", tight.text));
    }
}

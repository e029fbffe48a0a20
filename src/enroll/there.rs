//! What is done on the target, over SFTP: no word of ours goes through a shell there.

use std::path::Path;

use anyhow::anyhow;
use openssh_sftp_client::error::SftpErrorKind;
use openssh_sftp_client::metadata::Permissions;
use openssh_sftp_client::{Error, Sftp};

use super::{Wish, said};
use crate::config::There;
use crate::failure::{Failure, Needs, Result};
use crate::helper::open_sftp;
use crate::ssh::Connection;

const SSH_FOLDER: &str = ".ssh";
const AUTHORIZED_KEYS: &str = ".ssh/authorized_keys";
const DRAFT: &str = ".authorized_keys.blat";

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
    /// The options that are asked for; it may have others.
    options: String,
    text: String,
}

impl Line {
    /// The line for a public key: plain, or such that it can do nothing but serve the archive.
    pub(super) fn new(target: &There, wish: &Wish, public: &str) -> Result<Self> {
        let key = public.split_whitespace().nth(1);
        let key = key.ok_or_else(|| Failure::person(anyhow!("{public:?} is no public key")))?.to_owned();
        if !wish.restrict {
            return Ok(Self { key, options: String::new(), text: public.to_owned() });
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
        let options = format!("restrict,command=\"{command}\"");
        Ok(Self { key, text: format!("{options} {public}"), options })
    }

    /// The file with this line in the place of those that have the key; none where those have all the options
    /// that are asked for. Others are left as they are, to the byte.
    fn put_into(&self, file: &[u8]) -> Option<Vec<u8>> {
        let (ours, others): (Vec<&[u8]>, Vec<&[u8]>) =
            file.split_inclusive(|byte| *byte == b'\n').partition(|line| self.is_of(line));
        let has_options = |line: &&[u8]| String::from_utf8_lossy(line).contains(&self.options);
        if !ours.is_empty() && ours.iter().all(has_options) {
            return None;
        }
        let mut text = others.concat();
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        text.extend(format!("{}\n", self.text).into_bytes());
        Some(text)
    }

    /// Whether a line of the file has the key, and is no comment.
    fn is_of(&self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        !line.trim_start().starts_with('#') && line.split_whitespace().any(|word| word == self.key)
    }
}

/// Has the target let the key in, as the line says.
pub(super) async fn authorize(connection: &Connection, line: &Line) -> Result<()> {
    let sftp = open_sftp(connection).await?;
    let is_new = put(&sftp, line).await?;
    let _ = sftp.close().await;
    if !is_new {
        said("the public key is there already, and its line stays as it is");
    } else if !line.options.is_empty() {
        said("installed the public key, restricted: it serves this archive, and nothing else");
        said("what that costs: `blat ssh`, and (without --allow-replace) that a new helper comes by itself");
    } else {
        said("installed the public key");
    }
    Ok(())
}

/// Puts the line into `authorized_keys`; whether it was not there already.
async fn put(sftp: &Sftp, line: &Line) -> Result<bool> {
    let before = match sftp.fs().read(AUTHORIZED_KEYS).await {
        Err(Error::SftpError(SftpErrorKind::NoSuchFile, _)) => Vec::new(),
        read => read.person(format!("cannot read {AUTHORIZED_KEYS} on the target"))?.to_vec(),
    };
    match line.put_into(&before) {
        Some(text) => write(sftp, &text).await.map(|()| true),
        None => Ok(false),
    }
}

/// Replaces `authorized_keys` as a whole; where it is a link, what that leads to.
async fn write(sftp: &Sftp, text: &[u8]) -> Result<()> {
    let mut fs = sftp.fs();
    let attempt = || format!("cannot write {AUTHORIZED_KEYS} on the target");
    if fs.metadata(SSH_FOLDER).await.is_err() {
        fs.create_dir(SSH_FOLDER).await.person(attempt())?;
        fs.set_permissions(SSH_FOLDER, Permissions::from(0o700)).await.person(attempt())?;
    }
    let place = match fs.canonicalize(AUTHORIZED_KEYS).await {
        // Some servers resolve only what is there.
        Err(_) if fs.read_link(AUTHORIZED_KEYS).await.is_err() => Path::new(AUTHORIZED_KEYS).to_owned(),
        place => place.person(attempt())?,
    };
    // Beside it: no rename leads to another file system.
    let draft = place.with_file_name(DRAFT);
    let mut file =
        sftp.options().write(true).create(true).truncate(true).open(&draft).await.person(attempt())?;
    file.set_permissions(Permissions::from(0o600)).await.person(attempt())?;
    file.write_all(text).await.person(attempt())?;
    if sftp.support_fsync() {
        file.sync_all().await.person(attempt())?;
    }
    // A file server may refuse only here what is over the quota.
    file.close().await.person(attempt())?;
    fs.rename(draft, place).await.person(attempt())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Stdio;

    use openssh_sftp_client::SftpOptions;

    use super::*;

    const PLAIN: &str = "ssh-ed25519 AAAAkey blat";
    const OPTIONS: &str = "restrict,command=\"bin/blat-target serve\"";

    fn line(options: &str) -> Line {
        let text = format!("{options} {PLAIN}").trim_start().to_owned();
        Line { key: "AAAAkey".into(), options: options.into(), text }
    }

    /// The file with the line.
    fn with(line: &Line, file: &str) -> Option<String> {
        line.put_into(file.as_bytes()).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_key_stands_in_the_file_once_and_others_stay() {
        let (plain, tight) = (line(""), line(OPTIONS));
        let others = "# mine\nssh-rsa AAAAother me\n";
        let both = with(&plain, others).unwrap();
        assert_eq!(both, format!("{others}{PLAIN}\n"));
        assert_eq!(with(&plain, &both), None);
        assert_eq!(with(&tight, &both).unwrap(), format!("{others}{OPTIONS} {PLAIN}\n"));
        assert_eq!(with(&tight, "").unwrap(), format!("{OPTIONS} {PLAIN}\n"));
        assert_eq!(with(&plain, "ssh-rsa AAAAother").unwrap(), format!("ssh-rsa AAAAother\n{PLAIN}\n"));
    }

    #[test]
    fn the_options_of_a_line_stay_until_more_are_asked_for() {
        let restricted = format!("from=\"192.0.2.1\",{OPTIONS} {PLAIN}\n");
        assert_eq!(with(&line(""), &restricted), None);
        assert_eq!(with(&line(OPTIONS), &restricted), None);
        let only_from = format!("from=\"192.0.2.1\" {PLAIN}\n");
        assert_eq!(with(&line(OPTIONS), &only_from).unwrap(), format!("{OPTIONS} {PLAIN}\n"));
        let comment = format!("# {restricted}");
        assert_eq!(with(&line(""), &comment).unwrap(), format!("{comment}{PLAIN}\n"));
    }

    #[test]
    fn lines_of_others_stay_to_the_byte() {
        let others = b"ssh-rsa AAAAother M\xfcller\r\n";
        assert_eq!(line("").put_into(others).unwrap(), [others, PLAIN.as_bytes(), b"\n"].concat());
    }

    /// A server whose user's home is `home`.
    async fn server(home: &Path) -> Sftp {
        let mut server = tokio::process::Command::new("/usr/lib/openssh/sftp-server");
        server.current_dir(home).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = server.spawn().expect("this needs Debian's package `openssh-sftp-server`");
        let (stdin, stdout) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
        Sftp::new(stdin, stdout, SftpOptions::new()).await.unwrap()
    }

    fn home() -> (tempfile::TempDir, std::path::PathBuf) {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(SSH_FOLDER)).unwrap();
        let file = home.path().join(AUTHORIZED_KEYS);
        (home, file)
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_stays_and_one_that_is_missing_is_made() {
        let (home, file) = home();
        // Which root cannot read either.
        fs::create_dir(&file).unwrap();
        let why = put(&server(home.path()).await, &line("")).await.unwrap_err().to_string();
        assert!(why.contains("cannot read .ssh/authorized_keys"), "{why}");
        fs::remove_dir_all(home.path().join(SSH_FOLDER)).unwrap();
        let server = server(home.path()).await;
        assert!(put(&server, &line("")).await.unwrap());
        assert!(!put(&server, &line("")).await.unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{PLAIN}\n"));
    }

    #[tokio::test]
    async fn a_link_stays_one_and_leads_to_another_file_system_or_to_nothing() {
        let (home, file) = home();
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let keys = elsewhere.path().join("keys");
        fs::write(&keys, "ssh-rsa AAAAother me\n").unwrap();
        symlink(&keys, &file).unwrap();
        let server = server(home.path()).await;
        assert!(put(&server, &line("")).await.unwrap());
        assert_eq!(fs::read_to_string(&keys).unwrap(), format!("ssh-rsa AAAAother me\n{PLAIN}\n"));
        fs::remove_file(&file).unwrap();
        symlink(elsewhere.path().join("not mounted/keys"), &file).unwrap();
        assert!(file.is_symlink() && put(&server, &line("")).await.is_err());
        assert!(file.is_symlink());
    }
}

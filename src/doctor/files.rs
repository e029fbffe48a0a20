//! What a target needs on this machine's disk: the source archive, its directories, and its key.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;
use nix::unistd::{Group, User};

use super::{Finding, Mend, Site};
use crate::config::Settings;
use crate::look::Look;
use crate::places::Places;

/// The queue, the listing and the records are small; with less room than this they are in danger.
const STATE_MIN: u64 = 50 << 20;

pub(super) fn look(settings: &Settings, places: &Places) -> Vec<Finding> {
    let mut found =
        vec![source(&settings.source), directory(&settings.tags.directory, "blat-tags", 0o2775, "tags")];
    found.push(directory(&places.state, "blat", 0o750, "state"));
    found.extend(rejected(&places.state));
    found.extend(space(&places.state));
    found
}

/// It is tried as the user blat does: neither root's look nor the bits tell of groups, and of the folders above.
fn source(path: &Path) -> Finding {
    let shown = path.display();
    let folder = path.to_owned();
    // Where blat cannot, root's look tells whether it is there; a file server may refuse that to root alone.
    let look = move || if blat_reads(&folder) { Ok(true) } else { fs::read_dir(&folder).map(|_| false) };
    match Look::begin(path, look).end() {
        Ok(true) => Finding::fine("source", shown),
        Ok(false) => Finding::wrong(
            "source",
            format_args!("the user blat cannot read {shown}"),
            Mend::Words(format!(
                "let blat pass the folders above {shown} and read it: as a member of a group that may \
                 (usermod -aG GROUP blat), or as everybody (chmod o+rx)"
            )),
        ),
        Err(why) => Finding::wrong(
            "source",
            format_args!("{shown}: {why}"),
            Mend::Words(format!("mount the archive at {shown}, or correct `source`")),
        ),
    }
}

fn blat_reads(folder: &Path) -> bool {
    let mut test = Command::new("runuser");
    test.args(["-u", "blat", "--", "test", "-r"]).arg(folder).arg("-a").arg("-x").arg(folder);
    test.output().is_ok_and(|test| test.status.success())
}

/// A directory that `blat config apply` makes and gives to blat.
fn directory(path: &Path, group: &str, mode: u32, what: &'static str) -> Finding {
    let shown = path.display();
    let user = User::from_name("blat").ok().flatten().map(|user| user.uid.as_raw());
    let gid = Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw());
    let wrong = |is: String, mend: String| Finding::wrong(what, is, Mend::Here(mend));
    let folder = path.to_owned();
    match Look::begin(path, move || fs::metadata(folder)).end() {
        Err(why) => wrong(format!("{shown}: {why}"), "systemctl start blat-config.service".into()),
        Ok(found) => {
            let owned = Some(found.uid()) == user && Some(found.gid()) == gid;
            if owned && found.mode() & mode == mode {
                return Finding::fine(what, shown);
            }
            let is = format!("{shown} is not blat:{group} with mode {mode:o}");
            wrong(is, format!("chown blat:{group} {shown} && chmod {mode:o} {shown}"))
        }
    }
}

fn rejected(state: &Path) -> Option<Finding> {
    let folder = state.join("rejected");
    let count = fs::read_dir(&folder).map_or(0, |items| items.flatten().count());
    (count > 0).then(|| {
        let is = format!("tags were given up; {} has them, with the reasons", folder.display());
        Finding::wrong("tags", is, Mend::Here(format!("rm {}/*", folder.display())))
    })
}

fn space(state: &Path) -> Option<Finding> {
    let found = statvfs(state).ok()?;
    let free = found.blocks_available() * found.fragment_size();
    let shown = state.display();
    Some(match free {
        0..STATE_MIN => Finding::wrong(
            "space",
            format_args!("{} MiB are free at {shown}", free >> 20),
            Mend::Words(format!("make room on the file system of {shown}")),
        ),
        _ => Finding::fine("space", format_args!("{} MiB are free here", free >> 20)),
    })
}

/// The private key: there, root's alone, and one that ssh can read without a passphrase.
pub(super) fn key(site: Site<'_>) -> Finding {
    let path = &site.target.ssh.identity;
    let shown = path.display();
    let wrong = |is: String, mend: String| Finding::wrong("key", is, Mend::Here(mend));
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(why) => return wrong(format!("{shown}: {why}"), site.enroll_key()),
    };
    if found.uid() != 0 || found.mode() & 0o077 != 0 {
        let is = format!("{shown} is not root's alone");
        return wrong(is, format!("chown root:root {shown} && chmod 0600 {shown}"));
    }
    let read = Command::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(path).output();
    if read.is_ok_and(|read| read.status.success()) {
        return Finding::fine("key", shown);
    }
    let is = format!("{shown} is no private key without a passphrase");
    wrong(is, format!("mv {shown} {shown}.unusable && {}", site.enroll_key()))
}

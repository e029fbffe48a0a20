//! Whether a directory lies on a network file system, told from the mount table and from fstab.
//!
//! The directory itself is never touched: a server that hangs would hang us. So symbolic links in
//! the path are not seen through; who has such, says `polling = "always"`.

use std::path::{Path, PathBuf};

/// File systems whose files change by other machines' hands without the kernel here being told.
/// `autofs` is what lies where one of them will be mounted.
const NETWORK: [&str; 16] = [
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse",
    "gfs2",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
    "virtiofs",
];

/// What is mounted where, or will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(Vec<(PathBuf, String)>);

impl Mounts {
    /// Reads both tables under `root`; at boot fstab knows what is not mounted yet.
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        Self::parse(&text("etc/fstab"), &text("proc/self/mountinfo"))
    }

    /// The same from the tables' texts. Lines of no known form are passed over.
    pub fn parse(fstab: &str, mountinfo: &str) -> Self {
        let planned = fstab.lines().filter_map(fstab_line);
        Self(planned.chain(mountinfo.lines().filter_map(mountinfo_line)).collect())
    }

    /// Whether the directory is on a network file system. Of mounts on the same place the last counts.
    pub fn is_network(&self, directory: &Path) -> bool {
        let around = self.0.iter().filter(|(place, _)| directory.starts_with(place));
        let nearest = around.max_by_key(|(place, _)| place.components().count());
        nearest.is_some_and(|(_, kind)| NETWORK.contains(&kind.split('.').next().unwrap_or(kind)))
    }
}

/// `36 35 98:0 /part /place rw,noatime master:1 - ext3 /dev/root rw`, see proc_pid_mountinfo(5).
fn mountinfo_line(line: &str) -> Option<(PathBuf, String)> {
    let (before, after) = line.split_once(" - ")?;
    let place = before.split(' ').nth(4)?;
    Some((unescaped(place), after.split(' ').next()?.to_owned()))
}

/// `server:/export /place nfs4 defaults 0 0`, see fstab(5).
fn fstab_line(line: &str) -> Option<(PathBuf, String)> {
    let mut fields = line.split_whitespace().take_while(|field| !field.starts_with('#'));
    let (place, kind) = (fields.nth(1)?, fields.next()?);
    place.starts_with('/').then(|| (unescaped(place), kind.to_owned()))
}

/// Both tables write a space as `\040`, and others alike.
fn unescaped(text: &str) -> PathBuf {
    let known = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(known.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /srv/tags rw shared:9 - nfs4 server:/tags rw
41 40 254:1 / /srv/tags/near rw - xfs /dev/vdb rw
42 22 0:41 / /mnt/with\\040space rw - fuse.sshfs a:/ rw
";

    #[test]
    fn the_nearest_mount_decides() {
        let mounts = Mounts::parse("", MOUNTINFO);
        let network = |path: &str| mounts.is_network(Path::new(path));
        assert!(network("/srv/tags/site1"));
        assert!(network("/mnt/with space/in"));
        assert!(!network("/srv/tags/near/site1"));
        assert!(!network("/srv/tagsalike"));
        assert!(!network("/var/lib/blat/tags/site1"));
    }

    #[test]
    fn fstab_tells_of_what_is_not_mounted_yet() {
        let fstab = "# a\nserver:/x /srv/x nfs defaults 0 0\n/dev/sdb none swap sw\n//s/y /srv/y cifs\n";
        let mounts = Mounts::parse(fstab, "22 1 254:0 / / rw - ext4 /dev/vda rw\n");
        assert!(mounts.is_network(Path::new("/srv/x/site1")));
        assert!(mounts.is_network(Path::new("/srv/y")));
        assert!(!mounts.is_network(Path::new("/srv/z")));
    }

    #[test]
    fn what_is_mounted_wins_over_what_was_planned() {
        let mounts = Mounts::parse("s:/x /srv/x nfs", "22 1 254:0 / /srv/x rw - ext4 /dev/vda rw\n");
        assert!(!mounts.is_network(Path::new("/srv/x/in")));
    }
}

//! Makes a target's directories, and gives them to the users who need them.
//!
//! This runs as root on paths beside those of other users. So a directory is only made or given away
//! where every folder above it is root's and nobody else's to write: then nobody can put a symbolic
//! link in the way, neither before nor while we look. The directory itself is held open, and never
//! reached through a link. Elsewhere (a file server, a user's folder) its owner sees to it.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Group, Uid, User, fchown};

use super::settings::Settings;

/// Where claimed tags lie inside the tag directory; hidden, so it does not count as content.
const CLAIMED: &CStr = c".claimed";

/// Whose things are whose.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    /// Who may own the folders above: root, but for tests.
    pub trusted: Uid,
    pub user: Uid,
    pub group: Gid,
    /// The group of those who may drop tags.
    pub publishers: Gid,
}

impl Owners {
    /// Root, `blat` and `blat-tags`.
    ///
    /// # Errors
    /// When the users are not there: sysusers.d makes them.
    pub fn look_up() -> anyhow::Result<Self> {
        let user = User::from_name("blat")?.context("there is no user `blat`; run systemd-sysusers")?;
        let group =
            Group::from_name("blat-tags")?.context("there is no group `blat-tags`; run systemd-sysusers")?;
        Ok(Self { trusted: Uid::from_raw(0), user: user.uid, group: user.gid, publishers: group.gid })
    }
}

/// Makes the state directory and the tag directory, or puts right what is ours of them.
///
/// # Errors
/// What is in the way; the target can be tried all the same.
pub(super) fn make(root: &Path, settings: &Settings, owners: &Owners) -> anyhow::Result<()> {
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let state = inside(&Path::new("/var/lib/blat").join(settings.name.as_str()));
    let private = Wanted { group: owners.group, mode: 0o750 };
    own(root, &state, &private, owners).with_context(|| format!("state directory {}", state.display()))?;
    let tags = inside(&settings.tags.directory);
    make_tags(root, &tags, owners)
        .with_context(|| format!("tag directory {}", settings.tags.directory.display()))
}

struct Wanted {
    group: Gid,
    mode: u32,
}

fn make_tags(root: &Path, tags: &Path, owners: &Owners) -> anyhow::Result<()> {
    let held = own(root, tags, &Wanted { group: owners.publishers, mode: 0o2775 }, owners)?;
    match mkdirat(&held, CLAIMED, Mode::S_IRWXU) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(error) => bail!("cannot make .claimed: {error}"),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let claimed =
        File::from(openat(&held, CLAIMED, flags, Mode::empty()).context(".claimed is no directory")?);
    give(&claimed, &Wanted { group: owners.group, mode: 0o700 }, owners)
}

/// The directory, made if missing, with the owner, group and mode that it should have.
fn own(root: &Path, path: &Path, wanted: &Wanted, owners: &Owners) -> anyhow::Result<File> {
    trust(root, path.parent().unwrap_or(root), owners)?;
    match nix::unistd::mkdir(path, Mode::S_IRWXU) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(error) => bail!("cannot be made: {error}"),
    }
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let held = OpenOptions::new().read(true).custom_flags(flags).open(path).context("cannot be opened")?;
    let owner = held.metadata()?.uid();
    if owner != owners.user.as_raw() {
        ensure!(owner == owners.trusted.as_raw(), "belongs to user {owner}; it is left as it is");
        ensure!(is_empty(path)?, "belongs to root and is not empty; it is left as it is");
    }
    give(&held, wanted, owners)?;
    Ok(held)
}

fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

/// Sets owner, group and mode where they differ: the mode last, for a change of owner takes bits away.
fn give(held: &File, wanted: &Wanted, owners: &Owners) -> anyhow::Result<()> {
    let now = held.metadata()?;
    if (now.uid(), now.gid()) != (owners.user.as_raw(), wanted.group.as_raw()) {
        fchown(held, Some(owners.user), Some(wanted.group)).context("cannot be given to blat")?;
    }
    if held.metadata()?.mode() & 0o7777 != wanted.mode {
        fchmod(held, Mode::from_bits_truncate(wanted.mode)).context("mode cannot be set")?;
    }
    Ok(())
}

/// Makes a folder that everyone can pass, whatever the umask.
fn make_for_all(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Makes the folders down to `path`, as long as each is such that only the trusted user can change it.
fn trust(root: &Path, path: &Path, owners: &Owners) -> anyhow::Result<()> {
    let inside = path.strip_prefix(root).unwrap_or(path);
    let mut so_far = root.to_owned();
    for part in inside.components() {
        so_far.push(part);
        if !so_far.try_exists()? {
            make_for_all(&so_far).with_context(|| format!("cannot make {}", so_far.display()))?;
        }
        let link = fs::symlink_metadata(&so_far)?;
        let whose = |uid| uid == owners.trusted.as_raw();
        ensure!(whose(link.uid()), "{} is not root's, so nothing is made in it", so_far.display());
        if link.is_symlink() {
            so_far = fs::canonicalize(&so_far)?;
            trust(Path::new("/"), &so_far, owners)?;
        }
        let mode = fs::metadata(&so_far)?.mode();
        let others_write = mode & 0o022 != 0;
        ensure!(!others_write, "{} can be written by others, so nothing is made in it", so_far.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn owners() -> Owners {
        let (user, group) = (Uid::effective(), Gid::effective());
        Owners { trusted: user, user, group, publishers: group }
    }

    fn settings(directory: &str) -> Settings {
        use super::super::{folder::Folder, in_force::Reading};
        let root = tempfile::tempdir().unwrap();
        let targets = root.path().join("etc/blat/targets");
        fs::create_dir_all(&targets).unwrap();
        let text = format!("source = '/a'\nssh.host = 'h'\ntags.directory = '{directory}'");
        fs::write(targets.join("a.toml"), text).unwrap();
        Reading::of(Folder::live(root.path())).settings(&"a".parse().unwrap()).unwrap().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn makes_and_puts_right() {
        let root = tempfile::tempdir().unwrap();
        let made = || make(root.path(), &settings("/srv/deep/tags"), &owners());
        made().unwrap();
        let tags = root.path().join("srv/deep/tags");
        assert_eq!((mode(&tags), mode(&tags.join(".claimed"))), (0o2775, 0o700));
        assert_eq!(mode(&root.path().join("var/lib/blat/a")), 0o750);
        fs::set_permissions(&tags, PermissionsExt::from_mode(0o700)).unwrap();
        made().unwrap();
        assert_eq!(mode(&tags), 0o2775);
    }

    #[test]
    fn follows_no_link_in_the_directorys_place() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("srv")).unwrap();
        fs::create_dir(root.path().join("victim")).unwrap();
        symlink(root.path().join("victim"), root.path().join("srv/tags")).unwrap();
        assert!(make(root.path(), &settings("/srv/tags"), &owners()).is_err());
        assert!(!root.path().join("victim/.claimed").exists());
    }

    #[test]
    fn makes_nothing_where_others_write() {
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        let told = make(root.path(), &settings("/open/tags"), &owners()).unwrap_err();
        assert!(format!("{told:#}").contains("can be written by others"), "{told:#}");
        assert!(!open.join("tags").exists());
    }
}

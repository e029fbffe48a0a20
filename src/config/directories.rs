//! Makes a target's directories, and gives them to the users who need them.
//!
//! This runs as root on paths beside those of other users. So a directory is only made or given away
//! where every folder above it is root's and nobody else's to write: then nobody can put a symbolic
//! link in the way, neither before nor while we look. The directory itself is held open, and never
//! reached through a link. Elsewhere (a file server, a user's folder) its owner sees to it.
//!
//! A tag directory whose file server is gone may never answer, and no other target's waits for it: each has a
//! thread of its own, and one that is not done in time is left to itself, until the program ends.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Group, Uid, User, fchown};

use super::name::TargetName;
use super::settings::Settings;
use crate::tags::Queue;

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

/// For how long all of them are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Has `make` make, or look into, the directories of all these targets at a time. Returns what is in the way.
pub(super) fn of_all<'a, M>(
    targets: impl Iterator<Item = &'a Settings>,
    make: M,
) -> Vec<(TargetName, anyhow::Error)>
where
    M: Fn(&Settings) -> anyhow::Result<()> + Clone + Send + 'static,
{
    let until = Instant::now() + PATIENCE;
    let (done, made) = mpsc::channel();
    let mut waiting = BTreeMap::new();
    for settings in targets {
        waiting.insert(settings.name.clone(), settings.tags.directory.clone());
        let (settings, make, done) = (settings.clone(), make.clone(), done.clone());
        std::thread::spawn(move || done.send((make(&settings), settings.name)));
    }
    drop(done);
    let mut in_the_way = Vec::new();
    while let Ok((made, name)) = made.recv_timeout(until.saturating_duration_since(Instant::now())) {
        waiting.remove(&name);
        in_the_way.extend(made.err().map(|error| (name, error)));
    }
    let silent = |directory: PathBuf| anyhow!("tag directory {}: it does not answer", directory.display());
    in_the_way.extend(waiting.into_iter().map(|(name, directory)| (name, silent(directory))));
    in_the_way
}

/// Makes the state directory and the tag directory, or puts right what is ours of them.
///
/// # Errors
/// What is in the way; the target can be tried all the same.
pub(super) fn make(root: &Path, settings: &Settings, owners: &Owners) -> anyhow::Result<()> {
    let state = inside(root, &Path::new("/var/lib/blat").join(settings.name.as_str()));
    let private = Wanted { group: owners.group, mode: 0o750 };
    own(root, &state, &private, owners).with_context(|| format!("state directory {}", state.display()))?;
    let tags = inside(root, &settings.tags.directory);
    make_tags(root, &tags, owners)
        .with_context(|| format!("tag directory {}", settings.tags.directory.display()))
}

/// Looks at the tag directory of a target that is no more; nothing of it is changed.
///
/// # Errors
/// That tags are left in it.
pub(super) fn leave(root: &Path, settings: &Settings) -> anyhow::Result<()> {
    let directory = &settings.tags.directory;
    let tags = inside(root, directory);
    ensure!(
        !Queue::has_any(&tags),
        "tags are left in {}, where nothing looks any more: drop them again in another target's",
        directory.display()
    );
    Ok(())
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
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
    // `blat status` and the web pages, which are in the group, tell what waits.
    give(&claimed, &Wanted { group: owners.group, mode: 0o750 }, owners)
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

/// Makes a folder that everyone can pass, whatever the umask; another target's thread may be quicker.
fn make_for_all(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(why) => Err(why),
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)),
    }
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
        assert_eq!((mode(&tags), mode(&tags.join(".claimed"))), (0o2775, 0o750));
        assert_eq!(mode(&root.path().join("var/lib/blat/a")), 0o750);
        for folder in [&tags, &tags.join(".claimed")] {
            fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
        }
        made().unwrap();
        assert_eq!((mode(&tags), mode(&tags.join(".claimed"))), (0o2775, 0o750));
    }

    #[test]
    fn a_directory_that_does_not_answer_holds_up_no_other() {
        let root = tempfile::tempdir().unwrap();
        let mut targets = ["a", "b", "c", "d"].map(|name| {
            let mut settings = settings(&format!("/srv/deep/{name}"));
            settings.name = name.parse().unwrap();
            settings
        });
        targets[1].tags.directory = "/hangs".into();
        let inside = root.path().to_owned();
        let made = move |settings: &Settings| match settings.name.as_str() {
            "b" => loop {
                std::thread::park();
            },
            _ => make(&inside, settings, &owners()),
        };
        let in_the_way = of_all(targets.iter(), made);
        assert_eq!(in_the_way.len(), 1, "{in_the_way:?}");
        assert_eq!(in_the_way[0].0, targets[1].name);
        assert!(in_the_way[0].1.to_string().contains("/hangs: it does not answer"), "{in_the_way:?}");
        for name in ["a", "c", "d"] {
            assert_eq!(mode(&root.path().join("srv/deep").join(name)), 0o2775);
        }
    }

    #[test]
    fn tags_that_are_left_are_told_of_claimed_or_not() {
        let (root, settings) = (tempfile::tempdir().unwrap(), settings("/srv/tags"));
        leave(root.path(), &settings).unwrap();
        make(root.path(), &settings, &owners()).unwrap();
        leave(root.path(), &settings).unwrap();
        for tag in ["core::1.0", ".claimed/0000000000000001-core::1.0"] {
            let tag = root.path().join("srv/tags").join(tag);
            fs::write(&tag, "").unwrap();
            let told = leave(root.path(), &settings).unwrap_err().to_string();
            assert!(told.starts_with("tags are left in /srv/tags, "), "{told}");
            fs::remove_file(&tag).unwrap();
        }
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

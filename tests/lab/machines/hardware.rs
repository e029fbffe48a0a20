//! The hardware of a machine: a thread with mounts and a network of its own (see `namespace`).
//!
//! In its mounts is the machine's disk, an overlay over the image with the machine's own changes. `/srv`
//! and `/home` are plain folders of the host's file system, for archives: there files are made, renamed
//! and synced as on a real disk. `/dev/kmsg` is a pipe that the harness reads.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::image;
use super::namespace::Resident;
use super::network::Place;
use super::world::World;

/// What a machine has beside the image.
#[derive(Clone, Debug, Default)]
pub struct Options {
    read_only: Vec<(PathBuf, PathBuf)>,
}

impl Options {
    /// Shows the host's folder `from` read-only at `to` in the machine.
    #[must_use]
    pub fn bind_ro(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Options {
        self.read_only.push((from.into(), to.into()));
        self
    }
}

/// What of a machine lasts when the power goes: its name, place, disk and network card.
#[derive(Debug)]
pub(super) struct Hardware {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) space: Resident,
    /// The disk, as a path of the host.
    pub(super) root: PathBuf,
    pub(super) dir: PathBuf,
}

impl Hardware {
    pub(super) fn build(world: &World, name: &str, place: Place, options: &Options) -> Result<Hardware> {
        let dir = world.dir().join(name);
        for part in ["upper", "work", "root", "srv"] {
            fs::create_dir_all(dir.join(part))?;
        }
        mkfifo(&dir.join("kmsg"), Mode::from_bits_truncate(0o600))?;
        let space = Resident::start(name)?;
        // Also after a power cut, with what is there.
        if !dir.join("home").exists() {
            let homes = image::root()?.join("home");
            let copied = Command::new("cp").arg("-a").arg(&homes).arg(&dir).status()?;
            ensure!(copied.success(), "copying {}", homes.display());
        }
        let (image, disk, binds) = (image::root()?, dir.clone(), options.read_only.clone());
        space.run(move || mount_disk(&image, &disk, &binds))?;
        let root = space.view(&dir.join("root"));
        personalise(&root, name)?;
        Ok(Hardware { name: name.to_owned(), place, space, root, dir })
    }

    /// Copies what comes out of the pipe into a file. The pipe stays open for writing as long as the
    /// returned file does, so that nobody who opens it in the machine has to wait.
    pub(super) fn pump_kernel_log(&self) -> Result<File> {
        let pipe = self.dir.join("kmsg");
        let holder = OpenOptions::new().read(true).write(true).open(&pipe)?;
        let mut from = File::open(&pipe)?;
        let mut to = File::create(self.dir.join("kmsg.log"))?;
        std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
        Ok(holder)
    }
}

fn mount_disk(image: &Path, dir: &Path, binds: &[(PathBuf, PathBuf)]) -> Result<()> {
    let root = dir.join("root");
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        image.display(),
        dir.join("upper").display(),
        dir.join("work").display()
    );
    let kind = Some("overlay");
    mount(kind, &root, kind, MsFlags::empty(), Some(layers.as_str()))
        .context("mounting the machine's overlay")?;
    for plain in ["srv", "home"] {
        bind(&dir.join(plain), &root.join(plain), MsFlags::empty())?;
    }
    for (from, to) in binds {
        let to = root.join(to.strip_prefix("/").unwrap_or(to));
        fs::create_dir_all(&to)?;
        bind(from, &to, MsFlags::MS_RDONLY)?;
    }
    Ok(())
}

/// A bind mount takes its flags only when it is mounted once more.
fn bind(from: &Path, to: &Path, flags: MsFlags) -> Result<()> {
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)
        .and_then(|()| {
            let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags;
            mount(none, to, none, again, none)
        })
        .with_context(|| format!("binding {} to {}", from.display(), to.display()))
}

/// What no two machines share: name, machine id, ssh host key.
fn personalise(root: &Path, name: &str) -> Result<()> {
    fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.replace('-', "");
    fs::write(root.join("etc/machine-id"), id)?;
    let _ = fs::remove_file(root.join("etc/resolv.conf"));
    symlink("/dev/null", root.join("etc/resolv.conf"))?;
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
        .arg(root.join("etc/ssh/ssh_host_ed25519_key"))
        .status()?;
    ensure!(status.success(), "making the ssh host key: {status}");
    Ok(fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o755))?)
}

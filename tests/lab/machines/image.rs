//! The root image that all machines boot from: a small Debian, built once and then only read.
//!
//! It lies in `build/lab/root-<key>`, where the key is the digest of all that goes into it, so an
//! added package or changed file makes a new image. It is built under another name and renamed
//! when complete: an interrupted build leaves no image.
//!
//! The packages come from where this machine's own do, as its apt configuration says at run time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::fcntl::FlockArg;

use super::{guard, lab_dir};

/// The unprivileged user that owns the archives on targets. It is on every machine, with a home.
pub const TRANSFER_USER: &str = "pkgadmin";

/// What is installed on every machine.
const PACKAGES: &[&str] = &[
    "dbus",
    "dbus-user-session",
    "iproute2",
    "iputils-ping",
    "libpam-systemd",
    "libsqliteodbc",
    "netcat-openbsd",
    "odbc-mariadb",
    "odbc-postgresql",
    "openssh-client",
    "openssh-server",
    "openssh-sftp-server",
    "polkitd",
    "procps",
    "rpm",
    "rsync",
    "sqlite3",
    "strace",
    "systemd",
    "systemd-sysv",
    "unixodbc",
    "util-linux",
    "zstd",
];

/// Units that say nothing about blat and would make each boot longer or the journal noisier.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "getty-static.service",
    "sys-fs-fuse-connections.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-networkd.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
];

/// Files that the image has beside its packages'.
const FILES: &[(&str, &str)] = &[
    // /dev/kmsg is a pipe to the harness here (see `machine`): the journal must not drink from it.
    (
        "etc/systemd/journald.conf.d/lab.conf",
        "[Journal]\nStorage=persistent\nReadKMsg=no\nSystemMaxUse=64M\n",
    ),
    ("etc/ssh/sshd_config.d/lab.conf", "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\n"),
];

/// Folders of the image that nobody reads in a test.
const LEFT_OUT: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

/// How often the image is tried, and the pause in between.
const ATTEMPTS: usize = 3;
const PAUSE: std::time::Duration = std::time::Duration::from_secs(20);

/// The image's root folder; builds it when it is not there yet.
///
/// # Errors
/// Those of `mmdebstrap`, which wants root and a package mirror.
pub fn root() -> Result<PathBuf> {
    fs::create_dir_all(lab_dir())?;
    let suite = suite()?;
    let root = lab_dir().join(format!("root-{}", key(&suite)));
    let _turn = guard::lock(&lab_dir().join("image.lock"), FlockArg::LockExclusive)?;
    if !root.exists() {
        build(&suite, &root).context("building the lab's root image")?;
    }
    Ok(root)
}

fn key(suite: &str) -> String {
    let recipe = format!("{suite}{PACKAGES:?}{MASKED:?}{FILES:?}{LEFT_OUT:?}{TRANSFER_USER}");
    blake3::hash(recipe.as_bytes()).to_hex()[..12].to_owned()
}

fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|suite| suite.trim_matches('"').to_owned())
        .context("/etc/os-release names no Debian release")
}

fn build(suite: &str, root: &Path) -> Result<()> {
    eprintln!("building the lab's root image once (about a minute)");
    let draft = root.with_extension("draft");
    let mut attempts = 1..=ATTEMPTS;
    loop {
        remove_tree(&draft)?;
        match bootstrap(suite, &draft) {
            Ok(()) => break,
            // Mirrors have their moments.
            Err(why) if attempts.next().is_some_and(|number| number < ATTEMPTS) => {
                eprintln!("once more in {} s, for it failed: {why:#}", PAUSE.as_secs());
                std::thread::sleep(PAUSE);
            }
            Err(why) => return Err(why),
        }
    }
    configure(&draft)?;
    Ok(fs::rename(&draft, root)?)
}

fn bootstrap(suite: &str, draft: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--aptopt=Acquire::Retries \"5\""]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    for path in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    run(command.arg(suite).arg(draft).args(sources(suite)?))
}

/// The host's own apt sources for `suite`, those of other publishers left out.
fn sources(suite: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let listed = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let paths = listed.filter_map(|entry| Some(entry.ok()?.path()));
    for path in paths.chain([PathBuf::from("/etc/apt/sources.list")]) {
        let known = path.extension().is_some_and(|kind| kind == "list" || kind == "sources");
        let text = fs::read_to_string(&path).unwrap_or_default();
        if known && text.contains(&format!("{suite}-updates")) {
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "apt on this machine has no source for {suite}");
    Ok(found)
}

fn configure(root: &Path) -> Result<()> {
    for (path, text) in FILES {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a file in a folder"))?;
        fs::write(path, text)?;
    }
    let units = root.join("etc/systemd/system");
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).with_context(|| format!("masking {unit}"))?;
    }
    symlink("/usr/lib/systemd/system/multi-user.target", units.join("default.target"))?;
    fs::create_dir_all(root.join("var/log/journal"))?;
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let _ = fs::remove_file(root.join(format!("etc/ssh/ssh_host_{kind}_key")));
        let _ = fs::remove_file(root.join(format!("etc/ssh/ssh_host_{kind}_key.pub")));
    }
    run(Command::new("chroot").arg(root).args(["useradd", "--create-home"]).args([
        "--shell=/bin/bash",
        "--password=*",
        TRANSFER_USER,
    ]))
}

fn remove_tree(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

//! A master and a target on one machine, with no root and no systemd: a private sshd on
//! loopback, everything below one temporary folder, the programs started by hand as the
//! units would. For tests of the programs themselves, and for the demo where no machine
//! may be booted.

#![allow(dead_code, reason = "shared by several crates, none of which uses all of it")]

use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// The one target's name.
pub(crate) const TARGET: &str = "site1";

/// The private world. Ends with the value, and with it every process of it.
pub(crate) struct Loopback {
    folder: tempfile::TempDir,
    blat: PathBuf,
    helper: PathBuf,
    sshd: Child,
    agent: Option<Child>,
}

impl Loopback {
    /// Starts an sshd and configures the target. `blat` and `helper` are the programs.
    ///
    /// # Panics
    /// When something is missing, with what to install.
    pub(crate) fn new(blat: &Path, helper: &Path) -> Self {
        assert!(helper.exists(), "{} is not built: cargo build --workspace", helper.display());
        let folder = tempfile::Builder::new().prefix("blat").tempdir().expect("a temporary folder");
        let at = folder.path();
        for name in
            ["etc/blat/targets", "etc/blat/keys", "var/lib/blat/site1", "run/blat/site1", "tags", "source"]
        {
            fs::create_dir_all(at.join(name)).expect("a folder");
        }
        fs::create_dir_all(at.join("target/dpkg_archive")).expect("a folder");
        make_key(&at.join("host_key"));
        make_key(&at.join("etc/blat/keys/site1"));
        let (sshd, port) = start_sshd(at);
        write_config(at, port);
        Self { blat: blat.into(), helper: helper.into(), sshd, agent: None, folder }
    }

    /// The folder below which everything lies.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.root().join("source")
    }

    /// Sends from another archive from now on.
    pub(crate) fn set_source(&self, source: &Path) {
        let path = self.root().join("etc/blat/targets/site1.toml");
        let text = fs::read_to_string(&path).expect("the configuration");
        let (_, rest) = text.split_once('\n').expect("a first line");
        fs::write(path, format!("source = {source:?}\n{rest}")).expect("the configuration");
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.root().join("target/dpkg_archive")
    }

    pub(crate) fn tags(&self) -> PathBuf {
        self.root().join("tags")
    }

    pub(crate) fn rejected(&self) -> PathBuf {
        self.root().join("var/lib/blat/site1/rejected")
    }

    /// A small sealed package-version.
    pub(crate) fn publish(&self, package: &str, version: &str) -> PathBuf {
        let folder = self.source().join(package).join(version);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("descpkg"), format!("{package} {version}\n")).expect("a file");
        fs::write(folder.join("content"), "some content\n").expect("a file");
        for name in ["descpkg", "content"] {
            fs::set_permissions(folder.join(name), Permissions::from_mode(0o444)).expect("a mode");
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o555)).expect("a mode");
        folder
    }

    pub(crate) fn tag(&self, package: &str, version: &str) {
        let output = self.run(&["tag", TARGET, package, version]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs blat with these arguments to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("blat starts")
    }

    /// Runs a transfer, as `blat-transfer@site1.service` does.
    pub(crate) fn transfer(&self) -> Output {
        let helper = self.helper.to_str().expect("a plain path");
        self.run(&["transfer", TARGET, "--helper", helper])
    }

    /// Runs a transfer that may do, though root runs it, no more in a folder than any user may.
    pub(crate) fn transfer_as_any_user(&self) -> Output {
        if !nix::unistd::geteuid().is_root() {
            return self.transfer();
        }
        let mut command = Command::new("setpriv");
        command.arg("--bounding-set=-dac_override,-dac_read_search").arg(&self.blat);
        command.arg("--root").arg(self.root()).args(["transfer", TARGET, "--helper"]).arg(&self.helper);
        command.output().expect("setpriv is missing: install util-linux")
    }

    /// Runs a synchronisation, as `blat-sync@site1.service` does, with these arguments besides.
    pub(crate) fn sync(&self, more: &[&str]) -> Output {
        let helper = self.helper.to_str().expect("a plain path");
        self.run(&[&["sync", TARGET, "--helper", helper], more].concat())
    }

    /// Starts a synchronisation.
    pub(crate) fn start_sync(&self) -> Child {
        let helper = self.helper.to_str().expect("a plain path");
        let mut command = self.command(&["sync", TARGET, "--helper", helper]);
        command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("blat starts")
    }

    /// From now on, the target should have these (`PACKAGE VERSION`).
    pub(crate) fn want(&self, wanted: &[String]) {
        let (path, list) =
            (self.root().join("etc/blat/targets/site1.toml"), self.root().join("packages.txt"));
        let text = fs::read_to_string(&path).expect("the configuration");
        if !text.contains("[release]") {
            let release = format!("[release]\nsource = \"file\"\nfile = {list:?}\n");
            fs::write(path, text + &release).expect("the configuration");
        }
        fs::write(&list, wanted.join("\n") + "\n").expect("the list");
        // One that was changed just now is waited for.
        let lies = fs::File::options().append(true).open(list).expect("the list");
        lies.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("a time");
    }

    /// Starts a transfer; nobody hears what it says.
    pub(crate) fn start_transfer(&self) -> Child {
        let helper = self.helper.to_str().expect("a plain path");
        let mut command = self.command(&["transfer", TARGET, "--helper", helper]);
        command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("blat starts")
    }

    /// Starts the agent, as `blat@site1.service` does, and waits until it is connected.
    pub(crate) fn start_agent(&mut self) {
        let agent = self.program(&self.blat.with_file_name("blat-agent"), &[TARGET]).spawn();
        self.agent = Some(agent.expect("blat-agent starts"));
        let control = self.root().join("run/blat/site1/ssh");
        let begin = Instant::now();
        while !control.exists() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the agent does not connect");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.program(&self.blat, arguments)
    }

    fn program(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("--root").arg(self.root()).args(arguments).env("BLAT_LOG", "blat=debug");
        command
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        for child in self.agent.iter_mut().chain([&mut self.sshd]) {
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = child.wait();
        }
        writable_again(self.folder.path());
    }
}

/// Sealed folders would keep the temporary folder from being removed.
fn writable_again(folder: &Path) {
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o755));
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        if item.file_type().is_ok_and(|kind| kind.is_dir()) {
            writable_again(&item.path());
        }
    }
}

/// What a program told.
pub(crate) fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}\n{}", output.status, words(output));
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn make_key(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.is_ok_and(|status| status.success()), "ssh-keygen is missing: install openssh-client");
}

/// Starts sshd, on another port where somebody was quicker, and waits until it listens.
fn start_sshd(at: &Path) -> (Child, u16) {
    for _ in 0..10 {
        let port = free_port();
        let mut sshd = sshd(at, port).spawn().expect("sshd starts");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) && matches!(sshd.try_wait(), Ok(None)) {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() && matches!(sshd.try_wait(), Ok(None)) {
                return (sshd, port);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    panic!("sshd does not listen");
}

fn sshd(at: &Path, port: u16) -> Command {
    let sshd = Path::new("/usr/sbin/sshd");
    assert!(sshd.exists(), "{} is missing: install openssh-server", sshd.display());
    if nix::unistd::geteuid().is_root() {
        fs::create_dir_all("/run/sshd").expect("sshd's own folder");
    }
    let host_key = fs::read_to_string(at.join("host_key.pub")).expect("a public key");
    fs::write(at.join("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).expect("a file");
    let options = [
        "ListenAddress=127.0.0.1".to_owned(),
        format!("Port={port}"),
        format!("HostKey={}", at.join("host_key").display()),
        format!("AuthorizedKeysFile={}", at.join("etc/blat/keys/site1.pub").display()),
        "StrictModes=no".into(),
        "UsePAM=no".into(),
        "PidFile=none".into(),
        "PermitRootLogin=yes".into(),
        "Subsystem=sftp internal-sftp".into(),
    ];
    let mut command = Command::new(sshd);
    command.args(["-D", "-e", "-f", "/dev/null"]).args(options.iter().flat_map(|option| ["-o", option]));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn write_config(at: &Path, port: u16) {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().expect("a user").name;
    let text = format!(
        "source = \"{root}/source\"\n\
         [ssh]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"{user}\"\n\
         identity = \"{root}/etc/blat/keys/site1\"\nknown_hosts = \"{root}/known_hosts\"\n\
         [target]\narchive = \"{root}/target/dpkg_archive\"\nbin = \"{root}/target/bin\"\n\
         [tags]\ndirectory = \"{root}/tags\"\n",
        root = at.display()
    );
    fs::write(at.join("etc/blat/targets/site1.toml"), text).expect("a file");
}

//! A machine: its hardware, which lasts (see `hardware`), and its power, which comes and goes.
//!
//! The power is a `systemd-nspawn` that boots the disk, in the machine's own cgroup. It can go in
//! order, or at once: then the network cable is cut first, so that no dying process says goodbye.

use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::cgroup::Cgroup;
use super::hardware::{Hardware, Options};
use super::network;
use super::world::World;

/// How long a machine may take to boot or to shut down, on a busy host.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts the machine in its cgroup (the first argument is the shell line for that), and once more
/// whenever it has asked for a reboot, which `systemd-nspawn` tells by this exit code.
const POWER: &str = r#"
enter=$1; shift
while :; do
    (eval "$enter" && exec "$@")
    code=$?
    [ $code = 133 ] || exit $code
done
"#;

/// A machine of the lab. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    pub(super) hardware: Arc<Hardware>,
    cgroup: Cgroup,
    visitors: Cgroup,
    world: Arc<World>,
    power: Mutex<Option<Child>>,
    _kernel_log: File,
}

impl Machine {
    /// The machine's name, by which the others of the lab reach it.
    pub fn name(&self) -> &str {
        &self.hardware.name
    }

    /// The machine's address in the lab.
    pub fn addr(&self) -> Ipv4Addr {
        self.hardware.place.addr()
    }

    /// The machine's disk as seen from the host, whether it runs or not. What lies in memory there
    /// (`/run`, `/tmp`, `/proc`) is in [`Machine::live_root`]. Absolute symbolic links lead astray.
    pub fn root(&self) -> &Path {
        &self.hardware.root
    }

    /// The running machine's root as its own processes see it.
    pub fn live_root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid1()))
    }

    /// The host's number of the machine's PID 1.
    #[track_caller]
    pub fn pid1(&self) -> Pid {
        self.leader().unwrap_or_else(|| panic!("{} is not running", self.name()))
    }

    /// What was written to the machine's `/dev/kmsg` since it was made, by PID 1 and generators.
    pub fn kernel_log(&self) -> String {
        let text = fs::read(self.hardware.dir.join("kmsg.log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Shuts down in order, and boots again.
    #[track_caller]
    pub fn reboot(&self) {
        self.stop();
        self.start();
    }

    /// Shuts down in order; returns when the machine is off.
    #[track_caller]
    pub fn stop(&self) {
        self.run(&["systemctl", "poweroff"]);
        self.wait_off().unwrap_or_else(|why| panic!("{} does not shut down: {why:#}", self.name()));
    }

    /// Cuts the power: nothing is written, nothing said, no connection is closed.
    #[track_caller]
    pub fn kill(&self) {
        self.cut_power().unwrap_or_else(|why| panic!("{} cannot be killed: {why:#}", self.name()));
    }

    /// Boots a machine that is off, from its disk as it was left.
    #[track_caller]
    pub fn start(&self) {
        self.power_on().unwrap_or_else(|why| panic!("{} does not boot: {why:#}", self.name()));
    }

    /// Pulls the network cable (`false`), or puts it back. Nobody is told: frames vanish.
    #[track_caller]
    pub fn plug(&self, plugged: bool) {
        let switch = &self.world.switch;
        switch
            .plug(self.hardware.place, plugged)
            .unwrap_or_else(|why| panic!("the cable of {}: {why:#}", self.name()));
    }

    /// Bytes that the machine has received and sent on its network card since it was started.
    #[track_caller]
    pub fn traffic(&self) -> (u64, u64) {
        let table = fs::read_to_string(self.hardware.space.proc("net/dev")).unwrap_or_default();
        let card = table.lines().find_map(|line| line.trim().strip_prefix("host0:"));
        let counts: Vec<u64> = card
            .map(|card| card.split_whitespace().filter_map(|word| word.parse().ok()).collect())
            .unwrap_or_default();
        assert!(counts.len() > 8, "{} has no network card", self.name());
        (counts[0], counts[8])
    }
}

/// Building and power.
impl Machine {
    pub(super) fn build(world: &Arc<World>, name: &str, options: Options) -> Result<Machine> {
        let hardware = world.join(name, |place| Hardware::build(world, name, place, &options))?;
        let kernel_log = hardware.pump_kernel_log()?;
        let cgroup = world.cgroup.child(name)?;
        Ok(Machine {
            visitors: cgroup.child("visitors")?,
            cgroup,
            world: Arc::clone(world),
            power: Mutex::new(None),
            _kernel_log: kernel_log,
            hardware,
        })
    }

    pub(super) fn power_on(&self) -> Result<()> {
        let mut power = self.power.lock().expect("no panic under this lock");
        ensure!(power.is_none(), "it is running already");
        self.hardware.space.renew_network()?;
        self.hardware.space.run(network::control_congestion);
        self.world.connect(&self.hardware)?;
        let mut child = self.nspawn()?;
        let booted = self.wait_booted(&mut child);
        *power = Some(child);
        booted.with_context(|| self.console())
    }

    fn nspawn(&self) -> Result<Child> {
        let hardware = &self.hardware;
        let console = File::create(hardware.dir.join("console.log"))?;
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                &format!("{}\n{POWER}", self.visitors.enter_line()),
                "power",
                &self.cgroup.enter_line(),
            ])
            .args(["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"])
            .args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"])
            .arg("--console=read-only")
            .arg(format!("--directory={}", hardware.dir.join("root").display()))
            .arg(format!("--machine={}", self.unique_name()))
            .arg(format!("--hostname={}", hardware.name))
            .arg(format!("--network-namespace-path={}", hardware.space.network().display()))
            .arg(format!("--bind={}:/dev/kmsg", hardware.dir.join("kmsg").display()))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            // As a machine with a kernel of its own, it may change what its network has of it.
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        hardware.space.run(move || command.spawn()).context("starting systemd-nspawn")
    }

    fn unique_name(&self) -> String {
        let lab = self.world.dir().file_name().unwrap_or_default().to_string_lossy();
        format!("{lab}-{}", self.name())
    }

    fn wait_booted(&self, child: &mut Child) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = child.try_wait()? {
                bail!("systemd-nspawn ended: {status}");
            }
            if self.asks_manager(child)? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("not up after {PATIENCE:?}")
    }

    /// Whether the manager is there and says that the boot is over.
    fn asks_manager(&self, child: &Child) -> Result<bool> {
        let Some(leader) = leader_of(child) else {
            return Ok(false);
        };
        if !Path::new(&format!("/proc/{leader}/root/run/systemd/private")).exists() {
            return Ok(false);
        }
        let ask = ["systemctl", "is-system-running", "--wait"];
        let answer = self.enter(leader, &ask).output()?;
        match String::from_utf8_lossy(&answer.stdout).trim() {
            "running" => Ok(true),
            "degraded" => {
                let failed = self.enter(leader, &["systemctl", "--failed", "--plain"]).output()?;
                let failed = String::from_utf8_lossy(&failed.stdout);
                eprintln!("{} is up, but degraded:\n{failed}", self.name());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn wait_off(&self) -> Result<()> {
        let mut power = self.power.lock().expect("no panic under this lock");
        let child = power.as_mut().context("it is off")?;
        let end = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "still on after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        *power = None;
        Ok(())
    }

    /// First the cable, so that the dying processes cannot say goodbye to anybody.
    fn cut_power(&self) -> Result<()> {
        let mut power = self.power.lock().expect("no panic under this lock");
        let Some(mut child) = power.take() else {
            return Ok(());
        };
        self.world.disconnect(&self.hardware);
        self.cgroup.kill()?;
        child.wait()?;
        self.hardware.space.renew_network()
    }

    /// The host's number of the machine's PID 1; none while it is off, and for a moment while it reboots.
    pub fn leader(&self) -> Option<Pid> {
        let power = self.power.lock().expect("no panic under this lock");
        power.as_ref().and_then(leader_of)
    }

    /// Whether the power is on.
    pub fn is_running(&self) -> bool {
        self.leader().is_some()
    }

    /// A shell line that puts a visitor where the machine's end finds it.
    pub(super) fn cgroup_of_visitors(&self) -> String {
        self.visitors.enter_line()
    }

    fn console(&self) -> String {
        let text = fs::read(self.hardware.dir.join("console.log")).unwrap_or_default();
        format!("its console: {}", String::from_utf8_lossy(&text))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader().is_some() {
            let tail = self.enter(self.pid1(), &["journalctl", "--no-pager", "-b", "-n60"]).output();
            let tail = tail.map(|tail| tail.stdout).unwrap_or_default();
            eprintln!("journal of {}:\n{}", self.name(), String::from_utf8_lossy(&tail));
        }
        let _ = self.cut_power();
    }
}

/// The machine's PID 1: the child of `systemd-nspawn` that is number 1 in its own namespace.
fn leader_of(power: &Child) -> Option<Pid> {
    let mut machines = children(power.id()).into_iter().flat_map(children);
    let leader = machines.find(|pid| is_first_of_namespace(*pid))?;
    Some(Pid::from_raw(leader.try_into().ok()?))
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_first_of_namespace(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().nth(1) == Some("1"))
}

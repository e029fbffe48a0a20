//! A lab: its folder, its cgroup, its switch, and who is on it.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cgroup::Cgroup;
use super::guard::{self, Guard};
use super::hardware::{Hardware, Options};
use super::machine::Machine;
use super::network::{self, Place, Switch};
use super::slow_link::{Cable, Link, Rate};
use super::{image, lab_dir};

/// A private world of machines. Clones are the same lab; it ends with the last of them and of
/// its machines.
#[derive(Clone, Debug)]
pub struct Lab {
    world: Arc<World>,
}

/// What all machines of a lab share. The guard goes last: it removes the folder of the others.
#[derive(Debug)]
pub(super) struct World {
    pub(super) switch: Switch,
    pub(super) cgroup: Cgroup,
    pub(super) members: Mutex<Vec<Arc<Hardware>>>,
    cables: Mutex<Vec<Weak<Cable>>>,
    guard: Guard,
}

impl Lab {
    /// A lab without machines. `name` shows in its folder and cgroup; several labs of the same
    /// name do not disturb each other.
    ///
    /// # Panics
    /// Where machines cannot be booted, with a sentence that says what is missing.
    #[track_caller]
    pub fn new(name: &str) -> Lab {
        let world = World::new(name).unwrap_or_else(|why| panic!("no lab: {why:#}\n{ADVICE}"));
        Lab { world: Arc::new(world) }
    }

    /// Boots a machine; returns when systemd says that it is up.
    #[track_caller]
    pub fn boot(&self, name: &str) -> Machine {
        self.boot_with(name, Options::default())
    }

    /// As [`Lab::boot`], with more than the image in the machine.
    #[track_caller]
    pub fn boot_with(&self, name: &str, options: Options) -> Machine {
        Machine::build(&self.world, name, options)
            .and_then(|machine| machine.power_on().map(|()| machine))
            .unwrap_or_else(|why| panic!("{name} does not boot: {why:#}"))
    }

    /// Boots several machines side by side.
    #[track_caller]
    pub fn boot_all<const N: usize>(&self, names: [&str; N]) -> [Machine; N] {
        std::thread::scope(|scope| {
            let boots = names.map(|name| scope.spawn(move || self.boot(name)));
            boots.map(|boot| boot.join().expect("a machine did not boot"))
        })
    }

    /// Lays a slow link between two machines: from now on they reach each other, by the names and
    /// addresses they know, at no more than `rate` each way and after `rtt` for a round trip. It
    /// outlives a reboot of either, and ends when the value is dropped.
    #[track_caller]
    pub fn link(&self, a: &Machine, b: &Machine, rate: Rate, rtt: Duration) -> Link {
        let ends = [&a.hardware, &b.hardware];
        self.world
            .lay(ends, rate, rtt)
            .unwrap_or_else(|why| panic!("no link from {} to {}: {why:#}", a.name(), b.name()))
    }

    /// The lab's folder; it goes with the lab.
    pub fn dir(&self) -> &Path {
        self.world.dir()
    }

    /// Runs `job` on the lab's network, from where the machines can be reached by address. A
    /// process that it starts stays on that network.
    pub fn on_network<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.world.switch.space().run(job)
    }
}

const ADVICE: &str = "The lab boots machines with systemd-nspawn: that takes root, and a kernel \
    that allows namespaces, overlay mounts and cgroups. `make setup` installs the programs. Where \
    it cannot be had, `make test LAB=0` leaves the lab out.";

static LABS: AtomicU32 = AtomicU32::new(0);

impl World {
    fn new(name: &str) -> Result<World> {
        check_rights()?;
        set_kernel()?;
        let runs = lab_dir().join("run");
        let turn = guard::clear_stale(&runs)?;
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{name}-{}-{number}", std::process::id());
        let cgroup = Cgroup::create(&format!("blat-lab-{unique}"))?;
        let guard = Guard::set(runs.join(unique), &cgroup)?;
        drop(turn);
        image::root()?;
        Ok(World {
            switch: Switch::new()?,
            cgroup,
            members: Mutex::default(),
            cables: Mutex::default(),
            guard,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        self.guard.dir()
    }

    fn lay(&self, ends: [&Arc<Hardware>; 2], rate: Rate, rtt: Duration) -> Result<Link> {
        let mut cables = self.cables.lock().expect("no panic under this lock");
        let link = Link::lay(cables.len(), ends, rate, rtt)?;
        cables.push(Arc::downgrade(link.cable()));
        Ok(link)
    }

    /// Gives the fresh network of `machine` all that it is joined to.
    pub(super) fn connect(&self, machine: &Hardware) -> Result<()> {
        self.switch.attach(&machine.space, machine.place)?;
        self.cables().iter().try_for_each(|cable| cable.connect(machine))
    }

    /// Cuts all cables of `machine`, silently.
    pub(super) fn disconnect(&self, machine: &Hardware) {
        let _ = self.switch.plug(machine.place, false);
        self.cables().iter().for_each(|cable| cable.disconnect(machine));
    }

    fn cables(&self) -> Vec<Arc<Cable>> {
        let cables = self.cables.lock().expect("no panic under this lock");
        cables.iter().filter_map(Weak::upgrade).collect()
    }

    /// Gives the next free place on the switch to the machine that `make` then builds, and tells
    /// all machines each other's names.
    pub(super) fn join(
        &self,
        name: &str,
        make: impl FnOnce(Place) -> Result<Hardware>,
    ) -> Result<Arc<Hardware>> {
        let mut members = self.members.lock().expect("no panic under this lock");
        ensure!(members.iter().all(|member| member.name != name), "there is a machine of that name");
        let place = Place(u8::try_from(members.len()).context("too many machines")?);
        let hardware = Arc::new(make(place)?);
        members.push(Arc::clone(&hardware));
        let hosts = hosts_file(&members);
        for member in members.iter() {
            std::fs::write(member.root.join("etc/hosts"), &hosts)?;
        }
        Ok(hardware)
    }
}

fn hosts_file(members: &[Arc<Hardware>]) -> String {
    let lines = members.iter().map(|member| format!("{} {}\n", member.place.addr(), member.name));
    "127.0.0.1 localhost\n".to_owned() + &lines.collect::<String>()
}

/// Machines have the host's kernel, and may not change its settings but those of their own network: what the
/// package's file of sysctl.d asks for beside is set here, as a machine with a kernel of its own does by itself.
fn set_kernel() -> Result<()> {
    let wanted = include_str!("../../../packaging/sysctl/50-blat.conf").lines();
    let wanted = wanted.filter(|line| !line.starts_with('#') && !line.starts_with("net."));
    for (key, value) in wanted.filter_map(|line| line.split_once(" = ")) {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let now: u64 = std::fs::read_to_string(&path)?.trim().parse()?;
        if now < value.parse()? {
            std::fs::write(&path, value).with_context(|| format!("setting {key}"))?;
        }
    }
    network::allow_congestion_control();
    Ok(())
}

fn check_rights() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "this is not root");
    for program in ["systemd-nspawn", "mmdebstrap", "ip", "nsenter", "ssh-keygen"] {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&paths).any(|dir| dir.join(program).exists());
        ensure!(found, "the program {program} is missing");
    }
    Ok(())
}

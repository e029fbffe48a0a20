//! A thread that lives in namespaces of its own, and runs there what it is handed.
//!
//! The thread is what holds the namespaces: they, and every mount and interface in them, vanish
//! with it, also when the process is killed. Others reach them through `/proc/<tid>/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid};

type Job = Box<dyn FnOnce() + Send>;

/// A thread with a network namespace, and mounts, of its own.
#[derive(Debug)]
pub struct Resident {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: Pid,
}

impl Resident {
    /// Starts the thread; its network is empty and its mounts are a private copy of the host's.
    pub fn start(name: &str) -> Result<Resident> {
        let (jobs, inbox) = channel::<Job>();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || work(inbox))?;
        let mut resident = Resident { jobs: Some(jobs), thread: Some(thread), tid: Pid::from_raw(0) };
        resident.tid = resident.run(gettid);
        resident.run(move_out)?;
        Ok(resident)
    }

    /// Runs `job` on the thread and waits for what it returns.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = channel();
        let jobs = self.jobs.as_ref().expect("the thread is there until drop");
        jobs.send(Box::new(move || drop(reply.send(job())))).expect("the thread takes jobs until drop");
        answer.recv().expect("a job on a namespace's thread panicked")
    }

    /// Leaves the network namespace for a fresh, empty one.
    pub fn renew_network(&self) -> Result<()> {
        self.run(|| unshare(CloneFlags::CLONE_NEWNET)).context("making a network namespace")
    }

    /// Carries out a list of `ip` commands in the network namespace.
    pub fn ip(&self, commands: &str) -> Result<()> {
        let commands = commands.to_owned();
        self.run(move || ip_batch(&commands))
    }

    /// The network namespace, as a path that any process of root can open.
    pub fn network(&self) -> PathBuf {
        self.proc("ns/net")
    }

    /// `path` as seen from the thread's mounts, as a path that any process of root can open.
    pub fn view(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix("/").unwrap_or(path);
        self.proc("root").join(below)
    }

    /// A file about the thread under `/proc`.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.tid))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(inbox: Receiver<Job>) {
    for job in inbox {
        job();
    }
}

fn move_out() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (booting machines takes root)")?;
    own_mounts()
}

/// Gives the thread, and those that it starts from then on, a private copy of the mounts.
pub fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace (booting machines takes root)")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("private mounts")
}

fn ip_batch(commands: &str) -> Result<()> {
    use std::io::Write;
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip")?;
    let mut input = ip.stdin.take().expect("piped");
    input.write_all(commands.as_bytes())?;
    drop(input);
    let end = ip.wait_with_output()?;
    let said = String::from_utf8_lossy(&end.stderr);
    ensure!(end.status.success(), "ip: {said}\nin:\n{commands}");
    Ok(())
}

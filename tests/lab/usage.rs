//! What programs on a machine take: CPU time and memory, as the kernel counts them for each process.
//!
//! Looks every 50 ms, so what a process does in its last moments is not seen; and at memory, which takes
//! longer to tell, each fourth time.

#![allow(dead_code, reason = "shared by two crates, none of which uses all of it")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::machines::Machine;
use crate::process::Memory;

const LOOK_EVERY: Duration = Duration::from_millis(50);
const MEMORY_EACH: usize = 4;
/// The kernel's unit of CPU time in `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Watches the processes of one machine from now on.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    watcher: JoinHandle<Seen>,
}

/// What was seen of one process.
struct Process {
    program: String,
    ticks_before: u64,
    ticks: u64,
    peak_kib: u64,
    anonymous_kib: u64,
}

/// What was seen of a machine's processes; none for one of another machine.
#[derive(Default)]
pub(crate) struct Seen(HashMap<String, Option<Process>>);

impl Watch {
    pub(crate) fn start(machine: &Machine) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let space = space_of(&PathBuf::from(format!("/proc/{}", machine.pid1())));
        let until = over.clone();
        let mut seen = Seen::default();
        seen.look(space.as_deref(), 0);
        let watcher = std::thread::spawn(move || {
            for nth in 1.. {
                if until.load(Relaxed) {
                    break;
                }
                std::thread::sleep(LOOK_EVERY);
                seen.look(space.as_deref(), nth);
            }
            seen
        });
        Self { over, watcher }
    }

    pub(crate) fn end(self) -> Seen {
        self.over.store(true, Relaxed);
        self.watcher.join().expect("the watcher does not panic")
    }
}

impl Seen {
    /// CPU seconds and the largest resident memory in MiB, of all processes of these programs.
    pub(crate) fn of(&self, programs: &[&str]) -> (f64, f64) {
        let all = self.0.values().flatten();
        let these = all.filter(|process| programs.contains(&process.program.as_str()));
        let worked = these.clone().filter(|process| process.ticks > process.ticks_before);
        let ticks: u64 = these.map(|process| process.ticks - process.ticks_before).sum();
        let peak = worked.map(|process| process.peak_kib).max().unwrap_or(0);
        (ticks as f64 / TICKS_PER_SECOND, peak as f64 / 1024.0)
    }

    /// The most anonymous memory that a process of this program had, in MiB.
    pub(crate) fn anonymous(&self, program: &str) -> f64 {
        let these = self.0.values().flatten().filter(|process| process.program == program);
        these.map(|process| process.anonymous_kib).max().unwrap_or(0) as f64 / 1024.0
    }

    fn look(&mut self, space: Option<&Path>, nth: usize) {
        for item in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(name) = item.file_name().into_string() else { continue };
            if !name.starts_with(|first: char| first.is_ascii_digit()) {
                continue;
            }
            let path = item.path();
            let known = self.0.entry(name).or_insert_with(|| Process::meet(&path, space, nth == 0));
            if let Some(process) = known {
                process.look(&path, nth.is_multiple_of(MEMORY_EACH));
            }
        }
    }
}

impl Process {
    fn meet(path: &Path, space: Option<&Path>, first: bool) -> Option<Self> {
        if space.is_none() || space_of(path).as_deref() != space {
            return None;
        }
        let ticks = if first { stat(path)?.1 } else { 0 };
        Some(Self { program: String::new(), ticks_before: ticks, ticks, peak_kib: 0, anonymous_kib: 0 })
    }

    fn look(&mut self, path: &Path, memory: bool) {
        if let Some((program, ticks)) = stat(path) {
            (self.program, self.ticks) = (program, ticks);
        }
        // One that is new may be gone before the next time.
        if !memory && self.peak_kib > 0 {
            return;
        }
        let memory = Memory::of(path);
        self.peak_kib = self.peak_kib.max(memory.peak_kib);
        self.anonymous_kib = self.anonymous_kib.max(memory.anonymous_kib);
    }
}

fn space_of(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("ns/pid")).ok()
}

/// A process's name, and the user and system time of all its threads.
fn stat(process: &Path) -> Option<(String, u64)> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name may hold anything; the numbers follow its closing bracket.
    let (name, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some((name.split_once('(')?.1.to_owned(), ticks))
}

//! What programs on a machine take: CPU time and memory, as the kernel counts them for each process.
//!
//! Looks every 50 ms, so what a process does in its last moments is not seen; and each fourth time at memory,
//! which takes longer to tell, and at what did nothing the last time. Looking takes time from the machines.

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
const ALL_EACH: usize = 4;
/// The kernel's unit of CPU time in `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Watches the processes of one machine from now on.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    watcher: JoinHandle<Seen>,
}

/// What was seen of one process.
#[derive(Default)]
struct Process {
    program: String,
    ticks_before: u64,
    ticks: u64,
    /// Whether it did nothing between the last two looks.
    rests: bool,
    peak_kib: u64,
    anonymous_kib: u64,
}

/// What was seen of a machine's processes, by their numbers there.
#[derive(Default)]
pub(crate) struct Seen(HashMap<String, Process>);

impl Watch {
    pub(crate) fn start(machine: &Machine) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        // As the machine sees it: only its own processes are looked at.
        let proc = PathBuf::from(format!("/proc/{}/root/proc", machine.pid1()));
        let until = over.clone();
        let mut seen = Seen::default();
        seen.look(&proc, true);
        seen.0.values_mut().for_each(|process| process.ticks_before = process.ticks);
        let watcher = std::thread::spawn(move || {
            for nth in 1_usize.. {
                if until.load(Relaxed) {
                    break;
                }
                std::thread::sleep(LOOK_EVERY);
                seen.look(&proc, nth.is_multiple_of(ALL_EACH));
            }
            seen.look(&proc, true);
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
        let these = self.0.values().filter(|process| programs.contains(&process.program.as_str()));
        let worked = these.clone().filter(|process| process.ticks > process.ticks_before);
        let ticks: u64 = these.map(|process| process.ticks - process.ticks_before).sum();
        let peak = worked.map(|process| process.peak_kib).max().unwrap_or(0);
        (ticks as f64 / TICKS_PER_SECOND, peak as f64 / 1024.0)
    }

    /// The most anonymous memory that a process of this program had, in MiB.
    pub(crate) fn anonymous(&self, program: &str) -> f64 {
        let these = self.0.values().filter(|process| process.program == program);
        these.map(|process| process.anonymous_kib).max().unwrap_or(0) as f64 / 1024.0
    }

    fn look(&mut self, proc: &Path, all: bool) {
        for item in fs::read_dir(proc).into_iter().flatten().flatten() {
            let Ok(name) = item.file_name().into_string() else { continue };
            if !name.starts_with(|first: char| first.is_ascii_digit()) {
                continue;
            }
            let path = item.path();
            self.0.entry(name).or_default().look(&path, all);
        }
    }
}

impl Process {
    fn look(&mut self, path: &Path, all: bool) {
        if self.rests && !all {
            return;
        }
        if let Some((program, ticks)) = stat(path) {
            self.rests = ticks == self.ticks && program == self.program;
            (self.program, self.ticks) = (program, ticks);
        }
        // One that is new may be gone before the next time.
        if !all && self.peak_kib > 0 {
            return;
        }
        let memory = Memory::of(path);
        self.peak_kib = self.peak_kib.max(memory.peak_kib);
        self.anonymous_kib = self.anonymous_kib.max(memory.anonymous_kib);
    }
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

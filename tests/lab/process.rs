//! What the kernel tells of a process's memory.

use std::fs;
use std::path::Path;

/// Of one process, in KiB; nothing of one that is gone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// The most that was resident so far.
    pub(crate) peak_kib: u64,
    /// What is resident now and is of no file.
    pub(crate) anonymous_kib: u64,
}

impl Memory {
    /// Of the process whose folder in `/proc` this is.
    pub(crate) fn of(process: &Path) -> Self {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
        };
        Self { peak_kib: kib("VmHWM:"), anonymous_kib: kib("RssAnon:") }
    }
}

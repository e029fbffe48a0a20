//! How much memory it may take to send packages, on either side: what follows from the two settings,
//! `ssh.memory` and `target.memory`, whatever the packages' sizes.
//!
//! Here, parts of old files are what counts: each core that makes changes has one in memory, with an
//! index of at most the same size, and one more may wait for its last piece. On the target, it is the
//! window of the packed stream, which this side chooses. What is known of each file of a package is beside
//! that, on both: it is little where there are not very many.

use std::thread::available_parallelism;

use blat_target::delta::CHUNK;
use blat_target::message::window_log_max;

const MIB: u64 = 1 << 20;
/// What each setting is by default, and at least.
pub const HERE: u64 = 512 * MIB;
pub const HERE_MIN: u64 = 128 * MIB;
pub const THERE: u64 = 256 * MIB;
pub const THERE_MIN: u64 = 32 * MIB;
/// More threads than this would make nothing faster.
const THREADS_MAX: usize = 4;
/// What is needed here beside the parts of old files,
const BESIDE: u64 = 64 * MIB;
/// and what a thread needs beside its own,
const BESIDE_EACH: u64 = 16 * MIB;
/// and a part of an old file is never larger than this.
pub(crate) const PART_MAX: u64 = 64 * MIB;
/// With smaller parts, fewer threads do better.
const PART_MIN: u64 = 16 * MIB;
/// What a second thread takes that packs: zstd's window and tables, what is read for both, and what is packed
/// before its turn.
const SECOND_PACKER: u64 = 128 * MIB;
/// What the target needs beside the window of the packed stream.
const BESIDE_WINDOW: u64 = 16 * MIB;

/// The bounds of both sides, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    here: u64,
    there: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { here: HERE, there: THERE }
    }
}

/// How changes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Means {
    pub(crate) threads: usize,
    /// How much of an old file is looked at for the pieces of a segment of the new one.
    pub(crate) part: u64,
}

impl Means {
    /// How much of a new file is made of one part of the old one: whole chunks.
    pub(crate) fn segment(self) -> u64 {
        let chunk = CHUNK as u64;
        (self.part / 2 / chunk).max(1) * chunk
    }
}

impl Memory {
    pub fn new(here: u64, there: u64) -> Self {
        Self { here, there }
    }

    /// How changes are made within the bound, on this machine.
    pub(crate) fn means(self) -> Means {
        self.means_of(cores())
    }

    fn means_of(self, cores: usize) -> Means {
        let part = |threads: usize| {
            let packing = if self.packers_of(cores) > 1 { SECOND_PACKER } else { 0 };
            let left = self.here.saturating_sub(BESIDE + packing + BESIDE_EACH * threads as u64);
            // Each with its index; of large parts that takes less.
            let share = left / (threads as u64 + 1);
            (share / 2).max(share.saturating_sub(32 * MIB)).clamp(MIB, PART_MAX)
        };
        let all = (1..=cores.clamp(1, THREADS_MAX)).rev();
        let threads = all.clone().find(|threads| part(*threads) >= PART_MIN).unwrap_or(1);
        Means { threads, part: part(threads) }
    }

    /// How many threads pack on this machine.
    pub(crate) fn packers(self) -> usize {
        self.packers_of(cores())
    }

    fn packers_of(self, cores: usize) -> usize {
        if cores > 1 && self.here >= HERE { 2 } else { 1 }
    }

    /// How many bytes may wait on the target for what comes before them by another connection.
    pub(crate) fn waiting(self) -> u64 {
        self.there / 4
    }

    /// The packed stream's window in a session of this protocol, as a power of two in bytes.
    pub(crate) fn window_log(self, protocol: u16) -> u32 {
        self.there.saturating_sub(BESIDE_WINDOW).max(MIB).ilog2().min(window_log_max(protocol))
    }
}

/// How many cores this machine has for us.
pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_target::message::PROTOCOL;

    #[test]
    fn what_is_allowed_is_used_and_never_exceeded() {
        for here in [HERE_MIN, 160 * MIB, 256 * MIB, HERE, 4 * HERE] {
            for cores in [1, 2, 4, 64] {
                let memory = Memory::new(here, THERE);
                let means = memory.means_of(cores);
                let index = means.part.min(32 * MIB);
                let most = BESIDE
                    + (memory.packers_of(cores) as u64 - 1) * SECOND_PACKER
                    + means.threads as u64 * BESIDE_EACH
                    + (means.threads as u64 + 1) * (means.part + index);
                assert!(most <= here, "{here} on {cores} cores: {means:?} takes {most}");
                assert!(means.part >= 8 * MIB && means.segment() >= CHUNK as u64, "{means:?}");
            }
        }
        let default = Memory::default().means_of(2);
        assert_eq!(default, Means { threads: 2, part: PART_MAX });
    }

    #[test]
    fn the_window_leaves_the_target_what_else_it_needs() {
        assert_eq!(Memory::default().window_log(PROTOCOL), window_log_max(PROTOCOL));
        assert_eq!(Memory::default().window_log(2), 24);
        assert_eq!(Memory::new(HERE, THERE_MIN).window_log(PROTOCOL), 24);
        assert_eq!(Memory::new(HERE, 24 * MIB).window_log(PROTOCOL), 23);
    }
}

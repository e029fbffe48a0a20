//! The agent's memory: what only its start needed is let go.
//!
//! Reading a command line and a configuration, and setting up the log, run through much of the program
//! once. Its pages stay mapped though nothing reads them any more; those that are read again come back
//! from the page cache, a few dozen of them.

use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Unmaps the pages of the program's own code until they are needed again.
pub(super) fn let_go_of_the_start() {
    let (Ok(maps), Ok(program)) = (fs::read_to_string("/proc/self/maps"), fs::read_link("/proc/self/exe"))
    else {
        return;
    };
    let program = program.to_string_lossy();
    for (start, length) in maps.lines().filter_map(|line| code_of(line, &program)) {
        let Some(start) = NonNull::new(start as *mut c_void) else { continue };
        // SAFETY: the mapping is code, private, of a file, and never written to: what is unmapped here
        // comes back from the file, the same, when it is read again.
        if let Err(why) = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) } {
            tracing::debug!("cannot let go of memory: {why}");
        }
    }
}

/// Where code of `program` is mapped, by a line of `/proc/self/maps`: its start and length.
fn code_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    if !rest.starts_with("r-xp ") || !rest.ends_with(program) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_let_go() {
        let line = "55d0a1000000-55d0a1400000 r-xp 00100000 fe:00 1234   /usr/lib/blat/blat-agent";
        assert_eq!(code_of(line, "/usr/lib/blat/blat-agent"), Some((0x55d0_a100_0000, 0x40_0000)));
        assert_eq!(code_of(&line.replace("r-xp", "r--p"), "/usr/lib/blat/blat-agent"), None);
        assert_eq!(code_of(&line.replace("r-xp", "rw-p"), "/usr/lib/blat/blat-agent"), None);
        assert_eq!(code_of(line, "/usr/lib/libc.so.6"), None);
    }

    #[test]
    fn the_program_goes_on() {
        let_go_of_the_start();
        assert_eq!("4711".parse::<u32>(), Ok(4711));
    }
}

//! What goes wrong: refusals of one package, ends of a session, and who mends what.

use std::io;

use nix::errno::Errno;

use crate::frame::FrameError;
use crate::message::Refusal;

/// Why a package or link is not staged.
#[derive(Debug)]
pub(crate) enum Stop {
    /// This one is refused; the session goes on.
    Refused(Refusal),
    /// The session ends.
    End(End),
}

/// Why a session ends before its `Done`.
#[derive(Debug)]
pub(crate) enum End {
    /// The channel ended, broke, or fell silent: nobody is there to be told.
    Cut(String),
    /// The host is told.
    Failed(Refusal),
}

impl Stop {
    pub(crate) fn person(reason: impl Into<String>) -> Self {
        Self::Refused(Refusal::person(reason))
    }

    pub(crate) fn later(reason: impl Into<String>) -> Self {
        Self::Refused(Refusal::later(reason))
    }
}

impl End {
    /// The peer broke the protocol.
    pub(crate) fn broken(reason: impl Into<String>) -> Self {
        Self::Failed(Refusal::person(reason))
    }
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<FrameError> for End {
    fn from(why: FrameError) -> Self {
        match why {
            FrameError::Io(why) if why.kind() == io::ErrorKind::InvalidData => Self::broken(why.to_string()),
            FrameError::Io(why) => Self::Cut(why.to_string()),
            FrameError::Ended => Self::Cut(why.to_string()),
            why => Self::broken(why.to_string()),
        }
    }
}

/// The kernel's error number in an error of reading or writing.
pub(crate) fn errno(why: &io::Error) -> Errno {
    Errno::from_raw(why.raw_os_error().unwrap_or(Errno::EIO as i32))
}

/// Whether there is no room for it: on the disk, or for this user.
pub(crate) fn is_full(why: Errno) -> bool {
    matches!(why, Errno::ENOSPC | Errno::EDQUOT)
}

/// Makes the refusal of what was attempted, `attempt` reading on from "could not".
pub(crate) fn refusal(attempt: impl std::fmt::Display, why: Errno) -> Refusal {
    let (later, mend) = mend(why);
    let reason = format!("could not {attempt}: {}{mend}", why.desc());
    if later { Refusal::later(reason) } else { Refusal::person(reason) }
}

/// Whether trying again later may help, and what a person would do about it.
fn mend(why: Errno) -> (bool, &'static str) {
    match why {
        Errno::ENOSPC => (true, "; make room on the target"),
        Errno::EDQUOT => (true, "; raise the transfer user's quota on the target, or make room"),
        Errno::EIO => (true, "; look after the target's disk"),
        Errno::EACCES | Errno::EPERM => {
            (false, "; give the transfer user the right to write there, or ownership")
        }
        Errno::EROFS => (false, "; mount the target's archive for writing"),
        Errno::ENAMETOOLONG => (false, "; the target's file system cannot hold so long a name"),
        Errno::EINVAL | Errno::EILSEQ => {
            (false, "; the target's file system cannot hold such a name or value")
        }
        Errno::ELOOP => (false, "; a symlink stands where a folder must be: remove it"),
        Errno::ENOTDIR => (false, "; something else stands where a folder must be: remove it"),
        Errno::EFBIG | Errno::EOVERFLOW => (false, "; the target's file system cannot hold so large a file"),
        Errno::EMLINK => (false, "; the folder is full"),
        _ => (true, ""),
    }
}

/// Bytes of a path as a person may read them, on one line.
pub(crate) fn shown(path: &[u8]) -> String {
    path.utf8_chunks()
        .flat_map(|chunk| {
            let plain = chunk.valid().chars().map(|c| match c.is_control() {
                true => c.escape_default().to_string(),
                false => c.to_string(),
            });
            let odd = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
            plain.chain(odd).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Mend;

    #[test]
    fn a_full_disk_mends_itself_and_a_missing_right_does_not() {
        assert_eq!(refusal("write a/1/x", Errno::ENOSPC).mend, Mend::Later);
        assert_eq!(refusal("write a/1/x", Errno::EDQUOT).mend, Mend::Later);
        assert_eq!(refusal("write a/1/x", Errno::EACCES).mend, Mend::Person);
        assert_eq!(refusal("write a/1/x", Errno::EROFS).mend, Mend::Person);
        assert_eq!(refusal("write a/1/x", Errno::ENAMETOOLONG).mend, Mend::Person);
    }

    #[test]
    fn a_refusal_says_what_was_attempted_and_why() {
        let said = refusal("write a/1/x", Errno::ENOSPC).reason;
        assert_eq!(said, "could not write a/1/x: No space left on device; make room on the target");
    }

    #[test]
    fn odd_bytes_are_shown_on_one_line() {
        assert_eq!(shown(b"a\xff\nb\xc3\xa4"), "a\\xff\\nb\u{e4}");
    }
}

//! A writer of tags: on the socket that systemd accepted for it, or by hand, from a file or a terminal.
//!
//! One that is sent away is read on for a moment. A socket that is closed over bytes which nobody read
//! is reset, and many a client then drops the answer that came before.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::lines;
use crate::config::Settings;

/// How long a writer may be silent, or not read its answers, in seconds.
const SILENCE: i64 = 60;
/// For how long one that was sent away is read on, at most; and how long it may be silent, in seconds.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_SILENCE: i64 = 1;

/// Takes the lines of a writer until it ends, or is sent away.
///
/// # Errors
/// When an answer cannot be written; what was taken stays taken.
pub fn serve(
    targets: &[Settings],
    mut input: impl Read + AsFd,
    output: impl Write + AsFd + Send + 'static,
) -> io::Result<()> {
    // By hand, there is nobody to be given up.
    let _ = setsockopt(&input, sockopt::ReceiveTimeout, &TimeVal::seconds(SILENCE));
    let _ = setsockopt(&output, sockopt::SendTimeout, &TimeVal::seconds(SILENCE));
    lines::take(targets, &mut input, output)?;
    if shutdown(input.as_fd().as_raw_fd(), Shutdown::Write).is_ok() {
        let _ = setsockopt(&input, sockopt::ReceiveTimeout, &TimeVal::seconds(LINGER_SILENCE));
        read_on(input);
    }
    Ok(())
}

/// Reads, and drops what comes, until the other end has ended or its time is over.
fn read_on(mut input: impl Read) {
    let (begin, mut dropped) = (Instant::now(), [0; 16 << 10]);
    while begin.elapsed() < LINGER && input.read(&mut dropped).is_ok_and(|got| got > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread;

    fn served() -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let output = ours.try_clone().unwrap();
        thread::spawn(move || serve(&[], ours, output).unwrap());
        theirs
    }

    #[test]
    fn a_line_that_does_not_end_is_answered_before_its_writer_is_cut_off() {
        let mut writer = served();
        let endless = vec![b'x'; 4 << 20];
        writer.write_all(&endless).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        writer.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "error the line does not end: the connection is closed\n");
    }

    #[test]
    fn one_that_never_ends_is_cut_off_soon() {
        let mut writer = served();
        let begin = Instant::now();
        while writer.write_all(&[b'x'; 4096]).is_ok() {}
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    }
}

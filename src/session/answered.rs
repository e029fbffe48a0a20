//! Whether the target has answered the package that is sent: it takes nothing more of it then.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const NONE: u64 = u64::MAX;

/// For who sends packages, and who hears what became of them.
#[derive(Clone, Debug)]
pub(crate) struct Answered(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    /// The package that is sent,
    sent: AtomicU64,
    /// and the last that was answered while it was.
    answered: AtomicU64,
}

impl Default for Answered {
    fn default() -> Self {
        Self(Arc::new(Numbers { sent: NONE.into(), answered: NONE.into() }))
    }
}

impl Answered {
    /// The target has answered the package of this number.
    pub(super) fn answered(&self, number: u64) {
        if self.0.sent.load(Ordering::Relaxed) == number {
            self.0.answered.store(number, Ordering::Relaxed);
        }
    }

    /// Sends the package of this number to `out`: that fails once it is answered.
    pub(crate) fn until<'a, W>(&'a self, number: u64, out: &'a mut W) -> Until<'a, W> {
        self.0.sent.store(number, Ordering::Relaxed);
        Until { answered: &self.0.answered, number, out }
    }
}

/// Takes a package's content, as long as it is not answered.
pub(crate) struct Until<'a, W> {
    answered: &'a AtomicU64,
    number: u64,
    out: &'a mut W,
}

impl<W: Write> Write for Until<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.answered.load(Ordering::Relaxed) == self.number {
            return Err(io::Error::other("the target has answered before all of it was sent"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_is_sent_no_further() {
        let (answered, mut out) = (Answered::default(), Vec::new());
        answered.answered(0);
        let mut first = answered.until(0, &mut out);
        first.write_all(b"first").unwrap();
        answered.answered(7);
        first.write_all(b"more").unwrap();
        answered.answered(0);
        assert!(first.write_all(b"rest").is_err());
        answered.until(1, &mut out).write_all(b"second").unwrap();
        assert_eq!(out, b"firstmoresecond");
    }
}

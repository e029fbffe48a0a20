//! Frames on their way to the line.

use std::ops::Deref;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Some frames, one behind the other.
#[derive(Debug)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// Where their memory goes back to, once they were sent.
    lent_by: Option<Sender<Vec<u8>>>,
}

impl From<Vec<u8>> for Outgoing {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, lent_by: None }
    }
}

impl Deref for Outgoing {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(lender) = self.lent_by.take() {
            // A lender that is gone has no use for it.
            let _ = lender.send(std::mem::take(&mut self.bytes));
        }
    }
}

/// Memory for frames, which comes back when they were sent: where a line is slow, all that was ever read for
/// it would have to be made by the kernel.
pub(crate) struct Lender {
    left: usize,
    lend: Sender<Vec<u8>>,
    back: Receiver<Vec<u8>>,
}

impl Lender {
    /// For at most `most` of them at a time.
    pub(crate) fn new(most: usize) -> Self {
        let (lend, back) = channel();
        Self { left: most, lend, back }
    }

    /// Some memory to be filled; waits until there is any.
    pub(crate) fn memory(&mut self) -> Vec<u8> {
        if let Ok(memory) = self.back.try_recv() {
            return memory;
        }
        if self.left > 0 {
            self.left -= 1;
            return Vec::new();
        }
        self.back.recv().unwrap_or_default()
    }

    /// What was made in it.
    pub(crate) fn lent(&self, bytes: Vec<u8>) -> Outgoing {
        Outgoing { bytes, lent_by: Some(self.lend.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn no_more_is_lent_than_may_be_before_it_is_back() {
        let mut lender = Lender::new(2);
        let mut lend = |byte| {
            let mut memory = lender.memory();
            memory.clear();
            memory.push(byte);
            lender.lent(memory)
        };
        let (first, second) = (lend(1), lend(2));
        assert_eq!((&*first, &*second), (&[1][..], &[2][..]));
        let is_sent = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                is_sent.store(true, Ordering::SeqCst);
                drop(first);
            });
            assert_eq!(&*lend(3), [3]);
            assert!(is_sent.load(Ordering::SeqCst), "a third one was lent before");
        });
        drop(second);
        (4..100).for_each(|byte| assert_eq!(&*lend(byte), [byte]));
    }
}

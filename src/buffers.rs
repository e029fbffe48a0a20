//! Buffers that go from one thread to the next, and come back to be filled again: fresh memory for each would
//! have to be made by the kernel, which takes longer than to fill it.

use std::ops::Deref;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Bytes on their way to another thread.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Where their memory goes back to, once they are not needed any more.
    pool: Sender<Vec<u8>>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // A pool that is gone has no use for it.
        let _ = self.pool.send(std::mem::take(&mut self.bytes));
    }
}

/// Memory for a number of buffers.
pub(crate) struct Pool {
    most: usize,
    /// How many were not needed yet.
    left: usize,
    give: Sender<Vec<u8>>,
    back: Receiver<Vec<u8>>,
}

impl Pool {
    /// For at most `most` of them at a time.
    pub(crate) fn new(most: usize) -> Self {
        let (give, back) = channel();
        Self { most, left: most, give, back }
    }

    /// How many of them were under way at once, at most.
    pub(crate) fn peak(&self) -> usize {
        self.most - self.left
    }

    /// Some memory to be filled, empty; waits until there is any.
    pub(crate) fn memory(&mut self) -> Vec<u8> {
        let mut memory = match self.back.try_recv() {
            Ok(memory) => memory,
            Err(_) if self.left > 0 => {
                self.left -= 1;
                Vec::new()
            }
            Err(_) => self.back.recv().unwrap_or_default(),
        };
        memory.clear();
        memory
    }

    /// What was made in it.
    pub(crate) fn buffer(&self, bytes: Vec<u8>) -> Buffer {
        Buffer { bytes, pool: self.give.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn no_more_is_given_than_may_be_before_it_is_back() {
        let mut pool = Pool::new(2);
        let mut fill = |byte| {
            let mut memory = pool.memory();
            memory.push(byte);
            pool.buffer(memory)
        };
        let (first, second) = (fill(1), fill(2));
        assert_eq!((&*first, &*second), (&[1][..], &[2][..]));
        let is_sent = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                is_sent.store(true, Ordering::SeqCst);
                drop(first);
            });
            assert_eq!(&*fill(3), [3]);
            assert!(is_sent.load(Ordering::SeqCst), "a third one was given before");
        });
        drop(second);
        (4..100).for_each(|byte| assert_eq!(&*fill(byte), [byte]));
    }

    #[test]
    fn it_knows_how_many_were_under_way_at_once() {
        let mut pool = Pool::new(3);
        for _ in 0..5 {
            let memory = pool.memory();
            drop(pool.buffer(memory));
        }
        assert_eq!(pool.peak(), 1);
        let both = [pool.memory(), pool.memory()];
        both.into_iter().for_each(|memory| drop(pool.buffer(memory)));
        assert_eq!(pool.peak(), 2);
    }
}

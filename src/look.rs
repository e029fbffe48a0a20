//! Looks into folders whose file server may be gone, and which may then never answer: each on a thread of its own,
//! which is left to itself where it is late, until the program ends. What puts something there may wait as long.
//!
//! A folder that has not answered in time is not looked into again before it does: so whoever looks often leaves
//! few such threads, and waits once.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// For how long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Folders whose answer is late and still to come.
static SILENT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A look that was begun. Of several, all are begun before the first is waited for.
#[derive(Debug)]
pub struct Look<T> {
    folder: PathBuf,
    begun: Instant,
    told: io::Result<mpsc::Receiver<io::Result<T>>>,
}

impl<T: Send + 'static> Look<T> {
    /// Begins to `look` into `folder`.
    pub fn begin(folder: &Path, look: impl FnOnce() -> io::Result<T> + Send + 'static) -> Self {
        let told = if silent().contains(folder) { Err(no_answer()) } else { start(folder.to_owned(), look) };
        Self { folder: folder.to_owned(), begun: Instant::now(), told }
    }

    /// What was found.
    ///
    /// # Errors
    /// Those of the look, or that it does not answer.
    pub fn end(self) -> io::Result<T> {
        self.end_within(PATIENCE)
    }

    /// What was found, where that may take so long from its beginning.
    ///
    /// # Errors
    /// Those of [`Look::end`].
    pub fn end_within(self, patience: Duration) -> io::Result<T> {
        let told = self.told?;
        if let Ok(found) = told.recv_timeout(patience.saturating_sub(self.begun.elapsed())) {
            return found;
        }
        // It answers under the same lock, so that none stays silent that has answered just now.
        let mut silent = silent();
        told.try_recv().unwrap_or_else(|_| {
            silent.insert(self.folder);
            Err(no_answer())
        })
    }
}

fn start<T: Send + 'static>(
    folder: PathBuf,
    look: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<mpsc::Receiver<io::Result<T>>> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        let found = look();
        let mut silent = silent();
        silent.remove(&folder);
        // Whoever asked may have given up.
        let _ = tell.send(found);
    })?;
    Ok(told)
}

fn silent() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    SILENT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_late_is_looked_into_again_once_it_has_answered() {
        let (hangs, other) = (Path::new("/hangs"), Path::new("/other"));
        let (answer, waits) = mpsc::channel::<()>();
        let late = Look::begin(hangs, move || Ok(waits.recv().is_ok()));
        let quick = Look::begin(other, || Ok(true));
        assert!(quick.end().unwrap());
        let begun = Instant::now() - PATIENCE;
        assert_eq!(Look { begun, ..late }.end().unwrap_err().kind(), io::ErrorKind::TimedOut);
        let again = || Look::begin(hangs, || Ok(true)).end();
        assert_eq!(again().unwrap_err().to_string(), "it does not answer");
        answer.send(()).unwrap();
        while again().is_err() {
            thread::yield_now();
        }
    }
}

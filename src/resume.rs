//! What a target keeps of packages that did not arrive whole, and how much of it is right.
//!
//! A target says behind its hello of which packages it keeps a part. Only when one of them is sent is
//! it asked what that is: it tells the digest of each file, and what agrees with the files here
//! needs not be sent again.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use blat_target::manifest::ENTRIES_MAX;
use blat_target::message::{Digest, Partial, ToHost};

use crate::delta::beginning;
use crate::failure::{Failure, Result};
use crate::pack::Scan;
use crate::packer::STALL;
use crate::progress::Progress;

/// How often to look whether the target is still alive.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the target says of it, and what it said.
pub(crate) struct Partials {
    answers: Receiver<ToHost>,
    known: Vec<Partial>,
}

/// What is kept of a package.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Of the files that are complete, in the manifest's order.
    pub(crate) digests: Vec<Digest>,
    /// How much there is of the next one, and its digest.
    pub(crate) part: Option<(u64, Digest)>,
}

impl Partials {
    pub(crate) fn new(answers: Receiver<ToHost>) -> Self {
        Self { answers, known: Vec::new() }
    }

    /// The package, if something is kept of it; it is told once.
    pub(crate) fn take(&mut self, what: impl FnOnce() -> Partial) -> Option<Partial> {
        for said in self.answers.try_iter() {
            if let ToHost::Partial(partials) = said {
                self.known.extend(partials);
            }
        }
        if self.known.is_empty() {
            return None;
        }
        let what = what();
        let count = self.known.len();
        self.known.retain(|known| *known != what);
        (self.known.len() < count).then_some(what)
    }

    /// Hears what is kept of a package that was asked about.
    pub(crate) fn kept(&self, progress: &Progress) -> Result<Kept> {
        let mut kept = Kept::default();
        loop {
            match self.answers.recv_timeout(LOOK_EVERY) {
                Ok(ToHost::Kept(digests)) if kept.digests.len() as u64 <= ENTRIES_MAX => {
                    kept.digests.extend(digests);
                }
                Ok(ToHost::Kept(_)) => {
                    return Err(Failure::later(anyhow::anyhow!("the target keeps more than there is")));
                }
                Ok(ToHost::KeptPart { bytes, digest }) => {
                    kept.part = (bytes > 0).then_some((bytes, digest));
                    return Ok(kept);
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if progress.idle() < STALL => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::later(anyhow::anyhow!("the target does not say what it keeps")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::later(anyhow::anyhow!("the session is over")));
                }
            }
        }
    }
}

/// How much of a package is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// So many of its regular files,
    pub(crate) files: usize,
    /// and so many bytes of the next one.
    pub(crate) bytes: u64,
}

impl Start {
    /// How much of what is kept is what is here.
    pub(crate) fn of(kept: &Kept, scan: &Scan, digests: &[Digest], progress: &Progress) -> Result<Self> {
        let files = kept.digests.iter().zip(digests).take_while(|(kept, here)| kept == here).count();
        let next = scan.manifest.files().nth(files);
        let start = match (kept.part, next) {
            (Some((bytes, digest)), Some((entry, size, _)))
                if files == kept.digests.len() && bytes < size =>
            {
                let agrees = beginning(&scan.path(entry), bytes, progress)? == digest;
                Self { files, bytes: if agrees { bytes } else { 0 } }
            }
            _ => Self { files, bytes: 0 },
        };
        Ok(start)
    }

    /// How many bytes that is.
    pub(crate) fn total(self, scan: &Scan) -> u64 {
        scan.manifest.files().take(self.files).map(|(_, size, _)| size).sum::<u64>() + self.bytes
    }
}

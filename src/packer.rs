//! The packer: a thread that turns jobs into messages and plain bytes, in order. The press
//! ([`crate::press`]) makes frames of them meanwhile.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc as jobs;
use std::thread;
use std::time::Duration;

use blat_target::manifest::{ENTRIES_MAX, MANIFEST_MAX};
use blat_target::message::{Digest, PackageHead, Standing, ToTarget};
use blat_target::package::PackageVersion;
use tokio::sync::mpsc;

use crate::failure::{Failure, Needs, Result};
use crate::pack::{self, Scan};
use crate::press::Press;
use crate::progress::Progress;
use crate::session::Heard;

/// A target on which nothing moves for so long hangs.
pub(crate) const STALL: Duration = Duration::from_secs(45);

/// Something to put on the wire.
#[derive(Debug)]
pub(crate) enum Job {
    Say(ToTarget),
    Package { number: u64, id: PackageVersion, folder: PathBuf },
    Link { number: u64, id: PackageVersion, text: Vec<u8>, link: PathBuf },
    PackageList { number: u64, text: Vec<u8> },
    Delete { number: u64, id: PackageVersion, stands: Standing },
    Helper { number: u64, program: Vec<u8> },
    Done,
}

/// A package whose bytes were all sent.
#[derive(Debug)]
pub struct Packed {
    pub number: u64,
    /// The sum of its files' sizes, in bytes.
    pub bytes: u64,
    /// Entries whose set-id bits did not travel.
    pub dropped_bits: Vec<PathBuf>,
}

/// Starts the thread. It ends with its jobs, or when nobody takes its frames any more.
pub(crate) fn start(
    jobs: jobs::Receiver<Job>,
    frames: mpsc::Sender<Vec<u8>>,
    hear: mpsc::Sender<Heard>,
    progress: Progress,
) {
    thread::spawn(move || {
        let press = Press::start(frames, hear.clone());
        if let Err(failure) = (Packer { press, progress, sent: 0 }).run(&jobs) {
            // The session has ended already when this cannot be said any more.
            let _ = hear.blocking_send(Heard::Broken(failure));
        }
    });
}

struct Packer {
    press: Press,
    progress: Progress,
    /// How many packages, links, lists and deletions were sent.
    sent: u64,
}

impl Packer {
    fn run(mut self, jobs: &jobs::Receiver<Job>) -> Result<()> {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Say(message) => self.press.say(message)?,
                Job::Done => self.press.say(ToTarget::Done { sent: self.sent })?,
                Job::Link { number, id, text, link } => self.link(number, id, text, &link)?,
                Job::PackageList { number, text } => self.package_list(number, &text)?,
                Job::Delete { number, id, stands } => {
                    self.sent += 1;
                    self.press.say(ToTarget::Delete { number, id, stands })?;
                }
                Job::Helper { number, program } => self.helper(number, &program)?,
                Job::Package { number, id, folder } => self.package(number, id, &folder)?,
            }
        }
        Ok(())
    }

    /// Sends a package. What it leads to is heard of it; an error ends the session.
    fn package(&mut self, number: u64, id: PackageVersion, folder: &Path) -> Result<()> {
        let (scan, manifest) = match scan(folder, &self.progress) {
            Ok(scanned) => scanned,
            Err(failure) => return self.press.tell(Heard::Unreadable { number, failure }),
        };
        let head = PackageHead { number, id, stamp: scan.stamp, manifest_length: manifest.len() as u32 };
        self.sent += 1;
        self.press.say(ToTarget::Package(head))?;
        let written = scan.write(&manifest, &mut self.press);
        self.press.flush().later("cannot send")?;
        if let Err(failure) = written {
            return self.press.say(ToTarget::Abandon(failure.to_string()));
        }
        self.press.say(ToTarget::PackageEnd)?;
        let bytes = scan.manifest.bytes();
        self.press.tell(Heard::Packed(Packed { number, bytes, dropped_bits: scan.dropped_bits }))
    }

    /// Sends a link.
    fn link(&mut self, number: u64, id: PackageVersion, text: Vec<u8>, link: &Path) -> Result<()> {
        let attempt = || format!("cannot look at the link {}", link.display());
        match std::fs::symlink_metadata(link).later(attempt()) {
            Ok(found) => {
                self.sent += 1;
                self.press.say(ToTarget::Link { number, id, text, modified: pack::time(&found) })
            }
            Err(failure) => self.press.tell(Heard::Unreadable { number, failure }),
        }
    }

    fn package_list(&mut self, number: u64, text: &[u8]) -> Result<()> {
        let digest = Digest(*blake3::hash(text).as_bytes());
        self.whole_file(ToTarget::PackageList { number, length: text.len() as u64, digest }, text)
    }

    fn helper(&mut self, number: u64, program: &[u8]) -> Result<()> {
        let digest = Digest(*blake3::hash(program).as_bytes());
        self.whole_file(ToTarget::Replace { number, length: program.len() as u64, digest }, program)
    }

    fn whole_file(&mut self, head: ToTarget, content: &[u8]) -> Result<()> {
        self.sent += 1;
        self.press.say(head)?;
        self.press.write_all(content).and_then(|()| self.press.flush()).later("cannot send")?;
        self.press.say(ToTarget::PackageEnd)
    }
}

fn scan(folder: &Path, progress: &Progress) -> Result<(Scan, Vec<u8>)> {
    let scan = pack::scan(folder, progress)?;
    let manifest = scan.manifest.encode();
    if manifest.len() > MANIFEST_MAX as usize || scan.manifest.entries.len() as u64 > ENTRIES_MAX {
        let entries = scan.manifest.entries.len();
        return Err(Failure::person(anyhow::anyhow!(
            "{} has {entries} entries, more than the {ENTRIES_MAX} that a package-version may have (or too long names)",
            folder.display()
        )));
    }
    Ok((scan, manifest))
}

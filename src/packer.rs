//! The packer: a thread that turns jobs into messages and plain bytes, in order. The press
//! ([`crate::press`]) makes frames of them meanwhile.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use blat_target::manifest::{ENTRIES_MAX, MANIFEST_MAX};
use blat_target::message::{
    DeltaHead, Digest, PROTOCOL_OF_RELOCATIONS, PackageHead, Partial, RestHead, Standing, ToHost, ToTarget,
    window_log_max,
};
use blat_target::package::{Name, PackageVersion};
use tokio::sync::mpsc;

use crate::bases::Base;
use crate::delta::{Cache, Delta, Made, Mend};
use crate::failure::{Failure, Needs, Result};
use crate::jobs::Jobs;
use crate::memory::Memory;
use crate::outlet::Outgoing;
use crate::pack::{self, Scan};
use crate::press::{Packing, Press};
use crate::progress::Progress;
use crate::ready::{Ready, Store, Told};
use crate::resume::{Kept, Partials, Start};
use crate::session::{Answered, Heard, Means};

/// A target on which nothing moves for so long hangs.
pub(crate) const STALL: Duration = Duration::from_secs(45);

/// Something to put on the wire.
#[derive(Debug)]
pub(crate) enum Job {
    Say(ToTarget),
    Package {
        number: u64,
        id: PackageVersion,
        folder: PathBuf,
        bases: Vec<Base>,
    },
    /// The target is in doubt about package `number`: what it made of some groups of its files.
    Mend {
        number: u64,
        id: PackageVersion,
        folder: PathBuf,
        made: Vec<Made>,
    },
    Link {
        number: u64,
        id: PackageVersion,
        text: Vec<u8>,
        link: PathBuf,
    },
    PackageList {
        number: u64,
        text: Vec<u8>,
    },
    Delete {
        number: u64,
        id: PackageVersion,
        stands: Standing,
    },
    Helper {
        number: u64,
        program: Vec<u8>,
    },
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

/// Files that the target could not make of what it has, and that were sent in full.
#[derive(Debug)]
pub struct Mended {
    pub number: u64,
    pub base: Name,
    pub files: Vec<PathBuf>,
}

/// A package of which the target had a part.
#[derive(Debug)]
pub struct Resumed {
    pub number: u64,
    /// So much of its content is there already, in bytes.
    pub bytes: u64,
}

/// Where the packer's work goes, and how it learns what became of it.
pub(crate) struct Ways {
    pub(crate) frames: mpsc::Sender<Outgoing>,
    pub(crate) hear: mpsc::Sender<Heard>,
    /// What the target keeps of packages.
    pub(crate) answers: Receiver<ToHost>,
    pub(crate) answered: Answered,
}

/// Starts the thread. It ends with its jobs, or when nobody takes its frames any more.
pub(crate) fn start(protocol: u16, jobs: Jobs, ways: Ways, means: Means, progress: Progress) {
    thread::spawn(move || {
        let Ways { frames, hear, answers, answered } = ways;
        let Means { cache, memory, ready, .. } = means;
        let (window_log, threads) = (memory.window_log(protocol), memory.packers());
        let press = Press::start(window_log, threads, frames, hear.clone(), progress.clone());
        let partials = Partials::new(answers);
        let packer = Packer {
            protocol,
            press,
            progress,
            cache,
            memory,
            ready,
            partials,
            answered,
            bases: HashMap::new(),
            sent: 0,
        };
        if let Err(failure) = packer.run(&jobs) {
            // The session has ended already when this cannot be said any more.
            let _ = hear.blocking_send(Heard::Broken(failure));
        }
    });
}

struct Packer {
    /// The session's.
    protocol: u16,
    press: Press,
    progress: Progress,
    cache: Cache,
    memory: Memory,
    partials: Partials,
    ready: Store,
    answered: Answered,
    /// By what the packages were told that were, and the digests of their manifests.
    bases: HashMap<u64, (Name, blake3::Hash)>,
    /// How many packages, links, lists and deletions were sent.
    sent: u64,
}

impl Packer {
    fn run(mut self, jobs: &Jobs) -> Result<()> {
        while let Some(job) = jobs.next() {
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
                Job::Package { number, id, folder, bases } => self.package(number, id, &folder, &bases)?,
                Job::Mend { number, id, folder, made } => self.mend(number, &id, &folder, &made)?,
            }
        }
        Ok(())
    }

    /// Sends a package. What it leads to is heard of it; an error ends the session.
    fn package(&mut self, number: u64, id: PackageVersion, folder: &Path, bases: &[Base]) -> Result<()> {
        let (scan, manifest) = match scan(folder, &self.progress) {
            Ok(scanned) => scanned,
            Err(failure) => return self.press.tell(Heard::Unreadable { number, failure }),
        };
        self.press.package(&id.package);
        let head = PackageHead { number, id, stamp: scan.stamp, manifest_length: manifest.len() as u32 };
        self.sent += 1;
        let kept = self.kept(&head, &manifest)?;
        if kept.is_none() && self.shares() && self.ready.serves(&head.id, scan.manifest.bytes()) {
            match self.make_ready(&head.id, &scan, &manifest, bases) {
                Ok(Some(ready)) => return self.send_ready(head, scan, &manifest, ready),
                Ok(None) => {}
                Err(failure) => {
                    self.sent -= 1;
                    return self.press.tell(Heard::Unreadable { number, failure });
                }
            }
        }
        let delta = self.delta_of(&head.id, &scan, bases);
        let (delta, start) = self.start(&head.id, &scan, delta, kept.as_ref());
        let written = match delta {
            Some(delta) if start != Start::default() => self.rest(head, &manifest, &delta, start)?,
            Some(delta) => self.delta(head, &manifest, &delta)?,
            None => {
                self.press.say(self.in_full(head))?;
                let by_tar = self.by_tar();
                write(&scan, &manifest, by_tar, &mut self.answered.until(number, &mut self.press))
            }
        };
        self.press.flush().later("cannot send")?;
        if let Err(failure) = written {
            tracing::debug!("package {number} is not sent to its end: {failure}");
            return self.press.say(ToTarget::Abandon(failure.to_string()));
        }
        self.press.say(ToTarget::PackageEnd)?;
        let bytes = scan.manifest.bytes();
        self.press.tell(Heard::Packed(Packed { number, bytes, dropped_bits: scan.dropped_bits }))
    }

    /// What the target keeps of the package, if it does.
    fn kept(&mut self, head: &PackageHead, manifest: &[u8]) -> Result<Option<Kept>> {
        let what = || {
            let manifest = Digest(*blake3::hash(manifest).as_bytes());
            Partial { id: head.id.clone(), stamp: head.stamp, manifest }
        };
        let Some(what) = self.partials.take(what) else { return Ok(None) };
        self.press.say(ToTarget::Resume(what))?;
        self.partials.kept(&self.progress).map(Some)
    }

    /// How the package is told, and from where on: from its beginning where nothing is kept of it that
    /// is right.
    fn start<'a>(
        &self,
        id: &PackageVersion,
        scan: &'a Scan,
        delta: Option<Delta<'a>>,
        kept: Option<&Kept>,
    ) -> (Option<Delta<'a>>, Start) {
        let Some(kept) = kept else { return (delta, Start::default()) };
        let find = || {
            let told = match &delta {
                Some(_) => None,
                None => Some(Delta::whole(id, scan, &self.cache, &self.progress)?),
            };
            let start = told.as_ref().or(delta.as_ref()).map(|told| told.start(kept, &self.progress));
            Ok::<_, Failure>((told, start.transpose()?.unwrap_or_default()))
        };
        match find() {
            Ok((told, start)) if start != Start::default() => (told.or(delta), start),
            Ok(_) => (delta, Start::default()),
            Err(why) => {
                tracing::debug!("{id}: {why}");
                (delta, Start::default())
            }
        }
    }

    /// Whether others could send what this one packs: one that has to be brief has a stream of its own.
    fn shares(&self) -> bool {
        self.window_log() == window_log_max(self.protocol)
    }

    fn window_log(&self) -> u32 {
        self.memory.window_log(self.protocol)
    }

    /// Whether a package in full goes in a tar.
    fn by_tar(&self) -> bool {
        self.protocol < ToTarget::PROTOCOL_OF_WHOLE
    }

    /// Whether a delta says where the parts of programs moved.
    fn relocates(&self) -> bool {
        self.protocol >= PROTOCOL_OF_RELOCATIONS
    }

    fn in_full(&self, head: PackageHead) -> ToTarget {
        if self.by_tar() { ToTarget::Package(head) } else { ToTarget::Whole(head) }
    }

    /// Has a package packed for all targets that need it now.
    fn make_ready(
        &self,
        id: &PackageVersion,
        scan: &Scan,
        manifest: &[u8],
        bases: &[Base],
    ) -> Result<Option<Ready>> {
        let first = Packing::first(self.progress.round_trip(), self.window_log());
        let packing = Packing { checksum: true, ..first };
        let mut key = blake3::Hasher::new();
        key.update(id.to_string().as_bytes()).update(&[0, self.by_tar().into(), self.relocates().into()]);
        key.update(&packing.level.to_le_bytes()).update(&[packing.long_distance.into()]).update(manifest);
        for base in bases {
            key.update(base.version.as_str().as_bytes()).update(&[0]).update(&base.stamp.0.to_le_bytes());
        }
        let bytes = scan.manifest.bytes();
        self.ready.take_or_make(&key.finalize(), bytes, packing, &self.progress, |mut out| {
            let Some(delta) = self.delta_of(id, scan, bases) else {
                return write(scan, manifest, self.by_tar(), &mut out).map(|()| None);
            };
            let recipe = delta.recipe();
            delta.write(manifest, &recipe, Start::default(), self.memory, &self.progress, &mut out)?;
            let recipe_length = recipe.len() as u32;
            Ok(delta.base.map(|(base, base_stamp)| Told { base, base_stamp, recipe_length }))
        })
    }

    /// Sends a package that is packed already.
    fn send_ready(&mut self, head: PackageHead, scan: Scan, manifest: &[u8], ready: Ready) -> Result<()> {
        let number = head.number;
        match ready.told.clone() {
            None => self.press.say(self.in_full(head))?,
            Some(Told { base, base_stamp, recipe_length }) => {
                self.is_told_by(&base, &head, manifest);
                self.press.say(ToTarget::Delta(DeltaHead { head, base, base_stamp, recipe_length }))?;
            }
        }
        self.ready.lend(number, &ready);
        self.press.ready(ready)?;
        self.press.say(ToTarget::PackageEnd)?;
        let bytes = scan.manifest.bytes();
        self.press.tell(Heard::Packed(Packed { number, bytes, dropped_bits: scan.dropped_bits }))
    }

    /// How a package is told by another. What keeps it from that is no obstacle to sending it whole.
    fn delta_of<'a>(&self, id: &PackageVersion, scan: &'a Scan, bases: &[Base]) -> Option<Delta<'a>> {
        let delta = Delta::of(self.relocates(), id, scan, bases, &self.cache, &self.progress);
        delta.inspect_err(|why| tracing::debug!("{id}: {why}")).ok().flatten()
    }

    /// Notes by what a package, or its rest, is told: the target may doubt it.
    fn is_told_by(&mut self, base: &Name, head: &PackageHead, manifest: &[u8]) {
        tracing::debug!("{} is told by {base}", head.id);
        self.bases.insert(head.number, (base.clone(), blake3::hash(manifest)));
    }

    /// Sends a package as what it is of another; the inner error is the package's own.
    fn delta(&mut self, head: PackageHead, manifest: &[u8], delta: &Delta) -> Result<Result<()>> {
        let recipe = delta.recipe();
        let recipe_length = recipe.len() as u32;
        let Some((base, base_stamp)) = delta.base.clone() else {
            return Err(Failure::later(anyhow::anyhow!("{} is told by nothing", head.id)));
        };
        let number = head.number;
        self.is_told_by(&base, &head, manifest);
        self.press.say(ToTarget::Delta(DeltaHead { head, base, base_stamp, recipe_length }))?;
        let mut out = self.answered.until(number, &mut self.press);
        Ok(delta.write(manifest, &recipe, Start::default(), self.memory, &self.progress, &mut out))
    }

    /// Sends the rest of a package; the inner error is the package's own.
    fn rest(
        &mut self,
        head: PackageHead,
        manifest: &[u8],
        delta: &Delta,
        start: Start,
    ) -> Result<Result<()>> {
        let recipe = delta.recipe();
        let (number, base) = (head.number, delta.base.clone());
        if let Some((base, _)) = &base {
            self.is_told_by(base, &head, manifest);
        }
        self.press.tell(Heard::Resumed(Resumed { number, bytes: delta.total(start) }))?;
        let (recipe_length, files) = (recipe.len() as u32, start.files as u32);
        let rest = RestHead { head, base, recipe_length, files, bytes: start.bytes };
        self.press.say(ToTarget::Rest(rest))?;
        let mut out = self.answered.until(number, &mut self.press);
        Ok(delta.write(manifest, &recipe, start, self.memory, &self.progress, &mut out))
    }

    /// Sends the files in full that the target could not make.
    fn mend(&mut self, number: u64, id: &PackageVersion, folder: &Path, made: &[Made]) -> Result<()> {
        let Some((base, manifest)) = self.bases.get(&number).cloned() else {
            return Err(Failure::later(anyhow::anyhow!("the target doubts what was not told by another")));
        };
        let mend = Mend::of(id, (&base, manifest), folder, made, &self.cache, &self.progress);
        let files = mend.as_ref().map_or(0, Mend::count);
        if files == 0 {
            // Its files are right, and not what was said of them; or nobody can tell any more.
            self.ready.spoiled(number);
        }
        self.press.say(ToTarget::Mend { number, files })?;
        let mut out = self.answered.until(number, &mut self.press);
        let written = mend.and_then(|mend| mend.write(&mut out).map(|()| mend.paths()));
        self.press.flush().later("cannot send")?;
        match written {
            Err(failure) => self.press.say(ToTarget::Abandon(failure.to_string())),
            Ok(files) => {
                self.press.say(ToTarget::PackageEnd)?;
                self.press.tell(Heard::Mended(Mended { number, base, files }))
            }
        }
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

/// Writes a package in full.
fn write(scan: &Scan, manifest: &[u8], by_tar: bool, out: &mut impl Write) -> Result<()> {
    if by_tar { scan.write_tar(manifest, out) } else { scan.write(manifest, out) }
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

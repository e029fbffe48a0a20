//! Going on with a package of which a part came before.
//!
//! What is kept ([`crate::partial`]) is read and told to the host, file by file in the manifest's order
//! up to the first that is missing, then as much of that as there is. The host says how much of it is
//! as it should be, and sends the rest. A new staging takes over just that: what is in the old one
//! beside it, or is not a regular file, goes with it; as does a hard link to a file of another version that
//! is not like it any more, for nothing is written into that. A crash between two of these steps leaves two
//! records of the package, and what it is in both of them counts.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::archive::Archive;
use crate::folder::Folder;
use crate::manifest::{Entry, Kind, Manifest};
use crate::message::{self, Digest, RestHead};
use crate::partial::{self, Partial};
use crate::refusal::Stop;
use crate::remove::unlocked;
use crate::stage::{Staging, is_like};

/// Files are read in pieces of so many bytes.
const PIECE: usize = 128 << 10;

/// What is kept of a package. Dropped, it stays kept.
pub(crate) struct Kept {
    archive: Arc<Archive>,
    what: message::Partial,
    held: Vec<(Partial, Folder)>,
    /// Of the complete files, in the manifest's order, from the first on.
    digests: Vec<Digest>,
    /// How much there is of the next one, and its digest.
    part: (u64, Digest),
}

/// What a new staging starts with.
#[derive(Default)]
pub(crate) struct Start {
    /// Of the files that are complete.
    pub(crate) digests: Vec<Digest>,
    /// The next one, if a part of it is there.
    pub(crate) part: Option<Part>,
}

/// A file of which a part is there.
pub(crate) struct Part {
    pub(crate) file: File,
    pub(crate) bytes: u64,
    pub(crate) hasher: blake3::Hasher,
}

impl Kept {
    /// Takes and reads what is kept of a package; nothing where somebody else works on it. Tells `moved`
    /// as it goes on.
    pub(crate) fn find(archive: &Arc<Archive>, what: message::Partial, moved: impl Fn()) -> Self {
        let held = partial::take(archive, &what);
        let manifest = held.iter().find_map(Partial::manifest);
        let open = |partial: Partial| partial.tree(archive).ok().map(|tree| (partial, tree));
        let held = held.into_iter().filter_map(open).collect();
        let nothing = (0, Digest(*blake3::hash(b"").as_bytes()));
        let mut kept = Self { archive: archive.clone(), what, held, digests: Vec::new(), part: nothing };
        if let Some(manifest) = manifest {
            kept.unlock(&manifest, &moved);
            kept.read(&manifest, moved);
        }
        kept
    }

    pub(crate) fn what(&self) -> &message::Partial {
        &self.what
    }

    pub(crate) fn digests(&self) -> &[Digest] {
        &self.digests
    }

    pub(crate) fn part(&self) -> (u64, Digest) {
        self.part
    }

    /// Gives the owner all rights in the folders: some may have had their final mode already.
    fn unlock(&self, manifest: &Manifest, moved: impl Fn()) {
        for (_, tree) in &self.held {
            let folders = manifest.entries.iter().filter(|entry| entry.kind == Kind::Folder);
            for (parent, name) in folders.map(Entry::split) {
                moved();
                let name = if name.is_empty() { b"." } else { name };
                let _ = tree.place(parent).and_then(|parent| unlocked(&parent, name));
            }
        }
    }

    fn read(&mut self, manifest: &Manifest, moved: impl Fn()) {
        let mut buffer = vec![0; PIECE];
        for (entry, size, _) in manifest.files() {
            moved();
            let Some((at, found)) = self.longest(entry, size) else { return };
            let open = || self.held[at].1.read(&entry.path).ok();
            let Some(hasher) = open().and_then(|file| hash(&file, found, &mut buffer, &moved)) else {
                return;
            };
            let digest = Digest(*hasher.finalize().as_bytes());
            if found < size {
                self.part = (found, digest);
                return;
            }
            self.digests.push(digest);
        }
    }

    /// Where most of a file is, and how much; no more than it should have.
    fn longest(&self, entry: &Entry, size: u64) -> Option<(usize, u64)> {
        let length = |(_, tree): &(Partial, Folder)| {
            let file = tree.read(&entry.path).ok()?;
            let found = file.metadata().ok()?;
            let own = found.nlink() == 1 || is_like(&file, entry, size);
            (found.is_file() && found.size() <= size && own).then_some(found.size())
        };
        let found = self.held.iter().enumerate().filter_map(|(at, held)| Some((at, length(held)?)));
        found.max_by_key(|(_, length)| *length)
    }

    /// Takes over as much as `rest` says. What remains goes.
    pub(crate) fn hand_over(
        self,
        rest: &RestHead,
        manifest: &Manifest,
        staging: &Staging,
        moved: impl Fn(),
    ) -> Result<Start, Stop> {
        let start = self.start(rest, manifest, staging, moved);
        self.discard();
        start
    }

    fn start(
        &self,
        rest: &RestHead,
        manifest: &Manifest,
        staging: &Staging,
        moved: impl Fn(),
    ) -> Result<Start, Stop> {
        let files = rest.files as usize;
        let most = if files < self.digests.len() { 0 } else { self.part.0 };
        if files > self.digests.len() || rest.bytes > most {
            return Err(Stop::person("the host goes on with more than is kept of it"));
        }
        let gone = || Stop::later("what was kept of it is gone");
        let mut due = manifest.files();
        for (entry, size, _) in due.by_ref().take(files) {
            let longest = self.longest(entry, size).filter(|(_, found)| *found == size);
            let (at, _) = longest.ok_or_else(gone)?;
            staging.take_over(entry, size, &self.held[at].1)?;
        }
        let mut start = Start { digests: self.digests[..files].to_vec(), part: None };
        if rest.bytes > 0 {
            let (entry, size, _) = due.next().ok_or_else(gone)?;
            let (at, _) = self.longest(entry, size).ok_or_else(gone)?;
            let file = staging.take_over_part(entry, &self.held[at].1, rest.bytes)?;
            let hasher = hash(&file, rest.bytes, &mut vec![0; PIECE], moved).ok_or_else(gone)?;
            start.part = Some(Part { file, bytes: rest.bytes, hasher });
        }
        Ok(start)
    }

    /// Removes what is kept.
    pub(crate) fn discard(self) {
        for (partial, _) in self.held {
            // What cannot be removed is tried again by a later session.
            let _ = partial.discard(&self.archive);
        }
    }
}

/// Hashes the first `left` bytes; none if they cannot be read.
fn hash(mut file: &File, mut left: u64, buffer: &mut [u8], moved: impl Fn()) -> Option<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = file.read(&mut buffer[..most]).ok().filter(|got| *got > 0)?;
        hasher.update(&buffer[..got]);
        left -= got as u64;
        moved();
    }
    Some(hasher)
}

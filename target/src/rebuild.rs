//! Building a package, from a base where there is one: files are cloned, or linked where the host asks for that,
//! or made of old ones and their changes.
//!
//! The base is advice. Nothing is taken from it but through held folders, and what was made of it
//! counts only under a seal: a group of files whose seal is broken is told to the host file by
//! file, and waits ([`Doubtful`]), staged, for those that are wrong to come in full.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::sys::stat::{SFlag, fstat};

use crate::archive::Archive;
use crate::clone::clone;
use crate::commit::{Pending, Unsynced};
use crate::delta::{
    CHUNK, DeltaError, GROUP, HEADER_LEN, Origin, RELOCATION_MAX, Recipe, Relocation, Source, Streams, seal,
};
use crate::folder::{Folder, kind};
use crate::inflate::Packed;
use crate::manifest::{Entry, MANIFEST_MAX, Manifest};
use crate::message::{DeltaHead, Digest, PROTOCOL_OF_RELOCATIONS, PackageHead, RestHead, Standing};
use crate::package::Name;
use crate::receive::{check_stamp, go_on, lied, manifest, write};
use crate::refusal::{Stop, errno, shown};
use crate::resume::{Kept, Part, Start};
use crate::sessions::Session;
use crate::stage::{Staging, is_like};
use crate::stamp::Stamp;

/// Files are read and written in pieces of so many bytes.
const PIECE: usize = 128 << 10;

/// What is known of a package before its bytes.
pub(crate) struct Told {
    pub(crate) head: PackageHead,
    base: Option<(Name, Stamp)>,
    /// None if all of it comes in full.
    recipe_length: Option<u32>,
    /// What is there of it already.
    rest: Option<(RestHead, Kept)>,
}

impl From<DeltaHead> for Told {
    fn from(delta: DeltaHead) -> Self {
        let base = Some((delta.base, delta.base_stamp));
        Self { head: delta.head, base, recipe_length: Some(delta.recipe_length), rest: None }
    }
}

impl Told {
    /// A package that comes in full.
    pub(crate) fn whole(head: PackageHead) -> Self {
        Self { head, base: None, recipe_length: None, rest: None }
    }

    /// A package that goes on.
    pub(crate) fn rest(rest: RestHead, kept: Kept) -> Self {
        let (head, base) = (rest.head.clone(), rest.base.clone());
        Self { head, base, recipe_length: Some(rest.recipe_length), rest: Some((rest, kept)) }
    }
}

/// What came of a package.
pub(crate) enum Rebuilt {
    Complete(Box<(Pending, Unsynced)>),
    Doubtful(Box<Doubtful>),
}

/// A package that is staged but for files that are wrong.
pub(crate) struct Doubtful {
    head: PackageHead,
    manifest: Manifest,
    staging: Staging,
    broken: Vec<Broken>,
}

/// A group whose seal is broken, and what was made of it.
pub(crate) struct Broken {
    pub(crate) group: u32,
    pub(crate) digests: Vec<Option<Digest>>,
    due: Digest,
}

/// Receives and stages a package that comes without a tar, up to its end. Its files may be hard links to the
/// base's, or not.
pub(crate) fn rebuild(
    told: Told,
    hard_links: bool,
    archive: &Arc<Archive>,
    session: &Arc<Session>,
    packed: &Packed,
) -> Result<Rebuilt, Stop> {
    let Told { head, base, recipe_length, rest } = told;
    let (manifest, encoded) = manifest(&head, packed)?;
    check_stamp(&head, &manifest)?;
    let recipe = match recipe_length {
        Some(length) => recipe(length, &manifest, packed)?,
        None => Recipe::whole(manifest.files().count()),
    };
    let staging = Staging::begin(archive, session, &head, (&manifest, &encoded))?;
    packed.holds(staging.partial());
    staging.lay_out(&manifest)?;
    let start = match rest {
        Some((rest, kept)) => start(&rest, kept, (&manifest, &encoded), &staging, packed)?,
        None => Start::default(),
    };
    drop(encoded);
    let making = Making {
        staging: &staging,
        base: base.as_ref().map_or(Base(None), |base| Base::open(archive, &head, base)),
        hard_links,
        packed,
        buffer: vec![0; PIECE],
    };
    let broken = staging.keep_if_cut(making.all(&manifest, &recipe, start))?;
    if broken.is_empty() {
        return complete(&head, &manifest, staging);
    }
    if base.is_none() {
        return Err(Stop::later("its files are not what they were when their seals were made"));
    }
    staging.rest();
    Ok(Rebuilt::Doubtful(Box::new(Doubtful { head, manifest, staging, broken })))
}

/// Takes over what is kept.
fn start(
    rest: &RestHead,
    kept: Kept,
    (manifest, encoded): (&Manifest, &[u8]),
    staging: &Staging,
    packed: &Packed,
) -> Result<Start, Stop> {
    if kept.what().manifest.0 != *blake3::hash(encoded).as_bytes() {
        return Err(Stop::person("what is kept of it has another manifest"));
    }
    kept.hand_over(rest, manifest, staging, || packed.moved())
}

fn complete(head: &PackageHead, manifest: &Manifest, staging: Staging) -> Result<Rebuilt, Stop> {
    let (hidden, unsynced) = staging.seal(manifest)?;
    Ok(Rebuilt::Complete(Box::new((Pending::version(head, hidden), unsynced))))
}

fn recipe(length: u32, manifest: &Manifest, packed: &Packed) -> Result<Recipe, Stop> {
    if length > MANIFEST_MAX {
        return Err(Stop::person(format!(
            "its recipe of {length} bytes is longer than the {MANIFEST_MAX} allowed"
        )));
    }
    packed.allow(length.into());
    let mut bytes = Vec::new();
    packed
        .take(length.into())
        .read_to_end(&mut bytes)
        .map_err(|_| packed.stop("its recipe cannot be read"))?;
    if bytes.len() != length as usize {
        return Err(packed.stop("it ends in the middle of its recipe"));
    }
    Recipe::decode(&bytes, manifest.files().count()).map_err(|why| Stop::person(why.to_string()))
}

/// Reads the seals, and returns the groups that do not keep theirs.
fn check_seals(made: &[Option<Digest>], packed: &Packed) -> Result<Vec<Broken>, Stop> {
    let mut broken = Vec::new();
    for (group, digests) in made.chunks(GROUP).enumerate() {
        let mut told = [0; 32];
        packed.exactly(&mut told, "its seals")?;
        let due = Digest(told);
        if !keeps(digests, due) {
            broken.push(Broken { group: group as u32, digests: digests.to_vec(), due });
        }
    }
    Ok(broken)
}

fn keeps(digests: &[Option<Digest>], due: Digest) -> bool {
    let all: Option<Vec<Digest>> = digests.iter().copied().collect();
    all.is_some_and(|all| seal(all) == due)
}

/// The base's folder; none if it is not there as the host knows it.
struct Base(Option<Folder>);

impl Base {
    fn open(archive: &Archive, head: &PackageHead, (base, stamp): &(Name, Stamp)) -> Self {
        let id = head.id.with_version(base.clone());
        let stands = archive.standing(&id) == Ok(Standing::Version(*stamp));
        Self(stands.then(|| archive.root.place(id.to_string().as_bytes()).ok()).flatten())
    }

    /// A regular file of it, with its size, if there is one that can be read.
    fn file(&self, path: &[u8]) -> Option<(File, u64)> {
        let file = self.0.as_ref()?.read(path).ok()?;
        let found = fstat(&file).ok()?;
        (kind(&found) == SFlag::S_IFREG).then_some((file, found.st_size as u64))
    }
}

/// All that is at hand while files are made.
struct Making<'a, 'p> {
    staging: &'a Staging,
    base: Base,
    hard_links: bool,
    packed: &'a Packed<'p>,
    buffer: Vec<u8>,
}

impl Making<'_, '_> {
    /// Makes all regular files from `start` on, up to the package's end; returns what is broken.
    fn all(self, manifest: &Manifest, recipe: &Recipe, start: Start) -> Result<Vec<Broken>, Stop> {
        let packed = self.packed;
        let made = self.files(manifest, recipe, start)?;
        let broken = check_seals(&made, packed)?;
        packed.finish()?;
        Ok(broken)
    }

    /// Makes all regular files from `start` on; returns the digest of each that could be made.
    fn files(
        mut self,
        manifest: &Manifest,
        recipe: &Recipe,
        start: Start,
    ) -> Result<Vec<Option<Digest>>, Stop> {
        let Start { digests, mut part } = start;
        let done = digests.len();
        let mut made: Vec<_> = digests.into_iter().map(Some).collect();
        for ((entry, size, _), source) in manifest.files().zip(&recipe.files).skip(done) {
            made.push(self.file(entry, size, source, part.take())?);
        }
        Ok(made)
    }

    /// Makes a file, of which a part may be there; returns its digest if it could be made.
    fn file(
        &mut self,
        entry: &Entry,
        size: u64,
        source: &Source,
        part: Option<Part>,
    ) -> Result<Option<Digest>, Stop> {
        let old = source.origin(&entry.path).and_then(|path| self.base.file(path));
        // Of the same path only: two files of one version stay two.
        let may_be_linked = self.hard_links && *source == Source::Same(Origin::SamePath) && part.is_none();
        if let (true, Some((old, _))) = (may_be_linked, &old)
            && self.staging.link(entry, size, old)
        {
            let mut hasher = blake3::Hasher::new();
            let good = self.read(old, size, &mut hasher, |_| Ok(()))? && is_like(old, entry, size);
            return Ok(good.then(|| Digest(*hasher.finalize().as_bytes())));
        }
        let Part { file, bytes: at, mut hasher } = match part {
            Some(part) => part,
            None => Part { file: self.staging.create(entry)?, bytes: 0, hasher: blake3::Hasher::new() },
        };
        let from = (&file, at, &mut hasher);
        let good = match source {
            Source::Whole => self.whole(entry, size, from)?,
            Source::Same(_) => self.same(entry, size, from, old)?,
            Source::Changed(_) => self.changed(entry, size, from, old.map(|(old, _)| old))?,
        };
        self.staging.finish(entry, file, size)?;
        Ok(good.then(|| Digest(*hasher.finalize().as_bytes())))
    }

    fn whole(
        &mut self,
        entry: &Entry,
        size: u64,
        (file, at, hasher): (&File, u64, &mut blake3::Hasher),
    ) -> Result<bool, Stop> {
        let left = size.checked_sub(at).ok_or_else(|| misplaced(entry))?;
        self.packed.allow(left);
        let mut from = self.packed;
        go_on(entry, left, (file, hasher), &mut from, self.staging, self.packed, &mut self.buffer)?;
        Ok(true)
    }

    fn same(
        &mut self,
        entry: &Entry,
        size: u64,
        (mut file, at, hasher): (&File, u64, &mut blake3::Hasher),
        old: Option<(File, u64)>,
    ) -> Result<bool, Stop> {
        if at > 0 {
            return Err(misplaced(entry));
        }
        let Some((old, _)) = old.filter(|(_, old_size)| *old_size == size) else { return Ok(false) };
        let (cloned, staging) = (clone(&old, file), self.staging);
        self.read(&old, size, hasher, |piece| {
            let written = if cloned { Ok(()) } else { file.write_all(piece) };
            written.map_err(|why| staging.refusal("write", entry, errno(&why)).into())
        })
    }

    /// Reads and hashes the first `left` bytes of an old file, each piece of which `then` gets; whether there
    /// are so many.
    fn read(
        &mut self,
        mut old: &File,
        mut left: u64,
        hasher: &mut blake3::Hasher,
        mut then: impl FnMut(&[u8]) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        while left > 0 {
            let most = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let Ok(got @ 1..) = old.read(&mut self.buffer[..most]) else { return Ok(false) };
            hasher.update(&self.buffer[..got]);
            then(&self.buffer[..got])?;
            left -= got as u64;
            self.packed.moved();
        }
        Ok(true)
    }

    /// Takes a file's changes; makes nothing of them where there is no old file.
    fn changed(
        &mut self,
        entry: &Entry,
        size: u64,
        (mut file, mut at, hasher): (&File, u64, &mut blake3::Hasher),
        old: Option<File>,
    ) -> Result<bool, Stop> {
        if !at.is_multiple_of(CHUNK as u64) {
            return Err(misplaced(entry));
        }
        let (mut good, mut relocation) = (old.is_some(), Relocation::default());
        while at < size {
            let makes = usize::try_from(size - at).unwrap_or(usize::MAX).min(CHUNK);
            if let Some(another) = self.relocation()? {
                relocation = another;
            }
            let streams = self.streams(makes)?;
            let read = |place: u64, buffer: &mut [u8]| {
                good = good && old.as_ref().is_some_and(|old| old.read_exact_at(buffer, place).is_ok());
            };
            let made = streams.make(at, makes, &relocation, read);
            let made = made.map_err(|why| Stop::person(why.to_string()))?;
            if good {
                hasher.update(&made);
                let written = file.write_all(&made);
                written.map_err(|why| self.staging.refusal("write", entry, errno(&why)))?;
            }
            at += makes as u64;
        }
        Ok(good)
    }

    /// Where the program's parts moved, if that is said with the next chunk.
    fn relocation(&self) -> Result<Option<Relocation>, Stop> {
        if self.packed.protocol() < PROTOCOL_OF_RELOCATIONS {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.packed.exactly(&mut length, "its changes")?;
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            return Ok(None);
        }
        let decoded = if length > RELOCATION_MAX {
            Err(DeltaError::Relocation)
        } else {
            let mut bytes = vec![0; length];
            self.packed.exactly(&mut bytes, "its changes")?;
            Relocation::decode(&bytes)
        };
        decoded.map(Some).map_err(|why| Stop::person(why.to_string()))
    }

    fn streams(&self, makes: usize) -> Result<Streams, Stop> {
        let mut header = [0; HEADER_LEN];
        self.packed.exactly(&mut header, "its changes")?;
        let lengths = Streams::lengths(header, makes).map_err(|why| Stop::person(why.to_string()))?;
        let mut parts = lengths.map(|length| vec![0; length]);
        for part in &mut parts {
            self.packed.exactly(part, "its changes")?;
        }
        let [operations, runs, differences, new] = parts;
        Ok(Streams { operations, runs, differences, new })
    }
}

/// The host goes on in the middle of a file where that cannot be.
fn misplaced(entry: &Entry) -> Stop {
    Stop::person(format!("it goes on in the middle of {:?}, which cannot be", shown(&entry.path)))
}

impl Doubtful {
    /// Leaves it to a later session, if it is large.
    pub(crate) fn keep(&self) {
        self.staging.keep();
    }

    pub(crate) fn head(&self) -> &PackageHead {
        &self.head
    }

    /// How much of a session's memory it takes, in entries of its manifest.
    pub(crate) fn entries(&self) -> usize {
        self.manifest.entries.len()
    }

    pub(crate) fn broken(&self) -> &[Broken] {
        &self.broken
    }

    /// Takes `count` files that come in full, and makes sure that every seal is kept then.
    pub(crate) fn mend(mut self, count: u32, packed: &Packed) -> Result<(Pending, Unsynced), Stop> {
        packed.holds(self.staging.partial());
        let taken = self.take(count, packed);
        self.staging.keep_if_cut(taken)?;
        if self.broken.iter().any(|broken| !keeps(&broken.digests, broken.due)) {
            return Err(Stop::later("its files are not what they were when their seals were made"));
        }
        let (hidden, unsynced) = self.staging.seal(&self.manifest)?;
        Ok((Pending::version(&self.head, hidden), unsynced))
    }

    fn take(&mut self, count: u32, packed: &Packed) -> Result<(), Stop> {
        let wrong = self.numbers(count, packed)?;
        let files: Vec<_> = self.manifest.files().map(|(entry, size, _)| (entry, size)).collect();
        let mut buffer = vec![0; PIECE];
        for number in wrong {
            let (entry, size) = files[number];
            self.staging.discard(entry)?;
            let file = self.staging.create(entry)?;
            packed.allow(size);
            let mut from = packed;
            let came = write(entry, size, &file, &mut from, &self.staging, packed, &mut buffer)?;
            let mut told = [0; 32];
            packed.exactly(&mut told, "a digest")?;
            if told != came.0 {
                return Err(lied(entry));
            }
            self.staging.finish(entry, file, size)?;
            let group = self.broken.iter_mut().find(|broken| broken.group as usize == number / GROUP);
            group.expect("numbers are of broken groups").digests[number % GROUP] = Some(came);
        }
        packed.finish()
    }

    /// Reads which files come: of broken groups only, in rising order.
    fn numbers(&self, count: u32, packed: &Packed) -> Result<Vec<usize>, Stop> {
        let count = count as usize;
        let most: usize = self.broken.iter().map(|broken| broken.digests.len()).sum();
        if count > most {
            return Err(Stop::person(format!("{count} files are to be mended, but {most} are in doubt")));
        }
        packed.announce(self.manifest.bytes().saturating_add(36 * count as u64));
        let mut bytes = vec![0; 4 * count];
        packed.exactly(&mut bytes, "the numbers of its files")?;
        let all = bytes.chunks_exact(4).map(|number| u32::from_le_bytes(number.try_into().expect("four")));
        let numbers: Vec<usize> = all.map(|number| number as usize).collect();
        let doubtful = |number: &usize| {
            let mut broken = self.broken.iter();
            broken.any(|it| it.group as usize == number / GROUP && number % GROUP < it.digests.len())
        };
        if !numbers.is_sorted_by(|a, b| a < b) || !numbers.iter().all(doubtful) {
            return Err(Stop::person("files are to be mended that are not in doubt, or not in their order"));
        }
        Ok(numbers)
    }
}

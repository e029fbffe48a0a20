//! Receiving one package: its manifest judges, its tar only carries.
//!
//! The tar is parsed, never unpacked: an entry counts only if it is the regular file
//! that the manifest has next, under the very path and with the very size. Every step
//! is allowed just the bytes that it can need, so a package that lies is refused at
//! the first byte too many.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tar::EntryType;

use crate::archive::Archive;
use crate::commit::{Pending, Unsynced};
use crate::inflate::Packed;
use crate::manifest::{Entry, Kind, MANIFEST_MAX, Manifest, PATH_MAX};
use crate::message::{Digest, PackageHead};
use crate::refusal::{Stop, errno, shown};
use crate::sessions::Session;
use crate::stage::Staging;
use crate::stamp::DESCPKG;

/// A block of a tar, in bytes.
const BLOCK: u64 = 512;
/// Of a large file, so many bytes at a time are written to disk while more come.
const WRITE_OUT: u64 = 16 << 20;
/// What may stand before a file's content: the padding of the one before, its header, and
/// extension headers with paths of [`PATH_MAX`].
const HEADERS_MAX: u64 = BLOCK + 5 * BLOCK + 2 * (PATH_MAX as u64 + 2 * BLOCK);

/// Receives and stages a package, up to its end; what is left of it is then `packed`'s.
pub(crate) fn receive(
    head: &PackageHead,
    archive: &Arc<Archive>,
    session: &Arc<Session>,
    packed: &Packed,
) -> Result<(Pending, Unsynced), Stop> {
    let (manifest, encoded) = manifest(head, packed)?;
    check_stamp(head, &manifest)?;
    let staging = Staging::begin(archive, session, head, (&manifest, &encoded))?;
    drop(encoded);
    packed.holds(staging.partial());
    staging.keep_if_cut(fill(&manifest, &staging, packed))?;
    let (hidden, unsynced) = staging.seal(&manifest)?;
    Ok((Pending::version(head, hidden), unsynced))
}

fn fill(manifest: &Manifest, staging: &Staging, packed: &Packed) -> Result<(), Stop> {
    staging.lay_out(manifest)?;
    let found = files(manifest, staging, packed)?;
    check_trailers(manifest, &found, packed)?;
    packed.finish()
}

/// Reads the manifest, and tells `packed` how much may follow it; also returns it as it came.
pub(crate) fn manifest(head: &PackageHead, packed: &Packed) -> Result<(Manifest, Vec<u8>), Stop> {
    if head.manifest_length > MANIFEST_MAX {
        let length = head.manifest_length;
        return Err(Stop::person(format!(
            "its manifest of {length} bytes is longer than the {MANIFEST_MAX} allowed"
        )));
    }
    let length = u64::from(head.manifest_length);
    packed.allow(length);
    let mut bytes = Vec::new();
    packed.take(length).read_to_end(&mut bytes).map_err(|_| packed.stop("its manifest cannot be read"))?;
    if bytes.len() as u64 != length {
        return Err(packed.stop("it ends in the middle of its manifest"));
    }
    let manifest = Manifest::decode(&bytes).map_err(|why| Stop::person(why.to_string()))?;
    packed.announce(announced(&manifest));
    Ok((manifest, bytes))
}

/// The most that can follow an honest package's manifest, in bytes: a tar, or a recipe and changes.
fn announced(manifest: &Manifest) -> u64 {
    let files = manifest.files().count() as u64;
    let bytes = manifest.bytes();
    bytes.saturating_add(bytes >> 14).saturating_add((files + 2) * HEADERS_MAX)
}

/// The manifest must hold the `descpkg` whose time is the stamp.
pub(crate) fn check_stamp(head: &PackageHead, manifest: &Manifest) -> Result<(), Stop> {
    let is_descpkg = |entry: &&Entry| entry.path == DESCPKG.as_bytes();
    match manifest.entries.iter().find(is_descpkg) {
        Some(Entry { kind: Kind::File { .. }, modified, .. }) if modified.seconds == head.stamp.0 => Ok(()),
        Some(Entry { kind: Kind::File { .. }, modified, .. }) => Err(Stop::person(format!(
            "it was announced with the stamp {}, but its descpkg has {}",
            head.stamp, modified.seconds
        ))),
        Some(_) => Err(Stop::person("its descpkg is not a regular file")),
        None => Err(Stop::person("it has no descpkg")),
    }
}

/// Writes all regular files out of the tar; returns the digests of what came.
fn files(manifest: &Manifest, staging: &Staging, packed: &Packed) -> Result<Vec<Digest>, Stop> {
    let mut tar = tar::Archive::new(packed);
    let mut carried = tar.entries().map_err(|why| packed.stop(why))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 128 << 10];
    for (entry, size, digest) in manifest.files() {
        packed.allow(HEADERS_MAX);
        let next = carried
            .next()
            .transpose()
            .map_err(|why| packed.stop(format_args!("its tar is broken: {why}")))?;
        let Some(mut next) = next else {
            return Err(packed.stop(format_args!("the file {:?} is missing from it", shown(&entry.path))));
        };
        check_header(entry, size, &next)?;
        packed.allow(size);
        let file = staging.create(entry)?;
        let came = write(entry, size, &file, &mut next, staging, packed, &mut buffer)?;
        if digest.is_some_and(|digest| digest != came) {
            return Err(lied(entry));
        }
        if digest.is_none() {
            found.push(came);
        }
        staging.finish(entry, file, size)?;
    }
    packed.allow(HEADERS_MAX);
    let next =
        carried.next().transpose().map_err(|why| packed.stop(format_args!("its tar is broken: {why}")))?;
    match next {
        None => Ok(found),
        Some(next) => Err(Stop::person(format!(
            "it carries {:?}, which its manifest does not announce there",
            shown(&next.path_bytes())
        ))),
    }
}

/// Whether what the tar has next is the file that the manifest has next.
fn check_header<R: Read>(entry: &Entry, size: u64, next: &tar::Entry<R>) -> Result<(), Stop> {
    let path = shown(&next.path_bytes());
    if *next.path_bytes() != entry.path {
        let due = shown(&entry.path);
        return Err(Stop::person(format!("it carries {path:?} where its manifest announces {due:?}")));
    }
    if next.header().entry_type() != EntryType::Regular {
        return Err(Stop::person(format!("it carries {path:?} as something else than a regular file")));
    }
    if next.size() != size {
        let came = next.size();
        return Err(Stop::person(format!(
            "the file {path:?} was announced with {size} bytes, but has {came}"
        )));
    }
    Ok(())
}

/// Writes a file's content, and returns its digest.
pub(crate) fn write(
    entry: &Entry,
    size: u64,
    file: &File,
    from: &mut impl Read,
    staging: &Staging,
    packed: &Packed,
    buffer: &mut [u8],
) -> Result<Digest, Stop> {
    let mut hasher = blake3::Hasher::new();
    go_on(entry, size, (file, &mut hasher), from, staging, packed, buffer)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// Writes the last `left` bytes of a file's content.
pub(crate) fn go_on(
    entry: &Entry,
    mut left: u64,
    (mut file, hasher): (&File, &mut blake3::Hasher),
    from: &mut impl Read,
    staging: &Staging,
    packed: &Packed,
    buffer: &mut [u8],
) -> Result<(), Stop> {
    let cut = || packed.stop(format_args!("it ends in the middle of {:?}", shown(&entry.path)));
    let mut waiting = 0;
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let came = from.read(&mut buffer[..most]).map_err(|_| cut())?;
        if came == 0 {
            return Err(cut());
        }
        hasher.update(&buffer[..came]);
        file.write_all(&buffer[..came]).map_err(|why| staging.refusal("write", entry, errno(&why)))?;
        left -= came as u64;
        waiting += came as u64;
        if waiting >= WRITE_OUT {
            write_out(file, waiting);
            waiting = 0;
        }
    }
    Ok(())
}

/// Has the kernel begin to write the last `bytes` of a file to disk, so that not all of a large one is
/// left for the end, when it is synced. Where it does not, that takes longer.
fn write_out(mut file: &File, bytes: u64) {
    let Ok(end) = file.stream_position() else { return };
    let begin = end.saturating_sub(bytes);
    let (begin, bytes) = (begin as i64, bytes as i64);
    // Pages that are not on disk yet stay in memory, and are what this is about.
    let _ = posix_fadvise(file, begin, bytes, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Reads the tar's second empty block and the digests that were not known beforehand.
fn check_trailers(manifest: &Manifest, found: &[Digest], packed: &Packed) -> Result<(), Stop> {
    let mut block = [0; BLOCK as usize];
    packed.exactly(&mut block, "its tar's end")?;
    if block.iter().any(|byte| *byte != 0) {
        return Err(Stop::person("its tar does not end with two empty blocks"));
    }
    let unknown = manifest.files().filter(|(_, _, digest)| digest.is_none());
    for ((entry, ..), found) in unknown.zip(found) {
        let mut told = [0; 32];
        packed.exactly(&mut told, "its digests")?;
        if told != found.0 {
            return Err(lied(entry));
        }
    }
    Ok(())
}

pub(crate) fn lied(entry: &Entry) -> Stop {
    Stop::person(format!("the content of {:?} is not what its digest says", shown(&entry.path)))
}

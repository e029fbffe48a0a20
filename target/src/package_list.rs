//! The PackageList on the target, `.dpkg_archive/package_list.txt`.
//!
//! It is written beside its place, checked, synced and renamed into it: a reader finds the old
//! list or the new one, whole, and a crash leaves at most the draft, which the next one replaces.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use crate::archive::{Archive, OWN_FOLDER, open_or_make};
use crate::folder::Folder;
use crate::inflate::Packed;
use crate::message::{Digest, Outcome, PACKAGE_LIST_MAX};
use crate::partial::make_room;
use crate::refusal::{Stop, refusal};
use crate::whole_file::Announced;

const NAME: &[u8] = b"package_list.txt";
const DRAFT: &[u8] = b".package_list.new";

/// The digest of the list that lies there, if one does that can be read.
pub(crate) fn digest(archive: &Archive) -> Option<Digest> {
    let own = archive.root.below(OWN_FOLDER.as_bytes()).ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(own.read(NAME).ok()?).ok()?;
    Some(Digest(*hasher.finalize().as_bytes()))
}

/// Takes a list of `length` bytes out of the packed stream, and puts it in its place.
pub(crate) fn receive(
    archive: &Archive,
    length: u64,
    digest: Digest,
    packed: &Packed,
) -> Result<Outcome, Stop> {
    if length > PACKAGE_LIST_MAX {
        return Err(Stop::person(format!("{length} bytes are more than the {PACKAGE_LIST_MAX} allowed")));
    }
    packed.announce(length);
    let written = |why| {
        make_room(archive, why);
        Stop::from(refusal(format_args!("write {OWN_FOLDER}/package_list.txt"), why))
    };
    let (own, _) = open_or_make(&archive.root, OWN_FOLDER.as_bytes()).map_err(written)?;
    let placed = draft(&own).map_err(written).and_then(|draft| {
        Announced { length, digest, mode: 0o644 }.receive(&draft, packed, written)?;
        own.rename(DRAFT, NAME, RenameFlags::empty()).and_then(|()| own.sync()).map_err(written)
    });
    if placed.is_err() {
        let _ = own.unlink(DRAFT);
    }
    placed.map(|()| Outcome::Committed { replaced: true })
}

/// A new draft; one that a killed session left goes.
fn draft(own: &Folder) -> nix::Result<File> {
    match own.unlink(DRAFT) {
        Ok(()) | Err(Errno::ENOENT) => own.create(DRAFT),
        Err(why) => Err(why),
    }
}

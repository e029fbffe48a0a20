//! Deletion of one package-version or link: looked at once more, taken out of sight, removed.
//!
//! In a turn ([`crate::turn`]), so that nobody receives, marks or takes a mark away meanwhile:
//! nothing goes while a person holds deletion back; nothing goes that has no mark, or that is not
//! what was marked; nothing goes that a link without a mark addresses. Then it is renamed to a hidden
//! name of the session, which is on record before, if the disk has room for that: a reader sees the whole of it
//! or none.
//!
//! After the turn the tree is removed. A crash before that leaves it hidden and on record, and a
//! later session removes it ([`crate::sessions`]); so does the next one where it could not be removed.

use std::sync::Arc;

use nix::errno::Errno;

use crate::archive::{Archive, standing_in};
use crate::folder::Folder;
use crate::mark::Mark;
use crate::message::{Refusal, Standing};
use crate::package::{Name, PackageVersion, link_target};
use crate::refusal::refusal;
use crate::sessions::Session;
use crate::stage::Hidden;
use crate::turn::Turn;

/// How a deletion begins.
pub(crate) enum Doomed {
    /// It is out of sight, and to be removed after the turn.
    Hidden(Hidden),
    /// Nothing stands there.
    Absent,
    /// It may not be deleted (any more), for this reason: that is no fault.
    Stays(String),
}

/// Takes what stands at `id` out of sight, if it is what was marked, its mark is the one that is meant, and it may be
/// deleted.
pub(crate) fn take_away(
    archive: &Arc<Archive>,
    session: &Arc<Session>,
    turn: &mut Turn<'_>,
    id: &PackageVersion,
    is_meant: impl Fn(&Mark) -> bool,
) -> Result<Doomed, Refusal> {
    let failed = |why| refusal(format_args!("delete {id}"), why);
    let folder = match archive.root.below(id.package.as_str().as_bytes()) {
        Ok(folder) => folder,
        Err(Errno::ENOENT) => return Ok(Doomed::Absent),
        Err(why) => return Err(failed(why)),
    };
    let standing = standing_in(&folder, &id.version).map_err(failed)?;
    if standing == Standing::Absent {
        return Ok(Doomed::Absent);
    }
    if let Some(why) = why_it_stays(turn, id, is_meant, &standing) {
        return Ok(Doomed::Stays(format!("{id} stays: {why}")));
    }
    if let Some(link) = link_without_mark(archive, turn, &folder, id).map_err(failed)? {
        return Ok(Doomed::Stays(format!("{id} stays: the link {link}, which has no mark, addresses it")));
    }
    Hidden::take(archive, session, id, folder).map(Doomed::Hidden).map_err(failed)
}

fn why_it_stays(
    turn: &mut Turn<'_>,
    id: &PackageVersion,
    is_meant: impl Fn(&Mark) -> bool,
    standing: &Standing,
) -> Option<&'static str> {
    if turn.is_held() {
        return Some(HELD);
    }
    if !matches!(standing, Standing::Version(_) | Standing::Link(_)) {
        return Some("it is neither a package-version nor a link");
    }
    match turn.marks().get(id) {
        None => Some("it has no mark (any more)"),
        Some(mark) if mark.stands != *standing => Some("it is not what was marked"),
        Some(mark) if !is_meant(mark) => Some("it was marked anew"),
        Some(_) => None,
    }
}

/// What is said of what is not deleted while a person holds deletion back.
pub(crate) const HELD: &str = "deletion is held back; `blat release-hold` ends that";

/// A link beside `id` that addresses it and has no mark that counts: someone may need it.
fn link_without_mark(
    archive: &Archive,
    turn: &mut Turn<'_>,
    folder: &Folder,
    id: &PackageVersion,
) -> nix::Result<Option<PackageVersion>> {
    for (link, text) in links_to(archive, folder, id)? {
        let counts = turn.marks().get(&link).is_some_and(|mark| mark.stands == Standing::Link(text));
        if !counts {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// The links in a package's folder that address `id` themselves, with their texts.
pub(crate) fn links_to(
    archive: &Archive,
    folder: &Folder,
    id: &PackageVersion,
) -> nix::Result<Vec<(PackageVersion, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in folder.names()? {
        archive.pulse.moved();
        let text = match folder.link_text(&name) {
            Ok(text) => text,
            // No link, or gone meanwhile.
            Err(Errno::EINVAL | Errno::ENOENT) => continue,
            Err(why) => return Err(why),
        };
        let name = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<Name>().ok());
        let Some(link) = name.map(|name| id.with_version(name)) else { continue };
        if link_target(&link, &text).as_ref() == Ok(id) {
            found.push((link, text));
        }
    }
    Ok(found)
}

/// Removes what was taken out of sight, and the package's folder if nothing else is in it.
///
/// # Errors
/// What could not be removed: it stays hidden and on record, for later sessions to try.
pub(crate) fn remove_hidden(archive: &Archive, id: &PackageVersion, hidden: Hidden) -> Result<(), Refusal> {
    let removed = hidden.remove();
    // Only an empty folder goes; who stages something there meanwhile makes it again.
    let _ = archive.root.rmdir(id.package.as_str().as_bytes());
    removed.map_err(|why| {
        let refusal = refusal(format_args!("remove all of {id}, which nobody sees any more"), why);
        Refusal { reason: format!("{}; later sessions try again", refusal.reason), ..refusal }
    })
}

//! Goes through the archive in the order of the list: what is known of a package-version is copied,
//! all else is walked.

use nix::Result;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstatat};

use super::compose::Compose;
use super::fragments::{Fragments, Known, Sign};
use super::walk::{Faults, items, walk};
use crate::archive::{LOST_AND_FOUND, OWN_FOLDER};
use crate::folder::{Folder, kind};
use crate::sessions::is_hidden;
use crate::stamp::DESCPKG;

/// Lists the whole archive.
pub(super) fn scan(
    root: &Folder,
    known: Fragments,
    compose: &mut Compose,
    faults: &mut Faults,
) -> Result<()> {
    let mut known = Known::new(known);
    let mut top = Dir::from_fd(root.below(b"")?.into())?;
    for item in items(&mut top, |name| name == OWN_FOLDER.as_bytes())? {
        let mut line = item.key;
        compose.line(&line);
        let Some(name) = item.folder else { continue };
        match package(root, &name, &mut line, &mut known, compose, faults) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => (),
            Err(Errno::EACCES) if name == LOST_AND_FOUND.as_bytes() => (),
            Err(why) => faults.add(&line, why),
        }
    }
    Ok(())
}

fn package(
    root: &Folder,
    name: &[u8],
    line: &mut Vec<u8>,
    known: &mut Known,
    compose: &mut Compose,
    faults: &mut Faults,
) -> Result<()> {
    let mut folder = Dir::from_fd(root.below(name)?.into())?;
    let items = items(&mut folder, is_hidden)?;
    // Opened only where something has to be walked.
    let mut top = None;
    let mut lines = Vec::new();
    let length = line.len();
    for item in items {
        line.extend_from_slice(&item.key);
        if let Some(version) = item.folder {
            let sign = sign(&folder, &version);
            let at = sign.and_then(|sign| Some((sign, known.take(line, sign)?)));
            if !at.is_some_and(|(sign, at)| compose.copy(line, sign, at)) {
                let top = match &top {
                    Some(top) => top,
                    None => top.insert(root.below(name)?),
                };
                lines.clear();
                lines.extend_from_slice(line);
                lines.push(b'\n');
                let whole = walk(top, &mut version.clone(), &mut line.clone(), &mut lines, faults);
                compose.fragment(line, sign.filter(|_| whole), &lines);
            }
        } else {
            compose.line(line);
        }
        line.truncate(length);
    }
    Ok(())
}

/// What tells whether a package-version is still the one that was walked.
fn sign(package: &Dir, version: &[u8]) -> Option<Sign> {
    let path = [version, b"/", DESCPKG.as_bytes()].concat();
    let found = fstatat(package, path.as_slice(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    (kind(&found) == SFlag::S_IFREG).then_some(Sign {
        seconds: found.st_mtime,
        nanoseconds: found.st_mtime_nsec,
        inode: found.st_ino,
    })
}

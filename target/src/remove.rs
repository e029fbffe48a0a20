//! Removing what stands at one name: a file, a symlink, or a whole tree.
//!
//! Trees that are read-only for their owner go as well: each folder is first made
//! writable by its owner. Nothing is followed (see [`crate::folder`]), and one or
//! two descriptors are enough however deep the tree is. A crash in the middle
//! leaves a smaller tree under the same name, which removing again finishes; that
//! is why only hidden names are ever handed in here.

use nix::Result;
use nix::errno::Errno;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat};

use crate::channel::Pulse;
use crate::folder::{Folder, by_descriptor, kind};

/// Removes whatever `name` is, with all that is in it; `pulse` moves with each entry. Nothing there is no error.
pub(crate) fn remove(parent: &Folder, name: &[u8], pulse: &Pulse) -> Result<()> {
    match parent.stat(name)? {
        None => Ok(()),
        Some(found) if is_folder(&found) => remove_tree(parent, name, pulse),
        Some(_) => gone(parent.unlink(name)),
    }
}

/// Removes a tree whose owner may lack every right in its folders.
fn remove_tree(parent: &Folder, name: &[u8], pulse: &Pulse) -> Result<()> {
    let Some(top) = found(unlocked(parent, name))? else { return Ok(()) };
    // The folders that are open, from the top, by their paths below it.
    let mut open: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = open.last().cloned() {
        let (at, inner) = split(&path);
        let folders = found(empty_of_files(&top, at, inner, pulse))?.unwrap_or_default();
        open.extend(folders.iter().map(|inner| join(&path, inner)));
        if folders.is_empty() {
            open.pop();
            match at {
                None => return gone(parent.rmdir(name)),
                Some(at) => gone(top.place(at).and_then(|at| at.rmdir(inner)))?,
            }
        }
    }
    Ok(())
}

/// Unlinks all but the folders in a folder of the tree, and returns those.
fn empty_of_files(top: &Folder, at: Option<&[u8]>, name: &[u8], pulse: &Pulse) -> Result<Vec<Vec<u8>>> {
    let folder = match at {
        None => top.below(b"")?,
        Some(at) => unlocked(&top.place(at)?, name)?,
    };
    let mut folders = Vec::new();
    for name in folder.names()? {
        pulse.moved();
        match folder.unlink(&name) {
            Ok(()) | Err(Errno::ENOENT) => (),
            // Linux says EISDIR, other servers behind NFS may say EPERM.
            Err(Errno::EISDIR | Errno::EPERM) if folder.stat(&name)?.is_none_or(|it| is_folder(&it)) => {
                folders.push(name);
            }
            Err(why) => return Err(why),
        }
    }
    Ok(folders)
}

/// Opens the folder `name`, after its owner was given all rights in it.
pub(crate) fn unlocked(parent: &Folder, name: &[u8]) -> Result<Folder> {
    let place = parent.place(name)?;
    let mode = fstat(&place)?.st_mode & 0o7777;
    if mode & 0o700 != 0o700 {
        // A mere place cannot be changed itself; its name can.
        let name = by_descriptor(&place);
        let mode = Mode::from_bits_truncate(mode | 0o700);
        fchmodat(nix::fcntl::AT_FDCWD, name.as_str(), mode, FchmodatFlags::FollowSymlink)?;
    }
    place.below(b"")
}

fn is_folder(found: &FileStat) -> bool {
    kind(found) == SFlag::S_IFDIR
}

fn found<T>(done: Result<T>) -> Result<Option<T>> {
    match done {
        Ok(it) => Ok(Some(it)),
        Err(Errno::ENOENT) => Ok(None),
        Err(why) => Err(why),
    }
}

fn gone(done: Result<()>) -> Result<()> {
    found(done).map(drop)
}

/// The folder that holds `path`, and the name in it; none for the top itself.
fn split(path: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (Some(&path[..slash]), &path[slash + 1..]),
        None if path.is_empty() => (None, path),
        None => (Some(b""), path),
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path.is_empty() {
        true => name.to_vec(),
        false => [path, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, Instant};

    #[test]
    fn a_read_only_tree_goes_and_what_its_links_address_stays() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        fs::write(dir.path().join("kept/file"), "x").unwrap();
        symlink(dir.path().join("kept"), tree.join("a/link")).unwrap();
        for folder in ["a/b/c", "a/b", "a", ""] {
            fs::set_permissions(tree.join(folder), fs::Permissions::from_mode(0o000)).unwrap();
        }
        let parent = Folder::open(dir.path().as_os_str().as_bytes()).unwrap();
        let pulse = Pulse::new();
        std::thread::sleep(Duration::from_millis(20));
        let begin = Instant::now();
        remove(&parent, b"tree", &pulse).unwrap();
        // It counts whole milliseconds.
        assert!(pulse.rested() <= begin.elapsed() + Duration::from_millis(1), "nothing moved");
        assert!(!tree.exists());
        assert!(dir.path().join("kept/file").exists());
        assert_eq!(remove(&parent, b"tree", &pulse), Ok(()), "nothing there is no error");
    }

    #[test]
    fn a_very_deep_tree_goes() {
        let dir = tempfile::tempdir().unwrap();
        let parent = Folder::open(dir.path().as_os_str().as_bytes()).unwrap();
        let mut at = parent.below(b"").unwrap();
        for _ in 0..1500 {
            at.mkdir(b"d", 0o700).unwrap();
            at = at.below(b"d").unwrap();
        }
        remove(&parent, b"d", &Pulse::new()).unwrap();
        assert!(parent.names().unwrap().is_empty());
    }
}

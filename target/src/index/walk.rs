//! Walks one folder to its end: its lines, sorted as the whole list is.
//!
//! Each folder is opened by its path below the top, no symlink followed, and closed before the next:
//! the depth of a tree costs no descriptors. A name's key is the name as its line ends in it, so sorting
//! keys sorts lines.

use std::os::unix::ffi::OsStrExt;

use nix::Result;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{SFlag, fstat};

use crate::folder::{Folder, kind};
use crate::history::now;
use crate::refusal::shown;

/// What could not be looked at.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) count: u64,
    pub(super) first: Option<String>,
}

impl Faults {
    pub(super) fn add(&mut self, path: &[u8], why: Errno) {
        let what = format!("cannot list {}: {}", shown(path), why.desc());
        eprintln!("blat-target: {what}");
        self.count += 1;
        self.first.get_or_insert(what);
    }
}

/// A name in a folder.
pub(super) struct Item {
    /// The end of its line: `name`, `name/` or `name -> text`, line breaks escaped.
    pub(super) key: Vec<u8>,
    /// The name itself, where it is a folder.
    pub(super) folder: Option<Vec<u8>>,
}

/// What is in an open folder, sorted by the keys.
pub(super) fn items(folder: &mut Dir, mut skip: impl FnMut(&[u8]) -> bool) -> Result<Vec<Item>> {
    let mut found = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !skip(name) {
            found.push((name.to_vec(), entry.file_type()));
        }
    }
    let mut items = Vec::with_capacity(found.len());
    for (name, kind) in found {
        let kind = match kind {
            Some(kind) => kind,
            None => match kind_of(folder, &name)? {
                Some(kind) => kind,
                None => continue,
            },
        };
        items.extend(item(folder, name, kind)?);
    }
    items.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(items)
}

fn item(folder: &Dir, name: Vec<u8>, kind: Type) -> Result<Option<Item>> {
    let mut key = Vec::with_capacity(name.len() + 1);
    escape(&name, &mut key);
    match kind {
        Type::Directory => key.push(b'/'),
        Type::Symlink => match readlinkat(folder, name.as_slice()) {
            Ok(text) => {
                key.extend_from_slice(b" -> ");
                escape(text.as_bytes(), &mut key);
            }
            Err(Errno::ENOENT) => return Ok(None),
            // It is no link any more; the next run finds what it is.
            Err(Errno::EINVAL) => (),
            Err(why) => return Err(why),
        },
        _ => (),
    }
    let folder = (kind == Type::Directory).then_some(name);
    Ok(Some(Item { key, folder }))
}

fn escape(name: &[u8], key: &mut Vec<u8>) {
    for byte in name {
        match byte {
            b'\n' => key.extend_from_slice(b"\\n"),
            byte => key.push(*byte),
        }
    }
}

/// Where the file system does not tell with the names.
fn kind_of(folder: &Dir, name: &[u8]) -> Result<Option<Type>> {
    use nix::fcntl::AtFlags;
    use nix::sys::stat::fstatat;
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(match kind(&found) {
            SFlag::S_IFDIR => Type::Directory,
            SFlag::S_IFLNK => Type::Symlink,
            _ => Type::File,
        })),
        Err(Errno::ENOENT) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Adds the lines of all that is below `path` of `top` to `lines`; each begins with `line`, the path
/// as it is listed. Whether all could be looked at, and no more is to come as far as one can see, is told.
pub(super) fn walk(
    top: &Folder,
    path: &mut Vec<u8>,
    line: &mut Vec<u8>,
    lines: &mut Vec<u8>,
    faults: &mut Faults,
) -> bool {
    let opened = top.below(path).and_then(|folder| Dir::from_fd(folder.into()));
    let read = opened.and_then(|mut folder| Ok((rests(&folder)?, items(&mut folder, |_| false)?)));
    let (mut whole, items) = match read {
        Ok(read) => read,
        // Gone, or no folder any more.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return false,
        Err(why) => {
            faults.add(line, why);
            return false;
        }
    };
    let (path_length, line_length) = (path.len(), line.len());
    for item in items {
        line.extend_from_slice(&item.key);
        lines.extend_from_slice(line);
        lines.push(b'\n');
        if let Some(name) = item.folder {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            whole &= walk(top, path, line, lines, faults);
            path.truncate(path_length);
        }
        line.truncate(line_length);
    }
    whole
}

/// Whether nobody seems to be writing there. What blat lays down has the times of its source; while others copy, a
/// folder has that of its last entry.
fn rests(folder: &Dir) -> Result<bool> {
    Ok(fstat(folder)?.st_mtime < now() - DAY)
}

const DAY: i64 = 86_400;

//! Trees: reading one whole, to compare it with another or with itself later.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// All that is compared of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub path: Vec<u8>,
    pub mode: u32,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub kind: Kind,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    Folder,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Other,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Folder => write!(f, "folder"),
            Kind::File(content) => write!(f, "file of {} bytes", content.len()),
            Kind::Symlink(text) => write!(f, "symlink to {}", String::from_utf8_lossy(text)),
            Kind::Other => write!(f, "something else"),
        }
    }
}

/// The tree at `root`, itself first, depth first, siblings in byte order.
pub fn walk(root: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    visit(root, Vec::new(), &mut found);
    found
}

fn visit(path: &Path, below: Vec<u8>, found: &mut Vec<Found>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = match meta.file_type() {
        it if it.is_dir() => Kind::Folder,
        it if it.is_symlink() => Kind::Symlink(fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()),
        it if it.is_file() => Kind::File(fs::read(path).unwrap()),
        _ => Kind::Other,
    };
    let is_folder = kind == Kind::Folder;
    let (mode, seconds, nanoseconds) = (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec() as u32);
    found.push(Found { path: below.clone(), mode, seconds, nanoseconds, kind });
    if !is_folder {
        return;
    }
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let inner = if below.is_empty() {
            name.as_bytes().to_vec()
        } else {
            [&below, &b"/"[..], name.as_bytes()].concat()
        };
        visit(&path.join(&name), inner, found);
    }
}

/// The tree by path, without the times of the folders in which a session makes and removes names.
pub fn snapshot(root: &Path, working: &[&str]) -> BTreeMap<Vec<u8>, Found> {
    let quiet = |mut found: Found| {
        if working.iter().any(|path| path.as_bytes() == found.path) {
            (found.seconds, found.nanoseconds) = (0, 0);
        }
        (found.path.clone(), found)
    };
    walk(root).into_iter().map(quiet).collect()
}

/// Fails with the first difference.
pub fn assert_same(source: &Path, copy: &Path) {
    let (source, copy) = (walk(source), walk(copy));
    for (a, b) in source.iter().zip(&copy) {
        let differ =
            a != b && !(matches!(a.kind, Kind::Symlink(_)) && Found { mode: b.mode, ..a.clone() } == *b);
        assert!(!differ, "{}: {a:?} became {b:?}", String::from_utf8_lossy(&a.path));
    }
    assert_eq!(source.len(), copy.len());
}

/// Makes every folder its owner's to change, so that the tree can be deleted.
pub fn unlock(root: &Path) {
    let Ok(meta) = fs::symlink_metadata(root) else { return };
    if !meta.is_dir() {
        return;
    }
    let _ = fs::set_permissions(root, fs::Permissions::from_mode(meta.mode() | 0o700));
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        unlock(&entry.path());
    }
}

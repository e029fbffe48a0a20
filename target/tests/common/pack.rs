//! Packing: from a folder, honestly, or piece by piece, as a liar would.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use blat_target::manifest::{Entry, Kind, Manifest, Time};
use blat_target::message::Digest;
use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;
use tar::{EntryType, Header};

use super::tree;

/// The stamp of hand-made packages.
pub const STAMP: i64 = 1_600_000_000;

/// A package as it is sent.
#[derive(Clone)]
pub struct Pack {
    pub id: PackageVersion,
    pub stamp: Stamp,
    pub manifest_length: u32,
    /// Manifest, tar and digests.
    pub plain: Vec<u8>,
}

/// A package in its parts, each of which a test may bend.
#[derive(Clone)]
pub struct Parts {
    pub id: PackageVersion,
    pub stamp: Stamp,
    pub manifest: Manifest,
    pub tar: Vec<u8>,
    pub digests: Vec<[u8; 32]>,
}

impl Parts {
    /// No entry but the version's folder; the tar has no end yet.
    pub fn new(id: &str) -> Self {
        let manifest = Manifest { entries: vec![entry(b"", 0o755, Kind::Folder)] };
        Self { id: super::id(id), stamp: Stamp(STAMP), manifest, tar: Vec::new(), digests: Vec::new() }
    }

    /// With its `descpkg`.
    pub fn described(id: &str) -> Self {
        Self::new(id).file("descpkg", b"about")
    }

    pub fn entry(mut self, path: impl AsRef<[u8]>, mode: u32, kind: Kind) -> Self {
        self.manifest.entries.push(entry(path.as_ref(), mode, kind));
        self
    }

    /// A file as it should be, its digest after the tar.
    pub fn file(self, path: impl AsRef<[u8]>, content: &[u8]) -> Self {
        let digest = *blake3::hash(content).as_bytes();
        let size = content.len() as u64;
        let mut with = self.entry(path.as_ref(), 0o644, Kind::File { size, digest: None }).carried(
            path,
            EntryType::Regular,
            content,
        );
        with.digests.push(digest);
        with
    }

    pub fn folder(self, path: impl AsRef<[u8]>) -> Self {
        self.entry(path, 0o755, Kind::Folder)
    }

    pub fn symlink(self, path: impl AsRef<[u8]>, text: &[u8]) -> Self {
        self.entry(path, 0o777, Kind::Symlink { text: text.to_vec() })
    }

    /// Something in the tar only.
    pub fn carried(mut self, path: impl AsRef<[u8]>, kind: EntryType, content: &[u8]) -> Self {
        append(&mut self.tar, path.as_ref(), kind, content);
        self
    }

    /// As it is sent, with the tar's end.
    pub fn pack(self) -> Pack {
        self.pack_with_tail(&[])
    }

    pub fn pack_with_tail(mut self, tail: &[u8]) -> Pack {
        self.tar.extend_from_slice(&[0; 1024]);
        self.digests.iter().for_each(|digest| self.tar.extend_from_slice(digest));
        let mut plain = self.manifest.encode();
        let manifest_length = plain.len() as u32;
        plain.extend_from_slice(&self.tar);
        plain.extend_from_slice(tail);
        Pack { id: self.id, stamp: self.stamp, manifest_length, plain }
    }
}

/// An entry of hand-made packages.
pub fn entry(path: &[u8], mode: u32, kind: Kind) -> Entry {
    let modified = Time { seconds: STAMP, nanoseconds: 123_456_789 };
    Entry { path: path.to_vec(), mode, modified, kind }
}

/// Appends an entry to a tar; the header says what `content` is long.
pub fn append(tar: &mut Vec<u8>, path: &[u8], kind: EntryType, content: &[u8]) {
    if path.len() > 100 {
        let mut long = path.to_vec();
        long.push(0);
        append(tar, b"././@LongLink", EntryType::GNULongName, &long);
    }
    let mut header = Header::new_gnu();
    let field = &mut header.as_old_mut().name;
    let short = &path[..path.len().min(100)];
    field[..short.len()].copy_from_slice(short);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Packs a folder as an honest host does. `known`: the manifest has all digests.
pub fn folder(id: &str, root: &Path, known: bool) -> Pack {
    let mut parts = Parts::new(id);
    parts.manifest.entries.clear();
    for found in tree::walk(root) {
        let kind = match &found.kind {
            tree::Kind::Folder => Kind::Folder,
            tree::Kind::Symlink(text) => Kind::Symlink { text: text.clone() },
            tree::Kind::File(content) => {
                let digest = *blake3::hash(content).as_bytes();
                if !known {
                    parts.digests.push(digest);
                }
                append(&mut parts.tar, &found.path, EntryType::Regular, content);
                Kind::File { size: content.len() as u64, digest: known.then_some(Digest(digest)) }
            }
            tree::Kind::Other => continue,
        };
        let modified = Time { seconds: found.seconds, nanoseconds: found.nanoseconds };
        let mode = if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { found.mode };
        parts.manifest.entries.push(Entry { path: found.path.clone(), mode, modified, kind });
        if found.path == b"descpkg" {
            parts.stamp = Stamp(found.seconds);
        }
    }
    assert!(root.as_os_str().as_bytes().starts_with(b"/"));
    parts.pack()
}

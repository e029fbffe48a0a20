//! The manifest: all that a package-version consists of. It is the law; the tar that
//! follows it only carries the bytes of the regular files that it announces.
//!
//! A manifest that got past [`Manifest::decode`] describes a tree and nothing else:
//! the version's own folder first, every other entry below a folder that was named
//! before it, each name once. So no path in it can leave the folder, pass through a
//! symlink, or come twice.

use serde::{Deserialize, Serialize};

use crate::message::Digest;

/// The longest encoded manifest, in bytes.
pub const MANIFEST_MAX: u32 = 64 << 20;
/// The most entries of a manifest: what is short when encoded must not fill a target's memory.
pub const ENTRIES_MAX: u64 = 1 << 20;
/// The longest path below a version's folder, in bytes (Linux's `PATH_MAX` less the end).
pub const PATH_MAX: usize = 4095;
/// The permission bits that travel: set-user-id and set-group-id do not.
pub const MODE_MASK: u32 = 0o1777;

/// The entries of one package-version, in depth-first order, siblings in byte order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub entries: Vec<Entry>,
}

/// A file, folder or symlink of a package-version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below the version's folder, without a leading or trailing slash; empty for the folder itself.
    pub path: Vec<u8>,
    /// Permission bits, within [`MODE_MASK`]. A symlink's is not used.
    pub mode: u32,
    pub modified: Time,
    pub kind: Kind,
}

/// A point in time, as file systems keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Since 1970 (UTC).
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanoseconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    File {
        /// In bytes.
        size: u64,
        /// BLAKE3 of the content where it was known beforehand; otherwise it follows the tar.
        digest: Option<Digest>,
    },
    Folder,
    Symlink {
        text: Vec<u8>,
    },
}

/// Why bytes are no manifest that a target accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest cannot be read: {0}")]
    Encoding(String),
    #[error("the manifest has {0} entries, more than the {ENTRIES_MAX} that are allowed")]
    Entries(u64),
    #[error("the manifest does not start with the version's own folder")]
    Root,
    #[error("the path {0:?} is absolute, climbs, or has an empty, `.` or overlong part")]
    Path(String),
    #[error("the entry {0:?} is not below a folder that was announced before it")]
    Parent(String),
    #[error("the entry {0:?} comes twice, or not in its order")]
    Order(String),
    #[error("the entry {0:?} has the mode {1:o}: only permission bits may travel")]
    Mode(String, u32),
    #[error("the entry {0:?} has an impossible time or link text")]
    Value(String),
    #[error("the sizes of the files add up to more than a number can hold")]
    Total,
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("manifests of ours can be encoded")
    }

    /// Reads a manifest and checks all of the rules above.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let unreadable = |why: postcard::Error| ManifestError::Encoding(why.to_string());
        // The encoding starts with the number of entries.
        let (entries, _) = postcard::take_from_bytes::<u64>(bytes).map_err(unreadable)?;
        if entries > ENTRIES_MAX {
            return Err(ManifestError::Entries(entries));
        }
        let (manifest, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(unreadable)?;
        if !rest.is_empty() {
            return Err(ManifestError::Encoding("bytes are left over".into()));
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// The sum of the regular files' sizes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files().map(|(_, size, _)| size).sum()
    }

    /// The regular files in their order, with size and, where known, digest.
    pub fn files(&self) -> impl Iterator<Item = (&Entry, u64, Option<Digest>)> {
        self.entries.iter().filter_map(|entry| match entry.kind {
            Kind::File { size, digest } => Some((entry, size, digest)),
            _ => None,
        })
    }

    /// Checks the rules that make entries a tree.
    pub fn check(&self) -> Result<(), ManifestError> {
        let (root, rest) = self.entries.split_first().ok_or(ManifestError::Root)?;
        if !root.path.is_empty() || root.kind != Kind::Folder {
            return Err(ManifestError::Root);
        }
        root.check_values()?;
        let mut walk = Walk::default();
        for entry in rest {
            entry.check_path()?;
            entry.check_values()?;
            walk.step(entry)?;
        }
        let total = self.files().try_fold(0u64, |sum, (_, size, _)| sum.checked_add(size));
        total.map(drop).ok_or(ManifestError::Total)
    }
}

impl Entry {
    /// The path of the folder that holds the entry, and the entry's name in it.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.path[..slash], &self.path[slash + 1..]),
            None => (&[], &self.path),
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    fn check_path(&self) -> Result<(), ManifestError> {
        let good = |part: &[u8]| {
            !part.is_empty() && part != b"." && part != b".." && part.len() <= 255 && !part.contains(&0)
        };
        if self.path.len() > PATH_MAX || !self.path.split(|byte| *byte == b'/').all(good) {
            return Err(ManifestError::Path(self.shown()));
        }
        Ok(())
    }

    fn check_values(&self) -> Result<(), ManifestError> {
        if self.mode & !MODE_MASK != 0 {
            return Err(ManifestError::Mode(self.shown(), self.mode));
        }
        let text_good = match &self.kind {
            Kind::Symlink { text } => !text.is_empty() && text.len() <= PATH_MAX && !text.contains(&0),
            _ => true,
        };
        if self.modified.nanoseconds >= 1_000_000_000 || !text_good {
            return Err(ManifestError::Value(self.shown()));
        }
        Ok(())
    }
}

/// Where a depth-first reading stands: the open folders, each with its last entry's name.
#[derive(Default)]
struct Walk<'a> {
    open: Vec<&'a [u8]>,
    last: Vec<Option<&'a [u8]>>,
}

impl<'a> Walk<'a> {
    fn step(&mut self, entry: &'a Entry) -> Result<(), ManifestError> {
        let (parent, name) = entry.split();
        if self.last.is_empty() {
            self.last.push(None);
        }
        while self.open.last().copied().unwrap_or_default() != parent {
            if self.open.pop().is_none() {
                return Err(ManifestError::Parent(entry.shown()));
            }
            self.last.pop();
        }
        let last = self.last.last_mut().expect("the version's folder stays open");
        if last.is_some_and(|last| last >= name) {
            return Err(ManifestError::Order(entry.shown()));
        }
        *last = Some(name);
        if entry.kind == Kind::Folder {
            self.open.push(&entry.path);
            self.last.push(None);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        let modified = Time { seconds: 1, nanoseconds: 2 };
        Entry { path: path.into(), mode: 0o755, modified, kind }
    }

    fn file(path: &str) -> Entry {
        entry(path, Kind::File { size: 3, digest: None })
    }

    fn folder(path: &str) -> Entry {
        entry(path, Kind::Folder)
    }

    fn check(rest: &[Entry]) -> Result<(), ManifestError> {
        let entries = [&[folder("")], rest].concat();
        Manifest { entries }.check()
    }

    #[test]
    fn a_tree_passes() {
        let tree =
            [folder("a"), folder("a/b"), file("a/b/c"), file("a/d"), folder("a.b"), file("a.b/x"), file("z")];
        assert_eq!(check(&tree), Ok(()));
    }

    #[test]
    fn paths_that_escape_are_refused() {
        for path in ["..", "../x", "/etc", "a//b", "a/", ".", "a/../b", "a\0b"] {
            assert!(matches!(check(&[file(path)]), Err(ManifestError::Path(_))), "{path:?}");
        }
    }

    #[test]
    fn nothing_stands_below_a_symlink_or_a_file() {
        let link = entry("a", Kind::Symlink { text: b"/etc".to_vec() });
        assert!(matches!(check(&[link, file("a/passwd")]), Err(ManifestError::Parent(_))));
        assert!(matches!(check(&[file("a"), file("a/b")]), Err(ManifestError::Parent(_))));
        assert!(matches!(check(&[file("a/b")]), Err(ManifestError::Parent(_))));
    }

    #[test]
    fn duplicates_are_refused() {
        assert!(matches!(check(&[file("a"), file("a")]), Err(ManifestError::Order(_))));
        assert!(matches!(check(&[folder("a"), file("b"), folder("a")]), Err(ManifestError::Order(_))));
        let reopened = [folder("a"), file("a/x"), file("b"), file("a/y")];
        assert!(matches!(check(&reopened), Err(ManifestError::Parent(_))));
    }

    #[test]
    fn set_id_bits_are_refused() {
        let mut bad = file("a");
        bad.mode = 0o4755;
        assert!(matches!(check(&[bad]), Err(ManifestError::Mode(_, 0o4755))));
    }

    #[test]
    fn too_many_entries_are_refused_before_they_are_read() {
        let bytes = postcard::to_stdvec(&(ENTRIES_MAX + 1)).unwrap();
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Entries(ENTRIES_MAX + 1)));
    }

    #[test]
    fn the_folder_itself_comes_first() {
        assert_eq!(Manifest { entries: vec![] }.check(), Err(ManifestError::Root));
        assert_eq!(Manifest { entries: vec![file("a")] }.check(), Err(ManifestError::Root));
    }

    proptest! {
        #[test]
        fn noise_is_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Manifest::decode(&bytes);
        }

        #[test]
        fn what_is_encoded_comes_back(names in proptest::collection::btree_set("[a-z]{1,8}", 0..20)) {
            let entries = std::iter::once(folder("")).chain(names.iter().map(|name| file(name))).collect();
            let manifest = Manifest { entries };
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }
    }
}

//! Which base, and which file of it for which new file.

use std::collections::{HashMap, HashSet};

use blat_target::delta::{Origin, Source};
use blat_target::manifest::{ENTRIES_MAX, Entry, Manifest};
use blat_target::message::Digest;

use crate::bases::Base;
use crate::pack::{Scan, scan};
use crate::progress::Progress;

/// A changed file with fewer bytes goes as it is.
const CHANGED_MIN: u64 = 256;
/// Among so many files that came, and so many that went, renamed ones are looked for.
const RENAMED_MAX: usize = 1000;
/// The scan of the best base so far is kept while others are judged, unless it has more entries, and so takes much
/// memory: then it is made once more.
const KEPT_MAX: usize = 1 << 14;

/// The base with which `new` has most in common, judged by paths and sizes, and its scan.
pub(super) fn best<'b>(new: &Scan, bases: &'b [Base], progress: &Progress) -> Option<(&'b Base, Scan)> {
    best_of(new, bases, KEPT_MAX, progress)
}

fn best_of<'b>(
    new: &Scan,
    bases: &'b [Base],
    kept_max: usize,
    progress: &Progress,
) -> Option<(&'b Base, Scan)> {
    let sizes: HashMap<&[u8], u64> =
        new.manifest.files().map(|(entry, size, _)| (&entry.path[..], size)).collect();
    let mut best: Option<(u64, &Base, Option<Scan>)> = None;
    for base in bases {
        if let Some((.., scan)) = &mut best {
            scan.take_if(|scan| scan.manifest.entries.len() > kept_max);
        }
        let Some(old) = as_it_was(base, progress) else { continue };
        let common = in_common(&sizes, &old.manifest);
        if common > best.as_ref().map_or(0, |(most, ..)| *most) {
            best = Some((common, base, Some(old)));
        }
    }
    let (_, base, old) = best?;
    Some((base, old.or_else(|| as_it_was(base, progress))?))
}

/// The scan of a base; one that went meanwhile, or cannot be read, or has more entries than a target takes, is none.
fn as_it_was(base: &Base, progress: &Progress) -> Option<Scan> {
    let old = scan(&base.folder, progress).ok()?;
    (old.stamp == base.stamp && old.manifest.entries.len() as u64 <= ENTRIES_MAX).then_some(old)
}

fn in_common(sizes: &HashMap<&[u8], u64>, old: &Manifest) -> u64 {
    let each = old.files().map(|(entry, size, _)| match sizes.get(&entry.path[..]) {
        Some(new) if *new == size => size,
        // Of files that changed, the closer sizes are, the better.
        Some(new) => (size.min(*new) * 3 / 4).saturating_sub(size.abs_diff(*new)),
        None => 0,
    });
    each.fold(0, u64::saturating_add)
}

/// Where the content of each new file comes from.
pub(super) fn sources(
    new: &Manifest,
    digests: &[Digest],
    old: &Manifest,
    old_digests: &[Digest],
) -> Vec<Source> {
    let mut by_digest: HashMap<Digest, &Entry> = HashMap::new();
    let mut by_path: HashMap<&[u8], (u64, Digest)> = HashMap::new();
    for ((entry, size, _), digest) in old.files().zip(old_digests) {
        by_digest.entry(*digest).or_insert(entry);
        by_path.insert(&entry.path, (size, *digest));
    }
    let renamed = renamed(new, digests, old, &by_digest);
    let source = |((entry, size, _), digest): ((&Entry, u64, Option<Digest>), &Digest)| {
        let beside = by_path.get(&entry.path[..]);
        match by_digest.get(digest) {
            _ if size == 0 => Source::Whole,
            Some(_) if beside.is_some_and(|(_, old)| old == digest) => Source::Same(Origin::SamePath),
            Some(other) => Source::Same(Origin::Path(other.path.clone())),
            None if size < CHANGED_MIN => Source::Whole,
            None if beside.is_some_and(|(size, _)| *size > 0) => Source::Changed(Origin::SamePath),
            None => match renamed.get(&entry.path[..]) {
                Some(other) => Source::Changed(Origin::Path(other.to_vec())),
                None => Source::Whole,
            },
        }
    };
    new.files().zip(digests).map(source).collect()
}

/// For files that are new by path and content, one that went and has a similar name and size.
fn renamed<'a>(
    new: &'a Manifest,
    digests: &[Digest],
    old: &'a Manifest,
    by_digest: &HashMap<Digest, &Entry>,
) -> HashMap<&'a [u8], &'a [u8]> {
    let paths = |of: &'a Manifest| of.files().map(|(entry, ..)| &entry.path[..]).collect::<HashSet<_>>();
    let (new_paths, old_paths) = (paths(new), paths(old));
    let came: Vec<_> = new
        .files()
        .zip(digests)
        .filter(|((entry, size, _), digest)| {
            *size >= CHANGED_MIN && !old_paths.contains(&entry.path[..]) && !by_digest.contains_key(digest)
        })
        .map(|((entry, size, _), _)| (&entry.path[..], size))
        .take(RENAMED_MAX)
        .collect();
    let went: Vec<_> = old
        .files()
        .filter(|(entry, size, _)| *size >= CHANGED_MIN && !new_paths.contains(&entry.path[..]))
        .map(|(entry, size, _)| (&entry.path[..], size))
        .take(RENAMED_MAX)
        .collect();
    let like = |(path, size): &(&'a [u8], u64)| {
        let scored = went.iter().filter_map(|other| Some((likeness((path, *size), *other)?, other.0)));
        scored.max_by_key(|(score, _)| *score).map(|(_, other)| (*path, other))
    };
    came.iter().filter_map(like).collect()
}

/// How much alike two files are by name, in thousandths; none if they are not.
fn likeness((a, a_size): (&[u8], u64), (b, b_size): (&[u8], u64)) -> Option<usize> {
    if a_size / 3 > b_size || b_size / 3 > a_size {
        return None;
    }
    let (a_name, b_name) = (name(a), name(b));
    let front = a_name.iter().zip(b_name).take_while(|(a, b)| a == b).count();
    let shorter = a_name.len().min(b_name.len());
    let back = a_name.iter().rev().zip(b_name.iter().rev()).take_while(|(a, b)| a == b).count();
    let alike = (front + back).min(shorter) * 1000 / a_name.len().max(b_name.len()).max(1);
    let folder = |path: &[u8]| path.len() - name(path).len();
    let same_folder = a[..folder(a)] == b[..folder(b)];
    (alike >= 400).then_some(alike + if same_folder { 500 } else { 0 })
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_target::manifest::{Kind, Time};

    fn files(files: &[(&str, u64, u8)]) -> (Manifest, Vec<Digest>) {
        let modified = Time { seconds: 1, nanoseconds: 2 };
        let entry = |(path, size, _): &(&str, u64, u8)| Entry {
            path: path.as_bytes().to_vec(),
            mode: 0o444,
            modified,
            kind: Kind::File { size: *size, digest: None },
        };
        let digests = files.iter().map(|(_, _, digest)| Digest([*digest; 32])).collect();
        (Manifest { entries: files.iter().map(entry).collect() }, digests)
    }

    #[test]
    fn the_base_with_most_in_common_is_taken_wherever_it_is_among_them() {
        let root = tempfile::tempdir().unwrap();
        let version = |name: &str, length: usize| {
            let folder = root.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("descpkg"), "x").unwrap();
            std::fs::write(folder.join("x"), vec![0; length]).unwrap();
            let scan = scan(&folder, &Progress::start()).unwrap();
            (Base { version: name.parse().unwrap(), stamp: scan.stamp, folder }, scan)
        };
        let (_, new) = version("new", 9000);
        let bases = ["2", "1", "3"].map(|name| version(name, 8000 + 100 * name.len()).0);
        let like = version("like", 9000).0;
        let gone = Base { folder: root.path().join("gone"), ..like.clone() };
        for kept_max in [0, usize::MAX] {
            for at in 0..=bases.len() {
                let mut all = bases.to_vec();
                all.insert(at, like.clone());
                all.push(gone.clone());
                let (base, old) = best_of(&new, &all, kept_max, &Progress::start()).unwrap();
                assert_eq!(*base, like, "{at}, {kept_max}");
                assert_eq!(old.manifest.bytes(), new.manifest.bytes());
            }
        }
    }

    #[test]
    fn each_file_comes_from_where_it_costs_least() {
        let (old, old_digests) = files(&[
            ("lib/libblas-1a2b.so", 9000, 1),
            ("same", 9000, 2),
            ("moved", 9000, 3),
            ("changed", 9000, 4),
            ("small", 9, 5),
            ("other", 9000, 6),
        ]);
        let (new, digests) = files(&[
            ("lib/libblas-9f8e.so", 9500, 11),
            ("same", 9000, 2),
            ("to/here", 9000, 3),
            ("changed", 9100, 14),
            ("small", 10, 15),
            ("new", 10, 16),
            ("empty", 0, 17),
        ]);
        let path = |path: &str| Origin::Path(path.as_bytes().to_vec());
        let expected = [
            Source::Changed(path("lib/libblas-1a2b.so")),
            Source::Same(Origin::SamePath),
            Source::Same(path("moved")),
            Source::Changed(Origin::SamePath),
            Source::Whole,
            Source::Whole,
            Source::Whole,
        ];
        assert_eq!(sources(&new, &digests, &old, &old_digests), expected);
    }
}

//! What went on at a target, for its master to ask: when it last made its index and purged, and what
//! was deleted. Files below `.dpkg_archive`; nothing depends on them.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::RenameFlags;
use nix::sys::stat::{FileStat, Mode, fchmod};

use crate::folder::Folder;
use crate::message::{Deleted, Ran};
use crate::package::PackageVersion;
use crate::refusal::errno;

/// When the index was last made.
pub(crate) const INDEX: &str = "last_index";
/// When the purge last ran.
pub(crate) const PURGE: &str = "last_purge";
const DELETED: &[u8] = b"deleted.txt";
/// When what was deleted is no longer kept in one file, in bytes: then half of it goes.
const DELETED_MAX: u64 = 8 << 20;
/// How many deletions are told at once, the last ones, and how much is read for that.
const TOLD_MAX: usize = 1000;
const TAIL: u64 = 512 << 10;
/// How much of a record is read back, in bytes.
const RECORD_MAX: u64 = 4096;
/// So many seconds a file server's clock may be ahead.
const CLOCKS_DIFFER: i64 = 300;

/// The time of day, in seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Puts on record how something ran.
pub(crate) fn ran(own: &Folder, what: &str, ran: &Ran) -> nix::Result<()> {
    let Ran { at, count, failed, trouble } = ran;
    let trouble = trouble.as_deref().unwrap_or_default().replace(char::is_control, " ");
    replace(own, what, format!("{at} {count} {failed} {trouble}\n").as_bytes())
}

/// Whether what was found changed after `began`, which is a ctime as well. One of the future, as a clock that was
/// wrong has left it, tells nothing; `seen` is one that is known to be of the past.
pub(crate) fn came_after(found: &FileStat, began: (i64, i64), seen: i64) -> bool {
    let is_of_the_future = found.st_ctime > now().max(seen).saturating_add(CLOCKS_DIFFER);
    (found.st_ctime, found.st_ctime_nsec) > began && !is_of_the_future
}

/// How it last ran, if it ever did.
pub(crate) fn last(own: &Folder, what: &str) -> Option<Ran> {
    let mut text = String::new();
    own.read(what.as_bytes()).ok()?.take(RECORD_MAX).read_to_string(&mut text).ok()?;
    let mut words = text.trim_end_matches('\n').splitn(4, ' ');
    let at = words.next()?.parse().ok()?;
    let count = words.next()?.parse().ok()?;
    let failed = words.next()?.parse().ok()?;
    let trouble = words.next().filter(|text| !text.is_empty()).map(str::to_owned);
    Some(Ran { at, count, failed, trouble })
}

/// Replaces a small file as a whole.
pub(crate) fn replace(own: &Folder, name: &str, content: &[u8]) -> nix::Result<()> {
    let draft = format!(".{name}.new");
    match own.unlink(draft.as_bytes()) {
        Ok(()) | Err(Errno::ENOENT) => (),
        Err(why) => return Err(why),
    }
    let mut file = own.create(draft.as_bytes())?;
    let put = file.write_all(content).map_err(|why| errno(&why));
    let put = put.and_then(|()| fchmod(&file, Mode::from_bits_truncate(0o644)));
    let put = put.and_then(|()| own.rename(draft.as_bytes(), name.as_bytes(), RenameFlags::empty()));
    if put.is_err() {
        // On a disk that is full, it holds what packages need.
        let _ = own.unlink(draft.as_bytes());
    }
    put
}

/// Adds to the record of what was deleted; in a turn.
pub(crate) fn deleted(own: &Folder, id: &PackageVersion, by: &str) -> nix::Result<()> {
    let mut file = match own.file(DELETED) {
        Err(Errno::ENOENT) => own.create(DELETED)?,
        opened => opened?,
    };
    let length = file.seek(SeekFrom::End(0)).map_err(|why| errno(&why))?;
    let line = format!("{} {id} {}\n", now(), by.replace(char::is_whitespace, "_"));
    file.write_all(line.as_bytes()).map_err(|why| errno(&why))?;
    if length > DELETED_MAX {
        let kept = tail(&mut file, DELETED_MAX / 2).map_err(|why| errno(&why))?;
        replace(own, "deleted.txt", kept.as_bytes())?;
    }
    Ok(())
}

/// What was deleted last, the oldest first.
pub(crate) fn last_deleted(own: &Folder) -> Vec<Deleted> {
    let Ok(mut file) = own.read(DELETED) else { return Vec::new() };
    let text = tail(&mut file, TAIL).unwrap_or_default();
    let all: Vec<_> = text.lines().filter_map(line).collect();
    let first = all.len().saturating_sub(TOLD_MAX);
    all.into_iter().skip(first).collect()
}

fn line(line: &str) -> Option<Deleted> {
    let mut words = line.split(' ');
    let at = words.next()?.parse().ok()?;
    let (package, version) = words.next()?.split_once('/')?;
    let id = PackageVersion::new(package, version).ok()?;
    Some(Deleted { at, id, by: words.next()?.to_owned() })
}

/// The whole lines in the last so many bytes.
fn tail(file: &mut std::fs::File, bytes: u64) -> std::io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let whole = if start > 0 { text.split_once('\n').map_or("", |(_, whole)| whole) } else { &text };
    Ok(whole.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_a_wrong_clock_has_left_in_the_future_came_after_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let own = Folder::open(dir.path().as_os_str().as_bytes()).unwrap();
        let mut found = own.stat(b".").unwrap().unwrap();
        let of = |found: &FileStat| (found.st_ctime, found.st_ctime_nsec);
        let began = of(&found);
        assert!(!came_after(&found, began, 0));
        found.st_ctime += 2;
        assert!(came_after(&found, began, 0));
        found.st_ctime += CLOCKS_DIFFER + 60;
        assert!(!came_after(&found, began, 0), "nothing can have come then");
        assert!(came_after(&found, began, found.st_ctime), "by the clock of a file server that is ahead");
    }

    #[test]
    fn what_cannot_be_replaced_leaves_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let own = Folder::open(dir.path().as_os_str().as_bytes()).unwrap();
        std::fs::create_dir(dir.path().join(PURGE)).unwrap();
        replace(&own, PURGE, b"x").unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_went_on_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let own = Folder::open(dir.path().as_os_str().as_bytes()).unwrap();
        assert_eq!((last(&own, PURGE), last_deleted(&own)), (None, vec![]));
        let first = Ran { at: 5, count: 6, failed: 0, trouble: None };
        let second = Ran { at: 7, count: 0, failed: 2, trouble: Some("a b".into()) };
        for done in [first, second] {
            ran(&own, PURGE, &done).unwrap();
            assert_eq!(last(&own, PURGE), Some(done));
        }
        for version in 0..TOLD_MAX + 2 {
            let id = PackageVersion::new("a", &version.to_string()).unwrap();
            deleted(&own, &id, "the purge").unwrap();
        }
        let told = last_deleted(&own);
        assert_eq!(
            (told.len(), told[0].id.version.as_str(), told[0].by.as_str()),
            (TOLD_MAX, "2", "the_purge")
        );
    }
}

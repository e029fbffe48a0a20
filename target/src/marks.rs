//! The marks on disk: `.dpkg_archive/marks.txt`, read and written in turns only ([`crate::turn`]).
//!
//! The first line says until when the marks were confirmed by a good synchronisation (the master's
//! clock) and how many of them a purge may delete at most; then a line for each mark. It is replaced as a whole and
//! synced: after a power cut the old marks stand there, or the new ones.
//!
//! A line that cannot be read is no mark, and goes at the next change: what has no mark is not
//! deleted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};

use nix::errno::Errno;
use nix::fcntl::RenameFlags;
use nix::sys::stat::{FileStat, Mode, fchmod};

use crate::folder::Folder;
use crate::mark::Mark;
use crate::message::Standing;
use crate::package::PackageVersion;
use crate::refusal::errno;
use crate::stamp::Stamp;

const NAME: &[u8] = b"marks.txt";
const DRAFT: &[u8] = b".marks.new";
const FORM: &str = "blat-marks-1";
/// The largest file that is read, in bytes.
const LENGTH_MAX: u64 = 4 << 30;

/// The marks of an archive.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    marks: BTreeMap<PackageVersion, Mark>,
    confirmed: Confirmed,
    /// Which file they were read from; none where there was none.
    read_from: Option<Identity>,
    known: bool,
    changed: bool,
}

/// What the last good synchronisation said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// When its session began, by the master's clock, in seconds since 1970; before all marks: never.
    pub(crate) at: i64,
    /// How many package-versions one purge may delete.
    pub(crate) max_delete: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: i64,
    changed: (i64, i64),
}

impl Identity {
    fn of(found: &FileStat) -> Self {
        let changed = (found.st_ctime, found.st_ctime_nsec);
        Self { device: found.st_dev, inode: found.st_ino, size: found.st_size, changed }
    }
}

impl Marks {
    pub(crate) fn get(&self, id: &PackageVersion) -> Option<&Mark> {
        self.marks.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.marks.values()
    }

    pub(crate) fn confirmed(&self) -> Confirmed {
        self.confirmed
    }

    pub(crate) fn confirm(&mut self, confirmed: Confirmed) {
        self.changed |= self.confirmed != confirmed;
        self.confirmed = confirmed;
    }

    pub(crate) fn add(&mut self, mark: Mark) {
        if self.marks.get(&mark.id) != Some(&mark) {
            self.marks.insert(mark.id.clone(), mark);
            self.changed = true;
        }
    }

    pub(crate) fn remove(&mut self, id: &PackageVersion) {
        self.changed |= self.marks.remove(id).is_some();
    }

    /// Reads the marks, unless they are those that were read last.
    pub(crate) fn refresh(&mut self, own: &Folder) -> nix::Result<()> {
        let found = own.stat(NAME)?.map(|found| Identity::of(&found));
        if self.known && !self.changed && found == self.read_from {
            return Ok(());
        }
        let fresh = match own.read(NAME) {
            Ok(file) => {
                let mut text = Vec::new();
                file.take(LENGTH_MAX).read_to_end(&mut text).map_err(|why| errno(&why))?;
                Self::parse(&text)
            }
            Err(Errno::ENOENT) => Self::default(),
            Err(why) => return Err(why),
        };
        *self = Self { read_from: found, known: true, ..fresh };
        Ok(())
    }

    /// Replaces the file, if anything changed.
    pub(crate) fn write(&mut self, own: &Folder) -> nix::Result<()> {
        if !self.changed {
            return Ok(());
        }
        match own.unlink(DRAFT) {
            Ok(()) | Err(Errno::ENOENT) => (),
            Err(why) => return Err(why),
        }
        if let Err(why) = self.put(own) {
            // On a disk that is full, it holds what packages need.
            let _ = own.unlink(DRAFT);
            return Err(why);
        }
        own.sync()?;
        self.read_from = own.stat(NAME)?.map(|found| Identity::of(&found));
        self.changed = false;
        Ok(())
    }

    fn put(&self, own: &Folder) -> nix::Result<()> {
        let mut draft = own.create(DRAFT)?;
        draft.write_all(self.text().as_bytes()).map_err(|why| errno(&why))?;
        fchmod(&draft, Mode::from_bits_truncate(0o644))?;
        draft.sync_all().map_err(|why| errno(&why))?;
        own.rename(DRAFT, NAME, RenameFlags::empty())
    }

    fn text(&self) -> String {
        let Confirmed { at, max_delete } = self.confirmed;
        let mut text = format!("{FORM} confirmed={at} max_delete={max_delete}\n");
        for mark in self.marks.values() {
            let after = mark.after.map_or_else(|| "never".to_owned(), |after| after.to_string());
            let Mark { id, since, .. } = mark;
            let (stands, master, why) =
                (standing_text(&mark.stands), word(mark.master.as_bytes()), word(mark.why.as_bytes()));
            writeln!(text, "{id} since={since} after={after} stands={stands} master={master} why={why}")
                .expect("memory takes all");
        }
        text
    }

    fn parse(text: &[u8]) -> Self {
        let mut lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        let Some(confirmed) = lines.next().and_then(first_line) else { return Self::default() };
        let marks = lines.filter_map(mark).map(|mark| (mark.id.clone(), mark)).collect();
        Self { marks, confirmed, ..Self::default() }
    }
}

fn first_line(line: &str) -> Option<Confirmed> {
    let mut words = line.strip_prefix(FORM)?.split_whitespace();
    let at = words.next()?.strip_prefix("confirmed=")?.parse().ok()?;
    let max_delete = words.next()?.strip_prefix("max_delete=")?.parse().ok()?;
    Some(Confirmed { at, max_delete })
}

fn mark(line: &str) -> Option<Mark> {
    let mut words = line.split(' ');
    let (package, version) = words.next()?.split_once('/')?;
    let id = PackageVersion::new(package, version).ok()?;
    let mut value = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
    let since = value("since")?.parse().ok()?;
    let after = match value("after")? {
        "never" => None,
        seconds => Some(seconds.parse().ok()?),
    };
    let stands = standing(value("stands")?)?;
    let (master, why) = (text_of(value("master")?)?, text_of(value("why")?)?);
    Some(Mark { id, stands, since, after, master, why })
}

fn standing_text(standing: &Standing) -> String {
    match standing {
        Standing::Version(Stamp(seconds)) => format!("stamp:{seconds}"),
        Standing::Link(text) => format!("link:{}", word(text)),
        Standing::Absent | Standing::Other => "other".into(),
    }
}

/// Only what can be deleted can be marked.
fn standing(text: &str) -> Option<Standing> {
    match text.split_once(':')? {
        ("stamp", seconds) => Some(Standing::Version(Stamp(seconds.parse().ok()?))),
        ("link", text) => Some(Standing::Link(bytes_of(text)?)),
        _ => None,
    }
}

/// Bytes as one word: all but plain characters as `%` and two digits.
fn word(bytes: &[u8]) -> String {
    let mut word = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => {
                let _ = write!(word, "%{byte:02x}");
            }
            plain => word.push(char::from(*plain)),
        }
    }
    word
}

fn bytes_of(word: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut left = word.as_bytes();
    while let [first, rest @ ..] = left {
        if *first != b'%' {
            bytes.push(*first);
            left = rest;
            continue;
        }
        let (digits, rest) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        left = rest;
    }
    Some(bytes)
}

fn text_of(word: &str) -> Option<String> {
    String::from_utf8(bytes_of(word)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    fn folder(path: &std::path::Path) -> Folder {
        Folder::open(path.as_os_str().as_bytes()).unwrap()
    }

    prop_compose! {
        fn some_mark()(
            package in "[a-zä]{1,4}", version in "[0-9][0-9.%=]{0,4}", since in any::<i64>(),
            after in any::<Option<u64>>(),
            stands in prop_oneof![
                any::<i64>().prop_map(|seconds| Standing::Version(Stamp(seconds))),
                proptest::collection::vec(any::<u8>(), 0..9).prop_map(Standing::Link),
            ],
            master in ".{0,6}", why in ".{0,9}",
        ) -> Mark {
            let id = PackageVersion::new(&package, &version).unwrap();
            Mark { id, stands, since, after, master, why }
        }
    }

    #[test]
    fn what_was_written_is_read_by_who_comes_next_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let own = folder(dir.path());
        let (mut one, mut other) = (Marks::default(), Marks::default());
        one.refresh(&own).unwrap();
        other.refresh(&own).unwrap();
        let id = PackageVersion::new("a", "1").unwrap();
        let (stands, master) = (Standing::Version(Stamp(7)), "m".to_owned());
        one.add(Mark { id: id.clone(), stands, since: 5, after: Some(6), master, why: "it left".into() });
        one.confirm(Confirmed { at: 9, max_delete: 3 });
        one.write(&own).unwrap();
        assert!(other.get(&id).is_none());
        other.refresh(&own).unwrap();
        assert_eq!((other.get(&id), other.confirmed()), (one.get(&id), one.confirmed()));
        other.remove(&id);
        other.write(&own).unwrap();
        one.refresh(&own).unwrap();
        assert!(one.get(&id).is_none());
    }

    #[test]
    fn a_change_that_was_not_written_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let own = folder(dir.path());
        let mut marks = Marks::default();
        marks.refresh(&own).unwrap();
        marks.confirm(Confirmed { at: 9, max_delete: 3 });
        marks.refresh(&own).unwrap();
        assert_eq!(marks.confirmed(), Confirmed::default());
    }

    #[test]
    fn what_cannot_be_read_is_no_mark() {
        let good = "a/1 since=5 after=never stands=stamp:7 master=m why=w";
        let text = |line: &str| format!("{FORM} confirmed=1 max_delete=2\n{line}\n{good}\n");
        for bad in [
            "",
            "a/2",
            "../2 since=5 after=1 stands=stamp:7 master=m why=w",
            &good.replace("7", "x"),
            &good.replace("stamp:7", "other"),
            &good.replace("never", "-1"),
            &good.replace("why=w", "why=%f"),
        ] {
            assert_eq!(Marks::parse(text(bad).as_bytes()).marks.len(), 1, "{bad}");
        }
        let other = text("").replace(FORM, "blat-marks-2");
        assert_eq!(Marks::parse(other.as_bytes()).marks.len(), 0, "another form");
    }

    proptest! {
        #[test]
        fn round_trip(all in proptest::collection::vec(some_mark(), 0..9), at in any::<i64>(), max_delete in any::<u64>()) {
            let mut marks = Marks::default();
            all.into_iter().for_each(|mark| marks.add(mark));
            marks.confirm(Confirmed { at, max_delete });
            let read = Marks::parse(marks.text().as_bytes());
            prop_assert_eq!((read.marks, read.confirmed), (marks.marks, marks.confirmed));
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..99), line in ".*") {
            let _ = Marks::parse(&text);
            let _ = mark(&line);
        }
    }
}

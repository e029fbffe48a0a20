//! Releases for those who have no database: a list of `PACKAGE VERSION` lines.
//!
//! Words are separated by blanks, `#` begins a comment. The whole list is one release, which every
//! target that reads it has without naming it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::error::ReleaseError;
use super::{Project, Release, ReleaseSource, State, TakeRow};
use crate::config::{ProjectName, ReleaseName};

/// A list that was changed less long ago may be half of one that is being written,
const QUIET: Duration = Duration::from_secs(2);
/// and is looked at again, so often.
const LOOKS: u32 = 5;

/// A list that was read.
#[derive(Debug)]
pub struct List {
    path: PathBuf,
    text: String,
}

impl List {
    /// Reads the list.
    ///
    /// # Errors
    /// When it cannot be read, or changes meanwhile, or a line has not two words.
    pub fn open(path: &Path) -> Result<Self, ReleaseError> {
        let read = read_whole(path, QUIET).map_err(|why| ReleaseError::File(path.into(), why))?;
        let text = read.ok_or_else(|| ReleaseError::Changing(path.into()))?;
        Self::of(path, text)
    }

    /// What was read of it.
    pub(super) fn of(path: &Path, text: String) -> Result<Self, ReleaseError> {
        let list = Self { path: path.to_owned(), text };
        list.lines().try_for_each(|line| line.map(drop))?;
        Ok(list)
    }

    fn lines(&self) -> impl Iterator<Item = Result<(&str, &str), ReleaseError>> {
        self.text.lines().zip(1..).filter_map(|(line, number)| {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            match (words.next(), words.next(), words.next()) {
                (None, ..) => None,
                (Some(package), Some(version), None) => Some(Ok((package, version))),
                _ => {
                    let why = "a line is PACKAGE VERSION".to_owned();
                    Some(Err(ReleaseError::Line(self.path.clone(), number, why)))
                }
            }
        })
    }
}

/// A text that was not changed for so long, nor while it was read; nothing where there is no such moment.
fn read_whole(path: &Path, quiet: Duration) -> io::Result<Option<String>> {
    let mut seen = fs::metadata(path)?;
    for _ in 0..LOOKS {
        // One of a time to come: the clock that it is by is another.
        if !seen.modified()?.elapsed().is_ok_and(|age| age >= quiet) {
            sleep(quiet);
        }
        let text = fs::read_to_string(path)?;
        let now = fs::metadata(path)?;
        if same(&seen, &now) {
            return Ok(Some(text));
        }
        seen = now;
    }
    Ok(None)
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    let of = |file: &Metadata| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec());
    of(one) == of(other)
}

impl ReleaseSource for List {
    fn named(&mut self, name: &ReleaseName) -> Result<Release, ReleaseError> {
        Err(ReleaseError::NotInList(name.to_string()))
    }

    fn of_project(&mut self, name: &ProjectName) -> Result<Vec<Release>, ReleaseError> {
        Err(ReleaseError::NotInList(name.to_string()))
    }

    fn projects(&mut self) -> Result<Vec<Project>, ReleaseError> {
        Ok(Vec::new())
    }

    fn unnamed(&mut self) -> Result<Vec<Release>, ReleaseError> {
        let project = self.path.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(vec![Release { id: 0, project, name, state: State::InDevelopment, s3: false }])
    }

    fn content(&mut self, _: &Release, take: TakeRow<'_>) -> Result<(), ReleaseError> {
        for line in self.lines() {
            let (package, version) = line?;
            take(Some(package), Some(version))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::time::{Instant, SystemTime};

    use super::*;

    /// What is read of a list that gets a line each 20 ms, for so many lines, where it has to be quiet for half a second.
    fn read_beside(lines: u32) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packages.txt");
        let mut file = File::create(&path).unwrap();
        let writer = std::thread::spawn(move || {
            for line in 0..lines {
                writeln!(file, "core {line}").unwrap();
                sleep(Duration::from_millis(20));
            }
        });
        let read = read_whole(&path, Duration::from_millis(500)).unwrap();
        writer.join().unwrap();
        read
    }

    #[test]
    fn a_list_that_is_being_written_is_not_taken_for_a_whole_one() {
        assert_eq!(read_beside(15).map(|text| text.lines().count()), Some(15));
        assert_eq!(read_beside(200), None);
    }

    #[test]
    fn a_list_that_has_lain_there_is_read_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packages.txt");
        fs::write(&path, "core 1\n").unwrap();
        File::open(&path).unwrap().set_modified(SystemTime::now() - QUIET).unwrap();
        let begin = Instant::now();
        List::open(&path).unwrap();
        assert!(begin.elapsed() < QUIET);
    }
}

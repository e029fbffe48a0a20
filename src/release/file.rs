//! Releases for those who have no database: a list of `PACKAGE VERSION` lines.
//!
//! Words are separated by blanks, `#` begins a comment. The whole list is one release, which every
//! target that reads it has without naming it.

use std::path::{Path, PathBuf};

use super::error::ReleaseError;
use super::{Project, Release, ReleaseSource, State, TakeRow};
use crate::config::{ProjectName, ReleaseName};

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
    /// When it cannot be read, or a line has not two words.
    pub fn open(path: &Path) -> Result<Self, ReleaseError> {
        let text = std::fs::read_to_string(path).map_err(|why| ReleaseError::File(path.into(), why))?;
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

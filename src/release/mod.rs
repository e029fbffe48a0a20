//! The release source: which releases there are, and what is in them.
//!
//! Two sources answer the same questions: a database ([`odbc`]) and a plain list ([`file`]).
//! [`answer`] puts the answers together for a target, and [`heard`] listens to them meanwhile; [`import`] fills
//! the built-in database.
//! Nothing here is ever written to a source, but by the import.

pub mod answer;
mod connect;
mod error;
pub mod file;
pub mod heard;
pub mod import;
pub mod odbc;

use std::fmt;

pub use error::{ReleaseError, Words};

use crate::config::{ProjectName, Release as Settings, ReleaseName, Source};

/// A release, as its source tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    pub id: i32,
    pub project: String,
    pub name: String,
    pub state: State,
    /// Whether it belongs into a bucket too.
    pub s3: bool,
}

/// `PROJECT/RELEASE`.
impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.name)
    }
}

/// A project, as its source tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Project {
    pub id: i32,
    pub name: String,
}

/// The official state of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    InDevelopment,
    Restricted,
    UnderChangeControl,
    Official,
    Archived,
    Closed,
}

impl State {
    /// Whether the release is still open.
    pub fn is_open(self) -> bool {
        matches!(self, Self::InDevelopment | Self::Restricted | Self::UnderChangeControl)
    }

    /// The letter that stands for it.
    pub fn letter(self) -> char {
        match self {
            Self::InDevelopment => 'N',
            Self::Restricted => 'R',
            Self::UnderChangeControl => 'C',
            Self::Official => 'Y',
            Self::Archived => 'A',
            Self::Closed => 'O',
        }
    }

    /// The state of a letter, if it is one's.
    pub fn of_letter(letter: &str) -> Option<Self> {
        use State::{Archived, Closed, InDevelopment, Official, Restricted, UnderChangeControl};
        let all = [InDevelopment, Restricted, UnderChangeControl, Official, Archived, Closed];
        all.into_iter().find(|state| letter == state.letter().to_string())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InDevelopment => "in development",
            Self::Restricted => "restricted",
            Self::UnderChangeControl => "under change control",
            Self::Official => "official",
            Self::Archived => "archived",
            Self::Closed => "closed",
        })
    }
}

/// A row of a release's content that names no package-version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    pub release: String,
    pub why: String,
}

impl fmt::Display for RefusedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "release {}: a row was refused: {}", self.release, self.why)
    }
}

/// Takes a row of a release's content: package and version, each where it has one and it is text.
pub type TakeRow<'a> = &'a mut dyn FnMut(Option<&str>, Option<&str>) -> Result<(), ReleaseError>;

/// Where releases come from. Each question is answered whole, or is an error.
pub trait ReleaseSource {
    /// All that is asked from now on is answered as of one moment, if the source can do that.
    fn begin(&mut self) {}

    /// What began ends.
    fn end(&mut self) {}

    /// The release of this name, open or closed.
    ///
    /// # Errors
    /// [`ReleaseError::NoProject`] or [`ReleaseError::NoRelease`] where there is none.
    fn named(&mut self, name: &ReleaseName) -> Result<Release, ReleaseError>;

    /// All releases of a project, open and closed.
    ///
    /// # Errors
    /// [`ReleaseError::NoProject`] where there is none.
    fn of_project(&mut self, name: &ProjectName) -> Result<Vec<Release>, ReleaseError>;

    /// All projects.
    fn projects(&mut self) -> Result<Vec<Project>, ReleaseError>;

    /// The releases that every target has without naming them: the file's only one.
    fn unnamed(&mut self) -> Result<Vec<Release>, ReleaseError>;

    /// What is in a release, row by row. An error may come behind rows: they are half an answer then.
    fn content(&mut self, release: &Release, take: TakeRow<'_>) -> Result<(), ReleaseError>;
}

/// Opens the source that the configuration names.
///
/// # Errors
/// When it cannot be reached or read.
pub fn open(settings: &Settings) -> Result<Box<dyn ReleaseSource>, ReleaseError> {
    Ok(match settings.source {
        Source::Odbc => Box::new(odbc::Database::open(settings)?),
        Source::File => Box::new(file::List::open(&settings.file)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_stand_for_states() {
        for (letter, open) in
            [("N", true), ("R", true), ("C", true), ("Y", false), ("A", false), ("O", false)]
        {
            let state = State::of_letter(letter).unwrap();
            assert_eq!((state.letter().to_string().as_str(), state.is_open()), (letter, open));
        }
        for letter in ["", "n", "X", "NN"] {
            assert_eq!(State::of_letter(letter), None);
        }
    }
}

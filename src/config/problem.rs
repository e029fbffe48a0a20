//! What is wrong with a file: where, which key, why, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::name::TargetName;

/// One fault in one file. Shown as ``file:line:column: key `x.y`: message; mend``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    pub place: Option<Place>,
    /// The key as written, with its tables: `ssh.port`.
    pub key: Option<String>,
    pub message: String,
    /// What to do about it.
    pub mend: Option<String>,
}

/// Where in a text: both from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// The place of a byte offset; one past the end is the place after the last character.
    pub fn at(text: &str, offset: usize) -> Self {
        let before: String = text.char_indices().take_while(|(at, _)| *at < offset).map(|(_, c)| c).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self { line, column }
    }

    pub(super) fn of(text: &str, span: &Range<usize>) -> Self {
        Self::at(text, span.start)
    }
}

impl Problem {
    /// A fault of the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), place: None, key: None, message: message.into(), mend: None }
    }

    /// The target that the file is of; none for the defaults, and for a name that is no target's.
    pub fn target(&self) -> Option<TargetName> {
        let is_target = self.file.parent().is_some_and(|folder| folder.ends_with("targets"));
        let name = self.file.file_stem().filter(|_| is_target)?;
        name.to_str()?.parse().ok()
    }

    /// The same, about this key.
    #[must_use]
    pub fn about(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same, at this place.
    #[must_use]
    pub fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// The same, with advice.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(place) = self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        if let Some(key) = &self.key {
            write!(f, " key `{key}`:")?;
        }
        write!(f, " {}", self.message)?;
        match &self.mend {
            Some(mend) => write!(f, "; {mend}"),
            None => Ok(()),
        }
    }
}

/// Why there are no settings: every fault that was found. A person has to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        assert_eq!(Place::at("abc", 0), Place { line: 1, column: 1 });
        assert_eq!(Place::at("ä = 1\nöü = 2", 11), Place { line: 2, column: 3 });
        assert_eq!(Place::at("a\n", 2), Place { line: 2, column: 1 });
        assert_eq!(Place::at("", 7), Place { line: 1, column: 1 });
    }
}

//! The name of a target: also the instance of its units and the stem of its file.
//!
//! The characters are those that systemd passes through unescaped (the dash apart, which only the
//! slice's name minds), so that one spelling serves for files, units and folders alike.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: `blat-transfer@NAME.service` and the socket's path stay in bounds.
const LONGEST: usize = 64;

/// The name of a target: 1 to 64 of `A-Z a-z 0-9 _ . -`, not starting with `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetName(String);

/// Why a text is no name of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("a target's name cannot be empty")]
    Empty,
    #[error("a target's name has at most 64 characters")]
    Long,
    #[error("a target's name cannot start with `.` or `-`")]
    Start,
    #[error("a target's name has only the characters A-Z a-z 0-9 _ . -")]
    Character,
    #[error("a target cannot be called `tags`, for /var/lib/blat/tags has the tag directories")]
    Tags,
    #[error("a target cannot be called `tag`, for /run/blat/tag is the socket that takes tags")]
    Tag,
    #[error("a target cannot be called `release_manager.db`, for that file is the release database")]
    Database,
    #[error("a target's name cannot end in `.report`, for sockets in /run/blat are called so")]
    Report,
}

impl TargetName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TargetName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        match text {
            "" => Err(BadName::Empty),
            _ if !text.chars().all(allowed) => Err(BadName::Character),
            _ if text.len() > LONGEST => Err(BadName::Long),
            _ if text.starts_with(['.', '-']) => Err(BadName::Start),
            "tags" => Err(BadName::Tags),
            "tag" => Err(BadName::Tag),
            "release_manager.db" => Err(BadName::Database),
            _ if text.ends_with(".report") => Err(BadName::Report),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TargetName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<TargetName> for String {
    fn from(name: TargetName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_would_mislead_are_refused() {
        let bad = |text: &str| text.parse::<TargetName>().unwrap_err();
        assert_eq!(bad(""), BadName::Empty);
        assert_eq!(bad(&"a".repeat(65)), BadName::Long);
        assert_eq!(bad(".accepted"), BadName::Start);
        assert_eq!(bad("-rf"), BadName::Start);
        assert_eq!(bad("a/b"), BadName::Character);
        assert_eq!(bad("a@b"), BadName::Character);
        assert_eq!(bad("größe"), BadName::Character);
        assert_eq!(bad("tags"), BadName::Tags);
        assert_eq!(bad("tag"), BadName::Tag);
        assert_eq!(bad("release_manager.db"), BadName::Database);
        assert_eq!(bad("site1.report"), BadName::Report);
    }

    proptest! {
        #[test]
        fn round_trip(text in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}x") {
            prop_assert_eq!(text.parse::<TargetName>().unwrap().to_string(), text);
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = text.parse::<TargetName>();
        }
    }
}

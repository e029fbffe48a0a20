//! What a package-version is called: `PACKAGE/VERSION`, one folder of an archive.
//!
//! A name that got past [`Name::from_str`] is one plain path component: it cannot
//! leave its folder, hide, or break a line or a column of the lists that hold it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: what Linux file systems take for one component.
pub const NAME_MAX: usize = 255;

/// The name of a package or of a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no name of a package or version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name {0:?} starts with a dot: hidden names are blat's own")]
    Hidden(String),
    #[error("the name {0:?} holds {1:?}, which no name of a package or version may hold")]
    Character(String, char),
    #[error("the name {0:?} holds `::`, which separates package and version in a tag")]
    Separator(String),
    #[error("the name {0:?}… is longer than {NAME_MAX} bytes")]
    Long(String),
}

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let named = || text.to_owned();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(NameError::Long(text.chars().take(40).collect()));
        }
        if text.starts_with('.') {
            return Err(NameError::Hidden(named()));
        }
        if text.contains("::") {
            return Err(NameError::Separator(named()));
        }
        let refused = |c: &char| *c == '/' || c.is_control() || c.is_whitespace();
        match text.chars().find(refused) {
            Some(c) => Err(NameError::Character(named(), c)),
            None => Ok(Self(named())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// One package in one version: the unit that is sent, committed and deleted whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackageVersion {
    pub package: Name,
    pub version: Name,
}

impl PackageVersion {
    /// Parses both names.
    pub fn new(package: &str, version: &str) -> Result<Self, NameError> {
        Ok(Self { package: package.parse()?, version: version.parse()? })
    }

    /// The same package in another version.
    pub fn with_version(&self, version: Name) -> Self {
        Self { package: self.package.clone(), version }
    }
}

/// `PACKAGE/VERSION`, which is also its path below the archive.
impl fmt::Display for PackageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.package, self.version)
    }
}

/// The version that a link's text addresses, if it is another version of the same package.
///
/// The text must be one plain name (`2.72.0`, a leading `./` is allowed): a link that
/// climbs, is absolute, or addresses itself is refused.
pub fn link_target(id: &PackageVersion, text: &[u8]) -> Result<PackageVersion, LinkError> {
    let shown = || String::from_utf8_lossy(text).into_owned();
    let plain = text.strip_prefix(b"./").unwrap_or(text);
    let version = std::str::from_utf8(plain)
        .ok()
        .and_then(|text| text.parse::<Name>().ok())
        .ok_or_else(|| LinkError::Elsewhere(id.clone(), shown()))?;
    if version == id.version {
        return Err(LinkError::Itself(id.clone()));
    }
    Ok(id.with_version(version))
}

/// Why a link in a version's place is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the link {0} addresses {1:?}, which is not another version of the same package")]
    Elsewhere(PackageVersion, String),
    #[error("the link {0} addresses itself")]
    Itself(PackageVersion),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(package: &str, version: &str) -> PackageVersion {
        PackageVersion::new(package, version).unwrap()
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "/a", "a\0b", "a\nb", "a b", "a::b"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was taken");
        }
        assert!("x".repeat(256).parse::<Name>().is_err());
    }

    #[test]
    fn a_link_addresses_another_version_of_its_package() {
        let link = id("core_devl", "jats2_current");
        assert_eq!(link_target(&link, b"2.72.0"), Ok(id("core_devl", "2.72.0")));
        assert_eq!(link_target(&link, b"./2.72.0"), Ok(id("core_devl", "2.72.0")));
        for bad in [&b"../core_devl/2.72.0"[..], b"/etc", b"..", b"jats2_current", b"a/b", b"", b"\xff"] {
            assert!(link_target(&link, bad).is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same_and_is_one_component(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(name.to_string(), text.clone());
                prop_assert_eq!(std::path::Path::new(&text).components().count(), 1);
            }
        }
    }
}

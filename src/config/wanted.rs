//! What a target is to have: releases, projects and single package-versions, as a person names them.

use std::collections::BTreeMap;
use std::fmt;

use blat_target::package::{Name, PackageVersion};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A release: by its id, or as `"Project/Release"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReleaseName {
    Id(i32),
    /// The project's name ends at the first slash.
    Named {
        project: String,
        release: String,
    },
}

/// A project: by its id, or by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProjectName {
    Id(i32),
    Named(String),
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Named { project, release } => write!(f, "{project}/{release}"),
        }
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "neither a number nor a text")]
enum IdOrText {
    Id(i64),
    Text(String),
}

/// An id that every driver can carry.
fn id<E: Error>(id: i64) -> Result<i32, E> {
    i32::try_from(id).ok().filter(|id| *id >= 0).ok_or_else(|| E::custom(format!("{id} is no id")))
}

fn readable<E: Error>(text: String) -> Result<String, E> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(E::custom(format!("{text:?} is no name")));
    }
    Ok(text)
}

impl<'de> Deserialize<'de> for ReleaseName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match IdOrText::deserialize(deserializer)? {
            IdOrText::Id(number) => return id(number).map(Self::Id),
            IdOrText::Text(text) => readable(text)?,
        };
        match text.split_once('/') {
            Some((project, release)) if !project.is_empty() && !release.is_empty() => {
                Ok(Self::Named { project: project.to_owned(), release: release.to_owned() })
            }
            _ => Err(D::Error::custom(format!("{text:?} has no slash between a project and its release"))),
        }
    }
}

impl<'de> Deserialize<'de> for ProjectName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match IdOrText::deserialize(deserializer)? {
            IdOrText::Id(number) => id(number).map(Self::Id),
            IdOrText::Text(text) => readable(text).map(Self::Named),
        }
    }
}

impl Serialize for ReleaseName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Id(id) => serializer.serialize_i32(*id),
            Self::Named { .. } => serializer.collect_str(self),
        }
    }
}

impl Serialize for ProjectName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Id(id) => serializer.serialize_i32(*id),
            Self::Named(name) => serializer.serialize_str(name),
        }
    }
}

/// The package-versions that a target has whatever its releases say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages(BTreeMap<Name, Versions>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "neither a version nor a list of versions")]
enum Versions {
    One(Name),
    Several(Vec<Name>),
}

impl Packages {
    /// None at all.
    pub const NONE: Self = Self(BTreeMap::new());

    /// Each of them, in the order of the packages' names.
    pub fn iter(&self) -> impl Iterator<Item = PackageVersion> + '_ {
        self.0.iter().flat_map(|(package, versions)| {
            let versions = match versions {
                Versions::One(version) => std::slice::from_ref(version),
                Versions::Several(versions) => versions,
            };
            let id = |version: &Name| PackageVersion { package: package.clone(), version: version.clone() };
            versions.iter().map(id)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct All {
        releases: Vec<ReleaseName>,
        projects: Vec<ProjectName>,
        packages: Packages,
    }

    #[test]
    fn ids_and_names_are_told_apart_and_written_back() {
        let text = "releases = [12, \"Tram/1.0/rc\"]\nprojects = [3, \"3\"]\n\n[packages]\ncore = \"1\"\nzlib = [\"2\", \"3\"]\n";
        let all: All = toml::from_str(text).unwrap();
        assert_eq!(all.releases[0], ReleaseName::Id(12));
        let named = ReleaseName::Named { project: "Tram".into(), release: "1.0/rc".into() };
        assert_eq!(all.releases[1], named);
        assert_eq!(all.projects, [ProjectName::Id(3), ProjectName::Named("3".into())]);
        let packages: Vec<_> = all.packages.iter().map(|id| id.to_string()).collect();
        assert_eq!(packages, ["core/1", "zlib/2", "zlib/3"]);
        assert_eq!(toml::to_string(&all).unwrap(), text);
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in ["releases = ['Tram']", "releases = ['/x']", "releases = [-1]", "releases = [4294967296]"]
        {
            let text = format!("{text}\nprojects = []\npackages = {{}}");
            assert!(toml::from_str::<All>(&text).is_err(), "{text}");
        }
        for package in ["'a/b' = '1'", "'..' = '1'", "a = '1\\t'", "a = \"1\\n\"", "a = ['1', '..']"] {
            let text = format!("releases = []\nprojects = []\npackages = {{ {package} }}");
            assert!(toml::from_str::<All>(&text).is_err() || package == "a = '1\\t'", "{text}");
        }
    }
}

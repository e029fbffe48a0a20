//! The settings of one target: its file over `blat.toml` over what is built in.
//!
//! A value of this type is valid, and says nothing of where it came from: `check` knows that.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::aging::Aging;
use super::destination::Destination;
use super::folder::Folder;
use super::in_force::in_force;
use super::keys;
use super::layer::{Document, Layer};
use super::name::TargetName;
use super::period::Period;
use super::problem::{Problem, Problems};
use super::release::Release;
use super::value::{PathPattern, Polling, Verbosity};
use super::wanted::{Packages, ProjectName, ReleaseName};

/// Everything that a program needs to know about its target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// The target's name, which is also the instance of its units.
    #[serde(skip)]
    pub name: TargetName,
    /// The archive on this machine.
    pub source: PathBuf,
    /// Whether the target is to run.
    pub enabled: bool,
    /// How much is said in the journal.
    pub verbosity: Verbosity,
    /// Releases whose content the target has, as long as they are open.
    pub releases: Vec<ReleaseName>,
    /// Projects whose open releases' content the target has.
    pub projects: Vec<ProjectName>,
    /// What the target has besides.
    pub packages: Packages,
    /// Where the target is, and how it is reached.
    #[serde(flatten)]
    pub destination: Destination,
    pub tags: Tags,
    pub writable: Writable,
    pub sync: Sync,
    pub aging: Aging,
    pub release: Release,
}

/// The tags of the target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tags {
    pub directory: PathBuf,
    /// How often the directory is looked at, where it is polled. Never zero.
    pub poll: Period,
    pub polling: Polling,
    /// How long a tag waits for what the archive does not have.
    pub give_up: Period,
}

/// Packages that are not sealed yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Writable {
    /// A package that has been writable for longer than this is sent all the same.
    pub grace: Period,
}

impl Settings {
    /// The settings in force: the accepted copy, or where there is none the live files, unless another target has
    /// the tag directory.
    ///
    /// # Errors
    /// What is wrong with them, or that there is no such target.
    pub fn load(root: &Path, name: &TargetName) -> Result<Self, Problems> {
        let accepted = Folder::accepted(root);
        if accepted.target(name).exists() {
            return Self::load_from(&accepted, name);
        }
        let (live, good) = (Folder::live(root), Self::load_live(root, name)?);
        // As the generator would judge it, which is who starts it.
        let file = live.shown(&live.target(name));
        match in_force(root).1.into_iter().find(|problem| problem.file == file) {
            Some(problem) => Err(problem.into()),
            None => Ok(good),
        }
    }

    /// The settings as people wrote them, accepted or not.
    ///
    /// # Errors
    /// What is wrong with them, or that there is no such target.
    pub fn load_live(root: &Path, name: &TargetName) -> Result<Self, Problems> {
        Self::load_from(&Folder::live(root), name)
    }

    /// The settings that a target's file with this text would make beside the live `blat.toml`.
    ///
    /// # Errors
    /// What would be wrong with them.
    pub fn would_be(root: &Path, name: &TargetName, text: String) -> Result<Self, Problems> {
        let folder = Folder::live(root);
        let shown = folder.shown(&folder.target(name));
        Self::merge(name, &Document::parse(&shown, text)?, Self::defaults(&folder)?.as_ref())
    }

    fn load_from(folder: &Folder, name: &TargetName) -> Result<Self, Problems> {
        let target = folder.target(name);
        let shown = folder.shown(&target);
        let defaults = Self::defaults(folder)?;
        let text = folder.read(&target)?;
        let text = text.ok_or_else(|| Problem::of_file(&shown, format!("there is no target `{name}`")))?;
        Self::merge(name, &Document::parse(&shown, text)?, defaults.as_ref())
    }

    fn defaults(folder: &Folder) -> Result<Option<Document>, Problem> {
        let defaults = folder.defaults();
        let text = folder.read(&defaults)?;
        text.map(|text| Document::defaults(&folder.shown(&defaults), text)).transpose()
    }

    /// Merges a target's file over the defaults.
    ///
    /// # Errors
    /// Every required key that neither has.
    pub(super) fn merge(
        name: &TargetName,
        target: &Document,
        defaults: Option<&Document>,
    ) -> Result<Self, Problems> {
        let none = Layer::default();
        let (own, general) = (&target.layer, defaults.map_or(&none, |document| &document.layer));
        let destination = Destination::merge(name, target, defaults);
        let source = required(own.source.clone().or(general.source.clone()), "source", &target.file);
        let (destination, source) = match (destination, source) {
            (Ok(destination), Ok(source)) => (destination, source),
            (destination, source) => {
                let problems = destination.err().map(|Problems(list)| list).unwrap_or_default();
                return Err(Problems(problems.into_iter().chain(source.err()).collect()));
            }
        };
        let aging = Aging::merge(own, general);
        destination.refuse_aging(&aging, target, defaults)?;
        Ok(Self {
            name: name.clone(),
            source: source.for_target(name),
            enabled: own.enabled.or(general.enabled).unwrap_or(true),
            verbosity: own.verbosity.or(general.verbosity).unwrap_or(Verbosity::Info),
            releases: or(&own.releases, &general.releases, Vec::new),
            projects: or(&own.projects, &general.projects, Vec::new),
            packages: or(&own.packages, &general.packages, Packages::default),
            destination,
            tags: Tags::merge(name, own, general),
            writable: Writable::merge(own, general),
            sync: Sync::merge(own, general),
            aging,
            release: Release::merge(name, own, general),
        })
    }
}

pub(super) fn required<T>(value: Option<T>, key: &str, file: &Path) -> Result<T, Problem> {
    let mend = keys::takes(key).unwrap_or_default();
    value.ok_or_else(|| Problem::of_file(file, "required, but not given").about(key).mend(mend))
}

pub(super) fn or<T: Clone>(own: &Option<T>, general: &Option<T>, built_in: impl FnOnce() -> T) -> T {
    own.clone().or_else(|| general.clone()).unwrap_or_else(built_in)
}

/// The path of the first that has one, for this target.
pub(super) fn path(
    own: &Option<PathPattern>,
    general: &Option<PathPattern>,
    built_in: &str,
    name: &TargetName,
) -> PathBuf {
    let given = own.as_ref().or(general.as_ref());
    given.map_or_else(
        || PathBuf::from(built_in.replace("{target}", name.as_str())),
        |path| path.for_target(name),
    )
}

/// A built-in value of a text type.
pub(super) fn built_in<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("what is built in is valid")
}

impl Tags {
    fn merge(name: &TargetName, own: &Layer, general: &Layer) -> Self {
        let (own, general) = (&own.tags, &general.tags);
        Self {
            directory: path(&own.directory, &general.directory, "/var/lib/blat/tags/{target}", name),
            poll: own.poll.or(general.poll).unwrap_or(Period::seconds(5)),
            polling: own.polling.or(general.polling).unwrap_or(Polling::Auto),
            give_up: own.give_up.or(general.give_up).unwrap_or(Period::seconds(7 * 86_400)),
        }
    }
}

/// Repository synchronisation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sync {
    /// How long after the end of one the next begins. Never zero.
    pub period: Period,
}

impl Sync {
    fn merge(own: &Layer, general: &Layer) -> Self {
        let period = own.sync.period.or(general.sync.period);
        Self { period: period.unwrap_or(Period::seconds(4 * 3_600)) }
    }
}

impl Writable {
    fn merge(own: &Layer, general: &Layer) -> Self {
        let grace = own.writable.grace.or(general.writable.grace);
        Self { grace: grace.unwrap_or(Period::seconds(3_600)) }
    }
}

impl Document {
    /// Reads `blat.toml`, in which some keys make no sense.
    ///
    /// # Errors
    /// As [`Document::parse`], and for a key that would make all targets the same one.
    pub(super) fn defaults(shown: &Path, text: String) -> Result<Self, Problem> {
        let document = Self::parse(shown, text)?;
        let refuse =
            |key: &str, message: &str| Problem::of_file(shown, message).about(key).at(document.place_of(key));
        document.refuse_own_keys()?;
        if document.layer.tags.directory.as_ref().is_some_and(|path| !path.names_target()) {
            let problem = refuse("tags.directory", "all targets would share one tag directory");
            return Err(problem.mend("put `{target}` into the path"));
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::parse(Path::new("/etc/blat/targets/a.toml"), text.into()).unwrap()
    }

    fn defaults(text: &str) -> Result<Document, Problem> {
        Document::defaults(Path::new("/etc/blat/blat.toml"), text.into())
    }

    #[test]
    fn target_wins_over_defaults_over_built_in() {
        let name = "a".parse().unwrap();
        let general =
            defaults("source = '/srv/x'\n[ssh]\nport = 2\nuser = 'u'\n[tags]\ndirectory='/t/{target}'")
                .unwrap();
        let own = document("[ssh]\nhost = 'h'\nport = 3\n");
        let settings = Settings::merge(&name, &own, Some(&general)).unwrap();
        let there = settings.destination.ssh().unwrap();
        assert_eq!((there.ssh.port, there.ssh.user.as_str()), (3, "u"));
        assert_eq!(settings.tags.directory, Path::new("/t/a"));
        assert_eq!(there.ssh.identity, Path::new("/etc/blat/keys/a"));
        assert_eq!(there.there.archive.as_str(), "dpkg_archive");
    }

    #[test]
    fn every_missing_key_is_named() {
        let found = Settings::merge(&"a".parse().unwrap(), &document(""), None).unwrap_err().to_string();
        let lines: Vec<&str> = found.lines().collect();
        assert!(lines[0].starts_with("/etc/blat/targets/a.toml: key `ssh.host`: required"), "{found}");
        assert!(lines[1].starts_with("/etc/blat/targets/a.toml: key `source`: required"), "{found}");
    }

    #[test]
    fn defaults_cannot_make_targets_share() {
        let found = defaults("\n[ssh]\nhost = 'h'").unwrap_err().to_string();
        assert!(found.starts_with("/etc/blat/blat.toml:3:8: key `ssh.host`: "), "{found}");
        let found = defaults("[tags]\ndirectory = '/t'").unwrap_err().to_string();
        assert!(found.starts_with("/etc/blat/blat.toml:2:13: key `tags.directory`: "), "{found}");
    }
}
